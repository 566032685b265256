"""Pictures and tables of reconstructions: panels, mass maps, curves, Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing import arcmin, peaks
from pnp_mlpatch.viz._figure import for_imshow, new_figure
from pnp_mlpatch.viz.result import result_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PEAK_DISTANCE = 2.0  # arcmin, about the core of a cluster: a nearer, lower peak is part of it
MAX_PEAKS = 500  # more are noise, and their markers would hide the map
SCALE_BARS = (60, 20, 10, 5, 2, 1, 0.5, 0.1)  # arcmin


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows as a Markdown table.

    Parameters
    ----------
    rows : sequence of mapping
        Rows with the same keys. Numbers are right-aligned, floats get two decimals.

    Returns
    -------
    str
        The table.

    Raises
    ------
    InputError
        If there are no rows.
    """
    if not rows:
        raise InputError("table: there are no rows.")
    head = list(rows[0])
    cells = [
        [f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key]) for key in head]
        for row in rows
    ]
    width = [max(len(key), *(len(line[k]) for line in cells)) for k, key in enumerate(head)]
    right = [all(isinstance(row[key], (int, float)) for row in rows) for key in head]

    def line(values: Sequence[str]) -> str:
        padded = [
            value.rjust(w) if r else value.ljust(w)
            for value, w, r in zip(values, width, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rules = ["-" * (w + 1) + (":" if r else "-") for w, r in zip(width, right, strict=True)]
    return "\n".join([line(head), f"|{'|'.join(rules)}|", *(line(c) for c in cells)])


def panel(
    path: str | PathLike[str],
    images: Mapping[str, Tensor],
    *,
    truth: Tensor | None = None,
    window: tuple[float, float] = (0.0, 1.0),
    zoom: tuple[int, int, int, int] | None = None,
    error_range: float = 0.1,
    title: str = "",
) -> Figure:
    """Write a PNG of images side by side, with a magnified part and the errors below.

    Parameters
    ----------
    path : str or path
        The file.
    images : mapping of str to Tensor, shape (1, C, H, W)
        The images by their captions.
    truth : Tensor, shape (1, C, H, W), optional
        With it the last row shows the errors x - truth.
    window : tuple of float
        Grey values of black and white.
    zoom : tuple of int, optional
        Top, left, height and width in pixels of the part that is magnified.
    error_range : float
        Errors are drawn from minus this (blue) to this (red).
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = 1 + (zoom is not None) + (truth is not None)
    height = 3.15 * rows + (0.35 if title else 0)
    figure = new_figure(3.0 * len(images) + 0.5, height, "Drawing a panel")
    axes = figure.subplots(rows, len(images), squeeze=False)
    grey = {"cmap": "gray", "vmin": window[0], "vmax": window[1], "interpolation": "nearest"}
    drawn = None
    for column, (caption, image) in zip(axes.T, images.items(), strict=True):
        column[0].imshow(for_imshow(image), **grey)
        column[0].set_title(caption, fontsize=10)
        if zoom is not None:
            _magnify(column[0], column[1], image, zoom, grey)
        if truth is not None and (image.shape != truth.shape or image is truth):
            column[-1].set_axis_off()
        elif truth is not None:
            error = (image - truth).mean(dim=1, keepdim=True)
            limits = {"vmin": -error_range, "vmax": error_range}
            drawn = column[-1].imshow(
                for_imshow(error), cmap="RdBu_r", interpolation="nearest", **limits
            )
            column[-1].set_xlabel("error", fontsize=8)
    if drawn is not None:
        figure.colorbar(drawn, ax=axes[-1, :], shrink=0.8, pad=0.01)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    if title:
        figure.suptitle(title, fontsize=11)
    return _write(path, figure)


def _magnify(
    axis: Axes, below: Axes, image: Tensor, zoom: tuple[int, int, int, int], grey: dict[str, Any]
) -> None:
    """Frame a part of an image and draw it magnified below."""
    from matplotlib.patches import Rectangle

    top, left, height, width = zoom
    corner = (left - 0.5, top - 0.5)
    axis.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor="tab:orange", linewidth=1)
    )
    below.imshow(for_imshow(image[..., top : top + height, left : left + width]), **grey)
    for side in below.spines.values():
        side.set_edgecolor("tab:orange")


def apart(places: Tensor, distance: float) -> Tensor:
    """Select places that keep a distance from all that are selected before.

    Parameters
    ----------
    places : Tensor, shape (K, 2)
        Rows and columns, the most important first.
    distance : float
        Least distance in pixels.

    Returns
    -------
    Tensor, shape (L, 2)
        The selected places, in the same order.
    """
    alive = torch.ones(len(places), dtype=torch.bool)
    for k in range(len(places)):
        if alive[k]:
            alive[k + 1 :] &= (places[k + 1 :] - places[k]).double().norm(dim=1) >= distance
    return places[alive]


def mass_panel(
    path: str | PathLike[str],
    maps: Mapping[str, Tensor],
    *,
    pixel: str,
    mask: Tensor | None = None,
    level: float = 0.1,
    window: tuple[float, float] | None = None,
    flip_ra: bool = False,
    title: str = "",
) -> Figure:
    """Write a PNG of maps of the convergence side by side, with their peaks and a scale bar.

    Rows grow upwards. A peak less than 2 arcmin from a higher one is part of it. If there are more
    than 500 peaks, they are counted but not marked.

    Parameters
    ----------
    path : str or path
        The file.
    maps : mapping of str to Tensor, shape (H, W)
        The maps by their captions. Each is drawn less its mean over the mask, and grey outside.
    pixel : str
        Side of a pixel with its unit.
    mask : Tensor, shape (H, W), optional
        > 0 where something was measured; by default where the first map is not NaN.
    level : float
        Peaks above it are marked.
    window : tuple of float, optional
        Range of the colours. By default -0.03 to the 0.998 quantile of the first map (>= 0.05).
    flip_ra : bool
        Draw an arrow that shows where east is: to the left.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        If the maps and the mask differ in shape.
    """
    first = next(iter(maps.values()))
    shape = first.shape
    if first.ndim != 2 or any(m.shape != shape for m in (*maps.values(), *_given(mask))):
        raise InputError("mass_panel: all maps, and the mask, must have one shape (H, W).")
    seen = (mask > 0 if mask is not None else ~torch.isnan(first)).cpu()
    centred = {}
    for name, m in maps.items():
        values = m.detach().cpu().double()
        centred[name] = (values - values[seen].mean()).where(seen, torch.nan)
    if window is None:
        shown = next(iter(centred.values()))[seen]
        window = (-0.03, max(0.05, float(shown.quantile(0.998))))
    columns = 2 if len(maps) == 4 else min(3, len(maps))
    rows = -(-len(maps) // columns)
    height = 3.45 * rows * shape[0] / shape[1] + 0.3 + (0.3 if title else 0)
    figure = new_figure(3.3 * columns + 0.6, height, "Drawing a mass map")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (name, values) in zip(axes.flat, centred.items(), strict=False):
        _draw_map(axis, name, values, window, level, pixel)
        _draw_scale(axis, shape, pixel, flip_ra)
    for axis in list(axes.flat)[len(maps) :]:
        axis.set_axis_off()
    figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.8, pad=0.01, label="convergence")
    if title:
        figure.suptitle(title, fontsize=10)
    return _write(path, figure)


def _given(x: Tensor | None) -> tuple[Tensor, ...]:
    return () if x is None else (x,)


def _draw_map(
    axis: Axes, name: str, x: Tensor, window: tuple[float, float], level: float, pixel: str
) -> None:
    """Draw a map (H, W), NaN outside the mask, and its peaks above ``level``."""
    axis.set_facecolor("0.75")
    axis.imshow(
        x.numpy(),
        cmap="inferno",
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        interpolation="nearest",
    )
    found = apart(peaks(x.nan_to_num(-1.0), level), PEAK_DISTANCE / arcmin(pixel))
    if len(found) <= MAX_PEAKS:
        axis.plot(found[:, 1], found[:, 0], "o", mfc="none", mec="cyan", ms=7, mew=0.8)
    axis.set_title(f"{name} ({len(found)} peak{'s' * (len(found) != 1)})", fontsize=9)
    axis.set(xticks=[], yticks=[])


def _draw_scale(axis: Axes, shape: Sequence[int], pixel: str, flip_ra: bool) -> None:
    """Draw a bar of about a fifth of the width, white with a black edge, and an arrow to east."""
    from matplotlib.patheffects import withStroke

    height, width = shape
    side = arcmin(pixel)
    bar = min(SCALE_BARS, key=lambda step: abs(step - side * width / 5))
    left, bottom = 0.05 * width, 0.05 * height
    edge = [withStroke(linewidth=4, foreground="black")]
    axis.plot([left, left + bar / side], [bottom, bottom], color="white", lw=2.5, path_effects=edge)
    edge = [withStroke(linewidth=2, foreground="black")]
    style: dict[str, Any] = {"fontsize": 8, "color": "white", "path_effects": edge}
    axis.text(left, 0.07 * height, f"{bar:g} arcmin", **style)
    if flip_ra:
        arrow = {"arrowstyle": "<-", "color": "white", "path_effects": edge}
        axis.annotate(
            "E",
            (0.95, 0.06),
            (0.80, 0.06),
            xycoords="axes fraction",
            arrowprops=arrow,
            va="center",
            **style,
        )


def curves(
    path: str | PathLike[str],
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    quantity: str = "psnr",
    unit: str = "dB",
) -> Figure:
    """Write a PNG of a quantity and the relative change per iteration.

    Parameters
    ----------
    path : str or path
        The file.
    histories : mapping of str to mapping
        Histories of results by the names of their lines.
    quantity : str
        Column of the history that is drawn beside the residual.
    unit : str
        Its unit.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(9, 3.4, "Drawing curves")
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        if quantity in history:
            left.plot(history["iteration"], history[quantity], marker=".", label=name)
        right.semilogy(history["iteration"], history["residual"], marker=".", label=name)
    left.set_ylabel(f"{quantity.upper()} ({unit})")
    right.set_ylabel("relative change of the estimate")
    for axis in (left, right):
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
    right.legend(fontsize=8)
    return _write(path, figure)


def _write(path: str | PathLike[str], figure: Figure) -> Figure:
    """Write a figure as PNG, whatever the ending of the path."""
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    return figure


__all__ = ["apart", "curves", "mass_panel", "panel", "result_figure", "table"]
