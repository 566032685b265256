"""The protocol of published mass maps: simulated skies, the noise and the mask of COSMOS.

As in the benchmark weaklensing_uq (kappaTNG, the "bright" galaxies of COSMOS, 384 x 384 pixels of
0.293 arcmin): the shear of each sky, with draws of the noise, is mapped by each method; measured
are, inside the mask and less the mean, NRMSE, Pearson's correlation, the number of peaks above 0.05
and 0.1, and the share of pixels inside their interval of 90 % where a method has one, also for the
pixels above 0.05 in the map.

--kappa FILE.npy [FILE.npy ...] are the skies (H, W), --std FILE.npy [FILE.npy] the standard
deviation of the shear (of two files the root mean square), --mask FILE.npy is 0 where nothing was
measured. Without them: the sky and the noise that ship. Skies are cut to the size of the noise.
The spectrum of the Wiener filter and of MCALens is the package's, times --amplitude squared.

Run: python benchmarks/mass_protocol.py [--kappa FILE [FILE ...]] [--std FILE [FILE]] [--mask FILE]
     [--draws N] [--amplitude A] [--no-errors]
"""

import time
from pathlib import Path

import numpy as np
import torch
from common import arguments, parse, publish, survey_noise

from pnp_mlpatch import denoisers, e_mode, reconstruct, samples
from pnp_mlpatch.lensing import (
    ShearMap,
    convergence_spectrum,
    judge,
    kaiser_squires,
    mcalens,
    optimal_width,
    shear_of,
    smoothed,
    wiener,
)
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass

QUICK = slice(100, 164)  # pixels of a quick run


def main():
    parser = arguments(__doc__)
    parser.add_argument("--kappa", type=Path, nargs="+", help="the skies, .npy (H, W)")
    parser.add_argument("--std", type=Path, nargs="+", help="standard deviation of the shear")
    parser.add_argument("--mask", type=Path, help="0 where nothing was measured")
    parser.add_argument("--pixel", default="0.293 arcmin", help="side of a pixel with its unit")
    parser.add_argument("--draws", type=int, default=3, help="of the noise, for each sky")
    parser.add_argument("--amplitude", type=float, default=1.2, help="of the known spectrum")
    parser.add_argument("--no-errors", action="store_true", help="map_mass without intervals")
    args = parse(parser)
    noise = survey_noise(args.std, args.mask)
    noise = noise[QUICK, QUICK] if args.quick else noise
    D = denoisers.make("mlpatch", weights="mlpatch-kappa")
    found: dict[str, list[dict]] = {}
    for sky in skies(args):
        kappa = sky[: noise.shape[0], : noise.shape[1]]
        for draw in range(1 if args.quick else args.draws):
            truth, shear = observe(kappa - kappa.mean(), noise, args.pixel, draw)
            for name, row in measure(truth, shear, D, args).items():
                found.setdefault(name, []).append(row)
    publish(args, {"Mass maps by the public protocol": [summary(n, r) for n, r in found.items()]})


def skies(args):
    """The skies (H, W)."""
    if not args.kappa:
        sky = samples.lensing()[0].double()
        return [sky[QUICK, QUICK] if args.quick else sky]
    return [torch.from_numpy(np.load(path)).double() for path in args.kappa]


def observe(kappa, noise, pixel, draw):
    """The truth (H, W) and its shear with noise."""
    seen = torch.isfinite(noise)
    e = torch.randn(2, *noise.shape, generator=torch.Generator().manual_seed(draw)).double()
    gamma = shear_of(kappa[None, None])[0] + e * torch.where(seen, noise, 0.0)
    return kappa.float(), ShearMap(torch.where(seen, gamma, 0.0), noise, pixel)


def measure(truth, shear, D, args):
    """The measures of every method."""
    q, noise = shear.gamma.float()[None], shear.noise.float()
    pixel, few = shear.pixel, args.quick

    def spectrum(ell):
        return args.amplitude**2 * convergence_spectrum(ell)

    def smooth():
        return smoothed(kaiser_squires(q), optimal_width(noise, spectrum, pixel), pixel)[0]

    def white():
        A, tau = Lensing(image_shape=(2, *noise.shape)), float(noise[shear.seen].min())
        steps = {"iterations": 2 if few else 8, "tol": 0, "progress": False, "tau": 1.8 * tau}
        return reconstruct(q, A, e_mode(D), "pgd", noise=noise, white=True, x0=0 * q, **steps).x[0]

    config = MassMapConfig(iterations=6 if few else 40)
    methods = {
        "Kaiser-Squires, smoothed": smooth,
        "Wiener": lambda: wiener(q, noise, spectrum, pixel)[0],
        "MCALens": lambda: mcalens(q, noise, spectrum, pixel)[0],
        "PnPMass (pgd, white)": white,
        "plug-and-play (map_mass)": lambda: map_mass(
            shear, D, config, errors=not args.no_errors, progress=False
        ),
    }
    rows = {}
    for name, method in methods.items():
        start = time.perf_counter()
        x = method()
        seconds = time.perf_counter() - start
        score = judge(getattr(x, "kappa", x), truth, pixel, shear.seen)
        rows[name] = {
            "nrmse": score["nrmse"],
            "pearson": score["pearson"],
            "peaks > 0.05": score["peaks"]["0.05"],
            "peaks > 0.1": score["peaks"]["0.1"],
            "true": f"{score['true peaks']['0.05']}, {score['true peaks']['0.1']}",
            **covered(x, truth, shear.seen),
            "seconds": seconds,
        }
    return rows


def covered(x, truth, seen):
    """Shares of the pixels, and of those above 0.05 in the map, inside their interval."""
    low, high = (getattr(x, name, None) for name in ("kappa_low", "kappa_high"))
    if low is None or high is None:
        return {"covered": float("nan"), "covered above 0.05": float("nan")}
    truth = truth - truth[seen].mean()
    inside, bright = (low <= truth) & (truth <= high), seen & (x.kappa[0] > 0.05)
    shares = [float(inside[where].double().mean()) for where in (seen, bright)]
    return {"covered": shares[0], "covered above 0.05": shares[1]}


def summary(name, rows):
    """The means over skies and draws, and the spread of NRMSE."""
    mean = {k: np.mean([r[k] for r in rows]) for k in rows[0] if k != "true"}
    digits = {"nrmse": 3, "pearson": 3, "covered": 3, "covered above 0.05": 3}
    texts = {k: f"{v:.{digits.get(k, 1)}f}" for k, v in mean.items() if np.isfinite(v)}
    texts = {k: texts.get(k, "") for k in mean}
    return {"method": name, **texts, "nrmse std": f"{np.std([r['nrmse'] for r in rows]):.3f}"} | {
        "true peaks": rows[0]["true"]
    }


if __name__ == "__main__":
    main()
