"""The log of a training: a CSV file and its picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError
from pnp_mlpatch.io.atomic import atomic_write


def cut_log(path: Path, done: int, columns: list[str]) -> None:
    """Keep the rows up to step ``done``, under these columns: later steps are done again."""
    if path.exists():
        _write_log(path, columns, [row for row in _read_log(path) if int(row["step"]) <= done])


def add_row(path: Path, row: dict[str, float]) -> None:
    """Add a row to a CSV log."""
    rows: list[dict[str, Any]] = [
        *(_read_log(path) if path.exists() else []),
        {key: round(value, 6) for key, value in row.items()},
    ]
    _write_log(path, list(row), rows)


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log, without those that were cut off or hold no numbers."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return [row for row in reader if _is_row(row, reader.fieldnames or [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(
            f"{path}: is not the log of a training ({error}). Remove it, or use another 'out'."
        ) from error


def _is_row(row: dict[str, Any], columns: Sequence[str]) -> bool:
    """Whether every column has its number; those of the validation may be empty."""
    try:
        _ = int(row["step"]), float(row["loss"]), float(row["seconds"])
        return set(row) == set(columns) and all(
            value == "" or float(value) is not None for value in row.values()
        )
    except (
        KeyError,
        TypeError,
        ValueError,
    ):  # DictReader puts None for what is missing, and under None what is too much
        return False


def _write_log(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)

    atomic_write(path, write)


def plot_log(log: Path, picture: Path) -> None:
    """Draw the log: the loss, and the PSNR of the validation, against the step."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = require("matplotlib.figure", "Drawing the log").Figure(figsize=(9, 3.2))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.16, top=0.96, wspace=0.25)
    steps = [int(row["step"]) for row in rows]
    left.semilogy(steps, [float(row["loss"]) for row in rows], ".-")
    left.set(xlabel="step", ylabel="loss, averaged over 100 steps")
    for name in (name for name in rows[-1] if name.startswith("psnr_")):
        right.plot(steps, [float(row[name] or "nan") for row in rows], ".-", label=name)
    right.set(xlabel="step", ylabel="PSNR of the validation, dB")
    if right.lines:
        right.legend()
    atomic_write(picture, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
