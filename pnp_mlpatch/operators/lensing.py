r"""Weak lensing: shear from convergence (Kaiser and Squires 1993).

Axis 1 is x, the last axis (columns); axis 2 is y (rows). In Fourier space, with
:math:`\kappa = \kappa_E + i \kappa_B` and :math:`\gamma = \gamma_1 + i \gamma_2`,

.. math::

    \hat\gamma(k) = D(k) \, \hat\kappa(k), \qquad
    D(k) = \frac{k_1^2 - k_2^2 + 2 i k_1 k_2}{|k|^2}, \qquad D(0) = 0.

So :math:`|D| = 1` but at k = 0: shear does not see the mean of the convergence (the mass-sheet
degeneracy). A positive mass peak has tangential shear around it: :math:`\gamma_1 < 0` at +x,
:math:`\gamma_1 > 0` at +y, :math:`\gamma_2 < 0` at (+x, +y).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of
from pnp_mlpatch.lensing.estimators import kernel
from pnp_mlpatch.lensing.units import SHAPE_NOISE, arcmin, pixel_noise
from pnp_mlpatch.operators._base import LinearOperator, Map, register


@register("lensing")
class Lensing(LinearOperator):
    r"""Shear maps of convergence maps: A (E, B) = weight * (gamma_1, gamma_2).

    Images (B, 2, H, W) give data (B, 2, H - 2 p, W - 2 p), with the padding p. The Fourier
    transform makes the field periodic, which the sky is not; padding keeps its opposite sides
    apart. A survey whose mask leaves a border free needs none.

    Parameters
    ----------
    image_shape : sequence of int, optional
        (2, H, W), the padding included; all data are seen. Either this or ``weight``.
    weight : Tensor, optional, shape (H - 2 p, W - 2 p) or (2, H - 2 p, W - 2 p)
        The mask of the survey, >= 0: 1 where there are galaxies; equal in both components. Noise
        maps are not given here but to the solver.
    padding : int
        Pixels on every side of the image in which nothing is seen.
    flip_ra : bool
        Columns run towards smaller right ascension while the shear is given along (right ascension,
        declination): :math:`\gamma_2` has the other sign.
    pixel : str, optional
        The side of a pixel with its unit, as ``"0.29 arcmin"``; only :meth:`noise` needs it.

    Raises
    ------
    InputError
        If both or neither of ``image_shape`` and ``weight`` are given, or one cannot be used.

    Notes
    -----
    Let S be the shear transform without its zero mode, unitary on maps with mean zero, and
    :math:`P = S^H S` the projection on these. The data step is exact for any weight w:

    .. math::

        h(z; \alpha) = P f + \overline{z}, \qquad
        (S^H w^2 S + \alpha) \, P f = A^H q + \alpha P z.

    Noise that differs between the components needs conjugate gradients, preconditioned by this step
    with the mean of both. ``initial`` is Kaiser-Squires, :math:`S^H q`, with zero shear at pixels
    that are not seen.

    References
    ----------
    Kaiser and Squires 1993.
    """

    def __init__(
        self,
        image_shape: Sequence[int] | None = None,
        weight: Tensor | None = None,
        *,
        padding: int = 0,
        flip_ra: bool = False,
        pixel: Any = None,
    ):
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise InputError(
                f"Lensing: padding must be an integer >= 0, pixels on every side, got {padding!r}."
            )
        weight = _survey(image_shape, weight, padding)
        if pixel is not None:
            arcmin(pixel, "Lensing: pixel")
        height, width = (n + 2 * padding for n in weight.shape)
        super().__init__((2, height, width), (2, *weight.shape))
        self.padding, self.flip_ra, self.pixel = padding, bool(flip_ra), pixel
        self.weight: Tensor
        self.kernel: Tensor
        self.register_buffer("weight", weight)
        transform = torch.view_as_real(kernel((height, width), flip_ra=flip_ra))
        self.register_buffer("kernel", transform.to(weight.device))

    @classmethod
    def example(cls) -> Lensing:
        generator = torch.Generator().manual_seed(3)
        weight = torch.rand(7, 10, generator=generator) * (
            torch.rand(7, 10, generator=generator) < 0.8
        )
        return cls(weight=weight, padding=1, flip_ra=True)

    def noise(self, n_gal: float | Tensor, shape_noise: float = SHAPE_NOISE) -> Tensor:
        """Return the noise map of a galaxy density.

        Parameters
        ----------
        n_gal : float or Tensor, shape of the data (H, W)
            Galaxies per square arcminute.
        shape_noise : float
            The standard deviation of each component of the ellipticity.

        Returns
        -------
        Tensor, shape (H, W)
            Infinite where the weight is 0.

        Raises
        ------
        InputError
            If the operator does not know its ``pixel``.

        See Also
        --------
        pnp_mlpatch.lensing.units.pixel_noise
        """
        if self.pixel is None:
            raise InputError(
                "Lensing.noise: the size of a pixel is not known. "
                "Make the operator with pixel='0.29 arcmin'."
            )
        std = torch.as_tensor(pixel_noise(n_gal, self.pixel, shape_noise)).to(self.weight)
        if std.ndim and std.shape != self.weight.shape:
            raise InputError(
                f"Lensing.noise: n_gal must be a number or a map {tuple(self.weight.shape)}, "
                f"got {tuple(std.shape)}."
            )
        return torch.where(self.weight > 0, std, torch.inf)

    def cut(self, x: Tensor) -> Tensor:
        """Cut the padding off.

        Parameters
        ----------
        x : Tensor, shape (..., H, W)
            Images with the padding p.

        Returns
        -------
        Tensor, shape (..., H - 2 p, W - 2 p)
        """
        p = self.padding
        return x[..., p : x.shape[-2] - p, p : x.shape[-1] - p] if p else x

    def _pad(self, y: Tensor) -> Tensor:
        return F.pad(y, [self.padding] * 4) if self.padding else y

    def _shear(self, x: Tensor, *, back: bool, full: bool) -> Tensor:
        """S or S^H on two-channel maps; ``full``: D(0) = 1, unitary on all maps."""
        d = torch.view_as_complex(self.kernel.to(x.dtype).contiguous())
        if full:
            d = d.clone()
            d[0, 0] = 1
        field = torch.complex(x[:, 0], x[:, 1])
        field = torch.fft.ifft2(torch.fft.fft2(field) * (d.conj() if back else d))
        return torch.stack([field.real, field.imag], dim=1)

    def _forward(self, x: Tensor) -> Tensor:
        return self.weight.to(x.dtype) * self.cut(self._shear(x, back=False, full=False))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._shear(self._pad(self.weight.to(y.dtype) * y), back=True, full=False)

    def _inverse(self, alpha: Tensor) -> Map:
        return self._inverse_of(self.weight.to(alpha.dtype) ** 2, alpha)

    def _inverse_of(self, square: Tensor, alpha: Tensor) -> Map:
        """Return the inverse of S^H square S + alpha for squared weights, (H, W) or (B, 1, H, W).

        With the unitary U, b of mean 0 and d = square + alpha: f = U^H (U b - c) / d, where the
        constant c, a number for E and one for B, makes the mean of f zero. Constants pass through U
        unchanged, and the mean of U^H g is that of g.
        """
        d = self._pad(square) + alpha
        share = (1 / d) / (1 / d).mean(dim=(-2, -1), keepdim=True)

        def inverse(b: Tensor) -> Tensor:
            mean = b.mean(dim=(-2, -1), keepdim=True)
            g = self._shear(b - mean, back=False, full=True)
            c = (g * share).mean(dim=(-2, -1), keepdim=True)
            return self._shear((g - c) / d, back=True, full=True) + mean / alpha

        return inverse

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map:
        square = (self.weight.to(alpha.dtype) * weight).square()
        return self._inverse_of(square.mean(dim=-3, keepdim=weight.ndim > 3), alpha)

    def _initial(self, q: Tensor) -> Tensor:
        weight = self.weight.to(q.dtype)
        seen = torch.where(weight > 0, q / torch.where(weight > 0, weight, 1.0), 0.0)
        return self._shear(self._pad(seen), back=True, full=False)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor:
        """Zero shear where nothing was seen, as Kaiser and Squires have it."""
        return q

    def _weighted(self, weight: Tensor) -> LinearOperator:
        if torch.equal(weight[0], weight[1]):
            weight = self.weight * weight[0].to(self.weight)
            return Lensing(
                weight=weight, padding=self.padding, flip_ra=self.flip_ra, pixel=self.pixel
            )
        return super()._weighted(weight)


def _survey(image_shape: Sequence[int] | None, weight: Tensor | None, padding: int) -> Tensor:
    """Return the weights (H, W) of the data, float64; raise :class:`InputError` for bad ones."""
    if (image_shape is None) == (weight is None):
        raise InputError("Lensing: give either image_shape=(2, H, W) or weight=, a tensor (H, W).")
    if weight is None:
        if (
            not isinstance(image_shape, Sequence)
            or len(image_shape) != 3
            or image_shape[0] != 2
            or any(not isinstance(n, int) or n <= 2 * padding for n in image_shape[1:])
        ):
            raise InputError(
                "Lensing: image_shape must be (2, H, W), the channels E and B and integers H and W "
                f"> {2 * padding}, twice the padding, got {image_shape!r}."
            )
        return torch.ones(*(n - 2 * padding for n in image_shape[1:]), dtype=torch.float64)
    if not isinstance(weight, Tensor) or weight.is_complex():
        raise InputTypeError("Lensing: weight must be a real torch tensor (H, W).")
    if weight.ndim == 3 and weight.shape[0] in (1, 2):
        if weight.shape[0] == 2 and not torch.equal(weight[0], weight[1]):
            raise InputError("Lensing: the weights of the two shear components must be equal.")
        weight = weight[0]
    if weight.ndim != 2 or weight.numel() == 0:
        raise InputError(f"Lensing: weight must have shape (H, W), got {tuple(weight.shape)}.")
    weight = weights_of(weight.detach(), "Lensing: weight").double()
    if not bool(torch.isfinite(weight).all()) or float(weight.min()) < 0 or not bool(weight.any()):
        raise InputError("Lensing: weights must be finite, >= 0 and not all zero (1 = seen).")
    return weight
