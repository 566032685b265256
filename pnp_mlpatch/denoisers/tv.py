r"""Total variation (Rudin, Osher, Fatemi 1992): the classical prior, and the baseline to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers._base import DenoiserInfo, check_image, register, sigma_column
from pnp_mlpatch.errors import InputError


@register("tv")
class TV:
    r"""D(x, sigma) = argmin_v 1/2 |v - x|^2 + strength sigma TV(v), the isotropic total variation of each channel.

    TV(v) = sum over pixels of sqrt((v[i+1, j] - v[i, j])^2 + (v[i, j+1] - v[i, j])^2), differences over the border being zero.
    The weight scales with sigma, so that D(c x, c sigma) = c D(x, sigma); ``strength`` 0.65 (weak noise) to 0.9 (strong) is right for natural images.

    Solved by accelerated projected gradient on the dual (Beck and Teboulle 2009) from zero, so that the same call gives the
    same result; stops at ``iterations`` or when the dual moves by less than ``tol`` relative to its bound 1.
    """

    def __init__(self, strength: float = 0.8, *, iterations: int = 60, tol: float = 1e-4):
        if not (finite_number(strength) and strength > 0):
            raise InputError(f"TV: strength must be finite and > 0, got {strength!r}.")
        if (
            isinstance(iterations, bool)
            or not isinstance(iterations, int)
            or iterations < 1
            or not tol >= 0
        ):
            raise InputError(
                f"TV: iterations must be an integer >= 1 and tol >= 0, got {iterations!r} and {tol!r}."
            )
        self.strength, self.iterations, self.tol = float(strength), iterations, tol
        self.info = DenoiserInfo("tv", sigma="input")

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """``x`` (B, C, H, W), any size; ``sigma`` a float or (B,), in the units of ``x``."""
        check_image(x, "TV")
        weight = self.strength * sigma_column(sigma, x, "TV")
        if not bool((weight > 0).any()):
            return x.clone()
        step = torch.where(
            weight > 0,
            1 / (8 * weight.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)),
            torch.zeros_like(weight),
        )
        p = tuple(torch.zeros_like(x) for _ in range(2))
        r, t = p, 1.0
        for k in range(self.iterations):
            v = x + weight * divergence(r)
            g = gradient(v)
            new = tuple(a + step * b for a, b in zip(r, g, strict=True))
            length = torch.sqrt(new[0] ** 2 + new[1] ** 2).clamp_min(1)
            new = tuple(a / length for a in new)
            after = (1 + (1 + 4 * t * t) ** 0.5) / 2
            r = tuple(a + (t - 1) / after * (a - b) for a, b in zip(new, p, strict=True))
            moved = (
                self.tol > 0
                and k % 10 == 9
                and max(float((a - b).detach().abs().max()) for a, b in zip(new, p, strict=True))
            )
            p, t = new, after
            if moved is not False and moved < self.tol:
                break
        return x + weight * divergence(p)


def gradient(v: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences along rows and columns, zero over the border."""
    down, across = torch.zeros_like(v), torch.zeros_like(v)
    down[..., :-1, :] = v[..., 1:, :] - v[..., :-1, :]
    across[..., :-1] = v[..., 1:] - v[..., :-1]
    return down, across


def divergence(p: tuple[Tensor, ...]) -> Tensor:
    """The negative adjoint of :func:`gradient`."""
    down, across = p[0][..., :-1, :], p[1][..., :-1]
    out = torch.zeros_like(p[0])
    out[..., :-1, :] += down
    out[..., 1:, :] -= down
    out[..., :-1] += across
    out[..., 1:] -= across
    return out
