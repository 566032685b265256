r"""Scanning geometries in the plane: what is where, in one set of conventions.

Pixel (i, j) of an H x W image has its centre at

    x_j = (j - (W - 1) / 2) pixel        to the right
    y_i = ((H - 1) / 2 - i) pixel        up

and the detector element k of D lies at the coordinate u_k = (k - (D - 1) / 2) spacing + offset along the detector. The angle theta
turns the apparatus counter-clockwise about the origin, the centre of the image. With e = (cos theta, sin theta) along the detector
and d = (-sin theta, cos theta) along the beam, the data are line integrals q[a, k] = integral f dl, in the unit of ``pixel``, along

    parallel beam          { x : x . e = u_k },  travelling along d
    fan beam, flat         from the source  -source_origin d  to  origin_detector d + u_k e
    fan beam, arc          from the source, at the angle gamma_k = u_k / (source_origin + origin_detector) from d towards e

so at theta = 0 the rays run up the columns of the image, from the bottom to the top, and u grows to the right. The rotation axis is
projected to the detector element (D - 1) / 2 - offset / spacing. Sinograms are (angles, detectors).
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.images import in_notebooks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Angles = int | Sequence[float] | Tensor
SAME = 1e-6  # angles in radians nearer than twice this are one: float32 has 5e-7 at a turn


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel rays: a synchrotron, or any scan rebinned to it.

    ``shape`` is (H, W) in pixels of the side ``pixel``. ``angles`` is a number n (k pi / n for k < n) or a sequence in radians, in degrees
    with ``degrees=True``; they are kept in radians. ``detectors`` elements of the width ``spacing`` (default: ``pixel``); their default
    number covers the diagonal of the image. ``offset`` shifts the detector along itself, in the unit of ``pixel``: a centre of rotation
    at the detector element c is ``offset = ((detectors - 1) / 2 - c) * spacing``.

    Raises :class:`InputError` for values that cannot be, among them angles beyond 4 pi radians, and
    whole numbers beyond 2 pi, which are degrees; warns of angles that repeat, that are whole numbers, or that go on after a turn.
    """

    shape: tuple[int, int]
    angles: Angles = field(repr=False)
    detectors: int | None = None
    pixel: float = field(default=1.0, kw_only=True)
    spacing: float | None = field(default=None, kw_only=True)
    offset: float = field(default=0.0, kw_only=True)
    degrees: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, degrees: bool) -> None:
        _settle(self, degrees, math.pi)
        if self.detectors is None:
            _set(self, "detectors", math.ceil(math.hypot(*self.shape) * self.pixel / self.width))
        _check_detector(self)

    @property
    def theta(self) -> Tensor:
        """The angles in radians, (angles,) float64."""
        return torch.tensor(self.angles, dtype=torch.float64)

    @property
    def width(self) -> float:
        """The width of a detector element, as seen at the centre of the image."""
        assert self.spacing is not None
        return self.spacing

    def plot(self) -> Figure:
        """The image, the detector and some rays at three angles; in the unit of ``pixel``."""
        return _plot(self)


@dataclass(frozen=True)
class FanBeam:
    """Rays from a point: a clinical or a laboratory scanner, in the plane of the source.

    As :class:`ParallelBeam`, with a source at ``source_origin`` from the centre of rotation and a detector at ``origin_detector`` on
    the other side, flat, or with ``arc=True`` an arc about the source (equi-angular, as in clinical scanners), along which
    ``spacing`` is measured. A number n of angles means 2 pi k / n for k < n. The default ``spacing`` is that of ``pixel`` at the centre,
    magnified. In TIGRE's words DSO = source_origin, DSD = source_origin + origin_detector.

    Raises :class:`InputError` as :class:`ParallelBeam` does, and for a source within the image.
    """

    shape: tuple[int, int]
    angles: Angles = field(repr=False)
    detectors: int | None = None
    source_origin: float = field(kw_only=True)
    origin_detector: float = field(kw_only=True)
    pixel: float = field(default=1.0, kw_only=True)
    spacing: float | None = field(default=None, kw_only=True)
    offset: float = field(default=0.0, kw_only=True)
    arc: bool = field(default=False, kw_only=True)
    degrees: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, degrees: bool) -> None:
        for name, low in (("source_origin", "> 0"), ("origin_detector", ">= 0")):
            value = getattr(self, name)
            if not finite_number(value) or value < 0 or (value == 0 and low == "> 0"):
                raise InputError(
                    f"FanBeam: {name} must be a length {low} in the unit of pixel, got {value!r}. "
                    "Given DSD (source to detector), origin_detector is DSD - DSO."
                )
        if self.spacing is None and finite_number(self.pixel):
            _set(self, "spacing", float(self.pixel * self.magnification))
        _settle(self, degrees, 2 * math.pi)
        radius = math.hypot(*self.shape) * self.pixel / 2
        if self.source_origin <= radius:
            raise InputError(
                f"FanBeam: the source at {self.source_origin:g} lies within the image, whose corners are at {radius:g}. "
                "Check the units: source_origin and pixel must have the same."
            )
        if self.detectors is None:
            half = math.asin(min(1.0, radius / self.source_origin))
            reach = half * self.distance if self.arc else self.distance * math.tan(min(half, 1.2))
            _set(self, "detectors", math.ceil(2 * reach / sizes(self)[1]))
        _check_detector(self)
        if self.arc and math.prod(sizes(self)) >= math.pi * self.distance:
            raise InputError(
                f"FanBeam: the arc of {self.detectors} x {self.spacing:g} spans half a turn about the source or more. Check spacing and detectors."
            )

    @property
    def theta(self) -> Tensor:
        """The angles in radians, (angles,) float64."""
        return torch.tensor(self.angles, dtype=torch.float64)

    @property
    def distance(self) -> float:
        """From the source to the detector (DSD)."""
        return self.source_origin + self.origin_detector

    @property
    def magnification(self) -> float:
        """From the centre of rotation to the detector."""
        return self.distance / self.source_origin

    @property
    def width(self) -> float:
        """The width of a detector element, as seen at the centre of the image."""
        assert self.spacing is not None
        return self.spacing / self.magnification

    def plot(self) -> Figure:
        """The image, the source, the detector and some rays at three angles; in the unit of ``pixel``."""
        return _plot(self)


Geometry = ParallelBeam | FanBeam


def as_dict(geometry: Geometry) -> dict[str, Any]:
    """A geometry as plain values, for JSON; :func:`from_dict` reads it."""
    values = {
        name: getattr(geometry, name) for name in geometry.__dataclass_fields__ if name != "degrees"
    }
    return {
        "type": type(geometry).__name__,
        **values,
        "shape": list(geometry.shape),
        "angles": geometry.theta.tolist(),
    }


def from_dict(values: dict[str, Any]) -> Geometry:
    """A geometry from what :func:`as_dict` made; raise :class:`InputError` for another type, :class:`InputTypeError` for unknown keys."""
    kinds = {"ParallelBeam": ParallelBeam, "FanBeam": FanBeam}
    given = dict(values)
    kind = given.pop("type", None)
    if kind not in kinds:
        raise InputError(f"geometry: type must be one of {', '.join(kinds)}, got {kind!r}.")
    try:
        return kinds[kind](**given | {"shape": tuple(given["shape"])})
    except (TypeError, KeyError) as error:
        raise InputTypeError(
            f"geometry {kind}: {error}. It takes: {', '.join(kinds[kind].__dataclass_fields__)}."
        ) from error


def rays(geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Source (or a point before the image) and detector point of each ray, (angles, detectors, 2) as (x, y), float64."""
    theta = geometry.theta
    u = coordinates(geometry)
    along = torch.stack([torch.cos(theta), torch.sin(theta)], dim=-1)[:, None]
    beam = torch.stack([-torch.sin(theta), torch.cos(theta)], dim=-1)[:, None]
    if isinstance(geometry, ParallelBeam):
        reach = math.hypot(*geometry.shape) * geometry.pixel
        return u[:, None] * along - reach * beam, u[:, None] * along + reach * beam
    source = (-geometry.source_origin * beam).expand(-1, len(u), -1)
    if geometry.arc:
        gamma = (u / geometry.distance)[:, None]
        return source, source + geometry.distance * (
            torch.cos(gamma) * beam + torch.sin(gamma) * along
        )
    return source, geometry.origin_detector * beam + u[:, None] * along


def coordinates(geometry: Geometry) -> Tensor:
    """The detector coordinates u_k (D,), float64."""
    count, spacing = sizes(geometry)
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * spacing + geometry.offset


def sizes(geometry: Geometry) -> tuple[int, float]:
    """The number of detector elements and their width, which are known once the geometry is made."""
    return int(geometry.detectors or 0), float(geometry.spacing or 0)


# ---- checks


def _set(geometry: Geometry, name: str, value: Any) -> None:
    object.__setattr__(geometry, name, value)


def _settle(geometry: Geometry, degrees: bool, turn: float) -> None:
    """Check shape, lengths and angles, and put the angles in radians and the spacing in place."""
    who = type(geometry).__name__
    _set(geometry, "shape", _two(geometry.shape, who))
    for name in ("pixel", "spacing"):
        value = getattr(geometry, name)
        value = geometry.pixel if value is None else value
        if not finite_number(value) or value <= 0:
            raise InputError(f"{who}: {name} must be a length > 0, got {value!r}.")
        _set(geometry, name, float(value))
    if not finite_number(geometry.offset):
        raise InputError(
            f"{who}: offset must be a finite number, in the unit of pixel, got {geometry.offset!r}."
        )
    for name in (
        "offset",
        "source_origin",
        "origin_detector",
    ):  # of NumPy, too, plain numbers for JSON
        if hasattr(geometry, name):
            _set(geometry, name, float(getattr(geometry, name)))
    if _whole(geometry.detectors):
        _set(geometry, "detectors", int(geometry.detectors or 0))
    _set(geometry, "angles", tuple(_angles(geometry.angles, degrees, turn, who).tolist()))


def _two(shape: Sequence[int], who: str) -> tuple[int, int]:
    if (
        not isinstance(shape, Sequence)
        or len(shape) != 2
        or any(not _whole(n) or n < 1 for n in shape)
    ):
        raise InputError(f"{who}: shape must be (H, W), two integers >= 1, got {shape!r}.")
    return int(shape[0]), int(shape[1])


def _whole(value: Any) -> bool:
    """Whether ``value`` is an integer, of Python or of NumPy; a bool is not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _angles(angles: Angles, degrees: bool, turn: float, who: str) -> Tensor:
    if isinstance(angles, numbers.Integral) and not isinstance(angles, bool):
        count = int(angles)
        if count < 1:
            raise InputError(f"{who}: the number of angles must be >= 1, got {count}.")
        return torch.arange(count, dtype=torch.float64) * (turn / count)
    if isinstance(angles, Tensor) and angles.is_complex():
        raise InputTypeError(f"{who}: angles must be real, in radians.")
    try:
        if not isinstance(angles, Tensor) and np.iscomplexobj(angles):
            raise TypeError
        theta = torch.as_tensor(angles, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{who}: angles must be a number of angles or a sequence in radians, got {angles!r}."
        ) from error
    if theta.ndim != 1 or len(theta) == 0 or not bool(torch.isfinite(theta).all()):
        raise InputError(
            f"{who}: angles must be a non-empty, finite, one-dimensional sequence in radians."
        )
    span = float(theta.max() - theta.min())
    if degrees:
        if len(theta) > 4 and span < 2 * math.pi + 1e-6:
            warnings.warn(
                f"{who}: {len(theta)} angles span only {span:.4g} degrees; are they radians? Then leave out degrees=True.",
                stacklevel=5,
            )
        theta = torch.deg2rad(theta)
    else:
        _look_at_radians(theta, who)
    turns = torch.remainder(theta + SAME, 2 * math.pi).sort().values
    repeated = int((turns.diff() < 2 * SAME).sum())
    if repeated:
        warnings.warn(
            f"{who}: {repeated} of the {len(theta)} angles repeat (modulo a turn); each counts as data of its own. Drop those that were not measured.",
            stacklevel=5,
        )
    return theta


def _look_at_radians(theta: Tensor, who: str) -> None:
    """Raise where the angles cannot be radians; warn where they are more likely degrees."""
    reach, span = float(theta.abs().max()), float(theta.max() - theta.min())
    advice = (
        "Convert degrees with math.radians, or say degrees=True (on the command line --degrees)."
    )
    whole = len(theta) > 2 and bool((theta == theta.round()).all())
    if reach > 4 * math.pi + 1e-9:
        raise InputError(f"{who}: angles reach {reach:.4g}, which cannot be radians. {advice}")
    if whole and reach > 2 * math.pi:
        raise InputError(
            f"{who}: angles are whole numbers up to {reach:.4g}; they look like degrees, not radians. {advice}"
        )
    if (whole and reach > 2) or span > 2 * math.pi + 1e-3:
        seen = "are whole numbers" if whole else f"span {span / 2 / math.pi:.3g} turns"
        warnings.warn(f"{who}: angles in radians {seen}; are they degrees? {advice}", stacklevel=6)


def _check_detector(geometry: Geometry) -> None:
    who, count = type(geometry).__name__, geometry.detectors
    if not _whole(count) or count < 1:
        raise InputError(f"{who}: detectors must be an integer >= 1, got {count!r}.")
    half = count * float(geometry.spacing or 0) / 2
    if abs(geometry.offset) >= half:
        raise InputError(
            f"{who}: offset {geometry.offset:g} puts the centre of rotation off the detector, which is {2 * half:g} wide. "
            "offset is a length in the unit of pixel, 0 when the axis is projected to the middle of the detector."
        )


# ---- drawing


def _plot(geometry: Geometry) -> Figure:
    require("matplotlib", "Drawing a geometry")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    theta = geometry.theta
    height, width = (n * geometry.pixel for n in geometry.shape)
    chosen = sorted({0, len(theta) // 6, len(theta) // 3})
    sources, ends = (points[chosen] for points in rays(geometry))
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    axis = figure.subplots()
    axis.add_patch(
        Rectangle(
            (-width / 2, -height / 2),
            width,
            height,
            facecolor="0.9",
            edgecolor="0.4",
            label="image",
        )
    )
    shown = torch.linspace(0, ends.shape[1] - 1, min(5, ends.shape[1])).round().long().tolist()
    for number, (index, source, end) in enumerate(zip(chosen, sources, ends, strict=True)):
        colour = f"C{number}"
        for k in shown:
            axis.plot(
                *zip(source[k].tolist(), end[k].tolist(), strict=True),
                color=colour,
                linewidth=0.8,
                alpha=0.7,
            )
        axis.plot(
            *end.T.tolist(),
            color=colour,
            linewidth=3,
            solid_capstyle="butt",
            label=f"angle {index}: {math.degrees(theta[index]):.4g}°",
        )
        axis.annotate(
            "0",
            (float(end[0, 0]), float(end[0, 1])),
            color=colour,
            ha="center",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": colour, "pad": 1.5},
        )
        if isinstance(geometry, FanBeam):
            axis.plot(*source[0].tolist(), marker="o", color=colour)
    axis.plot(
        0, 0, marker="+", color="black", markersize=10, linestyle="none", label="centre of rotation"
    )
    axis.set_aspect("equal")
    axis.margins(0.08)
    axis.set(xlabel="x", ylabel="y (up)")
    kind = (
        "parallel beam"
        if isinstance(geometry, ParallelBeam)
        else f"fan beam, {'arc' if geometry.arc else 'flat'} detector"
    )
    axis.set_title(
        f"{kind}: {len(theta)} angles, {geometry.detectors} elements of {geometry.spacing:.4g}; 0 marks the first",
        fontsize=11,
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return in_notebooks(figure)


__all__ = [
    "FanBeam",
    "Geometry",
    "ParallelBeam",
    "as_dict",
    "coordinates",
    "from_dict",
    "rays",
    "sizes",
]
