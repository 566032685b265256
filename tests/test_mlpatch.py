"""The two forms of MLPatch, tiling, locality, equivariance: on the shipped weights and on random ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pnp_mlpatch import weights
from pnp_mlpatch.denoisers.mlpatch import MLPatch, cubic, reflect
from pnp_mlpatch.metrics import psnr


def random_network(**config):
    """Random weights, scaled so that the output is far from the input (as initialised, the residual is zero)."""
    torch.manual_seed(0)
    net = MLPatch(**{"radius": 3.0, "rings": 2, "angles": 6, "width": 16, "depth": 3, **config})
    torch.nn.init.normal_(net.last.weight, std=0.5)
    torch.nn.init.normal_(net.first_bias, std=0.3)
    return net.eval().requires_grad_(False)


def grid(height, width):
    return torch.stack(torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij"), dim=-1).reshape(-1, 2)


@pytest.fixture(params=["shipped", "gray", "colour"])
def net(request, mlpatch):
    return {"shipped": lambda: mlpatch, "gray": random_network, "colour": lambda: random_network(channels=3)}[request.param]()


def test_card_says_what_it_was_trained_on(mlpatch):
    assert mlpatch.card["trained_size"] == [128, 128]
    assert mlpatch.info.trained_size == (128, 128)
    assert mlpatch.card["sigma_range"] == [0.0, pytest.approx(60 / 255)]
    assert set(weights.manifest()) >= {"mlpatch-grey"}


def test_grid_form_equals_continuous_form(net):
    x = torch.rand(2, net.channels, 33, 21, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.05, 0.2])
    on_grid = net(x, sigma)
    anywhere = net.at(x, grid(33, 21), sigma, chunk=100).reshape(x.shape)
    assert (on_grid - x).abs().max() > 0.05  # it does something
    assert (on_grid - anywhere).abs().max() < 1e-5


def test_continuous_form_samples_as_torch_does(net):
    """Off the grid, against torch's own bicubic sampling with reflection and the MLP by hand."""
    x = torch.rand(1, net.channels, 17, 14, generator=torch.Generator().manual_seed(2))
    p = torch.tensor([[3.3, 4.75], [0.2, 12.6], [15.5, 0.0], [-0.4, 13.4]])
    points = torch.cat([p[:, None] + net._offsets(), p[:, None]], dim=1)  # Q, M + 1, 2
    normalised = (points / torch.tensor([16.0, 13.0]) * 2 - 1).flip(-1)
    samples = F.grid_sample(x, normalised[None], mode="bicubic", padding_mode="reflection", align_corners=True)[0]  # C, Q, M + 1
    first = net.first - net.first.mean(dim=(1, 2), keepdim=True)
    h = torch.einsum("cqm,ocm->qo", samples[..., :-1], first) + net.first_bias + 0.5 * net.first_sigma
    h = F.gelu(h)
    for layer in net.hidden:
        h = F.gelu(layer(h))
    expected = samples[..., -1] - net.last(h).T
    assert (net.at(x, p, 0.5 * net.sigma_max)[0] - expected).abs().max() < 2e-5


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (37, 1), (64, 64), (65, 63), (130, 71)])
@pytest.mark.parametrize("tile", [7, 16, 64])
def test_tiled_equals_untiled_everywhere(net, shape, tile):
    x = torch.rand(2, net.channels, *shape, generator=torch.Generator().manual_seed(3))
    small = MLPatch(**net.config, tile=tile).eval()
    large = MLPatch(**net.config, tile=1000).eval()
    for copy in (small, large):
        copy.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert (small(x, 0.1) - large(x, 0.1)).abs().max() < 1e-6


def test_output_depends_on_the_stated_field_only(net):
    f = net.field
    size = 2 * f + 1
    x = torch.rand(1, net.channels, size + 8, size + 8, generator=torch.Generator().manual_seed(4))
    y = net(x, 0.1)[..., f + 4, f + 4]
    far = x + 1.0
    far[..., 4 : 4 + size, 4 : 4 + size] = x[..., 4 : 4 + size, 4 : 4 + size]
    assert torch.equal(net(far, 0.1)[..., f + 4, f + 4], y)
    near = x.clone()
    near[..., f + 4, f + 5] += 0.5
    assert not torch.equal(net(near, 0.1)[..., f + 4, f + 4], y)


def test_the_field_is_not_overstated():
    net = random_network(radius=3.0)
    with torch.no_grad():
        net.offsets[0] = torch.tensor([3.0, 0.0])
        net.offsets[1] = torch.tensor([2.9, 0.0])
    x = torch.rand(1, 1, 21, 21, generator=torch.Generator().manual_seed(5))
    touched = x.clone()
    touched[..., 10 + net.field, 10] += 1
    assert not torch.equal(net(x, 0.1)[..., 10, 10], net(touched, 0.1)[..., 10, 10])


def test_shifting_the_input_shifts_the_output(net):
    f = net.field
    x = torch.rand(1, net.channels, 2 * f + 30, 2 * f + 30, generator=torch.Generator().manual_seed(6))
    one, two = net(x[..., :-3, :-5], 0.1), net(x[..., 3:, 5:], 0.1)
    assert torch.equal(one[..., f + 3 : -f, f + 5 : -f], two[..., f : -f - 3, f : -f - 5]) or (
        (one[..., f + 3 : -f, f + 5 : -f] - two[..., f : -f - 3, f : -f - 5]).abs().max() < 1e-6
    )


def test_adding_a_constant_adds_it_to_the_output(net):
    x = torch.rand(1, net.channels, 20, 20, generator=torch.Generator().manual_seed(7))
    assert (net(x + 3, 0.1) - 3 - net(x, 0.1)).abs().max() < 2e-5


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(3, 20), st.sampled_from([0.0, 0.01, 0.2]))
def test_any_size_and_tile(height, width, tile, sigma):
    net = random_network()
    net.tile = tile
    x = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(height * 41 + width))
    assert (net(x, sigma).reshape(1, 1, -1) - net.at(x, grid(height, width), sigma)).abs().max() < 1e-5


def test_gradients_flow_to_image_and_weights(photo):
    net = random_network().requires_grad_(True)
    x = photo[..., :20, :24].clone().requires_grad_(True)
    net(x, 0.1).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in net.parameters())
    _, pull = torch.func.vjp(lambda v: net(v, 0.1), x.detach())
    assert torch.isfinite(pull(torch.ones_like(x))[0]).all()


def test_jacobian_is_right():
    net = random_network().double()
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: net(v, 0.1), (x,), atol=1e-6)


def test_it_denoises_better_than_tv(mlpatch, photo):
    from pnp_mlpatch import denoisers

    for level in (15, 25, 50):
        sigma = level / 255
        noisy = photo + sigma * torch.randn(photo.shape, generator=torch.Generator().manual_seed(level))
        best_tv = max(float(psnr(denoisers.make("tv", strength=s)(noisy, sigma), photo)) for s in (0.5, 0.7, 0.9, 1.1))
        assert float(psnr(mlpatch(noisy, sigma), photo)) > best_tv + 0.3


def test_cubic_is_a_partition_of_unity():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None] + torch.arange(-3, 4)
    assert torch.allclose(cubic(t).sum(1), torch.ones(11, dtype=torch.float64), atol=1e-12)
    assert torch.equal(cubic(torch.arange(-3.0, 4.0)), torch.tensor([0.0, 0, 0, 1, 0, 0, 0]))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_reflect_is_numpys(size):
    import numpy as np

    padded = np.pad(np.arange(size), 9, mode="reflect")
    assert np.array_equal(reflect(torch.arange(-9, size + 9), size).numpy(), padded)
