"""Demosaicing: a colour picture from one colour a pixel (Bayer), by plug-and-play.

The mosaic is a mask of three channels, the data have no noise. Beside plug-and-play: bilinear
interpolation, and the linear filters of Malvar, He and Cutler 2004. PSNR in dB of all channels,
without a border of 8 pixels.

Run: python benchmarks/demosaicing.py SET [--every K] [--limit N] [--weights NAME ...] [--crop N]
"""

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import arguments, parse, publish
from torch import Tensor

from pnp_mlpatch import denoisers, reconstruct
from pnp_mlpatch.io.images import read_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import Mask
from pnp_mlpatch.solvers import schedules

BORDER = 8
NOISE = 1 / 255  # that the data are taken to have
STEPS, FIRST, LAST = 30, 25 / 255, 2 / 255  # levels of the denoiser


def main():
    parser = arguments(__doc__)
    parser.add_argument("set", type=Path, help="a folder of colour pictures")
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument(
        "--crop", type=int, default=192, help="the side of the middle that is taken"
    )
    parser.add_argument("--weights", nargs="+", default=["mlpatch-colour-folded"])
    args = parse(parser)
    if args.quick:
        args.limit, args.crop = 1, 32
    paths = sorted(args.set.iterdir())[:: args.every][: args.limit]
    found: dict[str, list[tuple[float, float]]] = {}
    for path in paths:
        truth = middle(read_image(path), args.crop)
        A = Mask.bayer(truth.shape[1:])
        q = A(truth)
        for name, x, seconds in solve(A, q, args.weights, 3 if args.quick else STEPS):
            inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
            score = float(psnr(x.clamp(0, 1)[inner], truth[inner]).mean())
            found.setdefault(name, []).append((score, seconds))
            print(path.name, name, round(score, 2), flush=True)
    rows = [
        {
            "method": name,
            "PSNR": sum(p for p, _ in v) / len(v),
            "seconds": sum(t for _, t in v) / len(v),
        }
        for name, v in found.items()
    ]
    publish(args, {f"Demosaicing, {len(paths)} pictures": rows})


def middle(x: Tensor, side: int) -> Tensor:
    """The middle of a picture, with even sides."""
    height, width = (min(side, n) // 2 * 2 for n in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def solve(A: Mask, q: Tensor, names: list[str], steps: int):
    """Every method on one mosaic."""
    for name, method in (("bilinear", bilinear), ("Malvar, He, Cutler 2004", malvar)):
        start = time.process_time()
        yield name, method(q, A.mask.float()), time.process_time() - start
    x0 = malvar(q, A.mask.float())
    for name in names:
        D = denoisers.make("mlpatch", weights=name)
        D = denoisers.per_channel(D) if denoisers.describe(D).channels == 1 else D
        start = time.process_time()
        sigma = schedules.geometric(FIRST, LAST, steps)
        how = {"noise": NOISE, "sigma": sigma, "iterations": steps, "x0": x0, "progress": False}
        yield name, reconstruct(q, A, D, "hqs", **how).x, time.process_time() - start


def correlate(x: Tensor, kernel: list[list[float]]) -> Tensor:
    """Filter (B, 1, H, W), continued by reflection."""
    k = torch.tensor(kernel)[None, None]
    return F.conv2d(F.pad(x, (k.shape[-1] // 2,) * 4, mode="reflect"), k)


def bilinear(q: Tensor, mask: Tensor) -> Tensor:
    """The mean of the nearest pixels that have the colour."""
    kernel = [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
    parts = [
        correlate(q[:, c : c + 1], kernel) / correlate(mask[None, c : c + 1], kernel)
        for c in range(3)
    ]
    return torch.where(mask > 0, q, torch.cat(parts, 1))


def malvar(q: Tensor, mask: Tensor) -> Tensor:
    """Malvar, He and Cutler 2004: bilinear, corrected by the Laplacian of the colour at hand."""
    seen = q.sum(1, keepdim=True)
    red, green, blue = (mask[None, c : c + 1] for c in range(3))
    rows = (mask[0].sum(1) > 0).float()[None, None, :, None]  # rows with red
    across = correlate(seen, FILTERS["across"])
    down = correlate(seen, FILTERS["down"])
    diagonal = correlate(seen, FILTERS["diagonal"])
    out_green = torch.where(green > 0, seen, correlate(seen, FILTERS["green"]))
    out_red = torch.where(
        red > 0, seen, torch.where(blue > 0, diagonal, rows * across + (1 - rows) * down)
    )
    out_blue = torch.where(
        blue > 0, seen, torch.where(red > 0, diagonal, rows * down + (1 - rows) * across)
    )
    return torch.cat([out_red, out_green, out_blue], 1)


def _filter(entries: dict[tuple[int, int], float]) -> list[list[float]]:
    """A 5 x 5 filter over 8, symmetric under reflections, by its entries at (down, right) >= 0."""
    k = [[0.0] * 5 for _ in range(5)]
    for (i, j), value in entries.items():
        for a in {i, -i}:
            for b in {j, -j}:
                k[2 + a][2 + b] = value / 8
    return k


FILTERS = {
    "green": _filter({(0, 0): 4, (0, 1): 2, (1, 0): 2, (0, 2): -1, (2, 0): -1}),
    "across": _filter({(0, 0): 5, (0, 1): 4, (1, 1): -1, (0, 2): -1, (2, 0): 0.5}),
    "down": _filter({(0, 0): 5, (1, 0): 4, (1, 1): -1, (2, 0): -1, (0, 2): 0.5}),
    "diagonal": _filter({(0, 0): 6, (1, 1): 2, (0, 2): -1.5, (2, 0): -1.5}),
}


if __name__ == "__main__":
    main()
