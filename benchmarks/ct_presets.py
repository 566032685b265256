"""What the presets of the recipe cost and give, and stacks denoised along three planes.

Slices of a patient in no training set, 60 views with 40 dB. PSNR in dB, of [0, 1] = -1024 ... 1024
HU; processor seconds of a slice, and what they are of those of "standard". TV has the best weight
of a sweep, chosen with the truth. "streaks" is the root mean square of what the error changes by
from one slice to the next, in HU.

Run: python benchmarks/ct_presets.py --chest FILE.npz [--size N] [--crop N] [--slices N]
     [--views N] [--span DEGREES] [--images N] [--weights NAME] [--only presets slabs]
"""

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import arguments, parse, publish
from torch import Tensor

from pnp_mlpatch import denoisers, reconstruct, rescaled
from pnp_mlpatch.ct import MU_WATER, ParallelBeam, hounsfield_range, to_attenuation
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.tuning import recipe
from pnp_mlpatch.tuning.discrepancy import PRESETS

WATER = MU_WATER[70]
SCALE, OFFSET = hounsfield_range(WATER)


def main():
    import numpy as np

    parser = arguments(__doc__)
    parser.add_argument("--chest", type=Path, required=True, help="an .npz with slices 'hu'")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--crop", type=int, help="the side of the middle that is taken, in pixels")
    parser.add_argument("--weights", default="mlpatch-ct")
    parser.add_argument("--images", type=int, default=2, help="1 or 2 slices for the presets")
    parser.add_argument("--views", type=int, default=60)
    parser.add_argument("--span", type=float, default=180.0, help="of the views, in degrees")
    parser.add_argument("--slices", type=int, default=16, help="of the stack")
    parser.add_argument("--iterations", type=int, default=12, help="with slabs")
    parser.add_argument("--only", nargs="+", choices=["presets", "slabs"])
    args = parse(parser)
    with np.load(args.chest) as file:
        hu = torch.from_numpy(file["hu"].astype(np.float32)).clamp(-1024, 1024)
    if args.crop:
        low = (hu.shape[-1] - args.crop) // 2
        hu = hu[:, low : low + args.crop, low : low + args.crop]
    size = (32, 32) if args.quick else (args.size, args.size)
    hu = F.interpolate(hu[:, None], size=size, mode="area")
    parts = {"presets": presets, "slabs": stacks}
    chosen = args.only or parts
    publish(args, {part: parts[part](args, hu) for part in parts if part in chosen})


def score(x: Tensor, truth: Tensor) -> float:
    return float(psnr((x - OFFSET) / SCALE, (truth - OFFSET) / SCALE, 1.0).mean())


def presets(args, hu: Tensor) -> list[dict]:
    """TV and the presets, on one or two slices."""
    count = len(hu)
    truth = to_attenuation(hu[[count // 4, (3 * count) // 4][: args.images]], WATER)
    theta = (torch.arange(args.views).double() + 0.5) * math.radians(args.span) / args.views
    A = Radon(ParallelBeam(tuple(hu.shape[-2:]), theta), cache=False)
    q, noise = simulate(A, truth, snr_db=40)
    D = rescaled(denoisers.make("mlpatch", weights=args.weights), SCALE, OFFSET)
    sigma = schedules.from_noise(A, noise, scale=SCALE)
    rows = []

    def measure(name, solve):
        start = time.process_time()
        x = solve()
        seconds = (time.process_time() - start) / len(truth)
        rows.append({"method": name, "PSNR": score(x, truth), "seconds": seconds})
        print(rows[-1], flush=True)

    tv = [denoisers.make("tv", strength=s) for s in (0.25, 0.5, 1.0, 2.0)]
    how = {"noise": noise, "sigma": sigma, "iterations": 150, "tol": 5e-4}
    sweep = {d: reconstruct(q, A, d, "fast_admm", **how).x for d in tv}
    best = max(tv, key=lambda d: score(sweep[d], truth))
    measure("FBP", lambda: A.initial(q))
    measure("TV", lambda: reconstruct(q, A, best, "fast_admm", **how).x)
    for preset in PRESETS:
        settings = {"noise": noise, "sigma": sigma, "preset": preset, "progress": False}
        measure(preset, lambda settings=settings: recipe(q, A, D, **settings).x)
    plain = {"noise": noise, "sigma": sigma, "iterations": 30}
    measure("30 iterations of admm", lambda: reconstruct(q, A, D, "admm", **plain).x)
    standard = next(row["seconds"] for row in rows if row["method"] == "standard")
    return [row | {"of standard": row["seconds"] / standard} for row in rows]


def stacks(args, hu: Tensor) -> list[dict]:
    """The same solver on a stack: slice by slice, and along three planes."""
    first = (len(hu) - args.slices) // 2
    stack = to_attenuation(hu[first : first + args.slices, 0], WATER)[None]
    A = Radon(ParallelBeam(tuple(hu.shape[-2:]), args.views), channels=stack.shape[1], cache=False)
    q, noise = simulate(A, stack, snr_db=40)
    network = denoisers.make("mlpatch", weights=args.weights)
    one = Radon(A.geometry, cache=False)
    sigma = schedules.from_noise(one, noise, scale=SCALE)
    tv = denoisers.make("tv", strength=2.0)
    how = {"noise": noise, "sigma": sigma}
    start = reconstruct(q, A, denoisers.slabs(tv, ("xy",)), "fast_admm", iterations=40, **how).x

    def scores(x: Tensor) -> dict[str, float]:
        step = torch.diff(x - stack, dim=1).square().mean().sqrt()
        return {"PSNR": score(x, stack), "streaks": float(step / SCALE * 2048)}

    rows = [{"planes": "start (TV)", **scores(start), "seconds": 0.0}]
    for planes in (("xy",), ("xy", "xz", "yz")):
        D = rescaled(denoisers.slabs(network, planes), SCALE, OFFSET)
        begun = time.process_time()
        x = reconstruct(q, A, D, "fast_admm", x0=start, iterations=args.iterations, **how).x
        seconds = (time.process_time() - begun) / stack.shape[1]
        rows.append({"planes": ", ".join(planes), **scores(x), "seconds": seconds})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
