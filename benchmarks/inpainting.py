"""Inpainting, 30 % of the pixels kept, 512 x 512: biharmonic interpolation, and ADMM with MLPatch
and with a published FDnCNN.

Images: the 512 x 512 pictures of a folder (Set12 has five), and the sample photograph; image k has
the mask of seed k. ADMM starts from the biharmonic interpolation and runs 20 iterations at a
constant sigma and alpha. "kept" is the same result with the seen pixels, which have no noise, put
back.

--choose FOLDER takes sigma and alpha from a sweep, for every denoiser by itself, on the middle 256
x 256 pixels of up to 6 pictures spread evenly over a folder that is not the one tested, and prints
the sweep; without it, all denoisers have --sigma and --alpha.

Run: python benchmarks/inpainting.py SET12 [--published FOLDER] [--choose TRAINING_FOLDER]
     [--weights NAME_OR_PATH ...]
FOLDER holds the published cszn_FDnCNN_gray.pth, which does not ship with the package.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import arguments, label, network, parse, publish, read_set
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch import denoisers, operators, reconstruct, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.io.images import READABLE, read_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import random_mask

KEEP, FDNCNN = 0.3, "cszn_FDnCNN_gray.pth"


def problem(truth: Tensor, seed: int) -> tuple[operators.LinearOperator, Tensor]:
    A = operators.make("mask", mask=random_mask(tuple(truth.shape[-2:]), keep=KEEP, seed=seed))
    return A, A(truth)


def middle(image: Tensor, side: int) -> Tensor:
    """The middle ``side`` x ``side`` pixels of (..., H, W), or all there are."""
    top, left = (max(0, (n - side) // 2) for n in image.shape[-2:])
    return image[..., top : top + side, left : left + side].contiguous()


def restore(A: Any, q: Tensor, D: Any, sigma: float, alpha: float, iterations: int) -> Tensor:
    """ADMM from the biharmonic interpolation; ``sigma`` of 255."""
    return reconstruct(
        q, A, D, sigma=sigma / 255, alpha=alpha, iterations=iterations, tol=0, progress=False
    ).x


def choose(
    name: str, D: Any, images: list[Tensor], args: Any
) -> tuple[tuple[float, float], list[dict[str, Any]]]:
    """The sigma (of 255) and alpha of the best mean PSNR over ``images``, and the sweep."""
    rows, means = [], {}
    for sigma in tqdm(args.sigmas, desc=f"choose for {name}", disable=None):
        row: dict[str, Any] = {"denoiser": name, "sigma (of 255)": sigma}
        for alpha in args.alphas:
            found = []
            for k, truth in enumerate(images):
                A, q = problem(truth, 100 + k)
                found.append(float(psnr(restore(A, q, D, sigma, alpha, args.iterations), truth)))
            means[sigma, alpha] = statistics.mean(found)
            row[f"alpha {alpha:g}"] = means[sigma, alpha]
        rows.append(row)
    return max(means, key=means.__getitem__), rows


def training_images(folder: Path, side: int, most: int = 6) -> list[Tensor]:
    """The middles of up to six pictures spread evenly over the folder, of those that are large
    enough if there are any.
    """
    images = [image[None] for image in read_set(folder, channels=1)]
    large = [image for image in images if min(image.shape[-2:]) >= side] or images
    few = min(most, len(large))
    return [middle(large[k * len(large) // few], side) for k in range(few)]


def asked():
    """The arguments of the command line."""
    parser = arguments(__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="of test pictures; those of another size than 512 x 512 are left out",
    )
    parser.add_argument("--published", type=Path, help=f"folder of {FDNCNN}")
    parser.add_argument("--weights", nargs="+", default=["mlpatch-grey"], help="names or paths")
    parser.add_argument(
        "--choose",
        type=Path,
        metavar="FOLDER",
        help="of training pictures, on which sigma and alpha are chosen",
    )
    parser.add_argument("--sigma", type=float, default=12.0, help="of 255")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument(
        "--sigmas",
        type=float,
        nargs="+",
        default=[8.0, 12.0, 16.0, 20.0],
        help="of the sweep, of 255",
    )
    parser.add_argument(
        "--alphas", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2], help="of the sweep"
    )
    parser.add_argument("--iterations", type=int, default=20)
    args = parse(parser)
    if args.quick:
        args.iterations, args.sigmas, args.alphas = 3, args.sigmas[:2], args.alphas[1:2]
    return args


def test_images(args) -> dict[str, Tensor]:
    """The sample picture, and those of the folder of 512 x 512."""
    tests = {"camera": samples.camera()}
    for path in (
        sorted(p for p in args.folder.iterdir() if p.suffix.lower() in READABLE)
        if args.folder
        else ()
    ):
        image = read_image(path, gray=True)
        if tuple(image.shape[-2:]) == (512, 512):
            tests[path.stem] = image
    if args.quick:
        tests = {name: middle(image, 64) for name, image in list(tests.items())[:2]}
    return tests


def summarised(mean, settings, seconds, published: bool):
    """A row for each denoiser: its settings, its time, and how it compares."""
    summary = []
    baseline = max(mean["biharmonic"], mean["scikit-image"])
    for name in settings:
        row = {
            "denoiser": name,
            "sigma (of 255)": settings[name][0],
            "alpha": f"{settings[name][1]:g}",
            "seconds": seconds[name],
            "less the better biharmonic": mean[name] - baseline,
            "kept": mean[f"{name}, kept"] - baseline,
        }
        if published:
            row["less FDnCNN"] = mean[name] - mean["FDnCNN, published"]
        summary.append(row)
    return summary


def main():
    args = asked()
    require("skimage.restoration", "This benchmark")
    from skimage.restoration import inpaint_biharmonic

    tests = test_images(args)
    candidates = {label(name): network(name) for name in args.weights}
    if args.published:
        candidates["FDnCNN, published"] = denoisers.make("dncnn", weights=args.published / FDNCNN)

    settings, sweeps = {}, []
    with torch.no_grad():
        if args.choose:
            images = training_images(args.choose, 48 if args.quick else 256)
        for name, D in candidates.items():
            settings[name] = (args.sigma, args.alpha)
            if args.choose:
                settings[name], rows = choose(name, D, images, args)
                sweeps += rows

        rows, seconds = [], dict.fromkeys(candidates, 0.0)
        for k, (image, truth) in enumerate(tqdm(tests.items(), desc="test", disable=None)):
            A, q = problem(truth, k)
            theirs = torch.from_numpy(
                inpaint_biharmonic(q[0, 0].double().numpy(), (A.mask[0] == 0).numpy())
            ).float()[None, None]
            row = {
                "image": image,
                "biharmonic": float(psnr(A.initial(q), truth)),
                "scikit-image": float(psnr(theirs, truth)),
            }
            for name, D in candidates.items():
                start = time.perf_counter()
                x = restore(A, q, D, *settings[name], args.iterations)
                seconds[name] += time.perf_counter() - start
                row |= {
                    name: float(psnr(x, truth)),
                    f"{name}, kept": float(psnr(torch.where(A.mask > 0, q, x), truth)),
                }
            rows.append(row)
    mean = {
        "image": "mean",
        **{key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "image"},
    }
    seconds = {name: total / len(rows) for name, total in seconds.items()}
    summary = summarised(mean, settings, seconds, bool(args.published))
    size = " x ".join(str(n) for n in truth.shape[-2:])
    tables = (
        {f"Choice of sigma and alpha on {len(images)} pictures, mean PSNR (dB)": sweeps}
        if args.choose
        else {}
    )
    tables |= {
        f"Inpainting {size}, {100 * KEEP:.0f} % of the pixels, {args.iterations} "
        "iterations, PSNR (dB)": [
            *rows,
            mean,
        ]
    }
    tables |= {
        "Mean differences (dB); wanted: MLPatch 2 above biharmonic and at most 0.5 below "
        "FDnCNN": summary
    }
    publish(args, tables)


if __name__ == "__main__":
    main()
