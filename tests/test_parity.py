"""The same denoiser, alpha and start give deepinv's iterates: ADMM, HQS and PGD on a mask, on mri
and on radon.
"""

from __future__ import annotations

import pytest
import torch

from pnp_mlpatch import operators, solvers
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import for_complex
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.mri import MRI
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import make_problem

ITERATIONS = 10


def physics_of(A):
    """The same operator on deepinv's side: its own inpainting for the mask, a plain LinearPhysics
    around the projector.
    """
    physics = require("deepinv.physics", "test")
    if isinstance(A, Mask):
        return physics.Inpainting(img_size=A.image_shape, mask=A.mask.float())
    if isinstance(A, MRI):
        return physics.MRI(mask=A.mask.float())
    return physics.LinearPhysics(
        A=lambda x, **_: A(x),
        A_adjoint=lambda y, **_: A.adjoint(y),
        max_iter=500,
        tol=1e-7,
        solver="CG",
    )


@pytest.fixture(scope="module", params=["mask", "mri", "radon"])
def problem(request, photo):
    truth = photo[..., :40, :48].contiguous()
    generator = torch.Generator().manual_seed(0)
    if request.param == "mri":
        truth = torch.cat([truth, 0.3 * truth.flip(-1)], dim=1)
    A = {
        "mask": lambda: Mask(random_mask((40, 48), keep=0.4)),
        "mri": lambda: MRI.cartesian((2, 40, 48), 2.0, 0.1),
        "radon": lambda: Radon(image_shape=(1, 40, 48), angles=30, cache=False),
    }[request.param]()
    q = A(truth)
    noise = 0.02 * float(q.square().mean().sqrt())
    q = q + noise * torch.randn(q.shape, generator=generator)
    return A, q, A.norm() ** 2


def ours(solver, A, q, D, x0):
    problem = make_problem(q, A, None)
    with torch.no_grad():
        states = solver.iterate(problem, D, solver.init(problem, x0))
        return [next(states).x for _ in range(ITERATIONS)]


def theirs(name, A, q, D, init, **settings):
    optim = require("deepinv.optim", "test")
    physics = physics_of(A)
    out = []
    for k in range(1, ITERATIONS + 1):
        model = getattr(optim, name)(
            data_fidelity=optim.L2(),
            prior=optim.PnP(denoiser=D),
            g_param=SIGMA,
            max_iter=k,
            early_stop=False,
            thres_conv=0.0,
            **settings,
        )
        with torch.no_grad():
            out.append(model(q, physics, init=init))
    return out


SIGMA = 12 / 255


@pytest.mark.parametrize("name", ["admm", "hqs", "pgd"])
def test_iterates_equal_deepinvs(name, problem, mlpatch):
    A, q, L = problem
    x0 = A.adjoint(q)
    x0 = x0 / x0.abs().max()
    D = for_complex(mlpatch) if A.complex_image else mlpatch
    if name == "pgd":
        solver = solvers.make("pgd", sigma=SIGMA, tau=0.9 / L)
        reference = theirs("PGD", A, q, D, x0, stepsize=0.9 / L)
    else:
        alpha = 0.05 * L
        data = {} if A.closed_form else {"data_iterations": 500, "data_tol": 1e-7}
        solver = solvers.make(name, sigma=SIGMA, alpha=alpha, **data)
        init = (x0, torch.zeros_like(x0)) if name == "admm" else x0
        reference = theirs(
            name.upper(),
            A,
            q,
            D,
            init,
            stepsize=1 / alpha,
            **({"beta": 1.0} if name == "admm" else {}),
        )
    for k, (x, y) in enumerate(zip(ours(solver, A, q, D, x0), reference, strict=True), start=1):
        assert float((x - y).norm() / y.norm()) < 1e-5, f"iterate {k}"
    assert float((x - x0).norm() / x0.norm()) > 0.05  # it moved


def test_data_step_equals_deepinvs_prox(problem):
    A, q, L = problem
    z = torch.rand(1, *A.image_shape, generator=torch.Generator().manual_seed(1))
    for alpha in (0.1 * L, L):
        h = A.data_step(z, alpha, Aty=A.adjoint(q), tol=1e-7, max_iter=500)[0]
        assert float((h - physics_of(A).prox_l2(z, q, gamma=1 / alpha)).norm() / h.norm()) < 1e-5


def test_deepinvs_denoisers_and_our_operators_meet(problem):
    """A deepinv model goes straight into our solver."""
    models = require("deepinv.models", "test")
    A, q, L = problem
    result = solvers.make("admm", sigma=0.1, alpha=0.1 * L, iterations=3).run(
        q, A, models.MedianFilter(kernel_size=3), progress=False
    )
    assert torch.isfinite(result.x).all()


def test_odls_ray_transform_agrees():
    """ODL's parallel beam on the same geometry, its weighting taken out: same sinogram, same
    orientation.
    """
    import numpy as np

    odl = require("odl", "test")
    tomo = require("odl.applications.tomo", "test")
    n, angles, detectors = 32, 12, 47
    space = odl.uniform_discr([-n / 2, -n / 2], [n / 2, n / 2], [n, n], dtype="float32")
    theta = odl.uniform_partition(0, np.pi, angles)  # its angles are the midpoints of the cells
    line = odl.uniform_partition(-detectors / 2, detectors / 2, detectors)
    transform = tomo.RayTransform(space, tomo.Parallel2dGeometry(theta, line), impl="astra_cpu")
    A = Radon(
        image_shape=(1, n, n),
        angles=torch.as_tensor(theta.meshgrid[0].ravel().copy()),
        detectors=detectors,
        cache=False,
    )
    x = torch.rand(1, 1, n, n, generator=torch.Generator().manual_seed(2))
    x[..., :10, :5] += 2  # asymmetric
    mine = A(x)[0, 0]
    # ODL's first axis is x, its second y (up): our rows turned over, and transposed
    other = np.asarray(transform(space.element(x[0, 0].flip(0).T.contiguous().numpy())).data)
    assert float((mine - torch.from_numpy(other)).norm() / mine.norm()) < 1e-4


def test_operators_have_names():
    assert {"identity", "mask", "radon", "lensing", "blur", "mri"} <= set(operators.names())
