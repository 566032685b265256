r"""Weights fine-tuned on a scan without truth, by two halves of its views.

Filtered backprojections :math:`y_1, y_2` of two halves show one object with independent noise.
A network that predicts one from the other learns the object (Noise2Inverse, Hendriksen et al.
2020). To stay a denoiser of any level it is shown :math:`y_1 + \tau n` with white noise n, and
told :math:`\sigma = \sqrt{s^2 + \tau^2}`, where s is the noise of :math:`y_1`:

.. math:: \min_D \; E \, |D(y_1 + \tau n, \sigma) - y_2|^2,
          \qquad s^2 = \tfrac{1}{2} \mathrm{mean} \, |y_1 - y_2|^2

Views that took no part decide whether the new weights are kept.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch import denoisers
from pnp_mlpatch.ct import Geometry, Scan, hounsfield_range
from pnp_mlpatch.denoisers import rescaled
from pnp_mlpatch.errors import Diverged, InputError
from pnp_mlpatch.pipelines.ct_batch import in_units, projector
from pnp_mlpatch.pipelines.ct_check import examine
from pnp_mlpatch.pipelines.ct_config import VolumeConfig, check_scan
from pnp_mlpatch.pipelines.ct_fit import choose_window
from pnp_mlpatch.pipelines.ct_recipe import backproject, solve_slab
from pnp_mlpatch.pipelines.ct_slab import Slab, read_slab
from pnp_mlpatch.training import TrainConfig, train

WHO = "self_train"
HELD = 6  # one view of so many is held out
LEAST_VIEWS = 36
SLICES, JUDGED = 8, 2  # slices to train on, and to judge the weights by
BAD = 1e9  # the error of weights with which the solver diverges
TOP = 60 / 255  # of the noise that networks know


@dataclass(frozen=True)
class SelfTrained:
    """What :func:`self_train` returns.

    Parameters
    ----------
    kept : bool
        Whether the views that were held out prefer the new weights.
    weights : Path or None
        The new weights, where they are kept.
    before, after : float
        The mean square of what the held-out views differ from their prediction, in units of their
        noise, with the old and the new weights.
    error : float
        The standard error of ``before - after``.
    level : float
        The noise of filtered backprojection of half of the views, relative to the window.
    window : tuple of float
        (low, high), in the units of the volume.
    """

    kept: bool
    weights: Path | None
    before: float
    after: float
    error: float
    level: float
    window: tuple[float, float]


def self_train(
    scan: Scan,
    geometry: Geometry,
    out: str | PathLike[str],
    config: VolumeConfig | None = None,
    *,
    denoiser: str = "mlpatch",
    weights: str = "mlpatch-grey",
    steps: int = 300,
    lr: float = 1e-4,
    seed: int = 0,
    progress: bool | None = None,
) -> SelfTrained:
    """Fine-tune weights on a scan without truth; keep them if held-out views prefer them.

    Parameters
    ----------
    scan : Scan
        Counts or line integrals, of at least 36 views.
    geometry : ParallelBeam or FanBeam
        Its geometry.
    out : str or path
        The folder of the new weights.
    config : VolumeConfig, optional
        As for the volume: window, gain, slices ...
    denoiser, weights : str
        The network, and the weights to start from.
    steps : int
        Steps of the training.
    lr : float
        The highest learning rate.
    seed : int
        Of the training.
    progress : bool, optional
        Whether a progress bar is shown.

    Returns
    -------
    SelfTrained

    Raises
    ------
    InputError
        For fewer views, slices without data, and noise beyond what networks know.

    Notes
    -----
    One view of six is held out; the others are halves in turn. The weights are judged by two
    slices, reconstructed by the preset "fast" from all other views: the new ones are kept if they
    predict the views that were held out better, by more than one standard error over these views.

    References
    ----------
    Hendriksen, Pelt, Batenburg, Noise2Inverse, IEEE Trans. Comput. Imaging 2020.
    """
    config = config or VolumeConfig()
    check_scan(scan, geometry, config)
    if scan.shape[1] < LEAST_VIEWS:
        raise InputError(
            f"{scan.path}: {WHO} splits the views into halves and a part that judges, and needs "
            f"at least {LEAST_VIEWS}; the scan has {scan.shape[1]}. Take shipped weights."
        )
    seen = examine(scan, geometry, config)
    seen.warn(scan, [])
    config = seen.config
    data, geometry, _ = seen.room(scan, geometry)
    slab = _some_slices(data, config)
    number = torch.arange(data.shape[1])
    held = number % HELD == HELD // 2
    rest = number[~held]
    window, pairs, level = _halves(scan, geometry, config, slab, (rest[::2], rest[1::2]))
    if not 0 < level < 0.9 * TOP:
        raise InputError(
            f"{scan.path}: filtered backprojections of half of the views differ by noise of "
            f"{level:.2g} of the window; networks know up to {TOP:.2g}. Bin the detector, or give "
            "a larger window= (--window)."
        )
    folder = Path(out)
    new = _train(pairs, folder, denoiser, weights, level, steps, lr, seed, progress)
    judge = _judge(geometry, config, _judged(slab), window, number[held], rest)
    old = denoisers.registry.make(denoiser, weights=weights)
    first, second = judge(old), judge(denoisers.registry.make(denoiser, weights=str(new)))
    return _verdict(new, first, second, level, window)


def _verdict(
    new: Path, first: Tensor, second: Tensor, level: float, window: tuple[float, float]
) -> SelfTrained:
    """Compare the errors with old and new weights, view by view; remove weights that are worse."""
    gain = (first - second).flatten()
    error = float(gain.std() / len(gain) ** 0.5)
    kept = float(gain.mean()) > error
    if not kept:
        new.unlink()
    before, after = float(first.mean()), float(second.mean())
    return SelfTrained(kept, new if kept else None, before, after, error, level, window)


def _some_slices(scan: Scan, config: VolumeConfig) -> Slab:
    """Read slices evenly spread over those that are asked for."""
    first, last = config.slices or (0, scan.shape[0])
    places = np.unique(np.linspace(first, last - 1, min(SLICES, last - first)).round().astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [read_slab(scan, config, int(k), int(k) + 1) for k in places]
    parts = [part for part in parts if len(part.q)]
    if not parts:
        raise InputError(f"{scan.path}: nothing was measured in the slices. Choose others.")
    q, missing, noise = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("q", "missing", "noise")
    )
    spreads = [part.spread for part in parts if part.spread is not None]
    spread = torch.cat(spreads) if len(spreads) == len(parts) else None
    return Slab(torch.ones(len(q), dtype=torch.bool), q, missing, noise, spread=spread)


def _views(slab: Slab, views: Tensor) -> Slab:
    """Return some views of slices."""
    noise = slab.noise if slab.noise.ndim == 1 else slab.noise[:, views]
    return replace(slab, q=slab.q[:, views], missing=slab.missing[:, views], noise=noise)


def _at(geometry: Geometry, views: Tensor) -> Geometry:
    """Return the geometry of some views."""
    return replace(geometry, angles=tuple(geometry.theta[views].tolist()))


def _halves(
    scan: Scan,
    geometry: Geometry,
    config: VolumeConfig,
    slab: Slab,
    halves: tuple[Tensor, Tensor],
) -> tuple[tuple[float, float], Tensor, float]:
    """Return the window, pairs (2 B, 2, H, W) of backprojections in it, and their noise."""
    images = [
        backproject(projector(_at(geometry, views), config), _views(slab, views))[:, 0].cpu()
        for views in halves
    ]
    both = (images[0] + images[1]) / 2
    low, high = choose_window(config, both[len(both) // 2], scan)
    one, two = ((in_units(image, config) - low) / (high - low) for image in images)
    level = float((one - two).square().mean().sqrt() / 2**0.5)
    pairs = torch.cat([torch.stack([one, two], 1), torch.stack([two, one], 1)])
    return (low, high), pairs, level


def _train(
    pairs: Tensor,
    out: Path,
    denoiser: str,
    weights: str,
    level: float,
    steps: int,
    lr: float,
    seed: int,
    progress: bool | None,
) -> Path:
    """Train on the pairs, which lie in a file meanwhile; return the weights."""
    size = min(128, *pairs.shape[-2:])
    held = Path(tempfile.mkdtemp(prefix="pnp-mlpatch-"))
    try:
        np.save(held / "pairs.npy", pairs.float().numpy())
        settings = TrainConfig(
            data=str(held / "pairs.npy"),
            out=str(out),
            init=weights,
            denoiser=denoiser,
            task="pairs",
            level=level,
            size=size,
            crop=min(64, size),
            batch=4,
            steps=steps,
            lr=lr,
            warmup=min(30, steps),
            ema=0.99,
            sigma_max=TOP,
            seed=seed,
            checkpoint_every=steps,
            validate_every=steps,
            card={"data": "halves of the views of one scan", "from": weights},
        )
        return train(settings, resume=False, progress=progress)
    finally:
        shutil.rmtree(held, ignore_errors=True)


def _judged(slab: Slab) -> Slab:
    """Return two of the slices, from the middle of each half."""
    count = len(slab.q)
    places = torch.tensor(sorted({count // 4, (3 * count) // 4})[:JUDGED])
    spread = None if slab.spread is None else slab.spread[places]
    picked = {name: getattr(slab, name)[places] for name in ("live", "q", "missing", "noise")}
    return replace(slab, **picked, spread=spread)


def _judge(
    geometry: Geometry,
    config: VolumeConfig,
    slab: Slab,
    window: tuple[float, float],
    held: Tensor,
    rest: Tensor,
) -> Callable[[denoisers.Denoiser], Tensor]:
    """Return what measures a denoiser: the error of held-out views, (slices, views), in noise."""
    A, ahead = (projector(_at(geometry, views), config) for views in (rest, held))
    low, high = window
    scale, offset = high - low, low
    if config.mu_water is not None:
        scale, offset = hounsfield_range(config.mu_water, low=low, high=high)
    shown, wanted = _views(slab, rest), _views(slab, held)
    noise = wanted.noise.reshape(len(wanted.q), *(wanted.noise.shape[1:] or (1, 1)))

    def judge(D: denoisers.Denoiser) -> Tensor:
        try:
            x, _ = solve_slab(A, rescaled(D, scale, offset), "fast", scale, shown)
        except Diverged:
            return torch.full(wanted.q.shape[:2], BAD)
        error = ((ahead(x[:, None])[:, 0] - wanted.q) / noise).masked_fill(wanted.missing, 0.0)
        return error.square().sum(2) / (~wanted.missing).sum(2).clamp_min(1)

    return judge


__all__ = ["SelfTrained", "self_train"]
