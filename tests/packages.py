"""Copies of the package with more files in it, and the plugins that CONTRIBUTING.md shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pnp_mlpatch

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def package_with(folder: Path, files: Mapping[str, str]) -> Path:
    """Copy the package into the folder, with these files (name -> text) in it."""
    ignore = shutil.ignore_patterns("__pycache__")
    copy = shutil.copytree(Path(pnp_mlpatch.__file__).parent, folder / "pnp_mlpatch", ignore=ignore)
    for name, text in files.items():
        (copy / name).write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    return folder


def run_in(package: Path, *arguments: str | Path) -> str:
    """The output of Python in the folder of the copy, which must end well."""
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=package,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contributed_plugins() -> tuple[dict[str, str], list[str]]:
    """The Python blocks of CONTRIBUTING.md: those after the name of a file, by name, and others."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    named = re.findall(r"^`(\w+/\w+\.py)`:\n\n```python\n(.*?)^```", text, flags=re.M | re.S)
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    plugins = dict(named)
    return plugins, [block for block in blocks if block not in plugins.values()]
