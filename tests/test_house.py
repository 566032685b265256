"""The house: imports point down, plugins know no plugins, files and functions are short, docstrings
are whole.

``python tests/test_house.py`` writes the table of floors into CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pnp_mlpatch

ROOT = Path(pnp_mlpatch.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
FILE_LINES, FUNCTION_LINES, SOLVER_LINES, NOQA = 350, 50, 40, 5
FLOORS = (
    (("errors", "_checks", "_optional"), "errors, checks of arguments, optional packages"),
    (
        ("io", "linalg", "metrics", "registry", "weights"),
        "files, linear algebra, the registry, shipped weights",
    ),
    (("ct", "lensing", "samples"), "geometries, scans, spectra, catalogues: no operators"),
    (("denoisers", "operators"), "plugins, one a file; the two families do not see each other"),
    (("interop", "solvers", "training"), "solvers import the bases of the other two families"),
    (("viz",), "pictures of denoisers and results"),
    (("callbacks", "convergence", "testing", "tuning", "uncertainty"), "what is built on solvers"),
    (("api", "__init__"), "`reconstruct`"),
    (("pipelines",), "whole jobs: a CT volume, a mass map"),
    (("cli",), "the command line, one command a file"),
)
FLOOR = {name: number for number, (names, _) in enumerate(FLOORS) for name in names}
FAMILIES = ("operators", "denoisers", "solvers")


def modules() -> list[Path]:
    """The files of the package."""
    return sorted(p for p in ROOT.rglob("*.py") if "examples" not in p.parts)


def dotted(path: Path) -> tuple[str, ...]:
    """The module of a file, as parts below the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


def name_of(path: Path) -> str:
    """The module of a file, for the ids of tests."""
    return ".".join(dotted(path))


def imports(path: Path) -> list[tuple[str, ...]]:
    """The package's own modules that a file imports, as parts; what only type checkers see is left
    out.
    """
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if (node.module or "").split(".")[0] != "pnp_mlpatch":
                continue
            parts = tuple((node.module or "").split(".")[1:])
            for alias in node.names:
                deeper = (*parts, alias.name)
                place = ROOT.joinpath(*deeper)
                found.append(
                    deeper
                    if place.with_suffix(".py").exists() or place.is_dir()
                    else parts or ("__init__",)
                )
        elif isinstance(node, ast.Import):
            found += [
                tuple(a.name.split(".")[1:]) or ("__init__",)
                for a in node.names
                if a.name.split(".")[0] == "pnp_mlpatch"
            ]
    return found


def test_every_module_has_a_floor():
    assert {dotted(path)[0] for path in modules()} == set(FLOOR)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path):
    here = dotted(path)
    for there in imports(path):
        if there[0] == here[0] or (here[:2], there[0]) == (
            ("solvers", "_result"),
            "viz",
        ):  # Result.plot
            continue
        assert FLOOR[there[0]] <= FLOOR[here[0]], (
            f"{'.'.join(here)} imports {'.'.join(there)}, which is above it"
        )
        families = {here[0], there[0]}
        assert families != {"operators", "denoisers"}, (
            f"{'.'.join(here)} imports {'.'.join(there)}: the families do not see each other"
        )
        if here[0] == "solvers" and there[0] in FAMILIES:
            assert len(there) == 1 or there[1].startswith("_"), (
                f"{'.'.join(here)} imports the plugin {'.'.join(there)}"
            )


@pytest.mark.parametrize("path", [p for p in modules() if dotted(p)[0] in FAMILIES], ids=name_of)
def test_plugins_import_no_plugins(path):
    for there in imports(path):
        if there[0] in FAMILIES and len(there) > 1:
            assert there[1].startswith("_"), f"{name_of(path)} imports the plugin {'.'.join(there)}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_folder_imports_from_its_files(path):
    """Only plugins import from the `__init__` of their family."""
    here = dotted(path)
    plugin = here[0] in FAMILIES and len(here) > 1 and not here[1].startswith("_")
    if path.name in ("__init__.py", "__main__.py") or plugin:
        return
    for there in imports(path):
        assert there != here[:-1] or len(here) == 1, (
            f"{'.'.join(here)} imports from the __init__ of its own folder"
        )


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8").splitlines()
    assert len(text) <= FILE_LINES, f"{name_of(path)} has {len(text)} lines"
    for function in functions(ast.parse("\n".join(text))):
        lines = code_lines(function, text)
        assert lines <= FUNCTION_LINES, f"{name_of(path)}.{function.name} has {lines} lines of code"


@pytest.mark.parametrize(
    "path", [p for p in modules() if dotted(p)[0] == "solvers" and p.stem[0] != "_"], ids=name_of
)
def test_a_solver_is_a_page(path):
    """Its code, without imports, docstrings and comments."""
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    left_out = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (
            ast.get_docstring(node) is not None
        ):
            left_out.append(node.body[0])
    skipped = {n for node in left_out for n in range(node.lineno, (node.end_lineno or 0) + 1)}
    code = [
        line
        for number, line in enumerate(lines, 1)
        if number not in skipped and line.strip() and not line.strip().startswith("#")
    ]
    assert len(code) <= SOLVER_LINES, f"{name_of(path)} has {len(code)} lines of code"


def test_rules_are_rarely_set_aside():
    """In the whole repository; a line that says why."""
    root = CONTRIBUTING.parent
    places = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for folder in ("pnp_mlpatch", "tests", "benchmarks", "examples")
        for path in sorted((root / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "# no" + "qa" in line
    ]
    assert len(places) <= NOQA, "\n".join(places)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module."""
    return (
        node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, text: list[str]) -> int:
    """Lines of a function without its docstring, comments and blank lines."""
    lines = set(range(function.lineno, (function.end_lineno or function.lineno) + 1))
    first = function.body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return sum(
        1 for line in lines if text[line - 1].strip() and not text[line - 1].strip().startswith("#")
    )


def public(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The public functions, and the public methods of public classes, of a public module."""
    if any(part.startswith("_") for part in dotted(path)) and dotted(path)[-1] not in (
        "_base",
        "_adapt",
    ):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith(
            "_"
        ):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                is_method = isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
                if (
                    is_method
                    and not inner.name.startswith("_")
                    and not overrides(path, node.name, inner.name)
                ):
                    yield f"{node.name}.{inner.name}", inner


def overrides(path: Path, class_name: str, method: str) -> bool:
    """Whether a base class has the method, and so its docstring."""
    module = importlib.import_module(
        ".".join(("pnp_mlpatch", *(part for part in dotted(path) if part != "__init__")))
    )
    return any(method in base.__dict__ for base in getattr(module, class_name).__mro__[1:])


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a method is a property, whose docstring needs no sections."""
    return any(isinstance(d, ast.Name) and "property" in d.id for d in function.decorator_list)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_public_docstrings_have_their_sections(path):
    for name, function in public(path):
        text = ast.get_docstring(function) or ""
        assert text, f"{name_of(path)}.{name} has no docstring"
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        named = [a.arg for a in arguments if a.arg not in ("self", "cls")]
        if is_property(function):
            continue
        if named:
            assert "Parameters\n----------" in text, (
                f"{name_of(path)}.{name}: the docstring has no Parameters"
            )
            for argument in named:
                assert argument in text, (
                    f"{name_of(path)}.{name}: '{argument}' is not in its Parameters"
                )
        returned = ast.unparse(function.returns) if function.returns else "None"
        if returned not in ("None", "NoReturn") and not returned.startswith("Iterator"):
            assert "Returns\n-------" in text, (
                f"{name_of(path)}.{name}: the docstring has no Returns"
            )


def test_import_brings_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules); import pnp_mlpatch;"
        "pnp_mlpatch.operators.names(), pnp_mlpatch.denoisers.names(), pnp_mlpatch.solvers.names();"
        "print(sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    brought = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for heavy in (
        "deepinv",
        "odl",
        "astra",
        "matplotlib",
        "scipy",
        "skimage",
        "PIL",
        "torchvision",
        "safetensors",
    ):
        assert f"'{heavy}'" not in brought, brought


# ---- the table in CONTRIBUTING.md


def table() -> str:
    """The floors, from the ground, as Markdown."""
    rows = [
        f"| {number} | {', '.join(f'`{name}`' for name in names)} | {what} |"
        for number, (names, what) in enumerate(FLOORS)
    ]
    return "\n".join(["| floor | modules | what |", "|---|---|---|", *rows])


def test_contributing_has_the_table_of_floors():
    assert table() in CONTRIBUTING.read_text(encoding="utf-8"), "run: python tests/test_house.py"


if __name__ == "__main__":
    text = CONTRIBUTING.read_text(encoding="utf-8")
    start = text.index("| floor |")
    end = text.index("\n\n", start)
    CONTRIBUTING.write_text(text[:start] + table() + text[end:], encoding="utf-8")
