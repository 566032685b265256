"""Operators from and to other packages: the contract, round trips, solvers on both sides,
gradients, errors.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from pnp_mlpatch import interop, operators, solvers
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.errors import InputError, InputTypeError, MissingPackage
from pnp_mlpatch.interop.deepinv import DeepinvOperator
from pnp_mlpatch.interop.functions import FunctionOperator
from pnp_mlpatch.operators.blur import Blur
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import make_problem
from pnp_mlpatch.testing import adjoint_mismatch, check_operator

EXAMPLES = ["blur", "downsample", "identity", "lensing", "mask", "mri", "radon"]


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def physics():
    return require("deepinv.physics", "test")


# ---- what comes from elsewhere, by name


def from_deepinv(name, shape, **settings):
    return interop.from_deepinv(getattr(physics(), name)(**settings), shape)


def composed():
    blur = physics().BlurFFT(
        img_size=(1, 5, 6), filter=torch.rand(1, 1, 3, 3, generator=generator())
    )
    return interop.from_deepinv(
        physics().Inpainting(img_size=(1, 5, 6), mask=0.6, rng=generator()) * blur, (1, 5, 6)
    )


def ray_transform(impl="astra_cpu"):
    odl, tomo = require("odl", "test"), require("odl.applications.tomo", "test")
    space = odl.uniform_discr(
        [-4, -6], [4, 6], [16, 24], dtype="float32"
    )  # pixels of half a unit: weight 0.25
    geometry = tomo.Parallel2dGeometry(
        odl.uniform_partition(0, np.pi, 9), odl.uniform_partition(-12, 12, 48)
    )
    return tomo.RayTransform(space, geometry, impl=impl)


def weighted_multiplication():
    odl = require("odl", "test")
    space = odl.rn((4, 5), weighting=np.linspace(0.5, 2, 20).reshape(4, 5))
    return odl.MultiplyOperator(space.element(np.linspace(-1, 1, 20).reshape(4, 5)), domain=space)


def partial_derivative():
    odl = require("odl", "test")
    return odl.PartialDerivative(odl.uniform_discr([0, 0], [1, 1], [8, 9]), 0, pad_mode="symmetric")


def odl_on_torch():
    odl = require("odl", "test")
    return odl.ScalingOperator(
        odl.uniform_discr([0, 0], [1, 1], [4, 5], dtype="float32", impl="pytorch"), 3.0
    )


def astra_geometries(beam="parallel"):
    astra = require("astra", "test")
    angles = np.linspace(0, np.pi if beam == "parallel" else 2 * np.pi, 7, endpoint=False)
    return astra.create_proj_geom(
        beam, 1.0, 17, angles, *(() if beam == "parallel" else (40.0, 20.0))
    ), astra.create_vol_geom(10, 14)


@pytest.fixture
def projector_id():
    astra = require("astra", "test")
    identity = astra.create_projector("line", *astra_geometries())
    yield identity
    astra.projector.delete(identity)


MATRIX = np.random.default_rng(0).standard_normal((15, 24))
FOREIGN = {
    "functions": FunctionOperator.example,
    "functions identity": lambda: interop.from_functions(
        lambda x: x, lambda y: y, (1, 4, 5), (1, 4, 5)
    ),
    "functions normal": lambda: interop.from_functions(
        lambda x: 2 * x, lambda y: 2 * y, (1, 4, 5), (1, 4, 5), normal=lambda x: 4 * x
    ),
    "scipy dense": lambda: interop.from_scipy(MATRIX, (2, 3, 4)),
    "scipy dense float32": lambda: interop.from_scipy(MATRIX.astype(np.float32), (2, 3, 4), (3, 5)),
    "scipy csr": lambda: interop.from_scipy(
        scipy.sparse.csr_matrix(MATRIX * (MATRIX > 0)), (1, 4, 6), (3, 5)
    ),
    "scipy coo array": lambda: interop.from_scipy(
        scipy.sparse.coo_array(MATRIX * (MATRIX > 0)), (1, 4, 6)
    ),
    "scipy operator": lambda: interop.from_scipy(
        scipy.sparse.linalg.aslinearoperator(MATRIX), (1, 4, 6)
    ),
    "deepinv blur": DeepinvOperator.example,
    "deepinv inpainting": lambda: from_deepinv(
        "Inpainting", (2, 7, 9), img_size=(2, 7, 9), mask=0.5, rng=generator()
    ),
    "deepinv blurfft": lambda: from_deepinv(
        "BlurFFT",
        (2, 8, 11),
        img_size=(2, 8, 11),
        filter=torch.rand(1, 1, 3, 3, generator=generator()),
    ),
    "deepinv mri": lambda: from_deepinv(
        "MRI", (2, 8, 10), img_size=(2, 8, 10), mask=random_mask((8, 10), keep=0.5)
    ),
    "deepinv tomography": lambda: from_deepinv(
        "Tomography", (1, 14, 14), angles=9, img_width=14, normalize=True
    ),
    "deepinv downsampling": lambda: from_deepinv(
        "Downsampling", (1, 8, 12), img_size=(1, 8, 12), factor=2, filter="gaussian"
    ),
    "deepinv compressed sensing": lambda: from_deepinv(
        "CompressedSensing", (1, 5, 6), m=20, img_size=(1, 5, 6), rng=generator()
    ),
    "deepinv composed": composed,
    "odl ray transform": lambda: interop.from_odl(ray_transform()),
    "odl array weight": lambda: interop.from_odl(weighted_multiplication()),
    "odl derivative": lambda: interop.from_odl(partial_derivative()),
    "odl on torch": lambda: interop.from_odl(odl_on_torch()),
    "astra": lambda: interop.from_astra(*astra_geometries()),
    "astra strip": lambda: interop.from_astra(*astra_geometries(), "strip"),
    "astra fan": lambda: interop.from_astra(*astra_geometries("fanflat"), "line_fanflat"),
    "astra fan strip": lambda: interop.from_astra(
        *astra_geometries("fanflat"), projector="strip_fanflat"
    ),
}


@pytest.mark.filterwarnings("ignore:At least one input physics")
@pytest.mark.parametrize("name", FOREIGN)
def test_the_contract(name):
    assert len(check_operator(FOREIGN[name]())) >= 20


def test_the_contract_of_a_projector_id(projector_id):
    A = interop.from_astra(projector_id)
    check_operator(A)
    assert (
        relative(
            A(torch.ones(1, *A.image_shape)),
            interop.from_astra(*astra_geometries(), "line")(torch.ones(1, 1, 10, 14)),
        )
        == 0
    )


@pytest.mark.filterwarnings("ignore:At least one input physics")
@pytest.mark.parametrize("name", FOREIGN)
def test_gradients(name):
    """Autograd and torch.func: the vjp of A is A^T, the jvp is A, and they work
    inside a network.
    """
    A = FOREIGN[name]()
    x = torch.randn(2, *A.image_shape, generator=generator(1))
    y = torch.randn(2, *A.data_shape, generator=generator(2))
    assert relative(torch.func.vjp(A, x)[1](y)[0], A.adjoint(y)) < 1e-6
    assert relative(torch.func.vjp(A.adjoint, y)[1](x)[0], A(x)) < 1e-6
    assert relative(torch.func.jvp(A, (x,), (x + 1,))[1], A(x + 1)) < 1e-6
    scale = torch.tensor(0.5, requires_grad=True)
    A(scale * x).square().sum().backward()
    assert math.isclose(float(scale.grad), float(A(x).square().sum()), rel_tol=1e-4)
    leaf = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(0.5 * (A(leaf) - y).square().sum(), leaf, create_graph=True)
    assert relative(g, A.adjoint(A(x) - y)) < 1e-5
    (gg,) = torch.autograd.grad(g, leaf, x)
    assert relative(gg, A.normal(x)) < 1e-5


@pytest.mark.parametrize("name", ["functions", "scipy dense", "odl derivative", "odl array weight"])
def test_gradcheck(name):
    """Those that run in double precision."""
    A = FOREIGN[name]()
    x = torch.randn(1, *A.image_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(A, x, check_forward_ad=True)
    z = torch.randn(1, *A.image_shape, dtype=torch.float64, requires_grad=True)
    q = torch.randn(1, *A.data_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, q: A.data_step(z, 2.0, Aty=A.adjoint(q), tol=1e-12)[0], (z, q), atol=1e-4
    )


# ---- round trips


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("partner", ["scipy", "odl", "deepinv", "functions"])
def test_round_trip(partner, name):
    A = operators.get(name).example()
    B = {
        "scipy": lambda: interop.from_scipy(
            interop.to_scipy(A, dtype="float64"), A.image_shape, A.data_shape
        ),
        "odl": lambda: interop.from_odl(interop.to_odl(A, dtype="float64")),
        "deepinv": lambda: interop.from_deepinv(interop.to_deepinv(A), A.image_shape),
        "functions": lambda: interop.from_functions(
            A, A.adjoint, A.image_shape, A.data_shape, normal=A.normal
        ),
    }[partner]()
    assert (B.image_shape, B.data_shape) == (A.image_shape, A.data_shape)
    x = torch.randn(2, *A.image_shape, dtype=torch.float64, generator=generator())
    y = torch.randn(2, *A.data_shape, dtype=torch.float64, generator=generator(1))
    assert torch.equal(B(x), A(x))
    assert torch.equal(B.adjoint(y), A.adjoint(y))
    assert torch.equal(B.normal(x), A.normal(x)) or relative(B.normal(x), A.normal(x)) < 1e-12
    assert B(x.float()).dtype == torch.float32
    check_operator(B)


def test_astra_is_radon():
    """The same geometry through from_astra, bit by bit."""
    astra = require("astra", "test")
    A = Radon(image_shape=(1, 14, 18), angles=9, backend="astra_cpu", cache=False)
    theta = A.angles.numpy()
    B = interop.from_astra(
        astra.create_proj_geom("parallel", 1.0, A.data_shape[2], theta),
        astra.create_vol_geom(14, 18),
    )
    x, y = (
        torch.randn(2, 1, 14, 18, generator=generator()),
        torch.randn(2, 9, A.data_shape[2], generator=generator()),
    )
    assert torch.equal(B(x), A(x)[:, 0])
    assert torch.equal(B.adjoint(y), A.adjoint(y[:, None]))


def test_odl_adjoint_is_the_transpose():
    """ODL's own adjoint is off by w_range / w_domain, here 0.1745 / 0.25; and its axes are (x, y
    upwards).
    """
    T = ray_transform()
    A = interop.from_odl(T)
    y = torch.randn(1, *A.data_shape, generator=generator())
    theirs = torch.as_tensor(T.adjoint(T.range.element(y[0].numpy())).data)
    assert relative(theirs * 0.25 / (np.pi / 9 * 0.5), A.adjoint(y)[0, 0]) < 1e-6
    assert relative(theirs, A.adjoint(y)[0, 0]) > 0.1
    # pixels of half a unit: ODL's lengths are half of ours, its rows are our columns, its columns
    # our rows from below
    theta = torch.as_tensor(T.geometry.angles.copy())
    R = Radon(image_shape=(1, 24, 16), angles=theta, detectors=48, cache=False)
    x = torch.rand(1, 1, 16, 24, generator=generator(1))
    assert relative(2 * A(x)[:, None], R(x.transpose(-1, -2).flip(-2))) < 1e-4


def test_deepinvs_noise_is_not_applied_and_the_physics_is_left_alone():
    base = physics()
    theirs = base.Inpainting(
        img_size=(1, 6, 7), mask=random_mask((6, 7), keep=0.5), noise_model=base.GaussianNoise(0.5)
    )
    before = copy.deepcopy(theirs.state_dict())
    A = interop.from_deepinv(theirs, (1, 6, 7))
    x = torch.rand(1, 1, 6, 7, generator=generator())
    assert torch.equal(A(x), theirs.A(x))
    assert torch.equal(A(x), A(x))
    A.to(torch.float64)
    A.physics.mask.zero_()
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype
        for a, b in zip(before.values(), theirs.state_dict().values(), strict=True)
    )
    theirs.update_parameters(mask=torch.ones(1, 1, 6, 7))
    assert not A(x).any()


def test_deepinvs_precision():
    """A physics in float64 is used in float64, one in float32 in that."""
    kernel = torch.rand(1, 1, 3, 3, generator=generator())
    x = torch.rand(1, 1, 8, 9, dtype=torch.float64, generator=generator())
    single = from_deepinv("BlurFFT", (1, 8, 9), img_size=(1, 8, 9), filter=kernel)
    double = interop.from_deepinv(
        physics().Blur(filter=kernel, padding="circular").to(torch.float64), (1, 8, 9)
    )
    assert single(x).dtype == torch.float64
    assert 1e-9 < relative(single(x), double(x)) < 1e-6
    assert adjoint_mismatch(double, dtype=torch.float64) < 1e-14


def test_a_wrong_foreign_adjoint_is_found_on_request():
    A = from_deepinv(
        "Tomography",
        (1, 14, 14),
        angles=9,
        img_width=14,
        normalize=True,
        adjoint_via_backprop=False,
    )
    assert adjoint_mismatch(A) > 1e-3


def test_what_comes_home_is_unwrapped():
    A = Mask(random_mask((6, 7), keep=0.5))
    B = interop.from_deepinv(interop.to_deepinv(A), (1, 6, 7))
    assert isinstance(B, Mask)
    assert B is not A


# ---- scipy's solvers on our operators


@pytest.mark.parametrize("name", EXAMPLES)
def test_scipys_solvers_find_the_data_step(name):
    """lsqr with damping, and cg on the normal equations."""
    A = operators.get(name).example()
    precise = name != "radon"
    S = interop.to_scipy(A, dtype="float64")
    alpha = 0.1 * A.norm() ** 2
    z = torch.randn(1, *A.image_shape, dtype=torch.float64, generator=generator())
    q = torch.randn(1, *A.data_shape, dtype=torch.float64, generator=generator(1))
    h = A.data_step(z, alpha, Aty=A.adjoint(q), tol=1e-10, max_iter=500)[0].flatten().numpy()
    flat, data = z.flatten().numpy(), q.flatten().numpy()
    x = scipy.sparse.linalg.lsqr(S, data, damp=math.sqrt(alpha), x0=flat, atol=1e-12, btol=1e-12)[0]
    assert np.linalg.norm(x - h) < (1e-8 if precise else 1e-4) * np.linalg.norm(h)
    normal = S.T @ S + alpha * scipy.sparse.linalg.aslinearoperator(scipy.sparse.eye(len(flat)))
    x, failed = scipy.sparse.linalg.cg(
        normal, S.T @ data + alpha * flat, rtol=1e-10 if precise else 1e-5
    )
    assert not failed
    assert np.linalg.norm(x - h) < (1e-8 if precise else 1e-4) * np.linalg.norm(h)


def test_to_scipy_keeps_dtype_and_takes_matrices():
    A = Blur(torch.rand(3, 3, generator=generator()), (2, 5, 6))
    for kind in ("float32", np.float64):
        S = interop.to_scipy(A, dtype=kind)
        assert S.shape == (60, 60)
        assert S.dtype == kind
        X = np.random.default_rng(0).standard_normal((60, 4))
        assert (S @ X).dtype == kind
        assert (S @ X).shape == (60, 4)
        assert np.allclose(S @ X, np.stack([S.matvec(column) for column in X.T], axis=1), atol=1e-5)
        assert S.matvec(X[:, :1]).shape == (60, 1)
        assert np.allclose(S.rmatmat(X)[:, 1], S.rmatvec(X[:, 1]), atol=1e-5)
    assert (
        abs(scipy.sparse.linalg.svds(interop.to_scipy(A, dtype="float64"), k=1)[1][0] - A.norm())
        < 1e-2
    )


# ---- our solvers on deepinv's physics


def scene(channels=1):
    """A disc and a slope, (1, C, 24, 24)."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 24), indexing="ij"
    )
    image = 0.5 + 0.2 * columns + 0.3 * ((rows - 0.2) ** 2 + columns**2 < 0.25).float()
    return torch.stack([image, 0.5 * image.flip(-1)])[None, :channels]


SHAPE = (1, 24, 24)
SOLVED = {
    "inpainting": (
        1,
        lambda: from_deepinv(
            "Inpainting", SHAPE, img_size=SHAPE, mask=random_mask((24, 24), keep=0.6)
        ),
    ),
    "blurfft": (
        1,
        lambda: from_deepinv(
            "BlurFFT",
            SHAPE,
            img_size=SHAPE,
            filter=physics().functional.gaussian_blur(sigma=(1.0, 1.0)),
        ),
    ),
    "mri": (
        2,
        lambda: from_deepinv(
            "MRI", (2, 24, 24), img_size=(2, 24, 24), mask=random_mask((24, 24), keep=0.6)
        ),
    ),
    "tomography": (
        1,
        lambda: from_deepinv("Tomography", SHAPE, angles=24, img_width=24, normalize=True),
    ),
    "downsampling": (
        1,
        lambda: from_deepinv("Downsampling", SHAPE, img_size=SHAPE, factor=2, filter="gaussian"),
    ),
}


@pytest.mark.parametrize("solver", ["admm", "hqs", "pgd"])
@pytest.mark.parametrize("name", SOLVED)
def test_our_solvers_on_deepinvs_physics(name, solver):
    """They run, fit the data, and come nearer to the truth than the start."""
    channels, make = SOLVED[name]
    A, truth = make(), scene(channels)
    clean = A(truth)
    noise = 0.01 * float(clean.square().mean().sqrt())
    q = clean + noise * torch.randn(clean.shape, generator=generator())
    settings = {
        "admm": {"sigma": 0.05, "iterations": 30, "data_iterations": 10},
        "hqs": {"iterations": 10},
        "pgd": {"iterations": 60},
    }[solver]
    if solver != "hqs":
        settings["sigma"] = 0.05 if solver == "admm" else 0.03
    x0 = A.adjoint(q) / A.norm() ** 2  # A.initial is near the end already
    result = solvers.make(solver, **settings).run(q, A, TV(), noise=noise, x0=x0, progress=False)
    assert torch.isfinite(result.x).all()
    assert relative(A(result.x), q) < 0.1
    assert relative(result.x, truth) < relative(x0, truth)


def test_a_small_mlpatch_on_deepinvs_physics(net):
    A = SOLVED["tomography"][1]()
    q = A(scene())
    result = solvers.make("admm", alpha=0.1, sigma=0.05, iterations=5).run(
        q, A, net, progress=False
    )
    assert relative(A(result.x), q) < 0.2


def test_deepinvs_inpainting_is_our_mask():
    """The same iterates from the same start, by conjugate gradients there and in
    closed form here.
    """
    mask = random_mask((24, 24), keep=0.6)
    A, B = Mask(mask), from_deepinv("Inpainting", SHAPE, img_size=SHAPE, mask=mask)
    q = A(scene())
    x = [
        solvers.make("admm", alpha=0.1, sigma=0.05, iterations=10, data_iterations=20)
        .run(q, C, TV(), x0=A.initial(q), progress=False)
        .x
        for C in (A, B)
    ]
    assert relative(x[1], x[0]) < 1e-5


# ---- deepinv's solvers on our operators


@pytest.fixture(scope="module")
def net():
    """A random small network that changes the image."""
    torch.manual_seed(0)
    D = MLPatch(radius=2.0, rings=2, angles=4, width=8, depth=2)
    torch.nn.init.normal_(D.last, std=0.01)
    return D.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["ADMM", "HQS", "PGD"])
@pytest.mark.parametrize("operator", ["mask", "radon"])
def test_deepinvs_solvers_on_our_operators(operator, name, net):
    """Their PnP with an MLPatch gives our iterates."""
    optim = require("deepinv.optim", "test")
    A = (
        Mask(random_mask((24, 24), keep=0.6))
        if operator == "mask"
        else Radon(image_shape=(1, 24, 24), angles=20, cache=False)
    )
    q = A(scene())
    x0, sigma, L = A.adjoint(q) / A.norm() ** 2, 0.05, A.norm() ** 2
    step = 0.9 / L if name == "PGD" else 10 / L
    settings = {"beta": 1.0} if name == "ADMM" else {}
    init = (x0, torch.zeros_like(x0)) if name == "ADMM" else x0
    model = getattr(optim, name)(
        data_fidelity=optim.L2(),
        prior=optim.PnP(denoiser=net),
        g_param=sigma,
        stepsize=step,
        max_iter=5,
        early_stop=False,
        **settings,
    )
    with torch.no_grad():
        theirs = model(q, interop.to_deepinv(A, max_iter=500, tol=1e-7), init=init)
    ours = (
        {"tau": step}
        if name == "PGD"
        else {"alpha": 1 / step, "data_iterations": 500, "data_tol": 1e-7}
    )
    solver = solvers.make(name.lower(), sigma=sigma, iterations=5, tol=0.0, **ours)
    problem = make_problem(q, A, None)
    with torch.no_grad():
        states = solver.iterate(problem, net, solver.init(problem, x0))
        x = [next(states).x for _ in range(5)][-1]
    assert relative(theirs, x) < 1e-5
    assert relative(x, x0) > 0.01


def test_physics_prox():
    """prox_l2(z, y, gamma) = h(z; 1 / gamma): numbers, tensors of several shapes, z left out; and
    nothing is kept.
    """
    A = Mask(random_mask((6, 7), keep=0.5))
    P = interop.to_deepinv(A)
    z, y = (
        torch.randn(2, 1, 6, 7, generator=generator()),
        A(torch.randn(2, 1, 6, 7, generator=generator(1))),
    )
    gamma = torch.tensor([0.5, 4.0])
    want = A.data_step(z, 1 / gamma, Aty=A.adjoint(y))[0]
    for given in (gamma, gamma.reshape(2, 1, 1, 1)):
        assert torch.equal(P.prox_l2(z, y, given), want)
    for one in (0.5, torch.tensor(0.5), torch.tensor([0.5])):
        assert torch.allclose(P.prox_l2(z, y, one)[0], want[0])
    zero = A.data_step(torch.zeros_like(z), 2.0, Aty=A.adjoint(y))[0]
    for nothing in (None, 0, 0.0):
        assert torch.equal(P.prox_l2(nothing, y, 0.5), zero)
    known = (P.solver, P.max_iter, P.tol)
    P.prox_l2(z, y, 0.5, solver="lsqr", max_iter=3, tol=1.0, verbose=True)
    assert (P.solver, P.max_iter, P.tol) == known
    with pytest.raises(InputError, match=r"to_deepinv: gamma must be a number or of shape \(2,\)"):
        P.prox_l2(z, y, torch.ones(3))


def test_physics_is_deepinvs():
    """Noise, moves, copies, the pseudo-inverse, gradients through all of it."""
    torch.manual_seed(0)
    base = physics()
    A = Radon(image_shape=(1, 12, 14), angles=16, cache=False)
    P = interop.to_deepinv(A)
    assert isinstance(P, base.LinearPhysics)
    assert P.img_size == A.image_shape
    x = torch.rand(2, 1, 12, 14, generator=generator())
    assert torch.equal(P(x), A(x))
    P.set_noise_model(base.GaussianNoise(0.1))
    assert not torch.equal(P(x), A(x))
    assert torch.equal(P.A(x), A(x))
    twin = P.clone()
    assert twin.operator is not A
    assert torch.equal(twin.A(x), A(x))
    assert torch.equal(copy.deepcopy(P).A(x), A(x))
    assert P.to("cpu").operator is A
    assert {f"operator.{name}" for name in A.state_dict()} <= set(P.state_dict())
    assert float(P.adjointness_test(x)) < 1e-6
    assert abs(float(P.compute_sqnorm(x[:1], verbose=False)) / A.norm() ** 2 - 1) < 1e-2
    least = P.A_dagger(A(x), solver="lsqr", max_iter=200, tol=1e-6)
    assert relative(A(least), A(x)) < 1e-3
    y, gamma = (0.5 * A(x)).requires_grad_(True), torch.tensor([0.5, 1.0], requires_grad=True)
    leaf = torch.rand(2, 1, 12, 14, generator=generator(1)).requires_grad_(True)
    w = torch.randn(x.shape, generator=generator(2))
    h = P.prox_l2(leaf, y, gamma)
    gradients = torch.autograd.grad((h * w).sum(), (leaf, y, gamma))
    alpha = 1 / gamma.detach().reshape(-1, 1, 1, 1)
    v = A.data_step(torch.zeros_like(x), alpha, Aty=w, max_iter=500)[0]  # (A^T A + alpha)^-1 w
    expected = alpha * v, A(v), (-(alpha**2) * v * (leaf - h)).flatten(1).sum(dim=1)
    for g, e in zip(gradients, expected, strict=True):
        assert relative(g, e) < 5e-2
    leaf.grad = None
    P.A_dagger(P.A(leaf)).sum().backward()
    assert leaf.grad.abs().max() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", EXAMPLES)
def test_on_a_gpu(name):
    A = operators.get(name).example().to("cuda")
    for B in (A, interop.to_deepinv(A)):
        x = torch.randn(2, *A.image_shape, device="cuda")
        assert B(x).is_cuda
    check_operator(DeepinvOperator(interop.to_deepinv(A), A.image_shape, A.data_shape))
    S = interop.to_scipy(A)
    assert np.allclose(S @ x[0].flatten().cpu().numpy(), A(x)[0].flatten().cpu().numpy(), atol=1e-4)


def test_odls_solver_on_our_operator():
    """ODL's conjugate gradients on the normal equations reach the least squares solution."""
    odl = require("odl", "test")
    A = Blur(torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]]), (1, 8, 9))
    T = interop.to_odl(A, dtype="float64")
    x = torch.rand(1, 1, 8, 9, dtype=torch.float64, generator=generator())
    solution = T.domain.zero()
    odl.solvers.conjugate_gradient_normal(T, solution, T.range.element(A(x)[0].numpy()), niter=60)
    assert relative(torch.as_tensor(solution.data), x[0]) < 1e-6


# ---- what is refused


class _Stranger:
    pass


def _nonlinear():
    odl = require("odl", "test")
    return odl.PowerOperator(odl.rn((4, 5)), 2)


def _no_adjoint():
    odl = require("odl", "test")

    class OneWay(odl.Operator):
        def __init__(self):
            super().__init__(odl.rn((4, 5)), odl.rn((4, 5)), linear=True)

        def _call(self, x):
            return x

    return OneWay()


def _odl(make):
    return make(require("odl", "test"))


def _no_rmatvec():
    return scipy.sparse.linalg.LinearOperator((6, 6), matvec=lambda v: v, dtype="float32")


def _complex_rmatvec():
    return scipy.sparse.linalg.LinearOperator(
        (6, 6), matvec=lambda v: v, rmatvec=lambda v: 1j * v, dtype="float32"
    )


def _affine():
    return physics().LinearPhysics(A=lambda x: x + 1, A_adjoint=lambda y: y)


def _one_image_lost():
    return physics().LinearPhysics(A=lambda x: x[0], A_adjoint=lambda y: y[None])


def _stacked():
    return physics().StackedLinearPhysics([physics().Denoising(), physics().Denoising()])


def _uncopied():
    theirs = physics().Denoising()
    theirs.odd = (n for n in range(3))  # generators cannot be copied
    return theirs


REFUSED = {
    "functions not callable": (
        lambda: interop.from_functions(3, abs, (1, 2, 3), (6,)),
        InputTypeError,
        "A must be a function",
    ),
    "functions of scipy": (
        lambda: interop.from_functions(MATRIX, abs, (1, 2, 3), (6,)),
        InputTypeError,
        r"Use from_scipy\(",
    ),
    "functions normal": (
        lambda: interop.from_functions(abs, abs, (1, 2, 3), (6,), normal=2),
        InputTypeError,
        "normal must be a function",
    ),
    "functions image": (
        lambda: interop.from_functions(abs, abs, (2, 3), (6,)),
        InputError,
        r"image_shape must be \(C, H, W\)",
    ),
    "functions image 0": (
        lambda: interop.from_functions(abs, abs, (1, 0, 3), (6,)),
        InputError,
        "integers >= 1",
    ),
    "functions data": (
        lambda: interop.from_functions(abs, abs, (1, 2, 3), 6),
        InputError,
        "data_shape must be a sequence",
    ),
    "functions data empty": (
        lambda: interop.from_functions(abs, abs, (1, 2, 3), ()),
        InputError,
        "data_shape must be a sequence",
    ),
    "functions data float": (
        lambda: interop.from_functions(abs, abs, (1, 2, 3), (1.5,)),
        InputError,
        "data_shape must be a sequence",
    ),
    "scipy list": (
        lambda: interop.from_scipy([[1.0]], (1, 1, 1)),
        InputTypeError,
        "expected a scipy LinearOperator.*got list",
    ),
    "scipy own": (
        lambda: interop.from_scipy(Mask(torch.ones(2, 2)), (1, 2, 2)),
        InputTypeError,
        "already: use it as it is",
    ),
    "scipy deepinv": (
        lambda: interop.from_scipy(physics().Denoising(), (1, 2, 2)),
        InputTypeError,
        r"Use from_deepinv\(",
    ),
    "scipy odl": (
        lambda: interop.from_scipy(partial_derivative(), (1, 8, 9)),
        InputTypeError,
        r"Use from_odl\(",
    ),
    "scipy vector": (
        lambda: interop.from_scipy(np.ones(6), (1, 2, 3)),
        InputError,
        r"matrix \(M, N\)",
    ),
    "scipy complex": (
        lambda: interop.from_scipy(1j * np.ones((6, 6)), (1, 2, 3)),
        InputTypeError,
        "must be real, got complex128",
    ),
    "scipy complex adjoint": (
        lambda: interop.from_scipy(_complex_rmatvec(), (1, 2, 3)),
        InputTypeError,
        "rmatvec returns complex",
    ),
    "scipy no adjoint": (
        lambda: interop.from_scipy(_no_rmatvec(), (1, 2, 3)),
        InputError,
        "no rmatvec",
    ),
    "scipy image": (
        lambda: interop.from_scipy(np.ones((4, 6)), (1, 2, 4)),
        InputError,
        r"image_shape \(1, 2, 4\) has 8 .* 4 x 6",
    ),
    "scipy data": (
        lambda: interop.from_scipy(np.ones((4, 6)), (1, 2, 3), (5,)),
        InputError,
        r"data_shape \(5,\) has 5",
    ),
    "to scipy": (
        lambda: interop.to_scipy(MATRIX),
        InputTypeError,
        r"A must be a LinearOperator.*got ndarray.*from_scipy",
    ),
    "to scipy function": (lambda: interop.to_scipy(abs), InputTypeError, "from_functions"),
    "to scipy stranger": (lambda: interop.to_scipy(_Stranger()), InputTypeError, "got _Stranger"),
    "to scipy dtype": (
        lambda: interop.to_scipy(Mask(torch.ones(2, 2)), dtype="int8"),
        InputTypeError,
        "dtype must be",
    ),
    "to scipy no dtype": (
        lambda: interop.to_scipy(Mask(torch.ones(2, 2)), dtype="fast"),
        InputTypeError,
        "dtype must be",
    ),
    "deepinv type": (
        lambda: interop.from_deepinv(MATRIX, (1, 4, 6)),
        InputTypeError,
        r"got ndarray. Use from_scipy",
    ),
    "deepinv class": (
        lambda: interop.from_deepinv(abs, (1, 4, 6)),
        InputTypeError,
        "expected a deepinv LinearPhysics",
    ),
    "deepinv nonlinear": (
        lambda: interop.from_deepinv(physics().Haze(), (1, 4, 6)),
        InputTypeError,
        "Haze is not linear",
    ),
    "deepinv affine": (
        lambda: interop.from_deepinv(_affine(), (1, 4, 6)),
        InputError,
        r"A\(0\) is not 0",
    ),
    "deepinv batch": (
        lambda: interop.from_deepinv(_one_image_lost(), (2, 4, 6)),
        InputError,
        "a batch of one image must give",
    ),
    "deepinv stacked": (
        lambda: interop.from_deepinv(_stacked(), (1, 4, 6)),
        InputTypeError,
        "must be one tensor, got a TensorList",
    ),
    "deepinv uncopied": (
        lambda: interop.from_deepinv(_uncopied(), (1, 4, 6)),
        InputError,
        "cannot be copied.*from_functions",
    ),
    "deepinv complex": (
        lambda: interop.from_deepinv(
            physics().LinearPhysics(A=lambda x: 1j * x, A_adjoint=lambda y: y), (1, 4, 6)
        ),
        InputTypeError,
        "must be real, got torch.complex64",
    ),
    "deepinv shape": (
        lambda: from_deepinv("Inpainting", (1, 5, 5), img_size=(1, 4, 6), mask=0.5),
        InputError,
        r"from_deepinv\(Inpainting\): the physics does not take images of shape \(1, 5, 5\)",
    ),
    "deepinv image": (
        lambda: from_deepinv("Denoising", (5, 5)),
        InputError,
        r"image_shape must be \(C, H, W\)",
    ),
    "deepinv home shape": (
        lambda: interop.from_deepinv(interop.to_deepinv(Mask(torch.ones(2, 2))), (1, 3, 3)),
        InputError,
        r"image_shape must be that of its operator, \(1, 2, 2\)",
    ),
    "to deepinv": (
        lambda: interop.to_deepinv(physics().Denoising()),
        InputTypeError,
        r"to_deepinv: A must.*from_deepinv",
    ),
    "odl type": (
        lambda: interop.from_odl(MATRIX),
        InputTypeError,
        r"expected an odl.Operator, got ndarray. Use from_scipy",
    ),
    "odl nonlinear": (lambda: interop.from_odl(_nonlinear()), InputTypeError, "is not linear"),
    "odl no adjoint": (lambda: interop.from_odl(_no_adjoint()), InputError, "has no adjoint"),
    "odl vector": (
        lambda: _odl(lambda o: interop.from_odl(o.IdentityOperator(o.rn(5)))),
        InputError,
        r"its domain must have shape \(H, W\)",
    ),
    "odl product": (
        lambda: _odl(
            lambda o: interop.from_odl(o.Gradient(o.uniform_discr([0, 0], [1, 1], [4, 5])))
        ),
        InputError,
        "its range must be",
    ),
    "odl complex": (
        lambda: _odl(lambda o: interop.from_odl(o.IdentityOperator(o.cn((4, 5))))),
        InputTypeError,
        "got complex128",
    ),
    "odl exponent": (
        lambda: _odl(lambda o: interop.from_odl(o.IdentityOperator(o.rn((4, 5), exponent=1.0)))),
        InputError,
        "the inner product of its domain must have a weight",
    ),
    "to odl": (
        lambda: interop.to_odl(partial_derivative()),
        InputTypeError,
        r"to_odl: A must.*from_odl",
    ),
    "to odl dtype": (
        lambda: interop.to_odl(Mask(torch.ones(2, 2)), dtype="float16"),
        InputTypeError,
        "dtype must be",
    ),
    "astra id": (
        lambda: interop.from_astra(10**6),
        InputError,
        "no 2-D projector of the id 1000000",
    ),
    "astra type": (lambda: interop.from_astra("linear"), InputTypeError, "expected a projector id"),
    "astra bool": (lambda: interop.from_astra(True), InputTypeError, "expected a projector id"),
    "astra half": (
        lambda: interop.from_astra(astra_geometries()[0]),
        InputTypeError,
        "the two geometries.*got dict and NoneType",
    ),
    "astra id and more": (
        lambda: interop.from_astra(1, projector="line"),
        InputError,
        "has its geometries already",
    ),
    "astra projector": (
        lambda: interop.from_astra(*astra_geometries(), "best"),
        InputError,
        "refuses the projector 'best'",
    ),
    "astra fan": (
        lambda: interop.from_astra(*astra_geometries("fanflat")),
        InputError,
        "'linear' for the geometry 'fanflat'.*line_fanflat",
    ),
    "astra empty": (lambda: interop.from_astra({}, {}), InputError, "refuses the projector"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("A", "error", "words"),
    [
        (
            lambda x: x[..., 1:],
            InputError,
            r"A must take a batch \(2, 1, 4, 5\) to \(2, 1, 4, 5\), got \(2, 1, 4, 4\) back",
        ),
        (lambda x: x.sum(), InputError, "Is the batch axis kept"),
        (
            lambda x: 1j * x,
            InputTypeError,
            "A must return a tensor of real floats, got torch.complex64",
        ),
        (lambda x: x.numpy(), InputTypeError, "A must return a tensor of real floats, got ndarray"),
    ],
)
def test_wrong_functions(A, error, words):
    B = interop.from_functions(A, A, (1, 4, 5), (1, 4, 5))
    with pytest.raises(error, match=f"from_functions: .*{words}"):
        B(torch.ones(2, 1, 4, 5))


def test_messages_name_the_conversion():
    with pytest.raises(
        InputError,
        match=r"from_scipy: A\(x\) takes image of shape \(B, 2, 3, 4\), got \(1, 1, 3, 4\)",
    ):
        FOREIGN["scipy dense"]()(torch.ones(1, 1, 3, 4))
    with pytest.raises(InputTypeError, match="the operator is real, the vector is complex"):
        interop.to_scipy(Mask(torch.ones(2, 2))) @ (1j * np.ones(4))


def test_an_astra_projector_that_is_gone():
    astra = require("astra", "test")
    identity = astra.create_projector("line", *astra_geometries())
    A = interop.from_astra(identity)
    astra.projector.delete(identity)
    with pytest.raises(InputError, match="keep it while A is used"):
        A(torch.ones(1, *A.image_shape))


def test_no_astra_projector_is_left():
    """Those that are made here are deleted, even after an error."""
    astra = require("astra", "test")
    first = astra.create_projector("line", *astra_geometries())
    A = interop.from_astra(*astra_geometries())
    A(torch.ones(2, *A.image_shape))
    last = astra.create_projector("line", *astra_geometries())
    for identity in range(first + 1, last):
        with pytest.raises(Exception, match="not found"):
            astra.projector.volume_geometry(identity)
    astra.projector.delete([first, last])


def test_a_cuda_projector_without_a_gpu():
    """ASTRA would return zeros without a word."""
    if require("astra", "test").use_cuda():
        pytest.skip("there is a GPU")
    with pytest.raises(MissingPackage, match="there is no GPU"):
        interop.from_astra(*astra_geometries(), "cuda")


def test_the_callers_geometries_are_copied():
    projection, volume = astra_geometries()
    A = interop.from_astra(projection, volume)
    x = torch.ones(1, *A.image_shape)
    before = A(x)
    projection["ProjectionAngles"][:] = 0
    volume["GridRowCount"] = 3
    assert torch.equal(A(x), before)


def test_integer_results_of_foreign_operators_are_refused():
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(
        InputTypeError, match=r"A must return a tensor of real floats, got torch.int64"
    ):
        interop.from_functions(lambda x: x.long(), lambda y: y, (1, 4, 4), (1, 4, 4))(x)
    rounded = scipy.sparse.linalg.LinearOperator(
        (16, 16), matvec=lambda v: v.astype(int), rmatvec=lambda v: v, dtype=np.float32
    )
    with pytest.raises(
        InputTypeError, match=r"from_scipy: the products must be real floats, got int64"
    ):
        interop.from_scipy(rounded, (1, 4, 4))(x)
    whole = interop.from_scipy(scipy.sparse.eye(16, dtype=np.uint8).tocsr() * 2, (1, 4, 4))
    assert torch.equal(whole(x).reshape(x.shape), 2 * x)
