"""The steps of a CT volume before it is written: begin, and make the batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import pnp_mlpatch
from pnp_mlpatch.ct import Geometry, Scan, as_dict
from pnp_mlpatch.ct.projection import available_gib
from pnp_mlpatch.ct.truncation import Frame, crop
from pnp_mlpatch.denoisers import Denoiser, as_denoiser, describe, fingerprint
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.ome_zarr import check_replaceable
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_batch import Job, make_batch, middle_fbp, prepare, projector
from pnp_mlpatch.pipelines.ct_check import Seen, examine
from pnp_mlpatch.pipelines.ct_config import VolumeConfig, check_scan
from pnp_mlpatch.pipelines.ct_digest import Shard, scan_fingerprint
from pnp_mlpatch.pipelines.ct_fit import check_units, choose_window
from pnp_mlpatch.pipelines.ct_journal import SCAN_FILE, Journal

DEAD = "nothing measured"  # a status


@dataclass(frozen=True, eq=False)
class Run:
    """A run that has begun.

    Parameters
    ----------
    journal : Journal
        Which batches are finished.
    scan : Scan
        The scan as it was given.
    job : Job
        What makes the others.
    A : Radon
        The projector.
    fbp : Tensor, shape (H, W)
        Filtered backprojection of the slice in the middle, in attenuation.
    """

    journal: Journal
    scan: Scan
    job: Job
    A: Radon
    fbp: Tensor

    @property
    def todo(self) -> list[tuple[int, int]]:
        """The batches that are not finished."""
        return [(a, b) for a, b in self.journal.batches if not self.journal.done(a)]

    @property
    def finished(self) -> int:
        """The number of slices that are finished."""
        return sum(b - a for a, b in self.journal.batches if self.journal.done(a))

    @property
    def slices(self) -> int:
        """The number of slices that this run makes, finished ones included."""
        return sum(b - a for a, b in self.journal.batches)


def begin(
    scan: Scan,
    geometry: Geometry,
    given: Denoiser | str | None,
    path: Path,
    config: VolumeConfig,
    meta: dict[str, Any],
    resume: bool,
    *,
    shard: Shard | None = None,
    guard: Callable[[Journal], AbstractContextManager[None]] = nullcontext,
    neighbours: int = 1,
) -> Run:
    """Open the journal, make the projector and choose the window.

    Parameters
    ----------
    scan, geometry, given, path, config, meta, resume
        As in :func:`~pnp_mlpatch.pipelines.ct_volume.reconstruct_volume`; the threads are set.
    shard : tuple of int, optional
        (i, N), the share of the batches.
    guard : callable
        Makes of the journal a context, within which it is opened.
    neighbours : int
        How many processes of a machine hold the projector.

    Returns
    -------
    Run
    """
    first, last = check_scan(scan, geometry, config)
    D = grey_denoiser(given)
    seen = examine(scan, geometry, config)
    config = seen.config
    shape = (last - first, *geometry.shape)
    batches = split(first, last, config.batch)
    if path.suffix.lower() == ".zarr":
        check_replaceable(path, shape, batches[0][1] - batches[0][0])
    settings = _settings(scan, geometry, D, config, meta) | {"slices": [first, last]}
    settings[SCAN_FILE] = scan_fingerprint(scan)
    journal = Journal(path, shape, settings, batches, shard)
    with guard(journal):
        journal.open(resume)

    # as before: what "auto" takes depends on the free memory
    backend, memory = journal.found.get("backend", config.backend), config.memory
    if memory is None and neighbours > 1:
        memory = min(4.0, available_gib() / 2 / neighbours)
    data, wide, frame = seen.room(scan, geometry)
    A = projector(wide, replace(config, backend=backend, memory=memory))
    journal.check_scan(data)
    fbp, window = _start(A, data, config, seen, frame, first + shape[0] // 2)
    low, high = journal.found.get("window") or window
    found = {"backend": A.backend, "window": [low, high], "source": str(scan.path)}
    journal.begin(found | {"seen": seen.facts})
    config = replace(config, backend=A.backend)
    job = Job(data, wide, frame, D, config, (low, high), journal.parts, first)
    return Run(journal, scan, job, A, fbp)


def _start(
    A: Radon, scan: Scan, config: VolumeConfig, seen: Seen, frame: Frame, place: int
) -> tuple[Tensor, tuple[float, float]]:
    """Return filtered backprojection of a slice, and the window: that of the whole scan."""
    fbp, middle = (
        crop(middle_fbp(A, scan, config, index), frame) for index in (place, scan.shape[0] // 2)
    )
    seen.warn(scan, check_units(middle, config.mu_water))
    return fbp, choose_window(config, middle, scan)


def split(first: int, last: int, batch: int) -> list[tuple[int, int]]:
    """Split slices into batches.

    Parameters
    ----------
    first, last : int
        The slices first ... last - 1.
    batch : int
        The number of slices of a batch.

    Returns
    -------
    list of tuple of int
        (start, stop) of each.
    """
    return [(a, min(a + batch, last)) for a in range(first, last, batch)]


def here(run: Run) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Make the batches that are not finished, in this process.

    Parameters
    ----------
    run : Run
        The run.

    Yields
    ------
    start, stop : int
        The batch.
    row : dict
        What the journal says of it.
    """
    prepared = prepare(run.job, run.A)
    for a, b in run.todo:
        yield a, b, make_batch(prepared, a, b)


def solve(
    run: Run, batches: Iterable[tuple[int, int, dict[str, Any]]], progress: bool | None
) -> None:
    """Take the batches as they come, and name them in the journal.

    Parameters
    ----------
    run : Run
        The run.
    batches : iterable
        As :func:`here`, in any order.
    progress : bool or None
        Whether a progress bar is shown.

    Raises
    ------
    FileError
        If the scan was changed meanwhile.
    """
    scan, fingerprint = run.scan, run.journal.settings[SCAN_FILE]
    shown = None if progress is None else not progress
    with tqdm(total=run.slices, initial=run.finished, desc="slices", disable=shown) as bar:
        for a, b, row in batches:
            dead = [a + k for k, one in enumerate(row["slices"]) if one["status"] == DEAD]
            if dead:
                warnings.warn(
                    f"{scan.path}: nothing was measured in the slices "
                    f"{', '.join(map(str, dead))}; they become air.",
                    stacklevel=4,
                )
            run.journal.put(a, row)
            bar.update(b - a)
    if scan_fingerprint(scan) != fingerprint:
        raise FileError(
            f"{scan.path}: the scan was changed while it was read. Run the same command with "
            "resume=False (--no-resume)."
        )


def grey_denoiser(D: Denoiser | str | None) -> Denoiser | None:
    """Return a denoiser of one channel; None stays None.

    Parameters
    ----------
    D : denoiser, str or None
        What the caller gave.

    Returns
    -------
    denoiser or None
    """
    if D is None:
        return None
    D = as_denoiser(D) if isinstance(D, str) or not callable(D) else D
    known = describe(D)
    if known.channels not in (None, 1):
        raise InputError(
            f"reconstruct_volume: slices have one channel, the denoiser {known.name} takes "
            f"{known.channels}. Use a grey one."
        )
    return D


def _settings(
    scan: Scan, geometry: Geometry, D: Denoiser | None, config: VolumeConfig, meta: dict[str, Any]
) -> dict[str, Any]:
    """Return what must be the same when a run is resumed, and is written beside the volume."""
    about = {key: value for key, value in scan.meta.items() if key != "source"}
    return {
        "version": pnp_mlpatch.__version__,
        "torch": torch.__version__,
        **asdict(config),
        "geometry": as_dict(geometry),
        "denoiser": None if D is None else fingerprint(D),
        "scan": about | {"kind": scan.kind, "shape": list(scan.shape)},
        "meta": meta,
    }


__all__ = ["Run", "begin", "grey_denoiser", "here", "solve", "split"]
