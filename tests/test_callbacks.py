"""Watching a run: frames on disk, PSNR on the way, stopping early; with real solvers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from pnp_mlpatch import callbacks, reconstruct, solvers
from pnp_mlpatch.callbacks import checkpoint, early_stop, live_psnr, save_frames
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io import images as imageio
from pnp_mlpatch.io.images import read_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.solvers import Result, State

SHAPE = (1, 10, 12)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(x, sigma):
    mean = torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1
    )
    return x + 0.3 * (mean - x)


def solved(*watch, images=2, iterations=7, x0=None, **settings):
    A = Mask(random_mask(SHAPE[1:], keep=0.6))
    q = A(rand(images, *SHAPE))
    return reconstruct(
        q,
        A,
        smooth,
        noise=0.1,
        sigma=0.2,
        iterations=iterations,
        tol=0,
        callbacks=list(watch),
        x0=x0,
        **settings,
    )


def state(value, iteration, images=1):
    return State(x=torch.full((images, 1, 2, 2), float(value)), iteration=iteration)


# ---- frames


def test_frames_are_the_estimates(tmp_path):
    seen = []
    watch = save_frames(tmp_path / "new" / "frames", every=3, window=(-1.0, 2.0), image=1)
    result = solved(watch, lambda s: seen.append(s.x[1:]))
    assert result.status == "max_iter"
    assert (
        [p.name for p in watch.paths]
        == sorted(p.name for p in watch.folder.iterdir())
        == ["frame_0003.png", "frame_0006.png"]
    )
    for path, k in zip(watch.paths, (2, 5), strict=True):
        assert torch.allclose(
            read_image(path), ((seen[k] + 1) / 3).clamp(0, 1), atol=0.5 / 255 + 1e-6
        )


@pytest.mark.parametrize(("channels", "drawn"), [(1, 1), (2, 1), (3, 3)])
def test_frames_of_several_channels(tmp_path, channels, drawn):
    x = rand(1, channels, 5, 4)
    watch = save_frames(tmp_path)
    assert watch(State(x=x, iteration=12)) is None
    assert torch.allclose(
        read_image(tmp_path / "frame_0012.png"), x[:, :drawn], atol=0.5 / 255 + 1e-6
    )


def test_frames_of_complex_images(tmp_path):
    x = rand(1, 2, 5, 4)
    save_frames(tmp_path, magnitude=True)(State(x=x, iteration=1))
    expected = x.norm(dim=1, keepdim=True).clamp_max(1)
    frame = read_image(tmp_path / "frame_0001.png")
    assert torch.allclose(frame, expected, atol=0.5 / 255 + 1e-6)


def test_a_frame_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    watch = save_frames(tmp_path)
    watch(state(0.5, 1))
    monkeypatch.setattr(
        imageio,
        "atomic_write",
        lambda path, write: (_ for _ in ()).throw(FileError(f"{path}: disk full")),
    )
    with pytest.raises(FileError, match="disk full"):
        watch(state(0.7, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["frame_0001.png"]
    assert read_image(tmp_path / "frame_0001.png")[0, 0, 0, 0] == pytest.approx(0.5, abs=0.01)


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(
        FileError,
        match=r"save_frames: .*file: cannot write there \(.*\). Choose a folder that you may "
        r"write to",
    ):
        save_frames(tmp_path / "file")
    with pytest.raises(FileError, match="cannot write there"):
        save_frames(tmp_path / "file" / "below")
    (tmp_path / "trial").write_text("kept")
    save_frames(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "trial"]
    if os.getuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(FileError, match="cannot write there"):
            save_frames(tmp_path / "closed")


# ---- PSNR


def test_psnr_on_the_way():
    truth, lines, seen = rand(2, *SHAPE), [], []
    watch = live_psnr(truth, every=2, data_range=2.0, write=lines.append)
    solved(watch, lambda s: seen.append(psnr(s.x, truth, 2.0)))
    assert watch.iterations == [2, 4, 6]
    for k, value in enumerate(watch.values):
        assert torch.equal(value, seen[2 * k + 1])
        assert lines[k] == f"{2 * k + 2:5d}  PSNR {value[0]:.2f} {value[1]:.2f} dB"


def test_psnr_is_printed_beside_the_bar():
    code = (
        "import torch; from pnp_mlpatch import reconstruct, operators; from "
        "pnp_mlpatch.callbacks import live_psnr;"
        "q = torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(0));"
        "reconstruct(q, operators.make('identity', image_shape=(1, 6, 7)), lambda x, s: x, "
        "'pgd', noise=0.1, tol=0, iterations=2,"
        "           callbacks=[live_psnr(q + 0.1)], progress=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["    1  PSNR 20.00 dB", "    2  PSNR 20.00 dB"]
    assert "PGD" in done.stderr


# ---- stopping


def test_it_stops_when_nothing_improves_and_keeps_the_best():
    watch = early_stop(patience=3, quantity=lambda x: -(x.mean() - 0.4).abs())
    answers = [
        watch(state(value, k + 1)) for k, value in enumerate((0.1, 0.3, 0.5, 0.45, 0.6, 0.7, 0.8))
    ]
    assert answers == [False] * 6 + [True]
    assert watch.iteration.tolist() == [4]
    assert float(watch.best.mean()) == pytest.approx(0.45)
    assert float(watch.value) == pytest.approx(-0.05)


def test_images_are_judged_one_by_one():
    truth = torch.tensor([0.2, 0.6]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    watch = early_stop(patience=2, quantity=lambda x: psnr(x, truth))
    answers = [
        watch(state(value, k + 1, images=2))
        for k, value in enumerate((0.0, 0.21, 0.4, 0.59, 0.8, 0.9))
    ]
    assert answers == [False] * 5 + [True]
    assert watch.iteration.tolist() == [2, 4]
    assert watch.best[:, 0, 0, 0].tolist() == pytest.approx([0.21, 0.59])


def test_values_that_are_not_finite_are_no_improvement():
    watch = early_stop(
        patience=2, quantity=lambda x: float("nan") if float(x.mean()) > 0.5 else float(x.mean())
    )
    assert [watch(state(v, k + 1)) for k, v in enumerate((0.2, 0.9, 0.9))] == [False, False, True]
    assert watch.iteration.tolist() == [1]
    never = early_stop(patience=2, quantity=lambda x: float("nan"))
    assert [never(state(0.1, k + 1)) for k in range(3)] == [False, False, True]
    assert early_stop(patience=1, quantity=float).best is None


def test_a_run_is_stopped_and_can_be_gone_on_from():
    truth = rand(2, *SHAPE)
    watch, seen = early_stop(patience=4, quantity=lambda x: psnr(x, truth)), []
    result = solved(watch, lambda s: seen.append(psnr(s.x, truth)), iterations=60, x0=truth)
    assert result.status == "stopped"
    assert result.state.iteration == int(watch.iteration.max()) + 4
    best = torch.stack(seen).max(dim=0)
    assert torch.equal(watch.value, best.values)
    assert torch.equal(watch.iteration, best.indices + 1)
    assert torch.equal(psnr(watch.best, truth), watch.value)
    again = solved(watch, iterations=60, state=result.state)
    assert again.state.iteration == result.state.iteration + 1


# ---- errors


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda path: save_frames(path, every=0),
            InputError,
            "save_frames: every is a number of steps, an integer >= 1, got 0",
        ),
        (lambda path: save_frames(path, every=1.5), InputError, "save_frames: every"),
        (
            lambda path: save_frames(path, window=(1, 0)),
            InputError,
            r"save_frames: window must be two numbers .*got \(1, 0\)",
        ),
        (
            lambda path: save_frames(path, window=(0, float("inf"))),
            InputError,
            "save_frames: window",
        ),
        (lambda path: save_frames(path, window=3), InputError, "save_frames: window"),
        (
            lambda path: save_frames(path, image=-1),
            InputError,
            "save_frames: image must be the number of an image",
        ),
        (
            lambda path: save_frames(path, image=1)(state(0, 1)),
            InputError,
            "the batch has 1 images, there is no number 1; the first is 0",
        ),
        (
            lambda path: save_frames(path)(State(x=rand(1, 4, 3, 3), iteration=1)),
            InputError,
            "1 to 3 channels",
        ),
        (
            lambda path: live_psnr(3),
            InputTypeError,
            "live_psnr: the truth must be a torch tensor .*got int",
        ),
        (
            lambda path: live_psnr(rand(1, 1, 2, 2), data_range=0),
            InputError,
            "live_psnr: data_range must be finite and > 0, got 0",
        ),
        (lambda path: live_psnr(rand(1, 1, 2, 2), every=True), InputError, "live_psnr: every"),
        (
            lambda path: live_psnr(rand(1, 1, 2, 2), write="x"),
            InputTypeError,
            "live_psnr: write must be a function of one line",
        ),
        (
            lambda path: live_psnr(rand(1, 1, 3, 2))(state(0, 1)),
            InputError,
            "both images must have one shape",
        ),
        (
            lambda path: early_stop(patience=0, quantity=float),
            InputError,
            "early_stop: patience is a number of steps, .*got 0",
        ),
        (lambda path: early_stop(patience=2.0, quantity=float), InputError, "early_stop: patience"),
        (
            lambda path: early_stop(patience=2, quantity="psnr"),
            InputTypeError,
            "early_stop: quantity must be a function .*got str",
        ),
        (
            lambda path: early_stop(patience=2, quantity=lambda x: x)(state(0, 1)),
            InputError,
            r"quantity must give a number, or one for each of 1 images, got shape \(1, 1, 2, 2\)",
        ),
    ],
)
def test_errors(call, error, words, tmp_path):
    with pytest.raises(error, match=words) as caught:
        call(tmp_path)
    assert isinstance(caught.value, PnPError)


def test_what_is_public():
    assert callbacks.__all__ == ["checkpoint", "early_stop", "live_psnr", "save_frames"]


# ---- checkpoints

LONG = """
import sys, time
from pathlib import Path
import torch
from pnp_mlpatch import denoisers, solvers
from pnp_mlpatch.callbacks import checkpoint
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
name, path, out, pause = sys.argv[1:]
torch.set_num_threads(1)
A = Blur(gaussian_psf(1.0), (1, 20, 24))
q = A(torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(0)))
settings = {"burn_in": 5} if name == "skrock" else {"tol": 0.0}
solver = solvers.make(name, iterations=40, sigma=0.1, **settings)
solver = solver if name == "skrock" else solvers.anderson(solver, 3)
state = solver.load_state(path) if Path(path).exists() else None
slow = [lambda state: time.sleep(float(pause)) or None]
calls = [checkpoint(path, every=3), *slow]
D = denoisers.make("tv")
result = solver.run(q, A, D, noise=0.05, state=state, callbacks=calls, progress=False)
result.save(out)
"""


@pytest.mark.parametrize("name", ["admm", pytest.param("skrock", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(name, tmp_path):
    whole, killed, path = tmp_path / "whole.pt", tmp_path / "killed.pt", tmp_path / "state.pt"

    def start(path, out, pause):
        return subprocess.Popen([sys.executable, "-c", LONG, name, str(path), str(out), str(pause)])

    assert start(tmp_path / "other.pt", whole, 0).wait(timeout=300) == 0
    process = start(path, killed, 0.2)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    solver = solvers.make(name)
    solver = solver if name == "skrock" else solvers.anderson(solver, 3)
    assert 0 < solver.load_state(path).iteration < 40
    assert start(path, killed, 0).wait(timeout=300) == 0
    a, b = Result.load(whole), Result.load(killed)
    assert torch.equal(a.x, b.x)
    assert a.state.iteration == b.state.iteration == 40


def test_checkpoints_that_cannot_be(tmp_path):
    with pytest.raises(FileError, match=r"checkpoint: .*cannot write there"):
        checkpoint(tmp_path / "no" / "state.pt")
    with pytest.raises(InputError, match=r"checkpoint: every is a number of steps"):
        checkpoint(tmp_path / "state.pt", every=0)
