"""Catalogues into shear maps: galaxies land where the WCS says, means and noise are those of the
equations.
"""

from __future__ import annotations

import gzip
import math
import time
import warnings

import numpy as np
import pytest
import torch
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.lensing import Catalogue, bin_shear, read_catalogue
from pnp_mlpatch.lensing.estimators import kaiser_squires
from pnp_mlpatch.lensing.fits import read_map, write_convergence

N = 50


@pytest.fixture(autouse=True)
def _no_warning_passes():
    """Nor do print options that other packages have set: astropy writes its text tables by them."""
    with warnings.catch_warnings(), np.printoptions(legacy=False):
        warnings.simplefilter("error")
        yield


def galaxies(n=N, ra=150.0, dec=2.0, span=0.3, seed=0, e=None):
    """A catalogue of n galaxies in a square of ``span`` degrees, or of columns for a table."""
    rng = np.random.default_rng(seed)
    columns = {
        "ra": ra + span * (rng.random(n) - 0.5) / math.cos(math.radians(dec)),
        "dec": dec + span * (rng.random(n) - 0.5),
        "e1": np.full(n, e[0]) if e else np.clip(0.26 * rng.standard_normal(n), -0.7, 0.7),
        "e2": np.full(n, e[1]) if e else np.clip(0.26 * rng.standard_normal(n), -0.7, 0.7),
        "w": rng.random(n) + 0.2,
    }
    return columns


def catalogue(**columns):
    return Catalogue(
        **{
            name: torch.from_numpy(np.asarray(values, dtype=np.float64))
            for name, values in columns.items()
        }
    )


def same(found, columns):
    for name, values in columns.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-12)
    return len(found) == len(columns["ra"])


# ---- files


@pytest.mark.parametrize("kind", ["fits", "fits.gz", "csv", "ecsv"])
def test_files(kind, tmp_path):
    columns = galaxies()
    path = tmp_path / f"a.{kind}"
    Table(columns).write(path)
    found = read_catalogue(path)
    assert same(found, columns)
    assert all(getattr(found, name).dtype == torch.float64 for name in columns)
    assert same(read_catalogue(path, flip_e2=True), columns | {"e2": -columns["e2"]})
    assert same(read_catalogue(path, w=None), columns | {"w": np.ones(N)})
    assert same(
        read_catalogue(path, e1="E2", e2="E1"), columns | {"e1": columns["e2"], "e2": columns["e1"]}
    )


def test_float32_columns_with_other_names(tmp_path):
    columns = galaxies()
    table = Table(
        {
            "ALPHA_J2000": columns["ra"],
            "DELTA_J2000": columns["dec"],
            "g1": np.float32(columns["e1"]),
            "g2": np.float32(columns["e2"]),
        }
    )
    table.write(tmp_path / "a.fits")
    found = read_catalogue(
        tmp_path / "a.fits", ra="alpha_j2000", dec="DELTA_J2000", e1="g1", e2="g2"
    )
    assert same(
        found,
        columns
        | {"e1": np.float32(columns["e1"]), "e2": np.float32(columns["e2"]), "w": np.ones(N)},
    )
    with pytest.raises(
        FileError,
        match=r"no column 'ra'. It holds: ALPHA_J2000, DELTA_J2000, g1, g2. Name one: ra='NAME'",
    ):
        read_catalogue(tmp_path / "a.fits")
    with pytest.raises(FileError, match=r"no column 'weight'.*w='NAME'"):
        read_catalogue(
            tmp_path / "a.fits", ra="alpha_j2000", dec="DELTA_J2000", e1="g1", e2="g2", w="weight"
        )


def test_weights_by_another_name(tmp_path):
    columns = galaxies()
    Table({"Weight" if name == "w" else name: values for name, values in columns.items()}).write(
        tmp_path / "a.csv"
    )
    with pytest.warns(
        UserWarning, match=r"no column 'w', so all galaxies weigh the same. Was w='Weight' meant"
    ):
        read_catalogue(tmp_path / "a.csv")
    assert same(read_catalogue(tmp_path / "a.csv", w="weight"), columns)


def test_which_table(tmp_path):
    columns = galaxies()
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.ones((2, 2)))]
    hdus += [fits.BinTableHDU(Table(galaxies(seed=seed)), name=f"T{seed}") for seed in (0, 1)]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    assert same(read_catalogue(tmp_path / "a.fits"), columns)
    for name in ("[t1]", "[3]"):
        assert same(read_catalogue(f"{tmp_path / 'a.fits'}{name}"), galaxies(seed=1))
    with pytest.raises(FileError, match=r"no table \[T2\]. Tables in the file: \[2\] T0, \[3\] T1"):
        read_catalogue(f"{tmp_path / 'a.fits'}[T2]")
    fits.PrimaryHDU(np.ones((2, 2))).writeto(tmp_path / "b.fits")
    with pytest.raises(FileError, match=r"no table. Tables in the file: none"):
        read_catalogue(tmp_path / "b.fits")


@pytest.mark.parametrize("kind", ["fits", "ecsv"])
def test_units_of_angles(kind, tmp_path):
    columns = galaxies()
    for unit in (units.deg, units.rad, units.hourangle, units.arcmin):
        table = Table(columns)
        for name in ("ra", "dec"):
            table[name] = (columns[name] * units.deg).to(unit)
        if kind == "fits" and unit == units.hourangle:  # which FITS has not
            continue
        table.write(tmp_path / f"a.{kind}", overwrite=True)
        assert same(read_catalogue(tmp_path / f"a.{kind}"), columns)
    table["ra"].unit = units.m
    table.write(tmp_path / f"a.{kind}", overwrite=True)
    with pytest.raises(InputError, match=r"unit 'm' of column 'ra' is no angle"):
        read_catalogue(tmp_path / f"a.{kind}")


def test_units_by_other_names(tmp_path):
    columns = galaxies()
    formats = {"ra": ("hours", 15), "dec": ("Degrees", 1)}
    cols = [
        fits.Column(n, "D", array=v / formats.get(n, ("", 1))[1], unit=formats.get(n, (None,))[0])
        for n, v in columns.items()
    ]
    fits.BinTableHDU.from_columns(cols).writeto(tmp_path / "a.fits")
    assert same(read_catalogue(tmp_path / "a.fits"), columns)


def test_files_that_are_none(tmp_path):
    for name in ("a.fits", "a.csv"):
        with pytest.raises(FileError, match="no such file"):
            read_catalogue(tmp_path / name)
        (tmp_path / name).write_bytes(bytes(range(256)) * 50)
        with pytest.raises(FileError, match="not a"):
            read_catalogue(tmp_path / name)
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"unknown ending '.txt'. Readable: .*\.csv, \.ecsv"):
        read_catalogue(tmp_path / "a.txt")
    with pytest.raises(InputTypeError, match="expected the path"):
        read_catalogue(3)
    with pytest.raises(InputTypeError, match="ra must be the name of a column"):
        read_catalogue(tmp_path / "a.csv", ra=1)
    with pytest.raises(InputTypeError, match="flip_e2 must be True or False"):
        read_catalogue(tmp_path / "a.csv", flip_e2=-1)
    Table(galaxies()).write(tmp_path / "b.fits")
    whole = (tmp_path / "b.fits").read_bytes()
    (tmp_path / "b.fits").write_bytes(whole[: len(whole) - 2880])
    with pytest.raises(FileError, match="not a whole FITS file"):
        read_catalogue(tmp_path / "b.fits")
    (tmp_path / "b.fits.gz").write_bytes(gzip.compress(whole)[:1500])
    with pytest.raises(FileError, match="not a whole FITS file"):
        read_catalogue(tmp_path / "b.fits.gz")


def test_columns_that_cannot_be(tmp_path):
    columns = galaxies()
    Table(columns | {"ra": ["10:00:28.6"] * N}).write(tmp_path / "a.csv")
    with pytest.raises(
        InputError, match=r"column 'ra' must hold one real number a row.*Convert sexagesimal"
    ):
        read_catalogue(tmp_path / "a.csv")
    Table(columns | {"e1": np.ones((N, 2))}).write(tmp_path / "a.fits")
    with pytest.raises(
        InputError, match=r"column 'e1' must hold one real number a row, got .* \(50, 2\)"
    ):
        read_catalogue(tmp_path / "a.fits")
    Table(
        {"RA": columns["ra"], "Ra": columns["ra"]} | {n: columns[n] for n in ("dec", "e1", "e2")}
    ).write(tmp_path / "b.csv")
    with pytest.raises(FileError, match="columns RA, Ra differ in case only"):
        read_catalogue(tmp_path / "b.csv")
    assert same(read_catalogue(tmp_path / "b.csv", ra="Ra"), columns | {"w": np.ones(N)})
    mask = np.arange(N) < 4
    Table(columns | {"e1": MaskedColumn(columns["e1"], mask=mask)}).write(tmp_path / "c.csv")
    with pytest.raises(
        InputError, match=r"c.csv: Catalogue: the ellipticity of 4 of 50 galaxies is NaN"
    ):
        read_catalogue(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w": [-1, 1, np.nan]}, InputError, "2 of 3 weights are negative, NaN"),
        ({"w": [0, 0, 0]}, InputError, "no galaxy has a weight above 0"),
        (
            {"e1": [0.8, 0, np.nan], "e2": [0.7, 0, 0]},
            InputError,
            "ellipticity of 2 of 3 galaxies is NaN or not below 1",
        ),
        ({"ra": [400, 0, 1]}, InputError, "ra of 1 galaxies is NaN or outside -180 to 360"),
        ({"dec": [150, 0, -91]}, InputError, "dec of 2 galaxies.*Are the columns swapped"),
        ({"dec": [np.nan, 0, 0]}, InputError, "dec of 1 galaxies"),
        ({"ra": [0, 1]}, InputError, r"equally long, got \[2, 3, 3, 3, 3\]"),
        ({name: [] for name in ("ra", "dec", "e1", "e2", "w")}, InputError, "no galaxy"),
        ({"e1": [[1, 2, 3]]}, InputTypeError, "e1 must be a real tensor"),
        ({"e1": None}, InputTypeError, "e1 must be a real tensor"),
    ],
)
def test_catalogues_that_cannot_be(change, error, message):
    columns = {
        "ra": [1, 2, 3],
        "dec": [1, 2, 3],
        "e1": [0, 0.1, 0.2],
        "e2": [0, 0.1, 0.2],
        "w": [1, 1, 1],
    } | change
    with pytest.raises(error, match=message):
        Catalogue(
            **{
                n: None if v is None else torch.tensor(v, dtype=torch.float64)
                for n, v in columns.items()
            }
        )


# ---- maps


@settings(max_examples=25, deadline=None)
@given(
    ra=st.floats(-180, 360),
    dec=st.floats(-89, 89),
    seed=st.integers(0, 10),
    e=st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)).filter(
        lambda e: abs(e[0]) + abs(e[1]) > 1e-3
    ),
    pixel=st.sampled_from(["1 arcmin", "0.02 deg", "30 arcsec"]),
)
def test_a_constant_shear_comes_back(ra, dec, seed, e, pixel):
    columns = galaxies(200, 0, 0, 0.2, seed, e)
    centre = SkyCoord(ra, dec, unit="deg")
    sky = SkyCoord(
        columns["ra"] * units.deg, columns["dec"] * units.deg, frame=centre.skyoffset_frame()
    ).icrs  # a patch, carried there
    turned = (
        centre.position_angle(sky).rad - sky.position_angle(centre).rad
    )  # of a direction carried along the great circle
    values = (e[0] + 1j * e[1]) * np.exp(2j * turned)
    columns |= {"ra": sky.ra.deg, "dec": sky.dec.deg, "e1": values.real, "e2": values.imag}
    shear = bin_shear(catalogue(**columns), pixel, centre=(ra, dec))
    assert shear.flip_ra
    assert 0 < int(shear.seen.sum()) <= 200
    for component, value in zip(shear.gamma, e, strict=True):
        torch.testing.assert_close(
            component[shear.seen], torch.full_like(component[shear.seen], value), rtol=0, atol=1e-7
        )


@pytest.mark.parametrize(
    ("ra", "dec"), [(150, 2), (0.02, -30), (359.99, 60), (-0.01, 88), (180, -89.9)]
)
@pytest.mark.parametrize("shape", [None, (20, 31)])
def test_galaxies_land_where_the_wcs_says(ra, dec, shape):
    columns = galaxies(300, ra, dec, 0.3)
    columns["ra"] = columns["ra"] % 360
    columns["dec"] = np.clip(columns["dec"], -90, 90)
    many = catalogue(**columns)
    shear = (
        bin_shear(many, "1 arcmin", shape=shape)
        if shape is None
        else bin_shear(many, "0.03 deg", shape=shape, centre=(ra % 360, dec))
    )
    wcs = WCS(fits.Header.fromstring(shear.header, sep="\n"))
    x, y = wcs.all_world2pix(columns["ra"], columns["dec"], 0)
    rows, cols = np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)
    height, width = shear.noise.shape
    assert rows.min() >= 0
    assert cols.min() >= 0
    assert rows.max() < height
    assert cols.max() < width
    if shape is None:
        assert (rows.min(), rows.max(), cols.min(), cols.max()) == (0, height - 1, 0, width - 1)
    expected = np.zeros((height, width))
    np.add.at(expected, (rows, cols), columns["w"])
    assert torch.equal(shear.seen, torch.from_numpy(expected > 0))
    w = columns["w"] ** 2
    sigma = math.sqrt((w * (columns["e1"] ** 2 + columns["e2"] ** 2)).sum() / 2 / w.sum())
    squares = np.zeros((height, width))
    np.add.at(squares, (rows, cols), columns["w"] ** 2)
    seen = expected > 0
    np.testing.assert_allclose(
        shear.noise.numpy()[seen], sigma * np.sqrt(squares[seen]) / expected[seen]
    )
    corner = (
        wcs.pixel_to_world(0, 0),
        wcs.pixel_to_world(width - 1, 0),
        wcs.pixel_to_world(0, height - 1),
    )
    if abs(dec) < 80:
        assert ((corner[0].ra.deg - corner[1].ra.deg + 180) % 360) > 180  # East is to the left
        assert corner[2].dec.deg > corner[0].dec.deg  # North is up


def test_the_mean_over_the_edge_of_right_ascension():
    shear = bin_shear(
        catalogue(ra=[359.9, 0.1], dec=[0, 0], e1=[0.1, 0.2], e2=[0, 0], w=[1, 1]), "6 arcmin"
    )
    assert fits.Header.fromstring(shear.header, sep="\n")["CRVAL1"] % 360 in (
        pytest.approx(0, abs=1e-9),
        pytest.approx(360, abs=1e-9),
    )
    assert tuple(shear.gamma.shape) == (2, 1, 3)
    np.testing.assert_allclose(shear.gamma[0], [[0.2, 0, 0.1]], atol=1e-12)  # East is to the left
    assert shear.pixel == "6 arcmin"


def test_noise_against_many_catalogues():
    rng = np.random.default_rng(0)
    n = 200_000
    columns = {"ra": 10 + 0.5 * rng.random(n), "dec": 0.5 * rng.random(n), "w": rng.random(n) ** 2}
    columns |= {name: np.clip(0.2 * rng.standard_normal(n), -0.7, 0.7) for name in ("e1", "e2")}
    shear = bin_shear(catalogue(**columns), "20 arcsec")
    pulls = (shear.gamma / shear.noise)[:, shear.seen]
    assert pulls.numel() > 10_000
    assert float(pulls.std()) == pytest.approx(1, abs=0.02)
    assert float(pulls.mean()) == pytest.approx(0, abs=0.03)


def test_noise_where_weights_follow_the_noise_of_each_galaxy():
    rng = np.random.default_rng(0)
    n = 200_000
    s = rng.choice([0.05, 0.15, 0.3], n)
    columns = {"ra": 10 + 0.5 * rng.random(n), "dec": 0.5 * rng.random(n), "w": s**-2}
    columns |= {name: np.clip(s * rng.standard_normal(n), -0.7, 0.7) for name in ("e1", "e2")}
    shear = bin_shear(catalogue(**columns), "1 arcmin")
    assert float((shear.gamma / shear.noise)[:, shear.seen].std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("dec", [0, 65, -80])
def test_a_lens_makes_a_peak_and_no_b_mode(dec):
    """Tangential shear, of position angles that astropy computes, far from the equator and wide."""
    columns = galaxies(40_000, 40, dec, 4, 1)
    sky, lens = SkyCoord(columns["ra"], columns["dec"], unit="deg"), SkyCoord(40, dec, unit="deg")
    size, angle = (
        0.1 * np.exp(-((sky.separation(lens).deg / 0.8) ** 2)),
        sky.position_angle(lens).rad,
    )
    size = size * (sky.separation(lens).deg / 0.8) ** 2
    columns |= {
        "e1": size * np.cos(2 * angle),
        "e2": -size * np.sin(2 * angle),
    }  # stretched across the direction of the lens
    shear = bin_shear(catalogue(**columns), "0.1 deg", centre=(40, dec))
    maps = kaiser_squires(shear.gamma[None], flip_ra=shear.flip_ra)[0]
    wcs = WCS(fits.Header.fromstring(shear.header, sep="\n"))
    x, y = (float(v) for v in wcs.world_to_pixel(lens))
    peak = divmod(int(maps[0].argmax()), maps.shape[-1])
    assert abs(peak[0] - y) < 4
    assert abs(peak[1] - x) < 4
    assert float(maps[0].max()) > 0.03
    assert float(maps[1].std()) < 0.15 * float(maps[0].std())
    wrong = kaiser_squires(shear.gamma[None], flip_ra=not shear.flip_ra)[0]
    assert float(wrong[0].max()) < 0.7 * float(maps[0].max())


def test_few_galaxies_and_weights_of_zero():
    columns = {
        "ra": [10, 10, 10.1, 10.2],
        "dec": [0, 0, 0, 0],
        "e1": [0.1, 0.3, 0.2, np.nan],
        "e2": [0, 0, 0.1, 9],
        "w": [1, 3, 1, 0],
    }
    shear = bin_shear(catalogue(**columns), "0.1 deg")
    assert tuple(shear.noise.shape) == (1, 2)
    np.testing.assert_allclose(shear.gamma[:, 0], [[0.2, 0.25], [0.1, 0]], atol=1e-9)
    twice = bin_shear(catalogue(**columns), "0.1 deg", least=2)
    assert twice.seen.tolist() == [[False, True]]
    with pytest.raises(InputError, match="no pixel has 3 galaxies, at most 2"):
        bin_shear(catalogue(**columns), "0.1 deg", least=3)
    with pytest.raises(InputError, match="all ellipticities are 0"):
        bin_shear(catalogue(**columns | {"e1": [0] * 4, "e2": [0] * 4}), "0.1 deg")
    one = bin_shear(catalogue(ra=[10], dec=[0], e1=[0.1], e2=[0], w=[2]), "0.1 deg")
    assert tuple(one.noise.shape) == (1, 1)


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ({"pixel": 0.3}, InputTypeError, "bin_shear: pixel: give an angle with its unit"),
        ({"pixel": "0.3 px"}, InputError, "angle with its unit"),
        (
            {"pixel": "0.1 arcsec"},
            InputError,
            r"a map of 0.\d+ by 0.\d+ degrees in pixels of 0.1 arcsec has \d+ by \d+ "
            r"pixels; at most 8192",
        ),
        ({"shape": (9000, 3)}, InputError, "has 3 by 9000 pixels"),
        ({"shape": (3,)}, InputError, r"shape must be \(H, W\)"),
        ({"shape": (0, 3)}, InputError, r"shape must be \(H, W\)"),
        ({"shape": (True, 3)}, InputError, r"shape must be \(H, W\)"),
        ({"centre": (1, 2, 3)}, InputError, r"centre must be \(ra, dec\)"),
        ({"centre": (500, 2)}, InputError, r"centre must be \(ra, dec\)"),
        ({"centre": (20, 2)}, InputError, r"galaxies lie up to 130 degrees from the centre"),
        (
            {"centre": (20, 2), "shape": (3, 3)},
            InputError,
            r"no galaxy lies in the map of 3 by 3 pixels about \(20, 2\)",
        ),
        ({"centre": (330, -2), "shape": (3, 3)}, InputError, r"no galaxy lies in the map"),
        ({"least": 0}, InputError, "least must be an integer >= 1"),
    ],
)
def test_maps_that_cannot_be(given_, error, message):
    with pytest.raises(error, match=message):
        bin_shear(catalogue(**galaxies()), **({"pixel": "1 arcmin"} | given_))
    with pytest.raises(InputTypeError, match="expected a Catalogue"):
        bin_shear(galaxies(), "1 arcmin")
    everywhere = catalogue(ra=[0, 90, 180, 270], dec=[0] * 4, e1=[0.1] * 4, e2=[0] * 4, w=[1] * 4)
    with pytest.raises(InputError, match="all over the sky"):
        bin_shear(everywhere, "1 deg")


def test_a_part_of_the_catalogue():
    with pytest.warns(UserWarning, match=r"bin_shear: \d+ of 50 galaxies lie outside of the map"):
        shear = bin_shear(catalogue(**galaxies()), "1 arcmin", shape=(6, 5))
    assert tuple(shear.gamma.shape) == (2, 6, 5)


def test_from_a_catalogue_to_a_file(tmp_path):
    Table(galaxies()).write(tmp_path / "a.fits")
    shear = bin_shear(read_catalogue(tmp_path / "a.fits"), 1.5 * units.arcmin)
    write_convergence(tmp_path / "k.fits", shear.gamma, shear, more={"NOISE": shear.noise})
    values, pixel, cards = read_map(tmp_path / "k.fits")
    assert (pixel, shear.pixel) == ("1.5 arcmin", "1.5 arcmin")
    assert values.shape == shear.noise.shape
    assert "RA---TAN" in cards


def test_a_million_galaxies_take_seconds():
    many = catalogue(**galaxies(1_000_000, 150, 30, 2))
    start = time.perf_counter()
    bin_shear(many, "0.3 arcmin")
    assert time.perf_counter() - start < 10


def test_integers_that_are_null_in_fits_are_no_weights(tmp_path):
    """TNULL marks integers without a value; astropy gives them as they are stored."""
    columns = [
        fits.Column(name, "D", unit="deg", array=np.array([0.1, 0.2, 0.3]))
        for name in ("ra", "dec", "e1", "e2")
    ]
    weights = fits.Column("w", "J", null=999, array=np.array([1, 999, 2]))
    fits.BinTableHDU.from_columns([*columns, weights]).writeto(tmp_path / "g.fits")
    with pytest.raises(InputError, match="1 of 3 weights are negative, NaN or infinite"):
        read_catalogue(tmp_path / "g.fits")


def test_radians_without_a_unit_are_noticed(tmp_path):
    generator = np.random.default_rng(0)
    ra, dec = 2.6 + 0.02 * generator.random(50), 0.03 + 0.02 * generator.random(50)
    table = Table(
        {
            "ra": ra,
            "dec": dec,
            "e1": 0.1 * generator.standard_normal(50),
            "e2": np.zeros(50),
            "w": np.ones(50),
        }
    )
    table.write(tmp_path / "radians.csv")
    with pytest.warns(
        UserWarning,
        match=r"taken for degrees, span 1\.\d* by 1\.\d* arcmin; as radians .* unit rad",
    ):
        read_catalogue(tmp_path / "radians.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for column in ("ra", "dec"):
            table[column].unit = "rad"
        table.write(tmp_path / "told.ecsv")
        assert float(read_catalogue(tmp_path / "told.ecsv").ra.mean()) == pytest.approx(
            np.degrees(ra).mean()
        )
        for column, values in (("ra", np.degrees(ra)), ("dec", np.degrees(dec))):
            table[column] = values
        table.write(tmp_path / "degrees.csv")
        read_catalogue(tmp_path / "degrees.csv")
