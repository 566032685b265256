"""Inpainting: a 512 x 512 photograph of which 30 % of the pixels are known, by ADMM.

The denoiser is an MLPatch that was trained at 128 x 128. The mask is known and random. Beside it:
the smooth fill where the solver starts, biharmonic inpainting (Damelin and Hoang 2018, by
scikit-image), and total variation with the best weight of a sweep, chosen with the truth. The
MLPatch run uses fixed settings and no truth.
Run: python examples/inpainting_512.py [--quick] [--out DIR]
"""

import argparse
import platform
import time
from pathlib import Path

import torch
from skimage.restoration import inpaint_biharmonic

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.metrics import psnr, ssim
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.viz.panels import curves, panel, table


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder of the pictures (default: demo)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="96 x 96 pixels and few iterations, for testing"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    truth = samples.camera()
    if args.quick:
        truth = truth[..., 60:156, 180:276]
    size = truth.shape[-1]
    mask = random_mask((size, size), keep=0.3, seed=0)
    A = Mask(mask)
    q = A(truth)
    score = {"psnr": lambda x: psnr(x, truth)}

    start = time.perf_counter()
    fill = A.initial(q)
    fill_seconds = time.perf_counter() - start
    start = time.perf_counter()
    filled = inpaint_biharmonic(
        q[0, 0].double().numpy(), (mask == 0).numpy(), split_into_regions=False
    )
    biharmonic, biharmonic_seconds = (
        torch.from_numpy(filled)[None, None].float(),
        time.perf_counter() - start,
    )

    strengths = (0.8,) if args.quick else (0.003, 0.01, 0.02, 0.05, 0.1)
    tv_runs = {
        s: reconstruct(
            q,
            A,
            denoisers.make("tv", strength=s),
            alpha=0.05,
            sigma=12 / 255,
            iterations=5 if args.quick else 60,
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
    ours = reconstruct(
        q, A, mlpatch, alpha=0.02, sigma=20 / 255, iterations=4 if args.quick else 20, record=score
    )

    results = {
        "our start (biharmonic by CG)": (fill, fill_seconds),
        "biharmonic (scikit-image)": (biharmonic, biharmonic_seconds),
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
        f"\nInpainting {size} x {size}, 30 % of the pixels; MLPatch trained at "
        f"{mlpatch.info.trained_size}, ADMM: {ours.status}"
    )
    print(table(rows))
    print(f"(seconds of one run on {platform.machine()}, {torch.get_num_threads()} threads)")

    captions = {"truth": truth, "data": q}
    captions |= {
        f"{row['method']}: {row['PSNR (dB)']:.2f} dB": x
        for row, (x, _) in zip(rows, results.values(), strict=True)
    }
    zoom = (100 * size // 512, 190 * size // 512, 110 * size // 512, 110 * size // 512)
    panel(
        args.out / "inpainting_512.png",
        captions,
        truth=truth,
        zoom=zoom,
        title=f"Inpainting, {size} x {size}, 30 % of the pixels",
    )
    curves(args.out / "inpainting_512_convergence.png", {"TV": tv.history, "MLPatch": ours.history})
    print(
        f"pictures: {args.out / 'inpainting_512.png'}, "
        f"{args.out / 'inpainting_512_convergence.png'}"
    )


if __name__ == "__main__":
    main()
