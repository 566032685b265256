"""Digests and partial files, by which an interrupted CT volume is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from pnp_mlpatch.ct import Scan


def partial_files(out: Path) -> tuple[Path, Path]:
    """Return where the partial volume and its journal lie.

    Parameters
    ----------
    out : Path
        The volume.

    Returns
    -------
    tuple of Path
    """
    return out.with_name(f".{out.name}.partial.npy"), out.with_name(f".{out.name}.partial.json")


def tensor_digest(x: Tensor) -> str:
    """Return the sha256 of the values of a tensor, as little-endian float32.

    Parameters
    ----------
    x : Tensor
        On the CPU.

    Returns
    -------
    str
    """
    return hashlib.sha256(x.contiguous().numpy().astype("<f4", copy=False).data).hexdigest()


def scan_fingerprint(scan: Scan) -> dict[str, Any]:
    """Return what tells a scan from a later version of itself, without reading it.

    Parameters
    ----------
    scan : Scan
        The scan.

    Returns
    -------
    dict
        Name, size and time of its files, and the sha256 of flat and dark field.
    """
    files = [p for p in scan.path.rglob("*") if p.is_file()] if scan.path.is_dir() else [scan.path]
    stats = [p.stat() for p in files]
    digest = hashlib.sha256()
    for beam in (scan.flat, scan.dark):
        digest.update(b"none" if beam is None else beam.contiguous().numpy().tobytes())
    return {
        "name": scan.path.name,
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max(stat.st_mtime_ns for stat in stats),
        "flat and dark": digest.hexdigest(),
    }


__all__ = ["partial_files", "scan_fingerprint", "tensor_digest"]
