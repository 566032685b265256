"""Other people's denoisers in the same solver: TV, non-local means, a small module.

TV is that of deepinv, non-local means that of scikit-image, and the module has three lines. The
problem is inpainting with 30 % of the pixels and a little noise; the operator, the solver and its
settings stay the same, only the denoiser changes.
Run: python examples/third_party_denoiser.py [--quick] [--out DIR]
"""

import argparse
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from skimage.restoration import denoise_nl_means

from pnp_mlpatch import as_denoiser, denoisers, reconstruct, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.metrics import psnr, ssim
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.viz.panels import panel, table


class Smooth(torch.nn.Module):  # three lines: a binomial filter, blind to sigma
    def forward(self, x):
        return F.conv2d(
            F.pad(x, (1, 1, 1, 1), mode="replicate"),
            torch.tensor([[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]]) / 16,
        )


def nl_means(image, sigma):
    """A numpy function of one image, as scikit-image has it."""
    return denoise_nl_means(
        image, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, fast_mode=True
    )


def deepinv_tv(x, sigma):
    """TV of deepinv, made for each call: it keeps its last solution. Its level is a weight."""
    return require("deepinv.models", "This example").TVDenoiser(n_it_max=100)(x, 0.05 * sigma)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder of the picture (default: demo)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="64 x 64 pixels and few iterations, for testing"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    truth = samples.camera()[..., 40:296, 130:386]
    if args.quick:
        truth = truth[..., 60:124, 60:124].contiguous()
    noise = 2 / 255
    A = Mask(random_mask(tuple(truth.shape[-2:]), keep=0.3))
    q = A(truth) + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

    candidates = {
        "deepinv TV": as_denoiser(deepinv_tv),
        "scikit-image NLM": as_denoiser(nl_means, array="numpy"),
        "three-line module": as_denoiser(Smooth(), sigma="ignored"),
        "our TV": denoisers.make("tv", strength=0.05),
        "MLPatch": denoisers.make("mlpatch"),
    }
    images, rows = {"truth": truth, "data": q}, []
    for name, D in candidates.items():
        result = reconstruct(
            q, A, D, noise=noise, sigma=12 / 255, iterations=3 if args.quick else 20
        )
        row = {
            "denoiser": name,
            "PSNR (dB)": float(psnr(result.x, truth)),
            "SSIM": float(ssim(result.x, truth)),
            "seconds": result.seconds,
        }
        rows.append(row)
        images[f"{name}: {row['PSNR (dB)']:.2f} dB"] = result.x
    print(
        f"Inpainting {truth.shape[-1]} x {truth.shape[-1]}, 30 % of the pixels, noise "
        f"2/255; the start has {float(psnr(A.initial(q), truth)):.2f} dB"
    )
    print(table(rows))
    print(f"(seconds of one run on {platform.machine()}, {torch.get_num_threads()} threads)")
    panel(
        args.out / "third_party_denoiser.png",
        images,
        truth=truth,
        title="One solver, five denoisers: inpainting with 30 % of the pixels",
    )
    print(f"picture: {args.out / 'third_party_denoiser.png'}")


if __name__ == "__main__":
    main()
