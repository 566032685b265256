"""Plug-and-play FISTA: accelerated proximal gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.linalg import dot, power_of_two, sizes
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._gradient import Gradient, GradientState
from pnp_mlpatch.solvers._problem import Problem, column


@dataclass(frozen=True)
class FISTAState(GradientState):
    """State of FISTA: ``ahead`` is the point y of the next step.

    Parameters
    ----------
    weight : Tensor, shape (B, 1, 1, 1)
        Its t.
    """

    weight: Tensor


@register("fista")
@dataclass(frozen=True)
class FISTA(Gradient[FISTAState]):
    r"""Proximal gradient descent with momentum, and a denoiser for the proximal map.

    From :math:`y_0`, the start, and :math:`t_0 = 1`,

    .. math::

        x_k &= D(y_{k-1} - \tau A^H (A y_{k-1} - q), \sigma_k), \qquad \tau \le 1 / |A|^2 \\
        y_k &= x_k + \frac{t_{k-1} - 1}{t_k} \, (x_k - x_{k-1}), \qquad
            t_k = \tfrac{1}{2} \left(1 + \sqrt{1 + 4 t_{k-1}^2}\right)

    Where :math:`\langle y_{k-1} - x_k, x_k - x_{k-1} \rangle > 0` the momentum points uphill. It
    restarts, for each image by itself: :math:`t_k = 1` and :math:`y_k = x_k`.

    Parameters
    ----------
    iterations, sigma, tau, tol
        As for :class:`~pnp_mlpatch.solvers.pgd.PGD`, whose fixed points it has; ``tau`` is at most
        :math:`1 / |A|^2`.

    Notes
    -----
    For operators without a data step, where PGD takes too many iterations. With exact proximal
    maps the objective falls as :math:`1 / k^2`. With other denoisers nothing is proved, and PGD
    is the safer choice.

    References
    ----------
    Beck and Teboulle 2009; restarts, O'Donoghue and Candes 2015.
    """

    state_type: ClassVar[type[State]] = FISTAState

    def init(self, problem: Problem, x0: Tensor) -> FISTAState:
        one = x0.new_ones(len(x0), 1, 1, 1)
        return FISTAState(x0, 0, ahead=x0, tau=self.step_size(problem, x0), weight=one)

    def step(self, problem: Problem, denoise: Denoiser, state: FISTAState) -> FISTAState:
        y, sigma = state.ahead, self.levels(problem, state)["sigma"]
        x = denoise(y - column(state.tau) * (problem.A.normal(y) - problem.Aty), sigma)
        moved = x - state.x
        unit = column(power_of_two(sizes(moved)))  # the product stays in the range of float32
        uphill = dot((y - x) / unit, moved / unit) > 0
        weight = torch.where(uphill, 1.0, (1 + torch.sqrt(1 + 4 * state.weight**2)) / 2)
        ahead = torch.where(uphill, x, x + (state.weight - 1) / weight * moved)
        return replace(state, x=x, iteration=state.iteration + 1, ahead=ahead, weight=weight)


__all__ = ["FISTA", "FISTAState"]
