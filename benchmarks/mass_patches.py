"""Mass maps by overlapping patches, against the map of the whole field.

A log-normal field of --side degrees with white noise of 30 galaxies for each square arcminute and
no mask is mapped as a whole and in 3 x 3 patches, for several overlaps. Both use the same random
numbers, which follow from the place in the field. The table has the rms of the difference, blended
less whole, over the noise of the map: the rms of Kaiser-Squires of the noise alone, smoothed with
the width that suits it (optimal_width). "seams" are the pixels in which more than one patch has a
weight, "elsewhere" the others, "largest" is the largest difference in a seam. Both maps are taken
less their mean, which shear does not tell. "posterior" is the difference in the seams over the rms
error of the whole-field map. The note at the end has the rms difference of two whole-field maps
with other random numbers, over the noise of the map: what 40 draws leave open. With --plain,
"pasted" are patches that are mapped on their own by map_mass, and blended.

Run: python benchmarks/mass_patches.py [--side DEGREES] [--pixel ANGLE] [--overlaps MINUTES ...]
     [--plain] [--keep FOLDER]
"""

import dataclasses
from pathlib import Path

import torch
from common import arguments, parse, publish

from pnp_mlpatch import denoisers
from pnp_mlpatch.lensing import (
    ShearMap,
    arcmin,
    convergence_spectrum,
    kaiser_squires,
    lognormal_convergence,
    optimal_width,
    pixel_noise,
    shear_of,
    smoothed,
)
from pnp_mlpatch.lensing.patches import blend, patches_of, seams
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass
from pnp_mlpatch.pipelines.mass_map_patches import map_mass_patches


def main():
    parser = arguments(__doc__)
    parser.add_argument("--side", type=float, default=10.0, help="of the field, in degrees")
    parser.add_argument("--pixel", default="2 arcmin", help="side of a pixel")
    parser.add_argument("--overlaps", type=float, nargs="+", default=[60, 120, 180])
    parser.add_argument("--n-gal", type=float, default=30.0)
    parser.add_argument("--keep", type=Path, help="folder for finished maps; a run goes on from it")
    parser.add_argument("--plain", action="store_true", help="add patches that are only pasted")
    args = parse(parser)
    if args.quick:
        args.side, args.overlaps = 2.0, [20.0]
    truth, shear = field(args)
    config = MassMapConfig(iterations=5, burn_in=1) if args.quick else MassMapConfig()
    D = denoisers.make("mlpatch", weights="mlpatch-kappa")

    def solve(size, overlap, settings=config):
        kept = args.keep and args.keep / f"{size}-{overlap}-{settings.seed}".replace(" ", "")
        found = map_mass_patches(
            shear, D, settings, size=size, overlap=overlap, checkpoint=kept, progress=False
        )
        return found.kappa[0] - found.kappa[0].mean()

    noise = noise_of_map(shear)
    whole, once = (f"{2 * args.side} deg", "1 deg"), dataclasses.replace(config, seed=1)
    other, whole = solve(*whole, once), solve(*whole)
    error, rows = rms(whole - truth), []
    for overlap in args.overlaps:
        size = (60 * args.side + 2 * overlap) / 3 + arcmin(shear.pixel)
        sizes = f"{size} arcmin", f"{overlap} arcmin"
        patches = patches_of(tuple(whole.shape), shear.pixel, *sizes)
        inside, maps = seams(patches, tuple(whole.shape)), {"map_mass_patches": solve(*sizes)}
        if args.plain:
            maps["pasted"] = pasted(shear, patches, D, config)
        for method, kappa in maps.items():
            difference = kappa - whole
            rows.append(
                {
                    "overlap (arcmin)": f"{overlap:g}",
                    "patches": f"{len(patches)} of {patches[0].shape[0]} x {patches[0].shape[1]}",
                    "method": method,
                    "seams": f"{rms(difference[inside]) / noise:.4f}",
                    "elsewhere": f"{rms(difference[~inside]) / noise:.4f}",
                    "largest": f"{float(difference[inside].abs().max()) / noise:.3f}",
                    "posterior": f"{rms(difference[inside]) / error:.4f}",
                    "error": f"{rms(kappa - truth):.5f}",
                }
            )
    publish(
        args,
        {"blended less whole field, over the noise of the map": rows},
        [
            f"{' x '.join(map(str, whole.shape))} pixels of {shear.pixel}; noise of the map "
            f"{noise:.5f}; error of the whole-field map {error:.5f}",
            "two whole-field maps with other random numbers: "
            f"{rms(other - whole) / noise:.4f} of the noise",
        ],
    )


def rms(x):
    return float(x.square().mean().sqrt())


def pasted(shear, patches, D, config):
    """Patches that are mapped on their own, with their own random numbers, and blended."""
    maps = []
    for patch in patches:
        rows, columns = patch.window
        cut = ShearMap(shear.gamma[:, rows, columns], shear.noise[rows, columns], shear.pixel)
        maps.append(map_mass(cut, D, config, progress=False).kappa[0])
    kappa = blend(maps, patches, tuple(shear.noise.shape))
    return kappa - kappa.mean()


def field(args):
    """The truth (H, W) less its mean, and its shear, cut from a field of twice the side."""
    side = round(60 * args.side / arcmin(args.pixel))
    kappa = lognormal_convergence((2 * side, 2 * side), args.pixel, seed=1)
    part = slice(side // 2, side // 2 + side)
    gamma = shear_of(kappa - kappa.mean())[0, :, part, part]
    std = torch.full((side, side), float(pixel_noise(args.n_gal, args.pixel)))
    e = torch.randn(gamma.shape, generator=torch.Generator().manual_seed(0))
    truth = kappa[0, 0, part, part]
    return truth - truth.mean(), ShearMap(gamma + std * e, std, args.pixel)


def noise_of_map(shear):
    """The rms of smoothed Kaiser-Squires maps of the noise alone."""
    width = optimal_width(shear.noise, convergence_spectrum, shear.pixel)
    e = torch.randn(4, 2, *shear.noise.shape, generator=torch.Generator().manual_seed(1))
    maps = smoothed(kaiser_squires(shear.noise.float() * e), width, shear.pixel)
    return float(maps[:, 0].square().mean().sqrt())


if __name__ == "__main__":
    main()
