"""Slices of a scan in a file, read by this process and by those that it is sent to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pnp_mlpatch.ct.formats import open_scan_file
from pnp_mlpatch.io.stored import StoredArray


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
        if "s" in self.order:
            part, axes = self.data.part(self.order.index("s"), start, stop), "sad"
        else:
            part, axes = self.data.part(0, 0, self.data.shape[0]), "ad"
        part = part.transpose([self.order.index(axis) for axis in axes])
        return part.reshape(-1, *part.shape[-2:])[:, : self.count]


__all__ = ["SlabReader"]
