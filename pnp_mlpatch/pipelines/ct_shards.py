"""A CT volume by processes that do not know each other, such as those of an array job."""

from __future__ import annotations

import json
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
from pnp_mlpatch.errors import FileError, InputError, WeightsError
from pnp_mlpatch.io.checkpoint import load_table
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.pipelines.ct_batch import torch_threads
from pnp_mlpatch.pipelines.ct_config import VolumeConfig, check_out, check_scan
from pnp_mlpatch.pipelines.ct_digest import Shard, partial_files, shard_journals
from pnp_mlpatch.pipelines.ct_journal import Journal, changes
from pnp_mlpatch.pipelines.ct_publish import publish, units_of
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


@dataclass(frozen=True)
class MergedVolume:
    """What :func:`merge_shards` returns.

    Parameters
    ----------
    path : Path
        The volume.
    shape : tuple of int
        (slices, H, W).
    window : tuple of float
        (low, high).
    units : str
        The unit of the volume.
    status : list of str
        How each slice ended.
    shards : int
        Of how many shards it was made.
    """

    path: Path
    shape: tuple[int, int, int]
    window: tuple[float, float]
    units: str
    status: list[str]
    shards: int


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
    """Make every N-th batch of a volume, which :func:`merge_shards` writes in the end.

    Shards may run at once, on machines that share a file system.

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
    with lock(_own(path, shard)), torch_threads(threads):
        told = dict(meta or {})
        run = begin(scan, geometry, D, path, config, told, resume, shard=shard, guard=_alone)
        resumed = run.finished
        solve(run, here(run), progress)
    status = [row["status"] for row in run.journal.rows()]
    seconds = time.perf_counter() - started
    return ShardResult(run.journal.path, shard, run.slices, status, resumed, seconds)


def merge_shards(out: str | PathLike[str]) -> MergedVolume:
    """Write the volume whose shards are finished, and remove them.

    Parameters
    ----------
    out : str or path
        The volume.

    Returns
    -------
    MergedVolume

    Raises
    ------
    FileError
        If a shard is missing, unfinished, running or damaged.
    InputError
        If shards are of different settings.
    """
    path = Path(out)
    with lock(path.with_suffix(".json")):
        journal, count = _merged(path)
        publish(path, journal)
        for shard, found in shard_journals(path).items():
            found.unlink(missing_ok=True)
            _own(path, shard).unlink(missing_ok=True)
    low, high = journal.found["window"]
    status = [row["status"] for row in journal.rows()]
    shape = journal.parts.shape
    return MergedVolume(path, shape, (low, high), units_of(journal.settings), status, count)


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
            f"{path}: {_names(found)} of it lie there. Write the volume by 'pnp-mlpatch merge "
            f"{path}' when all are finished, or start anew with resume=False (--no-resume)."
        )
    for shard, journal in found.items():
        with lock(_own(path, shard)):
            journal.unlink()


# ---- what does not fit


def _own(path: Path, shard: Shard) -> Path:
    """What the lock of a shard is on."""
    return path.with_name(f"{path.name}.shard-{shard[0]}-of-{shard[1]}")


def _names(shards: Mapping[Shard, Path]) -> str:
    words = ", ".join(f"{number}/{count}" for number, count in shards)
    return f"the shard{'s' * (len(shards) > 1)} {words}"


@contextmanager
def _alone(journal: Journal) -> Iterator[None]:
    """The moment in which a shard takes its place beside the others."""
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
        _refuse_other(found, _read(found)[0], {}, journal.settings, {})


def _refuse_other(
    path: Path,
    settings: dict[str, Any],
    found: dict[str, Any],
    now: dict[str, Any],
    chosen: dict[str, Any],
) -> None:
    """Refuse a shard of other settings, or with another projector or window."""
    both = {key: (found.get(key), chosen.get(key)) for key in ("backend", "window")}
    said = changes(settings, now) or "; ".join(
        f"{key}: {a} before, {b} now" for key, (a, b) in both.items() if found and a != b
    )
    if said:
        raise InputError(
            f"{path}: this shard is of other settings ({said}). Give the same to all shards, or "
            "remove it."
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[int, Any]]:
    """Settings, choices and finished batches of a journal."""
    try:
        content = load_table(path)
        done = {int(start): row for start, row in content["done"].items()}
        return dict(content["settings"]), dict(content["found"]), done
    except (WeightsError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path}: the journal of the shard is damaged ({error}). Remove it, and run the "
            "command of this shard again."
        ) from error


def _merged(path: Path) -> tuple[Journal, int]:
    """One journal of all shards, whole, and their number."""
    found = shard_journals(path)
    if not found:
        raise FileError(
            f"{path}: there are no shards of it. Make them by 'pnp-mlpatch ct ... --out {path} "
            "--shard i/N'."
        )
    counts = {shard[1] for shard in found}
    if len(counts) > 1:
        raise InputError(
            f"{path}: {_names(found)} are not of one run. Remove those that do not belong to it."
        )
    count = counts.pop()
    if missing := [number for number in range(1, count + 1) if (number, count) not in found]:
        raise FileError(
            f"{path}: {_names({(number, count): path for number in missing})} of {count} "
            f"{'are' if len(missing) > 1 else 'is'} missing. Run 'pnp-mlpatch ct ... --shard "
            f"{missing[0]}/{count}'."
        )
    contents = {shard: _read(journal) for shard, journal in found.items()}
    settings, chosen, _ = contents[1, count]
    for shard, (others, choice, _) in contents.items():
        _refuse_other(found[shard], others, choice, settings, chosen)
    journal = _empty(path, settings)
    for shard, (_, _, done) in contents.items():
        with lock(_own(path, shard)):
            pass  # refused while it runs
        own = journal.batches[shard[0] - 1 :: count]
        if left := [start for start, _ in own if start not in done]:
            raise FileError(
                f"{path}: the shard {shard[0]}/{count} has finished {len(own) - len(left)} of "
                f"{len(own)} batches. Run its command again."
            )
    journal.adopt(chosen, {k: row for _, _, done in contents.values() for k, row in done.items()})
    return journal, count


def _empty(path: Path, settings: dict[str, Any]) -> Journal:
    """A journal of a whole volume of these settings, without a finished batch."""
    try:
        first, last = settings["slices"]
        height, width = settings["geometry"]["shape"]
        batches = split(first, last, settings["batch"])
        return Journal(path, (last - first, height, width), settings, batches)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{path}: the journals of its shards are not those of this version "
            f"({json.dumps(str(error))}). Remove them."
        ) from error


__all__ = [
    "MergedVolume",
    "ShardResult",
    "check_shard",
    "merge_shards",
    "reconstruct_shard",
    "refuse_shards",
]
