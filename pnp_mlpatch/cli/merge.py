"""``pnp-mlpatch merge``: the shards of a CT volume become the volume."""

from __future__ import annotations

import argparse
from typing import Any

from pnp_mlpatch.cli._common import command

EPILOG = """\
The shards are made by 'pnp-mlpatch ct ... --out OUT --shard i/N', each on its own, at once or one
after the other, on machines that share a file system. The volume has the bytes that one process
would have written. A shard that is missing, unfinished, or of other settings is named, and nothing
is changed.

Example:
  for i in 1 2 3; do pnp-mlpatch ct scan.h5 --out volume.zarr --shard $i/3 & done; wait
  pnp-mlpatch merge volume.zarr
"""


def add_parser(commands: Any) -> None:
    """Add the command and its flags.

    Parameters
    ----------
    commands : argparse sub-parsers
        Where it is added.
    """
    sub = command(
        commands, "merge", run_merge, "Write the CT volume whose shards are finished.", EPILOG
    )
    sub.add_argument("out", metavar="OUT", help="the volume: what --out of the shards was")
    sub.add_argument("--quiet", action="store_true", help="no summary")


def run_merge(args: argparse.Namespace) -> int:
    """Merge the shards of a volume.

    Parameters
    ----------
    args : argparse.Namespace
        The flags.

    Returns
    -------
    int
        The exit status.
    """
    from pnp_mlpatch.pipelines.ct_merge import merge_shards

    result = merge_shards(args.out)
    if not args.quiet:
        names = sorted(set(result.status))
        ended = ", ".join(f"{result.status.count(status)} {status}" for status in names)
        low, high = result.window
        print(f"{ended}; window {low:.4g} to {high:.4g} ({result.units})")
        print(f"{len(result.status)} slices of {result.shards} shards, {result.path}")
    return 0


__all__ = ["add_parser", "run_merge"]
