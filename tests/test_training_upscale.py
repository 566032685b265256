"""Training to upscale: windows shrunk at every phase, exact coordinates, random pixels asked for;
it learns, and refuses what cannot.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.training import TrainConfig, loop, train
from pnp_mlpatch.training.data import batch, shrink, shrinking
from pnp_mlpatch.training.sources import pictures, read_folder

TINY = {"width": 8, "square": 3, "features": 8, "dilations": [1], "depth": 2}


@pytest.fixture
def config(tmp_path):
    rows, cols = np.mgrid[:40, :44]
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        picture = (
            128
            + 60 * np.sin(rows / (3 + k)) * np.cos(cols / (7 - k))
            + 50 * ((rows - 14) ** 2 + (cols - 9 * k) ** 2 < 90)
        )
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(
            tmp_path / "pictures" / f"{k}.png"
        )
    return TrainConfig(
        data=str(tmp_path / "pictures"),
        out=str(tmp_path / "out"),
        validation=str(tmp_path / "pictures"),
        model=TINY,
        task="upscale",
        size=24,
        batch=4,
        queries=64,
        steps=40,
        warmup=3,
        lr=1e-2,
        sigma_max=0,
        checkpoint_every=20,
        validate_every=20,
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrinking_is_antialiased_bicubic(factor):
    x = torch.rand(
        12 * factor, 16 * factor, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    ours = shrinking(12 * factor, 12, factor) @ x @ shrinking(16 * factor, 16, factor).T
    theirs = F.interpolate(
        x[None, None], size=(12, 16), mode="bicubic", antialias=True, align_corners=False
    )[0, 0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "factor"), [(64, 2), (64, 4), (63, 3), (64, 3), (40, 1.6)])
def test_the_values_are_at_their_coordinates(size, factor):
    """A ramp, which shrinking leaves a ramp: the value of a pixel is that of the small image at its
    coordinates, to rounding inside.
    """
    ramp = torch.arange(size)[:, None] + 0.01 * torch.arange(size)[None]
    phases = []
    for seed in range(60):
        low, values, coords = shrink(ramp[None], factor, 50, np.random.default_rng(seed))
        count = int(size / factor)
        assert low.shape == (1, count, count)
        assert values.shape == (1, 50)
        assert coords.shape == (50, 2)
        assert float(coords.min()) >= -0.5
        assert float(coords.max()) <= count - 0.5
        inside = ((coords > 2) & (coords < count - 3)).all(dim=1)
        slope = low[0, 4, 0] - low[0, 3, 0], low[0, 0, 4] - low[0, 0, 3]
        predicted = low[0, 3, 3] + (coords[:, 0] - 3) * slope[0] + (coords[:, 1] - 3) * slope[1]
        torch.testing.assert_close(
            predicted[inside],
            values[0][inside],
            rtol=0,
            atol=1e-3 if factor == int(factor) else 0.3,
        )
        phases += (coords % 1).flatten().tolist()
    assert (np.histogram(phases, 10, (0, 1))[0] > 0.4 * len(phases) / 10).all()


def test_batches(config):
    noisy, sigma, clean, coords = batch(
        [pictures("one", [torch.rand(1, 30, 30)])], config, 0, 3, range(4)
    )
    assert (noisy.shape, sigma.shape, clean.shape) == ((4, 1, 12, 12), (4, 1, 1, 1), (4, 1, 64))
    assert coords is not None
    assert coords.shape == (4, 64, 2)
    assert not sigma.any()


def test_it_learns(config):
    path = train(config, progress=False)
    model = MLPatch.load(path)
    assert {key: model.card[key] for key in ("task", "factor", "sigma_range", "pixels")} == {
        "task": "upscale", "factor": 2, "sigma_range": [0.0, 0], "pixels": 40 * 4 * 64,
    }  # fmt: skip
    with open(f"{config.out}/log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["20", "40"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    images = read_folder(config.data, 1, 1)
    start, end = (
        loop.validate_upscale(MLPatch(**TINY, sigma_max=0.0), images),
        loop.validate_upscale(model, images),
    )
    assert list(end) == ["psnr_x2", "psnr_x4"]
    assert end["psnr_x2"] > start["psnr_x2"]
    assert {key: round(value, 6) for key, value in end.items()} == {
        key: float(rows[-1][key]) for key in end
    }


def test_with_noise_and_in_half_precision(config):
    for k, settings in enumerate(
        (
            {"sigma_max": 0.1},
            {"precision": "bfloat16"},
            {"factor": 2.5},
            {"model": {"radius": 2.0, "rings": 2}},
        )
    ):
        run = TrainConfig(
            **{
                **config.to_dict(),
                "out": f"{config.out}{k}",
                "steps": 2,
                "validation": None,
                **settings,
            }
        )
        assert all(
            bool(torch.isfinite(t).all())
            for t in MLPatch.load(train(run, progress=False)).state_dict().values()
        )


def test_a_network_without_coordinates(config):
    with pytest.raises(
        InputError,
        match=r"train: task 'upscale' needs a network with at and upscale; 'ircnn' has none. Try "
        r"'mlpatch'",
    ):
        train(
            TrainConfig(**{**config.to_dict(), "denoiser": "ircnn", "model": {}, "sigma_max": 0.1}),
            progress=False,
        )
