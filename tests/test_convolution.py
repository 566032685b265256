"""A convolution with its activation in one pass: the numbers of the two apart, and derivatives."""

import copy

import pytest
import torch
import torch.nn.functional as F

from pnp_mlpatch import denoisers
from pnp_mlpatch.denoisers import _convolution
from pnp_mlpatch.denoisers._convolution import convolve


def arguments(groups=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 8, 17, 12, generator=generator)
    weight = torch.randn(6, 8 // groups, 3, 3, generator=generator) / 5
    return [t.to(dtype) for t in (h, weight, torch.randn(6, generator=generator))]


@pytest.mark.parametrize("activation", [F.gelu, F.relu, None, torch.tanh])
@pytest.mark.parametrize(("groups", "dilation", "padding"), [(1, 1, 0), (2, 2, 0), (1, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_numbers_are_those_of_the_two_apart(activation, groups, dilation, padding, dtype):
    h, weight, bias = arguments(groups, dtype)
    options = {"padding": padding, "dilation": dilation, "groups": groups}
    want = F.conv2d(h, weight, bias, **options)
    want = want if activation is None else activation(want)
    got = convolve(h, weight, bias, activation, **options)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want, rtol=1e-6, atol=2e-6)


def test_one_pass_is_taken_on_the_processor_and_only_without_derivatives():
    h, weight, bias = arguments()
    assert _convolution._plain(h, weight, bias)
    assert not _convolution._plain(h.requires_grad_(), weight, bias)
    with torch.no_grad():
        assert _convolution._plain(h, weight, bias)
    assert not _convolution._plain(h.detach().to("meta"), weight, bias)
    assert not _convolution._plain(h.detach()[:0], weight, bias)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a processor without bfloat16"
)
def test_under_autocast_the_products_are_those_of_bfloat16():
    h, weight, bias = arguments()
    with torch.autocast("cpu", torch.bfloat16):
        got, want = convolve(h, weight, bias, F.gelu), F.gelu(F.conv2d(h, weight, bias))
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("name", ["mlpatch-grey", "mlpatch-samples-grey", "dncnn-grey"])
def test_derivatives_in_all_ways_are_difference_quotients(name):
    """Forward and backward, by torch.func and by autograd, also where gradients are off."""
    D = denoisers.make(name.partition("-")[0], weights=name)
    generator = torch.Generator().manual_seed(1)
    x, v, u = torch.rand(3, 1, 1, 24, 24, generator=generator)
    exact, step = copy.deepcopy(D).double(), 1e-6

    def f(t):
        return D(t, 0.1)

    a, b = (exact(x.double() + s * step * v.double(), 0.1) for s in (1, -1))
    quotient = ((a - b) / (2 * step)).float()
    with torch.no_grad():
        forward = torch.func.jvp(f, (x,), (v,))[1]
    assert float((forward - quotient).norm() / quotient.norm()) < 1e-4
    with torch.autograd.forward_ad.dual_level():
        dual = f(torch.autograd.forward_ad.make_dual(x, v))
        again = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(again, forward)
    z = x.clone().requires_grad_()
    (back,) = torch.autograd.grad((f(z) * u).sum(), z)
    torch.testing.assert_close((back * v).sum(), (forward * u).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.func.vjp(f, x)[1](u)[0], back)


def test_vmap_of_a_denoiser_is_each():
    D = denoisers.make("dncnn")
    x = torch.rand(3, 1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(torch.vmap(lambda t: D(t, 0.1))(x)[:, 0], D(x[:, 0], 0.1))
