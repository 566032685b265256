"""Accelerated MRI, simulated: zero-filled, total variation and MLPatch from every fourth line.

Slices of heads (pictures in a folder; here of CT, as stand-ins) are fitted into --size pixels,
taken as magnitudes in [0, 1], and given a smooth phase. One coil samples random columns, all of
the middle ones. Noise is added to both parts of each sample. TV and MLPatch run in the same solver;
the level of TV is the best of a sweep on slice --tune, which is not among those tested; that of
MLPatch was chosen on it as well. PSNR and SSIM are those of the magnitude.
Run: python benchmarks/mri.py FOLDER [--limit 6] [--out DIR] [--json PATH]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, parse, publish, read_set
from torch import Tensor
from tqdm import tqdm

from pnp_mlpatch import denoisers, solvers
from pnp_mlpatch.denoisers import Denoiser, complex_channels
from pnp_mlpatch.metrics import psnr, ssim
from pnp_mlpatch.operators.mri import MRI
from pnp_mlpatch.viz.panels import panel

ALPHA = 0.05
SIGMA, ITERATIONS = 35 / 255, 15  # of MLPatch
TV_SIGMAS, TV_ITERATIONS = (0.05, 0.07, 0.1, 0.14, 0.2), 60
WANTED = {"zero-filled": 4.0, "TV": 0.5}  # dB that MLPatch should gain over them


def fitted(image: Tensor, size: int) -> Tensor:
    """A picture (1, H, W) shrunk to fit into size x size pixels, in the middle of zeros."""
    scale = size / max(image.shape[-2:])
    shape = [round(n * scale) for n in image.shape[-2:]]
    x = F.interpolate(image[None], size=shape, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size - n for n in x.shape[-2:])
    return F.pad(x, (left // 2, left - left // 2, top // 2, top - top // 2))


def with_phase(magnitude: Tensor) -> Tensor:
    """A complex image (1, 2, H, W) with a phase that is a polynomial, up to about 2 radians."""
    rows, columns = torch.meshgrid(
        *(torch.linspace(-1, 1, n) for n in magnitude.shape[-2:]), indexing="ij"
    )
    phase = 0.3 - 0.8 * rows + 0.6 * columns + 1.2 * rows * columns + 0.7 * (columns**2 - rows**2)
    return torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], dim=1)


def magnitude_of(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def data_of(A: MRI, truth: Tensor, noise: float, seed: int) -> Tensor:
    """Samples with noise, 0 where there are none."""
    draw = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed))
    return A(truth) + noise * A.mask.to(draw.dtype) * draw


def solve(A: MRI, q: Tensor, D: Denoiser, sigma: float, iterations: int) -> Tensor:
    solver = solvers.make("admm", sigma=sigma, alpha=ALPHA, iterations=iterations)
    return magnitude_of(solver.run(q, A, D, progress=False).x)


def tuned(A: MRI, truth: Tensor, args: argparse.Namespace) -> float:
    """The level of TV with the best PSNR on a slice."""
    q, D = data_of(A, with_phase(truth), args.noise, 0), denoisers.make("tv")
    scores = {
        sigma: float(psnr(solve(A, q, D, sigma, args.tv_iterations), truth)) for sigma in TV_SIGMAS
    }
    return max(scores, key=lambda sigma: scores[sigma])


def main():
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path, help="pictures of slices")
    parser.add_argument("--limit", type=int, default=6, help="how many slices are tested")
    parser.add_argument(
        "--tune", type=int, default=9, help="the slice that chooses the level of TV"
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--noise", type=float, default=0.01, help="of each part of a sample")
    parser.add_argument("--out", type=Path, default=Path("runs/mri"))
    parser.set_defaults(threads=1)
    args = parse(parser)
    args.tv_iterations = 5 if args.quick else TV_ITERATIONS
    args.size = 48 if args.quick else args.size
    files = read_set(args.folder, 1)
    slices = [fitted(x, args.size) for x in files]
    tune = slices.pop(min(args.tune, len(slices) - 1))
    slices = (slices or [tune])[: 1 if args.quick else args.limit]
    A = MRI.cartesian((2, args.size, args.size), args.acceleration)
    level = tuned(A, tune, args)
    net = complex_channels(denoisers.make("mlpatch", weights="mlpatch-grey"))
    methods = {
        "zero-filled": lambda q: magnitude_of(A.initial(q)),
        "TV": lambda q: solve(A, q, denoisers.make("tv"), level, args.tv_iterations),
        "MLPatch": lambda q: solve(A, q, net, SIGMA, 2 if args.quick else ITERATIONS),
    }
    scores: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
    for k, truth in enumerate(tqdm(slices, disable=None)):
        q, images = data_of(A, with_phase(truth), args.noise, k + 1), {}
        for name, method in methods.items():
            start = time.process_time()
            x = method(q)
            spent = time.process_time() - start
            scores[name].append((float(psnr(x, truth)), float(ssim(x, truth).mean()), spent))
            images[f"{name}: {scores[name][-1][0]:.2f} dB"] = x
        if k == 0:
            side = args.size // 4
            panel(
                args.out / "mri.png",
                {"truth": truth, **images},
                truth=truth,
                zoom=(side, side, side, side),
                title=f"One coil, {args.acceleration:g}x",
            )
    publish(args, tables(scores, level))


def tables(
    scores: dict[str, list[tuple[float, float, float]]], level: float
) -> dict[str, list[dict[str, Any]]]:
    """The means of each method, and what MLPatch gains in the mean and at the least."""
    rows = []
    for name, values in scores.items():
        dB, similar, seconds = (statistics.mean(column) for column in zip(*values, strict=True))
        sigma = {"TV": f"{level:g}", "MLPatch": f"{SIGMA:.3f}"}.get(name, "-")
        row = {"method": name, "sigma": sigma, "PSNR (dB)": dB, "SSIM": similar}
        rows.append({**row, "CPU seconds": seconds})
    gains = []
    for name, wanted in WANTED.items():
        each = [a[0] - b[0] for a, b in zip(scores["MLPatch"], scores[name], strict=True)]
        row = {"MLPatch against": name, "mean gain (dB)": statistics.mean(each)}
        gains.append({**row, "least gain (dB)": min(each), "wanted (dB)": wanted})
    count = len(scores["TV"])
    return {f"Accelerated MRI, {count} slices": rows, "Gain in PSNR": gains}


if __name__ == "__main__":
    main()
