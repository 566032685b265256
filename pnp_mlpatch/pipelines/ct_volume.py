"""A volume from a scan, slice by slice in bounded memory, by one process or many."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.ct import Geometry, Scan
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.pipelines import ct_cluster as cluster
from pnp_mlpatch.pipelines.ct_batch import in_units, torch_threads
from pnp_mlpatch.pipelines.ct_config import VolumeConfig, check_out, check_scan
from pnp_mlpatch.pipelines.ct_publish import publish, units_of
from pnp_mlpatch.pipelines.ct_run import Run, begin, here, solve
from pnp_mlpatch.pipelines.ct_shards import refuse_shards
from pnp_mlpatch.pipelines.ct_slab import estimate_noise

if TYPE_CHECKING:
    from distributed import Client


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
    processor_seconds : float or None
        Of this run, over all threads, for each slice that it made. None where workers made them.
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
    processor_seconds: float | None = None


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
    client: Client | None = None,
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
        The volume: .h5 (dataset "volume"), .npy, .tif or .zarr (OME-Zarr 0.5). A file with the
        ending .json is written beside it: settings, geometry, ``meta`` and how each slice ended.
        With the recipe, that includes its level ``sigma`` relative to the window, ``alpha_scale``
        and ``chi2``.
    config : VolumeConfig, optional
        The settings.
    meta : mapping, optional
        Plain JSON values, such as the settings of the denoiser.
    resume : bool
        Whether an interrupted run is resumed.
    progress : bool, optional
        Whether a progress bar is shown; by default in a terminal.
    client : distributed.Client, optional
        Workers that make the batches, one task each. They read the scan and write the batches
        themselves, so all of them must see these files under the same paths.

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
    ClusterError
        If the workers do not fit this process, or workers or scheduler are gone.

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

    Until the end each batch is a file in the folder ``.NAME.partial``, and ``.NAME.partial.json``
    says which batches are finished, with their sha256. The same call resumes from there. On the
    same machine with equally many threads it ends with the same bytes as a run that was not
    interrupted, whoever makes the batches.
    """
    config, path = config or VolumeConfig(), Path(out)
    threads = config.threads or (torch.get_num_threads() if client is None else 1)
    config = replace(config, threads=threads)
    check_scan(scan, geometry, config)
    with lock(check_out(path, scan).with_suffix(".json")), torch_threads(threads):
        started, processor = time.perf_counter(), time.process_time()
        refuse_shards(path, resume)
        run = begin(
            scan,
            geometry,
            D,
            path,
            config,
            dict(meta or {}),
            resume,
            neighbours=1 if client is None else cluster.neighbours(client),
        )
        resumed = run.finished
        solve(run, here(run) if client is None else cluster.elsewhere(run, client), progress)
        middle = _slice(run, run.journal.parts.shape[0] // 2)
        publish(path, run.journal)
    seconds, spent = time.perf_counter() - started, time.process_time() - processor
    return _result(path, run, middle, resumed, seconds, None if client else spent)


def _result(
    path: Path, run: Run, middle: Tensor, resumed: int, seconds: float, processor: float | None
) -> VolumeResult:
    """Return what is known of a run that has ended."""
    rows = run.journal.rows()
    made = max(1, len(rows) - resumed)
    return VolumeResult(
        path,
        run.journal.parts.shape,
        run.job.window,
        units_of(run.journal.settings),
        [row["status"] for row in rows],
        [row["residual"] for row in rows],
        middle,
        in_units(run.fbp, run.job.config),
        resumed,
        seconds,
        [row["chi2"] for row in rows],
        run.journal.found["seen"],
        None if processor is None else processor / made,
    )


def _slice(run: Run, index: int) -> Tensor:
    """Return a slice (H, W) of the volume, from its batch."""
    number, place = divmod(index, run.journal.parts.batch)
    return run.journal.batch(run.journal.batches[number][0])[place].clone()


__all__ = [
    "VolumeConfig",
    "VolumeResult",
    "check_out",
    "check_scan",
    "estimate_noise",
    "reconstruct_volume",
]
