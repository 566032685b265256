"""IRCNN (Zhang, Zuo, Gu, Zhang 2017): seven dilated convolutions that predict the noise."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import torch

from pnp_mlpatch.denoisers._base import register
from pnp_mlpatch.denoisers._network import ConvNet, load_convnet, shipped_or_own
from pnp_mlpatch.errors import WeightsError

DILATIONS = (1, 2, 3, 4, 3, 2, 1)


class IRCNN(ConvNet):
    """3 x 3 convolutions of ``width`` channels with the given ``dilations`` and ReLU, zero padding; the output is x minus the noise.

    With ``conditional`` a constant map of sigma is a further input channel, and one network serves sigma 0 to ``sigma_max``, in
    place of the bank of one network for each level of the original.
    """

    kind = "ircnn"

    def __init__(
        self,
        channels: int = 1,
        *,
        width: int = 64,
        dilations: Sequence[int] = DILATIONS,
        conditional: bool = True,
        sigma_max: float | None = 60 / 255,
    ):
        config = {
            "channels": channels,
            "width": width,
            "dilations": list(dilations),
            "conditional": conditional,
            "sigma_max": sigma_max,
        }
        super().__init__(channels, width, list(dilations), conditional, True, sigma_max, config)

    @classmethod
    def example(cls) -> IRCNN:
        net = cls(width=8)
        torch.nn.init.normal_(net.convolutions[-1].weight, std=0.05)  # type: ignore[arg-type]
        return net.eval().requires_grad_(False)


@register("ircnn", network=IRCNN)
def ircnn(weights: str | PathLike[str] = "ircnn-grey") -> IRCNN:
    """An :class:`IRCNN` with weights: a shipped name, a file of this package's training, or the state dict of one published network of the bank.

    A network of the bank serves its own level alone: ``info.sigma`` is "ignored". Raises :class:`WeightsError` for files that
    are missing, damaged or of another architecture.
    """
    own = shipped_or_own(weights)
    if own is not None:
        return IRCNN.load(own)

    def make(channels: int, depth: int, width: int, conditional: bool) -> IRCNN:
        if depth != len(DILATIONS):
            raise WeightsError(
                f"ircnn: expected {len(DILATIONS)} convolutions, {weights} has {depth}."
            )
        return IRCNN(channels, width=width, conditional=conditional, sigma_max=None)

    return load_convnet(make, weights, "ircnn")
