"""One new file is a plugin: it is listed, and keeps the untouched contracts and house rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from packages import contributed_plugins, package_with, run_in

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow

OPERATOR = '''
"""Blur by a moving camera, with zeros beyond the border."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.operators._base import LinearOperator, register


@register("motion")
class Motion(LinearOperator):
    """The mean of each pixel and the two to its left; the data step takes iterations.

    Parameters
    ----------
    image_shape : sequence of int
        (C, H, W).
    """

    def __init__(self, image_shape: Sequence[int]):
        super().__init__(image_shape, image_shape)

    @classmethod
    def example(cls) -> Motion:
        return cls((2, 6, 9))

    def _forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (2, 0)), (1, 3), stride=1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(y, (0, 2)), (1, 3), stride=1)
'''

DENOISER = '''
"""The mean over a window."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.denoisers._base import check_image, register
from pnp_mlpatch.denoisers._window import RADIUS


@register("box")
class Box:
    """The mean over a square window."""

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, "Box")
        padded = F.pad(x, (RADIUS,) * 4, mode="replicate")
        return F.avg_pool2d(padded, 2 * RADIUS + 1, stride=1)
'''

HELPER = '"""The window of box."""\n\nRADIUS = 1\n'

SOLVER = '''
"""A data step and a denoiser in turn, at one level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers import Problem, Solver, State, check_settings, register


@register("proximal_point")
@dataclass(frozen=True)
class ProximalPoint(Solver):
    r"""The plug-and-play proximal point method, :math:`x_{k+1} = D(h(x_k; \\alpha), \\sigma)`.

    Parameters
    ----------
    iterations : int
        At most.
    sigma : float
        The level of the denoiser, > 0.
    tol : float
        Of the relative change at which it stops.
    """

    iterations: int = 10
    sigma: float = 0.1
    tol: float = 1e-4

    def __post_init__(self) -> None:
        check_settings(self, sigma=self.sigma)

    def init(self, problem: Problem, x0: Tensor) -> State:
        return State(x=x0, iteration=0)

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        noise = problem.known_noise("ProximalPoint")
        return {"sigma": self.sigma, "alpha": (noise / self.sigma) ** 2}

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> State:
        level = self.levels(problem, state)
        f, _ = problem.A.data_step(state.x, level["alpha"], Aty=problem.Aty)
        return State(x=denoise(f, level["sigma"]), iteration=state.iteration + 1)
'''


NEW = {
    "operators/motion.py": OPERATOR,
    "denoisers/box.py": DENOISER,
    "denoisers/_window.py": HELPER,
    "solvers/proximal_point.py": SOLVER,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package with the new files in it, and those of CONTRIBUTING.md."""
    return package_with(tmp_path_factory.mktemp("dropped"), NEW | contributed_plugins()[0])


def contracts(package: Path, select: str) -> str:
    """The tests of contracts and of the house, untouched, for what ``select`` names."""
    files = (TESTS / "test_contracts.py", TESTS / "test_house.py")
    options = ("-v", "-p", "no:odl_plugins", "-p", "no:cacheprovider", "-k", select)
    return run_in(package, "-m", "pytest", *options, *files)


def test_a_third_operator_that_takes_iterations(package):
    out = contracts(package, "motion and (not test_solver_with_operator or hqs or pgd)")
    assert "test_operator[motion] PASSED" in out
    assert "test_solver_with_operator[motion-hqs] PASSED" in out
    assert "test_closed_forms_over_five_decades[dtype0-motion] SKIPPED" in out
    assert "test_public_docstrings_have_their_sections[operators.motion] PASSED" in out


def test_a_denoiser_with_a_helper_file_beside_it(package):
    out = contracts(package, "box or _window")
    assert "test_denoiser[box] PASSED" in out
    assert "test_plugins_import_no_plugins[denoisers.box] PASSED" in out
    assert "test_denoiser[_window]" not in out
    listed = run_in(package, "-c", "from pnp_mlpatch import denoisers; print(denoisers.names())")
    assert "'box'" in listed
    assert "_window" not in listed


def test_a_solver(package):
    out = contracts(package, "proximal_point and not (lensing or mask or radon or stack)")
    assert "test_solver_with_operator[blur-proximal_point] PASSED" in out
    assert "test_imports_point_down[solvers.proximal_point] PASSED" in out


def test_the_plugins_of_contributing(package):
    plugins, _ = contributed_plugins()
    names = [Path(name).stem for name in plugins]
    out = contracts(package, " or ".join(names))
    operator, denoiser, solver = names
    assert f"test_operator[{operator}] PASSED" in out
    assert f"test_denoiser[{denoiser}] PASSED" in out
    assert f"test_solver_with_operator[{operator}-{solver}] PASSED" in out
    assert f"test_a_solver_is_a_page[solvers.{solver}] PASSED" in out
