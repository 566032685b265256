"""The single-pixel camera: Walsh functions, the rows that are kept, its exact data step."""

from __future__ import annotations

import pytest
import torch
from matrices import dense
from scipy.linalg import hadamard

from pnp_mlpatch import operators, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.cli import main
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.hadamard import Hadamard, walsh_hadamard


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def walsh(n):
    """The Walsh functions by their changes of sign."""
    rows = torch.from_numpy(hadamard(n)).double()
    changes = (rows.diff(dim=1) != 0).sum(1)
    return rows[changes.argsort()] / n**0.5


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_the_fast_transform_is_the_matrix(n):
    x = draw(3, n)
    matrix = torch.from_numpy(hadamard(n)).double() / n**0.5
    assert torch.allclose(walsh_hadamard(x), x @ matrix, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (1, 2)])
def test_the_rows_are_walsh_functions_of_low_sequency_first(shape):
    A, x = Hadamard((2, *shape), keep=1.0), draw(1, 2, *shape)
    full = walsh(shape[0]) @ x @ walsh(shape[1]).T
    u, v = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    order = ((u / shape[0]) ** 2 + (v / shape[1]) ** 2).flatten().argsort(stable=True)
    assert torch.allclose(A(x), full.flatten(-2)[..., order], atol=1e-12)
    rows = torch.zeros(shape)
    rows[-1, -1] = rows[0, 0] = 1
    B = Hadamard((2, *shape), rows=rows)
    assert torch.allclose(B(x), torch.stack([full[..., 0, 0], full[..., -1, -1]], -1), atol=1e-12)


@pytest.mark.parametrize("weights", ["none", "one map", "one for each"])
@pytest.mark.parametrize("shape", [(2, 4, 8), (1, 8, 2)])
def test_data_step_equals_a_dense_solve(shape, weights):
    A = Hadamard(shape, keep=0.6, low=0.3, seed=3)
    weight = {
        "none": torch.ones(2, *A.data_shape).double(),
        "one map": draw(*A.data_shape, seed=4).expand(2, -1, -1),
        "one for each": (draw(2, *A.data_shape, seed=4) < 0.7).double(),
    }[weights]
    B = {"none": A, "one map": A.weighted(weight[0])}.get(weights) or A.weighted(weight)
    assert B.closed_form == (weights != "one for each")
    z, q = draw(2, *shape, seed=1), draw(2, *A.data_shape, seed=2)
    f, info = B.data_step(z, 0.3, Aty=B.adjoint(q), tol=1e-10)
    assert info.iterations <= 1  # the preconditioner of weights for each image is exact
    matrix = weight.flatten(1)[..., None] * dense(A)
    b = matrix.mT @ q.flatten(1)[..., None] + 0.3 * z.flatten(1)[..., None]
    normal = matrix.mT @ matrix + 0.3 * torch.eye(matrix.shape[2]).double()
    exact = torch.linalg.solve(normal, b)[..., 0]
    assert float((f.flatten(1) - exact).norm() / exact.norm()) < 1e-9


def test_gradients_of_the_data_step():
    A = Hadamard.example()
    z = draw(1, *A.image_shape).requires_grad_()
    q = draw(1, *A.data_shape).requires_grad_()
    alpha = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, q, a: A.data_step(z, a, Aty=A.adjoint(q))[0], (z, q, alpha)
    )


def test_agrees_with_the_single_pixel_camera_of_deepinv():
    """Its data are an image of coefficients in natural order, 0 where nothing is measured."""
    module = require("deepinv.physics.singlepixel", "This test")
    theirs = module.SinglePixelCamera(m=40, img_size=(1, 8, 16), ordering="zig_zag").double()
    rows = module.hadamard_2d_shift(theirs.mask)[0, 0]
    mine, x = Hadamard((1, 8, 16), rows=rows), draw(2, 1, 8, 16)
    y = theirs.A(x)
    both = mine._vh(mine(x))
    assert float((both - y).abs().max()) < 1e-6
    assert float((mine.adjoint(mine(x)) - theirs.A_adjoint(y)).abs().max()) < 1e-6


def test_the_rows_that_are_drawn():
    low, mixed, random = (Hadamard((1, 16, 16), keep=0.25, low=v, seed=1) for v in (1.0, 0.5, 0.0))
    everything = Hadamard((1, 16, 16), keep=1.0).index
    assert torch.equal(low.index, everything[:64])
    assert torch.equal(mixed.index[:32], everything[:32])
    assert int(random.index[0]) == 0  # the mean
    for A in (low, mixed, random):
        assert len(A.index.unique()) == 64
    assert not torch.equal(random.index, Hadamard((1, 16, 16), keep=0.25, low=0.0, seed=2).index)


def test_the_start_is_close_to_a_photograph():
    truth = samples.camera()[..., 100:164, 200:264]
    A = Hadamard((1, 64, 64), keep=0.3)
    q = A(truth)
    back_projection = float(psnr(A.adjoint(q), truth))
    assert float(psnr(A.initial(q), truth)) >= back_projection
    assert back_projection > 20


def test_the_shell(tmp_path):
    from pnp_mlpatch.io.images import write_image

    write_image(tmp_path / "t.png", samples.camera()[..., 100:132, 200:232])
    asked = ["--operator", "hadamard", "--set", "operator.keep=0.3", "--denoiser", "tv", "--quiet"]
    asked += [
        "--noise",
        "0.01",
        "--set",
        "solver.iterations=2",
        "--output",
        str(tmp_path / "x.npy"),
    ]
    assert main(["solve", "--simulate", str(tmp_path / "t.png"), *asked]) == 0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: Hadamard((1, 100, 64), keep=0.3),
            InputError,
            r"powers of two, got 100 x 64. Pad it to 128 x 64, .*\(0, 0, 0, 28\)\), or cut it",
        ),
        (lambda: Hadamard((1, 8, 8)), InputError, "give either keep, .*, or rows"),
        (
            lambda: Hadamard((1, 8, 8), keep=0.5, rows=torch.ones(8, 8)),
            InputError,
            "give either keep, .*, or rows",
        ),
        (lambda: Hadamard((1, 8, 8), keep=0), InputError, r"keep must be a number in \(0, 1\]"),
        (lambda: Hadamard((1, 8, 8), keep=30), InputError, r"keep must be a number in \(0, 1\]"),
        (lambda: Hadamard((1, 8, 8), keep="all"), InputError, "keep must be a number"),
        (lambda: Hadamard((1, 8, 8), keep=0.5, low=2), InputError, "low must be a number from 0"),
        (lambda: Hadamard((1, 8, 8), keep=0.5, seed=-1), InputError, "seed must be an integer"),
        (
            lambda: Hadamard((1, 8, 8), rows=torch.ones(8, 4)),
            InputError,
            r"rows must have the shape \(8, 8\), got \(8, 4\)",
        ),
        (lambda: Hadamard((1, 8, 8), rows=torch.zeros(8, 8)), InputError, "not zero everywhere"),
        (lambda: Hadamard((1, 8, 8), rows=[[1]]), InputTypeError, "rows must be a real torch"),
        (
            lambda: operators.make("hadamard", image_shape=(1, 8, 8), keep=0.5)(
                torch.ones(1, 1, 8, 4)
            ),
            InputError,
            r"takes image of shape \(B, 1, 8, 8\)",
        ),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make()
