"""A CT volume by processes that do not know each other, such as those of an array job."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from pnp_mlpatch.ct import Geometry, Scan
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.pipelines._shards import own_lock, read_journal, refuse_other, shard_names
from pnp_mlpatch.pipelines.ct_batch import torch_threads
from pnp_mlpatch.pipelines.ct_config import VolumeConfig, check_out, check_scan
from pnp_mlpatch.pipelines.ct_digest import Shard, partial_files, shard_journals
from pnp_mlpatch.pipelines.ct_journal import Journal
from pnp_mlpatch.pipelines.ct_run import begin, here, solve, split

SETUP = 60.0  # seconds that a shard waits for others that begin at the same time


@dataclass(frozen=True)
class ShardResult:
    """What :func:`reconstruct_shard` returns.

    Parameters
    ----------
    journal : Path
        The journal of the shard.
    shard : tuple of int
        (i, N).
    slices : int
        The slices of the shard.
    status : list of str
        How each of them ended.
    resumed : int
        How many came from an earlier run.
    seconds : float
        The duration of this run.
    """

    journal: Path
    shard: Shard
    slices: int
    status: list[str]
    resumed: int
    seconds: float


def reconstruct_shard(
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | str | None,
    out: str | PathLike[str],
    shard: Shard,
    config: VolumeConfig | None = None,
    *,
    meta: Mapping[str, Any] | None = None,
    resume: bool = True,
    progress: bool | None = None,
) -> ShardResult:
    """Make every N-th batch of a volume.

    :func:`~pnp_mlpatch.pipelines.ct_merge.merge_shards` writes the volume in the
    end. Shards may run at once, on machines that share a file system.

    Parameters
    ----------
    scan, geometry, D, out, config, meta, resume, progress
        As in :func:`~pnp_mlpatch.pipelines.ct_volume.reconstruct_volume`, the same for all shards.
    shard : tuple of int
        (i, N): the i-th of N shards, counted from 1.

    Returns
    -------
    ShardResult

    Raises
    ------
    InputError
        As in ``reconstruct_volume``, and if shards of other settings lie beside the volume.
    FileError
        As in ``reconstruct_volume``.
    """
    started, config, path = time.perf_counter(), config or VolumeConfig(), Path(out)
    threads = config.threads or torch.get_num_threads()
    config = replace(config, threads=threads)
    first, last = check_scan(scan, geometry, config)
    check_shard(shard, len(split(first, last, config.batch)))
    check_out(path, scan)
    with lock(own_lock(path, shard)), torch_threads(threads):
        told = dict(meta or {})
        run = begin(scan, geometry, D, path, config, told, resume, shard=shard, guard=_alone)
        resumed = run.finished
        solve(run, here(run), progress)
    status = [row["status"] for row in run.journal.rows()]
    seconds = time.perf_counter() - started
    return ShardResult(run.journal.path, shard, run.slices, status, resumed, seconds)


def check_shard(shard: Shard, batches: int) -> None:
    """Check the number of a shard.

    Parameters
    ----------
    shard : tuple of int
        (i, N).
    batches : int
        The number of batches, of which each shard gets at least one.

    Raises
    ------
    InputError
        Unless 1 <= i <= N <= batches.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise InputError(
            f"shard {number}/{count}: expected i/N with 1 <= i <= N, such as 1/4 ... 4/4."
        )
    if count > batches:
        raise InputError(
            f"shard {number}/{count}: there are {batches} batches of slices, so some shards would "
            f"have none. Take at most {batches} shards, or a smaller batch."
        )


def refuse_shards(path: Path, resume: bool) -> None:
    """Refuse a whole run where there are shards; with ``resume=False`` remove them.

    Parameters
    ----------
    path : Path
        The volume.
    resume : bool
        Whether what is there is kept.

    Raises
    ------
    InputError
        If there are shards to keep.
    FileError
        If one of them is running.
    """
    found = shard_journals(path)
    if found and resume:
        raise InputError(
            f"{path}: {shard_names(found)} of it lie there. Write the volume by 'pnp-mlpatch merge "
            f"{path}' when all are finished, or start anew with resume=False (--no-resume)."
        )
    for shard, journal in found.items():
        with lock(own_lock(path, shard)):
            journal.unlink()


# ---- what does not fit


@contextmanager
def _alone(journal: Journal) -> Iterator[None]:
    """Hold the moment in which a shard takes its place beside the others."""
    with lock(journal.out.with_suffix(".json"), wait=SETUP):
        _refuse_whole(journal.out)
        _refuse_foreign(journal.out, journal)
        yield


def _refuse_whole(path: Path) -> None:
    """Refuse a shard where a run of the whole volume was interrupted."""
    journal = partial_files(path)[1]
    if journal.exists():
        raise InputError(
            f"{journal}: a run of the whole volume was interrupted. Finish it by its command, "
            "without --shard; or remove this file to start shards."
        )


def _refuse_foreign(path: Path, journal: Journal) -> None:
    """Refuse a shard that does not belong to the others."""
    for shard, found in shard_journals(path).items():
        if found == journal.path:
            continue
        if journal.shard is not None and shard[1] != journal.shard[1]:
            raise InputError(
                f"{found}: there is a shard of {shard[1]}, and this is one of "
                f"{journal.shard[1]}. Remove it, or give the same number of shards."
            )
        refuse_other(found, read_journal(found)[0], {}, journal.settings, {})


__all__ = [
    "ShardResult",
    "check_shard",
    "reconstruct_shard",
    "refuse_shards",
]
