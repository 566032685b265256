"""One operator, one solver, many denoisers: the same 512 x 512 CT and inpainting problems with
everything that plugs in.

Each denoiser runs in a process of its own, so that its peak memory is its own. CT: the sample chest
slice, 60 views, 40 dB, ADMM, sigma 20/255, 20 iterations. Inpainting: the sample photograph, 30 %
of the pixels, ADMM, alpha 0.05, sigma 12/255, 20 iterations. Networks for one noise level are
rescaled to the level asked for.
Run: python benchmarks/swap.py [--published FOLDER] [--out DIR] [--quick] [--only NAME ...]
FOLDER holds the published KAIR_dncnn_25.pth and cszn_FDnCNN_gray.pth, which do not ship with the
package.
"""

import argparse
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from pnp_mlpatch import as_denoiser, denoisers, operators, reconstruct, rescaled, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import random_mask
from pnp_mlpatch.operators.radon import simulate
from pnp_mlpatch.viz.panels import panel, table

LEVELS = {"ct": 20 / 255, "inpainting": 12 / 255}
TV_STRENGTHS = {
    "ct": 1.0,
    "inpainting": 0.02,
}  # the best of the sweeps of the demo, chosen with the truth


def candidates(published):
    names = {
        name: name
        for name in ("mlpatch", "drunet", "unet", "dncnn", "ircnn", "tv")
        if name in denoisers.names()
    }
    names |= {"deepinv TV": "deepinv", "scikit-image NLM": "nlm"}
    if importlib.util.find_spec("bm3d"):
        names["BM3D"] = "bm3d"
    if published:
        names |= {
            "DnCNN-25, published": "KAIR_dncnn_25.pth",
            "FDnCNN, published": "cszn_FDnCNN_gray.pth",
        }
    return names


def make(key, name, published):
    sigma, strength = LEVELS[name], TV_STRENGTHS[name]
    if key.endswith(".pth"):
        D = denoisers.make("dncnn", weights=published / key)
        return rescaled(D, scale=sigma / (25 / 255)) if D.info.sigma == "ignored" else D
    if key == "tv":
        return denoisers.make("tv", strength=strength)
    if key == "deepinv":
        TV = require("deepinv.models", "This benchmark").TVDenoiser
        return as_denoiser(
            lambda x, sigma: TV(n_it_max=100)(x, strength * sigma)
        )  # a fresh one each call: it keeps its last solution
    if key == "nlm":
        nlm = require("skimage.restoration", "This benchmark").denoise_nl_means
        return as_denoiser(
            lambda image, s: nlm(image, h=0.8 * s, sigma=s, patch_size=5, patch_distance=6),
            array="numpy",
        )
    if key == "bm3d":
        bm3d = require("bm3d", "This benchmark").bm3d
        return as_denoiser(lambda image, s: bm3d(image, s), array="numpy")
    return denoisers.make(key)


def problem(name, quick):
    size = 64 if quick else 512
    if name == "ct":
        truth = F.interpolate(
            ((samples.chest_ct() + 1024) / 2048).clamp(0, 1), size=(size, size), mode="area"
        )
        A = operators.make("radon", image_shape=(1, size, size), angles=60, cache=not quick)
        q, noise = simulate(A, truth, snr_db=40)
        return truth, A, q, {"noise": noise}
    truth = samples.camera()[..., 100 : 100 + size, 190 : 190 + size] if quick else samples.camera()
    A = operators.make("mask", mask=random_mask((size, size), keep=0.3))
    return truth, A, A(truth), {"alpha": 0.05}


def run_one(key, args):
    scores = {}
    for name, sigma in LEVELS.items():
        truth, A, q, settings = problem(name, args.quick)
        D = make(key, name, args.published)
        start = time.perf_counter()
        result = reconstruct(
            q,
            A,
            D,
            sigma=sigma,
            iterations=3 if args.quick else 20,
            tol=0,
            progress=False,
            **settings,
        )
        scores[name] = {
            "psnr": float(psnr(result.x, truth)),
            "seconds": time.perf_counter() - start,
        }
        torch.save(result.x, args.out / f"{key}-{name}.pt")
    scores["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(scores))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/swap"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        run_one(args.one, args)
        return
    rows, images = [], {name: {} for name in LEVELS}
    for label, key in candidates(args.published).items():
        if args.only and label not in args.only:
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--one", key]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{label}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        scores = json.loads(done.stdout.splitlines()[-1])
        row = {"denoiser": label}
        for name in LEVELS:
            row |= {f"{name} (dB)": scores[name]["psnr"], f"{name} (s)": scores[name]["seconds"]}
            images[name][f"{label}: {scores[name]['psnr']:.2f} dB"] = torch.load(
                args.out / f"{key}-{name}.pt"
            )
            (args.out / f"{key}-{name}.pt").unlink()
        rows.append(row | {"peak memory (MB)": round(scores["peak_mb"])})
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads; memory is that of the "
        "whole process, torch and the CT matrices included"
    )
    print(table(sorted(rows, key=lambda row: -row["ct (dB)"])))
    for name in LEVELS:
        truth = problem(name, args.quick)[0]
        panel(
            args.out / f"swap_{name}.png",
            {"truth": truth, **images[name]},
            truth=truth,
            window=(0.0, 0.75) if name == "ct" else (0.0, 1.0),
        )


if __name__ == "__main__":
    main()
