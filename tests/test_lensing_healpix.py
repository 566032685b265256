"""HEALPix: where pixels are, shear maps to tangent planes and back, files."""

import math

import numpy as np
import pytest
import torch
from astropy.io import fits

from pnp_mlpatch import denoisers
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.lensing import (
    bin_shear,
    healpix_catalogue,
    healpix_centres,
    read_healpix,
    to_healpix,
    write_healpix,
)
from pnp_mlpatch.lensing._sphere import directions, norths, plane_of
from pnp_mlpatch.lensing.healpix import UNSEEN
from pnp_mlpatch.pipelines.mass_map import MassMapConfig
from pnp_mlpatch.pipelines.mass_map_patches import map_mass_patches


def test_centres_of_the_twelve_base_pixels():
    """Figure 4 of Gorski et al. 2005: both orders are the same at nside 1."""
    z = math.degrees(math.asin(2 / 3))
    ra = [45, 135, 225, 315, 0, 90, 180, 270, 45, 135, 225, 315]
    dec = [z] * 4 + [0] * 4 + [-z] * 4
    for nest in (False, True):
        found = healpix_centres(1, nest=nest)
        torch.testing.assert_close(
            found, torch.tensor([ra, dec], dtype=torch.float64), atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("nside", [2, 4, 16])
def test_orders_hold_the_same_pixels(nside):
    ring, nest = (healpix_centres(nside, nest=order).numpy() for order in (False, True))
    places = [np.round(directions(*x), 9).T + 0.0 for x in (ring, nest)]
    ours, others = (x[np.lexsort(x.T)] for x in places)
    np.testing.assert_allclose(ours, others, atol=2e-9)
    assert len(np.unique(places[0], axis=0)) == 12 * nside**2
    assert (np.diff(ring[1]) < 1e-9).all()  # rings from North to South
    z = np.sin(np.radians(ring[1]))
    assert abs(z.mean()) < 1e-12
    assert (z**2).mean() == pytest.approx(1 / 3, abs=0.2 / nside**2)
    children = directions(*nest).reshape(3, 12 * (nside // 2) ** 2, 4).mean(-1)
    parents = directions(*healpix_centres(nside // 2, nest=True).numpy())
    cos = (children * parents).sum(0) / np.sqrt((children**2).sum(0))
    assert np.degrees(np.arccos(cos.clip(-1, 1))).max() < 60 / nside * 0.35


def test_centres_are_those_of_healpy():
    healpy = pytest.importorskip("healpy")
    for nside in (1, 4, 64):
        for nest in (False, True):
            theirs = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=nest, lonlat=True)
            np.testing.assert_allclose(healpix_centres(nside, nest=nest), theirs, atol=1e-10)


def test_shear_map_to_a_plane_and_back():
    """A smooth scalar field returns; noise and weights are those of the pixels."""
    nside = 128
    ra, dec = healpix_centres(nside, nest=True)
    near = ((ra - 180).abs() < 8) & ((dec - 30).abs() < 6)
    noise = torch.where(near, 0.1 + 0.05 * torch.rand(len(ra)).double(), 0.0)
    gamma = torch.stack([0.02 * torch.ones(len(ra)), -0.01 * torch.ones(len(ra))]).double()
    catalogue = healpix_catalogue(gamma, noise, nest=True)
    assert len(catalogue) == int(near.sum())
    shear = bin_shear(catalogue, "60 arcmin", centre=(180, 30))
    precision = shear.noise[shear.seen].square().reciprocal().sum()
    torch.testing.assert_close(precision, noise[near].square().reciprocal().sum())
    row, column = (n // 2 for n in shear.noise.shape)
    torch.testing.assert_close(shear.gamma[:, row, column], gamma[:, 0], atol=1e-3, rtol=0)
    rows, columns = torch.meshgrid(*map(torch.arange, shear.noise.shape), indexing="ij")
    axes, row0, column0 = plane_of(shear, "test")
    side = math.radians(1)
    s = axes.direction((column0 - columns.numpy()) * side, (rows.numpy() - row0) * side)
    back = to_healpix(torch.from_numpy(s[[2]]), shear, nside, nest=True)[0]
    inside = torch.isfinite(back) & ((ra - 180).abs() < 6) & ((dec - 30).abs() < 4)
    assert int(inside.sum()) > 150
    torch.testing.assert_close(
        back[inside], torch.sin(torch.deg2rad(dec[inside])), atol=3e-4, rtol=0
    )
    assert bool(torch.isnan(back[~near & ((ra - 180).abs() > 12)]).all())


def test_from_file_to_file(tmp_path):
    """A mass on the sphere: from a shear file by patches to a file, where it is."""
    nside, mass = 256, (200.0, -35.0)
    ra, dec = healpix_centres(nside).numpy()
    s, to = directions(ra, dec), directions(*np.array(mass)[:, None])[:, 0]
    north = norths(ra, dec)
    east = np.cross(north.T, s.T).T
    phi = np.arctan2(north.T @ to, east.T @ to)
    u = np.arccos(np.clip(to @ s, -1, 1)) ** 2 / (2 * math.radians(0.6) ** 2) + 1e-9
    e = -0.1 * ((1 - np.exp(-u)) / u - np.exp(-u)) * np.exp(2j * phi)
    rng = np.random.default_rng(0)
    e = e + 0.01 * rng.standard_normal((2, len(ra))).T @ (1, 1j)
    noise = np.where((abs(ra - 200) < 6) & (abs(dec + 33) < 4.5), 0.01, np.nan)
    columns = {"E1": e.real, "E2": e.imag, "NOISE": noise}
    maps = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in columns.items()}
    write_healpix(tmp_path / "shear.fits", maps)
    (e1, e2, std), nest = read_healpix(tmp_path / "shear.fits", list(maps))
    catalogue = healpix_catalogue(torch.stack([e1, e2]), std, nest=nest)
    shear = bin_shear(catalogue, "20 arcmin")
    assert float(shear.noise[shear.seen].max()) < 0.0101
    D = denoisers.make("mlpatch", weights="mlpatch-kappa")
    found = map_mass_patches(
        shear,
        D,
        MassMapConfig(iterations=4, burn_in=1),
        catalogue=catalogue,
        size="7 deg",
        overlap="3 deg",
        progress=False,
    )
    assert found.settings["patches"] > 1
    kappa = to_healpix(found.kappa[:1], shear, nside, nest=nest)[0]
    write_healpix(tmp_path / "kappa.fits", {"KAPPA_E": kappa})
    (back,), _ = read_healpix(tmp_path / "kappa.fits", ["kappa_e"])
    best = int(back.nan_to_num(-1).argmax())
    assert math.degrees(math.acos(float(to @ s[:, best]))) < 0.5
    assert float(back[best]) > 0.05
    assert int(back.isfinite().sum()) == pytest.approx(np.isfinite(noise).sum(), rel=0.1)


@pytest.mark.parametrize("nest", [False, True])
def test_files(nest, tmp_path):
    maps = {"KAPPA_E": torch.randn(768).float(), "SPREAD": torch.rand(768).float()}
    maps["KAPPA_E"][100:700] = torch.nan
    maps["SPREAD"][90:700] = torch.nan
    write_healpix(tmp_path / "k.fits", maps, nest=nest)
    found, order = read_healpix(tmp_path / "k.fits", ["kappa_e", "SPREAD"])
    assert order is nest
    for x, name in zip(found, maps, strict=True):
        np.testing.assert_array_equal(x.float(), maps[name])
    with fits.open(tmp_path / "k.fits") as file:
        assert file[1].header["NSIDE"] == 8
        assert len(file[1].data) == 168
        assert file[1].data["SPREAD"][95] == np.float32(UNSEEN)
    with pytest.raises(FileError, match=r"no column 'w'\. It holds: PIXEL, KAPPA_E, SPREAD"):
        read_healpix(tmp_path / "k.fits", ["w"])
    fits.ImageHDU(np.zeros((4, 4))).writeto(tmp_path / "flat.fits")
    with pytest.raises(FileError, match="no HEALPix table"):
        read_healpix(tmp_path / "flat.fits", ["a"])


def test_whole_sky_files_of_rows_of_1024(tmp_path):
    """As healpy writes maps by default: 1024 pixels a row."""
    values = np.arange(12 * 16**2, dtype=np.float32).reshape(-1, 1024)
    column = fits.Column("E1", "1024E", array=values)
    table = fits.BinTableHDU.from_columns([column])
    for key, value in (("PIXTYPE", "HEALPIX"), ("ORDERING", "RING"), ("NSIDE", 16)):
        table.header[key] = value
    table.header["INDXSCHM"] = "IMPLICIT"
    table.writeto(tmp_path / "e.fits")
    found, nest = read_healpix(tmp_path / "e.fits", ["e1"])
    assert nest is False
    np.testing.assert_array_equal(found[0], np.arange(3072))


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="nside must be a power of two"):
        healpix_centres(6)
    with pytest.raises(InputError, match="pixels of nside 2 are from 0 to 47, got 0 to 48"):
        healpix_centres(2, [0, 48])
    with pytest.raises(InputError, match="must be integers"):
        healpix_centres(2, [0.5])
    with pytest.raises(InputTypeError, match="must be floating tensors"):
        healpix_catalogue(np.zeros((2, 12)), np.zeros(12))
    with pytest.raises(InputError, match=r"expected gamma \(2, 12 nside\^2\)"):
        healpix_catalogue(torch.zeros(2, 13), torch.ones(13))
    with pytest.raises(InputError, match="no pixel is measured"):
        healpix_catalogue(torch.zeros(2, 12), torch.zeros(12))
    with pytest.raises(InputError, match=r"expected HEALPix maps \(12 nside\^2,\) of one size"):
        write_healpix(tmp_path / "k.fits", {"A": torch.zeros(12), "B": torch.zeros(48)})
