"""A result at a glance."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.io.images import in_notebooks
from pnp_mlpatch.solvers import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gray(image: Tensor) -> Any:
    """(C, H, W) or the first of (B, C, H, W) as a NumPy array for ``imshow``: (H, W), or (H, W, C) in colour."""
    image = image.detach().cpu()
    if image.ndim == 4:
        image = image[0]
    return image[0].numpy() if image.shape[0] == 1 else image.permute(1, 2, 0).numpy()


def result_figure(result: Result) -> Figure:
    """What a run came to, at a glance: its first image, the residuals, the levels, the time of each step, and what was recorded.

    With the residual are drawn the columns of the history whose name starts with "primal", "dual" or "fixed_point". Levels that are
    constant, or nowhere above 0, are named with their value instead. Above stand the status, that of each image where they differ, and
    which settings were chosen, and why, if they were chosen by the data; the errors of all that was tried are then drawn too. Of an image of two channels the first is shown. A notebook shows
    the figure, and :func:`pnp_mlpatch.viz.save` writes it. Raises :class:`MissingPackage` without matplotlib.
    """
    require("matplotlib", "Drawing a result")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history = result.history
    iterations, seconds = history.get("iteration", []), history.get("seconds", [])
    taken = [b - a for a, b in zip([0.0, *seconds], seconds, strict=False)]
    residuals = {"residual": history.get("residual", [])} | {
        name: values
        for name, values in history.items()
        if name.startswith(("primal", "dual", "fixed_point"))
    }
    levels = {
        name: history[name]
        for name in ("sigma", "alpha", "tau", "data_residual")
        if name in history
    }
    varying = {
        name: values
        for name, values in levels.items()
        if min(values) < max(values) and max(values) > 0
    }
    fixed = "".join(
        f"\n{name} = {values[-1]:.3g}" for name, values in levels.items() if name not in varying
    )
    others = {
        name: values
        for name, values in history.items()
        if name not in ("iteration", "seconds", *residuals, *levels)
    }
    lines, tried = _title(result), _tried(result)
    figure = Figure(
        figsize=(13 + 3.3 * (bool(others) + bool(tried)), 3.2 + 0.2 * len(lines)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    first, *axes = figure.subplots(1, 4 + bool(others) + bool(tried))
    image = result.x[:1].detach() if result.x.shape[1] == 3 else result.x[:1, :1].detach()
    first.imshow(
        gray(image.clamp(0, 1) if image.shape[1] == 3 else image),
        cmap="gray",
        interpolation="nearest",
    )
    of = f", first of {len(result.x)}" if len(result.x) > 1 else ""
    first.set(
        xticks=[], yticks=[], xlabel=f"{float(image.min()):.3g} to {float(image.max()):.3g}{of}"
    )
    named = "relative change" if len(residuals) == 1 else "relative residuals"
    columns = [(named, residuals), ("levels", varying), ("seconds a step", {"seconds": taken})]
    for axis, (title, curves) in zip(
        axes, [*columns, *([("recorded", others)] if others else [])], strict=False
    ):
        axis.set_title(title, fontsize=10)
        for name, values in curves.items():
            axis.plot(iterations, values, marker=".", label=name)
        if curves and iterations and title in (named, "levels"):
            axis.set_yscale("log", nonpositive="mask")
        if curves and (title in ("levels", "recorded") or len(curves) > 1):
            axis.legend(fontsize=8)
        axis.set_xlabel("iteration" + fixed * (title == "levels"))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[2].set_ylim(bottom=0)
    if not varying:
        axes[1].set(xticks=[], yticks=[])
    if tried:
        for name, values in tried.items():
            axes[-1].plot(range(1, len(values) + 1), values, marker=".", label=name)
        axes[-1].set_title("estimated error", fontsize=10)
        axes[-1].set(xlabel="iteration", yscale="log")
        axes[-1].legend(fontsize=7)
        axes[-1].grid(alpha=0.3)
    figure.suptitle("\n".join(lines), fontsize=11)
    return in_notebooks(figure)


def _tried(result: Result) -> dict[str, list[float]]:
    """The estimated error of the first image at every iteration of each candidate."""
    if result.tuned is None or not {"score", "sigma", "iteration"} <= result.tuned.tried.keys():
        return {}
    score, sigma = (result.tuned.tried[name][:, 0].tolist() for name in ("score", "sigma"))
    starts = [
        k for k, iteration in enumerate(result.tuned.tried["iteration"].tolist()) if iteration == 1
    ]
    found = {}
    for start, end in zip(starts, [*starts[1:], len(score)], strict=True):
        values = [value if math.isfinite(value) else math.nan for value in score[start:end]]
        ends = (
            f"{sigma[start]:.3g}"
            if sigma[start] == sigma[end - 1]
            else f"{sigma[start]:.3g} to {sigma[end - 1]:.3g}"
        )
        if any(math.isfinite(value) for value in values):
            found[f"sigma {ends}"] = values
    return found


def _title(result: Result) -> list[str]:
    """The status; that of each image where they differ, counted where there are many; what was chosen, and why."""
    lines = [f"{result.status} after {result.state.iteration} iterations, {result.seconds:.3g} s"]
    if len(set(result.statuses)) > 1:
        each = [f"{k} {status}" for k, status in enumerate(result.statuses)]
        counted = [
            f"{number} {status}" for status, number in Counter(result.statuses).most_common()
        ]
        lines.append(f"images: {', '.join(each if len(each) <= 8 else counted)}")
    return (
        lines if result.tuned is None else [*lines, *textwrap.wrap(f"chosen: {result.tuned}", 150)]
    )


__all__ = ["gray", "result_figure"]
