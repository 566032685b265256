"""``pnp-mlpatch demo``: the example programs."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import pnp_mlpatch
from pnp_mlpatch.cli._common import command
from pnp_mlpatch.errors import FileError, PnPError

EXAMPLES = ("ct_512.py", "inpainting_512.py")


def run_demo(args: argparse.Namespace) -> int:
    """Run the example programs, one after the other.

    Parameters
    ----------
    args : argparse.Namespace
        The flags.

    Returns
    -------
    int
        The exit status.
    """
    folder = find_examples()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        print(f"== {name}", flush=True)
        status = _run(folder / name, ["--out", str(out), *(["--quick"] if args.quick else [])])
        if status:
            raise PnPError(f"demo: {name} ended with exit status {status}; what it says is above.")
    print(f"The pictures are in {out.resolve()}")
    return 0


def _run(program: Path, words: list[str]) -> int | str | None:
    """Run a program in this process; its exit status."""
    before, sys.argv = sys.argv, [str(program), *words]
    try:
        runpy.run_path(str(program), run_name="__main__")
    except SystemExit as ended:
        return ended.code
    finally:
        sys.argv = before
    return 0


def find_examples() -> Path:
    """Return the folder of the examples: in the installed package, or beside it in a checkout.

    Returns
    -------
    Path
    """
    package = Path(pnp_mlpatch.__file__).resolve().parent
    places = (package / "examples", package.parent / "examples")
    for folder in places:
        if all((folder / name).is_file() for name in EXAMPLES):
            return folder
    raise FileError(
        f"demo: {' and '.join(EXAMPLES)} are neither in {places[0]} nor in {places[1]}. "
        "Reinstall the package."
    )


EPILOG = """\
Examples:
  pnp-mlpatch demo                  sparse-view CT and inpainting at 512 x 512, minutes on a CPU
  pnp-mlpatch demo --quick --out pictures
"""


def add_parser(commands: Any) -> None:
    """Add the command and its flags.

    Parameters
    ----------
    commands : argparse sub-parsers
        Where it is added.
    """
    sub = command(
        commands,
        "demo",
        run_demo,
        "Run the two example reconstructions, and keep their pictures.",
        EPILOG,
    )
    sub.add_argument(
        "--out", metavar="DIR", default="demo", help="folder of the pictures (default: demo)"
    )
    sub.add_argument("--quick", action="store_true", help="small and few iterations")
