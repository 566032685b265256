"""Every registered plugin against the contract of its family; a new plugin is tested by being
there.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace

import pytest
import torch

from pnp_mlpatch import denoisers, operators, reconstruct, solvers
from pnp_mlpatch.denoisers import as_denoiser, e_mode, per_channel, registry, rescaled
from pnp_mlpatch.errors import ContractError, InputError
from pnp_mlpatch.operators.radon import BACKENDS, PROJECTORS, Radon
from pnp_mlpatch.testing import (
    adjoint_mismatch,
    check_denoiser,
    check_operator,
    check_solver,
    optimality,
)


@pytest.mark.parametrize("name", operators.names())
def test_operator(name):
    checks = check_operator(operators.get(name).example())
    assert len(checks) >= 20


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b not in ("auto", "astra_cuda")])
def test_radon_backend(backend, projector):
    check_operator(
        Radon(image_shape=(2, 13, 17), angles=11, backend=backend, projector=projector, cache=False)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", operators.names())
def test_operator_on_gpu(name):
    check_operator(operators.get(name).example().to("cuda"))


@pytest.mark.parametrize("name", denoisers.names())
def test_denoiser(name):
    """With its default weights where it has some, else with a tiny random network."""
    required = [
        p
        for p in inspect.signature(denoisers.get(name)).parameters.values()
        if p.default is p.empty
    ]
    D = registry.network(name).example() if required else denoisers.make(name)
    checks = check_denoiser(D, stateless_only=bool(required))
    assert len(checks) >= 13


@pytest.mark.parametrize("solver", solvers.names())
@pytest.mark.parametrize("operator", operators.names())
def test_solver_with_operator(solver, operator):
    """Those that draw samples go a part of their way."""
    made = solvers.make(solver)
    if hasattr(made, "burn_in"):
        made = replace(made, iterations=60, burn_in=20)
    checks = check_solver(made, operators.get(operator).example())
    assert len(checks) >= 10


def test_wrappers_keep_the_contract(mlpatch):
    check_denoiser(as_denoiser(mlpatch))
    check_denoiser(per_channel(mlpatch), channels=3)
    check_denoiser(rescaled(mlpatch, scale=2.0, offset=-0.5), sigma=0.2)
    D = e_mode(mlpatch)
    x = torch.rand(2, 2, 12, 9)
    assert torch.equal(D(x, 0.1)[:, :1], mlpatch(x[:, :1].contiguous(), 0.1))
    assert not D(x, 0.1)[:, 1].any()


@pytest.mark.parametrize("name", operators.names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_forms_over_five_decades(name, dtype):
    A = operators.get(name).example()
    if not A.closed_form:
        pytest.skip("its data step takes iterations")
    for decade in range(-3, 3):
        assert optimality(A, 10.0**decade, dtype=dtype) < (
            1e-5 if dtype == torch.float32 else 1e-12
        )


# ---- the contracts find what is wrong


class _WrongAdjoint(operators.get("identity")):
    def _adjoint(self, y):
        return 1.01 * y


def test_a_wrong_adjoint_is_found():
    A = _WrongAdjoint((1, 4, 5))
    assert adjoint_mismatch(A) > 1e-4
    with pytest.raises(ContractError, match=r"adjoint: <A x, y> = <x, A\^H y>"):
        check_operator(A)


def test_reconstruct_warns_of_it_when_asked():
    A, q = _WrongAdjoint((1, 4, 5)), torch.rand(1, 1, 4, 5)
    with pytest.warns(
        UserWarning,
        match=r"reconstruct: .* = \d\.\de-0\d for _WrongAdjoint: its adjoint is not its transpose",
    ):
        reconstruct(q, A, "tv", noise=0.1, iterations=2, check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reconstruct(
            q,
            operators.make("identity", image_shape=(1, 4, 5)),
            "tv",
            noise=0.1,
            iterations=2,
            check=True,
        )


@pytest.mark.parametrize("name", denoisers.names())
def test_networks_take_sigma_maps(name):
    torch.manual_seed(0)  # of its random weights
    try:
        D = registry.network(name).example()
    except InputError:
        D = None
    if D is None:
        pytest.skip("it has no weights to train")
    x = torch.rand(2, 1, 13, 10)
    assert torch.allclose(D(x, torch.full((1, 1, 13, 10), 0.1)), D(x, 0.1), atol=1e-6)
    half = torch.cat([torch.full((2, 1, 13, 5), 0.1), torch.full((2, 1, 13, 5), 0.2)], dim=-1)
    assert not torch.allclose(D(x, half), D(x, 0.1), atol=1e-6)
    with pytest.raises(InputError, match="sigma"):
        D(x, torch.full((2, 1, 4, 4), 0.1))


def test_functions_take_sigma_maps():
    x = torch.rand(2, 1, 13, 10)
    as_map = as_denoiser(
        lambda x, sigma: x / (1 + sigma**2) if sigma.shape == (2, 1, 13, 10) else None, sigma="map"
    )
    assert torch.allclose(as_map(x, 0.5), x / 1.25)


class _Faulty:
    def __init__(self, fault):
        self.fault, self.calls = fault, 0

    def __call__(self, x, sigma):
        self.calls += 1
        if self.fault == "state":
            return x * (1 - 0.1 * self.calls)
        if self.fault == "changes input":
            return x.mul_(0.9)
        if self.fault == "batch":
            return x - x.mean()
        if self.fault == "numpy":
            return x.numpy()
        if self.fault == "amplifies":
            return 1.1 * x
        return x


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("state", "the same call gives the same result"),
        ("changes input", "input is not changed"),
        ("batch", "does not depend on the others"),
        ("numpy", "returns a tensor"),
        ("amplifies", "noise on a smooth image is reduced"),
    ],
)
def test_a_faulty_denoiser_is_found(fault, words):
    with pytest.raises(ContractError, match=words):
        check_denoiser(_Faulty(fault))


class _NeverDenoises(solvers.get("hqs")):
    def step(self, problem, denoise, state):
        return super().step(problem, lambda x, sigma: 0.9 * x, state)


class _DoesNotCount(solvers.get("hqs")):
    def step(self, problem, denoise, state):
        return replace(super().step(problem, denoise, state), iteration=state.iteration)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (_NeverDenoises, "the denoiser is called"),
        (_DoesNotCount, "a step counts itself: 0 -> 0"),
    ],
)
def test_a_faulty_solver_is_found(kind, words):
    with pytest.raises(ContractError, match=words):
        check_solver(kind(sigma=0.1), operators.get("identity").example())
