"""Denoising: mean PSNR and SSIM over a folder of pictures at sigma 15, 25, 50 (of 255): all shipped weights, and TV.

The noise of picture k at level s comes from the seed 1000 s + k, so every run and every denoiser sees the same data.
Run: python benchmarks/denoising.py FOLDER [--weights PATH] [--dncnn PATH ...] [--only NAME ...] [--limit N]
"""

import argparse
import platform
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from pnp_mlpatch import denoisers
from pnp_mlpatch.imageio import READABLE, read_image
from pnp_mlpatch.metrics import psnr, ssim
from pnp_mlpatch.report import table

LEVELS = (15, 25, 50)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", help="weights of mlpatch: a shipped name or a path")
    parser.add_argument("--dncnn", type=Path, nargs="*", default=[], help="state dicts of published DnCNNs")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS, choices=LEVELS, help="of 255")
    parser.add_argument("--only", nargs="*", help="only these of the table")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    args = parser.parse_args()
    paths = sorted(p for p in args.folder.iterdir() if p.suffix.lower() in READABLE)[: args.limit]
    images = [read_image(p, gray=True) for p in paths]
    settings = {"weights": args.weights} if args.weights else {}
    # the strength of TV is the best for each level on Set12, of 0.65 to 1.1 in steps of at most 0.1
    candidates = {"TV": {15: 0.65, 25: 0.75, 50: 0.9}, "MLPatch": denoisers.make("mlpatch", **settings)}
    candidates |= {name: denoisers.make(name) for name in ("dncnn", "ircnn", "unet", "drunet")}
    candidates |= {path.stem: denoisers.make("dncnn", weights=path) for path in args.dncnn}
    candidates = {name: D for name, D in candidates.items() if not args.only or name in args.only}
    rows = []
    with torch.no_grad():
        for name, D in candidates.items():
            row, start = {"denoiser": name}, time.perf_counter()
            for level in args.levels:
                scores = []
                for k, image in enumerate(tqdm(images, desc=f"{name} {level}", disable=None)):
                    noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(1000 * level + k))
                    x = image + level / 255 * noise
                    y = (
                        denoisers.make("tv", strength=D[level], iterations=100)(x, level / 255)
                        if isinstance(D, dict)
                        else D(x, level / 255)
                    )
                    scores.append((float(psnr(y, image)), float(ssim(y, image))))
                means = torch.tensor(scores).mean(0).tolist()
                row |= {f"PSNR {level}": means[0], f"SSIM {level}": means[1]}
            pixels = len(args.levels) * sum(image.shape[-1] * image.shape[-2] for image in images)
            rows.append(row | {"us per pixel": 1e6 * (time.perf_counter() - start) / pixels})
    print(f"{args.folder.name}, {len(images)} pictures; {platform.machine()}, {torch.get_num_threads()} threads")
    print(table(rows))


if __name__ == "__main__":
    main()
