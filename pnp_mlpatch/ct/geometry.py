r"""Scanning geometries in the plane, in one set of conventions.

Pixel (i, j) of an H x W image has its centre at

.. math::
    x_j = (j - (W - 1) / 2) \cdot \mathrm{pixel} \quad \text{(to the right)}, \qquad
    y_i = ((H - 1) / 2 - i) \cdot \mathrm{pixel} \quad \text{(up)}

and the detector element k of D lies at :math:`u_k = (k - (D - 1) / 2) \cdot \mathrm{spacing} +
\mathrm{offset}` along the detector. The angle theta turns the apparatus counter-clockwise about the
origin, the centre of the image. With e = (cos theta, sin theta) along the detector and d = (-sin
theta, cos theta) along the beam, the data are line integrals q[a, k] = integral f dl, in the unit
of ``pixel``, along

===============  ==================================================================================
parallel beam    { x : x . e = u_k }, travelling along d
fan beam, flat   from the source -source_origin d to origin_detector d + u_k e
fan beam, arc    from the source, at the angle gamma_k = u_k / (source_origin + origin_detector)
                 from d towards e
===============  ==================================================================================

At theta = 0 the rays run up the columns of the image, from the bottom to the top, and u grows to
the right. The rotation axis is projected to the detector element (D - 1) / 2 - offset / spacing.
Sinograms are (angles, detectors).
"""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.ct._geometry_checks import Angles, check_detector, set_field, settle
from pnp_mlpatch.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel rays: a synchrotron, or any scan rebinned to it.

    Parameters
    ----------
    shape : tuple of int
        The image (H, W) in pixels.
    angles : int or sequence of float
        A number n (k pi / n for k < n), or a sequence in radians. Kept in radians.
    detectors : int, optional
        The number of detector elements. By default they cover the diagonal of the image.
    pixel : float
        The side of a pixel, in any unit of length.
    spacing : float, optional
        The width of a detector element, by default ``pixel``.
    offset : float
        A shift of the detector along itself, in the unit of ``pixel``. A centre of rotation at the
        detector element c is ``offset = ((detectors - 1) / 2 - c) * spacing``.
    degrees : bool
        Whether ``angles`` is a sequence in degrees.

    Raises
    ------
    InputError, InputTypeError
        For values out of range, among them angles beyond 4 pi radians, and whole numbers beyond
        2 pi, which are degrees.

    Warns
    -----
    UserWarning
        For angles that repeat, that are whole numbers, or that go on after a turn.
    """

    shape: tuple[int, int]
    angles: Angles = field(repr=False)
    detectors: int | None = None
    pixel: float = field(default=1.0, kw_only=True)
    spacing: float | None = field(default=None, kw_only=True)
    offset: float = field(default=0.0, kw_only=True)
    degrees: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, degrees: bool) -> None:
        settle(self, degrees, math.pi)
        if self.detectors is None:
            set_field(
                self, "detectors", math.ceil(math.hypot(*self.shape) * self.pixel / self.width)
            )
        check_detector(self)

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
        """Draw the image, the detector and some rays at three angles.

        Returns
        -------
        matplotlib.figure.Figure
            In the unit of ``pixel``.
        """
        from pnp_mlpatch.ct._draw import draw_geometry

        return draw_geometry(self)


@dataclass(frozen=True)
class FanBeam:
    """Rays from a point: a clinical or a laboratory scanner, in the plane of the source.

    Parameters
    ----------
    shape, detectors, pixel, offset, degrees
        As for :class:`ParallelBeam`.
    angles : int or sequence of float
        A number n (2 pi k / n for k < n), or a sequence in radians. Kept in radians.
    source_origin : float
        From the source to the centre of rotation (DSO), in the unit of ``pixel``.
    origin_detector : float
        From the centre of rotation to the detector on the other side (DSD - DSO).
    spacing : float, optional
        The width of a detector element, by default that of ``pixel`` at the centre, magnified. It
        is measured along the arc.
    arc : bool
        Whether the detector is an arc about the source (equi-angular, as in clinical scanners);
        else it is flat.

    Raises
    ------
    InputError, InputTypeError
        As :class:`ParallelBeam`, and for a source within the image.
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
            set_field(self, "spacing", float(self.pixel * self.magnification))
        settle(self, degrees, 2 * math.pi)
        radius = math.hypot(*self.shape) * self.pixel / 2
        if self.source_origin <= radius:
            raise InputError(
                f"FanBeam: the source at {self.source_origin:g} lies within the image, whose "
                f"corners are at {radius:g}. Check the units: source_origin and pixel must have "
                "the same."
            )
        if self.detectors is None:
            half = math.asin(min(1.0, radius / self.source_origin))
            reach = half * self.distance if self.arc else self.distance * math.tan(min(half, 1.2))
            set_field(self, "detectors", math.ceil(2 * reach / sizes(self)[1]))
        check_detector(self)
        if self.arc and math.prod(sizes(self)) >= math.pi * self.distance:
            raise InputError(
                f"FanBeam: the arc of {self.detectors} x {self.spacing:g} spans half a turn about "
                "the source or more. Check spacing and detectors."
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
        """Draw the image, the detector and some rays at three angles.

        Returns
        -------
        matplotlib.figure.Figure
            In the unit of ``pixel``.
        """
        from pnp_mlpatch.ct._draw import draw_geometry

        return draw_geometry(self)


Geometry = ParallelBeam | FanBeam


def as_dict(geometry: Geometry) -> dict[str, Any]:
    """Convert a geometry to plain values for JSON; :func:`from_dict` reads them.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The geometry.

    Returns
    -------
    dict
        With the name of the class under "type".
    """
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
    """Make a geometry from what :func:`as_dict` returned.

    Parameters
    ----------
    values : dict
        "type" and the arguments of the class.

    Returns
    -------
    ParallelBeam or FanBeam

    Raises
    ------
    InputError
        For another type.
    InputTypeError
        For unknown keys.
    """
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
    """Return the ends of each ray.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The geometry.

    Returns
    -------
    source, end : Tensor, shape (angles, detectors, 2), float64
        The source (or a point before the image) and the point on the detector, as (x, y).
    """
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
    """Return the detector coordinates u_k.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The geometry.

    Returns
    -------
    Tensor, shape (detectors,), float64
    """
    count, spacing = sizes(geometry)
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * spacing + geometry.offset


def sizes(geometry: Geometry) -> tuple[int, float]:
    """Return the number of detector elements and their width.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The geometry.

    Returns
    -------
    count : int
    spacing : float
    """
    return int(geometry.detectors or 0), float(geometry.spacing or 0)


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
