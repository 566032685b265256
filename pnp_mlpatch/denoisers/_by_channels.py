"""Networks for grey and for colour images as one denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from pnp_mlpatch.denoisers._base import DenoiserInfo, check_image
from pnp_mlpatch.denoisers._network import Network
from pnp_mlpatch.errors import InputError


class ByChannels(nn.Module):
    """Networks of one kind, of which the number of channels of the image chooses one.

    Parameters
    ----------
    networks : mapping of str to Network
        Their names, for messages, and networks of different numbers of channels.
    """

    def __init__(self, networks: Mapping[str, Network]):
        super().__init__()
        self.names = tuple(networks)
        self.networks = nn.ModuleList(networks.values())
        self.eval()

    @property
    def info(self) -> DenoiserInfo:
        """What holds for all of the networks."""
        known = [cast(Network, network).info for network in self.networks]
        ranges = [info.sigma_range for info in known if info.sigma_range]
        sizes = {info.trained_size for info in known}
        return DenoiserInfo(
            name=known[0].name,
            sigma=known[0].sigma,
            sigma_range=(max(r[0] for r in ranges), min(r[1] for r in ranges)) if ranges else None,
            field=max(info.field or 0 for info in known),
            trained_size=sizes.pop() if len(sizes) == 1 else None,
        )

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise images by the network that has their number of channels.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        sigma : float or Tensor, shape (B,) or (B, 1, H, W)
            Standard deviation of the noise, in the units of ``x``.

        Returns
        -------
        Tensor, shape (B, C, H, W)

        Raises
        ------
        InputError
            If no network has C channels.
        """
        who = self.info.name
        check_image(x, who)
        for network in self.networks:
            if network.channels == x.shape[1]:
                return network(x, sigma)
        there = " and ".join(
            f"{name} ({network.channels})"
            for name, network in zip(self.names, self.networks, strict=True)
        )
        raise InputError(
            f"{who}: the image has {x.shape[1]} channels; there are weights for these numbers of "
            f"channels: {there}. Choose one by weights=, and run a one-channel network on every "
            "channel with per_channel(D)."
        )
