"""What the example programs share: their two options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def options(description: str) -> tuple[bool, Path]:
    """Read the options of an example program: ``--quick`` and ``--out``.

    Parameters
    ----------
    description : str
        What the program does, for ``--help``.

    Returns
    -------
    quick : bool
        Whether to run small and short, for testing.
    out : Path
        The folder of the pictures, which is made; by default "demo".

    Notes
    -----
    In a notebook there are no options.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small and short, for testing")
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder of the pictures (default: demo)"
    )
    args = parser.parse_args([] if "ipykernel" in sys.modules else None)
    args.out.mkdir(parents=True, exist_ok=True)
    return args.quick, args.out


__all__ = ["options"]
