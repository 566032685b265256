"""Map the convergence of a shear map, with settings that follow from its noise."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser, describe, e_mode, fingerprint
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.lensing import (
    ShearMap,
    convergence_spectrum,
    describe_map,
    optimal_width,
)
from pnp_mlpatch.lensing.estimators import weights
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.pipelines._mass_map_checks import (
    b_mode_check,
    border,
    check_map_and_denoiser,
    check_scales,
)
from pnp_mlpatch.pipelines._mass_map_place import Place, Shifted
from pnp_mlpatch.pipelines._mass_map_sample import SAVE_EVERY, Job, Running, of_reduced, sample

SIGMA_SCALE = 0.75  # sigma over the noise of the data, from benchmarks/massmap.py --choose


@dataclass(frozen=True)
class MassMapConfig:
    r"""Settings of :func:`map_mass`.

    Parameters
    ----------
    sigma : float, optional
        Noise level of the denoiser, > 0, in units of the convergence. By default 0.75 times the
        noise of the data (the root of the harmonic mean of the variances), at most what the
        denoiser takes.
    iterations, burn_in, seed : int
        See :class:`~pnp_mlpatch.solvers.split_gibbs.SplitGibbs`.
    passes : int
        With more than 1 the data are reduced shear, :math:`g = \gamma / (1 - \kappa)`, and the map
        is repeated with :math:`\gamma = g (1 - \kappa)`. Three are enough.
    padding : int, optional
        Unseen pixels added on every side, >= 0. By default as many as the mask lacks to an unseen
        border of an eighth of the side.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    sigma: float | None = None
    iterations: int = 40
    burn_in: int = 4
    passes: int = 1
    padding: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"iterations": 1, "burn_in": 0, "passes": 1, "padding": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if name == "padding" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(
                    f"MassMapConfig: {name} must be an integer >= {low}, got {value!r}."
                )
        if self.burn_in >= self.iterations:
            raise InputError(
                f"MassMapConfig: burn_in ({self.burn_in}) must be below iterations "
                f"({self.iterations})."
            )
        if self.sigma is not None and (not finite_number(self.sigma) or self.sigma <= 0):
            raise InputError(
                f"MassMapConfig: sigma must be > 0, got {self.sigma!r}. "
                "It is in units of the convergence."
            )


@dataclass(frozen=True)
class MassMap:
    """The result of :func:`map_mass`, on the pixels of the shear map.

    Parameters
    ----------
    kappa : Tensor, shape (2, H, W)
        E, the mean of the posterior, and B, which gravity does not make: that of the smoothed
        Kaiser-Squires map, a check.
    spread : Tensor, shape (H, W)
        Standard deviation of the denoised draws. It is no error bar: on generated maps the error is
        below it in 20 % of the pixels, where an error bar would have 68 %.
    smoothed : Tensor, shape (2, H, W)
        E and B of Kaiser-Squires, smoothed by ``settings["width"]``.
    statistics : dict
        Those of :func:`~pnp_mlpatch.lensing.statistics.describe_map` for E; of the smoothed map "E
        rms smoothed", "B rms", and "B rms of noise", that of the same shears, each turned by a
        random angle. A B rms that is much larger indicates systematic errors of the shear, or a
        wrong sign: "signs" has what :func:`~pnp_mlpatch.lensing.signs.check_signs` found.
    settings : dict
        All settings that were used.
    seconds : float
        Computing time.
    residual : Tensor, shape (2, H, W)
        Shear of the map less the data, in units of the noise; 0 where nothing was measured.
    """

    kappa: Tensor
    spread: Tensor
    smoothed: Tensor
    statistics: dict[str, Any]
    settings: dict[str, Any]
    seconds: float
    residual: Tensor


def map_mass(
    shear: ShearMap,
    D: Denoiser,
    config: MassMapConfig | None = None,
    *,
    checkpoint: str | PathLike[str] | None = None,
    save_every: float = SAVE_EVERY,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
) -> MassMap:
    r"""Map the convergence of a shear map by :class:`~pnp_mlpatch.solvers.split_gibbs.SplitGibbs`.

    Pixels that were not measured have no influence.

    Parameters
    ----------
    shear : ShearMap
        The shear and its noise.
    D : Denoiser
        A denoiser of E maps (1, 1, H, W) in units of the convergence, such as
        ``denoisers.make("mlpatch", weights="mlpatch-kappa")``, trained on pixels of 0.29 arcmin. It
        is moved to ``device`` if it is a module.
    config : MassMapConfig, optional
        The settings.
    checkpoint : str or path, optional
        File for the state of the run. If it is there, the run resumes from it, to the same bits. It
        stays at the end: remove it once the result is saved.
    save_every : float
        Seconds between two checkpoints.
    device : str or torch.device
        Where the computation runs. The result is on the CPU.
    progress : bool, optional
        Whether a progress bar is shown; by default on a terminal.

    Returns
    -------
    MassMap
        The convergence, its statistics, and the settings.

    Raises
    ------
    InputError
        If the noise cannot be right, the denoiser does not take this sigma, or the checkpoint
        belongs to other data or settings.
    WeightsError
        If the checkpoint is damaged.
    FileError
        If another run writes the checkpoint.
    """
    check_map_and_denoiser([shear], D, "map_mass")
    with nullcontext() if checkpoint is None else lock(checkpoint):
        run = Running(checkpoint, save_every, device, progress)
        return run_maps([shear], D, config or MassMapConfig(), run)[0]


def run_maps(
    shears: list[ShearMap], D: Denoiser, config: MassMapConfig, run: Running
) -> list[MassMap]:
    """Map several shear maps of one shape as a batch."""
    start = time.perf_counter()
    job = prepare(shears, D, config, torch.device(run.device), Place())
    for shear, level in zip(shears, job.levels, strict=True):
        check_scales(shear, level)
    kappa, spread = sample(job, run, about_run(job, shears, D))
    return finish(job, shears, D, kappa, spread, start)


def settings_of(job: Job, shear: ShearMap, D: Denoiser) -> list[dict[str, Any]]:
    """Return the settings of each map that were used."""
    shared = {"pixel": shear.pixel, "flip_ra": shear.flip_ra, "denoiser": fingerprint(D)}
    return [
        asdict(replace(job.config, sigma=sigma)) | {"noise": level, "width": width} | shared
        for sigma, level, width in zip(job.sigmas, job.levels, job.widths, strict=True)
    ]


def about_run(job: Job, shears: list[ShearMap], D: Denoiser) -> dict[str, Any]:
    """Return what tells a run from others: its settings and data."""
    settings = settings_of(job, shears[0], D)
    data = checkpoints.digest(*(x for shear in shears for x in (shear.gamma, shear.noise)))
    about = settings[0] if len(shears) == 1 else {"maps": settings}
    return about | {"data": data} | job.place.about()


def finish(
    job: Job,
    shears: list[ShearMap],
    D: Denoiser,
    kappa: Tensor,
    spread: Tensor,
    start: float,
) -> list[MassMap]:
    """Return the results: maps (B, 2, H, W) with their border, and what is derived from them."""
    settings = settings_of(job, shears[0], D)
    ks, residual = job.kaiser_squires(), _residual(job, kappa)
    kappa, spread = job.A.cut(kappa)[:, :1].cpu(), job.A.cut(spread)[:, 0].cpu()
    maps, ks = torch.cat([kappa, ks[:, 1:].cpu()], dim=1), ks.cpu()
    found = [_statistics(job, shears[k], maps[k], k) for k in range(len(shears))]
    seconds = (time.perf_counter() - start) / len(shears)
    return [
        MassMap(maps[k], spread[k], ks[k], found[k], settings[k], seconds, residual[k])
        for k in range(len(shears))
    ]


def _statistics(job: Job, shear: ShearMap, maps: Tensor, k: int) -> dict[str, Any]:
    statistics = describe_map(maps, shear.pixel, shear.seen) | b_mode_check(
        shear, job.widths[k], job.A.padding, job.config.seed, job.g.device
    )
    return statistics | {"seen": float(shear.seen.double().mean())}


def _residual(job: Job, kappa: Tensor) -> Tensor:
    """Return the shear (B, 2, H, W) of maps, with their border, less the data, over the noise."""
    gamma, noise = job.g, job.noise
    if job.config.passes > 1:
        gamma, noise = of_reduced(job, kappa)
    return ((job.A(kappa) - gamma) / noise).where(torch.isfinite(noise), 0.0).cpu()


def prepare(
    shears: list[ShearMap],
    D: Denoiser,
    config: MassMapConfig,
    device: torch.device,
    place: Place,
    widths: list[str] | None = None,
) -> Job:
    """Choose the settings that are left open, and move all to the device."""
    levels = [float(weights(shear.noise)[shear.seen].mean().rsqrt()) for shear in shears]
    max_sigma = (describe(D).sigma_range or (0.0, math.inf))[1]
    if config.sigma is not None and config.sigma > max_sigma:
        raise InputError(
            f"map_mass: the denoiser takes sigma up to {max_sigma:.4g}, got {config.sigma:.4g}."
        )
    sigmas = [
        min(SIGMA_SCALE * level, max_sigma) if config.sigma is None else config.sigma
        for level in levels
    ]
    padding, first = config.padding, shears[0]
    if padding is None:
        padding = max(border(shear.seen) for shear in shears)
    A = Lensing(
        weight=torch.ones(first.noise.shape),
        padding=padding,
        flip_ra=first.flip_ra,
        pixel=first.pixel,
    )
    move = getattr(D, "to", None)
    D = D if move is None else move(device)
    D = D if place.outside is None else Shifted(D, place.outside.to(device))
    return Job(
        g=torch.stack([shear.gamma for shear in shears]).float().to(device),
        noise=torch.stack([shear.noise for shear in shears])[:, None].float().to(device),
        A=A.to(device),
        D=e_mode(D),
        config=replace(config, padding=padding),
        sigmas=sigmas,
        levels=levels,
        max_sigma=max_sigma,
        widths=widths or [optimal_width(s.noise, convergence_spectrum, s.pixel) for s in shears],
        place=place,
    )


__all__ = ["MassMap", "MassMapConfig", "border", "map_mass"]
