"""``pnp-mlpatch ct`` with several processes: workers, shards, and what a run will cost."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pnp_mlpatch.ct import Geometry, Scan
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, VolumeResult

WAYS = ("workers", "scheduler", "scheduler_file", "shard")


def flags_of_processes(sub: argparse.ArgumentParser) -> None:
    """Add the flags under "processes"."""
    group = sub.add_argument_group("processes")
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes of this machine, started by Dask"
    )
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="the Dask scheduler whose workers are used"
    )
    group.add_argument(
        "--scheduler-file", metavar="FILE", help="the same, by the file that it writes"
    )
    group.add_argument(
        "--shard",
        metavar="i/N",
        help="make only the i-th of N shares, for an array job; pnp-mlpatch merge joins them",
    )
    group.add_argument(
        "--estimate",
        action="store_true",
        help="solve one slice, print time, memory and disk of the whole, and write nothing",
    )


def parse_shard(args: argparse.Namespace) -> tuple[int, int] | None:
    """Return the shard of the flags; raise for ways of running that exclude each other."""
    given = [f"--{way.replace('_', '-')}" for way in WAYS if getattr(args, way) is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other. Give one of them.")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers must be >= 1, got {args.workers}.")
    if args.shard is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", args.shard)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(
            f"--shard {args.shard}: expected i/N with 1 <= i <= N, such as 1/4 ... 4/4."
        )
    if args.preview:
        raise InputError("--preview shows the volume, which a shard has not. Leave it out.")
    if args.report:
        raise InputError("--report tells the volume, which a shard has not. Leave it out.")
    return int(found[1]), int(found[2])


def run_whole(
    args: argparse.Namespace,
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | None,
    config: VolumeConfig,
    meta: dict[str, Any],
) -> VolumeResult:
    """Reconstruct the volume, in this process or by workers."""
    from pnp_mlpatch.pipelines.ct_volume import reconstruct_volume

    progress = False if args.quiet else None
    how: dict[str, Any] = {"meta": meta, "resume": not args.no_resume, "progress": progress}
    if args.workers is None and args.scheduler is None and args.scheduler_file is None:
        return reconstruct_volume(scan, geometry, D, args.out, config, **how)
    from pnp_mlpatch.pipelines.workers import connect

    with connect(
        args.workers, scheduler=args.scheduler, scheduler_file=args.scheduler_file
    ) as client:
        if not args.quiet:
            count = len(client.scheduler_info(n_workers=-1)["workers"])
            print(f"{count} workers; dashboard: {client.dashboard_link}", flush=True)
        return reconstruct_volume(scan, geometry, D, args.out, config, client=client, **how)


def run_shard(
    args: argparse.Namespace,
    shard: tuple[int, int],
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | None,
    config: VolumeConfig,
    meta: dict[str, Any],
) -> None:
    """Make the batches of a shard."""
    from pnp_mlpatch.pipelines.ct_shards import reconstruct_shard

    result = reconstruct_shard(
        scan,
        geometry,
        D,
        args.out,
        shard,
        config,
        meta=meta,
        resume=not args.no_resume,
        progress=False if args.quiet else None,
    )
    if not args.quiet:
        before = f", {result.resumed} of them from an earlier run" if result.resumed else ""
        print(
            f"shard {shard[0]}/{shard[1]}: {result.slices} slices{before}, "
            f"{result.seconds:.1f} s. When all shards are finished: pnp-mlpatch merge {args.out}"
        )


def print_estimate(
    args: argparse.Namespace,
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | None,
    config: VolumeConfig,
) -> None:
    """Print what a run will cost."""
    from pnp_mlpatch.pipelines.ct_estimate import estimate_volume

    found = estimate_volume(scan, geometry, D, args.out, config)
    count = 1 if args.workers is None else args.workers
    if args.shard is not None:
        count = int(args.shard.partition("/")[2])
    total = found.seconds * found.slices / count
    print(
        f"time:   {found.seconds:.3g} s a slice (measured on slice {found.measured}, "
        f"{found.threads} threads); {found.slices} slices by {count} "
        f"{'process' if count == 1 else 'processes'}: {_duration(total)}"
    )
    print(f"memory: {found.memory:.2g} GiB a process, with {config.batch} slices at a time")
    print(
        f"disk:   {found.volume:.3g} GiB the volume, {found.disk:.3g} GiB until it is written; "
        f"{found.free:.3g} GiB are free in {Path(args.out).resolve().parent}"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


__all__ = ["flags_of_processes", "parse_shard", "print_estimate", "run_shard", "run_whole"]
