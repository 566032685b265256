"""What the site is made of: the pages of the API reference, and the order of the gallery."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GALLERY = sorted((ROOT / "examples" / "gallery").glob("*.py"))


@pytest.fixture(scope="module")
def reference():
    """The program that writes the pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "_ext"))
        yield importlib.import_module("reference")
        sys.modules.pop("reference")


def test_every_public_name_has_one_page(reference):
    pages, seen = reference.entries(), {}
    for path in reference.modules():
        module = importlib.import_module(path)
        for name in reference.names(module):
            value = getattr(module, name)
            if inspect.ismodule(value) or not callable(value):
                continue
            places = [
                p
                for p, rows in pages.items()
                for _, known in rows
                if getattr(importlib.import_module(p), known) is value
            ]
            assert len(places) == 1, f"{path}.{name}: {places}"
            seen[f"{path}.{name}"] = places
    assert seen["pnp_mlpatch.reconstruct"] == ["pnp_mlpatch"]
    assert len(seen) > 200


def test_public_classes_and_functions_are_described(reference):
    """numpydoc reads Parameters, Returns and Raises from them."""
    for path, rows in reference.entries().items():
        for kind, name in rows:
            if kind in ("class", "function"):
                value = getattr(importlib.import_module(path), name)
                assert inspect.getdoc(value), f"{path}.{name} has no docstring"


def test_pages_are_written(reference, tmp_path):
    reference.write(tmp_path / "api")
    reconstruct = (tmp_path / "api" / "pnp_mlpatch.rst").read_text()
    assert ".. autofunction:: reconstruct" in reconstruct
    (tmp_path / "api" / "pnp_mlpatch.gone.rst").write_text("of a module that was removed")
    reference.write(tmp_path / "api")
    assert not (tmp_path / "api" / "pnp_mlpatch.gone.rst").exists()


def test_the_gallery_has_an_order(reference):
    assert sorted(reference.GALLERY) == [path.stem for path in GALLERY]


@pytest.mark.parametrize("program", GALLERY, ids=lambda p: p.stem)
def test_examples_are_short(program):
    lines = program.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert lines[0] == '"""'
    assert set(lines[2]) == {"="}
    assert len(lines[1]) == len(lines[2])
