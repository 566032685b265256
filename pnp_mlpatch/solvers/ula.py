"""Plug-and-play sampling of the posterior by the unadjusted Langevin algorithm: the mean, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, register
from pnp_mlpatch.solvers._langevin import (
    ChainState,
    check_chain,
    curvature,
    drift,
    follow,
    start,
    step_size,
    white,
)
from pnp_mlpatch.solvers._problem import Problem


@register("ula")
@dataclass(frozen=True)
class ULA(Solver):
    r"""Samples of the posterior by Langevin steps, the denoiser in place of the gradient of the logarithm of the prior (PnP-ULA).

        s_{k+1} = s_k + delta G(s_k) + sqrt(2 delta) e_k
        G(s) = A^H (q - A s) / noise^2 + (D(s, sigma) - s) / sigma^2 + [ (P(s) - s) / sigma^2 ]

    with white e_k, and P the projection on ``box`` = (low, high), which is left out where box is None. The density is that of images to
    which noise of deviation ``sigma`` was added, given the data: the smaller sigma, the nearer to the images themselves, and the slower the
    chain. A sequence of levels is for the burn-in; a tensor (B,) has one for each image.

    ``delta`` is the step: a number, or one for each image (B,). None takes 1 / (3 L), as the authors do, with

        L = |A|^2 / noise^2 + 1 / sigma^2        (2 / sigma^2 with a box)

    for each image, |A| by power iteration. Steps up to 2 / L are stable if D(s) - s changes no more than s does; :func:`~pnp_mlpatch.convergence.expansion`
    measures that as ``residual``. Where it is l, the default is stable up to l = 6 at least. Longer steps go further, and make the samples
    too wide: for a Gaussian posterior of precision P the covariance is (P (1 - delta P / 2))^-1.

    The result x is the mean of the samples after the first ``burn_in``; the state, a :class:`~pnp_mlpatch.solvers._langevin.ChainState`, has ``std``,
    ``quantile(p)``, ``effective_samples`` and ``samples``: from ``keep`` to 2 keep - 1 of them, evenly spaced. Memory is that of about 2 keep + 36 images.

    ``seed`` makes the random numbers, of iteration k from (seed, k), so that a resumed run goes on as it would have; all images of a batch
    have the same ones, so that none depends on the others. Independent chains are runs with other seeds, or, where A and D treat channels
    alike, the channels of one image. ``tol`` is for the relative change of
    x, the largest of the batch, whose images stop together; it falls as 1 / k: 0 by default.

    Slow where the data are good in some places and absent in others: see :class:`~pnp_mlpatch.solvers.skrock.SKROCK`. Raises :class:`InputError` for
    settings that make no sense, and :class:`Diverged` where delta is too large.

    Laumont, De Bortoli, Almansa, Delon, Durmus and Pereyra 2022.
    """

    state_type: ClassVar[type[State]] = ChainState

    iterations: int = 1000
    sigma: schedules.Schedule = 10 / 255
    delta: float | Tensor | None = None
    burn_in: int = 200
    seed: int = 0
    tol: float = 0.0
    box: tuple[float, float] | None = None
    keep: int = 32

    def __post_init__(self) -> None:
        check_chain(self, self.sigma, self.delta, self.burn_in, self.seed, self.box, self.keep)

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        assert isinstance(state, ChainState)
        sigma = schedules.level(self.sigma, state.iteration)
        L = curvature(problem, state, sigma, self.box, "ULA")
        return {"sigma": sigma, "delta": step_size(self.delta, 1 / (3 * L), state.sample, "ULA")}

    def residuals(self, old: State, new: State) -> Tensor:
        largest = super().residuals(old, new)
        return largest.max().expand_as(largest)

    def init(self, problem: Problem, x0: Tensor) -> ChainState:
        return start(problem, x0)

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> ChainState:
        assert isinstance(state, ChainState)
        level, s = self.levels(problem, state), state.sample
        delta = level["delta"]
        s = (
            s
            + delta * drift(problem, denoise, s, level["sigma"], self.box, "ULA")
            + (2 * delta) ** 0.5 * white(self.seed, state.iteration, s)
        )
        return follow(state, s, self.burn_in, self.keep)


__all__ = ["ULA"]
