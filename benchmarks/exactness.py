"""Exactness: adjoint mismatch, and the optimality of the data step over five decades of alpha, for
every operator and backend.

Adjoint: |<A x, y> - <x, A^H y>| / (|A x| |y|) at random x, y in float32, batch 2. Data step: the
largest relative residual of (A^H A + alpha) f = A^H q + alpha z at random z and q, alpha = |A|^2
10^k, k = -3 ... 2; radon is asked for 1e-6. On a machine with CUDA every operator is measured there
as well, and so are ASTRA's unmatched GPU projectors.

Shifts, with --pictures: by how much the colour networks miss a shift of the picture by one pixel
and by two (root mean square over rows and columns, of 255), beside their error, on the middle
256 x 256 pixels with noise.
Run: python benchmarks/exactness.py [--size 64] [--pictures FOLDER]
"""

import argparse
from pathlib import Path

import torch
from common import read_set
from inpainting import middle

from pnp_mlpatch import denoisers
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.downsample import Downsample
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import PROJECTORS, Radon
from pnp_mlpatch.testing import adjoint_mismatch, optimality
from pnp_mlpatch.viz.panels import table


def operators(size):
    noise = 10 ** (2 * torch.rand(size, size, generator=torch.Generator().manual_seed(0)) - 1)
    yield "identity", Identity((1, size, size))
    yield "mask", Mask(random_mask((size, size), keep=0.3))
    yield "blur", Blur(gaussian_psf(2.0), (1, size, size))
    yield "downsample", Downsample.gaussian((1, size, size), 2, 1.6)
    yield (
        "lensing, mask and noise over two decades",
        Lensing(weight=random_mask((size, size), keep=0.7) / noise),
    )
    for projector in PROJECTORS:
        for backend in ("sparse", "astra_cpu"):
            yield (
                f"radon {projector} {backend}",
                Radon(
                    image_shape=(1, size, size),
                    angles=60,
                    projector=projector,
                    backend=backend,
                    cache=False,
                ),
            )
    if torch.cuda.is_available():
        yield (
            "radon astra_cuda (unmatched)",
            Radon(image_shape=(1, size, size), angles=60, backend="astra_cuda"),
        )


def shifts(folder, names=("mlpatch-colour", "mlpatch-colour-folded"), level=(15, 25, 50)):
    """Rows of a table: the error of each network, and what it misses of a shift."""
    clean = [middle(image[None], 256) for image in read_set(folder, channels=3)]
    for name in names:
        D = denoisers.make("mlpatch", weights=name)
        edge = D.info.field + 2
        for sigma in level:
            found = dict.fromkeys(("error", "shift by 1", "shift by 2"), 0.0)
            for k, x in enumerate(clean):
                generator = torch.Generator().manual_seed(k)
                y = x + sigma / 255 * torch.randn(x.shape, generator=generator)
                denoised = D(y, sigma / 255)
                found["error"] += float((denoised - x).square().mean())
                for by in (1, 2):
                    for axis in (-2, -1):
                        moved = D(y.roll(by, axis), sigma / 255).roll(-by, axis)
                        miss = (moved - denoised)[..., edge:-edge, edge:-edge]
                        found[f"shift by {by}"] += float(miss.square().mean()) / 2
            scores = {key: f"{255 * (v / len(clean)) ** 0.5:.3f}" for key, v in found.items()}
            yield {"network": name, "sigma": sigma, **scores}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--pictures", type=Path, help="a folder of colour pictures")
    args = parser.parse_args()
    rows = []
    for name, A in operators(args.size):
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        if "astra" in name:
            devices = ["cuda"] if "cuda" in name else ["cpu"]
        for device in devices:
            A = A.to(device)
            row = {"operator": name, "device": device, "adjoint": f"{adjoint_mismatch(A):.1e}"}
            if "unmatched" not in name:
                L = A.norm() ** 2
                row["data step"] = f"{max(optimality(A, L * 10.0**k) for k in range(-3, 3)):.1e}"
            else:
                row["data step"] = "-"
            rows.append(row)
    print(table(rows))
    if args.pictures:
        print(table(list(shifts(args.pictures))))


if __name__ == "__main__":
    main()
