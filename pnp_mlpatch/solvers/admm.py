"""Plug-and-play ADMM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers._balance import balanced, check_balance
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._dual import Dual, DualState
from pnp_mlpatch.solvers._problem import Problem

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class ADMMState(DualState):
    """State of ADMM: x is the denoised variable v."""


@register("admm")
@dataclass(frozen=True)
class ADMM(Dual[ADMMState]):
    r"""The alternating direction method of multipliers with a denoiser for the proximal map.

    From :math:`v_0 = x_0` and :math:`u_0 = 0`, with the estimate v,

    .. math::

        f_k &= h(v_{k-1} - u_{k-1}; \alpha_k), \qquad
            h(z; \alpha) = (A^H A + \alpha)^{-1} (A^H q + \alpha z) \\
        v_k &= D(f_k + u_{k-1}, \sigma_k) \\
        u_k &= u_{k-1} + f_k - v_k, \qquad
            \alpha_k = \text{alpha\_scale} \, (\text{noise} / \sigma_k)^2

    Parameters
    ----------
    iterations : int
        Number of steps at most.
    sigma : float, sequence of float, or Tensor of shape (B,) or (K, B)
        Level given to the denoiser, in the units of the image: a number, one for each iteration
        (the last is held), one for each image, or both. It acts like a step size
        sigma^2: the same denoiser at a larger sigma regularises more.
    alpha : float, Tensor of shape (B,), or None
        Weight of the data step, in place of the rule above.
    alpha_scale : float or Tensor, shape (B,)
        Factor of that rule: 1 by statistics, more for a stronger denoiser.
    tol : float
        Relative change of v below which an image has converged.
    data_iterations : int
        Iterations of preconditioned CG in a data step that has no closed form. It starts from
        :math:`f_{k-1} + (f_{k-1} - f_{k-2}) / 2`. The first three iterations, in which the start
        moves most, take one more.
    data_tol : float
        Relative residual at which that ends earlier.
    balance : int
        Number of first iterations that balance the residuals. Where the primal residual of an
        image is more than 10 times the dual one, its sigma is divided by sqrt(2), and the other
        way about, within 1/8 to 8 of what was given. With the proximal map of a prior the answer
        stays the same. Other denoisers regularise by their sigma, so balancing chooses one.

    Notes
    -----
    The history has "data_residual", the residual that the data step reached, and the relative
    residuals

    - "primal": :math:`|f - v| / \max(|f|, |v|)`;
    - "dual": :math:`|v_k - v_{k-1}| / |u|`;
    - "fixed_point": :math:`|f_k - v_{k-1}| / |v_{k-1} + u_{k-1}|`, by which z = v + u moves.

    With the augmented Lagrangian :math:`|f - v + u|^2` the second line has a plus; the talk that
    the project starts from prints a minus.

    References
    ----------
    Boyd et al. 2011; Venkatakrishnan, Bouman and Wohlberg 2013; balancing, Boyd et al. 2011
    (section 3.4.1) and, by relative residuals, Wohlberg 2017.
    """

    state_type: ClassVar[type[State]] = ADMMState

    balance: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_balance(self.balance)

    def levels(self, problem: Problem, state: ADMMState) -> dict[str, float | Tensor]:
        levels = super().levels(problem, state)
        if state.scale is None:
            return levels
        scale = state.scale.to(problem.q)
        sigma, alpha = (torch.as_tensor(value).to(scale) for value in levels.values())
        return {"sigma": sigma * scale, "alpha": alpha / scale**2}

    def init(self, problem: Problem, x0: Tensor) -> ADMMState:
        scale = x0.new_ones(len(x0), dtype=torch.float64) if self.balance else None
        return replace(super().init(problem, x0), scale=scale)

    def settle(
        self, problem: Problem, denoise: Denoiser, state: ADMMState, point: Tensor
    ) -> ADMMState:
        new = super().settle(problem, denoise, state, point)
        return cast(ADMMState, balanced(new)) if 0 < state.iteration < self.balance else new

    def for_mixing(self) -> Self:
        if self.balance:
            raise InputError("ADMM: balance changes the map that anderson mixes. Use one of them.")
        return super().for_mixing()


__all__ = ["ADMM", "ADMMState"]
