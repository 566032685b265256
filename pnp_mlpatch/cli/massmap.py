"""``pnp-mlpatch massmap``: the convergence from a shear map or a catalogue."""

from __future__ import annotations

import argparse
from typing import Any

from pnp_mlpatch.cli._common import command, flags_of_a_run, no_resume, report_flag
from pnp_mlpatch.cli._massmap import run_massmap

EPILOG = """\
Input. A FITS file with the images GAMMA1 and GAMMA2 (or E1 and E2, G1 and G2, a cube SHEAR), their
noise NOISE (standard deviation of a component; infinite where nothing was measured) or the density
of galaxies NGAL (each square arcminute), and MASK (0: unseen), if there is one. Other names:
--gamma1 NAME; other files: --noise other.fits[NOISE]; numbers: --noise 0.16, --n-gal 30. The size
of the pixels comes from the WCS, or from --pixel, with its unit. Where right ascension falls along
the columns, the sign of gamma_2 follows.

A catalogue of galaxies (a FITS table, .csv or .ecsv with the columns ra, dec, e1, e2, w; other
names: --columns e1=g1 e2=g2) is put on a map with --catalogue --pixel '0.5 arcmin'.

Output. OUT.fits with KAPPA_E (the mean of the posterior), KAPPA_B (of the smoothed Kaiser-Squires
map: a check, no signal is expected), SPREAD (of the denoised draws), SMOOTHED (Kaiser-Squires) and
MASK, with the WCS of the input; OUT.json with all settings, the sha256 of the input, rms, skewness,
peaks and spectrum. --from OUT.json repeats a run, with flags in place of what it says. A run that
was killed goes on with the same command.

Errors. --errors adds KAPPA_LOW and KAPPA_HIGH, which hold the true E (shifted to the mean of the
map) in 90 % of the pixels, and STD, the standard deviation of its errors; OUT.json gets each peak
above 0.05 with its interval. They are learned from generated maps with the mask and the noise of
the input, and take twice the time of the map on top.

Signs. Where a wrong sign of e2 or of right ascension explains B, a warning names the flag to try.

Examples:
  pnp-mlpatch massmap shear.fits --out kappa.fits --figure kappa.png
  pnp-mlpatch massmap shear.fits --errors --out kappa.fits
  pnp-mlpatch massmap shear.npy --pixel '0.29 arcmin' --n-gal 30 --mask mask.npy --out kappa.fits
  pnp-mlpatch massmap galaxies.fits --catalogue --pixel '0.4 arcmin' --reduced --out kappa.fits
  pnp-mlpatch massmap --from kappa.json --out again.fits
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
        "massmap",
        run_massmap,
        "Map the convergence (dark matter) from a shear map or a catalogue of galaxies.",
        EPILOG,
    )
    sub.add_argument("shear", metavar="SHEAR", nargs="?", help="the shear map or the catalogue")
    sub.add_argument("--out", metavar="FILE.fits", help="the map; beside it a .json")
    sub.add_argument(
        "--from",
        dest="source",
        metavar="OUT.json",
        help="take what is not given here from an earlier run",
    )
    _shear_map(sub)
    _catalogue(sub)
    _reconstruction(sub)
    _running(sub)


def _shear_map(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "shear map"."""
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
        help="right ascension falls along the columns (default: by the WCS); of a catalogue: it "
        "grows to the West (default: to the East)",
    )
    group.add_argument(
        "--reduced",
        action="store_true",
        default=None,
        help="the data are reduced shear: three passes",
    )


def _catalogue(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "catalogue"."""
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
    group.add_argument(
        "--flip-e2", action="store_true", default=None, help="e2 has the other sign: x is West"
    )
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


def _reconstruction(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "reconstruction"."""
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
    group.add_argument(
        "--errors",
        action="store_true",
        default=None,
        help="write calibrated errors: KAPPA_LOW, KAPPA_HIGH and STD, and those of peaks",
    )
    for name in ("iterations", "burn-in", "padding", "seed"):
        group.add_argument(
            f"--{name}",
            type=int,
            metavar="N",
            help=f"see massmap.MassMapConfig: {name.replace('-', '_')}",
        )


def _running(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "running"."""
    group = sub.add_argument_group("running")
    group.add_argument(
        "--truth",
        metavar="FILE[NAME]",
        help="a known convergence: judge the map by it, in the .json",
    )
    group.add_argument("--figure", metavar="FILE.png", help="draw the map beside Kaiser-Squires")
    report_flag(group)
    flags_of_a_run(group)
    no_resume(group)


__all__ = ["add_parser"]
