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
    """Dilated 3 x 3 convolutions with ReLU and zero padding; the output is x minus the noise.

    Parameters
    ----------
    channels : int
    width : int
        Channels of the inner layers.
    dilations : sequence of int
        One for each convolution.
    conditional : bool
        A map of sigma is a further input channel, and one network serves sigma 0 to ``sigma_max``.
        The original has a bank of one network for each level.
    sigma_max : float or None
        Top of the trained noise range, in the units of the image. None: not known.

    Raises
    ------
    InputError
        For settings that are not integers in range.

    References
    ----------
    Zhang, Zuo, Gu and Zhang 2017.
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
    """Make an :class:`IRCNN` with weights.

    Parameters
    ----------
    weights : str or path
        A shipped name, a file of this package's training, or the state dict of one published
        network of the bank.

    Returns
    -------
    IRCNN
        A network of the bank serves its own level alone: ``info.sigma`` is "ignored".

    Raises
    ------
    WeightsError
        If the file is missing, damaged or of another architecture.
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
