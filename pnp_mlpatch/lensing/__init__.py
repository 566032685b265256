"""Weak lensing: shear maps and catalogues, spectra, estimators, random maps, statistics."""

from pnp_mlpatch.lensing._wiener import wiener
from pnp_mlpatch.lensing.binning import bin_shear, bin_shear_tomographic
from pnp_mlpatch.lensing.catalogue import Catalogue, read_catalogue
from pnp_mlpatch.lensing.estimators import (
    from_reduced,
    kaiser_squires,
    optimal_width,
    reduced,
    shear_of,
    smoothed,
)
from pnp_mlpatch.lensing.fields import lognormal_convergence
from pnp_mlpatch.lensing.fits import (
    ShearMap,
    read_map,
    read_provenance,
    read_shear,
    write_convergence,
)
from pnp_mlpatch.lensing.halos import nfw_convergence
from pnp_mlpatch.lensing.healpix import (
    healpix_catalogue,
    healpix_centres,
    read_healpix,
    to_healpix,
    write_healpix,
)
from pnp_mlpatch.lensing.mcalens import mcalens, starlet
from pnp_mlpatch.lensing.signs import Signs, check_signs
from pnp_mlpatch.lensing.spectra import convergence_spectrum, power_spectrum, tabulated
from pnp_mlpatch.lensing.statistics import describe_map, judge, peaks
from pnp_mlpatch.lensing.units import arcmin, pixel_noise, radians

__all__ = [
    "Catalogue",
    "ShearMap",
    "Signs",
    "arcmin",
    "bin_shear",
    "bin_shear_tomographic",
    "check_signs",
    "convergence_spectrum",
    "describe_map",
    "from_reduced",
    "healpix_catalogue",
    "healpix_centres",
    "judge",
    "kaiser_squires",
    "lognormal_convergence",
    "mcalens",
    "nfw_convergence",
    "optimal_width",
    "peaks",
    "pixel_noise",
    "power_spectrum",
    "radians",
    "read_catalogue",
    "read_healpix",
    "read_map",
    "read_provenance",
    "read_shear",
    "reduced",
    "shear_of",
    "smoothed",
    "starlet",
    "tabulated",
    "to_healpix",
    "wiener",
    "write_convergence",
    "write_healpix",
]
