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
    """``x`` is the mean of the denoised draws ``z`` since the burn-in, ``square`` the sum of their squared deviations from it."""

    z: Tensor
    square: Tensor
    count: int
    data_residual: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviation of the denoised draws (B, C, H, W): how far the data leave D undecided, at scales above sigma."""
        return (self.square / max(self.count - 1, 1)).sqrt()

    def measures(self) -> dict[str, float | Tensor]:
        return super().measures() | {"data_residual": self.data_residual}


@register("split_gibbs")
@dataclass(frozen=True)
class SplitGibbs(Solver):
    r"""The mean of the posterior by alternate draws of a noisy image t and of its denoised version z.

        t_k ~ N(q; A t, noise^2) N(t; z_{k-1}, sigma^2)    t = h(z + sigma e_2; alpha) with q + noise e_1 for q,  alpha = (noise / sigma)^2
        z_k = D(t_k, sigma)
        x_k = mean of z_j over burn_in < j <= k

    with white e_1, e_2, of which every second pair is the first one's negative. The image that D is given is noisy everywhere, as those
    were that it was trained on, where there are no data too: it is not fed its own output, so no structure grows from it. Where noise
    dominates the data (weak lensing) the mean is what has the least squared error; the mode, for which ADMM and PGD go, has peaks
    that are too high.

    The noise of t adds to that of the data. Where A A^H = 1 on what is measured (masks; lensing, but for the mean shear) the data's own may be
    split instead (the messenger field of Elsner and Wandelt 2013): give noise = :func:`remaining`\ (noise, sigma). With a linear D the
    mean is then the Wiener filter, for every sigma up to the least noise.

    z is the mean of its conditional distribution rather than a draw, so ``state.std`` is below the posterior's standard deviation.
    ``seed``, from 0 to 4095, makes the random numbers, of iteration k from (seed, k), so that a resumed run goes on as it would have; all images of a
    batch have the same ones, so that none depends on the others. ``tol`` is for
    the relative change of x, which falls as 1 / k: 0 by default.

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

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {"sigma": sigma, "alpha": weight_of(problem, None, sigma, "SplitGibbs")}

    def init(self, problem: Problem, x0: Tensor) -> SplitGibbsState:
        zero = torch.zeros_like(x0)
        return SplitGibbsState(
            x=x0, iteration=0, z=x0, square=zero, count=0, data_residual=x0.new_zeros(len(x0))
        )

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> SplitGibbsState:
        assert isinstance(state, SplitGibbsState)
        level, noise = self.levels(problem, state), problem.known_noise("SplitGibbs")
        sigma, images = level["sigma"], len(state.x)
        if isinstance(sigma, Tensor) and sigma.numel() not in (1, images):
            raise InputError(
                f"SplitGibbs: sigma must be a number or a tensor of shape ({images},), got {tuple(sigma.shape)}."
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
    r"""What is left of the noise of the data when white noise of deviation sigma is taken out of it: sqrt(max(noise^2 - sigma^2, (sigma/10)^2)).

    ``noise`` is a number or a map, infinite where nothing was measured. Where it is below sigma, D is told of more noise than there is.
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
