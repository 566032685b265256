"""What the header of a DICOM image says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch.errors import FileError, InputError


@dataclass(frozen=True)
class DicomSlice:
    """The header of one DICOM image.

    Parameters
    ----------
    path : Path
        The file.
    series, modality : str
        SeriesInstanceUID and Modality.
    size : tuple of int
        (H, W).
    spacing : tuple of float
        (dy, dx) in mm.
    position : float or None
        The place along the normal of the slice, in mm.
    number : int or None
        InstanceNumber.
    scale : float
        RescaleSlope.
    offset : float or None
        RescaleIntercept.
    thickness : float or None
        SpacingBetweenSlices, or else SliceThickness, in mm.
    inverted : bool
        Whether white is at 0 (MONOCHROME1).
    padding : tuple of int
        The range of stored values of pixels without data, or ().
    meta : dict
        What is kept of the header, as plain JSON values.
    """

    path: Path
    series: str
    modality: str
    size: tuple[int, int]
    spacing: tuple[float, float]
    position: float | None
    number: int | None
    scale: float
    offset: float | None
    thickness: float | None
    inverted: bool
    padding: tuple[int, ...]
    meta: dict[str, Any]


def is_dicom(path: Path) -> bool:
    """Tell whether a file, or one of the first files of a folder, is DICOM.

    Parameters
    ----------
    path : Path
        A file or a folder that exists.

    Returns
    -------
    bool
        By the ending .dcm or .ima, or the mark DICM at byte 128.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        return any(is_dicom(file) for file in files[:3])
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path, pydicom: Any) -> DicomSlice:
    """Read the header of one image.

    Parameters
    ----------
    path : Path
        The file.
    pydicom : module
        The package.

    Returns
    -------
    DicomSlice

    Raises
    ------
    FileError
        If the file is damaged, or holds no image.
    InputError
        If the size of a pixel is unknown, for several frames in one file, and for values that are
        not Hounsfield units.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # pydicom raises a dozen kinds for damaged files
        raise FileError(
            f"{path}: not a readable DICOM file ({error or type(error).__name__}). Copy or export "
            "it again."
        ) from error
    if "Rows" not in header or "Columns" not in header:
        raise FileError(
            f"{path}: a DICOM file without an image (no Rows and Columns). Remove it from the "
            "folder."
        )
    if "PixelSpacing" not in header:
        raise InputError(
            f"{path}: the header has no PixelSpacing, so the size of a pixel is unknown. Export "
            "the original series."
        )
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise InputError(
            f"{path}: holds {header.NumberOfFrames} frames in one file. Export it as one file per "
            "slice."
        )
    _check_hounsfield(path, header)
    try:
        return _parse(path, header)
    except (TypeError, ValueError) as error:
        raise FileError(
            f"{path}: the DICOM header is damaged ({error}). Export it again."
        ) from error


def _check_hounsfield(path: Path, header: Any) -> None:
    """Raise for values that no slope and intercept turn into Hounsfield units."""
    shown = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    unit = str(header.get("RescaleType") or "HU")
    if shown not in ("MONOCHROME1", "MONOCHROME2") or "ModalityLUTSequence" in header:
        table = "" if shown[:4] == "PALE" else " or a lookup table"
        raise InputError(f"{path}: expected grey values with a slope, got {shown}{table}.")
    if unit.upper() not in ("HU", "HU_MOD", "US"):
        raise InputError(
            f"{path}: expected Hounsfield units, its RescaleType is {unit}. Export the CT images "
            "of the scan."
        )
    if shown == "MONOCHROME1" and "RescaleIntercept" not in header:
        raise InputError(
            f"{path}: MONOCHROME1 (white at 0) without RescaleIntercept: its values are no HU. "
            "Export the original series."
        )


def _parse(path: Path, header: Any) -> DicomSlice:
    """Return the values of a header; raises TypeError or ValueError where it is damaged."""
    between, thickness = _number(header, "SpacingBetweenSlices"), _number(header, "SliceThickness")
    number, slope = _number(header, "InstanceNumber"), _number(header, "RescaleSlope")
    dy, dx = (float(v) for v in header.PixelSpacing)
    padding = [
        int(header[name].value)
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if header.get(name) is not None
    ]
    padded = "PixelPaddingValue" in header and bool(padding)
    return DicomSlice(
        path=path,
        series=str(header.get("SeriesInstanceUID", "")),
        modality=str(header.get("Modality", "CT")),
        size=(int(header.Rows), int(header.Columns)),
        spacing=(dy, dx),
        position=_position(header),
        number=None if number is None else int(number),
        scale=1.0 if slope is None else slope,
        offset=_number(header, "RescaleIntercept"),
        thickness=thickness if between is None else abs(between),
        inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
        padding=(min(padding), max(padding)) if padded else (),
        meta=_meta(header) | {"PixelSpacing": [dy, dx]},
    )


def _number(header: Any, name: str) -> float | None:
    """Return a number of the header, or None where it is missing or empty."""
    value = header.get(name)
    return None if value in (None, "") else float(value)


def _position(header: Any) -> float | None:
    """Return the place of a slice along its normal, in mm, or None."""
    if not header.get("ImagePositionPatient"):
        return None
    orientation = header.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0)
    row, column = np.reshape([float(v) for v in orientation], (2, 3))
    return float(np.cross(row, column) @ np.array([float(v) for v in header.ImagePositionPatient]))


def _meta(header: Any) -> dict[str, Any]:
    """Return what is kept of a header: nothing that names the patient."""
    numbers = ("KVP", "SliceThickness", "XRayTubeCurrent", "ExposureTime")
    texts = ("Modality", "Manufacturer", "ManufacturerModelName", "ConvolutionKernel")
    meta: dict[str, Any] = {
        name: value for name in numbers if (value := _number(header, name)) is not None
    }
    return meta | {name: str(header.get(name)) for name in texts if header.get(name)}


__all__ = ["DicomSlice", "is_dicom", "read_header"]
