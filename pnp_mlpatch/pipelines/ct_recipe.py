"""One slab solved: by the recipe, by the solver that was asked for, or by backprojection alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.ct._ellipse import extend
from pnp_mlpatch.denoisers import Denoiser, DenoiserInfo, describe
from pnp_mlpatch.operators import LinearOperator, Transmission
from pnp_mlpatch.operators._ringless import Ringless
from pnp_mlpatch.operators._sliced import Sliced
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_journal import ROW
from pnp_mlpatch.pipelines.ct_slab import Slab
from pnp_mlpatch.solvers import Solver, State, schedules
from pnp_mlpatch.tuning import chi2, recipe

Row = dict[str, Any]  # what is reported of a slice; its keys are ROW


def solve_slab(
    A: Radon,
    D: Denoiser | None,
    solver: Solver | str,
    scale: float,
    slab: Slab,
) -> tuple[Tensor, list[Row]]:
    """Reconstruct the slices of a slab.

    Parameters
    ----------
    A : Radon
        The projector of one slice.
    D : Denoiser or None
        In attenuation; None stops at filtered backprojection.
    solver : Solver or str
        A name is the preset of :func:`~pnp_mlpatch.tuning.recipe`.
    scale : float
        The width of the window, in attenuation.
    slab : Slab
        The data.

    Returns
    -------
    x : Tensor, shape (slices, H, W)
        Attenuation, on the CPU; 0 where nothing was measured.
    rows : list of dict
        How each slice ended.
    """
    x = torch.zeros(len(slab.live), *A.image_shape[1:])
    dead = {"status": "nothing measured", "iterations": 0}
    rows: list[Row] = [dict.fromkeys(ROW) | dead for _ in slab.live]
    if not len(slab.q):
        return x, rows
    if D is None:
        found = backproject(A, slab)
        ended: list[Row] = [{"status": "fbp", "iterations": 0}] * len(slab.q)
    elif isinstance(solver, str):
        found, ended = _by_recipe(A, D, scale, slab, solver)
    else:
        found, ended = _by_solver(A, D, solver, slab)
    levels = [None] * len(slab.q) if slab.noise.ndim > 1 else slab.noise.tolist()
    places = slab.live.nonzero().flatten().tolist()
    rejected = slab.rejected or ({},) * len(slab.q)
    spread = [None] * len(slab.q) if slab.spread is None else slab.spread.tolist()
    told = zip(places, ended, levels, rejected, spread, strict=True)
    for place, end, level, out, rings in told:
        known = {"noise": level, "element_spread": rings}
        rows[place] = dict.fromkeys(ROW) | end | known | out
    x[slab.live] = found[:, 0].cpu().to(x.dtype)
    return x, rows


def backproject(A: Radon, slab: Slab) -> Tensor:
    """Return filtered backprojection, interpolated along the detector where data are missing.

    Beyond the elements that measured, projections go on as those of the ellipses that fit them.

    Parameters
    ----------
    A : Radon
        The projector of one slice.
    slab : Slab
        The data, B slices of it live.

    Returns
    -------
    Tensor, shape (B, 1, H, W)
    """
    q, seen = slab.q.clone(), ~slab.missing
    for k in _beyond(slab).nonzero().flatten().tolist():
        found = extend(A.geometry, q[k].cpu(), seen[k].cpu())
        if found is not None:
            alive = seen[k].any(0).nonzero().flatten()
            ends = torch.ones_like(seen[k])
            ends[:, int(alive[0]) : int(alive[-1]) + 1] = False
            q[k] = torch.where(ends, found, q[k])
            seen[k] |= ends
    q, seen = (part[:, None].to(A.angles.device) for part in (q, seen))
    return A.initial(q) if bool(seen.all()) else A.weighted(seen.to(q.dtype)).initial(q)


def _beyond(slab: Slab) -> Tensor:
    """Return which slices were given room: a twentieth of the elements at both ends saw nothing."""
    width = max(1, slab.q.shape[-1] // 20)
    seen = (~slab.missing).any(1)
    return ~(seen[:, :width].any(1) | seen[:, -width:].any(1)) & seen.any(1)


def start_level(A: Radon, slab: Slab, known: DenoiserInfo) -> Tensor:
    """Return the level at which the start of a plain run is denoised.

    Parameters
    ----------
    A : Radon
        The projector of one slice.
    slab : Slab
        The data, B slices of it live.
    known : DenoiserInfo
        Of the denoiser; the level stays in its range.

    Returns
    -------
    Tensor, shape (B,)
        Twice the standard deviation of the noise in ``A.initial``, from one draw of the noise.
    """
    noise = slab.noise.reshape(len(slab.q), *(slab.noise.shape[1:] or (1, 1)))
    noise = noise.masked_fill(slab.missing, 0.0)
    draw = noise * torch.randn(slab.q.shape, generator=torch.Generator().manual_seed(0))
    level = 2 * A.initial(draw[:, None].to(A.angles.device)).flatten(1).std(1)
    return level if known.sigma_range is None else level.clamp(*known.sigma_range)


def _by_solver(A: Radon, D: Denoiser, solver: Solver, slab: Slab) -> tuple[Tensor, list[Row]]:
    """Run the solver, from the denoised start."""
    levels, images = start_level(A, slab, describe(D)), backproject(A, slab)
    q, T, noise = problem = problem_of(A, slab)
    if slab.stack:
        q, T, noise = _stacked(*problem)
        levels, images = levels.mean()[None], images.transpose(0, 1)
    starts = zip(images, levels.tolist(), strict=True)
    x0 = torch.cat([D(one[None], level) for one, level in starts])
    change = _Change(x0)
    result = solver.run(q, T, D, noise=noise, x0=x0, callbacks=[change], progress=False)
    x = result.x.transpose(0, 1) if slab.stack else result.x
    ended = {"status": result.status, "iterations": result.state.iteration}
    count = len(slab.q)
    fits = _fits(problem, x) if slab.counts is None else [None] * count
    return x, [
        ended | {"residual": value, "chi2": fit}
        for value, fit in zip(change.values[-1], fits, strict=True)
    ]


def _by_recipe(
    A: Radon, D: Denoiser, scale: float, slab: Slab, preset: str
) -> tuple[Tensor, list[Row]]:
    """Run the recipe at the level of each slice; a row reports the run that gave the slice."""
    q, T, noise = problem = problem_of(A, slab)
    known = describe(D).sigma_range
    sigma = torch.as_tensor(schedules.from_noise(A, _noise(slab), scale=scale)).reshape(-1).to(q)
    if slab.stack:
        q, T, noise = _stacked(*problem)
        sigma = sigma.mean()[None]
    sigma = sigma if known is None else sigma.clamp(*known)
    x0 = None
    if bool(_beyond(slab).any()):
        images = backproject(A, slab)
        x0 = images.transpose(0, 1).contiguous() if slab.stack else images
    change = _Change(torch.zeros_like(q[:, :, :1, :1]))
    found = recipe(
        q,
        T,
        D,
        x0=x0,
        noise=noise,
        sigma=sigma,
        lowest=0.5 if slab.counts is None else 1.0,
        preset=preset,
        callbacks=[change],
        progress=False,
    )
    ends = np.cumsum([run.state.iteration for run in found.runs]).tolist()
    x = found.x.transpose(0, 1) if slab.stack else found.x
    values = zip(
        (sigma / scale).expand(len(x)).tolist(),
        found.alpha_scale.expand(len(x)).tolist(),
        _fits(problem, x) if slab.stack else found.chi2.tolist(),
        strict=True,
    )
    ended = []
    for k, (level, alpha_scale, fit) in enumerate(values):
        last = round(-math.log2(alpha_scale))  # the run that gave this slice
        ended.append(
            {
                "status": found.runs[last].status,
                "iterations": ends[last],
                "residual": change.values[ends[last] - 1][k],
                "sigma": level,
                "alpha_scale": alpha_scale,
                "chi2": fit,
            }
        )
    return x, ended


_Problem = tuple[Tensor, LinearOperator, float | Tensor]


def _fits(problem: _Problem, x: Tensor) -> list[float]:
    """Return chi-squared of each slice."""
    q, T, noise = problem
    return chi2(q, T, x, noise).tolist()


def _stacked(q: Tensor, T: LinearOperator, noise: float | Tensor) -> _Problem:
    """Return the problem of the slices as one of their stack, which shares one level of noise."""
    if isinstance(noise, Tensor):
        noise = noise.square().mean().sqrt() if noise.ndim == 1 else noise.transpose(0, 1)
    return q.transpose(0, 1).contiguous(), Sliced(T, len(q)), noise


def problem_of(A: Radon, slab: Slab) -> _Problem:
    """Return data, operator and noise as the solvers take them.

    Parameters
    ----------
    A : Radon
        The projector of one slice.
    slab : Slab
        The data, B slices of it live.

    Returns
    -------
    q : Tensor, shape (B, 1, angles, detectors)
    T : LinearOperator
        A itself, or with unknown offsets of the detector elements, or of the counts.
    noise : float or Tensor
    """
    device = A.angles.device
    if slab.spread is not None and bool((slab.spread > 0).any()):
        return _ringless(A, slab)
    if slab.counts is None:
        return slab.q[:, None].to(device), A, _noise(slab).to(device)
    T = Transmission(A, *(part[:, None].to(device) for part in slab.counts))
    return T.q, T, 1.0


def _ringless(A: Radon, slab: Slab) -> tuple[Tensor, LinearOperator, Tensor]:
    """Return data, operator and noise with an unknown offset of each detector element."""
    assert slab.spread is not None
    device, q = A.angles.device, slab.q[:, None]
    noise = slab.noise.reshape(len(q), 1, *(slab.noise.shape[1:] or (1, 1)))
    weight = noise.reciprocal().expand_as(q).masked_fill(slab.missing[:, None], 0.0)
    T = Ringless(A, weight.to(device), slab.spread.to(device))
    measured = (~slab.missing).flatten(1).float().mean(1)  # chi-squared is per measured datum
    return T.whiten(q.to(device)), T, measured.sqrt().to(device)


def _noise(slab: Slab) -> Tensor:
    """One number for each slice, or a map: infinite where data are missing."""
    noise = slab.noise
    if noise.ndim == 1 and not bool(slab.missing.any()):
        return noise
    noise = noise.reshape(len(noise), 1, *(noise.shape[1:] or (1, 1)))
    return noise.masked_fill(slab.missing[:, None], torch.inf)


class _Change:
    """A callback that keeps the relative change of each slice in each iteration."""

    def __init__(self, x0: Tensor):
        self.x = x0
        self.values: list[list[float]] = []

    def __call__(self, state: State) -> None:
        old, self.x = self.x, state.x
        parts = (x.flatten(0, 1).flatten(1) for x in (self.x - old, self.x))
        moved, size = (part.double().norm(dim=1) for part in parts)
        self.values.append((moved / size.clamp_min(1e-30)).tolist())


__all__ = ["backproject", "problem_of", "solve_slab", "start_level"]
