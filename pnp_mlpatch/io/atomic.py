"""Write files whole or not at all: beside their place first, then moved there."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

from pnp_mlpatch.errors import FileError, InputError

TEMPORARY = re.compile(r"\.pnp-mlpatch-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{8}(\..*)?")
DAY = 86400.0  # seconds after which the temporary file of another machine counts as left over


def atomic_write(path: str | PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: to a temporary file that is then moved into place.

    A file that is replaced keeps its mode, and a link stays a link: the file that it points to is
    replaced. Temporary files that killed processes left in the folder are removed.

    Parameters
    ----------
    path : str or path
        The file. Its folder is made if there is none.
    write : callable
        Writes the content to the path that it is given, which exists, is empty and has the ending
        of ``path``.

    Raises
    ------
    FileError
        If the file cannot be written; what was at ``path`` is as it was before.
    """
    target = follow(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{path}: cannot write there ({error.strerror}). Choose a folder that you may write to."
        ) from error
    check_writable(path)
    clean(target.parent)
    temporary = target.with_name(
        f"{_prefix()}{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}"
    )
    try:
        os.close(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        )  # the mode of new files, less the umask
        write(temporary)
        _flush(temporary)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except FileError:
        raise
    except (
        OSError,
        RuntimeError,
    ) as error:  # libraries in C++ raise RuntimeError where the disk is full
        if out_of_memory(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise FileError(
            f"{path}: could not be written ({reason}). The file is as it was before."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | PathLike[str], reads: Iterable[str | PathLike[str]] = ()) -> Path:
    """Check that a file can be written, before the long computation and not after it.

    Parameters
    ----------
    path : str or path
        The file that will be written.
    reads : iterable of str or path
        Files that are read, or written too, which must not be overwritten.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    FileError
        If there is no such folder, if it may not be written to, or if ``path`` is a folder, a
        device or write-protected.
    InputError
        If ``path`` is one of ``reads``.
    """
    path, target = Path(path), follow(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:  # a name that is too long, a file in the place of a folder
        raise FileError(
            f"{path}: cannot be written ({error.strerror}). Choose another name."
        ) from error
    if not os.path.isdir(target.parent):
        raise FileError(
            f"{path}: there is no folder {target.parent if os.path.islink(path) else path.parent}. "
            "Create it first."
        )
    if mode is not None and not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a plain file"
        raise FileError(f"{path}: cannot be written, it is {what}. Choose another name.")
    if not os.access(target.parent, os.W_OK) or (
        mode is not None and not os.access(target, os.W_OK)
    ):
        raise FileError(
            f"{path}: cannot be written. Choose a file in a folder that you may write to."
        )
    if any(follow(other) == target for other in reads):
        raise InputError(f"{path}: this is the input, or another output; choose another name.")
    return path


def follow(path: str | PathLike[str]) -> Path:
    """Return the absolute path of a file, links followed.

    Parameters
    ----------
    path : str or path
        The file, which need not exist.

    Returns
    -------
    Path
        The file itself.

    Raises
    ------
    FileError
        If links point to each other.
    """
    found = Path(os.path.realpath(path))
    if os.path.islink(found):  # it leads nowhere
        raise FileError(f"{path}: cannot be written ({os.strerror(errno.ELOOP)}). Remove the link.")
    return found


def clean(folder: str | PathLike[str]) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Those of processes that run stay.

    Parameters
    ----------
    folder : str or path
        The folder.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        found = TEMPORARY.fullmatch(name)
        if found is None:
            continue
        path = Path(folder, name)
        try:
            mine = found["host"] == _host() and os.name == "posix"
            if (not _runs(int(found["pid"]))) if mine else time.time() - path.stat().st_mtime > DAY:
                path.unlink()
        except OSError:  # somebody else was faster, or it is not ours to remove
            continue


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory ran out.

    Parameters
    ----------
    error : BaseException
        The exception.

    Returns
    -------
    bool
        True for MemoryError, and for the exceptions of torch, HDF5 and CUDA of this meaning.
    """
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError))
        and any(
            words in text
            for words in (
                "allocate memory",
                "out of memory",
                "memory allocation failed",
                "bad_alloc",
                "bad allocation",
            )
        )
    )


def _prefix() -> str:
    return f".pnp-mlpatch-{_host()}-"


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())[:24] or "host"


def _runs(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True


def _flush(path: Path) -> None:
    """Have the content on the disk before the name points to it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["atomic_write", "check_writable", "clean", "follow", "out_of_memory"]
