"""Sparse-view CT: a real 512 x 512 chest slice from 60 parallel views at 40 dB, by ADMM.

The denoiser is an MLPatch that was trained at 128 x 128. The sinogram is simulated on a grid twice
as fine and the noise is white, 40 dB below the root mean square of the data. Beside it: filtered
backprojection, and total variation with the best weight of a sweep, chosen with the truth. The
MLPatch run uses fixed settings and no truth.
--profile prints the functions that take most of the time of the MLPatch run.
Run: python examples/ct_512.py [--quick] [--profile] [--out DIR]
"""

import argparse
import cProfile
import platform
import pstats
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.metrics import psnr, ssim
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.viz.panels import curves, panel, table


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder of the pictures (default: demo)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="128 x 128 pixels and few iterations, for testing"
    )
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    truth = ((samples.chest_ct() + 1024) / 2048).clamp(0, 1)  # HU window [-1024, 1024] -> [0, 1]
    if args.quick:
        truth = F.interpolate(truth, size=(128, 128), mode="area")
    size = truth.shape[-1]
    A = Radon(image_shape=(1, size, size), angles=60, cache=not args.quick)
    q, noise = simulate(A, truth, snr_db=40)
    score = {"psnr": lambda x: psnr(x, truth)}

    start = time.perf_counter()
    fbp = A.initial(q)
    fbp_seconds = time.perf_counter() - start

    strengths = (0.1,) if args.quick else (0.5, 0.7, 1.0, 1.4, 2.0)
    tv_runs = {
        s: reconstruct(
            q,
            A,
            denoisers.make("tv", strength=s),
            noise=noise,
            sigma=20 / 255,
            iterations=5 if args.quick else 50,
            tol=0,
            record=score,
        )
        for s in strengths
    }
    best = max(tv_runs, key=lambda s: tv_runs[s].history["psnr"][-1])
    tv = tv_runs[best]
    print(
        "TV sweep, PSNR by strength:",
        {s: round(r.history["psnr"][-1], 2) for s, r in tv_runs.items()},
    )

    mlpatch = denoisers.make("mlpatch", weights="mlpatch-grey", precision="auto")
    with cProfile.Profile() if args.profile else nullcontext() as profile:
        ours = reconstruct(
            q,
            A,
            mlpatch,
            noise=noise,
            sigma=20 / 255,
            iterations=4 if args.quick else 30,
            record=score,
        )
    if profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(12)

    results = {
        "FBP (Hann)": (fbp, fbp_seconds),
        "TV, best of a sweep": (tv.x, tv.seconds),
        "ADMM + MLPatch": (ours.x, ours.seconds),
    }
    rows = [
        {
            "method": name,
            "PSNR (dB)": float(psnr(x, truth)),
            "SSIM": float(ssim(x, truth)),
            "seconds": seconds,
        }
        for name, (x, seconds) in results.items()
    ]
    print(
        f"\nChest CT {size} x {size}, 60 views, 40 dB; MLPatch trained at "
        f"{mlpatch.info.trained_size}, ADMM: {ours.status}"
    )
    print(table(rows))
    print(f"(seconds of one run on {platform.machine()}, {torch.get_num_threads()} threads)")

    captions = {"truth": truth} | {
        f"{row['method']}: {row['PSNR (dB)']:.2f} dB": x
        for row, (x, _) in zip(rows, results.values(), strict=True)
    }
    zoom = (260 * size // 512, 90 * size // 512, 110 * size // 512, 110 * size // 512)
    panel(
        args.out / "ct_512.png",
        captions,
        truth=truth,
        zoom=zoom,
        window=(0.0, 0.75),
        title=f"Chest CT, {size} x {size}, 60 views, 40 dB",
    )
    curves(args.out / "ct_512_convergence.png", {"TV": tv.history, "MLPatch": ours.history})
    print(f"pictures: {args.out / 'ct_512.png'}, {args.out / 'ct_512_convergence.png'}")


if __name__ == "__main__":
    main()
