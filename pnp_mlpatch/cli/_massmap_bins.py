"""``massmap --bins``: the maps of tomographic bins, as a batch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from pnp_mlpatch.cli._massmap_write import (
    config_of,
    denoiser_of,
    provenance_of,
    remove,
    say,
    write,
)
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import check_writable
from pnp_mlpatch.lensing import ShearMap


def map_bins(
    args: argparse.Namespace,
    out: Path,
    asked: dict[str, Any],
    digests: dict[str, str],
    shears: dict[int, ShearMap],
    device: torch.device,
) -> int:
    """Map all bins, and write OUT_bin1.fits and so on, each with its .json."""
    from pnp_mlpatch.pipelines.mass_map_bins import map_mass_bins

    for name in ("figure", "report"):
        if getattr(args, name):
            raise InputError(
                f"massmap: --{name} shows one map, --bins makes {len(shears)}. Leave --{name} out."
            )
    paths = {number: out.with_name(f"{out.stem}_bin{number}{out.suffix}") for number in shears}
    for path in paths.values():
        check_writable(path, [Path(asked["shear"])])
    name, D, used = denoiser_of(asked)
    partial = out.with_name(f".{out.name}.partial.pt")
    if args.no_resume:
        remove(partial)
    progress = False if args.quiet else None
    results = map_mass_bins(
        shears, D, config_of(asked), checkpoint=partial, device=device, progress=progress
    )
    for (number, shear), result in zip(shears.items(), results, strict=True):
        denoiser = {"name": name, **used, **result.settings["denoiser"]}
        provenance = provenance_of(asked, digests, result, denoiser) | {"bin": number}
        write(paths[number], result, shear, None, provenance)
        if not args.quiet:
            print(f"bin {number}: ", end="")
            say(paths[number], result, shear)
    remove(partial)
    return 0
