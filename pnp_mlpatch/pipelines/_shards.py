"""What the shards of a CT volume and their merging share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pnp_mlpatch.errors import FileError, InputError, WeightsError
from pnp_mlpatch.io.checkpoint import load_table
from pnp_mlpatch.pipelines.ct_digest import Shard
from pnp_mlpatch.pipelines.ct_journal import changes


def own_lock(path: Path, shard: Shard) -> Path:
    """Return what the lock of a shard is on."""
    return path.with_name(f"{path.name}.shard-{shard[0]}-of-{shard[1]}")


def shard_names(shards: Iterable[Shard]) -> str:
    """Name shards."""
    shards = list(shards)
    words = ", ".join(f"{number}/{count}" for number, count in shards)
    return f"the shard{'s' * (len(shards) > 1)} {words}"


def refuse_other(
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


def read_journal(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[int, Any]]:
    """Return settings, choices and finished batches of a journal."""
    try:
        content = load_table(path)
        done = {int(start): row for start, row in content["done"].items()}
        return dict(content["settings"]), dict(content["found"]), done
    except (WeightsError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path}: the journal of the shard is damaged ({error}). Remove it, and run the "
            "command of this shard again."
        ) from error
