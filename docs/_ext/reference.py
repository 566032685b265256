"""The pages of the API reference, one a module, and the order of the gallery."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from pathlib import Path
from typing import Any

import pnp_mlpatch

FIRST = (
    *("pnp_mlpatch", "pnp_mlpatch.operators", "pnp_mlpatch.denoisers", "pnp_mlpatch.solvers"),
    *("pnp_mlpatch.tuning", "pnp_mlpatch.uncertainty", "pnp_mlpatch.ct", "pnp_mlpatch.lensing"),
    *("pnp_mlpatch.pipelines", "pnp_mlpatch.training", "pnp_mlpatch.viz", "pnp_mlpatch.interop"),
)
GALLERY = (
    *("ct_60_views", "inpainting", "deblurring", "varying_blur", "super_resolution"),
    *("super_resolution_colour", "mri", "single_pixel", "low_light", "ct_counts", "mass_map"),
    *("third_party_denoiser", "own_operator", "own_denoiser", "own_solver", "nothing_to_choose"),
    *("error_bars", "several_data_sets", "training_in_two_minutes", "learned_patches"),
)


class Order:
    """The order of the gallery, as a key to sort by."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self, name: str) -> int:
        return GALLERY.index(Path(name).stem)


def modules() -> list[str]:
    """List the public modules but those of the command line, families first."""
    found = [
        m.name
        for m in pkgutil.walk_packages(pnp_mlpatch.__path__, "pnp_mlpatch.")
        if not any(part.startswith("_") for part in m.name.split("."))
        and m.name.split(".")[1] not in ("cli", "examples")
    ]
    return [*FIRST, *(name for name in sorted(found) if name not in FIRST)]


def names(module: Any) -> list[str]:
    """List the public names of a module: ``__all__``, or what is defined in it."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def entries() -> dict[str, list[tuple[str, str]]]:
    """Return for each module the directives and names of its page; a thing has one place."""
    seen: set[int] = set()
    pages: dict[str, list[tuple[str, str]]] = {}
    for path in modules():
        module = importlib.import_module(path)
        rows = []
        for name in names(module):
            value = getattr(module, name)
            if inspect.ismodule(value) or (callable(value) and id(value) in seen):
                continue
            seen.add(id(value))
            kind = "class" if inspect.isclass(value) else "function"
            if isinstance(value, types.GenericAlias):
                kind = "alias"
            rows.append((kind if callable(value) else "data", name))
        if rows:
            pages[path] = rows
    return pages


def write(folder: Path) -> None:
    """Write the pages, those that have changed only."""
    folder.mkdir(exist_ok=True)
    pages = entries()
    everything = {f"{path}.{name}" for path, rows in pages.items() for _, name in rows}
    for path, rows in pages.items():
        title = f"``{path}``"
        lines = [title, "=" * len(title), "", f".. automodule:: {path}", "   :no-members:"]
        lines += ["   :no-index:" if path in everything else "", ""]  # tuning.auto is a function
        lines += [f".. currentmodule:: {path}", "", ".. autosummary::", "   :nosignatures:", ""]
        lines += [*(f"   {name}" for kind, name in rows if kind in ("class", "function")), ""]
        for kind, name in rows:
            lines.append(f".. py:data:: {name}" if kind == "alias" else f".. auto{kind}:: {name}")
            lines += ["   :members:", "   :inherited-members: Module"] * (kind == "class") + [""]
        _write(folder / f"{path}.rst", "\n".join(lines))
    head = ["API reference", "=" * 13, "", "Every public name, by module.", ""]
    tables = [
        ("The families and what they meet in", [p for p in pages if p in FIRST]),
        ("All modules", [p for p in pages if p not in FIRST]),
    ]
    for title, paths in tables:
        head += [title, "-" * len(title), "", ".. toctree::", "   :maxdepth: 1", ""]
        head += [*(f"   {path}" for path in paths), ""]
    _write(folder / "index.rst", "\n".join(head))
    for path in folder.glob("*.rst"):
        if path.stem not in pages and path.stem != "index":
            path.unlink()


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
