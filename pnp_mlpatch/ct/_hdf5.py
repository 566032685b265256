"""Scans in HDF5 files: Data Exchange, NXtomo, and single datasets."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._hdf5_dataset import find_gaps, hdf5_file, stored_dataset
from pnp_mlpatch.ct._scan_file import Frames, ScanFile, average
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.reading import check_hdf5
from pnp_mlpatch.io.stored import StoredArray

EXCHANGE = "exchange/data"
FLATS, DARKS = re.compile(r"white|flat|bright|blank|open_?beam"), re.compile(r"dark")
WIDTHS = ("x_pixel_size", "pixel_size_x", "detector_pixel_size_x", "pixel_size")
MILLIMETRES = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "nm": 1e-6}
Fields = dict[str, Frames]  # "flat" and "dark"


def open_hdf5(path: Path, name: str) -> ScanFile:
    """Open the projections of an HDF5 file, with the angles and fields that belong to them.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        The dataset of the projections; "" means that of Data Exchange, /exchange/data.

    Returns
    -------
    ScanFile

    Raises
    ------
    FileError
        If the file is damaged or has no such dataset.
    InputError
        If no frame of an NXtomo file is a projection.
    """
    h5py = require("h5py", "Reading an HDF5 file")
    key = name or EXCHANGE
    beside = [] if name else [f"exchange/{part}" for part in ("data_white", "data_dark", "theta")]
    with hdf5_file(path) as file:
        for part in (key, *beside):
            check_hdf5(file, part, path, allow_gaps=True)
        dataset = file.get(key)
        if not isinstance(dataset, h5py.Dataset):
            raise _no_dataset(path, name, file, h5py)
        data = stored_dataset(path, key, dataset)
        meta: dict[str, Any] = {
            "format": "Data Exchange" if key == EXCHANGE else "HDF5",
            "dataset": key,
        }
        keys, kept, fields = _image_key(file, dataset, h5py), None, {}
        if keys is not None:
            meta |= {"format": "NXtomo", "image_key": keys.name.strip("/")}
            kept, fields = _by_image_key(np.asarray(keys[()]).reshape(-1), data, path, meta)
            data = _selected(data, np.flatnonzero(kept))
        theta, degrees = _angles(file, key, h5py, meta, path)
        _element_width(file, h5py, meta)
        if kept is not None and theta is not None and theta.size == kept.size:
            theta = theta.reshape(-1)[kept]
        layout = "asd" if kept is not None or key == EXCHANGE else "sad"
        sides = _frame_shape(data.shape, layout)
        others = [name for name in sorted(dataset.parent) if name != key.split("/")[-1]]
        fields = _fields(dataset.parent, others, sides, h5py, meta, path) | fields
    return ScanFile(
        data, layout, meta, theta, degrees, fields.get("flat"), fields.get("dark"), kept=kept
    )


def _no_dataset(path: Path, name: str, file: Any, h5py: Any) -> FileError:
    """Make the error for a dataset that is not there, with the names of those that are."""
    held: list[str] = []

    def visit(found: str, member: Any) -> None:
        if isinstance(member, h5py.Dataset):
            held.append(f"{found} {member.shape} {member.dtype}")

    file.visititems(visit)
    problem = f"no dataset '{name}'"
    if not name:
        problem = f"no dataset /{EXCHANGE}, so it is not a Data Exchange file"
    return FileError(
        f"{path}: {problem}. It holds: {', '.join(held) or 'no datasets'}. Name one: '{path}:NAME'."
    )


# ---- NXtomo


def _image_key(file: Any, data: Any, h5py: Any) -> Any | None:
    """Return the image_key of an NXtomo file that tells the frames of a dataset apart, or None.

    Its values are 0 for a projection, 1 for a flat, 2 for a dark and 3 for an invalid frame.
    """
    found: list[Any] = []

    def visit(name: str, member: Any) -> None:
        named = name.split("/")[-1] == "image_key" and isinstance(member, h5py.Dataset)
        if named and data.ndim == 3 and member.size == data.shape[0]:
            found.append(member)

    file.visititems(visit)
    near = [key for key in found if key.name.split("/")[1] == data.name.split("/")[1]]
    return (near or found or [None])[0]


def _by_image_key(
    keys: np.ndarray, data: StoredArray, path: Path, meta: dict[str, Any]
) -> tuple[np.ndarray, Fields]:
    """Which frames are projections, and the means of the flats and the darks."""
    if not (keys == 0).any():
        raise InputError(
            f"{path}: image_key holds {np.unique(keys).tolist()[:8]}; no frame is a projection (0)."
        )
    fields = {}
    for kind, value in (("flat", 1), ("dark", 2)):
        places = np.flatnonzero(keys == value)
        if len(places):
            frames = (data.part(0, int(k), int(k) + 1)[0] for k in places)
            fields[kind] = average(frames, path, f"{kind} by image_key")
            meta |= {kind: f"image_key {value}", f"{kind}_frames": len(places)}
    return keys == 0, fields


def _selected(data: StoredArray, places: np.ndarray) -> StoredArray:
    """Return the frames at these places of the first axis."""

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        if axis:
            return data.part(axis, start, stop)[places]
        first, last = int(places[start]), int(places[stop - 1]) + 1
        return data.part(0, first, last)[places[start:stop] - first]

    return StoredArray((len(places), *data.shape[1:]), data.dtype, part)


# ---- angles and fields


def _angles(
    file: Any, key: str, h5py: Any, meta: dict[str, Any], path: Path
) -> tuple[np.ndarray | None, bool]:
    """Return the angles (theta or rotation_angle) and whether they are degrees."""
    if key != EXCHANGE and meta["format"] != "NXtomo":
        return None, True
    entry, group = key.split("/")[0], file[key].parent.name
    names = [f"{group}/theta", f"{group}/rotation_angle"]
    names += [f"/{entry}/sample/rotation_angle", f"/{entry}/data/rotation_angle"]
    for name in names:
        stored = file.get(name)
        if not isinstance(stored, h5py.Dataset):
            continue
        if find_gaps(stored, path):
            raise FileError(f"{path}: {name} was not written as a whole. Give angles=.")
        units = stored.attrs.get("units", "degrees")
        units = np.asarray(units).reshape(-1)[0] if np.size(units) else "degrees"
        units = units.decode(errors="replace") if isinstance(units, bytes) else str(units)
        meta |= {"angles": name.strip("/")}
        return np.asarray(stored[()]), not units.strip().lower().startswith("rad")
    return None, True


def _element_width(file: Any, h5py: Any, meta: dict[str, Any]) -> None:
    """Put the width of a detector element into ``meta``, in mm, where the file tells it."""
    found: list[float] = []

    def visit(name: str, member: Any) -> None:
        if name.split("/")[-1] not in WIDTHS or not isinstance(member, h5py.Dataset):
            return
        units = member.attrs.get("units", "")
        units = units.decode(errors="replace") if isinstance(units, bytes) else str(units)
        if member.size == 1 and member.dtype.kind in "fiu" and units.strip() in MILLIMETRES:
            found.append(float(np.asarray(member[()]).reshape(-1)[0]) * MILLIMETRES[units.strip()])

    file.visititems(visit)
    if found and found[0] > 0:
        meta["element_mm"] = found[0]


def _frame_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Return the shape of one projection."""
    if len(shape) != 3:
        return shape[-1:]
    return tuple(n for n, axis in zip(shape, layout, strict=True) if axis != "a")


def _fields(
    group: Any,
    others: list[str],
    sides: tuple[int, ...],
    h5py: Any,
    meta: dict[str, Any],
    path: Path,
) -> Fields:
    """Return the open beam and the dark field beside the projections.

    They are data_white and data_dark, or have names such as data_white_pre, flats, dark_field.
    Datasets of one kind (before and after the scan) are averaged over all of their frames.
    """
    fields: Fields = {}
    for kind, words, usual in (("flat", FLATS, "data_white"), ("dark", DARKS, "data_dark")):
        named = [name for name in others if words.search(name.lower())]
        if kind == "flat":
            named = [name for name in named if not DARKS.search(name.lower())]
        frames, used = [], []
        for name in [usual] if usual in named else named:
            stored = group.get(name)
            if not isinstance(stored, h5py.Dataset) or not stored.shape:
                continue
            fits = stored.shape[-len(sides) :] == sides and stored.dtype.kind in "fiu"
            if name != usual and not fits:
                warnings.warn(
                    f"{path}: {stored.name} {stored.shape} is not used as {kind}: its frames do "
                    f"not fit {sides}.",
                    stacklevel=5,
                )
                continue
            frames.append(_frames(path, stored))
            used.append(stored.name.strip("/"))
        if used:
            names = ", ".join(used)
            fields[kind] = average((one for part in frames for one in part), path, names)
            meta |= {kind: names, f"{kind}_frames": sum(map(len, frames))}
    return fields


def _frames(path: Path, dataset: Any) -> np.ndarray:
    """Return the frames of a field (frames, slices, detectors) that were written."""
    stored = stored_dataset(path, dataset.name.strip("/"), dataset)
    frames = stored.part(0, 0, stored.shape[0])
    frames = frames if frames.ndim == 3 else frames[None]
    whole = [frame for frame in frames if frame.dtype.kind != "f" or not np.isnan(frame).all()]
    return np.stack(whole) if whole else frames


__all__ = ["open_hdf5"]
