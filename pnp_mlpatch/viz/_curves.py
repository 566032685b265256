"""Curves of a run: columns of the history, and the errors of what a search tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pnp_mlpatch.solvers import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence[float]]


def residual_curves(result: Result) -> dict[str, list[float]]:
    """Return the relative change, and the columns of a history that are residuals too."""
    history = result.history
    return {"residual": history.get("residual", [])} | {
        name: values
        for name, values in history.items()
        if name.startswith(("primal", "dual", "fixed_point"))
    }


def draw_curves(
    axis: Axes,
    title: str,
    iterations: Sequence[float],
    curves: Curves,
    *,
    log: bool = False,
    legend: bool = False,
) -> None:
    """Draw columns of the history against the iteration."""
    from matplotlib.ticker import MaxNLocator

    for name, values in curves.items():
        axis.plot(iterations, values, marker=".", label=name)
    if log and curves and iterations:
        axis.set_yscale("log", nonpositive="mask")
    if len(curves) > 1 or (curves and legend):
        axis.legend(fontsize=8)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("iteration")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)


def draw_candidates(axis: Axes, candidates: Curves) -> None:
    """Draw the errors of all candidates, iteration by iteration."""
    for name, values in candidates.items():
        axis.plot(range(1, len(values) + 1), values, marker=".", label=name)
    axis.set_title("error expected of new data", fontsize=10)
    axis.set(xlabel="iteration", yscale="log")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)


def candidate_errors(result: Result) -> dict[str, list[float]]:
    """Return the estimated error of each candidate at every iteration, for the first image.

    Candidates without a finite error are left out.
    """
    tried: Mapping[str, Any] = {} if result.tuned is None else result.tuned.tried
    columns = ("score", "sigma", "iteration")
    if not set(columns) <= tried.keys():
        return {}
    score, sigma = (tried[name][:, 0].tolist() for name in columns[:2])
    iterations = tried["iteration"].tolist()
    starts = [k for k, iteration in enumerate(iterations) if iteration == 1]
    found = {}
    for start, end in zip(starts, [*starts[1:], len(score)], strict=True):
        values = [value if math.isfinite(value) else math.nan for value in score[start:end]]
        first, last = sigma[start], sigma[end - 1]
        level = f"{first:.3g}" if first == last else f"{first:.3g} to {last:.3g}"
        if any(math.isfinite(value) for value in values):
            found[f"sigma {level}"] = values
    return found
