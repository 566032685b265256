"""Projector pairs: the line integrals of a scan and their exact transpose, by ASTRA.

:class:`SparsePair` keeps ASTRA's own matrix of a part of the
angles; :class:`~pnp_mlpatch.ct.symmetry.Symmetry` leads to the others. An even number of angles
over half a turn needs a quarter of the matrix, and one over a whole turn of a fan an eighth. The
images that the symmetries make are columns of one product, which costs little more than one column.

References
----------
van Aarle et al., Fast and flexible X-ray tomography using the ASTRA toolbox, Opt. Express 2016.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._astra import AstraPair
from pnp_mlpatch.ct._matrix import astra_matrix, cache_directory
from pnp_mlpatch.ct._memory import GIB, available_gib
from pnp_mlpatch.ct._pair import ProjectorPair
from pnp_mlpatch.ct._sparse import SparseMatrix
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam
from pnp_mlpatch.ct.symmetry import Symmetry
from pnp_mlpatch.errors import InputError, MissingPackage

BACKENDS = ("auto", "sparse", "astra_cpu", "astra_cuda")
PROJECTORS = ("linear", "line", "strip")


# ---- which pair


def choose(
    geometry: Geometry, projector: str | None, backend: str, memory: float | None, cache: bool
) -> tuple[SparsePair | AstraPair, str]:
    """Choose the projector pair of a scan.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    projector : str or None
        As in :func:`check_projector`.
    backend : str
        One of ``BACKENDS``. "auto" takes "sparse" if the matrices fit into ``memory``, or else
        "astra_cpu", with a warning.
    memory : float or None
        GiB for the matrices; None means half of what is free, at most 4.
    cache : bool
        Whether the matrix is cached on disk.

    Returns
    -------
    pair : SparsePair or AstraPair
    why : str
        Why it is this one.

    Raises
    ------
    InputError
        For a projector or backend that is not known, or does not fit the geometry or ``memory``.
    MissingPackage
        For "astra_cuda" without a GPU.
    """
    projector = check_projector(geometry, projector)
    if backend not in BACKENDS:
        raise InputError(f"Radon: backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
    astra = require("astra", "The operator 'radon'")
    if backend == "astra_cuda":
        if not astra.use_cuda():
            raise MissingPackage(
                "Radon: backend 'astra_cuda' needs a CUDA device and an ASTRA built for it; none "
                "was found. Use 'auto'."
            )
        why = "asked for; its adjoint is not the exact transpose"
        return AstraPair(geometry, projector, cuda=True), why
    if backend == "astra_cpu":
        return AstraPair(geometry, projector), "asked for"
    pair, why = _sparse_pair(geometry, projector, memory, cache)
    if pair is not None:
        return pair, why
    if backend == "sparse":
        raise InputError(f"Radon: {why}. Raise memory, or use 'astra_cpu'.")
    warnings.warn(
        f"Radon: {why}; the projections run by 'astra_cpu', several times slower. Raise memory "
        "where there is enough.",
        stacklevel=4,
    )
    return AstraPair(geometry, projector), why


def _sparse_pair(
    geometry: Geometry, projector: str, memory: float | None, cache: bool
) -> tuple[SparsePair | None, str]:
    """Return the matrices if there is memory for them, and why."""
    symmetry = Symmetry.of(geometry)
    size = matrix_gib(geometry, projector, len(symmetry.base))
    limit = min(4.0, available_gib() / 2) if memory is None else memory
    what = "half of the memory that is free" if memory is None else f"memory={memory:g}"
    allowed = f"about {size:.2g} GiB, {what} allows {limit:.2g}"
    if size > limit:
        return None, f"the sparse matrices would take {allowed}"
    try:
        return SparsePair(geometry, projector, symmetry, cache), f"the two matrices take {allowed}"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        return None, f"there was no memory for the sparse matrices, about {size:.2g} GiB"


def check_projector(geometry: Geometry, projector: str | None) -> str:
    """Check that a projector can do a geometry.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    projector : str or None
        One of ``PROJECTORS``. None means "linear" for parallel beams and "line" for fans.

    Returns
    -------
    str
        The projector.

    Raises
    ------
    InputError
        If it is not known, or if ASTRA does not have it for this geometry.
    """
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
                "Radon: ASTRA has the 'strip' projector for flat, centred fan beams only. Use "
                "'line' for an arc or an offset."
            )
    return projector


def matrix_gib(geometry: Geometry, projector: str, angles: int) -> float:
    """Estimate the memory of a matrix and its transpose: 8 bytes an entry in each.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    projector : str
        One of ``PROJECTORS``.
    angles : int
        The number of angles that have a matrix of their own.

    Returns
    -------
    float
        GiB.
    """
    height, width = geometry.shape
    fine = geometry.pixel / geometry.width  # detector elements a pixel, at the centre
    a_pixel = {"linear": 2 * fine, "line": 1.35 * fine, "strip": 2 + 1.3 * fine}[projector]
    return 16 * a_pixel * angles * height * width / GIB


# ---- the matrices


class SparsePair(ProjectorPair):
    """ASTRA's matrix and its transpose as compressed rows; it follows ``.to(device)``.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    projector : str
        One of ``PROJECTORS``.
    symmetry : Symmetry
        Which angles have a matrix of their own.
    cache : bool
        Whether the matrix is cached on disk.
    """

    def __init__(self, geometry: Geometry, projector: str, symmetry: Symmetry, cache: bool):
        super().__init__(geometry)
        self.transforms = symmetry.transforms
        self.count = len(symmetry.base)
        theta = geometry.theta[symmetry.base].tolist()
        matrix = astra_matrix(geometry, theta, projector, cache)
        self.matrix, self.transpose = SparseMatrix(matrix), SparseMatrix(matrix.T.tocsr())
        self.source: Tensor
        self.mirrored: Tensor
        self.register_buffer("source", torch.tensor(symmetry.source), persistent=False)
        self.register_buffer("mirrored", torch.tensor(symmetry.mirrored), persistent=False)

    def forward_project(self, x: Tensor) -> Tensor:
        part = self._from_columns(self.matrix(self._images(x)), len(x))
        return self._mirror(part[:, self.source])

    def back_project(self, y: Tensor) -> Tensor:
        rows = len(self.transforms) * self.count
        part = y.new_zeros(len(y), rows, y.shape[2], dtype=torch.float32)
        part[:, self.source] = self._mirror(y.detach().float())
        part = part.unflatten(1, (len(self.transforms), self.count)).permute(2, 3, 1, 0)
        columns = part.flatten(2).flatten(0, 1)
        return self._sum(self.transpose(columns.contiguous()), len(y))

    def normal(self, x: Tensor) -> Tensor:
        columns = self.matrix(self._images(x))
        used = len(self.transforms) * self.count
        if len(self.source) < used:  # leave out what no angle of the geometry asks for
            kept = columns.new_zeros(used)
            kept[self.source] = 1
            weight = kept.reshape(len(self.transforms), self.count).T[:, None, :, None]
            parts = columns.unflatten(0, (self.count, -1))
            parts = parts.unflatten(2, (len(self.transforms), len(x)))
            columns = (parts * weight).flatten(2).flatten(0, 1)
        return self._sum(self.transpose(columns), len(x))

    def _images(self, x: Tensor) -> Tensor:
        """Return the transformed images as columns (pixels, transforms * B)."""
        x = x.detach().float() * self.geometry.pixel
        moved = [torch.rot90(x.flip(-1) if flip else x, k, (-2, -1)) for k, flip in self.transforms]
        return torch.stack(moved).flatten(2).permute(2, 0, 1).flatten(1).contiguous()

    def _sum(self, columns: Tensor, batch: int) -> Tensor:
        """Return the sum of the images in the columns, each transformed back."""
        images = columns.T.reshape(len(self.transforms), batch, *self.geometry.shape)
        images = images * self.geometry.pixel
        total = None
        for (k, flip), image in zip(self.transforms, images, strict=True):
            image = torch.rot90(image, -k, (-2, -1))
            image = image.flip(-1) if flip else image
            total = image if total is None else total + image
        assert total is not None
        return total.contiguous()

    def _from_columns(self, columns: Tensor, batch: int) -> Tensor:
        """Turn (base * detectors, transforms * B) into (B, transforms * base, detectors)."""
        parts = columns.unflatten(0, (self.count, -1)).unflatten(2, (len(self.transforms), batch))
        return parts.permute(3, 2, 0, 1).flatten(1, 2)

    def _mirror(self, y: Tensor) -> Tensor:
        """Return the projections with the detector turned about where it runs backwards."""
        return torch.where(self.mirrored[:, None], y.flip(-1), y) if len(self.transforms) > 1 else y


__all__ = [
    "BACKENDS",
    "PROJECTORS",
    "AstraPair",
    "SparsePair",
    "Symmetry",
    "available_gib",
    "cache_directory",
    "check_projector",
    "choose",
]
