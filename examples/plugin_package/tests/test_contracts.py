"""The plugins keep the contracts of their families, which are in ``pnp_mlpatch.testing``."""

from __future__ import annotations

import pytest
from pnp_extras.guided import Guided
from pnp_extras.nesterov import Nesterov
from pnp_extras.superres import Superres

from pnp_mlpatch import denoisers, operators, solvers
from pnp_mlpatch.testing import check_denoiser, check_operator, check_solver


def test_the_names_lead_here():
    assert operators.get("superres") is Superres
    assert denoisers.get("guided") is Guided
    assert solvers.get("nesterov") is Nesterov


def test_operator():
    check_operator(Superres.example())
    check_operator(Superres((1, 8, 4), factor=4))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_denoiser(sigma):
    check_denoiser(Guided(), sigma=sigma)
    check_denoiser(Guided(radius=1), channels=3, sigma=sigma)


@pytest.mark.parametrize("operator", ["identity", "mask", "blur", "superres"])
def test_solver(operator):
    check_solver(Nesterov(), operators.get(operator).example())


def test_our_operator_under_their_solvers_and_our_denoiser():
    for name in solvers.names():
        check_solver(solvers.make(name), Superres.example(), Guided())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Superres((1, 8, 9), factor=2),
        lambda: Guided(radius=0),
        lambda: Nesterov(iterations=0),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()
