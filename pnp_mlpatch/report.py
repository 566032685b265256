"""Pictures and tables of a reconstruction: panels of images with their errors, convergence curves, Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from torch import Tensor

from pnp_mlpatch.errors import InputError, require
from pnp_mlpatch.weights import write_whole


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys as a Markdown table; numbers are right-aligned, floats with two decimals."""
    if not rows:
        raise InputError("table: there are no rows.")
    head = list(rows[0])
    cells = [[f"{row[key]:.2f}" if isinstance(row[key], float) else str(row[key]) for key in head] for row in rows]
    width = [max(len(key), *(len(line[k]) for line in cells)) for k, key in enumerate(head)]
    right = [all(isinstance(row[key], (int, float)) for row in rows) for key in head]

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, width, right, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(width, right, strict=True)) + "|"
    return "\n".join([line(head), rule, *(line(c) for c in cells)])


def _gray(image: Tensor):
    image = image.detach().cpu()
    if image.ndim == 4:
        image = image[0]
    return image[0].numpy() if image.shape[0] == 1 else image.permute(1, 2, 0).numpy()


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
    figure = Figure(figsize=(3.0 * len(images) + 0.5, 3.15 * rows + (0.35 if title else 0)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, len(images), squeeze=False)
    low, high = window
    shown = None
    for column, (caption, image) in enumerate(images.items()):
        row = 0
        axis = axes[row, column]
        axis.imshow(_gray(image), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(caption, fontsize=10)
        if zoom is not None:
            top, left, height, width = zoom
            axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="tab:orange", linewidth=1))
            row += 1
            part = image[..., top : top + height, left : left + width]
            axes[row, column].imshow(_gray(part), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            for side in axes[row, column].spines.values():
                side.set_edgecolor("tab:orange")
        if truth is not None:
            row += 1
            if image.shape != truth.shape or image is truth:
                axes[row, column].set_axis_off()
                continue
            error = (image - truth).mean(dim=1, keepdim=True)
            shown = axes[row, column].imshow(_gray(error), cmap="RdBu_r", vmin=-error_range, vmax=error_range, interpolation="nearest")
            axes[row, column].set_xlabel("error", fontsize=8)
    if shown is not None:
        figure.colorbar(shown, ax=axes[-1, :], shrink=0.8, pad=0.01)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    if title:
        figure.suptitle(title, fontsize=11)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def curves(
    path: str | PathLike[str], histories: Mapping[str, Mapping[str, Sequence[float]]], *, quantity: str = "psnr", unit: str = "dB"
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
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
