"""DnCNN (Zhang et al. 2017): a deep stack of convolutions that predicts the noise; and FDnCNN, which takes a sigma map."""

from __future__ import annotations

from os import PathLike

import torch

from pnp_mlpatch.denoisers._base import register
from pnp_mlpatch.denoisers._network import ConvNet, load_convnet, shipped_or_own
from pnp_mlpatch.errors import InputError


class DnCNN(ConvNet):
    """``depth`` 3 x 3 convolutions of ``width`` channels with ReLU, zero padding; batch normalisation is folded in.

    With ``conditional`` a constant map of sigma is a further input channel, and one network serves sigma 0 to ``sigma_max``;
    without, sigma is ignored and the network serves the level it was trained for. With ``residual`` the output is x minus the
    predicted noise.
    """

    kind = "dncnn"

    def __init__(
        self,
        channels: int = 1,
        *,
        depth: int = 17,
        width: int = 64,
        conditional: bool = True,
        residual: bool = True,
        sigma_max: float | None = 60 / 255,
    ):
        config = {
            "channels": channels,
            "depth": depth,
            "width": width,
            "conditional": conditional,
            "residual": residual,
            "sigma_max": sigma_max,
        }
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 2:
            raise InputError(f"DnCNN: depth must be an integer >= 2, got {depth!r}.")
        super().__init__(channels, width, [1] * depth, conditional, residual, sigma_max, config)

    @classmethod
    def example(cls) -> DnCNN:
        net = cls(depth=4, width=8)
        torch.nn.init.normal_(net.convolutions[-1].weight, std=0.05)  # type: ignore[arg-type]
        return net.eval().requires_grad_(False)


@register("dncnn", network=DnCNN)
def dncnn(weights: str | PathLike[str] = "dncnn-grey", *, residual: bool | None = None) -> DnCNN:
    """A :class:`DnCNN` with weights: a shipped name, a file of this package's training, or a state dict of a plain stack of convolutions.

    Of a foreign state dict (.pth) depth, width, channels and batch normalisations are read off its tensors. If its input has one
    channel more than its output, that is a sigma map (FDnCNN). ``residual`` says whether it predicts the noise; by default it
    does unless it takes a sigma map, as in the published DnCNN and FDnCNN. A DnCNN without sigma map serves its own level alone:
    ``info.sigma`` is "ignored". Raises :class:`WeightsError` for files that are missing, damaged or of another architecture.
    """
    own = shipped_or_own(weights)
    if own is not None:
        return DnCNN.load(own)

    def make(channels: int, depth: int, width: int, conditional: bool) -> DnCNN:
        predicts_noise = not conditional if residual is None else residual
        return DnCNN(
            channels,
            depth=depth,
            width=width,
            conditional=conditional,
            residual=predicts_noise,
            sigma_max=None,
        )

    return load_convnet(make, weights, "dncnn")
