"""A volume from a scan, slice by slice in bounded memory; a run that was killed goes on to the same bytes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import pnp_mlpatch
from pnp_mlpatch import solvers
from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.ct.counts import dead_bins, line_integrals
from pnp_mlpatch.ct.geometry import Geometry, as_dict, sizes
from pnp_mlpatch.ct.scan import AXES, COUNTS, INTEGRALS, Scan, write_volume
from pnp_mlpatch.ct.units import hounsfield_range, to_hounsfield
from pnp_mlpatch.denoisers import (
    Denoiser,
    DenoiserInfo,
    as_denoiser,
    describe,
    fingerprint,
    rescaled,
)
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, WeightsError
from pnp_mlpatch.io.atomic import check_writable
from pnp_mlpatch.io.checkpoint import differing, load_table, save_table
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.operators import LinearOperator, Transmission
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import Solver, State, schedules
from pnp_mlpatch.tuning import recipe

ENDINGS = (".npy", ".tif", ".tiff", ".h5", ".hdf5")
LIKELIHOODS = ("gaussian", "poisson")
INSIDE = 0.1  # rays above this part of the largest line integrals pass through the object


@dataclass(frozen=True)
class VolumeConfig:
    """Settings of :func:`reconstruct_volume`.

    By default every slice is solved by :func:`~pnp_mlpatch.tuning.recipe`: a level from its noise, a start by total variation, 40
    iterations of fast_admm, and more with less alpha where the residual exceeds the noise (not with ``likelihood`` "poisson"). Any of these
    four settings replaces it: ``solver`` is a name ("admm"), run for ``iterations`` (20) at the denoiser level ``sigma`` (20/255; one number, or
    one for each iteration, held at the last) with further ``settings`` of its own. ``sigma`` is relative to the window, so 20/255
    means the same for every scan.

    The denoiser works on [0, 1], to which ``window`` = (low, high) of the image is mapped: attenuation per unit of the geometry's
    ``pixel``, or Hounsfield units with ``mu_water``, the attenuation of water in that unit. Values beyond are kept. By default it is
    -1024 to 1024 HU with ``mu_water``; else 0 to 1.2 times the 99.5th percentile of filtered backprojection of the slice in the middle.

    Counts bring their noise; ``gain`` is detector units per photon, ``electronic`` the standard deviation of the noise of the electronics,
    in detector units. ``likelihood`` "gaussian" is weighted least squares of the line integrals, "poisson" the likelihood of the
    counts (:class:`~pnp_mlpatch.operators._transmission.Transmission`). For line integrals ``noise`` is their standard
    deviation; by default :func:`estimate_noise` finds it for each slice.

    ``slices`` = (start, stop) is a part of the scan. ``batch`` slices are in memory at a time. ``backend`` and ``memory`` (GiB) are those of
    :class:`~pnp_mlpatch.operators.radon.Radon`.
    """

    sigma: float | Sequence[float] | None = None
    iterations: int | None = None
    solver: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    mu_water: float | None = None
    noise: float | None = None
    gain: float = 1.0
    electronic: float = 0.0
    likelihood: str = "gaussian"
    slices: tuple[int, int] | None = None
    batch: int = 8
    backend: str = "auto"
    memory: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        who = "reconstruct_volume"
        value: Any
        for name in ("iterations", "batch"):
            value = getattr(self, name)
            if (name, value) != ("iterations", None) and (
                isinstance(value, bool) or not isinstance(value, int) or value < 1
            ):
                raise InputError(f"{who}: {name} must be an integer >= 1, got {value!r}.")
        levels: Sequence[Any] = (
            self.sigma if isinstance(self.sigma, (tuple, list)) else [self.sigma]
        )
        if self.sigma is not None and (
            not levels or not all(finite_number(level) and level > 0 for level in levels)
        ):
            raise InputError(
                f"{who}: sigma must be a number > 0, relative to the window, or several; got {self.sigma!r}."
            )
        for name in ("noise", "mu_water", "memory", "gain"):
            value = getattr(self, name)
            if (name == "gain" or value is not None) and not (finite_number(value) and value > 0):
                raise InputError(f"{who}: {name} must be a number > 0, got {value!r}.")
        if not finite_number(self.electronic) or self.electronic < 0:
            raise InputError(f"{who}: electronic must be a number >= 0, got {self.electronic!r}.")
        if self.likelihood not in LIKELIHOODS:
            raise InputError(
                f"{who}: likelihood must be {' or '.join(map(repr, LIKELIHOODS))}, got {self.likelihood!r}."
            )
        if not isinstance(self.settings, dict):
            raise InputTypeError(
                f"{who}: settings must be a dictionary of settings of the solver, got {self.settings!r}."
            )
        if self.window is not None and not (
            isinstance(self.window, (tuple, list))
            and len(self.window) == 2
            and all(finite_number(v) for v in self.window)
            and self.window[0] < self.window[1]
        ):
            raise InputError(
                f"{who}: window must be (low, high) with low < high, in the units of the image, got {self.window!r}."
            )
        if self.slices is not None and not (
            isinstance(self.slices, (tuple, list))
            and len(self.slices) == 2
            and all(isinstance(n, int) and not isinstance(n, bool) for n in self.slices)
        ):
            raise InputError(
                f"{who}: slices must be (start, stop), two integers, got {self.slices!r}."
            )

    def make_solver(self, scale: float) -> Solver | None:
        """The solver for images whose window is ``scale`` wide; None where no setting asks for one, and the recipe is used."""
        if (
            self.sigma is None
            and self.iterations is None
            and self.solver is None
            and not self.settings
        ):
            return None
        given = 20 / 255 if self.sigma is None else self.sigma
        sigma = (
            given * scale if isinstance(given, (int, float)) else [level * scale for level in given]
        )
        iterations = 20 if self.iterations is None else self.iterations
        try:
            return solvers.make(
                self.solver or "admm", **{"sigma": sigma, "iterations": iterations, **self.settings}
            )
        except TypeError as error:
            raise InputTypeError(f"the solver '{self.solver}': {error}") from error


@dataclass(frozen=True, eq=False)
class VolumeResult:
    """What :func:`reconstruct_volume` returns.

    ``path`` of the volume, its ``shape`` (slices, H, W), the ``window`` used and its ``units``; for each slice how it ended
    (``status``: "converged", "max_iter", "fbp" or "nothing measured") and the relative change of the last iteration (``residual``). ``middle``
    is the slice in the middle (H, W), ``fbp`` its filtered backprojection. ``resumed`` slices came from an earlier run.
    """

    path: Path
    shape: tuple[int, int, int]
    window: tuple[float, float]
    units: str
    status: list[str]
    residual: list[float | None]
    middle: Tensor = field(repr=False)
    fbp: Tensor = field(repr=False)
    resumed: int
    seconds: float


def reconstruct_volume(
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | str | None,
    out: str | PathLike[str],
    config: VolumeConfig | None = None,
    *,
    meta: Mapping[str, Any] | None = None,
    resume: bool = True,
    progress: bool | None = None,
) -> VolumeResult:
    """Reconstruct the slices of a scan and write them to ``out``: .h5 (dataset "volume"), .npy or .tif, float32 (slices, H, W).

    Each slice is a problem ``q = A f + n`` of its own with A = Radon(geometry). Counts become line integrals and a noise map
    (:func:`~pnp_mlpatch.ct.counts.line_integrals`); what was not measured (dead bins, NaN) has no weight. The recipe starts from total
    variation. A solver that was asked for starts from ``A.initial`` of the line integrals, interpolated along the detector over what was
    not measured, and denoised at twice the level of its own noise: where photons are few its streaks are strong, and the iterations
    take them away slowly. A slice in which nothing was measured becomes air, with a warning. ``D=None`` stops at filtered backprojection.

    Beside ``out``, with the ending .json, goes how it was made: settings, geometry, ``meta`` (plain JSON values, such as the settings of
    the denoiser), how each slice ended; with the recipe also its level ``sigma``, relative to the window, what alpha was
    multiplied by (``factor``), and ``chi2``.

    Until the end results lie beside it in ``.NAME.partial.npy``, and in the journal ``.NAME.partial.json`` the batches that are done,
    with their sha256. The same call goes on from there (``resume``) and ends, on the same machine with equally many threads, with the
    same bytes as a run that was not interrupted: batches are cut from the first slice, wherever a run starts. A batch that is
    damaged on disk is made again, with a warning; the digest of each is compared again when the volume is put together. A scan
    whose content has changed since is refused. Two runs cannot write one volume at the same time: the second is refused.

    Raises :class:`InputError` for a geometry, a window or settings that do not fit the scan, and for a journal of other settings;
    :class:`FileError` for files that are damaged or cannot be written.
    """
    config = config or VolumeConfig()
    check_scan(scan, geometry, config)
    with lock(check_out(Path(out), scan).with_suffix(".json")):
        return _reconstruct(
            scan, geometry, D, Path(out), config, dict(meta or {}), resume, progress
        )


def _reconstruct(
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | str | None,
    path: Path,
    config: VolumeConfig,
    meta: dict[str, Any],
    resume: bool,
    progress: bool | None,
) -> VolumeResult:
    """The volume, by the one run that writes to ``path``."""
    start = time.perf_counter()
    first, last = check_scan(scan, geometry, config)
    D = D if D is None else as_denoiser(D) if isinstance(D, str) or not callable(D) else D
    known = None if D is None else describe(D)
    if known is not None and known.channels not in (None, 1):
        raise InputError(
            f"reconstruct_volume: slices have one channel, the denoiser {known.name} takes {known.channels}. Use a grey one."
        )
    shape = (last - first, *geometry.shape)
    settings = {
        "version": pnp_mlpatch.__version__,
        "torch": torch.__version__,
        **asdict(config),
        "slices": [first, last],
        "geometry": as_dict(geometry),
        "denoiser": None if D is None else fingerprint(D),
        "scan": {key: value for key, value in scan.meta.items() if key != "source"}
        | {"kind": scan.kind, "shape": list(scan.shape)},
        "meta": meta,
    }
    scanned = _fingerprint(scan)
    journal = _Journal(path, shape, settings, scanned, _cuts(first, last, config.batch), resume)

    backend = journal.found.get(
        "backend", config.backend
    )  # as before: what "auto" takes depends on the free memory
    A = Radon(geometry, backend=backend, memory=config.memory).to(torch.device(config.device))
    middle = first + (last - first) // 2
    look = _read(scan, config, middle, middle + 1)
    journal.check_scan(scan)
    fbp = (
        torch.zeros(1, *geometry.shape)
        if not len(look.q)
        else _start(A, look.q, look.missing)[:, 0].cpu()
    )
    low, high = journal.found.get("window") or _window(config, fbp, scan)
    journal.begin({"backend": A.backend, "window": [low, high]})
    if config.mu_water is None:
        scale, offset, units = high - low, low, "1 / unit of pixel"
    else:
        scale, offset = hounsfield_range(config.mu_water, low=low, high=high)
        units = "HU"
    denoise, solver = (
        None if D is None else rescaled(_on(D, config.device), scale, offset),
        config.make_solver(scale),
    )

    resumed = sum(b - a for a, b in journal.cuts if journal.done(a))
    bar = tqdm(
        total=last - first,
        initial=resumed,
        desc="slices",
        disable=None if progress is None else not progress,
    )
    with bar:
        for a, b in journal.cuts:
            if journal.done(a):
                continue
            slab = _read(scan, config, a, b)
            x, rows = _solve(A, denoise, solver, scale, slab)
            if not bool(slab.live.all()):
                dead = [a + k for k, live in enumerate(slab.live.tolist()) if not live]
                warnings.warn(
                    f"{scan.path}: nothing was measured in the slices {', '.join(map(str, dead))}; they become air.",
                    stacklevel=3,
                )
            journal.put(
                a,
                x if config.mu_water is None else to_hounsfield(x, config.mu_water),
                rows,
                slab.digest,
            )
            bar.update(b - a)

    rows = [row for a, _ in journal.cuts for row in journal.rows(a)]
    if _fingerprint(scan) != scanned:
        raise FileError(
            f"{scan.path}: the scan was changed while it was read. Run the same command with resume=False (--no-resume)."
        )
    report = {
        **settings,
        "source": str(scan.path),
        "shape": list(shape),
        "units": units,
        **journal.found,
        "result": {key: [row[key] for row in rows] for key in _ROW},  # for each slice
    }
    central = journal.read(shape[0] // 2, shape[0] // 2 + 1)[0]
    write_volume(path, (journal.batch(a, b) for a, b in journal.cuts), shape, meta=report)
    fbp = fbp[0] if config.mu_water is None else to_hounsfield(fbp[0], config.mu_water)
    status, residual = [row["status"] for row in rows], [row["residual"] for row in rows]
    journal.remove()  # last: until the volume is there, the same call goes on from it
    return VolumeResult(
        path,
        shape,
        (low, high),
        units,
        status,
        residual,
        central,
        fbp,
        resumed,
        time.perf_counter() - start,
    )


def estimate_noise(q: Tensor) -> Tensor:
    """The standard deviation of the noise in line integrals (..., angles, detectors), one for each slice (...,).

        noise = median |d - median(d)| / (0.6745 sqrt(6))        d_k = q_(k-1) - 2 q_k + q_(k+1) along the detector

    over rays through the object, q > 0.1 of the 99th percentile: where there is air, counts are many and the noise is less. Values that are
    not finite are passed over. White noise is assumed: interpolated or smoothed data seem less noisy than they are. What the object itself
    changes from one detector to the next counts as noise, so it is too large where the noise is less than that: a few per cent on
    fine detectors, more on coarse ones. It is at least 1e-4 of that percentile, so never 0. (Donoho 1995, with second differences
    for wavelets.)

    Raises :class:`InputError` where there are fewer than 3 detectors, or no three finite values in a row.
    """
    if not isinstance(q, Tensor) or not q.is_floating_point() or q.ndim < 2:
        raise InputTypeError(
            "estimate_noise: expected line integrals (..., angles, detectors), a tensor of real floats."
        )
    levels = []
    for one in (
        q.detach().cpu().double().flatten(0, -3).numpy()
        if q.ndim > 2
        else q.detach().cpu().double()[None].numpy()
    ):
        d = one[:, 2:] - 2 * one[:, 1:-1] + one[:, :-2]
        finite = np.isfinite(d)
        if not finite.any():
            raise InputError(
                f"estimate_noise: no three neighbouring values of {one.shape} are finite. Give the noise."
            )
        top = float(np.percentile(one[np.isfinite(one)], 99))
        with np.errstate(invalid="ignore"):
            inside = finite & (
                np.minimum(np.minimum(one[:, 2:], one[:, 1:-1]), one[:, :-2]) > INSIDE * top
            )
        d = d[inside if inside.sum() >= 64 else finite]
        level = float(np.median(np.abs(d - np.median(d)))) / (0.6745 * math.sqrt(6))
        levels.append(max(level, 1e-4 * abs(top), 1e-12))
    return torch.tensor(levels, dtype=q.dtype, device=q.device).reshape(q.shape[:-2])


def check_scan(scan: Scan, geometry: Geometry, config: VolumeConfig) -> tuple[int, int]:
    """Raise :class:`InputError` unless scan, geometry and settings fit; the slices (start, stop)."""
    slices, angles, detectors = scan.shape
    count, width = len(geometry.theta), sizes(geometry)[0]
    if (count, width) != (angles, detectors):
        raise InputError(
            f"{scan.path}: the scan has {angles} angles x {detectors} detectors (in {slices} slices), "
            f"the geometry {count} angles x {width} detectors.{_transposed(scan, count, width)}"
        )
    if scan.kind == COUNTS:
        if scan.flat is None:
            raise InputError(
                f"{scan.path}: counts need the open beam, and the scan has none. Give flat=I0, its counts, where the scan is read; "
                f"or kind '{INTEGRALS}' if the logarithm has been taken."
            )
        if config.noise is not None:
            raise InputError(
                f"{scan.path}: counts bring their noise, so noise must not be given. Set gain, the detector units per photon."
            )
    else:
        given = [
            name
            for name, default in (("gain", 1.0), ("electronic", 0.0))
            if getattr(config, name) != default
        ]
        if config.likelihood == "poisson" or given:
            what = "the likelihood 'poisson'" if config.likelihood == "poisson" else given[0]
            raise InputError(
                f"{scan.path}: {what} is for counts, and these are line integrals. Give noise, or kind '{COUNTS}'."
            )
    first, last = (0, slices) if config.slices is None else config.slices
    if not 0 <= first < last <= slices:
        raise InputError(
            f"{scan.path}: slices {first}:{last} are not in the scan, which has 0:{slices}."
        )
    config.make_solver(1.0)
    return first, last


def _transposed(scan: Scan, angles: int, detectors: int) -> str:
    """A hint at another layout in which the numbers would fit."""
    layout = scan.meta.get("layout", "sad")
    for p in range(3):
        for r in range(3):
            if p != r and (scan.shape[p], scan.shape[r]) == (angles, detectors):
                order = [0, 0, 0]
                order[p], order[r], order[3 - p - r] = 1, 2, 0
                swapped = layout.translate({ord("sad"[k]): "sad"[order[k]] for k in range(3)})
                if sorted(swapped) == sorted(layout):
                    axes = ", ".join(AXES[letter] for letter in swapped)
                    return f" It seems transposed: the layout '{swapped}' ({axes}) would fit."
    return " Check the number of angles, the detectors and the layout."


# ---- one slab


@dataclass(frozen=True)
class _Slab:
    """Slices as they are solved: of the ``live`` ones, in which something was measured, line integrals q (B, angles, detectors), 0 where
    ``missing``; and the standard deviation of q, or the counts with blank and background where the likelihood is Poisson's. ``digest`` is the
    sha256 of what was read."""

    live: Tensor
    q: Tensor
    missing: Tensor
    noise: Tensor
    counts: tuple[Tensor, Tensor, Tensor] | None = None
    digest: str = ""


def _read(scan: Scan, config: VolumeConfig, a: int, b: int) -> _Slab:
    raw = scan.read(a, b)
    return replace(_slab(scan, config, raw, a, b), digest=_sha256(raw))


def _slab(scan: Scan, config: VolumeConfig, raw: Tensor, a: int, b: int) -> _Slab:
    """The slices a ... b - 1 of the scan, whose values are ``raw``."""
    if scan.kind != COUNTS:
        missing = ~torch.isfinite(raw)
        live = ~missing.flatten(1).all(1)
        if not bool(live.any()):
            return _Slab(live, raw[:0], raw[:0] > 0, raw[:0])
        raw, missing = raw[live], missing[live]
        noise = (
            estimate_noise(raw) if config.noise is None else raw.new_full((len(raw),), config.noise)
        )
        return _Slab(live, raw.masked_fill(missing, 0.0), missing, noise)
    assert scan.flat is not None
    flat = scan.flat[a:b, None]
    dark = torch.zeros_like(flat) if scan.dark is None else scan.dark[a:b, None]
    live = ~dead_bins(raw, flat, dark).all(-1)
    if not bool(live.any()):
        return _Slab(live, raw[:0], raw[:0] > 0, raw[:0])
    raw, flat, dark = raw[live], flat[live], dark[live]
    q, std = line_integrals(raw, flat, dark, electronic=config.electronic, gain=config.gain)
    missing, counts = torch.isinf(std), None
    if config.likelihood == "poisson":
        extra = (
            config.electronic / config.gain
        ) ** 2  # shifted: c + e^2 has the mean and the variance of Poisson's (Snyder et al. 1993)
        parts = (
            raw / config.gain + extra,
            (flat - dark) / config.gain,
            (dark / config.gain + extra).nan_to_num(0.0, 0.0, 0.0),
        )
        counts = tuple(
            part.expand_as(raw).masked_fill(missing, 0.0).clamp_min(0.0) for part in parts
        )
        counts = (counts[0], counts[1], counts[2])
    return _Slab(live, q, missing, std, counts)


def _start(A: Radon, q: Tensor, missing: Tensor) -> Tensor:
    """A.initial (B, 1, H, W) of line integrals (B, angles, detectors), interpolated along the detector where there are none."""
    q, seen = q[:, None].to(A.angles.device), ~missing[:, None].to(A.angles.device)
    return A.initial(q) if bool(seen.all()) else A.weighted(seen.to(q.dtype)).initial(q)


def _level(A: Radon, slab: _Slab, known: DenoiserInfo) -> Tensor:
    """Twice the standard deviation of the noise in A.initial (B,), from one draw of the noise of the data; or what D takes at most."""
    noise = slab.noise.reshape(len(slab.q), *(slab.noise.shape[1:] or (1, 1))).masked_fill(
        slab.missing, 0.0
    )
    draw = noise * torch.randn(slab.q.shape, generator=torch.Generator().manual_seed(0))
    level = 2 * A.initial(draw[:, None].to(A.angles.device)).flatten(1).std(1)
    return level if known.sigma_range is None else level.clamp(*known.sigma_range)


def _noise(slab: _Slab) -> Tensor:
    """One for each ray, or for each slice, which becomes a map where rays are missing."""
    noise = slab.noise
    if noise.ndim == 1 and not bool(slab.missing.any()):
        return noise
    return noise.reshape(len(noise), 1, *(noise.shape[1:] or (1, 1))).masked_fill(
        slab.missing[:, None], torch.inf
    )


def _solve(
    A: Radon, D: Denoiser | None, solver: Solver | None, scale: float, slab: _Slab
) -> tuple[Tensor, list[dict[str, Any]]]:
    """The slices (S, H, W) on the CPU, in attenuation, and how each ended."""
    x = torch.zeros(len(slab.live), *A.image_shape[1:])
    rows: list[dict[str, Any]] = [
        dict.fromkeys(_ROW) | {"status": "nothing measured", "iterations": 0} for _ in slab.live
    ]
    if not len(slab.q):
        return x, rows
    if D is None:
        found, ended = (
            _start(A, slab.q, slab.missing),
            [{"status": "fbp", "iterations": 0}] * len(slab.q),
        )
    elif solver is None:
        found, ended = _by_recipe(A, D, scale, slab)
    else:
        found, ended = _by_solver(A, D, solver, slab)
    levels = [None] * len(slab.q) if slab.noise.ndim > 1 else slab.noise.tolist()
    for place, end, level in zip(
        slab.live.nonzero().flatten().tolist(), ended, levels, strict=True
    ):
        rows[place] = dict.fromkeys(_ROW) | end | {"noise": level}
    x[slab.live] = found[:, 0].cpu().to(x.dtype)
    return x, rows


def _by_solver(
    A: Radon, D: Denoiser, solver: Solver, slab: _Slab
) -> tuple[Tensor, list[dict[str, Any]]]:
    """The solver that was asked for, from the denoised start."""
    levels = _level(A, slab, describe(D)).tolist()
    x0 = torch.cat(
        [
            D(one[None], level)
            for one, level in zip(_start(A, slab.q, slab.missing), levels, strict=True)
        ]
    )
    q, T, noise = _problem(A, slab)
    change = _Change(x0)
    result = solver.run(q, T, D, noise=noise, x0=x0, callbacks=[change], progress=False)
    ended = {"status": result.status, "iterations": result.state.iteration}
    return result.x, [ended | {"residual": value} for value in change.values[-1]]


def _by_recipe(
    A: Radon, D: Denoiser, scale: float, slab: _Slab
) -> tuple[Tensor, list[dict[str, Any]]]:
    """The recipe with the level of each slice; how the run ended that its slice is from."""
    q, T, noise = _problem(A, slab)
    known = describe(D).sigma_range
    sigma = torch.as_tensor(schedules.from_noise(A, _noise(slab), scale=scale)).reshape(-1).to(q)
    sigma = sigma if known is None else sigma.clamp(*known)
    change = _Change(torch.zeros_like(q[:, :, :1, :1]))
    found = recipe(
        q,
        T,
        D,
        noise=noise,
        sigma=sigma,
        lowest=0.25 if slab.counts is None else 1.0,
        callbacks=[change],
        progress=False,
    )
    ends = np.cumsum([run.state.iteration for run in found.runs]).tolist()
    ended = []
    for k, (level, factor, chi2) in enumerate(
        zip((sigma / scale).tolist(), found.alpha_scale.tolist(), found.chi2.tolist(), strict=True)
    ):
        last = round(-math.log2(factor))  # the run that gave this slice
        row = {
            "status": found.runs[last].status,
            "iterations": ends[last],
            "residual": change.values[ends[last] - 1][k],
        }
        ended.append(row | {"sigma": level, "factor": factor, "chi2": chi2})
    return found.x, ended


def _problem(A: Radon, slab: _Slab) -> tuple[Tensor, LinearOperator, float | Tensor]:
    """Data, operator and noise as the solvers take them."""
    device = A.angles.device
    if slab.counts is None:
        return slab.q[:, None].to(device), A, _noise(slab).to(device)
    T = Transmission(A, *(part[:, None].to(device) for part in slab.counts))
    return T.q, T, 1.0


class _Change:
    """A callback that keeps the relative change of each slice in each iteration."""

    def __init__(self, x0: Tensor):
        self.x = x0
        self.values: list[list[float]] = []

    def __call__(self, state: State) -> None:
        old, self.x = self.x, state.x
        moved, size = ((x.flatten(1).double().norm(dim=1)) for x in (self.x - old, self.x))
        self.values.append((moved / size.clamp_min(1e-30)).tolist())


def _window(config: VolumeConfig, fbp: Tensor, scan: Scan) -> tuple[float, float]:
    if config.window is not None:
        return float(config.window[0]), float(config.window[1])
    if config.mu_water is not None:
        return -1024.0, 1024.0
    high = 1.2 * float(np.percentile(fbp.numpy(), 99.5))
    if not high > 0:
        raise InputError(
            f"{scan.path}: the slice in the middle shows no attenuation, so it tells no window. Give window = (low, high)."
        )
    return 0.0, high


def _on(D: Denoiser, device: str) -> Denoiser:
    move = getattr(D, "to", None)
    return D if move is None else move(torch.device(device))


# ---- what lies on disk until the end


class _Journal:
    """The partial volume, a .npy file that is filled batch by batch, and the JSON file that says which batches are in it.

    A batch is flushed to the disk before the journal names it. Plain writes, not a memory map: the pages of a map count as memory of
    the process, and a full disk kills it.
    """

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int, int],
        settings: dict[str, Any],
        scan: dict[str, Any],
        cuts: list[tuple[int, int]],
        resume: bool,
    ):
        self.partial, self.path = _partials(out)
        self.shape, self.cuts, self.first = shape, cuts, cuts[0][0]
        try:
            self.asked = json.loads(json.dumps({**settings, "scan file": scan}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"reconstruct_volume: meta and settings must be plain JSON values ({error})."
            ) from error
        self.found: dict[str, Any] = {}
        self._done: dict[int, dict[str, Any]] = {}
        if resume and self.path.exists():
            self._resume()
        else:
            self._make()

    def _resume(self) -> None:
        other = "remove it, or start anew with resume=False (--no-resume)"
        try:
            before = load_table(self.path)
            asked, found, done = before["settings"], before["found"], before["done"]
            differ = differing(asked, self.asked)
            low, high = found["window"]
            self.found = {"backend": str(found["backend"]), "window": [float(low), float(high)]}
            rows = {int(a): row for a, row in done.items()}
            for a, b in self.cuts if not differ else []:
                assert a not in rows or [set(one) for one in rows[a]["slices"]] == [set(_ROW)] * (
                    b - a
                )
        except (
            WeightsError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            AssertionError,
        ) as error:
            raise FileError(
                f"{self.path}: the journal of the interrupted run is damaged ({error or 'its rows'}); {other}."
            ) from error
        if differ:
            changes = "; ".join(
                f"{key}: {_short(asked.get(key))} before, {_short(self.asked.get(key))} now"
                for key in differ
            )
            raise InputError(
                f"{self.path}: an interrupted run had other settings ({changes}). Give the same; or {other}."
            )
        spoilt = []
        whole = self.partial.exists() and self.partial.stat().st_size == self._offset(self.shape[0])
        for a, b in self.cuts:
            if a in rows:
                if whole and _sha256(self.read(a - self.first, b - self.first)) == rows[a].get(
                    "sha256"
                ):
                    self._done[a] = rows[a]
                else:
                    spoilt.append(f"{a}:{b}")
        if spoilt:
            warnings.warn(
                f"{self.partial}: the slices {', '.join(spoilt)} are missing or damaged; they are made again.",
                stacklevel=5,
            )
        if not whole:
            self._make()

    def _make(self) -> None:
        """An empty partial volume; raise if the disk has no room for it and for the final one."""
        self.path.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)
        need, free = 2 * self._offset(self.shape[0]), shutil.disk_usage(self.partial.parent).free
        if free < need:
            raise FileError(
                f"{self.partial}: the volume and its partial file need {need / 2**30:.3g} GiB, but {free / 2**30:.3g} GiB are free. Make room there."
            )
        try:
            with self.partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, self._header())
                file.truncate(self._offset(self.shape[0]))
        except OSError as error:
            raise FileError(
                f"{self.partial}: cannot be written ({error.strerror}). Choose another folder."
            ) from error

    def begin(self, found: dict[str, Any]) -> None:
        self.found = found
        self._write()

    def done(self, a: int) -> bool:
        return a in self._done

    def rows(self, a: int) -> list[dict[str, Any]]:
        return self._done[a]["slices"]

    def check_scan(self, scan: Scan) -> None:
        """Raise unless the scan still holds what the batches that are done were made from."""
        for a, b in self.cuts:
            if a in self._done and _sha256(scan.read(a, b)) != self._done[a].get("scan"):
                raise InputError(
                    f"{scan.path}: the slices {a}:{b} are not those that the interrupted run read. Give that scan; or remove {self.path}, "
                    "or start anew with resume=False (--no-resume)."
                )

    def put(self, a: int, x: Tensor, rows: list[dict[str, Any]], scan: str) -> None:
        array = x.contiguous().numpy().astype("<f4", copy=False)
        try:
            with self.partial.open("r+b") as file:
                file.seek(self._offset(a - self.first))
                file.write(array.data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(
                f"{self.partial}: could not be written ({error.strerror}). Make room; the same command goes on."
            ) from error
        self._done[a] = {"sha256": _sha256(x), "scan": scan, "slices": rows}
        self._write()

    def read(self, a: int, b: int) -> Tensor:
        """The slices a ... b - 1 of the partial volume."""
        try:
            with self.partial.open("rb") as file:
                file.seek(self._offset(a))
                content = file.read(self._offset(b) - self._offset(a))
            return torch.from_numpy(
                np.frombuffer(bytearray(content), dtype="<f4").reshape(b - a, *self.shape[1:])
            )
        except (OSError, ValueError) as error:
            raise FileError(
                f"{self.partial}: cannot be read ({error}). Run the same command again."
            ) from error

    def batch(self, a: int, b: int) -> Tensor:
        """The slices of a batch that is done, as they were put; raise if the file was changed since."""
        x = self.read(a - self.first, b - self.first)
        if _sha256(x) != self._done[a]["sha256"]:
            raise FileError(
                f"{self.partial}: the slices {a}:{b} were changed on disk. Run the same command again; it makes them again."
            )
        return x

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)

    def _write(self) -> None:
        save_table(
            self.path,
            {
                "settings": self.asked,
                "found": self.found,
                "done": {str(a): row for a, row in self._done.items()},
            },
        )

    def _header(self) -> dict[str, Any]:
        return {"descr": "<f4", "fortran_order": False, "shape": self.shape}

    def _offset(self, index: int) -> int:
        """Where slice ``index`` begins in the partial file."""
        return _HEADER + 4 * index * self.shape[1] * self.shape[2]


_ROW = ("status", "iterations", "residual", "noise", "sigma", "factor", "chi2")
_HEADER = 128  # bytes of the header of a .npy file of three axes


def _cuts(first: int, last: int, batch: int) -> list[tuple[int, int]]:
    return [(a, min(a + batch, last)) for a in range(first, last, batch)]


def _sha256(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().astype("<f4", copy=False).data).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fingerprint(scan: Scan) -> dict[str, Any]:
    """What tells a scan from another, or from a later version of itself, without reading it."""
    files = [p for p in scan.path.rglob("*") if p.is_file()] if scan.path.is_dir() else [scan.path]
    stats = [p.stat() for p in files]
    digest = hashlib.sha256()
    for field_ in (scan.flat, scan.dark):
        digest.update(b"none" if field_ is None else field_.contiguous().numpy().tobytes())
    return {
        "name": scan.path.name,
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max(stat.st_mtime_ns for stat in stats),
        "flat and dark": digest.hexdigest(),
    }


def check_out(path: Path, scan: Scan, more: Sequence[Path] = ()) -> Path:
    """Raise unless ``path``, what lies beside it, and ``more`` can be written: known before the long computation, not after it."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: unknown ending '{path.suffix}'. Writable: {', '.join(ENDINGS)}.")
    written = [path, path.with_suffix(".json"), *_partials(path), *more]
    for k, one in enumerate(written):
        check_writable(one, [scan.path, *written[:k]])
    return path


def _partials(out: Path) -> tuple[Path, Path]:
    """The partial volume and its journal."""
    return out.with_name(f".{out.name}.partial.npy"), out.with_name(f".{out.name}.partial.json")


__all__ = [
    "VolumeConfig",
    "VolumeResult",
    "check_out",
    "check_scan",
    "estimate_noise",
    "reconstruct_volume",
]
