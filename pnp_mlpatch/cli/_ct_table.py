"""The geometry of ``pnp-mlpatch ct`` in a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pnp_mlpatch.cli._common import blame
from pnp_mlpatch.ct.geometry import Geometry, from_dict
from pnp_mlpatch.ct.scan import Scan
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.reading import refuse_special
from pnp_mlpatch.weights import read_toml

GEOMETRY = (
    "beam",
    "shape",
    "pixel",
    "spacing",
    "center",
    "offset",
    "source_origin",
    "origin_detector",
    "source_detector",
)  # flags that --geometry replaces


def read_table(args: argparse.Namespace) -> dict[str, Any] | None:
    """Return what the file of --geometry holds; the file beside an earlier volume will do.

    Parameters
    ----------
    args : Namespace
        The flags.

    Returns
    -------
    dict or None
        None without --geometry.
    """
    if args.geometry is None:
        return None
    void = [f"--{name.replace('_', '-')}" for name in GEOMETRY if getattr(args, name) is not None]
    if void:
        raise InputError(
            f"--geometry {args.geometry} tells the whole geometry; leave out "
            f"{', '.join(void)}, or change the file."
        )
    path = Path(args.geometry)
    refuse_special(path)
    try:
        values = (
            read_toml(path)
            if path.suffix.lower() == ".toml"
            else json.loads(path.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError) as error:
        raise (
            error
            if isinstance(error, FileError)
            else FileError(f"{path}: cannot be read as JSON ({error}). Give .json or .toml.")
        ) from error
    if isinstance(values, dict) and isinstance(values.get("geometry"), dict):
        values = values["geometry"]
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: expected a table of the values of a geometry, got {type(values).__name__}."
        )
    if args.angles is not None and "angles" in values:
        raise InputError(
            f"--geometry {path} has the angles; leave out --angles, or take them out of the file."
        )
    return values


def from_table(args: argparse.Namespace, scan: Scan, table: dict[str, Any]) -> Geometry:
    """Make the geometry of the file; the scan gives the angles and detectors that it lacks.

    Parameters
    ----------
    args : Namespace
        The flags.
    scan : Scan
        The scan.
    table : dict
        Of :func:`read_table`.

    Returns
    -------
    ParallelBeam or FanBeam
    """
    if "angles" not in table and scan.angles is None:
        raise InputError(
            f"{args.geometry}: neither it nor the scan tells the angles. Give --angles "
            "FILE or --angles N."
        )
    angles = {} if "angles" in table or scan.angles is None else {"angles": scan.angles.tolist()}
    with blame(args.geometry):
        return from_dict({**table, **angles, "detectors": table.get("detectors", scan.shape[2])})


__all__ = ["GEOMETRY", "from_table", "read_table"]
