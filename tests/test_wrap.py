"""Anything as a denoiser, and denoisers in other units, on other channels."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pnp_mlpatch import (
    as_denoiser,
    averaged,
    contracted,
    denoisers,
    e_mode,
    equivariant,
    per_channel,
    reconstruct,
    rescaled,
)
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import SYMMETRIES, Denoiser, describe, fingerprint, turned
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError, UnknownPlugin
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.testing import check_denoiser


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


X = rand(2, 1, 9, 7)
COLOUR = rand(2, 3, 9, 7)


def tiny() -> MLPatch:
    torch.manual_seed(0)
    net = MLPatch(width=8, rings=2, angles=4, radius=2.0, depth=2)
    nn.init.normal_(net.last, std=0.05)
    return net.eval().requires_grad_(False)


class Blind(nn.Module):
    """Called as net(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


class Conditional(nn.Module):
    """Called as net(x, sigma), sigma with a default and another option."""

    def forward(self, x: Tensor, sigma: float | Tensor = 0.1, gain: float = 2.0) -> Tensor:
        return x / (1 + gain * torch.as_tensor(sigma).to(x).reshape(-1, 1, 1, 1))


def shrink(x, sigma):
    return x / (1 + 2 * torch.as_tensor(sigma).reshape(-1, 1, 1, 1))


# ---- as_denoiser


def test_a_name_is_made_by_the_registry():
    assert isinstance(as_denoiser("tv"), TV)
    with pytest.raises(UnknownPlugin, match=r"No denoiser is called 'tvv'. Did you mean 'tv'\?"):
        as_denoiser("tvv")


@pytest.mark.parametrize(
    ("D", "settings", "how", "expected"),
    [
        (Blind(), {}, "ignored", 0.5 * X),
        (Blind(), {"sigma": "ignored"}, "ignored", 0.5 * X),
        (Conditional(), {}, "input", X / 1.4),
        (Conditional(), {"sigma": "ignored"}, "ignored", X / 1.2),
        (lambda x: x - 1, {}, "ignored", X - 1),
        (shrink, {}, "input", X / 1.4),
        (lambda x, level=0.3: x - level, {"sigma": "input"}, "input", X - 0.2),
        (lambda *both: both[0] - both[1], {"sigma": "input"}, "input", X - 0.2),
        (torch.relu, {"sigma": "ignored"}, "ignored", X),
    ],
    ids=[
        "module",
        "module, told",
        "module with sigma",
        "module without its sigma",
        "lambda",
        "function",
        "told",
        "star",
        "builtin",
    ],
)
def test_modules_and_functions(D, settings, how, expected):
    wrapped = as_denoiser(D, **settings)
    torch.testing.assert_close(wrapped(X, 0.2), expected)
    assert isinstance(wrapped, Denoiser)
    assert describe(wrapped).sigma == how
    assert wrapped(X.double(), 0.2).dtype == torch.float64


def test_each_image_gets_its_own_level():
    sigma = torch.tensor([0.1, 0.3])
    one_by_one = torch.cat([shrink(X[k : k + 1], float(sigma[k])) for k in range(2)])
    torch.testing.assert_close(as_denoiser(Conditional())(X, sigma), one_by_one)
    torch.testing.assert_close(
        as_denoiser(lambda image, s: image / (1 + 2 * s), array="numpy")(X, sigma), one_by_one
    )


def test_what_is_known_of_a_denoiser_is_kept():
    net = tiny()
    info = as_denoiser(net).info
    assert (info.name, info.channels, info.field, info.sigma_range) == (
        "mlpatch",
        1,
        net.field,
        (0.0, net.sigma_max),
    )
    assert as_denoiser(shrink).info.name == "shrink"
    assert repr(as_denoiser(shrink)) == "<denoiser shrink>"
    assert as_denoiser(Blind()).info.name == "Blind"
    assert torch.equal(as_denoiser(net)(X, 0.1), net(X, 0.1))


def test_wrappers_move_their_module():
    net = Blind()
    net.weight = nn.Parameter(torch.ones(1))
    assert as_denoiser(net).to("meta").inner.weight.device.type == "meta"
    assert as_denoiser(shrink).to("cpu")(X, 0.0).device.type == "cpu"


@pytest.mark.parametrize(("x", "shape"), [(X, (9, 7)), (COLOUR, (9, 7, 3))])
def test_numpy_functions(x, shape):
    seen = []

    def blur(image: np.ndarray, sigma: float) -> np.ndarray:
        seen.append((image.shape, image.dtype, image.flags.c_contiguous, type(sigma), sigma))
        image *= 0.5  # may write into its argument
        return image + sigma

    kept = x.clone()
    D = as_denoiser(blur, array="numpy")
    for dtype in (torch.float32, torch.float64):
        y = D(x.to(dtype), torch.tensor([0.25, 0.75]))
        assert y.dtype == dtype
        torch.testing.assert_close(
            y, (0.5 * x + torch.tensor([0.25, 0.75]).reshape(2, 1, 1, 1)).to(dtype)
        )
    assert torch.equal(x, kept)
    assert seen[:2] == [
        (shape, np.float64, True, float, 0.25),
        (shape, np.float64, True, float, 0.75),
    ]


def test_numpy_function_without_sigma_and_with_a_real_filter():
    ndimage = require("scipy.ndimage", "a test")
    D = as_denoiser(lambda image: ndimage.median_filter(image, 3), array="numpy")
    assert D.info.sigma == "ignored"
    expected = np.stack([ndimage.median_filter(image, 3) for image in X[:, 0].double().numpy()])[
        :, None
    ]
    torch.testing.assert_close(D(X, 0.1), torch.from_numpy(expected).float())


def test_deepinv_denoiser():
    TVDenoiser = require("deepinv", "a test").models.TVDenoiser
    tv = TVDenoiser(n_it_max=50)
    with pytest.raises(
        InputTypeError, match=r"cannot tell from its signature how TVDenoiser takes the noise level"
    ):
        as_denoiser(tv)  # forward(y, ths=None): is ths a noise level?
    D = as_denoiser(tv, sigma="input")
    assert torch.equal(
        D(X, 0.1), TVDenoiser(n_it_max=50)(X, 0.1)
    )  # a fresh one: it starts from its last result
    assert float(D(X, 0.2).std()) < float(X.std())


@pytest.mark.parametrize(
    "D",
    [
        lambda x, a, b: x,
        lambda x, level=1.0: x,
        lambda *arguments: arguments[0],
        lambda: 0,
        lambda *, x: x,
        torch.relu,
        lambda x, a, sigma: x,
    ],
    ids=["three", "optional", "star", "none", "keyword", "no signature", "sigma third"],
)
def test_unclear_signatures(D):
    words = (
        r"cannot tell from its signature how .* takes the noise level. Say sigma='input' or "
        r"'ignored'. Examples: as_denoiser\('tv'\)"
    )
    with pytest.raises(InputTypeError, match=words):
        as_denoiser(D)


@pytest.mark.parametrize(
    "D", [None, 3, X, np.ones(3), ["tv"]], ids=["None", "int", "tensor", "numpy", "list"]
)
def test_not_a_denoiser(D):
    with pytest.raises(
        InputTypeError,
        match=rf"as_denoiser: expected a name or a callable, got {type(D).__name__}. Examples: ",
    ):
        as_denoiser(D)


def test_options_are_checked():
    with pytest.raises(
        InputError, match="as_denoiser: array must be 'torch' or 'numpy', got 'jax'"
    ):
        as_denoiser(shrink, array="jax")
    with pytest.raises(
        InputError, match="as_denoiser: sigma must be 'input', 'map' or 'ignored', got 'noise'"
    ):
        as_denoiser(shrink, sigma="noise")


@pytest.mark.parametrize(
    ("D", "array", "words"),
    [
        (
            lambda x, s: x[..., 1:],
            "torch",
            r"expected shape \(2, 1, 9, 7\) back, got \(2, 1, 9, 6\).*per_channel",
        ),
        (
            lambda x, s: x.numpy(),
            "torch",
            r"expected a tensor back, got ndarray. For numpy functions say "
            r"as_denoiser\(..., array='numpy'\)",
        ),
        (lambda x, s: (x, s), "torch", "expected a tensor back, got tuple"),
        (
            lambda x, s: x.to("meta"),
            "torch",
            "expected the result on cpu, got meta. Move the model there first",
        ),
        (lambda x, s: x + 1j, "torch", "complex"),
        (lambda x, s: x[1:], "numpy", r"expected an array \(9, 7\) back, got \(8, 7\)"),
        (lambda x, s: x[..., None], "numpy", r"expected an array \(9, 7\) back, got \(9, 7, 1\)"),
        (lambda x, s: None, "numpy", r"expected an array \(9, 7\) back, got \(\)"),
        (lambda x, s: x + 1j, "numpy", "complex"),
        (lambda x, s: x.astype(object), "numpy", "object"),
        (
            lambda x, s: (255 * x).astype(np.uint8),
            "numpy",
            "uint8 values. Integers lose what is between them",
        ),
        (lambda x, s: x > 0.5, "numpy", "bool values. Integers"),
        (lambda x, s: (255 * x).byte(), "torch", "uint8 values. Integers"),
    ],
    ids=[
        "shape",
        "numpy",
        "tuple",
        "device",
        "complex",
        "array shape",
        "array rank",
        "None",
        "complex array",
        "objects",
        "uint8 array",
        "bool array",
        "uint8",
    ],
)
def test_results_are_checked(D, array, words):
    D.__name__ = "mine"
    with pytest.raises(PnPError, match="denoiser mine: .*" + words):
        as_denoiser(D, array=array)(X, 0.1)


# ---- rescaled


@pytest.mark.parametrize("sigma", [100.0, torch.tensor([50.0, 100.0])])
def test_rescaled_equals_by_hand(sigma):
    net = tiny()
    hounsfield = 2048 * X - 1024
    D = rescaled(net, scale=2048, offset=-1024)
    torch.testing.assert_close(
        D(hounsfield, sigma), net((hounsfield + 1024) / 2048, sigma / 2048) * 2048 - 1024
    )
    assert float((D(hounsfield, sigma) - hounsfield).abs().max()) > 1
    assert D(hounsfield.double(), sigma).dtype == torch.float64
    info = D.info
    assert (info.name, info.channels, info.sigma_range, info.field) == (
        "rescaled mlpatch",
        1,
        (0.0, 2048 * net.sigma_max),
        net.field,
    )
    with pytest.raises(InputError, match=r"sigma = 0.\d* is above the trained range"):
        D(hounsfield, 1000.0)


@pytest.mark.parametrize(
    ("scale", "offset"),
    [(0, 0), (-1, 0), (float("nan"), 0), (float("inf"), 0), (1, float("nan")), (1, float("inf"))],
)
def test_rescaled_refuses(scale, offset):
    with pytest.raises(
        InputError,
        match=rf"rescaled: scale must be > 0 and both finite, got scale={scale}, offset={offset}",
    ):
        rescaled(TV(), scale, offset)


def test_wrappers_compose():
    net = tiny()
    D = rescaled(per_channel(net), 255.0)
    torch.testing.assert_close(
        D(255 * COLOUR, 10.0)[:, 1:2], 255 * net(COLOUR[:, 1:2], 10 / 255), rtol=1e-4, atol=1e-3
    )


# ---- per_channel and e_mode


@pytest.mark.parametrize(
    "sigma",
    [
        0.1,
        torch.tensor(0.1),
        torch.tensor([0.05, 0.2]),
        torch.tensor([0.05, 0.2]).reshape(2, 1, 1, 1),
    ],
)
def test_per_channel_equals_channel_by_channel(sigma):
    net = tiny()
    D = per_channel(net)
    expected = torch.cat([net(COLOUR[:, c : c + 1], sigma) for c in range(3)], dim=1)
    torch.testing.assert_close(D(COLOUR, sigma), expected)
    assert D.info.channels is None
    strided = COLOUR.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(D(strided, sigma), expected)


def test_per_channel_refuses_a_level_for_each_channel():
    with pytest.raises(
        InputError,
        match=r"mlpatch: sigma must be a number or a tensor of shape \(2,\), one level an image, "
        r"got shape \(3,\)",
    ):
        per_channel(tiny())(COLOUR, torch.full((3,), 0.1))


@pytest.mark.parametrize("sigma", [0.1, torch.tensor([0.05, 0.2])])
def test_e_mode(sigma):
    net, kappa = tiny(), COLOUR[:, :2]
    y = e_mode(net)(kappa, sigma)
    assert torch.equal(y[:, :1], net(kappa[:, :1].contiguous(), sigma))
    assert torch.equal(y[:, 1:], torch.zeros(2, 1, 9, 7))
    assert e_mode(net).info.channels == 2
    A = Lensing((2, 9, 7))
    assert (
        not reconstruct(
            A(kappa), A, e_mode(net), noise=0.1, sigma=0.1, iterations=3, progress=False
        )
        .x[:, 1]
        .any()
    )


@pytest.mark.parametrize(
    ("D", "words"),
    [
        (lambda x, s: x.transpose(-1, -2), r"expected .*back, got"),
        (lambda x, s: x.expand(-1, 2, -1, -1), "expected .*back, got"),
        (lambda x, s: x.numpy(), "expected a tensor back, got ndarray"),
        (lambda x, s: (x, s), "expected a tensor back, got tuple"),
    ],
    ids=["transposed", "channels", "numpy", "tuple"],
)
@pytest.mark.parametrize(
    "wrap",
    [per_channel, e_mode, lambda D: rescaled(D, 2.0), equivariant],
    ids=["per_channel", "e_mode", "rescaled", "equivariant"],
)
def test_wrappers_check_what_they_wrap(wrap, D, words):
    """A result of another shape is not reshaped into an image."""
    with pytest.raises(PnPError, match=words):
        wrap(D)(COLOUR[:, :2] if wrap is e_mode else X, 0.1)


@pytest.mark.parametrize(
    "wrap",
    [per_channel, e_mode, lambda D: rescaled(D, 2.0), equivariant],
    ids=["per_channel", "e_mode", "rescaled", "equivariant"],
)
@pytest.mark.parametrize("D", [3, None, "tv"])
def test_wrappers_refuse_what_cannot_be_called(wrap, D):
    with pytest.raises(InputTypeError, match="callable"):
        wrap(D)


# ---- equivariant


def distinct() -> Tensor:
    """An image that no symmetry leaves as it is, (1, 1, 3, 4)."""
    return torch.arange(12.0).reshape(1, 1, 3, 4)


def test_the_symmetries_are_what_their_names_say():
    x = distinct()
    by_hand = {
        "identity": x,
        "rotation 90": x.transpose(-1, -2).flip(
            -2
        ),  # counterclockwise: the top right corner goes to the top left
        "rotation 180": x.flip((-2, -1)),
        "rotation 270": x.transpose(-1, -2).flip(-1),
        "flip left-right": x.flip(-1),
        "transpose": x.transpose(-1, -2),
        "flip up-down": x.flip(-2),
        "anti-transpose": x.transpose(-1, -2).flip((-2, -1)),
    }
    assert set(by_hand) == set(SYMMETRIES)
    for name, expected in by_hand.items():
        assert torch.equal(turned(x, name), expected), name
        assert torch.equal(turned(turned(x, name), name, back=True), x), name
        assert turned(x, name).is_contiguous(), name


@pytest.mark.parametrize(("group", "size"), [("dihedral", 8), ("rotations", 4)])
def test_equivariant_is_the_average_over_the_group(group, size):
    seen: list[Tensor] = []

    def lopsided(x, sigma):
        seen.append(x.clone())
        return (
            x * torch.linspace(0, 1, x.shape[-1])
            + sigma * torch.linspace(0, 1, x.shape[-2])[:, None]
        )

    x = distinct()
    y = equivariant(lopsided, group)(x, 0.5)
    assert (
        len({image.numpy().tobytes() + bytes(image.shape) for image in seen}) == len(seen) == size
    )
    members = [
        name for name, (mirror, _) in SYMMETRIES.items() if group == "dihedral" or not mirror
    ]
    expected = torch.stack(
        [turned(lopsided(turned(x, g), 0.5), g, back=True) for g in members]
    ).mean(dim=0)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("which", ["random", "shipped"])
@pytest.mark.parametrize("g", SYMMETRIES)
def test_equivariant_commutes_with_the_symmetries_of_the_square(which, g, mlpatch, photo):
    net = tiny() if which == "random" else mlpatch
    x = photo[..., 10:44, 20:47] + 0.1 * torch.randn(
        1, 1, 34, 27, generator=torch.Generator().manual_seed(1)
    )
    D, R = equivariant(net), equivariant(net, "rotations")
    assert (D(turned(x, g), 0.1) - turned(D(x, 0.1), g)).abs().max() < 1e-6
    rotations = (R(turned(x, g), 0.1) - turned(R(x, 0.1), g)).abs().max()
    if not SYMMETRIES[g][0]:
        assert rotations < 1e-6
    if which == "random" and g != "identity":
        assert (
            net(turned(x, g), 0.1) - turned(net(x, 0.1), g)
        ).abs().max() > 1e-4  # which D does not
        assert SYMMETRIES[g][0] == (rotations > 1e-5)


def test_equivariant_denoises_no_worse(mlpatch, photo):
    noisy = photo + 25 / 255 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    before = float(psnr(mlpatch(noisy, 25 / 255), photo))
    assert float(psnr(equivariant(mlpatch, "rotations")(noisy, 25 / 255), photo)) >= before
    assert float(psnr(equivariant(mlpatch)(noisy, 25 / 255), photo)) >= before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equivariant_takes_every_kind_of_sigma(dtype):
    net, x = tiny(), X.to(dtype)
    D = equivariant(net)
    each = torch.tensor([0.05, 0.2])
    y = D(x, each)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    one_by_one = torch.cat([D(x[k : k + 1], float(each[k])) for k in range(2)])
    torch.testing.assert_close(y, one_by_one)
    torch.testing.assert_close(D(x, each.reshape(2, 1, 1, 1)), one_by_one)
    torch.testing.assert_close(D(x, torch.tensor(0.1)), D(x, 0.1))


@pytest.mark.parametrize("batch", [1, 2])
def test_equivariant_turns_a_map_of_sigma_with_the_image(batch):
    def by_map(x, sigma):
        assert sigma.shape == (len(x), 1, *x.shape[2:])
        return x - sigma

    level = rand(batch, 1, 9, 7)
    torch.testing.assert_close(equivariant(by_map)(COLOUR, level), COLOUR - level)
    shown = as_denoiser(by_map, sigma="map")
    torch.testing.assert_close(equivariant(shown)(COLOUR, level), COLOUR - level)


def test_equivariant_keeps_what_is_known_and_the_contract():
    net = tiny()
    D = equivariant(net)
    assert (D.info.name, D.info.channels, D.info.field, D.info.sigma_range) == (
        "equivariant mlpatch",
        1,
        net.field,
        (0.0, net.sigma_max),
    )
    check_denoiser(D, stateless_only=True)
    kept = X.clone()
    D(X, 0.1)
    assert torch.equal(X, kept)


def test_gradients_flow_through_equivariant():
    x = rand(1, 1, 4, 5).double().requires_grad_(True)
    D = equivariant(tiny().double())
    assert torch.autograd.gradcheck(lambda v: D(v, 0.1), (x,), atol=1e-6)
    _, pull = torch.func.vjp(lambda v: D(v, 0.1), x.detach())
    (g,) = torch.autograd.grad(D(x, 0.1).sum(), x)
    torch.testing.assert_close(pull(torch.ones_like(x))[0], g)


def test_equivariant_refuses():
    with pytest.raises(
        InputError,
        match=r"equivariant: group must be 'dihedral' \(8 symmetries\), 'rotations' \(4\) or "
        r"'shifts' \(16\), got 'flips'",
    ):
        equivariant(tiny(), "flips")
    D = equivariant(tiny())
    with pytest.raises(
        InputError, match=r"equivariant mlpatch: the image must have shape \(B, C, H, W\)"
    ):
        D(X[0], 0.1)
    with pytest.raises(
        InputError,
        match=r"equivariant mlpatch: sigma must be a number or a tensor of shape \(2,\).*got "
        r"shape \(2, 1, 7, 9\)",
    ):
        D(X, rand(2, 1, 7, 9))
    with pytest.raises(
        InputError, match=r"equivariant mlpatch: sigma must be finite and >= 0, got -0.1"
    ):
        D(X, -0.1)


# ---- wrappers hold what they wrap

WRAPPERS = {
    "as_denoiser": lambda D: as_denoiser(D),
    "rescaled": lambda D: rescaled(D, 255.0, 1.0),
    "per_channel": per_channel,
    "e_mode": e_mode,
    "equivariant": lambda D: equivariant(D, "rotations", draw="random"),
    "averaged": averaged,
    "contracted": lambda D: contracted(D, 1.5),
    "two": lambda D: rescaled(per_channel(D), 2.0),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda W: pickle.loads(pickle.dumps(W))], ids=["deepcopy", "pickle"]
)
def test_a_copy_has_weights_of_its_own(wrap, how):
    W = wrap(tiny())
    x = COLOUR[:, :2] if wrap is e_mode else X
    before = W(x, 0.1)
    C = how(W)
    assert C.info == W.info
    assert torch.equal(C(x, 0.1), before)
    with torch.no_grad():
        for p in W.parameters():
            p.add_(0.1)
    assert torch.equal(C(x, 0.1), before)
    assert not torch.equal(W(x, 0.1), before)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_is_a_module_around_what_it_wraps(wrap):
    net = tiny()
    W = wrap(net)
    assert isinstance(W, nn.Module)
    assert {id(p) for p in W.parameters()} == {id(p) for p in net.parameters()}
    assert not W.training
    assert W.double() is W
    assert net.last.dtype == torch.float64
    assert pickle.loads(pickle.dumps(wrap(TV()))).info == wrap(TV()).info


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_sees_the_precision_of_its_weights(dtype):
    """float64 data, which NumPy and FITS make, neither stop a float32 network nor slow it down."""
    seen = []
    net = nn.Conv2d(1, 1, 3, padding=1).to(dtype).requires_grad_(False)
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    y = as_denoiser(net, sigma="ignored")(X.double(), 0.1)
    assert (y.dtype, seen) == (torch.float64, [dtype])
    torch.testing.assert_close(y, net(X.to(dtype)).double())


@pytest.mark.parametrize("name", ["dncnn", "ircnn", "mlpatch"])
def test_networks_run_in_float32_on_float64_images(name):
    D, seen = denoisers.make(name, weights=f"{name}-grey"), set()
    for layer in D.modules():
        if layer is not D and not list(layer.children()):
            layer.register_forward_hook(
                lambda _, inputs, output: seen.update({inputs[0].dtype, output.dtype})
            )
    y = D(X.double(), 0.1)
    assert (y.dtype, seen) == (torch.float64, {torch.float32})
    torch.testing.assert_close(y.float(), D(X, 0.1), rtol=0, atol=1e-6)
    if name == "mlpatch":
        fine = D.at(X.double(), torch.tensor([[1.3, 2.0]], dtype=torch.float64), 0.1)
        assert (fine.dtype, seen) == (torch.float64, {torch.float32})
    assert D.double()(X.double(), 0.1).dtype == torch.float64
    assert torch.float64 in seen


def test_the_identity_tells_settings_apart():
    """Else a checkpoint of one is continued with the other."""
    net = tiny()
    found = [
        fingerprint(D)
        for D in (
            net,
            rescaled(net, 2.0),
            rescaled(net, 3.0),
            rescaled(per_channel(net), 2.0),
            TV(0.8),
            TV(0.7),
        )
    ]
    assert len({str(one) for one in found}) == len(found)
    assert len({one["sha256"] for one in found[:4]}) == 1


def test_per_channel_takes_a_map_of_sigma_for_all_channels():
    def by_map(x, sigma):
        return x - sigma

    level = rand(2, 1, 9, 7)
    torch.testing.assert_close(per_channel(by_map)(COLOUR, level), COLOUR - level)
