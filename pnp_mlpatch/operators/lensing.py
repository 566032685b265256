r"""Weak lensing: shear from convergence, the Kaiser-Squires filter (Kaiser and Squires 1993).

Axis 1 is x = the last axis (columns), axis 2 is y (rows). In Fourier space, kappa = kappa_E + i kappa_B, gamma = gamma_1 + i gamma_2,

    gamma^(k) = D(k) kappa^(k),   D(k) = (k_1^2 - k_2^2 + 2 i k_1 k_2) / |k|^2,   D(0) = 0

so |D| = 1 but at k = 0: the mean of kappa is not seen by shear (the mass-sheet degeneracy). A positive mass peak has
tangential shear around it: gamma_1 < 0 at +x, gamma_1 > 0 at +y, gamma_2 < 0 at (+x, +y).

On the sky, right ascension grows to the left of a map with north up. Shear that is given along (right ascension, declination) then has
gamma_2 of the other sign than along (x, y); ``flip_ra`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of
from pnp_mlpatch.lensing.estimators import kernel
from pnp_mlpatch.lensing.units import SHAPE_NOISE, arcmin, pixel_noise
from pnp_mlpatch.operators._base import LinearOperator, register


@register("lensing")
class Lensing(LinearOperator):
    r"""A (E, B) = weight * (gamma_1, gamma_2): images (B, 2, H + 2 p, W + 2 p) of convergence to shear maps (B, 2, H, W), p = ``padding``.

    ``weight`` (H, W) or (2, H, W) is the mask of the survey, 1 where there are galaxies; with ``None`` and ``shape`` all is seen.
    A per-component weight (2, H, W) must be equal in both components. Noise maps are given to the solver, and multiply
    the weight by 1 / noise.

    The Fourier transform takes the field to repeat itself, which the sky does not: the image has ``padding`` more pixels on every
    side, where nothing is seen. A survey whose mask leaves a border free has it already. ``flip_ra``: columns run towards smaller right
    ascension while the shear is given along (right ascension, declination), so that gamma_2 has the other sign. ``pixel`` is the side of
    a pixel with its unit, ``"0.29 arcmin"``; only :meth:`noise` needs it. Float64 maps are computed in float64.

    With S the shear transform without its zero mode, unitary on the maps of zero mean, and P = S^H S the projection on those,
    the data step is exact for any weight: one full-spectrum transform and its inverse, with a constant taken off between them that
    keeps the two means (of E and of B) where z has them, since the data do not know them:

        h(z; alpha) = P f + mean(z),  (S^H weight^2 S + alpha) P f = A^H q + alpha P z.

    Noise that differs between the components needs conjugate gradients, preconditioned by this step with the mean of both.
    ``initial`` is Kaiser-Squires, S^H q, with the unseen pixels at zero shear.
    """

    def __init__(
        self,
        shape: tuple[int, int] | None = None,
        weight: Tensor | None = None,
        *,
        padding: int = 0,
        flip_ra: bool = False,
        pixel: Any = None,
    ):
        if (shape is None) == (weight is None):
            raise InputError("Lensing: give either shape=(H, W) or weight=, a tensor (H, W).")
        if weight is None:
            if (
                not isinstance(shape, (tuple, list))
                or len(shape) != 2
                or any(not isinstance(n, int) or n < 1 for n in shape)
            ):
                raise InputError(
                    f"Lensing: shape must be (H, W), two integers >= 1, got {shape!r}."
                )
            weight = torch.ones(*shape, dtype=torch.float64)
        if not isinstance(weight, Tensor) or weight.is_complex():
            raise InputTypeError("Lensing: weight must be a real torch tensor (H, W).")
        if weight.ndim == 3 and weight.shape[0] in (1, 2):
            if weight.shape[0] == 2 and not torch.equal(weight[0], weight[1]):
                raise InputError("Lensing: the weights of the two shear components must be equal.")
            weight = weight[0]
        if weight.ndim != 2 or weight.numel() == 0:
            raise InputError(f"Lensing: weight must have shape (H, W), got {tuple(weight.shape)}.")
        weight = weights_of(weight.detach(), "Lensing: weight").double()
        if (
            not bool(torch.isfinite(weight).all())
            or float(weight.min()) < 0
            or not bool(weight.any())
        ):
            raise InputError("Lensing: weights must be finite, >= 0 and not all zero (1 = seen).")
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise InputError(
                f"Lensing: padding must be an integer >= 0, pixels on every side, got {padding!r}."
            )
        if pixel is not None:
            arcmin(pixel, "Lensing: pixel")
        height, width = (n + 2 * padding for n in weight.shape)
        super().__init__((2, height, width), (2, *weight.shape))
        self.padding, self.flip_ra, self.pixel = padding, bool(flip_ra), pixel
        self.weight: Tensor
        self.kernel: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer(
            "kernel", torch.view_as_real(kernel((height, width), flip_ra=flip_ra)).to(weight.device)
        )

    @classmethod
    def example(cls) -> Lensing:
        generator = torch.Generator().manual_seed(3)
        weight = torch.rand(7, 10, generator=generator) * (
            torch.rand(7, 10, generator=generator) < 0.8
        )
        return cls(weight=weight, padding=1, flip_ra=True)

    def noise(self, n_gal: float | Tensor, shape_noise: float = SHAPE_NOISE) -> Tensor:
        """The noise map (H, W) for so many galaxies each square arcminute, a number or a map; infinite where the weight is 0.

        See :func:`~pnp_mlpatch.lensing.units.pixel_noise`. Raises :class:`InputError` if ``pixel`` was not given.
        """
        if self.pixel is None:
            raise InputError(
                "Lensing.noise: the size of a pixel is not known. Make the operator with pixel='0.29 arcmin'."
            )
        std = torch.as_tensor(pixel_noise(n_gal, self.pixel, shape_noise)).to(self.weight)
        if std.ndim and std.shape != self.weight.shape:
            raise InputError(
                f"Lensing.noise: n_gal must be a number or a map {tuple(self.weight.shape)}, got {tuple(std.shape)}."
            )
        return torch.where(self.weight > 0, std, torch.inf)

    def cut(self, x: Tensor) -> Tensor:
        """The part (..., H, W) of an image (..., H + 2 p, W + 2 p) that the survey covers, without the padding."""
        p = self.padding
        return x[..., p : x.shape[-2] - p, p : x.shape[-1] - p] if p else x

    def _pad(self, y: Tensor) -> Tensor:
        return F.pad(y, [self.padding] * 4) if self.padding else y

    def _shear(self, x: Tensor, *, back: bool, full: bool) -> Tensor:
        """S or S^H on two-channel maps; ``full`` puts D(0) = 1, which makes it unitary on all maps."""
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

    def _data_step(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> Tensor:
        return self._inverse(self.weight.to(z.dtype) ** 2, alpha)(Aty + alpha * z)

    def _inverse(self, square: Tensor, alpha: Tensor) -> Callable[[Tensor], Tensor]:
        """(S^H square S + alpha)^-1 for the squared weights ``square``, (H, W) or (B, 1, H, W).

        With the unitary U, b of mean 0 and d = square + alpha: f = U^H (U b - c) / d, where the constant c, one number for E and one
        for B, makes the mean of f zero. Constants pass through U unchanged, and the mean of U^H g is that of g.
        """
        d = self._pad(square) + alpha
        share = (1 / d) / (1 / d).mean(dim=(-2, -1), keepdim=True)

        def inverse(b: Tensor) -> Tensor:
            mean = b.mean(dim=(-2, -1), keepdim=True)
            g = self._shear(b - mean, back=False, full=True)
            c = (g * share).mean(dim=(-2, -1), keepdim=True)
            return self._shear((g - c) / d, back=True, full=True) + mean / alpha

        return inverse

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
        return self._inverse(
            (self.weight.to(alpha.dtype) * weight).square().mean(dim=-3, keepdim=weight.ndim > 3),
            alpha,
        )

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
