"""The mathematics of each operator, against something independent of it."""

from __future__ import annotations

import math
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from matrices import dense

from pnp_mlpatch import denoisers, operators, samples
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.interop import from_functions
from pnp_mlpatch.linalg import largest_eigenvalue, pcg
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, interpolate_gaps, random_mask
from pnp_mlpatch.operators.radon import Radon, cache_directory
from pnp_mlpatch.testing import optimality

# ---- data step against a dense solve


@pytest.mark.parametrize(
    "A",
    [
        Identity((1, 4, 5)).weighted(
            torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0))
        ),
        Mask(random_mask((6, 5), keep=0.5)).weighted(
            torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(1)) + 0.1
        ),
        Blur.example(),
        Lensing.example(),
        Lensing(
            weight=10 ** (2 * torch.rand(8, 8, generator=torch.Generator().manual_seed(2)) - 1)
            * random_mask((8, 8), keep=0.7)
        ),
    ],
    ids=["identity", "mask", "blur", "lensing", "lensing even, noise over two decades"],
)
def test_data_step_equals_a_dense_solve(A):
    matrix = dense(A)
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(1, *A.image_shape, dtype=torch.float64, generator=generator)
    q = torch.randn(1, *A.data_shape, dtype=torch.float64, generator=generator)
    for alpha in (1e-3, 1.0, 1e2):
        f = A.data_step(z, alpha, Aty=A.adjoint(q))[0]
        b = matrix.T @ q.flatten() + alpha * z.flatten()
        exact = torch.linalg.solve(matrix.T @ matrix + alpha * torch.eye(len(b), dtype=b.dtype), b)
        assert float((f.flatten() - exact).norm() / exact.norm()) < 1e-9


# ---- blur


def test_blur_is_scipys_convolution():
    from scipy.ndimage import convolve

    A = Blur.example()
    x = torch.rand(1, *A.image_shape, dtype=torch.float64)
    psf = torch.tensor([[0.0, 0.1, 0.05], [0.2, 0.3, 0.1], [0.05, 0.1, 0.1], [0.0, 0.05, 0.0]])
    expected = np.stack([convolve(c, psf.double().numpy(), mode="wrap") for c in x[0].numpy()])
    assert np.abs(A(x)[0].numpy() - expected).max() < 1e-7


def test_gaussian_psf_is_normalised_and_symmetric():
    psf = gaussian_psf(1.5)
    assert abs(float(psf.sum()) - 1) < 1e-12
    assert torch.equal(psf, psf.flip(0))
    assert psf.shape[0] % 2 == 1


# ---- mask


def test_gaps_are_filled_smoothly_and_seen_pixels_are_kept(photo):
    seen = random_mask((96, 80), keep=0.3)[None] > 0
    filled = interpolate_gaps(photo * seen, seen)
    assert torch.equal(filled[:, seen], photo[:, seen])
    assert float(psnr(filled, photo)) > 24


def test_gaps_equal_the_exact_biharmonic_interpolation():
    from pnp_mlpatch.linalg import laplacian

    seen = random_mask((7, 6), keep=0.4, seed=2)[None] > 0
    x = (
        torch.rand(1, 1, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        * seen
    )
    basis = torch.eye(42, dtype=torch.float64).reshape(42, 1, 7, 6)
    energy = laplacian(laplacian(basis)).reshape(42, 42).T
    gap = ~seen.flatten()
    exact = x.flatten().clone()
    exact[gap] = torch.linalg.solve(
        energy[gap][:, gap], -(energy[gap][:, ~gap] @ x.flatten()[~gap])
    )
    filled = interpolate_gaps(x, seen, tol=1e-12)
    assert float((filled.flatten() - exact).abs().max()) < 1e-8


def test_a_single_seen_pixel_and_an_unseen_channel():
    mask = torch.zeros(2, 6, 7)
    mask[0, 2, 3] = 1
    A = Mask(mask)
    assert torch.allclose(A.initial(A(torch.ones(3, 2, 6, 7))), torch.ones(3, 2, 6, 7))


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_bayer(pattern):
    mask = Mask.bayer((3, 5, 4), pattern).mask
    assert bool((mask.sum(0) == 1).all())
    corner = [int(mask[:, i, j].argmax()) for i in (0, 1) for j in (0, 1)]
    assert "".join("RGB"[c] for c in corner) == pattern
    assert torch.equal(mask[:, 2:, 2:], mask[:, :3, :2])
    with pytest.raises(InputError, match="has 3 channels"):
        Mask.bayer((1, 4, 4))
    with pytest.raises(InputError, match="pattern must be one of"):
        Mask.bayer((3, 4, 4), "RGB")


def test_masked_data_have_no_influence():
    A = Mask(random_mask((8, 9), keep=0.5))
    q = torch.rand(1, 1, 8, 9)
    changed = torch.where(A.mask > 0, q, torch.full_like(q, 1e6))
    assert torch.equal(A.adjoint(q), A.adjoint(changed))
    assert torch.equal(A.initial(q), A.initial(changed))


# ---- lensing


def test_a_mass_peak_has_tangential_shear():
    kappa = torch.zeros(1, 2, 33, 33)
    kappa[0, 0, 16, 16] = 1
    gamma1, gamma2 = Lensing(image_shape=(2, 33, 33))(kappa)[0]
    assert gamma1[16, 20] < 0
    assert gamma1[16, 12] < 0
    assert gamma1[20, 16] > 0
    assert gamma1[12, 16] > 0
    assert gamma2[19, 19] < 0  # at (+x, +y)
    assert gamma2[13, 19] > 0


@pytest.mark.parametrize("shape", [(15, 17), (16, 18), (15, 16)])
def test_kaiser_squires_inverts_the_shear_up_to_the_mean(shape):
    A = Lensing(image_shape=(2, *shape))
    kappa = torch.randn(2, 2, *shape)
    mean = kappa.mean(dim=(-2, -1), keepdim=True)
    assert float((A.initial(A(kappa)) - (kappa - mean)).abs().max()) < 1e-5
    assert float(A(kappa).mean(dim=(-2, -1)).abs().max()) < 1e-6


def test_masked_shear_has_no_influence_and_the_mean_stays_where_z_has_it():
    weight = random_mask((12, 13), keep=0.7)
    A = Lensing(weight=weight)
    q = torch.randn(1, 2, 12, 13)
    changed = torch.where(weight > 0, q, torch.full_like(q, 1e6))
    assert torch.equal(A.adjoint(q), A.adjoint(changed))
    z = torch.randn(1, 2, 12, 13) + 0.7
    f = A.data_step(z, 0.3, Aty=A.adjoint(q))[0]
    assert torch.allclose(f.mean(dim=(-2, -1)), z.mean(dim=(-2, -1)), atol=1e-6)


# ---- radon


def blob(height, width, row, col, variance):
    rows, cols = torch.meshgrid(
        torch.arange(float(height)), torch.arange(float(width)), indexing="ij"
    )
    return torch.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * variance))


def test_sense_of_rotation_and_axes():
    """A blob at row 12, column 40 of 48 x 60: x = 40 - 29.5 to the right, y = 23.5 - 12 up; it
    projects to x cos + y sin.
    """
    angles = torch.tensor([0.0, 0.4, math.pi / 2, 2.5])
    A = Radon(image_shape=(1, 48, 60), angles=angles, detectors=79, cache=False)
    image = blob(48, 60, 12, 40, 4.0)
    q = A(image[None, None])[0, 0]
    t = torch.arange(79.0) - 39
    expected = 10.5 * torch.cos(angles) + 11.5 * torch.sin(angles)
    assert torch.allclose((q * t).sum(1) / q.sum(1), expected, atol=0.02)
    assert torch.allclose(q.sum(1) / image.sum(), torch.ones(4), atol=0.01)  # mass is kept


def test_sinogram_agrees_with_scikit_image():
    from skimage.transform import radon

    n = 65  # its centre of rotation is the pixel n // 2: for odd n the middle of the image, as ours
    image = blob(n, n, 40, 27, 20.0) + 0.5 * blob(n, n, 20, 41, 10.0)
    image[image < 1e-3] = 0
    degrees = np.array([0.0, 25.0, 90.0, 140.0])
    mine = Radon(
        image_shape=(1, n, n),
        angles=torch.from_numpy(np.deg2rad(degrees)),
        detectors=n,
        cache=False,
    )(image[None, None])[0, 0].double()
    theirs = torch.from_numpy(radon(image.double().numpy(), degrees, circle=True).T.copy())
    assert float((mine - theirs).norm() / mine.norm()) < 0.02
    assert float((mine.flip(1) - theirs).norm() / mine.norm()) > 0.3


def test_line_integrals_of_a_disc():
    n, r = 128, 40.0
    rows, cols = torch.meshgrid(torch.arange(n) - 63.5, torch.arange(n) - 63.5, indexing="ij")
    disc = ((rows**2 + cols**2) < r**2).float()
    A = Radon(image_shape=(1, n, n), angles=5, detectors=181, cache=False)
    t = torch.arange(181.0) - 90
    exact = 2 * (r**2 - t**2).clamp_min(0).sqrt()
    assert float((A(disc[None, None])[0, 0] - exact).norm() / (exact.norm() * 5**0.5)) < 0.02


def test_fbp_reconstructs_a_smooth_image():
    n = 64
    rows, cols = torch.meshgrid(torch.arange(n) - 31.5, torch.arange(n) - 31.5, indexing="ij")
    image = torch.exp(-((rows - 4) ** 2 + (cols + 5) ** 2) / 60)[None, None]
    A = Radon(image_shape=(1, n, n), angles=120, cache=False)
    assert float((A.initial(A(image)) - image).abs().max()) < 0.05
    assert float((A.fbp(A(image), window="none") - image).abs().max()) < 0.03
    full_turn = Radon(
        image_shape=(1, n, n), angles=torch.arange(200) * (2 * math.pi / 200), cache=False
    )
    assert float((full_turn.fbp(full_turn(image), window="none") - image).abs().max()) < 0.04


def test_backends_agree():
    stored, direct = (
        Radon(image_shape=(1, 24, 20), angles=9, cache=False),
        Radon(image_shape=(1, 24, 20), angles=9, backend="astra_cpu"),
    )
    x, y = torch.rand(2, 1, 24, 20), torch.rand(2, *direct.data_shape)
    assert float((stored(x) - direct(x)).norm() / direct(x).norm()) < 1e-5
    assert float((stored.adjoint(y) - direct.adjoint(y)).norm() / direct.adjoint(y).norm()) < 1e-5


@pytest.mark.parametrize(
    ("views", "ratio", "at_most", "factor"),
    [(60, 1e-2, 8, 2), (60, 1e-1, 5, 1.5), (180, 1e-3, 12, 2.5), (180, 1e-2, 7, 2)],
)
def test_the_preconditioner_saves_iterations(views, ratio, at_most, factor):
    """In float64: at 1e-5 the rounding of float32 would decide between 12 steps and 14."""
    A = Radon(image_shape=(1, 96, 96), angles=views, cache=False)
    alpha = torch.tensor(ratio * A.norm() ** 2, dtype=torch.float64).reshape(1, 1, 1, 1)
    truth = samples.camera()[..., 100:196, 200:296].double()
    Aty = A.adjoint(A(truth))
    z = torch.full_like(truth, 0.5)
    counts = []
    for precondition in (None, A._precondition(alpha)):
        _, info = pcg(
            lambda v: A.normal(v) + alpha * v,
            Aty + alpha * z,
            z,
            precondition=precondition,
            tol=1e-5,
            max_iter=200,
        )
        assert float(info.residual) <= 1.01e-5
        counts.append(info.iterations)
    assert counts[1] <= at_most
    assert factor * counts[1] <= counts[0]


@pytest.mark.parametrize("backend", ["sparse", "astra_cpu"])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4, 2e-5])
def test_radons_data_step_reaches_the_tolerance_asked_for(tol, backend):
    """The true residual, over five decades of alpha. Rounding in float32 sets the floor: 1e-7 times
    the condition number.
    """
    A = Radon(image_shape=(1, 24, 28), angles=20, backend=backend, cache=False)
    L = A.norm() ** 2
    for decade in range(-3, 3):
        assert optimality(A, L * 10.0**decade, tol=tol) <= 1.02 * tol


@pytest.mark.parametrize("start", ["near", "far"])
def test_gradients_of_an_iterative_data_step_are_those_of_the_solution(start):
    A = Radon(image_shape=(1, 6, 7), angles=8, cache=False)
    matrix = dense(A, torch.float32).double()
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, *A.image_shape, generator=generator).requires_grad_(True)
    Aty = torch.randn(2, *A.image_shape, generator=generator).requires_grad_(True)
    alpha = torch.tensor([3.0, 5.0], requires_grad=True)
    weight = torch.randn(2, *A.image_shape, generator=generator)

    def exact(z, Aty, alpha):
        normal = matrix.T @ matrix + alpha[:, None, None] * torch.eye(42, dtype=torch.float64)
        return torch.linalg.solve(normal, Aty.flatten(1) + alpha[:, None] * z.flatten(1))

    f = exact(z.double(), Aty.double(), alpha.double())
    x0 = (
        f.detach().float().reshape(z.shape)
        if start == "near"
        else torch.randn(z.shape, generator=generator)
    )
    expected = torch.autograd.grad((f * weight.double().flatten(1)).sum(), (z, Aty, alpha))
    got = torch.autograd.grad(
        (A.data_step(z, alpha, Aty=Aty, x0=x0)[0] * weight).sum(), (z, Aty, alpha)
    )
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-4


def test_matrix_cache_is_used_and_a_damaged_one_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PNP_MLPATCH_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    x = torch.rand(1, 1, 12, 13)
    first = Radon(image_shape=(1, 12, 13), angles=7)(x)
    (file,) = tmp_path.glob("radon-*.npz")
    stamp = file.stat().st_mtime_ns
    assert torch.equal(Radon(image_shape=(1, 12, 13), angles=7)(x), first)
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="built again"):
        again = Radon(image_shape=(1, 12, 13), angles=7)
    assert torch.equal(again(x), first)


def test_a_thousand_calls_leave_nothing_behind():
    """Neither ASTRA's objects nor memory: the resident size is that after the first hundred calls,
    to 4 MB.
    """
    import astra

    A = Radon(image_shape=(1, 12, 13), angles=7, backend="astra_cpu")
    before = astra.create_projector(
        "linear", astra.create_proj_geom("parallel", 1.0, 3, [0.0]), astra.create_vol_geom(2, 2)
    )
    x, page = torch.rand(1, 1, 12, 13), os.sysconf("SC_PAGE_SIZE")
    resident = []
    for call in range(1000):
        A.adjoint(A(x))
        if call % 100 == 99 and os.path.exists("/proc/self/statm"):
            resident.append(page * int(Path("/proc/self/statm").read_text().split()[1]))
    # ids are handed out in a row, and freed ones are looked up without success
    after = astra.create_projector(
        "linear", astra.create_proj_geom("parallel", 1.0, 3, [0.0]), astra.create_vol_geom(2, 2)
    )
    assert after - before > 1000
    for identity in range(before + 1, after):
        with pytest.raises(Exception, match=r"not initialized|not found|[Ii]nvalid"):
            astra.projector.volume_geometry(identity)
    astra.projector.delete([before, after])
    assert not resident or resident[-1] - resident[0] < 4e6


# ---- linear algebra


def test_pcg_solves_each_image_on_its_own():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 20, 20, dtype=torch.float64, generator=generator)
    matrices = root @ root.mT + torch.tensor([0.1, 1.0, 100.0], dtype=torch.float64)[
        :, None, None
    ] * torch.eye(20, dtype=torch.float64)
    b = torch.randn(3, 20, dtype=torch.float64, generator=generator)
    x, info = pcg(
        lambda v: torch.einsum("bij,bj->bi", matrices, v),
        b,
        torch.zeros_like(b),
        tol=1e-10,
        max_iter=500,
    )
    assert info.residual.max() <= 1.01e-10
    assert torch.allclose(x, torch.linalg.solve(matrices, b), rtol=1e-6, atol=1e-8)


def test_pcg_at_the_solution_stays_there():
    b = torch.ones(2, 3)
    x, info = pcg(lambda v: 2 * v, b, b / 2)
    assert torch.equal(x, b / 2)
    assert info.iterations == 0
    zero, _ = pcg(lambda v: 2 * v, torch.zeros(1, 3), torch.zeros(1, 3))
    assert torch.equal(zero, torch.zeros(1, 3))


def test_the_norm_is_an_upper_bound_in_any_units():
    d = torch.tensor([[1.0, 9.0, 4.0]])
    assert abs(largest_eigenvalue(lambda v: d * v, torch.ones(1, 3), tol=1e-8) - 9) < 1e-3
    A = Radon(image_shape=(1, 20, 20), angles=8, cache=False)
    exact = float(torch.linalg.matrix_norm(dense(A), 2))
    assert exact <= A.norm() <= 1.001 * exact
    outlier = torch.ones(64, 64)  # a power iteration stops at 1.00
    outlier[3, 4] = 1.07
    assert Mask(outlier).norm() == pytest.approx(1.07, rel=1e-3)
    generator = torch.Generator().manual_seed(0)
    for k in range(60):
        n, m = (int(torch.randint(2, 40, (1,), generator=generator)) for _ in range(2))
        M = torch.randn(m, n, generator=generator, dtype=torch.float64) / torch.arange(
            1, n + 1
        ) ** (k % 2)
        M = (
            torch.diag(1 - 0.05 * torch.rand(n, generator=generator, dtype=torch.float64))
            if k % 3 == 0
            else M
        )
        M = M * 10.0 ** (k - 30)
        B = from_functions(
            lambda x, M=M: x.flatten(1) @ M.to(x).T,
            lambda y, M=M: (y @ M.to(y)).reshape(len(y), 1, 1, -1),
            (1, 1, n),
            (len(M),),
        )
        assert 1 - 1e-6 < B.norm() / float(torch.linalg.matrix_norm(M, 2)) < 1.001, k


# ---- within what torch offers around a call


@pytest.mark.parametrize("name", operators.names())
def test_operators_keep_their_precision_under_autocast(name):
    """Sparse products know no bfloat16, and data terms need more than its 8 bits."""
    A = operators.registry.get(name).example()
    z = torch.randn(2, *A.image_shape, generator=torch.Generator().manual_seed(0))

    def all_of(z):
        q = A(z)
        Aty = A.adjoint(q)
        return q, Aty, A.normal(z), A.initial(q), A.data_step(z, 0.5, Aty=Aty)[0]

    want = all_of(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = all_of(z)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", operators.names())
def test_the_data_step_under_vmap_is_that_of_each(name):
    A = operators.registry.get(name).example()
    z, Aty = (
        torch.randn(3, 2, *A.image_shape, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    Aty = torch.stack([A.adjoint(A(b)) for b in Aty])

    def step(z, Aty):
        return A.data_step(z, 0.5, Aty=Aty, tol=1e-7)[0]

    want = torch.stack([step(*each) for each in zip(z, Aty, strict=True)])
    assert float((torch.vmap(step)(z, Aty) - want).norm() / want.norm()) < 1e-5
    shared = torch.vmap(step, in_dims=(None, 1))(z[0], Aty.movedim(0, 1))
    want = torch.stack([step(z[0], b) for b in Aty])
    assert float((shared - want).norm() / want.norm()) < 1e-5
    with pytest.raises(InputTypeError, match=r"alpha cannot be read, which torch\.vmap"):
        torch.vmap(lambda z, a: A.data_step(z, a, Aty=Aty[0])[0])(z, torch.ones(3))


def test_meta_tensors_are_refused_in_words():
    A = operators.make("identity", image_shape=(1, 4, 4)).to("meta")
    with pytest.raises(InputTypeError, match="meta tensor"):
        A(torch.rand(1, 1, 4, 4, device="meta"))
    with pytest.raises(InputTypeError, match="meta tensor"):
        denoisers.make("tv")(torch.rand(1, 1, 4, 4, device="meta"), 0.1)


def test_denoisers_under_vmap_take_a_number():
    x = torch.rand(3, 1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    D = denoisers.make("dncnn")
    assert torch.allclose(
        torch.vmap(lambda v: D(v, 0.1))(x), torch.stack([D(v, 0.1) for v in x]), atol=1e-6
    )
    with pytest.raises(InputTypeError, match=r"sigma cannot be read, which torch\.vmap"):
        torch.vmap(lambda v, s: D(v, s))(x, torch.ones(3))


def test_threads_do_not_change_the_warning_filters():
    """Filters belong to the process: one that is set around a call is lost, or stays, when threads
    take turns.
    """
    A = operators.make("radon", image_shape=(1, 16, 16), angles=6, cache=False)
    switch, before = sys.getswitchinterval(), list(warnings.filters)
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: A(torch.rand(1, 1, 16, 16)), range(400)))
    finally:
        sys.setswitchinterval(switch)
    after = list(warnings.filters)
    warnings.filters[:] = before
    assert after == before
