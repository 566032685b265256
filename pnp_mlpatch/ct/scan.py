"""Scans as they lie on disk, read slab by slab; volumes written whole or not at all; DICOM series."""

from __future__ import annotations

import json
import math
import numbers
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct.geometry import SAME
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.images import tiff_kind
from pnp_mlpatch.io.reading import check_hdf5, refuse_bomb, refuse_special, refuse_zip_bomb

COUNTS, INTEGRALS = "counts", "line integrals"
HDF5 = (".h5", ".hdf5", ".hdf", ".nxs")
TIFF = (".tif", ".tiff")
BIG = 2**32  # bytes from which on a TIFF file needs 64-bit offsets
MOST = 20  # line integrals of any body are less: exp(-20) is one photon in 5e8
AXES = {"a": "angles", "s": "slices", "d": "detectors"}
Field = Tensor | np.ndarray | float | str | PathLike[str]
Angles = Tensor | np.ndarray | Sequence[float] | str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Scan:
    """Projections on disk: ``shape`` is (slices, angles, detectors), ``kind`` "counts" or "line integrals"; :meth:`read` reads.

    ``angles`` are radians, (angles,) float64, or None where the file has none. ``flat`` (the open beam) and ``dark`` are
    (slices, detectors) float32, means over their frames, or None. ``meta`` says in plain JSON values what was found where.
    """

    path: Path
    kind: str
    shape: tuple[int, int, int]
    angles: Tensor | None = field(repr=False)
    flat: Tensor | None = field(repr=False)
    dark: Tensor | None = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    slab: Callable[[int, int], np.ndarray] = field(repr=False)
    sure: bool = field(default=True, repr=False)  # whether ``kind`` was given, not guessed

    def read(self, start: int, stop: int) -> Tensor:
        """The slices start ... stop - 1, (stop - start, angles, detectors) float32; no more than these are kept in memory.

        NaN stands for what was not measured: chunks of an HDF5 file that were never written, and projections of counts that are the same
        number in every ray; they are warned of. Raises :class:`InputError` for slices that the scan does not have and for line
        integrals that look like counts (above 20, or whole numbers; a warning if ``kind`` was given), :class:`FileError`
        where the file is damaged.
        """
        for value in (start, stop):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise InputTypeError(
                    f"{self.path}: start and stop must be integers, got {value!r}."
                )
        if not 0 <= start < stop <= self.shape[0]:
            raise InputError(
                f"{self.path}: expected 0 <= start < stop <= {self.shape[0]}, the number of slices, got {start} and {stop}."
            )
        values = np.array(self.slab(start, stop), dtype=np.float32, order="C")
        if self.kind == INTEGRALS:
            _look_at_integrals(values, self.path, sure=self.sure)
        else:
            _drop_dead_projections(values, self.path)
        return torch.from_numpy(values)


@dataclass(frozen=True)
class _Stored:
    """An array on disk: ``part(axis, start, stop)`` reads a range along one axis and all of the others."""

    shape: tuple[int, ...]
    dtype: np.dtype
    part: Callable[[int, int, int], np.ndarray]


@dataclass(frozen=True)
class _Found:
    """What a file holds: the projections, and, where its format knows them, angles and fields."""

    data: _Stored
    layout: str  # of three axes
    meta: dict[str, Any]
    theta: np.ndarray | None = None
    degrees: bool = False
    flat: np.ndarray | None = None
    dark: np.ndarray | None = None
    closed: bool = False  # the last angle repeats the first
    kept: np.ndarray | None = None  # of the frames of an NXtomo file those that are projections


def read_scan(
    path: str | PathLike[str],
    *,
    dataset: str | None = None,
    kind: str | None = None,
    layout: str | None = None,
    angles: Angles | None = None,
    degrees: bool | None = None,
    dark: Field | None = None,
    flat: Field | None = None,
) -> Scan:
    """Open a scan; of the projections, nothing is read before :meth:`Scan.read` asks for it.

    ============================  ==================================================================================  =======
    ``path``                      what it holds                                                                       layout
    ============================  ==================================================================================  =======
    ``scan.h5``                   Data Exchange (De Carlo et al. 2014): /exchange/data, data_white, data_dark, theta  asd
    ``scan.nxs:NAME``             NXtomo: image_key tells projections, flats and darks apart; rotation_angle          asd
    ``scan.h5:NAME``              one dataset, also by ``dataset="NAME"``; LoDoPaB (Leuschner et al. 2021): "data"    sad
    ``scan.npy, scan.npz:NAME``   one array; only an .npz is read as a whole                                          sad
    ``scan.tif``                  one sinogram, or pages, one sinogram each                                           sad
    ``folder``                    TIFF files, one projection each, by name, numbers in names as numbers               asd
    ``sliceNNNNN/modeK``          2DeteCT (Kiss et al. 2023): sinogram.tif, dark.tif, flat1.tif, flat2.tif            ad
    ============================  ==================================================================================  =======

    ``layout`` names the axes, s slices, a angles, d detectors; an array of two axes is "ad" or "da". ``kind`` is "counts" where there
    is an open beam or the numbers are integers, else "line integrals". ``angles`` (a sequence, or a .npy or .txt file) replace those
    of the file; ``degrees`` says their unit, or that of the file: by default radians for angles given, and for theta what its
    attribute ``units`` says, else degrees. ``flat`` and ``dark`` replace those of the file: a number, (detectors,),
    (slices, detectors), (frames, slices, detectors), or a file of one of these.

    In HDF5 the open beam and the dark field are also found under neighbouring names (data_white_pre, data_flat, flats, dark_field).
    Chunks that were never written, and parts of a virtual dataset whose source is gone, are read as NaN, with a warning.

    Of 2DeteCT it is assumed that the rows of sinogram.tif are angles, equally spaced from 0 to 360 degrees, of which the last repeats
    the first and is dropped (3601 x 1912 becomes 3600 x 1912), and that the two flats count equally; detectors are not flipped.

    Raises :class:`FileError` for a file that is missing, damaged, has no such dataset or holds less than half of it, :class:`InputError` for shapes, layouts,
    angles and fields that do not fit, :class:`MissingPackage` without h5py or Pillow. Warns of angles that repeat, go back and forth or
    seem to have another unit.
    """
    if kind not in (None, COUNTS, INTEGRALS):
        raise InputError(f"read_scan: kind must be '{COUNTS}' or '{INTEGRALS}', got {kind!r}.")
    if degrees is not None and not isinstance(degrees, bool):
        raise InputTypeError(f"read_scan: degrees must be True or False, got {degrees!r}.")
    path, name = _split(path, dataset)
    found = _open(path, name)
    order = _layout(layout, found, path)
    if found.kept is not None and not order.startswith("a"):
        raise InputError(
            f"{path}: image_key tells the frames of the first axis apart, so the layout begins with 'a', got '{order}'."
        )
    theta = _given_angles(angles, degrees, found, path)
    slices, count, detectors = shape = _shape(found.data.shape, order, theta, path)
    if found.closed:
        shape = (slices, count := count - 1, detectors)
    radians = None if theta is None else _radians(*theta, count, path)
    flat, dark = found.flat if flat is None else flat, found.dark if dark is None else dark
    sure = kind is not None
    if kind is None:
        kind = COUNTS if flat is not None or found.data.dtype.kind in "iu" else INTEGRALS

    def slab(start: int, stop: int) -> np.ndarray:
        if "s" not in order:
            part = found.data.part(0, 0, found.data.shape[0]).transpose(
                [order.index(axis) for axis in "ad"]
            )[None]
        else:
            part = found.data.part(order.index("s"), start, stop).transpose(
                [order.index(axis) for axis in "sad"]
            )
        return part[:, :count]

    meta = {"source": str(path), **found.meta, "layout": order, "dtype": str(found.data.dtype)}
    if theta is not None:
        meta |= {
            "angles": meta.get("angles", "computed") if angles is None else "given",
            "units": "degrees" if theta[1] else "radians",
        }
    open_beam, closed_beam = (
        _field(value, slices, detectors, what, path)
        for value, what in ((flat, "flat"), (dark, "dark"))
    )
    return Scan(path, kind, shape, radians, open_beam, closed_beam, meta, slab, sure)


def _look_at_integrals(values: np.ndarray, path: Path, *, sure: bool) -> None:
    """Raise where line integrals look like counts; warn if the user says that they are none."""
    known = values[np.isfinite(values)]
    beyond, top = int((known > MOST).sum()), float(known.max(initial=0.0))
    if beyond:
        seen = f"{beyond} of {values.size} line integrals are above {MOST}, up to {top:.4g}: no body lets through so little, exp(-{MOST})"
    elif top >= 2 and bool((known == np.round(known)).all()):
        seen = f"all of them are whole numbers, up to {top:.4g}"
    else:
        return
    advice = (
        "If they are counts, say kind='counts' and give the open beam (on the command line --kind counts --blank I0); if the file "
        "holds it under a name of its own, give that; if single rays are broken, set them to NaN"
    )
    if not sure:
        raise InputError(
            f"{path}: {seen}. {advice}; if they are line integrals, say kind='{INTEGRALS}'."
        )
    if beyond:
        warnings.warn(f"{path}: {seen}. {advice}.", stacklevel=3)


def _drop_dead_projections(values: np.ndarray, path: Path) -> None:
    """Projections (of counts) that are one number in every ray, where others are not, become NaN, with a warning."""
    if values.shape[2] < 8:
        return
    dead = (values == values[..., :1]).all(-1)
    dead[dead.all(-1)] = False  # a slice in which nothing was measured
    if dead.any():
        values[dead] = np.nan
        warnings.warn(
            f"{path}: the projections {_ranges(np.flatnonzero(dead.any(0)))} are the same number in every ray; they get no weight.",
            stacklevel=3,
        )


def _ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 -> "1 ... 3, 7", at most eight ranges of them."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = int(number)
        else:
            runs.append([int(number), int(number)])
    shown = [str(a) if a == b else f"{a} ... {b}" for a, b in runs[:8]]
    return ", ".join(shown) + (", ..." if len(runs) > 8 else "")


def _split(path: str | PathLike[str], dataset: str | None) -> tuple[Path, str]:
    """``scan.h5:exchange/data`` -> (scan.h5, "exchange/data"); the name is empty where there is none."""
    if not isinstance(path, (str, PathLike)):
        raise InputTypeError(f"read_scan: expected the path of a scan, got {type(path).__name__}.")
    text = str(path)
    file, colon, name = text.rpartition(":")
    if not colon or Path(file).suffix.lower() not in (*HDF5, ".npy", ".npz", *TIFF):
        file, name = text, ""
    given = (dataset or "").strip("/")
    name = name.strip("/")
    if name and given and name != given:
        raise InputError(f"{path}: names the dataset '{name}', but dataset={dataset!r}. Name one.")
    return Path(file), given or name


def _open(path: Path, name: str) -> _Found:
    if not path.exists():
        raise FileError(f"{path}: no such file or folder. Check the path.")
    refuse_special(path)
    suffix = path.suffix.lower()
    if suffix in HDF5 and path.is_file():
        found = _open_hdf5(path, name)
    elif suffix in (".npy", ".npz") and path.is_file():
        found = _open_numpy(path, name)
    elif name:
        raise InputError(
            f"{path}: '{name}' names an array in it, but only HDF5 and .npz files hold arrays with names. Leave it away."
        )
    elif path.is_dir():
        found = _open_folder(path)
    elif suffix in TIFF:
        found = _Found(_pages(path), "sad", {"format": "TIFF"})
    else:
        hint = " DICOM images are read by read_dicom." if suffix in (".dcm", ".ima") else ""
        raise InputError(
            f"{path}: unknown ending '{suffix}'. Readable: {', '.join((*HDF5, '.npy', '.npz', *TIFF))}, folders of TIFF.{hint}"
        )
    shape, dtype = found.data.shape, found.data.dtype
    if dtype.kind not in "fiu":
        raise InputError(
            f"{path}: expected real numbers, got {dtype}. Name another dataset, or convert it."
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(
            f"{path}: expected 2 axes (angles, detectors) or 3 with slices, none empty, got {shape}. Name another dataset."
        )
    return found


# ---- HDF5


def _open_hdf5(path: Path, name: str) -> _Found:
    h5py = require("h5py", "Reading an HDF5 file")
    with _hdf5(path) as file:
        key = name or "exchange/data"
        for part in (
            [name]
            if name
            else [f"exchange/{part}" for part in ("data", "data_white", "data_dark", "theta")]
        ):
            check_hdf5(file, part, path)
        found = file.get(key)
        if not isinstance(found, h5py.Dataset):
            held = _datasets(file, h5py)
            problem = (
                f"no dataset '{name}'"
                if name
                else "no dataset /exchange/data, so it is not a Data Exchange file"
            )
            raise FileError(
                f"{path}: {problem}. It holds: {', '.join(held) or 'no datasets'}. Name one: '{path}:NAME'."
            )
        group = found.parent
        data = _hdf5_stored(path, key, found)
        keys = _image_key(file, found, h5py)
        meta: dict[str, Any] = {
            "format": "Data Exchange" if key == "exchange/data" else "HDF5",
            "dataset": key,
        }
        fields: dict[str, np.ndarray] = {}
        kept = None
        if keys is not None:
            meta |= {"format": "NXtomo", "image_key": keys.name.strip("/")}
            kept, fields = _by_image_key(np.asarray(keys[()]).reshape(-1), data, path, meta)
            data = _selected(data, np.flatnonzero(kept))
        theta, degrees = _hdf5_angles(file, group, key, found.shape, h5py, meta, path)
        if kept is not None and theta is not None and theta.size == kept.size:
            theta = theta.reshape(-1)[kept]
        layout = "asd" if kept is not None or key == "exchange/data" else "sad"
        fields = (
            _hdf5_fields(group, key.split("/")[-1], h5py, data.shape, layout, meta, path) | fields
        )
        return _Found(
            data, layout, meta, theta, degrees, fields.get("flat"), fields.get("dark"), kept=kept
        )


def _hdf5_stored(path: Path, key: str, dataset: Any) -> _Stored:
    """A dataset; blocks of it that were never written are read as NaN. Raise where these are most of it, warn where there are any."""
    shape, gaps = dataset.shape or (), _hdf5_gaps(dataset, path)
    stored = _Stored(
        shape,
        dataset.dtype,
        lambda axis, start, stop: _hdf5_part(path, key, axis, start, stop, gaps),
    )
    if not gaps:
        return stored
    lost = sum(math.prod(stop - start for start, stop in gap) for gap in gaps) / max(
        1, math.prod(shape)
    )
    places = sorted({k for gap in gaps for k in range(*gap[0])}) if shape else []
    what = f"{path}: /{key}, {shape}: {lost:.0%} of it was never written or its source is gone, at {_ranges(places)} of the first axis"
    if lost > 0.5:
        raise FileError(
            f"{what}. Copy the whole file with the files that it refers to, or name another dataset."
        )
    warnings.warn(f"{what}; it gets no weight. Did the acquisition break off?", stacklevel=5)
    return stored


Block = tuple[tuple[int, int], ...]  # (start, stop) along each axis


def _hdf5_gaps(dataset: Any, path: Path) -> list[Block]:
    """The blocks of a dataset that hold no data: chunks that were never written, parts of a virtual dataset whose source is gone."""
    shape = dataset.shape or ()
    whole: Block = tuple((0, n) for n in shape)
    if not shape or 0 in shape:
        return []
    if dataset.is_virtual:
        return [gap for source in dataset.virtual_sources() for gap in _source_gaps(source, path)]
    if dataset.chunks is None:
        stored = (
            dataset.id.get_storage_size() > 0
            or dataset.id.get_create_plist().get_layout() == 0
            or dataset.external
        )
        return [] if stored else [whole]
    counts = [math.ceil(n / chunk) for n, chunk in zip(shape, dataset.chunks, strict=True)]
    if dataset.id.get_num_chunks() >= math.prod(counts):
        return []
    written = np.zeros(counts, dtype=bool)

    def note(info: Any) -> None:
        written[
            tuple(
                start // chunk
                for start, chunk in zip(info.chunk_offset, dataset.chunks, strict=True)
            )
        ] = True

    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(note)
    else:  # an HDF5 before 1.12.3
        for k in range(dataset.id.get_num_chunks()):
            note(dataset.id.get_chunk_info(k))
    return [
        tuple(
            (int(k) * c, min((int(k) + 1) * c, n))
            for k, c, n in zip(place, dataset.chunks, shape, strict=True)
        )
        for place in np.argwhere(~written)
    ]


def _source_gaps(source: Any, path: Path) -> list[Block]:
    """The part of a virtual dataset that a source stands for, where the source is gone or was not written."""
    h5py = require("h5py", "Reading an HDF5 file")
    first, last = source.vspace.get_select_bounds()
    block: Block = tuple((int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    if "%b" in source.file_name:  # numbered files, which HDF5 itself counts
        return []
    file = path if source.file_name == "." else path.parent / source.file_name
    try:
        with h5py.File(file, "r") as held:
            dataset = held.get(source.dset_name)
            if isinstance(dataset, h5py.Dataset):
                gaps = _hdf5_gaps(dataset, file)
                same = dataset.shape == tuple(stop - start for start, stop in block)
                if not same:
                    return [block] if gaps else []
                return [
                    tuple((a + x, a + y) for (a, _), (x, y) in zip(block, gap, strict=True))
                    for gap in gaps
                ]
    except OSError:
        pass
    return [block]


FLATS, DARKS = re.compile(r"white|flat|bright|blank|open_?beam"), re.compile(r"dark")


def _hdf5_fields(
    group: Any,
    own: str,
    h5py: Any,
    shape: tuple[int, ...],
    layout: str,
    meta: dict[str, Any],
    path: Path,
) -> dict[str, np.ndarray]:
    """The open beam and the dark field beside the projections: data_white, or names such as data_white_pre, flats, dark_field.

    Datasets of one kind (before and after the scan) are averaged, each with its frames. Warns of a neighbour that does not fit.
    """
    fields: dict[str, np.ndarray] = {}
    sides = (
        tuple(n for n, axis in zip(shape, layout, strict=False) if axis != "a")
        if len(shape) == 3
        else shape[-1:]
    )
    for kind, words, usual in (("flat", FLATS, "data_white"), ("dark", DARKS, "data_dark")):
        others = [
            n
            for n in sorted(group)
            if n != own
            and words.search(n.lower())
            and not (kind == "flat" and DARKS.search(n.lower()))
        ]
        frames, used = [], []
        for name in [usual] if usual in others else others:
            stored = group.get(name)
            if not isinstance(stored, h5py.Dataset) or not stored.shape:
                continue
            if name != usual and (
                stored.shape[-len(sides) :] != sides or stored.dtype.kind not in "fiu"
            ):
                warnings.warn(
                    f"{path}: {stored.name} {stored.shape} is not used as {kind}: its frames do not fit {sides}.",
                    stacklevel=5,
                )
                continue
            frames.append(_frames(path, stored))
            used.append((stored.name.strip("/"), len(frames[-1])))
        if used:
            names = ", ".join(name for name, _ in used)
            fields[kind] = _mean((frame for part in frames for frame in part), path, names)
            meta |= {kind: names, f"{kind}_frames": sum(count for _, count in used)}
    return fields


def _frames(path: Path, dataset: Any) -> np.ndarray:
    """The frames of a field (frames, slices, detectors) that were written."""
    stored = _hdf5_stored(path, dataset.name.strip("/"), dataset)
    frames = stored.part(0, 0, stored.shape[0])
    frames = frames if frames.ndim == 3 else frames[None]
    whole = [frame for frame in frames if frame.dtype.kind != "f" or not np.isnan(frame).all()]
    return np.stack(whole) if whole else frames


def _image_key(file: Any, data: Any, h5py: Any) -> Any | None:
    """The image_key of an NXtomo file (0 projection, 1 flat, 2 dark, 3 invalid) that tells the frames of these data apart."""
    found: list[Any] = []

    def visit(name: str, member: Any) -> None:
        if (
            name.split("/")[-1] == "image_key"
            and isinstance(member, h5py.Dataset)
            and data.ndim == 3
            and member.size == data.shape[0]
        ):
            found.append(member)

    file.visititems(visit)
    near = [key for key in found if key.name.split("/")[1] == data.name.split("/")[1]]
    return (near or found or [None])[0]


def _by_image_key(
    keys: np.ndarray, data: _Stored, path: Path, meta: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Which frames are projections, and the means of the flats and the darks among the others."""
    if not (keys == 0).any():
        raise InputError(
            f"{path}: image_key holds {np.unique(keys).tolist()[:8]}; no frame is a projection (0)."
        )
    fields = {}
    for kind, value in (("flat", 1), ("dark", 2)):
        places = np.flatnonzero(keys == value)
        if len(places):
            fields[kind] = _mean(
                (data.part(0, int(k), int(k) + 1)[0] for k in places), path, f"{kind} by image_key"
            )
            meta |= {kind: f"image_key {value}", f"{kind}_frames": len(places)}
    return keys == 0, fields


def _selected(data: _Stored, places: np.ndarray) -> _Stored:
    """The frames at these places of the first axis."""

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        if axis:
            return data.part(axis, start, stop)[places]
        first, last = int(places[start]), int(places[stop - 1]) + 1
        return data.part(0, first, last)[places[start:stop] - first]

    return _Stored((len(places), *data.shape[1:]), data.dtype, part)


def _hdf5_angles(
    file: Any,
    group: Any,
    key: str,
    shape: tuple[int, ...],
    h5py: Any,
    meta: dict[str, Any],
    path: Path,
) -> tuple[np.ndarray | None, bool]:
    """The angles beside the projections and whether they are degrees: theta, or the rotation_angle of NXtomo."""
    entry = key.split("/")[0]
    names = [
        f"{group.name}/theta",
        f"{group.name}/rotation_angle",
        f"/{entry}/sample/rotation_angle",
        f"/{entry}/data/rotation_angle",
    ]
    for name in names if key == "exchange/data" or meta["format"] == "NXtomo" else []:
        stored = file.get(name)
        if not isinstance(stored, h5py.Dataset):
            continue
        if _hdf5_gaps(stored, path):
            raise FileError(f"{path}: {name} was not written as a whole. Give angles=.")
        units = stored.attrs.get("units", "degrees")
        units = np.asarray(units).reshape(-1)[0] if np.size(units) else "degrees"
        units = units.decode(errors="replace") if isinstance(units, bytes) else str(units)
        meta |= {"angles": name.strip("/")}
        return np.asarray(stored[()]), not units.strip().lower().startswith("rad")
    return None, True


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file, open for reading; what h5py raises becomes a :class:`FileError`."""
    h5py = require("h5py", "Reading an HDF5 file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileError(
            f"{path}: not a whole HDF5 file ({error}). Copy or download it again."
        ) from error
    with file:
        try:
            yield file
        except PnPError:
            raise
        except (OSError, RuntimeError, KeyError) as error:
            raise FileError(
                f"{path}: cannot be read ({error}). Is the file whole? If a compression is missing: pip install hdf5plugin, "
                "and import hdf5plugin first."
            ) from error


def _hdf5_part(
    path: Path, key: str, axis: int, start: int, stop: int, gaps: Sequence[Block] = ()
) -> np.ndarray:
    with _hdf5(path) as file:
        values = file[key][(slice(None),) * axis + (slice(start, stop),)]
    if gaps and values.dtype.kind in "fiu":
        values = values.astype(np.float32)
        for gap in gaps:
            low, high = max(gap[axis][0] - start, 0), min(gap[axis][1], stop) - start
            if low < high:
                values[
                    tuple(
                        slice(low, high) if k == axis else slice(*one) for k, one in enumerate(gap)
                    )
                ] = np.nan
    return values


def _datasets(file: Any, h5py: Any) -> list[str]:
    names: list[str] = []

    def visit(name: str, member: Any) -> None:
        if isinstance(member, h5py.Dataset):
            names.append(f"{name} {member.shape} {member.dtype}")

    file.visititems(visit)
    return names


# ---- .npy and .npz


def _open_numpy(path: Path, name: str) -> _Found:
    if path.suffix.lower() == ".npy" and name:
        raise InputError(
            f"{path}: '{name}' names an array in it, but a .npy file holds one, without a name. Leave it away."
        )
    try:
        refuse_zip_bomb(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as file:
                array = _member(file, path, name)
    except PnPError:
        raise
    except Exception as error:  # numpy lets the errors of zipfile, tokenize and ast through
        raise FileError(
            f"{path}: not a readable {path.suffix} file ({error or type(error).__name__}). Copy it again."
        ) from error
    meta = {"format": "NumPy", **({"dataset": name} if name else {})}
    return _Found(
        _Stored(
            array.shape,
            array.dtype,
            lambda axis, start, stop: array[(slice(None),) * axis + (slice(start, stop),)],
        ),
        "sad",
        meta,
    )


def _member(file: Any, path: Path, name: str) -> np.ndarray:
    if name or len(file.files) == 1:
        key = name or file.files[0]
        if key in file.files:
            return file[key]
    problem = f"no array '{name}'" if name else "several arrays"
    raise FileError(
        f"{path}: {problem}. It holds: {', '.join(file.files) or 'no arrays'}. Name one: '{path}:NAME'."
    )


# ---- TIFF


def _open_folder(path: Path) -> _Found:
    inside = {p.name: p for p in path.iterdir()}
    if "sinogram.tif" in inside and {"dark.tif", "flat1.tif", "flat2.tif"} & set(inside):
        return _open_2detect(path)
    files = sorted(
        (p for p in inside.values() if p.suffix.lower() in TIFF and not p.name.startswith(".")),
        key=_natural,
    )
    if not files:
        folders = ", ".join(sorted(p.name for p in inside.values() if p.is_dir())) or "none"
        raise FileError(
            f"{path}: no TIFF files in this folder. Its folders: {folders}; DICOM images are read by read_dicom."
        )
    first = _page(files[0])
    shape = (len(files), *first.shape)

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        return _stacked(
            (_page(file) for file in (files[start:stop] if axis == 0 else files)),
            shape,
            first.dtype,
            axis,
            start,
            stop,
            path,
        )

    return _Found(
        _Stored(shape, first.dtype, part),
        "asd",
        {"format": "TIFF folder", "first": files[0].name, "last": files[-1].name},
    )


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts names with the numbers in them as numbers."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"([0-9]+)", path.name)
        if part
    ]


def _open_2detect(path: Path) -> _Found:
    data = _pages(path / "sinogram.tif")
    if len(data.shape) != 2 or data.shape[0] < 2:
        raise InputError(
            f"{path / 'sinogram.tif'}: expected one sinogram (angles, detectors) of 2DeteCT, got {data.shape}."
        )
    dark = _mean(iter(_page(path / "dark.tif")), path, "dark.tif")
    flats = [_mean(iter(_page(path / name)), path, name) for name in ("flat1.tif", "flat2.tif")]
    if flats[0].shape != flats[1].shape:
        raise InputError(
            f"{path}: flat1.tif and flat2.tif have {flats[0].shape[0]} and {flats[1].shape[0]} detectors, expected equally many."
        )
    theta = np.linspace(0, 360, data.shape[0])[:-1]
    meta = {"format": "2DeteCT", "flat": "flat1.tif, flat2.tif", "dark": "dark.tif"}
    return _Found(data, "sad", meta, theta, True, (flats[0] + flats[1]) / 2, dark, closed=True)


def _pages(path: Path) -> _Stored:
    """A TIFF file: (H, W), or (pages, H, W) if it has several."""
    first = _page(path)
    with _tiff(path) as file:
        count = getattr(file, "n_frames", 1)
    if count == 1:
        return _Stored(
            first.shape,
            first.dtype,
            lambda axis, start, stop: _page(path)[(slice(None),) * axis + (slice(start, stop),)],
        )
    shape = (count, *first.shape)

    def pages(numbers: range) -> Iterator[np.ndarray]:
        with _tiff(path) as file:
            for number in numbers:
                file.seek(number)
                yield _pixels(file, path)

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        numbers = range(start, stop) if axis == 0 else range(count)
        return _stacked(pages(numbers), shape, first.dtype, axis, start, stop, path)

    return _Stored(shape, first.dtype, part)


def _stacked(
    pages: Iterator[np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    axis: int,
    start: int,
    stop: int,
    path: Path,
) -> np.ndarray:
    """The range start:stop along one axis of a stack of pages; only one page is in memory at a time."""
    result = np.empty(tuple(stop - start if k == axis else n for k, n in enumerate(shape)), dtype)
    cut = (slice(None),) * (axis - 1) + (slice(start, stop),) if axis else ()
    for k, page in enumerate(pages):
        if page.shape != shape[1:]:
            raise InputError(
                f"{path}: page {k + (0 if axis else start)} has {page.shape} pixels, the first has {shape[1:]}. Crop them to one size."
            )
        if not np.can_cast(page.dtype, dtype):
            raise InputError(
                f"{path}: page {k + (0 if axis else start)} holds {page.dtype}, the first {dtype}. Save all in one type."
            )
        result[k] = page[cut]
    return result


def _page(path: Path) -> np.ndarray:
    with _tiff(path) as file:
        return _pixels(file, path)


def _pixels(file: Any, path: Path) -> np.ndarray:
    """The numbers of a page as they are stored; raise for types that Pillow reads otherwise."""
    bits, signed, white = tiff_kind(file) if file.format == "TIFF" else (8, False, False)
    if white or (signed and bits == 8) or bits not in (8, 16, 32, 64):
        raise InputError(
            f"{path}: expected numbers of 8, 16 or 32 bit with black at 0, got {'signed ' if signed else ''}{bits} bit"
            f"{' with white at 0' if white else ''}. Save it in 16 bit or float."
        )
    file.load()
    array = np.asarray(file)
    if file.mode == "I" and bits == 32 and not signed:
        array = array.view(np.uint32)  # Pillow has signed ones only
    if array.ndim != 2 or not file.mode.startswith(("L", "I", "F")):
        raise InputError(
            f"{path}: expected one channel of numbers, got a TIFF of mode '{file.mode}'. Convert it to greyscale or float."
        )
    return array


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    """A TIFF file, open for reading; what Pillow raises becomes a :class:`FileError`."""
    Image = require("PIL.Image", "Reading TIFF")
    try:
        with Image.open(path) as file:
            yield file
    except PnPError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise FileError(
            f"{path}: cannot be read as TIFF ({error or type(error).__name__}). Copy it again."
        ) from error


# ---- fields, layouts, angles


def _mean(frames: Iterable[np.ndarray], path: Path, what: str) -> np.ndarray:
    """The mean of frames of one shape, in float64, one at a time in memory."""
    total, count = None, 0
    for frame in frames:
        if frame.dtype.kind not in "fiu":
            raise InputError(f"{path}: {what} holds {frame.dtype}, expected real numbers.")
        total = frame.astype(np.float64) if total is None else total + frame
        count += 1
    if total is None:
        raise InputError(
            f"{path}: {what} holds no frames. Remove it, or give flat= and dark= yourself."
        )
    return total / count


def _field(
    value: Field | None, slices: int, detectors: int, what: str, path: Path
) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, (str, PathLike)) and str(value).lower().endswith(
        ".npy"
    ):  # of any number of axes
        array = read_array(value).numpy()
    elif isinstance(value, (str, PathLike)):
        stored = _open(*_split(value, None)).data
        axes = stored.shape[0]
        array = (
            stored.part(0, 0, axes)
            if len(stored.shape) < 3
            else _mean((stored.part(0, k, k + 1)[0] for k in range(axes)), path, what)
        )
    else:
        try:
            array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"{path}: {what} must be a number, an array or a file, got {type(value).__name__}."
            ) from error
    if array.dtype.kind not in "fiu":
        raise InputTypeError(f"{path}: {what} must hold real numbers, got {array.dtype}.")
    shape = array.shape
    if array.ndim == 3 and shape[0]:
        array = _mean(iter(array), path, what)
    if slices == 1 and array.ndim == 2 and array.shape[0] > 1:
        array = _mean(iter(array), path, what)
    if array.shape not in ((), (detectors,), (1, detectors), (slices, detectors)):
        raise InputError(
            f"{path}: {what} has shape {shape}, but the projections have {slices} slices x {detectors} detectors. "
            f"Expected a number, (detectors,), (slices, detectors) or (frames, slices, detectors). Is the layout right?"
        )
    return torch.from_numpy(np.broadcast_to(array, (slices, detectors)).astype(np.float32))


def _layout(layout: str | None, found: _Found, path: Path) -> str:
    axes = len(found.data.shape)
    if layout is None:
        return found.layout if axes == 3 else "ad"
    letters = "sad" if axes == 3 else "ad"
    if not isinstance(layout, str) or sorted(layout) != sorted(letters):
        raise InputError(
            f"{path}: layout must name the {axes} axes of {found.data.shape} by the letters {', '.join(f'{k} ({AXES[k]})' for k in letters)}, "
            f"each once, such as '{letters}'; got {layout!r}."
        )
    return layout


def _shape(
    stored: tuple[int, ...], order: str, theta: tuple[np.ndarray, bool] | None, path: Path
) -> tuple[int, int, int]:
    """(slices, angles, detectors); raise if the layout contradicts the number of angles."""
    slices, count, detectors = (stored[order.index(axis)] if axis in order else 1 for axis in "sad")
    if theta is not None and len(theta[0]) != count and len(theta[0]) in stored:
        other = order[stored.index(len(theta[0]))]
        swapped = order.translate(str.maketrans(f"a{other}", f"{other}a"))
        raise InputError(
            f"{path}: with the layout '{order}', {stored} has {count} angles, but {len(theta[0])} angles are known, "
            f"as many as there would be {AXES[other]}. The array seems transposed: give layout='{swapped}'."
        )
    return slices, count, detectors


def _given_angles(
    angles: Angles | None, degrees: bool | None, found: _Found, path: Path
) -> tuple[np.ndarray, bool] | None:
    """The angles and whether they are degrees, those given before those of the file."""
    if angles is None:
        if found.theta is None:
            if degrees is not None:
                raise InputError(
                    f"{path}: degrees={degrees} gives the unit of angles, but there are none in the file. Give angles=."
                )
            return None
        return _flat_angles(found.theta, path), found.degrees if degrees is None else degrees
    if isinstance(angles, (str, PathLike)):
        angles = _angles_file(Path(angles))
    try:
        array = np.asarray(angles.detach().cpu() if isinstance(angles, Tensor) else angles)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"{path}: angles must be a sequence of numbers or a file, got {type(angles).__name__}."
        ) from error
    array = _flat_angles(array, path)
    return array[found.kept] if found.kept is not None and len(array) == len(
        found.kept
    ) else array, bool(degrees)


def _angles_file(path: Path) -> np.ndarray:
    refuse_special(path)
    try:
        return (
            np.load(path, allow_pickle=False)
            if path.suffix.lower() == ".npy"
            else np.loadtxt(path, ndmin=1)
        )
    except Exception as error:  # numpy lets the errors of zipfile, tokenize and ast through
        raise FileError(
            f"{path}: not a readable file of angles ({error}). Expected .npy, or a text with one number a line."
        ) from error


def _flat_angles(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise InputTypeError(f"{path}: angles must be real numbers, got {array.dtype}.")
    if array.ndim == 0 or array.size != max(array.shape) or not np.isfinite(array).all():
        raise InputError(
            f"{path}: angles must be one finite number for each projection, got an array {array.shape}."
        )
    return array.reshape(-1).astype(np.float64)


def _radians(theta: np.ndarray, degrees: bool, count: int, path: Path) -> Tensor:
    if len(theta) != count:
        raise InputError(
            f"{path}: {len(theta)} angles for {count} projections; there must be one for each. Drop those without projection."
        )
    span, reach = float(np.ptp(theta)), float(np.abs(theta).max())
    if degrees and len(theta) > 4 and span <= 2 * math.pi + 1e-6:
        warnings.warn(
            f"{path}: {len(theta)} angles span only {span:.4g} degrees; they look like radians. Then say degrees=False.",
            stacklevel=3,
        )
    if not degrees and reach > 4 * math.pi + 1e-6:
        raise InputError(
            f"{path}: angles reach {reach:.4g}, which cannot be radians; they look like degrees. Say degrees=True."
        )
    radians = np.deg2rad(theta) if degrees else theta
    steps = np.diff(np.sort(radians))
    if (steps < SAME).any():
        warnings.warn(
            f"{path}: {int((steps < SAME).sum())} of the {count} angles repeat. Were all of them measured?",
            stacklevel=3,
        )
    steps = np.diff(radians)
    if (steps > 0).any() and (steps < 0).any():
        warnings.warn(
            f"{path}: the angles go back and forth. Fine for interlaced scans; else check their order and unit.",
            stacklevel=3,
        )
    return torch.from_numpy(radians)


# ---- volumes


def write_volume(
    path: str | PathLike[str],
    volume: Tensor | Iterable[Tensor],
    shape: Sequence[int],
    *,
    meta: dict[str, Any] | None = None,
) -> None:
    """Write a volume (slices, H, W) as float32, whole or not at all: .npy, .tif (one page a slice) or .h5 (dataset "volume").

    ``volume`` is a tensor of ``shape``, or yields chunks (k, H, W) from the first slice to the last, so that one chunk is in memory at a
    time. ``meta``, plain JSON values, is written beside it with the ending .json. Equal content makes equal bytes. Raises
    :class:`InputError` for another ending or shape and for values that are not finite, :class:`FileError` where nothing can be written.
    """
    path = Path(path)
    writers = {
        ".npy": _write_npy,
        ".tif": _write_tiff,
        ".tiff": _write_tiff,
        ".h5": _write_hdf5,
        ".hdf5": _write_hdf5,
    }
    suffix = path.suffix.lower()
    if suffix not in writers:
        raise InputError(f"{path}: unknown ending '{suffix}'. Writable: {', '.join(writers)}.")
    if len(shape) != 3 or any(
        isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape
    ):
        raise InputError(
            f"{path}: shape must be (slices, H, W), integers >= 1, got {tuple(shape)}."
        )
    try:
        text = (
            None
            if meta is None
            else json.dumps(meta, indent=2, sort_keys=True, allow_nan=False) + "\n"
        )
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{path}: meta must be plain JSON values ({error}).") from error
    size = (shape[0], shape[1], shape[2])
    chunks = _checked((volume,) if isinstance(volume, Tensor) else volume, size, path)
    atomic_write(path, lambda temporary: writers[suffix](temporary, chunks, size))
    if text is not None:
        atomic_write(
            path.with_suffix(".json"), lambda temporary: temporary.write_bytes(text.encode())
        )


def _checked(
    chunks: Iterable[Tensor], shape: tuple[int, int, int], path: Path
) -> Iterator[np.ndarray]:
    """The chunks as little-endian float32; raise unless they make up the shape."""
    done = 0
    for chunk in chunks:
        if not isinstance(chunk, Tensor) or chunk.is_complex():
            got = chunk.dtype if isinstance(chunk, Tensor) else type(chunk).__name__
            raise InputTypeError(f"{path}: expected tensors (k, H, W) of real numbers, got {got}.")
        if chunk.ndim != 3 or tuple(chunk.shape[1:]) != shape[1:] or done + len(chunk) > shape[0]:
            raise InputError(
                f"{path}: expected {shape} in all; after {done} slices came {tuple(chunk.shape)}. Nothing was written."
            )
        array = (
            chunk.detach().cpu().to(torch.float32).contiguous().numpy().astype("<f4", copy=False)
        )
        if not np.isfinite(array).all():
            raise InputError(
                f"{path}: slices {done} to {done + len(chunk) - 1} hold NaN or infinite values; nothing was written."
            )
        done += len(chunk)
        yield array
    if done != shape[0]:
        raise InputError(f"{path}: expected {shape[0]} slices, got {done}. Nothing was written.")


def _write_npy(path: Path, chunks: Iterator[np.ndarray], shape: tuple[int, int, int]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        for chunk in chunks:
            file.write(chunk.data)


def _write_hdf5(path: Path, chunks: Iterator[np.ndarray], shape: tuple[int, int, int]) -> None:
    with require("h5py", "Writing an HDF5 file").File(path, "w") as file:
        volume, done = file.create_dataset("volume", shape, "<f4", track_times=False), 0
        for chunk in chunks:
            volume[done : done + len(chunk)] = chunk
            done += len(chunk)


def _write_tiff(
    path: Path, chunks: Iterator[np.ndarray], shape: tuple[int, int, int], big_from: int = BIG
) -> None:
    """Pixels of all pages, then their directories (TIFF 6.0); from 4 GB on BigTIFF, whose offsets have 64 bits. Pillow keeps all pages."""
    slices, height, width = shape
    page = 4 * height * width
    big = slices * (page + 256) >= big_from
    head = (
        struct.pack("<2s3HQ", b"II", 43, 8, 0, 16 + slices * page)
        if big
        else struct.pack("<2sHI", b"II", 42, 8 + slices * page)
    )
    with path.open("wb") as file:
        file.write(head)
        for chunk in chunks:
            file.write(chunk.data)
        for k in range(slices):
            _write_directory(file, width, height, len(head) + k * page, k == slices - 1, big)


def _write_directory(
    file: BinaryIO, width: int, height: int, offset: int, last: bool, big: bool
) -> None:
    """Width, height, bits, no compression, black is zero, offset, one sample, rows in the strip, its bytes, IEEE floats."""
    tags = {
        256: width,
        257: height,
        258: 32,
        259: 1,
        262: 1,
        273: offset,
        277: 1,
        278: height,
        279: 4 * width * height,
        339: 3,
    }
    count, entry, pointer = ("<Q", "<2H2Q", "<Q") if big else ("<H", "<2H2I", "<I")
    kinds = {273: 16, 279: 16} if big else {}
    size = struct.calcsize(count) + len(tags) * struct.calcsize(entry) + struct.calcsize(pointer)
    following = 0 if last else file.tell() + size
    entries = b"".join(
        struct.pack(entry, tag, kinds.get(tag, 4), 1, value) for tag, value in tags.items()
    )
    file.write(struct.pack(count, len(tags)) + entries + struct.pack(pointer, following))


# ---- DICOM


def read_dicom(
    path: str | PathLike[str],
) -> tuple[Tensor, tuple[float, float, float], dict[str, Any]]:
    """Read a CT image, or a folder with one CT series, in Hounsfield units: ``HU = RescaleSlope value + RescaleIntercept``.

    Slices are sorted along their normal by ImagePositionPatient, feet to head in an axial scan, or else by InstanceNumber. Padding
    (PixelPaddingValue) and what is below air become -1024.

    Parameters
    ----------
    path : str or path
        A file, or a folder. Its hidden files are passed over, other files that are not DICOM with a warning that names them.

    Returns
    -------
    hu : Tensor
        float32, (slices, H, W), at least -1024.
    spacing : tuple of float
        (dz, dy, dx) in mm; dz is NaN where the distance of slices is unknown.
    meta : dict
        What the header says of the scan, without what names the patient.

    Raises
    ------
    FileError
        For what is missing, damaged, cut short or not DICOM.
    InputError
        For several series, another modality, values that are not Hounsfield units, slices of different size or spacing or at the
        same place.
    MissingPackage
        Without pydicom.

    Warns
    -----
    UserWarning
        Of uneven gaps, which a volume cannot express, of values without RescaleIntercept, and of white at 0 (MONOCHROME1).
    """
    path = Path(path)
    pydicom = require("pydicom", "Reading DICOM")
    if not path.exists():
        raise FileError(f"{path}: no such file or folder. Check the path.")
    slices = _headers(path, pydicom)
    _one_series(slices, path)
    slices, dz = _sorted(slices, path)
    first = slices[0]
    hu = torch.empty(len(slices), *first.size)
    for k, one in enumerate(slices):
        hu[k] = torch.from_numpy(_hounsfield(one, pydicom))
    _warn_of_values(slices, path)
    meta = {"source": str(path), "format": "DICOM", "slices": len(slices), **first.meta}
    return hu.clamp_min_(-1024), (dz, *first.spacing), meta


def _warn_of_values(slices: Sequence[_Slice], path: Path) -> None:
    advice = "Check that air is near -1000."
    if any(one.offset is None for one in slices):
        warnings.warn(
            f"{path}: no RescaleIntercept in the header; the stored values are taken as HU. {advice}",
            stacklevel=3,
        )
    if any(one.inverted for one in slices):
        warnings.warn(
            f"{path}: MONOCHROME1, white at 0, which tells how to show the values, not what they are. {advice}",
            stacklevel=3,
        )
    inside = [
        hu
        for one in slices
        for value in one.padding
        if -1000 < (hu := value * one.scale + (one.offset or 0.0)) < 3071
    ]
    if inside:
        warnings.warn(
            f"{path}: PixelPaddingValue is {inside[0]:g} HU, which tissue may have; all pixels with it became -1024.",
            stacklevel=3,
        )


def _headers(path: Path, pydicom: Any) -> list[_Slice]:
    """The headers of a file, or of a folder; what there is no DICOM is named, and refused if it may be a slice."""
    if not path.is_dir():
        refuse_special(path)
        return [_header(path, pydicom)]
    found, others = [], []
    for file in sorted(
        (p for p in path.iterdir() if not p.is_dir() and p.name != "DICOMDIR"), key=_natural
    ):
        refuse_special(file)
        if _is_dicom(file):
            found.append(file)
        elif not file.name.startswith("."):
            others.append(file)
    if not found:
        raise FileError(
            f"{path}: no DICOM files in this folder. Give the folder that holds the files of one series."
        )
    endings = {file.suffix.lower() for file in found} - {""}
    if lost := [file.name for file in others if file.suffix.lower() in endings or _is_blank(file)]:
        raise FileError(
            f"{path}: {len(lost)} files are cut short or damaged: {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}. "
            "Copy them again; if they are no slices, remove them from the folder."
        )
    if others:
        names = ", ".join(file.name for file in others[:5])
        warnings.warn(
            f"{path}: {len(others)} files are not DICOM and were passed over: {names}. Is a slice among them?",
            stacklevel=3,
        )
    return [_header(file, pydicom) for file in found]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}). Check the file.") from error


def _is_dicom(path: Path) -> bool:
    return _start(path)[128:] == b"DICM"


def _is_blank(path: Path) -> bool:
    """Whether a file is empty, or begins as DICOM files do, with 128 zeros, and goes no further."""
    return not _start(path)[:128].strip(b"\0")


@dataclass(frozen=True)
class _Slice:
    """What the header of one DICOM image says."""

    path: Path
    series: str
    modality: str
    size: tuple[int, int]
    spacing: tuple[float, float]
    position: float | None  # along the normal, mm
    number: int | None
    scale: float
    offset: float | None
    thickness: float | None  # or the spacing between slices, where given
    inverted: bool  # MONOCHROME1
    padding: tuple[int, ...]  # stored values of pixels without data: none, or from and to
    meta: dict[str, Any]


def _header(path: Path, pydicom: Any) -> _Slice:
    """The header of one image."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # pydicom raises a dozen kinds for damaged files
        raise FileError(
            f"{path}: not a readable DICOM file ({error or type(error).__name__}). Copy or export it again."
        ) from error
    if "Rows" not in header or "Columns" not in header:
        raise FileError(
            f"{path}: a DICOM file without an image (no Rows and Columns). Remove it from the folder."
        )
    if "PixelSpacing" not in header:
        raise InputError(
            f"{path}: the header has no PixelSpacing, so the size of a pixel is unknown. Export the original series."
        )
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise InputError(
            f"{path}: holds {header.NumberOfFrames} frames in one file. Export it as one file per slice."
        )
    _are_hounsfield(path, header)
    try:
        return _parse(path, header)
    except (TypeError, ValueError) as error:
        raise FileError(
            f"{path}: the DICOM header is damaged ({error}). Export it again."
        ) from error


def _are_hounsfield(path: Path, header: Any) -> None:
    """Raise for values that no slope and intercept turn into Hounsfield units."""
    shown, unit = (
        str(header.get("PhotometricInterpretation", "MONOCHROME2")),
        str(header.get("RescaleType") or "HU"),
    )
    if shown not in ("MONOCHROME1", "MONOCHROME2") or "ModalityLUTSequence" in header:
        raise InputError(
            f"{path}: expected grey values with a slope, got {shown}{'' if shown[:4] == 'PALE' else ' or a lookup table'}."
        )
    if unit.upper() not in ("HU", "HU_MOD", "US"):
        raise InputError(
            f"{path}: expected Hounsfield units, its RescaleType is {unit}. Export the CT images of the scan."
        )
    if shown == "MONOCHROME1" and "RescaleIntercept" not in header:
        raise InputError(
            f"{path}: MONOCHROME1 (white at 0) without RescaleIntercept: its values are no HU. Export the original series."
        )


def _parse(path: Path, header: Any) -> _Slice:
    def number(name: str) -> float | None:
        value = header.get(name)
        return None if value in (None, "") else float(value)

    position = None
    if header.get("ImagePositionPatient"):
        row, col = np.reshape(
            [float(v) for v in header.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0)], (2, 3)
        )
        position = float(
            np.cross(row, col) @ np.array([float(v) for v in header.ImagePositionPatient])
        )
    between, instance, slope = (
        number("SpacingBetweenSlices"),
        number("InstanceNumber"),
        number("RescaleSlope"),
    )
    dy, dx = (float(v) for v in header.PixelSpacing)
    padding = [
        int(header[name].value)
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if header.get(name) is not None
    ]
    meta: dict[str, Any] = {
        name: number(name)
        for name in ("KVP", "SliceThickness", "XRayTubeCurrent", "ExposureTime")
        if number(name) is not None
    }
    texts = ("Modality", "Manufacturer", "ManufacturerModelName", "ConvolutionKernel")
    meta |= {name: str(header.get(name)) for name in texts if header.get(name)}
    meta["PixelSpacing"] = [dy, dx]
    return _Slice(
        path=path,
        series=str(header.get("SeriesInstanceUID", "")),
        modality=str(header.get("Modality", "CT")),
        size=(int(header.Rows), int(header.Columns)),
        spacing=(dy, dx),
        position=position,
        number=None if instance is None else int(instance),
        scale=1.0 if slope is None else slope,
        offset=number("RescaleIntercept"),
        thickness=number("SliceThickness") if between is None else abs(between),
        inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
        padding=(min(padding), max(padding)) if "PixelPaddingValue" in header and padding else (),
        meta=meta,
    )


def _one_series(slices: Sequence[_Slice], path: Path) -> None:
    series: dict[str, list[_Slice]] = {}
    for one in slices:
        series.setdefault(one.series, []).append(one)
    if len(series) > 1:
        listed = "; ".join(
            f"{uid or 'no SeriesInstanceUID'} ({len(of)} files, such as {of[0].path.name})"
            for uid, of in series.items()
        )
        raise InputError(
            f"{path}: expected one series, got {len(series)}: {listed}. Put the files of each into a folder of its own."
        )
    for one in slices:
        if one.modality != "CT":
            raise InputError(
                f"{one.path}: expected Modality CT, whose values are Hounsfield units, got {one.modality}."
            )
        for what, mine, firsts in (
            ("size", one.size, slices[0].size),
            ("PixelSpacing", one.spacing, slices[0].spacing),
        ):
            if mine != firsts:
                raise InputError(
                    f"{one.path}: its {what} is {mine}, that of {slices[0].path.name} is {firsts}. Separate them."
                )


def _sorted(slices: list[_Slice], path: Path) -> tuple[list[_Slice], float]:
    """The slices in order, and their distance in mm."""
    thickness = slices[0].thickness
    positions = [one.position for one in slices if one.position is not None]
    if len(positions) == len(slices):
        slices = sorted(slices, key=lambda one: one.position or 0.0)
        if len(slices) > 1:
            return slices, _distance(slices, np.diff(np.sort(positions)), path)
    elif all(one.number is not None for one in slices):
        slices = sorted(slices, key=lambda one: one.number or 0)
    elif len(slices) > 1:
        raise InputError(
            f"{path}: some files have neither ImagePositionPatient nor InstanceNumber, so their order is unknown."
        )
    if thickness is None:
        warnings.warn(f"{path}: the header tells no distance of slices; dz is NaN.", stacklevel=3)
    return slices, math.nan if thickness is None else thickness


def _distance(slices: Sequence[_Slice], gaps: np.ndarray, path: Path) -> float:
    dz, least = float(np.median(gaps)), int(gaps.argmin())
    if gaps[least] < 1e-3:
        names = f"{slices[least].path.name} and {slices[least + 1].path.name}"
        raise InputError(
            f"{path}: {names} lie at the same place; several phases or copies in one series? Keep one of them."
        )
    if float(np.abs(gaps - dz).max()) > max(0.01, 0.01 * dz):
        warnings.warn(
            f"{path}: gaps between slices run from {gaps.min():.4g} to {gaps.max():.4g} mm; the volume takes {dz:.4g} mm. Is a slice missing?",
            stacklevel=4,
        )
    return dz


def _hounsfield(one: _Slice, pydicom: Any) -> np.ndarray:
    refuse_bomb(one.path, 4 * math.prod(one.size))
    try:
        image = pydicom.dcmread(one.path)
        if "PixelData" not in image:
            raise FileError(
                f"{one.path}: the DICOM file holds no pixel data. Export it with its images."
            )
        values = _used_bits(np.asarray(image.pixel_array), image)
    except FileError:
        raise
    except Exception as error:  # pydicom and its decoders raise a dozen kinds
        raise FileError(
            f"{one.path}: its pixels cannot be read ({error}). Copy it again; compressed ones may need: pip install pylibjpeg[all]."
        ) from error
    if values.shape != one.size:
        raise InputError(f"{one.path}: expected one grey image {one.size}, got {values.shape}.")
    hu = values.astype(np.float32) * np.float32(one.scale) + np.float32(one.offset or 0.0)
    if one.padding:
        hu[(values >= one.padding[0]) & (values <= one.padding[1])] = -1024
    return hu


def _used_bits(values: np.ndarray, image: Any) -> np.ndarray:
    """The BitsStored lowest bits of integers: older files keep graphics in the others."""
    unused = 8 * values.dtype.itemsize - int(image.BitsStored)
    if values.dtype.kind not in "iu" or unused <= 0:
        return values
    return (values << unused) >> unused  # with a sign, which is carried down
