"""Pictures of what a denoiser does: its patch, its receptive field, its symmetries.

Each function returns a matplotlib ``Figure``, which a notebook shows and
:func:`pnp_mlpatch.viz.save` writes. Positions are (row, column) in pixels, pixel centres at the
integers, row 0 at the top. Grey images are drawn from black = 0 to white = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import check_image, describe
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.images import in_notebooks
from pnp_mlpatch.viz._equivariance import equivariance, equivariance_error
from pnp_mlpatch.viz._figure import (
    as_numpy,
    check_shown,
    circle,
    new_figure,
    save,
    show,
    square,
)
from pnp_mlpatch.viz._receptive import influence, receptive_field

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with every kind of colour vision
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
BLUE = COLOURS[5]


def patch(D: MLPatch) -> Figure:
    r"""Draw the patch of an MLPatch: its offsets :math:`o_m` about the pixel that is denoised.

    .. math:: D(x)(p) = x(p) - \mathrm{MLP}([F(p + o_1), \ldots, F(p + o_M)])

    The area of a marker is in proportion to ``D.patch_weights()[m]``, the norm of what the first
    layer does with the sample. The circle is the radius that learned offsets keep to, the square
    the field.

    Parameters
    ----------
    D : MLPatch
        The network itself, not a wrapper.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    InputTypeError
        For other denoisers, which have no patch.
    """
    _needs_patch(D, "patch")
    offsets, weights = as_numpy(D.patch_offsets()), _relative_weights(D)
    field = D.field or 0
    span = field + 1.5
    figure = new_figure(6.2, 7.0, "Drawing a patch")
    from matplotlib.ticker import MaxNLocator

    axis = figure.subplots()
    _pixel_lines(axis, span)
    axis.add_patch(square(0, 0, field, label=f"field: {2 * field + 1} x {2 * field + 1} pixels"))
    if not D.fixed:
        axis.add_patch(circle(0, 0, D.radius, 1.2, label=f"radius: {D.radius:g} pixels"))
    # a little less than a pixel, in square points
    area = min((0.85 * 5.2 * 72 / (2 * span)) ** 2, 250.0)
    style: dict[str, Any] = {"c": BLUE, "alpha": 0.75, "linewidths": 0}
    label = "samples, area = weight"
    axis.scatter(offsets[:, 1], offsets[:, 0], s=area * weights, zorder=3, label=label, **style)
    for share in (0.5, 0.1):
        axis.scatter([], [], s=area * share, label=f"{share:g} of the largest weight", **style)
    axis.plot(
        0,
        0,
        "k+",
        markersize=9.5,
        markeredgewidth=1.5,
        zorder=4,
        label="the pixel that is denoised",
    )
    axis.set(xlim=(-span, span), ylim=(span, -span), aspect="equal")
    axis.set(xlabel="column offset (pixels)", ylabel="row offset (pixels)")
    for axes in (axis.xaxis, axis.yaxis):
        axes.set_major_locator(MaxNLocator(integer=True))
    of = f"{D.config['features']} features" if D.config["features"] else "the image"
    where = "the pixels around" if D.fixed else "learned offsets"
    where = "offsets before they follow the content" if D.deform else where
    axis.set_title(f"{len(offsets)} samples of {of}: {where}", fontsize=12)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return in_notebooks(figure)


def patches_over(
    D: MLPatch, image: Tensor, coords: Tensor | Sequence[Sequence[float]], sigma: float | Tensor
) -> Figure:
    r"""Draw patches over an image: the places :math:`p + o_m(x, p, \sigma)` of the samples of p.

    The offsets are the same everywhere unless they depend on the content (``deform`` > 0). Beyond
    the border the image is continued by reflection.

    Parameters
    ----------
    D : MLPatch
        The network itself, not a wrapper.
    image : Tensor, shape (1, C, H, W)
        A noisy image, C = 1 or 3.
    coords : Tensor, shape (Q, 2), or pairs of numbers
        The places p, (row, column) in pixels.
    sigma : float or Tensor
        Noise level.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    InputTypeError
        For a denoiser without a patch.
    InputError
        For invalid images or coordinates.
    """
    _needs_patch(D, "patches_over")
    check_image(image, "patches_over", D.channels)
    check_shown(image, "patches_over")
    places = _places(coords, image.device)
    with torch.no_grad():
        samples = as_numpy(D.patch_at(image, places, sigma)[0])
    weights = _relative_weights(D)
    height, width = image.shape[-2:]
    figure = new_figure(6.5, 5.9 * min(max(height / width, 0.3), 2.5) + 0.9, "Drawing patches")
    axis = figure.subplots()
    show(axis, image)
    area = min(max((6.0 * 72 / max(height, width)) ** 2, 14), 250)
    for q, (centre, where) in enumerate(zip(as_numpy(places), samples, strict=True)):
        colour = COLOURS[q % len(COLOURS)]
        axis.scatter(
            where[:, 1],
            where[:, 0],
            s=area * weights,
            c=colour,
            linewidths=0.3,
            edgecolors="white",
            zorder=2,
        )
        mark: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "linestyle": "none"}
        axis.plot(centre[1], centre[0], marker="P", markersize=9, zorder=3, **mark)
    rows, columns = samples[..., 0], samples[..., 1]
    right, bottom = float(columns.max()) + 0.5, float(rows.max()) + 0.5
    axis.set_xlim(min(-0.5, float(columns.min()) - 0.5), max(width - 0.5, right))
    axis.set_ylim(max(height - 0.5, bottom), min(-0.5, float(rows.min()) - 0.5))
    axis.set(xlabel="column (pixels)", ylabel="row (pixels)")
    follow = ", which follow the content" if D.deform else ""
    title = f"{samples.shape[1]} samples for each of {len(samples)} places{follow}"
    axis.set_title(title, fontsize=12)
    return in_notebooks(figure)


# ---- parts


def _relative_weights(D: MLPatch) -> Any:
    """Return the weights of the samples over the largest one."""
    weights = as_numpy(D.patch_weights())
    return weights / max(float(weights.max()), 1e-30)


def _pixel_lines(axis: Axes, span: float) -> None:
    """Draw lines between the pixels."""
    edge = int(span - 0.5)
    for line in range(-edge, edge + 1):
        axis.axhline(line + 0.5, color="0.88", linewidth=0.6, zorder=0)
        axis.axvline(line + 0.5, color="0.88", linewidth=0.6, zorder=0)


def _needs_patch(D: Any, who: str) -> None:
    if not isinstance(D, MLPatch):
        raise InputTypeError(
            f"{who}: expected an MLPatch, which has a patch, got {describe(D).name}. Give the "
            "network itself, not a wrapper; receptive_field draws what any denoiser depends on."
        )


def _places(coords: Any, device: torch.device) -> Tensor:
    """Coordinates as a tensor (Q, 2)."""
    try:
        places = torch.as_tensor(coords, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            "patches_over: coords must be a tensor (Q, 2) or pairs of numbers, (row, column) in "
            f"pixels; got {type(coords).__name__}."
        ) from error
    if places.ndim != 2 or places.shape[-1] != 2 or len(places) == 0:
        raise InputError(
            "patches_over: coords must have shape (Q, 2), at least one (row, column) in pixels, "
            f"got {tuple(places.shape)}. One place p is [p]."
        )
    return places


__all__ = [
    "equivariance",
    "equivariance_error",
    "influence",
    "patch",
    "patches_over",
    "receptive_field",
    "save",
]
