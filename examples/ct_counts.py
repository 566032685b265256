"""Low-dose CT from photon counts: a fan-beam scan, read, corrected and reconstructed.

A chest slice of 512 x 512 pixels of 0.84 mm is scanned on a grid twice as fine, with 360 views of
10 000 photons a ray, a flat field that is not flat, a dark signal and a dead detector element; the
counts go into an HDF5 file (Data Exchange). The rest is what a person with such a file does. The
counts give each ray its weight, the level of the denoiser follows from the noise, and no truth is
used but for the PSNR.
Run: python examples/ct_counts.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F

from pnp_mlpatch import denoisers, reconstruct, rescaled, samples
from pnp_mlpatch.ct import FanBeam, read_scan
from pnp_mlpatch.ct.counts import line_integrals, simulate_counts
from pnp_mlpatch.ct.units import MU_WATER, hounsfield_range, to_attenuation, to_hounsfield
from pnp_mlpatch.metrics import psnr, ssim
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.solvers import make_problem, schedules
from pnp_mlpatch.viz.panels import panel, table


def write_scan(path, A, mu, photons, seed=0):
    """What the scanner leaves: projections, white and dark fields as counts, angles in degrees."""
    q, _ = simulate(A, mu)
    generator = np.random.default_rng(seed)
    detectors = A.data_shape[-1]
    flat = (
        photons
        * torch.from_numpy(
            1
            + 0.2 * np.cos(np.linspace(-1, 1, detectors))
            + 0.02 * generator.standard_normal(detectors)
        ).float()
    )
    flat[detectors // 3] = 0  # a dead element
    dark = 20.0
    counts = simulate_counts(q, flat + dark, dark, seed=seed)
    frames = (
        generator.poisson((flat + dark).numpy(), (50, 1, detectors)),
        generator.poisson(dark, (50, 1, detectors)),
    )
    with h5py.File(path, "w") as file:
        file["exchange/data"] = counts[0, 0][:, None].numpy()
        file["exchange/data_white"], file["exchange/data_dark"] = (
            f.astype(np.float32) for f in frames
        )
        file["exchange/theta"] = np.rad2deg(A.geometry.theta.numpy())


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
    size, views = (96, 90) if args.quick else (512, 360)
    hu = F.interpolate(samples.chest_ct().clamp(-1024, 1024), size=(size, size), mode="area")
    water = MU_WATER[70]  # 1/mm
    pixel = 430 / size

    def geometry(angles):
        return FanBeam(
            (size, size), angles, source_origin=541, origin_detector=408, pixel=pixel, arc=True
        )

    path = args.out / "ct_counts.h5"
    write_scan(
        path, Radon(geometry(views), cache=not args.quick), to_attenuation(hu, water), photons=1e4
    )

    # ---- from here on, only the file is known
    scan = read_scan(path)
    A = Radon(geometry(scan.angles), cache=not args.quick)
    q, noise = line_integrals(scan.read(0, 1), scan.flat[:, None], scan.dark[:, None])
    q, noise = (
        q[:, None],
        noise[:, None],
    )  # (slice, channel, angle, detector); noise is infinite where nothing was measured
    scale, offset = hounsfield_range(water)
    settings = {
        "solver": "fast_admm",
        "noise": noise,
        "sigma": schedules.from_noise(A, noise, scale=scale),
    }
    start = reconstruct(
        q,
        A,
        denoisers.make("tv", strength=2.0),
        iterations=10 if args.quick else 60,
        tol=5e-4,
        **settings,
    )
    D = rescaled(denoisers.make("mlpatch", weights="mlpatch-ct"), scale, offset)
    result = reconstruct(
        q, A, D, x0=start.x, iterations=4 if args.quick else 20, tol=3e-4, **settings
    )
    print(
        f"{scan.kind} {scan.shape}; {int(torch.isinf(noise).sum())} rays not measured; "
        f"ADMM: {result.status}"
    )

    truth = ((hu + 1024) / 2048).clamp(0, 1)
    problem = make_problem(q, A, noise)  # its start fills the gaps of the detector
    images = {
        "FBP (Hann)": problem.A.initial(problem.q),
        "TV, the start": start.x,
        "ADMM + MLPatch": result.x,
    }
    images = {name: (to_hounsfield(x, water) + 1024) / 2048 for name, x in images.items()}
    rows = [
        {"method": name, "PSNR (dB)": float(psnr(x, truth)), "SSIM": float(ssim(x, truth))}
        for name, x in images.items()
    ]
    print(table(rows))
    captions = {"truth": truth} | {
        f"{row['method']}: {row['PSNR (dB)']:.2f} dB": images[row["method"]] for row in rows
    }
    zoom = tuple(n * size // 512 for n in (260, 90, 110, 110))
    panel(
        args.out / "ct_counts.png",
        captions,
        truth=truth,
        zoom=zoom,
        window=(0.0, 0.75),
        title=f"Fan beam, {views} views, 10 000 photons a ray",
    )
    path.unlink()
    print(f"picture: {args.out / 'ct_counts.png'}")


if __name__ == "__main__":
    main()
