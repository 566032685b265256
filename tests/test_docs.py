"""Every Python block of the README and the docs runs, in order, and so do the doctests."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from packages import contributed_plugins, package_with, run_in

from pnp_mlpatch import denoisers, operators, samples, solvers
from pnp_mlpatch.io.images import write_image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for family in (denoisers, operators, solvers):  # what a page registers stays in its test
        for name in family.names():
            family.get(name)  # what the package has is loaded once, for all tests
        monkeypatch.setattr(family.registry, "_made", dict(family.registry._made))
    write_image("photo.png", samples.camera()[..., 100:164, 200:264])  # the reader's own
    blocks = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    assert blocks or page.name not in ("README.md", "guide.md"), f"{page.name} shows no Python"
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


def test_the_plugins_of_contributing_keep_their_contracts(tmp_path):
    """Each block is a file of its family; the last block checks them by name."""
    plugins, others = contributed_plugins()
    assert [name.partition("/")[0] for name in plugins] == ["operators", "denoisers", "solvers"]
    package = package_with(tmp_path, plugins)
    modules = [f"pnp_mlpatch.{name[:-3].replace('/', '.')}" for name in plugins]
    imports = "".join(f"from {module} import *\n" for module in modules)
    out = run_in(package, "-c", "\n".join([imports, *others]))
    assert out.count("checks passed") == len(plugins)
    assert out.split()[-1] in ("converged", "max_iter")


@pytest.mark.parametrize("module", ["pnp_mlpatch", "pnp_mlpatch.api"])
def test_doctests(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
