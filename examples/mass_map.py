"""Dark matter from a shear map: a simulated sky with the mask and the noise of a real survey.

The sky is the simulated convergence that ships with the package, observed with the mask and noise
map of COSMOS; the shear goes into a FITS file with a WCS. The rest is what a person with such a
file does: Kaiser-Squires, smoothed, the Wiener filter, and plug-and-play with a denoiser that was
trained on generated maps. The truth is used for the table only, and PSNR stands last: the map that
is zero everywhere has a high one.
Run: python examples/mass_map.py [--quick] [--out DIR]
"""

import argparse
from pathlib import Path

import torch
from astropy.io import fits
from astropy.wcs import WCS

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.lensing import wiener
from pnp_mlpatch.lensing.estimators import kaiser_squires, optimal_width, shear_of, smoothed
from pnp_mlpatch.lensing.fits import read_shear, write_convergence
from pnp_mlpatch.lensing.spectra import convergence_spectrum
from pnp_mlpatch.lensing.statistics import judge
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass
from pnp_mlpatch.viz.panels import mass_panel, table


def write_shear(path, kappa, noise, seed=0):
    """What a survey leaves: two components of shear, their noise, a mask, and a WCS.

    The components are along (right ascension, declination).
    """
    seen = torch.isfinite(noise)
    gamma = shear_of(kappa[None, None], flip_ra=True)[0]  # right ascension grows to the left
    gamma = gamma + torch.where(seen, noise, 0.0) * torch.randn(
        gamma.shape, generator=torch.Generator().manual_seed(seed)
    )
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = (
        ["RA---TAN", "DEC--TAN"],
        [150.1, 2.2],
        [n / 2 + 0.5 for n in reversed(kappa.shape)],
    )
    wcs.wcs.cdelt, wcs.wcs.cunit = [-0.293 / 60, 0.293 / 60], ["deg", "deg"]
    maps = {"GAMMA1": gamma[0], "GAMMA2": gamma[1], "NOISE": noise, "MASK": seen.to(torch.uint8)}
    images = [
        fits.ImageHDU(values.numpy(), wcs.to_header(), name=name) for name, values in maps.items()
    ]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path, overwrite=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small part of the sky, few iterations"
    )
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    truth, noise, _ = samples.lensing()
    truth = truth - truth.mean()
    if args.quick:
        truth, noise = truth[130:210, 130:230], noise[130:210, 130:230]
    write_shear(args.out / "shear.fits", truth, noise)

    shear = read_shear(args.out / "shear.fits")
    q, std = shear.gamma.float()[None], shear.noise.float()
    ks = kaiser_squires(q, flip_ra=shear.flip_ra)
    width = optimal_width(std, convergence_spectrum, shear.pixel)
    D = denoisers.make("mlpatch", weights="mlpatch-kappa")
    found = map_mass(shear, D, MassMapConfig(iterations=8) if args.quick else None)
    write_convergence(
        args.out / "kappa.fits",
        found.kappa,
        shear,
        more={"SPREAD": found.spread},
        provenance={"settings": found.settings},
    )
    maps = {
        "Kaiser-Squires": ks[0],
        f"smoothed, {width}": smoothed(ks, width, shear.pixel)[0],
        "Wiener filter": wiener(q, std, convergence_spectrum, shear.pixel, flip_ra=shear.flip_ra)[
            0
        ],
        "plug-and-play, MLPatch": found.kappa,
        "zero": torch.zeros_like(truth)[None],
    }
    rows = []
    for name, x in maps.items():
        score = judge(x, truth, shear.pixel, shear.seen)
        counts = f"{score['peaks']['0.1']} of {score['true peaks']['0.1']}"
        rows.append(
            {
                "map": name,
                "NRMSE": score["nrmse"],
                "Pearson": score["pearson"],
                "peaks above 0.1": counts,
                "PSNR (dB)": score["psnr"],
            }
        )
    print(table(rows))
    s = found.statistics
    print(
        f"B modes of the smoothed map: rms {s['B rms']:.4f}, of noise alone "
        f"{s['B rms of noise']:.4f}; {found.seconds:.1f} s"
    )
    shown = (
        {"truth": truth}
        | {name: x[0] for name, x in maps.items() if name != "zero"}
        | {"B of the smoothed map": found.kappa[1]}
    )
    mass_panel(
        args.out / "mass_map.png", shown, pixel=shear.pixel, mask=shear.seen, flip_ra=shear.flip_ra
    )


if __name__ == "__main__":
    main()
