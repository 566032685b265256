r"""Anderson acceleration of a fixed-point iteration z -> g(z), each image of a batch by itself, with a safeguard.

With r = g(z) - z and the last m points z_j, r_j,

    z_next = g(z) - sum_j gamma_j [ (z - z_j) + (r - r_j) ]        gamma = argmin | r - sum_j gamma_j (r - r_j) |^2

which for a linear g is GMRES on z = g(z). An image whose residual is more than twice its least goes back to g of the best point that is
remembered, and starts to collect anew. The memory holds 2 m images.

Anderson 1965; Walker and Ni 2011; safeguards, Zhang, O'Donoghue and Boyd 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError

WORSE = 2.0  # how much larger than the least the residual of a mixed point may be
BETA = 1.7
RIDGE = 1e-10  # of the trace of the normal equations, in float64


@dataclass(frozen=True)
class Mixed:
    """``point`` is where to go on, ``fixed_point`` (B,) the |r| / |z| of this step; ``memory`` and ``mixing`` are for the next one."""

    point: Tensor
    fixed_point: Tensor
    memory: Tensor | None
    mixing: Tensor | None


def empty(x: Tensor, depth: int) -> tuple[Tensor | None, Tensor | None]:
    """The memory (B, 2, m, C, H, W) of points and their residuals, and the mixing (B, 2): how many are held, and the least |r|; None for m = 0."""
    if depth == 0:
        return None, None
    mixing = torch.zeros(len(x), 2, dtype=torch.float64, device=x.device)
    mixing[:, 1] = torch.inf
    return x.new_zeros(len(x), 2, depth, *x.shape[1:]), mixing


def mix(z: Tensor, g: Tensor, memory: Tensor | None, mixing: Tensor | None) -> Mixed:
    """The point after ``z`` with ``g`` = g(z), both (B, C, H, W): g itself without a memory."""
    r = g - z
    tiny = torch.finfo(z.dtype).tiny
    size = r.detach().flatten(1).norm(dim=1)
    relative = size / z.detach().flatten(1).norm(dim=1).clamp_min(tiny)
    if memory is None or mixing is None:
        return Mixed(g, relative, memory, mixing)
    images, _, depth = memory.shape[:3]
    count, least = mixing[:, 0], mixing[:, 1]
    held = torch.arange(depth, device=z.device) >= depth - count[:, None]  # the newest is the last
    points, residuals = memory[:, 0], memory[:, 1]
    failed = (size.double() > WORSE * least) | ~torch.isfinite(size)

    dr = ((r[:, None] - residuals) * held[..., None, None, None]).flatten(2)
    gram = (dr @ dr.transpose(1, 2)).double()
    right = (dr @ r.flatten(1)[..., None]).double()
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    unused = torch.diag_embed((~held).double()) + (trace == 0) * torch.eye(depth, dtype=torch.float64, device=z.device)
    gram = gram + RIDGE * trace * torch.eye(depth, dtype=torch.float64, device=z.device) + unused
    gamma = torch.where(
        failed[:, None, None], 0.0, torch.linalg.solve(torch.where(failed[:, None, None], torch.eye(depth).to(gram), gram), right)
    )
    gamma = torch.where(gamma.abs().sum(1, keepdim=True) < 1e4, gamma, 0.0).to(z.dtype)
    step = ((z[:, None] - points + BETA * (r[:, None] - residuals)) * (held[..., None, None, None] * gamma[..., None, None])).sum(1)

    best = torch.where(held, residuals.flatten(2).norm(dim=2), torch.inf).argmin(1)
    chosen = torch.arange(images, device=z.device)
    back = points[chosen, best] + residuals[chosen, best]
    point = torch.where(failed[:, None, None, None], back, z + BETA * r - step)

    newest = torch.stack([z, r], dim=1)[:, :, None]
    memory = torch.cat([memory[:, :, 1:], newest], dim=2)
    count = torch.where(failed, torch.zeros_like(count), (count + 1).clamp_max(depth))
    least = torch.where(failed, torch.full_like(least, torch.inf), torch.minimum(least, size.double()))
    return Mixed(point, relative, memory, torch.stack([count, least], dim=1))


def check_depth(depth: int, who: str) -> None:
    """Raise unless ``depth`` is an integer from 0 to 50."""
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 <= depth <= 50:
        raise InputError(f"{who}: anderson is how many points are mixed, an integer from 0 (none) to 50, got {depth!r}.")


__all__ = ["Mixed", "check_depth", "empty", "mix"]
