"""ASTRA's matrix of a scan, cached on disk."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._astra import astra_projector
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, sizes
from pnp_mlpatch.errors import FileError
from pnp_mlpatch.io.atomic import atomic_write

VERSION = 2  # of the files in the cache
CHUNK = 2**22  # pixels times angles that are made at once, and from which on progress is shown


def cache_directory() -> Path:
    """Return where matrices are cached.

    Returns
    -------
    Path
        $PNP_MLPATCH_CACHE, or else pnp_mlpatch in the user's cache folder.

    Raises
    ------
    FileError
        If neither is known: a user without HOME.
    """
    folder = os.environ.get("PNP_MLPATCH_CACHE")
    if folder:
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pnp_mlpatch"
    except RuntimeError as error:
        raise FileError(
            "Radon: there is no home folder, so nowhere to cache matrices. Set "
            "PNP_MLPATCH_CACHE, or cache=False."
        ) from error


def astra_matrix(geometry: Geometry, theta: Sequence[float], projector: str, cache: bool) -> Any:
    """Return ASTRA's matrix of some angles, from the cache if it is there and whole.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    theta : sequence of float
        The angles, in radians.
    projector : str
        "linear", "line" or "strip".
    cache : bool
        Whether the matrix is read from the cache and written there.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (angles * detectors, H * W), float32
        In units of the pixel.

    Warns
    -----
    UserWarning
        If the cache is damaged, or cannot be written.
    """
    key = _key(geometry, theta, projector)
    shape = (len(theta) * sizes(geometry)[0], math.prod(geometry.shape))
    path = None
    try:
        if cache:
            path = cache_directory() / f"radon-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        if path is not None and path.exists():
            return _cached(path, key, shape)
    except Exception as error:  # numpy and zipfile raise many kinds
        reason = error if isinstance(error, (ValueError, FileError)) else type(error).__name__
        warnings.warn(
            f"Radon: the cached matrix {path or ''} cannot be read ({reason}); it is built again.",
            stacklevel=6,
        )
    matrix = _built(geometry, theta, projector)
    if path is not None:
        try:
            _write(path, matrix, key)
        except OSError as error:
            warnings.warn(
                f"Radon: the matrix could not be cached in {path.parent} ({error}).", stacklevel=6
            )
    return matrix


def _key(geometry: Geometry, theta: Sequence[float], projector: str) -> str:
    """Return what the matrix depends on, as text."""
    astra = require("astra", "The operator 'radon'")
    spacing, pixel = sizes(geometry)[1], geometry.pixel
    lengths: list[float] = [spacing / pixel, geometry.offset / pixel]
    if isinstance(geometry, FanBeam):
        lengths += [geometry.source_origin / pixel, geometry.origin_detector / pixel, geometry.arc]
    parts = (geometry.shape, lengths, list(theta), geometry.detectors, projector)
    return repr((VERSION, astra.__version__, *parts))


def _built(geometry: Geometry, theta: Sequence[float], projector: str) -> Any:
    """Make the matrix, by ASTRA some angles at a time."""
    sparse = require("scipy.sparse", "The sparse backend of 'radon'")
    pixels = math.prod(geometry.shape)
    parts, step = [], max(1, round(CHUNK / max(1, pixels)))
    quiet = True if len(theta) * pixels < CHUNK else None
    with tqdm(
        total=len(theta), desc="Radon matrix", unit="angle", disable=quiet, leave=False
    ) as bar:
        for start in range(0, len(theta), step):
            some = theta[start : start + step]
            with astra_projector(geometry, projector, some) as (astra, identity, _):
                number = astra.projector.matrix(identity)
                try:
                    parts.append(astra.matrix.get(number).astype(np.float32))
                finally:
                    astra.matrix.delete(number)
            bar.update(len(some))
    return sparse.csr_matrix(sparse.vstack(parts, format="csr"))


def _write(path: Path, matrix: Any, key: str) -> None:
    """Write a matrix to the cache."""

    def write(temporary: Path) -> None:
        arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
        with temporary.open("wb") as file:
            np.savez(file, key=np.array(key), **arrays)

    atomic_write(path, write)


def _cached(path: Path, key: str, shape: tuple[int, int]) -> Any:
    """Return the matrix of a file of the cache; raise ValueError unless it is one.

    Sparse products do not look at their indices and would read anywhere.
    """
    sparse = require("scipy.sparse", "The sparse backend of 'radon'")
    with np.load(path, allow_pickle=False) as file:
        if str(file["key"]) != key:
            raise ValueError("it is of another version or geometry")
        data, indices, rows = file["data"], file["indices"], file["indptr"]
    integers = (np.int32, np.int64)
    types = data.dtype == np.float32 and indices.dtype in integers and rows.dtype == indices.dtype
    flat = data.ndim == indices.ndim == rows.ndim == 1
    if not types or not flat or len(data) != len(indices) or len(rows) != shape[0] + 1:
        raise ValueError("its arrays are of other types or sizes")
    if rows[0] != 0 or rows[-1] != len(data) or bool((np.diff(rows) < 0).any()):
        raise ValueError("its rows do not follow each other")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= shape[1]):
        raise ValueError("its indices are out of range")
    if not np.isfinite(data).all():
        raise ValueError("its values are not finite")
    return sparse.csr_matrix((data, indices, rows), shape=shape)


__all__ = ["astra_matrix", "cache_directory"]
