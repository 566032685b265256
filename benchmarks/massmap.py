"""Mass maps by Kaiser-Squires, smoothed, the Wiener filter, and plug-and-play, at three densities
of galaxies, with the mask of a real survey.

The truth is the simulated convergence that ships (kappaTNG, which no weights were trained on), with
the mask and the noise map of COSMOS, scaled to 8, 30 and 66 galaxies for each square arcminute;
each number is the mean over --draws of the noise. Smoothed Kaiser-Squires has the width that is
best with the truth, of a sweep; the Wiener filter has the spectrum --spectrum (.npy with rows l and
C), by default the package's, times the amplitude that is best with the truth, of a sweep. MCALens
has that spectrum. Plug-and-play has one set of weights and no truth: its level follows from the
noise (massmap.map_mass). --choose compares levels on four generated maps instead, which is how its
default was settled. --generator FILE.png draws spectrum, histogram and peaks of 40 training maps
beside those of the truth. --speed: seconds and peak memory at 360 x 360 and 1024 x 1024 pixels,
each in a process of its own.

Run: python benchmarks/massmap.py [--spectrum FILE.npy] [--draws N] [--weights NAME] [--choose]
     [--picture FILE.png] [--generator FILE.png] [--speed]
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import arguments, parse, publish

from pnp_mlpatch import denoisers, e_mode, reconstruct, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing import mcalens, wiener
from pnp_mlpatch.lensing.estimators import (
    kaiser_squires,
    optimal_width,
    shear_of,
    smoothed,
    weights,
)
from pnp_mlpatch.lensing.fields import lognormal_convergence, random_convergence
from pnp_mlpatch.lensing.fits import ShearMap
from pnp_mlpatch.lensing.spectra import convergence_spectrum, tabulated
from pnp_mlpatch.lensing.statistics import describe_map, judge, peaks
from pnp_mlpatch.lensing.units import SHAPE_NOISE, arcmin
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass
from pnp_mlpatch.viz.panels import mass_panel

DENSITIES = (8, 30, 66)


def main():
    parser = arguments(__doc__)
    parser.add_argument(
        "--spectrum", type=Path, help="of the Wiener filter: an .npy with the rows l and C"
    )
    parser.add_argument("--draws", type=int, default=3, help="of the noise (default: 3)")
    parser.add_argument("--weights", default="mlpatch-kappa", help="of the denoiser")
    parser.add_argument("--picture", type=Path, help="draw the maps at 30 galaxies there")
    parser.add_argument(
        "--choose", action="store_true", help="compare levels of the denoiser on generated maps"
    )
    parser.add_argument("--generator", type=Path, help="draw generated maps' statistics there")
    parser.add_argument("--speed", action="store_true", help="seconds and memory")
    parser.add_argument("--one", nargs=2, help="internal: measure one method at one size")
    args = parse(parser)
    if args.one:
        return print(json.dumps(measure(args.one[0], int(args.one[1]))))
    if args.choose:
        return publish(args, {"NRMSE on generated maps": choose(args)})
    if args.generator:
        return publish(
            args,
            {
                "generated maps and the simulated one": generator(
                    args.generator, 4 if args.quick else 40
                )
            },
        )
    if args.speed:
        return publish(args, {"seconds and peak memory beyond the imports": speed(args)})
    rows, kept = [], {}
    for n_gal in DENSITIES[: 1 if args.quick else None]:
        found: dict[str, list[dict]] = {}
        for draw in range(1 if args.quick else args.draws):
            truth, shear = survey(n_gal, draw, 64 if args.quick else None)
            maps = solve(truth, shear, args)
            for name, (x, seconds) in maps.items():
                found.setdefault(name, []).append(
                    {**judge(x, truth, shear.pixel, shear.seen), "seconds": seconds}
                )
            if n_gal == 30 and draw == 0:
                kept = {"truth": truth} | {
                    name: x[0] for name, (x, _) in maps.items() if name != "PGD, white"
                }
        rows += [
            {"galaxies": n_gal, "method": name, **mean(scores)} for name, scores in found.items()
        ]
    publish(args, {"Mass maps": rows})
    if args.picture and kept:
        _, shear = survey(30, 0)
        mass_panel(
            args.picture,
            kept,
            pixel=shear.pixel,
            mask=shear.seen,
            title="30 galaxies for each square arcminute, mask and noise of COSMOS",
        )


def mean(scores):
    """The columns of the table, means over the draws."""
    count = len(scores)
    middle = [k for k, ell in enumerate(scores[0]["l"]) if ell and 800 < ell < 4000]
    row = {key: sum(s[key] for s in scores) / count for key in ("nrmse", "pearson")}
    row |= {
        f"peaks > {level}": f"{sum(s['peaks'][level] for s in scores) / count:.1f}"
        for level in ("0.05", "0.1")
    }
    row |= {"true": f"{scores[0]['true peaks']['0.05']}, {scores[0]['true peaks']['0.1']}"}
    row |= {
        f"{key}, l 800-4000": sum(
            sum(s[key][k] for k in middle) / max(1, len(middle)) for s in scores
        )
        / count
        for key in ("ratio", "r")
    }
    row |= {
        key: sum(s[key] for s in scores) / count
        for key in ("pdf distance", "psnr", "psnr of zero", "seconds")
    }
    return {
        key: f"{value:.3f}"
        if isinstance(value, float) and key not in ("psnr", "psnr of zero", "seconds")
        else value
        for key, value in row.items()
    }


def survey(n_gal, draw, size=None):
    """The truth (H, W) less its mean, and a shear map of so many galaxies."""
    kappa, noise, pixel = samples.lensing()
    if size:
        kappa, noise = (
            kappa[120 : 120 + size, 120 : 120 + size],
            noise[120 : 120 + size, 120 : 120 + size],
        )
    return observe(kappa[None, None] - kappa.mean(), noise, pixel, n_gal, draw, (0, 0))


def observe(kappa, noise, pixel, n_gal, draw, corner):
    """The shear of ``kappa`` (1, 1, h, w), cut to the noise map (H, W), which is scaled to a mean
    density of galaxies.
    """
    seen = torch.isfinite(noise)
    density = SHAPE_NOISE**2 / noise[seen].square() / arcmin(pixel) ** 2
    noise = noise * (density.mean() / n_gal).sqrt()
    rows, cols = (slice(first, first + n) for first, n in zip(corner, noise.shape, strict=True))
    gamma = shear_of(kappa)[0, :, rows, cols]
    truth = kappa[0, 0, rows, cols]
    e = torch.randn(gamma.shape, generator=torch.Generator().manual_seed(draw))
    gamma = torch.where(seen, gamma + torch.where(seen, noise, 0.0) * e, 0.0)
    return truth - truth[seen].mean(), ShearMap(gamma, noise, pixel)


def network(weights="mlpatch-kappa"):
    return denoisers.make("mlpatch", weights=weights)


def solve(truth, shear, args):
    """The maps (2, H, W) of every method, with seconds."""
    q, noise = shear.gamma.float()[None], shear.noise.float()
    found = {}

    def timed(name, make):
        start = time.perf_counter()
        x = make()
        found[name] = (x[0], time.perf_counter() - start)

    def nrmse(x):
        return judge(x[0], truth, shear.pixel, shear.seen)["nrmse"]

    def best(make, values):  # of a sweep with the truth; the seconds are those of the best alone
        return min(values, key=lambda value: nrmse(make(value)))

    timed("Kaiser-Squires", lambda: kaiser_squires(q))
    ks = found["Kaiser-Squires"][0][None]
    width = best(
        lambda w: smoothed(ks, f"{w} arcmin", shear.pixel), np.arange(0.3, 5, 0.1).round(1).tolist()
    )
    timed(
        "smoothed, best width", lambda: smoothed(kaiser_squires(q), f"{width} arcmin", shear.pixel)
    )
    timed(
        "smoothed, width from the noise",
        lambda: smoothed(
            kaiser_squires(q), optimal_width(noise, convergence_spectrum, shear.pixel), shear.pixel
        ),
    )
    spectrum = tabulated(*np.load(args.spectrum)) if args.spectrum else convergence_spectrum
    filters = {
        a: (lambda ell, a=a: a * a * spectrum(ell))
        for a in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.7)
    }
    amplitude = best(lambda a: wiener(q, noise, filters[a], shear.pixel), list(filters))
    timed("Wiener, best amplitude", lambda: wiener(q, noise, filters[amplitude], shear.pixel))
    timed("MCALens, same spectrum", lambda: mcalens(q, noise, filters[amplitude], shear.pixel))
    D, A = network(args.weights), Lensing(image_shape=(2, *noise.shape))
    tau = float(noise[shear.seen].min())
    few = 2 if args.quick else 8
    timed(
        "PGD, white",
        lambda: (
            reconstruct(
                q,
                A,
                e_mode(D),
                "pgd",
                noise=noise,
                white=True,
                tau=1.8 * tau,
                x0=0 * q,
                iterations=few,
                tol=0,
                progress=False,
            ).x
        ),
    )
    config = MassMapConfig(iterations=6 if args.quick else 40)
    timed(
        "plug-and-play (map_mass)", lambda: map_mass(shear, D, config, progress=False).kappa[None]
    )
    return found


def choose(args):
    """NRMSE of levels of the denoiser, on generated maps of four amplitudes and shifts, cut from
    larger fields.
    """
    _, noise, pixel = samples.lensing()
    skies = ((0.8, 0.028), (1.0, 0.024), (1.2, 0.03), (1.5, 0.028))[: 1 if args.quick else None]
    rows = []
    for n_gal in DENSITIES[: 1 if args.quick else None]:
        row = {"galaxies": n_gal}
        for k, (amplitude, shift) in enumerate(skies):
            side = 64 if args.quick else 360
            kappa = lognormal_convergence(
                (3 * side // 2, 3 * side // 2),
                pixel,
                seed=100 + k,
                amplitude=amplitude,
                shift=shift,
            )
            part = noise[100 : 100 + side, 100 : 100 + side] if args.quick else noise
            truth, shear = observe(
                kappa - kappa.mean(), part, pixel, n_gal, k, (side // 4, side // 4)
            )
            q, std = shear.gamma.float()[None], shear.noise.float()
            tries = {
                "Wiener, known spectrum": wiener(
                    q, std, lambda ell, a=amplitude: a * a * convergence_spectrum(ell), pixel
                )[0]
            }
            level = float(weights(shear.noise)[shear.seen].mean().rsqrt())
            for factor in (0.5, 0.6, 0.75, 0.85, 1.0):
                config = MassMapConfig(
                    sigma=min(factor * level, 0.35), iterations=6 if args.quick else 40
                )
                tries[f"sigma = {factor:g} noise"] = map_mass(
                    shear, network(), config, progress=False
                ).kappa
            for name, x in tries.items():
                row[name] = row.get(name, 0.0) + judge(x, truth, pixel, shear.seen)["nrmse"] / len(
                    skies
                )
        rows.append(
            {
                key: f"{value:.4f}" if isinstance(value, float) else value
                for key, value in row.items()
            }
        )
    return rows


def generator(path, count):
    """Spectrum, histogram and peaks of generated maps and of the simulated one: a figure, and a
    table of the 5, 50 and 95 % quantiles.
    """
    truth, _, pixel = samples.lensing()
    maps = [truth, *(random_convergence(360, np.random.default_rng(k))[0] for k in range(count))]
    found = [describe_map(m[None], pixel) for m in maps]
    heights = np.arange(0.02, 0.3, 0.02)
    bins = np.arange(-0.06, 0.3, 0.005)
    figure = require("matplotlib.figure", "Drawing").Figure(figsize=(12, 3.6), layout="constrained")
    spectrum, histogram, counts = figure.subplots(1, 3)
    for k in range(count, -1, -1):
        style = {"color": "0.7", "lw": 0.7} if k else {"color": "tab:red", "lw": 1.8}
        m = maps[k] - maps[k].mean()
        ell = np.array([v or np.nan for v in found[k]["l"]])
        spectrum.loglog(ell, ell**2 * np.array([v or np.nan for v in found[k]["C"]]), **style)
        histogram.semilogy(
            bins[:-1],
            np.where((h := np.histogram(m.numpy(), bins, density=True)[0]) > 0, h, np.nan),
            **style,
        )
        counts.semilogy(heights, [len(peaks(m, float(h))) + 0.5 for h in heights], **style)
    ell = torch.logspace(2.4, 4.4, 50, dtype=torch.float64)
    spectrum.loglog(ell, ell**2 * convergence_spectrum(ell), "k--", lw=1)
    spectrum.set(xlabel="l", ylabel="l^2 C(l)", title="spectrum (dashed: target of amplitude 1)")
    histogram.set(xlabel="convergence", title="histogram")
    counts.set(xlabel="height", title="peaks above a height")
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    columns = {"rms": [d["rms"] for d in found], "skewness": [d["skewness"] for d in found]}
    columns |= {
        f"peaks > {level}": [d["peaks"][level] for d in found] for level in ("0.05", "0.1", "0.15")
    }
    rows = [
        {"quantity": name, "simulated": f"{v[0]:.3g}"}
        | {f"{q} %": f"{np.percentile(v[1:], q):.3g}" for q in (5, 50, 95)}
        for name, v in columns.items()
    ]
    return rows


def speed(args):
    rows = []
    for side in (64,) if args.quick else (360, 1024):
        for method in ("wiener", "map_mass"):
            run = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--one",
                    method,
                    str(side),
                    "--threads",
                    str(torch.get_num_threads()),
                ],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
            rows.append({"pixels": f"{side} x {side}", "method": method, **json.loads(run.stdout)})
    return rows


def measure(method, side):
    """Seconds and peak memory of one method: the sample repeated to the size."""
    kappa, noise, pixel = samples.lensing()
    times = -(-side // 360)
    kappa, noise = (
        kappa.repeat(times, times)[:side, :side],
        noise.repeat(times, times)[:side, :side],
    )
    _, shear = observe(kappa[None, None] - kappa.mean(), noise, pixel, 30, 0, (0, 0))
    D = network()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if method == "wiener":
        wiener(shear.gamma.float()[None], shear.noise.float(), convergence_spectrum, pixel)
    else:
        map_mass(shear, D, progress=False)
    return {
        "seconds": time.perf_counter() - start,
        "MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


if __name__ == "__main__":
    main()
