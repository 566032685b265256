"""``pnp-mlpatch solve``: one image from data, or from data simulated from a known image."""

from __future__ import annotations

import argparse
from typing import Any

from pnp_mlpatch.cli._common import DEFAULTS, command, flags_of_a_run, report_flag
from pnp_mlpatch.cli._solve import run_solve

EPILOG = """\
Data. --simulate takes IMAGE as the truth f, and makes q = A f + n with n of standard deviation
--noise, from --seed. --data takes q itself: .npy, or a picture where the data have the shape of
the image. Images are (H, W), (H, W, 3) or (C, H, W); 8- and 16-bit pictures, also as .npy, are
scaled to [0, 1]. Sizes that the operator asks for (image_shape, channels) are taken from the
picture; for data of another shape, such as sinograms, give them:
--set 'operator.image_shape=[1,512,512]'. IMAGE may also be a DICOM file, or a folder of DICOM
slices in any order, of which --slice takes one: -1024 to 1024 HU become 0 to 1.

Settings. VALUE is a TOML value (60, 0.06, true, [64, 48]), else a text. A setting of the operator
that is an array (mask, psf, weight, angles) is given by the path of a .npy file or of a picture; a
picture of a mask is cut at half its range, one of a psf is scaled to sum 1. The mask operator also
takes operator.keep=FRACTION (and operator.seed=N): random pixels, or operator.pattern=RGGB: the
mosaic of a camera, whose --data are a grey picture or one in colour. Denoisers of one channel run
on every channel by itself; lensing denoises the E mode, and takes a picture less its mean as E.

Kernels. The blur operator takes operator.psf=FILE, or operator.width=WIDTH (a Gaussian), or
operator.length=LENGTH and operator.angle=ANGLE (a motion), or operator.radius=RADIUS (a disk), in
pixels and radians. Photographs have operator.boundary=valid: the border is not seen, and the image
is larger than the data by the size of the kernel less 1. The downsample operator takes
operator.factor and operator.psf=FILE, or operator.width=WIDTH, or neither (bicubic). The image has
factor times the sides of its data.

MRI. A grey picture is the real part of a complex image, and the magnitude is written and scored.
operator.acceleration=NUMBER (and operator.centre_fraction=FRACTION, operator.seed=N) samples random
columns. --data is a .npy file, complex (H, W) or (coils, H, W), or real with both parts (2, H, W)
or (coils, 2, H, W); so is operator.maps=FILE. Low frequencies are in the middle; scale the data
such that magnitudes are in [0, 1].

Without solver.sigma and solver.alpha the level of the denoiser follows from the noise, which is
estimated where --noise is not given. --tune searches for the level and the number of iterations;
that takes nine runs.

Results. --output gets the image; beside it, with the ending .json, what was run, how it ended,
PSNR and SSIM, and the history. --checkpoint keeps the state and the history every 5 iterations;
the same command resumes from it, and --set solver.iterations may be raised. The state of other
data or settings is refused.

A configuration file has the same words; flags override it, and paths are relative to where you are:
  simulate = "photo.png"            # or: data = "sinogram.npy"
  noise = 0.02
  seed = 0
  gray = true
  tune = false
  anderson = 5                      # accelerate; leave it out for the plain solver
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
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 \\
      --noise 0.02 --output filled.png
  pnp-mlpatch solve --data sinogram.npy --operator radon --noise 0.5 \\
      --set 'operator.image_shape=[1,512,512]' --set operator.angles=60 --output slice.tiff
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 \\
      --noise 0.02 --tune --output chosen.png
  pnp-mlpatch solve --simulate dicom_folder --slice 40 --operator radon --set operator.angles=60 \\
      --noise 0.5 --denoiser mlpatch --set denoiser.weights=mlpatch-ct --output slice.npy
  pnp-mlpatch solve --config run.toml --solver hqs --checkpoint state.pt --output out.npy
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
        "solve",
        run_solve,
        "Reconstruct an image from data, or from data simulated from a known image.",
        EPILOG,
    )
    sub.add_argument(
        "--simulate",
        metavar="IMAGE",
        help="take this picture, or slice of a DICOM folder, as the truth, and simulate its data",
    )
    sub.add_argument(
        "--slice", type=int, metavar="N", help="of a DICOM series, from 0 (default: the middle one)"
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
    _running(sub)


def _running(sub: argparse.ArgumentParser) -> None:
    """Add the flags of where and how it runs, and what is written."""
    sub.add_argument(
        "--anderson",
        type=int,
        metavar="DEPTH",
        help="accelerate the solver by mixing its last DEPTH points, for example 5",
    )
    sub.add_argument("--gray", action="store_true", default=None, help="turn colour into luminance")
    sub.add_argument(
        "--output",
        metavar="PATH",
        help="the result: .npy, .png or .tiff (float); beside it a .json that tells all",
    )
    sub.add_argument(
        "--checkpoint",
        metavar="STATE.pt",
        help="keep the solver's state here, and resume from it if it is there",
    )
    report_flag(sub)
    flags_of_a_run(sub)


__all__ = ["add_parser"]
