"""Inpainting in colour, 30 % of the pixels kept: networks of three channels against one of one
channel that runs on every channel by itself.

Images: the middle 256 x 256 pixels of pictures spread evenly over a folder; image k has the mask of
seed k, the same in all channels. ADMM starts from the biharmonic interpolation and runs 20
iterations at a constant sigma and alpha, the same for all. "|J|" is the largest local Lipschitz
constant of the denoiser over the middle 64 x 64 pixels of the clean pictures, at that sigma: above
1, D expands there.

Run: python benchmarks/colour_inpainting.py FOLDER [--weights NAME_OR_PATH ...] [--ffdnet FILE.pth]
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from common import arguments, label, network, parse, publish, read_set
from inpainting import KEEP, middle
from tqdm.auto import tqdm

from pnp_mlpatch import denoisers, per_channel, reconstruct
from pnp_mlpatch.convergence import lipschitz
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import Mask


def candidates(args: Any) -> dict[str, Any]:
    """The denoisers, the reference first."""
    grey = label(args.grey)
    found: dict[str, Any] = {f"{grey} per channel": per_channel(network(args.grey))}
    found |= {label(name): network(name) for name in args.weights}
    if args.ffdnet:
        found["FFDNet, published"] = denoisers.make("ffdnet", weights=args.ffdnet)
    return found


def main():
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path, help="of colour pictures")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=["mlpatch-colour-folded", "mlpatch-colour"],
        help="names or paths",
    )
    parser.add_argument("--grey", default="mlpatch-grey", help="weights of one channel")
    parser.add_argument("--ffdnet", type=Path, help="state dict of a published FFDNet in colour")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--sigma", type=float, default=12.0, help="of 255")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--iterations", type=int, default=20)
    args = parse(parser)
    side, part = (48, 16) if args.quick else (256, 64)
    images = read_set(args.folder, channels=3)
    few = min(2 if args.quick else args.pictures, len(images))
    images = [middle(images[k * len(images) // few][None], side) for k in range(few)]
    networks = candidates(args)
    rows, norms = [], dict.fromkeys(networks, 0.0)
    for k, truth in enumerate(tqdm(images, desc="pictures", disable=None)):
        A = Mask.random(tuple(truth.shape[1:]), keep=KEEP, seed=k)
        q = A(truth)
        row: dict[str, Any] = {"picture": k, "start": float(psnr(A.initial(q), truth))}
        for name, D in networks.items():
            x = reconstruct(
                q,
                A,
                D,
                sigma=args.sigma / 255,
                alpha=args.alpha,
                iterations=3 if args.quick else args.iterations,
                tol=0,
                progress=False,
            ).x
            row[name] = float(psnr(x, truth))
            clean = middle(truth, part)
            steps = 3 if args.quick else 10
            found = lipschitz(D, clean, args.sigma / 255, iterations=steps)
            norms[name] = max(norms[name], found)
        rows.append(row)
    reference, *_ = networks
    summary = []
    for name in networks:
        gains = [row[name] - row[reference] for row in rows]
        summary.append(
            {
                "denoiser": name,
                "mean gain": statistics.mean(gains),
                "least gain": min(gains),
                "least above the start": min(row[name] - row["start"] for row in rows),
                "|J|": norms[name],
            }
        )
    publish(
        args,
        {
            "Inpainting in colour, 30 % of the pixels, PSNR (dB)": rows,
            f"Against {reference} (dB)": summary,
        },
    )


if __name__ == "__main__":
    main()
