"""CT series in DICOM files, in Hounsfield units."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._dicom_header import DicomSlice, read_header
from pnp_mlpatch.ct._folders import natural_key
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.reading import refuse_bomb, refuse_special

AIR = -1024  # HU; padding and what is below become it


def read_dicom(
    path: str | PathLike[str],
) -> tuple[Tensor, tuple[float, float, float], dict[str, Any]]:
    """Read a CT image, or a folder with one CT series, in Hounsfield units.

    Parameters
    ----------
    path : str or path
        A file, or a folder. Its hidden files are passed over, other files that are not DICOM with
        a warning that names them.

    Returns
    -------
    hu : Tensor, shape (slices, H, W), float32
        ``RescaleSlope value + RescaleIntercept``, at least -1024. Padding (PixelPaddingValue)
        is -1024. Slices are sorted along their normal by ImagePositionPatient, feet to head in an
        axial scan, or else by InstanceNumber.
    spacing : tuple of float
        (dz, dy, dx) in mm; dz is NaN where the distance of slices is unknown.
    meta : dict
        What the header says of the scan, without what names the patient.

    Raises
    ------
    FileError
        For what is missing, damaged, cut short or not DICOM.
    InputError
        For several series, another modality, values that are not Hounsfield units, slices of
        different size or spacing or at the same place.
    MissingPackage
        Without pydicom.

    Warns
    -----
    UserWarning
        For uneven gaps, which a volume cannot express, values without RescaleIntercept, and white
        at 0 (MONOCHROME1).
    """
    path = Path(path)
    pydicom = require("pydicom", "Reading DICOM")
    if not path.exists():
        raise FileError(f"{path}: no such file or folder. Check the path.")
    slices = _headers(path, pydicom)
    _check_one_series(slices, path)
    slices, dz = _sorted(slices, path)
    first = slices[0]
    hu = torch.empty(len(slices), *first.size)
    for k, one in enumerate(slices):
        hu[k] = torch.from_numpy(_hounsfield(one, pydicom))
    _warn_of_values(slices, path)
    meta = {"source": str(path), "format": "DICOM", "slices": len(slices), **first.meta}
    return hu.clamp_min_(AIR), (dz, *first.spacing), meta


# ---- files


def _headers(path: Path, pydicom: Any) -> list[DicomSlice]:
    """Read the headers of a file, or of the DICOM files of a folder."""
    if not path.is_dir():
        refuse_special(path)
        return [read_header(path, pydicom)]
    found, others = [], []
    files = (p for p in path.iterdir() if not p.is_dir() and p.name != "DICOMDIR")
    for file in sorted(files, key=natural_key):
        refuse_special(file)
        if _start(file)[128:] == b"DICM":
            found.append(file)
        elif not file.name.startswith("."):
            others.append(file)
    if not found:
        raise FileError(
            f"{path}: no DICOM files in this folder. Give the folder that holds the files of one "
            "series."
        )
    _check_others(others, {file.suffix.lower() for file in found} - {""}, path)
    return [read_header(file, pydicom) for file in found]


def _check_others(others: Sequence[Path], endings: set[str], path: Path) -> None:
    """Refuse files that may be damaged slices; warn of others that are not DICOM."""
    lost = [file.name for file in others if file.suffix.lower() in endings or _is_blank(file)]
    if lost:
        raise FileError(
            f"{path}: {len(lost)} files are cut short or damaged: {', '.join(lost[:5])}"
            f"{', ...' if len(lost) > 5 else ''}. Copy them again; if they are no slices, remove "
            "them from the folder."
        )
    if others:
        names = ", ".join(file.name for file in others[:5])
        warnings.warn(
            f"{path}: {len(others)} files are not DICOM and were passed over: {names}. Is a slice "
            "among them?",
            stacklevel=4,
        )


def _start(path: Path) -> bytes:
    """Return the preamble of a file: 128 bytes, and the mark DICM."""
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}). Check the file.") from error


def _is_blank(path: Path) -> bool:
    """Whether a file is empty, or begins with the 128 zeros of DICOM files and ends there."""
    return not _start(path)[:128].strip(b"\0")


# ---- the series


def _check_one_series(slices: Sequence[DicomSlice], path: Path) -> None:
    """Raise unless the files are CT images of one series, size and spacing."""
    series: dict[str, list[DicomSlice]] = {}
    for one in slices:
        series.setdefault(one.series, []).append(one)
    if len(series) > 1:
        listed = "; ".join(
            f"{uid or 'no SeriesInstanceUID'} ({len(of)} files, such as {of[0].path.name})"
            for uid, of in series.items()
        )
        raise InputError(
            f"{path}: expected one series, got {len(series)}: {listed}. Put the files of each into "
            "a folder of its own."
        )
    first = slices[0]
    for one in slices:
        if one.modality != "CT":
            raise InputError(
                f"{one.path}: expected Modality CT, whose values are Hounsfield units, got "
                f"{one.modality}."
            )
        for what, mine, firsts in (
            ("size", one.size, first.size),
            ("PixelSpacing", one.spacing, first.spacing),
        ):
            if mine != firsts:
                raise InputError(
                    f"{one.path}: its {what} is {mine}, that of {first.path.name} is {firsts}. "
                    "Separate them."
                )


def _sorted(slices: list[DicomSlice], path: Path) -> tuple[list[DicomSlice], float]:
    """Return the slices in order, and their distance in mm."""
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
            f"{path}: some files have neither ImagePositionPatient nor InstanceNumber, so their "
            "order is unknown."
        )
    if thickness is None:
        warnings.warn(f"{path}: the header tells no distance of slices; dz is NaN.", stacklevel=3)
    return slices, math.nan if thickness is None else thickness


def _distance(slices: Sequence[DicomSlice], gaps: np.ndarray, path: Path) -> float:
    """Return the median gap between slices, in mm; raise without a gap, warn if uneven."""
    dz, least = float(np.median(gaps)), int(gaps.argmin())
    if gaps[least] < 1e-3:
        names = f"{slices[least].path.name} and {slices[least + 1].path.name}"
        raise InputError(
            f"{path}: {names} lie at the same place; several phases or copies in one series? Keep "
            "one of them."
        )
    if float(np.abs(gaps - dz).max()) > max(0.01, 0.01 * dz):
        warnings.warn(
            f"{path}: gaps between slices run from {gaps.min():.4g} to {gaps.max():.4g} mm; the "
            f"volume takes {dz:.4g} mm. Is a slice missing?",
            stacklevel=4,
        )
    return dz


# ---- values


def _hounsfield(one: DicomSlice, pydicom: Any) -> np.ndarray:
    """Read the image of one file in Hounsfield units."""
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
            f"{one.path}: its pixels cannot be read ({error}). Copy it again; compressed ones may "
            "need: pip install pylibjpeg[all]."
        ) from error
    if values.shape != one.size:
        raise InputError(f"{one.path}: expected one grey image {one.size}, got {values.shape}.")
    hu = values.astype(np.float32) * np.float32(one.scale) + np.float32(one.offset or 0.0)
    if one.padding:
        hu[(values >= one.padding[0]) & (values <= one.padding[1])] = AIR
    return hu


def _used_bits(values: np.ndarray, image: Any) -> np.ndarray:
    """Return the BitsStored lowest bits of integers: older files keep graphics in the others."""
    unused = 8 * values.dtype.itemsize - int(image.BitsStored)
    if values.dtype.kind not in "iu" or unused <= 0:
        return values
    return (values << unused) >> unused  # with a sign, which is carried down


def _warn_of_values(slices: Sequence[DicomSlice], path: Path) -> None:
    """Warn where the header leaves open whether the values are Hounsfield units."""
    advice = "Check that air is near -1000."
    if any(one.offset is None for one in slices):
        warnings.warn(
            f"{path}: no RescaleIntercept in the header; the stored values are taken as HU. "
            f"{advice}",
            stacklevel=3,
        )
    if any(one.inverted for one in slices):
        warnings.warn(
            f"{path}: MONOCHROME1, white at 0, which tells how to show the values, not what they "
            f"are. {advice}",
            stacklevel=3,
        )
    padding = (value * one.scale + (one.offset or 0.0) for one in slices for value in one.padding)
    inside = [hu for hu in padding if -1000 < hu < 3071]
    if inside:
        warnings.warn(
            f"{path}: PixelPaddingValue is {inside[0]:g} HU, which tissue may have; all pixels "
            "with it became -1024.",
            stacklevel=3,
        )


__all__ = ["read_dicom"]
