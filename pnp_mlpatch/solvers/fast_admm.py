"""Plug-and-play ADMM with momentum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._problem import Problem, column
from pnp_mlpatch.solvers._splitting import Splitting, SplittingState

KEEP = 0.999**0.5  # a step is kept if it makes the combined residual smaller by this


@dataclass(frozen=True)
class FastADMMState(SplittingState):
    """State of fast ADMM: x is the denoised variable v.

    Parameters
    ----------
    f, u : Tensor, shape (B, C, H, W)
        The data variable and the scaled dual.
    ahead, dual_ahead : Tensor, shape (B, C, H, W)
        v and u, extrapolated.
    weight : Tensor, shape (B, 1, 1, 1)
        The t_k of the momentum.
    change, moved : Tensor, shape (B, 1, 1, 1)
        The combined residual of the last step that was kept, and of the last step.
    """

    f: Tensor
    u: Tensor
    ahead: Tensor
    dual_ahead: Tensor
    weight: Tensor
    change: Tensor
    moved: Tensor


@register("fast_admm")
@dataclass(frozen=True)
class FastADMM(Splitting[FastADMMState]):
    r"""ADMM with Nesterov's momentum and restarts.

    For problems with components that the data barely constrain: limited angles, wide gaps.

    .. math::

        f_k &= h(v'_{k-1} - u'_{k-1}; \alpha_k), \qquad
            h(z; \alpha) = (A^H A + \alpha)^{-1} (A^H q + \alpha z) \\
        v_k &= D(f_k + u'_{k-1}, \sigma_k) \\
        u_k &= u'_{k-1} + f_k - v_k, \qquad
            \alpha_k = \text{alpha\_scale} \, (\text{noise} / \sigma_k)^2 \\
        (v', u')_k &= (v, u)_k + \frac{t_k - 1}{t_{k+1}} \, ((v, u)_k - (v, u)_{k-1}), \qquad
            t_{k+1} = \tfrac{1}{2} \left(1 + \sqrt{1 + 4 t_k^2}\right)

    as long as :math:`|u_k - u'_{k-1}|^2 + |v_k - v'_{k-1}|^2` falls. An image for which it does
    not fall goes back to the step before, with t = 1.

    Parameters
    ----------
    iterations, sigma, alpha, alpha_scale, tol, data_iterations, data_tol
        As for :class:`~pnp_mlpatch.solvers.admm.ADMM`, whose fixed points it has.

    References
    ----------
    Goldstein, O'Donoghue, Setzer and Baraniuk 2014.
    """

    state_type: ClassVar[type[State]] = FastADMMState

    def init(self, problem: Problem, x0: Tensor) -> FastADMMState:
        zero, one = torch.zeros_like(x0), x0.new_ones(len(x0), 1, 1, 1)
        far = one * torch.inf
        return FastADMMState(x0, 0, x0.new_zeros(len(x0)), x0, zero, x0, zero, one, far, far)

    def residuals(self, old: FastADMMState, new: FastADMMState) -> Tensor:
        """Return the relative change of v, but at least a tenth of that of (v, u)."""
        size = sizes(new.x).clamp_min(torch.finfo(new.x.dtype).tiny)
        return torch.maximum(super().residuals(old, new), 0.1 * new.moved.detach().flatten() / size)

    def step(self, problem: Problem, denoise: Denoiser, state: FastADMMState) -> FastADMMState:
        level, z = self.levels(problem, state), state.ahead - state.dual_ahead
        f, reached = self.data_step(problem, z, level["alpha"], state.f)
        v = denoise(f + state.dual_ahead, level["sigma"])
        u = state.dual_ahead + f - v
        change = column(sizes(torch.cat([u - state.dual_ahead, v - state.ahead], dim=1)))
        goes_on = change < KEEP * state.change
        weight = torch.where(goes_on, (1 + torch.sqrt(1 + 4 * state.weight**2)) / 2, 1.0)
        push = torch.where(goes_on, (state.weight - 1) / weight, 0.0)
        ahead = torch.where(goes_on, v + push * (v - state.x), state.x)
        dual_ahead = torch.where(goes_on, u + push * (u - state.u), state.u)
        kept = torch.where(goes_on, change, state.change / KEEP)
        new = replace(state, x=v, iteration=state.iteration + 1, f=f, u=u, data_residual=reached)
        momentum = {"weight": weight, "change": kept, "moved": change}
        return replace(new, ahead=ahead, dual_ahead=dual_ahead, **momentum)


__all__ = ["FastADMM", "FastADMMState"]
