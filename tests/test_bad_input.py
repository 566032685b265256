"""Bad input gets an error that says who, what was expected, what came and what to do; odd but good
input gets the right answer.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pnp_mlpatch import (
    as_denoiser,
    denoisers,
    e_mode,
    equivariant,
    operators,
    per_channel,
    reconstruct,
    rescaled,
    solvers,
)
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.errors import (
    Diverged,
    InputError,
    InputTypeError,
    MissingPackage,
    PnPError,
    UnknownPlugin,
    WeightsError,
)
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.metrics import mse, psnr, ssim
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.mri import MRI, cartesian_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import make_problem
from pnp_mlpatch.testing import adjoint_mismatch, optimality

nan, inf = math.nan, math.inf
OPERATORS = operators.names()
SOLVERS = solvers.names()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(channels: int = 1) -> MLPatch:
    """A small MLPatch with a residual that is not zero."""
    torch.manual_seed(0)
    net = MLPatch(channels, width=8, rings=2, angles=4, radius=2.0, depth=2)
    torch.nn.init.normal_(net.last, std=0.05)
    return net.eval().requires_grad_(False)


def drunet(weights, **settings):
    """A small DRU-Net."""
    torch.manual_seed(0)
    return denoisers.make("drunet", **{"weights": weights, "nc": (2, 4, 4, 8), **settings})


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


def with_value(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x.view(-1)[x.numel() // 2] = value
    return x


def square() -> tuple[Identity, Tensor]:
    """An operator and data for what does not depend on them."""
    return Identity((1, 5, 8)), rand(1, 1, 5, 8)


def run(q=None, A=None, D="tv", solver="admm", **settings):
    A = Identity((1, 5, 8)) if A is None else A
    q = rand(1, 1, 5, 8) if q is None else q
    return reconstruct(q, A, D, solver, progress=False, **settings)


# ---- operators

WRONG_TENSORS = {
    "numpy": (
        lambda x: x.numpy(),
        InputTypeError,
        "torch tensor of .*, got ndarray. Convert with torch.as_tensor",
    ),
    "list": (lambda x: x.tolist(), InputTypeError, "torch tensor of .*, got list"),
    "None": (lambda x: None, InputTypeError, "torch tensor of .*, got NoneType"),
    "int": (lambda x: x.int(), InputTypeError, r"float32 or float64, got torch.int32.*\.float\(\)"),
    "bool": (lambda x: x > 0, InputTypeError, "float32 or float64, got torch.bool"),
    "complex": (
        lambda x: x.to(torch.complex64),
        InputTypeError,
        "got torch.complex64.*two channels",
    ),
    "float16": (lambda x: x.half(), InputTypeError, "got torch.float16"),
    "bfloat16": (lambda x: x.bfloat16(), InputTypeError, "got torch.bfloat16"),
    "no batch axis": (lambda x: x[0], InputError, r"of shape \(B, .*Add the batch axis: x\[None\]"),
    "transposed": (lambda x: x.transpose(-1, -2), InputError, "The last two axes look transposed"),
    "one row less": (lambda x: x[..., 1:, :], InputError, r"of shape \(B, .*got \(2, "),
    "one channel more": (
        lambda x: torch.cat([x, x[:, :1]], 1),
        InputError,
        r"of shape \(B, .*got \(2, ",
    ),
    "empty batch": (lambda x: x[:0], InputError, "empty batch"),
    "another device": (
        lambda x: x.to("meta"),
        InputError,
        r"the tensor is on meta, the operator on cpu. Move one with \.to\(device\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_TENSORS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_refuse(name, wrong):
    spoil, error, words = WRONG_TENSORS[wrong]
    A = operators.get(name).example()
    x, y = rand(2, *A.image_shape), rand(2, *A.data_shape)
    calls = {
        "A(x)": lambda: A(spoil(x)),
        "A.normal(x)": lambda: A.normal(spoil(x)),
        "A.adjoint(y)": lambda: A.adjoint(spoil(y)),
        "A.initial(q)": lambda: A.initial(spoil(y)),
        "A.data_step(z)": lambda: A.data_step(spoil(x), 1.0, Aty=x)[0],
        "A.data_step(Aty=)": lambda: A.data_step(x, 1.0, Aty=spoil(x))[0],
    }
    if len(A.data_shape) == 1 and wrong in ("transposed", "one row less"):  # the data have no rows
        calls = {
            label: call
            for label, call in calls.items()
            if label not in ("A.adjoint(y)", "A.initial(q)")
        }
    for label, call in calls.items():
        with pytest.raises(error, match=words) as caught:
            call()
        assert f"{type(A).__name__}: {label}" in str(caught.value)


@pytest.mark.parametrize("name", OPERATORS)
def test_data_step_refuses_a_wrong_start_and_data_of_another_batch(name):
    A = operators.get(name).example()
    x = rand(2, *A.image_shape)
    with pytest.raises(InputError, match=r"A.data_step\(x0=\) takes image"):
        A.data_step(x, 1.0, Aty=x, x0=x[0])[0]
    with pytest.raises(InputError, match="data_step"):
        A.data_step(x, 1.0, Aty=rand(3, *A.image_shape))[0]


def test_image_and_data_are_not_confused():
    told = 0
    for A in (operators.get(name).example() for name in OPERATORS):
        if A.image_shape != A.data_shape:
            told += 1
            with pytest.raises(
                InputError,
                match=r"A\(x\) takes image .* This is the shape of the data; use A.adjoint",
            ):
                A(rand(1, *A.data_shape))
            with pytest.raises(
                InputError,
                match=r"A.adjoint\(y\) takes data .* This is the shape of the image; use A\(x\)",
            ):
                A.adjoint(rand(1, *A.image_shape))
    assert told


@pytest.mark.parametrize(
    ("alpha", "error", "words"),
    [
        *(
            (value, InputError, "finite and > 0")
            for value in (0.0, -1.0, nan, inf, torch.tensor([1.0, -1.0]), torch.tensor([1.0, nan]))
        ),
        (torch.ones(3), InputError, r"a number or of shape \(2,\), got \(3,\)"),
        ("much", InputTypeError, "number"),
        (None, InputTypeError, "number"),
    ],
    ids=["0", "-1", "NaN", "inf", "one negative", "one NaN", "length", "text", "None"],
)
@pytest.mark.parametrize("name", OPERATORS)
def test_alpha(name, alpha, error, words):
    A = operators.get(name).example()
    x = rand(2, *A.image_shape)
    with pytest.raises(error, match=words) as caught:
        A.data_step(x, alpha, Aty=x)[0]
    assert f"{type(A).__name__}.data_step: alpha" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda w: with_value(w, nan), InputError, "finite, >= 0 and not all zero"),
        (lambda w: with_value(w, inf), InputError, "finite, >= 0 and not all zero"),
        (lambda w: with_value(w, -1.0), InputError, "finite, >= 0 and not all zero"),
        (lambda w: w * 0, InputError, "finite, >= 0 and not all zero"),
        (lambda w: w[..., 1:], InputError, "does not broadcast to data"),
        (lambda w: w[None, None], InputError, "does not broadcast to data"),
        (lambda w: w.numpy(), InputTypeError, "tensor"),
        (lambda w: w.to(torch.complex64), InputTypeError, "real"),
    ],
    ids=["NaN", "inf", "negative", "zeros", "narrow", "more axes", "numpy", "complex"],
)
@pytest.mark.parametrize("name", OPERATORS)
def test_weights(name, change, error, words):
    A = operators.get(name).example()
    with pytest.raises(error, match=words) as caught:
        A.weighted(change(torch.ones(A.data_shape)))
    assert f"{type(A).__name__}.weighted" in str(caught.value)


M = torch.ones(4, 5)
CONSTRUCTORS = {
    "Identity: rank": (
        lambda: Identity((5, 7)),
        InputError,
        r"Identity: image_shape must be \(C, H, W\).* got \(5, 7\)",
    ),
    "Identity: number": (
        lambda: Identity(5),
        PnPError,
        r"Identity: image_shape must be \(C, H, W\)",
    ),
    "Identity: floats": (
        lambda: Identity((1, 5.5, 7)),
        PnPError,
        r"Identity: image_shape must be \(C, H, W\)",
    ),
    "Identity: empty": (
        lambda: Identity((1, 0, 7)),
        InputError,
        r"Identity: image_shape must be \(C, H, W\)",
    ),
    "Identity: text": (
        lambda: Identity("abc"),
        PnPError,
        r"Identity: image_shape must be \(C, H, W\)",
    ),
    "Mask: zeros": (
        lambda: Mask(M * 0),
        InputError,
        "Mask: the mask is zero everywhere.*Is it inverted",
    ),
    "Mask: NaN": (
        lambda: Mask(with_value(M, nan)),
        InputError,
        "Mask: mask values must be finite and >= 0",
    ),
    "Mask: inf": (
        lambda: Mask(with_value(M, inf)),
        InputError,
        "Mask: mask values must be finite and >= 0",
    ),
    "Mask: negative": (
        lambda: Mask(with_value(M, -1)),
        InputError,
        "Mask: mask values must be finite and >= 0",
    ),
    "Mask: rank": (
        lambda: Mask(M[None, None]),
        InputError,
        r"Mask: the mask must have shape \(H, W\) or \(C, H, W\), got \(1, 1, 4, 5\)",
    ),
    "Mask: empty": (
        lambda: Mask(torch.ones(0, 5)),
        InputError,
        r"Mask: the mask must have shape .* got \(0, 5\)",
    ),
    "Mask: numpy": (
        lambda: Mask(M.numpy()),
        InputTypeError,
        "Mask: the mask must be a torch tensor.*got ndarray. Use torch.as_tensor",
    ),
    "Mask: complex": (lambda: Mask(M * 1j), InputTypeError, "Mask: the mask must be real"),
    "Mask: channels": (
        lambda: Mask(M.expand(3, 4, 5), channels=2),
        InputError,
        "Mask: the mask has 3 channels, but channels=2",
    ),
    "Mask: no channels": (
        lambda: Mask(M, channels=0),
        InputError,
        "Mask: channels must be an integer >= 1, got 0",
    ),
    "Mask: channels -1": (
        lambda: Mask(M, channels=-1),
        InputError,
        "Mask: channels must be an integer >= 1, got -1",
    ),
    "Mask: channels 1.5": (
        lambda: Mask(M, channels=1.5),
        PnPError,
        "Mask: channels must be an integer >= 1, got 1.5",
    ),
    "random_mask: nothing kept": (
        lambda: random_mask((4, 5), keep=0),
        InputError,
        r"random_mask: keep must be in \(0, 1\], got 0",
    ),
    "random_mask: percent": (
        lambda: random_mask((4, 5), keep=50),
        InputError,
        r"random_mask: keep must be in \(0, 1\], got 50",
    ),
    "Lensing: both": (
        lambda: Lensing((2, 4, 5), M),
        InputError,
        r"Lensing: give either image_shape=\(2, H, W\) or weight=",
    ),
    "Lensing: neither": (
        lambda: Lensing(),
        InputError,
        r"Lensing: give either image_shape=\(2, H, W\) or weight=",
    ),
    "Lensing: unequal": (
        lambda: Lensing(weight=torch.stack([M, 2 * M])),
        InputError,
        "Lensing: .*two shear components must be equal",
    ),
    "Lensing: numpy": (
        lambda: Lensing(weight=M.numpy()),
        InputTypeError,
        "Lensing: weight must be a real torch tensor",
    ),
    "Lensing: complex": (
        lambda: Lensing(weight=M * 1j),
        InputTypeError,
        "Lensing: weight must be a real torch tensor",
    ),
    "Lensing: zeros": (
        lambda: Lensing(weight=M * 0),
        InputError,
        "Lensing: weights must be finite, >= 0 and not all zero",
    ),
    "Lensing: NaN": (
        lambda: Lensing(weight=with_value(M, nan)),
        InputError,
        "Lensing: weights must be finite",
    ),
    "Lensing: negative": (
        lambda: Lensing(weight=with_value(M, -1)),
        InputError,
        "Lensing: weights must be finite, >= 0",
    ),
    "Lensing: rank": (
        lambda: Lensing(weight=M[None, None]),
        InputError,
        r"Lensing: weight must have shape \(H, W\), got \(1, 1, 4, 5\)",
    ),
    "Lensing: side 0": (
        lambda: Lensing((2, 0, 5)),
        InputError,
        r"Lensing: image_shape .*\(2, H, W\).*\(2, 0, 5\)",
    ),
    "Lensing: side -1": (
        lambda: Lensing((2, -1, 5)),
        InputError,
        r"Lensing: .*\(2, H, W\).*\(2, -1, 5\)",
    ),
    "Lensing: floats": (
        lambda: Lensing((2, 2.5, 5)),
        PnPError,
        r"Lensing: .*\(2, H, W\).*\(2, 2.5, 5\)",
    ),
    "Lensing: number": (lambda: Lensing(5), PnPError, r"Lensing: .*\(2, H, W\).*5"),
    "Lensing: channels": (
        lambda: Lensing((1, 4, 5)),
        InputError,
        r"Lensing: .*\(2, H, W\).*\(1, 4, 5\)",
    ),
    "Lensing: all padding": (
        lambda: Lensing((2, 4, 5), padding=2),
        InputError,
        "Lensing: .*> 4, twice the padding, got",
    ),
    "Mask.random: rank": (
        lambda: Mask.random((4, 5), 0.5),
        InputError,
        r"Mask.random: image_shape must be \(C, H, W\)",
    ),
    "Mask.random: percent": (
        lambda: Mask.random((1, 4, 5), 50),
        InputError,
        r"random_mask: keep must be in \(0, 1\], got 50",
    ),
    "Blur.gaussian: width": (
        lambda: Blur.gaussian((1, 4, 5), 0),
        InputError,
        "sigma must be finite and > 0, got 0",
    ),
    "Blur.gaussian: too wide": (
        lambda: Blur.gaussian((1, 4, 5), 2.0),
        InputError,
        "Blur: psf .*not larger than the image 4 x 5",
    ),
    "Blur: psf too large": (
        lambda: Blur(torch.ones(9, 3), (1, 8, 8)),
        InputError,
        r"Blur: psf .*not larger than the image 8 x 8, got \(9, 3\)",
    ),
    "Blur: psf zero": (
        lambda: Blur(M * 0, (1, 8, 8)),
        InputError,
        "Blur: psf must be finite and not zero everywhere",
    ),
    "Blur: psf NaN": (
        lambda: Blur(with_value(M, nan), (1, 8, 8)),
        InputError,
        "Blur: psf must be finite",
    ),
    "Blur: psf complex": (
        lambda: Blur(M * 1j, (1, 8, 8)),
        InputTypeError,
        "Blur: psf must be a real torch tensor",
    ),
    "Blur: psf numpy": (
        lambda: Blur(M.numpy(), (1, 8, 8)),
        InputTypeError,
        "Blur: psf must be a real torch tensor",
    ),
    "Blur: psf rank": (
        lambda: Blur(M[None], (1, 8, 8)),
        InputError,
        r"Blur: psf must be \(K, L\).*got \(1, 4, 5\)",
    ),
    "Blur: psf empty": (
        lambda: Blur(torch.ones(0, 3), (1, 8, 8)),
        InputError,
        r"Blur: psf must be \(K, L\).*got \(0, 3\)",
    ),
    "Blur: image rank": (
        lambda: Blur(M, (8, 8)),
        InputError,
        r"Blur: image_shape must be \(C, H, W\).* got \(8, 8\)",
    ),
    "Blur: image floats": (
        lambda: Blur(M, (1, 8.0, 8)),
        PnPError,
        r"Blur: image_shape must be \(C, H, W\)",
    ),
    "gaussian_psf: zero": (
        lambda: gaussian_psf(0.0),
        InputError,
        "gaussian_psf: sigma must be .*> 0, got 0",
    ),
    "gaussian_psf: NaN": (
        lambda: gaussian_psf(nan),
        InputError,
        "gaussian_psf: sigma must be .*> 0, got nan",
    ),
    "gaussian_psf: inf": (
        lambda: gaussian_psf(inf),
        InputError,
        "gaussian_psf: sigma must be .*> 0, got inf",
    ),
    "gaussian_psf: size": (lambda: gaussian_psf(1.0, -3), InputError, "gaussian_psf: size"),
    "Radon: degrees": (
        lambda: Radon(image_shape=(1, 8, 9), angles=[0.0, 45.0, 90.0]),
        InputError,
        "Radon: angles reach 90, .*radians. Convert degrees with math.radians",
    ),
    "Radon: NaN": (
        lambda: Radon(image_shape=(1, 8, 9), angles=[0.0, nan]),
        InputError,
        "Radon: angles must be .*finite.*radians",
    ),
    "Radon: no angles": (
        lambda: Radon(image_shape=(1, 8, 9), angles=[]),
        InputError,
        "Radon: angles must be a non-empty",
    ),
    "Radon: 0 angles": (
        lambda: Radon(image_shape=(1, 8, 9), angles=0),
        InputError,
        "Radon: the number of angles must be >= 1, got 0",
    ),
    "Radon: 2.5 angles": (
        lambda: Radon(image_shape=(1, 8, 9), angles=2.5),
        InputError,
        "Radon: angles must be .*one-dimensional sequence in radians",
    ),
    "Radon: angles rank": (
        lambda: Radon(image_shape=(1, 8, 9), angles=torch.zeros(2, 2)),
        InputError,
        "Radon: angles must be .*one-dimensional",
    ),
    "Radon: angles text": (
        lambda: Radon(image_shape=(1, 8, 9), angles="many"),
        InputTypeError,
        "Radon: angles must be a number of angles or a sequence in radians, got 'many'",
    ),
    "Radon: angles complex": (
        lambda: Radon(image_shape=(1, 8, 9), angles=torch.tensor([1j])),
        PnPError,
        "Radon: angles must be",
    ),
    "Radon: backend": (
        lambda: Radon(image_shape=(1, 8, 9), angles=3, backend="gpu"),
        InputError,
        "Radon: backend must be one of auto, sparse, .*got 'gpu'",
    ),
    "Radon: projector": (
        lambda: Radon(image_shape=(1, 8, 9), angles=3, projector="cubic"),
        InputError,
        "Radon: projector must be one of linear, .*got 'cubic'",
    ),
    "Radon: detectors 0": (
        lambda: Radon(image_shape=(1, 8, 9), angles=3, detectors=0),
        InputError,
        "Radon: detectors must be an integer >= 1, got 0",
    ),
    "Radon: detectors 2.0": (
        lambda: Radon(image_shape=(1, 8, 9), angles=3, detectors=2.0),
        InputError,
        "Radon: detectors must be an integer >= 1, got 2.0",
    ),
    "Radon: channels 1.5": (
        lambda: Radon(image_shape=(1.5, 8, 9), angles=3, cache=False),
        PnPError,
        r"Radon: image_shape must be \(C, H, W\), three integers >= 1, got \(1.5, 8, 9\)",
    ),
    "Radon: shape floats": (
        lambda: Radon(image_shape=(1, 8.0, 9.0), angles=3),
        InputError,
        r"Radon: image_shape must be \(C, H, W\), three integers >= 1, got \(1, 8.0, 9.0\)",
    ),
    "Radon: shape rank": (
        lambda: Radon(image_shape=(1, 1, 8, 9), angles=3),
        InputError,
        r"Radon: image_shape must be \(C, H, W\)",
    ),
    "Radon: shape number": (
        lambda: Radon(image_shape=8, angles=3),
        PnPError,
        r"Radon: image_shape must be \(C, H, W\), .*got 8",
    ),
    "Radon: shape 0": (
        lambda: Radon(image_shape=(1, 0, 9), angles=3),
        InputError,
        r"Radon: image_shape must be \(C, H, W\)",
    ),
    "Radon: memory": (
        lambda: Radon(image_shape=(1, 64, 64), angles=90, backend="sparse", memory=1e-4),
        InputError,
        "Radon: the sparse matrices would take about .* GiB.*Raise memory, or use 'astra_cpu'",
    ),
}


@pytest.mark.parametrize("case", CONSTRUCTORS)
def test_constructors_of_operators(case):
    make, error, words = CONSTRUCTORS[case]
    with pytest.raises(error, match=words):
        make()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_radon_without_a_gpu():
    with pytest.raises(
        MissingPackage, match=r"backend 'astra_cuda' needs a CUDA device.*Use 'auto'"
    ):
        Radon(image_shape=(1, 8, 9), angles=3, backend="astra_cuda")


@pytest.mark.parametrize(
    "change",
    [lambda q: torch.cat([q, q], -1), lambda q: q[..., 1:], lambda q: q[0], lambda q: q.numpy()],
)
def test_filtered_backprojection_refuses_other_data(change):
    A = Radon(image_shape=(1, 8, 9), angles=5, cache=False)
    with pytest.raises(PnPError, match="Radon"):
        A.fbp(change(rand(1, *A.data_shape)))


def test_filtered_backprojection_refuses_an_unknown_window():
    with pytest.raises(InputError, match=r"Radon.fbp: window must be 'hann' or 'none', got 'ramp'"):
        Radon.example().fbp(rand(1, 2, 9, 23), window="ramp")


# ---- data, noise, settings


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda q: with_value(q, nan),
            InputError,
            "solver: 1 of the data are NaN or infinite. Repair them, or leave them out by "
            "an infinite noise",
        ),
        (lambda q: with_value(q, inf), InputError, "solver: 1 of the data are NaN or infinite"),
        (
            lambda q: q.numpy(),
            InputTypeError,
            "solver: the data q must be a torch tensor, got ndarray. Convert with torch.as_tensor",
        ),
        (lambda q: q.int(), InputTypeError, "takes float32 or float64, got torch.int32"),
        (lambda q: q * 1j, InputTypeError, "takes float32 or float64, got torch.complex64"),
        (lambda q: q.half(), InputTypeError, "takes float32 or float64, got torch.float16"),
        (lambda q: q[0], InputError, r"Identity: A.adjoint\(y\) takes data .*Add the batch axis"),
        (lambda q: q.transpose(-1, -2), InputError, "The last two axes look transposed"),
        (lambda q: q[:0], InputError, "empty batch"),
    ],
    ids=[
        "NaN",
        "inf",
        "numpy",
        "int",
        "complex",
        "float16",
        "no batch axis",
        "transposed",
        "empty",
    ],
)
def test_data(solver, change, error, words):
    A, q = square()
    with pytest.raises(error, match=words):
        run(change(q), A, solver=solver, noise=0.1)


def test_an_image_where_data_are_expected():
    A = Radon.example()
    with pytest.raises(
        InputError,
        match=r"Radon: A.adjoint\(y\) takes data .*This is the shape of the image; use A\(x\)",
    ):
        run(rand(1, *A.image_shape), A, noise=0.1)


MAP = torch.ones(5, 8)


@pytest.mark.parametrize(
    ("noise", "error", "words"),
    [
        *(
            (
                value,
                InputError,
                "noise is a standard deviation, finite and > 0; got .*give a small one",
            )
            for value in (0, -1.0, nan, inf)
        ),
        (torch.tensor(-1.0), InputError, "noise is a standard deviation, finite and > 0"),
        (MAP * 0, InputError, "noise is a standard deviation, finite and > 0"),
        (with_value(MAP, nan), InputError, "noise is a standard deviation, finite and > 0"),
        (
            with_value(MAP, -1),
            InputError,
            "noise is a standard deviation, finite and > 0; got a tensor with values from -1 to 1",
        ),
        (torch.ones(0), PnPError, "noise is a standard deviation"),
        (MAP[:, 1:], InputError, r"\(5, 7\) does not broadcast to data \(1, 5, 8\)"),
        (torch.ones(2), InputError, r"\(2,\) does not broadcast to data"),
        (torch.ones(2, 1, 5, 8), InputError, r"\(2, 1, 5, 8\) does not broadcast to data"),
        ("loud", InputTypeError, "noise must be a number or a tensor, got 'loud'"),
        (MAP.numpy(), InputTypeError, "noise must be a number or a tensor"),
        (MAP * 1j, InputTypeError, "noise must be"),
    ],
    ids=lambda v: f"{tuple(v.shape)}" if hasattr(v, "shape") else None,
)
def test_noise(noise, error, words):
    with pytest.raises(error, match=words):
        run(noise=noise)


@pytest.mark.parametrize(
    ("solver", "settings", "words"),
    [
        ("admm", {}, "give alpha"),
        ("hqs", {}, "give sigma and alpha"),
        ("hqs", {"sigma": 0.1}, "give alpha"),
        ("pgd", {}, "give sigma"),
    ],
)
def test_neither_noise_nor_alpha(solver, settings, words):
    A, q = square()
    with pytest.raises(
        InputError, match=f"{words}.*: the noise level of the data is needed: pass noise="
    ):
        solvers.make(solver, **settings).run(q, A, good)


@pytest.mark.parametrize(
    ("solver", "settings"),
    [("admm", {"alpha": 1.0}), ("hqs", {"sigma": 0.1, "alpha": 1.0}), ("pgd", {"sigma": 0.1})],
)
def test_noise_is_not_asked_for_where_it_is_not_used(solver, settings):
    assert torch.isfinite(run(solver=solver, iterations=2, **settings).x).all()


@pytest.mark.parametrize(
    "q",
    [rand(1, 1, 5, 7), rand(1, 1, 1, 8), rand(1, 5, 8), rand(1, 8), torch.tensor(1.0)],
    ids=lambda q: str(tuple(q.shape)),
)
@pytest.mark.parametrize("noise", [0.1, MAP, torch.ones(1)], ids=["number", "map", "one an image"])
def test_data_of_another_shape_are_refused_whatever_the_noise(q, noise):
    """A map must not stretch the data to its own shape."""
    with pytest.raises(
        InputError,
        match=r"Identity: .*data of shape \(B, 1, 5, 8\), got "
        + str(tuple(q.shape)).replace("(", r"\(").replace(")", r"\)"),
    ):
        run(q, noise=noise)


@pytest.mark.parametrize(
    ("x0", "words"),
    [
        (
            rand(1, 1, 8, 5),
            r"ADMM: the start must be \(1, 1, 5, 8\) torch.float32 on cpu, got \(1, 1, 8, 5\)",
        ),
        (rand(2, 1, 5, 8), r"ADMM: the start must be .* got \(2, 1, 5, 8\)"),
        (rand(1, 1, 5, 8).double(), "ADMM: the start must be .* got .*torch.float64"),
        (rand(1, 1, 5, 8).numpy(), "ADMM: the start must be .* got ndarray"),
        (with_value(rand(1, 1, 5, 8), nan), "ADMM: the start holds NaN or infinite values"),
        (with_value(rand(1, 1, 5, 8), inf), "ADMM: the start holds NaN or infinite values"),
    ],
    ids=["transposed", "batch", "float64", "numpy", "NaN", "inf"],
)
def test_start(x0, words):
    with pytest.raises(InputError, match=words):
        run(noise=0.1, x0=x0)


def test_state_of_another_solver_or_problem():
    done = run(noise=0.1, iterations=1).state
    with pytest.raises(
        InputTypeError, match=r"HQS: state must be HQSState from an earlier run, got ADMMState"
    ):
        run(solver="hqs", noise=0.1, state=done)
    with pytest.raises(
        InputTypeError, match=r"PGD: state must be PGDState from an earlier run, got Tensor"
    ):
        run(solver="pgd", noise=0.1, state=done.x)
    with pytest.raises(InputError, match=r"ADMM: the start must be \(2, 1, 5, 8\)"):
        run(rand(2, 1, 5, 8), noise=0.1, state=done)


@pytest.mark.parametrize("solver", SOLVERS)
def test_saved_states_that_cannot_be_used(solver, tmp_path):
    cls = type(solvers.make(solver))
    (tmp_path / "text").write_text("not a state")
    with pytest.raises(WeightsError, match="text: not a saved solver state"):
        cls.load_state(tmp_path / "text")
    with pytest.raises(WeightsError, match="none: not a saved solver state"):
        cls.load_state(tmp_path / "none")
    checkpoint.save(tmp_path / "other", {"kind": "OtherState", "x": rand(1), "iteration": 1})
    with pytest.raises(
        WeightsError,
        match=r"other: a state of kind OtherState, expected .* Load it with the solver that made "
        r"it",
    ):
        cls.load_state(tmp_path / "other")
    checkpoint.save(tmp_path / "part", {"kind": cls.state_type.__name__, "x": rand(1)})
    with pytest.raises(WeightsError, match="part"):
        cls.load_state(tmp_path / "part")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"iterations": 0}, "iterations must be an integer >= 1, got 0"),
        ({"iterations": 2.5}, "iterations must be an integer >= 1, got 2.5"),
        ({"iterations": "ten"}, "iterations must be an integer >= 1, got 'ten'"),
        ({"tol": -1}, "tol must be a number >= 0, got -1"),
        ({"tol": nan}, "tol must be a number >= 0, got nan"),
        ({"tol": "small"}, "tol must be a number >= 0, got 'small'"),
        ({"sigma": 0}, "sigma must be finite and > 0, got 0"),
        ({"sigma": -1}, "sigma must be finite and > 0, got -1"),
        ({"sigma": nan}, "sigma must be finite and > 0, got nan"),
        ({"sigma": []}, r"sigma must be finite and > 0, got \[\]"),
        ({"sigma": [0.2, -0.1]}, r"sigma must be finite and > 0, got \[0.2, -0.1\]"),
        (
            {"sigma": "x"},
            r"sigma must be a number, a sequence of numbers or a tensor \(B,\), got 'x'",
        ),
        ({"sigma": [[0.1, 0.2]]}, "sigma"),
        ({"sigma": torch.ones(3)}, r"\(1,\), .*got .*\(3,\)|\(1,\), got \(3,\)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_settings(solver, settings, words):
    with pytest.raises(PnPError, match=words):
        run(solver=solver, noise=0.1, **settings)


@pytest.mark.parametrize(
    ("solver", "settings", "words"),
    [
        ("admm", {"alpha": -1}, "ADMM: alpha must be finite and > 0, got -1"),
        ("admm", {"alpha": "x"}, "ADMM: alpha must be a number, got 'x'"),
        ("admm", {"data_iterations": 0}, "ADMM: data_iterations must be finite and > 0, got 0"),
        ("admm", {"data_tol": nan}, "ADMM: data_tol must be finite and > 0, got nan"),
        ("hqs", {"alpha_scale": 0}, "HQS: alpha_scale must be finite and > 0, got 0"),
        ("pgd", {"tau": -1}, "PGD: tau must be finite and > 0, got -1"),
        ("pgd", {"tau": inf}, "PGD: tau must be finite and > 0, got inf"),
        ("pgd", {"tau": [0.1, 0.2]}, "PGD: tau must be"),
        ("admm", {"sigam": 0.1}, "The solver 'admm' has no setting 'sigam'. Did you mean 'sigma'?"),
        ("amdm", {}, "No solver is called 'amdm'. Did you mean 'admm'?"),
    ],
    ids=str,
)
def test_settings_of_one_solver(solver, settings, words):
    with pytest.raises(PnPError, match=words):
        run(solver=solver, noise=0.1, **settings)


def test_reconstruct_says_what_goes_together():
    admm = solvers.make("admm")
    with pytest.raises(
        InputTypeError,
        match=r"settings \(sigma\) go with a solver given by name; set them on the solver object",
    ):
        run(solver=admm, noise=0.1, sigma=0.1)
    with pytest.raises(InputTypeError, match="solver must be a name or a Solver object"):
        run(solver=type(admm), noise=0.1)
    with pytest.raises(InputTypeError, match="A must be a LinearOperator, got ndarray"):
        run(A=np.eye(3), noise=0.1)
    with pytest.raises(InputTypeError, match="as_denoiser: expected a name or a callable, got int"):
        run(D=3, noise=0.1)
    with pytest.raises(
        UnknownPlugin, match=r"No denoiser is called 'mlpatsch'. Did you mean 'mlpatch'\?"
    ):
        run(D="mlpatsch", noise=0.1)
    with pytest.raises(
        InputTypeError, match=r"the denoiser must be callable as D.*got int. See as_denoiser"
    ):
        admm.run(rand(1, 1, 5, 8), Identity((1, 5, 8)), 3, noise=0.1)


# ---- denoisers that do not keep the contract


@pytest.mark.parametrize(
    ("D", "error", "words"),
    [
        (
            lambda x, s: x[..., 1:],
            InputError,
            r"expected \(1, 1, 5, 8\) torch.float32 on cpu back, got \(1, 1, 5, 7\)",
        ),
        (lambda x, s: x.expand(1, 3, 5, 8), InputError, r"got \(1, 3, 5, 8\).*per_channel"),
        (
            lambda x, s: x.numpy(),
            InputTypeError,
            r"expected a tensor back, got ndarray. Wrap it with as_denoiser",
        ),
        (lambda x, s: (x, s), InputTypeError, "expected a tensor back, got tuple"),
        (lambda x, s: None, InputTypeError, "expected a tensor back, got NoneType"),
        (lambda x, s: x.double(), InputError, "torch.float64"),
        (lambda x, s: x.to(torch.complex64), InputError, "torch.complex64"),
        (lambda x, s: x.to("meta"), InputError, "on meta"),
    ],
    ids=["shape", "channels", "numpy", "tuple", "None", "float64", "complex", "device"],
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_denoisers_that_return_something_else(solver, D, error, words):
    D.__name__ = "mine"
    with pytest.raises(error, match="denoiser mine: .*" + words):
        run(D=D, solver=solver, noise=0.1)


def good(x: Tensor, sigma: float | Tensor) -> Tensor:
    return x / (1 + torch.as_tensor(sigma).to(x).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("bad", [nan, inf])
@pytest.mark.parametrize("solver", SOLVERS)
def test_divergence_carries_the_last_finite_state_which_goes_on(solver, bad):
    A, q = square()
    settings = {"solver": solver, "noise": 0.1, "iterations": 6, "sigma": 0.2, "tol": 0.0}
    calls, third = (
        [],
        2 * getattr(solvers.make(solver), "stages", 1) + 1,
    )  # the first call of the third step

    def breaks(x: Tensor, sigma: float | Tensor) -> Tensor:
        calls.append(sigma)
        return with_value(good(x, sigma), bad) if len(calls) == third else good(x, sigma)

    with pytest.raises(
        Diverged,
        match=r"not finite after iteration 3\. Likely causes: .*The last finite state is in "
        r"\.state",
    ) as caught:
        run(q, A, breaks, **settings)
    assert caught.value.state.iteration == 2
    assert torch.isfinite(caught.value.state.x).all()
    rest = run(q, A, good, state=caught.value.state, **settings)
    assert rest.history["iteration"] == [3, 4, 5, 6]
    assert torch.equal(rest.x, run(q, A, good, **settings).x)


def test_a_step_size_too_large_diverges_with_a_reason():
    A, q = square()
    with pytest.raises(Diverged, match=r"PGD: the estimate is .* a step size"):
        run(q, A, good, solver="pgd", tau=1e6, sigma=1e-3, iterations=100, tol=0.0)


# ---- denoisers

DENOISERS = {
    "MLPatch": tiny,
    "TV": TV,
    "DRUNet": lambda: drunet(None),
    "a function": lambda: as_denoiser(good),
    "a numpy function": lambda: as_denoiser(
        lambda image, sigma: image / (1 + sigma), array="numpy"
    ),
    "rescaled": lambda: rescaled(tiny(), 2.0, -0.5),
    "per_channel": lambda: per_channel(tiny()),
    "e_mode": lambda: e_mode(tiny()),
    "equivariant": lambda: equivariant(tiny()),
}
IMAGES = {
    "numpy": (
        lambda x: x.numpy(),
        InputTypeError,
        r"torch tensor of shape \(B, C, H, W\), got ndarray",
    ),
    "None": (lambda x: None, InputTypeError, "torch tensor of shape .*, got NoneType"),
    "int": (
        lambda x: (255 * x).int(),
        InputTypeError,
        r"float32 or float64, got torch.int32.*/ 255",
    ),
    "uint8": (
        lambda x: (255 * x).byte(),
        InputTypeError,
        r"float32 or float64, got torch.uint8.*/ 255",
    ),
    "complex": (lambda x: x * 1j, InputTypeError, "float32 or float64, got torch.complex64"),
    "float16": (lambda x: x.half(), InputTypeError, "float32 or float64, got torch.float16"),
    "no batch axis": (
        lambda x: x[0],
        InputError,
        r"shape \(B, C, H, W\) with no empty axis, got .*x\[None, None\]",
    ),
    "empty": (lambda x: x[..., :0], InputError, "with no empty axis, got"),
}


@pytest.mark.parametrize("wrong", IMAGES)
@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers_refuse_images(name, wrong):
    spoil, error, words = IMAGES[wrong]
    with pytest.raises(error, match=words):
        DENOISERS[name]()(spoil(rand(2, 2 if name == "e_mode" else 1, 9, 7)), 0.1)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("name", ["MLPatch", "DRUNet"])
def test_denoisers_refuse_channels(name, channels):
    words = (
        rf"{name}: this denoiser has 1 channel\(s\), the image has {channels}. Use per_channel\(D\)"
    )
    with pytest.raises(InputError, match=words):
        DENOISERS[name]()(rand(1, channels, 9, 7), 0.1)


def test_e_mode_refuses_other_channels():
    with pytest.raises(
        InputError, match=r"e_mode\(mlpatch\): this denoiser has 2 channel\(s\), the image has 1"
    ):
        e_mode(tiny())(rand(1, 1, 9, 7), 0.1)


@pytest.mark.parametrize(
    ("sigma", "error", "words"),
    [
        (-0.1, InputError, "sigma must be finite and >= 0, got -0.1"),
        (nan, InputError, "sigma must be finite and >= 0"),
        (inf, InputError, "sigma must be finite and >= 0"),
        (torch.tensor([0.1, -0.1]), InputError, "sigma must be finite and >= 0, got -0.1"),
        (torch.tensor([0.1, nan]), InputError, "sigma must be finite and >= 0"),
        (
            torch.full((3,), 0.1),
            InputError,
            r"a tensor of shape \(2,\), one level an image, got shape \(3,\)",
        ),
        (
            torch.full((2, 2), 0.1),
            InputError,
            r"a tensor of shape \(2,\), one level an image, got shape \(2, 2\)",
        ),
        (torch.tensor(0.1j), InputTypeError, "sigma must be real, got torch.complex64"),
        ("x", InputTypeError, r"sigma must be a number or a tensor of shape \(B,\), got 'x'"),
        (None, InputTypeError, r"sigma must be a number or a tensor of shape \(B,\), got None"),
        (
            [0.1, 0.1],
            InputTypeError,
            r"sigma must be a number or a tensor of shape \(B,\), got \[0.1, 0.1\]",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["MLPatch", "TV", "DRUNet", "a numpy function"])
def test_denoisers_refuse_sigma(name, sigma, error, words):
    with pytest.raises(error, match=words):
        DENOISERS[name]()(rand(2, 1, 9, 7), sigma)


@pytest.mark.parametrize("sigma", [0.3, torch.tensor([0.1, 0.3])])
def test_mlpatch_refuses_levels_it_was_not_trained_for(sigma):
    with pytest.raises(
        InputError,
        match=r"MLPatch: sigma = 0.3 is above the trained range 0 to 0.2353.*use rescaled\(D, "
        r"scale, offset\)",
    ):
        tiny()(rand(2, 1, 9, 7), sigma)


@pytest.mark.parametrize(
    ("coords", "error", "words"),
    [
        (
            torch.tensor([[-0.6, 0.0]]),
            InputError,
            r"must lie in \[-0.5, 8.5\] x \[-0.5, 6.5\] for an image of 9 x 7 pixels.*not "
            r"in \[-1, 1\]",
        ),
        (torch.tensor([[8.6, 0.0]]), InputError, "must lie in"),
        (torch.tensor([[0.0, 6.6]]), InputError, "must lie in"),
        (torch.tensor([[nan, 0.0]]), InputError, r"or are NaN"),
        (torch.tensor([[inf, 0.0]]), InputError, "must lie in"),
        (torch.zeros(2), InputError, r"shape \(Q, 2\).*got \(2,\)"),
        (torch.zeros(4, 3), InputError, r"shape \(Q, 2\).*got \(4, 3\)"),
        (torch.zeros(3, 4, 2), InputError, r"shape \(Q, 2\) or \(1, Q, 2\).*got \(3, 4, 2\)"),
        (
            torch.zeros(4, 2).long(),
            InputTypeError,
            r"a floating tensor of shape \(Q, 2\) or \(B, Q, 2\): \(row, column\) in pixels",
        ),
        (
            np.zeros((4, 2)),
            InputTypeError,
            r"a floating tensor of shape \(Q, 2\) or \(B, Q, 2\): \(row, column\) in pixels",
        ),
    ],
    ids=["above", "below", "right", "NaN", "inf", "one", "three columns", "batch", "int", "numpy"],
)
def test_mlpatch_refuses_coordinates(coords, error, words):
    with pytest.raises(error, match="MLPatch.at: coord.*" + words):
        tiny().at(rand(1, 1, 9, 7), coords, 0.1)


def test_mlpatch_at_checks_image_and_sigma():
    with pytest.raises(
        InputError, match=r"MLPatch.at: this denoiser has 1 channel\(s\), the image has 3"
    ):
        tiny().at(rand(1, 3, 9, 7), torch.zeros(1, 2), 0.1)
    with pytest.raises(InputError, match=r"MLPatch.at: sigma = 1 is above the trained range"):
        tiny().at(rand(1, 1, 9, 7), torch.zeros(1, 2), 1.0)
    assert tiny().at(rand(1, 1, 9, 7), torch.zeros(0, 2), 0.1).shape == (1, 1, 0)


DENOISER_SETTINGS = {
    "width 0": (lambda: MLPatch(width=0), "MLPatch: width must be an integer >= 1, got 0"),
    "width 2.0": (lambda: MLPatch(width=2.0), "MLPatch: width must be an integer >= 1, got 2.0"),
    "channels True": (lambda: MLPatch(True), "MLPatch: channels must be an integer >= 1, got True"),
    "tile 0": (lambda: MLPatch(tile=0), "MLPatch: tile must be an integer >= 1, got 0"),
    "radius -1": (lambda: MLPatch(radius=-1), "MLPatch: radius must be positive, got -1"),
    "radius NaN": (lambda: MLPatch(radius=nan), "MLPatch: radius must be positive, got nan"),
    "radius text": (lambda: MLPatch(radius="wide"), "MLPatch: radius must be positive, got 'wide'"),
    "sigma_max inf": (lambda: MLPatch(sigma_max=inf), "MLPatch: sigma_max must be >= 0, got inf"),
    "square even": (
        lambda: MLPatch(square=4, features=8, dilations=(1,)),
        "MLPatch: square must be odd",
    ),
    "square with sectors": (
        lambda: MLPatch(square=3, sectors=(8,)),
        "takes neither sectors nor deform",
    ),
    "features alone": (lambda: MLPatch(features=8), "MLPatch: features and dilations go together"),
    "dilation 0": (
        lambda: MLPatch(features=8, dilations=(1, 0)),
        r"MLPatch: dilations must be a list of integers >= 1, got \[1, 0\]",
    ),
    "activation": (
        lambda: MLPatch(activation="swish"),
        "MLPatch: activation must be one of gelu, relu, got 'swish'",
    ),
    "deform -1": (lambda: MLPatch(deform=-1), "MLPatch: deform must be an integer >= 0, got -1"),
    "upscale 0.5": (
        lambda: tiny().upscale(rand(1, 1, 9, 7), 0.5),
        "MLPatch.upscale: factor must be a number >= 1, got 0.5",
    ),
    "upscale text": (
        lambda: tiny().upscale(rand(1, 1, 9, 7), "2"),
        "MLPatch.upscale: factor must be a number >= 1, got '2'",
    ),
    "strength 0": (lambda: TV(0), "TV: strength must be finite and > 0, got 0"),
    "strength inf": (lambda: TV(inf), "TV: strength must be finite and > 0, got inf"),
    "strength NaN": (lambda: TV(nan), "TV: strength must be finite and > 0, got nan"),
    "strength text": (lambda: TV("strong"), "TV: strength must be finite and > 0, got 'strong'"),
    "TV iterations": (
        lambda: TV(iterations=0),
        "TV: iterations must be an integer >= 1 and tol >= 0, got 0",
    ),
    "TV tol": (
        lambda: TV(tol=-1),
        "TV: iterations must be an integer >= 1 and tol >= 0, got 60 and -1",
    ),
    "DRUNet channels": (lambda: drunet(None, channels=2), "DRUNet: channels must be 1 or 3, got 2"),
}


@pytest.mark.parametrize("case", DENOISER_SETTINGS)
def test_constructors_of_denoisers(case):
    make, words = DENOISER_SETTINGS[case]
    with pytest.raises(PnPError, match=words):
        make()


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_drunet_weights(tmp_path, ending):
    from safetensors.torch import save_file

    write = save_file if ending == "safetensors" else torch.save
    with pytest.raises(
        WeightsError,
        match=f"none.{ending}.*(no weights file|neither a weights file)|no weights file at "
        f".*none.{ending}",
    ):
        drunet(tmp_path / f"none.{ending}")
    garbage = tmp_path / f"garbage.{ending}"
    garbage.write_bytes(b"\x07garbage" * 100)
    with pytest.raises(
        WeightsError, match=f"garbage.{ending}.* not a (readable state dict|whole safetensors file)"
    ):
        drunet(garbage)
    other = tmp_path / f"other.{ending}"
    write({"m_head.weight": torch.ones(3, 3)}, other)
    with pytest.raises(WeightsError, match=f"other.{ending} does not fit this network"):
        drunet(other)
    right = tmp_path / f"right.{ending}"
    D = drunet(None)
    write(D.net.state_dict(), right)
    x = rand(1, 1, 9, 7)
    assert torch.equal(drunet(right)(x, 0.1), D(x, 0.1))


# ---- good input of unusual form gets the same answer


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_in_float64(name):
    A = operators.get(name).example()
    x, q = rand(2, *A.image_shape), rand(2, *A.data_shape, seed=1)
    calls = {
        "forward": (A, x),
        "adjoint": (A.adjoint, q),
        "normal": (A.normal, x),
        "initial": (A.initial, q),
        "data step": (
            lambda x: A.data_step(x, 0.3 * A.norm() ** 2, Aty=A.adjoint(q.to(x)), max_iter=1000)[0],
            x,
        ),
        "weighted": (A.weighted(torch.full(A.data_shape, 0.5)), x),
    }
    for call, (function, argument) in calls.items():
        double = function(argument.double())
        assert double.dtype == torch.float64, call
        bound = 2e-3 if call == "initial" else 1e-5  # gaps are filled to 1e-3
        assert relative(function(argument), double) < bound, call


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("D", [TV(tol=0.0), tiny()], ids=["TV", "MLPatch"])
def test_solvers_in_float64(solver, D):
    A = Mask(random_mask((12, 9), keep=0.6))
    q = A(rand(2, 1, 12, 9))
    single, double = (
        run(data, A, D, solver, noise=0.05, sigma=0.1, iterations=5).x for data in (q, q.double())
    )
    assert double.dtype == torch.float64
    assert relative(single, double) < 1e-4


@pytest.mark.parametrize("name", [n for n in DENOISERS if n != "e_mode"])
def test_denoisers_in_float64_and_integer_sigma(name):
    D, x = DENOISERS[name](), rand(2, 1, 9, 7)
    double = D(x.double(), 0.1)
    assert double.dtype == torch.float64
    assert relative(D(x, 0.1), double) < 1e-4
    assert torch.equal(D(x, torch.zeros(2, dtype=torch.int64)), D(x, 0.0))


STRIDES = {
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "channels last": lambda x: (
        x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    ),
    "every second": lambda x: torch.stack([x, 1 - x], -1).flatten(-2)[..., ::2],
    "flipped batch": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("form", STRIDES)
def test_strided_input(form):
    stride = STRIDES[form]
    for A in (operators.get(name).example() for name in OPERATORS):
        x, q = rand(3, *A.image_shape), rand(3, *A.data_shape, seed=1)
        sx, sq = stride(x), stride(q)
        assert torch.equal(sx, x)
        assert torch.equal(sq, q)
        assert relative(A(sx), A(x)) < 1e-6
        assert relative(A.adjoint(sq), A.adjoint(q)) < 1e-6
        assert relative(A.initial(sq), A.initial(q)) < 1e-5
        Aty = A.adjoint(q)
        assert (
            relative(
                A.data_step(sx, 1.0, Aty=stride(Aty), x0=sx)[0],
                A.data_step(x, 1.0, Aty=Aty, x0=x)[0],
            )
            < 1e-5
        )
    for name in DENOISERS:
        x = rand(3, 2 if name == "e_mode" else 1, 9, 7)
        x = (
            torch.cat([x, x], 1)
            if name in ("TV", "a function", "a numpy function", "per_channel")
            else x
        )
        D = DENOISERS[name]()
        assert relative(D(stride(x), 0.1), D(x, 0.1)) < 1e-6, name
    A, q = Mask(random_mask((9, 7), keep=0.6)), rand(2, 1, 9, 7)
    assert (
        relative(run(stride(q), A, noise=0.1, x0=stride(q)).x, run(q, A, noise=0.1, x0=q).x) < 1e-5
    )


def test_integer_masks_weights_and_maps_are_converted():
    mask = random_mask((9, 7), keep=0.6)
    x = rand(1, 1, 9, 7)
    for whole in (mask.int(), mask.bool(), mask.byte()):
        assert torch.equal(Mask(whole)(x), Mask(mask)(x))
        assert torch.equal(
            Lensing(weight=whole)(x.expand(1, 2, 9, 7)), Lensing(weight=mask)(x.expand(1, 2, 9, 7))
        )
        assert torch.equal(Blur(whole[:3, :3], (1, 9, 7))(x), Blur(mask[:3, :3], (1, 9, 7))(x))
        assert torch.equal(Identity((1, 9, 7)).weighted(whole)(x), mask * x)
    noise = torch.arange(1, 64).reshape(9, 7)
    A = Identity((1, 9, 7))
    for whole in (
        (255 * mask).byte(),
        (255 * mask).long(),
        (65535 * mask).to(torch.uint16),
    ):  # as pictures have them
        assert torch.equal(Mask(whole)(x), Mask(mask)(x))
        assert torch.equal(
            Lensing(weight=whole)(x.expand(1, 2, 9, 7)), Lensing(weight=mask)(x.expand(1, 2, 9, 7))
        )
        assert torch.equal(A.weighted(whole)(x), mask * x)
        assert torch.equal(Blur(whole[:3, :3], (1, 9, 7))(x), Blur(mask[:3, :3], (1, 9, 7))(x))
    assert torch.equal(make_problem(x, A, noise).q, make_problem(x, A, noise.float()).q)


def test_integers_that_are_no_mask_are_refused():
    grey = torch.arange(63, dtype=torch.uint8).reshape(9, 7)
    words = (
        r"expected integers 0 and 1, or 0 and 255, got torch.uint8 from 0 to 62. Give weights "
        r"as floats"
    )
    calls = (
        lambda: Mask(grey),
        lambda: Lensing(weight=grey),
        lambda: Identity((1, 9, 7)).weighted(grey),
        lambda: Blur(grey, (1, 9, 7)),
    )
    for call in calls:
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(
        InputError,
        match=r"the mask holds floats 0 and 255, which would scale the image. Give mask / 255, "
        r"or mask > 0",
    ):
        Mask(255 * random_mask((9, 7), keep=0.6))
    x = rand(1, 1, 9, 7)
    mask = random_mask((9, 7), keep=0.6)
    assert torch.equal(
        Mask(mask).weighted(torch.full((9, 7), 255.0))(x), 255 * mask * x
    )  # a noise of 1/255


def test_scores_of_integers_are_refused():
    for score in (mse, psnr, ssim):
        with pytest.raises(
            InputTypeError,
            match=r"both images must hold real floats, got torch.uint8 and torch.uint8. Give "
            r"x.float\(\) / 255",
        ):
            score(
                torch.ones(1, 1, 16, 16, dtype=torch.uint8),
                torch.zeros(1, 1, 16, 16, dtype=torch.uint8),
            )


BUILDERS = {
    "identity": lambda shape: Identity((1, *shape)),
    "mask": lambda shape: Mask(with_value(random_mask(shape, keep=0.5), 1.0), channels=2),
    "lensing": lambda shape: Lensing(weight=with_value(random_mask(shape, keep=0.8), 1.0)),
    "blur": lambda shape: Blur(rand(min(2, shape[0]), min(3, shape[1])), (2, *shape)),
    "mri": lambda shape: MRI(with_value(random_mask(shape, keep=0.5), 1.0)),
    "radon": lambda shape: Radon(image_shape=(2, *shape), angles=4, cache=False),
}


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 9), (8, 1), (7, 5), (6, 13)], ids=str)
@pytest.mark.parametrize("family", BUILDERS)
def test_odd_sizes(family, shape):
    A = BUILDERS[family](shape)
    assert adjoint_mismatch(A) < 1e-6
    assert optimality(A, 0.5) < 1e-5
    q = A(rand(2, *A.image_shape))
    x0 = A.initial(q)
    assert x0.shape == (2, *A.image_shape)
    assert torch.isfinite(x0).all()
    D = tiny(A.image_shape[0])
    for solver in SOLVERS:
        x = run(q, A, D, solver, noise=0.05, sigma=0.1, iterations=2).x
        assert x.shape == x0.shape
        assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: random_mask((8, 8), keep=0.5, seed="x"), "random_mask: seed must be an integer"),
        (lambda: random_mask((8, 8), keep=0.5, seed=1.5), "random_mask: seed must be an integer"),
        (lambda: random_mask((8, 8), keep="half"), r"keep must be in \(0, 1\], got 'half'"),
        (lambda: random_mask(8, keep=0.5), r"random_mask: shape must be \(H, W\), two .* got 8"),
        (lambda: cartesian_mask((8, 8), 2, seed="x"), "cartesian_mask: seed must be an integer"),
        (lambda: cartesian_mask((8, 8), 2, seed=-1), "cartesian_mask: seed must be an integer"),
        (lambda: cartesian_mask(8, 2), r"cartesian_mask: shape must be \(H, W\), two .* got 8"),
        (lambda: cartesian_mask((1, 8, 8), 2), r"shape must be \(H, W\), .* got \(1, 8, 8\)"),
    ],
)
def test_masks_that_are_drawn(call, words):
    with pytest.raises(InputError, match=words):
        call()
