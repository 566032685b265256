"""Training on noisy pairs, and on the two halves of a scan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pnp_mlpatch import cli
from pnp_mlpatch.ct import ParallelBeam, read_scan
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_self import self_train
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.training.data import batch
from pnp_mlpatch.training.sources import open_sources

TINY = {"width": 16, "rings": 2, "angles": 4, "radius": 2.0, "depth": 2}
SIZE, VIEWS = 32, 60


@pytest.fixture
def pairs(tmp_path) -> TrainConfig:
    """Pairs of a ramp and its negative."""
    ramp = np.linspace(0, 1, 24 * 24, dtype=np.float32).reshape(24, 24)
    np.save(tmp_path / "pairs.npy", np.stack([np.stack([ramp, -ramp])] * 3))
    return TrainConfig(
        data=str(tmp_path / "pairs.npy"),
        out=str(tmp_path / "out"),
        model=TINY,
        task="pairs",
        level=0.05,
        sigma_max=0.2,
        size=16,
        crop=6,
        batch=8,
        steps=4,
        warmup=1,
    )


def test_the_second_of_a_pair_is_the_target(pairs):
    sources = open_sources(pairs.data, 2, pairs.size)
    levels = []
    for step in range(20):
        noisy, sigma, clean, coords = batch(sources, pairs, 3, step, range(8))
        assert coords is None
        inner = noisy[:, :, 3:-3, 3:-3]
        extra = (inner + clean).flatten(1)  # the ramp and its negative cancel
        added = (sigma.flatten() ** 2 - 0.05**2).sqrt()
        levels.append(extra.std(1) / added)
        assert (sigma >= 0.05).all()
        assert (sigma <= 0.2).all()
    assert float(torch.cat(levels).mean()) == pytest.approx(1, abs=0.03)


def test_a_training_on_pairs(pairs):
    path = train(pairs, progress=False)
    assert MLPatch.load(path).channels == 1
    assert MLPatch.load(path).card["steps"] == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "denoise"}, "level is the noise of the images of task = 'pairs'.*'denoise'"),
        ({"level": -0.1}, "level is the noise of the images"),
        ({"level": 0.2}, r"level \(0.2\) must be below sigma_max \(0.2\)"),
        ({"validation": "x.npy"}, "task 'pairs' goes without validation, pixels, permute"),
        ({"permute": True}, "task 'pairs' goes without"),
    ],
)
def test_pairs_that_are_refused(pairs, changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(pairs, **changes)


@pytest.fixture(scope="module")
def scan():
    """Line integrals of discs, with noise, 60 views, and the geometry."""
    rows, cols = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    disc = 0.03 * (rows**2 + cols**2 < 0.15) + 0.02 * ((rows - 0.1) ** 2 + cols**2 < 0.01)
    geometry = ParallelBeam((SIZE, SIZE), VIEWS, SIZE + 8)
    truth = torch.from_numpy(np.stack([disc, disc[::-1].copy(), disc.T.copy()])).float()
    q = Radon(geometry, cache=False)(truth[:, None])[:, 0]
    noise = 0.01 * torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    return read_scan(q + noise, angles=geometry.theta), geometry


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> str:
    """Weights that know nothing."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    torch.manual_seed(0)
    model = MLPatch(**TINY, channels=1, sigma_max=60 / 255)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save(path, {})
    return str(path)


CONFIG = VolumeConfig(noise=0.01)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_views_prefer_is_kept(scan, untrained, tmp_path):
    found = self_train(
        *scan, tmp_path, CONFIG, weights=untrained, steps=120, lr=5e-3, progress=False
    )
    assert found.kept
    assert found.after < found.before - found.error
    assert found.weights == tmp_path / "weights.safetensors"
    assert MLPatch.load(found.weights).card["from"] == untrained
    # the level is the noise of the data through filtered backprojection of 25 views
    views = [k for k in range(VIEWS) if k % 6 != 3][::2]
    half = Radon(dataclasses.replace(scan[1], angles=scan[1].theta[views].tolist()), cache=False)
    draw = 0.01 * torch.randn(20, 1, 25, SIZE + 8, generator=torch.Generator().manual_seed(3))
    expected = float(half.initial(draw).square().mean().sqrt())
    assert (
        expected < found.level * (found.window[1] - found.window[0]) < 2 * expected
    )  # and streaks


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_views_do_not_prefer_is_removed(scan, untrained, tmp_path):
    good = tmp_path / "good"
    self_train(*scan, good, CONFIG, weights=untrained, steps=120, lr=5e-3, progress=False)
    start = str(good / "weights.safetensors")
    found = self_train(*scan, tmp_path, CONFIG, weights=start, steps=2, lr=1.0, progress=False)
    assert not found.kept
    assert found.weights is None
    assert not (tmp_path / "weights.safetensors").exists()


def test_scans_that_cannot_be_split(scan, untrained, tmp_path):
    few = read_scan(scan[0].read(0, 3)[:, :30], angles=scan[0].angles[:30])
    geometry = dataclasses.replace(scan[1], angles=tuple(scan[0].angles[:30].tolist()))
    with pytest.raises(InputError, match=r"needs at least 36; the scan has 30. Take shipped"):
        self_train(few, geometry, tmp_path, weights=untrained)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_shell(scan, untrained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", scan[0].read(0, 3).numpy())
    flags = f"--kind line-integrals --angles {VIEWS} --shape {SIZE} {SIZE} --noise 0.01"
    common = ["train", "--self", "q.npy", "--out", "own", "--steps", "2", "--init", untrained]
    assert cli.main([*common, "--ct", flags]) == 0
    out = capsys.readouterr().out
    assert "noise of filtered backprojection of half of the views" in out
    assert "the new weights are" in out
    for words, said in (
        (["--ct", flags, "--set", "lr=1"], "leave out --set"),
        (["--ct", "--kind counts --angles 60"], "--blank I0"),
    ):
        assert cli.main([*common, *words]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["train", "--data", "procedural", "--out", "x", "--ct", "a"]) == 2
    assert "give --self SCAN" in capsys.readouterr().err
