"""The signs of e2 and of right ascension, by E and B: a hint for one wrong sign, none for right
ones, for both, or for another systematic error.
"""

import dataclasses
import json
import warnings

import pytest
import torch
from astropy.table import Table

from pnp_mlpatch.cli import build_parser, main
from pnp_mlpatch.cli._common import spoken
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing import (
    ShearMap,
    bin_shear,
    check_signs,
    kaiser_squires,
    lognormal_convergence,
    pixel_noise,
    read_catalogue,
    shear_of,
)

PIXEL, SIDE, WIDTH = "0.5 arcmin", 96, "1.1 arcmin"
E2 = torch.tensor([1.0, -1.0])[:, None, None]


def field(seed=0, n_gal=120):
    """A part of a generated sky, of which a disc is masked, with noise."""
    kappa = lognormal_convergence((SIDE + 32, SIDE + 32), PIXEL, seed=seed)
    gamma = shear_of(kappa - kappa.mean())[0, :, 16:-16, 16:-16]
    level = float(pixel_noise(n_gal, PIXEL))
    e = level * torch.randn(gamma.shape, generator=torch.Generator().manual_seed(seed))
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    hole = (x - 20) ** 2 + (y - 60) ** 2 < 120
    return ShearMap(gamma + e, torch.where(hole, torch.inf, level), PIXEL)


def flipped(shear):
    return dataclasses.replace(shear, gamma=shear.gamma * E2)


def mirrored(shear):
    return dataclasses.replace(shear, gamma=shear.gamma.flip(-1), noise=shear.noise.flip(-1))


def turned(shear):
    """By 45 degrees: all E becomes B, which no flip mends."""
    return dataclasses.replace(shear, gamma=torch.stack([-shear.gamma[1], shear.gamma[0]]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda s: s, False),
        (flipped, True),
        (mirrored, True),
        (lambda s: mirrored(flipped(s)), False),
        (turned, False),
        (lambda s: dataclasses.replace(s, flip_ra=True), True),
        (lambda s: dataclasses.replace(flipped(s), flip_ra=True), False),
    ],
    ids=["right", "e2", "ra", "both", "turned", "kernel", "kernel and e2"],
)
def test_one_wrong_sign_is_found(change, wrong, seed):
    assert check_signs(change(field(seed)), width=WIDTH, padding=12, seed=seed).seem_wrong is wrong


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_has_no_sign(seed):
    shear = field()
    e = torch.randn(shear.gamma.shape, generator=torch.Generator().manual_seed(seed))
    found = check_signs(dataclasses.replace(shear, gamma=0.1 * e), width=WIDTH, padding=12)
    assert not found.seem_wrong
    assert max(abs(z) for z in found.excess.values()) < 4


def test_the_mathematics_of_the_flips():
    """Without noise and mask: conjugate shear is exp(-4 i phi) kappa, and the mirror the same."""
    kappa = torch.randn(1, 1, 33, 33, generator=torch.Generator().manual_seed(0)).double()
    kappa -= kappa.mean()
    gamma = shear_of(kappa)
    k = torch.fft.fftfreq(33, dtype=torch.float64)
    phi = torch.atan2(k[:, None], k[None])
    hat = torch.fft.fft2(kappa[0, 0])
    found = kaiser_squires(gamma * E2.double())[0]
    for part, factor in zip(found, ((4 * phi).cos(), -(4 * phi).sin()), strict=True):
        assert torch.allclose(part, torch.fft.ifft2(factor * hat).real, atol=1e-12)
    both = kaiser_squires(gamma.flip(-1) * E2.double())[0]
    assert torch.allclose(both[0], kappa[0, 0].flip(-1), atol=1e-12)
    assert torch.allclose(both[1], torch.zeros_like(both[1]), atol=1e-12)
    mirror = kaiser_squires(gamma.flip(-1))[0]  # of the mirrored sky: E the same, B negated
    assert torch.allclose(mirror.flip(-1), found * E2[:, 0].double()[..., None], atol=1e-12)


def test_the_same_seed_gives_the_same():
    shear = field()
    first, again, other = (check_signs(shear, width=WIDTH, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.noise != other.noise


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: check_signs(field().gamma), InputTypeError, "expected a ShearMap"),
        (lambda: check_signs(field(), padding=-1), InputError, "padding must be an integer >= 0"),
        (lambda: check_signs(field(), seed=0.5), InputError, "seed must be an integer >= 0"),
        (lambda: check_signs(field(), width="2"), InputError, "unit"),
    ],
)
def test_what_cannot_be_checked(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---- catalogues and the shell


@pytest.fixture
def galaxies(tmp_path, monkeypatch):
    """Galaxies of a sky, with e along (East, North); a function of the signs writes them."""
    monkeypatch.chdir(tmp_path)
    shear = field(3)  # a galaxy in the middle of each pixel
    rows, columns = shear.seen.nonzero().T
    east, north = ((SIDE / 2 - columns) / 120, (rows - SIDE / 2) / 120)  # 0.5 arcmin in degrees
    e = shear.gamma[:, rows, columns]

    def write(e2=1, ra=1):
        table = {"ra": (ra * east) % 360, "dec": north, "e1": e[0], "e2": -e2 * e[1]}
        Table({name: values.numpy() for name, values in table.items()}).write("galaxies.csv")

    return write


RUN = "massmap galaxies.csv --catalogue --out k.fits --iterations 2 --burn-in 0 --quiet --threads 1"


@pytest.mark.parametrize(
    ("signs", "flags"),
    [({"e2": -1}, ["--flip-e2"]), ({"ra": -1}, ["--flip-ra"])],
    ids=["e2", "ra"],
)
def test_the_shell_names_the_flag_that_mends_it(galaxies, signs, flags):
    galaxies(**signs)
    for given, wrong in ((False, True), (True, False)):
        line = [*RUN.split(), "--pixel", PIXEL, *(flags if given else [])]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert main(line) == 0
        said = [spoken(str(w.message), build_parser().parse_args(line)) for w in caught]
        assert [("Try --flip-e2 or --flip-ra" in text) for text in said] == [True] * wrong
        with open("k.json", encoding="utf-8") as file:
            assert json.load(file)["statistics"]["signs"]["seem wrong"] is wrong


def test_a_flip_of_right_ascension_keeps_the_sky(galaxies):
    galaxies()
    right = bin_shear(read_catalogue("galaxies.csv"), PIXEL)
    with pytest.raises(InputTypeError, match="flip_ra must be True or False"):
        read_catalogue("galaxies.csv", flip_ra=1)
    mirror = read_catalogue("galaxies.csv", flip_ra=True)
    assert bool(((mirror.ra >= 0) & (mirror.ra < 360)).all())
    found = bin_shear(mirror, PIXEL)
    assert right.binned
    assert found.gamma.shape == right.gamma.shape
    assert torch.allclose(found.noise.flip(-1), right.noise, atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_signs(found, width=WIDTH).seem_wrong
        assert not check_signs(right, width=WIDTH).seem_wrong
