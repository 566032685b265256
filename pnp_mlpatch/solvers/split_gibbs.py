"""Plug-and-play split Gibbs sampling: the mean of the posterior, rather than its mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, check_settings, register
from pnp_mlpatch.solvers._problem import Problem, column, weight_of
from pnp_mlpatch.solvers._splitting import data_step


@dataclass(frozen=True)
class SplitGibbsState(State):
    """State of split Gibbs sampling: x is the mean of the denoised draws since the burn-in.

    Parameters
    ----------
    z : Tensor, shape (B, C, H, W)
        The last denoised draw.
    square : Tensor, shape (B, C, H, W)
        Sum of the squared deviations of the draws from x.
    count : int
        Number of draws in the mean.
    data_residual : Tensor, shape (B,)
        Relative residual that the last data step reached.
    """

    z: Tensor
    square: Tensor
    count: int
    data_residual: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of the denoised draws (B, C, H, W)."""
        return (self.square / max(self.count - 1, 1)).sqrt()

    def measures(self) -> dict[str, float | Tensor]:
        return super().measures() | {"data_residual": self.data_residual}


@register("split_gibbs")
@dataclass(frozen=True)
class SplitGibbs(Solver[SplitGibbsState]):
    r"""The mean of the posterior by alternate draws of a noisy image t and its denoised version z.

    .. math::

        t_k &\sim N(q; A t, \text{noise}^2) \, N(t; z_{k-1}, \sigma^2) \\
        z_k &= D(t_k, \sigma) \\
        x_k &= \text{mean of } z_j \text{ over burn\_in} < j \le k

    The draw is :math:`t = h(z + \sigma e_2; \alpha)` with :math:`q + \text{noise} \, e_1` for q
    and :math:`\alpha = (\text{noise} / \sigma)^2`. Every second pair of the white :math:`e_1,
    e_2` is the negative of the pair before.

    Parameters
    ----------
    iterations : int
        Number of draws.
    sigma : float, sequence of float, or Tensor of shape (B,) or (K, B)
        Level given to the denoiser.
    burn_in : int
        Number of first draws that do not count.
    seed : int
        Seed of the random numbers, from 0 to 4095; those of iteration k are from (seed, k).
    tol : float
        For the relative change of x, which falls as 1 / k: 0 by default.
    data_iterations, data_tol
        As for :class:`~pnp_mlpatch.solvers.admm.ADMM`.

    Raises
    ------
    InputError, InputTypeError
        If a setting is out of range.

    Notes
    -----
    The image that D is given is noisy everywhere, also where there are no data, as in the
    training of D. D is not fed its own output, so no structure grows from it. Where noise
    dominates the data (weak lensing) the mean has the least squared error. The mode, for which
    ADMM and PGD go, has peaks that are too high.

    The noise of t adds to that of the data. Where :math:`A A^H = 1` on what is measured (masks;
    lensing, but for the mean shear) that of the data may be split instead (the messenger field of
    Elsner and Wandelt 2013): give noise = :func:`remaining` (noise, sigma). With a linear D the
    mean is then the Wiener filter, for every sigma up to the least noise.

    z is the mean of its conditional distribution rather than a draw, so ``state.std`` is below the
    standard deviation of the posterior. A resumed run goes on as it would have. All images of a
    batch have the same random numbers, so that none depends on the others.

    References
    ----------
    Vono, Dobigeon and Chainais 2019; with denoisers, Coeurdoux, Dobigeon and Chainais 2024.
    """

    state_type: ClassVar[type[State]] = SplitGibbsState

    iterations: int = 40
    sigma: schedules.Schedule = 15 / 255
    burn_in: int = 8
    seed: int = 0
    tol: float = 0.0
    data_iterations: int = 10
    data_tol: float = 1e-4

    def __post_init__(self) -> None:
        check_settings(self, data_iterations=self.data_iterations, data_tol=self.data_tol)
        schedules.check_schedule(self.sigma, "SplitGibbs: sigma")
        for name in ("burn_in", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"SplitGibbs: {name} must be an integer >= 0, got {value!r}.")
        if self.seed >= 4096:  # torch takes 32 bits of a seed, of which iterations need 20
            raise InputError(
                f"SplitGibbs: seed must be below 4096, above that seeds repeat; got {self.seed}."
            )

    def levels(self, problem: Problem, state: SplitGibbsState) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {"sigma": sigma, "alpha": weight_of(problem, None, sigma, "SplitGibbs")}

    def init(self, problem: Problem, x0: Tensor) -> SplitGibbsState:
        zero = torch.zeros_like(x0)
        return SplitGibbsState(
            x=x0, iteration=0, z=x0, square=zero, count=0, data_residual=x0.new_zeros(len(x0))
        )

    def step(self, problem: Problem, denoise: Denoiser, state: SplitGibbsState) -> SplitGibbsState:
        level, noise = self.levels(problem, state), problem.known_noise("SplitGibbs")
        sigma, images = level["sigma"], len(state.x)
        if isinstance(sigma, Tensor) and sigma.numel() not in (1, images):
            raise InputError(
                f"SplitGibbs: sigma must be a number or a tensor of shape ({images},), "
                f"got {tuple(sigma.shape)}."
            )
        generator = torch.Generator().manual_seed((self.seed << 20) + state.iteration // 2)
        sign = 1.0 - 2.0 * (state.iteration % 2)
        e_1, e_2 = (
            sign * torch.randn(like.shape[1:], generator=generator).to(like).expand_as(like)
            for like in (problem.q, state.x)
        )
        drawn = Problem(
            problem.q, problem.A, noise, problem.Aty + problem.A.adjoint(_column(noise, e_1) * e_1)
        )
        t, reached = data_step(
            drawn,
            state.z + column(sigma) * e_2,
            level["alpha"],
            state.z,
            self.data_tol,
            self.data_iterations,
        )
        z = denoise(t, sigma)
        if state.iteration < self.burn_in:
            return SplitGibbsState(
                x=z,
                iteration=state.iteration + 1,
                z=z,
                square=state.square,
                count=0,
                data_residual=reached,
            )
        count = state.count + 1
        x = state.x + (z - state.x) / count if state.count else z
        square = state.square + (z - state.x) * (z - x) if state.count else state.square
        return SplitGibbsState(
            x=x,
            iteration=state.iteration + 1,
            z=z,
            square=square,
            count=count,
            data_residual=reached,
        )


def remaining(noise: float | Tensor, sigma: float) -> float | Tensor:
    r"""Return the noise of the data without white noise of deviation sigma.

    .. math:: \sqrt{\max(\text{noise}^2 - \sigma^2, (\sigma / 10)^2)}

    Parameters
    ----------
    noise : float or Tensor
        Standard deviation of the noise: a number, or a map, infinite where nothing was measured.
        Where it is below sigma, D is told of more noise than there is.
    sigma : float
        Deviation that is taken out.

    Returns
    -------
    float or Tensor
    """
    if isinstance(noise, Tensor):
        return (noise.square() - sigma**2).clamp_min((sigma / 10) ** 2).sqrt()
    return max(noise**2 - sigma**2, (sigma / 10) ** 2) ** 0.5


def _column(noise: float | Tensor, like: Tensor) -> float | Tensor:
    """One noise an image (B,) against data (B, ...)."""
    return (
        noise.reshape(-1, *[1] * (like.ndim - 1))
        if isinstance(noise, Tensor) and noise.ndim
        else noise
    )


__all__ = ["SplitGibbs", "SplitGibbsState", "remaining"]
