"""Do the intervals of mass maps hold the truth? And how much do their peaks tell?

Held-out skies are those of the training, of random amplitude and skewness, with the mask and the
noise of COSMOS that ship; no map is calibrated on them. Each is mapped with ``errors=True``, which
generates its own skies. Tables:

- coverage: shares of pixels inside their interval of 90 %, over all maps and the least and largest
  of one map. "edge" is measured pixels within an arcminute of a hole or the border, "holes" what
  the survey encloses, "outside" the rest; "above 0.05" measured pixels of such a height in the map;
  "peaks" the listed ones, with their own intervals. "width" is the mean of high - low, "std" the
  root mean square of error / std, which should be 1, and "spread" the share |error| < spread.
- bias: heights of the map's peaks above 0.05 and the truth there, by the signal-to-noise of the
  aperture mass there; and the same at the peaks of the truth, by what the aperture would have
  without noise.
- detection: of the highest peaks of each method, as many as map_mass has above a height, how many
  are within an arcminute of a true peak above 0.1 (purity), and how many of these are within an
  arcminute of one (completeness). "by chance" is the purity of places drawn at random.

--kappatng adds the coverage of the simulated sky that ships, of --draws draws of the noise. --keep
FOLDER keeps each map there, so that an interrupted run goes on; --rows A B does only the maps A to
B - 1. --time times one map instead, with errors and without.

Run: python benchmarks/mass_errors.py [--maps N] [--side N] [--iterations N] [--galaxies N]
     [--kappatng] [--keep FOLDER] [--rows A B] [--time]
"""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from common import arguments, parse, publish

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing import ShearMap, aperture_mass, arcmin, peaks, shear_of
from pnp_mlpatch.lensing.fields import random_convergence
from pnp_mlpatch.lensing.units import SHAPE_NOISE
from pnp_mlpatch.pipelines._mass_map_intervals import REGIONS, regions_of
from pnp_mlpatch.pipelines._mass_map_skies import counts
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass

SIDE = 360
RADII = (2, 3, 4)  # arcmin, of the aperture mass
BIAS_RADIUS = 3  # arcmin, of the aperture that bins peaks
TRUE_HEIGHT, DISTANCE = 0.1, 1.0  # of true peaks, and arcmin up to which a peak is the same
HEIGHTS = (0.05, 0.1)
EDGES = (-np.inf, 1, 2, 3, 4, 5, 7, np.inf)  # of the signal-to-noise
KEPT = ("truth", "kappa", "low", "high", "std", "spread", "peaks", "gamma", "clean", "seconds")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--maps", type=int, default=20, help="held-out skies (default: 20)")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels (default: 360, all)")
    parser.add_argument("--iterations", type=int, default=40, help="of map_mass (default: 40)")
    parser.add_argument("--galaxies", type=float, help="a square arcminute (default: as COSMOS)")
    parser.add_argument("--kappatng", action="store_true", help="add the sky that ships")
    parser.add_argument("--draws", type=int, default=2, help="of its noise (default: 2)")
    parser.add_argument("--keep", type=Path, help="a folder for the maps: a later run goes on")
    parser.add_argument("--rows", type=int, nargs=2, help="do only these maps", metavar=("A", "B"))
    parser.add_argument("--time", action="store_true", help="time one map, with errors and without")
    args = parse(parser)
    if args.quick:
        args.maps, args.side, args.iterations, args.draws = 1, 48, 6, 1
    if args.time:
        return publish(args, {"seconds of a map": timed(args)})
    noise, pixel = survey(args)
    first, last = args.rows or (0, args.maps)
    maps = [made(args, f"sky{k}", lambda k=k: held_out(args.side, k)) for k in range(first, last)]
    tables = {"coverage of held-out skies": coverage_table(maps, noise, pixel)}
    if args.kappatng:
        known = [
            made(args, f"kappatng{k}", lambda k=k: shipped(args.side, k)) for k in range(args.draws)
        ]
        tables["coverage of kappaTNG"] = coverage_table(known, noise, pixel)
        tables["detection of peaks of kappaTNG"] = detection_table(known, noise, pixel)
    tables |= bias_tables(maps, noise, pixel)
    tables["detection of peaks"] = detection_table(maps, noise, pixel)
    seconds = np.mean([m["seconds"] for m in maps])
    notes = [f"{args.iterations} iterations; seconds of a map with its errors: {seconds:.1f}"]
    if len(maps) > 2:
        notes.append(
            "correlation of a map's coverage with the log of the skewness of its truth: "
            f"{skewness_correlation(maps, torch.isfinite(noise).numpy()):.2f}"
        )
    publish(args, tables, notes)


# ---- maps


def survey(args):
    """The noise map of COSMOS, of a part with holes and a border for a smaller side."""
    _, noise, pixel = samples.lensing()
    if args.galaxies is not None:
        density = SHAPE_NOISE**2 / noise[torch.isfinite(noise)].square() / arcmin(pixel) ** 2
        noise = noise * (density.mean() / args.galaxies).sqrt()
    first = 0 if args.side >= SIDE else 30
    return noise[first : first + args.side, first : first + args.side], pixel


def held_out(side, k):
    """E (1, 1, H, W) on a wider field, and where the survey begins on it."""
    rng = np.random.default_rng((k, *b"held out"))
    return random_convergence(3 * side // 2, rng)[None], side // 4, k


def shipped(side, k):
    first = 0 if side >= SIDE else 30
    return samples.lensing()[0][None, None], first, k


def made(args, name, sky):
    """A map with its truth, as arrays; read if it was kept."""
    told = "" if args.galaxies is None else f"_{args.galaxies:g}"
    name = f"{name}_{args.side}_{args.iterations}{told}"
    path = args.keep / f"{name}.npz" if args.keep else None
    if path is not None and path.exists():
        with np.load(path) as file:
            return {key: file[key] for key in KEPT}
    kappa, first, k = sky()
    noise, pixel = survey(args)
    seen = torch.isfinite(noise)
    shear, clean, truth = observed(kappa, first, k, noise, pixel)
    D = denoisers.make("mlpatch", weights="mlpatch-kappa")
    config = MassMapConfig(iterations=args.iterations, seed=k)
    start = time.perf_counter()
    found = map_mass(shear, D, config, errors=True, progress=False)
    seconds = time.perf_counter() - start
    mean = found.kappa[0][seen].mean()
    rows = [
        [p[key] for key in ("row", "column", "kappa", "low", "high", "std")] for p in found.peaks
    ]
    rows = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    rows[:, 2:5] -= mean
    values = {
        "truth": truth - truth[seen].mean(),
        "kappa": found.kappa[0] - mean,
        "low": found.kappa_low - mean,
        "high": found.kappa_high - mean,
        "std": found.std,
        "spread": found.spread,
        "peaks": rows,
        "gamma": shear.gamma.float(),
        "clean": clean,
        "seconds": torch.tensor(seconds),
    }
    content = {key: value.numpy() for key, value in values.items()}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda temporary: np.savez(temporary.open("wb"), **content))
    print(
        f"{name}: {seconds:.0f} s, amplitude of its skies "
        f"{found.statistics['amplitude of skies']:.2f}",
        flush=True,
    )
    return content


def timed(args):
    """Seconds of one map, with errors and without, and of the short chain of a generated sky."""
    kappa, first, k = held_out(args.side, 0)
    noise, pixel = survey(args)
    shear, _, truth = observed(kappa, first, k, noise, pixel)
    D, rows = denoisers.make("mlpatch", weights="mlpatch-kappa"), []
    plain = MassMapConfig(iterations=args.iterations)
    short = MassMapConfig(iterations=counts(plain.iterations, plain.burn_in)[1])
    for config, errors in ((plain, False), (short, False), (plain, True)):
        start = time.process_time()
        found = map_mass(shear, D, config, errors=errors, progress=False)
        seconds = {"seconds": found.seconds, "of the processor": time.process_time() - start}
        error = (found.kappa[0] - truth)[shear.seen]
        row = {"iterations": config.iterations, "errors": str(errors), **seconds}
        rows.append(row | {"rms of the error": f"{float(error.std()):.5f}"})
    return rows


def observed(kappa, first, k, noise, pixel):
    """The shear map of a sky, its shear without noise, and its truth (H, W)."""
    seen, inner = torch.isfinite(noise), (..., *[slice(first, first + len(noise))] * 2)
    clean = shear_of(kappa - kappa.mean())[inner][0]
    e = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1000 + k))
    gamma = torch.where(seen, clean + torch.where(seen, noise, 0.0) * e, 0.0)
    return ShearMap(gamma, noise, pixel), clean, kappa[inner][0, 0]


# ---- coverage


def classes(noise, pixel):
    """Masks (H, W) of the classes that do not depend on the map."""
    seen = torch.isfinite(noise)
    labels, _ = require("scipy.ndimage", "mass_errors").label(~seen.numpy())
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    outside = np.isin(labels, border[border > 0])
    edge = (regions_of(seen, pixel) == REGIONS.index("edge")).numpy()
    seen = seen.numpy()
    return {
        "all pixels": np.ones_like(seen),
        "measured": seen,
        "edge": edge,
        "holes": ~seen & ~outside,
        "outside": outside,
    }


def coverage_table(maps, noise, pixel):
    fixed, rows = classes(noise, pixel), []
    for name in [*fixed, *(f"above {height:g}" for height in HEIGHTS), "peaks"]:
        found = [scores(m, name, fixed) for m in maps]
        inside, total, width, square, below = np.array(found).T
        if not total.sum():
            continue
        single = inside[total > 0] / total[total > 0]
        rows.append(
            {
                "pixels": name,
                "of a map": f"{total.mean():.0f}",
                "coverage": f"{inside.sum() / total.sum():.3f}",
                "least": f"{single.min():.3f}",
                "largest": f"{single.max():.3f}",
                "width": f"{width.sum() / total.sum():.4f}",
                "error / std": f"{np.sqrt(square.sum() / total.sum()):.2f}",
                "error < spread": f"{below.sum() / total.sum():.3f}",
            }
        )
    return rows


def skewness_correlation(maps, seen):
    """The correlation of coverage and the log of the skewness of the truth, both where measured."""
    rows = []
    for m in maps:
        truth, inside = m["truth"][seen], (m["low"] <= m["truth"]) & (m["truth"] <= m["high"])
        skewness = (truth**3).mean() / np.square(truth).mean() ** 1.5
        rows.append((inside[seen].mean(), np.log(max(skewness, 1e-9))))
    return np.corrcoef(np.array(rows).T)[0, 1]


def scores(m, name, fixed):
    """Sums over the pixels of a class: inside, number, width, (error / std)^2, error < spread."""
    if name == "peaks":
        row, column = m["peaks"][:, :2].astype(int).T
        x, low, high, std = m["peaks"][:, 2:].T
        truth, spread = m["truth"][row, column], m["spread"][row, column]
    else:
        where = fixed.get(name)
        if where is None:
            where = fixed["measured"] & (m["kappa"] > float(name.split()[1]))
        x, low, high, std, truth, spread = (
            m[key][where] for key in ("kappa", "low", "high", "std", "truth", "spread")
        )
    error = truth - x
    inside = ((low <= truth) & (truth <= high)).sum()
    return (
        inside,
        len(x),
        (high - low).sum(),
        np.square(error / std).sum(),
        (np.abs(error) < spread).sum(),
    )


# ---- peaks


def bias_tables(maps, noise, pixel):
    """Mean heights at peaks above 0.05 of the map and of the truth, by signal-to-noise."""
    return {
        f"bias at peaks of the {which}": bias_rows(maps, noise, pixel, shear, field)
        for which, shear, field in (("map", "gamma", "kappa"), ("truth", "clean", "truth"))
    }


def bias_rows(maps, noise, pixel, shear, field):
    seen, found = torch.isfinite(noise), []
    for m in maps:
        shears = torch.where(seen, torch.from_numpy(m[shear]).float(), 0.0)[None]
        snr = aperture_mass(shears, noise, f"{BIAS_RADIUS} arcmin", pixel)[1][0, 0].numpy()
        places = peaks(torch.from_numpy(m[field]).where(seen, 0.0), HEIGHTS[0], seen)
        at = tuple(places.T.numpy())
        found.append(np.stack([snr[at], m["kappa"][at], m["truth"][at]]))
    snr, x, truth = np.concatenate(found, axis=1)
    rows = []
    for a, b in pairwise(EDGES):
        here = (snr > a) & (snr <= b)
        row = {"signal-to-noise": f"{a:g} to {b:g}", "peaks": int(here.sum())}
        row |= dict.fromkeys(("map", "truth", "map / truth"), "")
        if here.any():
            height, right = x[here].mean(), truth[here].mean()
            row |= {"map": f"{height:.3f}", "truth": f"{right:.3f}"}
            row["map / truth"] = f"{height / right:.2f}"
        rows.append(row)
    return rows


def detection_table(maps, noise, pixel):
    seen, reach = torch.isfinite(noise), DISTANCE / arcmin(pixel)
    sums: dict[tuple, np.ndarray] = {}
    rng = np.random.default_rng(0)
    places = seen.nonzero()
    for m in maps:
        truth = peaks(torch.from_numpy(m["truth"]).where(seen, 0.0), TRUE_HEIGHT, seen)
        shears = torch.from_numpy(m["gamma"]).float()[None]
        fields = {"map_mass": torch.from_numpy(m["kappa"]).where(seen, -1.0)}
        for radius in RADII:
            for kind in ("polynomial", "gaussian"):
                scale = radius if kind == "polynomial" else radius / 4  # the same reach
                if scale >= arcmin(pixel):
                    snr = aperture_mass(shears, noise, f"{scale} arcmin", pixel, filter=kind)[1]
                    fields[f"aperture mass, {kind}, {scale:g} arcmin"] = snr[0, 0].where(seen, -1e3)
        for height in HEIGHTS:
            count = len(peaks(fields["map_mass"], height, seen))
            ordered = {name: peaks(x, -100.0, seen)[:count] for name, x in fields.items()}
            ordered["by chance"] = places[rng.choice(len(places), count, replace=False)]
            for name, found in ordered.items():
                near = torch.cdist(found.double(), truth.double()) <= reach
                row = [near.any(1).sum(), len(found), near.any(0).sum(), len(truth)]
                sums[height, name] = sums.get((height, name), 0) + np.array([int(v) for v in row])
    return [
        {
            "as many as map_mass above": f"{height:g}",
            "method": name,
            "peaks of a map": f"{count / len(maps):.1f}",
            "purity": f"{right / max(count, 1):.3f}",
            "completeness": f"{hit / max(true, 1):.3f}",
        }
        for (height, name), (right, count, hit, true) in sums.items()
    ]


if __name__ == "__main__":
    main()
