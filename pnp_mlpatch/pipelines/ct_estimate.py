"""What a CT volume will cost, from one slice of it."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch

from pnp_mlpatch.ct import Geometry, Scan
from pnp_mlpatch.ct.truncation import crop
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.pipelines.ct_batch import (
    Job,
    middle_fbp,
    prepare,
    projector,
    torch_threads,
    with_neighbours,
)
from pnp_mlpatch.pipelines.ct_check import examine
from pnp_mlpatch.pipelines.ct_config import VolumeConfig, check_out, check_scan
from pnp_mlpatch.pipelines.ct_fit import choose_window
from pnp_mlpatch.pipelines.ct_parts import Parts
from pnp_mlpatch.pipelines.ct_recipe import solve_slab
from pnp_mlpatch.pipelines.ct_run import grey_denoiser
from pnp_mlpatch.pipelines.ct_slab import read_slab

GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """What :func:`estimate_volume` returns.

    Parameters
    ----------
    slices : int
        The number of slices.
    measured : int
        The slice that was solved.
    threads : int
        The threads of torch that it was solved with.
    seconds : float
        The time that it took, without what is made once.
    memory : float
        GiB of a process that works on a batch: what it held before, and the growth by one slice
        times the slices of a batch.
    volume : float
        GiB of the volume.
    disk : float
        GiB that are needed until it is written.
    free : float
        GiB that are free there.
    """

    slices: int
    measured: int
    threads: int
    seconds: float
    memory: float
    volume: float
    disk: float
    free: float


def estimate_volume(
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | str | None,
    out: str | PathLike[str],
    config: VolumeConfig | None = None,
) -> Estimate:
    """Solve the slice in the middle, and say what the volume will cost. Nothing is written.

    With ``slabs`` it is a stack.

    Parameters
    ----------
    scan, geometry, D, out, config
        As in :func:`~pnp_mlpatch.pipelines.ct_volume.reconstruct_volume`.

    Returns
    -------
    Estimate

    Raises
    ------
    InputError, FileError
        As ``reconstruct_volume``.
    """
    config, path = config or VolumeConfig(), Path(out)
    threads = config.threads or torch.get_num_threads()
    config = replace(config, threads=threads)
    first, last = check_scan(scan, geometry, config)
    check_out(path, scan)
    shape = (last - first, *geometry.shape)
    middle, batch = first + shape[0] // 2, min(config.batch, shape[0])
    with torch_threads(threads):
        seen = examine(scan, geometry, config)
        config = seen.config
        data, wide, frame = seen.room(scan, geometry)
        A = projector(wide, config)
        fbp = crop(middle_fbp(A, data, config, scan.shape[0] // 2), frame)
        window = choose_window(config, fbp, scan)
        parts = Parts(path, shape, batch, "")
        job = Job(data, wide, frame, grey_denoiser(D), config, window, parts, first)
        made = prepare(job, A)
        count = 1 if config.slabs is None else batch
        start = min(middle, last - count)
        low, high = with_neighbours(job, start, start + count)
        slab, before = read_slab(data, config, low, high), _peak()
        started = time.perf_counter()
        solve_slab(A, made.D, made.solver, made.scale, slab)
        seconds = (time.perf_counter() - started) / count
    volume = 4 * shape[0] * shape[1] * shape[2] / GIB
    zarr = path.suffix.lower() == ".zarr"
    return Estimate(
        slices=shape[0],
        measured=middle,
        threads=threads,
        seconds=seconds,
        memory=before + batch / count * (_peak() - before),
        volume=volume * (4 / 3 if zarr else 1),
        disk=volume * (4 / 3 if zarr else 2),
        free=shutil.disk_usage(path.resolve().parent).free / GIB,
    )


def _peak() -> float:
    """Return the most memory that this process has held, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else 1024 * peak / GIB


__all__ = ["Estimate", "estimate_volume"]
