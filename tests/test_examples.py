"""Every example runs with --quick, prints its table and writes its pictures."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from pnp_mlpatch.viz.example import options
from pnp_mlpatch.viz.panels import curves, panel, table

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = [*sorted(FOLDER.glob("*.py")), *sorted((FOLDER / "gallery").glob("*.py"))]


@pytest.mark.parametrize("program", EXAMPLES, ids=lambda p: p.stem)
def test_example(program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(program), "--quick", "--out", str(tmp_path)])
    runpy.run_path(str(program), run_name="__main__")
    assert "PSNR (dB)" in capsys.readouterr().out
    pictures = list(tmp_path.glob(f"{program.stem}*.png"))
    assert pictures
    assert all(p.stat().st_size > 10_000 for p in pictures)


def test_an_example_refuses_other_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x.py", "--quik"])
    with pytest.raises(SystemExit):
        options("What it does.")
    assert "unrecognized arguments: --quik" in capsys.readouterr().err


def test_in_a_notebook_there_are_no_options(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json"])
    assert options("What it does.") == (False, Path("demo"))


def test_table_is_markdown():
    text = table([{"name": "a", "x": 1.234}, {"name": "bcd", "x": 10.0}])
    assert text.splitlines() == [
        "| name |     x |",
        "|------|------:|",
        "| a    |  1.23 |",
        "| bcd  | 10.00 |",
    ]
    with pytest.raises(ValueError, match="no rows"):
        table([])


def test_panel_and_curves_write_whole_files(tmp_path):
    x = torch.rand(1, 3, 20, 24)
    panel(tmp_path / "p.png", {"truth": x, "noisy": x + 0.1}, truth=x, zoom=(2, 3, 8, 8), title="t")
    curves(
        tmp_path / "c.png",
        {"run": {"iteration": [1, 2], "residual": [0.1, 0.01], "psnr": [20.0, 21.0]}},
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "p.png"]
