"""The plug-and-play primal-dual hybrid gradient method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._problem import Problem, curvatures, per_image
from pnp_mlpatch.solvers._splitting import Weighted


@dataclass(frozen=True)
class PDHGState(State):
    r"""State of PDHG: x is the denoised variable.

    Parameters
    ----------
    ahead : Tensor, shape (B, C, H, W)
        x, extrapolated.
    y : Tensor, shape (B, \*data_shape)
        The dual.
    step_size : Tensor, shape (B,)
        The step s of the dual.
    """

    ahead: Tensor
    y: Tensor
    step_size: Tensor


@register("pdhg")
@dataclass(frozen=True)
class PDHG(Weighted[PDHGState]):
    r"""The primal-dual hybrid gradient method of Chambolle and Pock.

    The data term is dualised, so only A and its adjoint are needed. From :math:`x_0 = x'_0`, the
    start, and :math:`y_0 = 0`,

    .. math::

        y_k &= (y_{k-1} + s (A x'_{k-1} - q)) / (1 + s \alpha_k), \qquad s = 1 / |A|^2 \\
        x_k &= D(x_{k-1} - A^H y_k, \sigma_k), \qquad
            \alpha_k = \text{alpha\_scale} \, (\text{noise} / \sigma_k)^2 \\
        x'_k &= 2 x_k - x_{k-1}

    Parameters
    ----------
    iterations, sigma, alpha, alpha_scale, tol
        As for :class:`~pnp_mlpatch.solvers.admm.ADMM`.

    Notes
    -----
    It is the method for :math:`\min_x \max_y \langle A x, y \rangle - F^*(y) + \sigma^2 R(x)`
    with :math:`F(p) = |p - q|^2 / (2 \alpha)` and D the proximal map of :math:`\sigma^2 R`. That
    is a step of 1, which leaves :math:`s |A|^2 \le 1` for the dual. At rest :math:`y = (A x - q)
    / \alpha`, and with :math:`u = -A^H y`

    .. math:: x = D(x + u, \sigma), \qquad A^H (A x - q) + \alpha u = 0

    which are the fixed points of ADMM at the same sigma and alpha.

    Use it for operators without a data step, or with a costly one, at a sigma of your choice: PGD
    has to take sqrt(tau) noise for the same result. It converges if D is firmly nonexpansive (2 D
    - 1 nonexpansive). Where A has small singular values it takes many iterations.

    References
    ----------
    Chambolle and Pock 2011; with a denoiser, Ono 2017.
    """

    state_type: ClassVar[type[State]] = PDHGState

    iterations: int = 100

    def init(self, problem: Problem, x0: Tensor) -> PDHGState:
        size = 1 / curvatures(problem.A, x0, "PDHG")
        return PDHGState(x=x0, iteration=0, ahead=x0, y=torch.zeros_like(problem.q), step_size=size)

    def step(self, problem: Problem, denoise: Denoiser, state: PDHGState) -> PDHGState:
        level, s = self.levels(problem, state), per_image(state.step_size, problem.q, "PDHG: step")
        y = (state.y + s * (problem.A(state.ahead) - problem.q)) / (
            1 + s * per_image(level["alpha"], problem.q, "PDHG: alpha")
        )
        x = denoise(state.x - problem.A.adjoint(y), level["sigma"])
        return replace(state, x=x, iteration=state.iteration + 1, ahead=2 * x - state.x, y=y)


__all__ = ["PDHG", "PDHGState"]
