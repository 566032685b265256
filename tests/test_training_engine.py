"""The engine of the training: average of the weights, clipping, decay, weights to start from,
random pixels, several processes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import pnp_mlpatch
from pnp_mlpatch import cli, weights
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError, PnPError, WeightsError
from pnp_mlpatch.training import TrainConfig, loop, train
from pnp_mlpatch.training._optimizers import Muon, optimizers
from pnp_mlpatch.training.data import batch
from pnp_mlpatch.training.sources import pictures

TINY = {"width": 8, "rings": 2, "angles": 4, "radius": 2.0, "depth": 2}


@pytest.fixture
def config(tmp_path):
    (tmp_path / "pictures").mkdir()
    rows, cols = np.mgrid[:28, :30]
    for k in range(3):
        picture = 128 + 60 * np.sin(rows / (3 + k)) * np.cos(cols / (7 - k))
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "pictures" / f"{k}.png")
    return TrainConfig(
        data=str(tmp_path / "pictures"),
        out=str(tmp_path / "out"),
        model=TINY,
        size=16,
        crop=6,
        batch=4,
        steps=8,
        warmup=2,
        lr=5e-3,
        checkpoint_every=4,
    )


def changed(config, name="", **settings):
    return dataclasses.replace(config, out=config.out + name, **settings)


def tensors(path) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in MLPatch.load(path).state_dict().items()}


def apart(a, b) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def _kill() -> None:
    raise KeyboardInterrupt


# ---- the step


def test_the_average_is_saved_and_the_checkpoint_holds_both(config, monkeypatch):
    """The average by hand, from the weights after every step."""
    decays = []
    follow = loop._follow
    mine = {k: v.clone() for k, v in loop._model(config).state_dict().items()}

    def watched(average, model, decay):
        decays.append(decay)
        for key, value in model.state_dict().items():
            mine[key] = decay * mine[key] + (1 - decay) * value
        follow(average, model, decay)

    monkeypatch.setattr(loop, "_follow", watched)
    saved = tensors(train(changed(config, ema=0.4), progress=False))
    assert decays == pytest.approx([min(0.4, (1 + k) / (10 + k)) for k in range(8)])
    assert apart(saved, mine) < 1e-6
    state = torch.load(f"{config.out}/checkpoint.pt", weights_only=True)
    assert set(state) == {
        "about",
        "step",
        "loss",
        "seconds",
        "model",
        "average",
        "optimizer",
        "scaler",
    }
    assert apart(saved, state["average"]) == 0
    assert apart(state["model"], state["average"]) > 1e-5


@pytest.mark.parametrize("loss", ["squares", "log"])
def test_the_loss_of_a_step(config, loss):
    """The mean over the images of the batch, each written out from its error and its noise."""
    training = loop._Training(changed(config, loss=loss), torch.device("cpu"), 0, 1)
    images = training._images(0)
    noisy, sigma, clean, _ = images
    found = training._loss(images)
    terms = []
    for x, s, truth in zip(training.model.denoise_block(noisy, sigma), sigma, clean, strict=True):
        error = float((x - truth).square().mean())
        weight = (float(s) ** 2 + (5 / 255) ** 2) ** -0.6
        terms.append(weight * error if loss == "squares" else 0.01 * math.log(1 + 255**2 * error))
    assert float(found) == pytest.approx(sum(terms) / 4, rel=1e-5)
    assert len(set(terms)) == 4


def test_without_an_average_the_weights_are_saved(config, monkeypatch):
    monkeypatch.setattr(loop, "_follow", lambda *args: pytest.fail("it averages"))
    saved = tensors(train(changed(config, ema=0), progress=False))
    assert apart(saved, torch.load(f"{config.out}/checkpoint.pt", weights_only=True)["model"]) == 0


def test_clipping_bounds_the_gradient(config, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, closure=None):
        norms.append(
            float(
                torch.cat(
                    [p.grad.flatten() for group in self.param_groups for p in group["params"]]
                ).norm()
            )
        )
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train(changed(config, "a", clip=0), progress=False)
    free, norms[:] = max(norms), []
    train(changed(config, "b", clip=free / 2), progress=False)
    assert max(norms) == pytest.approx(free / 2, rel=1e-3)


def test_half_precision_with_a_scaled_loss(config, monkeypatch):
    """float16 is refused on the CPU because it is slow there; the scaler works there too, so that
    its order in the loop can be tested.
    """
    monkeypatch.setattr(loop, "processes", lambda config: (torch.device("cpu"), 0, 1))
    half = tensors(train(changed(config, "half", precision="float16", steps=20), progress=False))
    full = tensors(train(changed(config, "full", steps=20), progress=False))
    assert all(t.dtype == torch.float32 for t in half.values())
    start = loop._model(config).state_dict()
    assert 0 < apart(half, full) < 0.3 * apart(start, full)
    state = torch.load(f"{config.out}half/checkpoint.pt", weights_only=True)
    assert state["scaler"]["scale"] == 2.0**16
    assert state["scaler"]["_growth_tracker"] == 20


def test_weight_decay_is_for_kernels(config):
    """With a loss without gradient nothing moves but what decays."""
    made = []
    adamw = torch.optim.AdamW

    def watched(groups, **settings):
        made.extend(groups)
        return adamw(groups, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", watched)
        decayed = tensors(train(changed(config, "a", weight_decay=0.5), progress=False))
    assert [group["weight_decay"] for group in made] == [0.5, 0.0]
    assert all(p.ndim >= 2 for p in made[0]["params"])
    assert all(p.ndim < 2 for p in made[1]["params"])
    assert len(made[0]["params"]) + len(made[1]["params"]) == len(
        list(MLPatch(**TINY).parameters())
    )
    assert apart(decayed, tensors(train(changed(config, "b"), progress=False))) > 1e-4


def test_muon_makes_steps_orthogonal():
    """All singular values of a step are near 0.2 lr sqrt(max(n, m)), those of any gradient."""
    kernel = torch.nn.Parameter(torch.randn(16, 20, 3, 3))
    flat = torch.nn.Parameter(torch.randn(40, 17))
    before = [p.detach().flatten(1).clone() for p in (kernel, flat)]
    optimizer = Muon([kernel, flat], lr=0.01, weight_decay=0.5)
    for p in (kernel, flat):
        spread = torch.logspace(0, -1, min(p.flatten(1).shape))  # of singular values
        left, right = (torch.linalg.qr(torch.randn(n, len(spread)))[0] for n in p.flatten(1).shape)
        p.grad = (left * spread @ right.T).reshape(p.shape)
    optimizer.step()
    for p, old in zip((kernel, flat), before, strict=True):
        step = (0.995 * old - p.detach().flatten(1)) / (0.2 * 0.01 * math.sqrt(max(old.shape)))
        values = torch.linalg.svdvals(step)
        assert 0.6 < values.min() <= values.max() < 1.3
        assert float((p.grad.flatten(1) * step).sum()) > 0  # downhill


def test_muon_is_for_kernels_between_hidden_channels(config):
    """The first and the last layer and the learned offsets stay with AdamW."""
    wide = {"channels": 1, "rings": 2, "angles": 9, "features": 16, "dilations": [1, 1]}
    model = MLPatch(**wide, width=32, depth=2)
    adamw, muon = optimizers(changed(config, optimizer="muon"), list(model.parameters()))
    taken = [p for group in muon.param_groups for p in group["params"]]
    names = {name for name, p in model.named_parameters() if any(p is q for q in taken)}
    assert names == {"stem.1.weight", "layers.0.weight", "layers.1.weight"}
    rest = [p for group in adamw.param_groups for p in group["params"]]
    assert len(rest) + len(taken) == len(list(model.parameters()))
    assert len(optimizers(config, list(model.parameters()))) == 1


# ---- weights to start from


def test_init_starts_from_weights(config):
    first = train(changed(config, "first"), progress=False)
    for name, settings in (("same", {}), ("its model", {"model": {}})):
        again = train(
            changed(config, name, init=str(first), lr=1e-12, steps=1, **settings), progress=False
        )
        assert MLPatch.load(again).config == MLPatch.load(first).config
        assert apart(tensors(first), tensors(again)) < 1e-6
    shipped = changed(config, "shipped", init="mlpatch-grey", model={}, lr=1e-12, steps=1, batch=1)
    assert (
        apart(tensors(train(shipped, progress=False)), tensors(weights.locate("mlpatch-grey")))
        < 1e-6
    )


def test_weights_that_do_not_fit(config, tmp_path):
    first = train(changed(config, "first"), progress=False)
    for settings, words in (
        (
            {"init": "none"},
            "'none' is neither a weights file nor a shipped name. Shipped: .*mlpatch-grey",
        ),
        (
            {"init": str(first), "model": {**TINY, "width": 9}},
            r"weights.safetensors: these weights do not fit the 'model' of this run",
        ),
        (
            {"init": str(first), "model": {**TINY, "channels": 3}},
            "do not fit the 'model' of this run",
        ),
        (
            {"init": str(first), "denoiser": "ircnn", "model": {}},
            "expected weights of kind 'ircnn', got 'mlpatch'",
        ),
        ({"init": 3}, "must be a shipped name or a path, got 3"),
    ):
        with pytest.raises(WeightsError, match=words):
            train(changed(config, "again", **settings), progress=False)
    with pytest.raises(
        InputError,
        match=r"sigma_max \(0.3\) is above that of the network \(0.2353\). Lower it, or set "
        r"model.sigma_max",
    ):
        train(changed(config, "again", init=str(first), model={}, sigma_max=0.3), progress=False)


# ---- going on after a kill


@pytest.mark.parametrize(
    "settings",
    [
        {"crop": 1, "pixels": 20},
        {
            "task": "upscale",
            "sigma_max": 0.1,
            "queries": 20,
            "model": {"width": 8, "square": 3, "features": 8, "dilations": [1]},
        },
        {"data": "procedural"},
        {"ema": 0, "weight_decay": 0.1},
        {"precision": "bfloat16"},
        {"optimizer": "muon", "model": {"width": 16, "depth": 2, "rings": 1, "angles": 4}},
    ],
    ids=str,
)
def test_a_killed_run_goes_on_to_the_same_bits(config, settings):
    rate, config = loop.learning_rate, changed(config, **settings)
    whole = tensors(train(changed(config, "whole"), progress=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop, "learning_rate", lambda config, k: rate(config, k) if k < 6 else _kill()
        )
        with pytest.raises(KeyboardInterrupt):
            train(config, progress=False)
    assert apart(whole, tensors(train(config, progress=False))) == 0
    rows = [
        Path(out, "log.csv").read_text().splitlines()[1].split(",")[:2]
        for out in (config.out, config.out + "whole")
    ]
    assert rows[0] == rows[1]  # step and loss


# ---- random pixels


def test_random_pixels_of_windows(config):
    config = changed(config, crop=1, pixels=50)
    images = [pictures("one", [torch.arange(20 * 22.0).reshape(1, 20, 22)])]
    noisy, sigma, clean, coords = batch(images, config, 5, 0, range(4))
    assert coords is not None
    assert (noisy.shape, clean.shape, coords.shape) == ((4, 1, 16, 16), (4, 1, 50), (4, 50, 2))
    assert bool((coords == coords.round()).all())
    assert float(coords.min()) >= 0
    assert float(coords.max()) <= 15
    where = coords.long()
    there = torch.stack([noisy[b, :, where[b, :, 0], where[b, :, 1]] for b in range(4)])
    noise = (there - clean) / sigma[..., 0]
    assert abs(float(noise.mean())) < 0.3
    assert 0.7 < float(noise.std()) < 1.3


def test_random_pixels_off_the_grid(config):
    """Moved by at most the jitter, with the interpolated clean image as what is asked for."""
    config = changed(config, crop=1, pixels=50, jitter=0.5, sigma_max=1e-9)
    image = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))
    shown, _, clean, coords = batch([pictures("one", [image])], config, 3, 0, range(6))
    assert coords is not None
    off = (coords - coords.round()).abs()
    assert 0.2 < float(off.mean()) < 0.3
    assert float(off.max()) <= 0.5
    places = (coords / 7.5 - 1).flip(-1)[:, None]
    expected = F.grid_sample(
        shown, places, mode="bicubic", padding_mode="reflection", align_corners=True
    )[:, :, 0]
    assert torch.allclose(clean, expected, atol=1e-5)
    for bad in (0.6, -0.1, float("nan"), "far"):
        with pytest.raises(
            InputError, match=r"train: jitter moves random pixels by 0 to 0\.5 pixels"
        ):
            changed(config, jitter=bad)
    with pytest.raises(InputError, match="set pixels > 0 with it"):
        changed(config, crop=6, pixels=0)


def test_random_pixels_train_as_crops_do(config):
    """All pixels of a window, asked for one by one: the loss of the crop that is the window."""
    model = MLPatch(**TINY)
    torch.nn.init.normal_(model.last, std=0.05)
    rng = np.random.default_rng(0)
    x, sigma = (
        torch.from_numpy(rng.random((2, 1, 16, 16), dtype=np.float32)),
        torch.full((2, 1, 1, 1), 0.1),
    )
    coords = (
        torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), dim=-1)
        .reshape(1, -1, 2)
        .expand(2, -1, -1)
    )
    torch.testing.assert_close(
        model.at(x, coords, sigma.flatten()).reshape(x.shape),
        model(x, sigma.flatten()),
        rtol=1e-4,
        atol=1e-5,
    )
    config = changed(config, crop=1, pixels=64, batch=8, steps=80, lr=0.02, ema=0, sigma_max=0.2)
    trained = MLPatch.load(train(config, progress=False))
    image = loop.open_sources(config.data, 1, 16)[0].whole(0)[None]
    noise = 0.1 * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    assert float((trained(image + noise, 0.1) - image).square().mean()) < 0.8 * float(
        noise.square().mean()
    )
    assert trained.card["pixels"] == 80 * 8 * 64


def test_random_pixels_are_refused(config):
    with pytest.raises(
        InputError,
        match=r"train: pixels \(64\) asks for single random pixels; set crop = 1 with it, got "
        r"crop = 6",
    ):
        changed(config, pixels=64)
    with pytest.raises(
        InputError,
        match=r"train: pixels > 0 needs a network with at; 'dncnn' has none. .*'mlpatch'",
    ):
        train(changed(config, denoiser="dncnn", model={}, pixels=64, crop=1), progress=False)
    with pytest.raises(PnPError, match="train: pixels must be an integer >= 0, got -1"):
        changed(config, pixels=-1, crop=1)


# ---- several processes


def torchrun(toml: Path, processes: int, *flags: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "pnp_mlpatch.cli",
    ]
    return subprocess.run(
        [*command, "train", "--config", str(toml), "--threads", "1", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=Path(pnp_mlpatch.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def write_toml(config, path: Path) -> Path:
    plain = {
        key: value
        for key, value in config.to_dict().items()
        if value is not None and not isinstance(value, dict)
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    path.write_text(
        "\n".join([*lines, "[model]", *(f"{key} = {value}" for key, value in config.model.items())])
    )
    return path


@pytest.mark.slow
def test_two_processes_train_as_one(config, tmp_path):
    """A batch of 5, which two do not share evenly; and two go on from the checkpoint of one."""
    config, rate = changed(config, batch=5, validation=config.data), loop.learning_rate
    done = torchrun(write_toml(config, tmp_path / "two.toml"), 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights: ") == 1
    out = Path(config.out)
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.pt",
        "log.csv",
        "log.png",
        "weights.safetensors",
    ]
    assert len((out / "log.csv").read_text().splitlines()) == 2
    alone = train(changed(config, "alone"), progress=False)
    assert apart(tensors(out / "weights.safetensors"), tensors(alone)) < 1e-5
    one, two = (
        (Path(folder) / "log.csv").read_text().splitlines()[1].split(",")
        for folder in (config.out + "alone", config.out)
    )
    assert float(one[1]) == pytest.approx(float(two[1]), rel=1e-5)

    left = changed(config, "left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop, "learning_rate", lambda config, k: rate(config, k) if k < 6 else _kill()
        )
        with pytest.raises(KeyboardInterrupt):
            train(left, progress=False)
    assert torch.load(f"{left.out}/checkpoint.pt", weights_only=True)["step"] == 4
    assert torchrun(write_toml(left, tmp_path / "left.toml"), 2).returncode == 0
    assert apart(tensors(f"{left.out}/weights.safetensors"), tensors(alone)) < 1e-5


def test_more_processes_than_images(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(
        InputError, match=r"train: batch \(4\) must be at least the number of processes \(5\)"
    ):
        train(config, progress=False)
    with pytest.raises(
        InputError, match=r"train: 5 processes cannot share device 'cuda:1'. Set device = 'cuda'"
    ):
        train(changed(config, device="cuda:1"), progress=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        InputError,
        match=r"train: WORLD_SIZE is 2, but the processes do not meet .*Start them with torchrun",
    ):
        train(config, progress=False)


# ---- the command and the page


def test_the_page_lists_every_setting():
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, flags=re.M))
    assert list(rows) == [field.name for field in dataclasses.fields(TrainConfig)]
    for key, default in TrainConfig.defaults().items():
        assert rows[key] == "none" if default is None else eval(rows[key].strip("`")) == default, (
            key
        )


def test_settings_by_flags(config, tmp_path, capsys):
    toml = write_toml(config, tmp_path / "train.toml")
    flags = [
        "--set",
        "steps=2",
        "--set",
        "model.width=4",
        "--set",
        "card.note=by hand",
        "--data",
        config.data,
        "--data",
        "procedural",
    ]
    assert cli.main(["train", "--config", str(toml), "--no-resume", *flags]) == 0
    model = MLPatch.load(f"{config.out}/weights.safetensors")
    assert (
        model.config["width"],
        model.card["note"],
        model.card["steps"],
        model.card["images"],
    ) == (4, "by hand", 2, 6)
    capsys.readouterr()
    for text, words in (
        ("lr", "expected KEY=VALUE, model.KEY=VALUE or card.KEY=VALUE"),
        ("solver.lr=3", "expected KEY=VALUE"),
        ("model.=3", "expected KEY=VALUE"),
        ("stpes=3", "unknown setting 'stpes'. Did you mean 'steps'"),
        ("window=[1]", "window must be [low, high]"),
    ):
        assert cli.main(["train", "--config", str(toml), "--set", text]) == 2
        assert words in capsys.readouterr().err
