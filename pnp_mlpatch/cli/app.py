"""``pnp-mlpatch app``: try operators, denoisers and solvers in the browser."""

from __future__ import annotations

import argparse
from typing import Any

from pnp_mlpatch.cli._common import command
from pnp_mlpatch.errors import InputError

EPILOG = """\
The page is served on this machine only (127.0.0.1). It takes a sample or an upload (PNG, TIFF or
NPY of at most 10 MiB), runs it, and shows the report of the run and the Python that repeats it.
Ctrl-C ends it. It needs pip install 'pnp-mlpatch[app]'.

Examples:
  pnp-mlpatch app
  pnp-mlpatch app --port 8000 --no-browser
"""


def run_app(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Parameters
    ----------
    args : argparse.Namespace
        The flags.

    Returns
    -------
    int
        The exit status.
    """
    if not 1 <= args.port <= 65535:
        raise InputError(f"--port must be from 1 to 65535, got {args.port}.")
    from pnp_mlpatch.cli._app import serve

    serve(args.port, not args.no_browser)
    return 0


def add_parser(commands: Any) -> None:
    """Add the command and its flags.

    Parameters
    ----------
    commands : argparse sub-parsers
        Where it is added.
    """
    sub = command(commands, "app", run_app, "Try it in the browser, on this machine.", EPILOG)
    sub.add_argument("--port", type=int, default=5006, metavar="N", help="default: 5006")
    sub.add_argument("--no-browser", action="store_true", help="open no window")


__all__ = ["add_parser", "run_app"]
