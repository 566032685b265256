"""Quadratic problems, whose answer is known: where each solver comes to rest; FISTA, DRS, RED,
PDHG; results that are saved and drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from pnp_mlpatch import averaged, reconstruct, solvers, viz
from pnp_mlpatch.errors import Diverged, InputError, PnPError, WeightsError
from pnp_mlpatch.interop import from_functions
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import Result, State, Tuned, make_problem
from pnp_mlpatch.viz import panels as report
from pnp_mlpatch.viz import result as figure
from pnp_mlpatch.viz.panels import result_figure

SHAPE = (1, 8, 6)
PIXELS = 48
NOISE, SIGMA = 0.5, 0.6
EXACT = {"data_iterations": 100, "data_tol": 1e-13}


def frequencies(x):
    """The eigenvalues of the five-point Laplacian L with periodic borders, 0 to 8."""
    return sum(
        (2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(n, dtype=x.dtype))).reshape(s)
        for n, s in zip(x.shape[-2:], [(-1, 1), (1, -1)], strict=True)
    )


def gaussian(x, sigma):
    """The proximal map of 1/2 <x, L x> at eta = sigma^2: (1 + sigma^2 L)^-1 x."""
    eta = torch.as_tensor(sigma, dtype=x.dtype).square().reshape(-1, 1, 1, 1)
    return torch.fft.ifft2(torch.fft.fft2(x) / (1 + eta * frequencies(x))).real


def dense():
    matrix = (
        torch.randn(30, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 8
    )
    return from_functions(
        lambda x: x.flatten(1) @ matrix.to(x).T,
        lambda y: (y @ matrix.to(y)).reshape(-1, *SHAPE),
        SHAPE,
        (30,),
    )


OPERATORS = {
    "identity": lambda: Identity(SHAPE),
    "mask": lambda: Mask(random_mask(SHAPE[1:], keep=0.5)),
    "blur": lambda: Blur(gaussian_psf(0.7), SHAPE),
    "dense": dense,
}


def matrix_of(function):
    basis = torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, *SHAPE)
    return function(basis).flatten(1).T


@pytest.fixture(params=OPERATORS)
def quadratic(request):
    """A, two data q, and the answers to them, (2, 1, 8, 6), by dense solves."""
    A = OPERATORS[request.param]()
    q = torch.randn(
        2, *A.data_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    one, normal, D = (
        torch.eye(PIXELS, dtype=torch.float64),
        matrix_of(A.normal),
        matrix_of(lambda x: gaussian(x, SIGMA)),
    )
    L = (torch.linalg.inv(D) - one) / SIGMA**2
    b = A.adjoint(q).flatten(1).T

    def answer(matrix):
        return torch.linalg.solve(matrix, b).T.reshape(2, *SHAPE)

    def red(alpha):
        return answer(normal + alpha * (one - D))

    return SimpleNamespace(
        A=A, q=q, most_probable=lambda alpha: answer(normal + alpha * SIGMA**2 * L), red=red
    )


def off(x, exact):
    return float((x - exact).norm() / exact.norm())


# ---- where they come to rest


@pytest.mark.parametrize("name", ["admm", "fast_admm", "drs", "pdhg"])
@pytest.mark.parametrize("alpha", [None, 0.3])
def test_rest_of_admm_and_its_kin(quadratic, name, alpha):
    """A^H (A x - q) + alpha u = 0 with u = sigma^2 L x: the minimum of |A x - q|^2 / (2 noise^2) +
    <x, L x> / 2 if alpha = (noise / sigma)^2.
    """
    settings = {} if name == "pdhg" else EXACT
    result = reconstruct(
        quadratic.q,
        quadratic.A,
        gaussian,
        name,
        noise=None if alpha else NOISE,
        alpha=alpha,
        sigma=SIGMA,
        iterations=1500,
        tol=1e-13,
        **settings,
    )
    assert off(result.x, quadratic.most_probable(alpha or (NOISE / SIGMA) ** 2)) < 1e-6


@pytest.mark.parametrize("name", ["pgd", "fista"])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_rest_of_gradient_steps(quadratic, name, share):
    """With sigma = sqrt(tau) noise, whatever tau: the same minimum."""
    tau = share / (1.01 * quadratic.A.norm() ** 2)
    for settings in ({"tau": tau}, {"tau": tau, "sigma": tau**0.5 * NOISE}, {}):
        result = reconstruct(
            quadratic.q,
            quadratic.A,
            gaussian,
            name,
            noise=NOISE,
            iterations=3000,
            tol=1e-13,
            **settings,
        )
        assert off(result.x, quadratic.most_probable((NOISE / SIGMA) ** 2)) < 1e-6


@pytest.mark.parametrize("form", ["fixed_point", "gradient"])
@pytest.mark.parametrize("alpha", [None, 0.3])
def test_rest_of_red(quadratic, form, alpha):
    """A^H (A x - q) + alpha (x - D x) = 0."""
    settings = EXACT if form == "fixed_point" else {}
    result = reconstruct(
        quadratic.q,
        quadratic.A,
        gaussian,
        "red",
        form=form,
        noise=None if alpha else NOISE,
        alpha=alpha,
        sigma=SIGMA,
        iterations=3000,
        tol=1e-13,
        **settings,
    )
    assert off(result.x, quadratic.red(alpha or (NOISE / SIGMA) ** 2)) < 1e-6


def test_rest_of_hqs_is_the_denoised_red(quadratic):
    """x = D(h(x)) and f = h(x), so f = h(D(f)): not the minimum that ADMM goes to."""
    alpha = (NOISE / SIGMA) ** 2
    result = reconstruct(
        quadratic.q,
        quadratic.A,
        gaussian,
        "hqs",
        alpha=alpha,
        sigma=SIGMA,
        iterations=3000,
        tol=1e-13,
        **EXACT,
    )
    assert off(result.x, gaussian(quadratic.red(alpha), SIGMA)) < 1e-6
    assert off(result.state.f, quadratic.red(alpha)) < 1e-6
    assert off(result.x, quadratic.most_probable(alpha)) > 1e-2


# ---- DRS and ADMM


def iterates(name, problem, steps, **settings):
    solver = solvers.make(name, sigma=SIGMA, **settings)
    states = solver.iterate(problem, gaussian, solver.init(problem, problem.A.initial(problem.q)))
    return [next(states).x for _ in range(steps)]


@pytest.mark.parametrize("kind", ["identity", "mask", "blur"])
def test_drs_is_admm_iterate_by_iterate(kind):
    A = OPERATORS[kind]()
    problem = make_problem(torch.rand(2, *A.data_shape, dtype=torch.float64), A, NOISE)
    for x, y in zip(iterates("drs", problem, 25), iterates("admm", problem, 25), strict=True):
        assert off(x, y) < 1e-12


@pytest.mark.parametrize("relaxation", [0.3, 1.0, 1.6, 1.9])
def test_relaxation_leaves_the_fixed_points(quadratic, relaxation):
    result = reconstruct(
        quadratic.q,
        quadratic.A,
        gaussian,
        "drs",
        noise=NOISE,
        sigma=SIGMA,
        relaxation=relaxation,
        iterations=3000,
        tol=1e-13,
        **EXACT,
    )
    admm = reconstruct(
        quadratic.q,
        quadratic.A,
        gaussian,
        "admm",
        noise=NOISE,
        sigma=SIGMA,
        iterations=3000,
        tol=1e-13,
        **EXACT,
    )
    assert off(result.x, admm.x) < 1e-8


def test_drs_and_admm_agree_on_a_denoiser_that_is_not_linear(mlpatch, photo):
    photo = photo[..., :48, :40].contiguous()
    A = Mask(random_mask((48, 40), keep=0.5))
    q = A(photo)
    admm, drs = (
        reconstruct(q, A, mlpatch, name, noise=0.02, sigma=0.06, iterations=15, tol=0)
        for name in ("admm", "drs")
    )
    assert off(drs.x, admm.x) < 1e-5


# ---- FISTA, PDHG and RED on their own


def slow():
    """Gaps of 30 pixels under a weak prior: a condition of several hundreds."""
    A = Mask(torch.arange(48).remainder(16).lt(2).expand(1, 4, 48))
    truth = torch.linspace(0, 3, 48, dtype=torch.float64).sin().expand(1, 1, 4, 48)
    return make_problem(A(truth).contiguous(), A, 0.5)


def steps_to(problem, name, exact, tolerance=1e-4, limit=20000):
    solver = solvers.make(name)
    states = solver.iterate(problem, gaussian, solver.init(problem, torch.zeros_like(exact)))
    return next(
        state.iteration
        for state in states
        if off(state.x, exact) < tolerance or state.iteration == limit
    )


def test_fista_is_faster_than_pgd():
    problem = slow()
    exact = (
        solvers.make("fista", iterations=20000, tol=1e-13)
        .run(problem.q, problem.A, gaussian, noise=0.5)
        .x
    )
    plain, fast = (steps_to(problem, name, exact) for name in ("pgd", "fista"))
    assert fast < plain / 3 < 20000 / 3


def test_fista_restarts_each_image_by_itself():
    A = Blur(gaussian_psf(0.7), SHAPE)
    q = torch.rand(
        3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    ) * torch.tensor([1.0, 30.0, 0.01]).reshape(-1, 1, 1, 1)
    q[1] = A(gaussian(q[1:2], 3.0))[0]
    solver = solvers.make("fista", tol=0, iterations=60)
    together = solver.run(q, A, gaussian, noise=0.1)
    alone = [solver.run(q[k : k + 1], A, gaussian, noise=0.1) for k in range(3)]
    assert off(together.x, torch.cat([r.x for r in alone])) < 1e-12
    weights = together.state.weight.flatten().tolist()
    assert weights == [float(r.state.weight) for r in alone]
    assert len(set(weights)) > 1
    assert max(weights) < 31  # without a restart, t_60 would be 31.6


NEW = [
    ("fista", {"sigma": torch.tensor([0.3, 0.5, 0.7])}),
    ("drs", {"sigma": torch.tensor([0.3, 0.5, 0.7])}),
    ("pdhg", {"sigma": torch.tensor([0.3, 0.5, 0.7])}),
    ("pdhg", {"alpha": torch.tensor([0.3, 0.5, 0.7])}),
    ("red", {"sigma": torch.tensor([0.3, 0.5, 0.7])}),
    ("red", {"sigma": torch.tensor([0.3, 0.5, 0.7]), "form": "gradient"}),
]


@pytest.mark.parametrize(("name", "settings"), NEW)
@pytest.mark.parametrize("kind", ["blur", "dense"])
def test_batches_with_levels_of_their_own(name, settings, kind):
    A = OPERATORS[kind]()
    q = torch.rand(3, *A.data_shape, dtype=torch.float64)
    noise = (
        torch.tensor([0.1, 0.2, 0.4]) if kind == "blur" else torch.tensor(0.2)
    )  # one axis of data: three numbers would be a map
    together = reconstruct(q, A, gaussian, name, noise=noise, iterations=8, tol=0, **settings)
    for k in range(3):
        own = {
            key: float(value[k]) if isinstance(value, torch.Tensor) else value
            for key, value in settings.items()
        }
        alone = reconstruct(
            q[k : k + 1],
            A,
            gaussian,
            name,
            noise=float(noise.expand(3)[k]),
            iterations=8,
            tol=0,
            **own,
        )
        assert off(together.x[k : k + 1], alone.x) < 1e-6


@pytest.mark.parametrize(
    ("name", "form"),
    [("fista", {}), ("drs", EXACT), ("pdhg", {}), ("red", EXACT), ("red", {"form": "gradient"})],
)
def test_a_noise_map_is_whitening(name, form):
    A = Mask(random_mask(SHAPE[1:], keep=0.7))
    q = torch.rand(2, *SHAPE, dtype=torch.float64) * A.mask
    noise = 0.2 + 0.3 * torch.rand(2, *SHAPE, dtype=torch.float64)
    settings = {"sigma": 0.4, "x0": torch.zeros_like(q), "tol": 0, **form}
    by_map = reconstruct(q, A, gaussian, name, noise=noise[0], iterations=9, **settings)
    by_hand = reconstruct(
        q / noise[0], Mask(A.mask / noise[0]), gaussian, name, noise=1.0, iterations=9, **settings
    )
    assert off(by_map.x, by_hand.x) < 1e-10
    # a map for each image: the same limits; tau, and with it the limit at a given sigma, is that of
    # the batch
    if name != "fista":
        together = reconstruct(q, A, gaussian, name, noise=noise, iterations=500, **settings)
        settings["x0"] = torch.zeros_like(q[1:])
        alone = reconstruct(q[1:], A, gaussian, name, noise=noise[1], iterations=500, **settings)
        assert off(together.x[1:], alone.x) < 1e-6


def test_pdhg_and_red_need_no_data_step(monkeypatch):
    A = Radon(image_shape=(1, 12, 10), angles=8, cache=False)
    q = A(torch.rand(1, 1, 12, 10, generator=torch.Generator().manual_seed(0)))
    noise = 0.05 * float(q.square().mean().sqrt())
    admm = reconstruct(
        q, A, gaussian, "admm", noise=noise, sigma=0.3, iterations=150, tol=0, data_iterations=30
    )
    monkeypatch.setattr(Radon, "_solve", None)
    monkeypatch.setattr(Radon, "data_step", None)
    pdhg = reconstruct(q, A, gaussian, "pdhg", noise=noise, sigma=0.3, iterations=1000, tol=0)
    assert off(pdhg.x, admm.x) < 1e-3
    assert torch.isfinite(
        reconstruct(q, A, gaussian, "red", form="gradient", noise=noise, sigma=0.3).x
    ).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fista", {"sigma": 0.03, "iterations": 60}),
        ("drs", {"sigma": 0.03}),
        ("pdhg", {"sigma": 0.03}),
        ("red", {"sigma": 0.03}),
    ],
)
def test_they_deblur(name, settings, mlpatch, photo):
    photo = photo[..., 20:68, 20:60].contiguous()
    A = Blur(gaussian_psf(1.3), photo.shape[1:])
    q = A(photo) + 0.01 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    x = reconstruct(q, A, mlpatch, name, noise=0.01, **settings).x
    assert float((x - photo).square().mean()) < 0.63 * float((q - photo).square().mean())  # 2 dB


# ---- denoisers that expand


def overdone(x, sigma):
    """Takes off three times too much: eigenvalues 1 - 3 (1 - d) of the Jacobian, from -1.67 to 1 at
    sigma = 1.
    """
    return x - 3 * (x - gaussian(x, sigma))


def reflected(x, sigma):
    """Nonexpansive, not firmly so: eigenvalues 2 d - 1, from -0.78 to 1."""
    return 2 * gaussian(x, sigma) - x


# settings with which the largest factor of a step is above 1: with A = 1 everything commutes, and
# the factors are those of numbers
EXPANDING = [
    ("admm", {"alpha": 0.05, "sigma": 1.0}),  # 1/2 (1 + R_h R_D) = 1/2 (1 + 0.905 * 4.33)
    ("drs", {"alpha": 0.05, "sigma": 1.0, "relaxation": 1.5}),
    ("pdhg", {"alpha": 0.05, "sigma": 1.0}),
    ("pgd", {"sigma": 1.0, "tau": 0.1}),  # (1 - tau) 1.67
    ("fista", {"sigma": 1.0, "tau": 0.1}),
    ("red", {"alpha": 20.0, "sigma": 1.0}),  # alpha / (1 + alpha) 1.67
]


@pytest.mark.parametrize(("name", "settings"), EXPANDING)
def test_an_expansive_denoiser_is_not_silently_wrong_and_averaged_mends_it(name, settings):
    """averaged(overdone, 1/3) is the exact proximal map, so the solver goes where that leads."""
    A, q = Identity(SHAPE), torch.rand(2, *SHAPE, dtype=torch.float64)
    with pytest.raises(Diverged, match="a denoiser that amplifies"):
        reconstruct(q, A, overdone, name, noise=1.0, iterations=5000, tol=1e-6, **settings)
    mended, plain = (
        reconstruct(q, A, D, name, noise=1.0, iterations=3000, tol=1e-12, **settings)
        for D in (averaged(overdone, 1 / 3), gaussian)
    )
    assert mended.status == "converged"
    assert off(mended.x, plain.x) < 1e-9


def test_fast_admm_that_refuses_all_steps_has_not_converged():
    """A refused step is no convergence; averaged, it gets there.

    The next step starts at the estimate before the refused one, which was refused as well. So
    "overdone" goes on amplifying, to 1e11 here, where the data ask for values up to 1. "outside"
    says that, and warns; "stalled" would say only that the residual does not fall.
    """
    A, q = Identity(SHAPE), torch.rand(2, *SHAPE, dtype=torch.float64)
    settings = {"alpha": 0.05, "sigma": 1.0, "noise": 1.0}
    stuck = reconstruct(q, A, overdone, "fast_admm", iterations=60, tol=1e-6, **settings)
    assert stuck.status == "outside"
    assert float(stuck.x.abs().max()) > 1e9
    assert min(stuck.history["residual"]) > 1e-2
    mended = reconstruct(
        q, A, averaged(overdone, 1 / 3), "fast_admm", iterations=3000, tol=1e-12, **settings
    )
    assert mended.status == "converged"
    assert (
        off(mended.x, reconstruct(q, A, gaussian, "admm", iterations=3000, tol=1e-12, **settings).x)
        < 1e-8
    )


def test_an_estimate_whose_norm_overflows_has_not_converged():
    x = torch.full((1, *SHAPE), 1e160, dtype=torch.float64)
    assert (
        solvers.make("pgd").residual(State(x, 1), State(1.0001 * x, 2)) != 0
    )  # NaN, where change / inf would be 0
    assert solvers.make("pgd").residual(
        State(x / 1e100, 1), State(1.0001 * x / 1e100, 2)
    ) == pytest.approx(1e-4, rel=1e-3)


def test_admm_needs_firmly_nonexpansive_denoisers_and_averaged_makes_them():
    """|J| = 1 is enough for PGD; ADMM swings until D is averaged with the identity."""
    A, q = Identity(SHAPE), torch.rand(2, *SHAPE, dtype=torch.float64)
    settings = {"alpha": 0.05, "sigma": 1.0, "iterations": 3000, "tol": 1e-12}
    with pytest.raises(Diverged):
        reconstruct(q, A, reflected, "admm", **settings)
    assert (
        reconstruct(q, A, reflected, "pgd", sigma=1.0, tau=0.1, iterations=3000, tol=1e-12).status
        == "converged"
    )
    mended = reconstruct(q, A, averaged(reflected), "admm", **settings)
    assert mended.status == "converged"
    assert off(mended.x, reconstruct(q, A, gaussian, "admm", **settings).x) < 1e-9


def test_averaged_is_the_mix_and_keeps_the_contract(mlpatch):
    x = torch.rand(2, 1, 9, 8)
    D = averaged(mlpatch, 0.25)
    assert torch.allclose(D(x, 0.1), 0.75 * x + 0.25 * mlpatch(x, 0.1), atol=1e-7)
    assert D.info.field == mlpatch.info.field
    assert D.info.name == f"averaged {mlpatch.info.name}"
    for theta in (0, 1.1, -0.5, float("nan"), "half", True, None):
        with pytest.raises(InputError, match=r"averaged: theta must be a number in \(0, 1\], got"):
            averaged(mlpatch, theta)
    with pytest.raises(TypeError, match="averaged: the denoiser must be callable"):
        averaged("tv")
    with pytest.raises(PnPError, match="averaged"):
        D(x[0], 0.1)


# ---- settings


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fista", {"tau": -1}, "FISTA: tau must be finite and > 0, got -1"),
        ("fista", {"tau": [0.1, 0.2]}, r"FISTA: tau must be one number, got \[0.1, 0.2\]"),
        ("fista", {"sigma": -0.1}, "FISTA: sigma must be finite and > 0"),
        ("drs", {"relaxation": 0}, r"DRS: relaxation must be a number in \(0, 2\), got 0"),
        ("drs", {"relaxation": 2.0}, r"DRS: relaxation must be a number in \(0, 2\), got 2.0"),
        ("drs", {"relaxation": "one"}, r"DRS: relaxation must be a number in \(0, 2\), got 'one'"),
        ("drs", {"relaxation": True}, r"DRS: relaxation must be a number in \(0, 2\), got True"),
        ("drs", {"alpha": 0}, "DRS: alpha must be finite and > 0, got 0"),
        ("drs", {"data_iterations": 0}, "DRS: data_iterations must be"),
        ("red", {"form": "sd"}, "RED: form must be 'fixed_point' or 'gradient', got 'sd'"),
        ("red", {"form": None}, "RED: form must be"),
        ("red", {"alpha": "x"}, "RED: alpha must be a number, got 'x'"),
        ("red", {"data_tol": -1}, "RED: data_tol must be finite and > 0, got -1"),
        (
            "red",
            {"form": "gradient", "alpha": torch.ones(3)},
            r"RED: alpha must be a number or of shape \(2,\), got \(3,\)",
        ),
        ("pdhg", {"alpha": -2}, "PDHG: alpha must be finite and > 0, got -2"),
        (
            "pdhg",
            {"alpha": torch.ones(3)},
            r"PDHG: alpha must be a number or of shape \(2,\), got \(3,\)",
        ),
        ("pdhg", {"tau": 1.0}, "The solver 'pdhg' has no setting 'tau'"),
    ],
    ids=str,
)
def test_settings(name, settings, words):
    with pytest.raises(PnPError, match=words):
        reconstruct(torch.rand(2, *SHAPE), Identity(SHAPE), gaussian, name, noise=0.1, **settings)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fista", "FISTA .or give sigma."),
        ("drs", "DRS .or give alpha."),
        ("red", "RED .or give alpha."),
        ("pdhg", "PDHG .or give alpha."),
    ],
)
def test_noise_is_asked_for(name, words):
    with pytest.raises(InputError, match=words + ": the noise level of the data is needed"):
        reconstruct(torch.rand(2, *SHAPE), Identity(SHAPE), gaussian, solvers.make(name))


# ---- results


def solved(name, state=None, callbacks=(), **settings):
    A = Mask(random_mask(SHAPE[1:], keep=0.5))
    q = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * A.mask
    return solvers.make(name, tol=0, **settings).run(
        q,
        A,
        gaussian,
        noise=0.2,
        state=state,
        callbacks=callbacks,
        record={"mean": lambda x: x.mean()},
    )


@pytest.mark.parametrize("name", solvers.names())
def test_a_saved_result_comes_back_and_goes_on_to_the_same_bits(name, tmp_path):
    whole = solved(name, iterations=11)
    half = solved(name, iterations=11, callbacks=[lambda state: state.iteration == 5])
    half.save(tmp_path / "half.pt")
    back = Result.load(tmp_path / "half.pt")
    assert type(back.state) is type(half.state)
    assert repr((back.status, back.history, back.seconds)) == repr(
        (half.status, half.history, half.seconds)
    )  # NaN is not NaN
    assert torch.equal(back.x, half.x)
    rest = solved(name, state=back.state, iterations=11)
    assert torch.equal(rest.x, whole.x)
    assert back.history["mean"] + rest.history["mean"] == whole.history["mean"]
    assert [p.name for p in tmp_path.iterdir()] == ["half.pt"]


def test_a_result_is_found_without_its_solver_being_imported(tmp_path):
    import subprocess
    import sys

    solved("split_gibbs", iterations=3).save(tmp_path / "a.pt")
    code = (
        "import sys; from pnp_mlpatch.solvers import Result; r = Result.load(sys.argv[1]);"
        "print(type(r.state).__name__, r.state.iteration, r.x is r.state.x or r.x.equal(r.state.x))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pt")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.split() == ["SplitGibbsState", "3", "True"]


def test_damaged_results(tmp_path):
    x = torch.rand(1, *SHAPE)
    result = Result(x, "max_iter", State(x, 1), {}, 0.1)
    path = tmp_path / "r.pt"
    result.save(path)
    sound = path.read_bytes()
    place = sound.find(x.numpy().tobytes())
    assert place > 0
    flipped = bytearray(sound)
    flipped[place + 3] ^= 4
    for bad in (b"", b"text", sound[: len(sound) // 2], sound[:-30], bytes(flipped)):
        path.write_bytes(bad)
        with pytest.raises(
            WeightsError, match=r"r.pt: not a saved result \(.*\). It is damaged, or something else"
        ):
            Result.load(path)
    with pytest.raises(WeightsError, match=r"none\.pt: not a saved result"):
        Result.load(tmp_path / "none.pt")
    result.state.save(path)
    with pytest.raises(
        WeightsError, match=r"r.pt: not a saved result. A state is read by load_state"
    ):
        Result.load(path)
    values = {
        "kind": "Result",
        "x": result.x,
        "status": "converged",
        "history": {},
        "seconds": 1.0,
        "state": {"kind": "State", "x": result.x},
    }
    for change, words in (
        ({"seconds": None}, r"a damaged result \(seconds\)"),
        ({"x": 1}, r"a damaged result \(x\)"),
        ({"more": 1}, r"a damaged result \(unknown parts\)"),
        ({}, "its state is of kind State, which no solver here has"),
        (
            {"state": {"kind": "Other", "x": result.x, "iteration": 1}},
            "its state is of kind Other, which no solver here has. Import the one",
        ),
        ({"state": {}}, "its state is of kind None"),
    ):
        checkpoint.save(path, values | change)
        with pytest.raises(WeightsError, match=words):
            Result.load(path)


def test_a_failed_save_leaves_what_was_there(tmp_path):
    good, bad = solved("pgd", iterations=2), solved("pgd", iterations=3)
    good.save(tmp_path / "r.pt")
    broken = Result(bad.x, bad.status, bad.state, {"iteration": [lambda: 0]}, bad.seconds)
    with pytest.raises(Exception, match="lambda"):
        broken.save(tmp_path / "r.pt")
    assert torch.equal(Result.load(tmp_path / "r.pt").x, good.x)
    assert [p.name for p in tmp_path.iterdir()] == ["r.pt"]


@dataclass(frozen=True)
class OwnState(State):
    extra: torch.Tensor


def test_results_of_a_solver_without_a_name(tmp_path):
    x = torch.rand(1, *SHAPE)
    Result(x, "max_iter", OwnState(x, 1, 2 * x), {}, 0.1).save(tmp_path / "own.pt")
    assert torch.equal(Result.load(tmp_path / "own.pt").state.extra, 2 * x)
    Result(x, "max_iter", State(x, 1), {}, 0.1).save(tmp_path / "plain.pt")
    assert type(Result.load(tmp_path / "plain.pt").state) is State


@pytest.mark.parametrize("name", ["hqs", "fista", "red", "admm", "consensus"])
def test_a_result_is_drawn(name, tmp_path):
    result = solved(name, iterations=6, **({"sigma": [0.3, 0.2, 0.1]} if name == "hqs" else {}))
    drawing = result_figure(result)
    image, residual, levels, times, recorded = drawing.axes
    measured = [
        name
        for name in result.history
        if name.startswith(("residual", "primal", "dual", "fixed_point"))
    ]
    assert [line.get_label() for line in residual.lines] == measured
    assert residual.get_title() == (
        "relative change" if len(measured) == 1 else "relative residuals"
    )
    assert residual.get_yscale() == "log"
    assert len(times.lines) == 1
    assert residual.lines[0].get_ydata().tolist() == result.history["residual"]
    assert sum(times.lines[0].get_ydata()) == pytest.approx(result.history["seconds"][-1])
    drawn = {line.get_label() for line in levels.lines}
    named = {part.split(" = ")[0] for part in levels.get_xlabel().splitlines()[1:]}
    assert drawn | named == set(result.history) - {"iteration", "seconds", "mean", *measured}
    assert recorded.lines[0].get_ydata().tolist() == result.history["mean"]
    assert ("sigma" in drawn) == (name == "hqs")
    assert "first of 2" in image.get_xlabel()
    assert drawing.get_suptitle().startswith("max_iter after 6 iterations")
    viz.save(drawing, tmp_path / "result.png")
    assert (tmp_path / "result.png").stat().st_size > 5000


def test_a_result_without_history_or_in_colour_is_drawn(tmp_path):
    x = 2 * torch.rand(1, 3, 8, 6)
    viz.save(result_figure(Result(x, "max_iter", State(x, 0), {}, 0.0)), tmp_path / "empty.png")


def test_the_figure_tells_what_differs_and_what_was_chosen(tmp_path):
    x = torch.rand(3, 1, 8, 6)
    history = {
        "iteration": [1.0, 2.0],
        "residual": [0.5, 0.1],
        "seconds": [0.1, 0.2],
        "primal": [0.3, 0.2],
        "dual_of_f": [0.2, 0.1],
    }
    plain = Result(x, "max_iter", State(x, 2), history, 0.2, ("max_iter",) * 3)
    assert plain.plot().get_suptitle() == "max_iter after 2 iterations, 0.2 s"
    assert [line.get_label() for line in plain.plot().axes[1].lines] == [
        "residual",
        "primal",
        "dual_of_f",
    ]
    assert plain.plot().axes[1].get_legend() is not None
    tuned = Tuned(
        {"sigma": 0.06},
        0.02,
        True,
        {},
        "It predicted best what was held out, " + "of many settings that were tried, " * 5,
    )
    mixed = replace(plain, statuses=("converged", "max_iter", "converged"), tuned=tuned)
    first, images, *chosen = mixed.plot().get_suptitle().splitlines()
    assert first.startswith("max_iter after")
    assert images == "images: 0 converged, 1 max_iter, 2 converged"
    assert " ".join(chosen) == f"chosen: {tuned}".strip()
    many = replace(plain, statuses=("converged",) * 9 + ("stalled",))
    assert many.plot().get_suptitle().splitlines()[1] == "images: 9 converged, 1 stalled"
    viz.save(mixed.plot(), tmp_path / "mixed.png")
    assert report.result_figure is figure.result_figure
