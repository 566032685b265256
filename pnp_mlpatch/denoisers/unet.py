"""U-Net (Ronneberger, Fischer, Brox 2015; as a denoiser Jin et al. 2017), by deepinv."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers._base import register
from pnp_mlpatch.denoisers._network import Network, shipped_or_own
from pnp_mlpatch.errors import InputError, WeightsError


class UNet(Network):
    """deepinv's U-Net with a map of sigma as a further input; the output is x minus what it gives.

    Parameters
    ----------
    channels : int
    widths : sequence of int
        Channels of the scales; (64, 128, 256, 512) makes 8 million parameters.
    batch_norm : bool
        That of deepinv. With it, an image depends on its batch during training.
    sigma_max : float or None
        Top of the trained noise range, in the units of the image. None: not known.

    Raises
    ------
    InputError
        For settings out of range.

    Notes
    -----
    The image is continued by replication to a multiple of the coarsest scale and cut back.

    References
    ----------
    Ronneberger, Fischer and Brox 2015; as a denoiser Jin et al. 2017.
    """

    kind = "unet"

    def __init__(
        self,
        channels: int = 1,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        batch_norm: bool = False,
        sigma_max: float | None = 60 / 255,
    ):
        if len(widths) < 2 or any(
            isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (channels, *widths)
        ):
            raise InputError(
                f"UNet: channels and at least two widths must be integers >= 1, "
                f"got {channels!r} and {widths!r}."
            )
        super().__init__(
            channels,
            sigma_max,
            {
                "channels": channels,
                "widths": list(widths),
                "batch_norm": batch_norm,
                "sigma_max": sigma_max,
            },
        )
        deepinv = require("deepinv", "The denoiser 'unet'")
        self.net = deepinv.models.UNet(
            in_channels=channels + 1,
            out_channels=channels,
            residual=False,
            batch_norm=batch_norm,
            channels_per_scale=list(widths),
        )
        self.multiple = 2 ** (len(widths) - 1)

    @classmethod
    def example(cls) -> UNet:
        return cls(widths=(4, 8, 8)).eval().requires_grad_(False)

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
        y = self.net(self.with_map(x, sigma, self.multiple))[..., : x.shape[-2], : x.shape[-1]].to(
            x.dtype
        )
        return x - y


@register("unet", needs=("deepinv",), network=UNet)
def unet(weights: str | PathLike[str] = "unet-grey") -> UNet:
    """Make a :class:`UNet` with weights of this package's training.

    Parameters
    ----------
    weights : str or path
        A shipped name, or a file.

    Returns
    -------
    UNet

    Raises
    ------
    MissingPackage
        Without deepinv.
    WeightsError
        For anything else.
    """
    own = shipped_or_own(weights)
    if own is None:
        raise WeightsError(
            f"unet: {weights} was not written by this package's training; "
            "wrap a foreign network with as_denoiser(...)."
        )
    return UNet.load(own)
