"""Digests and partial files, by which an interrupted CT volume is known again."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from pnp_mlpatch.ct import Scan

Shard = tuple[int, int]  # (i, N): the i-th of N shares of the batches, counted from 1


def partial_files(out: Path, shard: Shard | None = None) -> tuple[Path, Path]:
    """Return where the finished batches and their journal lie.

    Parameters
    ----------
    out : Path
        The volume.
    shard : tuple of int, optional
        (i, N). The shards of a volume share a folder, and each has a journal.

    Returns
    -------
    folder, journal : Path
    """
    which = "" if shard is None else f"-{shard[0]}-of-{shard[1]}"
    return (
        out.with_name(f".{out.name}.partial"),
        out.with_name(f".{out.name}.partial{which}.json"),
    )


def shard_journals(out: Path) -> dict[Shard, Path]:
    """Return the journals of the shards of a volume that lie beside it.

    Parameters
    ----------
    out : Path
        The volume.

    Returns
    -------
    dict
        From (i, N) to the path, in order.
    """
    pattern = re.compile(re.escape(f".{out.name}.partial-") + r"(\d+)-of-(\d+)\.json")
    found = {}
    for path in out.parent.glob(".*.partial-*-of-*.json"):
        match = pattern.fullmatch(path.name)
        if match is not None:
            found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0])))


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
        Name, size and time of its files, or the sha256 of an array in memory; and that of flat
        and dark field.
    """
    if "sha256" in scan.meta:  # an array in memory
        return {"sha256": scan.meta["sha256"], "flat and dark": _fields_digest(scan)}
    files = [p for p in scan.path.rglob("*") if p.is_file()] if scan.path.is_dir() else [scan.path]
    stats = [p.stat() for p in files]
    return {
        "name": scan.path.name,
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max(stat.st_mtime_ns for stat in stats),
        "flat and dark": _fields_digest(scan),
    }


def _fields_digest(scan: Scan) -> str:
    """Return the sha256 of flat and dark field."""
    digest = hashlib.sha256()
    for beam in (scan.flat, scan.dark):
        digest.update(b"none" if beam is None else beam.contiguous().numpy().tobytes())
    return digest.hexdigest()


__all__ = ["Shard", "partial_files", "scan_fingerprint", "shard_journals", "tensor_digest"]
