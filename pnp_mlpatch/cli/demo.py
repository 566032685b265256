"""``pnp-mlpatch demo``: the example programs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pnp_mlpatch
from pnp_mlpatch.errors import FileError, PnPError

EXAMPLES = ("ct_512.py", "inpainting_512.py")


def run_demo(args: argparse.Namespace) -> int:
    """Run the example programs, one after the other."""
    folder = find_examples()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if folder.parent.joinpath("pyproject.toml").exists():  # a checkout: the examples shall import this package
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder.parent), environment.get("PYTHONPATH")]))
    for name in EXAMPLES:
        command = [sys.executable, str(folder / name), "--out", str(out), *(["--quick"] if args.quick else [])]
        print(f"== {name}", flush=True)
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode:
            raise PnPError(f"demo: {name} ended with exit status {done.returncode}; what it says is above.")
    print(f"The pictures are in {out.resolve()}")
    return 0


def find_examples() -> Path:
    """The folder of the example programs: in the installed package, or beside it in a checkout."""
    package = Path(pnp_mlpatch.__file__).resolve().parent
    places = (package / "examples", package.parent / "examples")
    for folder in places:
        if all((folder / name).is_file() for name in EXAMPLES):
            return folder
    raise FileError(f"demo: {' and '.join(EXAMPLES)} are neither in {places[0]} nor in {places[1]}. Reinstall the package.")
