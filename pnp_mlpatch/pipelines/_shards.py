"""What the shards of a CT volume and their merging share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pnp_mlpatch.errors import FileError, WeightsError
from pnp_mlpatch.io.checkpoint import check_same, load_table
from pnp_mlpatch.pipelines.ct_digest import Shard


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
    both = ("backend", "window") if found and chosen else ()
    before, after = ({f"chosen {key}": one[key] for key in both} for one in (found, chosen))
    check_same(path, settings | before, now | after, anew="remove this shard", values=True)


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
