"""Blur: convolution with a known point spread function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.operators._base import LinearOperator, Map, register
from pnp_mlpatch.operators._convolution import (
    Frame,
    check_boundary,
    check_psf,
    complex_of,
    filtered,
    mirrored,
)
from pnp_mlpatch.operators._psf import disk_psf, gaussian_psf, motion_psf, path_psf, read_psf


@register("blur")
class Blur(LinearOperator):
    r"""Convolution with a point spread function; each channel is blurred alike.

    .. math:: (A x)_{ij} = \sum_{kl} p_{kl} \, x_{i - (k - \lfloor K/2 \rfloor), \,
                                                  j - (l - \lfloor L/2 \rfloor)}

    Parameters
    ----------
    psf : Tensor, shape (K, L)
        The point spread function, not larger than the image. Its element (K // 2, L // 2) is the
        centre.
    image_shape : sequence of int
        (C, H, W), with "valid" that of the image, which is larger than the data.
    boundary : {"circular", "reflect", "valid"}
        What x is beyond its border. "circular": its opposite side, indices modulo (H, W).
        "reflect": its mirror image, :math:`x_{-1} = x_0`. "valid", the case of a camera: unknown,
        so the data are only those that do not see it, (C, H - K + 1, W - L + 1), and the image
        is reconstructed with its border.

    Attributes
    ----------
    frame : Frame
        ``frame.crop(x)`` cuts an image to the area of the data.

    Raises
    ------
    InputError
        If ``psf`` has another rank, is larger than the image, not finite, or has no sum > 0; if
        ``boundary`` is unknown.
    InputTypeError
        If ``psf`` is not a real tensor.

    Notes
    -----
    A = S C E, where E extends the image to a frame, C is a circular convolution, diagonal in the
    Fourier basis, and S cuts out the data. The data step is exact for "circular", and for "reflect"
    with a psf that is its mirror image in both directions:

    .. math:: (A^H A + \alpha)^{-1} = E^H M^{-1} E / n, \qquad M = C^H C + \alpha,

    where n is the number of copies of the image in the frame. Otherwise it takes conjugate
    gradients. For "reflect" this is the preconditioner. For "valid" with T, which cuts out what is
    unknown of the frame, it is what Woodbury's identity gives,

    .. math:: M^{-1} + M^{-1} C^H T^H \, G \, T C M^{-1}, \qquad
              G^{-1} = \alpha \, T (C C^H + \alpha)^{-1} T^H,

    with :math:`T (C C^H + \alpha) T^H / \alpha` for G. It takes less than half the steps that
    :math:`M^{-1}` takes.

    References
    ----------
    Almeida and Figueiredo 2013; Matakos, Ramani and Fessler 2013.
    """

    constructors = ("gaussian", "motion", "disk")

    def __init__(self, psf: Tensor, image_shape: Sequence[int], boundary: str = "circular"):
        super().__init__(image_shape, image_shape)
        channels, height, width = self.image_shape
        psf = check_psf("Blur", psf, (height, width))
        self.boundary = check_boundary("Blur", boundary)
        self.frame = Frame((height, width), (psf.shape[0], psf.shape[1]), boundary)
        self.data_shape = (channels, *self.frame.data)
        self.exact = boundary == "circular" or (boundary == "reflect" and mirrored(psf))
        self.otf: Tensor
        self.register_buffer("otf", self.frame.transfer(psf))

    @classmethod
    def gaussian(cls, image_shape: Sequence[int], width: float, boundary: str = "circular") -> Blur:
        """Make a Gaussian blur.

        Parameters
        ----------
        image_shape : sequence of int
            (C, H, W).
        width : float
            The standard deviation in pixels, > 0. The kernel has about 6 ``width`` + 1 rows, which
            must fit into the image.
        boundary : {"circular", "reflect", "valid"}
            What the image is beyond its border.

        Returns
        -------
        Blur
        """
        return cls(gaussian_psf(width), image_shape, boundary)

    @classmethod
    def motion(
        cls,
        image_shape: Sequence[int],
        length: float,
        angle: float = 0.0,
        boundary: str = "circular",
    ) -> Blur:
        """Make the blur of a motion along a line.

        Parameters
        ----------
        image_shape : sequence of int
            (C, H, W).
        length : float
            Of the line, in pixels, > 0.
        angle : float
            Of the line, in radians, counter-clockwise from the direction of the rows.
        boundary : {"circular", "reflect", "valid"}
            What the image is beyond its border.

        Returns
        -------
        Blur
        """
        return cls(motion_psf(length, angle), image_shape, boundary)

    @classmethod
    def disk(cls, image_shape: Sequence[int], radius: float, boundary: str = "circular") -> Blur:
        """Make the blur of a lens out of focus.

        Parameters
        ----------
        image_shape : sequence of int
            (C, H, W).
        radius : float
            Of the disk, in pixels, > 0.
        boundary : {"circular", "reflect", "valid"}
            What the image is beyond its border.

        Returns
        -------
        Blur
        """
        return cls(disk_psf(radius), image_shape, boundary)

    @classmethod
    def example(cls) -> Blur:
        psf = torch.tensor([[0.0, 0.1, 0.05], [0.2, 0.3, 0.1], [0.05, 0.1, 0.1], [0.0, 0.05, 0.0]])
        return cls(psf, (2, 8, 11))

    @property
    def closed_form(self) -> bool:
        """Whether the data step has a closed form; it takes iterations otherwise."""
        return self.exact

    def _transfer(self, dtype: torch.dtype) -> Tensor:
        return complex_of(self.otf, dtype)

    def _forward(self, x: Tensor) -> Tensor:
        frame = self.frame
        return frame.crop(filtered(frame.extend(x), self._transfer(x.dtype))).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        frame = self.frame
        return frame.fold(filtered(frame.place(y), self._transfer(y.dtype).conj()))

    def _normal(self, x: Tensor) -> Tensor:
        if self.boundary == "circular":
            return filtered(x, self._power(x.dtype))
        return super()._normal(x)

    def _power(self, dtype: torch.dtype) -> Tensor:
        return self.otf.to(dtype).square().sum(-1)

    def _inverse(self, alpha: Tensor) -> Map | None:
        return self._precondition(alpha) if self.exact else None

    def _precondition(self, alpha: Tensor) -> Map:
        frame, power = self.frame, self._power(alpha.dtype) + alpha
        if self.boundary != "valid":
            values = 1 / (frame.copies * power)
            return lambda b: frame.fold(filtered(frame.extend(b), values))
        transfer = self._transfer(alpha.dtype)

        def solve(r: Tensor) -> Tensor:
            whole = torch.fft.rfft2(r) / power
            unknown = frame.beyond(torch.fft.irfft2(transfer * whole, s=frame.size))
            unknown = frame.beyond(filtered(unknown, power / alpha))
            whole = whole + transfer.conj() * torch.fft.rfft2(unknown) / power
            return torch.fft.irfft2(whole, s=frame.size)

        return solve

    def _initial(self, q: Tensor) -> Tensor:
        """Return the data, continued to the border of the image by their outermost values."""
        if self.boundary != "valid":
            return q.clone()
        return F.pad(q, self.frame.margins, mode="replicate")


__all__ = ["Blur", "disk_psf", "gaussian_psf", "motion_psf", "path_psf", "read_psf"]
