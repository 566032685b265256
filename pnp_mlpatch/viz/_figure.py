"""What all pictures share: figures, images on axes, checks, and writing."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORANGE = "#D55E00"  # Okabe and Ito (2008)


def save(figure: Figure, path: str | PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure to a file, whole or not at all.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    path : str or path
        The file. Its ending gives the format: .png, .pdf, .svg ...
    dpi : int
        Dots per inch, for formats of pixels.

    Raises
    ------
    InputError
        If matplotlib cannot write this format.
    FileError
        If the file cannot be written.
    """
    kinds = figure.canvas.get_supported_filetypes()
    kind = Path(path).suffix[1:].lower()
    if kind not in kinds:
        endings = ", ".join("." + k for k in sorted(kinds))
        raise InputError(
            f"save: cannot write {Path(path).name!r}; the name must end in one of {endings}."
        )
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=dpi, format=kind))


def new_figure(width: float, height: float, needed_by: str) -> Figure:
    """Make an empty figure, its size in inches; it belongs to no window."""
    require("matplotlib", needed_by)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_numpy(x: Tensor) -> Any:
    """Convert a tensor to an array."""
    return x.detach().cpu().numpy()


def for_imshow(image: Tensor) -> Any:
    """(C, H, W), or the first of (B, C, H, W), as an array (H, W), or (H, W, C) in colour."""
    image = image[0] if image.ndim == 4 else image
    return as_numpy(image[0] if image.shape[0] == 1 else image.permute(1, 2, 0))


def show(axis: Axes, image: Tensor) -> None:
    """Draw the first image of (B, C, H, W), row 0 at the top, 0 black and 1 white."""
    axis.imshow(
        for_imshow(image.clamp(0, 1)),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        origin="upper",
    )


def circle(row: float, column: float, radius: float, linewidth: float, **style: Any) -> Any:
    """Return a dashed circle."""
    from matplotlib.patches import Circle

    line = {"fill": False, "edgecolor": "black", "linestyle": "--", "linewidth": linewidth}
    return Circle((column, row), radius, **line, **style)


def square(row: float, column: float, field: int, label: str) -> Any:
    """Return the outline of the pixels at most ``field`` rows and columns from (row, column)."""
    from matplotlib.patches import Rectangle

    side = 2 * field + 1
    line = {"fill": False, "edgecolor": ORANGE, "linewidth": 1.8}
    return Rectangle((column - side / 2, row - side / 2), side, side, label=label, **line)


def drawn(image: Tensor, complex_image: bool) -> Tensor:
    """Return what is drawn of images (..., C, H, W): of complex ones the magnitude."""
    return torch.linalg.vector_norm(image, dim=-3, keepdim=True) if complex_image else image


def check_one(x: Tensor, who: str) -> None:
    """Refuse a batch of several images."""
    if len(x) != 1:
        raise InputError(
            f"{who}: expected one image (1, C, H, W), got a batch {tuple(x.shape)}. "
            "Give x[k : k + 1]."
        )


def check_shown(x: Tensor, who: str) -> None:
    """Refuse what is not one image of 1 or 3 channels."""
    check_one(x, who)
    if x.shape[1] not in (1, 3):
        raise InputError(
            f"{who}: only images of 1 or 3 channels can be drawn, got {tuple(x.shape)}. "
            "Draw one channel, x[:, k : k + 1]."
        )


def is_whole_pair(value: Any) -> bool:
    """Whether a value is a pair of integers."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    )
