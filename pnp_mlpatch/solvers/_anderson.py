r"""Anderson acceleration of a fixed-point iteration z -> g(z), each image of a batch by itself, with a safeguard.

With r = g(z) - z and the last m points z_j, r_j,

    z_next = z + beta r - sum_j gamma_j [ (z - z_j) + beta (r - r_j) ]        gamma = argmin | r - sum_j gamma_j (r - r_j) |^2

which for a linear g is GMRES on z = g(z). beta = 2 reflects at g(z) rather than going there, as over-relaxation does; so does the first step, which has
nothing to mix.

An image whose residual is more than twice its least goes back to g of the best point that is remembered, and on without mixing, for m
iterations, for 2 m the next time, and so on: where g is no contraction, and mixing finds nothing, what is left is the plain iteration. The memory
holds 2 m images. An inexact g (a data step by few steps of CG) leaves residuals that mixing amplifies: solvers give it at least ``STEPS``.

Anderson 1965; Walker and Ni 2011; safeguards, Zhang, O'Donoghue and Boyd 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.linalg import power_of_two, sizes

WORSE = 2.0  # how much larger than the least the residual of a mixed point may be
BETA = 2.0
STEPS = 10  # of CG in the data step, at least
RIDGE = 1e-10  # of the trace of the normal equations, in float64


@dataclass(frozen=True)
class Mixed:
    """``point`` is where to go on, ``fixed_point`` (B,) the |r| / |z| of this step; ``memory`` and ``mixing`` are for the next one."""

    point: Tensor
    fixed_point: Tensor
    memory: Tensor | None
    mixing: Tensor | None


def empty(x: Tensor, depth: int) -> tuple[Tensor | None, Tensor | None]:
    """The memory (B, 2, m, C, H, W) of points and their residuals, and the mixing (B, 4): how many are held, the least |r|, how
    many iterations to wait, and how many the next time; None for m = 0."""
    if depth == 0:
        return None, None
    mixing = torch.tensor(
        [0.0, torch.inf, 0.0, depth], dtype=torch.float64, device=x.device
    ).repeat(len(x), 1)
    return x.new_zeros(len(x), 2, depth, *x.shape[1:]), mixing


def mix(z: Tensor, g: Tensor, memory: Tensor | None, mixing: Tensor | None) -> Mixed:
    """The point after ``z`` with ``g`` = g(z), both (B, C, H, W): g itself without a memory."""
    r = g - z
    tiny = torch.finfo(z.dtype).tiny
    size = sizes(r)
    relative = size / sizes(z).clamp_min(tiny)
    if memory is None or mixing is None:
        return Mixed(g, relative, memory, mixing)
    images, _, depth = memory.shape[:3]
    count, least, wait, pause = mixing.unbind(1)
    held = torch.arange(depth, device=z.device) >= depth - count[:, None]  # the newest is the last
    points, residuals = memory[:, 0], memory[:, 1]
    failed = (size.double() > WORSE * least) | ~torch.isfinite(size)

    unit = power_of_two(size).reshape(-1, 1, 1, 1)  # squares stay in the range of float32
    dr = ((r / unit)[:, None] - residuals / unit[:, None]) * held[..., None, None, None]
    dr = dr.flatten(2)
    gram = (dr @ dr.transpose(1, 2)).double()
    right = (dr @ (r / unit).flatten(1)[..., None]).double()
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    unused = torch.diag_embed((~held).double()) + (trace == 0) * torch.eye(
        depth, dtype=torch.float64, device=z.device
    )
    gram = gram + RIDGE * trace * torch.eye(depth, dtype=torch.float64, device=z.device) + unused
    gamma = torch.where(
        failed[:, None, None],
        0.0,
        torch.linalg.solve(
            torch.where(failed[:, None, None], torch.eye(depth).to(gram), gram), right
        ),
    )
    mixes = (count > 0) & (wait <= 0) & (gamma.abs().sum(1)[:, 0] < 1e4)
    gamma = torch.where(mixes[:, None, None], gamma, 0.0).to(z.dtype)
    first = (count == 0) & (wait <= 0) & ~failed
    beta = torch.where(mixes | first, BETA, 1.0).to(z.dtype)[:, None, None, None]
    change = z[:, None] - points + beta[:, None] * (r[:, None] - residuals)
    step = (change * (held[..., None, None, None] * gamma[..., None, None])).sum(1)

    best = torch.where(held, (residuals / unit[:, None]).flatten(2).norm(dim=2), torch.inf).argmin(
        1
    )
    chosen = torch.arange(images, device=z.device)
    back = points[chosen, best] + residuals[chosen, best]
    point = torch.where(failed[:, None, None, None], back, z + beta * r - step)

    newest = torch.stack([z, r], dim=1)[:, :, None]
    memory = torch.cat([memory[:, :, 1:], newest], dim=2)
    count = torch.where(failed, torch.zeros_like(count), (count + 1).clamp_max(depth))
    least = torch.where(
        failed, torch.full_like(least, torch.inf), torch.minimum(least, size.double())
    )
    wait = torch.where(failed, pause, (wait - 1).clamp_min(0))
    pause = torch.where(failed, 2 * pause, pause)
    return Mixed(point, relative, memory, torch.stack([count, least, wait, pause], dim=1))


def steps(data_iterations: int, depth: int) -> int:
    """How many steps of CG a data step takes: at least STEPS with a memory."""
    return max(data_iterations, STEPS) if depth else data_iterations


def check_depth(depth: int, who: str) -> None:
    """Raise unless ``depth`` is an integer from 0 to 50."""
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 <= depth <= 50:
        raise InputError(
            f"{who}: anderson is how many points are mixed, an integer from 0 (none) to 50, got {depth!r}."
        )


__all__ = ["Mixed", "check_depth", "empty", "mix", "steps"]
