"""One batch of a CT volume: what every process does that takes part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.ct import Geometry, Scan, hounsfield_range, to_hounsfield
from pnp_mlpatch.ct.truncation import Frame, crop
from pnp_mlpatch.denoisers import Denoiser, rescaled, slabs
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_config import VolumeConfig
from pnp_mlpatch.pipelines.ct_digest import tensor_digest
from pnp_mlpatch.pipelines.ct_parts import Parts
from pnp_mlpatch.pipelines.ct_recipe import backproject, solve_slab
from pnp_mlpatch.pipelines.ct_slab import read_slab
from pnp_mlpatch.solvers import Solver

OVERLAP = 4  # slices on both sides of a stack that are solved with it, and not kept


@dataclass(frozen=True, eq=False)
class Job:
    """All that a process needs to make a batch.

    Parameters
    ----------
    scan : Scan
        The scan.
    geometry : ParallelBeam or FanBeam
        Its geometry.
    frame : Frame
        How the image that is wanted lies in that of the geometry.
    D : denoiser or None
        A denoiser of grey images of range [0, 1].
    config : VolumeConfig
        The settings, with the backend and the number of threads that were chosen.
    window : tuple of float
        (low, high), in the units of the volume.
    parts : Parts
        Where batches are written.
    first : int
        The first slice of the volume.
    """

    scan: Scan
    geometry: Geometry
    frame: Frame
    D: Denoiser | None
    config: VolumeConfig
    window: tuple[float, float]
    parts: Parts
    first: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """Operator, denoiser and solver of a job, which all of its batches share.

    Parameters
    ----------
    job : Job
        The job.
    A : Radon
        The projector of one slice.
    D : denoiser or None
        In attenuation.
    solver : Solver or str
        A name is the preset of the recipe.
    scale : float
        The width of the window, in attenuation.
    """

    job: Job
    A: Radon
    D: Denoiser | None
    solver: Solver | str
    scale: float


def projector(geometry: Geometry, config: VolumeConfig) -> Radon:
    """Make the projector of one slice, on the device of the settings.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The geometry.
    config : VolumeConfig
        The settings.

    Returns
    -------
    Radon
    """
    A = Radon(geometry, backend=config.backend, memory=config.memory)
    return A.to(torch.device(config.device))


def prepare(job: Job, A: Radon | None = None) -> Prepared:
    """Make what the batches of a job share.

    Parameters
    ----------
    job : Job
        The job.
    A : Radon, optional
        The projector, if it is there.

    Returns
    -------
    Prepared
    """
    (low, high), config = job.window, job.config
    if config.mu_water is None:
        scale, offset = high - low, low
    else:
        scale, offset = hounsfield_range(config.mu_water, low=low, high=high)
    D = None if job.D is None else _on(job.D, config.device)
    if D is not None:
        D = rescaled(D if config.slabs is None else slabs(D), scale, offset)
    A = projector(job.geometry, config) if A is None else A
    return Prepared(job, A, D, config.make_solver(scale) or config.preset, scale)


def make_batch(prepared: Prepared, start: int, stop: int) -> dict[str, Any]:
    """Solve and write one batch.

    Parameters
    ----------
    prepared : Prepared
        The job.
    start, stop : int
        Its slices start ... stop - 1 of the scan.

    Returns
    -------
    dict
        "sha256" of its values, "scan" of its data, and "slices": how each slice ended.

    Raises
    ------
    FileError
        If the scan cannot be read, or the batch cannot be written.
    """
    job = prepared.job
    low, high = with_neighbours(job, start, stop)
    slab, kept = read_slab(job.scan, job.config, low, high), slice(start - low, stop - low)
    x, rows = solve_slab(prepared.A, prepared.D, prepared.solver, prepared.scale, slab)
    x = in_units(crop(x[kept], job.frame), job.config)
    digest = job.parts.write((start - job.first) // job.parts.batch, x)
    read = tensor_digest(job.scan.read(start, stop)) if slab.stack else slab.digest
    return {"sha256": digest, "scan": read, "slices": rows[kept]}


def with_neighbours(job: Job, start: int, stop: int) -> tuple[int, int]:
    """Return the slices that a batch is made from.

    Parameters
    ----------
    job : Job
        The job.
    start, stop : int
        The batch.

    Returns
    -------
    tuple of int
        (start, stop), with those that overlap where stacks are denoised.
    """
    more = 0 if job.config.slabs is None else OVERLAP
    return max(0, start - more), min(job.scan.shape[0], stop + more)


def middle_fbp(A: Radon, scan: Scan, config: VolumeConfig, middle: int) -> Tensor:
    """Return filtered backprojection of a slice.

    Parameters
    ----------
    A : Radon
        The projector of one slice.
    scan : Scan
        The scan.
    config : VolumeConfig
        The settings.
    middle : int
        The slice.

    Returns
    -------
    Tensor, shape (H, W)
        Attenuation; 0 if nothing was measured.
    """
    slab = read_slab(scan, config, middle, middle + 1)
    if not len(slab.q):
        return torch.zeros(A.image_shape[1:])
    return backproject(A, slab)[0, 0].cpu()


def in_units(x: Tensor, config: VolumeConfig) -> Tensor:
    """Convert attenuation to the units of the volume.

    Parameters
    ----------
    x : Tensor
        Attenuation.
    config : VolumeConfig
        The settings.

    Returns
    -------
    Tensor
    """
    return x if config.mu_water is None else to_hounsfield(x, config.mu_water)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads of torch in the ``with`` block.

    Parameters
    ----------
    count : int or None
        None leaves them.
    """
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on(D: Denoiser, device: str) -> Denoiser:
    """Return the denoiser on a device, if it can be moved."""
    move = getattr(D, "to", None)
    return D if move is None else move(torch.device(device))


__all__ = [
    "Job",
    "Prepared",
    "in_units",
    "make_batch",
    "middle_fbp",
    "prepare",
    "projector",
    "torch_threads",
    "with_neighbours",
]
