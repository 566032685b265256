"""Errors of mass maps: intervals that cover what they say, skies like the survey, runs that resume,
and the files of the command.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.cli import main
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing import ShearMap, lognormal_convergence, peaks, shear_of
from pnp_mlpatch.lensing.fields import random_convergence
from pnp_mlpatch.pipelines._mass_map_intervals import (
    REGIONS,
    Known,
    calibrated,
    regions_of,
)
from pnp_mlpatch.pipelines._mass_map_skies import PRIOR, amplitudes, counts, observed, skies
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass

PIXEL = "0.293 arcmin"
QUICK = MassMapConfig(iterations=6, burn_in=2)


@pytest.fixture(scope="module")
def D():
    return denoisers.make("mlpatch", weights="mlpatch-kappa")


def survey(side=64, hole=True):
    """The noise of COSMOS at its border, with one more hole of 12 x 12 pixels."""
    noise = samples.lensing()[1][40 : 40 + side, 40 : 40 + side].clone()
    if hole:
        noise[35:47, 35:47] = torch.inf
    return noise


def seen_sky(k, noise):
    """A held-out sky: truth (H, W) and shear."""
    side = len(noise)
    kappa = random_convergence(2 * side, np.random.default_rng((k, 5)))[None]
    inner = (..., *[slice(side // 2, side // 2 + side)] * 2)
    gamma, seen = shear_of(kappa - kappa.mean())[inner][0], torch.isfinite(noise)
    e = torch.randn(gamma.shape, generator=torch.Generator().manual_seed(500 + k))
    gamma = torch.where(seen, gamma + noise.where(seen, torch.zeros(())) * e, 0.0)
    return kappa[inner][0, 0], ShearMap(gamma, noise, PIXEL)


# ---- intervals


def test_regions_of_a_mask():
    seen = torch.zeros(40, 40, dtype=torch.bool)
    seen[12:, :] = True
    seen[30, 20] = False
    names = np.array(REGIONS)[regions_of(seen, "0.5 arcmin").numpy()]  # near 2, far 5 pixels
    assert names[:, 10].tolist()[:16] == (
        ["far"] * 7 + ["farther"] * 3 + ["unseen"] * 2 + ["edge"] * 2 + ["seen"] * 2
    )
    assert names[30, 20] == "unseen"
    assert (names[28:33, 18:23] == "edge").sum() == 24
    assert names[27, 20] == names[30, 17] == "seen"
    assert (names[12:, :2] == "edge").all()  # the end of the map
    assert (names[38:] == "edge").all()


def errors_of(x, generator, wide):
    """Skew errors that grow with the height, and are wider where ``wide``."""
    size = 0.01 * (1 + 10 * x.clamp_min(0)) * (1 + wide.double())
    skew = -(torch.rand(x.shape, generator=generator, dtype=torch.float64)).log() - 1
    return size * skew


def known_maps(count, seed, seen):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        x = 0.03 * torch.randn(seen.shape, generator=generator, dtype=torch.float64)
        found.append(Known(x, x + errors_of(x, generator, ~seen)))
    return found


def test_intervals_cover_each_region_and_height():
    """Of new maps, though the errors are skew and their size depends on height and mask."""
    seen = torch.ones(96, 96, dtype=torch.bool)
    seen[60:] = False
    found = calibrated(known_maps(4, 0, seen), seen, PIXEL)
    inside, ratios, at_peaks = [], [], []
    for known in known_maps(6, 1, seen):
        low, high, std = found.maps(known.x)
        assert bool(((low <= known.x) & (known.x <= high)).all())
        inside.append((low <= known.truth) & (known.truth <= high))
        ratios.append((known.truth - known.x) / std)
        rows = found.rows(known.x, seen, 0.0)
        truth = [float(known.truth[p["row"], p["column"]]) for p in rows]
        at_peaks += [p["low"] <= t <= p["high"] for p, t in zip(rows, truth, strict=True)]
    inside, ratios = torch.stack(inside).double(), torch.stack(ratios)
    x = torch.stack([known.x for known in known_maps(6, 1, seen)])
    assert float(inside.mean()) == pytest.approx(0.9, abs=0.01)
    for where in (seen, ~seen, x > 0.05, x < -0.03, (x > 0.05) & seen):
        assert float(inside[where.expand_as(x)].mean()) == pytest.approx(0.9, abs=0.02)
        assert float(ratios[where.expand_as(x)].square().mean().sqrt()) == pytest.approx(1, abs=0.1)
    assert len(at_peaks) > 300
    assert np.mean(at_peaks) == pytest.approx(0.9, abs=0.04)


def test_peaks_have_intervals_of_their_own():
    """Where the height of a peak is noise: the truth at peaks is lower than at like pixels."""
    seen = torch.ones(80, 80, dtype=torch.bool)

    def maps(seed):
        generator = torch.Generator().manual_seed(seed)
        truth = lognormal_convergence((80, 80), PIXEL, seed=seed, count=12)[:, 0].double()
        noise = 0.02 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
        return [Known(t + n, t) for t, n in zip(truth, noise, strict=True)]

    found, inside, by_pixel = calibrated(maps(1), seen, PIXEL), [], []
    for known in maps(2):
        low, high, _ = found.maps(known.x)
        for peak in found.rows(known.x, seen, 0.0):
            place = peak["row"], peak["column"]
            inside.append(peak["low"] <= float(known.truth[place]) <= peak["high"])
            by_pixel.append(float(low[place]) <= float(known.truth[place]) <= float(high[place]))
    assert np.mean(inside) == pytest.approx(0.9, abs=0.03)
    assert np.mean(by_pixel) < 0.89


# ---- skies


def test_skies_get_the_amplitude_of_the_survey():
    generator = torch.Generator().manual_seed(0)
    skew = [torch.randn(4000, generator=generator).exp() * size for size in (1.0, 1.3, 0.8, 1.1)]
    noise = [torch.randn(4000, generator=generator) for _ in skew]
    sizes = [float((s - s.mean()).abs().mean()) for s in skew]
    ratios = [size / np.mean(sizes) for size in sizes]
    survey = 1.5 * skew[2] / ratios[2] + torch.randn(4000, generator=generator)
    found = amplitudes(skew, noise, survey, 1e-3)
    assert [a * r for a, r in zip(found, ratios, strict=True)] == pytest.approx([1.5] * 4, rel=0.03)
    blind = amplitudes(skew, noise, noise[0], 1e6)
    squares = [(a * r) ** 2 for a, r in zip(blind, ratios, strict=True)]
    assert np.mean(squares) == pytest.approx(PRIOR[0], rel=1e-3)
    assert squares[0] == pytest.approx(squares[1])  # the two halves have like skies
    assert squares[0] < squares[2]


def test_skies_of_a_seed():
    shear = ShearMap(torch.zeros(2, 64, 64), survey(), PIXEL)
    first, second = skies(shear, 2, 0), skies(shear, 2, 1)
    again = skies(shear, 2, 0)
    assert torch.equal(again[1].truth, first[1].truth)
    assert not torch.equal(first[0].truth, first[1].truth)
    assert not torch.equal(first[0].truth, second[0].truth)
    assert first[0].truth.shape == (64, 64)
    assert first[0].gamma.shape == (2, 64, 64)


def test_what_is_observed_of_a_sky():
    noise = survey()
    shear = ShearMap(torch.zeros(2, 64, 64), noise, PIXEL)
    sky = skies(shear, 2, 3)[0]
    q = observed(sky, 2.0, shear, g=False, seed=(1, 2))
    white = (q - 2 * sky.gamma)[:, shear.seen] / noise[shear.seen]
    assert float(white.var()) == pytest.approx(1, abs=0.05)
    assert bool((q[:, ~shear.seen] == 0).all())
    g = observed(sky, 2.0, shear, g=True, seed=(1, 2))
    expected = 2 * sky.gamma * (1 / (1 - 2 * sky.truth) - 1)
    assert torch.allclose((g - q)[:, shear.seen], expected[:, shear.seen].double(), atol=1e-6)


@pytest.mark.parametrize("iterations", [12, 20, 40, 100, 400])
def test_the_time_of_the_skies(iterations):
    """In calls of the denoiser: the errors take twice as many as the map at most."""
    number, fewer = counts(iterations, 4)
    assert number * (fewer + 1) <= 2 * (iterations + 1)
    assert number % 2 == 0
    assert fewer > 4


# ---- map_mass


def test_errors_of_a_map(D):
    noise = survey()
    _, shear = seen_sky(0, noise)
    found = map_mass(shear, D, QUICK, errors=True, progress=False)
    x, low, high = found.kappa[0], found.kappa_low, found.kappa_high
    assert low.shape == high.shape == found.std.shape == x.shape
    assert bool(((low <= x) & (x <= high)).all())
    assert float(found.std.min()) > 0
    width = high - low
    inner = torch.zeros_like(shear.seen)
    inner[4:30, 10:60] = shear.seen[4:30, 10:60]
    level = (x - x[shear.seen].mean()).abs() < 0.01  # of like height
    hole = torch.zeros_like(inner)
    hole[38:44, 38:44] = True
    assert float(width[hole & level].mean()) > 1.02 * float(width[shear.seen & level].mean())
    assert float(found.spread.mean()) < 0.6 * float(found.std.mean())
    assert found.settings["errors"]["level"] == 0.9
    plain = map_mass(shear, D, QUICK, progress=False)
    assert torch.equal(plain.kappa, found.kappa)
    assert plain.kappa_low is plain.kappa_high is plain.std is plain.peaks is None
    assert "errors" not in plain.settings
    centred = (x - x[shear.seen].mean()).where(shear.seen, 0.0)
    places = peaks(centred, 0.05, shear.seen).tolist()
    assert [[p["row"], p["column"]] for p in found.peaks] == places
    assert len(places) == found.statistics["peaks"]["0.05"]
    for peak in found.peaks:
        assert peak["low"] <= peak["kappa"] <= peak["high"]
        assert peak["kappa"] == pytest.approx(float(x[peak["row"], peak["column"]]), abs=1e-6)


def test_coverage_of_small_maps(D):
    """Of three held-out skies, each with skies of its own; pixels of one map are few and like."""
    noise, inside, square = survey(64, hole=False), [], []
    for k in range(3):
        truth, shear = seen_sky(10 + k, noise)
        config = MassMapConfig(iterations=8, burn_in=2, seed=k)
        found = map_mass(shear, D, config, errors=True, progress=False)
        truth = truth - truth[shear.seen].mean() + found.kappa[0][shear.seen].mean()
        inside.append((found.kappa_low <= truth) & (truth <= found.kappa_high))
        square.append(((truth - found.kappa[0]) / found.std).square())
    assert 0.84 < float(torch.stack(inside).double().mean()) < 0.96
    assert 0.7 < float(torch.stack(square).mean().sqrt()) < 1.3


def test_runs_with_errors_resume_to_the_same_bits(D, tmp_path, monkeypatch):
    _, shear = seen_sky(1, survey(32, hole=False))
    path, config = tmp_path / "state.pt", dataclasses.replace(QUICK, passes=2)
    whole = map_mass(shear, D, config, errors=True, progress=False)
    monkeypatch.setattr(
        "pnp_mlpatch.pipelines._mass_map_run.fingerprint", lambda D: {"name": "same"}
    )
    calls = []

    def breaks(x, sigma):
        calls.append(0)
        if len(calls) in stops:
            raise KeyboardInterrupt
        return D(x, sigma)

    breaks.info = D.info
    stops = (5, 17, 30)  # in the map, in the first sky, in the second
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            map_mass(
                shear, breaks, config, errors=True, checkpoint=path, save_every=0, progress=False
            )
    with pytest.raises(InputError, match=r"other data or settings \(errors\)"):
        map_mass(shear, D, config, checkpoint=path, progress=False)
    again = map_mass(shear, D, config, errors=True, checkpoint=path, progress=False)
    for name in ("kappa", "spread", "kappa_low", "kappa_high", "std"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name
    assert again.peaks == whole.peaks
    assert again.statistics == whole.statistics
    other = map_mass(shear, D, dataclasses.replace(config, seed=1), errors=True, progress=False)
    assert not torch.equal(other.std, whole.std)
    finished = map_mass(shear, breaks, config, errors=True, checkpoint=path, progress=False)
    assert torch.equal(finished.std, whole.std)  # all chains are done


def test_errors_that_cannot_be_learned(D):
    _, shear = seen_sky(1, survey())
    with pytest.raises(InputTypeError, match="errors must be True or False, got 1"):
        map_mass(shear, D, QUICK, errors=1)
    small = ShearMap(shear.gamma[:, 20:32, 20:40], shear.noise[20:32, 20:40], PIXEL)
    with pytest.raises(InputError, match=r"16 x 16 pixels or more, got 12 x 20\. Take errors="):
        map_mass(small, D, QUICK, errors=True)


# ---- the command


def test_files_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, shear = seen_sky(2, survey(32, hole=False))
    images = {"GAMMA1": shear.gamma[0], "GAMMA2": shear.gamma[1], "NOISE": shear.noise}
    hdus = [fits.ImageHDU(values.numpy(), name=name) for name, values in images.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto("shear.fits")
    line = "massmap shear.fits --pixel 0.293arcmin --errors --out k.fits --report k.html"
    assert main([*line.split(), "--iterations", "6", "--threads", "1"]) == 0
    assert "standard deviation of the errors: 0.0" in capsys.readouterr().out
    with fits.open("k.fits") as file:
        names = [hdu.name for hdu in file][1:]
        assert names == [
            *("KAPPA_E", "KAPPA_B", "SPREAD", "SMOOTHED", "MASK"),
            *("KAPPA_LOW", "KAPPA_HIGH", "STD"),
        ]
        E, low, high, std = (
            file[name].data for name in ("KAPPA_E", "KAPPA_LOW", "KAPPA_HIGH", "STD")
        )
        assert ((low <= E) & (high >= E) & (std > 0)).all()
    table = json.loads(Path("k.json").read_text())
    assert table["asked"]["errors"] is True
    assert table["settings"]["errors"]["level"] == 0.9
    assert len(table["peaks"]) == table["statistics"]["peaks"]["0.05"]
    told = Path("k.html").read_text(encoding="utf-8")
    assert "width of the intervals" in told
    assert "generated maps of" in told
    assert main(["massmap", "--from", "k.json", "--out", "again.fits", "--quiet"]) == 0
    assert Path("again.fits").read_bytes() == Path("k.fits").read_bytes()
