"""Pictures and tables of a reconstruction: panels of images with their errors, convergence curves, Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing.statistics import peaks
from pnp_mlpatch.lensing.units import arcmin
from pnp_mlpatch.viz.result import gray, result_figure

APART = 2.0  # arcmin, about the core of a cluster: what is closer to a higher peak belongs to it


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys as a Markdown table; numbers are right-aligned, floats with two decimals."""
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
        return (
            "| "
            + " | ".join(
                v.rjust(w) if r else v.ljust(w)
                for v, w, r in zip(values, width, right, strict=True)
            )
            + " |"
        )

    rule = (
        "|"
        + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(width, right, strict=True))
        + "|"
    )
    return "\n".join([line(head), rule, *(line(c) for c in cells)])


def panel(
    path: str | PathLike[str],
    images: Mapping[str, Tensor],
    *,
    truth: Tensor | None = None,
    window: tuple[float, float] = (0.0, 1.0),
    zoom: tuple[int, int, int, int] | None = None,
    error_range: float = 0.1,
    title: str = "",
) -> None:
    """Write a PNG: the images with their names, below them a magnified part, and below that their errors.

    ``images`` maps captions to (1, C, H, W); they share the grey ``window``. ``zoom`` is (top, left, height, width) in pixels.
    With ``truth``, the last row shows x - truth from -``error_range`` (blue) to +``error_range`` (red).
    """
    require("matplotlib", "Drawing a panel")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = 1 + (zoom is not None) + (truth is not None)
    figure = Figure(
        figsize=(3.0 * len(images) + 0.5, 3.15 * rows + (0.35 if title else 0)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(images), squeeze=False)
    low, high = window
    shown = None
    for column, (caption, image) in enumerate(images.items()):
        row = 0
        axis = axes[row, column]
        axis.imshow(gray(image), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(caption, fontsize=10)
        if zoom is not None:
            top, left, height, width = zoom
            axis.add_patch(
                Rectangle(
                    (left - 0.5, top - 0.5),
                    width,
                    height,
                    fill=False,
                    edgecolor="tab:orange",
                    linewidth=1,
                )
            )
            row += 1
            part = image[..., top : top + height, left : left + width]
            axes[row, column].imshow(
                gray(part), cmap="gray", vmin=low, vmax=high, interpolation="nearest"
            )
            for side in axes[row, column].spines.values():
                side.set_edgecolor("tab:orange")
        if truth is not None:
            row += 1
            if image.shape != truth.shape or image is truth:
                axes[row, column].set_axis_off()
                continue
            error = (image - truth).mean(dim=1, keepdim=True)
            shown = axes[row, column].imshow(
                gray(error),
                cmap="RdBu_r",
                vmin=-error_range,
                vmax=error_range,
                interpolation="nearest",
            )
            axes[row, column].set_xlabel("error", fontsize=8)
    if shown is not None:
        figure.colorbar(shown, ax=axes[-1, :], shrink=0.8, pad=0.01)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    if title:
        figure.suptitle(title, fontsize=11)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def apart(places: Tensor, distance: float) -> Tensor:
    """Those of the ``places`` (K, 2), highest first, that are at least ``distance`` from every one kept before."""
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
) -> None:
    """Write a PNG of maps of the convergence side by side: rows upwards, one scale, a scale bar, peaks above ``level`` marked.

    A peak that lies less than 2 arcmin from a higher one is part of it, and is neither marked nor counted; above 500 none is marked.

    ``maps`` are captions to (H, W), each drawn less its mean over the ``mask`` (H, W), and grey outside. ``window`` is by default
    -0.03 to the 0.998 quantile of the first map, at least 0.05. With ``flip_ra`` an arrow shows where east is: to the left.
    """
    require("matplotlib", "Drawing a mass map")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    shape = next(iter(maps.values())).shape
    if any(m.shape != shape or m.ndim != 2 for m in maps.values()) or (
        mask is not None and mask.shape != shape
    ):
        raise InputError("mass_panel: all maps, and the mask, must have one shape (H, W).")
    seen = (
        mask > 0 if mask is not None else maps[next(iter(maps))] == maps[next(iter(maps))]
    ).cpu()
    shown = {
        name: (m.detach().cpu().double() - m.detach().cpu().double()[seen].mean())
        for name, m in maps.items()
    }
    if window is None:
        window = (-0.03, max(0.05, float(shown[next(iter(shown))][seen].quantile(0.998))))
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(
        figsize=(
            3.3 * columns + 0.6,
            3.45 * rows * shape[0] / shape[1] + 0.3 + (0.3 if title else 0),
        ),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    bar = min(
        (step for step in (60, 20, 10, 5, 2, 1, 0.5, 0.1)),
        key=lambda step: abs(step - arcmin(pixel) * shape[1] / 5),
    )
    for axis, (name, m) in zip(axes.flat, shown.items(), strict=False):
        axis.set_facecolor("0.75")
        values = m.where(seen, torch.nan).numpy()
        axis.imshow(
            values,
            cmap="inferno",
            vmin=window[0],
            vmax=window[1],
            origin="lower",
            interpolation="nearest",
        )
        found = apart(peaks(m.where(seen, m.new_tensor(-1.0)), level), APART / arcmin(pixel))
        if len(found) <= 500:  # more are noise, and would hide the map
            axis.plot(found[:, 1], found[:, 0], "o", mfc="none", mec="cyan", ms=7, mew=0.8)
        axis.set_title(f"{name} ({len(found)} peak{'s' * (len(found) != 1)})", fontsize=9)
        length = bar / arcmin(pixel)
        on_dark = [
            withStroke(linewidth=2, foreground="black")
        ]  # white with a black edge is seen on map and mask alike
        on_bar = [withStroke(linewidth=4, foreground="black")]
        axis.plot(
            [0.05 * shape[1], 0.05 * shape[1] + length],
            [0.05 * shape[0]] * 2,
            color="white",
            lw=2.5,
            path_effects=on_bar,
        )
        axis.text(
            0.05 * shape[1],
            0.07 * shape[0],
            f"{bar:g} arcmin",
            fontsize=8,
            color="white",
            path_effects=on_dark,
        )
        if flip_ra:
            axis.annotate(
                "E",
                (0.95, 0.06),
                (0.80, 0.06),
                xycoords="axes fraction",
                arrowprops={"arrowstyle": "<-", "color": "white", "path_effects": on_dark},
                fontsize=8,
                va="center",
                color="white",
                path_effects=on_dark,
            )
        axis.set(xticks=[], yticks=[])
    for axis in list(axes.flat)[len(maps) :]:
        axis.set_axis_off()
    figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.8, pad=0.01, label="convergence")
    if title:
        figure.suptitle(title, fontsize=10)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def curves(
    path: str | PathLike[str],
    histories: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    quantity: str = "psnr",
    unit: str = "dB",
) -> None:
    """Write a PNG: ``quantity`` and the relative change per iteration, one line for each history of a result."""
    require("matplotlib", "Drawing curves")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
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
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


__all__ = ["curves", "mass_panel", "panel", "result_figure", "table"]
