"""Slices of a scan, read by this process and by those that it is sent to."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pnp_mlpatch.ct.formats import open_scan_file
from pnp_mlpatch.io.stored import StoredArray, in_memory


class SlabReader:
    """Read slices as (slices, angles, detectors), the first ``count`` projections of each.

    A pickle holds the path and no data: the file is opened again at the first slice that is read.

    Parameters
    ----------
    path : Path
        The file or folder.
    name : str
        The array in it, or "".
    order : str
        The axes of the array: letters of "sad".
    count : int
        The number of projections.
    data : StoredArray, optional
        The array, if it is open.
    """

    def __init__(
        self, path: Path, name: str, order: str, count: int, data: StoredArray | None = None
    ):
        self.path, self.name, self.order, self.count = path, name, order, count
        self.data = data

    def __reduce__(self) -> tuple[type[SlabReader], tuple[Path, str, str, int]]:
        path = Path(os.path.abspath(self.path))
        return SlabReader, (path, self.name, self.order, self.count)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        if self.data is None:
            self.data = open_scan_file(self.path, self.name).data
        return _ordered(self.data, self.order, start, stop)[:, : self.count]


@dataclass(frozen=True, eq=False)
class HeldSlabs:
    """Read slices of an array in memory; a pickle holds it.

    Parameters
    ----------
    array : ndarray
        The projections.
    order : str
        Its axes: letters of "sad".
    """

    array: np.ndarray
    order: str

    def __call__(self, start: int, stop: int) -> np.ndarray:
        return _ordered(in_memory(self.array), self.order, start, stop)


@dataclass(frozen=True, eq=False)
class SteadyBeam:
    r"""Counts as they were if the open beam had not changed during the scan.

    .. math:: I_a' = \mathrm{dark} + (I_a - \mathrm{dark}) \,
              \frac{F - \mathrm{dark}}{F_0 + t_a (F_1 - F_0) - \mathrm{dark}},
              \qquad t_a = \frac{a}{\mathrm{angles} - 1}

    Readings at the largest number of an integer type stay there, for they are saturated.

    Parameters
    ----------
    slab : callable
        Reads slices (slices, angles, detectors).
    first, last, usual, dark : ndarray, shape (slices, detectors)
        The open beam before and after the scan, F of all frames, and the dark field.
    """

    slab: Callable[[int, int], np.ndarray]
    first: np.ndarray
    last: np.ndarray
    usual: np.ndarray
    dark: np.ndarray

    def __call__(self, start: int, stop: int) -> np.ndarray:
        raw = np.asarray(self.slab(start, stop))
        held = (self.first, self.last, self.usual, self.dark)
        first, last, usual, dark = (part[start:stop, None] for part in held)
        t = np.linspace(0, 1, raw.shape[1], dtype=np.float32)[:, None]
        beam = first + t * (last - first) - dark
        lit = (beam > 0) & (usual > dark)
        ratio = np.divide(usual - dark, beam, out=np.ones_like(beam), where=lit)
        steady = dark + (raw - dark) * ratio
        if raw.dtype.kind not in "iu":
            return steady
        return np.where(raw == np.iinfo(raw.dtype).max, raw, steady)


def _ordered(data: StoredArray, order: str, start: int, stop: int) -> np.ndarray:
    """Read slices as (slices, angles, detectors)."""
    if "s" in order:
        part, axes = data.part(order.index("s"), start, stop), "sad"
    else:
        part, axes = data.part(0, 0, data.shape[0]), "ad"
    part = part.transpose([order.index(axis) for axis in axes])
    return part.reshape(-1, *part.shape[-2:])


__all__ = ["HeldSlabs", "SlabReader", "SteadyBeam"]
