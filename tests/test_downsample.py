"""Blur and decimation: against dense algebra, other packages' numbers, and no shift anywhere."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from matrices import dense

from pnp_mlpatch import interop, reconstruct
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import gaussian_psf
from pnp_mlpatch.operators.downsample import Downsample
from pnp_mlpatch.testing import adjoint_mismatch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def kernel(*size, offset=0.0):
    """Random, of sum 1."""
    psf = rand(*size) - offset
    return psf / psf.sum()


OPERATORS = {
    "x2, even psf": lambda: Downsample(kernel(4, 2), 2, (2, 6, 10)),
    "x2, psf as large as the image": lambda: Downsample(kernel(6, 8), 2, (1, 6, 8)),
    "x3, odd image": lambda: Downsample(kernel(3, 5), 3, (1, 9, 15)),
    "x3, one row of data": lambda: Downsample(kernel(3, 2), 3, (1, 3, 12)),
    "x2, negative values": lambda: Downsample(kernel(3, 3, offset=0.3), 2, (1, 8, 6)),
    "bicubic x2": lambda: Downsample.bicubic((1, 10, 12), 2),
    "bicubic x3": lambda: Downsample.bicubic((1, 15, 18), 3),
    "gaussian x2": lambda: Downsample.gaussian((1, 10, 12), 2, 1.2),
    "gaussian x3": lambda: Downsample.gaussian((1, 15, 9), 3, 0.7),
    "gaussian x4, narrow": lambda: Downsample.gaussian((1, 12, 8), 4, 0.01),
}


def solved(A, z, q, alpha):
    """The data step by dense algebra."""
    matrix = dense(A)
    b = matrix.T @ q.flatten() + alpha * z.flatten()
    return torch.linalg.solve(matrix.T @ matrix + alpha * torch.eye(len(b)).to(b), b)


# ---- the map and its data step


@pytest.mark.parametrize("size", [(3, 5), (4, 2)])
@pytest.mark.parametrize("factor", [2, 3])
def test_it_is_scipys_convolution_and_every_s_th_pixel(factor, size):
    ndimage = require("scipy.ndimage", "test")
    psf = kernel(*size)
    A = Downsample(psf, factor, (2, 3 * factor, 5 * factor))
    x = rand(1, *A.image_shape)
    blurred = [ndimage.convolve(c.numpy(), psf.numpy(), mode="wrap") for c in x[0]]
    expected = torch.stack([torch.from_numpy(c[::factor, ::factor]) for c in blurred])
    assert float((A(x)[0] - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("name", OPERATORS)
def test_data_step_equals_a_dense_solve(name):
    A = OPERATORS[name]()
    assert A.closed_form
    assert adjoint_mismatch(A) < 1e-6
    z, q = rand(1, *A.image_shape, seed=1), rand(1, *A.data_shape, seed=2)
    for alpha in (1e-4, 1.0, 1e2):
        exact = solved(A, z, q, alpha)
        f, info = A.data_step(z, alpha, Aty=A.adjoint(q))
        assert info.iterations == 0
        assert float((f.flatten() - exact).norm() / exact.norm()) < 1e-10
    for alpha in (1e-2, 1.0):
        exact = solved(A, z, q, alpha)
        f, _ = A.data_step(z.float(), alpha, Aty=A.adjoint(q.float()))
        assert float((f.flatten() - exact).norm() / exact.norm()) < 1e-5


@pytest.mark.parametrize("weight", ["noise map", "mask", "one map for each image"])
@pytest.mark.parametrize("name", ["x2, even psf", "x3, odd image", "bicubic x2"])
def test_weighted_data_step_equals_a_dense_solve(name, weight):
    A = OPERATORS[name]()
    w = rand(3, *A.data_shape, seed=3) + 0.1
    w = (w < 0.6).double() if weight == "mask" else w
    w = w if weight.startswith("one") else w[0]
    B = A.weighted(w)
    z, q = rand(3, *A.image_shape, seed=1), rand(3, *A.data_shape, seed=2)
    f, info = B.data_step(z, 0.01, Aty=B.adjoint(q), tol=1e-9, max_iter=500)
    assert 0 < info.iterations < 200
    for k in range(3):
        one = A.weighted(w[k] if weight.startswith("one") else w)
        exact = solved(one, z[k], q[k], 0.01)
        assert float((f[k].flatten() - exact).norm() / exact.norm()) < 1e-6


@pytest.mark.parametrize(("factor", "shape"), [(2, (2, 4, 2)), (3, (1, 3, 6))])
def test_gradients_are_those_of_finite_differences(factor, shape):
    A = Downsample(kernel(2, 2), factor, shape)
    z, q = rand(2, *A.image_shape), rand(2, *A.data_shape, seed=1)
    alpha = torch.tensor([0.3, 2.0], dtype=torch.float64)
    inputs = [v.requires_grad_(True) for v in (z, q, alpha)]
    assert torch.autograd.gradcheck(A, z)
    assert torch.autograd.gradcheck(A.initial, q)
    assert torch.autograd.gradcheck(
        lambda z, q, alpha: A.data_step(z, alpha, Aty=A.adjoint(q))[0], inputs
    )


# ---- the grid


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_torchs_within_the_border(factor):
    """Antialiased, half-pixel centres: also that of imresize."""
    x = rand(1, 2, 16 * factor, 20 * factor)
    expected = F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)
    found = Downsample.bicubic((2, 16 * factor, 20 * factor), factor)(x)
    assert float((found - expected)[..., 3:-3, 3:-3].abs().max()) < 1e-12


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_gaussian_looks_at_the_middle_of_a_square(factor):
    A = Downsample.gaussian((1, 12 * factor, 15 * factor), factor, 1.3)
    x = torch.zeros(1, *A.image_shape, dtype=torch.float64)
    row, column = 6 * factor, 7 * factor
    x[0, 0, row : row + factor, column : column + factor] = 1  # one square
    y = A(x)[0, 0]
    assert float(y.max()) == float(y[6, 7])
    around = y[4:9, 5:10]
    assert float((around - around.flip(0)).abs().max()) < 1e-12
    assert float((around - around.flip(1)).abs().max()) < 1e-12


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("kind", ["bicubic", "gaussian", "every s-th pixel", "off centre"])
def test_the_start_lies_over_the_image(kind, factor):
    """A wave comes back with its phase, to 1e-6 of a pixel, and flat images with their value."""
    shape = (1, 12 * factor, 16 * factor)
    A = {
        "bicubic": lambda: Downsample.bicubic(shape, factor),
        "gaussian": lambda: Downsample.gaussian(shape, factor, 1.6),
        "every s-th pixel": lambda: Downsample(3 * gaussian_psf(1.6), factor, shape),
        "off centre": lambda: Downsample(F.pad(gaussian_psf(1.0), (0, 4, 2, 0)), factor, shape),
    }[kind]()
    rows, columns = (
        torch.exp(2j * math.pi * torch.arange(n, dtype=torch.float64) / n) for n in shape[1:]
    )
    truth = 0.5 + 0.3 * (rows[:, None] * rows.new_tensor(1 + 0.7j) * columns**0).real
    truth = truth + 0.2 * (columns * rows.new_tensor(0.2 - 1j)).real
    found = A.initial(A(truth[None, None]))[0, 0]
    assert abs(float(found.mean() - truth.mean())) < 1e-12
    for axis, wave in ((0, rows), (1, columns)):
        lines = [(image.mean(1 - axis) * wave.conj()).sum() for image in (truth, found)]
        turned = float(torch.angle(lines[1] / lines[0])) * len(wave) / (2 * math.pi)
        assert abs(turned) < (1e-6 if kind != "off centre" else 0.02), f"{turned} pixels"


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("kind", ["bicubic", "gaussian", "every s-th pixel"])
def test_a_ramp_comes_back_in_its_place(kind, factor):
    shape = (1, 16 * factor, 18 * factor)
    A = {
        "bicubic": lambda: Downsample.bicubic(shape, factor),
        "gaussian": lambda: Downsample.gaussian(shape, factor, 1.6),
        "every s-th pixel": lambda: Downsample(gaussian_psf(1.6), factor, shape),
    }[kind]()
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in shape[1:])
    truth = 0.01 * rows[:, None] - 0.02 * columns
    found = A.initial(A(truth[None, None]))[0, 0]
    inside = (slice(6 * factor, -6 * factor),) * 2
    assert float((found - truth)[inside].abs().max()) < 1e-10


def test_the_start_where_data_are_missing(photo):
    """It is filled smoothly, nearly as good as where nothing is missing."""
    truth = photo[..., :96, :80].double()
    A = Downsample.gaussian((1, 96, 80), 2, 1.0)
    q = A(truth)
    seen = (rand(*A.data_shape, seed=5) < 0.7).double()
    B = A.weighted(seen)
    whole, part = float(psnr(A.initial(q), truth)), float(psnr(B.initial(seen * q), truth))
    assert part > whole - 1


# ---- deepinv


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("size", [(5, 3), (4, 6)])
def test_it_is_deepinvs_downsampling(size, factor):
    physics = require("deepinv.physics", "test")
    shape = (2, 6 * factor, 4 * factor)
    psf = kernel(*size).float()
    theirs = physics.Downsampling(
        img_size=shape, filter=psf[None, None], factor=factor, padding="circular"
    )
    A = Downsample(psf, factor, shape)
    x, q = rand(2, *shape, seed=1).float(), rand(2, *A.data_shape, seed=2).float()
    assert float((A(x) - theirs.A(x)).abs().max()) < 1e-6
    assert float((A.adjoint(q) - theirs.A_adjoint(q)).abs().max()) < 1e-6
    ours = A.data_step(x, 0.5, Aty=A.adjoint(q))[0]
    assert float((ours - theirs.prox_l2(x, q, 2.0)).abs().max()) < 1e-5


def test_deepinv_takes_it():
    A = Downsample.example()
    physics = interop.to_deepinv(A)
    x, q = rand(1, *A.image_shape).float(), rand(1, *A.data_shape, seed=1).float()
    assert torch.equal(physics.A(x), A(x))
    assert torch.equal(physics.prox_l2(x, q, 2.0), A.data_step(x, 0.5, Aty=A.adjoint(q))[0])
    again = interop.from_deepinv(physics, A.image_shape)
    assert isinstance(again, Downsample)
    assert again.factor == A.factor


# ---- what it is for


def test_plug_and_play_is_sharper_than_bicubic(photo, mlpatch):
    truth = photo[..., :96, :80]
    A = Downsample.gaussian((1, 96, 80), 2, 1.6)
    q = A(truth)
    x = reconstruct(q, A, mlpatch, "dpir", noise=1 / 255, progress=False).x
    assert float(psnr(x, truth)) > float(psnr(A.initial(q), truth)) + 2


# ---- errors


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Downsample(gaussian_psf(1.0), 2, (1, 15, 20)),
            r"factor 2 does not divide the image 15 x 20. Crop the image to 14 x 20: "
            r"x\[..., :14, :20\]",
        ),
        (
            lambda: Downsample.bicubic((3, 32, 34), 3),
            r"factor 3 does not divide the image 32 x 34. Crop the image to 30 x 33",
        ),
        (lambda: Downsample(rand(3, 3), 1, (1, 8, 8)), "integer >= 2, got 1. Without decim.*blur"),
        (lambda: Downsample.bicubic((1, 8, 8), 1), "factor must be an integer >= 2, got 1"),
        (lambda: Downsample.gaussian((1, 8, 8), 0, 1.0), "integer >= 2, got 0"),
        (lambda: Downsample(rand(3, 3), True, (1, 8, 8)), "integer >= 2, got True"),
        (lambda: Downsample(rand(3, 3), 2.0, (1, 8, 8)), "integer >= 2, got 2.0"),
        (lambda: Downsample(rand(3, 3), 9, (1, 8, 16)), "not be larger than the image 8 x 16"),
        (lambda: Downsample(rand(9, 3), 2, (1, 8, 8)), r"not larger than the image 8 x 8, got \(9"),
        (lambda: Downsample.bicubic((1, 8, 8), 2), r"not larger than the image 8 x 8, got \(9, 9"),
        (lambda: Downsample.gaussian((1, 8, 8), 2, 5.0), "not larger than the image 8 x 8"),
        (lambda: Downsample(rand(3), 2, (1, 8, 8)), r"psf must be \(K, L\)"),
        (lambda: Downsample(-rand(3, 3), 2, (1, 8, 8)), "have a positive sum, got -"),
        (
            lambda: Downsample(torch.tensor([[-0.1, 0.1], [-0.3, 0.3]]), 2, (1, 8, 8)),
            "have a positive sum, got .*A flat image must be seen",
        ),
        (lambda: Downsample(kernel(3, 3) / 0, 2, (1, 8, 8)), "psf must be finite"),
        (lambda: Downsample.gaussian((1, 8, 8), 2, -1.0), "width must be finite and > 0, got -1"),
        (lambda: Downsample.gaussian((1, 8, 8), 2, math.nan), "width must be finite and > 0"),
        (lambda: Downsample.gaussian((1, 8, 8), 2, "1"), "width must be finite and > 0, got '1'"),
        (lambda: Downsample(rand(3, 3), 2, (8, 8)), r"Downsample: image_shape must be \(C, H, W\)"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("psf", [[[1.0]], rand(3, 3) + 1j, None])
def test_a_psf_is_a_real_tensor(psf):
    with pytest.raises(InputTypeError, match="Downsample: psf must be a real torch tensor"):
        Downsample(psf, 2, (1, 8, 8))


def test_an_image_in_place_of_data():
    A = Downsample.bicubic((1, 12, 16), 2)
    with pytest.raises(InputError, match=r"data of shape \(B, 1, 6, 8\).*shape of the image"):
        A.initial(rand(1, 1, 12, 16))
