"""Errors of a mass map, learned from generated skies with the survey's own mask and noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.lensing import ShearMap
from pnp_mlpatch.pipelines._mass_map_intervals import LEVEL, Calibration, Known, calibrated
from pnp_mlpatch.pipelines._mass_map_journal import Journal
from pnp_mlpatch.pipelines._mass_map_result import MassMap
from pnp_mlpatch.pipelines._mass_map_sample import Job, sample
from pnp_mlpatch.pipelines._mass_map_skies import amplitudes, counts, noise_of, observed, skies

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.mass_map import MassMapConfig

SEEDS = 4096  # of SplitGibbs


def plan(config: MassMapConfig) -> dict[str, Any]:
    """Return what the errors are learned from, for the settings."""
    number, iterations = counts(config.iterations, config.burn_in)
    return {"errors": {"level": LEVEL, "skies": number, "iterations": iterations}}


def calibrate(
    job: Job, shear: ShearMap, statistics: dict[str, Any], journal: Journal, progress: bool | None
) -> Calibration:
    """Map generated skies with the mask and the noise of the survey, and learn from their errors.

    The amplitude of these skies is kept in ``statistics``.
    """
    config, seen = job.config, shear.seen
    number, iterations = counts(config.iterations, config.burn_in)
    seeds = [(config.seed, k) for k in range(1, number + 1)]
    generated = skies(shear, number, config.seed)

    def smooth(gamma: Tensor) -> Tensor:  # E at the measured pixels
        g = gamma[None].float().to(job.g.device)
        return replace(job, g=g).kaiser_squires()[0, 0].cpu()[seen]

    variance = statistics["E rms smoothed"] ** 2 - statistics["B rms of noise"] ** 2
    found = amplitudes(
        [smooth(sky.gamma.where(seen, 0.0)) for sky in generated],
        [smooth(noise_of(shear, seed)) for seed in seeds],
        smooth(shear.gamma),
        abs(variance / (statistics["signs"]["E"] or 1e-30)),
    )
    statistics["amplitude of skies"] = sum(found) / number
    known = []
    for (_, k), sky, amplitude in zip(seeds, generated, found, strict=True):
        settings = replace(config, iterations=iterations, seed=(config.seed + k) % SEEDS)
        g = observed(sky, amplitude, shear, g=config.passes > 1, seed=seeds[k - 1])
        again = replace(job, g=g.float()[None].to(job.g.device), config=settings)

        def run(again: Job = again) -> tuple[Tensor]:
            return (job.A.cut(sample(again, journal, progress)[0])[0, 0].clone(),)

        (x,), truth = journal.chain(k, run), amplitude * sky.truth
        x = x.cpu()
        known.append(Known(x - x[seen].mean(), truth - truth[seen].mean()))
    return calibrated(known, seen, shear.pixel)


def with_errors(result: MassMap, found: Calibration, seen: Tensor) -> MassMap:
    """Add the intervals to a map."""
    mean = result.kappa[0][seen].mean()
    x = result.kappa[0] - mean
    low, high, std = found.maps(x)
    return replace(
        result,
        kappa_low=torch.minimum(low + mean, result.kappa[0]),
        kappa_high=torch.maximum(high + mean, result.kappa[0]),
        std=std,
        peaks=found.rows(x, seen, float(mean)),
    )
