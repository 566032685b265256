r"""The maps that people make without a denoiser: Kaiser-Squires, smoothed or not, and the Wiener filter.

Shear maps are (B, 2, H, W), gamma_1 and gamma_2, convergence maps (B, 2, H, W), E and B; axes and signs are those of
:mod:`pnp_mlpatch.operators.lensing`. A noise map (H, W) holds the standard deviation of each component, infinite where nothing was measured.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing.spectra import Spectrum, power, wavenumbers
from pnp_mlpatch.lensing.units import radians
from pnp_mlpatch.linalg import pcg


def kernel(
    shape: tuple[int, ...], *, flip_ra: bool = False, dtype: torch.dtype = torch.float64
) -> Tensor:
    """D(k) = (k_1^2 - k_2^2 + 2 i k_1 k_2) / |k|^2 at the frequencies of fft2, D(0) = 0: complex (H, W); its conjugate with ``flip_ra``."""
    rows, cols = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[-2:])
    square = (rows[:, None] ** 2 + cols[None] ** 2).clamp_min(1e-300)
    d = torch.complex(
        (cols[None] ** 2 - rows[:, None] ** 2) / square, 2 * cols[None] * rows[:, None] / square
    )
    return (d.conj().resolve_conj() if flip_ra else d).to(
        torch.complex64 if dtype == torch.float32 else torch.complex128
    )


def shear_of(kappa: Tensor, *, flip_ra: bool = False) -> Tensor:
    """gamma^ = D kappa^: the shear (B, 2, H, W) of maps (B, 2, H, W) of E and B, or (B, 1, H, W) of E, that repeat themselves."""
    _check(kappa, "shear_of", (1, 2))
    if kappa.shape[1] == 1:
        kappa = torch.cat([kappa, torch.zeros_like(kappa)], dim=1)
    return _times(kappa, kernel(kappa.shape, flip_ra=flip_ra, dtype=kappa.dtype).to(kappa.device))


def kaiser_squires(gamma: Tensor, *, flip_ra: bool = False) -> Tensor:
    """kappa^ = conj(D) gamma^: E and B (B, 2, H, W) of mean zero (Kaiser and Squires 1993). Put 0 where nothing was measured."""
    _check(gamma, "kaiser_squires", (2,))
    return _times(
        gamma, kernel(gamma.shape, flip_ra=flip_ra, dtype=gamma.dtype).conj().to(gamma.device)
    )


def smoothed(x: Tensor, width: Any, pixel: Any) -> Tensor:
    """Maps (..., H, W) smoothed by a Gaussian of standard deviation ``width``, an angle with its unit: x^ exp(-l^2 width^2 / 2)."""
    ell = wavenumbers(x.shape, pixel).to(x.device)
    return torch.fft.ifft2(
        torch.fft.fft2(x) * torch.exp(-0.5 * (ell * radians(width, "width")) ** 2).to(x.dtype)
    ).real


def optimal_width(
    noise: float | Tensor, spectrum: Spectrum, pixel: Any, shape: tuple[int, int] = (512, 512)
) -> str:
    r"""The width of the Gaussian that smooths Kaiser-Squires best, from the spectrum alone: "1.7 arcmin".

        argmin_w  sum_l C(l) (1 - G)^2 + N G^2,   G = exp(-l^2 w^2 / 2),  N = noise^2 p^2

    ``noise`` is a number or a map, whose harmonic mean of the variances over the measured pixels is taken. Widths from a
    quarter of a pixel to 64 pixels, to a thousandth.
    """
    variance = (
        1 / weights(noise)[weights(noise) > 0].mean()
        if isinstance(noise, Tensor)
        else torch.tensor(float(noise) ** 2)
    )
    ell = wavenumbers(shape, pixel)
    signal = power(ell, spectrum, pixel)

    def loss(x: float) -> float:
        G = torch.exp(-0.5 * (ell * math.exp(x)) ** 2)
        return float((signal * (1 - G) ** 2 + float(variance) * G**2).mean())

    p = radians(pixel)
    optimize = require("scipy.optimize", "The optimal width")
    found = optimize.minimize_scalar(
        loss, bounds=(math.log(p / 4), math.log(64 * p)), method="bounded", options={"xatol": 1e-3}
    )
    return f"{math.exp(found.x) * 10_800 / math.pi:.4g} arcmin"


def weights(noise: Tensor) -> Tensor:
    """The inverse variance (H, W) of a noise map; 0 where it is infinite. Raises :class:`InputError` for noise that is NaN or not positive."""
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise InputTypeError(
            "noise: expected a floating tensor (H, W), standard deviations, infinite where nothing was measured."
        )
    bad = int((~(noise > 0)).sum())
    if bad or not bool(torch.isfinite(noise).any()):
        raise InputError(
            f"noise: {bad} pixels are NaN or not > 0, {int(torch.isfinite(noise).sum())} of {noise.numel()} are measured. "
            "Give standard deviations > 0, infinite where nothing was measured."
        )
    return noise.square().reciprocal()


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
    r"""The Wiener filter for a mask and a noise map: E (B, 1, H, W), the mean of the posterior if kappa were Gaussian, B = 0.

        E = C^1/2 y,   (1 + C^1/2 A^T N^-1 A C^1/2) y = C^1/2 A^T N^-1 gamma

    with C the ``spectrum``, N = noise^2 and A the shear of an E map. It is the fixed point of the messenger field (Elsner and Wandelt 2013),
    found by conjugate gradients to the relative residual ``tol``, which needs fewer steps. Raises :class:`InputError` for
    shapes that do not fit, and if ``tol`` is not reached.
    """
    _check(gamma, "wiener", (2,))
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
            f"wiener: the residual is {float(info.residual.max()):.2g} after {max_iter} steps, wanted {tol:g}. Raise max_iter."
        )
    return torch.fft.ifft2(root * torch.fft.fft2(y)).real


def from_reduced(g: Tensor, kappa: Tensor) -> Tensor:
    """gamma = g (1 - kappa): the shear of a reduced shear g (B, 2, H, W), given an estimate of E (B, 1 or 2, H, W)."""
    return g * (1 - kappa[:, :1])


def reduced(gamma: Tensor, kappa: Tensor) -> Tensor:
    """g = gamma / (1 - kappa), what the shapes of galaxies measure. Raises :class:`InputError` where kappa >= 1, inside a strong lens."""
    if not bool((kappa[:, :1] < 1).all()):
        raise InputError(
            "reduced: kappa must be below 1 everywhere; it is the convergence, dimensionless."
        )
    return gamma / (1 - kappa[:, :1])


def _times(x: Tensor, d: Tensor) -> Tensor:
    field = torch.fft.ifft2(d * torch.fft.fft2(torch.complex(x[:, 0], x[:, 1])))
    return torch.stack([field.real, field.imag], dim=1)


def _check(x: Tensor, who: str, channels: tuple[int, ...]) -> None:
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise InputTypeError(f"{who}: expected a float32 or float64 tensor of maps (B, 2, H, W).")
    if x.ndim != 4 or x.shape[1] not in channels:
        raise InputError(
            f"{who}: expected maps (B, {' or '.join(map(str, channels))}, H, W), got {tuple(x.shape)}."
        )
    if not bool(torch.isfinite(x).all()):
        raise InputError(
            f"{who}: {int((~torch.isfinite(x)).sum())} values are NaN or infinite. Put 0 there, and no weight."
        )


__all__ = [
    "from_reduced",
    "kaiser_squires",
    "kernel",
    "optimal_width",
    "reduced",
    "shear_of",
    "smoothed",
    "weights",
    "wiener",
]
