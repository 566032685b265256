"""``pnp-mlpatch ct``: a volume from a scan on disk."""

from __future__ import annotations

import argparse
from typing import Any

from pnp_mlpatch.cli._common import DEFAULTS, command, flags_of_a_run, no_resume, report_flag
from pnp_mlpatch.cli._ct import run_ct
from pnp_mlpatch.cli._ct_check import parse_center
from pnp_mlpatch.cli._ct_processes import flags_of_processes
from pnp_mlpatch.ct import BEAMS
from pnp_mlpatch.io.voxels import LENGTHS

EPILOG = """\
Scan. .h5 in the Data Exchange format (counts, flats, darks and angles in one file); NXtomo;
FILE:NAME for one dataset of an HDF5 or .npz file; .npy; .tif; a folder of projections, one TIFF
each, with flats and darks among them, or in folders whose names say so; a folder of 2DeteCT,
sliceNNNNN/modeK; Nikon .xtekct (the middle slice); .mat of HTC 2022. DICOM slices are images: see
pnp-mlpatch solve --simulate. --layout names the axes of an array: s slices, a
angles, d detectors, for example asd. Counts need the open beam, from the file or from --blank; NaN,
dead bins (flat <= dark) and slices without data have no weight and do no harm.

Lengths have one unit, for example mm; the volume is attenuation per that unit, or Hounsfield units
with --mu-water. By default a pixel is a detector element, seen at the centre of rotation, and the
image is the square about the field of view. Angles turn counter-clockwise; at angle 0 rays run up
the columns of the image, and detectors count to the right. If slices look smeared or doubled, try
--center; mirrored, negative angles; --plot draws what was understood, and --fbp --preview look.png
--slices 100:101 is a fast look.

The denoiser works on [0, 1], to which --window is mapped. By default the level of the denoiser
comes from the noise, the start is total variation, and the weight of the data rises where the
residual exceeds the noise. --solver, --sigma, --iterations and --set solver.KEY=VALUE replace this
recipe by a solver with the settings that you give; --sigma (relative to the window): larger is
smoother. A faster, rougher look: --iterations 10. For chest CT --mu-water 0.0193 --weights
mlpatch-ct takes the weights that were trained on Hounsfield units.

Not in the package: beam hardening, phase retrieval, cone beams. Correct the projections first, for
example by tomopy or CIL.

Memory is that of --batch slices and of the projector (--memory GiB; --backend astra_cpu stores
none), however many slices there are. Beside --out lies a .json that tells how the volume was made.
A run that was killed goes on with the same command, to the same bytes; other settings are refused.
--no-resume starts anew. The bytes are the same for any number of processes, if --threads is: by
default all cores for one process, 1 for each of --workers.

Examples. A Data Exchange file, with the centre of rotation at the detector 640.5, in mm:
  pnp-mlpatch ct tooth.h5 --out tooth_volume.h5 --spacing 0.0065 --center 640.5 --batch 4 \\
      --preview middle.png
A look at one slice first:
  pnp-mlpatch ct tooth.h5 --out look.npy --spacing 0.0065 --center 640.5 --slices 300:301 \\
      --fbp --preview look.png --plot geometry.png
LoDoPaB (362 x 362 pixels on 26 cm, 1000 angles over pi, 513 detectors; the angles are those of
ODL, whose axes lie otherwise):
  python -c "from numpy import arange, pi, savetxt; \\
      savetxt('angles.txt', (arange(1000) + 0.5) * pi / 1000 - pi / 2)"
  pnp-mlpatch ct ground_truth_observation.hdf5:data --out lodopab.h5 --angles angles.txt \\
      --shape 362 362 --pixel 7.1823e-4 --spacing 7.1676e-4 --window 0 1
2DeteCT, a fan beam whose distances are known:
  pnp-mlpatch ct slice00001/mode2 --out slice1.tif --shape 1024 1024 --pixel 0.1
By four processes, and before that what it will cost:
  pnp-mlpatch ct tooth.h5 --out tooth.zarr --spacing 0.0065 --center 640.5 --workers 4 --estimate
  pnp-mlpatch ct tooth.h5 --out tooth.zarr --spacing 0.0065 --center 640.5 --workers 4
Counts without flats, on a GPU:
  pnp-mlpatch ct counts.npy --layout asd --kind counts --blank 1e4 --angles 180 \\
      --out volume.h5 --device cuda
"""


def add_parser(commands: Any) -> None:
    """Add the command and its flags.

    Parameters
    ----------
    commands : argparse sub-parsers
        Where it is added.
    """
    sub = command(
        commands,
        "ct",
        run_ct,
        "Reconstruct a volume from a CT scan on disk, slice by slice, in bounded memory.",
        EPILOG,
    )
    sub.add_argument("scan", metavar="SCAN", help="the scan: a file, FILE:DATASET, or a folder")
    sub.add_argument(
        "--out",
        metavar="FILE",
        help='the volume: .h5 (dataset "volume"), .npy, .tif or .zarr; beside it a .json',
    )
    sub.add_argument(
        "--check",
        action="store_true",
        help="look at the slice in the middle: counts, gain, centre, truncation, chi^2",
    )
    _scan(sub)
    _geometry(sub)
    _reconstruction(sub)
    flags_of_processes(sub)
    _running(sub)


def _scan(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "scan"."""
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
    group.add_argument(
        "--blank-after",
        metavar="I0|FILE",
        help="the open beam after the scan, where --blank is that before it: it is interpolated",
    )
    group.add_argument("--dark", metavar="VALUE|FILE", help="the dark field, for counts")
    group.add_argument(
        "--gain",
        type=float,
        metavar="G",
        help="detector units per photon (default: from the flats)",
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


def _geometry(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "geometry"."""
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
        help="width of a detector element (default: that of the file, or a pixel, magnified)",
    )
    group.add_argument(
        "--center",
        type=parse_center,
        metavar="INDEX|auto",
        help="detector index of the centre of rotation, may be a fraction (default: middle, (D "
        "- 1) / 2; tomopy's D / 2 less 0.5, or tomopy:VALUE); auto finds it",
    )
    group.add_argument(
        "--offset", type=float, metavar="LENGTH", help="the same as a shift of the detector"
    )
    _apparatus(group)


def _apparatus(group: argparse._ArgumentGroup) -> None:
    """Add the distances of a fan, and the file of a geometry."""
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
        "--source-detector", type=float, metavar="LENGTH", help="the sum of both, in its place"
    )
    group.add_argument(
        "--unit", choices=list(LENGTHS), help="of all lengths; it is written into the volume"
    )
    group.add_argument(
        "--geometry",
        metavar="FILE",
        help="instead of these: .json or .toml, as ct.geometry.as_dict; or the .json of a volume",
    )


def _reconstruction(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "reconstruction"."""
    group = sub.add_argument_group("reconstruction")
    group.add_argument(
        "--denoiser",
        metavar="NAME",
        default=DEFAULTS["denoiser"],
        help=f"the denoiser (default: {DEFAULTS['denoiser']})",
    )
    group.add_argument("--weights", metavar="NAME", help="its weights: a shipped name or a path")
    group.add_argument(
        "--preset",
        choices=["fast", "standard"],
        help="of the recipe: fast takes about a third of the time of standard",
    )
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
        help="level of the denoiser, relative to the window; or one for each iteration "
        "(default: from the noise; with a solver 20/255)",
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
    _detector(group)
    _values(group)


def _detector(group: argparse._ArgumentGroup) -> None:
    """Add the flags of what is done to the data before."""
    group.add_argument(
        "--bin",
        type=int,
        metavar="N",
        help="take N neighbouring detector elements as one (default: by the size of pixels)",
    )
    group.add_argument(
        "--stripes",
        action="store_true",
        default=None,
        help="filter stripes (rings) by algotom, in place of the estimate of offsets",
    )


def _values(group: argparse._ArgumentGroup) -> None:
    """Add the flags of what the values of the image mean."""
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


def _running(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "running"."""
    group = sub.add_argument_group("running")
    size = group.add_mutually_exclusive_group()
    size.add_argument("--batch", type=int, metavar="N", help="slices at a time (default: 8)")
    size.add_argument(
        "--slabs",
        type=int,
        metavar="N",
        help="N slices at a time, denoised along all three planes (for slices that lie close)",
    )
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
    flags_of_a_run(group)
    no_resume(group)
    group.add_argument("--plot", metavar="FILE.png", help="draw the geometry")
    group.add_argument(
        "--preview",
        metavar="FILE.png",
        help="draw the slice in the middle beside its filtered backprojection",
    )
    report_flag(group)


__all__ = ["add_parser"]
