"""A result at a glance."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from torch import Tensor

from pnp_mlpatch.io.images import in_notebooks
from pnp_mlpatch.solvers import Result
from pnp_mlpatch.viz._curves import (
    candidate_errors,
    draw_candidates,
    draw_curves,
    residual_curves,
)
from pnp_mlpatch.viz._figure import drawn, for_imshow, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = ("sigma", "alpha", "tau", "data_residual")


def result_figure(result: Result) -> Figure:
    """Draw a result: its first image, residuals, levels, seconds a step, and what was recorded.

    The residuals are the relative change and the columns of the history whose name starts with
    "primal", "dual" or "fixed_point". Levels that are constant, or nowhere above 0, are written
    below the axis. The title gives the status, that of each image where they differ, and the
    settings that were chosen by the data; then the errors of all candidates are drawn too. Of an
    image of two channels the first is shown, of a complex one the magnitude.

    Parameters
    ----------
    result : Result
        What a solver returned.

    Returns
    -------
    matplotlib.figure.Figure
        The picture, which a notebook shows and :func:`pnp_mlpatch.viz.save` writes.

    Raises
    ------
    MissingPackage
        Without matplotlib.
    """
    history = result.history
    iterations = history.get("iteration", [])
    residuals = residual_curves(result)
    levels = {name: history[name] for name in LEVELS if name in history}
    varying = {k: v for k, v in levels.items() if min(v) < max(v) and max(v) > 0}
    named = ("iteration", "seconds", *residuals, *levels)
    others = {name: values for name, values in history.items() if name not in named}
    title, candidates = _title(result), candidate_errors(result)
    panels = 4 + bool(others) + bool(candidates)
    figure = new_figure(13 + 3.3 * (panels - 4), 3.2 + 0.2 * len(title), "Drawing a result")
    axes = list(figure.subplots(1, panels))
    _draw_image(axes[0], drawn(result.x.detach(), result.complex_image))
    kind = "relative change" if len(residuals) == 1 else "relative residuals"
    draw_curves(axes[1], kind, iterations, residuals, log=True)
    draw_curves(axes[2], "levels", iterations, varying, log=True, legend=True)
    constant = {name: values for name, values in levels.items() if name not in varying}
    values = "".join(f"\n{name} = {values[-1]:.3g}" for name, values in constant.items())
    axes[2].set_xlabel("iteration" + values)
    if not varying:
        axes[2].set(xticks=[], yticks=[])
    seconds = history.get("seconds", [])
    steps = [b - a for a, b in zip([0.0, *seconds], seconds, strict=False)]
    draw_curves(axes[3], "seconds a step", iterations, {"seconds": steps})
    axes[3].set_ylim(bottom=0)
    if others:
        draw_curves(axes[4], "recorded", iterations, others, legend=True)
    if candidates:
        draw_candidates(axes[-1], candidates)
    figure.suptitle("\n".join(title), fontsize=11)
    return in_notebooks(figure)


def _draw_image(axis: Axes, x: Tensor) -> None:
    """Draw the first image of a batch, in colour if it has three channels."""
    image = x[:1].detach() if x.shape[1] == 3 else x[:1, :1].detach()
    shown = image.clamp(0, 1) if image.shape[1] == 3 else image
    axis.imshow(for_imshow(shown), cmap="gray", interpolation="nearest")
    of = f", first of {len(x)}" if len(x) > 1 else ""
    label = f"{float(image.min()):.3g} to {float(image.max()):.3g}{of}"
    axis.set(xticks=[], yticks=[], xlabel=label)


def _title(result: Result) -> list[str]:
    """Return the lines of the title: status, statuses if they differ, chosen settings."""
    lines = [f"{result.status} after {result.state.iteration} iterations, {result.seconds:.3g} s"]
    if len(set(result.statuses)) > 1:
        each = [f"{k} {status}" for k, status in enumerate(result.statuses)]
        counts = Counter(result.statuses).most_common()
        shown = each if len(each) <= 8 else [f"{number} {status}" for status, number in counts]
        lines.append(f"images: {', '.join(shown)}")
    if result.tuned is not None:
        lines += textwrap.wrap(f"chosen: {result.tuned}", 150)
    return lines


__all__ = ["result_figure"]
