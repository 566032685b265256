"""A map of the convergence from a map of the shear: the steps that a person would make one by one, with settings from the noise."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser, describe, e_mode, fingerprint
from pnp_mlpatch.errors import InputError, InputTypeError, WeightsError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.lensing.estimators import from_reduced, optimal_width, smoothed, weights
from pnp_mlpatch.lensing.fits import ShearMap
from pnp_mlpatch.lensing.spectra import convergence_spectrum
from pnp_mlpatch.lensing.statistics import describe_map
from pnp_mlpatch.lensing.units import arcmin
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.solvers import State
from pnp_mlpatch.solvers.split_gibbs import SplitGibbs, SplitGibbsState, remaining

LEVEL = 0.75  # sigma over the noise of the data; settled on generated maps (benchmarks/massmap.py --choose)
BORDER = 8  # an unseen border of at least one part in so many of the side, where the field may go on otherwise than it repeats itself
SAVED = 5.0  # seconds between two checkpoints


@dataclass(frozen=True)
class MassMapConfig:
    r"""Settings of :func:`map_mass`.

    ``sigma`` is the noise that the denoiser is given, by default 0.75 times that of the data (the root of the harmonic mean of the
    variances), but at most what the denoiser takes. ``iterations`` and ``burn_in`` are those of
    :class:`~pnp_mlpatch.solvers.split_gibbs.SplitGibbs`, and so is ``seed``. ``passes`` > 1 takes the data for reduced shear,
    g = gamma / (1 - kappa), and repeats the map with gamma = g (1 - kappa); three are enough. ``padding`` is the number of unseen pixels
    put on every side, by default what the mask lacks to a border of an eighth of the side. Raises :class:`InputError` for
    numbers out of range.
    """

    sigma: float | None = None
    iterations: int = 40
    burn_in: int = 4
    passes: int = 1
    padding: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("iterations", 1),
            ("burn_in", 0),
            ("passes", 1),
            ("padding", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not (name == "padding" and value is None) and (
                isinstance(value, bool) or not isinstance(value, int) or value < least
            ):
                raise InputError(
                    f"MassMapConfig: {name} must be an integer >= {least}, got {value!r}."
                )
        if self.burn_in >= self.iterations:
            raise InputError(
                f"MassMapConfig: burn_in ({self.burn_in}) must be below iterations ({self.iterations})."
            )
        if self.sigma is not None and (not finite_number(self.sigma) or self.sigma <= 0):
            raise InputError(
                f"MassMapConfig: sigma must be > 0, got {self.sigma!r}. It is in units of the convergence."
            )


@dataclass(frozen=True)
class MassMap:
    """What :func:`map_mass` finds, on the pixels of the shear map.

    ``kappa`` (2, H, W): E, the mean of the posterior, and B, which gravity does not make: that of the smoothed Kaiser-Squires map, a check.
    ``spread`` (H, W): the standard deviation of the denoised draws. It is no error bar: on generated maps |error| < spread holds in
    20 % of the pixels, where error bars would have 68 %. ``smoothed`` (2, H, W): E and B of Kaiser-Squires, smoothed by
    ``settings["width"]``. ``statistics`` are those of :func:`~pnp_mlpatch.lensing.statistics.describe_map` for E; of the smoothed
    map "E rms smoothed", "B rms" and "B rms of noise", what noise alone gives: a B rms that is much larger tells of systematic errors of the
    shear.
    ``settings`` are all numbers that were used.
    """

    kappa: Tensor
    spread: Tensor
    smoothed: Tensor
    statistics: dict[str, Any]
    settings: dict[str, Any]
    seconds: float


def map_mass(
    shear: ShearMap,
    D: Denoiser,
    config: MassMapConfig | None = None,
    *,
    checkpoint: str | PathLike[str] | None = None,
    save_every: float = SAVED,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
) -> MassMap:
    r"""The convergence of a shear map, by :class:`~pnp_mlpatch.solvers.split_gibbs.SplitGibbs` with ``D``, a denoiser of E maps.

    ``D`` takes maps (1, 1, H, W) in units of the convergence: ``denoisers.make("mlpatch", weights="mlpatch-kappa")``, trained on
    pixels of 0.29 arcmin; another one by :func:`~pnp_mlpatch.denoisers.rescaled`. Pixels that were not measured have no influence.

    The computation runs on ``device``, where ``D`` is moved if it is a module; the result is on the CPU. ``checkpoint`` names a
    file that keeps the state while it runs, written every ``save_every`` seconds; if it is there, the run goes on from it to the same result, bit for bit. It stays at the end: remove
    it once the result is saved. Raises :class:`InputError` if it belongs to other data or settings, :class:`WeightsError` if it is
    damaged, and :class:`FileError` if another run writes it.
    """
    if not isinstance(shear, ShearMap):
        raise InputTypeError(
            f"map_mass: expected a ShearMap, see lensing.maps.read_shear; got {type(shear).__name__}."
        )
    if not callable(D):
        raise InputTypeError(
            f"map_mass: the denoiser must be callable as D(x, sigma), got {type(D).__name__}."
        )
    start, config = time.perf_counter(), config or MassMapConfig()
    noise, g = shear.noise.float().to(device), shear.gamma.float()[None].to(device)
    level = float(weights(shear.noise)[shear.seen].mean().rsqrt())
    _check_scales(shear, level)
    most = (describe(D).sigma_range or (0.0, math.inf))[1]
    sigma = min(LEVEL * level, most) if config.sigma is None else config.sigma
    if sigma > most:
        raise InputError(f"map_mass: the denoiser takes sigma up to {most:.4g}, got {sigma:.4g}.")
    padding = border(shear.seen) if config.padding is None else config.padding
    width = optimal_width(shear.noise, convergence_spectrum, shear.pixel)
    config = replace(config, sigma=sigma, padding=padding)
    settings = {
        **asdict(config),
        "noise": level,
        "width": width,
        "pixel": shear.pixel,
        "flip_ra": shear.flip_ra,
        "denoiser": fingerprint(D),
    }

    A = Lensing(
        weight=torch.ones(noise.shape), padding=padding, flip_ra=shear.flip_ra, pixel=shear.pixel
    ).to(device)
    move = getattr(D, "to", None)
    De = e_mode(D if move is None else move(device))
    asked = json.loads(json.dumps({**settings, "data": _sha256(shear.gamma, shear.noise)}))
    with nullcontext() if checkpoint is None else lock(checkpoint):
        kappa, std = _passes(
            g, noise, A, De, config, min(level, most), checkpoint, save_every, asked, progress
        )
    ks = smoothed(A.cut(A.initial(g)), width, shear.pixel)[0]
    e = A.cut(kappa)[0, 0]
    found = torch.stack([e, ks[1]]).cpu()
    statistics = describe_map(found, shear.pixel, shear.seen)
    alone, swapped = (
        _noise_alone(A, noise, width, config.seed),
        smoothed(A.cut(A.initial(_swapped(g))), width, shear.pixel)[0],
    )
    rms = {
        name: float(x[shear.seen.to(x.device)].double().std())
        for name, x in (("E", ks[0]), ("B", ks[1]), ("other", swapped[1]))
    }
    statistics |= {
        "E rms smoothed": rms["E"],
        "B rms": rms["B"],
        "B rms of noise": alone,
        "seen": float(shear.seen.double().mean()),
    }
    if rms["B"] > 1.3 * alone and rms["other"] - alone < (rms["B"] - alone) / 2:
        warnings.warn(
            f"map_mass: smoothed, B has the rms {rms['B']:.3g}, and noise alone {alone:.3g}; with gamma_2 of the other sign it is "
            f"{rms['other']:.3g}. The sign seems to be wrong: turn it, of a catalogue by flip_e2=True, of a map by flip_ra="
            f"{not shear.flip_ra}.",
            stacklevel=2,
        )
    return MassMap(
        found, A.cut(std)[0, 0].cpu(), ks.cpu(), statistics, settings, time.perf_counter() - start
    )


def _passes(
    g: Tensor,
    noise: Tensor,
    A: Lensing,
    De: Denoiser,
    config: MassMapConfig,
    level: float,
    checkpoint: str | PathLike[str] | None,
    save_every: float,
    asked: dict[str, Any],
    progress: bool | None,
) -> tuple[Tensor, Tensor]:
    """The map and its ``spread``, with the border, from where an interrupted run was left; the start is denoised at ``level``."""
    assert config.sigma is not None
    first, kappa, state = _load(checkpoint, asked, g.device)
    solver = SplitGibbs(
        iterations=config.iterations, sigma=config.sigma, burn_in=config.burn_in, seed=config.seed
    )
    saved, std = time.perf_counter(), torch.zeros_like(g)
    for k in range(first, config.passes):
        one = 1 if kappa is None else (1 - A.cut(kappa)[0, 0]).clamp_min(0.1)
        gamma = g if kappa is None else from_reduced(g, A.cut(kappa))

        def keep(now: State, k: int = k, kappa: Tensor | None = kappa) -> None:
            nonlocal saved
            if checkpoint is not None and time.perf_counter() - saved > save_every:
                _save(Path(checkpoint), asked, k, kappa, now)
                saved = time.perf_counter()

        x0 = De(A.initial(gamma), level) if kappa is None else kappa
        result = solver.run(
            gamma,
            A,
            De,
            noise=remaining(noise * one, config.sigma),
            x0=x0 if state is None else None,
            state=state,
            callbacks=[keep],
            progress=progress,
        )
        assert isinstance(result.state, SplitGibbsState)
        kappa, std, state = result.x, result.state.std, None
    assert kappa is not None
    return kappa, std


def border(seen: Tensor) -> int:
    """What a mask (H, W) lacks to an unseen border of an eighth of its longer side, in pixels."""
    rows, cols = (seen.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    free = min(
        int(rows[0]),
        seen.shape[0] - 1 - int(rows[-1]),
        int(cols[0]),
        seen.shape[1] - 1 - int(cols[-1]),
    )
    return max(0, math.ceil(max(seen.shape) / BORDER) - free)


def _noise_alone(A: Lensing, noise: Tensor, width: str, seed: int, draws: int = 8) -> float:
    """The rms of B inside the mask of smoothed Kaiser-Squires maps of noise alone."""
    seen, generator, total = torch.isfinite(noise), torch.Generator().manual_seed(seed), 0.0
    for _ in range(draws):
        n = torch.where(seen, noise, 0.0) * torch.randn(1, 2, *noise.shape, generator=generator).to(
            noise
        )
        total += float(smoothed(A.cut(A.initial(n)), width, A.pixel)[0, 1][seen].double().var())
    return math.sqrt(total / draws)


def _swapped(gamma: Tensor) -> Tensor:
    """The shear with gamma_2 of the other sign."""
    return gamma * gamma.new_tensor([1, -1])[:, None, None]


def _check_scales(shear: ShearMap, level: float) -> None:
    """Raise, or warn, where the noise, the size of a pixel, or that of the map is of another order than it can be."""
    seen, side = shear.seen, arcmin(shear.pixel)
    count, rms = int(seen.sum()), float(shear.gamma[:, seen].square().mean().sqrt())
    if count >= 30 and 0 < rms < level / 2:
        raise InputError(
            f"map_mass: the noise is {level:.3g}, but the rms of the shear, signal and noise together, only {rms:.3g}. "
            "The noise must be a standard deviation of one component; are these weights, 1 / variance? Then give weights.rsqrt()."
        )
    if count >= 30 and rms > max(0.1, 3 * level):
        warnings.warn(
            f"map_mass: the rms of the shear is {rms:.3g}, {rms / level:.3g} times its noise, more than lenses make. "
            "The noise must be a standard deviation of one component, not a variance.",
            stacklevel=3,
        )
    if not 0.02 < side < 4:
        warnings.warn(
            f"map_mass: pixels of {shear.pixel}. Haloes, which are what shear tells of, have a few arcmin: such pixels hardly show them, "
            "or hold no galaxies. Is the unit right?",
            stacklevel=3,
        )
    if min(shear.noise.shape) < 16:
        warnings.warn(
            f"map_mass: a map of {' x '.join(map(str, shear.noise.shape))} pixels is too small for what a denoiser has learnt of maps: "
            "what it returns is mostly its own guess. Take smaller pixels, or the smoothed map.",
            stacklevel=3,
        )


def _sha256(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(path: Path, asked: dict[str, Any], k: int, kappa: Tensor | None, state: State) -> None:
    checkpoints.save(path, {"pass": k, "kappa": kappa, "state": dict(vars(state))}, about=asked)


def _load(
    path: str | PathLike[str] | None, asked: dict[str, Any], device: str | torch.device
) -> tuple[int, Tensor | None, SplitGibbsState | None]:
    """The pass, the map of the pass before, and the state of an interrupted run."""
    if path is None or not Path(path).exists():
        return 0, None, None
    content, before = checkpoints.load(path, "checkpoint of map_mass", device)
    if differ := checkpoints.differing(before, asked):
        raise InputError(
            f"{path}: an interrupted run had other data or settings ({', '.join(differ)}). Give the same, or remove the file to start anew."
        )
    try:
        return int(content["pass"]), content["kappa"], SplitGibbsState(**content["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a checkpoint of map_mass ({type(error).__name__}). Remove it to start anew."
        ) from error


__all__ = ["MassMap", "MassMapConfig", "border", "map_mass"]
