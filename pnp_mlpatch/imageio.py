"""Pictures and arrays in and out of files, as tensors (1, C, H, W); written whole or not at all."""

from __future__ import annotations

import io
import warnings
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.errors import FileError, InputError, InputTypeError, require
from pnp_mlpatch.weights import write_whole

READABLE = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")


def read_array(path: str | PathLike[str], *, finite: bool = True) -> Tensor:
    """A real numeric .npy array as a float32 (or float64, if stored so) tensor of its own shape.

    Raises :class:`FileError` for a file that is missing, damaged or holds objects, :class:`InputError` for complex or empty
    ones, and, if they must be ``finite``, for other values.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy lets the errors of zipfile, tokenize and ast through
        raise FileError(f"{path}: not a readable .npy array ({error}).") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.size == 0:
        kind = getattr(array, "dtype", type(array).__name__)
        raise InputError(
            f"{path}: expected a non-empty array of real numbers, got {kind}. Stack the real and imaginary part of complex ones."
        )
    tensor = torch.from_numpy(array.astype(np.float64 if array.dtype == np.float64 else np.float32))
    if finite and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{path}: {int((~torch.isfinite(tensor)).sum())} values are NaN or infinite. Mask or replace them first.")
    return tensor


def read_image(path: str | PathLike[str], *, gray: bool = False) -> Tensor:
    """A picture as a float32 tensor (1, C, H, W), C = 1 or 3.

    8-bit files are divided by 255 and 16-bit ones by 65535, so values are in [0, 1]; float TIFF and .npy keep their values.
    ``gray`` turns colour into luminance (ITU-R 601). An alpha channel is dropped if it is opaque everywhere.

    Raises :class:`FileError` for a file that is missing, damaged or not a picture, :class:`InputError` for transparent
    pictures, arrays that are not (H, W), (H, W, C) or (C, H, W), and values that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        image = _channels_first(read_array(path).float(), path)
    else:
        Image = require("PIL.Image", "Reading a picture")
        try:
            with warnings.catch_warnings(), Image.open(path) as file:
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                file.load()
                image = _from_pillow(file, path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            if isinstance(error, InputError):
                raise
            raise FileError(f"{path}: cannot be read as a picture ({error}). Readable: {', '.join(READABLE)}.") from error
    if not bool(torch.isfinite(image).all()):
        raise InputError(f"{path}: the picture holds NaN or infinite values. Mask or replace them first.")
    if gray and image.shape[1] == 3:
        image = (image * image.new_tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1, keepdim=True)
    return image


def _from_pillow(file, path: Path) -> Tensor:
    transparent = file.info.get("transparency")
    if isinstance(transparent, int) and file.mode in ("1", "L", "I", "I;16"):
        if bool((np.asarray(file) == transparent).any()):
            raise InputError(f"{path}: the picture is partly transparent. Flatten it on a background first.")
    elif "A" in file.getbands() or transparent is not None:
        rgba = file.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:
            raise InputError(f"{path}: the picture is partly transparent. Flatten it on a background first.")
        file = rgba.convert("L" if file.mode in ("LA", "La") else "RGB")
    if file.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB"):
        file = file.convert("RGB")
    elif file.mode == "1":
        file = file.convert("L")
    array = np.asarray(file)
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    elif array.dtype.newbyteorder("=") == np.uint16 or (array.dtype == np.int32 and file.mode.startswith("I")):
        if array.min() < 0 or array.max() > 65535:
            raise InputError(f"{path}: integer values {array.min()} to {array.max()} do not fit 16 bit. Save it as float TIFF or .npy.")
        array = array.astype(np.float32) / 65535
    else:
        array = array.astype(np.float32)
    return _channels_first(torch.from_numpy(np.ascontiguousarray(array)), path)


def _channels_first(array: Tensor, path: Path) -> Tensor:
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        return array[None, None]
    if array.ndim == 3 and array.shape[-1] in (1, 3):
        return array.permute(2, 0, 1)[None].contiguous()
    if array.ndim == 3 and array.shape[0] in (1, 2, 3):
        return array[None]
    raise InputError(
        f"{path}: expected an array (H, W), (H, W, 3), (C, H, W) or (1, C, H, W) with 1 to 3 channels, got {tuple(array.shape)}."
    )


def write_image(path: str | PathLike[str], image: Tensor) -> None:
    """Write (1, C, H, W) or (C, H, W): .npy and .tiff keep float32 values, .png stores [0, 1] in 8 bit, clipped.

    Raises :class:`InputError` for another shape or ending, and for values that are not finite.
    """
    path = Path(path)
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InputTypeError(
            f"{path}: expected a tensor of real floats, got {got}. Convert it first, e.g. x.float() / 255 for 8-bit values."
        )
    x = image.detach().cpu().float()
    x = x[0] if x.ndim == 4 and x.shape[0] == 1 else x
    if x.ndim != 3 or x.shape[0] not in (1, 2, 3):
        raise InputError(f"{path}: expected one image (C, H, W) with 1 to 3 channels, got shape {tuple(image.shape)}.")
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{path}: the image holds NaN or infinite values; it was not written.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        plain = x[0] if x.shape[0] == 1 else x

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # by name, numpy would append .npy to any other ending
                np.save(file, plain.numpy())

        write_whole(path, write)
    elif suffix in (".png", ".tif", ".tiff"):
        Image = require("PIL.Image", "Writing a picture")
        if suffix == ".png":
            pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8)
            if x.shape[0] == 2:
                raise InputError(f"{path}: two channels do not fit a .png. Write .npy.")
            picture = Image.fromarray(pixels[0].numpy() if x.shape[0] == 1 else pixels.permute(1, 2, 0).numpy())
            write_whole(path, lambda temporary: picture.save(temporary, format="PNG"))
        else:
            if x.shape[0] != 1:
                raise InputError(f"{path}: float TIFF holds one channel, the image has {x.shape[0]}. Write .npy.")
            picture = Image.fromarray(x[0].numpy())
            write_whole(path, lambda temporary: picture.save(temporary, format="TIFF"))
    else:
        raise InputError(f"{path}: unknown ending '{suffix}'. Writable: .npy, .png, .tiff.")


def png(figure: Any) -> bytes:
    """A matplotlib figure as a notebook shows it."""
    out = io.BytesIO()
    figure.savefig(out, dpi=80, format="png")
    return out.getvalue()


def in_notebooks(figure: Any) -> Any:
    """The figure, which a notebook shows as a picture, with or without its inline backend."""
    figure._repr_png_ = partial(png, figure)
    return figure
