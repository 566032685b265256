"""What the output of a denoiser at one pixel depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser, as_denoiser, check_image, describe
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.images import in_notebooks
from pnp_mlpatch.viz._figure import as_numpy, check_one, circle, is_whole_pair, new_figure, square

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RADII = (2, 4, 8)  # pixels


def influence(D: Denoiser, x: Tensor, coord: tuple[int, int], sigma: float | Tensor) -> Tensor:
    r"""Compute how much each input pixel changes the output at a pixel p, by autograd.

    .. math:: g(t) = |\partial D(x, \sigma)(p) / \partial x(t)|

    All of ``x`` goes through D, so cut it to the neighbourhood of p if it is large.

    Parameters
    ----------
    D : Denoiser
        The denoiser.
    x : Tensor, shape (1, C, H, W)
        A noisy image.
    coord : tuple of int
        The pixel p, (row, column).
    sigma : float or Tensor
        Noise level.

    Returns
    -------
    Tensor, shape (H, W)
        g, the root of the sum of squares over the channels in and out.

    Raises
    ------
    InputTypeError
        If D gives no gradients.
    InputError
        For invalid images or coordinates.
    """
    check_image(x, "influence", describe(D).channels)
    check_one(x, "influence")
    row, column = _check_coord(x, coord, "influence")
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        y = as_denoiser(D, sigma="input")(leaf, sigma)
        if not y.requires_grad:
            raise InputTypeError(
                f"influence: {describe(D).name} gives no gradients, so nothing can be said of its "
                "field. Functions of numpy arrays have none; a network must not run under "
                "torch.no_grad()."
            )
        energy = x.new_zeros(x.shape[-2:])
        for value in y[0, :, row, column]:
            (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
            energy += gradient[0].square().sum(dim=0)
    return energy.sqrt()


def receptive_field(
    D: Denoiser, x: Tensor, coord: tuple[int, int], sigma: float | Tensor
) -> Figure:
    r"""Draw what the output at a pixel p depends on: :func:`influence` on a logarithmic scale.

    The square is the field that D states (``D.info.field``), if it states one. The title gives the
    shares of the gradient energy, :math:`\sum_{|t - p| \le r} g(t)^2 / \sum_t g(t)^2` for r = 2, 4
    and 8 pixels. The map is grey where g is exactly 0; colours cover four decades.

    Parameters
    ----------
    D : Denoiser
        The denoiser.
    x : Tensor, shape (1, C, H, W)
        A noisy image.
    coord : tuple of int
        The pixel p, (row, column).
    sigma : float or Tensor
        Noise level.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    InputError
        As :func:`influence`, and if nothing has an influence.
    InputTypeError
        If D gives no gradients.
    """
    g = influence(D, x, coord, sigma)
    row, column = (int(v) for v in coord)
    if not float(g.max()) > 0:
        raise InputError(
            f"receptive_field: D(x) at {(row, column)} does not depend on x: every derivative is "
            "0. Give another place or x."
        )
    figure = new_figure(6.6, 6.4, "Drawing a receptive field")
    axis, field = figure.subplots(), describe(D).field
    drawn = _show_decades(axis, g)
    reached = (g.nonzero() - torch.tensor([row, column], device=g.device)).abs().max()
    span = max(int(reached), field or 0, 3) + 2.5
    _draw_radii(axis, row, column, span, down=row < g.shape[0] / 2)
    if field is not None:
        side = 2 * field + 1
        axis.add_patch(square(row, column, field, label=f"stated field: {side} x {side} pixels"))
        figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    axis.set_xlim(max(column - span, -0.5), min(column + span, g.shape[1] - 0.5))
    axis.set_ylim(min(row + span, g.shape[0] - 0.5), max(row - span, -0.5))
    axis.set(xlabel="column (pixels)", ylabel="row (pixels)")
    shares = ", ".join(f"{r}: {100 * _share(g, row, column, r):.1f} %" for r in RADII)
    title = f"{describe(D).name} at {(row, column)}\ngradient energy within radius {shares}"
    axis.set_title(title, fontsize=11)
    bar = figure.colorbar(drawn, cax=axis.inset_axes((1.03, 0, 0.05, 1)), extend="min")
    bar.set_label("|d D(x)(p) / d x(t)|, grey where it is 0", fontsize=10)
    return in_notebooks(figure)


def _show_decades(axis: Axes, g: Tensor) -> Any:
    """Draw a map (H, W) over four decades, grey where it is 0."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    colours, largest = colormaps["viridis"], float(g.max())
    return axis.imshow(
        np.ma.masked_equal(as_numpy(g), 0),
        cmap=colours.with_extremes(bad="0.85", under=colours(0)),
        norm=LogNorm(1e-4 * largest, largest),
        interpolation="nearest",
        origin="upper",
    )


def _draw_radii(axis: Axes, row: float, column: float, span: float, *, down: bool) -> None:
    """Draw circles of 2, 4 and 8 pixels, with labels below or above, where there is room."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=2.6, foreground="white")]
    shown = [radius for radius in RADII if radius < span]
    for radius in shown:
        axis.add_patch(circle(row, column, radius, 1, path_effects=edge))
        if span < 40 or radius == shown[-1]:
            axis.annotate(
                f"{radius}",
                (column, row + (radius if down else -radius)),
                ha="center",
                va="center",
                fontsize=9,
                path_effects=edge,
                annotation_clip=True,
            )


def _share(g: Tensor, row: int, column: int, radius: float) -> float:
    """Return the share of the energy sum g^2 at most ``radius`` pixels from (row, column)."""
    energy = g.double().square()
    rows, columns = (torch.arange(n, device=g.device) for n in g.shape)
    near = (rows[:, None] - row) ** 2 + (columns[None] - column) ** 2 <= radius**2
    return float(energy[near].sum() / energy.sum())


def _check_coord(x: Tensor, coord: Any, who: str) -> tuple[int, int]:
    if not is_whole_pair(coord):
        raise InputTypeError(
            f"{who}: coord must be (row, column), two whole numbers, got {coord!r}."
        )
    row, column = (int(v) for v in coord)
    height, width = x.shape[-2:]
    if not (0 <= row < height and 0 <= column < width):
        raise InputError(
            f"{who}: coord must lie in the image of {height} x {width} pixels: "
            f"row 0 to {height - 1}, column 0 to {width - 1}; got {(row, column)}."
        )
    return row, column
