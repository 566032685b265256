"""Regularisation by denoising."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers import _anderson as anderson
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import (
    Problem,
    Solver,
    State,
    check_settings,
    column,
    curvatures,
    data_step,
    per_image,
    register,
    weight_of,
)


@dataclass(frozen=True)
class REDState(State):
    """``x`` is the estimate, ``ahead`` where the next step starts (x, unless points are mixed); ``norm2`` (B,) is |A|^2 (0 where it is not used), ``data_residual`` (B,) what the data step reached."""

    ahead: Tensor
    norm2: Tensor
    data_residual: Tensor

    def measures(self) -> dict[str, float | Tensor]:
        return super().measures() | {"data_residual": self.data_residual}


@register("red")
@dataclass(frozen=True)
class RED(Solver):
    r"""Regularisation by denoising: the data pull one way, what the denoiser takes off the image the other, until they balance:

        A^H (A x - q) / noise^2 + lam (x - D(x, sigma)) = 0        lam = alpha / noise^2

    reached by ``form``

        "fixed_point":    x_k = h(D(x_{k-1}, sigma_k); alpha_k)        h(z; alpha) = (A^H A + alpha)^-1 (A^H q + alpha z)
        "gradient":       x_k = x - tau [A^H (A x - q) + alpha_k (x - D(x, sigma_k))],    x = x_{k-1},    tau = 1 / (|A|^2 + alpha_k)

    The first needs a data step, and with one is much faster; the second needs A and A^H only. ``alpha`` is factor (noise / sigma)^2 by default, factor = 1,
    so lam = 1 / sigma^2: (D(x, sigma) - x) / sigma^2 is then the gradient of the logarithm of the density of images blurred by
    noise of deviation sigma, for the D of least squares (Tweedie 1947), so x is the most probable image under that density. The
    iteration contracts if D does. ``data_iterations`` and ``data_tol`` are those of ADMM, for "fixed_point".

    x is a data variable: what the data show is in it as it is, where ADMM gives the denoised side. At a constant sigma and the same
    alpha, :class:`~pnp_mlpatch.solvers.hqs.HQS` goes to D(x, sigma).

    ``anderson`` = m > 0 mixes the last m points (:mod:`~pnp_mlpatch.solvers._anderson`), for images that are to be exact; the fixed points
    are the same. Give a constant ``sigma`` then.

    Romano, Elad, Milanfar 2017; as a score, Reehorst and Schniter 2019.
    """

    state_type: ClassVar[type[State]] = REDState
    rising: ClassVar[bool] = True

    iterations: int = 50
    sigma: schedules.Schedule = 15 / 255
    alpha: float | Tensor | None = None
    factor: float | Tensor = 1.0
    form: str = "fixed_point"
    tol: float = 1e-4
    data_iterations: int = 2
    data_tol: float = 1e-6
    anderson: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            alpha=self.alpha,
            factor=self.factor,
            data_iterations=self.data_iterations,
            data_tol=self.data_tol,
        )
        anderson.check_depth(self.anderson, "RED")
        schedules.check_schedule(self.sigma, "RED: sigma")
        if self.form not in ("fixed_point", "gradient"):
            raise InputError(f"RED: form must be 'fixed_point' or 'gradient', got {self.form!r}.")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {"sigma": sigma, "alpha": weight_of(problem, self.alpha, sigma, "RED", self.factor)}

    def init(self, problem: Problem, x0: Tensor) -> REDState:
        norm2 = (
            curvatures(problem.A, x0, "RED") if self.form == "gradient" else x0.new_zeros(len(x0))
        )
        memory, mixing = anderson.empty(x0, self.anderson)
        return REDState(
            x=x0,
            iteration=0,
            ahead=x0,
            norm2=norm2,
            data_residual=x0.new_zeros(len(x0)),
            memory=memory,
            mixing=mixing,
        )

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> REDState:
        assert isinstance(state, REDState)
        level, z = self.levels(problem, state), state.ahead
        d = denoise(z, level["sigma"])
        if self.form == "fixed_point":
            x, reached = data_step(
                problem,
                d,
                level["alpha"],
                z,
                self.data_tol,
                anderson.steps(self.data_iterations, self.anderson),
            )
        else:
            alpha = per_image(level["alpha"], z, "RED: alpha")
            gradient = problem.A.normal(z) - problem.Aty + alpha * (z - d)
            x, reached = z - gradient / (column(state.norm2) + alpha), state.data_residual
        mixed = anderson.mix(z, x, state.memory, state.mixing)
        return REDState(
            x=x,
            iteration=state.iteration + 1,
            ahead=mixed.point,
            norm2=state.norm2,
            data_residual=reached,
            fixed_point=mixed.fixed_point,
            memory=mixed.memory,
            mixing=mixed.mixing,
        )


__all__ = ["RED", "REDState"]
