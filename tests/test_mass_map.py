"""Mass maps as a person makes them: map_mass, and ``pnp-mlpatch massmap`` from a FITS file to a
FITS file.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.cli import main
from pnp_mlpatch.errors import InputError, PnPError, WeightsError
from pnp_mlpatch.lensing.estimators import reduced, shear_of
from pnp_mlpatch.lensing.fits import ShearMap, read_provenance
from pnp_mlpatch.lensing.statistics import judge
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, border, map_mass
from pnp_mlpatch.viz.panels import apart

PIXEL = "0.293 arcmin"


def sky(rows=slice(140, 236), columns=slice(130, 234), g=False, seed=0):
    """A part of the sample with its mask and noise: truth, shear."""
    kappa, noise, _ = samples.lensing()
    kappa = kappa - kappa.mean()
    gamma = shear_of(kappa[None, None])
    gamma = (reduced(gamma, kappa[None, None]) if g else gamma)[0][:, rows, columns]
    noise = noise[rows, columns].double()
    seen = torch.isfinite(noise)
    e = torch.randn(gamma.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return kappa[rows, columns], ShearMap(
        torch.where(seen, gamma + torch.where(seen, noise, 0.0) * e, 0.0), noise, PIXEL
    )


@pytest.fixture(scope="module")
def D():
    return denoisers.make("mlpatch", weights="mlpatch-kappa")


def test_map_is_better_than_smoothing(D):
    truth, shear = sky()
    found = map_mass(shear, D, MassMapConfig(iterations=20), progress=False)
    ours, smooth = (judge(x, truth, PIXEL, shear.seen) for x in (found.kappa, found.smoothed))
    assert ours["nrmse"] < 0.95 * smooth["nrmse"]
    assert ours["pearson"] > smooth["pearson"] + 0.05
    assert ours["peaks"]["0.1"] > smooth["peaks"]["0.1"]
    assert found.settings["sigma"] == pytest.approx(0.75 * found.settings["noise"])
    assert found.settings["padding"] == 13  # an eighth of 104
    assert found.statistics["B rms"] == pytest.approx(found.statistics["B rms of noise"], rel=0.35)
    assert torch.equal(found.kappa[1], found.smoothed[1])
    assert found.spread.shape == truth.shape
    assert float(found.spread.min()) > 0


def test_b_modes_are_noticed(D):
    """A shear turned by 45 degrees, as a wrong sign or a systematic error makes it."""
    truth, shear = sky()
    gamma = 4 * shear_of(truth[None, None])[0].double()
    turned = ShearMap(shear.gamma + torch.stack([-gamma[1], gamma[0]]), shear.noise, PIXEL)
    statistics = map_mass(
        turned, D, MassMapConfig(iterations=3, burn_in=0), progress=False
    ).statistics
    assert statistics["B rms"] > 2 * statistics["B rms of noise"]


def test_reduced_shear_by_passes(D):
    truth, shear = sky(g=True)
    once, thrice = (
        map_mass(shear, D, MassMapConfig(iterations=12, passes=n), progress=False).kappa[0]
        for n in (1, 3)
    )
    assert not torch.equal(once, thrice)
    high = truth > 0.08
    assert float(thrice[high].mean()) < float(once[high].mean())  # g overstates the peaks
    assert judge(thrice, truth, PIXEL, shear.seen)["nrmse"] < 1


def test_unseen_pixels_and_settings_of_the_run(D):
    _, shear = sky()
    wild = ShearMap(torch.where(shear.seen, shear.gamma, 1e6), shear.noise, PIXEL)
    config = MassMapConfig(iterations=3, burn_in=1)
    assert torch.equal(
        map_mass(shear, D, config, progress=False).kappa,
        map_mass(wild, D, config, progress=False).kappa,
    )


def test_interrupted_runs_go_on_to_the_same_bits(D, tmp_path, monkeypatch):
    _, shear = sky()
    config, path = MassMapConfig(iterations=8, burn_in=2, passes=2), tmp_path / "state.pt"
    whole = map_mass(shear, D, config, progress=False)
    for stop in (5, 11):
        calls = []

        def breaks(x, sigma, calls=calls, stop=stop):
            calls.append(0)
            if len(calls) == stop + 1:  # one call goes to the start
                raise KeyboardInterrupt
            return D(x, sigma)

        breaks.info = D.info
        monkeypatch.setattr(
            "pnp_mlpatch.pipelines._mass_map_run.fingerprint", lambda D: {"name": "the same"}
        )
        with pytest.raises(KeyboardInterrupt):
            map_mass(shear, breaks, config, checkpoint=path, save_every=0.0, progress=False)
        assert path.exists()
        with pytest.raises(
            InputError, match=r"an interrupted run had other data or settings \(seed\)"
        ):
            map_mass(
                shear,
                D,
                MassMapConfig(iterations=8, burn_in=2, passes=2, seed=1),
                checkpoint=path,
                progress=False,
            )
        again = map_mass(shear, D, config, checkpoint=path, progress=False)
        assert torch.equal(again.kappa, whole.kappa)
        assert torch.equal(again.spread, whole.spread)
        assert path.exists()  # until the result is saved
        path.unlink()
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a saved checkpoint of map_mass"):
        map_mass(shear, D, config, checkpoint=path, progress=False)


def test_borders():
    seen = torch.zeros(80, 80)
    seen[10:60, 12:71] = 1
    assert border(seen > 0) == 1  # 9 columns are free on the right
    assert border(torch.ones(80, 40) > 0) == 10


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, D: map_mass(s.gamma, D), "expected a ShearMap"),
        (lambda s, D: map_mass(s, "mlpatch"), "must be callable"),
        (lambda s, D: map_mass(s, D, MassMapConfig(sigma=0.5)), "takes sigma up to 0.35, got 0.5"),
        (lambda s, D: MassMapConfig(sigma=-1), "sigma must be > 0"),
        (lambda s, D: MassMapConfig(iterations=4), r"burn_in \(4\) must be below iterations"),
        (lambda s, D: MassMapConfig(passes=0), "passes must be an integer >= 1"),
        (lambda s, D: MassMapConfig(padding=1.5), "padding must be an integer >= 0"),
    ],
)
def test_what_cannot_be_mapped(call, words, D):
    with pytest.raises(PnPError, match=words):
        call(sky()[1], D)


# ---- the command


@pytest.fixture
def shear_file(tmp_path, monkeypatch):
    """A FITS file on the sky, with gamma along (right ascension, declination); and the truth."""
    monkeypatch.chdir(tmp_path)
    truth, shear = sky(slice(150, 198), slice(140, 204))
    cards = WCS(naxis=2)
    cards.wcs.ctype, cards.wcs.crval, cards.wcs.crpix = (
        ["RA---TAN", "DEC--TAN"],
        [150.1, 2.2],
        [32.5, 24.5],
    )
    cards.wcs.cdelt, cards.wcs.cunit = [-0.293 / 60, 0.293 / 60], ["deg", "deg"]
    cards = cards.to_header()
    cards["OBSERVER"] = "somebody"
    images = {
        "GAMMA1": shear.gamma[0],
        "GAMMA2": -shear.gamma[1],
        "NOISE": shear.noise,
        "MASK": shear.seen.to(torch.int16),
    }
    hdus = [fits.ImageHDU(values.numpy(), cards, name=name) for name, values in images.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto("shear.fits")
    np.save("truth.npy", truth.numpy())
    return truth, shear


QUICK = "--iterations 6 --quiet --threads 1"


def run(line):
    return main(["massmap", *line.split()])


def test_a_report_of_a_map(shear_file):
    assert run(f"shear.fits --out k.fits --truth truth.npy --report k.html {QUICK}") == 0
    told = Path("k.html").read_text(encoding="utf-8")
    settings = json.loads(Path("k.json").read_text())["settings"]
    chosen = told.split("What was chosen, and why")[1].split("Pictures of the run")[0]
    for words in ("0.75 of the noise", "border of an eighth", "mlpatch-kappa", "variances"):
        assert words in chosen
    assert f"{settings['sigma']:.3g}" in chosen
    assert "Kaiser-Squires, " in told
    assert "Error, result less truth" in told
    found = float(told.split('<th scope="row">chi^2</th><td class="value">')[1].split(" ")[0])
    assert found == pytest.approx(1, abs=0.1)
    assert "White: neighbours" in told


def test_the_residual_is_that_of_the_map(D):
    """Of the truth it is the noise; where nothing was measured it is 0."""
    _, shear = sky(slice(150, 198), slice(140, 204))
    found = map_mass(shear, D, MassMapConfig(iterations=3, burn_in=1, passes=2), progress=False)
    assert found.residual.shape == shear.gamma.shape
    assert bool((found.residual[:, ~shear.seen] == 0).all())
    assert float(found.residual[:, shear.seen].square().mean()) == pytest.approx(1, abs=0.1)


def test_fits_to_fits(shear_file, tmp_path, D, capsys):
    truth, shear = shear_file
    assert (
        main(
            [
                "massmap",
                "shear.fits",
                "--out",
                "kappa.fits",
                "--figure",
                "kappa.png",
                "--truth",
                "truth.npy",
                "--iterations",
                "6",
                "--threads",
                "1",
            ]
        )
        == 0
    )
    assert "48 x 64 pixels of 0.293 arcmin" in capsys.readouterr().out
    with fits.open("kappa.fits") as out, fits.open("shear.fits") as given:
        assert [hdu.name for hdu in out] == [
            "PRIMARY",
            "KAPPA_E",
            "KAPPA_B",
            "SPREAD",
            "SMOOTHED",
            "MASK",
        ]
        for hdu in out[1:]:
            sky_out, sky_in = (WCS(h.header).pixel_to_world(5, 40) for h in (hdu, given["GAMMA1"]))
            assert sky_out.separation(sky_in).deg < 1e-9
            assert hdu.header["OBSERVER"] == "somebody"
        assert out["KAPPA_E"].header["BUNIT"] == ""
        E = torch.from_numpy(out["KAPPA_E"].data.astype(np.float32))
    expected = map_mass(
        ShearMap(shear.gamma * torch.tensor([1.0, -1.0])[:, None, None], shear.noise, PIXEL, True),
        D,
        MassMapConfig(iterations=6),
        progress=False,
    )
    assert torch.allclose(E, expected.kappa[0], atol=1e-6)
    table = json.loads((tmp_path / "kappa.json").read_text())
    assert table["judged"]["map"]["nrmse"] == pytest.approx(
        judge(E, truth, PIXEL, shear.seen)["nrmse"], abs=1e-4
    )
    assert set(table["judged"]) == {"map", "smoothed"}
    assert table["settings"]["flip_ra"] is True
    assert read_provenance("kappa.fits")["settings"]["denoiser"]["weights"] == "mlpatch-kappa"
    assert (tmp_path / "kappa.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_is_repeated_from_its_json(shear_file, tmp_path, capsys):
    assert run(f"shear.fits --out a.fits --seed 3 --sigma 0.1 {QUICK}") == 0
    assert run("--from a.json --out b.fits --quiet --threads 1") == 0
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    assert run("--from a.json --out c.fits --seed 4 --quiet --threads 1") == 0
    assert (tmp_path / "a.fits").read_bytes() != (tmp_path / "c.fits").read_bytes()
    with fits.open("shear.fits", mode="update") as file:
        file["GAMMA1"].data[3, 3] += 0.1
    assert run("--from a.json --out b.fits --quiet") == 2
    assert "is not the file that a.json was made from" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on(shear_file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "pnp_mlpatch.cli",
        "massmap",
        "shear.fits",
        "--iterations",
        "150",
        "--threads",
        "1",
        "--quiet",
    ]
    subprocess.run([*command, "--out", "whole.fits"], check=True)
    slow = "from pnp_mlpatch.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    again = [sys.executable, "-c", slow, *command[3:], "--out", "again.fits"]
    process = subprocess.Popen(again)
    partial = tmp_path / ".again.fits.partial.pt"
    for _ in range(2400):
        if partial.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not os.path.exists("again.fits"):  # else the machine was too fast for the kill
        assert partial.exists()
    subprocess.run(again, check=True)
    assert not partial.exists()
    assert (tmp_path / "whole.fits").read_bytes() == (tmp_path / "again.fits").read_bytes()


def test_a_catalogue(tmp_path, monkeypatch, capsys):
    """Galaxies of tangential shear about a mass: the map has its peak there."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-12, 12, (2, 60_000))  # arcmin; x towards the east
    r2 = x**2 + y**2 + 0.5
    e1, e2 = (-(0.6 / r2) * part for part in ((x**2 - y**2) / r2, 2 * x * y / r2))
    e1, e2 = (np.clip(e + 0.2 * rng.standard_normal(len(x)), -0.7, 0.7) for e in (e1, e2))
    Table({"RA": 30 + x / 60, "DEC": y / 60, "g1": e1, "e2": e2, "w": np.ones(len(x))}).write(
        "galaxies.fits"
    )
    assert (
        main(
            [
                "massmap",
                "galaxies.fits",
                "--catalogue",
                "--pixel",
                "0.5 arcmin",
                "--columns",
                "e1=g1",
                "--out",
                "k.fits",
                *QUICK.split(),
                "--reduced",
            ]
        )
        == 0
    )
    with fits.open("k.fits") as file:
        E = file["KAPPA_E"].data
        row, column = np.unravel_index(E.argmax(), E.shape)
        where = WCS(file["KAPPA_E"].header).pixel_to_world(column, row)
    assert abs((where.ra.deg + 180) % 360 - 210) * 60 < 1
    assert abs(where.dec.deg) * 60 < 1
    assert main(["massmap", "galaxies.fits", "--catalogue", "--out", "k.fits"]) == 2
    assert "a catalogue needs --pixel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--out k.fits", "give SHEAR, the input"),
        ("shear.fits", "give --out FILE.fits"),
        ("shear.fits --out k.png", "expected a file ending in .fits"),
        (
            "shear.fits --out k.fits --figure k.jpg",
            "--figure k.jpg: expected a file ending in .png",
        ),
        ("shear.fits --out nowhere/k.fits", "there is no folder nowhere"),
        ("shear.fits --out shear.fits", "shear.fits: this is the input"),
        ("none.fits --out k.fits", "none.fits: no such file"),
        ("shear.fits --out k.fits --gamma1 NONE", "NONE"),
        ("shear.fits --out k.fits --columns ra=x", "--columns is for a catalogue"),
        ("shear.fits --catalogue --out k.fits --noise 0.1", "--noise is for a shear map"),
        ("shear.fits --out k.fits --sigma 9", "takes sigma up to 0.35"),
        ("shear.fits --out k.fits --iterations 2", "burn_in"),
        ("shear.fits --out k.fits --truth GAMMA1", "GAMMA1"),
        ("shear.fits --out k.fits --threads 0", "--threads must be >= 1"),
        ("shear.fits --out k.fits --weights none", "neither a weights file nor a shipped name"),
        ("--from none.json --out k.fits", "is not the .json of a mass map"),
        ("shear.fits --out k.fits --pixel 0.3", "unit"),
    ],
)
def test_wrong_commands_are_one_line(line, words, shear_file, capsys):
    assert run(line) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


# ---- units and signs that cannot be


FEW = MassMapConfig(iterations=2, burn_in=0)


def changed(shear, **values):
    return dataclasses.replace(shear, **values)


def test_weights_given_as_noise_are_refused(D):
    _, shear = sky(slice(140, 172), slice(130, 162))
    weights = torch.where(shear.seen, 1 / shear.noise**2, torch.inf)
    with pytest.raises(
        InputError, match=r"the noise is \d+\.?\d*, but the rms of the shear.*1 / variance"
    ):
        map_mass(changed(shear, noise=weights), D, FEW, progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: changed(s, noise=s.noise**2), "not a variance"),
        (lambda s: changed(s, pixel="17 arcmin"), "pixels of 17 arcmin.*unit right"),
        (
            lambda s: changed(s, gamma=s.gamma[:, 20:27, 20:27], noise=s.noise[20:27, 20:27]),
            "7 x 7 pixels is too small",
        ),
        (
            lambda s: changed(s, gamma=s.gamma * torch.tensor([1, -1])[:, None, None]),
            "Lenses make no B.*other sign.*Nothing was flipped. Try flip_ra=True",
        ),
    ],
    ids=["variance", "pixel", "small", "sign"],
)
def test_what_looks_wrong_is_said(D, change, words):
    _, shear = sky()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        map_mass(shear, D, FEW, progress=False)
    with pytest.warns(UserWarning, match=words):
        map_mass(change(shear), D, FEW, progress=False)


def test_like_is_printed_beside_like(D):
    """E and B of the one smoothed map, and not E of the posterior mean beside B of another map."""
    _, shear = sky(slice(140, 172), slice(130, 162))
    found = map_mass(shear, D, FEW, progress=False)
    for name, map_ in (("E rms smoothed", found.smoothed[0]), ("B rms", found.smoothed[1])):
        assert found.statistics[name] == pytest.approx(float(map_[shear.seen].std()), rel=1e-4)


def test_a_cluster_has_one_circle():
    places = torch.tensor([[10, 10], [11, 12], [30, 30], [10, 8], [33, 30]])
    assert torch.equal(apart(places, 3.5), places[[0, 2]])
    assert torch.equal(apart(places, 0), places)
    assert len(apart(places[:0], 1)) == 0
