"""Mass maps of large fields by patches: what is blended, what a patch does not see, the sphere."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from pnp_mlpatch import denoisers
from pnp_mlpatch.cli import main
from pnp_mlpatch.errors import InputError, InputTypeError, WeightsError
from pnp_mlpatch.lensing import Catalogue, ShearMap, bin_shear, lognormal_convergence, shear_of
from pnp_mlpatch.lensing._sphere import Axes, directions, north_angle, norths
from pnp_mlpatch.lensing.patches import blend, offsets, patches_of, seams
from pnp_mlpatch.pipelines._mass_map_fields import SkyField
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass
from pnp_mlpatch.pipelines.mass_map_patches import map_mass_patches
from pnp_mlpatch.solvers._gibbs import field_noise, white

PIXEL = "2 arcmin"
QUICK = MassMapConfig(iterations=6, burn_in=1)


@pytest.fixture(scope="module")
def D():
    return denoisers.make("mlpatch", weights="mlpatch-kappa")


def survey(side=64, noise=0.02):
    """A log-normal sky, cut from one of twice the side: truth, shear."""
    kappa = lognormal_convergence((2 * side, 2 * side), PIXEL, seed=2)
    part = slice(side // 2, side // 2 + side)
    gamma = shear_of(kappa - kappa.mean())[0, :, part, part]
    e = torch.randn(gamma.shape, generator=torch.Generator().manual_seed(0))
    return kappa[0, 0, part, part], ShearMap(
        gamma + noise * e, torch.full((side, side), noise), PIXEL
    )


# ---- weights


@pytest.mark.parametrize(
    ("shape", "size", "overlap", "count"),
    [
        ((300, 300), "308 arcmin", "150 arcmin", 9),
        ((301, 173), "170 arcmin", "40 arcmin", 15),
        ((301, 173), "90 arcmin", "60 arcmin", 19 * 10),
        ((64, 70), "50 arcmin", "0.1 arcmin", 9),
        ((50, 40), "200 arcmin", "10 arcmin", 1),
    ],
)
def test_weights_sum_to_one(shape, size, overlap, count):
    patches = patches_of(shape, PIXEL, size, overlap)
    assert len(patches) == count
    assert len({patch.shape for patch in patches}) == 1
    assert all(max(patch.shape) <= float(size.split()[0]) / 2 for patch in patches)
    ones = blend([torch.ones(patch.shape).double() for patch in patches], patches, shape)
    assert float((ones - 1).abs().max()) < 4e-16
    assert min(float(patch.weights.min()) for patch in patches) >= 0
    assert bool(seams(patches, shape).any()) == (count > 1)


def test_maps_that_agree_are_kept_and_offsets_are_found():
    generator, shape = torch.Generator().manual_seed(0), (90, 80)
    x = torch.randn(shape, generator=generator).double()
    patches = patches_of(shape, PIXEL, "80 arcmin", "20 arcmin")
    maps = [x[patch.window] for patch in patches]
    torch.testing.assert_close(blend(maps, patches, shape), x, rtol=0, atol=1e-14)
    added = torch.linspace(-1, 1, len(patches)).double() ** 3
    seen = torch.rand(shape, generator=generator) < 0.7
    wrong = [part + c for part, c in zip(maps, added, strict=True)]
    found = offsets(wrong, patches, seen)
    torch.testing.assert_close(found + added, (found + added).mean().expand(len(patches)))
    assert float(found.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("size", "overlap", "words"),
    [
        ("60 arcmin", "50 arcmin", "patches must share at most two thirds of their size"),
        ("3 arcmin", "0.1 arcmin", "have 3 pixels or more"),
        (60, "5 arcmin", "patches_of: size: give an angle with its unit"),
    ],
)
def test_sizes_that_make_no_sense(size, overlap, words):
    with pytest.raises((InputError, InputTypeError), match=words):
        patches_of((50, 50), PIXEL, size, overlap)


# ---- random numbers


def test_patches_share_the_noise_of_the_field():
    whole = field_noise((5, 0, 1), -200, -30, (420, 300))
    torch.testing.assert_close(whole[70:90, 10:290], field_noise((5, 0, 1), -130, -20, (20, 280)))
    assert float(whole.std()) == pytest.approx(1, abs=0.01)
    assert float(whole.mean()) == pytest.approx(0, abs=0.01)
    for other in ((6, 0, 1), (5, 1, 1), (5, 0, 0)):
        again = field_noise(other, -200, -30, (420, 300))
        assert abs(float((again * whole).mean())) < 0.012
    lag = (whole[128:] * whole[:-128]).mean()  # blocks differ
    assert abs(float(lag)) < 0.02
    data, image = torch.zeros(2, 2, 8, 9), torch.zeros(2, 2, 12, 13)
    a, b = white(3, (data, image), (10, 20))
    assert a.shape == data.shape
    assert torch.equal(b[0, 1], field_noise((3, 1, 1), 8, 18, (12, 13)))
    assert torch.equal(a[0], a[1])


# ---- flat maps


def rms(x):
    return float((x - x.mean()).square().mean().sqrt())


def test_patches_are_the_map_of_the_whole_field(D):
    truth, shear = survey(72)
    whole = map_mass_patches(shear, D, QUICK, size="200 arcmin", progress=False)
    assert whole.settings["patches"] == 1
    other = map_mass(shear, D, QUICK, progress=False)  # with other random numbers
    assert rms(whole.kappa[0] - other.kappa[0]) < 0.3 * rms(whole.kappa[0] - truth)
    found = map_mass_patches(
        shear, D, QUICK, size="104 arcmin", overlap="60 arcmin", progress=False
    )
    patches = patches_of((72, 72), PIXEL, "104 arcmin", "60 arcmin")
    assert found.settings["patches"] == len(patches) == 4
    inside = seams(patches, (72, 72))
    error = rms(whole.kappa[0] - truth)
    difference = (found.kappa[0] - whole.kappa[0])[inside]
    assert rms(difference) < 0.04 * error
    plain = [map_mass(cut(shear, p), D, QUICK, progress=False).kappa[0] for p in patches]
    pasted = blend(plain, patches, (72, 72)) - whole.kappa[0]
    assert rms(difference) < 0.25 * rms(pasted[inside])
    assert torch.equal(found.smoothed, whole.smoothed)
    assert found.statistics["B rms"] == whole.statistics["B rms"]
    assert float(found.residual.square().mean()) == pytest.approx(1, abs=0.05)


def cut(shear, patch):
    rows, columns = patch.window
    return ShearMap(shear.gamma[:, rows, columns], shear.noise[rows, columns], PIXEL)


def test_masked_fields_and_reduced_shear(D):
    _, shear = survey(40)
    noise = shear.noise.clone()
    noise[:20, :20] = math.inf  # a patch without data
    noise[30:32, 10:36] = math.inf
    wild = torch.where(torch.isfinite(noise), shear.gamma, 1e6)
    config = MassMapConfig(iterations=2, burn_in=0, passes=2)
    sizes = {"size": "36 arcmin", "overlap": "8 arcmin", "progress": False}
    found = map_mass_patches(ShearMap(wild, noise, PIXEL), D, config, **sizes)
    assert bool(torch.isfinite(found.kappa).all())
    assert found.settings["patches"] == 9
    again = map_mass_patches(ShearMap(0 * wild + shear.gamma, noise, PIXEL), D, config, **sizes)
    assert torch.equal(found.kappa, again.kappa)


def test_finished_patches_are_kept(D, tmp_path, monkeypatch):
    _, shear = survey(32)
    config, calls = MassMapConfig(iterations=4, burn_in=1), []
    sizes = {"size": "40 arcmin", "overlap": "14 arcmin", "progress": False}
    whole = map_mass_patches(shear, D, config, **sizes)

    def counted(x, sigma):
        calls.append(0)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return D(x, sigma)

    counted.info, stop = D.info, 8  # in the second of four patches, of five calls each
    name = {"name": "the same"}
    monkeypatch.setattr("pnp_mlpatch.pipelines._mass_map_run.fingerprint", lambda D: name)
    folder = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        map_mass_patches(shear, counted, config, checkpoint=folder, save_every=0.0, **sizes)
    assert {path.name for path in folder.iterdir()} == {"patch-0000.pt", "patch-0001.partial.pt"}
    calls.clear()
    stop = None
    again = map_mass_patches(shear, counted, config, checkpoint=folder, **sizes)
    assert len(calls) == 1 + 3 + 5 + 5  # a start that is not used, and what was not done
    assert torch.equal(again.kappa, whole.kappa)
    assert torch.equal(again.spread, whole.spread)
    calls.clear()
    map_mass_patches(shear, counted, config, checkpoint=folder, **sizes)
    assert not calls
    other = MassMapConfig(iterations=4, burn_in=1, seed=3)
    with pytest.raises(InputError, match=r"patch-0000.pt: .* other data or settings \(.*seed"):
        map_mass_patches(shear, D, other, checkpoint=folder, **sizes)
    (folder / "patch-0000.pt").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a saved patch of map_mass_patches"):
        map_mass_patches(shear, D, config, checkpoint=folder, **sizes)
    with pytest.raises(InputError, match="is a file; patches need a folder"):
        map_mass_patches(shear, D, checkpoint=folder / "patch-0001.pt", **sizes)


# ---- the sphere


def sphere(n=60_000, dec=60.0, span=10.0, mass=(32.0, 62.0), radius=1.0, noise=0.0):
    """Galaxies about (40, dec) whose shear is tangential about a mass, a Gaussian of ``radius``
    degrees.
    """
    rng = np.random.default_rng(0)
    half = span / 2 / math.cos(math.radians(dec))
    ra = rng.uniform(40 - half, 40 + half, n)
    low, high = (math.sin(math.radians(dec + sign * span / 2)) for sign in (-1, 1))
    dec = np.degrees(np.arcsin(rng.uniform(low, high, n)))
    s, north = directions(ra, dec), norths(ra, dec)
    to = directions(np.array([mass[0]]), np.array([mass[1]]))[:, 0]
    east = np.cross(north.T, s.T).T
    phi = np.arctan2(north.T @ to, east.T @ to)  # from East to North, towards the mass
    u = np.arccos(np.clip(to @ s, -1, 1)) ** 2 / (2 * math.radians(radius) ** 2)
    size = 0.1 * ((1 - np.exp(-u)) / u - np.exp(-u))
    e = -size * np.exp(2j * phi)
    e = e + noise * np.clip(rng.standard_normal((2, n)), -2.5, 2.5).T @ (1, 1j)
    columns = (ra, dec, e.real, e.imag, np.ones(n))
    return Catalogue(*(torch.from_numpy(np.ascontiguousarray(x)) for x in columns))


def test_shear_is_turned_to_the_axes_of_each_patch():
    """About a mass it stays tangential; North is up to 7 degrees from up, which would make a cross
    component of a quarter.
    """
    galaxies = sphere()
    field = SkyField(bin_shear(galaxies, "6 arcmin", centre=(40, 60)), galaxies)
    mass = np.array([32.0]), np.array([62.0])
    angles = []
    for patch in patches_of(field.shear.noise.shape, "6 arcmin", "6 deg", "1 deg"):
        axes, grid = field._plane(patch)
        place = field.cut(patch)
        assert place is not None
        shear = place.shear
        xi, eta, _ = axes.project(directions(*mass))
        row, column = grid.row + float(eta[0]) / field.side, grid.column - float(xi[0]) / field.side
        north = torch.arange(grid.height)[:, None] - row
        east = column - torch.arange(grid.width)[None]
        gamma = torch.complex(shear.gamma[0], shear.gamma[1])
        turned = gamma * torch.exp(-2j * torch.atan2(north, east.double()))
        far = shear.seen & (torch.hypot(north, east.double()) > 6)
        assert float(turned.real[far].max()) < 0.001
        cross = turned.imag[far].square().mean().sqrt()
        assert float(cross) < 0.02 * float(turned.real[far].square().mean().sqrt())
        angles.append(math.degrees(float(north_angle(axes, directions(*mass), norths(*mass))[0])))
    assert max(map(abs, angles)) > 6


def test_planes_are_carried_without_a_turn():
    axes = Axes.north_up(30, 45)
    there = axes.moved(directions(np.array([50.0]), np.array([50.0]))[:, 0])
    back = there.moved(axes.middle)
    for a, b in ((axes.x, back.x), (axes.y, back.y)):
        np.testing.assert_allclose(a, b, atol=1e-14)
    basis = np.stack([there.x, there.y, there.middle])
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-14)
    xi, eta = np.array([0.1, -0.2]), np.array([0.05, 0.0])
    found = there.project(there.direction(xi, eta))
    np.testing.assert_allclose(found[:2], [xi, eta], atol=1e-14)


def test_a_field_on_the_sphere(D):
    """With several patches the mass is where it is, and the map that of one tangent plane."""
    galaxies = sphere(80_000, span=8.0, noise=0.2)
    shear = bin_shear(galaxies, "6 arcmin", centre=(40, 60))
    sizes = {"size": "6 deg", "overlap": "3 deg", "progress": False}
    found = map_mass_patches(shear, D, QUICK, catalogue=galaxies, **sizes)
    flat = map_mass(shear, D, QUICK, progress=False)
    assert found.settings["sphere"] is True
    assert found.settings["patches"] > 1
    E, other = found.kappa[0], flat.kappa[0]
    row, column = divmod(int(E.argmax()), E.shape[1])
    field = SkyField(shear, galaxies)
    xi, eta, _ = field.axes.project(directions(np.array([32.0]), np.array([62.0])))
    assert abs(row - field.grid.row - float(eta[0]) / field.side) < 5
    assert abs(column - field.grid.column + float(xi[0]) / field.side) < 5
    assert np.corrcoef(E[shear.seen], other[shear.seen])[0, 1] > 0.97


def test_frames_that_have_no_plane(D):
    galaxies = sphere(2000)
    shear = bin_shear(galaxies, "20 arcmin", centre=(40, 60))
    with pytest.warns(UserWarning, match="pixels of 20 arcmin") as caught:
        map_mass_patches(shear, D, MassMapConfig(iterations=1, burn_in=0), size="20 deg")
    assert caught[0].filename == __file__  # it points at this call
    bare = ShearMap(shear.gamma, shear.noise, shear.pixel, True)
    with pytest.raises(InputError, match=r"Give shear=bin_shear\(catalogue, pixel\)"):
        map_mass_patches(bare, D, catalogue=galaxies)
    with pytest.raises(InputTypeError, match="catalogue must be a Catalogue"):
        map_mass_patches(shear, D, catalogue=shear)
    with pytest.raises(InputTypeError, match="map_mass_patches: expected a ShearMap"):
        map_mass_patches(galaxies, D)


# ---- the command


def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    galaxies = sphere(20_000, span=4.0, noise=0.2)
    names = ("ra", "dec", "e1", "e2")
    Table({name: getattr(galaxies, name).numpy() for name in names}).write("g.fits")
    line = "massmap g.fits --out k.fits --iterations 2 --burn-in 0 --quiet --threads 1"
    flags = ["--pixel", "6 arcmin", "--patch-size", "3 deg", "--overlap", "1 deg"]
    assert main([*line.split(), "--catalogue", *flags]) == 0
    settings = json.loads(Path("k.json").read_text())["settings"]
    assert settings["sphere"] is True
    assert settings["patches"] == len(settings["offsets"]) > 1
    assert {path.name for path in Path().iterdir()} == {"g.fits", "k.fits", "k.json"}
    again = ["--from", "k.json", "--out", "l.fits", "--quiet", "--threads", "1"]
    assert main(["massmap", *again]) == 0
    with fits.open("k.fits") as a, fits.open("l.fits") as b:
        np.testing.assert_array_equal(a["KAPPA_E"].data, b["KAPPA_E"].data)
    assert main([*line.split(), "--catalogue", *flags[:4], "--overlap", "2.5 deg"]) == 2
    assert "patches must share at most two thirds of their size" in capsys.readouterr().err
