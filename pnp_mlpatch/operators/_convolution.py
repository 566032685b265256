r"""Convolutions of images that end somewhere, by circular ones on a frame.

.. math:: A = S \, C \, E

E extends the image to the frame, C is a circular convolution there, and S cuts out the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of

BOUNDARIES = ("circular", "reflect", "valid")
ROUNDING = 1e-12  # relative: sums of kernels, differences to their mirror image


@dataclass(frozen=True)
class Frame:
    """Where a convolution is circular, and which part of it are the data.

    Parameters
    ----------
    image : tuple of int
        (H, W).
    psf : tuple of int
        (K, L); its element (K // 2, L // 2) is the centre.
    boundary : {"circular", "reflect", "valid"}
        What lies beyond the border of the image: its opposite side, its mirror image, or nothing;
        then only data that see no border are kept.
    """

    image: tuple[int, int]
    psf: tuple[int, int]
    boundary: str

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the frame."""
        height, width = self.image
        return (2 * height, 2 * width) if self.boundary == "reflect" else self.image

    @property
    def data(self) -> tuple[int, int]:
        """Rows and columns of the data."""
        if self.boundary != "valid":
            return self.image
        return self.image[0] - self.psf[0] + 1, self.image[1] - self.psf[1] + 1

    @property
    def margins(self) -> tuple[int, int, int, int]:
        """What of the frame is beyond the data: left, right, above, below."""
        top, left = ((n - 1) // 2 if self.boundary == "valid" else 0 for n in self.psf)
        (rows, columns), (height, width) = self.size, self.data
        return left, columns - width - left, top, rows - height - top

    @property
    def copies(self) -> int:
        """How often E repeats the image, so that E^H E is this number."""
        return 4 if self.boundary == "reflect" else 1

    def extend(self, x: Tensor) -> Tensor:
        """Apply E."""
        if self.boundary != "reflect":
            return x
        x = torch.cat([x, x.flip(-1)], -1)
        return torch.cat([x, x.flip(-2)], -2)

    def fold(self, y: Tensor) -> Tensor:
        """Apply E^H."""
        if self.boundary != "reflect":
            return y
        height, width = self.image
        y = y[..., :height, :] + y[..., height:, :].flip(-2)
        return y[..., :width] + y[..., width:].flip(-1)

    def crop(self, y: Tensor) -> Tensor:
        """Apply S."""
        if self.data == self.size:  # a slice of all would hide from torch.vmap
            return y
        left, _, top, _ = self.margins
        height, width = self.data
        return y[..., top : top + height, left : left + width]

    def place(self, q: Tensor) -> Tensor:
        """Apply S^H."""
        return q if self.data == self.size else F.pad(q, self.margins)

    def beyond(self, y: Tensor) -> Tensor:
        """Return y with 0 where there are data, 1 - S^H S."""
        return y - self.place(self.crop(y))

    def transfer(self, psf: Tensor) -> Tensor:
        """Return the transfer function of C as real pairs (..., rows, columns // 2 + 1, 2)."""
        (height, width), (rows, columns) = psf.shape[-2:], self.size
        kernel = F.pad(psf.double(), (0, columns - width, 0, rows - height))
        kernel = kernel.roll((-(height // 2), -(width // 2)), (-2, -1))
        return torch.view_as_real(torch.fft.rfft2(kernel))


def filtered(x: Tensor, transfer: Tensor) -> Tensor:
    """Return the circular convolution of x with what has this transfer function.

    Parameters
    ----------
    x : Tensor, shape (..., rows, columns)
        Images.
    transfer : Tensor, shape (..., rows, columns // 2 + 1)
        Real or complex.

    Returns
    -------
    Tensor, shape (..., rows, columns)
    """
    return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])


def complex_of(pairs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a stored transfer function as complex numbers, in the precision of the real dtype."""
    return torch.view_as_complex(pairs.to(dtype).contiguous())


def check_boundary(who: str, boundary: Any) -> str:
    """Return the boundary; raise :class:`InputError` if it is unknown."""
    if boundary not in BOUNDARIES:
        raise InputError(
            f"{who}: boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}. "
            "Photographs have 'valid': the camera sees no mirror and no other side."
        )
    return boundary


def check_psf(who: str, psf: Any, image: tuple[int, int]) -> Tensor:
    """Return a point spread function in float64; raise unless it is one that fits the image.

    Parameters
    ----------
    who : str
        Who takes it, for messages.
    psf : Tensor, shape (K, L)
        The point spread function.
    image : tuple of int
        (H, W).

    Returns
    -------
    Tensor, shape (K, L)
    """
    height, width = image
    if not isinstance(psf, Tensor) or psf.is_complex():
        raise InputTypeError(f"{who}: psf must be a real torch tensor (K, L).")
    if psf.ndim != 2 or psf.numel() == 0 or psf.shape[0] > height or psf.shape[1] > width:
        raise InputError(
            f"{who}: psf must be (K, L), not larger than the image {height} x {width}, "
            f"got {tuple(psf.shape)}. Cut what is 0 at its sides, or take a larger image."
        )
    psf = weights_of(psf.detach(), f"{who}: psf").double()
    if not bool(torch.isfinite(psf).all()) or not bool(psf.any()):
        raise InputError(f"{who}: psf must be finite and not zero everywhere.")
    total = float(psf.sum())
    if total <= ROUNDING * float(psf.abs().sum()):
        raise InputError(
            f"{who}: psf must have a sum > 0 (1, if brightness is kept), got {total:g}. A blur "
            "does not take the mean of an image away; make other filters by interop.from_functions."
        )
    return psf


def mirrored(psf: Tensor) -> bool:
    """Return whether a point spread function is its mirror image in both directions."""
    if psf.shape[0] % 2 == 0 or psf.shape[1] % 2 == 0:
        return False
    most = ROUNDING * float(psf.abs().max())
    return all(float((psf - psf.flip(axis)).abs().max()) <= most for axis in (0, 1))


__all__ = [
    "BOUNDARIES",
    "Frame",
    "check_boundary",
    "check_psf",
    "complex_of",
    "filtered",
    "mirrored",
]
