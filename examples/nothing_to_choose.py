"""Data, and nothing else: no noise level, no settings, no truth.

A photograph of 128 x 128 is blurred and noisy. ``reconstruct`` estimates the noise and searches for
the level and the number of iterations; SK-ROCK draws samples of the posterior at the level that was
found, and their deviation is the map of what the data leave open. The truth only judges, at the
end.
Run: python examples/nothing_to_choose.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch

from pnp_mlpatch import denoisers, reconstruct, samples, viz
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.viz.panels import panel, table


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder of the pictures (default: demo)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="48 x 48 pixels and few iterations, for testing"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    size = 48 if args.quick else 128
    truth = samples.camera()[..., 60 : 60 + size, 190 : 190 + size].contiguous()
    A = Blur(gaussian_psf(1.6), (1, size, size))
    q = A(truth) + 4 / 255 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

    # ---- from here on, only q and A are known
    D = denoisers.make("mlpatch")
    result = reconstruct(q, A, D, iterations=5 if args.quick else 20, tune="auto")
    print(result.tuned)
    noise = float(result.tuned.noise)
    steps = {"iterations": 8, "burn_in": 2} if args.quick else {"iterations": 80, "burn_in": 20}
    chain = reconstruct(
        q, A, D, "skrock", noise=noise, sigma=10 / 255, x0=result.x, box=(0.0, 1.0), **steps
    )
    std = chain.state.std

    rows = [
        {"image": name, "PSNR (dB)": float(psnr(x, truth)), "seconds": seconds}
        for name, x, seconds in (
            ("data", q, 0.0),
            ("reconstruction", result.x, result.seconds),
            ("mean of the samples", chain.x, chain.seconds),
        )
    ]
    print(table(rows))
    error = (chain.x - truth).abs()
    print(
        f"noise {255 * noise:.2f}/255, in truth 4/255; correlation of deviation and error "
        f"{float(torch.corrcoef(torch.stack([std.flatten(), error.flatten()]))[0, 1]):.2f}"
    )
    scale = 1 / float(std.quantile(0.995))
    images = {
        "data": q,
        "reconstruction": result.x,
        "deviation (scaled)": scale * std,
        "|error| (same scale)": scale * error,
        "truth": truth,
    }
    panel(
        args.out / "nothing_to_choose.png",
        images,
        title="Blur and noise, of which nothing was told",
    )
    viz.save(result.plot(), args.out / "nothing_to_choose_run.png")


if __name__ == "__main__":
    main()
