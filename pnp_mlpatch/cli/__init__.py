"""The command line: ``pnp-mlpatch`` with one command a file.

What the user can mend (a file, a name, a setting) is one line on stderr and the exit status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pnp_mlpatch.cli._process import as_program

if TYPE_CHECKING:  # all else is imported when Ctrl-C is looked after
    import argparse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The words of the command. By default they are those of the process, which is then run as a
        program: Ctrl-C ends it with one line at any moment, and a closed pipe does not end it.

    Returns
    -------
    int
        The exit status: 0, 2 for what the user can mend, 130 if interrupted.
    """
    if argv is None:
        return as_program(_run)
    return _run(argv)


def _run(argv: Sequence[str] | None = None, ready: Callable[[], object] = lambda: None) -> int:
    """Parse and run; ``ready`` is called when all is imported and the computation begins."""
    import argparse
    import shlex
    import warnings

    from pnp_mlpatch.cli._common import spoken
    from pnp_mlpatch.errors import PnPError

    args, shown = argparse.Namespace(), warnings.formatwarning
    try:
        parser = build_parser()
        ready()
        args = parser.parse_args(argv)
        args.command_line = shlex.join(["pnp-mlpatch", *(sys.argv[1:] if argv is None else argv)])
        warnings.formatwarning = lambda message, *_, **__: (
            f"pnp-mlpatch: warning: {spoken(str(message), args)}\n"
        )
        if args.command is None:
            parser.print_help()
            return 2
        with warnings.catch_warnings():
            # what a person must know about the data is said whatever the environment silences
            warnings.filterwarnings("default", category=UserWarning, module="pnp_mlpatch")
            return args.run(args)
    except (PnPError, OSError, RecursionError, MemoryError, RuntimeError) as error:
        print(f"pnp-mlpatch: {spoken(explain(error), args)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pnp-mlpatch: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = shown


def explain(error: Exception) -> str:
    """One sentence for an error that the user can mend; others are raised again.

    Parameters
    ----------
    error : Exception
        What was raised.

    Returns
    -------
    str
    """
    from pnp_mlpatch.errors import PnPError
    from pnp_mlpatch.io.atomic import out_of_memory

    if out_of_memory(error):
        return (
            f"the memory does not suffice ({_short(error) or type(error).__name__}). Free "
            "some, or take a smaller image, batch or model."
        )
    if isinstance(error, RecursionError):
        return f"something that was given is nested too deeply ({_short(error)})."
    if isinstance(error, (PnPError, OSError)):
        return " ".join(str(error).split())
    raise error


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


DESCRIPTION = (
    "Plug-and-play reconstruction: an operator (how the data came about), a denoiser (what "
    "images look like), a solver."
)

EPILOG = """\
Start here:
  pnp-mlpatch list                  what there is
  pnp-mlpatch info radon            what it does, and its settings
  pnp-mlpatch demo --quick          two reconstructions, with pictures
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 \\
      --noise 0.02 --output filled.png
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser; every command has a description and examples.

    Returns
    -------
    argparse.ArgumentParser
    """
    import argparse

    import pnp_mlpatch
    from pnp_mlpatch.cli import app, ct, demo, massmap, merge, show, solve, train

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "pnp-mlpatch", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    version = f"pnp-mlpatch {pnp_mlpatch.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in (show, solve, ct, merge, massmap, train, demo, app):
        module.add_parser(commands)
    return parser


__all__ = ["build_parser", "explain", "main"]
