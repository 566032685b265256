"""The picture that ``solve`` takes: a picture, an array, or a slice of a DICOM series."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pnp_mlpatch.ct import read_dicom
from pnp_mlpatch.ct._dicom_header import is_dicom
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.images import read_image

HOUNSFIELD = (-1024.0, 1024.0)  # become 0 and 1


def read_picture(path: Path, *, gray: bool, index: int | None) -> Tensor:
    """Read a picture, or a slice of a DICOM series in Hounsfield units.

    Parameters
    ----------
    path : Path
        A file, or a folder of DICOM files in any order.
    gray : bool
        Turn colour into luminance.
    index : int, optional
        The slice of a series, sorted along its normal, from 0; by default the one in the middle.

    Returns
    -------
    Tensor, shape (1, C, H, W)
        -1024 to 1024 Hounsfield units become 0 to 1, and what is denser 1.

    Raises
    ------
    FileError
        If it is missing or damaged, or is a folder of other files.
    InputError
        For a slice that is not there, or of a picture that has none.
    """
    if path.exists() and is_dicom(path):
        hu, _, _ = read_dicom(path)
        place = len(hu) // 2 if index is None else index
        if not 0 <= place < len(hu):
            raise InputError(
                f"{path}: --slice {place} is not in the series, which has 0 ... {len(hu) - 1}."
            )
        low, high = HOUNSFIELD
        return ((hu[place] - low) / (high - low)).clamp(0, 1)[None, None]
    if path.is_dir():
        raise FileError(
            f"{path}: a folder without DICOM files. Give one picture, or the folder of one series."
        )
    if index is not None:
        raise InputError(f"{path}: --slice is for a DICOM series. Leave it out.")
    return read_image(path, gray=gray)


def read_measured(path: Path) -> Tensor:
    """Read data from a .npy file, in float32.

    Integers are refused: they are counts or pixels, which no operator has as data.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Tensor
    """
    q = read_array(path)
    if not q.is_floating_point():
        raise InputError(
            f"{path}: expected data in floats, got {q.dtype}. Counts become line integrals "
            "by pnp-mlpatch ct."
        )
    return q.float()


__all__ = ["read_measured", "read_picture"]
