"""One HTML file that tells a reconstruction: the image, how well it fits, what was chosen and why.

It needs no network. All text is escaped, and only the script of this package may run.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.viz._packed import as_shown, default_window, pack, palette, through
from pnp_mlpatch.viz._words import STATUS, tone

ENDINGS = (".html", ".htm")
HU_WINDOWS = {"lung": (-1350, 150), "soft tissue": (-160, 240), "bone": (-450, 1050)}
Row = tuple[str, str, str]  # what, its value, a remark


@dataclass(frozen=True, eq=False)
class Report:
    """What a report shows.

    Parameters
    ----------
    title : str
        What was reconstructed.
    images : mapping of str to Tensor
        Images (H, W), (C, H, W) or (B, C, H, W) by their captions: first the result, then those
        that it can be compared with. NaN where nothing is known. Of a batch the first is shown, of
        two channels the first.
    truth : Tensor, optional
        The truth, for the map of the error; of the shape of the result.
    statuses : sequence of str
        How each image, or slice, ended.
    notes : sequence of str
        Warnings, as sentences.
    numbers : sequence of tuple of str
        (name, value, what it means).
    choices : sequence of tuple of str
        (setting, value, why it was chosen).
    plots : mapping of str to str
        Data of PNG pictures in base64, by their captions.
    settings : mapping
        All settings, in sections.
    command : str
        What repeats the run.
    window : tuple of float, optional
        Values that are black and white at first; by default [0, 1], or where most values are.
    unit : str
        Unit of the values.
    colours : str
        "gray", or another colour map of matplotlib.
    upwards : bool
        Whether rows grow upwards.
    """

    title: str
    images: Mapping[str, Tensor]
    truth: Tensor | None = None
    statuses: Sequence[str] = ()
    notes: Sequence[str] = ()
    numbers: Sequence[Row] = ()
    choices: Sequence[Row] = ()
    plots: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    window: tuple[float, float] | None = None
    unit: str = ""
    colours: str = "gray"
    upwards: bool = False


def check_report(path: str | PathLike[str]) -> Path:
    """Check the name of a report, and that it can be made here.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the name does not end in .html or .htm.
    MissingPackage
        Without jinja2.
    """
    if Path(path).suffix.lower() not in ENDINGS:
        raise InputError(f"report: {path} must end in .html.")
    require("jinja2", "A report")
    return Path(path)


def write_report(path: str | PathLike[str], report: Report) -> None:
    """Write a report as one HTML file, whole or not at all.

    Parameters
    ----------
    path : str or path
        The file, ending in .html.
    report : Report
        What it shows.

    Raises
    ------
    InputError
        For another ending, and for images that cannot be drawn.
    FileError
        If the file cannot be written.
    MissingPackage
        Without jinja2.
    """
    check_report(path)
    text = render(report)
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def render(report: Report) -> str:
    """Return the text of a report.

    Parameters
    ----------
    report : Report
        What it shows.

    Returns
    -------
    str
        HTML.
    """
    jinja2 = require("jinja2", "A report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script, style = _file("report.js"), _file("report.css")
    return environment.from_string(_file("report.html.jinja")).render(
        report=report,
        script=script,
        style=style,
        script_hash=_digest(script),
        style_hash=_digest(style),
        outcome=_outcome(report.statuses),
        settings=_sections(report.settings),
        versions=_versions(),
        **_drawn(report),
    )


def _file(name: str) -> str:
    page = resources.files("pnp_mlpatch.viz") / "page"
    return (page / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return what the page's security policy knows a script by."""
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _drawn(report: Report) -> dict[str, Any]:
    """Return the images as the page has them."""
    shown = {caption: as_shown(x, "report") for caption, x in report.images.items()}
    result = next(iter(shown.values()))
    for caption, x in shown.items():
        if x.shape != result.shape:
            raise InputError(
                f"report: the image '{caption}' has shape {tuple(x.shape)}, the result "
                f"{tuple(result.shape)}. Images that are compared have one shape."
            )
    window = report.window or default_window(list(shown.values()))
    windows = {"as made": window} | (HU_WINDOWS if report.unit == "HU" else {})
    colour = result.shape[0] == 3
    return {
        "images": [pack(caption, x, report.upwards) for caption, x in shown.items()],
        "still": through(result, window, report.colours, report.upwards),
        "lut": b64encode(palette(report.colours).tobytes()).decode(),
        "window": window,
        "windows": {} if colour else windows,
        "error": _error(report, result, window),
    }


def _error(report: Report, result: Tensor, window: tuple[float, float]) -> dict[str, Any] | None:
    """Return the map of the error: blue where the result is too low, red where too high."""
    if report.truth is None:
        return None
    truth = as_shown(report.truth, "report")
    if truth.shape != result.shape:
        raise InputError(
            f"report: the truth has shape {tuple(truth.shape)}, the result {tuple(result.shape)}."
        )
    error = (result - truth).mean(0, keepdim=True)
    known = error[torch.isfinite(error)].abs()
    top = float(known[:: -(-len(known) // 1_000_000) or 1].quantile(0.995)) if len(known) else 1.0
    top = top or 0.01 * (window[1] - window[0])
    rms = float(known.double().square().mean().sqrt()) if len(known) else 0.0
    png = through(error, (-top, top), "RdBu_r", report.upwards)
    return {"png": png, "top": top, "rms": rms}


def _outcome(statuses: Sequence[str]) -> list[dict[str, Any]]:
    """Return the statuses in words, the most frequent first."""
    many = len(statuses) > 1
    return [
        {
            "name": name,
            "count": f"{number} of {len(statuses)}" if many else "",
            "tone": tone(name),
            "what": STATUS.get(name, ("", ""))[0],
            "advice": STATUS.get(name, ("", ""))[1],
        }
        for name, number in Counter(statuses).most_common()
    ]


def _sections(settings: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return settings as tables: one of the plain values, and one for each mapping."""
    plain = [(str(k), _text(v)) for k, v in settings.items() if not isinstance(v, Mapping)]
    tables = {
        str(name): [(str(key), _text(value)) for key, value in values.items()]
        for name, values in settings.items()
        if isinstance(values, Mapping) and values
    }
    return ({"run": plain} if plain else {}) | tables


def _text(value: Any) -> str:
    """Return a value in short."""
    if value is None:
        return "not given"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (Mapping, list, tuple)):
        try:
            value = json.dumps(value)
        except (TypeError, ValueError):
            value = str(value)
    text = str(value)
    return text if len(text) <= 500 else f"{text[:500]} ... ({len(text)} characters)"


def _versions() -> list[tuple[str, str]]:
    import numpy as np

    return [
        ("pnp_mlpatch", sys.modules["pnp_mlpatch"].__version__),  # it holds this module
        ("torch", torch.__version__),
        ("numpy", np.__version__),
        ("Python", platform.python_version()),
        ("system", platform.platform(terse=True)),
    ]


__all__ = ["Report", "check_report", "render", "write_report"]
