"""Mass maps of tomographic bins: as a batch, from Python and from the shell."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table

from pnp_mlpatch import denoisers
from pnp_mlpatch.cli import main
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing import (
    Catalogue,
    ShearMap,
    bin_shear,
    bin_shear_tomographic,
    lognormal_convergence,
    read_catalogue,
    shear_of,
)
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass
from pnp_mlpatch.pipelines.mass_map_bins import map_mass_bins

PIXEL = "0.5 arcmin"


@pytest.fixture(scope="module")
def D():
    return denoisers.make("mlpatch", weights="mlpatch-kappa")


def bins(noises=(0.1, 0.16, 0.3), side=20):
    kappa = lognormal_convergence((side, side), PIXEL, seed=1, count=len(noises))
    gamma, maps = shear_of(kappa), []
    for k, level in enumerate(noises):
        generator = torch.Generator().manual_seed(k)
        noise = level * (0.8 + 0.4 * torch.rand(side, side, generator=generator))
        noise[k : k + 4, 5:9] = torch.inf
        e = torch.randn(2, side, side, generator=generator)
        maps.append(ShearMap(gamma[k] + torch.where(noise.isfinite(), noise, 0) * e, noise, PIXEL))
    return maps


@pytest.mark.parametrize("passes", [1, 3])
def test_a_batch_gives_the_map_of_each_bin(D, passes):
    shears, calls = bins(), []

    def counted(x, sigma):
        calls.append(len(x))
        return D(x, sigma)

    counted.info = D.info
    config = MassMapConfig(iterations=4, burn_in=1, passes=passes, padding=4)
    found = map_mass_bins(shears, counted, config, progress=False)
    assert calls == [3] * (1 + 4 * passes)
    for shear, ours in zip(shears, found, strict=True):
        alone = map_mass(shear, D, config, progress=False)
        for name in ("kappa", "spread", "smoothed"):
            assert float((getattr(ours, name) - getattr(alone, name)).abs().max()) < 1e-5
        assert float((ours.residual - alone.residual).abs().max()) < 1e-4
        assert ours.settings["sigma"] == alone.settings["sigma"]
        assert ours.statistics["B rms of noise"] == alone.statistics["B rms of noise"]


def test_an_interrupted_batch_goes_on(D, tmp_path, monkeypatch):
    shears, path, calls = bins(), tmp_path / "state.pt", []
    config = MassMapConfig(iterations=5, burn_in=1)
    whole = map_mass_bins(shears, D, config, progress=False)

    def breaks(x, sigma):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return D(x, sigma)

    breaks.info = D.info
    name = {"name": "the same"}
    monkeypatch.setattr("pnp_mlpatch.pipelines._mass_map_run.fingerprint", lambda D: name)
    with pytest.raises(KeyboardInterrupt):
        map_mass_bins(shears, breaks, config, checkpoint=path, save_every=0.0, progress=False)
    with pytest.raises(InputError, match="other data or settings"):
        map_mass_bins(shears[:2], D, config, checkpoint=path, progress=False)
    again = map_mass_bins(shears, D, config, checkpoint=path, progress=False)
    assert all(torch.equal(a.kappa, b.kappa) for a, b in zip(again, whole, strict=True))


def test_bad_bins(D):
    (shear, *_), other = bins(), bins(side=16)[0]
    with pytest.raises(InputTypeError, match=r"expected a list of ShearMap.*use map_mass"):
        map_mass_bins(shear, D)
    with pytest.raises(InputError, match="the list of shear maps is empty"):
        map_mass_bins([], D)
    with pytest.raises(InputTypeError, match="map_mass_bins: expected a ShearMap"):
        map_mass_bins([shear, 3], D)
    with pytest.raises(InputError, match=r"shape of bin 0 is \(20, 20\), of bin 1 \(16, 16\)"):
        map_mass_bins([shear, other], D)
    turned = ShearMap(shear.gamma, shear.noise, PIXEL, flip_ra=True)
    with pytest.raises(InputError, match="flip_ra of bin 0 is False, of bin 1 True"):
        map_mass_bins([shear, turned], D)


# ---- catalogues


def galaxies(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    e = 0.2 * rng.standard_normal((2, n)).clip(-3, 3)
    return {
        "ra": 150 + 0.25 * rng.random(n),
        "dec": 2 + 0.25 * rng.random(n),
        "e1": e[0],
        "e2": e[1],
        "w": rng.random(n) + 0.2,
        "zbin": rng.integers(-1, 3, n),
    }


def test_bins_of_a_catalogue_have_one_grid(tmp_path):
    columns = galaxies()
    Table(columns).write(tmp_path / "g.fits")
    catalogue = read_catalogue(tmp_path / "g.fits", bins="zbin")
    assert catalogue.bins is not None
    np.testing.assert_array_equal(catalogue.bins, columns["zbin"])
    maps = bin_shear_tomographic(catalogue, "1 arcmin", centre=(150.1, 2.1), shape=(15, 16))
    assert list(maps) == [0, 1, 2]
    for number, shear in maps.items():
        chosen = columns["zbin"] == number
        parts = (torch.from_numpy(columns[name][chosen]) for name in ("ra", "dec", "e1", "e2", "w"))
        alone = bin_shear(Catalogue(*parts), "1 arcmin", centre=(150.1, 2.1), shape=(15, 16))
        torch.testing.assert_close(shear.gamma, alone.gamma)
        torch.testing.assert_close(shear.noise, alone.noise)
        assert shear.header == maps[0].header == alone.header
    whole = bin_shear_tomographic(catalogue, "1 arcmin")
    assert len({tuple(shear.noise.shape) for shear in whole.values()}) == 1


def test_bins_that_are_none():
    parts = [torch.tensor(x).double() for x in ([1.0, 2], [1.0, 2], [0.1, 0], [0, 0.1], [1.0, 1])]
    with pytest.raises(InputError, match="the catalogue has no bins"):
        bin_shear_tomographic(Catalogue(*parts), PIXEL)
    with pytest.raises(InputError, match="no galaxy with a weight has a bin >= 0"):
        bin_shear_tomographic(Catalogue(*parts, bins=torch.tensor([-1, -1])), PIXEL)
    with pytest.raises(InputError, match="bins of 1 of 2 galaxies are no integers"):
        Catalogue(*parts, bins=torch.tensor([1.0, 0.5]))
    with pytest.raises(InputError, match="bins of 1 of 2 galaxies are no integers"):
        Catalogue(*parts, bins=torch.tensor([1.0, torch.nan]))
    with pytest.raises(InputTypeError, match=r"bins must be a real tensor \(2,\)"):
        Catalogue(*parts, bins=torch.tensor([1]))
    with pytest.raises(InputError, match="noise must be standard deviations > 0"):
        Catalogue(*parts, noise=torch.tensor([1.0, 0.0]))


def test_from_the_shell(tmp_path, monkeypatch, capsys, D):
    monkeypatch.chdir(tmp_path)
    Table(galaxies()).write("g.fits")
    line = "massmap g.fits --catalogue --bins zbin --out k.fits --iterations 2 --burn-in 0"
    flags = ["--pixel", "1 arcmin", "--threads", "1"]
    assert main([*line.split(), *flags]) == 0
    told = capsys.readouterr().out
    assert "bin 0: " in told
    assert "k_bin2.fits" in told
    names = {f"k_bin{n}.{kind}" for n in range(3) for kind in ("fits", "json")}
    assert {path.name for path in Path().iterdir()} == {"g.fits", *names}
    assert json.loads(Path("k_bin1.json").read_text())["bin"] == 1
    shear = bin_shear_tomographic(read_catalogue("g.fits", bins="zbin"), "1 arcmin")[1]
    with fits.open("k_bin1.fits") as file:
        assert file["KAPPA_E"].data.shape == tuple(shear.noise.shape)
        np.testing.assert_array_equal(file["MASK"].data, shear.seen)
    for flag, words in (
        (["--patch-size", "1 deg"], "--bins and --patch-size do not go together"),
        (["--figure", "k.png"], "--figure shows one map, --bins makes 3"),
    ):
        assert main([*line.split(), *flags, *flag]) == 2
        assert words in capsys.readouterr().err
    assert main(["massmap", "s.npy", "--bins", "z", "--out", "k.fits"]) == 2
    assert "--bins is for a catalogue" in capsys.readouterr().err
