"""The shards of a CT volume become the volume."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.pipelines._shards import own_lock, read_journal, refuse_other, shard_names
from pnp_mlpatch.pipelines.ct_digest import shard_journals
from pnp_mlpatch.pipelines.ct_journal import Journal
from pnp_mlpatch.pipelines.ct_publish import publish, units_of
from pnp_mlpatch.pipelines.ct_run import split


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
            own_lock(path, shard).unlink(missing_ok=True)
    low, high = journal.found["window"]
    status = [row["status"] for row in journal.rows()]
    shape = journal.parts.shape
    return MergedVolume(path, shape, (low, high), units_of(journal.settings), status, count)


def _merged(path: Path) -> tuple[Journal, int]:
    """Return one journal of all shards, whole, and their number."""
    found = shard_journals(path)
    if not found:
        raise FileError(
            f"{path}: there are no shards of it. Make them by 'pnp-mlpatch ct ... --out {path} "
            "--shard i/N'."
        )
    counts = {shard[1] for shard in found}
    if len(counts) > 1:
        raise InputError(
            f"{path}: {shard_names(found)} are not of one run. Remove those that do not "
            "belong to it."
        )
    count = counts.pop()
    if missing := [number for number in range(1, count + 1) if (number, count) not in found]:
        raise FileError(
            f"{path}: {shard_names((number, count) for number in missing)} of {count} "
            f"{'are' if len(missing) > 1 else 'is'} missing. Run 'pnp-mlpatch ct ... --shard "
            f"{missing[0]}/{count}'."
        )
    contents = {shard: read_journal(journal) for shard, journal in found.items()}
    settings, chosen, _ = contents[1, count]
    for shard, (others, choice, _) in contents.items():
        refuse_other(found[shard], others, choice, settings, chosen)
    journal = _empty(path, settings)
    for shard, (_, _, done) in contents.items():
        with lock(own_lock(path, shard)):
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
    """Return a journal of a whole volume of these settings, without a finished batch."""
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


__all__ = ["MergedVolume", "merge_shards"]
