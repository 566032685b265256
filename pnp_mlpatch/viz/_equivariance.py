"""Whether a denoiser commutes with shifts, rotations and flips: a number and a picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import (
    SYMMETRIES,
    Denoiser,
    as_denoiser,
    check_image,
    describe,
    equivariant,
    sigma_column,
    turned,
)
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.images import in_notebooks
from pnp_mlpatch.viz._figure import as_numpy, check_shown, is_whole_pair, new_figure, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Symmetry = str | tuple[int, int]


def equivariance_error(
    D: Denoiser,
    x: Tensor,
    sigma: float | Tensor,
    symmetry: Symmetry,
    *,
    border: int | None = None,
) -> float:
    r"""Measure how far a denoiser is from commuting with a symmetry g.

    .. math:: \frac{|D(g x, \sigma) - g D(x, \sigma)|}{|D(x, \sigma) - x|}

    Parameters
    ----------
    D : Denoiser
        The denoiser.
    x : Tensor, shape (B, C, H, W)
        Noisy images.
    sigma : float or Tensor
        Noise level: a float, (B,), or a map, which moves with the image.
    symmetry : str or tuple of int
        "rotation 90", "rotation 180", "rotation 270", "flip left-right", "flip up-down",
        "transpose", "anti-transpose", or a circular shift by (rows down, columns to the right).
    border : int, optional
        A shift is compared where neither the seam nor the border is within so many pixels. By
        default the field of D, or a quarter of the shorter side if D states none.

    Returns
    -------
    float
        The relative error, 0 if D commutes with g.

    Raises
    ------
    InputError
        For other symmetries, and for images of which nothing is left without the border.
    """
    with torch.no_grad():
        one, two, change = _compare(D, x, sigma, symmetry, border)
    return _relative(one, two, change)


def equivariance(D: Denoiser, image: Tensor, sigma: float | Tensor) -> Figure:
    """Draw D(g x), g D(x) and their difference for a shift, a rotation and a flip.

    The shift is by (3, 5), the rotation by 90 degrees. The last row is the rotation again, with
    ``equivariant(D)``, the average over rotations and flips. The title of each difference is
    :func:`equivariance_error`. Each difference has a colour scale of its own and shows the mean
    over the channels. The row of the shift leaves out the border.

    Parameters
    ----------
    D : Denoiser
        The denoiser.
    image : Tensor, shape (1, C, H, W)
        A noisy image, C = 1 or 3.
    sigma : float or Tensor
        Noise level.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    InputError
        As :func:`equivariance_error`.
    """
    check_image(image, "equivariance", describe(D).channels)
    check_shown(image, "equivariance")
    rows: list[tuple[str, Denoiser, Symmetry]] = [
        ("shift by (3, 5)", D, (3, 5)),
        ("rotation by 90°", D, "rotation 90"),
        ("flip left-right", D, "flip left-right"),
        ("E = equivariant(D),\nrotation by 90°", equivariant(D), "rotation 90"),
    ]
    aspect = min(max(image.shape[-2] / image.shape[-1], 0.6), 1.6)
    figure = new_figure(9.4, 2.75 * len(rows) * aspect + 0.6, "Drawing equivariance")
    axes = figure.subplots(len(rows), 3)
    for line, (label, denoiser, symmetry) in zip(axes, rows, strict=True):
        with torch.no_grad():
            one, two, change = _compare(denoiser, image, sigma, symmetry, None)
        show(line[0], one)
        show(line[1], two)
        _show_difference(figure, line[2], one - two)
        name = "D" if denoiser is D else "E"
        line[0].set_title(f"{name}(g x)", fontsize=11)
        line[1].set_title(f"g {name}(x)", fontsize=11)
        error = _relative(one, two, change)
        shown = f"{error:.1e}" if error else "0"
        line[2].set_title(f"relative error {shown}", fontsize=11)
        line[0].set_ylabel(label, fontsize=11)
        for axis in line:
            axis.set(xticks=[], yticks=[])
    figure.suptitle(f"D = {describe(D).name}: does it commute with g?", fontsize=12)
    return in_notebooks(figure)


def _show_difference(figure: Figure, axis: Axes, difference: Tensor) -> None:
    """Draw a difference (1, C, H, W), from blue to red, with a colour bar."""
    values = as_numpy(difference[0].mean(dim=0))
    largest = float(abs(values).max())
    scale = largest or 1.0  # where there is no difference, any will do
    drawn = axis.imshow(
        values, cmap="RdBu_r", vmin=-scale, vmax=scale, interpolation="nearest", origin="upper"
    )
    ticks = [-scale, 0, scale]
    bar = figure.colorbar(drawn, cax=axis.inset_axes((1.04, 0, 0.06, 1)), ticks=ticks)
    ends = (f"-{largest:.1e}", f"{largest:.1e}") if largest else ("", "")
    bar.ax.set_yticklabels([ends[0], "0", ends[1]], fontsize=9)


def _compare(
    D: Denoiser, x: Tensor, sigma: float | Tensor, symmetry: Symmetry, border: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """D(g x), g D(x) and g (D(x) - x), without the border where g is a shift."""
    check_image(x, "equivariance_error", describe(D).channels)
    checked = as_denoiser(D, sigma="input")
    levels = sigma_column(sigma, x, "equivariance_error", maps=True)
    is_map = levels.shape[2:] == x.shape[2:]
    if isinstance(symmetry, str) and symmetry in SYMMETRIES:

        def g(image: Tensor) -> Tensor:
            return turned(image, str(symmetry))

        rows = columns = slice(None)
    elif is_whole_pair(symmetry):
        down, right = (int(v) for v in symmetry)

        def g(image: Tensor) -> Tensor:
            return image.roll((down, right), (-2, -1))

        rows, columns = _compared(x, down, right, describe(D).field if border is None else border)
    else:
        names = ", ".join(repr(name) for name in SYMMETRIES)
        raise InputError(
            f"equivariance_error: symmetry must be one of {names}, or a shift by whole numbers, "
            f"(rows, columns); got {symmetry!r}."
        )
    y = checked(x, sigma)
    parts = (checked(g(x), g(levels) if is_map else sigma), g(y), g(y - x))
    one, two, change = (part[..., rows, columns] for part in parts)
    return one, two, change


def _compared(x: Tensor, down: int, right: int, border: int | None) -> tuple[slice, slice]:
    """Return rows and columns of a shifted image that neither the seam nor the border reaches."""
    height, width = x.shape[-2:]
    border = min(height, width) // 4 if border is None else border
    if isinstance(border, bool) or not isinstance(border, int) or border < 0:
        raise InputError(
            f"equivariance_error: border must be a whole number of pixels >= 0, got {border!r}."
        )
    needed = (abs(down) + 2 * border + 1, abs(right) + 2 * border + 1)
    if height < needed[0] or width < needed[1]:
        raise InputError(
            f"equivariance_error: nothing is left of {height} x {width} pixels without {border} at "
            f"each border and the shift {(down, right)}. Give at least {needed[0]} x {needed[1]} "
            "pixels, or a smaller border."
        )
    return (
        slice(max(down, 0) + border, height + min(down, 0) - border),
        slice(max(right, 0) + border, width + min(right, 0) - border),
    )


def _relative(one: Tensor, two: Tensor, change: Tensor) -> float:
    gap, size = float((one - two).double().norm()), float(change.double().norm())
    if gap == 0:
        return 0.0
    return gap / size if size else math.inf


__all__ = ["equivariance", "equivariance_error"]
