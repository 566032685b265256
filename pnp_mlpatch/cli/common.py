"""What the commands share: the registries by family, the device, and errors that say whose setting was wrong."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pnp_mlpatch.denoisers.base import registry as denoisers
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.io.atomic import out_of_memory
from pnp_mlpatch.operators.base import registry as operators
from pnp_mlpatch.registry import Registry
from pnp_mlpatch.solvers.base import registry as solvers

REGISTRIES: dict[str, Registry] = {"operator": operators, "denoiser": denoisers, "solver": solvers}
DEFAULTS = {"denoiser": "mlpatch", "solver": "admm"}


@contextmanager
def blame(who: str) -> Iterator[None]:
    """Turn the plain errors of a constructor that was given a wrong setting into one that says whose it was."""
    try:
        yield
    except (PnPError, OSError, RecursionError):
        raise
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise InputTypeError(f"{who}: a setting has a wrong type or value ({type(error).__name__}: {error}).") from error


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
            f"--device {args.device}: cannot be used ({str(error).partition(chr(10))[0]}). Use cpu, or cuda where there is one."
        ) from error
    return device


def plain_text(doc: str) -> str:
    """A docstring without its reStructuredText marks."""
    return re.sub(r":\w+:`~?(?:pnp_mlpatch\.[\w.]*\.)?([^`]*)`", r"\1", doc).replace("``", "").replace("\\*", "*")
