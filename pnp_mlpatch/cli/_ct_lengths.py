"""Lengths of ``pnp-mlpatch ct``: of the flags, of the file, their unit, and whether they agree."""

from __future__ import annotations

import argparse
import warnings

from pnp_mlpatch.ct.scan import Scan
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.voxels import LENGTHS

NEAR = 0.1  # by how much a length of the flags may differ from that of the file
PLACES = ("source_origin", "origin_detector", "source_detector")


def take_apparatus(args: argparse.Namespace, scan: Scan) -> None:
    """Set the flags of beam and distances that were not given to what the file says.

    Parameters
    ----------
    args : Namespace
        With ``beam``, ``unit``, ``quiet`` and the distances; changed in place.
    scan : Scan
        The scan.
    """
    held = scan.meta.get("apparatus")
    if held is None or args.beam not in (None, held["beam"]):
        return
    so, od = (held[name] / millimetres(args) for name in PLACES[:2])
    known = dict(zip(PLACES, (so, od, so + od), strict=True))
    for name, value in known.items():
        given = getattr(args, name)
        if given is not None and abs(given / value - 1) > NEAR:
            warnings.warn(
                f"{scan.path}: --{name.replace('_', '-')} is {given:g}, but by the file it is "
                f"{value:g} {args.unit or 'mm'}.",
                stacklevel=2,
            )
    said = args.beam is None or args.source_origin is None
    args.beam = held["beam"]
    if args.source_origin is None:
        args.source_origin = so
    if args.origin_detector is None and args.source_detector is None:
        args.origin_detector = od
    if said and not args.quiet:
        print(
            f"{scan.path}: a {args.beam} beam, source to axis {so:.6g} {args.unit or 'mm'}, source "
            f"to detector {so + od:.6g}, by the file"
        )


def millimetres(args: argparse.Namespace) -> float:
    """Return how many millimetres the unit of --unit is; 1 where it is not given.

    Parameters
    ----------
    args : Namespace
        With ``unit``.

    Returns
    -------
    float
    """
    return LENGTHS[args.unit or "mm"][1] / 1e3


def element_width(args: argparse.Namespace, scan: Scan) -> float | None:
    """Return the width of a detector element: given, or that of the file.

    Parameters
    ----------
    args : Namespace
        With ``spacing``, ``pixel``, ``unit`` and ``quiet``.
    scan : Scan
        The scan.

    Returns
    -------
    float or None
        None where neither tells it.
    """
    known = scan.meta.get("element_mm")
    if known is None:
        return args.spacing
    unit, width = args.unit or "mm", float(f"{known / millimetres(args):.12g}")
    if args.spacing is None and (args.pixel is None or args.beam not in (None, "parallel")):
        if not args.quiet:
            print(
                f"{scan.path}: an element is {width:g} {unit} wide, by the file; lengths are in "
                f"{unit}"
            )
        return width
    if args.spacing is not None and not 1 - NEAR < args.spacing / width < 1 + NEAR:
        others = [
            f" If lengths are in {name}, say --unit {name}."
            for name, (_, size) in LENGTHS.items()
            if args.unit is None and abs(args.spacing * size / 1e3 / known - 1) < NEAR
        ]
        warnings.warn(
            f"{scan.path}: --spacing is {args.spacing:g}, but by the file an element is {width:g} "
            f"{unit} wide. Other lengths, and --mu-water, must be in the unit of --spacing."
            f"{''.join(others)}",
            stacklevel=2,
        )
    return args.spacing


def unit_of_lengths(args: argparse.Namespace, scan: Scan) -> str | None:
    """Return the unit of lengths, for the header of the volume.

    Parameters
    ----------
    args : Namespace
        With ``unit``, ``spacing``, ``pixel`` and ``geometry``.
    scan : Scan
        The scan.

    Returns
    -------
    str or None
        That of --unit; mm where the width of an element is that of the file, or agrees with it.
    """
    known = scan.meta.get("element_mm")
    if args.unit is not None or known is None or args.geometry is not None:
        return args.unit
    if args.spacing is None:
        return "mm" if args.pixel is None or args.beam not in (None, "parallel") else None
    return "mm" if 1 - NEAR < args.spacing / known < 1 + NEAR else None


def origin_detector(args: argparse.Namespace) -> float | None:
    """Return the distance from the axis to the detector.

    Parameters
    ----------
    args : Namespace
        With ``source_origin``, ``origin_detector`` and ``source_detector``.

    Returns
    -------
    float or None

    Raises
    ------
    InputError
        For --source-detector with --origin-detector, without --source-origin, or shorter than it.
    """
    if args.source_detector is None:
        return args.origin_detector
    if args.origin_detector is not None or args.source_origin is None:
        raise InputError(
            "--source-detector is --source-origin plus --origin-detector: give --source-origin "
            "and one of the other two."
        )
    if not args.source_detector >= args.source_origin:
        raise InputError(
            f"--source-detector {args.source_detector:g} is shorter than --source-origin "
            f"{args.source_origin:g}; it is measured from the source, beyond the object. Are they "
            "swapped?"
        )
    return args.source_detector - args.source_origin


__all__ = ["element_width", "origin_detector", "take_apparatus", "unit_of_lengths"]
