"""Scans of makers and challenges: Nikon .xtekct, and the .mat files of the HTC and of HelTomo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._folders import TIFF, natural_key
from pnp_mlpatch.ct._scan_file import Frames, ScanFile
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.stored import StoredArray, along, in_memory
from pnp_mlpatch.io.tiff import open_files

UNREAD = {
    ".txrm": "Zeiss .txrm files are cone-beam scans: convert them, for example by CIL "
    "(ZEISSDataReader), which also reconstructs cone beams, and pass one fan-beam sinogram.",
    ".txm": "Zeiss .txm files hold volumes, not projections.",
    ".vgi": "VGStudio .vgi files describe volumes, not projections.",
    ".raw": "A raw file tells neither its shape nor its type: numpy.fromfile(path, dtype)"
    ".reshape(shape), then numpy.save, and give the .npy.",
    ".edf": "Convert EDF to HDF5 (nxtomomill makes NXtomo files of ESRF scans) or to TIFF.",
}


def open_nikon(path: Path) -> ScanFile:
    """Open the middle slice of a Nikon scan: the .xtekct file, with TIFF projections beside it.

    The beam is a cone, and the plane through the source is a fan. Columns are taken as stored and
    angles as ``-(InitialAngle + k AngularStep)``, as TIGRE does, so the slice is seen from below.

    Parameters
    ----------
    path : Path
        The .xtekct file.

    Returns
    -------
    ScanFile
        Counts (angles, detectors); the open beam is the WhiteLevel.

    Raises
    ------
    FileError
        If a value or the projections are missing.
    InputError
        If their number or size is another than the file says.
    """
    values = _xtekct(path)
    names = ("SrcToObject", "SrcToDetector", "DetectorPixelSizeX", "AngularStep", "WhiteLevel")
    try:
        so, sd, width, step, white = (float(values[name]) for name in names)
        shape = int(float(values["DetectorPixelsY"])), int(float(values["DetectorPixelsX"]))
        count, first = int(values["Projections"]), float(values.get("InitialAngle", 0))
    except (KeyError, ValueError) as error:
        raise FileError(
            f"{path}: expected {', '.join((*names, 'DetectorPixelsX, DetectorPixelsY'))} and "
            f"Projections with numbers ({error}). Copy it again."
        ) from error
    folder = path.parent / values.get("InputFolderName", "").replace("\\", "/")
    start = values.get("Name", path.stem) + values.get("InputSeparator", "_")
    files = [p for p in folder.glob("*") if p.suffix.lower() in TIFF and p.name.startswith(start)]
    if not files:
        raise FileError(f"{path}: no projections {start}*.tif in {folder}. Put them there.")
    stack = open_files(sorted(files, key=natural_key), folder)
    if stack.shape != (count, *shape):
        raise InputError(
            f"{path}: Projections and DetectorPixels are {(count, *shape)}, but the TIFF files "
            f"beside it {stack.shape}. Copy the whole folder again."
        )
    meta = {
        "format": "Nikon",
        "row": shape[0] // 2,
        "element_mm": width,
        "apparatus": {"beam": "fan", "source_origin": so, "origin_detector": sd - so},
    }
    row = meta["row"]

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        middle = stack.part(1, row, row + 1)[:, 0]
        return middle[along(axis, start, stop)]

    data = StoredArray((count, shape[1]), stack.dtype, part)
    theta = -(first + step * np.arange(count))
    return ScanFile(data, "sad", meta, theta, True, Frames(np.array(white)))


def _xtekct(path: Path) -> dict[str, str]:
    """Return the values of an .xtekct file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}). Check the file.") from error
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def open_mat(path: Path) -> ScanFile:
    """Open a sinogram of the Helsinki Tomography Challenge 2022, or of HelTomo: a fan beam.

    Parameters
    ----------
    path : Path
        A .mat file of a structure with ``sinogram`` (angles, detectors), line integrals, and
        ``parameters``.

    Returns
    -------
    ScanFile

    Raises
    ------
    FileError
        If it cannot be read.
    InputError
        If it holds no such structure.
    """
    try:
        held = require("scipy.io", "Reading a .mat file").loadmat(path, simplify_cells=True)
    except Exception as error:  # scipy raises a dozen kinds; version 7.3 is HDF5
        raise FileError(
            f"{path}: cannot be read as a .mat file ({error or type(error).__name__}). One of "
            "version 7.3 is HDF5: rename it to .h5 and name the dataset, or save it by -v7."
        ) from error
    for name, value in held.items():
        if isinstance(value, dict) and {"sinogram", "parameters"} <= set(value):
            return _heltomo(path, name, value)
    names = ", ".join(name for name in held if not name.startswith("__")) or "nothing"
    raise InputError(
        f"{path}: expected a structure with sinogram and parameters, as of HTC 2022, got {names}. "
        "Load it by scipy.io.loadmat and pass the array to read_scan, or save it as .npy."
    )


def _heltomo(path: Path, name: str, value: dict[str, Any]) -> ScanFile:
    """Return the sinogram of a structure, with its apparatus."""
    known, sinogram = value["parameters"], np.asarray(value["sinogram"])
    try:
        theta = np.asarray(known["angles"], np.float64).reshape(-1)
        so, sd = (float(known[key]) for key in ("distanceSourceOrigin", "distanceSourceDetector"))
        width = float(known.get("pixelSizePost", known.get("pixelSize")))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: {name}.parameters lacks angles, distanceSourceOrigin, "
            f"distanceSourceDetector or pixelSizePost ({error}). Pass the array to read_scan."
        ) from error
    meta = {
        "format": "HelTomo",
        "dataset": f"{name}.sinogram",
        "element_mm": width,
        "apparatus": {"beam": "fan", "source_origin": so, "origin_detector": sd - so},
    }
    data = in_memory(sinogram)
    closed = len(theta) == len(sinogram) > 2 and abs(abs(theta[-1] - theta[0]) - 360) < 1e-6
    theta = theta[:-1] if closed else theta
    return ScanFile(data, "sad", meta, theta, True, closed=closed)


VENDORS: dict[str, Callable[[Path], ScanFile]] = {".xtekct": open_nikon, ".mat": open_mat}

__all__ = ["UNREAD", "VENDORS", "open_mat", "open_nikon"]
