r"""Total variation (Rudin, Osher, Fatemi 1992): the classical prior, and the baseline to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers._base import DenoiserInfo, check_image, register, sigma_column
from pnp_mlpatch.denoisers._convolution import derivatives
from pnp_mlpatch.errors import InputError


@register("tv")
class TV:
    r"""Total variation of each channel.

    .. math:: D(x, \sigma) = \arg\min_v \tfrac12 |v - x|^2 + \mathrm{strength} \, \sigma \, TV(v)

    TV(v) is the isotropic total variation, the sum over pixels of the length of the gradient, with
    differences over the border being zero.

    Parameters
    ----------
    strength : float
        0.65 (weak noise) to 0.9 (strong noise) is right for natural images.
    iterations : int
        Largest number of iterations.
    tol : float
        Stop when the dual variable, which is bounded by 1, moves by less.

    Raises
    ------
    InputError
        For settings out of range.

    Notes
    -----
    The weight is in proportion to sigma, so that D(c x, c sigma) = c D(x, sigma). Solved by
    accelerated projected gradient on the dual (Beck and Teboulle 2009), always from zero,
    so that the same call gives the same result.

    References
    ----------
    Rudin, Osher and Fatemi 1992. Beck and Teboulle 2009.
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
                "TV: iterations must be an integer >= 1 and tol >= 0, "
                f"got {iterations!r} and {tol!r}."
            )
        self.strength, self.iterations, self.tol = float(strength), iterations, tol
        self.info = DenoiserInfo("tv", sigma="input")

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise images of any size.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        sigma : float or Tensor, shape (B,)
            Standard deviation of the noise, in the units of ``x``.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        check_image(x, "TV")
        weight = self.strength * sigma_column(sigma, x, "TV")
        if not isinstance(sigma, Tensor) and not sigma:
            return x.clone()
        step = torch.where(
            weight > 0,
            1 / (8 * weight.clamp_min(torch.finfo(x.dtype).tiny ** 0.5)),
            torch.zeros_like(weight),
        )
        p = (self._apart if derivatives(x, weight) else self._in_place)(x, weight, step)
        return x + weight * divergence(p)

    def _in_place(self, x: Tensor, weight: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """Iterate in memory that is taken once: a quarter of the time of new tensors."""
        r, p, g = (x.new_zeros(2, *x.shape) for _ in range(3))
        v, length, t = torch.empty_like(x), torch.empty_like(x), 1.0
        for k in range(self.iterations):
            torch.add(*r, out=v)  # the divergence, since the borders of r are zero
            v[..., 1:, :] -= r[0, ..., :-1, :]
            v[..., 1:] -= r[1, ..., :-1]
            torch.addcmul(x, weight, v, out=v)
            torch.sub(v[..., 1:, :], v[..., :-1, :], out=g[0, ..., :-1, :])
            torch.sub(v[..., 1:], v[..., :-1], out=g[1, ..., :-1])
            r.addcmul_(g, step)
            torch.mul(r[0], r[0], out=length).addcmul_(r[1], r[1]).clamp_min_(1).rsqrt_()
            r.mul_(length)
            after = (1 + (1 + 4 * t * t) ** 0.5) / 2
            stop = self._looks(k) and float((r - p).abs().max()) < self.tol
            torch.lerp(p, r, 1 + (t - 1) / after, out=p)
            p, r, t = r, p, after
            if stop:
                break
        return p.unbind()

    def _apart(self, x: Tensor, weight: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        """Iterate with new tensors, through which derivatives pass."""
        r = p = tuple(torch.zeros_like(x) for _ in range(2))
        t = 1.0
        for k in range(self.iterations):
            g = gradient(x + weight * divergence(r))
            new = tuple(a + step * b for a, b in zip(r, g, strict=True))
            length = torch.sqrt(new[0] ** 2 + new[1] ** 2).clamp_min(1)
            new = tuple(a / length for a in new)
            after = (1 + (1 + 4 * t * t) ** 0.5) / 2
            r = tuple(a + (t - 1) / after * (a - b) for a, b in zip(new, p, strict=True))
            moved = torch.stack(new) - torch.stack(p)
            stop = self._looks(k) and float(moved.detach().abs().max()) < self.tol
            p, t = new, after
            if stop:
                break
        return p

    def _looks(self, k: int) -> bool:
        """Whether step k looks at how far the dual variable moved."""
        return self.tol > 0 and k % 10 == 9


def gradient(v: Tensor) -> tuple[Tensor, Tensor]:
    """Compute forward differences, zero over the border.

    Parameters
    ----------
    v : Tensor, shape (..., H, W)

    Returns
    -------
    tuple of two Tensors, shape (..., H, W)
        Along the rows' index, and along the columns'.
    """
    down, across = torch.zeros_like(v), torch.zeros_like(v)
    down[..., :-1, :] = v[..., 1:, :] - v[..., :-1, :]
    across[..., :-1] = v[..., 1:] - v[..., :-1]
    return down, across


def divergence(p: tuple[Tensor, ...]) -> Tensor:
    """Apply the negative adjoint of :func:`gradient`.

    Parameters
    ----------
    p : tuple of two Tensors, shape (..., H, W)

    Returns
    -------
    Tensor, shape (..., H, W)
    """
    down, across = p[0][..., :-1, :], p[1][..., :-1]
    out = torch.zeros_like(p[0])
    out[..., :-1, :] += down
    out[..., 1:, :] -= down
    out[..., :-1] += across
    out[..., 1:] -= across
    return out
