"""MRI: the Fourier convention, dense solves, deepinv, complex denoisers, the shell, errors."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import re

import numpy as np
import pytest
import torch
from matrices import dense, relative

from pnp_mlpatch import cli, denoisers, reconstruct, solvers
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import complex_channels, rescaled
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.interop import from_deepinv
from pnp_mlpatch.io.images import read_image, write_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import random_mask
from pnp_mlpatch.operators.mri import MRI, cartesian_mask
from pnp_mlpatch.solvers import Result
from pnp_mlpatch.testing import check_denoiser, check_operator
from pnp_mlpatch.viz._of_result import report_of


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coils(count, height, width, dtype=torch.complex64):
    """Smooth sensitivities with a phase, (count, H, W)."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    turns = [2 * math.pi * k / count for k in range(count)]
    return torch.stack(
        [
            torch.exp(-((rows - math.sin(t)) ** 2) - (columns - math.cos(t)) ** 2)
            * torch.exp(1j * (k + rows - 2 * columns))
            for k, t in enumerate(turns)
        ]
    ).to(dtype)


def phantom(size):
    """A disc with structure and a smooth phase, (1, 2, size, size), and its magnitude."""
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij"
    )
    size = 0.6 * (rows**2 + columns**2 < 0.7) + 0.3 * ((rows - 0.2) ** 2 + columns**2 < 0.1)
    phase = rows - 0.5 * columns
    x = torch.stack([size * torch.cos(phase), size * torch.sin(phase)])[None]
    return x, size[None, None]


OPERATORS = {
    "even": lambda: MRI(random_mask((4, 6), keep=0.5)),
    "odd": lambda: MRI(random_mask((5, 3), keep=0.5)),
    "weights": lambda: MRI(torch.rand(4, 5, generator=generator())),
    "noise map": lambda: MRI(random_mask((4, 5), keep=0.7)).weighted(
        torch.rand(2, 4, 5, generator=generator()) + 0.1
    ),
    "coils even": lambda: MRI(random_mask((4, 6), keep=0.5), coils(3, 4, 6)),
    "coils odd": lambda: MRI(random_mask((3, 5), keep=0.5), coils(2, 3, 5)),
    "coils, noise map": lambda: MRI(random_mask((4, 3), keep=0.7), coils(2, 4, 3)).weighted(
        torch.rand(2, 2, 4, 3, generator=generator()) + 0.1
    ),
}


# ---- the operator


@pytest.mark.parametrize("shape", [(4, 6), (5, 3), (1, 4)])
def test_the_transform_is_the_sum_of_the_docstring(shape):
    x = torch.randn(1, 2, *shape, generator=generator(), dtype=torch.float64)
    k, i = (torch.arange(float(n), dtype=torch.float64) - n // 2 for n in shape)
    rows = torch.exp(-2j * math.pi * k[:, None] * k / shape[0])
    columns = torch.exp(-2j * math.pi * i[:, None] * i / shape[1])
    expected = rows @ torch.complex(x[0, 0], x[0, 1]) @ columns.T / math.sqrt(shape[0] * shape[1])
    found = MRI(torch.ones(shape))(x)[0]
    assert torch.allclose(torch.complex(found[0], found[1]), expected, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_data_step_equals_a_dense_solve(name):
    A = OPERATORS[name]()
    M = dense(A)
    z = torch.randn(1, *A.image_shape, dtype=torch.float64, generator=generator(1))
    q = torch.randn(1, *A.data_shape, dtype=torch.float64, generator=generator(2))
    assert relative(A.adjoint(q).flatten(), M.T @ q.flatten()) < 1e-12
    for alpha in (1e-3, 1.0, 1e2):
        f, info = A.data_step(z, alpha, Aty=A.adjoint(q), tol=1e-10, max_iter=500)
        b = M.T @ q.flatten() + alpha * z.flatten()
        exact = torch.linalg.solve(M.T @ M + alpha * torch.eye(len(b), dtype=b.dtype), b)
        assert relative(f.flatten(), exact) < 1e-7
        assert (info.iterations == 0) == A.closed_form == ("coils" not in name)


def test_weights_for_each_image_are_theirs():
    for A in (OPERATORS["odd"](), OPERATORS["coils odd"]()):
        weight = torch.rand(2, *A.data_shape, generator=generator(), dtype=torch.float64) + 0.1
        z, Aty = (torch.randn(2, *A.image_shape, dtype=torch.float64) for _ in range(2))
        both = A.weighted(weight)
        f = both.data_step(z, 0.1, Aty=Aty, tol=1e-10, max_iter=500)[0]
        for k in range(2):
            alone = A.weighted(weight[k])
            g = alone.data_step(z[[k]], 0.1, Aty=Aty[[k]], tol=1e-10, max_iter=500)[0]
            assert relative(f[[k]], g) < 1e-8
        assert abs(both.norm() / max(A.weighted(w).norm() for w in weight) - 1) < 1e-2


def test_the_contract_of_several_coils():
    check_operator(MRI(cartesian_mask((8, 9), 2.0, 0.3), coils(3, 8, 9)))


def test_the_diagonal_preconditions_coils_of_unlike_brightness():
    maps = coils(4, 24, 20) * torch.linspace(1, 0.05, 20)
    A = MRI(cartesian_mask((24, 20), 2.0, 0.3), maps)
    M = dense(A)
    diagonal = 1 / A._precondition(torch.full((1, 1, 1, 1), 0.01, dtype=torch.float64))(
        torch.ones(1, 2, 24, 20, dtype=torch.float64)
    )
    assert torch.allclose(diagonal.flatten(), (M * M).sum(0) + 0.01, rtol=1e-6)


def test_gradients_are_right():
    for name in ("odd", "coils odd"):
        A = OPERATORS[name]()
        x, z = (torch.randn(1, *A.image_shape, dtype=torch.float64) for _ in range(2))
        q = torch.randn(1, *A.data_shape, dtype=torch.float64)
        assert torch.autograd.gradcheck(A, x.requires_grad_(), check_forward_ad=True)

        def h(z, q, A=A):
            return A.data_step(z, 0.3, Aty=A.adjoint(q), tol=1e-12)[0]

        assert torch.autograd.gradcheck(h, (z.requires_grad_(), q.requires_grad_()))


def test_starts():
    x, _ = phantom(24)
    full = MRI(torch.ones(24, 24))
    assert torch.allclose(full.initial(full(x)), x, atol=1e-6)
    maps = coils(4, 24, 24)
    several = MRI(torch.ones(24, 24), maps)
    assert torch.allclose(several.initial(several(x)), x, atol=1e-5)
    twice = MRI(2 * torch.ones(24, 24))
    assert torch.allclose(twice.initial(twice(x)), x, atol=1e-6)
    noise = torch.full(several.data_shape, 0.5)
    noise[:, :, 3] = torch.inf  # those samples are left out, not filled
    dark = maps.clone()
    dark[:, :5] = 0  # no coil sees these rows
    A = MRI(cartesian_mask((24, 24), 2.0), dark)
    start = A.weighted(1 / noise).initial(A(x) / noise)
    assert torch.isfinite(start).all()
    assert not start[:, :, :5].any()


# ---- masks


def test_cartesian_masks():
    mask = cartesian_mask((6, 64), 4.0, 0.125, seed=3)
    assert torch.equal(mask, mask[:1].expand(6, -1))
    assert int(mask[0].sum()) == 16
    assert bool(mask[0, 28:36].all())  # about column 32, the zero frequency
    assert torch.equal(mask, cartesian_mask((6, 64), 4.0, 0.125, seed=3))
    assert not torch.equal(mask, cartesian_mask((6, 64), 4.0, 0.125, seed=4))
    assert bool(cartesian_mask((3, 7), 1.0).all())
    assert int(cartesian_mask((3, 7), 7.0, 0.0)[0].sum()) == 1


# ---- deepinv


def test_it_is_deepinvs_mri():
    physics = require("deepinv.physics", "test")
    for shape in ((8, 10), (7, 5)):
        mask = random_mask(shape, keep=0.5)
        A, P = MRI(mask), physics.MRI(mask=mask)
        x = torch.randn(2, 2, *shape, generator=generator())
        y = torch.randn(2, 2, *shape, generator=generator(1))
        assert relative(A(x), P.A(x)) < 1e-6
        assert relative(A.adjoint(y), P.A_adjoint(y)) < 1e-6
        h = A.data_step(x, 0.4, Aty=A.adjoint(y))[0]
        assert relative(h, P.prox_l2(x, y, gamma=1 / 0.4)) < 1e-5
        assert from_deepinv(P, (2, *shape)).complex_image


def test_it_is_deepinvs_mri_of_several_coils():
    physics = require("deepinv.physics", "test")
    mask, maps = random_mask((8, 9), keep=0.6), coils(3, 8, 9)
    A, P = MRI(mask, maps), physics.MultiCoilMRI(mask=mask, coil_maps=maps, img_size=(2, 8, 9))
    x = torch.randn(2, 2, 8, 9, generator=generator())
    y = torch.randn(2, 3, 2, 8, 9, generator=generator(1))
    theirs = y.transpose(1, 2).contiguous()  # deepinv has the parts before the coils
    assert relative(A(x).transpose(1, 2), P.A(x)) < 1e-6
    assert relative(A.adjoint(y), P.A_adjoint(theirs)) < 1e-6
    B = from_deepinv(P, (2, 8, 9))
    assert B.complex_image
    h = [
        C.data_step(x, 0.3, Aty=C.adjoint(q), tol=1e-7, max_iter=300)[0]
        for C, q in ((A, y), (B, theirs))
    ]
    assert relative(h[0], h[1]) < 1e-5


# ---- denoisers of complex images


def shrink(x, sigma):
    """A grey denoiser that depends on the level, number or map."""
    level = torch.as_tensor(sigma, dtype=x.dtype)
    level = level.reshape(-1, 1, 1, 1) if level.ndim < 4 else level
    return x / (1 + level)


def test_parts_and_magnitude():
    x, size = phantom(12)
    parts = complex_channels(shrink)(x, 0.2)
    assert torch.allclose(parts, 2 * ((x + 1) / 2) / 1.1 - 1)
    magnitude = complex_channels(shrink, "magnitude")(x, 0.2)
    assert torch.allclose(magnitude, x / 1.2, atol=1e-6)
    assert torch.allclose(magnitude.norm(dim=1, keepdim=True), size / 1.2, atol=1e-6)
    negative = complex_channels(lambda x, sigma: x - 2, "magnitude")(x, 0.2)
    assert not negative.any()  # a magnitude is not negative


@pytest.mark.parametrize("mode", ["parts", "magnitude"])
def test_levels_of_complex_denoisers(mode, mlpatch):
    x = phantom(16)[0].repeat(2, 1, 1, 1) + 0.05 * torch.randn(2, 2, 16, 16, generator=generator())
    D = complex_channels(mlpatch, mode)
    each = torch.tensor([0.05, 0.1])
    alone = torch.cat([D(x[k : k + 1], float(each[k])) for k in range(2)])
    assert torch.allclose(D(x, each), alone, atol=1e-5)
    flat = each.reshape(2, 1, 1, 1).expand(2, 1, 16, 16).contiguous()
    assert torch.allclose(
        complex_channels(shrink, mode)(x, flat), complex_channels(shrink, mode)(x, each)
    )
    for twin in (copy.deepcopy(D), pickle.loads(pickle.dumps(D))):
        assert torch.equal(twin(x, 0.1), D(x, 0.1))
    assert D.info.channels == 2
    assert D.info.sigma_range[1] == mlpatch.info.sigma_range[1] * (2 if mode == "parts" else 1)
    assert rescaled(D, scale=3.0)(3 * x, 0.3).shape == x.shape
    if mode == "parts":  # the other keeps the noise of the phase
        check_denoiser(D, channels=2)


def test_reconstruct_adapts_grey_denoisers():
    x, size = phantom(24)
    A = MRI.cartesian((2, 24, 24), 2.0, 0.2)
    q = A(x)
    settings = {"sigma": 0.1, "alpha": 0.05, "iterations": 2, "progress": False}
    for D in ("mlpatch", denoisers.make("mlpatch", weights="mlpatch-grey")):
        found = reconstruct(q, A, D, **settings).x
        grey = complex_channels(denoisers.make("mlpatch", weights="mlpatch-grey"))
        assert torch.equal(found, reconstruct(q, A, grey, **settings).x)
    plain = reconstruct(q, A, "tv", **settings).x
    solver = solvers.make("admm", sigma=0.1, alpha=0.05, iterations=2)
    assert torch.equal(plain, solver.run(q, A, TV(), progress=False).x)
    better = reconstruct(q, A, "tv", sigma=0.05, alpha=0.05, iterations=30, progress=False).x
    start = A.initial(q).norm(dim=1, keepdim=True)
    assert float(psnr(better.norm(dim=1, keepdim=True), size) - psnr(start, size)) > 4


# ---- the shell


def solve(capsys, *arguments):
    status = cli.main(["solve", "--quiet", "--denoiser", "tv", "--operator", "mri", *arguments])
    return status, capsys.readouterr().err


def test_the_shell_simulates_and_writes_the_magnitude(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_image("grey.png", phantom(32)[1])
    sets = ["--set", "operator.acceleration=2", "--set", "operator.seed=1"]
    sets += ["--set", "solver.iterations=15"]
    status, err = solve(
        capsys, "--simulate", "grey.png", *sets, "--noise", "0.01", "--output", "o.png"
    )
    assert status == 0, err
    report = json.loads((tmp_path / "o.json").read_text())
    assert read_image("o.png").shape == (1, 1, 32, 32)
    assert report["psnr"] > report["psnr_initial"] + 4
    assert report["operator"]["acceleration"] == 2
    score = float(psnr(read_image("o.png"), phantom(32)[1]))
    assert abs(score - report["psnr"]) < 0.1


def test_the_magnitude_is_drawn_and_scored(tmp_path):
    (x, size), A = phantom(32), MRI(cartesian_mask((32, 32), 2.0, 0.2))
    result = reconstruct(A(x), A, "tv", noise=0.01, iterations=3, progress=False)
    assert result.complex_image
    magnitude, start = (v.norm(dim=1, keepdim=True) for v in (result.x, A.initial(A(x))))
    told = report_of(result, q=A(x), A=A, truth=x)
    for name, image in {"result": magnitude, "start": start, "truth": size}.items():
        assert torch.allclose(told.images[name], image, atol=1e-6), name
    assert torch.allclose(told.truth, size, atol=1e-6)
    numbers = {name: value for name, value, _ in told.numbers}
    assert numbers["PSNR"] == f"{float(psnr(magnitude, size)):.2f} dB"
    assert numbers["range of the result"].split(" to ")[1] == f"{float(magnitude.max()):.4g}"
    drawn = result.plot().axes[0].images[0].get_array()
    assert np.allclose(drawn, magnitude[0, 0].numpy(), atol=1e-6)
    plain = dataclasses.replace(result, x=magnitude, complex_image=False)
    picture = [re.search(r"base64,([^\"]+)", r._repr_html_())[1] for r in (result, plain)]
    assert picture[0] == picture[1]
    result.save(tmp_path / "r.pt")
    assert Result.load(tmp_path / "r.pt").complex_image


@pytest.mark.parametrize("form", ["complex", "pairs", "coils"])
def test_the_shell_reads_samples(form, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mask = cartesian_mask((24, 20), 2.0, 0.2)
    np.save("mask.npy", mask.numpy())
    x = phantom(24)[0][..., 2:22].contiguous()
    sets = ["--set", "operator.mask=mask.npy", "--set", "solver.iterations=3", "--noise", "0.01"]
    if form == "coils":
        A = MRI(mask, coils(3, 24, 20))
        np.save("maps.npy", coils(3, 24, 20).numpy())
        sets += ["--set", "operator.maps=maps.npy"]
    else:
        A = MRI(mask)
    q = A(x)[0].numpy()
    np.save("q.npy", q if form == "pairs" else q[..., 0, :, :] + 1j * q[..., 1, :, :])
    status, err = solve(capsys, "--data", "q.npy", *sets, "--output", "o.npy")
    assert status == 0, err
    settings = {"noise": 0.01, "iterations": 3, "progress": False}
    expected = reconstruct(A(x), A, "tv", **settings).x.norm(dim=1)
    assert np.allclose(np.load("o.npy").squeeze(), expected[0].numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:ADMM")
def test_the_shell_warns_of_other_units(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("q.npy", 1e-5 * MRI(torch.ones(24, 24))(phantom(24)[0])[0].numpy())
    sets = ["--set", "operator.acceleration=2", "--set", "solver.iterations=1"]
    arguments = ("--data", "q.npy", *sets, "--noise", "1e-7", "--output", "o.npy")
    with pytest.warns(UserWarning, match=r"zero-filled image reach 8\.\d+e-06.* Divide the data"):
        assert solve(capsys, *arguments)[0] == 0


def test_the_shell_refuses_what_is_no_kspace(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("real.npy", np.ones((3, 8, 9), np.float32))
    np.save("nan.npy", np.full((8, 9), np.nan, np.complex64))
    np.save("small.npy", np.ones((8, 9), np.complex64))
    np.save("coils.npy", np.ones((3, 8, 9), np.complex64))
    np.save("mask.npy", np.ones((8, 9), np.float32))
    write_image("q.png", torch.rand(1, 1, 16, 16))
    four = ("--set", "operator.acceleration=2", "--output", "o.npy")
    for arguments, words in (
        (("--data", "real.npy", *four), "expected complex numbers (..., H, W)"),
        (("--data", "coils.npy", "--set", "operator.mask=mask.npy", *four[2:]), "of 3 coils. Give"),
        (("--data", "nan.npy", *four), "values are NaN or infinite"),
        (("--data", "q.png", *four), "the data of mri are a .npy file"),
        (("--data", "small.npy", "--output", "o.npy"), "operator.acceleration=NUMBER"),
        (("--simulate", "q.png", "--set", "operator.acceleration=0.5", *four[2:]), "from 1"),
    ):
        status, err = solve(capsys, *arguments)
        assert status == 2
        assert words in err


# ---- errors


def shifted(x):
    return torch.fft.fftshift(x, dim=(-2, -1))


SMALL = MRI(torch.ones(4, 5))
WRONG = [
    (lambda: MRI(torch.zeros(4, 5)), InputError, "zero everywhere"),
    (lambda: MRI(torch.ones(5)), InputError, "must have shape (H, W), got (5,)"),
    (lambda: MRI(np.ones((4, 5))), InputTypeError, "Use torch.as_tensor"),
    (lambda: MRI(255.0 * torch.eye(4)), InputError, "floats 0 and 255"),
    (lambda: MRI(-torch.ones(4, 5)), InputError, "must be finite and >= 0"),
    (lambda: MRI(torch.ones(4, 5), coils(3, 5, 4)), InputError, "the size of the mask, got (3, 5"),
    (lambda: MRI(torch.ones(4, 5), torch.ones(4, 5)), InputError, "maps must have shape (coils"),
    (lambda: MRI(torch.ones(4, 5), 3), InputTypeError, "maps must be a torch tensor"),
    (lambda: MRI(torch.ones(4, 5), torch.zeros(2, 2, 4, 5)), InputError, "not zero everywhere"),
    (lambda: cartesian_mask((4, 8), 0.5), InputError, "acceleration must be from 1"),
    (lambda: cartesian_mask((4, 8), 4.0, 0.9), InputError, "Give a smaller centre_fraction"),
    (lambda: cartesian_mask((4, 8), 4.0, 2.0), InputError, "centre_fraction must be in [0, 1]"),
    (lambda: MRI.cartesian((1, 4, 8), 2.0), InputError, "image_shape must be (2, H, W)"),
    (
        lambda: SMALL(torch.ones(1, 4, 5, dtype=torch.complex64)),
        InputTypeError,
        "torch.view_as_real(x).movedim(-1, -3)",
    ),
    (lambda: complex_channels(TV(), "phase"), InputError, "mode must be 'magnitude' or 'parts'"),
    (lambda: complex_channels(complex_channels(TV())), InputError, "D must take one channel"),
    (lambda: complex_channels(TV())(torch.ones(1, 1, 4, 5), 0.1), InputError, "has 2 channel"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_refused(case):
    call, error, words = WRONG[case]
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)


def test_the_way_out_of_complex_tensors_works():
    for A in (SMALL, MRI(torch.ones(4, 5), coils(3, 4, 5))):
        y = torch.randn(2, *A.data_shape[:-3], 4, 5, dtype=torch.complex64)
        assert A.adjoint(torch.view_as_real(y).movedim(-1, -3)).shape == (2, 2, 4, 5)


@pytest.mark.parametrize("count", [0, 3])
def test_low_frequencies_at_the_corners_are_noticed(count):
    x, _ = phantom(32)
    maps = coils(count, 32, 32) if count else None
    mask = cartesian_mask((32, 32), 2.0, 0.2)
    A = MRI(mask, maps)
    q = A(x)
    with pytest.warns(UserWarning, match="if they are at the corners|If they are at the corners"):
        B = MRI(shifted(mask), maps)
    with pytest.raises(InputError, match=r"give torch\.fft\.fftshift\(q, dim=\(-2, -1\)\)"):
        B.initial(shifted(q))
    assert torch.equal(MRI(shifted(B.mask), maps).initial(shifted(shifted(q))), A.initial(q))
    A.initial(torch.randn(2, *A.data_shape, generator=generator()))  # noise has no middle


def test_a_mask_of_other_data_is_noticed():
    x = phantom(32)[0]
    q = MRI(cartesian_mask((32, 32), 3.0, 0.1, seed=1))(x)
    with pytest.warns(UserWarning, match="samples that the mask says were taken are 0"):
        MRI(cartesian_mask((32, 32), 3.0, 0.1, seed=2)).initial(q)
    whole = MRI(torch.ones(32, 32))(x)
    whole[..., :3] = whole[..., -3:] = 0  # as scanners fill up the edges
    MRI(cartesian_mask((32, 32), 3.0, 0.1)).initial(whole)  # warnings are errors
