"""Images for a page: values in 12 bits that a script shows through a window, or plain pictures."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.viz._figure import as_numpy

MOST_PIXELS = 720  # of a side: a larger image is shown as the mean of blocks
MOST_STILL = 512  # the same for pictures that have no window
STEPS = 4094
UNKNOWN = 255  # the place of grey in a palette; those before it are colours


@dataclass(frozen=True)
class Packed:
    """An image as the script of a page reads it.

    Parameters
    ----------
    caption : str
        What it is.
    png : str
        The data of a PNG in base64. Of values v in [low, high] it is grey and has twice the rows:
        code / 16 above code % 16, with code = 1 + round(4094 (v - low) / (high - low)), and 0
        where v is not known. A picture in colour is one.
    width, height : int
        Pixels.
    low, high : float
        Range of the values.
    colour : bool
        Whether it is a picture in colour.
    """

    caption: str
    png: str
    width: int
    height: int
    low: float
    high: float
    colour: bool


def shrink(image: Tensor, most: int = MOST_PIXELS) -> tuple[Tensor, int]:
    """Return an image (C, H, W) of at most so many pixels a side, and the side of its blocks."""
    factor = -(-max(image.shape[-2:]) // most)
    if factor == 1:
        return image, 1
    known = torch.isfinite(image)
    mean = F.avg_pool2d(image.nan_to_num(0.0)[None], factor, ceil_mode=True)[0]
    share = F.avg_pool2d(known.to(image)[None], factor, ceil_mode=True)[0]
    return (mean / share).masked_fill(share == 0, torch.nan), factor


def as_shown(image: Tensor, who: str) -> Tensor:
    """Return (3, H, W) of an image in colour, else (1, H, W): the first channel, if there are two.

    Takes (H, W), (C, H, W) and the first of (B, C, H, W).
    """
    x = image.detach().cpu().float()
    x = x[None] if x.ndim == 2 else x[0] if x.ndim == 4 else x
    if x.ndim != 3 or x.numel() == 0:
        raise InputError(
            f"{who}: expected an image (H, W), (C, H, W) or (B, C, H, W), got {tuple(image.shape)}."
        )
    return x if x.shape[0] == 3 else x[:1]


def pack(caption: str, image: Tensor, upwards: bool) -> Packed:
    """Pack an image (C, H, W); with ``upwards`` its rows grow upwards."""
    x, factor = shrink(image)
    x = x.flip(-2) if upwards else x
    if factor > 1:
        caption = f"{caption}, mean of {factor} x {factor} pixels"
    height, width = x.shape[-2:]
    if x.shape[0] == 3:
        pixels = as_numpy((x.nan_to_num(0.0).clamp(0, 1) * 255).round().byte().permute(1, 2, 0))
        return Packed(caption, _png(pixels), width, height, 0.0, 1.0, True)
    values, known = as_numpy(x[0].double()), as_numpy(torch.isfinite(x[0]))
    low = float(values[known].min()) if known.any() else 0.0
    high = float(values[known].max()) if known.any() else 1.0
    high = high if high > low else low + 1.0
    code = 1 + np.rint((np.where(known, values, low) - low) / (high - low) * STEPS)
    code = np.where(known, code, 0).astype(np.uint16)
    pixels = np.concatenate([code >> 4, code & 15]).astype(np.uint8)
    return Packed(caption, _png(pixels), width, height, low, high, False)


def through(image: Tensor, window: tuple[float, float], colours: str, upwards: bool) -> str:
    """Return an image (C, H, W) through a window as the data of a PNG in base64, unknown grey."""
    x, _ = shrink(image, MOST_STILL)
    x = x.flip(-2) if upwards else x
    if x.shape[0] == 3:
        x = x.clamp(0, 1)
        return _png(as_numpy((x.nan_to_num(0.0) * 255).round().byte().permute(1, 2, 0)))
    low, high = window
    part = as_numpy(((x[0].double() - low) / (high - low)).clamp(0, 1))
    places = np.where(np.isnan(part), UNKNOWN, np.rint(np.nan_to_num(part) * (UNKNOWN - 1)))
    table = palette(colours)[np.rint(np.linspace(0, 255, UNKNOWN)).astype(int)]
    return _png(places.astype(np.uint8), [*table.flatten().tolist(), *[190] * 3])


def palette(colours: str) -> Any:
    """Return the colours of a map of matplotlib, (256, 3) of 8 bit."""
    if colours == "gray":
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    matplotlib = require("matplotlib", "A report")
    return (matplotlib.colormaps[colours](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def default_window(images: list[Tensor]) -> tuple[float, float]:
    """Return [0, 1] if that is the range of the first image, else where most of its values are."""
    values = images[0][torch.isfinite(images[0])].double()
    if not len(values):
        return 0.0, 1.0
    values = values[:: -(-len(values) // 1_000_000)]
    low, high = (float(v) for v in torch.quantile(values, values.new_tensor([0.005, 0.995])))
    if low >= -0.1 and high <= 1.1 and high > 0.3:
        return 0.0, 1.0
    margin = 0.02 * (high - low)
    return (low - margin, high + margin) if high > low else (low - 0.5, low + 0.5)


def _png(pixels: Any, colours: list[int] | None = None) -> str:
    """Return pixels, or places in a table of colours, as the data of a PNG in base64."""
    Image, out = require("PIL.Image", "A report"), io.BytesIO()
    picture = Image.fromarray(pixels)
    if colours is not None:
        picture.putpalette(colours)
    picture.save(out, format="PNG", optimize=True)
    return b64encode(out.getvalue()).decode()
