"""What ``pnp-mlpatch ct`` asks back, warns of, and finds in a scan before and after the work."""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pnp_mlpatch.cli._common import spoken
from pnp_mlpatch.ct.geometry import Geometry, ParallelBeam
from pnp_mlpatch.ct.scan import COUNTS, Scan
from pnp_mlpatch.errors import InputError

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, VolumeResult

TINY = 8  # pixels: an image of fewer, of a detector of many elements, is a wrong unit
MISSING = math.radians(8)  # of directions that a scan may leave out
ABSURD = 4e9  # voxels of a slice and all its neighbours in memory: more is a wrong unit


def parse_center(text: str) -> str:
    """Check a value of --center: a number, "tomopy:NUMBER", or "auto".

    Parameters
    ----------
    text : str
        What was given.

    Returns
    -------
    str

    Raises
    ------
    argparse.ArgumentTypeError
        For anything else.
    """
    if text != "auto":
        try:
            float(text.removeprefix("tomopy:"))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected an element, counted from 0, such as 640.5; tomopy:641, counted from "
                f"the edge; or auto, got {text!r}"
            ) from None
    return text


def given_center(text: str | None) -> float | None:
    """Return the element that --center names.

    Parameters
    ----------
    text : str, optional
        A value of :func:`parse_center`.

    Returns
    -------
    float or None
        None where it is not given, or is "auto".
    """
    if text is None or text == "auto":
        return None
    _, colon, value = text.rpartition(":")
    return float(value) - (0.5 if colon else 0.0)


def find_center(args: argparse.Namespace, scan: Scan, geometry: Geometry) -> float:
    """Find the centre for ``--center auto``, and say what was found.

    Parameters
    ----------
    args : Namespace
        With ``quiet`` and ``plot``.
    scan : Scan
        The scan.
    geometry : ParallelBeam or FanBeam
        With the axis in the middle of the detector.

    Returns
    -------
    float
    """
    from pnp_mlpatch.ct.center import find

    found = find(scan, geometry)
    if found.tilt is not None and abs(found.tilt) * scan.shape[0] > 1:
        warnings.warn(
            f"{scan.path}: the axis is tilted: its element changes by {found.tilt:.3g} from one "
            f"slice to the next, {found.tilt * scan.shape[0]:.2g} over all. Reconstruct parts of "
            "the slices, each with --center auto, or turn the projections first.",
            stacklevel=2,
        )
    if not args.quiet:
        print(
            f"{scan.path}: the rotation axis is at element {found.center:.3f}, by {found.method}, "
            f"with a standard error of {found.error:.2g}"
        )
    return found.center


def ask_back(args: argparse.Namespace, scan: Scan, geometry: Geometry) -> None:
    """Refuse flags without which the numbers mean nothing, and say what will be replaced.

    Parameters
    ----------
    args : Namespace
        The flags.
    scan : Scan
        The scan.
    geometry : ParallelBeam or FanBeam
        Its geometry.

    Raises
    ------
    InputError
        For --mu-water without a length, for one view, and for slices of absurd size.
    """
    lengths = args.pixel, args.spacing, args.geometry, scan.meta.get("element_mm")
    if args.mu_water is not None and lengths == (None,) * 4:
        raise InputError(
            f"--mu-water {args.mu_water:g} is attenuation per length, and no length was given. "
            "Give --spacing or --pixel in that unit (0.0193 is 1 / mm)."
        )
    if scan.shape[1] == 1:
        raise InputError(
            f"{scan.path}: one view of {scan.shape[0]} slices x {scan.shape[2]} detectors tells no "
            "image. Is it the right dataset (--dataset), and are its axes in the right order "
            "(--layout)?"
        )
    warn_of_coverage(scan, geometry)
    height, width = geometry.shape
    if args.shape is None and max(height, width) < TINY <= scan.shape[2] // 4:
        raise InputError(
            f"{scan.path}: {scan.shape[2]} detectors make an image of {height} x {width} pixels of "
            f"{geometry.pixel:g}. Are --pixel and --spacing in one unit? Or give --shape."
        )
    if height * width * 16 > ABSURD:
        raise InputError(
            f"{scan.path}: a slice of {height} x {width} pixels of {geometry.pixel:g} is larger "
            "than any detector. Are --pixel and --spacing in one unit? Or give --shape."
        )
    if args.out is not None and not args.quiet and Path(args.out).exists():
        warnings.warn(f"{args.out}: exists, and will be replaced at the end.", stacklevel=2)


def warn_of_coverage(scan: Scan, geometry: Geometry) -> None:
    """Warn where the angles leave out directions.

    Parameters
    ----------
    scan : Scan
        For messages.
    geometry : ParallelBeam or FanBeam
        Its geometry.
    """
    turn = math.pi if isinstance(geometry, ParallelBeam) else 2 * math.pi
    theta = torch.remainder(geometry.theta, turn).sort().values
    gaps = torch.cat([theta.diff(), theta[:1] + turn - theta[-1:]])
    covered = turn - float(gaps.max()) + float(gaps.median())
    if covered < math.pi - MISSING:
        warnings.warn(
            f"{scan.path}: the angles cover {math.degrees(covered):.0f} of the 180 degrees that "
            "are needed at least, so edges along the others are smeared or missing. Did the scan "
            "break off? If not, take the recipe: filtered backprojection shows least.",
            stacklevel=3,
        )


def run_check(
    args: argparse.Namespace, scan: Scan, geometry: Geometry, config: VolumeConfig
) -> int:
    """Print what the middle slice shows, without reconstructing the volume.

    Parameters
    ----------
    args : Namespace
        The flags, for the words of messages.
    scan : Scan
        The scan.
    geometry : ParallelBeam or FanBeam
        Its geometry.
    config : VolumeConfig
        The settings.

    Returns
    -------
    int
        0 where nothing looks wrong, else 1.
    """
    from pnp_mlpatch.pipelines.ct_check import examine
    from pnp_mlpatch.pipelines.ct_fit import check_fit, check_units, say_chi2

    seen = examine(scan, geometry, config)
    facts, faults = seen.facts, list(seen.faults)
    rows: list[tuple[str, str]] = []
    if scan.kind == COUNTS and scan.flat is not None:
        raw = scan.read(facts["slice"], facts["slice"] + 1)
        dark = "none" if scan.dark is None else f"{float(scan.dark.median()):.5g}"
        rows.append(
            (
                "counts",
                f"{float(raw.nan_to_num(0).min()):.5g} ... {float(raw.nan_to_num(0).max()):.5g}, "
                f"flat {float(scan.flat.median()):.5g}, dark {dark} (medians)",
            )
        )
        rows.append(("gain", f"{facts['gain']:.4g} units per photon ({facts['gain from']})"))
    elif facts.get("noise") is not None:
        rows.append(("noise", f"{facts['noise']:.4g}"))
    if "integrals" in facts:
        low, high = facts["integrals"]
        rows.append(("line integrals", f"{low:.3g} ... {high:.3g} (1 and 99 per cent)"))
    if seen.slab.rejected:
        lost = seen.slab.rejected[0]
        rows.append(
            ("outliers", f"{lost['outliers']}, bad elements {lost['bad_elements'] or 'none'}")
        )
    rows.append(("centre", _say_center(facts)))
    if facts.get("elements in a bin", 1) > 1:
        rows.append(("bins", f"of {facts['elements in a bin']} detector elements"))
    rows.append(("truncated", "yes" if facts.get("truncated") else "no"))
    if len(seen.slab.q):
        fit, fbp = check_fit(scan, geometry, seen)
        faults += check_units(fbp, config.mu_water)
        rows.append(("chi^2", f"{fit:.3g} by total variation (1 is noise alone)"))
        faults += [text for text in [say_chi2([fit], facts["slice"])] if text]
    print(f"{scan.path}: {scan.kind}, slice {facts['slice']} of {scan.shape[0]}")
    for name, value in rows:
        print(f"  {name:<15} {value}")
    for text in faults:
        print(f"  ! {spoken(text, args)}{'' if text.endswith('?') else '.'}")
    return 1 if faults else 0


def _say_center(facts: dict[str, Any]) -> str:
    used = f"element {facts['center']:.2f} is used" if "center" in facts else "not looked at"
    if "center that fits" not in facts:
        return f"{used}; the views cannot be compared"
    return (
        f"{used}; {facts['center that fits']:.3f} fits by {facts['by']}, standard error "
        f"{facts['its error']:.2g}"
    )


def say_fit(result: VolumeResult, first: int) -> None:
    """Print what was settled for the scan, and which slices do not fit their data.

    Parameters
    ----------
    result : VolumeResult
        The volume.
    first : int
        The number of its first slice.
    """
    from pnp_mlpatch.pipelines.ct_fit import say_chi2

    seen = result.seen
    if seen.get("gain from") not in (None, "given", "assumed"):
        print(f"gain {seen['gain']:.4g} detector units per photon, from the {seen['gain from']}")
    if seen.get("noise") is not None:
        print(f"noise of the line integrals {seen['noise']:.3g}")
    if seen.get("parts of a pixel", 1) > 1:
        print(f"pixels are solved in {seen['parts of a pixel']}^2 parts, and averaged")
    if seen.get("elements in a bin", 1) > 1:
        print(f"{seen['elements in a bin']} detector elements are taken as one (--bin)")
    known = [value for value in result.chi2 if value is not None]
    if known:
        print(f"chi^2 {min(known):.3g} to {max(known):.3g}, where noise alone gives 1")
    text = say_chi2(result.chi2, first)
    if text:
        print(f"{text}: the same command with --check instead of --out")


__all__ = [
    "ask_back",
    "find_center",
    "given_center",
    "parse_center",
    "run_check",
    "say_fit",
    "warn_of_coverage",
]
