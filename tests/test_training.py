"""The training loop on six small pictures: it learns, goes on after a kill to the same bits, and
refuses what it cannot use.
"""

from __future__ import annotations

import csv
import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pnp_mlpatch.denoisers._bicubic import reflect
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import (
    Diverged,
    FileError,
    InputError,
    InputTypeError,
    PnPError,
    WeightsError,
)
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.training import TrainConfig, loop, train
from pnp_mlpatch.training.data import batch, cut, symmetric
from pnp_mlpatch.training.sources import pictures, read_folder

TINY = {"width": 8, "rings": 2, "angles": 4, "radius": 2.0, "depth": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six smooth pictures of 28 x 30 pixels with edges in them."""
    folder = tmp_path_factory.mktemp("pictures")
    rows, cols = np.mgrid[:28, :30]
    for k in range(6):
        picture = (
            128
            + 60 * np.sin(rows / (3 + k)) * np.cos(cols / (7 - k))
            + 50 * ((rows - 14) ** 2 + (cols - 4 * k) ** 2 < 60)
        )
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.fixture
def config(folder, tmp_path):
    return TrainConfig(
        data=str(folder),
        out=str(tmp_path / "out"),
        model=TINY,
        size=16,
        crop=6,
        batch=4,
        steps=12,
        warmup=3,
        checkpoint_every=4,
        validate_every=6,
        lr=5e-3,
    )


def changed(config, **settings):
    return dataclasses.replace(config, **settings)


def tensors(path) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in MLPatch.load(path).state_dict().items()}


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def log(config) -> list[dict[str, str]]:
    with open(f"{config.out}/log.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def killed(monkeypatch):
    """Train, but as if killed at a step."""

    def run(config, step: int) -> None:
        rate = loop.learning_rate

        def kill(config, k):
            if k == step:
                raise KeyboardInterrupt
            return rate(config, k)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "learning_rate", kill)
            with pytest.raises(KeyboardInterrupt):
                train(config, progress=False)

    return run


# ---- the run


def test_files_and_card(config, folder):
    config = changed(config, card={"licence": "CC0"}, validation=str(folder), seed=3)
    path = train(config, progress=False)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "checkpoint.pt",
        "log.csv",
        "log.png",
        "weights.safetensors",
    ]
    net = MLPatch.load(path)
    assert net.config["width"] == 8
    assert net.card == {
        "licence": "CC0",
        "trained_size": [16, 16],
        "sigma_range": [0.0, config.sigma_max],
        "parameters": sum(p.numel() for p in net.parameters()),
        "steps": 12,
        "pixels": 12 * 4 * 36,
        "seed": 3,
        "precision": "float32",
        "images": 6,
    }
    rows = log(config)
    assert [row["step"] for row in rows] == ["6", "12"]
    assert all(
        math.isfinite(float(row[key]))
        for row in rows
        for key in ("loss", "seconds", "psnr_15", "psnr_25", "psnr_50")
    )


def test_it_learns(config, folder):
    config = changed(config, steps=60, batch=16, lr=0.03, validate_every=20, validation=str(folder))
    net = MLPatch.load(train(config, progress=False))
    start = loop.validate(MLPatch(**TINY), read_folder(folder, 1, 1))
    end = loop.validate(net, read_folder(folder, 1, 1))
    assert all(end[key] > start[key] + 3 for key in start)
    losses = [float(row["loss"]) for row in log(config)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert {key: round(value, 6) for key, value in end.items()} == {
        key: float(log(config)[-1][key]) for key in end
    }


def test_random_pixels_and_half_precision(config):
    for settings in ({"crop": 1}, {"crop": 16}, {"precision": "bfloat16"}):
        run = changed(config, out=config.out + str(settings), steps=3, **settings)
        before = MLPatch(**TINY).state_dict()
        after = tensors(train(run, progress=False))
        assert all(
            v.dtype == torch.float32 and bool(torch.isfinite(v).all()) for v in after.values()
        )
        assert not torch.equal(after["offsets"], before["offsets"])


def test_two_runs_are_equal_and_another_seed_is_not(config):
    first = tensors(train(config, progress=False))
    assert same(first, tensors(train(changed(config, out=config.out + "2"), progress=False)))
    assert not same(
        first, tensors(train(changed(config, out=config.out + "3", seed=1), progress=False))
    )


@pytest.mark.parametrize("step", [4, 7, 11])
def test_a_killed_run_goes_on_to_the_same_bits(config, killed, step):
    whole = tensors(train(changed(config, out=config.out + "whole"), progress=False))
    killed(config, step)
    steps = []
    rate = loop.learning_rate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop, "learning_rate", lambda config, k: (steps.append(k), rate(config, k))[1]
        )
        again = tensors(train(config, progress=False))
    assert steps == list(range(step - step % 4, 12))
    assert same(whole, again)
    assert [row["step"] for row in log(config)] == ["6", "12"]


def test_a_finished_run_is_not_trained_again(config, monkeypatch):
    first = tensors(train(config, progress=False))
    monkeypatch.setattr(loop, "learning_rate", lambda config, k: pytest.fail("it trains"))
    assert same(first, tensors(train(config, progress=False)))


def test_resume_false_starts_afresh(config, killed):
    whole = tensors(train(changed(config, out=config.out + "whole"), progress=False))
    killed(config, 7)
    assert same(whole, tensors(train(config, resume=False, progress=False)))
    assert [row["step"] for row in log(config)] == ["6", "12"]


def test_what_may_change_between_runs(config, killed, folder):
    killed(config, 7)
    path = train(
        changed(config, checkpoint_every=5, validation=str(folder), card={"author": "me"}),
        progress=False,
    )
    assert MLPatch.load(path).card["author"] == "me"
    assert math.isfinite(float(log(config)[-1]["psnr_25"]))


# ---- refusals


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e-3},
        {"batch": 5},
        {"size": 20},
        {"seed": 9},
        {"model": {**TINY, "width": 9}},
        {"steps": 20, "warmup": 2},
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings(config, killed, settings):
    killed(config, 5)
    words = (
        r"checkpoint.pt: an interrupted run had other data or settings "
        rf"\({', '.join(settings)}\). Give the same, or use another 'out', or resume=False"
    )
    with pytest.raises(InputError, match=words):
        train(changed(config, **settings), progress=False)


def _with(path, **changes) -> None:
    content, about = checkpoint.load(path)
    about = changes.pop("about", about)
    checkpoint.save(
        path, {k: v for k, v in (content | changes).items() if v is not None}, about=about
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(p.read_bytes()[:2000]),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_text("a checkpoint"),
        lambda p: torch.save([1, 2], p),
        lambda p: _with(p, about=None),
        lambda p: _with(p, about=[1]),
        lambda p: _with(p, model=None),
        lambda p: _with(p, model={"first": torch.ones(1)}),
        lambda p: _with(p, optimizer={"state": {}}),
    ],
    ids=[
        "truncated",
        "empty",
        "text",
        "a list",
        "no config",
        "config a list",
        "no model",
        "another model",
        "another optimizer",
    ],
)
def test_a_damaged_checkpoint(config, killed, spoil):
    killed(config, 5)
    path = loop.Path(config.out) / "checkpoint.pt"
    spoil(path)
    with pytest.raises(WeightsError, match=r"out/checkpoint.pt: .*"):
        train(config, progress=False)


def test_pictures_that_cannot_be_used_are_skipped_with_a_warning(config, folder, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    whole = (folder / "0.png").read_bytes()
    (mixed / "0.png").write_bytes(whole)
    (mixed / "half.png").write_bytes(whole[: len(whole) // 2])
    (mixed / "words.jpg").write_text("not a picture")
    (mixed / "notes.txt").write_text("not meant as a picture")
    Image.new("L", (15, 40)).save(mixed / "narrow.png")
    np.save(mixed / "nan.npy", np.full((20, 20), np.nan))
    with pytest.warns(UserWarning, match="skipped") as warned:
        path = train(changed(config, data=str(mixed), steps=1), progress=False)
    texts = [str(w.message) for w in warned if "skipped" in str(w.message)]
    for name, reason in {
        "half.png": "cannot be read",
        "words.jpg": "cannot be read",
        "narrow.png": r"(1, 40, 15)",
        "nan.npy": "NaN",
    }.items():
        assert sum(name in text and reason in text for text in texts) == 1, name
    assert len(texts) == 4
    assert MLPatch.load(path).card["images"] == 1


def test_folders(config, tmp_path):
    with pytest.raises(FileError, match=r"none: no such folder of training images"):
        train(changed(config, data=str(tmp_path / "none")), progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileError, match=r"empty: no usable picture \(.png, .*\) of at least 16 x 16 pixels"
    ):
        train(changed(config, data=str(tmp_path / "empty")), progress=False)
    with pytest.raises(FileError, match=r"none: no such folder"):
        train(changed(config, validation=str(tmp_path / "none")), progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        train(changed(config, out=str(tmp_path / "file")), progress=False)


def test_grey_and_colour_pictures(folder, tmp_path):
    Image.new("RGB", (20, 18), (255, 0, 0)).save(tmp_path / "red.png")
    assert read_folder(tmp_path, 3, 16)[0].shape == (3, 18, 20)
    torch.testing.assert_close(read_folder(tmp_path, 1, 16)[0], torch.full((1, 18, 20), 0.299))
    with (
        pytest.warns(UserWarning, match=r"\.png has shape \(1, 28, 30\), needs 3"),
        pytest.raises(FileError, match="no usable picture"),
    ):
        read_folder(folder, 3, 16)


def test_a_loss_that_is_not_finite(config):
    with pytest.raises(
        Diverged,
        match=r"train: the loss is (nan|inf) at step \d+. Lower lr \(now 1e\+30\); the last "
        r"checkpoint is kept in .*out",
    ):
        train(changed(config, lr=1e30, warmup=0, checkpoint_every=1), progress=False)
    kept = torch.load(f"{config.out}/checkpoint.pt")
    assert kept["step"] >= 1
    assert not (loop.Path(config.out) / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(
            ({name: 0}, f"train: {name} must be an integer >= 1, got 0")
            for name in ("size", "crop", "batch", "steps", "checkpoint_every")
        ),
        ({"batch": 2.5}, "train: batch must be an integer >= 1, got 2.5"),
        ({"crop": 17}, r"train: crop \(17\) must not be larger than size \(16\)"),
        ({"warmup": -1}, "train: warmup must be an integer >= 0, got -1"),
        *(
            ({"lr": value}, f"train: lr must be finite and > 0, got {value!r}")
            for value in (0.0, math.nan, math.inf, "small")
        ),
        *(
            ({name: -1}, f"train: {name} must be finite and >= 0, got -1")
            for name in ("sigma_max", "clip", "weight_decay")
        ),
        (
            {"sigma_max": 0},
            "train: sigma_max must be > 0 to learn to denoise, got 0. Only task = 'upscale'",
        ),
        ({"optimizer": "sgd"}, "train: optimizer must be 'adamw' or 'muon', got 'sgd'"),
        ({"loss": "psnr"}, "train: loss must be 'squares' or 'log', got 'psnr'"),
        ({"seed": -1}, "train: seed must be an integer >= 0, got -1"),
        ({"ema": 1.0}, r"train: ema must be in \[0, 1\), got 1.0"),
        ({"factor": 1}, r"train: factor must be > 1 and at most size \(16\), got 1"),
        ({"factor": 17}, "train: factor must be > 1 and at most size"),
        ({"queries": 0}, "train: queries must be an integer >= 1, got 0"),
        (
            {"task": "upsacle"},
            "train: task must be 'denoise' or 'upscale' or 'pairs', got 'upsacle'",
        ),
        (
            {"precision": "half"},
            "train: precision must be 'float32' or 'bfloat16' or 'float16', got 'half'",
        ),
    ],
    ids=str,
)
def test_settings(config, settings, words):
    with pytest.raises(PnPError, match=words):
        changed(config, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": {"widht": 8}}, "model.*widht"),
        ({"model": {"width": 0}}, "MLPatch: width must be an integer >= 1, got 0"),
        ({"device": "gpu"}, "device.*gpu"),
        (
            {"precision": "float16"},
            "train: precision 'float16' needs device 'cuda', the device is 'cpu'. Use 'bfloat16'",
        ),
        (
            {"model": {**TINY, "sigma_max": 0.1}},
            r"train: sigma_max \(0.2353\) is above that of the network \(0.1\)",
        ),
        (
            {"task": "upscale", "denoiser": "dncnn", "model": {}},
            "train: task 'upscale' needs a network with .*'dncnn' has none",
        ),
    ],
    ids=str,
)
def test_settings_of_the_model(config, settings, words):
    with pytest.raises(PnPError, match=words):
        train(changed(config, **settings), progress=False)


# ---- settings in a file


def test_toml(config, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(
        'data = "pictures"\nout = "results"\nlr = 0.002\n[model]\nwidth = '
        '8\n[card]\nlicence = "CC0"\n'
    )
    read = TrainConfig.from_toml(path)
    assert read == TrainConfig(
        data="pictures", out="results", lr=0.002, model={"width": 8}, card={"licence": "CC0"}
    )
    assert TrainConfig.from_dict(read.to_dict()) == read


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (
            'data = "a"\nout = "b"\nstpes = 3',
            InputTypeError,
            r"unknown setting 'stpes'. Did you mean 'steps'\? Known: data, out, validation",
        ),
        (
            'data = "a"\nout = "b"\nxyzzy = 3',
            InputTypeError,
            r"unknown setting 'xyzzy'. Known: data",
        ),
        ('out = "b"', InputTypeError, "'data' is missing; it names the folder of images"),
        ('data = "a"', InputTypeError, "'out' is missing; it names the folder of results"),
        ('data = "a"\nout = "b"\nsteps = 0', InputError, "steps must be an integer >= 1, got 0"),
        ("data = ", FileError, "not valid TOML"),
    ],
    ids=["misspelt", "unknown", "no data", "no out", "out of range", "not TOML"],
)
def test_toml_refused(text, error, words, tmp_path):
    (tmp_path / "train.toml").write_text(text)
    with pytest.raises(error, match=words) as caught:
        TrainConfig.from_toml(tmp_path / "train.toml")
    assert "train" in str(caught.value)


def test_toml_missing(tmp_path):
    with pytest.raises(FileError, match=r"none.toml: cannot be read .*Check the path"):
        TrainConfig.from_toml(tmp_path / "none.toml")


# ---- parts


def test_learning_rate(config):
    config = changed(config, steps=100, warmup=10, lr=0.5)
    rates = [loop.learning_rate(config, k) for k in range(101)]
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11))
    assert rates[10] == 0.5
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[55] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0.0)
    assert loop.learning_rate(changed(config, warmup=0), 0) == 0.5


@pytest.mark.parametrize("halo", [0, 2, 5, 11])
@pytest.mark.parametrize(("size", "crop"), [(9, 3), (9, 9), (9, 1), (4, 2), (1, 1)])
def test_blocks_are_cut_from_the_reflected_window(size, crop, halo):
    """Image and noise are those of the window padded by numpy, so a pixel and its mirror carry the
    same draw.
    """
    image = torch.arange(2 * 14 * 13, dtype=torch.float32).reshape(2, 14, 13)
    rng = np.random.default_rng(0)
    top, left = 14 - size, 1
    window = image[:, top : top + size, left : left + size]
    padded = np.pad(
        window.numpy(), ((0, 0), (halo, halo), (halo, halo)), mode="reflect" if size > 1 else "edge"
    )
    draws = []
    for row in {0, (size - crop) // 2, size - crop}:
        for col in {0, size - crop}:
            block, noise = cut(window, (row, col), crop, halo, rng)
            expected = padded[:, row : row + crop + 2 * halo, col : col + crop + 2 * halo]
            np.testing.assert_array_equal(block.numpy(), expected)
            carried: dict[float, float] = {}
            for pixel, value in zip(
                block.flatten().tolist(), noise.flatten().tolist(), strict=True
            ):
                assert carried.setdefault(pixel, value) == value
            assert len(set(carried.values())) == len(carried)
            draws += carried.values()
    if len(draws) > 300:
        assert abs(float(np.mean(draws))) < 0.2
        assert abs(float(np.std(draws)) - 1) < 0.2


@pytest.mark.parametrize("size", [1, 2, 5])
def test_reflected_indices_are_those_of_the_denoiser_at_inference(size):
    np.testing.assert_array_equal(
        reflect(torch.arange(-7, size + 7), size).numpy(),
        np.pad(np.arange(size), 7, mode="reflect" if size > 1 else "edge"),
    )


def test_the_eight_symmetries_of_the_square():
    block = torch.arange(9.0).reshape(1, 3, 3)
    turned = {tuple(symmetric(block, k).flatten().tolist()) for k in range(8)}
    expected = {
        tuple(torch.rot90(b, k, (-2, -1)).flatten().tolist())
        for b in (block, block.flip(-1))
        for k in range(4)
    }
    assert turned == expected


def test_a_batch_is_clean_plus_noise_of_the_stated_level(config):
    images = [
        pictures(
            "three",
            [torch.rand(1, 20, 24, generator=torch.Generator().manual_seed(k)) for k in range(3)],
        )
    ]
    config = changed(config, crop=8, sigma_max=0.5)
    noisy, sigma, clean, coords = batch(images, config, 3, 0, range(200))
    assert coords is None
    assert noisy.shape == (200, 1, 14, 14)
    assert clean.shape == (200, 1, 8, 8)
    assert sigma.shape == (200, 1, 1, 1)
    noise = (noisy[:, :, 3:-3, 3:-3] - clean) / sigma
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    assert 0 <= float(sigma.min()) < 0.05
    assert 0.45 < float(sigma.max()) <= 0.5
    again = batch(images, config, 3, 0, [7, 3])  # an image of a batch does not depend on the others
    assert torch.equal(again.noisy, noisy[[7, 3]])
    assert not torch.equal(batch(images, config, 3, 1, [7, 3]).noisy, noisy[[7, 3]])


def test_training_and_inference_agree_at_the_border_of_a_window():
    """A block that touches the border gives what the denoiser gives on the window itself."""
    torch.manual_seed(0)
    net = MLPatch(**TINY).requires_grad_(False)
    torch.nn.init.normal_(net.last, std=0.05)
    image = torch.rand(1, 20, 24)
    block, _ = cut(image[:, 2:14, 5:17], (0, 6), 6, net.field, np.random.default_rng(0))
    expected = net(image[None, :, 2:14, 5:17].contiguous(), 0.1)[..., 0:6, 6:12]
    torch.testing.assert_close(
        net.denoise_block(block[None], torch.full((1, 1, 1, 1), 0.1)),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "row",
    [
        "4",
        "4,",
        "4,0.1",
        "4,0.1,1,2,3,4,5,6,7",
        "4,abc,1,,,",
        "4,0.1,1,x,3,4",
        "99999999999999999999,1",
    ],
)
def test_a_row_of_the_log_that_was_cut_off(config, folder, killed, row):
    settings = {"validation": str(folder), "validate_every": 4}
    killed(changed(config, **settings), 5)
    path = loop.Path(config.out) / "log.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n" + row)
    train(changed(config, **settings), progress=False)
    with path.open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["8", "12"]


def test_what_is_no_log_is_refused(config, folder, killed):
    killed(config, 5)
    (loop.Path(config.out) / "log.csv").write_bytes(bytes(range(256)))
    with pytest.raises(FileError, match=r"log.csv: is not the log of a training"):
        train(config, progress=False)


def test_a_card_that_cannot_be_kept_is_refused_at_once(config):
    with pytest.raises(InputTypeError, match="settings and card must be plain values"):
        train(changed(config, card={"made": math}), progress=False)


def test_two_trainings_in_one_folder(config):
    loop.Path(config.out).mkdir()
    with (
        lock(loop.Path(config.out) / "checkpoint.pt"),
        pytest.raises(FileError, match="another run is writing it"),
    ):
        train(config, progress=False)
