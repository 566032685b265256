"""Blur: circular convolution with a known point spread function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of
from pnp_mlpatch.operators._base import register
from pnp_mlpatch.operators._decomposable import DecomposableOperator


@register("blur")
class Blur(DecomposableOperator):
    r"""Circular convolution with a point spread function; each channel is blurred alike.

    .. math:: (A x)_{ij} = \sum_{kl} p_{kl} \, x_{i - (k - \lfloor K/2 \rfloor), \,
                                                  j - (l - \lfloor L/2 \rfloor)}

    with indices modulo (H, W). U is the unitary FFT, d the FFT of the point spread function.

    Parameters
    ----------
    psf : Tensor, shape (K, L)
        The point spread function, not larger than the image. Its element (K // 2, L // 2) is the
        centre.
    image_shape : sequence of int
        (C, H, W).

    Raises
    ------
    InputError
        If ``psf`` has another rank, is larger than the image, not finite, or zero everywhere.
    InputTypeError
        If ``psf`` is not a real tensor.
    """

    constructors = ("gaussian",)

    def __init__(self, psf: Tensor, image_shape: Sequence[int]):
        super().__init__(image_shape, image_shape)
        if not isinstance(psf, Tensor) or psf.is_complex():
            raise InputTypeError("Blur: psf must be a real torch tensor (K, L).")
        height, width = self.image_shape[1:]
        if psf.ndim != 2 or psf.numel() == 0 or psf.shape[0] > height or psf.shape[1] > width:
            raise InputError(
                f"Blur: psf must be (K, L), not larger than the image {height} x {width}, "
                f"got {tuple(psf.shape)}."
            )
        psf = weights_of(psf.detach(), "Blur: psf").double()
        if not bool(torch.isfinite(psf).all()) or not bool(psf.any()):
            raise InputError("Blur: psf must be finite and not zero everywhere.")
        kernel = torch.zeros(height, width, dtype=torch.float64, device=psf.device)
        kernel[: psf.shape[0], : psf.shape[1]] = psf
        kernel = kernel.roll((-(psf.shape[0] // 2), -(psf.shape[1] // 2)), (0, 1))
        self.otf: Tensor
        self.register_buffer("otf", torch.view_as_real(torch.fft.rfft2(kernel)))

    @classmethod
    def gaussian(cls, image_shape: Sequence[int], width: float) -> Blur:
        """Make a Gaussian blur.

        Parameters
        ----------
        image_shape : sequence of int
            (C, H, W).
        width : float
            The standard deviation in pixels, > 0. The kernel has about 6 ``width`` + 1 rows, which
            must fit into the image.

        Returns
        -------
        Blur
        """
        return cls(gaussian_psf(width), image_shape)

    @classmethod
    def example(cls) -> Blur:
        psf = torch.tensor([[0.0, 0.1, 0.05], [0.2, 0.3, 0.1], [0.05, 0.1, 0.1], [0.0, 0.05, 0.0]])
        return cls(psf, (2, 8, 11))

    def _d(self, dtype: torch.dtype) -> Tensor:
        return torch.view_as_complex(self.otf.to(dtype).contiguous())

    def _u(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x, norm="ortho")

    def _uh(self, s: Tensor) -> Tensor:
        return torch.fft.irfft2(s, s=self.image_shape[1:], norm="ortho")

    def _v(self, s: Tensor) -> Tensor:
        return self._uh(s)

    def _vh(self, y: Tensor) -> Tensor:
        return self._u(y)

    def _initial(self, q: Tensor) -> Tensor:
        return q.clone()


def gaussian_psf(sigma: float, size: int | None = None) -> Tensor:
    """Return a Gaussian point spread function with sum 1.

    Parameters
    ----------
    sigma : float
        The standard deviation in pixels, > 0.
    size : int, optional
        The number of rows and columns, odd; an even one is raised by 1. By default the kernel ends
        at 3 standard deviations.

    Returns
    -------
    Tensor, shape (size, size), float64
    """
    if not (finite_number(sigma) and sigma > 0):
        raise InputError(f"gaussian_psf: sigma must be finite and > 0, got {sigma!r}.")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InputError(f"gaussian_psf: size must be an integer >= 1, got {size!r}.")
    half = (size // 2) if size else max(1, round(3 * sigma))
    t = torch.arange(-half, half + 1, dtype=torch.float64)
    g = torch.exp(-(t**2) / (2 * sigma**2))
    psf = g[:, None] * g
    return psf / psf.sum()
