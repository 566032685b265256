"""Scans in HDF5 files: Data Exchange, NXtomo, and single datasets."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._folders import AFTER
from pnp_mlpatch.ct._hdf5_dataset import find_gaps, hdf5_file, stored_dataset
from pnp_mlpatch.ct._hdf5_lengths import element_size, text_of
from pnp_mlpatch.ct._scan_file import Frames, ScanFile, average
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.reading import check_hdf5
from pnp_mlpatch.io.stored import StoredArray

EXCHANGE = "exchange/data"
FLATS, DARKS = re.compile(r"white|flat|bright|blank|open_?beam"), re.compile(r"dark")
Fields = dict[str, Frames]  # "flat", "dark", and "later": flats after the scan


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
    with hdf5_file(path) as file:
        beside = [f"exchange/{part}" for part in ("data_white", "data_dark", "theta")]
        for part in (name,) if name else (EXCHANGE, *beside):
            check_hdf5(file, part, path, allow_gaps=True)
        key = name or (EXCHANGE if EXCHANGE in file else _nxtomo(file, path, h5py))
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
        meta |= element_size(file)
        if kept is not None and theta is not None and theta.size == kept.size:
            theta = theta.reshape(-1)[kept]
        layout = "asd" if kept is not None or key == EXCHANGE else "sad"
        sides = _frame_shape(data.shape, layout)
        others = [name for name in sorted(dataset.parent) if name != key.split("/")[-1]]
        fields = _fields(dataset.parent, others, sides, h5py, meta, path) | fields
    flat, dark, later = (fields.get(kind) for kind in ("flat", "dark", "later"))
    return ScanFile(data, layout, meta, theta, degrees, flat, dark, kept=kept, later=later)


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


def _nxtomo(file: Any, path: Path, h5py: Any) -> str:
    """Return the one dataset of frames that an image_key tells apart, or else /exchange/data."""
    found: list[str] = []

    def visit(name: str, member: Any) -> None:
        frames = isinstance(member, h5py.Dataset) and member.ndim == 3
        if frames and name.split("/")[-1] == "data" and _image_key(file, member, h5py) is not None:
            found.append(name)

    file.visititems(visit)
    if len(found) > 1:
        raise InputError(
            f"{path}: several scans with an image_key: {', '.join(found)}. Name one: "
            f"'{path}:{found[0]}'."
        )
    if found:
        check_hdf5(file, found[0], path, allow_gaps=True)
    return found[0] if found else EXCHANGE


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
    whites, shown = np.flatnonzero(keys == 1), np.flatnonzero(keys == 0)
    early, late = whites[whites < shown[0]], whites[whites > shown[-1]]
    if not len(early) or not len(late) or len(early) + len(late) < len(whites):
        early, late = whites, whites[:0]
    for kind, places in (("flat", early), ("later", late), ("dark", np.flatnonzero(keys == 2))):
        if len(places):
            frames = (data.part(0, int(k), int(k) + 1)[0] for k in places)
            fields[kind] = average(frames, path, f"{kind} by image_key")
            value = 2 if kind == "dark" else 1
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
        units = text_of(stored.attrs.get("units", "degrees")) or "degrees"
        meta |= {"angles": name.strip("/")}
        return np.asarray(stored[()]), not units.lower().startswith("rad")
    return None, True


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
    Datasets of one kind are averaged over all of their frames, flats before and after the scan
    apart.
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
        late = [k for k, name in enumerate(used) if AFTER.search(name.split("/")[-1].lower())]
        if kind == "flat" and 0 < len(late) < len(used):
            parts = {"later": late, "flat": [k for k in range(len(used)) if k not in late]}
        else:
            parts = {kind: list(range(len(used)))}
        for part, places in parts.items():
            if not places:
                continue
            names = ", ".join(used[k] for k in places)
            fields[part] = average((one for k in places for one in frames[k]), path, names)
            meta |= {part: names, f"{part}_frames": sum(len(frames[k]) for k in places)}
    return fields


def _frames(path: Path, dataset: Any) -> np.ndarray:
    """Return the frames of a field (frames, slices, detectors) that were written."""
    stored = stored_dataset(path, dataset.name.strip("/"), dataset)
    frames = stored.part(0, 0, stored.shape[0])
    frames = frames if frames.ndim == 3 else frames[None]
    whole = [frame for frame in frames if frame.dtype.kind != "f" or not np.isnan(frame).all()]
    return np.stack(whole) if whole else frames


__all__ = ["open_hdf5"]
