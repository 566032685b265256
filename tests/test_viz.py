"""Pictures of denoisers: what is drawn is what is computed, the right way up."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from torch import Tensor, nn

from pnp_mlpatch import as_denoiser, denoisers, equivariant, viz
from pnp_mlpatch.denoisers import DenoiserInfo
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, MissingPackage, PnPError

SAMPLES = {"radius": 3.0, "rings": 2, "angles": 6, "width": 8, "depth": 2}
MEMBERS = {
    "samples": SAMPLES,
    "colour": {**SAMPLES, "channels": 3},
    "features": {"square": 3, "features": 6, "dilations": (1, 2), "width": 8, "depth": 2},
    "sectors": {"rings": 3, "angles": 4, "radius": 4.0, "sectors": (6, 5), "width": 8, "depth": 1},
    "deformed": {**SAMPLES, "deform": 1},
}


def network(member: str = "samples") -> MLPatch:
    torch.manual_seed(0)
    net = MLPatch(**MEMBERS[member])
    nn.init.normal_(net.last, std=0.3)
    for _, move in net.steer:
        nn.init.normal_(move.weight, std=0.1)
    return net.eval().requires_grad_(False)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def corner(height: int = 30, width: int = 36) -> Tensor:
    """Black, with a white top left corner and a grey band at the right: it shows every flip."""
    x = torch.zeros(1, 1, height, width)
    x[..., :6, :9] = 1
    x[..., 4:, -5:] = 0.5
    return x


def upright(axis, array: Tensor) -> None:
    """The image of an axis is ``array`` on the grey scale [0, 1], row 0 at the top."""
    shown = axis.images[0]
    np.testing.assert_allclose(np.asarray(shown.get_array()), array.numpy(), atol=1e-7)
    assert shown.origin == "upper"
    assert shown.get_clim() == (0, 1)
    assert shown.get_cmap().name == "gray"
    bottom, top = axis.get_ylim()
    left, right = axis.get_xlim()
    assert bottom > top
    assert left < right
    assert axis.get_aspect() == 1
    extent = shown.get_extent()
    assert tuple(extent) == (-0.5, array.shape[1] - 0.5, array.shape[0] - 0.5, -0.5)


# ---- the patch


@pytest.mark.parametrize("member", MEMBERS)
def test_patch_draws_the_offsets_with_their_weights(member):
    net = network(member)
    figure = viz.patch(net)
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    drawn = axis.collections[0]
    offsets, weights = net.patch_offsets().numpy(), net.patch_weights().numpy()
    np.testing.assert_allclose(
        drawn.get_offsets(), offsets[:, ::-1], atol=1e-6
    )  # x is the column, y the row
    np.testing.assert_allclose(
        drawn.get_sizes() / drawn.get_sizes().max(), weights / weights.max(), rtol=1e-5
    )
    bottom, top = axis.get_ylim()
    assert bottom > 0 > top  # rows go down
    assert axis.get_aspect() == 1
    circles = [p for p in axis.patches if isinstance(p, Circle)]
    assert [c.radius for c in circles] == ([] if net.fixed else [net.radius])
    (square,) = (p for p in axis.patches if isinstance(p, Rectangle))
    assert square.get_bbox().bounds == (
        -net.field - 0.5,
        -net.field - 0.5,
        2 * net.field + 1,
        2 * net.field + 1,
    )
    assert axis.get_title().startswith(f"{len(offsets)} samples of ")
    figure.draw_without_rendering()


def test_patch_of_the_shipped_network(mlpatch):
    drawn = viz.patch(mlpatch).axes[0].collections[0]
    assert len(drawn.get_offsets()) == len(mlpatch.patch_offsets())


@pytest.mark.parametrize("member", ["samples", "colour", "features", "deformed"])
def test_patches_over_an_image(member):
    net = network(member)
    x = noise(1, net.channels, 20, 26)
    coords = torch.tensor([[3.0, 4.0], [10.5, 20.25]])
    figure = viz.patches_over(net, x, coords, 0.1)
    (axis,) = figure.axes
    where = net.patch_at(x, coords, 0.1)[0].numpy()
    assert len(axis.collections) == len(axis.lines) == 2
    for k in range(2):
        np.testing.assert_allclose(axis.collections[k].get_offsets(), where[k, :, ::-1], atol=1e-5)
        assert [v.item() for v in axis.lines[k].get_xydata()[0]] == [
            coords[k, 1].item(),
            coords[k, 0].item(),
        ]
    if not net.deform:
        np.testing.assert_allclose(
            where, coords[:, None].numpy() + net.patch_offsets().numpy(), atol=1e-5
        )
    shown = x[0, 0] if net.channels == 1 else x[0].permute(1, 2, 0)
    upright(axis, shown)
    left, right = axis.get_xlim()
    assert left <= where[..., 1].min()
    assert right >= where[..., 1].max()
    figure.draw_without_rendering()
    again = viz.patches_over(net, x, [(3, 4), (10.5, 20.25)], 0.1)
    np.testing.assert_array_equal(
        again.axes[0].collections[1].get_offsets(), axis.collections[1].get_offsets()
    )


def test_an_asymmetric_image_is_the_right_way_up():
    axis = viz.patches_over(network(), corner(), [(15, 18)], 0.1).axes[0]
    upright(axis, corner()[0, 0])


# ---- the receptive field


@pytest.mark.parametrize("member", MEMBERS)
def test_influence_is_the_row_of_the_jacobian(member):
    net = network(member).double()
    x = noise(1, net.channels, 9, 11).double()
    g = viz.influence(net, x, (4, 6), 0.1)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: net(v, 0.1)[0, :, 4, 6], x
    )  # C, 1, C, H, W
    torch.testing.assert_close(g, jacobian.square().sum(dim=(0, 1, 2)).sqrt())


@pytest.mark.parametrize("member", ["samples", "features", "colour"])
def test_receptive_field_is_zero_outside_the_stated_field(member):
    net = network(member)
    f, size = net.field, 2 * net.field + 12
    figure = viz.receptive_field(net, noise(1, net.channels, size, size + 4), (f + 3, f + 5), 0.1)
    axis = figure.axes[0]
    shown = axis.images[0].get_array()
    values = np.ma.filled(shown, 0.0)
    assert np.array_equal(np.ma.getmaskarray(shown), values == 0)
    outside = values.copy()
    outside[3 : 2 * f + 4, 5 : 2 * f + 6] = 0
    assert values.any()
    assert not outside.any()
    assert isinstance(axis.images[0].norm, LogNorm)
    (square,) = (p for p in axis.patches if isinstance(p, Rectangle))
    assert square.get_bbox().bounds == (4.5, 2.5, 2 * f + 1, 2 * f + 1)
    bottom, top = axis.get_ylim()
    assert bottom > top
    assert axis.get_aspect() == 1
    figure.draw_without_rendering()


def test_receptive_field_gives_the_share_of_the_energy_within_each_radius():
    net, x = network(), noise(1, 1, 24, 24)
    g = viz.influence(net, x, (11, 12), 0.1).double()
    rows, cols = torch.meshgrid(torch.arange(24.0) - 11, torch.arange(24.0) - 12, indexing="ij")
    shares = [float((g**2)[rows.hypot(cols) <= r].sum() / (g**2).sum()) for r in (2, 4, 8)]
    assert 0.1 < shares[0] < shares[1] < shares[2] == pytest.approx(1)
    title = viz.receptive_field(net, x, (11, 12), 0.1).axes[0].get_title()
    assert title.startswith("mlpatch at (11, 12)")
    assert re.findall(r"(\d): ([\d.]+) %", title) == [
        (str(r), f"{100 * s:.1f}") for r, s in zip((2, 4, 8), shares, strict=True)
    ]


def test_receptive_field_of_an_operator_known_by_hand():
    """D(x)(i, j) = 0.5 x(i, j) + 0.25 x(i - 3, j) + 0.1 x(i, j - 1): above and to the left, and so
    it is drawn.
    """
    D = as_denoiser(lambda x, s: 0.5 * x + 0.25 * x.roll(3, -2) + 0.1 * x.roll(1, -1))
    axis = viz.receptive_field(D, corner(), (10, 20), 0.1).axes[0]
    values = np.ma.filled(axis.images[0].get_array(), 0.0)
    expected = np.zeros((30, 36))
    expected[10, 20], expected[7, 20], expected[10, 19] = 0.5, 0.25, 0.1
    np.testing.assert_allclose(values, expected, atol=1e-7)
    assert not [p for p in axis.patches if isinstance(p, Rectangle)]  # no field is stated
    assert "2: 80.6 %, 4: 100.0 %" in axis.get_title()
    assert axis.get_xlim()[1] >= 23


@pytest.mark.parametrize("coord", [(0, 0), (0, 35), (29, 0), (29, 35)])
def test_receptive_field_at_the_corners(coord):
    axis = viz.receptive_field(network(), corner() + 0.1 * noise(1, 1, 30, 36), coord, 0.1).axes[0]
    bottom, top = axis.get_ylim()
    left, right = axis.get_xlim()
    assert -0.5 <= top < bottom <= 29.5
    assert -0.5 <= left < right <= 35.5


@pytest.mark.parametrize("name", ["tv", "unet", "ircnn"])
def test_receptive_field_of_other_denoisers(name):
    viz.receptive_field(
        denoisers.make(name), noise(1, 1, 24, 20), (12, 9), 0.05
    ).draw_without_rendering()


# ---- equivariance


GEOMETRIC = (
    "rotation 90",
    "rotation 180",
    "rotation 270",
    "flip left-right",
    "flip up-down",
    "transpose",
    "anti-transpose",
)


@pytest.mark.parametrize("symmetry", [*GEOMETRIC, (3, 5), (-2, 4), (0, 0), (1, -7)], ids=str)
def test_equivariance_error(symmetry):
    net, x = network(), noise(2, 1, 26, 31)
    shift = isinstance(symmetry, tuple)
    error = viz.equivariance_error(net, x, 0.1, symmetry)
    assert (
        error < 1e-5 if shift else error > 1e-2
    )  # MLPatch commutes with shifts, and random weights with nothing else
    assert viz.equivariance_error(equivariant(net), x, 0.1, symmetry) < 1e-5


def test_equivariance_error_by_hand():
    ramp = torch.linspace(0, 1, 20)
    D = as_denoiser(lambda x, s: x + ramp)  # g D(x) - D(g x) = flipped ramp - ramp
    x = noise(1, 1, 12, 20)
    expected = float((ramp - ramp.flip(0)).norm() / ramp.norm())
    assert viz.equivariance_error(D, x, 0.1, "flip left-right") == pytest.approx(expected, rel=1e-4)
    assert viz.equivariance_error(D, x, 0.1, "flip up-down") < 1e-6
    assert viz.equivariance_error(D, x, 0.1, (2, 0), border=0) < 1e-6
    part = ramp[3:-1]  # shifted by 2 to the right, without a border of 1
    moved = ramp[1:-3]
    expected = float((part - moved).norm() / moved.norm())
    assert viz.equivariance_error(D, x, 0.1, (0, 2), border=1) == pytest.approx(expected, rel=1e-4)
    assert viz.equivariance_error(as_denoiser(lambda x, s: x), x, 0.1, "transpose") == 0


def test_equivariance_error_moves_a_map_of_sigma():
    D = as_denoiser(lambda x, s: x * (1 - s), sigma="map")
    x, level = noise(1, 1, 14, 17), noise(1, 1, 14, 17)
    for symmetry in ("rotation 90", "flip up-down", (3, 2)):
        assert viz.equivariance_error(D, x, level, symmetry) == 0


def test_equivariance_figure():
    net, x = network(), corner() + 0.1 * noise(1, 1, 30, 36)
    figure = viz.equivariance(net, x, 0.1)
    axes = np.array(figure.axes).reshape(4, 3)
    y = net(x, 0.1)
    turn = x.rot90(1, (-2, -1))
    E = equivariant(net)
    f = net.field
    cut = (..., slice(3 + f, 30 - f), slice(5 + f, 36 - f))
    expected = [
        (net(x.roll((3, 5), (-2, -1)), 0.1)[cut], y.roll((3, 5), (-2, -1))[cut]),
        (net(turn.contiguous(), 0.1), y.rot90(1, (-2, -1))),
        (net(x.flip(-1), 0.1), y.flip(-1)),
        (E(turn, 0.1), E(x, 0.1).rot90(1, (-2, -1))),
    ]
    symmetries = [(3, 5), "rotation 90", "flip left-right", "rotation 90"]
    for line, (one, two), D, symmetry in zip(
        axes, expected, (net, net, net, E), symmetries, strict=True
    ):
        upright(line[0], one[0, 0].clamp(0, 1))
        upright(line[1], two[0, 0].clamp(0, 1))
        difference = line[2].images[0]
        np.testing.assert_allclose(
            np.asarray(difference.get_array()), (one - two)[0, 0].numpy(), atol=1e-6
        )
        low, high = difference.get_clim()
        assert low == -high
        error = viz.equivariance_error(D, x, 0.1, symmetry)
        assert line[2].get_title() == (
            f"relative error {error:.1e}" if error else "relative error 0"
        )
        assert len(line[2].child_axes) == 1  # the colour bar
    assert "equivariant(D)" in axes[3, 0].get_ylabel()
    figure.draw_without_rendering()


def test_equivariance_of_colour_and_of_a_plain_function():
    viz.equivariance(network("colour"), noise(1, 3, 24, 24), 0.1).draw_without_rendering()
    viz.equivariance(lambda x, sigma: 0.9 * x, noise(1, 1, 24, 24), 0.1).draw_without_rendering()


# ---- files


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_save(tmp_path, suffix, start):
    path = tmp_path / "new folder" / f"patch.{suffix}"
    viz.save(viz.patch(network()), path)
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing temporary is left


def test_a_saved_picture_is_whole_and_not_empty(tmp_path):
    viz.save(viz.equivariance(network(), corner(), 0.1), tmp_path / "a.png", dpi=60)
    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert picture.std() > 20
    assert picture.shape[1] == pytest.approx(9.4 * 60, abs=1)


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    figure = viz.patch(network())

    def broken(name, **settings):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(FileError, match="No space left on device"):
        viz.save(figure, path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.txt", "a"])
def test_save_refuses_formats_that_are_none(tmp_path, name):
    with pytest.raises(
        InputError, match=rf"save: cannot write '{name}'; the name must end in one of .*\.png"
    ):
        viz.save(viz.patch(network()), tmp_path / name)
    assert not list(tmp_path.iterdir())


# ---- what is refused


@pytest.mark.parametrize(
    "draw",
    [viz.patch, lambda D: viz.patches_over(D, corner(), [(3, 4)], 0.1)],
    ids=["patch", "patches_over"],
)
@pytest.mark.parametrize(
    "D", [lambda x, s: x, 3, as_denoiser(network())], ids=["function", "number", "wrapper"]
)
def test_only_networks_with_a_patch_have_their_patch_drawn(draw, D):
    with pytest.raises(
        InputTypeError,
        match=r"expected an MLPatch, which has a patch, got .*Give the network itself",
    ):
        draw(D)


X = corner()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: viz.patches_over(network(), X[0], [(3, 4)], 0.1),
            InputError,
            r"patches_over: the image must have shape \(B, C, H, W\)",
        ),
        (
            lambda: viz.patches_over(network(), X.repeat(2, 1, 1, 1), [(3, 4)], 0.1),
            InputError,
            r"patches_over: expected one image",
        ),
        (
            lambda: viz.patches_over(network(), X, [(3, 4, 5)], 0.1),
            InputError,
            r"coords must have shape \(Q, 2\).*got \(1, 3\)",
        ),
        (
            lambda: viz.patches_over(network(), X, (3, 4), 0.1),
            InputError,
            r"coords must have shape \(Q, 2\).*One place p is \[p\]",
        ),
        (lambda: viz.patches_over(network(), X, [], 0.1), InputError, "at least one"),
        (
            lambda: viz.patches_over(network(), X, "here", 0.1),
            InputTypeError,
            "patches_over: coords must be a tensor .* got str",
        ),
        (
            lambda: viz.patches_over(network(), X, [(40, 4)], 0.1),
            InputError,
            "coordinates must lie in",
        ),
        (
            lambda: viz.influence(network(), X, (3.5, 4), 0.1),
            InputTypeError,
            r"coord must be \(row, column\), two whole numbers",
        ),
        (lambda: viz.influence(network(), X, 3, 0.1), InputTypeError, "two whole numbers, got 3"),
        (
            lambda: viz.influence(network(), X, (30, 4), 0.1),
            InputError,
            r"row 0 to 29, column 0 to 35; got \(30, 4\)",
        ),
        (lambda: viz.influence(network(), X, (-1, 4), 0.1), InputError, r"got \(-1, 4\)"),
        (
            lambda: viz.influence(network(), X.repeat(2, 1, 1, 1), (3, 4), 0.1),
            InputError,
            r"Give x\[k : k \+ 1\]",
        ),
        (
            lambda: viz.influence(network(), noise(1, 3, 9, 9), (3, 4), 0.1),
            InputError,
            r"1 channel\(s\), the image has 3",
        ),
        (
            lambda: viz.influence(as_denoiser(lambda i, s: i, array="numpy"), X, (3, 4), 0.1),
            InputTypeError,
            "gives no gradients",
        ),
        (
            lambda: viz.influence(3, X, (3, 4), 0.1),
            InputTypeError,
            "expected a name or a callable, got int",
        ),
        (
            lambda: viz.influence(lambda x, s: x[..., 1:], X, (3, 4), 0.1),
            InputError,
            "expected shape",
        ),
        (
            lambda: viz.receptive_field(lambda x, s: 0 * x, X, (3, 4), 0.1),
            InputError,
            r"D\(x\) at \(3, 4\) does not depend on x",
        ),
        (
            lambda: viz.equivariance_error(network(), X, 0.1, "turn"),
            InputError,
            "symmetry must be one of .*'rotation 90'.* got 'turn'",
        ),
        (
            lambda: viz.equivariance_error(network(), X, 0.1, (0.5, 1)),
            InputError,
            "a shift by whole numbers",
        ),
        (
            lambda: viz.equivariance_error(network(), X, 0.1, (3, 5), border=-1),
            InputError,
            "border must be a whole number of pixels >= 0",
        ),
        (
            lambda: viz.equivariance_error(network(), X, 0.1, (3, 5), border=14),
            InputError,
            r"Give at least 32 x 34 pixels",
        ),
        (
            lambda: viz.equivariance(network(), X[..., :10, :], 0.1),
            InputError,
            r"nothing is left of 10 x 36 pixels.*Give at least 12 x 14",
        ),
        (
            lambda: viz.equivariance(network(), X.repeat(2, 1, 1, 1), 0.1),
            InputError,
            "equivariance: expected one image",
        ),
        (
            lambda: viz.equivariance(lambda x, s: x, noise(1, 2, 20, 20), 0.1),
            InputError,
            "only images of 1 or 3 channels can be drawn",
        ),
        (lambda: viz.equivariance(network(), X, 2.0), InputError, "above the trained range"),
        (
            lambda: viz.equivariance_error(lambda x, s: x[..., 1:], X, 0.1, "transpose"),
            InputError,
            "expected shape",
        ),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert isinstance(caught.value, PnPError)


def test_a_missing_matplotlib_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    net = network()
    for draw in (
        lambda: viz.patch(net),
        lambda: viz.patches_over(net, X, [(3, 4)], 0.1),
        lambda: viz.receptive_field(net, X, (3, 4), 0.1),
        lambda: viz.equivariance(net, X, 0.1),
    ):
        with pytest.raises(MissingPackage, match="pip install matplotlib"):
            draw()


def test_an_overstated_field_does_not_hide_what_is_outside():
    """The map shows all that has an influence, also where the denoiser states too small a field."""
    D = as_denoiser(lambda x, s: x + 0.5 * x.roll(6, -1))
    D.info = DenoiserInfo("wrong", field=2)  # type: ignore[attr-defined]
    axis = viz.receptive_field(D, noise(1, 1, 20, 30), (10, 15), 0.1).axes[0]
    left, right = axis.get_xlim()
    assert left < 9 < right


def test_no_state_of_pyplot_is_made():
    import matplotlib.pyplot as plt

    viz.patch(network())
    assert plt.get_fignums() == []
