"""A volume from a scan, slice by slice in bounded memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import pnp_mlpatch
from pnp_mlpatch.ct import Geometry, Scan, as_dict, hounsfield_range, to_hounsfield, write_volume
from pnp_mlpatch.ct.truncation import crop
from pnp_mlpatch.denoisers import Denoiser, as_denoiser, describe, fingerprint, rescaled
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_check import Seen, examine
from pnp_mlpatch.pipelines.ct_config import VolumeConfig, check_out, check_scan
from pnp_mlpatch.pipelines.ct_digest import scan_fingerprint
from pnp_mlpatch.pipelines.ct_fit import check_units, choose_window
from pnp_mlpatch.pipelines.ct_journal import ROW, Journal
from pnp_mlpatch.pipelines.ct_recipe import backproject, solve_slab
from pnp_mlpatch.pipelines.ct_slab import estimate_noise, read_slab


@dataclass(frozen=True, eq=False)
class VolumeResult:
    """What :func:`reconstruct_volume` returns.

    Parameters
    ----------
    path : Path
        The volume.
    shape : tuple of int
        (slices, H, W).
    window : tuple of float
        The window (low, high), in attenuation or Hounsfield units.
    units : str
        The unit of the volume.
    status : list of str
        How each slice ended: "converged", "max_iter", "fbp" or "nothing measured".
    residual : list of float or None
        The relative change of each slice in its last iteration.
    middle : Tensor, shape (H, W)
        The slice in the middle.
    fbp : Tensor, shape (H, W)
        Its filtered backprojection.
    resumed : int
        How many slices came from an earlier run.
    seconds : float
        The duration of this run.
    chi2 : list of float or None
        Chi-squared of each slice: 1 where noise is all that is left of its data.
    seen : dict
        What the middle slice showed: gain, centre, truncation.
    processor_seconds : float
        Of this run, over all threads, for each slice that it made.
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
    chi2: list[float | None] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict, repr=False)
    processor_seconds: float = 0.0


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
    """Reconstruct the slices of a scan and write them as float32 (slices, H, W).

    Each slice is a problem ``q = A f + n`` of its own with ``A = Radon(geometry)``. Counts become
    line integrals with a map of their noise. What was not measured (dead bins, NaN) has no weight.

    Parameters
    ----------
    scan : Scan
        Counts or line integrals.
    geometry : ParallelBeam or FanBeam
        Its angles and detector elements are those of the scan.
    D : denoiser, str or None
        Anything that :func:`~pnp_mlpatch.denoisers.as_denoiser` takes, on grey images of range
        [0, 1]. None stops at filtered backprojection.
    out : str or path
        The volume: .h5 (dataset "volume"), .npy or .tif. A file with the ending .json is written
        beside it: settings, geometry, ``meta`` and how each slice ended. With the recipe, that
        includes its level ``sigma`` relative to the window, ``alpha_scale`` and ``chi2``.
    config : VolumeConfig, optional
        The settings.
    meta : mapping, optional
        Plain JSON values, such as the settings of the denoiser.
    resume : bool
        Whether an interrupted run is resumed.
    progress : bool, optional
        Whether a progress bar is shown; by default in a terminal.

    Returns
    -------
    VolumeResult

    Raises
    ------
    InputError
        For a geometry, a window or settings that do not fit the scan, and for an interrupted run
        of other settings or of another scan.
    FileError
        If files are damaged or cannot be written, or if another run writes this volume.

    Warns
    -----
    UserWarning
        If nothing was measured in a slice, which becomes air, and if a finished batch was damaged
        on disk and is made again.

    Notes
    -----
    The recipe starts from total variation. A plain run starts from filtered backprojection,
    interpolated over missing data and denoised at twice the level of its own noise. Where photons
    are few its streaks are strong, and the iterations would remove them slowly.

    Until the end the results lie in ``.NAME.partial.npy``, and ``.NAME.partial.json`` says which
    batches are finished, with their sha256. The same call resumes from there. On the same machine
    with equally many threads it ends with the same bytes as a run that was not interrupted.
    """
    config, path = config or VolumeConfig(), Path(out)
    check_scan(scan, geometry, config)
    with lock(check_out(path, scan).with_suffix(".json")):
        return _reconstruct(scan, geometry, D, path, config, dict(meta or {}), resume, progress)


def _reconstruct(
    scan: Scan,
    geometry: Geometry,
    given: Denoiser | str | None,
    path: Path,
    config: VolumeConfig,
    meta: dict[str, Any],
    resume: bool,
    progress: bool | None,
) -> VolumeResult:
    """Make the volume, by the one run that writes to ``path``."""
    started, processor = time.perf_counter(), time.process_time()
    first, last = check_scan(scan, geometry, config)
    D = _grey_denoiser(given)
    seen = examine(scan, geometry, config)
    config = seen.config
    shape = (last - first, *geometry.shape)
    batches = [(a, min(a + config.batch, last)) for a in range(first, last, config.batch)]
    settings = _settings(scan, geometry, D, config, meta) | {"slices": [first, last]}
    fingerprint = scan_fingerprint(scan)
    journal = Journal(path, shape, settings, fingerprint, batches, resume)

    # as before: what "auto" takes depends on the free memory
    backend = journal.found.get("backend", config.backend)
    data, geometry, margin = seen.room(scan, geometry)
    A = Radon(geometry, backend=backend, memory=config.memory).to(torch.device(config.device))
    journal.check_scan(data)
    fbp, window = _start(A, data, config, seen, margin, first + shape[0] // 2)
    window = journal.found.get("window") or window
    journal.begin({"backend": A.backend, "window": list(window), "seen": seen.facts})
    resumed = sum(b - a for a, b in batches if journal.done(a))
    _solve_batches(A, D, data, config, journal, progress, margin)

    _check_unchanged(scan, fingerprint)
    rows, units = journal.rows(), "1 / unit of pixel" if config.mu_water is None else "HU"
    report = _report(scan, shape, settings, units, journal)
    middle = journal.read(shape[0] // 2, shape[0] // 2 + 1)[0]
    write_volume(path, (journal.batch(a, b) for a, b in batches), shape, meta=report)
    journal.remove()  # last: until the volume is there, the same call resumes from it
    return VolumeResult(
        path,
        shape,
        (window[0], window[1]),
        units,
        [row["status"] for row in rows],
        [row["residual"] for row in rows],
        middle,
        _in_units(fbp, config),
        resumed,
        time.perf_counter() - started,
        [row["chi2"] for row in rows],
        seen.facts,
        (time.process_time() - processor) / max(1, len(rows) - resumed),
    )


def _start(
    A: Radon, scan: Scan, config: VolumeConfig, seen: Seen, margin: int, place: int
) -> tuple[Tensor, tuple[float, float]]:
    """Return filtered backprojection of a slice, and the window: that of the whole scan."""
    fbp, middle = (
        crop(_middle_fbp(A, scan, config, index), margin) for index in (place, scan.shape[0] // 2)
    )
    seen.warn(scan, check_units(middle, config.mu_water))
    return fbp, choose_window(config, middle, scan)


def _check_unchanged(scan: Scan, fingerprint: dict[str, Any]) -> None:
    """Raise if the scan is not what it was at the start."""
    if scan_fingerprint(scan) != fingerprint:
        raise FileError(
            f"{scan.path}: the scan was changed while it was read. Run the same command with "
            "resume=False (--no-resume)."
        )


def _solve_batches(
    A: Radon,
    D: Denoiser | None,
    scan: Scan,
    config: VolumeConfig,
    journal: Journal,
    progress: bool | None,
    margin: int,
) -> None:
    """Solve the batches that are not finished, one after the other."""
    low, high = journal.found["window"]
    if config.mu_water is None:
        scale, offset = high - low, low
    else:
        scale, offset = hounsfield_range(config.mu_water, low=low, high=high)
    denoise = None if D is None else rescaled(_on(D, config.device), scale, offset)
    solver = config.make_solver(scale)
    shown = None if progress is None else not progress
    done = sum(b - a for a, b in journal.batches if journal.done(a))
    with tqdm(total=journal.shape[0], initial=done, desc="slices", disable=shown) as bar:
        for a, b in journal.batches:
            if journal.done(a):
                continue
            slab = read_slab(scan, config, a, b)
            x, rows = solve_slab(A, denoise, solver or config.preset, scale, slab)
            if not bool(slab.live.all()):
                dead = [a + k for k, live in enumerate(slab.live.tolist()) if not live]
                warnings.warn(
                    f"{scan.path}: nothing was measured in the slices "
                    f"{', '.join(map(str, dead))}; they become air.",
                    stacklevel=4,
                )
            journal.put(a, _in_units(crop(x, margin), config), rows, slab.digest)
            bar.update(b - a)


def _grey_denoiser(D: Denoiser | str | None) -> Denoiser | None:
    """Return the denoiser, of one channel; None stays None."""
    if D is None:
        return None
    D = as_denoiser(D) if isinstance(D, str) or not callable(D) else D
    known = describe(D)
    if known.channels not in (None, 1):
        raise InputError(
            f"reconstruct_volume: slices have one channel, the denoiser {known.name} takes "
            f"{known.channels}. Use a grey one."
        )
    return D


def _settings(
    scan: Scan, geometry: Geometry, D: Denoiser | None, config: VolumeConfig, meta: dict[str, Any]
) -> dict[str, Any]:
    """Return what must be the same when a run is resumed, and is written beside the volume."""
    about = {key: value for key, value in scan.meta.items() if key != "source"}
    return {
        "version": pnp_mlpatch.__version__,
        "torch": torch.__version__,
        **asdict(config),
        "geometry": as_dict(geometry),
        "denoiser": None if D is None else fingerprint(D),
        "scan": about | {"kind": scan.kind, "shape": list(scan.shape)},
        "meta": meta,
    }


def _report(
    scan: Scan, shape: tuple[int, ...], settings: dict[str, Any], units: str, journal: Journal
) -> dict[str, Any]:
    """Return what is written beside the volume."""
    rows = journal.rows()
    return {
        **settings,
        "source": str(scan.path),
        "shape": list(shape),
        "units": units,
        **journal.found,
        "result": {key: [row[key] for row in rows] for key in ROW},
    }


def _middle_fbp(A: Radon, scan: Scan, config: VolumeConfig, middle: int) -> Tensor:
    """Return the filtered backprojection (H, W) of a slice, in attenuation."""
    slab = read_slab(scan, config, middle, middle + 1)
    if not len(slab.q):
        return torch.zeros(A.image_shape[1:])
    return backproject(A, slab)[0, 0].cpu()


def _in_units(x: Tensor, config: VolumeConfig) -> Tensor:
    """Attenuation in the units of the volume."""
    return x if config.mu_water is None else to_hounsfield(x, config.mu_water)


def _on(D: Denoiser, device: str) -> Denoiser:
    """Return the denoiser on a device, if it can be moved."""
    move = getattr(D, "to", None)
    return D if move is None else move(torch.device(device))


__all__ = [
    "VolumeConfig",
    "VolumeResult",
    "check_out",
    "check_scan",
    "estimate_noise",
    "reconstruct_volume",
]
