"""The Wiener filter of a shear map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing.estimators import check_maps, kernel, weights
from pnp_mlpatch.lensing.spectra import Spectrum, power, wavenumbers
from pnp_mlpatch.linalg import pcg


def wiener(
    gamma: Tensor,
    noise: Tensor,
    spectrum: Spectrum,
    pixel: Any,
    *,
    flip_ra: bool = False,
    tol: float = 1e-4,
    max_iter: int = 500,
) -> Tensor:
    r"""Compute the Wiener filter of a shear map with a mask and a noise map.

    It is the mean of the posterior if kappa were Gaussian and B = 0:

    .. math:: E = C^{1/2} y, \qquad
              (1 + C^{1/2} A^T N^{-1} A C^{1/2}) y = C^{1/2} A^T N^{-1} \gamma

    with C the spectrum, N = noise^2 and A the shear of an E map. The messenger field has the same
    fixed point; conjugate gradients need fewer steps.

    Parameters
    ----------
    gamma : Tensor, shape (B, 2, H, W)
        The shear.
    noise : Tensor, shape (H, W)
        Standard deviation of each component, infinite where nothing was measured.
    spectrum : callable
        C(l) in steradian, a function of l.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    flip_ra : bool
        See :class:`~pnp_mlpatch.lensing.fits.ShearMap`.
    tol : float
        Relative residual at which conjugate gradients stop.
    max_iter : int
        Most steps of conjugate gradients.

    Returns
    -------
    Tensor, shape (B, 1, H, W)
        E.

    Raises
    ------
    InputError
        If shapes do not fit, or ``tol`` is not reached.

    References
    ----------
    Elsner and Wandelt (2013), for the messenger field.
    """
    check_maps(gamma, "wiener", (2,))
    if noise.shape[-2:] != gamma.shape[-2:]:
        raise InputError(
            f"wiener: the noise map must be {tuple(gamma.shape[-2:])}, got {tuple(noise.shape)}."
        )
    w = weights(noise).to(gamma)
    d = kernel(gamma.shape, flip_ra=flip_ra, dtype=gamma.dtype).to(gamma.device)
    root = power(wavenumbers(gamma.shape, pixel), spectrum, pixel).sqrt().to(gamma)
    root = torch.where(d.abs() > 0, root, torch.zeros_like(root))

    def forward(y: Tensor) -> Tensor:  # A C^1/2 of real maps (B, 1, H, W), as complex shear
        return torch.fft.ifft2(d * root * torch.fft.fft2(y[:, 0]))

    def back(s: Tensor) -> Tensor:
        return torch.fft.ifft2(root * d.conj() * torch.fft.fft2(s)).real[:, None]

    b = back(w * torch.complex(gamma[:, 0], gamma[:, 1]))
    y, info = pcg(
        lambda y: y + back(w * forward(y)), b, torch.zeros_like(b), tol=tol, max_iter=max_iter
    )
    if float(info.residual.max()) > tol:
        raise InputError(
            f"wiener: the residual is {float(info.residual.max()):.2g} after {max_iter} steps, "
            f"wanted {tol:g}. Raise max_iter."
        )
    return torch.fft.ifft2(root * torch.fft.fft2(y)).real


__all__ = ["wiener"]
