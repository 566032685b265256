"""DRU-Net (Zhang et al. 2021), by deepinv."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch.denoisers.base import DenoiserInfo, check_image, register, sigma_column
from pnp_mlpatch.errors import InputError, WeightsError, require


@register("drunet", needs=("deepinv",))
class DRUNet(nn.Module):
    """deepinv's DRU-Net for images in [0, 1] with ``channels`` 1 or 3, on any image size, sigma as a float or (B,).

    ``weights`` is the path of a state dict (.pth, .pt or .safetensors), "download" for deepinv's own download of the published
    weights (32.6M parameters, needs the network once), or ``None`` for an untrained network. ``nc`` are the widths of its four
    scales: (64, 128, 256, 512) are the published ones, (32, 64, 128, 256) make the 8.16M network of the talk.

    The image is continued by replication to multiples of 8 and cut back. Raises :class:`MissingPackage` without deepinv,
    :class:`WeightsError` for weights that are missing, damaged or of another shape.
    """

    def __init__(self, weights: str | PathLike[str] | None, channels: int = 1, *, nc: Sequence[int] = (64, 128, 256, 512)):
        super().__init__()
        deepinv = require("deepinv", "The denoiser 'drunet'")
        if channels not in (1, 3):
            raise InputError(f"DRUNet: channels must be 1 or 3, got {channels!r}.")
        download = weights == "download"
        try:
            self.net = deepinv.models.DRUNet(
                in_channels=channels, out_channels=channels, nc=tuple(nc), pretrained="download" if download else None
            )
        except Exception as error:
            if not download:
                raise
            raise WeightsError(
                f"DRUNet: the published weights could not be downloaded ({type(error).__name__}: {error}). Give the path of a local file instead."
            ) from error
        if weights is not None and not download:
            load_state(self.net, Path(weights), "DRUNet")
        self.eval().requires_grad_(False)
        self.channels = channels
        self.info = DenoiserInfo("drunet", channels, "input")

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, "DRUNet", self.channels)
        level = sigma_column(sigma, x, "DRUNet")
        height, width = x.shape[-2:]
        parameter = next(self.net.parameters())
        padded = F.pad(x.to(parameter.dtype), (0, -width % 8, 0, -height % 8), mode="replicate")
        noise_map = level.to(parameter.dtype).expand(-1, 1, *padded.shape[-2:])
        return self.net.forward_unet(torch.cat([padded, noise_map], dim=1))[..., :height, :width].to(x.dtype)


def load_state(net: nn.Module, path: Path, who: str) -> None:
    """Load a state dict file into ``net``; raise :class:`WeightsError` if it is missing, damaged or does not fit."""
    if not path.is_file():
        raise WeightsError(f"{who}: no weights file at {path}.")
    try:
        if path.suffix == ".safetensors":
            tensors = require("safetensors.torch", f"{who} with .safetensors weights").load_file(str(path))
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds
        raise WeightsError(f"{who}: {path} is not a readable state dict ({type(error).__name__}: {error}).") from error
    try:
        net.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(f"{who}: {path} does not fit this network. {str(error)[:500]}") from error
