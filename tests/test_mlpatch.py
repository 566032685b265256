"""The two forms of MLPatch, tiling, locality, equivariance: on the shipped weights and on random
ones.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pnp_mlpatch import denoisers, weights
from pnp_mlpatch.denoisers._bicubic import cubic, reflect
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.metrics import psnr

SAMPLES = {"radius": 3.0, "rings": 2, "angles": 6, "width": 16, "depth": 3}
FEATURES = {"square": 3, "features": 12, "dilations": (1, 2), "width": 16, "depth": 2}
MEMBERS = {
    "samples": SAMPLES,
    "colour": {**SAMPLES, "channels": 3},
    "features": FEATURES,
    "colour features": {**FEATURES, "channels": 3},
    "learned patch of features": {
        "radius": 2.0,
        "rings": 1,
        "angles": 6,
        "features": 8,
        "dilations": (1, 1),
        "width": 16,
    },
    "published": {
        "rings": 3,
        "angles": 4,
        "radius": 4.0,
        "sectors": (10, 7),
        "width": 8,
        "depth": 2,
        "activation": "relu",
    },
    "deformed": {**SAMPLES, "deform": 2},
    "deformed features": {
        "radius": 2.0,
        "rings": 1,
        "angles": 6,
        "features": 8,
        "dilations": (1,),
        "width": 16,
        "deform": 1,
    },
}


def random_network(**config):
    """Random weights, scaled so that the output is far from the input (as initialised, the residual
    is zero).
    """
    torch.manual_seed(0)
    net = MLPatch(**(config if {"features", "rings"} & set(config) else {**SAMPLES, **config}))
    torch.nn.init.normal_(net.last, std=0.2)
    for layer in (*net.stem, *net.layers):
        torch.nn.init.normal_(layer.bias, std=0.2)
    for _, move in net.steer:
        torch.nn.init.normal_(move.weight, std=0.1 / net.radius)  # steps are in radii
    return net.eval().requires_grad_(False)


def grid(height, width):
    return torch.stack(
        torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij"),
        dim=-1,
    ).reshape(-1, 2)


SHIPPED = sorted(name for name, entry in weights.manifest().items() if entry["kind"] == "mlpatch")


@pytest.fixture(params=[*SHIPPED, *MEMBERS])
def net(request):
    return (
        random_network(**MEMBERS[request.param])
        if request.param in MEMBERS
        else MLPatch.load(weights.locate(request.param))
    )


@pytest.fixture
def sigma(net):
    """A level in the middle of the range."""
    return 0.4 * net.sigma_max


def both(net, x, sigma):
    with torch.no_grad():
        return net(x, sigma), net.at(x, grid(*x.shape[-2:]), sigma).reshape(x.shape)


@pytest.mark.parametrize("name", SHIPPED)
def test_card_says_what_it_was_trained_on(name):
    net = MLPatch.load(weights.locate(name))
    assert net.card["trained_size"] == [128, 128]
    assert net.info.trained_size == (128, 128)
    assert net.card["sigma_range"] == [0.0, pytest.approx(net.sigma_max)]
    assert net.card["licence"]
    assert net.card["command"].startswith("python benchmarks/")


def test_the_published_network_has_its_size():
    net = MLPatch(
        rings=9, angles=9, sectors=(370, 370, 370, 100), width=370, depth=3, activation="relu"
    )
    assert 3.4e6 < sum(p.numel() for p in net.parameters()) < 3.6e6


def test_grid_form_equals_continuous_form(net, sigma):
    x = torch.rand(2, net.channels, 33, 21, generator=torch.Generator().manual_seed(1))
    levels = torch.tensor([0.5, 2.0]) * sigma
    on_grid = net(x, levels)
    anywhere = net.at(x, grid(33, 21), levels, chunk=100).reshape(x.shape)
    each = net.at(x, grid(33, 21).expand(2, -1, -1), levels).reshape(x.shape)
    assert (on_grid - x).abs().max() > 0.05  # it does something
    assert (on_grid - anywhere).abs().max() < 1e-5
    assert (on_grid - each).abs().max() < 1e-5


@pytest.mark.parametrize("member", ["samples", "colour", "published"])
def test_continuous_form_samples_as_torch_does(member):
    """Off the grid, against torch's own bicubic sampling with reflection and the MLP by hand."""
    net = random_network(**MEMBERS[member])
    x = torch.rand(1, net.channels, 17, 14, generator=torch.Generator().manual_seed(2))
    p = torch.tensor([[3.3, 4.75], [0.2, 12.6], [15.5, 0.0], [-0.4, 13.4]])
    points = torch.cat([p[:, None] + net.patch_offsets(), p[:, None]], dim=1)  # Q, M + 1, 2
    normalised = (points / torch.tensor([16.0, 13.0]) * 2 - 1).flip(-1)
    samples = F.grid_sample(
        x, normalised[None], mode="bicubic", padding_mode="reflection", align_corners=True
    )[0]  # C, Q, M + 1
    h = (
        samples[..., :-1]
        .reshape(net.channels, len(p), net.groups, -1)
        .permute(1, 2, 0, 3)
        .flatten(2)
    )  # Q, groups, inputs
    for k, layer in enumerate(net.layers):
        weight = layer.weight[..., 0, 0]
        weight = weight - weight.mean(dim=1, keepdim=True) if k == 0 else weight
        weight = weight.reshape(layer.groups, -1, weight.shape[1])
        h = h.reshape(len(p), layer.groups, -1)
        h = (
            torch.einsum("qgi,goi->qgo", h, weight).flatten(1)
            + layer.bias
            + (0.5 * layer.slope if k == 0 else 0)
        )
        h = net.activation(h)
    expected = samples[..., -1] - (h @ net.last[..., 0, 0].T).T
    assert (net.at(x, p, 0.5 * net.sigma_max)[0] - expected).abs().max() < 2e-5


def test_features_between_the_pixels_are_bicubic_samples_of_features_on_the_grid():
    net = random_network(**MEMBERS["learned patch of features"])
    x = torch.rand(1, 1, 15, 16, generator=torch.Generator().manual_seed(2))
    p = torch.tensor([[5.3, 6.75], [0.2, 11.6], [14.5, 0.0], [7.0, 7.0]])
    f = 8
    wide = torch.nn.functional.pad(x, (f, f, f, f), mode="reflect")
    h, level = wide, torch.full((1, 1, 1, 1), 0.5)
    for k, layer in enumerate(net.stem):
        weight = (
            layer.weight - layer.weight.mean(dim=(1, 2, 3), keepdim=True)
            if k == 0
            else layer.weight
        )
        h = F.gelu(
            F.conv2d(
                h, weight, layer.bias + (0 if k else 0.5 * layer.slope), dilation=layer.dilation
            )
        )
    margin = f - sum(layer.dilation for layer in net.stem)
    points = p[:, None] + net.patch_offsets() + margin
    normalised = (points / torch.tensor([h.shape[2] - 1.0, h.shape[3] - 1.0]) * 2 - 1).flip(-1)
    samples = F.grid_sample(
        h, normalised[None], mode="bicubic", padding_mode="zeros", align_corners=True
    )  # 1, C, Q, M
    h = F.conv2d(
        samples.permute(0, 1, 3, 2).flatten(1, 2)[..., None],
        net.layers[0].weight,
        net.layers[0].bias,
    )
    residual = net._mlp(net.activation(h), level)[..., 0]
    base = F.grid_sample(
        x,
        (p / torch.tensor([14.0, 15.0]) * 2 - 1).flip(-1)[None, None],
        mode="bicubic",
        padding_mode="reflection",
        align_corners=True,
    )[:, :, 0]
    assert (net.at(x, p, 0.5 * net.sigma_max) - (base - residual)).abs().max() < 2e-5


def exact(net):
    """Whether to compute in float64, and the bound: offsets that follow the content amplify the
    rounding of float32, and so do the many layers of a residual stem.
    """
    amplifies = net.deform or net.config.get("residual")
    return (torch.float64, 1e-12) if amplifies else (torch.float32, 1e-6)


def with_tile(net, tile):
    copy = MLPatch(**net.config, tile=tile).eval().requires_grad_(False)
    copy.load_state_dict(net.state_dict())
    return copy.to(next(net.parameters()).dtype)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (37, 1), (64, 64), (65, 63), (80, 71)])
def test_tiled_equals_untiled_everywhere(net, sigma, shape):
    dtype, bound = exact(net)
    x = torch.rand(2, net.channels, *shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    whole = with_tile(net.to(dtype), 1000)(x, sigma)
    for tile in (7, 16, 64) if x[0, 0].numel() < 5000 else (16, 64):
        difference = (with_tile(net, tile)(x, sigma) - whole).abs().max()
        assert difference < bound * max(1.0, float(whole.abs().max())), (
            tile
        )  # random weights: values beyond [0, 1]


@pytest.mark.parametrize("name", SHIPPED)
def test_tiled_equals_untiled_in_float32(name, photo):
    net = MLPatch.load(weights.locate(name))
    sigma = 0.4 * net.sigma_max
    clean = photo[..., :80, :71].expand(1, net.channels, -1, -1)
    x = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    whole = with_tile(net, 1000)(x, sigma)
    for tile in (7, 16, 64):
        assert (with_tile(net, tile)(x, sigma) - whole).abs().max() < 1e-6, tile


def test_output_depends_on_the_stated_field_only(net, sigma):
    """On noise about grey: what is far rougher than sigma may pass through unchanged."""
    f, rough = net.field, sigma or 0.1
    size = 2 * f + 1
    shape = (1, net.channels, size + 8, size + 8)
    x = 0.5 + rough * torch.randn(shape, generator=torch.Generator().manual_seed(4))
    y = net(x, sigma)[..., f + 4, f + 4]
    far = x + 1.0
    far[..., 4 : 4 + size, 4 : 4 + size] = x[..., 4 : 4 + size, 4 : 4 + size]
    assert torch.equal(net(far, sigma)[..., f + 4, f + 4], y)
    near = x.clone()
    near[..., f + 4, f + 5] += rough
    assert not torch.equal(net(near, sigma)[..., f + 4, f + 4], y)


def test_the_field_is_not_overstated():
    samples = random_network()
    with torch.no_grad():
        samples.offsets[0] = torch.tensor([3.0, 0.0])
        samples.offsets[1] = torch.tensor([2.9, 0.0])
    for net in (samples, random_network(**FEATURES)):
        middle = net.field + 5
        x = torch.rand(
            1, 1, 2 * middle + 1, 2 * middle + 1, generator=torch.Generator().manual_seed(5)
        )
        touched = x.clone()
        touched[..., middle + net.field, middle] += 10
        assert not torch.equal(
            net(x, 0.1)[..., middle, middle], net(touched, 0.1)[..., middle, middle]
        )


def test_shifting_the_input_shifts_the_output(net, sigma):
    f, (a, b) = net.field, (3 * net.fold, 5 * net.fold)  # folded: whole squares
    x = torch.rand(
        1, net.channels, 2 * f + 30, 2 * f + 30, generator=torch.Generator().manual_seed(6)
    )
    one, two = net(x[..., :-a, :-b], sigma), net(x[..., a:, b:], sigma)
    assert (one[..., f + a : -f, f + b : -f] - two[..., f : -f - a, f : -f - b]).abs().max() < 1e-6


def test_adding_a_constant_adds_it_to_the_output(net, sigma):
    dtype, bound = exact(net)
    x = torch.rand(1, net.channels, 20, 20, generator=torch.Generator().manual_seed(7)).to(dtype)
    y = net.to(dtype)(x, sigma)
    # images about zero: a constant is a signal, which noise makes unlikely; without noise nothing
    # is taken off
    if net.signal:
        assert torch.equal(net(x + 3, 0.0), x + 3)
        return
    bound = 2e-5 if dtype is torch.float32 else bound
    assert (net(x + 3, sigma) - 3 - y).abs().max() < bound * max(1.0, float(y.abs().max()))


@pytest.mark.parametrize("name", SHIPPED)
def test_adding_a_constant_in_float32(name, photo):
    net = MLPatch.load(weights.locate(name))
    if net.signal:
        return
    sigma = 0.4 * net.sigma_max
    clean = photo[..., :40, :40].expand(1, net.channels, -1, -1)
    x = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(7))
    assert (net(x + 3, sigma) - 3 - net(x, sigma)).abs().max() < 2e-5


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(3, 20),
    st.sampled_from([0.0, 0.01, 0.2]),
    st.sampled_from(["samples", "features"]),
)
def test_any_size_and_tile(height, width, tile, sigma, member):
    net = random_network(**MEMBERS[member])
    net.tile = tile
    x = torch.rand(
        1, 1, height, width, generator=torch.Generator().manual_seed(height * 41 + width)
    )
    on_grid, anywhere = both(net, x, sigma)
    assert (on_grid - anywhere).abs().max() < 1e-5


@pytest.mark.parametrize("member", MEMBERS)
def test_gradients_flow_to_image_and_weights(member, photo):
    net = random_network(**MEMBERS[member]).requires_grad_(True)
    x = photo[..., :20, :24].repeat(1, net.channels, 1, 1).requires_grad_(True)
    net(x, 0.1).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0
        for p in net.parameters()
    )
    _, pull = torch.func.vjp(lambda v: net(v, 0.1), x.detach())
    assert torch.isfinite(pull(torch.ones_like(x))[0]).all()


@pytest.mark.parametrize("member", ["samples", "features", "deformed"])
def test_jacobian_is_right(member):
    net = random_network(**MEMBERS[member]).double()
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: net(v, 0.1), (x,), atol=1e-6)


@pytest.mark.parametrize("name", ["mlpatch-grey", "mlpatch-samples-grey"])
def test_it_denoises_better_than_tv(name, photo):
    net = denoisers.make("mlpatch", weights=name)
    for level in (15, 25, 50):
        sigma = level / 255
        noisy = photo + sigma * torch.randn(
            photo.shape, generator=torch.Generator().manual_seed(level)
        )
        best_tv = max(
            float(psnr(denoisers.make("tv", strength=s)(noisy, sigma), photo))
            for s in (0.5, 0.7, 0.9, 1.1)
        )
        assert float(psnr(net(noisy, sigma), photo)) > best_tv + 0.3


def test_deformed_patches_follow_the_content():
    net = random_network(**MEMBERS["deformed"])
    x = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(9))
    coords = torch.tensor([[8.0, 9.0], [10.5, 4.25]])
    where = net.patch_at(x, coords, 0.1)
    assert where.shape == (1, 2, 12, 2)
    offsets = where - coords[None, :, None]
    assert (offsets[0, 0] - offsets[0, 1]).abs().max() > 0.05
    assert offsets.norm(dim=-1).max() <= net.radius * 1.0001
    still = random_network()
    assert torch.allclose(
        still.patch_at(x, coords, 0.1) - coords[None, :, None], still.patch_offsets(), atol=1e-6
    )
    fresh = MLPatch(**MEMBERS["deformed"])  # zero-initialised: before training nothing is deformed
    assert torch.allclose(
        fresh.patch_at(x, coords, 0.1) - coords[None, :, None], fresh.patch_offsets(), atol=1e-6
    )


def test_samples_stay_exact_far_from_the_origin():
    """Coordinates of large images lose no precision: the fraction is taken before the offset is
    added.
    """
    net = random_network()
    x = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(8))
    wide = torch.cat([torch.zeros(1, 1, 24, 40000), x], dim=-1)
    coords = torch.tensor([[11.25, 12.5], [12.75, 11.125]], dtype=torch.float64)
    shifted = coords + torch.tensor([0.0, 40000.0], dtype=torch.float64)
    assert torch.allclose(net.at(wide, shifted, 0.1), net.at(x, coords, 0.1), atol=1e-6)


def test_cubic_is_a_partition_of_unity():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None] + torch.arange(-3, 4)
    assert torch.allclose(cubic(t).sum(1), torch.ones(11, dtype=torch.float64), atol=1e-12)
    assert torch.equal(cubic(torch.arange(-3.0, 4.0)), torch.tensor([0.0, 0, 0, 1, 0, 0, 0]))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_reflect_is_numpys(size):
    import numpy as np

    padded = np.pad(np.arange(size), 9, mode="reflect")
    assert np.array_equal(reflect(torch.arange(-9, size + 9), size).numpy(), padded)


# ---- maps of the noise level

MAPPED = {
    **MEMBERS,
    "folded": {**FEATURES, "fold": 2, "stem_width": 10, "dilations": [1] * 4, "residual": True},
    "weak signal": {**FEATURES, "signal": 0.05},
}


@pytest.fixture(params=MAPPED)
def mapped(request):
    return random_network(**MAPPED[request.param])


def noise_map(batch, height, width):
    """Levels between 0.05 and 0.2 that differ from pixel to pixel."""
    generator = torch.Generator().manual_seed(11)
    return 0.05 + 0.15 * torch.rand(batch, 1, height, width, generator=generator)


def test_a_constant_map_is_its_number(mapped):
    """In float64: in float32 a map is added after the products, a number with them."""
    mapped = mapped.double()
    x = torch.rand(2, mapped.channels, 23, 18, generator=torch.Generator().manual_seed(12)).double()
    coords = torch.tensor([[3.25, 4.5], [0.0, 17.0], [21.6, 8.1]]).double()
    bound = 2e-5 if mapped.deform else 1e-6  # offsets that follow the content amplify rounding
    for level in (0.0, 0.13):
        constant = torch.full((1, 1, 23, 18), level, dtype=torch.float64)
        assert (mapped(x, constant) - mapped(x, level)).abs().max() < bound
        difference = mapped.at(x, coords, constant) - mapped.at(x, coords, level)
        assert difference.abs().max() < 2 * bound
    each = torch.tensor([0.05, 0.2]).double().reshape(2, 1, 1, 1)
    levels = each.expand(-1, -1, 23, 18)
    assert (mapped(x, levels) - mapped(x, each.flatten())).abs().max() < bound


def test_a_map_matters_where_it_is(mapped):
    """In float64, as above."""
    mapped, size = mapped.double(), 4 * mapped.field + 8
    x = torch.rand(1, mapped.channels, 12, size, generator=torch.Generator().manual_seed(13))
    x, halves = x.double(), torch.full((1, 1, 12, size), 0.05, dtype=torch.float64)
    halves[..., size // 2 :] = 0.2
    y, near = mapped(x, halves), mapped.field + 1
    assert torch.allclose(y[..., : size // 2 - near], mapped(x, 0.05)[..., : size // 2 - near])
    assert torch.allclose(y[..., size // 2 + near :], mapped(x, 0.2)[..., size // 2 + near :])
    assert not torch.allclose(y[..., size // 2 :], mapped(x, 0.05)[..., size // 2 :], atol=1e-4)


def test_tiled_equals_whole_with_a_map(mapped):
    x = torch.rand(2, mapped.channels, 41, 30, generator=torch.Generator().manual_seed(14))
    sigma, bound = noise_map(2, 41, 30), 2e-5 if mapped.deform else 1e-6
    mapped.tile = 1000
    whole = mapped(x, sigma)
    for tile in (7, 16):
        mapped.tile = tile
        assert (mapped(x, sigma) - whole).abs().max() < bound * max(1.0, float(whole.abs().max()))


def test_grid_form_equals_continuous_form_with_a_map(mapped):
    x = torch.rand(2, mapped.channels, 14, 11, generator=torch.Generator().manual_seed(15))
    sigma = noise_map(2, 14, 11)
    on_grid, points = mapped(x, sigma), grid(14, 11)
    for coords in (points, points.expand(2, -1, -1)):
        anywhere = mapped.at(x, coords, sigma, chunk=50).reshape(x.shape)
        assert (on_grid - anywhere).abs().max() < 2e-5
    assert (
        mapped.at(x, points, sigma[:1])[0] - mapped.at(x[:1], points, sigma[:1])[0]
    ).abs().max() < 1e-5


def test_maps_that_do_not_fit_are_refused():
    net, x = random_network(**FEATURES), torch.rand(2, 1, 9, 8)
    coords = torch.tensor([[1.5, 2.5]])
    good = torch.full((2, 1, 9, 8), 0.1)
    bad = {name: good.clone() for name in ("negative", "not a number", "too high")}
    bad["negative"][0, 0, 1, 1], bad["not a number"][1, 0, 2, 2] = -0.1, torch.nan
    bad["too high"][0, 0, 0, 0] = 1.0
    others = (good[..., 1:], good[:, :, :, :1], torch.full((2, 2, 9, 8), 0.1), good[0])
    for sigma in (*bad.values(), *others, torch.full((3, 1, 9, 8), 0.1)):
        with pytest.raises(InputError, match="sigma"):
            net(x, sigma)
        with pytest.raises(InputError, match="sigma"):
            net.at(x, coords, sigma)
    with pytest.raises(
        InputError, match=r"\(2, 1, 9, 7\)\. A map must have shape \(2, 1, 9, 8\)\."
    ):
        net(x, others[0])
    for refuses in (lambda: net.upscale(x, 2, good), lambda: net.patch_at(x, coords, good)):
        with pytest.raises(InputError, match=r"sigma must be a number or a tensor of shape \(2,\)"):
            refuses()


def test_gradients_flow_through_a_map(mapped):
    x = torch.rand(1, mapped.channels, 9, 10, generator=torch.Generator().manual_seed(16))
    sigma = noise_map(1, 9, 10).requires_grad_(True)
    mapped(x, sigma).square().sum().backward()
    assert torch.isfinite(sigma.grad).all()
    assert sigma.grad.abs().sum() > 0


# ---- weights by the number of channels


def test_the_channels_of_the_image_choose_the_weights():
    D = denoisers.make("mlpatch")
    x = torch.rand(2, 3, 17, 12, generator=torch.Generator().manual_seed(17))
    grey, colour = (
        denoisers.make("mlpatch", weights=f"mlpatch-{n}") for n in ("grey", "colour-folded")
    )
    assert torch.equal(D(x[:, :1], 0.1), grey(x[:, :1], 0.1))
    assert torch.equal(D(x, noise_map(2, 17, 12)), colour(x, noise_map(2, 17, 12)))
    info = denoisers.describe(D)
    assert (info.name, info.channels, info.sigma) == ("mlpatch", None, "input")
    assert info.sigma_range == grey.info.sigma_range == colour.info.sigma_range
    assert info.field == max(grey.field, colour.field)
    assert info.trained_size == (128, 128)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_name_what_there_is(channels):
    there = r"mlpatch-grey \(1\) and mlpatch-colour-folded \(3\)"
    with pytest.raises(InputError, match=f"has {channels} channels.* {there}"):
        denoisers.make("mlpatch")(torch.rand(1, channels, 8, 8), 0.1)


def test_both_networks_belong_to_it():
    D = denoisers.make("mlpatch", tile=16)
    assert [net.tile for net in D.networks] == [16, 16]
    assert not D.training
    before, x = denoisers.fingerprint(D), torch.rand(1, 3, 9, 8)
    for other in (copy.deepcopy(D), pickle.loads(pickle.dumps(D)), denoisers.make("mlpatch")):
        assert torch.equal(other(x, 0.1), D(x, 0.1))
        assert denoisers.fingerprint(other) == before
    grey = denoisers.make("mlpatch", weights="mlpatch-grey")
    assert before["sha256"] != denoisers.fingerprint(grey)["sha256"]
    with torch.no_grad():
        D.networks[1].last.mul_(2)
    assert denoisers.fingerprint(D) != before
    assert D.double()(x.double(), 0.1).dtype == torch.float64
