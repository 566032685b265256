"""The command line: ``pnp-mlpatch list``, ``info``, ``solve``, ``ct``, ``massmap``, ``train`` and ``demo``.

What the user can mend (a file, a name, a setting) is one line on stderr and the exit status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pnp_mlpatch.cli.process import as_program

if TYPE_CHECKING:  # all else is imported when Ctrl-C is looked after
    import argparse
    import dataclasses


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The words of the command. By default they are those of the process, which is then run as a program: Ctrl-C ends it with one line
        at any moment, and a closed pipe does not end it.

    Returns
    -------
    int
        The exit status: 0, 2 for what the user can mend, 130 if interrupted.
    """
    if argv is None:
        return as_program(_run)
    return _run(argv)


def _run(argv: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Parse and run; ``ready`` is called when all is imported and the computation begins."""
    import argparse
    import warnings

    from pnp_mlpatch.cli.common import spoken
    from pnp_mlpatch.errors import PnPError

    args, shown = argparse.Namespace(), warnings.formatwarning
    try:
        parser = build_parser()
        ready()
        args = parser.parse_args(argv)
        warnings.formatwarning = lambda message, *_, **__: (
            f"pnp-mlpatch: warning: {spoken(str(message), args)}\n"
        )
        if args.command is None:
            parser.print_help()
            return 2
        return args.run(args)
    except (PnPError, OSError, RecursionError, MemoryError, RuntimeError) as error:
        print(f"pnp-mlpatch: {spoken(explain(error), args)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pnp-mlpatch: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = shown


def explain(error: Exception) -> str:
    """One sentence for an error that the user can mend; others are raised again."""
    from pnp_mlpatch.errors import PnPError
    from pnp_mlpatch.io.atomic import out_of_memory

    if out_of_memory(error):
        return f"the memory does not suffice ({_short(error) or type(error).__name__}). Free some, or take a smaller image, batch or model."
    if isinstance(error, RecursionError):
        return f"something that was given is nested too deeply ({_short(error)})."
    if isinstance(error, (PnPError, OSError)):
        return " ".join(str(error).split())
    raise error


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


DESCRIPTION = "Plug-and-play reconstruction: an operator (how the data came about), a denoiser (what images look like), a solver."

EPILOG = """\
Start here:
  pnp-mlpatch list                  what there is
  pnp-mlpatch info radon            what it does, and its settings
  pnp-mlpatch demo --quick          two reconstructions, with pictures
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 --noise 0.02 --output filled.png
"""

LIST_EPILOG = """\
A plugin that cannot be imported is listed as BROKEN with the reason; the others are not affected.

Examples:
  pnp-mlpatch list
  pnp-mlpatch list denoisers
"""

INFO_EPILOG = """\
Examples:
  pnp-mlpatch info mlpatch          docstring, settings, shipped weights
  pnp-mlpatch info mlpatch-grey     the card of shipped weights
  pnp-mlpatch info admm --family solver
"""

SOLVE_EPILOG = """\
Data. --simulate takes IMAGE as the truth f, and makes q = A f + n with n of standard deviation --noise, from --seed.
--data takes q itself: .npy, or a picture where the data have the shape of the image. Images are (H, W), (H, W, 3) or
(C, H, W); 8- and 16-bit pictures, also as .npy, are scaled to [0, 1]. Sizes that the operator asks for (shape, image_shape, channels)
are taken from the picture; for data of another shape, such as sinograms, give them: --set 'operator.shape=[512,512]'.

Settings. VALUE is a TOML value (60, 0.06, true, [64, 48]), else a text. A setting of the operator that is an array (mask,
psf, weight, angles) is given by the path of a .npy file or of a picture; a picture of a mask is cut at half its range, one
of a psf is scaled to sum 1. The mask operator also takes operator.keep=FRACTION (and operator.seed=N): random pixels.
Denoisers of one channel run on every channel by itself; lensing denoises the E mode, and takes a picture less its mean as E.

Level. Without solver.sigma and solver.alpha the level of the denoiser follows from the noise, which is estimated where --noise
is not given. --tune searches for the level and the number of iterations; that takes nine runs.

Results. --output gets the image; beside it, with the ending .json, what was run, how it ended, PSNR and SSIM, and the history.
--checkpoint keeps the state and the history every 5 iterations; the same command goes on from it, and --set solver.iterations may be
raised. The state of other data or settings is refused.

A configuration file has the same words; flags override it, and paths are relative to where you are:
  simulate = "photo.png"            # or: data = "sinogram.npy"
  noise = 0.02
  seed = 0
  gray = true
  tune = false
  output = "out.png"
  [operator]
  name = "mask"
  keep = 0.3
  [denoiser]
  name = "tv"
  [solver]
  name = "admm"
  sigma = 0.06

Examples:
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 --noise 0.02 --output filled.png
  pnp-mlpatch solve --data sinogram.npy --operator radon --set 'operator.shape=[512,512]' --set operator.angles=60 --noise 0.5 --output slice.tiff
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 --noise 0.02 --tune --output chosen.png
  pnp-mlpatch solve --config run.toml --solver hqs --checkpoint state.pt --output out.npy
"""

CT_EPILOG = """\
Scan. .h5 in the Data Exchange format (counts, flats, darks and angles in one file); NXtomo; FILE:NAME for one dataset of an HDF5 or .npz
file; .npy; .tif; a folder of projections, one TIFF each; a folder sliceNNNNN/modeK of 2DeteCT. --layout names the axes of an array:
s slices, a angles, d detectors, for example asd. Counts need the open beam, from the file or from --blank; NaN, dead bins (flat <= dark)
and slices without data have no weight and do no harm.

Lengths have one unit, for example mm; the volume is attenuation per that unit, or Hounsfield units with --mu-water. By default a
pixel is a detector element, seen at the centre of rotation, and the image is the square about the field of view. Angles turn
counter-clockwise; at angle 0 rays run up the columns of the image, and detectors count to the right. If slices look smeared or doubled,
try --center; mirrored, negative angles; --plot draws what was understood, and --fbp --preview look.png --slices 100:101 is a fast look.

The denoiser works on [0, 1], to which --window is mapped. By default the level of the denoiser comes from the noise, the start is total
variation, and the weight of the data rises where the residual exceeds the noise. --solver, --sigma, --iterations and --set solver.KEY=VALUE
replace this recipe by a solver with the settings that you give; --sigma (relative to the window): larger is smoother. A faster, rougher look:
--iterations 10. For chest CT --mu-water 0.0193 --weights mlpatch-ct takes the weights that were trained on Hounsfield units.

Memory is that of --batch slices and of the projector (--memory GiB; --backend astra_cpu stores none), however many slices there are.
Beside --out lies a .json that tells how the volume was made. A run that was killed goes on with the same command, to the same bytes;
other settings are refused. --no-resume starts anew.

Examples. A Data Exchange file, with the centre of rotation at the detector 640.5, in mm:
  pnp-mlpatch ct tooth.h5 --out tooth_volume.h5 --spacing 0.0065 --center 640.5 --batch 4 --preview middle.png
A look at one slice first:
  pnp-mlpatch ct tooth.h5 --out look.npy --spacing 0.0065 --center 640.5 --slices 300:301 --fbp --preview look.png --plot geometry.png
LoDoPaB (362 x 362 pixels on 26 cm, 1000 angles over pi, 513 detectors; the angles are those of ODL, whose axes lie otherwise):
  python -c "import numpy as np; np.savetxt('angles.txt', (np.arange(1000) + 0.5) * np.pi / 1000 - np.pi / 2)"
  pnp-mlpatch ct ground_truth_observation.hdf5:data --out lodopab.h5 --angles angles.txt --shape 362 362 --pixel 7.1823e-4 --spacing 7.1676e-4 --window 0 1
2DeteCT, a fan beam (source to axis 431.020 mm, source to detector 529.000 mm, 1912 detectors of 0.0748 mm):
  pnp-mlpatch ct slice00001/mode2 --out slice1.tif --beam fan --source-origin 431.02 --origin-detector 97.98 --spacing 0.0748 --shape 1024 1024 --pixel 0.1
Counts without flats, on a GPU:
  pnp-mlpatch ct counts.npy --layout asd --kind counts --blank 1e4 --angles 180 --out volume.h5 --device cuda
"""

MASSMAP_EPILOG = """\
Input. A FITS file with the images GAMMA1 and GAMMA2 (or E1 and E2, G1 and G2, a cube SHEAR), their noise NOISE (standard deviation
of a component; infinite where nothing was measured) or the density of galaxies NGAL (each square arcminute), and MASK (0: unseen), if
there is one. Other names: --gamma1 NAME; other files: --noise other.fits[NOISE]; numbers: --noise 0.16, --n-gal 30. The size of the pixels
comes from the WCS, or from --pixel, with its unit. Where right ascension falls along the columns, the sign of gamma_2 follows.

A catalogue of galaxies (a FITS table, .csv or .ecsv with the columns ra, dec, e1, e2, w; other names: --columns e1=g1 e2=g2) is put on
a map with --catalogue --pixel '0.5 arcmin'.

Output. OUT.fits with KAPPA_E (the mean of the posterior), KAPPA_B (of the smoothed Kaiser-Squires map: a check, no signal is expected),
SPREAD (of the denoised draws; no error bar: too small by far), SMOOTHED (Kaiser-Squires) and MASK, with the WCS of the input; OUT.json with all settings, the sha256 of the input, rms, skewness,
peaks and spectrum. --from OUT.json repeats a run, with flags in place of what it says. A run that was killed goes on with the same command.

Examples:
  pnp-mlpatch massmap shear.fits --out kappa.fits --figure kappa.png
  pnp-mlpatch massmap shear.npy --pixel '0.29 arcmin' --n-gal 30 --mask mask.npy --out kappa.fits
  pnp-mlpatch massmap galaxies.fits --catalogue --pixel '0.4 arcmin' --reduced --out kappa.fits
  pnp-mlpatch massmap --from kappa.json --out again.fits
"""

TRAIN_EPILOG = """\
A file:
  data = "pictures/train"           # folder of .png, .jpg, .tiff, .npy; or a stack, or a list, see below
  out = "runs/grey"                 # gets weights.safetensors, log.csv, log.png and checkpoint.pt
  validation = "pictures/val"       # its PSNR goes to log.csv every validate_every steps
  steps = 20000
  checkpoint_every = 1000           # the same command goes on from the last checkpoint
  [model]                           # settings of the network: pnp-mlpatch info mlpatch
  width = 256
  depth = 3
  radius = 8.0
  rings = 10
  angles = 16
  [card]                            # free text, kept in the weights file
  licence = "CC-BY-4.0"

Data:
  data = "pictures"                 # all pictures of the folder, in memory; what cannot be read is skipped with a warning
  data = "scans.npy"                # stacks (N, H, W) or (N, C, H, W): read window by window, so they may exceed memory
  data = "scans.h5:train/slices"    # .h5 and .zarr need pip install 'pnp-mlpatch[data]'; :NAME where there are several arrays
  data = ["a.npz:hu", "b.npz:hu"]   # several; an .npz is read as a whole. CT in HU: with window = [-1024, 1024]
  data = "procedural"               # endless random pictures
  data = "convergence"              # endless log-normal mass maps of weak lensing

Resume. The same command goes on from checkpoint.pt, to bit-identical weights on the same CPU; other settings are refused
(data, validation, out, card, device and the two *_every may change). --no-resume starts anew.

Several processes or GPUs share each batch; the result is that of one, to rounding:
  torchrun --standalone --nproc-per-node 4 -m pnp_mlpatch.cli train --config grey.toml --device cuda

Examples:
  pnp-mlpatch train --config grey.toml
  pnp-mlpatch train --config grey.toml --device cuda --precision bfloat16 --out runs/gpu
  pnp-mlpatch train --data procedural --out runs/small --set crop=32 --set batch=8 --set model.width=64 --steps 500
  pnp-mlpatch train --config grey.toml --out runs/tuned --init runs/grey/weights.safetensors --data scans.npy --set lr=1e-4
  pnp-mlpatch solve --simulate photo.png --gray --operator identity --noise 0.1 --set denoiser.weights=runs/grey/weights.safetensors --output x.png
"""

DEMO_EPILOG = """\
Examples:
  pnp-mlpatch demo                  sparse-view CT and inpainting at 512 x 512, minutes on a CPU
  pnp-mlpatch demo --quick --out pictures
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; every command has a description and examples."""
    import argparse
    import dataclasses
    import inspect
    import textwrap

    import pnp_mlpatch
    from pnp_mlpatch.cli.common import DEFAULTS, REGISTRIES, plain_text
    from pnp_mlpatch.cli.ct import BEAMS, run_ct
    from pnp_mlpatch.cli.demo import run_demo
    from pnp_mlpatch.cli.massmap import run_massmap
    from pnp_mlpatch.cli.show import list_plugins, show_info
    from pnp_mlpatch.cli.solve import run_solve
    from pnp_mlpatch.cli.train import run_train

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "pnp-mlpatch", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    parser.add_argument(
        "--version", action="version", version=f"pnp-mlpatch {pnp_mlpatch.__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, epilog: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=epilog, formatter_class=raw
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("list", list_plugins, "List the operators, denoisers and solvers.", LIST_EPILOG)
    sub.add_argument(
        "family",
        nargs="?",
        choices=[f"{family}s" for family in REGISTRIES],
        help="only this family",
    )

    sub = command(
        "info",
        show_info,
        "Tell what a plugin does, and its settings; or show the card of shipped weights.",
        INFO_EPILOG,
    )
    sub.add_argument("name", metavar="NAME", help="a plugin, or weights that ship with the package")
    sub.add_argument(
        "--family", choices=list(REGISTRIES), help="where a name is in several families"
    )

    sub = command(
        "solve",
        run_solve,
        "Reconstruct an image from data, or from data simulated from a known image.",
        SOLVE_EPILOG,
    )
    sub.add_argument(
        "--simulate", metavar="IMAGE", help="take this picture as the truth, and simulate its data"
    )
    sub.add_argument(
        "--data", metavar="FILE", help="data: .npy, or a picture for data of the image's shape"
    )
    sub.add_argument("--operator", metavar="NAME", help="the operator")
    sub.add_argument(
        "--denoiser", metavar="NAME", help=f"the denoiser (default: {DEFAULTS['denoiser']})"
    )
    sub.add_argument("--solver", metavar="NAME", help=f"the solver (default: {DEFAULTS['solver']})")
    sub.add_argument(
        "--noise",
        type=float,
        metavar="STD",
        help="standard deviation of the noise, in the units of the data",
    )
    sub.add_argument(
        "--tune",
        action="store_true",
        default=None,
        help="let the data choose the level of the denoiser: a search of many runs",
    )
    sub.add_argument(
        "--seed", type=int, metavar="N", help="seed of the simulated noise (default: 0)"
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting; may be given many times",
    )
    sub.add_argument(
        "--config", metavar="FILE.toml", help="a configuration file; flags override it"
    )
    sub.add_argument("--gray", action="store_true", default=None, help="turn colour into luminance")
    sub.add_argument(
        "--tune",
        action="store_true",
        default=None,
        help="search for the settings; nine runs (default: the level follows from the noise)",
    )
    sub.add_argument(
        "--output",
        metavar="PATH",
        help="the result: .npy, .png or .tiff (float); beside it a .json that tells all",
    )
    sub.add_argument(
        "--checkpoint",
        metavar="STATE.pt",
        help="keep the solver's state here, and go on from it if it is there",
    )
    sub.add_argument("--device", metavar="DEVICE", help="cpu (default), cuda, cuda:1 ...")
    sub.add_argument("--threads", type=int, metavar="N", help="threads of torch")
    sub.add_argument("--quiet", action="store_true", help="no progress bar and no summary")

    sub = command(
        "ct",
        run_ct,
        "Reconstruct a volume from a CT scan on disk, slice by slice, in bounded memory.",
        CT_EPILOG,
    )
    sub.add_argument("scan", metavar="SCAN", help="the scan: a file, FILE:DATASET, or a folder")
    sub.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help='the volume: .h5 (dataset "volume"), .npy or .tif; beside it a .json',
    )

    group = sub.add_argument_group("scan")
    group.add_argument("--dataset", metavar="NAME", help="the dataset in the file")
    group.add_argument(
        "--layout", metavar="AXES", help="the axes of the array: s slices, a angles, d detectors"
    )
    group.add_argument(
        "--kind",
        choices=["counts", "line-integrals"],
        help="what the numbers are (default: as the file seems)",
    )
    group.add_argument(
        "--angles",
        metavar="FILE|N",
        help="a .npy or .txt file, in radians; or N equally spaced over pi (fan: over 2 pi)",
    )
    group.add_argument(
        "--degrees",
        action=argparse.BooleanOptionalAction,
        help="the angles of the file are degrees, or are not",
    )
    group.add_argument(
        "--blank", metavar="I0|FILE", help="the open beam, for counts: a number or a file"
    )
    group.add_argument("--dark", metavar="VALUE|FILE", help="the dark field, for counts")
    group.add_argument(
        "--gain", type=float, metavar="G", help="detector units per photon (default: 1)"
    )
    group.add_argument(
        "--electronic",
        type=float,
        metavar="STD",
        help="noise of the electronics, in detector units (default: 0)",
    )
    group.add_argument(
        "--noise",
        type=float,
        metavar="STD",
        help="noise of line integrals (default: estimated for each slice)",
    )
    group.add_argument("--slices", metavar="START:STOP", help="only these slices")

    group = sub.add_argument_group("geometry")
    group.add_argument(
        "--beam",
        choices=BEAMS,
        help="parallel (default), fan (flat detector), arc (detector about the source)",
    )
    group.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="pixels of a slice (default: the field of view)",
    )
    group.add_argument(
        "--pixel",
        type=float,
        metavar="LENGTH",
        help="side of a pixel (default: a detector element, seen at the centre)",
    )
    group.add_argument(
        "--spacing",
        type=float,
        metavar="LENGTH",
        help="width of a detector element (default: a pixel, magnified)",
    )
    group.add_argument(
        "--center",
        type=float,
        metavar="INDEX",
        help="detector index of the centre of rotation, may be a fraction (default: middle, (D - 1) / 2; tomopy's D / 2 less 0.5)",
    )
    group.add_argument(
        "--offset", type=float, metavar="LENGTH", help="the same as a shift of the detector"
    )
    group.add_argument(
        "--source-origin",
        type=float,
        metavar="LENGTH",
        help="from the source to the centre of rotation",
    )
    group.add_argument(
        "--origin-detector", type=float, metavar="LENGTH", help="from there to the detector"
    )
    group.add_argument(
        "--geometry",
        metavar="FILE",
        help="instead of these: .json or .toml, as ct.geometry.as_dict; or the .json of a volume",
    )

    group = sub.add_argument_group("reconstruction")
    group.add_argument(
        "--denoiser",
        metavar="NAME",
        default=DEFAULTS["denoiser"],
        help=f"the denoiser (default: {DEFAULTS['denoiser']})",
    )
    group.add_argument("--weights", metavar="NAME", help="its weights: a shipped name or a path")
    group.add_argument(
        "--solver",
        metavar="NAME",
        help=f"the solver (default: the recipe; with one of these settings {DEFAULTS['solver']})",
    )
    group.add_argument(
        "--sigma",
        type=float,
        nargs="+",
        metavar="S",
        help="level of the denoiser, relative to the window; or one for each iteration (default: from the noise; with a solver 20/255)",
    )
    group.add_argument(
        "--iterations", type=int, metavar="N", help="of the solver (with one by default 20)"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting of the denoiser or the solver; may be given many times",
    )
    group.add_argument(
        "--likelihood",
        choices=["gaussian", "poisson"],
        help="of counts: weighted least squares (default), or exact, for few photons",
    )
    group.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="the range of the image, in its units (default: from the data)",
    )
    group.add_argument(
        "--mu-water",
        type=float,
        metavar="MU",
        help="attenuation of water: write Hounsfield units, window -1024 1024",
    )
    group.add_argument(
        "--fbp", action="store_true", help="only filtered backprojection: a fast look"
    )

    group = sub.add_argument_group("running")
    group.add_argument("--batch", type=int, metavar="N", help="slices at a time (default: 8)")
    group.add_argument(
        "--backend",
        choices=["auto", "sparse", "astra_cpu", "astra_cuda"],
        help="of the projector (default: auto)",
    )
    group.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="for the projector (default: half of what is free, at most 4)",
    )
    group.add_argument("--device", metavar="DEVICE", help="cpu (default), cuda, cuda:1 ...")
    group.add_argument("--threads", type=int, metavar="N", help="threads of torch")
    group.add_argument(
        "--no-resume", action="store_true", help="start anew even if there is an interrupted run"
    )
    group.add_argument("--plot", metavar="FILE.png", help="draw the geometry")
    group.add_argument(
        "--preview",
        metavar="FILE.png",
        help="draw the slice in the middle beside its filtered backprojection",
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar and no summary")

    sub = command(
        "massmap",
        run_massmap,
        "Map the convergence (dark matter) from a shear map or a catalogue of galaxies.",
        MASSMAP_EPILOG,
    )
    sub.add_argument("shear", metavar="SHEAR", nargs="?", help="the shear map or the catalogue")
    sub.add_argument("--out", metavar="FILE.fits", help="the map; beside it a .json")
    sub.add_argument(
        "--from",
        dest="source",
        metavar="OUT.json",
        help="take what is not given here from an earlier run",
    )

    group = sub.add_argument_group("shear map")
    for name in ("gamma1", "gamma2"):
        group.add_argument(f"--{name}", metavar="IMAGE", help="its name, [number], or FILE[NAME]")
    group.add_argument("--noise", metavar="STD|IMAGE", help="standard deviation of a component")
    group.add_argument("--n-gal", metavar="N|IMAGE", help="galaxies for each square arcminute")
    group.add_argument(
        "--shape-noise",
        type=float,
        metavar="STD",
        help="of one component of the ellipticity of a galaxy (default: 0.26)",
    )
    group.add_argument("--mask", metavar="IMAGE", help="0 where nothing is seen")
    group.add_argument(
        "--pixel", metavar="ANGLE", help="side of a pixel with its unit: '0.29 arcmin'"
    )
    group.add_argument(
        "--flip-ra",
        action=argparse.BooleanOptionalAction,
        help="right ascension falls along the columns (default: by the WCS)",
    )
    group.add_argument(
        "--reduced",
        action="store_true",
        default=None,
        help="the data are reduced shear: three passes",
    )

    group = sub.add_argument_group("catalogue")
    group.add_argument(
        "--catalogue",
        action="store_true",
        default=None,
        help="the input is a table of galaxies; --pixel is needed",
    )
    group.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME=COLUMN",
        help="names of the columns ra, dec, e1, e2, w",
    )
    group.add_argument("--flip-e2", action="store_true", default=None, help="e2 has the other sign")
    group.add_argument(
        "--center",
        type=float,
        nargs=2,
        metavar=("RA", "DEC"),
        help="of the map, in degrees (default: mean direction of the galaxies)",
    )
    group.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="pixels of the map (default: what holds all galaxies)",
    )

    group = sub.add_argument_group("reconstruction")
    group.add_argument("--denoiser", metavar="NAME", help="the denoiser (default: mlpatch)")
    group.add_argument(
        "--weights",
        metavar="NAME",
        help="its weights: a shipped name or a path (default: mlpatch-kappa)",
    )
    group.add_argument(
        "--sigma",
        type=float,
        metavar="S",
        help="noise that the denoiser is given (default: 0.75 of the data's)",
    )
    for name in ("iterations", "burn-in", "padding", "seed"):
        group.add_argument(
            f"--{name}",
            type=int,
            metavar="N",
            help=f"see massmap.MassMapConfig: {name.replace('-', '_')}",
        )

    group = sub.add_argument_group("running")
    group.add_argument(
        "--truth",
        metavar="FILE[NAME]",
        help="a known convergence: judge the map by it, in the .json",
    )
    group.add_argument("--figure", metavar="FILE.png", help="draw the map beside Kaiser-Squires")
    group.add_argument("--device", metavar="DEVICE", help="cpu (default), cuda, cuda:1 ...")
    group.add_argument("--threads", type=int, metavar="N", help="threads of torch")
    group.add_argument(
        "--no-resume", action="store_true", help="start anew even if there is an interrupted run"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar and no summary")

    from pnp_mlpatch.training import TrainConfig

    doc = plain_text(inspect.getdoc(TrainConfig) or "")
    keys = textwrap.fill(", ".join(_key(f) for f in dataclasses.fields(TrainConfig)), 110)
    about = f"{doc}\n\nKeys and defaults:\n{keys}\n\n{TRAIN_EPILOG}"
    sub = command(
        "train",
        run_train,
        "Train a denoiser, or an upscaler, on pictures or stacks of images.",
        about,
    )
    sub.add_argument(
        "--config", metavar="FILE.toml", help="the settings, see below; flags override them"
    )
    sub.add_argument(
        "--data",
        action="append",
        metavar="SOURCE",
        help="training images: folder, stack or procedural; may be given many times",
    )
    sub.add_argument("--out", metavar="FOLDER", help="where weights, log and checkpoint go")
    sub.add_argument("--denoiser", metavar="NAME", help="what to train (default: mlpatch)")
    sub.add_argument(
        "--validation",
        action="append",
        metavar="SOURCE",
        help="images to measure PSNR on; may be given many times",
    )
    sub.add_argument("--init", metavar="WEIGHTS", help="start from these: a shipped name or a path")
    sub.add_argument(
        "--task", choices=["denoise", "upscale"], help="what to learn (default: denoise)"
    )
    sub.add_argument("--steps", type=int, metavar="N", help="number of steps")
    sub.add_argument("--device", metavar="DEVICE", help="cpu, cuda ...")
    sub.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "float16"],
        help="of the arithmetic; weights stay float32",
    )
    sub.add_argument("--seed", type=int, metavar="N", help="seed of the weights, cuts and noise")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, or model.KEY=VALUE; may be given many times",
    )
    sub.add_argument(
        "--no-resume", action="store_true", help="start anew even if there is a checkpoint"
    )
    sub.add_argument("--threads", type=int, metavar="N", help="threads of torch")

    sub = command(
        "demo",
        run_demo,
        "Run the two example reconstructions, and keep their pictures.",
        DEMO_EPILOG,
    )
    sub.add_argument(
        "--out", metavar="DIR", default="demo", help="folder of the pictures (default: demo)"
    )
    sub.add_argument("--quick", action="store_true", help="small and few iterations")
    return parser


def _key(field: dataclasses.Field[Any]) -> str:
    from dataclasses import MISSING

    if field.default_factory is not MISSING:
        return f"{field.name} = {field.default_factory()!r}"
    if field.default is MISSING:
        return f"{field.name} (required)"
    return (
        f"{field.name} = {field.default:.4g}"
        if isinstance(field.default, float)
        else f"{field.name} = {field.default!r}"
    )


__all__ = ["build_parser", "explain", "main"]
