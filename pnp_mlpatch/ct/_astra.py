"""ASTRA's projectors (van Aarle et al. 2016), called image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._pair import ProjectorPair
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, rays, sizes


class AstraPair(ProjectorPair):
    """A projector and its adjoint without stored matrices.

    The CPU projectors are matched; the CUDA ones are not: their adjoint is not the exact
    transpose.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    projector : str
        "linear", "line" or "strip".
    cuda : bool
        Whether ASTRA projects on the GPU.
    """

    def __init__(self, geometry: Geometry, projector: str, *, cuda: bool = False):
        super().__init__(geometry)
        self.projector, self.on_gpu = projector, cuda

    def forward_project(self, x: Tensor) -> Tensor:
        return self._run(x, (len(self.geometry.theta), sizes(self.geometry)[0]), forward=True)

    def back_project(self, y: Tensor) -> Tensor:
        return self._run(y, self.geometry.shape, forward=False)

    def _run(self, x: Tensor, shape: tuple[int, ...], *, forward: bool) -> Tensor:
        source = x.detach().float().contiguous()
        source = source if self.on_gpu else source.cpu()  # the CPU projectors read host memory
        target = source.new_zeros(len(x), *shape)
        if source.is_cuda:  # ASTRA knows nothing of torch's streams
            torch.cuda.current_stream(source.device).synchronize()
        with astra_projector(self.geometry, self.projector, cuda=self.on_gpu) as found:
            astra, projector, rows = found
            for one, out in zip(source, target, strict=True):
                if forward:
                    astra.projector.direct_FP(projector, one, out=out.view(rows))
                else:
                    astra.projector.direct_BP(projector, one.reshape(rows), out=out)
        return target.to(x.device) * self.geometry.pixel


@contextmanager
def astra_projector(
    geometry: Geometry, projector: str, theta: Sequence[float] | None = None, *, cuda: bool = False
) -> Iterator[tuple[Any, int, tuple[int, int]]]:
    """Make a projector of ASTRA in units of the pixel, which is deleted at the end.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    projector : str
        "linear", "line" or "strip".
    theta : sequence of float, optional
        The angles in radians, by default those of the geometry.
    cuda : bool
        Whether ASTRA projects on the GPU.

    Yields
    ------
    tuple
        ASTRA, the id of the projector, and ASTRA's shape of the data.
    """
    astra = require("astra", "The operator 'radon'")
    height, width = geometry.shape
    angles = np.asarray(geometry.angles if theta is None else theta)
    count, spacing = sizes(geometry)
    shift, spacing = geometry.offset / spacing, spacing / geometry.pixel
    name, rows = projector, (len(angles), count)
    arc = isinstance(geometry, FanBeam) and geometry.arc
    if isinstance(geometry, ParallelBeam):
        projection = astra.create_proj_geom("parallel", spacing, count, angles)
    elif geometry.arc:  # each ray a projection of its own, with a detector of one element
        name, rows = f"{projector}_fanflat", (len(angles) * count, 1)
        projection = astra.create_proj_geom("fanflat_vec", 1, _arc(geometry, angles))
    else:
        name = f"{projector}_fanflat"
        lengths = (geometry.source_origin, geometry.origin_detector)
        lengths = tuple(length / geometry.pixel for length in lengths)
        projection = astra.create_proj_geom("fanflat", spacing, count, angles, *lengths)
    if shift and not arc:
        projection = astra.geom_postalignment(projection, shift)
    volume = astra.create_vol_geom(height, width)
    identity = astra.create_projector("cuda" if cuda else name, projection, volume)
    try:
        yield astra, identity, rows
    finally:
        astra.projector.delete(identity)


def _arc(geometry: FanBeam, angles: np.ndarray) -> np.ndarray:
    """ASTRA's vectors (source, detector, detector element) of every ray, in pixels."""
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


__all__ = ["AstraPair", "astra_projector"]
