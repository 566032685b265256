"""How high is a cluster in the map, as a share of the truth, from shallow to deep data?

A halo of convergence --peak stands in the middle of a log-normal map. The data are its shear with
the noise of so many galaxies for each square arcminute, without a mask. For each method: the mean
of the map within one arcminute of the centre, less the median of the map, over that of the truth;
the mean over --draws of the noise and of the map behind. "nfw" is the profile of Navarro, Frenk and
White (scale radius 2 arcmin, core 0.3
arcmin), "gauss" a Gaussian with a standard deviation of 1 arcmin, which no weights were trained on.

Run: python benchmarks/mass_clusters.py [--peak K [K ...]] [--draws N] [--weights NAME [NAME ...]]
"""

import torch
from common import arguments, parse, publish

from pnp_mlpatch import denoisers
from pnp_mlpatch.lensing import (
    ShearMap,
    arcmin,
    convergence_spectrum,
    kaiser_squires,
    lognormal_convergence,
    mcalens,
    nfw_convergence,
    optimal_width,
    pixel_noise,
    shear_of,
    smoothed,
    wiener,
)
from pnp_mlpatch.lensing.fields import PIXEL
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass

GALAXIES = (10, 30, 100, 300)
WEIGHTS = ("mlpatch-kappa", "mlpatch-kappa-clusters")
SIDE, MARGIN = 192, 64  # pixels of the map, and of the field beyond it on each side


def main():
    parser = arguments(__doc__)
    parser.add_argument("--peak", type=float, nargs="+", default=[0.3, 1.0])
    parser.add_argument("--draws", type=int, default=4, help="of the noise (default: 4)")
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, help="of the denoisers")
    args = parse(parser)
    D = {name: denoisers.make("mlpatch", weights=name) for name in args.weights}
    rows = []
    for form in ("nfw", "gauss"):
        for peak in args.peak[: 1 if args.quick else None]:
            for n_gal in GALAXIES[: 1 if args.quick else None]:
                shares = [
                    measure(form, peak, n_gal, draw, D, 4 if args.quick else 40)
                    for draw in range(1 if args.quick else args.draws)
                ]
                mean = {k: sum(s[k] for s in shares) / len(shares) for k in shares[0]}
                rows.append(
                    {"halo": form, "peak": peak, "galaxies": n_gal}
                    | {k: f"{v:.2f}" for k, v in mean.items()}
                )
    publish(args, {"Height of a cluster within 1 arcmin, over that of the truth": rows})


def measure(form, peak, n_gal, draw, D, iterations):
    """The share of the true height, by method."""
    whole = SIDE + 2 * MARGIN
    kappa = lognormal_convergence((whole, whole), PIXEL, seed=draw)
    kappa = kappa - kappa.mean() + halo(form, peak, whole)
    cut = (slice(MARGIN, MARGIN + SIDE),) * 2
    truth, gamma = kappa[0, 0][cut], shear_of(kappa)[(0, slice(None), *cut)]
    noise = torch.full((SIDE, SIDE), pixel_noise(n_gal, PIXEL))
    gamma = gamma + noise * torch.randn(gamma.shape, generator=torch.Generator().manual_seed(draw))
    q, width = gamma[None], optimal_width(noise, convergence_spectrum, PIXEL)
    config = MassMapConfig(iterations=iterations, burn_in=min(4, iterations - 1))
    shear = ShearMap(gamma, noise, PIXEL)
    maps = {
        "smoothed": smoothed(kaiser_squires(q), width, PIXEL)[0, 0],
        "Wiener": wiener(q, noise, convergence_spectrum, PIXEL)[0, 0],
        "MCALens": mcalens(q, noise, convergence_spectrum, PIXEL)[0, 0],
    }
    for name, network in D.items():
        maps[f"map_mass, {name}"] = map_mass(shear, network, config, progress=False).kappa[0]
    true = height(truth)
    return {name: height(x) / true for name, x in maps.items()}


def height(x):
    """The mean within 1 arcmin of the centre, less the median of the map."""
    r = torch.arange(SIDE) - SIDE // 2
    near = (r[:, None] ** 2 + r[None] ** 2).sqrt() * arcmin(PIXEL) < 1
    return float(x[near].mean() - x.median())


def halo(form, peak, side):
    """The convergence (1, 1, side, side) of a halo in the middle."""
    if form == "nfw":
        return nfw_convergence((side, side), PIXEL, peak=peak)
    r = (torch.arange(side) - side // 2) * arcmin(PIXEL)
    return peak * torch.exp(-(r[:, None] ** 2 + r[None] ** 2) / 2)[None, None]


if __name__ == "__main__":
    main()
