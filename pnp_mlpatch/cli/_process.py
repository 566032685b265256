"""The command line as a process: Ctrl-C at any moment, and pipes without a reader.

Imports nothing heavy.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TextIO


class Pipe(io.FileIO):
    """A stream that drops what is written after its reader has gone.

    The computation goes on (``pnp-mlpatch ct ... | head -1``).
    """

    failed = False

    def write(self, content: Any, /) -> int:
        """Write bytes, if somebody reads them; another error (a full disk) is raised once."""
        try:
            return super().write(content)
        except BrokenPipeError:
            self.failed = True
        except OSError:
            if not self.failed:
                self.failed = True
                raise
        return memoryview(content).nbytes


def as_program(run: Callable[..., int]) -> int:
    """Run ``run(ready=...)`` and return its exit status.

    Until it calls ``ready``, and after it has returned, Ctrl-C ends the process at once: while
    modules are imported, an exception may be swallowed or turned into another, and there is nothing
    to tidy up. In between Ctrl-C raises KeyboardInterrupt, and whatever that became on its way, the
    process says that it was interrupted and ends with 130.
    """
    sys.stdout, sys.stderr = _stream(sys.stdout), _stream(sys.stderr)
    interrupted = False

    def stop(number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    _on_interrupt(_leave)
    try:
        status = run(ready=lambda: _on_interrupt(stop))
        sys.stdout.flush()
    except OSError as error:
        print(
            f"pnp-mlpatch: what was printed could not be written ({error.strerror}).",
            file=sys.stderr,
        )
        status = 2
    except Exception:
        if interrupted:
            _leave()
        raise
    except KeyboardInterrupt:
        _leave()
    finally:
        _on_interrupt(_leave)
    if interrupted and status not in (0, 130):
        _leave()
    return status


def _on_interrupt(handler: Callable[..., object]) -> None:
    """Handle SIGINT so, unless it is ignored (nohup, a job in the background)."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, handler)


def _leave(*_: object) -> NoReturn:
    """One line, and the end."""
    try:
        os.write(2, b"pnp-mlpatch: interrupted\n")
    finally:
        os._exit(130)


def _stream(stream: TextIO) -> TextIO:
    try:
        number = stream.fileno()
        stream.flush()
    except (AttributeError, OSError, ValueError):  # closed, or no stream of the system
        return stream
    raw = io.BufferedWriter(Pipe(number, "w", closefd=False))
    return io.TextIOWrapper(
        raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True
    )


__all__ = ["as_program"]
