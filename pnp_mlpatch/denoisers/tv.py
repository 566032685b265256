r"""Total variation (Rudin, Osher, Fatemi 1992): the classical prior, and the baseline to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers._base import DenoiserInfo, check_image, register, sigma_column
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
                and float((torch.stack(new) - torch.stack(p)).detach().abs().max())
            )
            p, t = new, after
            if moved is not False and moved < self.tol:
                break
        return x + weight * divergence(p)


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
