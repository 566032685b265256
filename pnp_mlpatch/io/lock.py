"""Locks: two runs never write to one output at the same time."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from pnp_mlpatch.errors import FileError
from pnp_mlpatch.io.atomic import follow

try:
    import fcntl
except ModuleNotFoundError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def lock(path: str | PathLike[str], *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock of an output, the file ``.NAME.lock`` beside it, for the ``with`` block.

    The system releases the lock when the process ends, however it ends. The file of a killed run
    stays and is in nobody's way: the next run takes it over and removes it. Without ``fcntl``
    (Windows), and on file systems without locks, there is no lock.

    Parameters
    ----------
    path : str or path
        What is written.
    wait : float
        Seconds to wait for another run to end.

    Raises
    ------
    FileError
        If another run holds the lock (named by its process, machine and command), or if the folder
        cannot be written to.
    """
    if fcntl is None:
        yield
        return
    target = follow(path)
    place = target.with_name(f".{target.name.lstrip('.')}.lock")
    descriptor = _take(place, path, time.monotonic() + wait)
    try:
        yield
    finally:
        place.unlink(
            missing_ok=True
        )  # first the name, then the lock: nobody else can have it in between
        os.close(descriptor)


def _take(place: Path, path: str | PathLike[str], until: float) -> int:
    """Return the descriptor of the lock file, locked."""
    assert fcntl is not None
    while True:
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise FileError(
                f"{path}: cannot write there ({error.strerror}). Choose a folder that you may "
                "write to."
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.05)
                    os.close(descriptor)
                    continue
                raise FileError(
                    f"{path}: another run is writing it ({_holder(descriptor)}). Wait for its end, "
                    "or choose another name."
                ) from None
            except OSError as error:
                warnings.warn(
                    f"{place}: no lock, since the file system has none ({error.strerror}).",
                    stacklevel=5,
                )
            if _is_at(descriptor, place):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder ended and removed it between our two calls


def _is_at(descriptor: int, place: Path) -> bool:
    """Whether an open file still has its name; its holder may remove it at any moment."""
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    who = {"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)[:200]}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
    except OSError:  # a full disk: the lock holds without a name
        pass


def _holder(descriptor: int) -> str:
    try:
        who = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {who['pid']} on {who['host']}: {who['command']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process is unknown"


__all__ = ["lock"]
