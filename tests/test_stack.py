"""Several data sets of one image as one operator: data in and out, weights that keep closed forms,
starts, errors.
"""

from __future__ import annotations

import pytest
import torch

from pnp_mlpatch import operators, reconstruct, samples, solvers
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators import LinearOperator, Weighted
from pnp_mlpatch.operators._composed import Scaled
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.operators.stack import Stack
from pnp_mlpatch.solvers import make_problem
from pnp_mlpatch.testing import check_operator
from pnp_mlpatch.tuning import cross_validate

SHAPE = (1, 10, 12)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def three():
    return Stack(
        [
            Mask(random_mask(SHAPE[1:], keep=0.5)),
            Blur(gaussian_psf(0.8), SHAPE),
            Radon(image_shape=(1, *SHAPE[1:]), angles=7, cache=False),
        ]
    )


def gaussian_prior(x, sigma):
    return x / (1 + 4 * torch.as_tensor(sigma).to(x).square().reshape(-1, 1, 1, 1))


def off(x, exact):
    return float((x - exact).norm() / exact.norm())


# ---- what it is


def test_it_keeps_the_contract_with_three_kinds_of_blocks():
    check_operator(three())


def test_it_is_its_blocks():
    A, x = three(), rand(3, *SHAPE)
    data = [block(x) for block in A.blocks]
    y = A(x)
    assert A.data_shape == (sum(q[0].numel() for q in data),)
    assert torch.equal(y, A.join(data))
    for part, q in zip(A.split(y), data, strict=True):
        assert torch.equal(part, q)
    assert (
        off(A.adjoint(y), sum(block.adjoint(q) for block, q in zip(A.blocks, data, strict=True)))
        < 1e-6
    )
    assert off(A.normal(x), sum(block.normal(x) for block in A.blocks)) < 1e-6


def test_one_block_is_that_block():
    B = Blur(gaussian_psf(0.8), SHAPE)
    A, x = Stack([B]), rand(2, *SHAPE)
    q = A(x)
    assert torch.equal(q.reshape_as(x), B(x))
    assert off(A.initial(q), B.initial(B(x))) < 1e-6
    step = A.data_step(x, 0.1, Aty=A.adjoint(q), tol=1e-7)[0]
    assert off(step, B.data_step(x, 0.1, Aty=B.adjoint(B(x)))[0]) < 1e-5


def test_gradients_flow_through_join_and_the_operator():
    A = three()
    data = [block(rand(2, *SHAPE)).requires_grad_() for block in A.blocks]
    gradients = torch.autograd.grad(A.adjoint(A.join(data)).square().sum() / 2, data)
    inner = A.normal(A.adjoint(A.join(data)).detach())  # A A^H q, seen from the blocks
    assert inner.shape == (2, *SHAPE)
    for block, gradient in zip(A.blocks, gradients, strict=True):
        assert off(gradient, block(A.adjoint(A.join(data)).detach())) < 1e-5


def test_it_moves_as_a_module():
    A = three().double()
    assert all(b.dtype == torch.float64 for b in A.buffers() if b.is_floating_point())
    assert len(list(A.blocks.children())) == 3
    assert A.to("cpu") is A


def test_stacks_in_stacks():
    A, x = Stack([three(), Mask(random_mask(SHAPE[1:], keep=0.3, seed=2))]), rand(2, *SHAPE)
    inner, last = A.split(A(x))
    assert torch.equal(inner, three()(x))
    assert torch.equal(last, A.blocks[1](x))
    check_operator(A)


# ---- noise and weights


def test_noise_makes_a_map_of_the_data():
    A = three()
    own = 0.1 + rand(*A.blocks[1].data_shape)
    noise = A.noise([0.2, own, 3])
    assert noise.shape == (1, *A.data_shape)
    first, second, third = A.split(noise)
    assert (first == 0.2).all()
    assert torch.allclose(second[0], own.double())
    assert (third == 3).all()
    for_each = A.noise([0.2, torch.tensor([0.1, 0.4]).reshape(2, 1, 1, 1), 3.0])
    assert for_each.shape == (2, *A.data_shape)
    assert torch.equal(
        A.split(for_each)[1][1], torch.full(SHAPE, float(torch.tensor(0.4)), dtype=torch.float64)
    )
    assert torch.equal(A.split(for_each)[0][1], A.split(noise)[0][0])


def test_a_noise_map_whitens_each_block_and_closed_forms_stay():
    A, x = three(), rand(2, *SHAPE)
    problem = make_problem(A(x), A, A.noise([0.2, 0.5, 2.0]))
    assert isinstance(problem.A, Stack)
    assert [type(block) for block in problem.A.blocks] == [Scaled, Scaled, Weighted]
    for block, whole, level, q in zip(
        problem.A.blocks, A.blocks, (0.2, 0.5, 2.0), problem.A.split(problem.q), strict=True
    ):
        assert off(block(x), whole(x) / level) < 1e-6
        assert off(q, whole(x) / level) < 1e-6
        assert off(block.initial(q), whole.initial(whole(x))) < 1e-5
        check_operator(block)
    for block in problem.A.blocks[:2]:
        assert block.closed_form
        assert block.data_step(x, 0.3, Aty=block.adjoint(block(x)))[1].iterations == 0
    again = problem.A.weighted(torch.full(A.data_shape, 0.5))
    assert [type(block) for block in again.blocks] == [Scaled, Scaled, Weighted]
    assert off(again(x), 0.5 * problem.A(x)) < 1e-6
    uneven = problem.A.weighted(rand(*A.data_shape) + 0.1)
    assert [type(block) for block in uneven.blocks] == [Mask, Weighted, Weighted]
    check_operator(problem.A)


def test_weights_for_each_image():
    A, x = three(), rand(2, *SHAPE)
    weight = rand(2, *A.data_shape) + 0.1
    W = A.weighted(weight)
    assert off(W(x), weight * A(x)) < 1e-6
    one = W.for_images(torch.tensor([1]))
    assert off(one(x[1:]), weight[1:] * A(x[1:])) < 1e-6
    assert off(W.initial(W(x))[1:], one.initial(one(x[1:]))) < 1e-6
    assert off(W.initial(W(x))[1:], A.weighted(weight[1]).initial(one(x[1:]))) < 1e-6
    assert W.norm() == pytest.approx(max(A.weighted(w).norm() for w in weight), rel=1e-3)
    assert Stack([W, A.blocks[0]]).norm() > W.norm()
    with pytest.raises(InputError, match="there is one weight for each of 2 images, got 3"):
        W(rand(3, *SHAPE))
    assert A.for_images(torch.tensor([1])) is A
    blocks = Stack([A.blocks[0].weighted(A.split(weight)[0]), A.blocks[1]])
    assert off(blocks.for_images(torch.tensor([1]))(x[1:]), blocks(x)[1:]) < 1e-6


def test_data_that_were_not_measured():
    A, x = three(), rand(2, *SHAPE)
    noise = A.noise([0.1, torch.full(SHAPE, 0.1).index_fill(2, torch.tensor([3]), torch.inf), 1.0])
    q = A(x)
    broken = torch.where(torch.isinf(noise), torch.nan, q)
    runs = [
        reconstruct(data, A, gaussian_prior, noise=noise, sigma=0.3, iterations=5).x
        for data in (q, broken)
    ]
    assert torch.isfinite(runs[0]).all()
    assert torch.equal(*runs)


def test_cross_validation_takes_a_stack():
    A = Stack([Mask(random_mask(SHAPE[1:], keep=0.7)), Blur(gaussian_psf(0.8), SHAPE)])
    q = A(rand(2, *SHAPE)) + 0.05 * torch.randn(
        2, *A.data_shape, generator=torch.Generator().manual_seed(1)
    )
    found = cross_validate(
        q,
        A,
        gaussian_prior,
        solvers.make("consensus", iterations=4),
        noise=A.noise([0.05, 0.05]),
        sigmas=(0.1, 0.3),
    )
    assert found.errors.shape == (2, 2)
    assert torch.isfinite(found.errors).all()


# ---- the start


def test_the_start_leans_on_what_says_most():
    A = Stack([Mask(random_mask((80, 80), keep=0.4)), Blur(gaussian_psf(2.0), (1, 80, 80))])
    truth = samples.camera()[..., 100:180, 200:280].contiguous()
    clean = A.split(A(truth))
    starts = [block.initial(q) for block, q in zip(A.blocks, clean, strict=True)]
    for levels, better in (((0.01, 1.0), 0), ((1.0, 0.01), 1)):
        problem = make_problem(A.join(clean), A, A.noise(levels))
        x0 = problem.A.initial(problem.q)
        assert off(x0, starts[better]) < 1e-2
    equal = A.initial(A.join(clean))
    assert float(psnr(equal, truth)) > min(float(psnr(x, truth)) for x in starts)


# ---- errors


class NotAnOperator:
    image_shape = SHAPE


M, B = Mask(random_mask(SHAPE[1:], keep=0.5)), Blur(gaussian_psf(0.8), SHAPE)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Stack([]), InputError, "Stack: there are no blocks. Give at least one operator"),
        (
            lambda: Stack([M, NotAnOperator()]),
            InputTypeError,
            r"Stack: blocks must be a list of operators, got NotAnOperator as number 1",
        ),
        (lambda: Stack(3), InputTypeError, "got int as number 0"),
        (
            lambda: Stack([M, Blur(gaussian_psf(0.8), (1, 12, 10))]),
            InputError,
            r"must see one image, .*Mask \(1, 10, 12\), Blur \(1, 12, 10\). Make all of "
            r"them for the same image",
        ),
        (
            lambda: Stack([M, B]).join([rand(1, *SHAPE)]),
            InputError,
            "Stack.join takes a list of 2 data sets, one for each block, got 1",
        ),
        (
            lambda: Stack([M, B]).join(rand(2, *SHAPE)),
            InputError,
            "Stack.join takes a list of 2 data sets, one for each block, got Tensor",
        ),
        (
            lambda: Stack([M, B]).join([rand(1, *SHAPE), rand(1, 1, 12, 10)]),
            InputError,
            r"Blur: number 1 of Stack.join takes data .*look transposed",
        ),
        (
            lambda: Stack([M, B]).join([rand(1, *SHAPE), rand(2, *SHAPE)]),
            InputError,
            "number 0 has 1 images, .* number 1 2",
        ),
        (
            lambda: Stack([M, B]).join([rand(1, *SHAPE), rand(1, *SHAPE).double()]),
            InputError,
            "same images, dtype and device",
        ),
        (
            lambda: Stack([M, B]).split(rand(1, 7)),
            InputError,
            r"Stack: A.split\(y\) takes data of shape \(B, 240\), got \(1, 7\)",
        ),
        (
            lambda: Stack([M, B]).noise([0.1]),
            InputError,
            "Stack.noise takes a list of 2 standard deviations, one for each block, got 1",
        ),
        (lambda: Stack([M, B]).noise("ab"), InputError, "got str"),
        (
            lambda: Stack([M, B]).noise([0.1, 0]),
            InputError,
            r"Stack.noise: number 1 is a standard deviation, > 0 .*got 0",
        ),
        (
            lambda: Stack([M, B]).noise([0.1, float("nan")]),
            InputError,
            "number 1 is a standard deviation",
        ),
        (
            lambda: Stack([M, B]).noise([0.1, "x"]),
            InputTypeError,
            "number 1 must be a number or a tensor, got 'x'",
        ),
        (
            lambda: Stack([M, B]).noise([0.1, torch.ones(5)]),
            InputError,
            r"number 1 of shape \(5,\) does not broadcast .* of Blur",
        ),
        (
            lambda: Stack([M, B]).noise([torch.ones(3, 1, 1, 1), torch.ones(2, 1, 1, 1)]),
            InputError,
            "the maps are for 2 and 3 images. Give maps for one batch",
        ),
        (
            lambda: Stack([M, B]).weighted(torch.cat([torch.ones(120), torch.zeros(120)])),
            InputError,
            "all weights of block 1, Blur, are zero. Leave the block out",
        ),
        (lambda: Scaled.example(), InputError, "Scaled is made of a number and an operator"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert isinstance(caught.value, PnPError)


def test_it_is_made_by_name():
    A = operators.make("stack", blocks=[M, B])
    assert isinstance(A, LinearOperator)
    assert {type(block) for block in operators.get("stack").example().blocks} == {Mask, Blur}
