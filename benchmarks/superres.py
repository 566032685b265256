"""Super-resolution: mean PSNR at x2, x4, x8 over folders of pictures: bilinear, bicubic, LIIF
(benchmarks/liif.py), MLPatch.

Every picture is cut to a multiple of 8 and shrunk by antialiased bicubic interpolation; all methods
are shown the same small picture, and the PSNR is over all pixels, of the result cut to [0, 1]. With
--train, MLPatch (the recipe mlpatch-sr) and LIIF first learn 64 x 64 -> 128 x 128 from the same
pictures, by the same loss, each for --minutes of processor time, which with one thread is the wall
time of an idle machine: the seconds of a step are measured, and the steps set by them. What --out
holds is taken as it is. A picture of each folder at x4 goes to --out.
Run: python benchmarks/superres.py --test FOLDER [FOLDER ...] --train FOLDER --minutes 60
     [--out DIR] [--json PATH]
     python benchmarks/superres.py --test FOLDER --weights-liif PATH
     (MLPatch: the weights that ship)
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, network, parse, publish, read_set
from liif import LIIF
from torch import Tensor
from tqdm.auto import tqdm

import pnp_mlpatch
from pnp_mlpatch.denoisers import Network, registry
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.viz.panels import panel

FACTORS = (2, 4, 8)
RECIPE = Path(pnp_mlpatch.__file__).parent / "training" / "recipes" / "mlpatch-sr.toml"
# where LIIF departs from the recipe: its encoder costs the same for any number of queries, so there
# are as many as in the paper, of fewer windows; the bilinear image is added to what it gives, which
# is not in the paper: without, it spends a short training on the identity
LIIF_SETTINGS: dict[str, Any] = {
    "denoiser": "liif",
    "batch": 4,
    "queries": 2304,
    "lr": 4e-4,
    "model": {"skip": True},
}
QUICK: dict[str, Any] = {"size": 32, "batch": 2, "queries": 64}
QUICK_MODELS: dict[str, dict[str, Any]] = {
    "LIIF": {"width": 8, "blocks": 1, "hidden": [16, 16], "skip": True},
    "MLPatch": {"square": 3, "features": 8, "dilations": [1], "width": 8, "depth": 2},
}

Upscale = Callable[[Tensor, int], Tensor]


def settings(name: str, args: argparse.Namespace) -> TrainConfig:
    """The settings of a training, of a length that is not yet known."""
    config = replace(
        TrainConfig.from_toml(RECIPE),
        data=str(args.train),
        validation=None,
        out=str(args.out / name.lower()),
    )
    config = replace(config, **LIIF_SETTINGS) if name == "LIIF" else config
    return replace(config, **QUICK, model=QUICK_MODELS[name]) if args.quick else config


def seconds_per_step(config: TrainConfig, more: int, few: int = 2) -> float:
    """Processor time of a step: that of a few steps more, after a step to get warm."""
    seconds = []
    for steps in (1, few, few + more):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            train(replace(config, steps=steps, out=folder), progress=False)
            seconds.append(time.process_time() - start)
    return max(1e-3, (seconds[2] - seconds[1]) / more)


def trained(name: str, args: argparse.Namespace) -> Path:
    """Weights trained for the given time; a training that was interrupted goes on with the settings
    that it was begun with.
    """
    plan = args.out / name.lower() / "settings.json"
    if not plan.exists():
        config = settings(name, args)
        seconds = seconds_per_step(config, more=1 if args.quick else 10)
        steps = 4 if args.quick else max(1, round(60 * args.minutes / seconds))
        print(
            f"{name}: {seconds:.3f} s a step, {steps} steps in {args.minutes:g} minutes", flush=True
        )
        often = {
            "checkpoint_every": max(1, round(300 / seconds)),
            "validate_every": max(1, steps // 4),
        }
        config = replace(config, steps=steps, warmup=min(config.warmup, steps // 10), **often)
        config = replace(config, card={**config.card, "minutes": args.minutes})
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
    return train(
        TrainConfig.from_dict(json.loads(plan.read_text(encoding="utf-8")), source=str(plan))
    )


def networks(args: argparse.Namespace) -> dict[str, Network]:
    """Those there are weights for: given, in --out, trained now; of MLPatch else the ones that
    ship.
    """
    found = {}
    for name in ("LIIF", "MLPatch"):
        given, own = (
            getattr(args, f"weights_{name.lower()}"),
            args.out / name.lower() / "weights.safetensors",
        )
        weights = given or (
            own
            if own.exists()
            else trained(name, args)
            if args.train
            else "mlpatch-sr"
            if name == "MLPatch"
            else None
        )
        if weights:
            found[name] = network(weights)
    return found


def shrunk(image: Tensor, factor: int) -> Tensor:
    size = [n // factor for n in image.shape[-2:]]
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)


def interpolation(mode: str) -> Upscale:
    """That of torch, with half-pixel centres."""
    return lambda x, factor: F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)


def measure(
    name: str, method: Upscale, net: Network | None, images: list[Tensor]
) -> dict[str, Any]:
    """A row of the table."""
    row: dict[str, Any] = {"": name}
    speeds = {}
    for factor in FACTORS:
        scores, spent = [], 0.0
        for image in tqdm(images, desc=f"{name} x{factor}", disable=None):
            low = shrunk(image, factor)
            start = time.perf_counter()
            high = method(low, factor)
            spent += time.perf_counter() - start
            scores.append(float(psnr(high.clamp(0, 1), image)))
        row[f"x{factor} (dB)"] = statistics.mean(scores)
        speeds[factor] = 1e6 * spent / sum(image.shape[-2] * image.shape[-1] for image in images)
    card = net.card if net else {}
    row["parameters"] = f"{sum(p.numel() for p in net.parameters()):,}" if net else "-"
    row["trained on (Mpx)"] = f"{card['pixels'] / 1e6:.1f}" if "pixels" in card else "-"
    row["trained for (min)"] = f"{card['minutes']:g}" if "minutes" in card else "-"
    return row | {"us per pixel at x4": speeds[4]}


def draw(path: Path, methods: dict[str, Upscale], truth: Tensor) -> None:
    """One picture by all methods at x4, its middle magnified, and the errors."""
    low = shrunk(truth, 4)
    shown = {
        "truth": truth,
        "low resolution": low.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2),
    }
    for name, method in methods.items():
        high = method(low, 4).clamp(0, 1)
        shown[f"{name}: {float(psnr(high, truth)):.2f} dB"] = high
    height, width = truth.shape[-2:]
    side = min(96, height // 2, width // 2)
    panel(
        path,
        shown,
        truth=truth,
        zoom=((height - side) // 2, (width - side) // 2, side, side),
        title=f"{path.stem.removeprefix('superres_')}, x4",
    )


def main():
    parser = arguments(__doc__)
    parser.add_argument("--test", type=Path, nargs="+", required=True, help="folders of pictures")
    parser.add_argument("--train", type=Path, help="folder of pictures to learn from")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="processor time of the training of each network"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/superres"))
    parser.add_argument("--weights-mlpatch", help="a shipped name or a path")
    parser.add_argument("--weights-liif", help="a path")
    parser.add_argument("--limit", type=int, help="only the first pictures of each folder")
    parser.set_defaults(threads=1)
    args = parse(parser)
    registry.register("liif", network=LIIF)(LIIF)
    nets = networks(args)
    channels = {net.channels for net in nets.values()}
    if len(channels) != 1:
        parser.error(
            "LIIF and MLPatch must have one number of channels, they have "
            f"{' and '.join(map(str, sorted(channels)))}."
        )
    methods = {"bilinear": interpolation("bilinear"), "bicubic": interpolation("bicubic")} | {
        name: net.upscale for name, net in nets.items()
    }
    tables = {}
    with torch.no_grad():
        for folder in args.test:
            images = [
                image[None]
                for image in read_set(folder, *channels)[: 1 if args.quick else args.limit]
            ]
            images = [image[..., :64, :64] for image in images] if args.quick else images
            images = [
                image[..., : image.shape[-2] // 8 * 8, : image.shape[-1] // 8 * 8]
                for image in images
            ]
            rows = [
                measure(name, method, nets.get(name), images) for name, method in methods.items()
            ]
            tables[f"{folder.name}, {len(images)} pictures"] = rows
            draw(args.out / f"superres_{folder.name}.png", methods, images[0])
    publish(
        args,
        tables,
        []
        if "LIIF" in nets
        else ["LIIF: no weights; give --weights-liif, or --train to make them."],
    )


if __name__ == "__main__":
    main()
