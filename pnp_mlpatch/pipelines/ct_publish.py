"""The last step of a CT volume: batches become the volume."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.ct import FanBeam, Voxels, from_dict, sizes, write_volume
from pnp_mlpatch.ct.volumes import write_report
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import clean
from pnp_mlpatch.io.ome_zarr import write_levels
from pnp_mlpatch.pipelines.ct_journal import ROW, SCAN_FILE, Journal
from pnp_mlpatch.pipelines.ct_parts import RUN


def units_of(settings: dict[str, Any]) -> str:
    """Return the unit of a volume.

    Parameters
    ----------
    settings : dict
        The settings of its run.

    Returns
    -------
    str
    """
    if settings["mu_water"] is not None:
        return "HU"
    return f"1 / {settings.get('unit') or 'unit of pixel'}"


def voxels_of(settings: dict[str, Any]) -> Voxels:
    """Return the size of a voxel: slices are as far apart as detector elements are high.

    Parameters
    ----------
    settings : dict
        The settings of its run.

    Returns
    -------
    Voxels
        Elements are square unless the file of the scan says how high they are.
    """
    geometry, known = from_dict(settings["geometry"]), settings["scan"]
    width = geometry.width if isinstance(geometry, FanBeam) else sizes(geometry)[1]
    height = width
    if {"element_mm", "element_height_mm"} <= set(known):
        height = width * known["element_height_mm"] / known["element_mm"]
    size = (float(height), float(geometry.pixel), float(geometry.pixel))
    return Voxels(size, settings.get("unit") or "", units_of(settings))


def publish(path: Path, journal: Journal) -> None:
    """Write the volume and the report beside it, and remove batches and journal.

    Parameters
    ----------
    path : Path
        The volume.
    journal : Journal
        All batches of it are finished.

    Raises
    ------
    FileError
        If a batch was changed on disk, or the volume cannot be written.
    """
    settings = {key: value for key, value in journal.settings.items() if key != SCAN_FILE}
    parts, rows = journal.parts, journal.rows()
    report = {
        **settings,
        **journal.found,
        "shape": list(parts.shape),
        "units": units_of(settings),
        "voxel_size": list(voxels_of(settings).size),
        "result": {key: [row[key] for row in rows] for key in ROW},
    }
    chunks = (journal.batch(a) for a, _ in journal.batches)
    if path.suffix.lower() != ".zarr":
        write_volume(path, chunks, parts.shape, meta=report, voxels=voxels_of(settings))
        # last: until the volume is there, the same call goes on from it
        journal.path.unlink(missing_ok=True)
        parts.remove()
        return
    voxels, finite = voxels_of(settings), _finite(chunks, path)
    write_levels(parts.folder, finite, parts.shape, parts.batch, voxels, "volume")
    write_report(path, report)
    _tidy(parts.folder)
    _move(parts.folder, path)
    journal.path.unlink(missing_ok=True)
    (path / RUN).unlink(missing_ok=True)


def _finite(chunks: Iterable[Tensor], path: Path) -> Iterator[Tensor]:
    """Iterate over the chunks; raise where they are not finite."""
    for number, chunk in enumerate(chunks):
        if not bool(torch.isfinite(chunk).all()):
            raise InputError(
                f"{path}: batch {number} holds NaN or infinite values; nothing was written."
            )
        yield chunk


def _tidy(folder: Path) -> None:
    """Remove what killed workers left in the folders of chunks."""
    for chunk in folder.glob("*/c/*/0"):
        clean(chunk)
        for rest in chunk.glob(".pnp-mlpatch-*"):  # of other machines: all batches are finished
            rest.unlink(missing_ok=True)


def _move(folder: Path, path: Path) -> None:
    """Move a store into place; an earlier one is there until then."""
    old = path.with_name(f".{path.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    folder.rename(path)
    shutil.rmtree(old, ignore_errors=True)


__all__ = ["publish", "units_of", "voxels_of"]
