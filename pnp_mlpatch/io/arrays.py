"""Arrays in files, as tensors."""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.reading import plain_integers, refuse_special


def read_array(path: str | PathLike[str], *, finite: bool = True) -> Tensor:
    """Read a .npy array of real numbers, of any shape.

    Parameters
    ----------
    path : str or path
        The file.
    finite : bool
        Whether NaN and infinite values are refused.

    Returns
    -------
    Tensor
        float64 if stored so, float32 for other floats; booleans and integers keep their values, as
        bool, uint8 or int64.

    Raises
    ------
    FileError
        For a file that is missing, damaged, or holds objects.
    InputError
        For complex or empty arrays, and for values that are not finite.
    """
    array = _load(path)
    if array.dtype.kind != "f":
        return plain_integers(array, str(path))
    tensor = torch.from_numpy(array.astype(np.float64 if array.dtype == np.float64 else np.float32))
    if finite and not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"{path}: {int((~torch.isfinite(tensor)).sum())} values are NaN or infinite. Mask or "
            "replace them first."
        )
    return tensor


def read_complex(path: str | PathLike[str]) -> Tensor:
    """Read a .npy array of complex numbers as their real and imaginary parts.

    Parameters
    ----------
    path : str or path
        The file: complex (..., H, W), or real with both parts, (..., 2, H, W).

    Returns
    -------
    Tensor, shape (..., 2, H, W)
        float64 if stored in that precision, else float32.

    Raises
    ------
    FileError
        For a file that is missing, damaged, or holds objects.
    InputError
        For arrays of another shape, integers, and values that are not finite.
    """
    array = _load(path, "fc")
    if array.dtype.kind == "c" and array.ndim >= 2:
        array = np.stack([np.real(array), np.imag(array)], axis=-3)
    if array.ndim < 3 or array.shape[-3] != 2:
        raise InputError(
            f"{path}: expected complex numbers (..., H, W), or real ones (..., 2, H, W) with the "
            f"real and the imaginary part, got {array.shape} {array.dtype}."
        )
    tensor = torch.from_numpy(array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32))
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{path}: values are NaN or infinite. Set them to 0 and mask them.")
    return tensor


def _load(path: str | PathLike[str], kinds: str = "fiub") -> np.ndarray:
    """Map the array of a .npy file.

    A header that claims more than the file holds is refused before memory is taken.
    """
    refuse_special(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy lets the errors of zipfile, tokenize and ast through
        raise FileError(f"{path}: not a readable .npy array ({error}).") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.size == 0:
        kind = getattr(array, "dtype", type(array).__name__)
        raise InputError(
            f"{path}: expected a non-empty array of {'complex or ' * ('c' in kinds)}real numbers, "
            f"got {kind}."
            + " Stack the real and imaginary part of complex ones."
            * ("c" not in kinds)
        )
    return array
