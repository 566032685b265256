"""Checks that others wrote, run on our objects: the test functions of deepinv, ODL's OperatorTest,
torch's gradcheck.

deepinv ships its tests. Where one of them builds the object that it tests, the builder is replaced
by ours, so that their assertions judge it. ``docs/agreement.md`` lists what runs on what; what
cannot pass is here too, as an expected failure.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pnp_mlpatch import as_denoiser, operators, per_channel
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.interop import to_deepinv, to_odl, to_scipy
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # their warnings

CPU = torch.device("cpu")
COLOUR, GREY = (3, 37, 31), (1, 37, 31)


def psf():
    return gaussian_psf(1.0, 5) + 0.02 * torch.rand(
        5, 5, generator=torch.Generator().manual_seed(0)
    )


OPERATORS = {
    "identity": lambda h, w: Identity((3, h, w)),
    "mask": lambda h, w: Mask(random_mask((h, w), keep=0.5), channels=3),
    "blur": lambda h, w: Blur(psf(), (3, h, w)),
    "lensing": lambda h, w: Lensing(weight=random_mask((h, w), keep=0.8)),
    "radon_sparse": lambda h, w: Radon(
        image_shape=(1, h, w), angles=12, backend="sparse", cache=False
    ),
    "radon_astra_cpu": lambda h, w: Radon(
        image_shape=(1, h, w), angles=12, backend="astra_cpu", cache=False
    ),
}


def net(channels=1):
    """A random MLPatch that changes the image."""
    torch.manual_seed(0)
    D = MLPatch(channels, radius=2.0, rings=2, angles=4, width=8, depth=2, sigma_max=0.5)
    torch.nn.init.normal_(D.last, std=0.02)
    return D.eval().requires_grad_(False)


def smooth(x, sigma=None):
    """A mean over three columns and rows: no denoiser to be proud of, but a function."""
    kernel = torch.tensor([0.25, 0.5, 0.25]).to(x)
    kernel = (kernel[:, None] * kernel).expand(x.shape[1], 1, 3, 3)
    return torch.nn.functional.conv2d(
        torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=x.shape[1]
    )


DENOISERS = {
    "tv": lambda channels: as_denoiser(TV(iterations=20)),
    "mlpatch": net,
    "per_channel_mlpatch": lambda channels: per_channel(net()),
    "torch_function": lambda channels: as_denoiser(smooth, sigma="input"),
    "blind_module": lambda channels: as_denoiser(
        torch.nn.AvgPool2d(3, stride=1, padding=1), sigma="ignored"
    ),
    "numpy_function": lambda channels: as_denoiser(
        lambda image, sigma: image / (1 + sigma**2), array="numpy"
    ),
}


@pytest.fixture(scope="module")
def theirs():
    """deepinv, and its tests of physics, optimisation and models."""
    deepinv = require("deepinv", "test")
    folder = Path(deepinv.__file__).parent / "tests"
    if not (folder / "test_physics.py").exists():
        pytest.skip("this deepinv comes without its tests")
    sys.path.insert(0, str(folder))  # they import a module 'dummy' from there
    try:
        parts = {
            name: importlib.import_module(f"deepinv.tests.test_{name}")
            for name in ("physics", "optim", "models", "unfolded")
        }
        dummy = importlib.import_module("dummy")
    finally:
        sys.path.remove(str(folder))
    yield SimpleNamespace(
        deepinv=deepinv, circles=dummy.DummyCircles(samples=2, imsize=COLOUR), **parts
    )
    sys.modules.pop("dummy")


@pytest.fixture(autouse=True)
def _as_it_was(tmp_path, monkeypatch):
    """A fixed seed, a folder to write into, and gradients as they were."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    with torch.enable_grad():
        yield


# ---- operators as physics


def squared_norm(A):
    """The squared norm of the dense matrix of A."""
    size = A.image_shape[0] * A.image_shape[1] * A.image_shape[2]
    matrix = A(torch.eye(size, dtype=torch.float64).reshape(size, *A.image_shape)).flatten(1)
    return float(torch.linalg.matrix_norm(matrix, 2) ** 2)


def ours(norm):
    """In place of deepinv's find_operator."""

    def find_operator(name, device, imsize=None, get_physics_param=False):
        A = OPERATORS[name](*((16, 14) if imsize is None else imsize[-2:]))
        found = (
            to_deepinv(A).to(device),
            A.image_shape,
            squared_norm(A) if norm else None,
            torch.float32,
        )
        return (*found, []) if get_physics_param else found

    return find_operator


ALL = tuple(OPERATORS)
PHYSICS = [  # deepinv's function, its other arguments, the operators
    ("test_operators_adjointness", {}, ALL),
    ("test_adjointness_test", {"num_samples": 3}, ALL),
    ("test_operators_norm", {"verbose": False}, ALL),
    ("test_pseudo_inverse", {"implicit_backward_solver": True}, ALL),
    ("test_pseudo_inverse", {"implicit_backward_solver": False}, ALL),
    ("test_concatenation", {}, ALL),
    ("test_operator_cropper", {}, ALL),
    ("test_operator_multiscale_wrapper", {}, ALL),
    ("test_multiscale_coarse_adjointness", {}, ALL),
    ("test_multiscale_A_adjoint_A", {}, ALL),
    ("test_operators_differentiability", {}, ALL),
    ("test_adjoint_autograd", {}, ALL),
    ("test_physics_state_dict", {}, ALL),
    ("test_device_consistency", {}, ALL),
    (
        "test_clone",
        {},
        ("mask", "lensing", "radon_sparse"),
    ),  # it walks through all objects that there are: 3 s an operator
]


def cases(table, cannot=()):
    """The rows of a table as parameters (function, options, what); those in ``cannot`` are expected
    to fail, with the reason.
    """
    reasons, out = dict(cannot), []
    for function, options, several in table:
        for what in several:
            key = (function, *options.values(), what)
            marks = (
                [pytest.mark.xfail(reason=reasons[key], raises=AssertionError, strict=True)]
                if key in reasons
                else []
            )
            out.append(
                pytest.param(function, options, what, marks=marks, id="-".join(map(str, key)))
            )
    return out


def run(function, **arguments):
    """Call one of their test functions with those of the arguments that it takes."""
    function(**{name: arguments[name] for name in inspect.signature(function).parameters})


@pytest.mark.parametrize(("function", "options", "operator"), cases(PHYSICS))
def test_deepinv_physics(function, options, operator, theirs, monkeypatch):
    monkeypatch.setattr(
        theirs.physics, "find_operator", ours(norm=function == "test_operators_norm")
    )
    monkeypatch.setattr(theirs.physics, "OPERATORS", list(OPERATORS))
    run(
        getattr(theirs.physics, function),
        name=operator,
        device=CPU,
        rng=torch.Generator().manual_seed(0),
        **options,
    )


# ---- deepinv's least squares: A_dagger and prox_l2, and their gradients

LEAST_SQUARES = [
    (
        "test_least_square_solvers",
        {"solver": solver, "gamma_scalar": scalar, "implicit_backward_solver": True},
        ALL,
    )
    for solver in ("CG", "lsqr", "minres")
    for scalar in (True, False)
] + [
    (
        "test_least_square_solvers",
        {"solver": "CG", "gamma_scalar": True, "implicit_backward_solver": False},
        ALL,
    )
]
NOT_NORMAL = (
    "deepinv's minres solves A x = q itself where data and image have one shape, and this A is "
    "neither symmetric nor regular"
)
NO_TRANSPOSE = (
    "deepinv's CG solves A A^T u = q where data and image have one shape, and returns u in "
    "place of A^T u"
)
LEAST_SQUARES_CANNOT = [
    (("test_least_square_solvers", "minres", True, True, "lensing"), NOT_NORMAL),
    (("test_least_square_solvers", "minres", False, True, "lensing"), NOT_NORMAL),
    (("test_least_square_solvers", "CG", True, False, "blur"), NO_TRANSPOSE),
    (("test_least_square_solvers", "CG", True, False, "lensing"), NO_TRANSPOSE),
]


@pytest.mark.parametrize(
    ("function", "options", "operator"), cases(LEAST_SQUARES, LEAST_SQUARES_CANNOT)
)
def test_deepinv_least_squares(function, options, operator, theirs, monkeypatch):
    monkeypatch.setattr(theirs.optim, "find_operator", ours(norm=False))
    run(getattr(theirs.optim, function), physics_name=operator, device=CPU, **options)


# ---- deepinv's algorithms: on our blur, with our denoisers

ALGORITHMS = ("PGD", "HQS", "DRS", "ADMM", "PDCP", "FISTA")
SOLVED = [
    *(("test_pnp_algo", {"pnp_algo": name}, ("tv", "torch_function")) for name in ALGORITHMS),
    *(("test_priors_algo", {"pnp_algo": name}, ("L1Prior", "Tikhonov")) for name in ALGORITHMS),
    *(
        ("test_red_algo", {"red_algo": name}, ("tv", "torch_function"))
        for name in ("PGD", "FISTA", "GD")
    ),
    ("test_pnp_algo", {"pnp_algo": "ADMM"}, ("per_channel_mlpatch",)),
]
NO_DESCENT = (
    "at fine stripes both terms have curvature 1, so that its step, 1, is 2 / L, where "
    "gradient descent oscillates"
)
RANDOM = "a random network is no contraction: the iteration has no fixed point to settle at"
SOLVED_CANNOT = [
    (("test_red_algo", "GD", "tv"), NO_DESCENT),
    (("test_red_algo", "GD", "torch_function"), NO_DESCENT),
    (("test_pnp_algo", "ADMM", "per_channel_mlpatch"), RANDOM),
]


@pytest.mark.parametrize(("function", "options", "prior"), cases(SOLVED, SOLVED_CANNOT))
def test_deepinv_algorithms(function, options, prior, theirs, monkeypatch):
    """They converge. Their Blur becomes ours with the same point spread function, their
    WaveletDenoiser the denoiser.
    """

    def blur(filter, device="cpu", padding="circular"):
        return to_deepinv(Blur(filter[0, 0], COLOUR))

    monkeypatch.setitem(sys.modules, "ptwt", ModuleType("ptwt"))  # what their wavelets need
    monkeypatch.setattr(theirs.deepinv.physics, "Blur", blur)
    if prior in DENOISERS:
        monkeypatch.setattr(
            theirs.deepinv.models, "WaveletDenoiser", lambda wv, level, device: DENOISERS[prior](3)
        )
    run(
        getattr(theirs.optim, function),
        imsize=COLOUR,
        dummy_dataset=theirs.circles,
        device=CPU,
        prior_name=prior,
        **options,
    )


def test_deepinv_sirt(theirs, monkeypatch):
    """Their SIRT converges on our radon, of norm 1 like theirs."""

    def tomography(angles, img_width, normalize):
        A = Radon(image_shape=(1, img_width, img_width), angles=angles, cache=False)
        return to_deepinv(A.weighted(torch.full(A.data_shape, 1 / A.norm())))

    monkeypatch.setattr(theirs.deepinv.physics, "Tomography", tomography)
    theirs.optim.test_sirt(CPU)


UNFOLDED = [
    ("PGD", True, True),
    ("PGD", False, False),
    ("HQS", True, False),
    ("HQS", False, False),
    ("ADMM", False, False),
    ("FISTA", False, False),
]


@pytest.mark.parametrize(("algorithm", "anderson", "full_backprop"), UNFOLDED)
def test_deepinv_unfolded(algorithm, anderson, full_backprop, theirs, monkeypatch):
    """Unfolded networks run and train through our blur."""

    def blur(img_size, filter, device, noise_model):
        physics = to_deepinv(Blur(filter[0, 0], img_size))
        physics.set_noise_model(noise_model)
        return physics

    monkeypatch.setitem(sys.modules, "ptwt", ModuleType("ptwt"))
    monkeypatch.setattr(theirs.deepinv.physics, "BlurFFT", blur)
    monkeypatch.setattr(
        theirs.deepinv.models,
        "WaveletDenoiser",
        lambda wv, level, device: DENOISERS["torch_function"](3),
    )
    theirs.unfolded.test_unfolded(algorithm, anderson, full_backprop, COLOUR, theirs.circles, CPU)


# ---- denoisers

GREYS = ("tv", "mlpatch", "torch_function", "blind_module", "numpy_function")
COLOURS = (*GREYS, "per_channel_mlpatch")
MODELS = [
    ("test_denoiser_gray", {}, GREYS),
    ("test_denoiser_1_channel", {}, GREYS),
    ("test_denoiser_color", {}, COLOURS),
    ("test_denoiser_sigma_gray", {"batch_size": 1}, GREYS),
    ("test_denoiser_sigma_gray", {"batch_size": 2}, GREYS),
    ("test_denoiser_sigma_color", {"batch_size": 1}, COLOURS),
    ("test_denoiser_sigma_color", {"batch_size": 2}, COLOURS),
    ("test_equivariant", {"batch_size": 1}, ("tv", "mlpatch", "per_channel_mlpatch")),
    ("test_equivariant", {"batch_size": 2}, ("tv", "mlpatch", "per_channel_mlpatch")),
]


@pytest.mark.parametrize(("function", "options", "denoiser"), cases(MODELS))
def test_deepinv_models(function, options, denoiser, theirs, monkeypatch):
    monkeypatch.setattr(
        theirs.models, "choose_denoiser", lambda name, imsize: DENOISERS[name](imsize[0])
    )
    monkeypatch.setattr(
        theirs.deepinv.models,
        "DRUNet",
        lambda in_channels, out_channels: DENOISERS[denoiser](in_channels),
    )
    run(
        getattr(theirs.models, function),
        imsize=COLOUR,
        imsize_1_channel=GREY,
        device=CPU,
        denoiser=denoiser,
        **options,
    )


def test_deepinv_tv_identity(theirs, monkeypatch):
    """At sigma 0 our total variation does nothing."""
    monkeypatch.setattr(
        theirs.deepinv.models, "TVDenoiser", lambda n_it_max: TV(iterations=n_it_max)
    )
    theirs.models.test_TV_models_identity()


# ---- ODL and torch


@pytest.mark.parametrize("operator", OPERATORS)
def test_odl_operator_test(operator, capsys):
    """Homogeneity, additivity, the adjoint, the adjoint of the adjoint: it prints its verdicts."""
    diagnostics = require("odl.core.diagnostics", "test")
    diagnostics.OperatorTest(to_odl(OPERATORS[operator](16, 14))).run_tests()
    report = capsys.readouterr().out
    assert report.count("Completed all test cases") == 4, report
    for complaint in (
        "FAILED",
        "ERROR",
        "not OK",
        "has no adjoint",
        "is not linear",
        "Should be 0",
    ):
        assert complaint not in report
    assert abs(float(report.split("(x, A^T y) / (Ax, y) = ")[1].split(". Should")[0]) - 1) < 1e-5


@pytest.mark.parametrize("operator", OPERATORS)
def test_torch_gradcheck(operator):
    """Reverse and forward derivatives against differences (large steps do, A being linear; radon is
    float32 inside).

    The batched ones of gradcheck trace into the map, which in radon is not torch's; torch.func.vmap
    does not, and works.
    """
    A = OPERATORS[operator](5, 6)
    x = torch.randn(2, *A.image_shape, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, *A.data_shape, dtype=torch.float64, requires_grad=True)
    batched = not operator.startswith("radon")
    for function, point in ((A, x), (A.adjoint, y), (A.normal, x)):
        assert torch.autograd.gradcheck(
            function,
            point,
            eps=0.5,
            atol=1e-4,
            check_forward_ad=True,
            check_batched_grad=batched,
            nondet_tol=1e-5,
        )


@pytest.mark.parametrize("operator", ["identity", "mask", "blur", "lensing"])
def test_torch_gradcheck_of_the_data_step(operator):
    """The closed forms: gradients to z, the data and alpha, and their gradients."""
    A = OPERATORS[operator](5, 6)
    z = torch.randn(2, *A.image_shape, dtype=torch.float64, requires_grad=True)
    q = torch.randn(2, *A.data_shape, dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)

    def h(z, q, alpha):
        return A.data_step(z, alpha, Aty=A.adjoint(q))[0]

    assert torch.autograd.gradcheck(h, (z, q, alpha))
    assert torch.autograd.gradgradcheck(h, (z, q, alpha))


# ---- pylops


@pytest.mark.parametrize("name", operators.names())
def test_pylops_dottest(name):
    """pylops' own dot test on ``to_scipy`` of our operators; radon computes in float32."""
    import pylops
    from pylops.utils import dottest

    matrix = pylops.aslinearoperator(to_scipy(operators.get(name).example(), dtype="float64"))
    assert dottest(matrix, *matrix.shape, rtol=1e-5 if name == "radon" else 1e-10, raiseerror=True)
