"""Blurs: three borders, kernels that vary over the image, point spread functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matrices import dense
from scipy.ndimage import convolve
from scipy.signal import convolve2d

from pnp_mlpatch import operators, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.cli import main
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.io.images import write_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import (
    Blur,
    disk_psf,
    gaussian_psf,
    motion_psf,
    path_psf,
    read_psf,
)
from pnp_mlpatch.operators.varying_blur import VaryingBlur
from pnp_mlpatch.testing import adjoint_mismatch, check_operator

BOUNDARIES = ("circular", "reflect", "valid")
# (K, L), and whether the kernel is its mirror image in both directions
KERNELS = {"odd": (3, 5, False), "even": (4, 2, False), "mirrored": (5, 3, True)}
SHAPES = ((2, 7, 9), (1, 8, 6))


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def kernel(name):
    height, width, symmetric = KERNELS[name]
    psf = draw(height, width) + 0.1
    return psf + psf.flip(0) + psf.flip(1) + psf.flip(0, 1) if symmetric else psf


def varying(shape, boundary):
    maps = draw(3, *shape[1:], seed=5)
    return VaryingBlur(draw(3, 3, 4, seed=6), maps / maps.sum(0), shape, boundary)


def cases():
    for boundary in BOUNDARIES:
        for shape in SHAPES:
            for name in KERNELS:
                yield f"{boundary} {shape} {name}", Blur(kernel(name), shape, boundary)
            yield f"{boundary} {shape} varying", varying(shape, boundary)


CASES = dict(cases())


# ---- against dense algebra, and other packages


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weights", ["none", "one map", "a mask for each"])
def test_data_step_equals_a_dense_solve(case, weights):
    A = CASES[case]
    weight = {
        "none": torch.ones(2, *A.data_shape).double(),
        "one map": (draw(*A.data_shape, seed=7) + 0.1).expand(2, -1, -1, -1),
        "a mask for each": (draw(2, *A.data_shape, seed=8) < 0.7).double(),
    }[weights]
    B = {"none": A, "one map": A.weighted(weight[0])}.get(weights) or A.weighted(weight)
    assert adjoint_mismatch(B, dtype=torch.float64) < 1e-12
    z, q = draw(2, *A.image_shape, seed=1), draw(2, *A.data_shape, seed=2)
    matrix = weight.flatten(1)[..., None] * dense(A)
    for alpha in (1e-2, 1.0):
        f = B.data_step(z, alpha, Aty=B.adjoint(q), tol=1e-10, max_iter=1000)[0].flatten(1)
        b = matrix.mT @ q.flatten(1)[..., None] + alpha * z.flatten(1)[..., None]
        normal = matrix.mT @ matrix + alpha * torch.eye(matrix.shape[2]).double()
        exact = torch.linalg.solve(normal, b)[..., 0]
        assert float((f - exact).norm() / exact.norm()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_blur_is_the_convolution_of_scipy(shape, name):
    psf, x = kernel(name), draw(1, *shape, seed=3)
    for boundary, mode in (("circular", "wrap"), ("reflect", "reflect")):
        expected = [convolve(c, psf.numpy(), mode=mode) for c in x[0].numpy()]
        assert np.abs(Blur(psf, shape, boundary)(x)[0].numpy() - expected).max() < 1e-12
    expected = [convolve2d(c, psf.numpy(), mode="valid") for c in x[0].numpy()]
    assert np.abs(Blur(psf, shape, "valid")(x)[0].numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_blur_agrees_with_deepinv(boundary):
    """Its kernels of odd size have the same centre; it names convolution with flipped kernels."""
    physics = require("deepinv.physics", "This test")
    psf, x = kernel("odd"), draw(1, 2, 9, 11, seed=3)
    theirs = physics.Blur(filter=psf[None, None], padding=boundary, use_fft=False).double()
    mine = Blur(psf, (2, 9, 11), boundary)
    y = theirs.A(x)
    assert float((mine(x) - y).abs().max()) < 1e-6
    assert float((mine.adjoint(y) - theirs.A_adjoint(y)).abs().max()) < 1e-5


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_varying_blur_is_the_sum_of_blurs_of_products(boundary):
    A, x = varying((2, 7, 9), boundary), draw(2, 2, 7, 9, seed=3)
    psfs = draw(3, 3, 4, seed=6)
    parts = [Blur(psf, (2, 7, 9), boundary)(m * x) for psf, m in zip(psfs, A.maps, strict=True)]
    assert torch.allclose(A(x), sum(parts), atol=1e-12)
    one = VaryingBlur(psfs[:1], torch.ones(1, 7, 9), (2, 7, 9), boundary)
    assert torch.allclose(one(x), Blur(psfs[0], (2, 7, 9), boundary)(x), atol=1e-12)


@pytest.mark.parametrize("boundary", ["reflect", "valid"])
@pytest.mark.parametrize("name", ["even", "mirrored"])
def test_the_contract_holds_for_every_border(boundary, name):
    assert len(check_operator(Blur(kernel(name), (2, 8, 7), boundary))) >= 20


def test_what_is_exact():
    found = {
        (boundary, name): Blur(kernel(name), (1, 8, 8), boundary).closed_form
        for boundary in BOUNDARIES
        for name in KERNELS
    }
    exact = {key for key, value in found.items() if value}
    assert exact == {("reflect", "mirrored"), *(("circular", name) for name in KERNELS)}
    assert not VaryingBlur.example().closed_form


@pytest.mark.parametrize(
    "A",
    [
        Blur(kernel("mirrored"), (1, 5, 3), "reflect"),
        Blur(kernel("odd"), (1, 4, 5), "valid"),
        varying((1, 3, 4), "circular"),
    ],
    ids=["reflect", "valid", "varying"],
)
def test_gradients_of_the_data_step(A):
    z = draw(2, *A.image_shape, seed=1).requires_grad_()
    q = draw(2, *A.data_shape, seed=2).requires_grad_()
    alpha = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)

    def h(z, q, alpha):
        return A.data_step(z, alpha, Aty=A.adjoint(q), tol=1e-11, max_iter=200)[0]

    assert torch.autograd.gradcheck(h, (z, q, alpha), atol=1e-6)


# ---- the valid border


def test_the_start_continues_the_data():
    A = Blur(gaussian_psf(1.0), (1, 40, 33), "valid")
    assert A.data_shape == (1, 34, 27)
    q = draw(1, 1, 34, 27)
    x = A.initial(q)
    assert torch.equal(A.frame.crop(x), q)
    assert torch.equal(x[..., 0, 3:-3], q[..., 0, :])
    assert float(x[0, 0, -1, -1]) == float(q[0, 0, -1, -1])


def test_the_valid_border_leaves_no_ringing():
    """Where the true border is not circular, a data step that takes it for that errs by more."""
    truth = samples.camera()[..., 100:180, 200:280]
    A = Blur(motion_psf(9, 0.5), (1, 80, 80), "valid")
    q = A(truth)
    circular = Blur(motion_psf(9, 0.5), tuple(q.shape[1:]))
    area = A.frame.crop(truth)
    scores = []
    for B in (A, circular):
        z = B.initial(q)
        x = B.data_step(z, 1e-2, Aty=B.adjoint(q), max_iter=300)[0]
        scores.append(float(psnr(A.frame.crop(x) if B is A else x, area)))
    assert scores[0] > scores[1] + 6


@pytest.mark.parametrize("alpha", [6e-4, 6e-2])
def test_the_preconditioner_of_the_valid_border(alpha):
    """Against one as if all of the frame had been seen: that of the circular blur."""
    truth, psf = samples.camera()[..., 100:228, 200:328].double(), gaussian_psf(2.0)
    A, other = (Blur(psf, (1, 128, 128), "valid") for _ in range(2))
    other._precondition = Blur(psf, (1, 128, 128))._precondition
    q = A(truth)
    steps = [
        B.data_step(A.initial(q), alpha, Aty=A.adjoint(q), tol=1e-6, max_iter=500)[1].iterations
        for B in (A, other)
    ]
    assert steps[0] <= (30 if alpha < 1e-3 else 6)
    assert steps[1] > 2 * steps[0]


# ---- point spread functions


def test_motion_has_the_length_and_the_direction_asked_for():
    for length, angle in ((9.0, 0.0), (12.5, 0.6), (7.0, math.pi / 2), (5.0, -2.0)):
        psf = motion_psf(length, angle)
        rows = torch.arange(psf.shape[0]) - psf.shape[0] // 2
        columns = torch.arange(psf.shape[1]) - psf.shape[1] // 2
        assert abs(float(psf.sum()) - 1) < 1e-12
        assert torch.allclose(psf, psf.flip(0, 1), atol=1e-12)
        up, right = -rows[:, None].double(), columns.double()
        # the second moments of a line, and of the bilinear weights, which are at most 1/4
        moments = [float((psf * m).sum()) for m in (right**2, up**2, up * right)]
        c, s = math.cos(angle), math.sin(angle)
        expected = [length**2 / 12 * v for v in (c * c, s * s, c * s)]
        assert all(-0.01 < m - e < 0.26 for m, e in zip(moments[:2], expected[:2], strict=True))
        assert abs(moments[2] - expected[2]) < 0.02 * length
    assert motion_psf(9.0, 0.0).shape == (1, 11)
    assert motion_psf(1e-3).shape == (1, 3)


def test_a_disk_covers_its_area():
    for radius in (0.3, 1.0, 2.7, 4.0):
        psf = disk_psf(radius)
        half = psf.shape[0] // 2
        assert abs(1 / float(psf[half, half]) - max(1.0, math.pi * radius**2)) < 0.12 * max(
            1.0, math.pi * radius**2
        )
        assert torch.allclose(psf, psf.T)
    assert disk_psf(0.3).shape == (1, 1)
    assert disk_psf(4.0).shape == (9, 9)


def test_a_path_of_one_point_between_pixels_is_bilinear():
    psf = path_psf(torch.tensor([0.25]), torch.tensor([-0.5]))
    expected = torch.tensor([[0, 0, 0], [0.375, 0.375, 0], [0.125, 0.125, 0]]).double()
    assert torch.allclose(psf, expected)


def test_kernels_from_files(tmp_path):
    psf = draw(5, 7)
    np.save(tmp_path / "p.npy", psf.numpy()[None, None])
    assert torch.allclose(read_psf(tmp_path / "p.npy"), psf / psf.sum())
    write_image(tmp_path / "p.png", psf[None, None].float())
    assert float((read_psf(tmp_path / "p.png") - psf / psf.sum()).abs().max()) < 1e-3
    np.save(tmp_path / "n.npy", -psf.numpy())
    with pytest.raises(InputError, match="finite and have a sum > 0"):
        read_psf(tmp_path / "n.npy")
    np.save(tmp_path / "v.npy", psf.numpy()[0])
    with pytest.raises(InputError, match=r"a real array \(K, L\), got one of shape \(7,\)"):
        read_psf(tmp_path / "v.npy")


def test_constructors_by_numbers():
    shape = (1, 20, 20)
    for made, psf in (
        (Blur.gaussian(shape, 1.5, "valid"), gaussian_psf(1.5)),
        (Blur.motion(shape, 7.0, 0.3, "reflect"), motion_psf(7.0, 0.3)),
        (Blur.disk(shape, 2.0), disk_psf(2.0)),
    ):
        x = draw(1, *shape)
        assert torch.equal(made(x), Blur(psf, shape, made.boundary)(x))
    assert set(Blur.constructors) == {"gaussian", "motion", "disk"}


# ---- the shell


def solve(*arguments):
    return main(
        ["solve", "--denoiser", "tv", "--quiet", "--operator", "blur", *map(str, arguments)]
    )


def test_the_shell_knows_that_the_image_is_larger_than_valid_data(tmp_path):
    truth = samples.camera()[..., 100:148, 200:256]
    A = Blur(motion_psf(7, 0.4), (1, 48, 56), "valid")
    write_image(tmp_path / "truth.png", truth)
    np.save(tmp_path / "q.npy", A(truth)[0].numpy())
    asked = ("--noise", 0.01, "--set", "solver.iterations=3", "--set", "operator.boundary=valid")
    motion = ("--set", "operator.length=7", "--set", "operator.angle=0.4")
    out = [tmp_path / "a.npy", tmp_path / "b.npy"]
    assert solve("--data", tmp_path / "q.npy", *asked, *motion, "--output", out[0]) == 0
    assert solve("--simulate", tmp_path / "truth.png", *asked, *motion, "--output", out[1]) == 0
    images = [np.load(path) for path in out]
    assert images[0].squeeze().shape == images[1].squeeze().shape == (48, 56)
    assert np.sqrt(np.mean((images[0] - images[1]) ** 2)) < 0.02


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "the operator 'blur' takes operator.psf; or operator.width .gaussian."),
        (("operator.width=2.0", "operator.radius=3"), "the operator 'blur' takes operator.psf"),
        (("operator.width=-1",), "gaussian_psf: sigma must be finite and > 0, got -1"),
        (("operator.length=3", "operator.angel=1"), "no setting 'angel'. Did you mean 'angle'"),
        (("operator.width=1.0", "operator.boundary=mirror"), "boundary must be one of circular"),
        (("operator.width=30.0",), "not larger than the image 48 x 56"),
    ],
)
def test_the_shell_says_what_is_wrong(tmp_path, capsys, settings, words):
    write_image(tmp_path / "truth.png", samples.camera()[..., 100:148, 200:256])
    sets = [word for setting in settings for word in ("--set", setting)]
    assert solve("--simulate", tmp_path / "truth.png", *sets, "--output", tmp_path / "x.npy") != 0
    import re

    assert re.search(words, " ".join(capsys.readouterr().err.split()))


# ---- bad input


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: Blur(p, (1, 4, 9), "valid"), InputError, "not larger than the image 4 x 9"),
        (lambda p: Blur(-p, (1, 9, 9)), InputError, r"a sum > 0 .*, got -\d"),
        (lambda p: Blur(p - p.mean(), (1, 9, 9)), InputError, "a sum > 0"),
        (lambda p: Blur(0 * p, (1, 9, 9)), InputError, "finite and not zero everywhere"),
        (
            lambda p: Blur(p, (1, 9, 9), "mirror"),
            InputError,
            "one of circular, reflect, valid, got",
        ),
        (lambda p: Blur(p, (1, 9, 9), None), InputError, "boundary must be one of"),
        (lambda p: Blur.motion((1, 9, 9), 0), InputError, "motion_psf: length must be finite and"),
        (lambda p: motion_psf(3, math.nan), InputError, "angle must be a finite number of radians"),
        (lambda p: Blur.disk((1, 9, 9), -2), InputError, "disk_psf: radius must be finite and > 0"),
        (lambda p: path_psf(p, p), InputError, r"path_psf: rows and columns must be two tensors"),
        (
            lambda p: path_psf(torch.tensor([math.inf]), torch.zeros(1)),
            InputError,
            "path_psf: rows and columns must be finite",
        ),
        (
            lambda p: Blur(p, (1, 9, 9), "valid").adjoint(torch.rand(1, 1, 9, 9)),
            InputError,
            r"takes data of shape \(B, 1, 5, 7\), got \(1, 1, 9, 9\).*shape of the image",
        ),
        (
            lambda p: VaryingBlur(p, torch.ones(1, 9, 9), (1, 9, 9)),
            InputError,
            r"psfs must be \(N, K, L\), N >= 1, got \(5, 3\)",
        ),
        (
            lambda p: VaryingBlur(p[None], torch.ones(2, 9, 9), (1, 9, 9)),
            InputError,
            r"maps must be one for each psf and pixel, \(1, 9, 9\), got \(2, 9, 9\)",
        ),
        (
            lambda p: VaryingBlur(p[None], -torch.ones(1, 9, 9), (1, 9, 9)),
            InputError,
            "maps must be finite, >= 0 and not all zero",
        ),
        (
            lambda p: VaryingBlur([p], torch.ones(1, 9, 9), (1, 9, 9)),
            InputTypeError,
            "psfs must be a real torch tensor, got list",
        ),
        (
            lambda p: VaryingBlur(-p[None], torch.ones(1, 9, 9), (1, 9, 9)),
            InputError,
            "VaryingBlur: psf must have a sum > 0",
        ),
        (
            lambda p: operators.make("varying_blur", psfs=p[None]),
            PnPError,
            "needs maps, image_shape",
        ),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make(draw(5, 3))
