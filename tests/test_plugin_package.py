"""The example package as its user gets it: built, installed into an environment of its own, and
used by name. No network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

import pnp_mlpatch

PACKAGE = Path(__file__).parents[1] / "examples" / "plugin_package"
NAMES = {"operator": "superres", "denoiser": "guided", "solver": "nesterov"}


def run(
    *command: str | Path, path: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without the caller's PYTHONPATH; ``path`` is a folder of further packages."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip_install(python: Path, source: Path, *options: str | Path) -> None:
    """Build ``source`` with the hatchling that is here, and install it for ``python``; nothing is
    downloaded.
    """
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "--isolated",
        "--disable-pip-version-check",
        "--quiet",
        "install",
    )
    output(run(*pip, "--no-index", "--no-deps", "--no-build-isolation", *options, source))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("plugin_package")


@pytest.fixture(scope="module")
def source(folder) -> Path:
    """A copy of the package, so that neither build nor tests leave anything in the repository."""
    return shutil.copytree(
        PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
    )


@pytest.fixture(scope="module")
def python(folder, source) -> Path:
    """The interpreter of a new environment that sees the packages of this one, and has the example
    package installed.
    """
    home = folder / "environment"
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = Path(
        output(
            run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])")
        ).strip()
    )
    here = [
        Path(pnp_mlpatch.__file__).parents[1],
        *(p for p in map(Path, sys.path) if p.name in ("site-packages", "dist-packages")),
    ]
    (site / "packages_of_the_tests.pth").write_text(
        "".join(f"{p}\n" for p in here), encoding="utf-8"
    )
    pip_install(python, source)
    assert (site / "pnp_extras").is_dir()
    return python


COMMANDS = """
import sys
from pnp_mlpatch.cli import main

for words in sys.argv[1:]:
    assert main(words.split()) == 0
    print(end="\\f")
"""


def cli(python: Path, *commands: str, path: Path | None = None) -> list[str]:
    """What each command of ``pnp-mlpatch`` prints, all of them run in one fresh interpreter."""
    return output(run(python, "-c", COMMANDS, *commands, path=path)).split("\f")[:-1]


def make_package(folder: Path, name: str, module: str, text: str, points: dict[str, str]) -> Path:
    """The source of a package of one module, with entry points ``points`` (plugin name -> value)
    among the operators.
    """
    source = folder / f"{name}-source"
    source.mkdir()
    (source / f"{module}.py").write_text(text, encoding="utf-8")
    lines = [
        f'[project]\nname = "{name}"\nversion = "1.0"',
        '[project.entry-points."pnp_mlpatch.operators"]',
    ]
    lines += [f'{plugin} = "{value}"' for plugin, value in points.items()]
    lines += ['[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"']
    lines += [f'[tool.hatch.build.targets.wheel]\ninclude = ["{module}.py"]']
    (source / "pyproject.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return source


@pytest.fixture(scope="module")
def others(folder, python) -> Path:
    """A folder with a second package: an operator whose import raises, and one with a name that is
    taken.
    """
    points = {"shattered": "pnp_second:Shattered", "superres": "pnp_second:Superres"}
    second = make_package(
        folder,
        "pnp-second",
        "pnp_second",
        "raise RuntimeError('the licence server is down')\n",
        points,
    )
    pip_install(python, second, "--target", folder / "others")
    return folder / "others"


USE = """
    import sys
    import torch
    from pnp_mlpatch import denoisers, operators, reconstruct, samples, solvers
    from pnp_mlpatch.metrics import psnr

    assert "superres" in operators.names()
    assert "guided" in denoisers.names() and "nesterov" in solvers.names()
    imported = [name for name in sys.modules if name.startswith("pnp_extras")]
    assert not imported, "listing imports nothing"
    truth = samples.camera()[..., 100:196, 200:280].contiguous()
    A = operators.make("superres", image_shape=truth.shape[1:], factor=2)
    generator = torch.Generator().manual_seed(0)
    q = A(truth) + 0.03 * torch.randn((1, *A.data_shape), generator=generator)
    start = float(psnr(A.initial(q), truth))
    for D, solver in (("guided", "nesterov"), ("guided", "admm"), ("tv", "nesterov")):
        result = reconstruct(q, A, D, solver, noise=0.03, progress=False)
        assert float(psnr(result.x, truth)) > start, (D, solver)
    for family, name in ((operators, "superres"), (denoisers, "guided"), (solvers, "nesterov")):
        found = family.info(name)
        assert found.source == f"pnp_extras.{name}" and found.broken is None
        assert found.doc and found.signature
    """


def test_the_plugins_are_used_by_name(python, source):
    blocks = re.findall(
        r"^```python\n(.*?)^```",
        (source / "README.md").read_text(encoding="utf-8"),
        flags=re.M | re.S,
    )
    assert blocks
    output(run(python, "-c", "\n".join([textwrap.dedent(USE), *blocks])))


def test_the_command_line_knows_them(python):
    table, *shown = cli(python, "list", *(f"info {name}" for name in NAMES.values()))
    for (family, name), text in zip(NAMES.items(), shown, strict=True):
        (line,) = [line for line in table.splitlines() if line.split()[:2] == [name, family]]
        assert "BROKEN" not in line
        assert text.startswith(f"{name}: {family}, pnp_extras.{name}\n")
    assert "factor: int = 2" in shown[0]


@pytest.mark.slow
def test_its_own_tests_pass(python, source):
    shown = output(
        run(
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:odl_plugins",
            "-p",
            "no:cacheprovider",
            cwd=source,
        )
    )
    assert " passed" in shown
    assert "failed" not in shown
    assert "skipped" not in shown


def test_a_broken_package_is_reported_and_the_others_go_on(python, others):
    table, shown = cli(python, "list", "info shattered", path=others)
    (line,) = [line for line in table.splitlines() if line.startswith("shattered ")]
    for text in (line, shown):
        assert (
            "The operator 'shattered' (pnp_second:Shattered of package pnp-second) cannot "
            "be imported: RuntimeError: the licence server is down." in text
        )
    sound = [line.split()[0] for line in table.splitlines()[1:] if "BROKEN" not in line]
    assert {"mask", "tv", "mlpatch", "admm", "guided", "nesterov"} <= set(sound)


ONE_NAME_TWICE = """
    import torch
    from pnp_mlpatch import operators, reconstruct
    from pnp_mlpatch.errors import InputError

    words = (
        "Two operators are called 'superres': pnp_extras.superres:Superres of package "
        "pnp-mlpatch-extras-example, pnp_second:Superres of package "
    )
    try:
        operators.get("superres")
    except InputError as error:
        assert str(error).startswith(words), error
        assert str(error).endswith('. Uninstall or rename one of them.'), error
    else:
        raise SystemExit("no error")
    assert operators.info("superres").broken.startswith(words)
    A = operators.make("identity", image_shape=(1, 9, 7))
    q = torch.rand(1, 1, 9, 7)
    result = reconstruct(q, A, "guided", "nesterov", noise=0.1, progress=False)
    assert result.x.shape == (1, 1, 9, 7)
    """


def test_one_name_in_two_packages_is_an_error_that_names_both(python, others):
    output(run(python, "-c", textwrap.dedent(ONE_NAME_TWICE), path=others))
