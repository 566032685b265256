"""Denoising: mean PSNR and SSIM over sets of images at sigma 15, 25, 50 (of 255): trained weights,
published DnCNNs and FFDNets, and TV.

A SET is a folder of pictures, an .npz with a CT stack "hu" (every 4th slice, -1024 to 1024 HU
mapped to [0, 1] and cut), or an .npy with a convergence map (one scale for all: (kappa + 0.1) /
0.4). Sets named after --out-of-distribution are of another kind than what the networks were trained
on; the second table compares the two groups. A network of three channels is scored on colour sets,
and one of one channel beside it on every channel by itself; the third table has the difference.
The last table has what is left of the noise on a flat image, which no texture hides.

The noise of image k at level s comes from the seed 1000 s + k, so every run and every denoiser sees
the same data. Time is processor time, so other programs on the machine hardly count.
Run: python benchmarks/denoising.py SET ... [--out-of-distribution SET ...] [--weights NAME_OR_PATH
     ...] [--bfloat16 NAME_OR_PATH ...] [--dncnn FILE.pth ...] [--ffdnet FILE.pth ...]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import arguments, label, network, parse, publish, read_set, shipped
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch import as_denoiser, denoisers, per_channel
from pnp_mlpatch.denoisers import in_precision
from pnp_mlpatch.metrics import psnr, ssim

LEVELS = (15, 25, 50)
PER_CHANNEL = " per channel"
TV = {
    15: 0.65,
    25: 0.75,
    50: 0.9,
}  # the best strengths on Set12, of 0.65 to 1.1 in steps of at most 0.1


def tv(x: Tensor, sigma: float) -> Tensor:
    return denoisers.make("tv", strength=TV[round(255 * sigma)], iterations=100)(x, sigma)


def scores(D: Any, images: list[Tensor], level: int, name: str) -> tuple[float, float]:
    """Mean PSNR (dB) and SSIM."""
    found = []
    for k, image in enumerate(tqdm(images, desc=f"{name} {level}", disable=None)):
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1000 * level + k))
        y, truth = D((image + level / 255 * noise)[None], level / 255), image[None]
        found.append((float(psnr(y, truth)), float(ssim(y, truth))))
    return statistics.mean(a for a, _ in found), statistics.mean(b for _, b in found)


def in_range(D: Any, level: int) -> bool:
    return not D.info.sigma_range or level / 255 <= D.info.sigma_range[1] * (1 + 1e-4)


def measure(
    name: str, D: Any, images: list[Tensor], levels: Sequence[int]
) -> dict[str, Any] | None:
    """A row of scores: of D, or of D on every channel by itself; None where D cannot take these
    images.
    """
    if D.info.channels not in (None, images[0].shape[0]):
        if D.info.channels != 1:
            return None
        D, name = per_channel(D), name + PER_CHANNEL
    row: dict[str, Any] = {"denoiser": name}
    start = time.process_time()
    for level in levels:
        row[f"PSNR {level}"], row[f"SSIM {level}"] = (
            scores(D, images, level, name) if in_range(D, level) else ("-", "-")
        )
    pixels = len(levels) * sum(image.shape[-1] * image.shape[-2] for image in images)
    return row | {"CPU us per pixel": 1e6 * (time.process_time() - start) / pixels}


@torch.no_grad()
def left_on_a_flat_image(D: Any, level: int, side: int) -> float:
    """The standard deviation of what is left on a flat image, in per cent of that of the noise."""
    flat = torch.full((1, D.info.channels or 1, side, side), 0.5)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(level))
    return 100 * float((D(flat + level / 255 * noise, level / 255) - flat).std()) * 255 / level


def generalisation(rows: list[dict[str, Any]], levels: Sequence[int]) -> list[dict[str, Any]]:
    """Per denoiser that took sets of both groups, the mean over the sets of each group, and their
    difference.
    """
    found = []
    for name in dict.fromkeys(row["denoiser"] for row in rows):
        groups = [
            [row for row in rows if row["denoiser"] == name and row["distribution"] == group]
            for group in ("in", "out")
        ]
        result: dict[str, Any] = {"denoiser": name}
        for score in (f"PSNR {level}" for level in levels):
            if all(groups) and all(row[score] != "-" for group in groups for row in group):
                inside, outside = (statistics.mean(row[score] for row in group) for group in groups)
                result |= {
                    f"{score} in": inside,
                    f"{score} out": outside,
                    f"{score} out - in": outside - inside,
                }
        found += [result] if len(result) == 1 + 3 * len(levels) else []
    return found


def colour(rows: list[dict[str, Any]], kinds: dict[str, str], level: int) -> list[dict[str, Any]]:
    """Networks of three channels against the best of one channel of their kind, on every channel by
    itself.
    """
    found, score = [], f"PSNR {level}"
    for row in rows:
        kind = kinds.get(row["denoiser"])
        others = [
            r
            for r in rows
            if r["set"] == row["set"]
            and r["denoiser"] in {n + PER_CHANNEL for n, k in kinds.items() if k == kind}
            and r[score] != "-"
        ]
        if others and row[score] != "-":
            best = max(others, key=lambda r: r[score])
            found.append(
                {
                    "set": row["set"],
                    "in colour": row["denoiser"],
                    "PSNR": row[score],
                    "beside": best["denoiser"],
                    "its PSNR": best[score],
                }
            )
            found[-1]["gain (wanted: 0.8)"] = row[score] - best[score]
    return found


def main():
    parser = arguments(__doc__)
    parser.add_argument("sets", type=Path, nargs="*", metavar="SET")
    parser.add_argument(
        "--out-of-distribution",
        type=Path,
        nargs="+",
        default=[],
        metavar="SET",
        help="sets of another kind",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        help="names or paths of weights of any kind; all shipped ones if not given",
    )
    parser.add_argument(
        "--bfloat16", nargs="*", default=[], help="these weights in bfloat16 as well"
    )
    parser.add_argument(
        "--dncnn", type=Path, nargs="*", default=[], help="state dicts of published DnCNNs"
    )
    parser.add_argument(
        "--ffdnet", type=Path, nargs="*", default=[], help="state dicts of published FFDNets"
    )
    parser.add_argument(
        "--levels", type=int, nargs="+", default=LEVELS, choices=LEVELS, help="of 255"
    )
    parser.add_argument("--only", nargs="*", help="only these of the table")
    parser.add_argument("--limit", type=int, help="only the first images of each set")
    parser.add_argument("--every", type=int, default=4, help="every so many slices of a CT stack")
    parser.add_argument("--gray", action="store_true", help="read colour pictures in grey")
    args = parse(parser)
    if not args.sets + args.out_of_distribution:
        parser.error("no set of test images")
    networks = {label(name): network(name) for name in args.weights or shipped()}
    candidates = (
        {"TV": as_denoiser(tv)}
        | networks
        | {
            f"{label(name)} bfloat16": in_precision(network(name), "bfloat16")
            for name in args.bfloat16
        }
        | {path.stem: denoisers.make("dncnn", weights=path) for path in args.dncnn}
        | {path.stem: denoisers.make("ffdnet", weights=path) for path in args.ffdnet}
    )
    kinds = {name: D.kind for name, D in networks.items()}
    rows = []
    with torch.no_grad():
        for path in [*args.sets, *args.out_of_distribution]:
            images = read_set(path, 1 if args.gray else None, args.every)[
                : 2 if args.quick else args.limit
            ]
            images = [image[:, :48, :48] for image in images] if args.quick else images
            where = {
                "set": path.stem,
                "images": len(images),
                "distribution": "out" if path in args.out_of_distribution else "in",
            }
            for name, D in candidates.items():
                row = (
                    measure(name, D, images, args.levels)
                    if not args.only or name in args.only
                    else None
                )
                rows += [] if row is None else [where | row]
    tables = {"Denoising, mean PSNR (dB) and SSIM": rows}
    if args.out_of_distribution and args.sets:
        tables["In and out of distribution, mean PSNR (dB) of the sets"] = generalisation(
            rows, args.levels
        )
    level = 25 if 25 in args.levels else args.levels[0]
    tables[f"Colour against grey on every channel, PSNR (dB) at {level}"] = colour(
        rows, kinds, level
    )
    tables["Noise left on a flat image, in per cent of sigma"] = [
        {"denoiser": name}
        | {str(s): left_on_a_flat_image(D, s, 48 if args.quick else 256) for s in args.levels}
        for name, D in candidates.items()
        if (not args.only or name in args.only) and in_range(D, max(args.levels))
    ]
    publish(args, tables)


if __name__ == "__main__":
    main()
