"""Denoisers of grey images for complex images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pnp_mlpatch.denoisers._base import Denoiser, check_image, sigma_column
from pnp_mlpatch.denoisers._by_channels import ByChannels
from pnp_mlpatch.denoisers._wrapper import Wrapper, checked_result, describe
from pnp_mlpatch.errors import InputError


class complex_channels(Wrapper):
    r"""A one-channel D for complex images x = a + i b, given as two channels (a, b).

    The mode "parts" denoises both parts by themselves; they are in [-1, 1], and D gets them in
    [0, 1]. The mode "magnitude" keeps the phase.

    .. math:: 2 D \bigl(\tfrac{a + 1}{2}, \tfrac{\sigma}{2}\bigr) - 1 +
        i \bigl[ 2 D \bigl(\tfrac{b + 1}{2}, \tfrac{\sigma}{2}\bigr) - 1 \bigr] \qquad
        \frac{x}{|x|} \max(0, D(|x|, \sigma))

    Parameters
    ----------
    D : Denoiser
        One of one channel, for images in [0, 1]. Its sigma may be a map (B, 1, H, W). For other
        magnitudes wrap the result: ``rescaled(complex_channels(D), scale)``.
    mode : str
        "parts": at twice the cost, for solvers, since missing samples spoil the phase too.
        "magnitude": for images whose phase is right but for noise.

    Raises
    ------
    InputError
        For another mode, or a D of another number of channels.

    Notes
    -----
    sigma is the standard deviation of the noise of a and of b. In the magnitude, noise has the same
    where :math:`|x| \gg \sigma`, and a mean of about :math:`1.25 \sigma` where x is 0.
    """

    def __init__(self, D: Denoiser, mode: str = "parts"):
        super().__init__(D, "complex_channels")
        if mode not in ("magnitude", "parts"):
            raise InputError(
                f"complex_channels: mode must be 'magnitude' or 'parts', got {mode!r}."
            )
        if self.known.channels not in (None, 1):
            raise InputError(
                f"complex_channels: D must take one channel, {self.known.name} takes "
                f"{self.known.channels}."
            )
        self.settings = {"mode": mode}
        levels = self.known.sigma_range
        if levels is not None and mode == "parts":
            levels = (2 * levels[0], 2 * levels[1])
        self.tell(replace(self.info, channels=2, sigma_range=levels))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        who = f"complex_channels({self.known.name})"
        check_image(x, who, 2)
        if self.settings["mode"] == "magnitude":
            size = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            y = checked_result(self.inner(size, sigma), size, self.known.name).clamp_min(0)
            return x * (y / size.clamp_min(torch.finfo(x.dtype).tiny))
        if isinstance(sigma, Tensor) and sigma.numel() > 1:
            level = sigma_column(sigma, x, who, maps=True).repeat_interleave(2, 0)
            sigma = level if level.shape[2:] == x.shape[2:] and sigma.ndim == 4 else level.flatten()
        parts = (x.reshape(-1, 1, *x.shape[2:]) + 1) / 2
        y = checked_result(self.inner(parts, sigma / 2), parts, self.known.name)
        return (2 * y - 1).reshape(x.shape)


def for_complex(D: Denoiser) -> Denoiser:
    """Return D for complex images of two channels.

    Parameters
    ----------
    D : Denoiser
        Any denoiser.

    Returns
    -------
    Denoiser
        ``complex_channels(D)`` if D is known to take grey images and not two channels, else D.
    """
    if isinstance(D, ByChannels):
        takes = {network.channels for network in D.networks}
        return complex_channels(D) if 1 in takes and 2 not in takes else D
    return complex_channels(D) if describe(D).channels == 1 else D
