"""Plug-and-play split Gibbs sampling: the mean of the posterior, rather than its mode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, check_settings, register
from pnp_mlpatch.solvers._chain import check_counts
from pnp_mlpatch.solvers._gibbs import SplitGibbsState, check_origin, remaining, white
from pnp_mlpatch.solvers._problem import Problem, per_image, weight_of
from pnp_mlpatch.solvers._splitting import data_step


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
    origin : tuple of int, optional
        Row and column of the first pixel of the data in a larger field. The random numbers of a
        pixel then follow from its place in that field, so that patches of it share them.
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
    origin: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_settings(self, data_iterations=self.data_iterations, data_tol=self.data_tol)
        schedules.check_schedule(self.sigma, "SplitGibbs: sigma")
        check_counts("SplitGibbs", burn_in=(self.burn_in, 0), seed=(self.seed, 0))
        if self.seed >= 4096:  # torch takes 32 bits of a seed, of which iterations need 20
            raise InputError(
                f"SplitGibbs: seed must be below 4096, above that seeds repeat; got {self.seed}."
            )
        if self.origin is not None:
            check_origin(self.origin)

    def levels(self, problem: Problem, state: SplitGibbsState) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {"sigma": sigma, "alpha": weight_of(problem, None, sigma, "SplitGibbs")}

    def init(self, problem: Problem, x0: Tensor) -> SplitGibbsState:
        return SplitGibbsState(x0, 0, x0, torch.zeros_like(x0), 0, x0.new_zeros(len(x0)))

    def step(self, problem: Problem, denoise: Denoiser, state: SplitGibbsState) -> SplitGibbsState:
        level, k = self.levels(problem, state), state.iteration
        sigma = per_image(level["sigma"], state.z, "SplitGibbs: sigma")
        white_q, white_z = white((self.seed << 20) + k // 2, (problem.q, state.x), self.origin)
        sign = 1.0 - 2.0 * (k % 2)
        noise = per_image(problem.known_noise("SplitGibbs"), problem.q, "SplitGibbs: noise")
        drawn = replace(problem, Aty=problem.Aty + problem.A.adjoint(noise * (sign * white_q)))
        z, ends = state.z + sigma * (sign * white_z), (self.data_tol, self.data_iterations)
        t, reached = data_step(drawn, z, level["alpha"], state.z, *ends)
        return state.follow(denoise(t, level["sigma"]), reached, counts=k >= self.burn_in)


__all__ = ["SplitGibbs", "SplitGibbsState", "remaining"]
