"""LoDoPaB-CT (Leuschner et al. 2021): its test set where a user has it, or its simulation.

362 x 362 pixels on 26 cm, 513 detector elements, angles of 1000 over half a turn, 4096 photons.
PSNR and SSIM as the challenge defines them: the data range of each image is that of its truth.
Published (challenge, 1000 angles): FBP 30.19, TV 33.36, U-Net 35.87, ISTA U-Net 36.09 dB.

With PATH: the folder of ground_truth_test_*.hdf5 and observation_test_*.hdf5. With --chest: slices
'hu' of a patient in no training set, on whose CT the same scan is simulated, on a grid of 1000 x
1000 pixels (bilinear), by the projector of this package.

Run: python benchmarks/lodopab.py [PATH] [--chest FILE.npz] [--every K] [--slices N] [--preset fast]
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, parse, publish
from torch import Tensor

from pnp_mlpatch import denoisers, reconstruct, rescaled
from pnp_mlpatch._optional import require
from pnp_mlpatch.ct import ParallelBeam
from pnp_mlpatch.ct.counts import line_integrals, simulate_counts
from pnp_mlpatch.metrics import psnr, ssim
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.tuning import recipe
from pnp_mlpatch.tuning.discrepancy import PRESETS

SIDE, DETECTORS, ANGLES, PHOTONS = 362, 513, 1000, 4096.0
PIXEL, SPACING = 0.26 / SIDE, 0.26 * math.sqrt(2) / DETECTORS  # m
MU_WATER, MU_MAX = 20.0, 81.35858  # 1/m; the data are line integrals over MU_MAX
WINDOW = 2048 * MU_WATER / 1000 / MU_MAX  # what [0, 1] of a denoiser for -1024 ... 1024 HU spans


def main():
    parser = arguments(__doc__)
    parser.add_argument("path", nargs="?", type=Path, help="the folder of the test set")
    parser.add_argument("--chest", type=Path, help="an .npz with slices 'hu'")
    parser.add_argument("--every", type=int, default=8, help="take each K-th of 1000 angles")
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--preset", choices=PRESETS, default="standard")
    args = parse(parser)
    side = 64 if args.quick else SIDE
    theta = (torch.arange(0, ANGLES, args.every).double() + 0.5) * math.pi / ANGLES
    if args.path:
        theta = theta - math.pi / 2  # the angles of ODL, whose axes lie otherwise
    detectors = DETECTORS * side // SIDE
    pixel = PIXEL * SIDE / side
    geometry = ParallelBeam(
        (side, side), theta, detectors, pixel=pixel, spacing=SPACING * DETECTORS / detectors
    )
    A = Radon(geometry)
    data = stored(args, geometry) if args.path else simulated(args, geometry)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for truth, q, noise in data:
        for name, x, seconds in solve(A, q, noise, args.preset):
            size = float(truth.max() - truth.min())
            scores = float(psnr(x, truth, size)), float(ssim(x, truth, size)), seconds
            found.setdefault(name, []).append(scores)
            print(name, *scores, flush=True)
    rows = [
        {"method": name, "PSNR": p, "SSIM": s, "seconds": t, "slices": len(values)}
        for name, values in found.items()
        for p, s, t in [np.mean(values, axis=0).tolist()]
    ]
    publish(args, {f"LoDoPaB, {len(theta)} of {ANGLES} angles": rows})


def simulated(args, geometry):
    """Truth in units of MU_MAX, line integrals over MU_MAX, and their noise."""
    if args.chest is None:
        raise SystemExit("Give PATH, the test set, or --chest FILE.npz.")
    with np.load(args.chest) as file:
        hu = torch.from_numpy(file["hu"].astype(np.float32))
    for k in range(args.slices):
        image = hu[round((k + 0.5) * len(hu) / args.slices)][None, None]
        image = image[..., 75:437, 75:437].clamp(-1000, 3071)  # the middle, as they cut it
        image = F.interpolate(image, size=geometry.shape, mode="area")
        truth = (image / 1000 + 1) * MU_WATER / MU_MAX
        fine = 1000 if geometry.shape[0] == SIDE else 2 * geometry.shape[0]
        large = F.interpolate(truth, size=(fine, fine), mode="bilinear", align_corners=False)
        pixel = geometry.pixel * geometry.shape[0] / fine
        beam = ParallelBeam(
            (fine, fine),
            geometry.angles,
            geometry.detectors,
            pixel=pixel,
            spacing=geometry.spacing,
        )
        q = Radon(beam, backend="astra_cpu")(large * MU_MAX)
        counts = simulate_counts(q, PHOTONS, seed=k).clamp_min(0.1)
        q, std = line_integrals(counts, PHOTONS)
        yield truth, q / MU_MAX, std / MU_MAX


def stored(args, geometry):
    """The images of the test set."""
    h5py = require("h5py", "Reading LoDoPaB")
    done = 0
    for path in sorted(args.path.glob("observation_test_*.hdf5")):
        with (
            h5py.File(path) as file,
            h5py.File(path.with_name(path.name.replace("observation", "ground_truth"))) as truths,
        ):
            for q, truth in zip(file["data"], truths["data"], strict=True):
                if done == args.slices:
                    return
                done += 1
                q = torch.from_numpy(q[:: args.every])[None, None] * MU_MAX
                counts = PHOTONS * torch.exp(-q)
                std = counts.clamp_min(0.5).rsqrt() / MU_MAX
                yield torch.from_numpy(truth)[None, None], q / MU_MAX, std


def solve(A: Radon, q: Tensor, noise: Tensor, preset: str):
    """FBP, TV and the recipe with both weights."""
    start = time.process_time()
    yield "FBP", A.initial(q), time.process_time() - start
    sigma = schedules.from_noise(A, noise, scale=WINDOW)
    start = time.process_time()
    how = {"noise": noise, "sigma": sigma, "iterations": 150, "tol": 5e-4}
    tv = denoisers.make("tv", strength=1.0)
    yield "TV", reconstruct(q, A, tv, "fast_admm", **how).x, time.process_time() - start
    for weights in ("mlpatch-grey", "mlpatch-ct"):
        start = time.process_time()
        D = rescaled(denoisers.make("mlpatch", weights=weights), WINDOW, 0.0)
        settings = {"noise": noise, "sigma": sigma, "preset": preset, "progress": False}
        x = recipe(q, A, D, **settings).x
        yield weights, x, time.process_time() - start


if __name__ == "__main__":
    main()
