"""A drawing of a geometry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, rays
from pnp_mlpatch.io.images import in_notebooks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pnp_mlpatch.ct.center import Center


def draw_geometry(geometry: Geometry) -> Figure:
    """Draw the image, the detector and some rays at three angles, in the unit of ``pixel``.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.

    Returns
    -------
    matplotlib.figure.Figure
    """
    require("matplotlib", "Drawing a geometry")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    theta = geometry.theta
    height, width = (n * geometry.pixel for n in geometry.shape)
    chosen = sorted({0, len(theta) // 6, len(theta) // 3})
    sources, ends = (points[chosen] for points in rays(geometry))
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    axis = figure.subplots()
    grey: dict[str, Any] = {"facecolor": "0.9", "edgecolor": "0.4", "label": "image"}
    axis.add_patch(Rectangle((-width / 2, -height / 2), width, height, **grey))
    for number, (index, source, end) in enumerate(zip(chosen, sources, ends, strict=True)):
        label = f"angle {index}: {math.degrees(theta[index]):.4g}°"
        _draw_angle(axis, source, end, f"C{number}", label)
        if isinstance(geometry, FanBeam):
            axis.plot(*source[0].tolist(), marker="o", color=f"C{number}")
    cross = {"marker": "+", "color": "black", "markersize": 10, "linestyle": "none"}
    axis.plot(0, 0, label="centre of rotation", **cross)
    axis.set_aspect("equal")
    axis.margins(0.08)
    axis.set(xlabel="x", ylabel="y (up)")
    kind = "parallel beam"
    if not isinstance(geometry, ParallelBeam):
        kind = f"fan beam, {'arc' if geometry.arc else 'flat'} detector"
    title = f"{len(theta)} angles, {geometry.detectors} elements of {geometry.spacing:.4g}"
    axis.set_title(f"{kind}: {title}; 0 marks the first", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return in_notebooks(figure)


def _draw_angle(axis: Any, source: Tensor, end: Tensor, colour: str, label: str) -> None:
    """Draw some rays of one angle, and the detector with its first element marked."""
    shown = torch.linspace(0, len(end) - 1, min(5, len(end))).round().long().tolist()
    for k in shown:
        x, y = zip(source[k].tolist(), end[k].tolist(), strict=True)
        axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.7)
    detector = {"linewidth": 3, "solid_capstyle": "butt", "label": label}
    axis.plot(*end.T.tolist(), color=colour, **detector)
    box = {"facecolor": "white", "edgecolor": colour, "pad": 1.5}
    first = (float(end[0, 0]), float(end[0, 1]))
    axis.annotate("0", first, color=colour, ha="center", va="center", fontsize=9, bbox=box)


def draw_criterion(found: Center) -> Figure:
    """Draw the criterion of the rotation axis over the candidates.

    Parameters
    ----------
    found : Center
        The axis.

    Returns
    -------
    matplotlib.figure.Figure
    """
    require("matplotlib", "Drawing the criterion")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(found.candidates.numpy(), found.criterion.numpy(), ".-")
    axis.axvline(found.center, linestyle=":")
    axis.set(
        xlabel="detector element of the axis",
        ylabel=f"{found.method}, relative",
        title=f"{found.center:.3f} +- {found.error:.2g}",
    )
    return in_notebooks(figure)


__all__ = ["draw_criterion", "draw_geometry"]
