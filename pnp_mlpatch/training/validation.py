"""The PSNR of a network while it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.denoisers import Network
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.training.config import TrainConfig

LEVELS = (15, 25, 50)  # noise levels, in 1/255
FACTORS = (2, 4)  # of upscaling


@torch.no_grad()
def validate(
    model: Network, images: Iterable[Tensor], levels: Iterable[float] = LEVELS
) -> dict[str, float]:
    """Compute the mean PSNR of denoised images.

    Parameters
    ----------
    model : Network
    images : iterable of Tensor, shape (C, H, W)
    levels : iterable of float
        Noise levels in 1/255, each with a fixed draw of the noise.

    Returns
    -------
    dict
        "psnr_LEVEL" -> dB.
    """
    device, levels = next(model.parameters()).device, list(levels)
    scores: dict[str, list[float]] = {f"psnr_{level:g}": [] for level in levels}
    for k, image in enumerate(images):
        for level, found in zip(levels, scores.values(), strict=True):
            noise = torch.randn(
                image.shape, generator=torch.Generator().manual_seed(int(1000 * level) + k)
            )
            x = (image + level / 255 * noise)[None].to(device)
            found.append(float(psnr(model(x, level / 255), image[None].to(x))))
    return {name: sum(found) / len(found) for name, found in scores.items() if found}


@torch.no_grad()
def validate_upscale(
    model: Network, images: Iterable[Tensor], factors: Sequence[int] = FACTORS
) -> dict[str, float]:
    """Compute the mean PSNR of upscaled images.

    They were shrunk by antialiased bicubic interpolation, without noise, and cut to multiples of
    the largest factor.

    Parameters
    ----------
    model : Network
    images : iterable of Tensor, shape (C, H, W)
    factors : sequence of int

    Returns
    -------
    dict
        "psnr_xFACTOR" -> dB.
    """
    scores: dict[str, list[float]] = {f"psnr_x{factor}": [] for factor in factors}
    for image in images:
        height, width = (n - n % max(factors) for n in image.shape[1:])
        truth = image[None, :, :height, :width].to(next(model.parameters()).device)
        for factor, found in zip(factors, scores.values(), strict=True):
            low = F.interpolate(
                truth,
                size=(height // factor, width // factor),
                mode="bicubic",
                antialias=True,
                align_corners=False,
            )
            found.append(float(psnr(model.upscale(low, factor), truth)))  # type: ignore[operator]
    return {name: sum(found) / len(found) for name, found in scores.items() if found}


def levels_of(config: TrainConfig) -> list[float]:
    """Choose the noise levels of the validation: those the network is trained for, or its highest.

    Parameters
    ----------
    config : TrainConfig

    Returns
    -------
    list of float
        In 1/255.
    """
    return [level for level in LEVELS if level / 255 <= config.sigma_max] or [
        config.sigma_max * 255
    ]


def columns(config: TrainConfig) -> list[str]:
    """Name the columns of the validation in the log.

    Parameters
    ----------
    config : TrainConfig

    Returns
    -------
    list of str
    """
    return (
        [f"psnr_{level:g}" for level in levels_of(config)]
        if config.task == "denoise"
        else [f"psnr_x{factor}" for factor in FACTORS]
    )
