"""Weights fine-tuned on a scan without truth: are they better, and are they kept?

Slices of a patient in no training set are scanned with Poisson noise. ``self_train`` gets the
scan; the truth only scores volumes (preset "fast") with the weights before and after. PSNR in dB,
of [0, 1] = -1024 ... 1024 HU. "held-out" is the error of the views that were held out, in units of
their noise.

Run: python benchmarks/ct_self.py --chest FILE.npz [--weights NAME ...] [--photons N ...]
     [--views N] [--size N] [--slices N] [--steps N]
"""

import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, parse, publish

from pnp_mlpatch import denoisers
from pnp_mlpatch.ct import MU_WATER, ParallelBeam, read_scan, to_attenuation
from pnp_mlpatch.ct.counts import line_integrals, simulate_counts
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.pipelines.ct_self import self_train
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume

WATER, FIELD = MU_WATER[70], 400.0


def main():
    parser = arguments(__doc__)
    parser.add_argument("--chest", type=Path, required=True, help="an .npz with slices 'hu'")
    parser.add_argument("--weights", nargs="+", default=["mlpatch-grey", "mlpatch-ct"])
    parser.add_argument("--photons", nargs="+", type=float, default=[1e4, 1e5])
    parser.add_argument("--views", type=int, default=180)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    args = parse(parser)
    if args.quick:
        args.size, args.slices, args.steps, args.views = 32, 2, 4, 48
        args.weights, args.photons = args.weights[:1], args.photons[:1]
    with np.load(args.chest) as file:
        hu = torch.from_numpy(file["hu"].astype(np.float32)).clamp(-1024, 1024)
    places = np.linspace(0, len(hu) - 1, args.slices).round().astype(int)
    hu = F.interpolate(hu[places][:, None], size=(args.size,) * 2, mode="area")
    rows = [row(args, hu, weights, photons) for weights in args.weights for photons in args.photons]
    publish(args, {"Weights of a scan's own": rows})


def row(args, hu: torch.Tensor, weights: str, photons: float) -> dict:
    """Train on one scan; score the volumes with old and new weights."""
    geometry = ParallelBeam((args.size,) * 2, args.views, pixel=FIELD / args.size)
    integrals, _ = simulate(Radon(geometry, cache=False), to_attenuation(hu, WATER))
    counts = simulate_counts(integrals[:, 0], photons, seed=0).clamp_min(0.5)
    q, _ = line_integrals(counts, photons)
    config = VolumeConfig(mu_water=WATER, preset="fast", window=(-1024.0, 1024.0))
    found = {"weights": weights, "photons": photons}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "scan.npy"
        np.save(path, q.numpy())
        scan = read_scan(path, layout="sad")
        begun = time.process_time()
        own = self_train(
            scan, geometry, Path(folder) / "own", config, weights=weights, steps=args.steps
        )
        seconds = time.process_time() - begun

        def score(name: str) -> float:
            D = denoisers.make("mlpatch", weights=name)
            out = Path(folder) / f"{Path(name).stem}.npy"
            reconstruct_volume(scan, geometry, D, out, config, progress=False)
            error = (torch.from_numpy(np.load(out)) - hu[:, 0]) / 2048
            return float(-10 * torch.log10(error.square().mean()))

        found |= {"before": score(weights)}
        found |= {"after": score(str(own.weights)) if own.kept else float("nan")}
        found |= {"held-out before": own.before, "held-out after": own.after}
        found |= {"standard error": own.error, "kept": own.kept, "seconds": seconds}
    print(found, flush=True)
    return found


if __name__ == "__main__":
    main()
