"""DRU-Net (Zhang et al. 2021), by deepinv."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers._base import register
from pnp_mlpatch.denoisers._network import Network, load_state, shipped_or_own
from pnp_mlpatch.errors import InputError, WeightsError

PUBLISHED = (64, 128, 256, 512)


class DRUNet(Network):
    """deepinv's DRU-Net, for images in [0, 1].

    Parameters
    ----------
    channels : int
        1 or 3.
    nc : sequence of int
        Widths of the four scales. Published: (64, 128, 256, 512), 32.6 million parameters;
        (32, 64, 128, 256) makes 8.16 million.
    nb : int
        Residual blocks at each scale.
    sigma_max : float or None
        Top of the trained noise range, in the units of the image. None: not known.

    Raises
    ------
    InputError
        For settings out of range.

    Notes
    -----
    The image is continued by replication to multiples of 8 and cut back.

    References
    ----------
    Zhang et al. 2021.
    """

    kind = "drunet"

    def __init__(
        self,
        channels: int = 1,
        *,
        nc: Sequence[int] = PUBLISHED,
        nb: int = 4,
        sigma_max: float | None = 60 / 255,
    ):
        if channels not in (1, 3):
            raise InputError(f"DRUNet: channels must be 1 or 3, got {channels!r}.")
        if len(nc) != 4 or any(
            isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (*nc, nb)
        ):
            raise InputError(
                f"DRUNet: nc must be four widths >= 1 and nb an integer >= 1, "
                f"got {nc!r} and {nb!r}."
            )
        super().__init__(
            channels,
            sigma_max,
            {"channels": channels, "nc": list(nc), "nb": nb, "sigma_max": sigma_max},
        )
        deepinv = require("deepinv", "The denoiser 'drunet'")
        self.net = deepinv.models.DRUNet(
            in_channels=channels, out_channels=channels, nc=tuple(nc), nb=nb, pretrained=None
        )

    @classmethod
    def example(cls) -> DRUNet:
        return cls(nc=(4, 8, 8, 8), nb=1).eval().requires_grad_(False)

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
        return self.net.forward_unet(self.with_map(x, sigma, 8))[
            ..., : x.shape[-2], : x.shape[-1]
        ].to(x.dtype)


@register("drunet", needs=("deepinv",), network=DRUNet)
def drunet(
    weights: str | PathLike[str] | None = "drunet-grey",
    channels: int = 1,
    *,
    nc: Sequence[int] = PUBLISHED,
) -> DRUNet:
    """Make a :class:`DRUNet` with weights.

    Parameters
    ----------
    weights : str or path or None
        A shipped name, a file of this package's training, the path of a state dict, "download", or
        None for an untrained network. "download" fetches the weights that deepinv publishes, which
        needs the network once and the default ``nc``. They are read as tensors only, no code in
        them is run. Their sha256 is not published: where it matters, give the path of a checked
        file.
    channels : int
        1 or 3. A file of this package's training brings its own.
    nc : sequence of int
        As in :class:`DRUNet`. A file of this package's training brings its own.

    Returns
    -------
    DRUNet

    Raises
    ------
    MissingPackage
        Without deepinv.
    WeightsError
        If the weights are missing, damaged or of another shape.
    """
    own = None if weights is None or weights == "download" else shipped_or_own(weights)
    if own is not None:
        return DRUNet.load(own)
    model = DRUNet(channels, nc=nc, sigma_max=None)
    if weights == "download":
        load_state(model.net, _downloaded(channels), "drunet")
    elif weights is not None:
        load_state(model.net, Path(weights), "drunet")
    return model.eval().requires_grad_(False)


def _downloaded(channels: int) -> Path:
    """Get deepinv's published weights, from torch's cache or from the network."""
    name = (
        "drunet_deepinv_gray_finetune_26k.pth"
        if channels == 1
        else "drunet_deepinv_color_finetune_22k.pth"
    )
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    try:
        url = require("deepinv.models.utils", "The denoiser 'drunet'").get_weights_url(
            model_name="drunet", file_name=name
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)  # whole or not at all
    except Exception as error:  # of urllib, ssl and the system, a dozen kinds
        raise WeightsError(
            f"drunet: the published weights could not be downloaded "
            f"({type(error).__name__}: {error}). Give the path of a local file instead."
        ) from error
    return path
