"""DnCNN (Zhang et al. 2017): convolutions that predict the noise; and FDnCNN, with a sigma map."""

from __future__ import annotations

from os import PathLike

import torch

from pnp_mlpatch.denoisers._base import register
from pnp_mlpatch.denoisers._network import ConvNet, load_convnet, shipped_or_own
from pnp_mlpatch.errors import InputError


class DnCNN(ConvNet):
    """A stack of 3 x 3 convolutions with ReLU and zero padding; batch normalisation is folded in.

    Parameters
    ----------
    channels : int
    depth : int
        Convolutions, at least 2.
    width : int
        Channels of the inner layers.
    conditional : bool
        A map of sigma is a further input channel, and one network serves sigma 0 to ``sigma_max``.
        Without, sigma is ignored, and the network serves the level that it was trained for.
    residual : bool
        The output is x minus the predicted noise.
    sigma_max : float or None
        Top of the trained noise range, in the units of the image. None: not known.

    Raises
    ------
    InputError
        For settings that are not integers in range.

    References
    ----------
    Zhang et al. 2017.
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
    """Make a :class:`DnCNN` with weights.

    Parameters
    ----------
    weights : str or path
        A shipped name, a file of this package's training, or a state dict (.pth) of a plain stack
        of convolutions. Depth, width, channels and batch normalisations are read off its tensors.
        One input channel more than output channels is a sigma map (FDnCNN).
    residual : bool, optional
        Whether a foreign network predicts the noise. By default it does unless it takes a sigma
        map, as in the published DnCNN and FDnCNN.

    Returns
    -------
    DnCNN
        Without a sigma map it serves its own level alone: ``info.sigma`` is "ignored".

    Raises
    ------
    WeightsError
        If the file is missing, damaged or of another architecture.
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
