"""Map the convergence of a shear map, with settings that follow from its noise."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser, describe, e_mode, fingerprint
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.lensing import (
    ShearMap,
    convergence_spectrum,
    describe_map,
    from_reduced,
    optimal_width,
    smoothed,
)
from pnp_mlpatch.lensing.estimators import weights
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.pipelines._mass_map_checks import b_mode_check, border, check_errors, check_scales
from pnp_mlpatch.pipelines._mass_map_intervals import LEVEL, Calibration, Known, calibrated
from pnp_mlpatch.pipelines._mass_map_journal import Journal, Position
from pnp_mlpatch.pipelines._mass_map_result import MassMap
from pnp_mlpatch.pipelines._mass_map_skies import amplitudes, counts, noise_of, observed, skies
from pnp_mlpatch.solvers.split_gibbs import SplitGibbs, SplitGibbsState, remaining

SIGMA_SCALE = 0.75  # sigma over the noise of the data, from benchmarks/massmap.py --choose
SEEDS = 4096  # of SplitGibbs
SAVE_EVERY = 5.0  # seconds between two checkpoints


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
class _Job:
    """Data, operator, denoiser and settings of a run, on one device.

    ``g`` (1, 2, H, W) is the shear or reduced shear; ``config`` has its sigma and padding;
    ``level`` is the noise of the data, ``max_sigma`` the highest level of the denoiser.
    """

    g: Tensor
    noise: Tensor
    A: Lensing
    D: Denoiser
    config: MassMapConfig
    level: float
    max_sigma: float
    width: str

    def kaiser_squires(self, gamma: Tensor) -> Tensor:
        """E and B (2, H, W) of a shear map, smoothed."""
        return smoothed(self.A.cut(self.A.initial(gamma)), self.width, self.A.pixel)[0]


def map_mass(
    shear: ShearMap,
    D: Denoiser,
    config: MassMapConfig | None = None,
    *,
    errors: bool = False,
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
    errors : bool
        Whether intervals are calibrated, on generated maps with the mask and the noise of the
        shear: ``kappa_low``, ``kappa_high``, ``std`` and ``peaks`` of the result. It takes about
        three times as long.
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
    if not isinstance(shear, ShearMap):
        raise InputTypeError(
            f"map_mass: expected a ShearMap, see lensing.read_shear; got {type(shear).__name__}."
        )
    if not callable(D):
        raise InputTypeError(
            f"map_mass: the denoiser must be callable as D(x, sigma), got {type(D).__name__}."
        )
    check_errors(errors, shear)
    start = time.perf_counter()
    job = _prepare(shear, D, config or MassMapConfig(), torch.device(device))
    settings = asdict(job.config) | {"noise": job.level, "width": job.width}
    settings |= {"pixel": shear.pixel, "flip_ra": shear.flip_ra, "denoiser": fingerprint(D)}
    settings |= _plan(job.config) if errors else {}
    about = settings | {"data": checkpoints.digest(shear.gamma, shear.noise)}
    with nullcontext() if checkpoint is None else lock(checkpoint):
        journal = Journal(checkpoint, about, save_every, job.g.device)
        kappa, spread = journal.chain(0, lambda: _sample(job, journal, progress))
        ks = job.kaiser_squires(job.g)
        maps = torch.stack([job.A.cut(kappa)[0, 0], ks[1]]).cpu()
        statistics = describe_map(maps, shear.pixel, shear.seen) | b_mode_check(
            shear, job.width, job.A.padding, job.config.seed, job.g.device
        )
        found = _calibrate(job, shear, statistics, journal, progress) if errors else None
    statistics["seen"] = float(shear.seen.double().mean())
    residual, spread = _residual(job, kappa), job.A.cut(spread)[0, 0].cpu()
    result = MassMap(maps, spread, ks.cpu(), statistics, settings, 0.0, residual)
    if found is not None:
        result = _with_errors(result, found, shear.seen)
    return replace(result, seconds=time.perf_counter() - start)


def _residual(job: _Job, kappa: Tensor) -> Tensor:
    """Return what the shear (2, H, W) of a map, with its border, misses, in units of the noise."""
    gamma, noise = job.g, job.noise
    if job.config.passes > 1:
        gamma = from_reduced(gamma, job.A.cut(kappa))
        noise = noise * (1 - job.A.cut(kappa)[0, 0]).clamp_min(0.1)
    return ((job.A(kappa) - gamma) / noise).where(torch.isfinite(noise), 0.0)[0].cpu()


def _prepare(shear: ShearMap, D: Denoiser, config: MassMapConfig, device: torch.device) -> _Job:
    """Choose the settings that are left open, and move all to the device."""
    level = float(weights(shear.noise)[shear.seen].mean().rsqrt())
    check_scales(shear, level)
    max_sigma = (describe(D).sigma_range or (0.0, math.inf))[1]
    sigma = min(SIGMA_SCALE * level, max_sigma) if config.sigma is None else config.sigma
    if sigma > max_sigma:
        raise InputError(
            f"map_mass: the denoiser takes sigma up to {max_sigma:.4g}, got {sigma:.4g}."
        )
    padding = border(shear.seen) if config.padding is None else config.padding
    noise = shear.noise.float().to(device)
    A = Lensing(
        weight=torch.ones(noise.shape), padding=padding, flip_ra=shear.flip_ra, pixel=shear.pixel
    )
    move = getattr(D, "to", None)
    return _Job(
        g=shear.gamma.float()[None].to(device),
        noise=noise,
        A=A.to(device),
        D=e_mode(D if move is None else move(device)),
        config=replace(config, sigma=sigma, padding=padding),
        level=level,
        max_sigma=max_sigma,
        width=optimal_width(shear.noise, convergence_spectrum, shear.pixel),
    )


# ---- errors


def _plan(config: MassMapConfig) -> dict[str, Any]:
    """Return what the errors are learned from, for the settings."""
    number, iterations = counts(config.iterations, config.burn_in)
    return {"errors": {"level": LEVEL, "skies": number, "iterations": iterations}}


def _calibrate(
    job: _Job, shear: ShearMap, statistics: dict[str, Any], journal: Journal, progress: bool | None
) -> Calibration:
    """Map generated skies with the mask and the noise of the survey, and learn from their errors.

    The amplitude of these skies is kept in ``statistics``.
    """
    config, seen = job.config, shear.seen
    number, iterations = counts(config.iterations, config.burn_in)
    seeds = [(config.seed, k) for k in range(1, number + 1)]
    generated = skies(shear, number, config.seed)

    def smooth(gamma: Tensor) -> Tensor:  # E at the measured pixels
        return job.kaiser_squires(gamma[None].float().to(job.g.device))[0].cpu()[seen]

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

        def run(again: _Job = again) -> tuple[Tensor]:
            return (job.A.cut(_sample(again, journal, progress)[0])[0, 0].clone(),)

        (x,), truth = journal.chain(k, run), amplitude * sky.truth
        x = x.cpu()
        known.append(Known(x - x[seen].mean(), truth - truth[seen].mean()))
    return calibrated(known, seen, shear.pixel)


def _with_errors(result: MassMap, found: Calibration, seen: Tensor) -> MassMap:
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


# ---- sampling


def _sample(job: _Job, journal: Journal, progress: bool | None) -> tuple[Tensor, Tensor]:
    """Return the map and its spread, with the border, from where an interrupted run was left."""
    config, A = job.config, job.A
    assert config.sigma is not None
    position = journal.position
    kappa, spread = position.kappa, torch.zeros_like(job.g)
    solver = SplitGibbs(
        iterations=config.iterations, sigma=config.sigma, burn_in=config.burn_in, seed=config.seed
    )
    while position.pass_number < config.passes:
        if kappa is None:
            gamma, noise = job.g, job.noise
            x0 = job.D(A.initial(gamma), min(job.level, job.max_sigma))
        else:
            gamma, x0 = from_reduced(job.g, A.cut(kappa)), kappa
            noise = job.noise * (1 - A.cut(kappa)[0, 0]).clamp_min(0.1)
        result = solver.run(
            gamma,
            A,
            job.D,
            noise=remaining(noise, config.sigma),
            x0=x0 if position.state is None else None,
            state=position.state,
            callbacks=[partial(journal.keep, position)],
            progress=progress,
        )
        assert isinstance(result.state, SplitGibbsState)
        kappa, spread = result.x, result.state.std
        position = Position(position.pass_number + 1, kappa)
    assert kappa is not None
    return kappa, spread


__all__ = ["MassMap", "MassMapConfig", "border", "map_mass"]
