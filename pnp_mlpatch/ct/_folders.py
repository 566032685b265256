"""Folders of projections: TIFF files with their flats and darks, and slices of 2DeteCT."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch.ct._scan_file import Frames, ScanFile, average
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.tiff import open_files, open_pages, read_page

TIFF = (".tif", ".tiff")
DARK = re.compile(r"(^|[^a-z])(darks?|df|di|dc)([^a-z]|$)|dark_?(field|frame|current)")
FLAT = re.compile(
    r"(^|[^a-z])(flats?|whites?|brights?|blanks?|ff|io|ob)([^a-z]|$)|"
    r"(flat|white|bright)_?(field|frame)|open_?beam|refhst"
)
AFTER = re.compile(r"(^|[^a-z])(after|post|end|last)([^a-z]|$)")
BEFORE = re.compile(r"(^|[^a-z])(before|pre|start|begin|first)([^a-z]|$)")
APPARATUS_2DETECT = {"beam": "fan", "source_origin": 431.02, "origin_detector": 97.98}  # mm
ELEMENT_2DETECT, DETECTORS_2DETECT = 0.0748, 1912


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return a key that sorts file names with the numbers in them as numbers.

    Parameters
    ----------
    path : Path
        A file.

    Returns
    -------
    list of tuple
    """
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"([0-9]+)", path.name)
        if part
    ]


def open_folder(path: Path) -> ScanFile:
    """Open a folder of TIFF files, one projection each, or a slice of 2DeteCT.

    Flats and darks are files among them, or in folders of their own beside or below them, whose
    names say so.

    Parameters
    ----------
    path : Path
        The folder.

    Returns
    -------
    ScanFile

    Raises
    ------
    FileError
        If there are no projections.
    InputError
        If it holds several scans, or a scan of another kind.
    """
    inside = {p.name: p for p in path.iterdir()}
    if "sinogram.tif" in inside and {"dark.tif", "flat1.tif", "flat2.tif"} & set(inside):
        return _open_2detect(path)
    if any(name.endswith(".geom") for name in inside):
        raise InputError(
            f"{path}: a scan of the walnut collection (Der Sarkissian et al. 2019), a cone beam "
            "with a geometry of its own for each projection, which is not in the package. Cone "
            "beams are reconstructed by ASTRA, TIGRE or CIL."
        )
    files = _tiffs(path)
    fields = {kind: [p for p in files if _kind(p.stem) == kind] for kind in ("flat", "dark")}
    rest = [p for p in files if _kind(p.stem) is None]
    if len(rest) < len(files) / 2:  # names such as flatworm: all of them are projections
        fields, rest = {"flat": [], "dark": []}, files
    folders = [p for p in inside.values() if p.is_dir() and not p.name.startswith(".")]
    for folder in sorted(folders, key=natural_key):
        kind = _kind(folder.name)
        if kind is not None:
            fields[kind] += _tiffs(folder)
    if not rest:
        return _one_folder(path, [p for p in folders if _kind(p.name) is None], fields)
    return _open_files(path, rest, fields)


def _kind(name: str) -> str | None:
    """Tell by a name whether it is of flats or darks."""
    name = name.lower()
    return "dark" if DARK.search(name) else "flat" if FLAT.search(name) else None


def _tiffs(path: Path) -> list[Path]:
    """Return the TIFF files of a folder, in order."""
    found = [p for p in path.iterdir() if p.suffix.lower() in TIFF and not p.name.startswith(".")]
    return sorted(found, key=natural_key)


def _one_folder(path: Path, folders: list[Path], fields: dict[str, list[Path]]) -> ScanFile:
    """Open the projections in the one folder below that holds TIFF files."""
    full = [folder for folder in folders if _tiffs(folder)]
    if len(full) == 1 and any(fields.values()):
        return _open_files(full[0], _tiffs(full[0]), fields)
    names = ", ".join(sorted(p.name for p in folders)) or "none"
    if len(full) > 1 and any(fields.values()):
        raise InputError(
            f"{path}: several folders may hold the projections: {names}. Give the one that does, "
            "and flats and darks by flat= and dark= (--blank, --dark)."
        )
    raise FileError(
        f"{path}: no TIFF files in this folder. Its folders: {names}; DICOM images are "
        "read by read_dicom."
    )


def _open_files(path: Path, files: list[Path], fields: dict[str, list[Path]]) -> ScanFile:
    """Open projections of one file each, with the flats and darks that were found."""
    _look_at_names(files, path)
    meta: dict[str, Any] = {"format": "TIFF folder", "first": files[0].name, "last": files[-1].name}
    early, late = [], []
    for file in fields["flat"]:
        (late if AFTER.search(_label(file, path)) else early).append(file)
    if not (early and late and any(BEFORE.search(_label(file, path)) for file in early)):
        early, late = early + late, []
    flat = _average(early, path, "flat")
    later = _average(late, path, "flat after") if late else None
    dark = _average(fields["dark"], path, "dark")
    for kind, found in (("flat", early), ("flat_after", late), ("dark", fields["dark"])):
        if found:
            meta |= {kind: f"{found[0].name} ... {found[-1].name}", f"{kind}_frames": len(found)}
    return ScanFile(open_files(files, path), "asd", meta, flat=flat, dark=dark, later=later)


def _label(file: Path, path: Path) -> str:
    """Return what names a field: the name of its folder too, unless that is the scan."""
    return (file.stem if file.parent == path else f"{file.parent.name}/{file.stem}").lower()


def _average(files: Sequence[Path], path: Path, what: str) -> Frames | None:
    """Average the pages of files, one in memory at a time."""

    def pages() -> Iterator[np.ndarray]:
        shape = None
        for file in files:
            stored = open_pages(file)
            count = stored.shape[0] if len(stored.shape) == 3 else 1
            for k in range(count):
                page = stored.part(0, k, k + 1)[0] if len(stored.shape) == 3 else read_page(file)
                if shape not in (None, page.shape):
                    raise InputError(
                        f"{file}: this {what} has {page.shape} pixels, the one before {shape}. "
                        "Crop them to one size."
                    )
                shape = page.shape
                yield page

    return average(pages(), path, what) if files else None


def _look_at_names(files: list[Path], path: Path) -> None:
    """Warn of files whose names are unlike the others, and of numbers left out."""
    frames = [re.sub(r"[0-9]+", "#", file.stem) for file in files]
    usual = max(set(frames), key=frames.count)
    strays = [file.name for file, frame in zip(files, frames, strict=True) if frame != usual]
    last = [
        re.findall(r"[0-9]+", f.stem)[-1:]
        for f, frame in zip(files, frames, strict=True)
        if frame == usual
    ]
    numbers = sorted(int(number[0]) for number in last if number)
    steps = np.diff(numbers)
    usual_step = int(np.median(steps)) if len(steps) else 1
    gaps = (
        [numbers[k] + usual_step for k in np.flatnonzero(steps > usual_step)] if usual_step else []
    )
    said = []
    if strays and len(strays) < len(files) / 2:
        said.append(
            f"the names {', '.join(strays[:4])} are unlike the other {len(files) - len(strays)}"
        )
    if gaps:
        said.append(f"the numbers {', '.join(map(str, gaps[:4]))} are left out")
    if said:
        warnings.warn(
            f"{path}: {' and '.join(said)}. Each of the {len(files)} files is taken as one "
            "projection, in this order; angles that are equally spaced are then wrong. Move what "
            "is no projection away, and give the angles of those that are there.",
            stacklevel=6,
        )


def _open_2detect(path: Path) -> ScanFile:
    """Read a slice of 2DeteCT (Kiss et al. 2023)."""
    data = open_pages(path / "sinogram.tif")
    if len(data.shape) != 2 or data.shape[0] < 2:
        raise InputError(
            f"{path / 'sinogram.tif'}: expected one sinogram (angles, detectors) of 2DeteCT, "
            f"got {data.shape}."
        )
    dark, *flats = (
        average(iter(read_page(path / name)), path, name)
        for name in ("dark.tif", "flat1.tif", "flat2.tif")
    )
    one, two = (field.mean for field in flats)
    if one.shape != two.shape:
        raise InputError(
            f"{path}: flat1.tif and flat2.tif have {one.shape[0]} and {two.shape[0]} "
            "detectors, expected equally many."
        )
    theta = np.linspace(0, 360, data.shape[0])[:-1]
    meta: dict[str, Any] = {"format": "2DeteCT", "flat": "flat1.tif, flat2.tif", "dark": "dark.tif"}
    if data.shape[1] == DETECTORS_2DETECT:  # not binned
        meta |= {"apparatus": dict(APPARATUS_2DETECT), "element_mm": ELEMENT_2DETECT}
    return ScanFile(data, "sad", meta, theta, True, Frames((one + two) / 2), dark, closed=True)


__all__ = ["TIFF", "natural_key", "open_folder"]
