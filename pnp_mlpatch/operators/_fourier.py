"""Complex images as two channels, and their centred Fourier transform."""

from __future__ import annotations

import torch
from torch import Tensor

AXES = (-2, -1)


def joined(x: Tensor) -> Tensor:
    """Return real and imaginary parts as complex numbers.

    Parameters
    ----------
    x : Tensor, shape (..., 2, H, W)

    Returns
    -------
    Tensor, shape (..., H, W)
    """
    return torch.complex(x[..., 0, :, :], x[..., 1, :, :])


def pair(x: Tensor) -> Tensor:
    """Return complex numbers as their real and imaginary parts, the inverse of :func:`joined`.

    Parameters
    ----------
    x : Tensor, shape (..., H, W)

    Returns
    -------
    Tensor, shape (..., 2, H, W)
    """
    return torch.stack([x.real, x.imag], dim=-3)


def transform(x: Tensor, *, back: bool = False) -> Tensor:
    """Apply the centred unitary Fourier transform.

    Parameters
    ----------
    x : Tensor, shape (..., H, W)
        Complex.
    back : bool
        Apply the inverse.

    Returns
    -------
    Tensor, shape (..., H, W)
    """
    fft = torch.fft.ifft2 if back else torch.fft.fft2
    return torch.fft.fftshift(fft(torch.fft.ifftshift(x, AXES), norm="ortho"), AXES)


def middle(x: Tensor, part: int = 2) -> Tensor:
    """Cut the middle out of a plane.

    Parameters
    ----------
    x : Tensor, shape (H, W)
    part : int
        1 / part of the rows and of the columns is left, at least one.

    Returns
    -------
    Tensor
    """
    for axis, n in enumerate(x.shape):
        length = max(1, n // part)
        x = x.narrow(axis, n // 2 - length // 2, length)
    return x
