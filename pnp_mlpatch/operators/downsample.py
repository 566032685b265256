r"""Super-resolution: circular convolution, then every s-th pixel.

The grid: the operator keeps the pixels s k of each axis, as Zhao et al. 2016, DPIR and deepinv do.
A datum stands for the place s k + c in the image, with c the centroid of the point spread function:

- c = 0 for a symmetric one of odd size: the grid of DPIR and of deepinv's ``Downsampling``.
- c = (s - 1) / 2 for :meth:`Downsample.bicubic` and :meth:`Downsample.gaussian`: the middle of a
  square of s x s pixels (half-pixel centres), the grid of MATLAB's ``imresize`` and of
  ``F.interpolate(align_corners=False)``.

``initial`` takes c into account, so it lies over the image on both grids. They are equally hard:
scores on one compare with scores on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of
from pnp_mlpatch.operators._base import LinearOperator, Map, register
from pnp_mlpatch.operators._inputs import check_image_shape

LEAST_SUM = 1e-6  # of a psf, relative to the sum of its magnitudes


@register("downsample")
class Downsample(LinearOperator):
    r"""Blur and decimation by an integer s, :math:`A = S_s B`; each channel alike.

    .. math:: (A x)_{kl} = (p * x)_{s k, \, s l}

    with the circular convolution of :class:`~pnp_mlpatch.operators.blur.Blur`. Since
    :math:`A A^H` is a convolution on the small grid, the data step is exact:

    .. math:: (A^H A + \alpha)^{-1} b =
        \left[ b - A^H (A A^H + \alpha)^{-1} A b \right] / \alpha

    It is computed in float64, since for a small alpha the difference cancels.

    Parameters
    ----------
    psf : Tensor, shape (K, L)
        The point spread function p on the grid of the image, not larger than the image, with a
        positive sum. Its element (K // 2, L // 2) lies on the pixel that is kept.
    factor : int
        s >= 2. It divides H and W.
    image_shape : sequence of int
        (C, H, W). The data are (C, H / s, W / s).

    Raises
    ------
    InputError
        If ``factor`` is smaller than 2, larger than the image, or does not divide it; if ``psf``
        has another rank, is larger than the image, not finite, or has no positive sum.
    InputTypeError
        If ``psf`` is not a real tensor.

    Notes
    -----
    ``initial`` is bicubic interpolation (Keys 1981), shifted by the centroid of ``psf`` and divided
    by its sum. A and its start wrap around at the borders. Of other pictures disregard a border of
    half the size of ``psf``, or give the data there an infinite noise.

    References
    ----------
    Zhao, Wei, Basarab, Dobigeon, Kouame and Tourneret 2016.
    """

    constructors = ("bicubic", "gaussian")

    def __init__(self, psf: Tensor, factor: int, image_shape: Sequence[int]):
        channels, height, width = check_image_shape("Downsample", image_shape)
        self.factor = _checked_factor(factor, height, width)
        super().__init__(image_shape, (channels, height // factor, width // factor))
        psf = _checked_psf(psf, height, width)
        self.gain = float(psf.sum())
        self.shift = _centroid(psf)
        kernel = torch.zeros(height, width, dtype=torch.float64, device=psf.device)
        kernel[: psf.shape[0], : psf.shape[1]] = psf
        otf = torch.fft.rfft2(kernel.roll((-(psf.shape[0] // 2), -(psf.shape[1] // 2)), (0, 1)))
        power = torch.fft.irfft2(otf.abs().square(), s=(height, width))
        values = torch.fft.rfft2(power[::factor, ::factor]).real.clamp_min(0)
        self.otf: Tensor
        self.register_buffer("otf", torch.view_as_real(otf))
        self.values: Tensor  # the eigenvalues of A A^H
        self.register_buffer("values", values)

    @classmethod
    def bicubic(cls, image_shape: Sequence[int], factor: int) -> Downsample:
        """Make the shrinking of pictures: antialiased bicubic interpolation.

        In the interior it equals MATLAB's ``imresize`` and ``F.interpolate(mode="bicubic",
        antialias=True)``; at the border those reflect or cut, and this wraps around. A datum is the
        middle of its square of pixels.

        Parameters
        ----------
        image_shape : sequence of int
            (C, H, W).
        factor : int
            s >= 2. The kernel has 5 s pixels at most, which must fit into the image.

        Returns
        -------
        Downsample
        """
        size = _whole(factor)
        return cls(_around_middle(lambda t: _cubic(t / size), 2 * size, size), factor, image_shape)

    @classmethod
    def gaussian(cls, image_shape: Sequence[int], factor: int, width: float) -> Downsample:
        """Make a Gaussian blur and decimation. A datum is the middle of its square of pixels.

        For the grid of DPIR take ``Downsample(gaussian_psf(width), factor, image_shape)``.

        Parameters
        ----------
        image_shape : sequence of int
            (C, H, W).
        factor : int
            s >= 2.
        width : float
            The standard deviation in pixels of the image, > 0. The kernel ends at 3 widths, and has
            about 6 ``width`` + s pixels, which must fit into the image.

        Returns
        -------
        Downsample
        """
        if not (finite_number(width) and width > 0):
            raise InputError(f"Downsample.gaussian: width must be finite and > 0, got {width!r}.")

        def weight(t: Tensor) -> Tensor:  # relative to the largest, which must not vanish
            return torch.exp((t.square().min() - t.square()) / (2 * width**2))

        return cls(_around_middle(weight, max(1.0, 3 * width), _whole(factor)), factor, image_shape)

    @classmethod
    def example(cls) -> Downsample:
        psf = torch.tensor([[0.0, 0.1, 0.05], [0.2, 0.3, 0.1], [0.05, 0.1, 0.1], [0.0, 0.05, 0.0]])
        return cls(psf, 3, (2, 6, 9))

    def extra_repr(self) -> str:
        return f"factor={self.factor}, image_shape={self.image_shape}"

    def _otf(self, dtype: torch.dtype) -> Tensor:
        return torch.view_as_complex(self.otf.to(dtype).contiguous())

    def _forward(self, x: Tensor) -> Tensor:
        blurred = torch.fft.rfft2(x) * self._otf(x.dtype)
        every = slice(None, None, self.factor)
        return torch.fft.irfft2(blurred, s=self.image_shape[1:])[..., every, every]

    def _adjoint(self, y: Tensor) -> Tensor:
        s = self.factor
        spread = y.new_zeros(*y.shape[:-2], y.shape[-2], s, y.shape[-1], s)
        spread[..., 0, :, 0] = y
        spectrum = torch.fft.rfft2(spread.reshape(*y.shape[:-3], *self.image_shape))
        return torch.fft.irfft2(spectrum * self._otf(y.dtype).conj(), s=self.image_shape[1:])

    def _inverse(self, alpha: Tensor) -> Map:
        alpha = alpha.double()
        inverse = 1 / (self.values + alpha)

        def solve(b: Tensor) -> Tensor:
            wide = b.double()
            data = torch.fft.rfft2(self._forward(wide)) * inverse
            seen = self._adjoint(torch.fft.irfft2(data, s=self.data_shape[1:]))
            return ((wide - seen) / alpha).to(b.dtype)

        return solve

    def _initial(self, q: Tensor) -> Tensor:
        rows = _enlarged(q / self.gain, self.factor, self.shift[0])
        return _enlarged(rows.mT, self.factor, self.shift[1]).mT.contiguous()


def _whole(factor: int) -> int:
    """Raise unless the factor is an integer >= 2."""
    if isinstance(factor, bool) or not isinstance(factor, int) or factor < 2:
        raise InputError(
            f"Downsample: factor must be an integer >= 2, got {factor!r}. "
            "Without decimation take the operator 'blur'."
        )
    return factor


def _checked_factor(factor: int, height: int, width: int) -> int:
    s = _whole(factor)
    if s > min(height, width):
        raise InputError(
            f"Downsample: factor must not be larger than the image {height} x {width}, got {s}."
        )
    if height % s or width % s:
        rows, columns = height // s * s, width // s * s
        raise InputError(
            f"Downsample: the factor {s} does not divide the image {height} x {width}. "
            f"Crop the image to {rows} x {columns}: x[..., :{rows}, :{columns}]."
        )
    return s


def _checked_psf(psf: Tensor, height: int, width: int) -> Tensor:
    if not isinstance(psf, Tensor) or psf.is_complex():
        raise InputTypeError("Downsample: psf must be a real torch tensor (K, L).")
    if psf.ndim != 2 or psf.numel() == 0 or psf.shape[0] > height or psf.shape[1] > width:
        raise InputError(
            f"Downsample: psf must be (K, L), not larger than the image {height} x {width}, "
            f"got {tuple(psf.shape)}."
        )
    psf = weights_of(psf.detach(), "Downsample: psf").double()
    if not bool(torch.isfinite(psf).all()) or float(psf.sum()) <= LEAST_SUM * float(
        psf.abs().sum()
    ):
        raise InputError(
            f"Downsample: psf must be finite and have a positive sum, got {float(psf.sum()):g}. "
            "A flat image must be seen."
        )
    return psf


def _centroid(psf: Tensor) -> tuple[float, float]:
    """Return where a psf looks, (rows, columns) from the pixel that is kept."""
    weight = psf / psf.sum()
    rows, columns = (
        n // 2 - torch.arange(n, dtype=psf.dtype, device=psf.device) for n in psf.shape
    )
    return float(weight.sum(1) @ rows), float(weight.sum(0) @ columns)


def _around_middle(weight: Callable[[Tensor], Tensor], reach: float, factor: int) -> Tensor:
    """Return a separable psf of sum 1 around (s - 1) / 2, from its profile up to ``reach``."""
    middle = (factor - 1) / 2
    half = math.floor(middle + reach)
    t = torch.arange(half, -half - 1, -1, dtype=torch.float64) - middle
    profile = torch.where(t.abs() <= reach, weight(t), torch.zeros_like(t))
    profile = profile / profile.sum()
    return profile[:, None] * profile


def _cubic(t: Tensor) -> Tensor:
    """Return the weights of cubic convolution (Keys 1981, a = -1/2), zero beyond 2."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def _enlarged(q: Tensor, factor: int, shift: float) -> Tensor:
    """Interpolate the rows (axis -2) of periodic data, of which number k lies at s k + shift."""
    count = q.shape[-2]
    place = (torch.arange(factor * count, dtype=torch.float64, device=q.device) - shift) / factor
    taps = place.floor()[:, None] + torch.arange(-1, 3, device=q.device)
    weights = _cubic(place[:, None] - taps).to(q.dtype)
    near = q[..., taps.long().remainder(count), :]
    return torch.einsum("...rtc,rt->...rc", near, weights)


__all__ = ["Downsample"]
