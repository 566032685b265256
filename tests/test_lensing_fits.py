"""Shear maps from FITS and convergence maps into it: nothing is lost on the way, and what cannot be
is named.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS

from pnp_mlpatch.errors import FileError, InputError, InputTypeError, MissingPackage
from pnp_mlpatch.io import reading
from pnp_mlpatch.lensing.fits import (
    ShearMap,
    read_map,
    read_provenance,
    read_shear,
    write_convergence,
)
from pnp_mlpatch.lensing.units import pixel_noise, radians

RNG = np.random.default_rng(0)
H, W = 6, 9
GAMMA = 0.1 * RNG.standard_normal((2, H, W))
NOISE = 0.1 + 0.1 * RNG.random((H, W))


@pytest.fixture(autouse=True)
def _no_warning_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sky(side=0.293 / 60, **cards):
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = 150.11, 2.2345678901234
    header["CRPIX1"], header["CRPIX2"] = 4.5, 3.25
    header["CDELT1"], header["CDELT2"] = -side, side
    for key, value in cards.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    return header


def write(path, images=None, header=None, primary=None, **more):
    """A FITS file of an empty primary HDU and images by name."""
    images = {"GAMMA1": GAMMA[0], "GAMMA2": GAMMA[1], "NOISE": NOISE} if images is None else images
    header = sky() if header is None else header
    hdus = [fits.PrimaryHDU(header=primary)]
    hdus += [
        fits.ImageHDU(np.asarray(data), header=header, name=name)
        for name, data in (images | more).items()
    ]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def plain(path, data, header=None):
    fits.PrimaryHDU(np.asarray(data), header=header).writeto(path, overwrite=True)
    return path


# ---- what is read


def test_a_shear_map(tmp_path):
    shear = read_shear(write(tmp_path / "a.fits"))
    np.testing.assert_array_equal(shear.gamma, GAMMA)
    np.testing.assert_array_equal(shear.noise, NOISE)
    assert shear.gamma.dtype == shear.noise.dtype == torch.float64
    assert shear.pixel == "0.293 arcmin"
    assert shear.flip_ra is True
    assert bool(shear.seen.all())
    assert "CRVAL1" in shear.header
    assert "NAXIS" not in shear.header
    assert "EXTNAME" not in shear.header


@pytest.mark.parametrize("shape", [(1, 5), (7, 1), (1, 1), (3, 4), (16, 5)])
def test_any_size(shape, tmp_path):
    gamma = np.full((2, *shape), 0.1, dtype=np.float32)
    shear = read_shear(write(tmp_path / "a.fits", {"g1": gamma[0], "G2": gamma[1]}), noise=0.2)
    assert tuple(shear.gamma.shape) == (2, *shape)
    write_convergence(tmp_path / "k.fits", torch.ones(2, *shape), shear)
    assert tuple(read_map(tmp_path / "k.fits")[0].shape) == shape


@pytest.mark.parametrize("names", [("GAMMA1", "GAMMA2"), ("E1", "E2"), ("g1", "g2")])
def test_the_names_of_components(names, tmp_path):
    path = write(tmp_path / "a.fits", dict(zip(names, GAMMA, strict=True)))
    np.testing.assert_array_equal(read_shear(path, noise=0.2).gamma, GAMMA)


def test_cubes_and_other_names(tmp_path):
    images = {"A": GAMMA[0], "B": GAMMA[1], "C": GAMMA[::-1], "S": NOISE}
    path = write(tmp_path / "a.fits", images)
    for one, two in (("A", "B"), (1, 2), ("[1]", "[2]"), (f"{path}[a]", f"{path}[2]")):
        np.testing.assert_array_equal(
            read_shear(path, gamma1=one, gamma2=two, noise="S").gamma, GAMMA
        )
    np.testing.assert_array_equal(read_shear(path, gamma1="C", noise="[4]").gamma, GAMMA[::-1])
    cube = sky(CTYPE3="STOKES", CRVAL3=1.0, CDELT3=1.0, CRPIX3=1.0, PC3_3=1.0, WCSAXES=3)
    for other in (
        plain(tmp_path / "b.fits", GAMMA, cube),
        write(tmp_path / "c.fits", {"shear": GAMMA, "NOISE": NOISE}, cube),
    ):
        shear = read_shear(other, noise=f"{path}[S]")
        np.testing.assert_array_equal(shear.gamma, GAMMA)
        assert shear.flip_ra
        assert "CTYPE3" not in shear.header
    np.save(tmp_path / "g.npy", GAMMA)
    np.save(tmp_path / "s.npy", NOISE)
    shear = read_shear(tmp_path / "g.npy", noise=str(tmp_path / "s.npy"), pixel="0.3 arcmin")
    np.testing.assert_array_equal(shear.noise, NOISE)
    assert (shear.pixel, shear.flip_ra, shear.header) == ("0.3 arcmin", False, "")
    one = [plain(tmp_path / f"{k}.fits", GAMMA[k], sky()) for k in range(2)]
    np.testing.assert_array_equal(
        read_shear(one[0], gamma1=str(one[0]), gamma2=str(one[1]), noise=1).gamma, GAMMA
    )


def test_compressed_and_scaled_files(tmp_path):
    path = write(tmp_path / "a.fits")
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_shear(tmp_path / "a.fits.gz").gamma, GAMMA)
    hdus = [fits.PrimaryHDU()]
    for name, data in (("G1", GAMMA[0]), ("G2", GAMMA[1])):
        hdu = fits.ImageHDU(data, header=sky(), name=name)
        hdu.scale("int16", bscale=1e-4)
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(tmp_path / "i.fits")
    np.testing.assert_allclose(read_shear(tmp_path / "i.fits", noise=0.1).gamma, GAMMA, atol=1e-4)


def test_where_the_noise_comes_from(tmp_path):
    path = write(
        tmp_path / "a.fits",
        OTHER=2 * NOISE,
        MASK=np.arange(H * W).reshape(H, W) % 5,
        NGAL=np.arange(H * W).reshape(H, W) % 7,
    )
    seen = np.arange(H * W).reshape(H, W) % 5 > 0
    np.testing.assert_array_equal(read_shear(path).noise, np.where(seen, NOISE, np.inf))
    np.testing.assert_array_equal(
        read_shear(path, noise="OTHER").noise, np.where(seen, 2 * NOISE, np.inf)
    )
    np.testing.assert_array_equal(
        read_shear(path, noise=torch.from_numpy(NOISE)).noise, np.where(seen, NOISE, np.inf)
    )
    for value in (0.3, "0.3"):
        np.testing.assert_array_equal(
            read_shear(path, noise=value).noise, np.where(seen, 0.3, np.inf)
        )
    expected = pixel_noise(30, "0.293 arcmin", 0.3)
    np.testing.assert_allclose(
        read_shear(path, n_gal=30, shape_noise=0.3).noise, np.where(seen, expected, np.inf)
    )
    shear = read_shear(path, n_gal="NGAL")
    assert torch.equal(
        shear.seen, torch.from_numpy(seen & (np.arange(H * W).reshape(H, W) % 7 > 0))
    )
    assert not bool(shear.gamma[:, ~shear.seen].any())
    one = read_shear(
        write(tmp_path / "b.fits", {"E1": GAMMA[0], "E2": GAMMA[1], "NGAL": np.full((H, W), 30)})
    )
    np.testing.assert_allclose(one.noise, pixel_noise(30, "0.293 arcmin"))
    np.testing.assert_array_equal(read_shear(path, mask="OTHER").seen, np.ones((H, W)))


def test_pixels_without_a_value(tmp_path):
    gamma, noise, mask = GAMMA.copy(), NOISE.copy(), np.ones((H, W))
    gamma[0, 0, 0], gamma[1, 0, 1], noise[0, 2] = np.nan, np.inf, np.inf
    images = {"GAMMA1": gamma[0], "GAMMA2": gamma[1]}
    for more, given in (
        ({"NOISE": noise}, {}),
        ({"NGAL": np.where(np.isinf(noise), 0, 30)}, {}),
        ({}, {"noise": torch.from_numpy(noise)}),
    ):
        with pytest.warns(
            UserWarning, match=r"shear of 2 pixels is NaN or infinite; they count as not measured"
        ):
            shear = read_shear(write(tmp_path / "a.fits", images | more), **given)
        assert (~shear.seen).nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
        assert not bool(shear.gamma[:, 0, :3].any())
    noise[0, :3] = np.nan, -1, 0  # beyond the mask, anything may stand
    mask[0, :3] = 0
    shear = read_shear(write(tmp_path / "a.fits", images, NOISE=noise, MASK=mask))
    assert (~shear.seen).nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
    noise[0, 1:3], mask[0, 1:3], gamma[1, 0, 1] = 1, 1, 0  # a noise that is NaN with the shear
    assert int((~read_shear(write(tmp_path / "a.fits", images, NOISE=noise)).seen).sum()) == 1


# ---- the sky


@pytest.mark.parametrize(
    ("header", "pixel", "flip"),
    [
        (sky(), "0.293 arcmin", True),
        (sky(CDELT1=0.293 / 60), "0.293 arcmin", False),
        (sky(CDELT2=-0.293 / 60), "0.293 arcmin", False),  # a half turn leaves a shear as it is
        (sky(CDELT1=0.3 / 60, CDELT2=-0.3 / 60), "0.3 arcmin", True),
        (sky(0.3, CUNIT1="arcmin", CUNIT2="arcmin"), "0.3 arcmin", True),
        (sky(CUNIT1=None, CUNIT2=None), "0.293 arcmin", True),
        (
            sky(CDELT1=None, CDELT2=None, CD1_1=-0.005, CD2_2=0.005, CD1_2=0.0, CD2_1=0.0),
            "0.3 arcmin",
            True,
        ),
        (sky(0.3, CTYPE1="X", CTYPE2="Y", CUNIT1="arcmin", CUNIT2="arcmin"), "0.3 arcmin", False),
        (sky(CTYPE1="GLON-CAR", CTYPE2="GLAT-CAR", CRVAL2=0.0), "0.293 arcmin", True),
    ],
)
def test_pixel_and_orientation(header, pixel, flip, tmp_path):
    shear = read_shear(write(tmp_path / "a.fits", header=header))
    assert shear.pixel == pixel
    assert shear.flip_ra is flip
    assert read_shear(tmp_path / "a.fits", flip_ra=not flip).flip_ra is not flip
    assert read_shear(tmp_path / "a.fits", pixel=pixel).pixel == pixel
    assert read_map(tmp_path / "a.fits", "noise")[1] == pixel


def test_pixel_given(tmp_path):
    for header in (fits.Header(), sky(1.0, CTYPE1="X", CTYPE2="Y", CUNIT1=None, CUNIT2=None)):
        path = write(tmp_path / "a.fits", header=header)
        assert read_shear(path, pixel=" 18 arcsec ").pixel == "18 arcsec"
        assert read_shear(path, pixel=0.3 * units.arcmin).pixel == "0.3 arcmin"
        assert not read_shear(path, pixel="18 arcsec").flip_ra
        with pytest.raises(
            InputError,
            match=r"size of a pixel is not known, there is no WCS. Give pixel='0.29 arcmin'",
        ):
            read_shear(path)
        with pytest.raises(InputTypeError, match="an angle with its unit"):
            read_shear(path, pixel=0.3)


@pytest.mark.parametrize(
    ("header", "given", "message"),
    [
        (
            sky(),
            {"pixel": "0.293 deg"},
            r"header says pixels of 0.293 arcmin, pixel= says 0.293 deg",
        ),
        (sky(CDELT1=0.005), {}, r"pixels must be square, the WCS says 0.005 by 0.00488\d+ deg"),
        (sky(CDELT2=0.0), {}, r"WCS cannot be read .*singular.* Correct the header"),
        (sky(1.0, CUNIT1=None, CUNIT2=None), {}, r"pixels of 1 degrees.* If arcmin were meant"),
        (
            sky(PC1_1=0.8, PC1_2=-0.6, PC2_1=0.6, PC2_2=0.8),
            {},
            r"turned by 36.9 degrees.*give flip_ra=False",
        ),
        (
            sky(CTYPE1="DEC--TAN", CTYPE2="RA---TAN", CRVAL1=2.0, CRVAL2=150.0),
            {},
            r"turned by 90 degrees",
        ),
    ],
)
def test_skies_that_cannot_be(header, given, message, tmp_path):
    path = write(tmp_path / "a.fits", header=header)
    with pytest.raises((InputError, FileError), match=message):
        read_shear(path, **given)
    if "turned" in message:
        assert read_shear(path, flip_ra=False).flip_ra is False


def test_a_wcs_that_cannot_be_read(tmp_path):
    path = write(tmp_path / "a.fits", header=sky(CTYPE2="DEC--SIN"))
    with pytest.raises(FileError, match=r"WCS cannot be read.*Correct the header"):
        read_shear(path)


def test_the_wcs_of_the_primary_hdu(tmp_path):
    other = sky(CRVAL1=20.0, ORIGIN="here", EQUINOX=2000.0)
    other.add_history("made by hand")
    shear = read_shear(write(tmp_path / "a.fits", header=fits.Header(), primary=other))
    assert shear.pixel == "0.293 arcmin"
    assert shear.flip_ra
    cards = fits.Header.fromstring(shear.header, sep="\n")
    assert (cards["CRVAL1"], cards["ORIGIN"]) == (20.0, "here")
    cards = fits.Header.fromstring(
        read_shear(write(tmp_path / "a.fits", primary=other)).header, sep="\n"
    )
    assert (cards["CRVAL1"], cards["ORIGIN"], list(cards["HISTORY"])) == (
        150.11,
        "here",
        ["made by hand"],
    )
    assert "EQUINOX" not in cards


# ---- what is refused


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileError, match=r"no such file. Check the path"):
        read_shear(tmp_path / "a.fits")
    with pytest.raises(FileError, match="a folder"):
        read_shear(tmp_path)
    with pytest.raises(InputTypeError, match="expected the path of a file, got NoneType"):
        read_shear(None)
    (tmp_path / "a.fits").write_text("not FITS " * 1000)
    with pytest.raises(FileError, match="not a whole FITS file"):
        read_shear(tmp_path / "a.fits")
    (tmp_path / "a.fits").write_bytes(b"")
    with pytest.raises(FileError, match="not a whole FITS file"):
        read_shear(tmp_path / "a.fits")
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(InputError, match=r"unknown ending. Readable: \.fits"):
        read_shear(tmp_path / "a.txt")
    (tmp_path / "a.npy").write_bytes(b"1 2 3")
    with pytest.raises(FileError, match=r"not a readable .npy array"):
        read_shear(tmp_path / "a.npy")


def test_a_truncated_file(tmp_path):
    whole = write(tmp_path / "a.fits").read_bytes()
    for kept in range(100, len(whole), 800):
        (tmp_path / "b.fits").write_bytes(whole[:kept])
        with pytest.raises(FileError, match=r"b.fits"):
            read_shear(tmp_path / "b.fits", noise=0.2)
    packed = gzip.compress(whole)
    (tmp_path / "b.fits.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(FileError, match="not a whole FITS file"):
        read_shear(tmp_path / "b.fits.gz")


BAD = NOISE.copy()
BAD[0, :3] = np.nan, 0, -1


@pytest.mark.parametrize(
    ("images", "given", "error", "message"),
    [
        (
            {},
            {"noise": "STD"},
            FileError,
            r"\[STD\]: no such HDU. Images in the file: \[1\] GAMMA1 \(6, 9\), .*NOISE",
        ),
        ({}, {"gamma1": "X", "gamma2": "GAMMA2"}, FileError, r"\[X\]: no such HDU"),
        ({}, {"gamma1": 9, "gamma2": 2}, FileError, r"\[9\]: no such HDU"),
        ({}, {"gamma1": -1, "gamma2": 2}, FileError, r"\[-1\]: no such HDU"),
        ({}, {"gamma1": 0, "gamma2": 2}, FileError, r"\[0\]: holds no image"),
        (
            {},
            {"gamma1": "GAMMA1"},
            InputError,
            r"\[GAMMA1\]: expected a cube \(2, H, W\).*name gamma1 and gamma2",
        ),
        ({}, {"gamma2": "GAMMA1"}, InputError, "gamma2 is named but gamma1 is not"),
        ({}, {"gamma1": 1.5}, InputTypeError, "gamma1 must be the name or number"),
        ({}, {"gamma1": "missing.fits[A]", "gamma2": 2}, FileError, r"missing.fits: no such file"),
        ({}, {"noise": 0.2, "n_gal": 30}, InputError, "give noise or n_gal, not both"),
        ({}, {"noise": -0.2}, InputError, "noise must be > 0"),
        ({}, {"n_gal": 0}, InputError, "n_gal must be > 0"),
        ({}, {"noise": True}, InputTypeError, "noise must be a number, a tensor"),
        ({}, {"mask": 0.5}, InputTypeError, "mask must be"),
        ({}, {"noise": torch.ones(2, 3)}, InputError, r"noise is \(2, 3\), the shear is \(6, 9\)"),
        ({}, {"flip_ra": 1}, InputTypeError, "flip_ra must be"),
        (
            {"GAMMA2": GAMMA[0][1:]},
            {},
            InputError,
            r"\[GAMMA1\] is \(6, 9\) but .*\[GAMMA2\] is \(5, 9\)",
        ),
        (
            {"GAMMA2": GAMMA},
            {},
            InputError,
            r"\[GAMMA2\]: expected an image \(H, W\), got \(2, 6, 9\)",
        ),
        (
            {"GAMMA1": GAMMA[0, 0]},
            {},
            InputError,
            r"\[GAMMA1\]: expected an image \(H, W\), got \(9,\)",
        ),
        ({"GAMMA1": GAMMA[0, 0]}, {"gamma1": "GAMMA1"}, InputError, r"expected a cube \(2, H, W\)"),
        ({"NOISE": NOISE[:, 1:]}, {}, InputError, r"\[NOISE\] is \(6, 8\), the shear is \(6, 9\)"),
        ({"MASK": NOISE[:, 1:]}, {}, InputError, r"\[MASK\] is \(6, 8\)"),
        ({"MASK": BAD}, {}, InputError, "1 pixels of the mask are NaN"),
        ({"MASK": 0 * NOISE}, {}, InputError, "a.fits: .*no pixel is measured"),
        ({"MASK": 0 * NOISE}, {"n_gal": 30}, InputError, "no pixel is measured"),
        (
            {"NOISE": BAD},
            {},
            InputError,
            "a.fits: .*noise of 3 pixels is NaN or not > 0.*or a mask",
        ),
        (
            {"NGAL": BAD},
            {"n_gal": "NGAL"},
            InputError,
            "n_gal of 2 pixels is NaN, infinite or negative",
        ),
        ({"NOISE": NOISE * np.inf}, {}, InputError, "no pixel is measured"),
        (
            {"GAMMA1": 100 * GAMMA[0]},
            {},
            InputError,
            r"in \d+ pixels the shear is far beyond 1 .*per cent",
        ),
        (
            {"GAMMA1": np.where(NOISE > 0.19, -1.6375e30, 0)},
            {},
            InputError,
            "mask them or make them NaN",
        ),
    ],
)
def test_images_that_cannot_be(images, given, error, message, tmp_path):
    first = {"GAMMA1": GAMMA[0], "GAMMA2": GAMMA[1], "NOISE": NOISE}
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        read_shear(write(tmp_path / "a.fits", first | images), **given)


def test_a_file_without_shear_or_noise(tmp_path):
    path = write(tmp_path / "a.fits", {"GAMMA1": GAMMA[0], "GAMMA2": GAMMA[1]})
    with pytest.raises(
        InputError, match=r"noise is not known. Give noise=.* or n_gal=.*: \[1\] GAMMA1"
    ):
        read_shear(path)
    path = write(tmp_path / "b.fits", {"KAPPA": GAMMA[0], "GAMMA1": GAMMA[0]})
    with pytest.raises(
        FileError,
        match=r"expected images GAMMA1 and GAMMA2, .* \[1\] KAPPA \(6, 9\).*Name them: "
        r"gamma1='NAME'",
    ):
        read_shear(path, noise=0.2)
    table = fits.BinTableHDU.from_columns([fits.Column("ra", "D", array=np.ones(3))], name="CAT")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "c.fits")
    with pytest.raises(FileError, match=r"images in the file: none"):
        read_shear(tmp_path / "c.fits", noise=0.2)
    with pytest.raises(FileError, match=r"\[cat\]: holds no image"):
        read_map(tmp_path / "c.fits", "cat")
    with pytest.raises(FileError, match=r"has 2 images, so name one"):
        read_shear(path, gamma1=str(path), gamma2=str(path))


@pytest.mark.parametrize("array", [GAMMA[0] + 1j * GAMMA[1], np.zeros((0, 2)), np.array(["a"])])
def test_arrays_that_cannot_be(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match="non-empty array of real numbers"):
        read_shear(tmp_path / "a.npy", noise=0.2, pixel="0.3 arcmin")
    np.save(tmp_path / "a.npy", GAMMA[0])
    with pytest.raises(InputError, match=r"expected a cube \(2, H, W\)"):
        read_shear(tmp_path / "a.npy", noise=0.2, pixel="0.3 arcmin")
    np.save(tmp_path / "b.npy", GAMMA)
    with pytest.raises(InputError, match=r"noise is not known.*Images in the file: an array"):
        read_shear(tmp_path / "b.npy", pixel="0.3 arcmin")
    with pytest.raises(InputError, match="holds one array, without a name"):
        read_map(tmp_path / "a.npy", 1)


def test_shear_maps_by_hand():
    gamma, noise = torch.from_numpy(GAMMA).float(), torch.from_numpy(NOISE)
    assert ShearMap(gamma, noise, "0.3 arcmin").gamma.dtype == torch.float64
    assert "header" not in repr(ShearMap(gamma, noise, "0.3 arcmin"))
    noisy = ShearMap(
        3 * gamma, torch.full((H, W), 0.5), "0.3 arcmin"
    )  # noise may carry a shear beyond 1
    assert bool(noisy.seen.all())
    for bad, message in (
        ((gamma[0], noise), r"expected gamma \(2, H, W\)"),
        ((gamma, noise[1:]), r"got \(2, 6, 9\) and \(5, 9\)"),
        ((gamma[:, :0], noise[:0]), "expected gamma"),
    ):
        with pytest.raises(InputError, match=message):
            ShearMap(*bad, "0.3 arcmin")
    with pytest.raises(InputTypeError, match="real tensors"):
        ShearMap(GAMMA, noise, "0.3 arcmin")
    with pytest.raises(InputTypeError, match="real tensors"):
        ShearMap(gamma + 0j, noise, "0.3 arcmin")
    with pytest.raises(InputTypeError, match="text with its unit"):
        ShearMap(gamma, noise, 0.3)
    with pytest.raises(InputTypeError, match="flip_ra"):
        ShearMap(gamma, noise, "0.3 arcmin", 1)


def test_astropy_is_optional(tmp_path, monkeypatch):
    path = write(tmp_path / "a.fits")
    for name in [name for name in sys.modules if name.partition(".")[0] == "astropy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "astropy", None)
    with pytest.raises(
        MissingPackage, match=r"Reading FITS needs the package 'astropy'.*pip install astropy"
    ):
        read_shear(path)


# ---- what is written


def test_round_trip(tmp_path):
    header = sky(OBJECT="A 2744", TELESCOP="none", LONGKEY="x" * 150, PV1_0=1.0, BUNIT="1")
    header["HIERARCH a long keyword"] = 3.5
    header["CRVAL1"] = (150.11, "of the field")
    header.add_history("step one")
    header.add_comment("a comment")
    path = write(tmp_path / "a.fits", header=header, MASK=np.ones((H, W)))
    shear = read_shear(path)
    kappa = 0.1 * torch.randn(1, 2, H, W, dtype=torch.float64)
    seen = torch.rand(H, W) < 0.5
    write_convergence(
        tmp_path / "k.fits",
        kappa,
        shear,
        more={"noise": shear.noise, "MASK": seen, "STD": torch.full((H, W), torch.nan)},
    )
    with fits.open(tmp_path / "k.fits") as hdus, fits.open(path) as before:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == [
            "PRIMARY",
            "KAPPA_E",
            "KAPPA_B",
            "NOISE",
            "MASK",
            "STD",
        ]
        assert hdus["MASK"].data.dtype == np.uint8
        np.testing.assert_array_equal(hdus["MASK"].data, seen)
        np.testing.assert_array_equal(hdus["KAPPA_B"].data, kappa[0, 1].float())
        assert hdus["KAPPA_E"].data.dtype.newbyteorder("=") == np.float32
        columns, rows = np.meshgrid(np.arange(W), np.arange(H))
        expected = WCS(before["GAMMA1"].header).wcs_pix2world(columns.ravel(), rows.ravel(), 0)
        for hdu in hdus[1:]:
            np.testing.assert_allclose(
                WCS(hdu.header).wcs_pix2world(columns.ravel(), rows.ravel(), 0),
                expected,
                rtol=0,
                atol=1e-12,
            )
            assert hdu.header["BUNIT"] == ""
        for hdu in hdus:
            for key in ("OBJECT", "TELESCOP", "LONGKEY", "PV1_0", "a long keyword", "CRVAL1"):
                assert hdu.header[key] == header[key]
            assert hdu.header.comments["CRVAL1"] == "of the field"
            assert "DATE" not in hdu.header
        assert list(hdus[0].header["HISTORY"]) == ["step one"]
        assert "a comment" in list(hdus[0].header["COMMENT"])
    values, pixel, cards = read_map(tmp_path / "k.fits")
    np.testing.assert_array_equal(values, kappa[0, 0].float().double())
    assert pixel == shear.pixel
    assert "A 2744" in cards
    again = read_shear(tmp_path / "k.fits", gamma1="KAPPA_E", gamma2="KAPPA_B", noise=1)
    assert (again.pixel, again.flip_ra) == (shear.pixel, shear.flip_ra)
    noise = read_shear(tmp_path / "k.fits", gamma1=1, gamma2=2, noise="NOISE", mask=3).noise
    np.testing.assert_allclose(noise, shear.noise, rtol=1e-7)


def test_provenance(tmp_path):
    shear = read_shear(write(tmp_path / "a.fits"))
    kappa = torch.zeros(2, H, W)
    asked = {
        "solver": "pgd  twice",
        "sigma": 0.1,
        "list": [1, None, True],
        "text": "é '\" | \\ " + " " * 100 + "end",
        "deep": {"a b": []},
    }
    write_convergence(tmp_path / "k.fits", kappa, shear, provenance=asked)
    assert read_provenance(tmp_path / "k.fits") == asked
    first = (tmp_path / "k.fits").read_bytes()
    write_convergence(tmp_path / "k.fits", kappa, shear, provenance=asked)
    assert (tmp_path / "k.fits").read_bytes() == first
    assert read_provenance(tmp_path / "a.fits") == {}
    again = read_shear(
        tmp_path / "k.fits", gamma1=1, gamma2=2, noise=1
    )  # a result as input: its own provenance goes
    write_convergence(tmp_path / "l.fits", kappa, again, provenance={"b": 2})
    assert read_provenance(tmp_path / "l.fits") == {"b": 2}
    for bad in ({"a": torch.ones(2)}, {"a": float("nan")}, {"a": {1, 2}}):
        with pytest.raises(InputTypeError, match="provenance must be plain JSON"):
            write_convergence(tmp_path / "k.fits", kappa, shear, provenance=bad)
    assert (tmp_path / "k.fits").read_bytes() == first
    plain(tmp_path / "m.fits", NOISE, fits.Header([("HISTORY", 'pnp|{"a": 1|')]))
    with pytest.raises(FileError, match="provenance is damaged"):
        read_provenance(tmp_path / "m.fits")


@pytest.mark.parametrize(
    ("name", "kappa", "more", "error", "message"),
    [
        (
            "k.fits",
            torch.zeros(2, H, W + 1),
            {},
            InputError,
            r"kappa must be \(2, 6, 9\).*got \(2, 6, 10\).*Cut the padding",
        ),
        ("k.fits", torch.zeros(H, W), {}, InputError, "kappa must be"),
        ("k.fits", torch.zeros(3, 2, H, W), {}, InputError, "kappa must be"),
        ("k.fits", torch.full((2, H, W), torch.nan), {}, InputError, "108 values of kappa are NaN"),
        ("k.fits", torch.zeros(2, H, W).int(), {}, InputTypeError, "floating tensor"),
        ("k.fits", GAMMA, {}, InputTypeError, "floating tensor"),
        ("k.npy", torch.zeros(2, H, W), {}, InputError, "unknown ending '.npy'"),
        ("k.fits.gz", torch.zeros(2, H, W), {}, InputError, "unknown ending '.gz'"),
        (
            "k.fits",
            torch.zeros(2, H, W),
            {"STD": torch.zeros(2, 2)},
            InputError,
            r"STD must be \(6, 9\)",
        ),
        (
            "k.fits",
            torch.zeros(2, H, W),
            {"STD": NOISE},
            InputTypeError,
            "STD must be a real tensor",
        ),
        (
            "k.fits",
            torch.zeros(2, H, W),
            {"kappa_e": torch.zeros(H, W)},
            InputError,
            "cannot name an image",
        ),
        (
            "k.fits",
            torch.zeros(2, H, W),
            {"a b": torch.zeros(H, W)},
            InputError,
            "cannot name an image",
        ),
        ("file/k.fits", torch.zeros(2, H, W), {}, FileError, "cannot write there"),
    ],
)
def test_results_that_cannot_be_written(name, kappa, more, error, message, tmp_path):
    (tmp_path / "file").touch()
    shear = read_shear(write(tmp_path / "a.fits"))
    with pytest.raises(error, match=message):
        write_convergence(tmp_path / name, kappa, shear, more=more)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fits", "file"]
    with pytest.raises(InputTypeError, match="shear must be the ShearMap"):
        write_convergence(tmp_path / "k.fits", torch.zeros(2, H, W), GAMMA)


def test_without_a_header(tmp_path):
    shear = ShearMap(torch.from_numpy(GAMMA), torch.from_numpy(NOISE), "0.3 arcmin")
    write_convergence(tmp_path / "k.fits", torch.ones(2, H, W), shear)
    values, pixel, _ = read_map(tmp_path / "k.fits", 2)
    assert float(values.min()) == 1
    assert pixel == "0.3 arcmin"


def test_single_maps(tmp_path):
    np.save(tmp_path / "k.npy", GAMMA[0].astype(np.float32))
    values, pixel, cards = read_map(tmp_path / "k.npy")
    assert values.dtype == torch.float64
    assert (pixel, cards) == (None, "")
    values, pixel, cards = read_map(plain(tmp_path / "k.fits", NOISE, sky()))
    np.testing.assert_array_equal(values, NOISE)
    assert radians(pixel) == pytest.approx(np.radians(0.293 / 60), rel=1e-12)
    assert re.search("CDELT1", cards)
    with pytest.raises(InputError, match=r"expected an image \(H, W\), got \(2, 6, 9\)"):
        read_map(plain(tmp_path / "c.fits", GAMMA))


@pytest.mark.parametrize("name", ["g.fits.gz", "g.fits"])
def test_compressed_files_are_unpacked_as_far_as_they_go(name, tmp_path, monkeypatch):
    """By what they begin with, not by their names: astropy would unpack the second
    without a bound.
    """
    fits.PrimaryHDU(np.zeros((300, 300))).writeto(tmp_path / "plain.fits")
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / "plain.fits").read_bytes()))
    assert read_map(tmp_path / name)[0].shape == (300, 300)
    monkeypatch.setattr(reading, "ROOM", 10**5)
    with pytest.raises(
        FileError,
        match=rf"{name}: its \d+ bytes claim to hold at least \d+. The file is damaged or made "
        r"to fill",
    ):
        read_map(tmp_path / name)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_other_compressions_are_refused(pack, tmp_path):
    (tmp_path / "g.fits").write_bytes(pack(b"SIMPLE  =                    T"))
    with pytest.raises(FileError, match=r"compressed by something else than gzip. Unpack it first"):
        read_map(tmp_path / "g.fits")


def test_a_tiled_image_that_claims_too_much(tmp_path, monkeypatch):
    fits.CompImageHDU(np.zeros((400, 400), np.float32), compression_type="GZIP_1").writeto(
        tmp_path / "g.fits.fz"
    )
    assert read_map(tmp_path / "g.fits.fz")[0].shape == (400, 400)
    monkeypatch.setattr(reading, "ROOM", 10**5)
    monkeypatch.setattr(reading, "RATIO", 10)
    with pytest.raises(FileError, match=r"g.fits.fz: its \d+ bytes claim"):
        read_map(tmp_path / "g.fits.fz")


def test_pipes_are_no_maps(tmp_path):
    os.mkfifo(tmp_path / "g.fits")
    with pytest.raises(FileError, match=r"g.fits: expected a file, got a pipe"):
        read_shear(tmp_path / "g.fits", noise=1.0)


def test_a_mask_of_0_and_255(tmp_path):
    """Only 0 means unseen, in any type."""
    mask = np.full(NOISE.shape, 255, np.uint8)
    mask[0, 0] = 0
    np.save(tmp_path / "g.npy", GAMMA)
    np.save(tmp_path / "m.npy", mask)
    found = read_shear(
        tmp_path / "g.npy", noise=0.3, pixel="1 arcmin", mask=str(tmp_path / "m.npy")
    )
    assert torch.equal(
        found.seen, torch.from_numpy(mask > 0) & torch.from_numpy(np.isfinite(GAMMA).all(0))
    )
