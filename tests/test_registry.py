"""Plugins by name: listed without being imported, made with checked settings, broken ones reported
and left aside.
"""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
import sys
import textwrap

import pytest
import torch

from pnp_mlpatch import denoisers, operators, solvers
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import (
    BrokenPlugin,
    InputError,
    InputTypeError,
    MissingPackage,
    PnPError,
    UnknownPlugin,
)
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.registry import Registry, did_you_mean

FAMILIES = {"operator": operators, "denoiser": denoisers, "solver": solvers}
OPTIONAL = (
    "deepinv",
    "odl",
    "astra",
    "matplotlib",
    "scipy",
    "PIL",
    "skimage",
    "safetensors",
    "torchvision",
)


def python(code: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- listing


def test_listing_imports_no_plugin_and_no_optional_package():
    loaded = python(
        """
        import sys
        import pnp_mlpatch
        for family in (pnp_mlpatch.operators, pnp_mlpatch.denoisers, pnp_mlpatch.solvers):
            assert len(family.names()) >= 3
        print(*sys.modules, sep="\\n")
        """
    ).split()
    plugins = {
        f"pnp_mlpatch.{family}s.{name}"
        for family, module in FAMILIES.items()
        for name in module.names()
    }
    assert "pnp_mlpatch.operators.radon" in plugins
    assert not plugins & set(loaded)
    assert not set(OPTIONAL) & {name.partition(".")[0] for name in loaded}


def test_the_package_works_with_torch_and_numpy_only():
    """The finders of Python are wrapped, so that no optional package is found."""
    python(
        """
        import sys

        class Without:
            def __init__(self, finder):
                self.finder = finder

            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in sys.argv[1:]:
                    return None
                return self.finder.find_spec(name, path, target)

            def __getattr__(self, name):
                return getattr(self.finder, name)

        sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
        import torch
        from pnp_mlpatch import denoisers, errors, operators, reconstruct, solvers
        from pnp_mlpatch.denoisers.mlpatch import MLPatch
        from pnp_mlpatch.errors import MissingPackage
        from pnp_mlpatch.io.images import read_image, write_image
        from pnp_mlpatch.operators.blur import gaussian_psf

        assert {"radon", "mask"} < set(operators.names())
        assert "drunet" in denoisers.names() and "admm" in solvers.names()
        made = {
            "identity": {"image_shape": (1, 9, 7)},
            "lensing": {"image_shape": (2, 9, 7)},
            "blur": {"psf": gaussian_psf(1.0), "image_shape": (1, 9, 7)},
        }
        for name, settings in made.items():
            A = operators.make(name, **settings)
            q = A(torch.rand(1, *A.image_shape))
            for solver in solvers.names():
                result = reconstruct(q, A, "tv", solver, noise=0.1, iterations=2)
                assert torch.isfinite(result.x).all()
        mask = operators.make("mask", mask=(torch.rand(9, 7) < 0.5))
        net = MLPatch(width=8, rings=2, angles=4, radius=2.0)
        wanted = [
            ("astra-toolbox", lambda: operators.make("radon", image_shape=(1, 9, 7), angles=3)),
            ("deepinv", lambda: denoisers.make("drunet", weights=None)),
            ("scipy", lambda: mask.initial(torch.ones(1, 1, 9, 7))),
            ("safetensors", lambda: denoisers.make("mlpatch", weights=errors.__file__)),
            ("safetensors", lambda: net.save("a.safetensors", {})),
            ("pillow", lambda: read_image("a.png")),
            ("pillow", lambda: write_image("a.png", torch.ones(1, 9, 7))),
        ]
        for package, call in wanted:
            try:
                call()
            except MissingPackage as error:
                assert f"pip install {package}" in str(error), error
            else:
                raise SystemExit(f"{package} is not missed")
        for family in (operators, denoisers, solvers):
            for name in family.names():
                info = family.info(name)
                assert set(info.missing) == set(info.needs) & set(sys.argv[1:]), info
        """,
        *OPTIONAL,
    )


# ---- names and settings


@pytest.mark.parametrize(
    ("family", "wrong", "right"),
    [
        ("operator", "raddon", "radon"),
        ("denoiser", "mlpach", "mlpatch"),
        ("solver", "ADMM", "admm"),
        ("solver", "amdm", "admm"),
    ],
)
def test_unknown_names(family, wrong, right):
    registry = FAMILIES[family]
    for call in (registry.get, registry.make, registry.info):
        with pytest.raises(UnknownPlugin) as caught:
            call(wrong)
        assert (
            str(caught.value) == f"No {family} is called '{wrong}'. Did you mean '{right}'? Known: "
            f"{', '.join(registry.names())}."
        )
    with pytest.raises(LookupError):
        registry.get("nothing like it")


@pytest.mark.parametrize("name", [None, 3, Identity])
def test_names_are_strings(name):
    with pytest.raises(InputTypeError, match=r"The name of a plugin .operator. is a string; got"):
        operators.get(name)


def test_settings_are_checked_before_the_call():
    with pytest.raises(
        InputTypeError,
        match=r"The operator 'mask' has no setting 'chanels'. Did you mean 'channels'\? It "
        r"takes: mask, channels",
    ):
        operators.make("mask", mask=torch.ones(3, 3), chanels=2)
    with pytest.raises(
        InputTypeError,
        match=r"Radon: give image_shape=\(C, H, W\) and angles=, .*or a geometry: "
        r"Radon\(geometry\)",
    ):
        operators.make("radon", image_shape=(1, 4, 5))
    with pytest.raises(InputTypeError, match="The operator 'blur' needs psf, image_shape"):
        operators.make("blur")
    with pytest.raises(
        InputTypeError,
        match=r"The solver 'pgd' has no setting 'xyzzy'. It takes: iterations, sigma, tau, tol",
    ):
        solvers.make("pgd", xyzzy=1)


def test_did_you_mean():
    assert did_you_mean("mlpath", ["mlpatch", "tv"]) == "Did you mean 'mlpatch'? "
    assert did_you_mean("zzz", ["mlpatch", "tv"]) == ""


@pytest.mark.parametrize("family", FAMILIES)
def test_info_of_every_plugin(family):
    registry = FAMILIES[family]
    for name in registry.names():
        info = registry.info(name)
        assert (info.name, info.family, info.source, info.broken) == (
            name,
            family,
            "built in",
            None,
        )
        assert info.doc
        assert info.signature.startswith("(")
        assert set(info.needs) <= set(OPTIONAL)


def test_info_tells_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "astra", None)
    info = operators.info("radon")
    assert "astra" in info.needs
    assert info.missing == ("astra",)
    with pytest.raises(
        MissingPackage,
        match=r"The operator 'radon' needs the package 'astra', .*pip install astra-toolbox",
    ):
        operators.make("radon", image_shape=(1, 4, 5), angles=3)


# ---- plugins of others


@pytest.fixture
def registry() -> Registry:
    """A registry of its own: the files of the operators, and nothing registered yet."""
    return Registry("operator", package="pnp_mlpatch.operators")


class Doubled(Identity):
    """Twice an identity."""


def test_registering_at_run_time_and_twice(registry):
    assert registry.register("doubled", needs=("no_such_package",))(Doubled) is Doubled
    assert "doubled" in registry.names()
    assert registry.get("doubled") is Doubled
    assert registry.info("doubled").missing == ("no_such_package",)
    assert registry.info("doubled").source == __name__
    assert isinstance(registry.make("doubled", image_shape=(1, 2, 3)), Doubled)
    registry.register("doubled")(Doubled)  # a module that is imported again
    with pytest.raises(
        InputError,
        match=r"Two operators register the name 'doubled': .*Doubled and .*Identity. Rename one "
        r"of them",
    ):
        registry.register("doubled")(Identity)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules of other packages, by name and text, and the entry points that name them."""

    def install(texts: dict[str, str], points: list[tuple[str, str]]) -> None:
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
            monkeypatch.delitem(sys.modules, name, raising=False)
        made = [
            importlib.metadata.EntryPoint(name, value, "pnp_mlpatch.operators")
            for name, value in points
        ]
        monkeypatch.setattr(
            importlib.metadata,
            "entry_points",
            lambda *, group: made if group == "pnp_mlpatch.operators" else [],
        )

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


TRIPLED = """
from pnp_mlpatch.operators.identity import Identity

class Tripled(Identity):
    "Three times an identity."
"""


def test_entry_points_are_listed_without_import_and_loaded_by_name(registry, modules):
    modules({"their_package": TRIPLED}, [("tripled", "their_package:Tripled")])
    assert {"tripled", "mask"} <= set(registry.names())
    assert "their_package" not in sys.modules
    A = registry.make("tripled", image_shape=(1, 2, 3))
    assert type(A).__name__ == "Tripled"
    info = registry.info("tripled")
    assert (info.source, info.doc, info.broken) == (
        "their_package",
        "Three times an identity.",
        None,
    )
    with pytest.raises(
        InputTypeError,
        match=r"The operator 'tripled' has no setting 'shape'\. Did you mean 'image_shape'\?",
    ):
        registry.make("tripled", shape=(1, 2, 3))


BROKEN = {
    "raises": ("1 / 0", "their_package:Tripled", "ZeroDivisionError: division by zero"),
    "syntax": ("def", "their_package:Tripled", "SyntaxError"),
    "needs another": (
        "import no_such_package",
        "their_package:Tripled",
        "No module named 'no_such_package'",
    ),
    "no attribute": (TRIPLED, "their_package:Quadrupled", "Quadrupled"),
    "no module": ("", "their_packages:Tripled", "No module named 'their_packages'"),
    "our error": (
        "from pnp_mlpatch.errors import InputError\nraise InputError('a fault of ours')",
        "their_package:Tripled",
        "a fault of ours",
    ),
    "exits": ("raise SystemExit(3)", "their_package:Tripled", "SystemExit: 3"),
    "no signature": ("Tripled = dict", "their_package:Tripled", "has no signature"),
    "not callable": ("Tripled = 3", "their_package:Tripled", "callable"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_and_the_others_go_on(case, registry, modules):
    text, point, words = BROKEN[case]
    modules(
        {"their_package": text, "another_package": TRIPLED},
        [("broken", point), ("whole", "another_package:Tripled")],
    )
    with pytest.raises(PnPError, match=words) as caught:
        registry.get("broken")
    if case != "our error":
        assert isinstance(caught.value, BrokenPlugin)
        assert "operator 'broken'" in str(caught.value)
    infos = {name: registry.info(name) for name in ("broken", "whole")}
    assert words in infos["broken"].broken
    assert infos["whole"].broken is None


def test_ctrl_c_while_a_plugin_is_imported_is_no_fault_of_it(registry, modules):
    modules({"their_package": "raise KeyboardInterrupt"}, [("slow", "their_package:Tripled")])
    with pytest.raises(KeyboardInterrupt):
        registry.info("slow")


class Nasty:
    """A default that has no text."""

    def __repr__(self):
        raise RuntimeError("never")


def test_plugins_that_cannot_be_described_are_broken_and_listed(registry):
    def described(x: object = Nasty()):
        return x

    class NoModule(Identity):
        pass

    NoModule.__module__ = None
    registry.register("nasty")(described)
    registry.register("in_c")(dict)
    registry.register("no_module")(NoModule)
    registry.register("partial")(functools.partial(Identity, (1, 2, 3)))
    registry.register("dotted", needs=("no_such_package.part", ""))(Doubled)
    infos = {
        name: registry.info(name) for name in ("nasty", "in_c", "no_module", "partial", "dotted")
    }
    assert "cannot be described: RuntimeError: never" in infos["nasty"].broken
    assert "has no signature" in infos["in_c"].broken
    assert infos["dotted"].missing == ("no_such_package.part", "")
    assert all(infos[name].broken is None for name in ("no_module", "partial", "dotted"))
    with pytest.raises(BrokenPlugin, match="has no signature"):
        registry.make("in_c")
    with pytest.raises(InputError, match="Two operators register the name 'partial'"):
        registry.register("partial")(functools.partial(Doubled, (1, 2, 3)))


@pytest.mark.parametrize(
    "points",
    [[("twice", "a:A"), ("twice", "b:B")], [("mask", "a:A")]],
    ids=["two packages", "a name of ours"],
)
def test_two_plugins_with_one_name(points, registry, modules):
    text = TRIPLED.replace("Tripled", "A")
    modules({"a": text, "b": text.replace("class A", "class B")}, points)
    name = points[0][0]
    with pytest.raises(
        InputError,
        match=rf"Two operators are called '{name}': a:A, .*Uninstall or rename one of them",
    ):
        registry.get(name)
    assert "Uninstall or rename" in registry.info(name).broken


def test_one_entry_point_found_twice_is_one(registry, modules):
    modules({"their_package": TRIPLED}, [("tripled", "their_package:Tripled")] * 2)
    assert registry.get("tripled").__name__ == "Tripled"


def test_a_file_that_registers_nothing(tmp_path, monkeypatch):
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "__init__.py").touch()
    (tmp_path / "family" / "empty.py").touch()
    (tmp_path / "family" / "_private.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("operator", package="family")
    assert registry.names() == ["empty"]
    with pytest.raises(
        BrokenPlugin, match=r"The module family.empty registers no operator called 'empty'"
    ):
        registry.get("empty")
    for name in ("family.empty", "family"):
        del sys.modules[name]


# ---- packages


def test_require_returns_the_module():
    assert require("json", "a test").dumps([1]) == "[1]"
    assert require("importlib.metadata", "a test") is importlib.metadata


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("no_such_package", "no_such_package"),
        ("no_such_package.part", "no_such_package"),
        ("skimage.metrics", "scikit-image"),
        ("PIL.Image", "pillow"),
    ],
)
def test_require_names_the_pip_line(package, line, monkeypatch):
    top = package.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, top, None)
    words = (
        f"My operator needs the package '{top}', which is not installed. Install it with: pip "
        f"install {line}"
    )
    with pytest.raises(MissingPackage, match=words) as caught:
        require(package, "My operator")
    assert isinstance(caught.value, ImportError)


def test_require_does_not_hide_a_fault_inside_a_package(tmp_path, monkeypatch):
    (tmp_path / "faulty_package.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require("faulty_package", "a test")


def test_require_names_what_a_package_itself_lacks(tmp_path, monkeypatch):
    (tmp_path / "needy_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingPackage,
        match=r"'no_such_package' \(for 'needy_package'\), .*pip install no_such_package",
    ):
        require("needy_package", "a test")


def test_radon_without_scipy_says_so(monkeypatch):
    """ASTRA itself imports scipy."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("astra", "scipy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingPackage, match="pip install scipy"):
        operators.make("radon", image_shape=(1, 8, 8), angles=4)


def test_an_operator_has_two_hooks_and_needs_no_example():
    class Twice(operators.LinearOperator):
        def _forward(self, x):
            return 2 * x

        def _adjoint(self, y):
            return 2 * y

    A = Twice((1, 4, 4), (1, 4, 4))
    assert torch.equal(A(torch.ones(1, 1, 4, 4)), 2 * torch.ones(1, 1, 4, 4))
    with pytest.raises(InputError, match=r"Twice: has no example\(\)"):
        Twice.example()


def test_the_name_of_weights_says_how_to_take_them():
    with pytest.raises(
        UnknownPlugin,
        match=r"'mlpatch-sr' are weights, not a denoiser\. Take the denoiser 'mlpatch' with "
        r"weights='mlpatch-sr'",
    ):
        denoisers.make("mlpatch-sr")
