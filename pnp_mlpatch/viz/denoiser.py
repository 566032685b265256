"""Pictures of what a denoiser does: its patch, its receptive field, its symmetries; and the numbers in them.

Each function returns a matplotlib ``Figure``, which a notebook shows and :func:`save` writes. Positions are (row, column) in pixels,
pixel centres at the integers, row 0 at the top. Grey images are drawn from black = 0 to white = 1, whatever values they hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
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
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.images import in_notebooks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with every kind of colour vision
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
ORANGE, BLUE = COLOURS[4], COLOURS[5]
RADII = (2, 4, 8)


def patch(D: MLPatch) -> Figure:
    """The patch of an MLPatch: its offsets o_m over the pixels about the one that is denoised.

    D(x)(p) = x(p) - MLP([F(p + o_1), ..., F(p + o_M)]). The area of the marker at o_m is in proportion to ``D.patch_weights()[m]``, the
    norm of what the first layer does with the sample. The circle is the radius that learned offsets keep to, the square the
    field. Raises :class:`InputTypeError` for other denoisers, which have no patch.
    """
    _needs_patch(D, "patch")
    offsets, weights = _numpy(D.patch_offsets()), _numpy(D.patch_weights())
    weights = weights / max(float(weights.max()), 1e-30)
    field = D.field or 0
    span = field + 1.5
    figure = _figure(6.2, 7.0, "Drawing a patch")
    from matplotlib.patches import Circle
    from matplotlib.ticker import MaxNLocator

    axis = figure.subplots()
    area = min(
        (0.85 * 5.2 * 72 / (2 * span)) ** 2, 250.0
    )  # a little less than a pixel, in square points
    _pixel_lines(axis, span)
    axis.add_patch(_square(0, 0, field, label=f"field: {2 * field + 1} x {2 * field + 1} pixels"))
    if not D.fixed:
        axis.add_patch(
            Circle(
                (0, 0),
                D.radius,
                fill=False,
                edgecolor="black",
                linewidth=1.2,
                linestyle="--",
                label=f"radius: {D.radius:g} pixels",
            )
        )
    axis.scatter(
        offsets[:, 1],
        offsets[:, 0],
        s=area * weights,
        c=BLUE,
        alpha=0.75,
        linewidths=0,
        zorder=3,
        label="samples, area = weight",
    )
    for share in (0.5, 0.1):
        axis.scatter(
            [],
            [],
            s=area * share,
            c=BLUE,
            alpha=0.75,
            linewidths=0,
            label=f"{share:g} of the largest weight",
        )
    axis.scatter(
        [0],
        [0],
        marker="+",
        s=90,
        c="black",
        linewidths=1.5,
        zorder=4,
        label="the pixel that is denoised",
    )
    axis.set(
        xlim=(-span, span),
        ylim=(span, -span),
        aspect="equal",
        xlabel="column offset (pixels)",
        ylabel="row offset (pixels)",
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    of = f"{D.config['features']} features" if D.config["features"] else "the image"
    where = (
        "offsets before they follow the content"
        if D.deform
        else ("the pixels around" if D.fixed else "learned offsets")
    )
    axis.set_title(f"{len(offsets)} samples of {of}: {where}", fontsize=12)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return in_notebooks(figure)


def patches_over(
    D: MLPatch, image: Tensor, coords: Tensor | Sequence[Sequence[float]], sigma: float | Tensor
) -> Figure:
    """Patches drawn over the image: for each p of ``coords``, the places p + o_m(x, p, sigma) of its samples.

    ``image`` (1, C, H, W), C = 1 or 3, is what D is given, so noisy; ``coords`` (Q, 2) are (row, column) in pixels, a tensor or pairs of
    numbers; ``sigma`` a number. The offsets are the same everywhere unless they depend on the content (``deform`` > 0). Beyond the
    border the image goes on by reflection. Raises :class:`InputTypeError` for a denoiser without a patch, and
    :class:`InputError` for images and places that are none.
    """
    _needs_patch(D, "patches_over")
    check_image(image, "patches_over", D.channels)
    _check_shown(image, "patches_over")
    try:
        places = torch.as_tensor(coords, dtype=torch.float32, device=image.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"patches_over: coords must be a tensor (Q, 2) or pairs of numbers, (row, column) in pixels; got {type(coords).__name__}."
        ) from error
    if places.ndim != 2 or places.shape[-1] != 2 or len(places) == 0:
        raise InputError(
            f"patches_over: coords must have shape (Q, 2), at least one (row, column) in pixels, got {tuple(places.shape)}. "
            "One place p is [p]."
        )
    with torch.no_grad():
        samples = _numpy(D.patch_at(image, places, sigma)[0])
        weights = _numpy(D.patch_weights())
    weights = weights / max(float(weights.max()), 1e-30)
    height, width = image.shape[-2:]
    figure = _figure(6.5, 5.9 * min(max(height / width, 0.3), 2.5) + 0.9, "Drawing patches")
    axis = figure.subplots()
    _show(axis, image)
    area = min(max((6.0 * 72 / max(height, width)) ** 2, 14), 250)
    for q, (centre, where) in enumerate(zip(_numpy(places), samples, strict=True)):
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
        axis.plot(
            centre[1],
            centre[0],
            marker="P",
            markersize=9,
            color=colour,
            markeredgecolor="black",
            linestyle="none",
            zorder=3,
        )
    rows, cols = samples[..., 0], samples[..., 1]
    axis.set_xlim(min(-0.5, float(cols.min()) - 0.5), max(width - 0.5, float(cols.max()) + 0.5))
    axis.set_ylim(max(height - 0.5, float(rows.max()) + 0.5), min(-0.5, float(rows.min()) - 0.5))
    axis.set(xlabel="column (pixels)", ylabel="row (pixels)")
    follow = ", which follow the content" if D.deform else ""
    axis.set_title(
        f"{samples.shape[1]} samples for each of {len(samples)} places{follow}", fontsize=12
    )
    return in_notebooks(figure)


def influence(D: Denoiser, x: Tensor, coord: tuple[int, int], sigma: float | Tensor) -> Tensor:
    """How much each input pixel moves the output at p = ``coord``: g(t) = |d D(x, sigma)(p) / d x(t)|, by autograd.

    ``x`` (1, C, H, W) gives g (H, W), in which the channels in and out are summed in squares. ``coord`` is (row, column), whole
    numbers. All of ``x`` goes through D, so cut it to the neighbourhood of p if it is large. Raises :class:`InputTypeError` where D
    gives no gradients.
    """
    check_image(x, "influence", describe(D).channels)
    _check_one(x, "influence")
    row, column = _check_coord(x, coord, "influence")
    leaf = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        y = as_denoiser(D, sigma="input")(leaf, sigma)
        if not y.requires_grad:
            raise InputTypeError(
                f"influence: {describe(D).name} gives no gradients, so nothing can be said of its field. "
                "Functions of numpy arrays have none; a network must not run under torch.no_grad()."
            )
        energy = x.new_zeros(x.shape[-2:])
        for value in y[0, :, row, column]:
            (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
            energy += gradient[0].square().sum(dim=0)
    return energy.sqrt()


def receptive_field(
    D: Denoiser, x: Tensor, coord: tuple[int, int], sigma: float | Tensor
) -> Figure:
    """What the output at p = ``coord`` depends on: g(t) = |d D(x, sigma)(p) / d x(t)| on a logarithmic scale.

    The square is the field that D states (``D.info.field``; none is drawn where it states none), and the title gives the shares
    sum_{|t - p| <= r} g(t)^2 / sum_t g(t)^2 for r = 2, 4, 8 pixels. Where g is exactly 0 the map is grey; colours cover four decades.
    Arguments and errors are those of :func:`influence`; :class:`InputError` if nothing has an influence.
    """
    g = influence(D, x, coord, sigma)
    row, column = (int(v) for v in coord)
    largest = float(g.max())
    if not largest > 0:
        raise InputError(
            f"receptive_field: D(x) at {(row, column)} does not depend on x: every derivative is 0. Give another place or x."
        )
    figure = _figure(6.6, 6.4, "Drawing a receptive field")
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    axis = figure.subplots()
    values, field = _numpy(g), describe(D).field
    height, width = values.shape
    colours = colormaps["viridis"]
    drawn = axis.imshow(
        np.ma.masked_equal(values, 0),
        cmap=colours.with_extremes(bad="0.85", under=colours(0)),
        norm=LogNorm(1e-4 * largest, largest),
        interpolation="nearest",
        origin="upper",
    )
    reached = (g.nonzero() - torch.tensor([row, column], device=g.device)).abs().max()
    span = max(int(reached), field or 0, 3) + 2.5
    shown = [radius for radius in RADII if radius < span]
    down = 1 if row < height / 2 else -1  # where there is room for the labels
    for radius in shown:
        edge = [withStroke(linewidth=2.6, foreground="white")]
        axis.add_patch(
            Circle(
                (column, row),
                radius,
                fill=False,
                edgecolor="black",
                linewidth=1,
                linestyle="--",
                path_effects=edge,
            )
        )
        if span < 40 or radius == shown[-1]:
            place = (column, row + down * radius)
            axis.annotate(
                f"{radius}",
                place,
                ha="center",
                va="center",
                fontsize=9,
                path_effects=edge,
                annotation_clip=True,
            )
    if field is not None:
        axis.add_patch(
            _square(
                row, column, field, label=f"stated field: {2 * field + 1} x {2 * field + 1} pixels"
            )
        )
        figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    axis.set_xlim(max(column - span, -0.5), min(column + span, width - 0.5))
    axis.set_ylim(min(row + span, height - 0.5), max(row - span, -0.5))
    axis.set(xlabel="column (pixels)", ylabel="row (pixels)")
    shares = ", ".join(f"{r}: {100 * _share(g, row, column, r):.1f} %" for r in RADII)
    axis.set_title(
        f"{describe(D).name} at {(row, column)}\ngradient energy within radius {shares}",
        fontsize=11,
    )
    bar = figure.colorbar(drawn, cax=axis.inset_axes((1.03, 0, 0.05, 1)), extend="min")
    bar.set_label("|d D(x)(p) / d x(t)|, grey where it is 0", fontsize=10)
    return in_notebooks(figure)


def equivariance_error(
    D: Denoiser,
    x: Tensor,
    sigma: float | Tensor,
    symmetry: str | tuple[int, int],
    *,
    border: int | None = None,
) -> float:
    """How far D is from commuting with a symmetry g: |D(g x, sigma) - g D(x, sigma)| / |D(x, sigma) - x|; 0 if it commutes.

    ``symmetry`` is "rotation 90", "rotation 180", "rotation 270", "flip left-right", "flip up-down", "transpose", "anti-transpose", or a
    pair of whole numbers: a shift by so many rows down and columns to the right, circular. A shift is compared where neither the
    seam nor the border is within ``border`` pixels: by default the field of D, and a quarter of the shorter side if D states
    none. ``x`` is (B, C, H, W); ``sigma`` a float, (B,), or a map, which moves with the image. Raises :class:`InputError` for other
    symmetries, and for images of which nothing would be left.
    """
    with torch.no_grad():
        one, two, change = _compare(D, x, sigma, symmetry, border)
    return _relative(one, two, change)


def equivariance(D: Denoiser, image: Tensor, sigma: float | Tensor) -> Figure:
    """D(g x), g D(x) and their difference for a shift by (3, 5), a rotation by 90 degrees and a flip; then for ``equivariant(D)``.

    ``image`` x (1, C, H, W), C = 1 or 3, is what D is given, so noisy. The title of each difference gives
    :func:`equivariance_error`, |D(g x) - g D(x)| / |D(x) - x|; each has a colour scale of its own, with the mean over the channels.
    The row of the shift shows what is compared, without the border. The last row is the rotation again, with D averaged over the
    flips and rotations. Raises what :func:`equivariance_error` raises.
    """
    check_image(image, "equivariance", describe(D).channels)
    _check_shown(image, "equivariance")
    rows: list[tuple[str, Denoiser, str | tuple[int, int]]] = [
        ("shift by (3, 5)", D, (3, 5)),
        ("rotation by 90°", D, "rotation 90"),
        ("flip left-right", D, "flip left-right"),
        ("equivariant(D),\nrotation by 90°", equivariant(D), "rotation 90"),
    ]
    height, width = image.shape[-2:]
    figure = _figure(
        9.4, 2.75 * len(rows) * min(max(height / width, 0.6), 1.6) + 0.6, "Drawing equivariance"
    )
    axes = figure.subplots(len(rows), 3)
    for line, (label, denoiser, symmetry) in zip(axes, rows, strict=True):
        with torch.no_grad():
            one, two, change = _compare(denoiser, image, sigma, symmetry, None)
        _show(line[0], one)
        _show(line[1], two)
        difference = _numpy((one - two)[0].mean(dim=0))
        largest = float(abs(difference).max())
        scale = largest or 1.0  # where there is no difference, any will do
        drawn = line[2].imshow(
            difference,
            cmap="RdBu_r",
            vmin=-scale,
            vmax=scale,
            interpolation="nearest",
            origin="upper",
        )
        bar = figure.colorbar(
            drawn, cax=line[2].inset_axes((1.04, 0, 0.06, 1)), ticks=[-scale, 0, scale]
        )
        bar.ax.set_yticklabels(
            [f"-{largest:.1e}", "0", f"{largest:.1e}"] if largest else ["", "0", ""], fontsize=9
        )
        name = "D" if denoiser is D else "E"
        line[0].set_title(f"{name}(g x)", fontsize=11)
        line[1].set_title(f"g {name}(x)", fontsize=11)
        error = _relative(one, two, change)
        line[2].set_title(
            f"relative error {error:.1e}" if error else "relative error 0", fontsize=11
        )
        line[0].set_ylabel(label if denoiser is D else f"E = {label}", fontsize=11)
        for axis in line:
            axis.set(xticks=[], yticks=[])
    figure.suptitle(f"D = {describe(D).name}: does it commute with g?", fontsize=12)
    return in_notebooks(figure)


def save(figure: Figure, path: str | PathLike[str], *, dpi: int = 150) -> None:
    """Write a figure to ``path``, whole or not at all; the suffix says the format: .png, .pdf, .svg ...

    Raises :class:`InputError` for a suffix that matplotlib cannot write, :class:`FileError` where the file cannot be written.
    """
    kinds = figure.canvas.get_supported_filetypes()
    kind = Path(path).suffix[1:].lower()
    if kind not in kinds:
        raise InputError(
            f"save: cannot write {Path(path).name!r}; the name must end in one of {', '.join('.' + k for k in sorted(kinds))}."
        )
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=dpi, format=kind))


# ---- parts


def _numpy(x: Tensor) -> Any:
    return x.detach().cpu().numpy()


def _figure(width: float, height: float, needed_by: str) -> Figure:
    require("matplotlib", needed_by)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _show(axis: Axes, image: Tensor) -> None:
    """The first image of (B, C, H, W), row 0 at the top, 0 black and 1 white."""
    shown = _numpy(image[0].clamp(0, 1).permute(1, 2, 0))
    axis.imshow(
        shown[..., 0] if shown.shape[-1] == 1 else shown,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        origin="upper",
    )


def _pixel_lines(axis: Axes, span: float) -> None:
    """Lines between the pixels."""
    import numpy as np

    edge = int(span - 0.5)
    for line in np.arange(-edge, edge + 1) + 0.5:
        axis.axhline(line, color="0.88", linewidth=0.6, zorder=0)
        axis.axvline(line, color="0.88", linewidth=0.6, zorder=0)


def _square(row: float, column: float, field: int, label: str) -> Any:
    """The outline of the pixels at most ``field`` rows and columns from (row, column)."""
    from matplotlib.patches import Rectangle

    side = 2 * field + 1
    return Rectangle(
        (column - side / 2, row - side / 2),
        side,
        side,
        fill=False,
        edgecolor=ORANGE,
        linewidth=1.8,
        label=label,
    )


def _needs_patch(D: Any, who: str) -> None:
    if not isinstance(D, MLPatch):
        raise InputTypeError(
            f"{who}: expected an MLPatch, which has a patch, got {describe(D).name}. Give the network itself, not a wrapper; "
            "receptive_field draws what any denoiser depends on."
        )


def _check_one(x: Tensor, who: str) -> None:
    if len(x) != 1:
        raise InputError(
            f"{who}: expected one image (1, C, H, W), got a batch {tuple(x.shape)}. Give x[k : k + 1]."
        )


def _check_shown(x: Tensor, who: str) -> None:
    _check_one(x, who)
    if x.shape[1] not in (1, 3):
        raise InputError(
            f"{who}: only images of 1 or 3 channels can be drawn, got {tuple(x.shape)}. Draw one channel, x[:, k : k + 1]."
        )


def _check_coord(x: Tensor, coord: Any, who: str) -> tuple[int, int]:
    if not _whole_pair(coord):
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


def _whole_pair(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    )


def _share(g: Tensor, row: int, column: int, radius: float) -> float:
    """The share of the energy sum g^2 at most ``radius`` pixels from (row, column)."""
    energy = g.double().square()
    rows, cols = (torch.arange(n, device=g.device) for n in g.shape)
    near = (rows[:, None] - row) ** 2 + (cols[None] - column) ** 2 <= radius**2
    return float(energy[near].sum() / energy.sum())


def _compare(
    D: Denoiser,
    x: Tensor,
    sigma: float | Tensor,
    symmetry: str | tuple[int, int],
    border: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """D(g x), g D(x) and g (D(x) - x), without the border where g is a shift."""
    check_image(x, "equivariance_error", describe(D).channels)
    D = as_denoiser(D, sigma="input")  # checks its results
    levels = sigma_column(sigma, x, "equivariance_error", maps=True)
    is_map = levels.shape[2:] == x.shape[2:]
    if isinstance(symmetry, str) and symmetry in SYMMETRIES:
        y, gx = D(x, sigma), turned(x, symmetry)
        return (
            D(gx, turned(levels, symmetry) if is_map else sigma),
            turned(y, symmetry),
            turned(y - x, symmetry),
        )
    if not _whole_pair(symmetry):
        names = ", ".join(repr(name) for name in SYMMETRIES)
        raise InputError(
            f"equivariance_error: symmetry must be one of {names}, or a shift by whole numbers, (rows, columns); got {symmetry!r}."
        )
    down, right = (int(v) for v in symmetry)
    height, width = x.shape[-2:]
    if border is None:
        field = describe(D).field
        border = min(height, width) // 4 if field is None else field
    if isinstance(border, bool) or not isinstance(border, int) or border < 0:
        raise InputError(
            f"equivariance_error: border must be a whole number of pixels >= 0, got {border!r}."
        )
    if height <= abs(down) + 2 * border or width <= abs(right) + 2 * border:
        raise InputError(
            f"equivariance_error: nothing is left of {height} x {width} pixels without {border} at each border "
            f"and the shift {(down, right)}. Give at least {abs(down) + 2 * border + 1} x {abs(right) + 2 * border + 1} pixels, or a smaller border."
        )
    y, gx = D(x, sigma), x.roll((down, right), (-2, -1))
    moved = D(gx, levels.roll((down, right), (-2, -1)) if is_map else sigma)
    rows = slice(max(down, 0) + border, height + min(down, 0) - border)
    cols = slice(max(right, 0) + border, width + min(right, 0) - border)
    parts = (moved, y.roll((down, right), (-2, -1)), (y - x).roll((down, right), (-2, -1)))
    return parts[0][..., rows, cols], parts[1][..., rows, cols], parts[2][..., rows, cols]


def _relative(one: Tensor, two: Tensor, change: Tensor) -> float:
    gap, size = float((one - two).double().norm()), float(change.double().norm())
    if gap == 0:
        return 0.0
    return gap / size if size else math.inf


__all__ = [
    "equivariance",
    "equivariance_error",
    "influence",
    "patch",
    "patches_over",
    "receptive_field",
    "save",
]
