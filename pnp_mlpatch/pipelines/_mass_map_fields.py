"""Fields from which patches are cut: a flat map, and galaxies on the sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.lensing import Catalogue, ShearMap, convergence_spectrum, wiener
from pnp_mlpatch.lensing._plane import Galaxies, Grid, on_plane
from pnp_mlpatch.lensing._sphere import Axes, plane_of
from pnp_mlpatch.lensing.patches import Patch
from pnp_mlpatch.lensing.units import radians

MARGIN = 1.5  # pixels around the window of a patch on the sphere, for the interpolation


@dataclass(frozen=True)
class Cut:
    """A patch that was cut: its shear, and the place of its first pixel in the field."""

    shear: ShearMap
    origin: tuple[int, int]
    patch: Patch


class FlatField:
    """A shear map, from which patches are cut."""

    def __init__(self, shear: ShearMap, padding: int):
        self.shear, self.padding = shear, padding
        self.digest = checkpoints.digest(shear.gamma, shear.noise)
        self.wiener: Tensor | None = None

    def cut(self, patch: Patch) -> Cut | None:
        """Return the shear of a patch, or None where nothing was measured."""
        rows, columns = patch.window
        noise = self.shear.noise[rows, columns]
        if not bool(torch.isfinite(noise).any()):
            return None
        gamma = self.shear.gamma[:, rows, columns]
        cut = ShearMap(gamma, noise, self.shear.pixel, self.shear.flip_ra)
        return Cut(cut, (patch.row, patch.column), patch)

    def outside(self, cut: Cut, padding: int, device: torch.device) -> Tensor | None:
        """Return what the field tells of E (1, 1, h, w), with the border, and the patch not."""
        if cut.shear.noise.shape == self.shear.noise.shape:
            return None
        if self.wiener is None:
            self.wiener = _wiener(self.shear, self.padding, device).cpu()
        field = F.pad(self.wiener, [padding] * 4)
        row, column = (n + self.padding for n in cut.origin)
        height, width = (n + 2 * padding for n in cut.patch.shape)
        part = field[..., row : row + height, column : column + width]
        return part.to(device) - _wiener(cut.shear, padding, device)

    def onto(self, cut: Cut, maps: Tensor) -> Tensor:
        """Return maps (C, h, w) of a patch on the pixels of its window: as they are."""
        return maps


class SkyField:
    """Galaxies on the sphere; patches are tangent planes about their own centres.

    ``shear`` gives the pixels of the field, on a tangent plane as ``bin_shear`` has it.
    """

    def __init__(self, shear: ShearMap, catalogue: Catalogue):
        self.shear = shear
        height, width = shear.noise.shape
        self.axes, row, column = plane_of(shear, "map_mass_patches")
        self.grid = Grid(height, width, row, column)
        self.side = radians(shear.pixel)
        self.galaxies = Galaxies.of(catalogue)
        columns = (catalogue.ra, catalogue.dec, catalogue.e1, catalogue.e2, catalogue.w)
        self.digest = checkpoints.digest(*columns)

    def cut(self, patch: Patch) -> Cut | None:
        """Return the shear of a patch, or None where nothing was measured."""
        axes, grid = self._plane(patch)
        shear = self._bin(axes, grid)
        if shear is None:
            return None
        middle = patch.row + patch.shape[0] / 2, patch.column + patch.shape[1] / 2
        size = grid.height, grid.width
        first = [round(m - n / 2) for m, n in zip(middle, size, strict=True)]
        return Cut(shear, (first[0], first[1]), patch)

    def outside(self, cut: Cut, padding: int, device: torch.device) -> Tensor | None:
        """As for a flat field; the field is the patch with as much again on every side."""
        axes, grid = self._plane(cut.patch)
        reach = max(grid.height, grid.width, padding + 1)
        wide = self._bin(axes, _grown(grid, reach))
        assert wide is not None
        around = reach - padding
        field = _wiener(wide, 0, device)[..., around:-around, around:-around]
        return field - _wiener(cut.shear, padding, device)

    def onto(self, cut: Cut, maps: Tensor) -> Tensor:
        """Interpolate maps (C, h, w) of a patch to the pixels of its window (cubic splines)."""
        ndimage = require("scipy.ndimage", "Interpolating a patch")
        axes, grid = self._plane(cut.patch)
        xi, eta, _ = axes.project(self._window(cut.patch))
        places = np.stack([grid.row + eta / self.side, grid.column - xi / self.side])
        found = [
            ndimage.map_coordinates(x.double().numpy(), places, order=3, mode="nearest")
            for x in maps
        ]
        return torch.from_numpy(np.stack(found)).to(maps.dtype)

    def _window(self, patch: Patch) -> np.ndarray:
        """Return the directions (3, h, w) of the pixels of a window."""
        rows = np.arange(patch.row, patch.row + patch.shape[0])[:, None]
        columns = np.arange(patch.column, patch.column + patch.shape[1])[None]
        xi, eta = np.broadcast_arrays(self.grid.column - columns, rows - self.grid.row)
        return self.axes.direction(xi * self.side, eta * self.side)

    def _plane(self, patch: Patch) -> tuple[Axes, Grid]:
        """Return the tangent plane of a patch, and the pixels that hold its window."""
        row, column = (
            first + (n - 1) / 2
            for first, n in zip((patch.row, patch.column), patch.shape, strict=True)
        )
        middle = self.axes.direction(
            np.array((self.grid.column - column) * self.side),
            np.array((row - self.grid.row) * self.side),
        )
        axes = self.axes.moved(middle)
        xi, eta, _ = axes.project(self._window(patch))
        height, width = (
            2 * math.ceil(float(np.abs(x).max()) / self.side + MARGIN) for x in (eta, xi)
        )
        return axes, Grid(height, width, (height - 1) / 2, (width - 1) / 2)

    def _bin(self, axes: Axes, grid: Grid) -> ShearMap | None:
        plane = on_plane(axes, self.galaxies, self.side)
        gamma, noise = self.galaxies.average(plane, grid, whole=False)
        if not bool(torch.isfinite(noise).any()):
            return None
        return ShearMap(gamma, noise, self.shear.pixel, True)


def _grown(grid: Grid, reach: int) -> Grid:
    return Grid(
        grid.height + 2 * reach, grid.width + 2 * reach, grid.row + reach, grid.column + reach
    )


def _wiener(shear: ShearMap, padding: int, device: torch.device) -> Tensor:
    """Return E (1, 1, H, W) of the Wiener filter, with a border that was not seen."""
    q = F.pad(shear.gamma.float()[None], [padding] * 4).to(device)
    noise = F.pad(shear.noise.float(), [padding] * 4, value=math.inf).to(device)
    return wiener(q, noise, convergence_spectrum, shear.pixel, flip_ra=shear.flip_ra)
