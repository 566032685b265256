"""The house: imports point down, plugins know no plugins, and importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pnp_mlpatch

ROOT = Path(pnp_mlpatch.__file__).parent
FLOORS = {
    "errors": 0,
    "io": 0,
    "registry": 1,
    "reading": 1,
    "linalg": 1,
    "metrics": 1,
    "weights": 1,
    "imageio": 1,
    "ct": 1,
    "lensing": 1,
    "operators": 2,
    "denoisers": 2,
    "samples": 2,
    "solvers": 3,
    "interop": 4,
    "training": 4,
    "testing": 4,
    "noise": 4,
    "loss": 4,
    "judging": 4,
    "tuning": 4,
    "convergence": 4,
    "uncertainty": 4,
    "callbacks": 4,
    "api": 4,
    "massmap": 5,
    "volume": 5,
    "report": 5,
    "viz": 5,
    "cli": 6,
    "__init__": 5,
}
FAMILIES = ("operators", "denoisers", "solvers")
SHARED = {"anderson", "base", "figure", "networks", "sampling", "transmission", "wrap", "schedules", "streaming", "__init__"}


def modules():
    return sorted(p for p in ROOT.rglob("*.py") if "examples" not in p.parts)


def dotted(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def imports(path: Path) -> list[tuple[str, ...]]:
    """The package's own modules that a file imports anywhere, as parts below the package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pnp_mlpatch":
            parts = tuple(node.module.split(".")[1:])
            for alias in node.names:
                deeper = (*parts, alias.name)
                is_module = (ROOT.joinpath(*deeper).with_suffix(".py")).exists() or ROOT.joinpath(*deeper).is_dir()
                found.append(deeper if is_module else parts or ("__init__",))
        elif isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) or ("__init__",) for a in node.names if a.name.split(".")[0] == "pnp_mlpatch"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: "/".join(dotted(p)))
def test_imports_point_down(path):
    here = dotted(path)
    assert here[0] in FLOORS, f"{here[0]} has no floor"
    for there in imports(path):
        if there[0] == here[0]:
            continue
        assert FLOORS[there[0]] <= FLOORS[here[0]], f"{'.'.join(here)} imports {'.'.join(there)}, which is above it"
        if {here[0], there[0]} == {"operators", "denoisers"}:
            pytest.fail(f"{'.'.join(here)} imports {'.'.join(there)}: operators and denoisers do not see each other")
        if here[0] == "solvers" and there[0] in FAMILIES:
            assert there[1:] == ("base",), f"{'.'.join(here)} imports {'.'.join(there)}: solvers import only the bases"


@pytest.mark.parametrize("path", [p for p in modules() if dotted(p)[0] in FAMILIES], ids=lambda p: "/".join(dotted(p)))
def test_plugins_import_no_plugins(path):
    for there in imports(path):
        if there[0] in FAMILIES and len(there) > 1:
            assert there[1] in SHARED, f"{'.'.join(dotted(path))} imports the plugin {'.'.join(there)}"


def test_import_brings_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules); import pnp_mlpatch;"
        "pnp_mlpatch.operators.names(), pnp_mlpatch.denoisers.names(), pnp_mlpatch.solvers.names();"
        "print(sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    brought = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("deepinv", "odl", "astra", "matplotlib", "scipy", "skimage", "PIL", "torchvision", "safetensors"):
        assert f"'{heavy}'" not in brought, brought
