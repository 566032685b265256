"""Read and write pictures, as tensors (1, C, H, W)."""

from __future__ import annotations

import io
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.arrays import _load
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.reading import brightness, refuse_special

READABLE = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")


def read_image(path: str | PathLike[str], *, gray: bool = False) -> Tensor:
    """Read a picture.

    Integers of 8 and 16 bit are divided by 255 and 65535 (of 12 bit by 4095), in .npy files too;
    floats keep their values. The picture is turned as its EXIF orientation says. An alpha channel
    is dropped if it is opaque everywhere.

    Parameters
    ----------
    path : str or path
        A .png, .jpg, .tiff or .bmp file, or a .npy array (H, W), (H, W, C) or (C, H, W).
    gray : bool
        Turn colour into luminance (ITU-R 601).

    Returns
    -------
    Tensor
        float32, (1, C, H, W), C = 1 or 3 (2 from .npy).

    Raises
    ------
    FileError
        For a file that is missing, damaged, not a picture, or far too large.
    InputError
        For transparent pictures, several pages, 16 bit in colour, integers of other types, arrays
        of other shapes, and values that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        array = _load(path)
        if array.dtype == np.uint8 and int(array.max()) == 1:
            raise InputError(
                f"{path}: 8-bit values of 0 and 1 are a mask or nearly black. Save a mask as bool, "
                "a picture as float32."
            )
        with np.errstate(over="ignore"):
            image = _channels_first(torch.from_numpy(brightness(array, str(path))), path)
    else:
        image = _read_picture(path)
    if not bool(torch.isfinite(image).all()):
        raise InputError(
            f"{path}: the picture holds NaN or infinite values. Mask or replace them first."
        )
    if gray and image.shape[1] == 3:
        image = (image * image.new_tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(
            1, keepdim=True
        )
    return image


def _read_picture(path: Path) -> Tensor:
    Image = require("PIL.Image", "Reading a picture")
    refuse_special(path)
    try:
        with Image.open(path) as file:  # which reads the header; pixels are decoded by load()
            width, height = file.size
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(
                    f"{width} x {height} pixels, above {Image.MAX_IMAGE_PIXELS}: a decompression "
                    "bomb? "
                    "If not, raise PIL.Image.MAX_IMAGE_PIXELS"
                )
            if (
                getattr(file, "n_frames", 1) > 1 and file.format != "MPO"
            ):  # the further frames of MPO, from phones, are previews
                raise InputError(
                    f"{path}: expected one picture, got {file.n_frames} pages. Save each as a file."
                )
            if file.format == "PNG":
                with Image.open(path) as whole:
                    whole.verify()  # the checksums of all chunks, which load() passes over
            return _from_pillow(file, path)
    except InputError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise FileError(
            f"{path}: cannot be read as a picture ({error}). Readable: {', '.join(READABLE)}."
        ) from error


def _from_pillow(file, path: Path) -> Tensor:
    bits, inverted = _stored_bits(file, path)
    file.load()
    file = require("PIL.ImageOps", "Reading a picture").exif_transpose(file)
    transparent = file.info.get("transparency")
    if isinstance(transparent, int) and file.mode in ("1", "L", "I", "I;16"):
        if bool((np.asarray(file) == transparent).any()):
            raise InputError(
                f"{path}: the picture is partly transparent. Flatten it on a background first."
            )
    elif "A" in file.getbands() or transparent is not None:
        rgba = file.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:
            raise InputError(
                f"{path}: the picture is partly transparent. Flatten it on a background first."
            )
        file = rgba.convert("L" if file.mode in ("LA", "La") else "RGB")
    if file.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB"):
        file = file.convert("RGB")
    elif file.mode == "1":
        file = file.convert("L")
    array = np.asarray(file)
    if file.mode.startswith("I") and bits <= 16:  # 16 bit in other byte orders, or widened
        array = array.astype(np.uint16)
    image = brightness(array, str(path)) * np.float32(65535 / 4095 if bits == 12 else 1)
    return _channels_first(
        torch.from_numpy(np.ascontiguousarray(1 - image if inverted else image)), path
    )


def _stored_bits(file, path: Path) -> tuple[int, bool]:
    """Bits of a sample, and whether 0 is white where Pillow does not invert.

    Raises for what Pillow reads otherwise than stored.
    """
    if file.format == "PNG":
        with path.open("rb") as raw:
            bits, kind = raw.read(26)[24:]  # of the header chunk: bit depth and colour type
        if bits == 16 and kind != 0:
            raise InputError(
                f"{path}: 16-bit colour is read in 8 bit. Save it in 8 bit, or as a float32 .npy "
                "(H, W, 3)."
            )
        return bits, False
    if file.format != "TIFF":
        return 16 if file.mode.startswith("I") else 8, False
    bits, signed, white = tiff_kind(file)
    if bits > 8 and len(file.getbands()) > 1:
        raise InputError(
            f"{path}: colour of {bits} bit is read in 8 bit. Save it in 8 bit, or as a float32 "
            ".npy (H, W, 3)."
        )
    if signed or (bits > 16 and not file.mode.startswith("F")) or (white and bits > 16):
        raise InputError(
            f"{path}: expected unsigned integers of 8 or 16 bit, or floats with black at 0, got "
            f"{'signed ' if signed else ''}{bits} bit"
            f"{' with white at 0' if white else ''}. Save it as float TIFF or .npy."
        )
    return bits, white and bits > 8  # Pillow turns up to 8 bit


def tiff_kind(file) -> tuple[int, bool, bool]:
    """Describe the samples of a TIFF file.

    Parameters
    ----------
    file : PIL.TiffImagePlugin.TiffImageFile
        The file, open in Pillow.

    Returns
    -------
    bits : int
        Bits of a sample.
    signed : bool
        Whether samples are signed integers.
    white_is_zero : bool
        Whether 0 is white.
    """
    tags = file.tag_v2
    return max(tags.get(258, (1,))), 2 in tags.get(339, (1,)), tags.get(262) == 0


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
        f"{path}: expected an array (H, W), (H, W, 3), (C, H, W) or (1, C, H, W) with 1 to 3 "
        f"channels, got {tuple(array.shape)}."
    )


def write_image(path: str | PathLike[str], image: Tensor) -> None:
    """Write a picture, whole or not at all.

    Parameters
    ----------
    path : str or path
        A file ending in .npy or .tiff, which keep float32 values, or in .png, which stores [0, 1]
        in 8 bit, clipped.
    image : Tensor, shape (1, C, H, W) or (C, H, W)
        The picture; C = 1 or 3, 2 for .npy, 1 for .tiff.

    Raises
    ------
    InputError
        For another shape or ending, and for values that are not finite.
    FileError
        If the file cannot be written.
    """
    path = Path(path)
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise InputTypeError(
            f"{path}: expected a tensor of real floats, got {got}. Convert it first, e.g. "
            "x.float() / 255 for 8-bit values."
        )
    x = image.detach().cpu().float()
    x = x[0] if x.ndim == 4 and x.shape[0] == 1 else x
    if x.ndim != 3 or x.shape[0] not in (1, 2, 3):
        raise InputError(
            f"{path}: expected one image (C, H, W) with 1 to 3 channels, got shape "
            f"{tuple(image.shape)}."
        )
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{path}: the image holds NaN or infinite values; it was not written.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        plain = x[0] if x.shape[0] == 1 else x

        def write(temporary: Path) -> None:
            with temporary.open(
                "wb"
            ) as file:  # by name, numpy would append .npy to any other ending
                np.save(file, plain.numpy())

        atomic_write(path, write)
    elif suffix in (".png", ".tif", ".tiff"):
        Image = require("PIL.Image", "Writing a picture")
        if suffix == ".png":
            pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8)
            if x.shape[0] == 2:
                raise InputError(f"{path}: two channels do not fit a .png. Write .npy.")
            picture = Image.fromarray(
                pixels[0].numpy() if x.shape[0] == 1 else pixels.permute(1, 2, 0).numpy()
            )
            atomic_write(path, lambda temporary: picture.save(temporary, format="PNG"))
        else:
            if x.shape[0] != 1:
                raise InputError(
                    f"{path}: float TIFF holds one channel, the image has {x.shape[0]}. Write .npy."
                )
            picture = Image.fromarray(x[0].numpy())
            atomic_write(path, lambda temporary: picture.save(temporary, format="TIFF"))
    else:
        raise InputError(f"{path}: unknown ending '{suffix}'. Writable: .npy, .png, .tiff.")


def png(figure: Any) -> bytes:
    """Draw a matplotlib figure as a notebook shows it.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.

    Returns
    -------
    bytes
        The content of a PNG file.
    """
    out = io.BytesIO()
    figure.savefig(out, dpi=80, format="png")
    return out.getvalue()


def in_notebooks(figure: Any) -> Any:
    """Have notebooks show a figure as a picture, with or without their inline backend.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.

    Returns
    -------
    matplotlib.figure.Figure
        The same figure.
    """
    figure._repr_png_ = partial(png, figure)
    return figure
