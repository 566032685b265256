"""Sample the posterior of shear maps, with checkpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import WeightsError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.lensing import from_reduced, smoothed
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.pipelines._mass_map_place import Place, add_e
from pnp_mlpatch.solvers import State
from pnp_mlpatch.solvers.split_gibbs import SplitGibbs, SplitGibbsState, remaining

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.mass_map import MassMapConfig

SAVE_EVERY = 5.0  # seconds between two checkpoints


@dataclass(frozen=True)
class Job:
    """Data, operator, denoiser and settings of a run, on one device.

    ``g`` (B, 2, H, W) is the shear or reduced shear, ``noise`` (B, 1, H, W); ``config`` has the
    padding; ``sigmas``, ``levels`` and ``widths`` are one for each map: of the denoiser, of the
    data, of the smoothing. ``max_sigma`` is the highest level of the denoiser. ``place`` says where
    a patch of a field lies.
    """

    g: Tensor
    noise: Tensor
    A: Lensing
    D: Denoiser
    config: MassMapConfig
    sigmas: list[float]
    levels: list[float]
    max_sigma: float
    widths: list[str]
    place: Place

    def for_each(self, values: list[float]) -> float | Tensor:
        """Return one number, or a tensor (B,) of several."""
        return values[0] if len(values) == 1 else torch.tensor(values, device=self.g.device)

    def whole(self, kappa: Tensor) -> Tensor:
        """Add what the data of a patch do not tell."""
        return kappa if self.place.outside is None else add_e(kappa, self.place.outside.to(kappa))

    def kaiser_squires(self) -> Tensor:
        """E and B (B, 2, H, W) of the shear maps, smoothed."""
        maps = self.A.cut(self.A.initial(self.g))
        return torch.stack(
            [smoothed(x, w, self.A.pixel) for x, w in zip(maps, self.widths, strict=True)]
        )


@dataclass
class _Position:
    """Where a run is: in which pass, with which map of the pass before, and which state."""

    pass_number: int = 0
    kappa: Tensor | None = None
    state: SplitGibbsState | None = None


@dataclass(frozen=True)
class Running:
    """Where a run keeps its state, and how it is shown: see :func:`map_mass`."""

    checkpoint: str | PathLike[str] | None = None
    save_every: float = SAVE_EVERY
    device: str | torch.device = "cpu"
    progress: bool | None = None


def of_reduced(job: Job, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shear of a reduced shear, and its noise."""
    kappa = job.A.cut(kappa)
    return from_reduced(job.g, kappa), job.noise * (1 - kappa[:, :1]).clamp_min(0.1)


def sample(job: Job, run: Running, about: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the maps and their spread, with the border, from where an interrupted run was left."""
    A, sigma, path = job.A, job.for_each(job.sigmas), run.checkpoint
    position = _resume(path, about, job.g.device)
    kappa, spread, saved = position.kappa, torch.zeros_like(job.g), time.perf_counter()

    def keep(state: State) -> None:
        nonlocal saved
        if path is not None and time.perf_counter() - saved > run.save_every:
            content = {"pass": position.pass_number, "kappa": position.kappa, "state": vars(state)}
            checkpoints.save(path, content, about=about)
            saved = time.perf_counter()

    solver = SplitGibbs(
        iterations=job.config.iterations,
        sigma=sigma,
        burn_in=job.config.burn_in,
        seed=job.config.seed,
        origin=job.place.origin,
    )
    while position.pass_number < job.config.passes:
        if kappa is None:
            gamma, noise = job.g, job.noise
            start = [min(level, job.max_sigma) for level in job.levels]
            x0 = job.D(A.initial(gamma), job.for_each(start))
        else:
            (gamma, noise), x0 = of_reduced(job, job.whole(kappa)), kappa
        split = [torch.as_tensor(remaining(n, s)) for n, s in zip(noise, job.sigmas, strict=True)]
        result = solver.run(
            gamma,
            A,
            job.D,
            noise=torch.stack(split) if len(split) > 1 else split[0],
            x0=x0 if position.state is None else None,
            state=position.state,
            callbacks=[keep],
            progress=run.progress,
        )
        assert isinstance(result.state, SplitGibbsState)
        kappa, spread = result.x, result.state.std
        position = _Position(position.pass_number + 1, kappa)
    assert kappa is not None
    return kappa, spread


def _resume(
    path: str | PathLike[str] | None, about: dict[str, Any], device: torch.device
) -> _Position:
    """Return the position of an interrupted run, or the start."""
    found = checkpoints.resume(path, about, "checkpoint of map_mass", device)
    if found is None:
        return _Position()
    content, _ = found
    try:
        state = SplitGibbsState(**content["state"])
        return _Position(int(content["pass"]), content["kappa"], state)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a checkpoint of map_mass ({type(error).__name__}). "
            "Remove it to start anew."
        ) from error
