"""What the commands share: the registries by family, the device, flags, and errors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pnp_mlpatch.denoisers import registry as denoisers
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.io.atomic import out_of_memory
from pnp_mlpatch.operators import registry as operators
from pnp_mlpatch.registry import Registry
from pnp_mlpatch.solvers import registry as solvers

REGISTRIES: dict[str, Registry] = {"operator": operators, "denoiser": denoisers, "solver": solvers}
DEFAULTS = {"denoiser": "mlpatch", "solver": "admm"}


@contextmanager
def blame(who: str) -> Iterator[None]:
    """Turn a plain error of a constructor into one that says whose setting was wrong."""
    try:
        yield
    except (PnPError, OSError, RecursionError):
        raise
    except (
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        OverflowError,
        RuntimeError,
    ) as error:
        if out_of_memory(error):
            raise
        raise InputTypeError(
            f"{who}: a setting has a wrong type or value ({type(error).__name__}: {error})."
        ) from error


def prepare(args: argparse.Namespace) -> torch.device:
    """Set the threads, and return the device after trying it."""
    if args.threads is not None:
        if args.threads < 1:
            raise InputError(f"--threads must be >= 1, got {args.threads}.")
        torch.set_num_threads(args.threads)
    try:
        device = torch.device(args.device or "cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"--device {args.device}: cannot be used ({str(error).partition(chr(10))[0]}). "
            "Use cpu, or cuda where there is one."
        ) from error
    return device


SPOKEN = {
    "flat": "blank",
    "flat_after": "blank_after",
    "centre": "center",
}  # arguments that a flag calls otherwise
FUNCTIONS = ("reconstruct_volume", "read_scan", r"Scan\.geometry", "ParallelBeam", "FanBeam")
SOLVER = ("sigma", "alpha", "tol", "iterations")
COLUMNS = ("ra", "dec", "e1", "e2", "w")  # of a catalogue


def spoken(text: str, args: argparse.Namespace) -> str:
    """Put a message on one line, with flags of the command in place of arguments of Python.

    "Give noise=" becomes "Give --noise". Settings of a solver that have no flag of their own become
    --set solver.NAME=VALUE, columns of a catalogue --columns NAME=COLUMN.
    """
    known = vars(args)

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"] or ""
        if name == "sigma" and value.startswith("'"):  # of as_denoiser
            return found[0]
        name = name if name in known else SPOKEN.get(name, name)
        dashed = f"--{name.replace('_', '-')}"
        if name == "tune":
            return dashed if "tune" in known else found[0]
        if name == "weights" and name not in known and "denoiser" in known:
            return f"--set denoiser.weights={value.strip(chr(39)) or 'NAME'}"
        value = value.strip("'").replace(" ", "-") if name == "kind" else value
        if name in known:
            if value == "False":
                return f"--no-{name.replace('_', '-')}"
            return dashed if value in ("", "True") else f"{dashed} {value}"
        if f"no_{name}" in known and value == "False":
            return f"--no-{name.replace('_', '-')}"
        if "columns" in known and name in COLUMNS:
            return f"--columns {name}={value.strip(chr(39)) or 'NAME'}"
        if "set" in known and "solver" in known and name in SOLVER:
            return f"--set solver.{name}={value or 'VALUE'}"
        return found[0]

    said = re.sub(
        r"(?<![\w.(\[{/=-])(?P<name>[a-z]\w*)=(?P<value>'[^']*'|\w+(?:\.\d+)?)?",
        flag,
        " ".join(text.split()),
    )
    said = re.sub(r"(--[\w-]+(?: \w+)?) \(\1\)", r"\1", said)  # where a message names both
    return _as_flags(re.sub(rf"^(?:{'|'.join(FUNCTIONS)}): ", "", said), known)


def _as_flags(text: str, known: dict[str, Any]) -> str:
    """Turn "noise must be" into "--noise must be", where the command has such a flag."""

    def subject(found: re.Match[str]) -> str:
        return f"--{found[0].replace('_', '-')}" if found[0] in known else found[0]

    return re.sub(r"(?<![^ ])[a-z]\w*(?= must (?:be|name) )", subject, text)


def plain_text(doc: str) -> str:
    """Return a docstring without its reStructuredText marks."""
    return (
        re.sub(r":\w+:`~?(?:pnp_mlpatch\.[\w.]*\.)?([^`]*)`", r"\1", doc)
        .replace("``", "")
        .replace("\\*", "*")
    )


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, epilog: str
) -> argparse.ArgumentParser:
    """Make the parser of one command, with its description and examples."""
    raw = argparse.RawDescriptionHelpFormatter
    sub = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=raw)
    sub.set_defaults(run=run)
    return sub


def flags_of_a_run(
    to: Any, device: str = "cpu (default), cuda, cuda:1 ...", *, quiet: bool = True
) -> None:
    """Add --device, --threads and --quiet to a parser or to a group of it."""
    to.add_argument("--device", metavar="DEVICE", help=device)
    to.add_argument("--threads", type=int, metavar="N", help="threads of torch")
    if quiet:
        to.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def no_resume(to: Any, what: str = "an interrupted run") -> None:
    """Add --no-resume to a parser or to a group of it."""
    to.add_argument("--no-resume", action="store_true", help=f"start anew even if there is {what}")


def report_flag(to: Any) -> None:
    """Add --report to a parser or to a group of it."""
    to.add_argument(
        "--report",
        metavar="FILE.html",
        help="tell the run in one HTML file: image, fit, what was chosen and why",
    )
