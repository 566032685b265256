r"""Projector pairs: the discrete line integrals of a geometry and their exact transpose, by ASTRA (van Aarle et al. 2016).

A pair has ``forward_project`` (B, H, W) -> (B, angles, detectors), ``back_project``, its transpose, and ``normal``, one after the other.
:class:`SparsePair` keeps ASTRA's own matrix of a part of the angles: the symmetries of the square carry it to the others, for

    P[R x](theta, u) = P[x](theta - pi/2, u)        R a rotation by 90 degrees, counter-clockwise
    P[F x](theta, u) = P[x](-theta, -u)             F a flip left-right
    P[x](theta + pi, u) = P[x](theta, -u)           parallel beams

so that an even number of angles over half a turn needs a quarter of the matrix, and one over a whole turn of a fan an eighth. The
images that the symmetries make are columns of one product, which costs little more than one column.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, rays, sizes
from pnp_mlpatch.errors import FileError, InputError, MissingPackage
from pnp_mlpatch.io.atomic import atomic_write

BACKENDS = ("auto", "sparse", "astra_cpu", "astra_cuda")
PROJECTORS = ("linear", "line", "strip")
VERSION = 2  # of the files in the cache
GIB = 2**30
COLUMNS = 16  # of one sparse product: more no longer share the cache

# torch says once in a process that its CSR layout is a beta. It says so here, where nobody hears it: a filter set around each
# product would be one for all threads, and two of them would leave it set for good.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(
        torch.tensor([0, 0]),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0),
        size=(1, 1),
        check_invariants=False,
    )


def choose(
    geometry: Geometry, projector: str | None, backend: str, memory: float | None, cache: bool
) -> tuple[SparsePair | AstraPair, str]:
    """The projector pair, and why it is this one. ``memory`` is in GiB; None means half of what is free, at most 4.

    Raises :class:`InputError` for a projector or backend that is not known, that does not fit the geometry or ``memory``;
    :class:`MissingPackage` for "astra_cuda" without a GPU. Warns where "auto" has to do without the matrices.
    """
    projector = check_projector(geometry, projector)
    if backend not in BACKENDS:
        raise InputError(f"Radon: backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    astra = require("astra", "The operator 'radon'")
    if backend == "astra_cuda":
        if not astra.use_cuda():
            raise MissingPackage(
                "Radon: backend 'astra_cuda' needs a CUDA device and an ASTRA built for it; none was found. Use 'auto'."
            )
        return AstraPair(
            geometry, projector, cuda=True
        ), "asked for; its adjoint is not the exact transpose"
    if backend == "astra_cpu":
        return AstraPair(geometry, projector), "asked for"
    symmetry = Symmetry.of(geometry)
    size = matrix_gib(geometry, projector, len(symmetry.base))
    limit = min(4.0, available_gib() / 2) if memory is None else memory
    what = "half of the memory that is free" if memory is None else f"memory={memory:g}"
    why = f"the sparse matrices would take about {size:.2g} GiB, {what} allows {limit:.2g}"
    if size <= limit:
        try:
            pair = SparsePair(geometry, projector, symmetry, cache)
            return pair, f"the two matrices take about {size:.2g} GiB, {what} allows {limit:.2g}"
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "alloc" not in str(error):
                raise
            why = f"there was no memory for the sparse matrices, about {size:.2g} GiB"
    if backend == "sparse":
        raise InputError(f"Radon: {why}. Raise memory, or use 'astra_cpu'.")
    warnings.warn(
        f"Radon: {why}; the projections run by 'astra_cpu', several times slower. Raise memory where there is enough.",
        stacklevel=4,
    )
    return AstraPair(geometry, projector), why


def check_projector(geometry: Geometry, projector: str | None) -> str:
    """The name of a projector that can do the geometry: by default "linear" for parallel beams and "line" for fans."""
    if projector is None:
        return "linear" if isinstance(geometry, ParallelBeam) else "line"
    if projector not in PROJECTORS:
        raise InputError(
            f"Radon: projector must be one of {', '.join(PROJECTORS)}, got {projector!r}."
        )
    if isinstance(geometry, FanBeam):
        if projector == "linear":
            raise InputError(
                "Radon: ASTRA has no 'linear' projector for fan beams. Use 'line' or 'strip'."
            )
        if projector == "strip" and (geometry.arc or geometry.offset):
            raise InputError(
                "Radon: ASTRA has the 'strip' projector for flat, centred fan beams only. Use 'line' for an arc or an offset."
            )
    return projector


def matrix_gib(geometry: Geometry, projector: str, angles: int) -> float:
    """About how much memory the matrix of so many angles and its transpose take: 8 bytes an entry, 16 bytes for both."""
    height, width = geometry.shape
    fine = geometry.pixel / geometry.width  # detector elements a pixel, at the centre
    a_pixel = {"linear": 2 * fine, "line": 1.35 * fine, "strip": 2 + 1.3 * fine}[projector]
    return 16 * a_pixel * angles * height * width / GIB


def available_gib() -> float:
    """The memory that this process may still take: of the machine, of its control groups, of its own limits; 8 GiB where none is known."""
    known = [
        value for value in (_machine_free(), *_groups_free(), *_limits_free()) if value is not None
    ]
    return max(0.0, min(known)) / GIB if known else 8.0


def _machine_free() -> float | None:
    return _field_of(Path("/proc/meminfo"), "MemAvailable:", 1024)


def _groups_free(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[float]:
    """What the control groups of this process (version 1 or 2) and those above them leave; the page cache that they can drop is free."""
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    free = []
    for _, controllers, place in (line for line in lines if len(line) == 3):
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        folder = base / place.strip("/")
        for group in (*[folder, *folder.parents][: len(Path(place).parts)], base):
            limit, used = (_number_in(group / name) for name in names)
            if limit is not None and used is not None:
                cached = _field_of(group / "memory.stat", "inactive_file", 1) or 0.0
                free.append(limit - used + min(cached, used))
    return free


def _limits_free() -> list[float]:
    """What ``ulimit -v`` and ``ulimit -d`` leave."""
    try:
        import resource
    except ImportError:  # not on Windows
        return []
    limits = {"VmSize:": resource.RLIMIT_AS, "VmData:": resource.RLIMIT_DATA}
    free = []
    for name, limit in limits.items():
        soft, used = resource.getrlimit(limit)[0], _field_of(Path("/proc/self/status"), name, 1024)
        if soft != resource.RLIM_INFINITY:
            free.append(soft - (used or 0.0))
    return free


def _number_in(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="utf-8"))  # "max", no limit, is none
    except (OSError, ValueError):
        return None


def _field_of(path: Path, name: str, unit: int) -> float | None:
    """The number behind a name, in bytes."""
    try:
        lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
        return next(float(words[1]) * unit for words in lines if words[:1] == [name])
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def cache_directory() -> Path:
    """Where matrices are cached: $PNP_MLPATCH_CACHE, else pnp_mlpatch in the user's cache folder.

    Raises :class:`FileError` where neither is known: a user without HOME.
    """
    folder = os.environ.get("PNP_MLPATCH_CACHE")
    if folder:
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pnp_mlpatch"
    except RuntimeError as error:
        raise FileError(
            "Radon: there is no home folder, so nowhere to cache matrices. Set PNP_MLPATCH_CACHE, or cache=False."
        ) from error


# ---- ASTRA


class AstraPair(nn.Module):
    """ASTRA's projectors, called image by image, nothing stored; the CPU ones are matched, the CUDA ones are not."""

    def __init__(self, geometry: Geometry, projector: str, *, cuda: bool = False):
        super().__init__()
        self.geometry, self.projector, self.on_gpu = geometry, projector, cuda

    def forward_project(self, x: Tensor) -> Tensor:
        return self._run(x, (len(self.geometry.theta), sizes(self.geometry)[0]), forward=True)

    def back_project(self, y: Tensor) -> Tensor:
        return self._run(y, self.geometry.shape, forward=False)

    def normal(self, x: Tensor) -> Tensor:
        return self.back_project(self.forward_project(x))

    def _run(self, x: Tensor, shape: tuple[int, ...], *, forward: bool) -> Tensor:
        source = x.detach().float().contiguous()
        target = source.new_zeros(len(x), *shape)
        if source.is_cuda:
            torch.cuda.current_stream(
                source.device
            ).synchronize()  # ASTRA knows nothing of torch's streams
        with astra_projector(self.geometry, self.projector, cuda=self.on_gpu) as (
            astra,
            projector,
            rows,
        ):
            call = astra.projector.direct_FP if forward else astra.projector.direct_BP
            for one, out in zip(source, target, strict=True):
                call(
                    projector,
                    one if forward else one.reshape(rows),
                    out=out.view(rows) if forward else out,
                )
        return target * self.geometry.pixel


@contextmanager
def astra_projector(
    geometry: Geometry, projector: str, theta: Sequence[float] | None = None, *, cuda: bool = False
) -> Iterator[tuple[Any, int, tuple[int, int]]]:
    """ASTRA, the id of a projector for a geometry in units of the pixel, and ASTRA's shape of the data; it is deleted at the end."""
    astra = require("astra", "The operator 'radon'")
    height, width = geometry.shape
    angles = np.asarray(geometry.angles if theta is None else theta)
    count, spacing = sizes(geometry)
    shift, spacing = geometry.offset / spacing, spacing / geometry.pixel
    name, rows = projector, (len(angles), count)
    if isinstance(geometry, ParallelBeam):
        projection = astra.create_proj_geom("parallel", spacing, count, angles)
    else:
        name = f"{projector}_fanflat"
        if geometry.arc:  # each ray a projection of its own, with a detector of one element
            projection, rows = (
                astra.create_proj_geom("fanflat_vec", 1, _arc(geometry, angles)),
                (len(angles) * count, 1),
            )
        else:
            lengths = (
                geometry.source_origin / geometry.pixel,
                geometry.origin_detector / geometry.pixel,
            )
            projection = astra.create_proj_geom("fanflat", spacing, count, angles, *lengths)
    if shift and not (isinstance(geometry, FanBeam) and geometry.arc):
        projection = astra.geom_postalignment(projection, shift)
    identity = astra.create_projector(
        "cuda" if cuda else name, projection, astra.create_vol_geom(height, width)
    )
    try:
        yield astra, identity, rows
    finally:
        astra.projector.delete(identity)


def _arc(geometry: FanBeam, angles: np.ndarray) -> np.ndarray:
    """ASTRA's vectors (source, detector, detector element) of every ray, in units of the pixel."""
    part = FanBeam(
        geometry.shape,
        angles.tolist(),
        geometry.detectors,
        source_origin=geometry.source_origin,
        origin_detector=geometry.origin_detector,
        pixel=geometry.pixel,
        spacing=geometry.spacing,
        offset=geometry.offset,
        arc=True,
    )
    source, end = (points.reshape(-1, 2) / geometry.pixel for points in rays(part))
    ray = (end - source) / (end - source).norm(dim=1, keepdim=True)
    element = torch.stack([ray[:, 1], -ray[:, 0]], dim=1) * (sizes(geometry)[1] / geometry.pixel)
    return torch.cat([source, end, element], dim=1).numpy()


# ---- the matrix


class Symmetry:
    """Which angles have a matrix of their own, and how the symmetries (flipped or not, quarter turns) lead from these to all.

    ``source`` (angles,) is the number of the transform times len(base) plus the place in ``base``; ``mirrored`` (angles,) says where
    the detector runs backwards.
    """

    def __init__(
        self,
        transforms: list[tuple[int, bool]],
        base: list[int],
        source: list[int],
        mirrored: list[bool],
    ):
        self.transforms, self.base, self.source, self.mirrored = transforms, base, source, mirrored

    @classmethod
    def of(cls, geometry: Geometry, tolerance: float = 1e-7) -> Symmetry:
        height, width = geometry.shape
        theta = geometry.theta.tolist()
        parallel, centred = isinstance(geometry, ParallelBeam), geometry.offset == 0
        turns = range(4) if height == width else (0, 2)
        candidates = [(k, flip) for flip in ((False, True) if centred else (False,)) for k in turns]
        scale = round(1 / tolerance)
        period = round(2 * math.pi * scale)
        places: dict[int, list[int]] = {}
        for index, angle in enumerate(theta):
            places.setdefault(round(angle * scale) % period, []).append(index)

        def unassigned(angle: float) -> int | None:
            key = round(angle * scale)
            for near in (key, key - 1, key + 1):
                for index in places.get(near % period, []):
                    if found[index] is None:
                        return index
            return None

        found: list[tuple[int, int, bool] | None] = [None] * len(theta)
        base: list[int] = []
        for index, angle in enumerate(theta):
            if found[index] is not None:
                continue
            for number, (k, flip) in enumerate(candidates):
                reached = angle - k * math.pi / 2
                ways = [(-reached, True)] if flip else [(reached, False)]
                if parallel and centred:
                    ways += [(way + math.pi, not mirror) for way, mirror in ways]
                for way, mirror in ways:
                    there = unassigned(way)
                    if there is not None:
                        found[there] = (number, len(base), mirror)
                        break
            base.append(index)
        if 1.5 * len(base) > len(theta):
            return cls(
                [(0, False)], list(range(len(theta))), list(range(len(theta))), [False] * len(theta)
            )
        entries = [entry for entry in found if entry is not None]
        used = sorted({number for number, _, _ in entries})
        source = [used.index(number) * len(base) + place for number, place, _ in entries]
        return cls(
            [candidates[number] for number in used],
            base,
            source,
            [mirror for _, _, mirror in entries],
        )


class SparsePair(nn.Module):
    """ASTRA's matrix and its transpose as compressed rows, cached on disk; it follows ``.to(device)``."""

    def __init__(self, geometry: Geometry, projector: str, symmetry: Symmetry, cache: bool):
        super().__init__()
        self.geometry, self.transforms, self.count = (
            geometry,
            symmetry.transforms,
            len(symmetry.base),
        )
        matrix = _matrix(geometry, geometry.theta[symmetry.base].tolist(), projector, cache)
        self.matrix, self.transpose = SparseMatrix(matrix), SparseMatrix(matrix.T.tocsr())
        self.source: Tensor
        self.mirrored: Tensor
        self.register_buffer("source", torch.tensor(symmetry.source), persistent=False)
        self.register_buffer("mirrored", torch.tensor(symmetry.mirrored), persistent=False)

    def forward_project(self, x: Tensor) -> Tensor:
        part = self._from_columns(self.matrix(self._images(x)), len(x))
        return self._mirror(part[:, self.source])

    def back_project(self, y: Tensor) -> Tensor:
        part = y.new_zeros(
            len(y), len(self.transforms) * self.count, y.shape[2], dtype=torch.float32
        )
        part[:, self.source] = self._mirror(y.detach().float())
        columns = (
            part.unflatten(1, (len(self.transforms), self.count))
            .permute(2, 3, 1, 0)
            .flatten(2)
            .flatten(0, 1)
        )
        return self._sum(self.transpose(columns.contiguous()), len(y))

    def normal(self, x: Tensor) -> Tensor:
        columns = self.matrix(self._images(x))
        if (
            len(self.source) < len(self.transforms) * self.count
        ):  # what no angle of the geometry asks for
            kept = columns.new_zeros(len(self.transforms) * self.count)
            kept[self.source] = 1
            weight = kept.reshape(len(self.transforms), self.count).T[:, None, :, None]
            parts = columns.unflatten(0, (self.count, -1)).unflatten(
                2, (len(self.transforms), len(x))
            )
            columns = (parts * weight).flatten(2).flatten(0, 1)
        return self._sum(self.transpose(columns), len(x))

    def _images(self, x: Tensor) -> Tensor:
        """The transformed images as columns (pixels, transforms * B)."""
        x = x.detach().float() * self.geometry.pixel
        moved = [torch.rot90(x.flip(-1) if flip else x, k, (-2, -1)) for k, flip in self.transforms]
        return torch.stack(moved).flatten(2).permute(2, 0, 1).flatten(1).contiguous()

    def _sum(self, columns: Tensor, batch: int) -> Tensor:
        images = (
            columns.T.reshape(len(self.transforms), batch, *self.geometry.shape)
            * self.geometry.pixel
        )
        total = None
        for (k, flip), image in zip(self.transforms, images, strict=True):
            image = torch.rot90(image, -k, (-2, -1))
            image = image.flip(-1) if flip else image
            total = image if total is None else total + image
        assert total is not None
        return total.contiguous()

    def _from_columns(self, columns: Tensor, batch: int) -> Tensor:
        """(base * detectors, transforms * B) -> (B, transforms * base, detectors)."""
        parts = columns.unflatten(0, (self.count, -1)).unflatten(2, (len(self.transforms), batch))
        return parts.permute(3, 2, 0, 1).flatten(1, 2)

    def _mirror(self, y: Tensor) -> Tensor:
        return torch.where(self.mirrored[:, None], y.flip(-1), y) if len(self.transforms) > 1 else y


class SparseMatrix(nn.Module):
    """A float32 matrix in compressed rows, from a scipy one; it is copied and moved like any module."""

    def __init__(self, matrix: Any):
        super().__init__()
        self.shape = tuple(matrix.shape)
        self.rows: Tensor
        self.columns: Tensor
        self.values: Tensor
        self.register_buffer("rows", torch.from_numpy(matrix.indptr), persistent=False)
        self.register_buffer("columns", torch.from_numpy(matrix.indices), persistent=False)
        self.register_buffer("values", torch.from_numpy(matrix.data), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The product with a dense (columns, k)."""
        matrix = torch.sparse_csr_tensor(
            self.rows, self.columns, self.values.float(), size=self.shape, check_invariants=False
        )
        if x.shape[1] <= COLUMNS:
            return matrix @ x
        out = x.new_empty(self.shape[0], x.shape[1])
        for start in range(0, x.shape[1], COLUMNS):
            out[:, start : start + COLUMNS] = matrix @ x[:, start : start + COLUMNS].contiguous()
        return out


def _matrix(geometry: Geometry, theta: Sequence[float], projector: str, cache: bool) -> Any:
    """ASTRA's matrix of these angles as a float32 scipy CSR array, in units of the pixel; from the disk cache if it is there and whole."""
    sparse = require("scipy.sparse", "The sparse backend of 'radon'")
    astra = require("astra", "The operator 'radon'")
    count, spacing = sizes(geometry)
    lengths: list[float] = [spacing / geometry.pixel, geometry.offset / geometry.pixel]
    if isinstance(geometry, FanBeam):
        lengths += [
            geometry.source_origin / geometry.pixel,
            geometry.origin_detector / geometry.pixel,
            geometry.arc,
        ]
    key = repr(
        (
            VERSION,
            astra.__version__,
            geometry.shape,
            lengths,
            list(theta),
            geometry.detectors,
            projector,
        )
    )
    name, shape = (
        f"radon-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz",
        (len(theta) * count, math.prod(geometry.shape)),
    )
    path = None
    try:
        path = cache_directory() / name if cache else None
        if path is not None and path.exists():
            return _cached(path, key, shape)
    except Exception as error:  # numpy and zipfile raise many kinds
        reason = error if isinstance(error, (ValueError, FileError)) else type(error).__name__
        warnings.warn(
            f"Radon: the cached matrix {path or ''} cannot be read ({reason}); it is built again.",
            stacklevel=6,
        )
    parts, step = [], max(1, round(2**22 / max(1, math.prod(geometry.shape))))
    quiet = True if len(theta) * math.prod(geometry.shape) < 2**22 else None
    with tqdm(
        total=len(theta), desc="Radon matrix", unit="angle", disable=quiet, leave=False
    ) as bar:
        for start in range(0, len(theta), step):
            with astra_projector(geometry, projector, theta[start : start + step]) as (
                astra,
                identity,
                _,
            ):
                number = astra.projector.matrix(identity)
                try:
                    parts.append(astra.matrix.get(number).astype(np.float32))
                finally:
                    astra.matrix.delete(number)
            bar.update(len(theta[start : start + step]))
    matrix = sparse.csr_matrix(sparse.vstack(parts, format="csr"))
    if path is not None:

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    key=np.array(key),
                    data=matrix.data,
                    indices=matrix.indices,
                    indptr=matrix.indptr,
                )

        try:
            atomic_write(path, write)
        except OSError as error:
            warnings.warn(
                f"Radon: the matrix could not be cached in {path.parent} ({error}).", stacklevel=6
            )
    return matrix


def _cached(path: Path, key: str, shape: tuple[int, int]) -> Any:
    """The matrix of a file of the cache; raise ValueError unless it is one: products do not look at indices and would read anywhere."""
    sparse = require("scipy.sparse", "The sparse backend of 'radon'")
    with np.load(path, allow_pickle=False) as file:
        if str(file["key"]) != key:
            raise ValueError("it is of another version or geometry")
        data, indices, rows = file["data"], file["indices"], file["indptr"]
    kinds = (
        data.dtype == np.float32
        and indices.dtype in (np.int32, np.int64)
        and rows.dtype == indices.dtype
    )
    sizes_fit = (
        data.ndim == indices.ndim == rows.ndim == 1
        and len(data) == len(indices)
        and len(rows) == shape[0] + 1
    )
    if not kinds or not sizes_fit:
        raise ValueError("its arrays are of other types or sizes")
    if rows[0] != 0 or rows[-1] != len(data) or bool((np.diff(rows) < 0).any()):
        raise ValueError("its rows do not follow each other")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= shape[1]):
        raise ValueError("its indices are out of range")
    if not np.isfinite(data).all():
        raise ValueError("its values are not finite")
    return sparse.csr_matrix((data, indices, rows), shape=shape)


__all__ = [
    "BACKENDS",
    "PROJECTORS",
    "AstraPair",
    "SparsePair",
    "Symmetry",
    "cache_directory",
    "check_projector",
    "choose",
]
