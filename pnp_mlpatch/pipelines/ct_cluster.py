"""The batches of a CT volume as tasks of workers."""

from __future__ import annotations

import hashlib
import pickle
import platform
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pnp_mlpatch.errors import ClusterError, FileError
from pnp_mlpatch.pipelines.ct_batch import Job, Prepared, make_batch, prepare, torch_threads
from pnp_mlpatch.pipelines.ct_digest import tensor_digest
from pnp_mlpatch.pipelines.ct_run import Run
from pnp_mlpatch.pipelines.workers import ask, check_workers, packed, results

if TYPE_CHECKING:
    from distributed import Client

WHO = "reconstruct_volume"
_here = threading.Lock()  # one batch at a time in a process, whatever threads its worker has
_prepared: dict[str, Prepared] = {}  # the last job of this process, by its digest


def neighbours(client: Client) -> int:
    """Return how many workers share a machine, at most.

    Parameters
    ----------
    client : distributed.Client
        The client.

    Returns
    -------
    int

    Raises
    ------
    ClusterError
        If the workers do not fit this process.
    """
    check_workers(client, WHO)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return max(Counter(worker["host"] for worker in workers).values(), default=1)


def elsewhere(run: Run, client: Client) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Have the workers make the batches that are not finished.

    Parameters
    ----------
    run : Run
        The run.
    client : distributed.Client
        Its workers see the scan and the output.

    Yields
    ------
    start, stop : int
        The batch.
    row : dict
        What the journal says of it.

    Raises
    ------
    ClusterError
        If the workers do not see the files, or workers or scheduler are gone.
    """
    if not run.todo:
        return
    job = packed(run.job, WHO, "the denoiser, or the scan,")
    scan, first = run.job.scan, run.todo[0][0]
    seen = tensor_digest(scan.read(first, first + 1))
    for worker, answer in ask(client, WHO, look, job, first).items():
        if isinstance(answer, BaseException):
            raise ClusterError(f"{WHO}: the worker {worker}: {answer}") from answer
        if answer != seen:
            raise ClusterError(
                f"{WHO}: the worker {worker} reads other values from {scan.path} than this "
                "process. Give a path that is the same file for all."
            )
    said: set[str] = set()
    for (a, b), (row, warned) in results(client, WHO, batch_task, job, run.todo):
        for text in warned:
            if text not in said:
                warnings.warn(text, stacklevel=2)
        said.update(warned)
        yield a, b, row


def look(job: bytes, first: int) -> str:
    """Look at the files of a job, on a worker.

    Parameters
    ----------
    job : bytes
        The :class:`~pnp_mlpatch.pipelines.ct_batch.Job`, pickled.
    first : int
        A slice.

    Returns
    -------
    str
        The sha256 of that slice of the scan.

    Raises
    ------
    FileError
        If the scan cannot be read, or the output is not there.
    """
    found: Job = pickle.loads(job)
    advice = "Give paths that all workers see."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            digest = tensor_digest(found.scan.read(first, first + 1))
    except OSError as error:
        raise FileError(f"cannot read the scan ({error}). {advice}") from error
    if not found.parts.exists():
        raise FileError(f"cannot see the output {found.parts.folder}. {advice}")
    return digest


def batch_task(job: bytes, start: int, stop: int) -> tuple[dict[str, Any], list[str]]:
    """Make a batch, on a worker.

    Parameters
    ----------
    job : bytes
        The :class:`~pnp_mlpatch.pipelines.ct_batch.Job`, pickled.
    start, stop : int
        The slices of the scan.

    Returns
    -------
    row : dict
        What the journal says of it.
    warned : list of str
        The warnings.

    Raises
    ------
    FileError
        If the scan cannot be read, or the batch cannot be written.
    """
    digest = hashlib.sha256(job).hexdigest()
    with _here, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            if digest not in _prepared:
                found: Job = pickle.loads(job)
                with torch_threads(found.config.threads):
                    made = prepare(found)
                _prepared.clear()
                _prepared[digest] = made
            prepared = _prepared[digest]
            with torch_threads(prepared.job.config.threads):
                row = make_batch(prepared, start, stop)
        except OSError as error:
            raise FileError(f"on {platform.node()}: {error}") from error
    return row, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


__all__ = ["batch_task", "elsewhere", "look", "neighbours"]
