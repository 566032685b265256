"""The tasks of the app: the Python that it shows repeats its run; uploads are refused in words."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch

from pnp_mlpatch import cli
from pnp_mlpatch.cli import _app_task
from pnp_mlpatch.cli._app_task import SETTINGS, Task
from pnp_mlpatch.errors import InputError, PnPError


def npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


RAMP = np.linspace(0, 1, 40, dtype=np.float32)[None].repeat(36, 0)
NOISY = RAMP + np.float32(0.05) * np.random.default_rng(0).normal(size=RAMP.shape).astype("f4")
TASKS = {
    "mask": {},
    "blur": {"setting": 1.7, "picture": "chest CT"},
    "radon": {"setting": 12.0},
    "identity": {"picture": "upload", "name": "x.npy", "noise": 0.0, "measured": True},
}


@pytest.mark.parametrize("operator", SETTINGS)
def test_the_code_repeats_the_run(operator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", NOISY)
    given = {"size": 48, "denoiser": "tv", "iterations": 2, "content": npy(NOISY)}
    task = Task(operator=operator, **given, **TASKS[operator])
    result, told = task.solve(lambda state: None)
    names: dict = {}
    exec(task.code(), names)
    assert torch.equal(names["result"].x, result.x)
    assert (told["truth"] is None) == task.measured
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_callback_stops_it():
    task = Task(size=32, denoiser="tv", iterations=9)
    result, _ = task.solve(lambda state: state.iteration >= 2)
    assert (result.status, result.state.iteration) == ("stopped", 2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("", b"", "Choose a file"),
        ("x.exe", b"MZ", "expected a file ending in .png, .tif, .tiff, .npy"),
        ("<b>.png", b"nothing", "<b>.png: cannot be read as a picture"),
        ("x.npy", b"nothing", "x.npy: "),
        ("x.npy", npy(np.array([[{}]], dtype=object)), "x.npy: "),
        ("x.npy", npy(np.zeros((2, 8, 8), np.float32)), "expected one or three channels, got 2"),
        ("x.npy", npy(np.full((8, 8), np.nan, np.float32)), "x.npy: the picture holds NaN"),
        ("x.png", bytes(_app_task.MOST_BYTES + 1), "at most 10 MiB"),
    ],
)
def test_uploads_are_refused_in_words(name, content, words):
    with pytest.raises(PnPError) as caught:
        Task(picture="upload", name=name, content=content).image()
    assert words in str(caught.value)
    assert "/tmp" not in str(caught.value)


def test_only_some_operators_take_a_picture_as_data():
    task = Task(picture="upload", name="x.npy", content=npy(RAMP), measured=True)
    with pytest.raises(InputError, match="'identity' and 'blur' only"):
        task.solve(lambda state: None)


def test_the_command(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "panel", None)
    assert cli.main(["app", "--no-browser"]) == 2
    assert "needs the package 'panel'" in capsys.readouterr().err
    assert cli.main(["app", "--port", "0"]) == 2
    assert "--port must be from 1 to 65535" in capsys.readouterr().err
