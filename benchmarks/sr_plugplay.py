"""Super-resolution in colour by the operator ``downsample`` and a denoiser that never saw the task.

Images: every 6th picture of a folder, 12 of them, the middle 144 x 144 pixels. They are shrunk by 2
and by 3: after a Gaussian blur of width 1.6 (one of the kernels of Zhang et al. 2021, DPIR; for x2
and x3 the same), and by antialiased bicubic interpolation. There is no noise but that of --noise.

"bicubic" is torch's, "HQS" the solver dpir with the 24 iterations that DPIR takes, "ADMM" has 24
iterations at sigma = 12/255, which was settled on the first picture; both take the noise to be
0.255/255 at least, as DPIR does. "mlpatch-sr" was trained on bicubic shrinking, and is shown for
that only. PSNR of the image cut to [0, 1], without a border of as many pixels as the factor.

Published figures for these blurs on all of CBSD68, of a much larger network: see the tables of
super-resolution of Zhang et al. 2021.

Run: python benchmarks/sr_plugplay.py FOLDER [--limit 12] [--noise 2.55] [--threads 1]
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, network, parse, publish, read_set
from inpainting import middle
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch import per_channel, reconstruct
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.downsample import Downsample

FACTORS = (2, 3)
WIDTH = 1.6  # of the Gaussian, in pixels
LEAST_NOISE = 0.255 / 255  # that solvers are told
ADMM_SIGMA = 12 / 255


def shrinking(kind: str, shape: tuple[int, ...], factor: int) -> Downsample:
    """The operator of a row of the table."""
    if kind == "bicubic":
        return Downsample.bicubic(shape, factor)
    return Downsample.gaussian(shape, factor, WIDTH)


def enlarged(
    kind: str, truth: Tensor, factor: int, nets: tuple[Any, Any], args: Any
) -> dict[str, Tensor]:
    """One picture by every method."""
    D, upscaler = nets
    A = shrinking(kind, tuple(truth.shape[1:]), factor)
    noise = args.noise / 255
    q = A(truth)
    q = q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))
    run: Any = {
        "noise": max(noise, LEAST_NOISE),
        "iterations": 2 if args.quick else 24,
        "progress": False,
    }
    found = {
        "bicubic": F.interpolate(q, scale_factor=factor, mode="bicubic"),
        "HQS": reconstruct(q, A, D, "dpir", **run).x,
        "ADMM": reconstruct(q, A, D, "admm", sigma=ADMM_SIGMA, **run).x,
    }
    if kind == "bicubic":
        channels = [upscaler.upscale(c, float(factor)) for c in q.split(upscaler.channels, dim=1)]
        found["mlpatch-sr"] = torch.cat(channels, dim=1)
    return found


def row(kind: str, factor: int, scores: list[dict[str, float]]) -> dict[str, Any]:
    """The means of a row, and the gains of HQS."""
    means = {name: statistics.mean(s[name] for s in scores) for name in scores[0]}
    gains = [s["HQS"] - s["bicubic"] for s in scores]
    return {
        "shrunk by": "bicubic" if kind == "bicubic" else f"Gaussian, {WIDTH}",
        "factor": factor,
        **{name: means[name] for name in ("bicubic", "HQS", "ADMM")},
        "mlpatch-sr": f"{means['mlpatch-sr']:.2f}" if "mlpatch-sr" in means else "-",
        "HQS over bicubic": statistics.mean(gains),
        "least": min(gains),
    }


def main():
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path, help="of colour pictures")
    parser.add_argument("--limit", type=int, default=12, help="how many pictures")
    parser.add_argument("--every", type=int, default=6, help="take each so-manyth picture")
    parser.add_argument("--size", type=int, default=144, help="of the middle, a multiple of 6")
    parser.add_argument("--noise", type=float, default=0.0, help="in the small picture, of 255")
    parser.add_argument("--weights", default="mlpatch-colour-folded", help="a name or a path")
    args = parse(parser)
    if args.size < 6 or args.size % 6:
        parser.error(f"--size must be a multiple of 6, got {args.size}.")
    every, limit, size = (1, 1, 48) if args.quick else (args.every, args.limit, args.size)
    images = [middle(x[None], size) for x in read_set(args.folder, channels=3)[::every][:limit]]
    D = network(args.weights)
    nets = (D if D.channels == 3 else per_channel(D), network("mlpatch-sr"))
    rows = []
    for kind in ("gaussian", "bicubic"):
        for factor in FACTORS:
            scores = []
            inside = (..., slice(factor, -factor), slice(factor, -factor))
            for truth in tqdm(images, desc=f"{kind} x{factor}", disable=None):
                found = enlarged(kind, truth, factor, nets, args)
                scores.append(
                    {
                        name: float(psnr(x.clamp(0, 1)[inside], truth[inside]))
                        for name, x in found.items()
                    }
                )
            rows.append(row(kind, factor, scores))
    publish(
        args, {f"{len(images)} pictures, noise {args.noise:g}/255: PSNR (dB) and gains (dB)": rows}
    )


if __name__ == "__main__":
    main()
