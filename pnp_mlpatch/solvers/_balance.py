"""Residual balancing of ADMM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers._dual import DualState


def check_balance(balance: Any) -> None:
    """Raise unless ``balance`` is an integer >= 0."""
    if isinstance(balance, bool) or not isinstance(balance, int) or balance < 0:
        raise InputError(
            "ADMM: balance is for how many iterations residuals are balanced, "
            f"an integer >= 0, got {balance!r}."
        )


def balanced(state: DualState) -> DualState:
    """Change sigma of the images whose residuals differ by more than ten times.

    u goes with sigma^2, as the scaled dual of the same multiplier.
    """
    assert state.scale is not None
    primal, dual = (torch.as_tensor(state.measures()[k]).double() for k in ("primal", "dual"))
    ratio = primal / dual.clamp_min(1e-30)
    change = torch.where(ratio > 10, 0.5**0.5, torch.where(ratio < 0.1, 2**0.5, 1.0))
    scale = (state.scale * change).clamp(1 / 8, 8)
    weight = ((scale / state.scale) ** 2).to(state.u).reshape(-1, 1, 1, 1)
    return replace(state, scale=scale, u=state.u * weight)
