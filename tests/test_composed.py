"""Operators made of operators: dense solves, exact data steps, copies, weights, errors."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from matrices import dense, relative

from pnp_mlpatch import interop, operators, reconstruct
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import ContractError, InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.operators.blur import Blur
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.mri import MRI
from pnp_mlpatch.testing import adjoint_mismatch, check_operator


class EverySecond(LinearOperator):
    """Every second row, which are orthonormal: no data step of its own."""

    row_orthonormal = True

    def __init__(self, image_shape):
        channels, height, width = image_shape
        super().__init__(image_shape, (channels, (height + 1) // 2, width))

    def _forward(self, x):
        return x[..., ::2, :]

    def _adjoint(self, y):
        x = y.new_zeros(len(y), *self.image_shape)
        x[..., ::2, :] = y
        return x


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blur(channels, height, width):
    return Blur(torch.rand(2, 3, generator=generator()) / 3, (channels, height, width))


def mask(channels, height, width):
    return Mask(random_mask((height, width), keep=0.6), channels)


def fourier(height, width):
    return MRI(torch.ones(height, width))


MADE = {  # the operator, and whether its data step is exact
    "mask @ blur": (lambda h, w: mask(1, h, w) @ blur(1, h, w), False),
    "mask @ fourier": (lambda h, w: mask(2, h, w) @ fourier(h, w), True),
    "fourier @ mask": (lambda h, w: fourier(h, w) @ mask(2, h, w), True),
    "blur @ rows": (lambda h, w: blur(1, (h + 1) // 2, w) @ EverySecond((1, h, w)), True),
    "rows @ blur": (lambda h, w: EverySecond((1, h, w)) @ blur(1, h, w), False),
    "rows": (lambda h, w: EverySecond((1, h, w)), True),
    "rows @ fourier": (lambda h, w: EverySecond((2, h, w)) @ fourier(h, w), True),
    "three": (lambda h, w: mask(2, h, w) @ (-2.0 * fourier(h, w)) @ fourier(h, w).T, True),
    "sum": (lambda h, w: blur(1, h, w) + 0.5 * Identity((1, h, w)), False),
    "difference": (lambda h, w: Identity((1, h, w)) - blur(1, h, w), False),
    "multiple": (lambda h, w: -2.5 * blur(1, h, w), True),
    "multiple of CG": (lambda h, w: 0.5 * (mask(1, h, w) @ blur(1, h, w)), False),
    "adjoint": (lambda h, w: blur(1, h, w).T, False),
    "adjoint of rows": (lambda h, w: EverySecond((1, h, w)).T, True),
    "adjoint of lensing": (lambda h, w: Lensing(weight=random_mask((h, w), keep=0.8)).T, False),
    "weighted mask @ fourier": (
        lambda h, w: (mask(2, h, w) @ fourier(h, w)).weighted(
            torch.rand(2, h, w, generator=generator()) + 0.1
        ),
        True,
    ),
    "weighted multiple": (
        lambda h, w: (-3 * mask(1, h, w)).weighted(torch.rand(1, h, w, generator=generator())),
        True,
    ),
    "weighted sum": (
        lambda h, w: (blur(1, h, w) + mask(1, h, w)).weighted(
            torch.rand(1, h, w, generator=generator()) + 0.1
        ),
        False,
    ),
}


@pytest.mark.parametrize("size", [(4, 6), (5, 3)], ids=str)
@pytest.mark.parametrize("name", MADE)
def test_data_step_equals_a_dense_solve(name, size):
    A, exact = MADE[name][0](*size), MADE[name][1]
    M = dense(A)
    assert A.closed_form == exact
    assert abs(A.norm() / float(torch.linalg.matrix_norm(M, 2)) - 1) < 2e-3
    z = torch.randn(1, *A.image_shape, dtype=torch.float64, generator=generator(1))
    q = torch.randn(1, *A.data_shape, dtype=torch.float64, generator=generator(2))
    assert relative(A.adjoint(q).flatten(), M.T @ q.flatten()) < 1e-12
    assert relative(A.normal(z).flatten(), M.T @ (M @ z.flatten())) < 1e-12
    for alpha in (1e-3, 0.1, 10.0):
        f, info = A.data_step(z, alpha, Aty=A.adjoint(q), tol=1e-11, max_iter=500)
        b = M.T @ q.flatten() + alpha * z.flatten()
        expected = torch.linalg.solve(M.T @ M + alpha * torch.eye(len(b), dtype=b.dtype), b)
        assert relative(f.flatten(), expected) < 1e-7
        assert (info.iterations == 0) == exact
        f = A.data_step(z.float(), alpha, Aty=A.adjoint(q).float(), max_iter=500)[0]
        residual = M.T @ (M @ f.double().flatten()) + alpha * f.double().flatten() - b
        assert float(residual.norm() / b.norm()) < 1e-5  # in float32 too


@pytest.mark.parametrize("name", ["mask @ blur", "mask @ fourier", "sum", "multiple", "adjoint"])
def test_the_contract(name):
    check_operator(MADE[name][0](6, 5))


def test_a_wrong_claim_is_found():
    A = EverySecond((1, 5, 4))
    assert any("row_orthonormal" in check.name for check in check_operator(A))
    B = mask(1, 4, 5)
    B.row_orthonormal = True
    with pytest.raises(ContractError, match="row_orthonormal: A A\\^H = 1"):
        check_operator(B)


def test_they_are_what_they_say():
    x = torch.rand(2, 1, 4, 6, generator=generator())
    A, B = mask(1, 4, 6), blur(1, 4, 6)
    assert torch.equal((A @ B)(x), A(B(x)))
    assert torch.equal((A + B)(x), A(x) + B(x))
    assert torch.allclose((A - B)(x), A(x) - B(x))
    assert torch.equal((-A)(x), -A(x))
    for two in (2 * A, A * 2, np.float64(2) * A, A * torch.tensor(2.0)):
        assert torch.equal(two(x), 2 * A(x))
    assert torch.equal(B.T(x), B.adjoint(x))
    assert torch.equal(B.T.adjoint(x), B(x))
    assert B.T.T is B
    assert (3 * (2 * A)).scale == 6.0
    assert fourier(4, 6).T.row_orthonormal
    assert (mask(2, 4, 6) @ fourier(4, 6)).complex_image
    assert not (A @ B).complex_image


def test_a_mask_after_fourier_is_mri():
    lines = random_mask((6, 7), keep=0.5)
    A, B = MRI(lines), Mask(lines, 2) @ fourier(6, 7)
    z = torch.randn(2, 2, 6, 7, generator=generator())
    q = A(torch.randn(2, 2, 6, 7, generator=generator(1)))
    assert (
        relative(B.data_step(z, 0.2, Aty=B.adjoint(q))[0], A.data_step(z, 0.2, Aty=A.adjoint(q))[0])
        < 1e-6
    )


@pytest.mark.parametrize("name", MADE)
def test_copies(name):
    A = MADE[name][0](4, 6)
    x = torch.rand(2, *A.image_shape, generator=generator())
    for twin in (copy.deepcopy(A), pickle.loads(pickle.dumps(A)), A.to("cpu")):
        assert torch.equal(twin(x), A(x))
    assert adjoint_mismatch(A) < 1e-6


@pytest.mark.parametrize("name", ["mask @ blur", "mask @ fourier", "sum", "multiple", "adjoint"])
def test_weights_for_each_image(name):
    A = MADE[name][0](4, 6)
    weight = torch.rand(2, *A.data_shape, generator=generator()).double() + 0.1
    z, Aty = (torch.randn(2, *A.image_shape, generator=generator(1)).double() for _ in range(2))
    both = A.weighted(weight)
    f = both.data_step(z, 0.3, Aty=Aty, tol=1e-11, max_iter=500)[0]
    for k in range(2):
        one = A.weighted(weight[k])
        g = one.data_step(z[[k]], 0.3, Aty=Aty[[k]], tol=1e-11, max_iter=500)[0]
        assert relative(f[[k]], g) < 1e-8
        chosen = both.for_images(torch.tensor([k]))
        assert torch.allclose(chosen(z[[k]]), one(z[[k]]))
    assert abs(both.norm() / max(A.weighted(w).norm() for w in weight) - 1) < 2e-3
    assert A.for_images(torch.tensor([0])) is A


def test_parts_with_weights_for_each_image():
    """They are chosen in every part, and the norm is that of the largest."""
    weight = torch.rand(2, 1, 4, 6, generator=generator()) + 0.1
    part = blur(1, 4, 6).weighted(weight)
    x = torch.rand(2, 1, 4, 6, generator=generator(1))
    whole = (part + Identity((1, 4, 6)), 2 * part, part @ mask(1, 4, 6), part.T)
    for A in whole:
        y = A(x)
        for k in range(2):
            assert torch.allclose(A.for_images(torch.tensor([k]))(x[[k]]), y[[k]])
        norms = [A.for_images(torch.tensor([k])).norm() for k in range(2)]
        assert A.norm() == max(norms)


def test_they_stack_and_solve():
    A, B = mask(1, 12, 10) @ blur(1, 12, 10), 0.5 * Identity((1, 12, 10))
    both = operators.make("stack", blocks=[A, B])
    truth = torch.rand(1, 1, 12, 10, generator=generator())
    q = both(truth)
    found = reconstruct(q, both, "tv", noise=both.noise([0.01, 0.02]), iterations=20).x
    assert relative(found, truth) < 0.1
    start = A.initial(A(truth))  # gaps filled
    assert torch.equal(start, A.outer.initial(A(truth)))
    assert torch.allclose((2 * A).initial(2 * A(truth)), start)


def test_gradients_are_right():
    for name in ("mask @ fourier", "rows", "sum", "adjoint"):
        A = MADE[name][0](3, 4)
        x, z = (torch.randn(1, *A.image_shape, dtype=torch.float64) for _ in range(2))
        assert torch.autograd.gradcheck(A, x.requires_grad_(), check_forward_ad=True)

        def h(z, alpha, A=A):
            return A.data_step(z, alpha, Aty=torch.ones_like(z), tol=1e-12)[0]

        alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(h, (z.requires_grad_(), alpha))


# ---- deepinv


@pytest.mark.parametrize("name", ["mask @ blur", "mask @ fourier", "sum", "multiple", "adjoint"])
def test_to_deepinv_and_back(name):
    A = MADE[name][0](6, 5)
    P = interop.to_deepinv(A)
    z = torch.randn(2, *A.image_shape, generator=generator())
    y = torch.randn(2, *A.data_shape, generator=generator(1))
    assert torch.equal(P.A(z), A(z))
    assert torch.equal(P.A_adjoint(y), A.adjoint(y))
    h = A.data_step(z, 0.5, Aty=A.adjoint(y))[0]
    assert torch.equal(P.prox_l2(z, y, 2.0), h)
    assert interop.from_deepinv(P, A.image_shape).closed_form == A.closed_form


@pytest.mark.filterwarnings("ignore:At least one input physics")
def test_products_agree_with_deepinvs():
    """Theirs of their physics, ours of the same physics here, and theirs of ours."""
    physics = require("deepinv.physics", "test")
    shape = (1, 5, 6)
    P = physics.BlurFFT(img_size=shape, filter=torch.rand(1, 1, 3, 3, generator=generator()))
    Q = physics.Inpainting(img_size=shape, mask=random_mask((5, 6), keep=0.5))
    ours = interop.from_deepinv(Q, shape) @ interop.from_deepinv(P, shape)
    theirs = interop.from_deepinv(Q * P, shape)
    mixed = interop.to_deepinv(mask(1, 5, 6)) * interop.to_deepinv(blur(1, 5, 6))
    x, y = (torch.rand(2, *shape, generator=generator(k)) for k in range(2))
    assert relative(ours(x), theirs(x)) < 1e-6
    assert relative(ours.adjoint(y), theirs.adjoint(y)) < 1e-6
    assert relative(mixed.A(x), (mask(1, 5, 6) @ blur(1, 5, 6))(x)) < 1e-6


# ---- errors

A, B = Identity((1, 4, 5)), Identity((1, 5, 4))
WRONG = [
    (lambda: A @ B, InputError, "A @ B: A (Identity) takes images (1, 4, 5), but B (Identity) has"),
    (lambda: A @ torch.ones(1, 1, 4, 5), InputTypeError, "Apply the operator A (Identity) by A(x)"),
    (lambda: A @ 2, InputTypeError, "B must be an operator, got int"),
    (lambda: A + B, InputError, "A + B: both must have the same images"),
    (lambda: A - B, InputError, "A - B: both must have the same images"),
    (lambda: A + operators.get("radon")(image_shape=(1, 4, 5), angles=3), InputError, "same data"),
    (lambda: A + 1, InputTypeError, "A + B: B must be an operator, got int"),
    (lambda: 0 * A, InputError, "c must be finite and not 0, got 0"),
    (lambda: math.inf * A, InputError, "c must be finite and not 0, got inf"),
    (lambda: True * A, InputError, "c must be finite and not 0, got True"),
    (lambda: 1j * A, InputTypeError, "c * A takes a real number, got complex"),
    (lambda: "2" * A, InputError, "c must be finite and not 0, got '2'"),
    (lambda: A * A, InputTypeError, "The product of operators is A @ B"),
    (lambda: A * torch.ones(4, 5), InputTypeError, "takes weights by A.weighted(w)"),
    (
        lambda: operators.get("stack").example().T,
        InputError,
        "A.T: the data of Stack have shape (108,)",
    ),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_refused(case):
    call, error, words = WRONG[case]
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)


@pytest.mark.parametrize("kind", ["Product", "Sum", "Scaled", "Transposed"])
def test_they_have_no_example(kind):
    from pnp_mlpatch.operators import _composed

    with pytest.raises(InputError, match=f"{kind} is made of"):
        getattr(_composed, kind).example()
