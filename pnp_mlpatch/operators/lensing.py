r"""Weak lensing: shear from convergence, the Kaiser-Squires filter (Kaiser and Squires 1993).

Axis 1 is x = the last axis (columns), axis 2 is y (rows). In Fourier space, kappa = kappa_E + i kappa_B, gamma = gamma_1 + i gamma_2,

    gamma^(k) = D(k) kappa^(k),   D(k) = (k_1^2 - k_2^2 + 2 i k_1 k_2) / |k|^2,   D(0) = 0

so |D| = 1 but at k = 0: the mean of kappa is not seen by shear (the mass-sheet degeneracy). A positive mass peak has
tangential shear around it: gamma_1 < 0 at +x, gamma_1 > 0 at +y, gamma_2 < 0 at (+x, +y).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.base import LinearOperator, register


@register("lensing")
class Lensing(LinearOperator):
    r"""A (E, B) = weight * (gamma_1, gamma_2): images (B, 2, H, W) of convergence to shear maps of the same shape.

    ``weight`` (H, W) or (2, H, W) is the mask of the survey, 1 where there are galaxies; with ``None`` and ``shape`` all is seen.
    A per-component weight (2, H, W) must be equal in both components. Noise maps are given to the solver, and multiply
    the weight by 1 / noise.

    With S the shear transform without its zero mode, unitary on the maps of zero mean, and P = S^H S the projection on those,
    the data step is exact for any weight: one full-spectrum transform and its inverse, and a 2 x 2 system that keeps the two
    means (of E and of B) where z has them, since the data do not know them:

        h(z; alpha) = P f + mean(z),  (S^H weight^2 S + alpha) P f = A^H q + alpha P z.

    ``initial`` is Kaiser-Squires, S^H q, with the unseen pixels at zero shear.
    """

    def __init__(self, shape: tuple[int, int] | None = None, weight: Tensor | None = None):
        if (shape is None) == (weight is None):
            raise InputError("Lensing: give either shape=(H, W) or weight=, a tensor (H, W).")
        if weight is None:
            if not isinstance(shape, (tuple, list)) or len(shape) != 2 or any(not isinstance(n, int) or n < 1 for n in shape):
                raise InputError(f"Lensing: shape must be (H, W), two integers >= 1, got {shape!r}.")
            weight = torch.ones(*shape, dtype=torch.float64)
        if not isinstance(weight, Tensor) or weight.is_complex():
            raise InputTypeError("Lensing: weight must be a real torch tensor (H, W).")
        if weight.ndim == 3 and weight.shape[0] in (1, 2):
            if weight.shape[0] == 2 and not torch.equal(weight[0], weight[1]):
                raise InputError("Lensing: the weights of the two shear components must be equal.")
            weight = weight[0]
        if weight.ndim != 2 or weight.numel() == 0:
            raise InputError(f"Lensing: weight must have shape (H, W), got {tuple(weight.shape)}.")
        weight = weight.detach().double()
        if not bool(torch.isfinite(weight).all()) or float(weight.min()) < 0 or not bool(weight.any()):
            raise InputError("Lensing: weights must be finite, >= 0 and not all zero (1 = seen).")
        height, width = weight.shape
        super().__init__((2, height, width), (2, height, width))
        k2 = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        k1 = torch.fft.fftfreq(width, dtype=torch.float64)[None, :]
        square = (k1**2 + k2**2).clone()
        square[0, 0] = 1
        kernel = torch.stack([(k1**2 - k2**2) / square, 2 * k1 * k2 / square], dim=-1)
        self.weight: Tensor
        self.kernel: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("kernel", kernel.to(weight.device))

    @classmethod
    def example(cls) -> Lensing:
        generator = torch.Generator().manual_seed(3)
        return cls(weight=torch.rand(7, 10, generator=generator) * (torch.rand(7, 10, generator=generator) < 0.8))

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
        return self.weight.to(x.dtype) * self._shear(x, back=False, full=False)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._shear(self.weight.to(y.dtype) * y, back=True, full=False)

    def _data_step(self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int) -> Tensor:
        denominator = self.weight.to(z.dtype) ** 2 + alpha

        def solve(b: Tensor) -> Tensor:  # (U^H weight^2 U + alpha)^-1 with the unitary U
            return self._shear(self._shear(b, back=False, full=True) / denominator, back=True, full=True)

        mean = z.mean(dim=(-2, -1), keepdim=True)
        f = solve(Aty + alpha * (z - mean))  # A^H y has zero mean
        ones = torch.zeros(2, *z.shape[1:], dtype=z.dtype, device=z.device)
        ones[0, 0], ones[1, 1] = 1, 1  # the two constant maps: E and B
        answers = [solve(e.expand_as(z)) for e in ones]
        schur = torch.stack([a.mean(dim=(-2, -1)) for a in answers], dim=-1)  # B, 2, 2: means of the answers
        c = torch.linalg.solve(schur, f.mean(dim=(-2, -1))[..., None])[..., 0]
        f = f - answers[0] * c[:, :1, None, None] - answers[1] * c[:, 1:, None, None]
        return f + mean

    def _initial(self, q: Tensor) -> Tensor:
        weight = self.weight.to(q.dtype)
        return self._shear(torch.where(weight > 0, q / weight.clamp_min(1e-30), torch.zeros_like(q)), back=True, full=False)

    def _weighted(self, weight: Tensor) -> LinearOperator:
        if torch.equal(weight[0], weight[1]):
            return Lensing(weight=self.weight * weight[0])
        return super()._weighted(weight)
