"""Galaxies on the pixels of a tangent plane."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing._sphere import Axes, directions, north_angle, norths
from pnp_mlpatch.lensing.catalogue import Catalogue

MAX_DISTANCE = 60.0  # degrees from the centre


@dataclass(frozen=True)
class Galaxies:
    """Places, ellipticities and weights of the galaxies that count.

    ``s`` and ``up`` (3, N) are the directions and the norths; ``e`` is complex; ``sigma`` is the
    noise of one component: of each galaxy, or the rms over all.
    """

    s: np.ndarray
    up: np.ndarray
    e: np.ndarray
    w: np.ndarray
    sigma: np.ndarray

    @classmethod
    def of(cls, catalogue: Catalogue, used: np.ndarray | None = None) -> Galaxies:
        """Return those of a catalogue with a weight, or those that are ``used``."""
        used = (catalogue.w > 0).numpy() if used is None else used
        ra, dec, e1, e2, w = (
            getattr(catalogue, name).numpy()[used] for name in ("ra", "dec", "e1", "e2", "w")
        )
        e = e1 + 1j * e2
        sigma = np.sqrt((w**2 * np.abs(e) ** 2).sum() / (2 * (w**2).sum()))
        if catalogue.noise is not None:
            sigma = catalogue.noise.numpy()[used]
        if not np.all(sigma > 0):
            raise InputError(
                "bin_shear: all ellipticities are 0, so their noise is not known. "
                "Check the columns e1 and e2."
            )
        return cls(directions(ra, dec), norths(ra, dec), e, w, np.broadcast_to(sigma, w.shape))

    def average(
        self, plane: Plane, grid: Grid, *, least: int = 1, whole: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the mean shear (2, H, W) along the axes of the plane, and its noise (H, W).

        ``whole``: warn of galaxies outside, and raise if no pixel is seen.
        """
        inside, index = _pixels(plane, grid, whole)
        e: Any = (self.e * np.exp(-2j * plane.psi))[inside]
        w = self.w[inside]

        def total(values: np.ndarray | None) -> Tensor:
            sums = np.bincount(index, values, minlength=grid.height * grid.width)
            return torch.from_numpy(sums).reshape(grid.height, grid.width)

        weight, seen = total(w), total(None) >= least
        if whole and not bool(seen.any()):
            raise InputError(
                f"bin_shear: no pixel has {least} galaxies, at most {int(total(None).max())}. "
                "Take larger pixels or a smaller least."
            )
        gamma = torch.stack([total(w * e.real), total(w * e.imag)]) / weight
        noise = total((w * self.sigma[inside]) ** 2).sqrt() / weight
        return torch.where(seen, gamma, 0.0), torch.where(seen, noise, torch.inf)


@dataclass(frozen=True)
class Plane:
    """Galaxies on the tangent plane at (``lon``, ``lat``) degrees.

    ``xi`` (East) and ``eta`` (North) are in pixels, ``cos`` is the cosine of the distance to the
    centre, and ``psi`` the angle of :func:`bin_shear`.
    """

    lon: float
    lat: float
    xi: np.ndarray
    eta: np.ndarray
    cos: np.ndarray
    psi: np.ndarray


@dataclass(frozen=True)
class Grid:
    """The size of a map, and the row and column where the plane touches the sky."""

    height: int
    width: int
    row: float
    column: float


def on_plane(
    axes: Axes, galaxies: Galaxies, side: float, centre: tuple[float, float] = (0.0, 0.0)
) -> Plane:
    """Return galaxies on a tangent plane, in pixels of ``side`` radians."""
    xi, eta, cos = axes.project(galaxies.s)
    psi = north_angle(axes, galaxies.s, galaxies.up)
    return Plane(*centre, xi / side, eta / side, cos, psi)


def _pixels(plane: Plane, grid: Grid, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which galaxies lie in the map, and the flat index of the pixel of each of those."""
    front = plane.cos > math.cos(math.radians(MAX_DISTANCE))
    rows = np.floor(np.where(front, grid.row + plane.eta, -1) + 0.5).astype(np.int64)
    columns = np.floor(np.where(front, grid.column - plane.xi, -1) + 0.5).astype(np.int64)
    inside = front & (rows >= 0) & (rows < grid.height)
    inside &= (columns >= 0) & (columns < grid.width)
    if whole and not inside.any():
        raise InputError(
            f"bin_shear: no galaxy lies in the map of {grid.width} by {grid.height} pixels about "
            f"({plane.lon:.6g}, {plane.lat:.6g}). Check centre=."
        )
    if whole and not inside.all():
        warnings.warn(
            f"bin_shear: {int((~inside).sum())} of {len(inside)} galaxies lie outside of the map.",
            stacklevel=4,
        )
    return inside, (rows * grid.width + columns)[inside]
