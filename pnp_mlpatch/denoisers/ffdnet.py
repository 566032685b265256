"""FFDNet (Zhang, Zuo and Zhang 2018): convolutions on the image folded 2 x 2, with a noise map."""

from __future__ import annotations

from itertools import pairwise
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch.denoisers._base import register
from pnp_mlpatch.denoisers._convolution import applied
from pnp_mlpatch.denoisers._network import (
    Network,
    folded_convolutions,
    read_state_dict,
    shipped_or_own,
)
from pnp_mlpatch.errors import InputError, WeightsError

FOLD = 2  # pixels a side that become channels


class FFDNet(Network):
    r"""A stack of 3 x 3 convolutions with ReLU on the folded image.

    It commutes with shifts by two pixels.

    .. math:: D(x, \sigma) = \mathrm{unfold}(\mathrm{net}([\mathrm{fold}(x), \sigma]))

    Parameters
    ----------
    channels : int
        1 or 3; any number >= 1 can be trained.
    depth : int
        Convolutions, at least 2. Published: 15 (grey), 12 (colour).
    width : int
        Features of the inner layers. Published: 64 (grey), 96 (colour).
    sigma_max : float or None
        Top of the trained noise range, in the units of the image. None: not known.

    Raises
    ------
    InputError
        For settings that are not integers in range.

    References
    ----------
    Zhang, Zuo and Zhang, FFDNet: toward a fast and flexible solution for CNN-based image denoising,
    2018.
    """

    kind = "ffdnet"

    def __init__(
        self,
        channels: int = 1,
        *,
        depth: int = 15,
        width: int = 64,
        sigma_max: float | None = 60 / 255,
    ):
        for name, value, least in (
            ("channels", channels, 1),
            ("depth", depth, 2),
            ("width", width, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"FFDNet: {name} must be an integer >= {least}, got {value!r}.")
        config = {"channels": channels, "depth": depth, "width": width, "sigma_max": sigma_max}
        super().__init__(channels, sigma_max, config)
        folded = FOLD**2 * channels
        widths = [folded + 1, *[width] * (depth - 1), folded]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)
        )
        for layer in self.convolutions:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.field = FOLD * depth + FOLD - 1
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def example(cls) -> FFDNet:
        """Make a small instance whose random output is near its input."""
        net = cls(depth=3, width=12)
        with torch.no_grad():
            for layer in net.convolutions:
                layer.weight.mul_(0.1)  # type: ignore[operator]
            for k in range(
                FOLD**2
            ):  # the first features carry the image through the middle of the kernels
                for layer in net.convolutions:
                    layer.weight[k, k, 1, 1] = 1.0  # type: ignore[index]
        return net.eval().requires_grad_(False)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise images of any size.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        sigma : float or Tensor, shape (B,) or (B, 1, H, W)
            Standard deviation of the noise, in the units of ``x``.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        both = self.with_map(x, sigma, FOLD)
        image, level = both[:, :-1], both[:, -1:]
        h = torch.cat([F.pixel_unshuffle(image, FOLD), F.avg_pool2d(level, FOLD)], dim=1)
        for layer in self.convolutions[:-1]:
            h = applied(layer, h, F.relu)
        clean = F.pixel_shuffle(self.convolutions[-1](h), FOLD)
        return clean[..., : x.shape[-2], : x.shape[-1]].to(x.dtype)


@register("ffdnet", network=FFDNet)
def ffdnet(weights: str | PathLike[str]) -> FFDNet:
    """Make an :class:`FFDNet` with weights.

    Parameters
    ----------
    weights : str or path
        A file of this package's training, or the state dict of a published FFDNet (.pth or
        .safetensors), of which channels, depth and width are read off the tensors.

    Returns
    -------
    FFDNet

    Raises
    ------
    WeightsError
        If the file is missing, damaged or of another architecture.

    Examples
    --------
    >>> from pnp_mlpatch import denoisers
    >>> D = denoisers.make("ffdnet", weights="FFDNet_color.pth")  # doctest: +SKIP
    """
    own = shipped_or_own(weights)
    if own is not None:
        return FFDNet.load(own)
    layers = folded_convolutions(read_state_dict(Path(weights), "ffdnet"), "ffdnet")
    first, last = layers[0][0], layers[-1][0]
    widths = {kernel.shape[0] for kernel, _ in layers[:-1]}
    fits = len(layers) > 1 and len(widths) == 1 and first.shape[1] == last.shape[0] + 1
    if (
        not fits
        or last.shape[0] % FOLD**2
        or any(kernel.shape[2:] != (3, 3) for kernel, _ in layers)
    ):
        shapes = ", ".join(str(tuple(kernel.shape)) for kernel, _ in layers)
        raise WeightsError(
            "ffdnet: expected 3 x 3 convolutions of one width, 4 C + 1 channels in and 4 C out; "
            f"got kernels {shapes}."
        )
    net = FFDNet(last.shape[0] // FOLD**2, depth=len(layers), width=widths.pop(), sigma_max=None)
    with torch.no_grad():
        for layer, (kernel, bias) in zip(net.convolutions, layers, strict=True):
            layer.weight.copy_(kernel)  # type: ignore[operator]
            layer.bias.copy_(bias)  # type: ignore[operator]
    return net.eval().requires_grad_(False)


__all__ = ["FFDNet", "ffdnet"]
