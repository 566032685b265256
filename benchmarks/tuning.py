"""Levels chosen without the truth, against the best of a sweep with it: inpainting, deblurring, CT,
each at three levels of noise.

Images of 128 x 128 pixels: the samples (two parts of the photograph, the chest slice shrunk), or
the first --count pictures of --images FOLDER, cut in the middle. ADMM, 30 iterations, from
A.initial, alpha = (noise / sigma)^2. "cross-validated" is tuning.cross_validate, with three tenths
of the data held out, one after the other; "from noise" is schedules.from_noise. Losses are in dB,
to the best of the same five levels, 6 to 42/255.

Run: python benchmarks/tuning.py [--denoiser mlpatch tv unet] [--images FOLDER] [--count N]
"""

import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from common import arguments, parse, publish

from pnp_mlpatch import denoisers, reconstruct, samples, solvers
from pnp_mlpatch.io.images import READABLE, read_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.tuning import cross_validate

SIGMAS = tuple(level / 255 for level in (6, 10, 16, 26, 42))


def main():
    parser = arguments(__doc__)
    parser.add_argument(
        "--denoiser",
        nargs="+",
        default=["mlpatch", "tv"],
        help="names of denoisers (default: mlpatch tv)",
    )
    parser.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--count", type=int, default=3, help="images at most (default: 3)")
    args = parse(parser)
    rows, losses = [], []
    for name in args.denoiser[: 1 if args.quick else None]:
        D = denoisers.make(name)
        for index, truth in enumerate(images(args)):
            for problem, A, q, noise in problems(truth, args.quick):
                row = compare(A, q, noise, D, truth, 4 if args.quick else 30)
                losses.append((name, row["loss, cross-validated"], row["loss, from noise"]))
                rows.append({"denoiser": name, "image": index, "problem": problem, **row})
                print(rows[-1], flush=True)
    summary = []
    for name in dict.fromkeys(name for name, *_ in losses):
        columns = list(zip(*[found[1:] for found in losses if found[0] == name], strict=True))
        for rule, values in zip(("cross-validated", "from noise"), columns, strict=True):
            summary.append(
                {
                    "denoiser": name,
                    "level": rule,
                    "median loss (dB)": statistics.median(values),
                    "worst": max(values),
                }
            )
    publish(args, {"each": rows, "loss against the best level": summary})


def images(args):
    """(1, 1, 128, 128) each, in [0, 1]."""
    if args.images:
        paths = sorted(p for p in args.images.iterdir() if p.suffix.lower() in READABLE)
        found = [
            read_image(path, gray=True)
            for path in paths[:: max(1, len(paths) // args.count)][: args.count]
        ]
        found = [
            x[..., (x.shape[-2] - 128) // 2 :, (x.shape[-1] - 128) // 2 :][..., :128, :128]
            for x in found
        ]
    else:
        photo, chest = samples.camera(), ((samples.chest_ct() + 1024) / 2048).clamp(0, 1)
        found = [photo[..., 100:228, 180:308], F.avg_pool2d(photo, 4), F.avg_pool2d(chest, 4)]
    return [x[..., :40, :40] for x in found[:1]] if args.quick else found[: args.count]


def problems(truth, quick):
    """Names, operators, data and noise."""
    shape = truth.shape[1:]
    taps = torch.exp(-(torch.arange(-6, 7.0) ** 2) / (2 * 1.6**2))
    kernel = taps[:, None] * taps
    mask, blur = (
        Mask(random_mask(tuple(shape[1:]), keep=0.3, seed=1)),
        Blur(kernel / kernel.sum(), tuple(shape)),
    )
    for A, name, levels in ((mask, "inpainting, 30 %", (2, 10, 25)), (blur, "blur", (1, 4, 12))):
        for level in levels[: 1 if quick else None]:
            e = torch.randn(1, *A.data_shape, generator=torch.Generator().manual_seed(level))
            q = A(truth) + level / 255 * e * (A(torch.ones_like(truth)).abs() > 0)
            yield f"{name}, noise {level}/255", A, q, level / 255
    radon = Radon(image_shape=(1, *shape[1:]), angles=30, cache=False)
    for snr in (45, 35, 25)[: 1 if quick else None]:
        q, noise = simulate(radon, truth, snr_db=snr)
        yield f"CT, 30 views, {snr} dB", radon, q, float(noise)


def compare(A, q, noise, D, truth, iterations):
    settings = {"noise": noise, "iterations": iterations, "progress": False}
    scores = [
        float(psnr(reconstruct(q, A, D, "admm", sigma=sigma, **settings).x, truth))
        for sigma in SIGMAS
    ]
    solver = solvers.make("admm", iterations=iterations, data_iterations=6)
    chosen = float(
        cross_validate(q, A, D, solver, noise=noise, sigmas=SIGMAS, progress=False).sigma
    )
    guess = float(schedules.from_noise(A, noise))
    best = max(scores)
    by_noise = float(psnr(reconstruct(q, A, D, "admm", sigma=guess, **settings).x, truth))
    by_data = scores[min(range(len(SIGMAS)), key=lambda k: abs(SIGMAS[k] - chosen))]
    return {
        "best (dB)": best,
        "best level": f"{255 * SIGMAS[scores.index(best)]:.0f}",
        "cross-validated": f"{255 * chosen:.0f}",
        "loss, cross-validated": best - by_data,
        "from noise": f"{255 * guess:.0f}",
        "loss, from noise": best - by_noise,
    }


if __name__ == "__main__":
    main()
