"""Directions on the sky, tangent planes, and the angles between their axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing._hdus import header_of
from pnp_mlpatch.lensing._shear_map import ShearMap


@dataclass(frozen=True)
class Axes:
    """A tangent plane: unit vectors to the right of the sky's East (x), up (y), and to its middle.

    ``x`` is East and ``y`` North unless the plane is turned.
    """

    x: np.ndarray
    y: np.ndarray
    middle: np.ndarray

    @classmethod
    def north_up(cls, lon: float, lat: float) -> Axes:
        """Return the plane that touches the sky at (lon, lat) degrees, North up."""
        sin_lon, cos_lon = math.sin(math.radians(lon)), math.cos(math.radians(lon))
        sin_lat, cos_lat = math.sin(math.radians(lat)), math.cos(math.radians(lat))
        east = np.array([-sin_lon, cos_lon, 0.0])
        north = np.array([-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat])
        return cls(east, north, np.array([cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]))

    def moved(self, s: np.ndarray) -> Axes:
        """Carry the plane to the direction ``s`` (3,) along the great circle, without a turn."""
        x, y = (transport(v, self.middle, s) for v in (self.x, self.y))
        return Axes(x, y, s)

    def direction(self, xi: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Return the directions (3, ...) of places on the plane, in radians."""
        shape = (3, *[1] * np.ndim(xi))
        x, y, middle = (v.reshape(shape) for v in (self.x, self.y, self.middle))
        s = middle + xi * x + eta * y
        return s / np.sqrt((s**2).sum(0))

    def project(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return xi and eta of directions (3, ...) in radians, and the cosine of the distance."""
        x, y, cos = (np.tensordot(v, s, 1) for v in (self.x, self.y, self.middle))
        depth = np.maximum(cos, 1e-6)
        return x / depth, y / depth, cos


def directions(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return unit vectors (3, N) of places in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])


def norths(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return unit vectors (3, N) that point North at places in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])


def transport(v: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Carry tangent vectors from ``start`` to ``end`` along the great circle; (3,) or (3, N)."""
    factor = (end * v).sum(0) if np.ndim(v) == np.ndim(end) else np.tensordot(end, v, 1)
    cos = (end * start).sum(0) if np.ndim(start) == np.ndim(end) else np.tensordot(end, start, 1)
    middle = end if np.ndim(end) == np.ndim(start) else end[:, None]
    return v - factor / np.maximum(1 + cos, 1e-12) * (start + middle)


def north_angle(axes: Axes, s: np.ndarray, up: np.ndarray) -> np.ndarray:
    r"""Return the angle from up towards x of each place's North, carried to the middle."""
    north = transport(up, s, axes.middle)
    return np.arctan2(axes.x @ north, axes.y @ north)


def plane_of(shear: ShearMap, who: str) -> tuple[Axes, float, float]:
    """Return the tangent plane of a map that ``bin_shear`` made, and where it touches the sky."""
    header, wanted = header_of(shear.header), {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    found = {key: header.get(key) for key in wanted}
    turned = [key for key in ("CD1_2", "CD2_1", "PC1_2", "PC2_1", "CROTA2") if header.get(key)]
    steps = [header.get(f"CDELT{axis}", 0.0) for axis in (1, 2)]
    if found != wanted or turned or not shear.flip_ra or not steps[0] < 0 < steps[1]:
        raise InputError(
            f"{who}: the map must be one of bin_shear, on a tangent plane (RA---TAN, DEC--TAN), "
            f"North up and East to the left; its header has {found}. "
            "Give shear=bin_shear(catalogue, pixel)."
        )
    axes = Axes.north_up(float(header["CRVAL1"]), float(header["CRVAL2"]))
    column, row = (float(header[f"CRPIX{axis}"]) - 1 for axis in (1, 2))
    return axes, row, column
