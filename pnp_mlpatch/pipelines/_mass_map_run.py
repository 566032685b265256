"""Make mass maps: the settings that are left open, and what is derived from the samples."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser, describe, e_mode, fingerprint
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.lensing import ShearMap, convergence_spectrum, describe_map, optimal_width
from pnp_mlpatch.lensing.estimators import weights
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.pipelines._mass_map_checks import b_mode_check, border, check_scales
from pnp_mlpatch.pipelines._mass_map_place import Place, Shifted
from pnp_mlpatch.pipelines._mass_map_sample import Job, Running, of_reduced, sample

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.mass_map import MassMap, MassMapConfig

SIGMA_SCALE = 0.75  # sigma over the noise of the data, from benchmarks/massmap.py --choose


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
    from pnp_mlpatch.pipelines.mass_map import MassMap

    settings = settings_of(job, shears[0], D)
    ks, residual = job.kaiser_squires(), _residual(job, kappa)
    kappa, spread = job.A.cut(kappa)[:, :1].cpu(), job.A.cut(spread)[:, 0].cpu()
    maps, ks = torch.cat([kappa, ks[:, 1:].cpu()], dim=1), ks.cpu()
    found = []
    for k, shear in enumerate(shears):  # a loop: warnings count the functions up to the user's
        found.append(_statistics(job, shear, maps[k], k))
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
