"""Is a wrong sign of e2 or of right ascension found, and are right signs left alone?

Draws of the noise on one sky, or on a generated sky each, as they are and with signs changed:
"e2": gamma_2 negated; "ra": the map mirrored along its columns, with the components as they are;
"both"; "turned": each shear turned by 45 degrees, which is no wrong sign but makes B as well. For
each: in how many draws the hint of lensing.check_signs appears, and the means of the excess of E
and B over their noise, in its standard deviations, before and after the flip, and of Pearson's
correlation of the smoothed map with the truth, before and after.

--kappa FILE.npy is the sky, (H, W); without it, skies are log-normal. --std FILE.npy [FILE.npy] is
the standard deviation of the shear (of two files the root mean square), --mask FILE.npy is 0 where
nothing was measured; without them, the noise of COSMOS that ships. --galaxies scales the noise to
densities for each square arcminute; without it, it stays as it is.

Run: python benchmarks/signs.py [--kappa FILE] [--std FILE [FILE]] [--mask FILE] [--draws N]
     [--galaxies N [N ...]]
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from common import arguments, parse, publish, survey_noise

from pnp_mlpatch.lensing import (
    ShearMap,
    arcmin,
    check_signs,
    convergence_spectrum,
    kaiser_squires,
    lognormal_convergence,
    optimal_width,
    shear_of,
    smoothed,
)
from pnp_mlpatch.lensing.units import SHAPE_NOISE
from pnp_mlpatch.pipelines.mass_map import border

DATA = ("right", "e2", "ra", "both", "turned")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--kappa", type=Path, help="the sky, an .npy (H, W)")
    parser.add_argument("--std", type=Path, nargs="+", help="standard deviation of the shear")
    parser.add_argument("--mask", type=Path, help="0 where nothing was measured")
    parser.add_argument("--pixel", default="0.293 arcmin", help="side of a pixel with its unit")
    parser.add_argument("--draws", type=int, default=20, help="of the noise (default: 20)")
    parser.add_argument("--galaxies", type=float, nargs="+", help="for each square arcminute")
    args = parse(parser)
    noise, rows = survey_noise(args.std, args.mask), []
    if args.quick and not args.std:
        noise = noise[100:196, 100:196]
    for n_gal in args.galaxies or [None]:
        scaled, density = scale(noise, n_gal, args.pixel)
        width = optimal_width(scaled, convergence_spectrum, args.pixel)
        found = {data: [] for data in DATA}
        for draw in range(2 if args.quick else args.draws):
            truth, shear = observe(sky(args, draw, scaled.shape), scaled, args.pixel, draw)
            for data in DATA:
                found[data].append(measure(data, truth, shear, width))
        rows += [
            {"galaxies": f"{density:.0f}", "signs": data, **summary(each)}
            for data, each in found.items()
        ]
    publish(args, {"Hints of a wrong sign": rows})


def scale(noise, n_gal, pixel):
    """The noise for a mean density of galaxies, and that density."""
    seen = torch.isfinite(noise)
    density = float((SHAPE_NOISE**2 / noise[seen].square() / arcmin(pixel) ** 2).mean())
    return (noise, density) if n_gal is None else (noise * (density / n_gal) ** 0.5, n_gal)


def sky(args, draw, shape):
    """The convergence (1, 1, H, W), less its mean."""
    if args.kappa:
        kappa = torch.from_numpy(np.load(args.kappa)).double()[None, None]
        kappa = kappa[..., : shape[0], : shape[1]]
    else:
        kappa = lognormal_convergence(tuple(shape), args.pixel, seed=draw).double()
    return kappa - kappa.mean()


def observe(kappa, noise, pixel, draw):
    """The truth (H, W) and its shear with noise."""
    seen = torch.isfinite(noise)
    e = torch.randn(2, *noise.shape, generator=torch.Generator().manual_seed(draw)).double()
    return kappa[0, 0], ShearMap(shear_of(kappa)[0] + e * torch.where(seen, noise, 0), noise, pixel)


def changed(data, truth, shear):
    """The truth and the shear map with signs changed; the truth is mirrored with the map."""
    gamma, noise = shear.gamma, shear.noise
    if data in ("ra", "both"):
        gamma, noise, truth = gamma.flip(-1), noise.flip(-1), truth.flip(-1)
    if data in ("e2", "both"):
        gamma = torch.stack([gamma[0], -gamma[1]])
    if data == "turned":
        gamma = torch.stack([-gamma[1], gamma[0]])
    return truth, dataclasses.replace(shear, gamma=gamma, noise=noise)


def measure(data, truth, shear, width):
    """The hint, the excess of each power, and Pearson before and after the flip."""
    truth, shear = changed(data, truth, shear)
    found = check_signs(shear, width=width, padding=border(shear.seen))
    row = {"hint": found.seem_wrong, **found.excess}
    for name, sign in (("pearson", 1), ("flipped pearson", -1)):
        gamma = torch.stack([shear.gamma[0], sign * shear.gamma[1]])[None]
        map_ = smoothed(kaiser_squires(gamma), width, shear.pixel)[0, 0]
        pair = torch.stack([map_[shear.seen], truth[shear.seen]])
        row[name] = float(torch.corrcoef(pair)[0, 1])
    return row


def summary(rows):
    """The number of hints, the means, and the largest B."""
    mean = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return {
        "hints": f"{sum(row['hint'] for row in rows)} of {len(rows)}",
        **{name: f"{mean[name]:.1f}" for name in ("E", "B", "flipped E", "flipped B")},
        "largest B": f"{max(row['B'] for row in rows):.1f}",
        **{name: f"{mean[name]:.2f}" for name in ("pearson", "flipped pearson")},
    }


if __name__ == "__main__":
    main()
