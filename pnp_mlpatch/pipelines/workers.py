"""Workers of Dask: start or find them, check that they fit, and give them tasks."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

import pnp_mlpatch
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import ClusterError, InputError, InputTypeError, PnPError

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 300.0  # seconds without any worker until a run ends
BEAT = 1.0  # seconds between two looks at the scheduler
CONNECT = 30.0  # seconds until a scheduler counts as gone
LEAN = {  # keep freed memory, which would be mapped anew; no statistical profiler
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
}
# evaluated by the workers; it needs nothing that they may lack
VERSIONS = "(__import__('pnp_mlpatch').__version__, str(__import__('torch').__version__))"


@contextmanager
def connect(
    workers: int | None = None,
    *,
    scheduler: str | None = None,
    scheduler_file: str | PathLike[str] | None = None,
) -> Iterator[Client]:
    """Connect to workers for the ``with`` block; give exactly one of the three.

    Parameters
    ----------
    workers : int, optional
        Start so many processes on this machine, and end them after the block.
    scheduler : str, optional
        The address of a scheduler, such as "tcp://host:8786".
    scheduler_file : str or path, optional
        The file that ``dask scheduler --scheduler-file`` writes.

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        Unless one of the three is given, and is possible.
    ClusterError
        If there is no scheduler at the address.
    MissingPackage
        Without distributed.
    """
    if sum(one is not None for one in (workers, scheduler, scheduler_file)) != 1:
        raise InputError(
            "connect: give one of workers=N, scheduler='tcp://HOST:PORT' and scheduler_file=FILE."
        )
    distributed = require("distributed", "Several workers")
    if workers is not None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InputError(f"connect: workers must be an integer >= 1, got {workers!r}.")
        with (
            _silent(),
            require("dask", "Several workers").config.set(LEAN),
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=0,  # the batch bounds it
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    if scheduler_file is not None and not Path(scheduler_file).is_file():
        raise ClusterError(
            f"{scheduler_file}: no such file. 'dask scheduler --scheduler-file {scheduler_file}' "
            "writes it."
        )
    given = {"address": scheduler} if scheduler else {"scheduler_file": str(scheduler_file)}
    with _silent():
        try:
            client = distributed.Client(**given, timeout=CONNECT)
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(
                f"{scheduler or scheduler_file}: no scheduler answers there "
                f"({str(error) or type(error).__name__}). Start one by 'dask scheduler'."
            ) from error
        try:
            yield client
        finally:
            client.close(timeout=5)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the loggers of Dask, each of which has a level, from the shell: errors say it."""
    known = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    levels = {logger: logger.level for logger in map(logging.getLogger, known)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def check_workers(client: Client, who: str) -> int:
    """Check that there are workers, and that they have this package in this version.

    Parameters
    ----------
    client : distributed.Client
        The client.
    who : str
        Who asks, for messages.

    Returns
    -------
    int
        The number of workers.

    Raises
    ------
    InputTypeError
        If it is no client.
    ClusterError
        If there are no workers, or they have other versions of this package or of torch.
    """
    if not callable(getattr(client, "submit", None)) or not callable(getattr(client, "run", None)):
        raise InputTypeError(
            f"{who}: client must be a distributed.Client, got {type(client).__name__}."
        )
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except Exception as error:  # TimeoutError, or what the connection says
        raise ClusterError(
            f"{who}: the scheduler has no workers ({type(error).__name__}). Start some by "
            "'dask worker ADDRESS'."
        ) from error
    here = (pnp_mlpatch.__version__, str(torch.__version__))
    answers = ask(client, who, eval, VERSIONS)
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            raise ClusterError(
                f"{who}: the worker {worker} cannot import pnp_mlpatch "
                f"({type(answer).__name__}: {answer}). Install the same version there."
            )
        if tuple(answer) != here:
            raise ClusterError(
                f"{who}: the worker {worker} has pnp_mlpatch {answer[0]} with torch {answer[1]}, "
                f"this process {here[0]} with {here[1]}. Install the same versions."
            )
    return len(answers)


def ask(client: Client, who: str, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Call a function on all workers.

    Parameters
    ----------
    client : distributed.Client
        The client.
    who : str
        Who asks, for messages.
    function : callable
        What is called.
    *args : object
        Its arguments.

    Returns
    -------
    dict
        From the address of the worker to the answer, or the exception that was raised.

    Raises
    ------
    ClusterError
        If the scheduler is gone.
    """
    try:
        return cast(Any, client.run(function, *args, on_error="return"))
    except Exception as error:  # tornado, sockets and distributed raise many kinds
        raise ClusterError(_gone(who, client, error)) from error


def packed(job: Any, who: str, what: str) -> bytes:
    """Return a pickle.

    Parameters
    ----------
    job : object
        What the workers need.
    who : str
        Who asks, for messages.
    what : str
        What in it may not be picklable.

    Returns
    -------
    bytes

    Raises
    ------
    InputTypeError
        If it cannot be pickled.
    """
    try:
        return require("cloudpickle", "Several workers").dumps(job)
    except Exception as error:  # pickle raises what the objects raise
        raise InputTypeError(
            f"{who}: {what} cannot be sent to workers ({type(error).__name__}: {error}). Hold no "
            "locks, open files or generators in it, or give it by name."
        ) from error


def results(
    client: Client,
    who: str,
    function: Callable[..., Any],
    job: bytes,
    items: Sequence[tuple[Any, ...]],
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Call ``function(job, *item)`` for all items on the workers.

    A call whose worker is killed is made again by another one.

    Parameters
    ----------
    client : distributed.Client
        The client.
    who : str
        Who asks, for messages.
    function : callable
        A function of this package.
    job : bytes
        What all calls share. The scheduler keeps it and sends it to each worker once.
    items : sequence of tuple
        The further arguments.

    Yields
    ------
    item : tuple
    result : object
        In the order in which they come.

    Raises
    ------
    PnPError
        What a call raised.
    ClusterError
        If the scheduler is gone, there are no workers for five minutes, or a call has ended
        several of them.
    """
    distributed = require("distributed", "Several workers")
    token = f"{hashlib.sha256(job).hexdigest()[:16]}-{os.getpid()}-{time.monotonic_ns()}"
    futures: dict[Any, tuple[Any, ...]] = {}
    try:
        # a task of its own, so that the scheduler can make it again when its worker is killed
        held = client.submit(_same, job, key=f"job-{token}")
        for number, item in enumerate(items):
            key = f"{function.__name__}-{token}-{number}"
            futures[client.submit(function, held, *item, key=key, pure=False)] = item
        while futures:
            for future in _finished(distributed, client, who, futures):
                yield futures.pop(future), future.result()
    except PnPError:
        raise
    except distributed.KilledWorker as error:
        raise ClusterError(
            f"{who}: a task ended the workers that ran it ({error.task}). They lack memory, or "
            "crash. Take a smaller batch, or fewer workers on a machine; the same command goes on."
        ) from error
    except GeneratorExit:
        raise
    except Exception as error:
        if not _lost(error, client):
            raise
        raise ClusterError(_gone(who, client, error)) from error
    finally:
        _drop(client, list(futures))


def _finished(distributed: Any, client: Client, who: str, futures: dict[Any, Any]) -> list[Any]:
    """Return the futures that are finished, once there are some."""
    alone = time.monotonic()
    while True:
        try:
            ended = distributed.wait(list(futures), BEAT, return_when="FIRST_COMPLETED").done
            if ended:
                return list(ended)
        except TimeoutError:
            pass
        if client.status != "running":
            raise ClusterError(_gone(who, client, None))
        if client.scheduler_info(n_workers=-1)["workers"]:
            alone = time.monotonic()
        elif time.monotonic() - alone > PATIENCE:
            raise ClusterError(
                f"{who}: there have been no workers for {PATIENCE:.0f} s. What is finished is "
                "kept; start workers, and run the same command again."
            )


def _drop(client: Client, futures: list[Any]) -> None:
    """Cancel what is left, if there is somebody to tell."""
    if futures and client.status == "running":
        try:
            client.cancel(futures, force=True)
        except Exception:  # the scheduler has gone in between
            return


def _same(job: bytes) -> bytes:
    return job


def _lost(error: Exception, client: Client) -> bool:
    """Whether an exception comes of a lost connection, not of a task."""
    module = type(error).__module__.partition(".")[0]
    return module in ("distributed", "tornado", "concurrent", "asyncio") or (
        isinstance(error, (OSError, TimeoutError)) or client.status != "running"
    )


def _gone(who: str, client: Client, error: Exception | None) -> str:
    reason = f" ({type(error).__name__})" if error is not None else ""
    return (
        f"{who}: the connection to the scheduler is lost{reason}. What is finished is kept: start "
        "a scheduler and workers, and run the same command again."
    )


__all__ = ["ask", "check_workers", "connect", "packed", "results"]
