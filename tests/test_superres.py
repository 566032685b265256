"""Upscaling: no shift at any factor, the same numbers however it is cut; LIIF, which it is compared
to, and the benchmark itself.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pnp_mlpatch.denoisers import registry
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.images import read_image
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.training.sources import read_folder
from pnp_mlpatch.training.validation import validate_upscale

MEMBERS = {
    "samples": {"radius": 2.5, "rings": 2, "angles": 6, "width": 12, "depth": 2},
    "features": {"square": 3, "features": 8, "dilations": (1, 2), "width": 12, "depth": 2},
}
FACTORS = (1.5, 2, 2.5, 3, 8)


def network(member, residual=0.2, **config):
    """Random weights; ``residual`` is the size of those of the last layer, 0 leaves bicubic
    interpolation.
    """
    torch.manual_seed(0)
    net = MLPatch(**MEMBERS[member], sigma_max=0.0, **config)
    torch.nn.init.normal_(net.last, std=residual)
    for layer in (*net.stem, *net.layers):
        torch.nn.init.normal_(layer.bias, std=0.2)
    return net.eval().requires_grad_(False)


def noise(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def fine(n, factor):
    """Where the fine pixels lie, in coarse pixels."""
    return (torch.arange(math.floor(n * factor + 1e-9), dtype=torch.float64) + 0.5) / factor - 0.5


def places(height, width, factor):
    return torch.stack(
        torch.meshgrid(fine(height, factor), fine(width, factor), indexing="ij"), dim=-1
    ).reshape(-1, 2)


def centre_of_mass(image, factor):
    """Of an image (1, 1, H, W) on a background of one value, in coarse pixels."""
    weight = image[0, 0].double() - float(image[0, 0, 0, 0])
    rows, cols = ((torch.arange(n, dtype=torch.float64) + 0.5) / factor - 0.5 for n in weight.shape)
    return torch.stack([(weight.sum(1) * rows).sum(), (weight.sum(0) * cols).sum()]) / weight.sum()


def blob(row, col, size=32, spread=2.5):
    axis = torch.arange(float(size))
    return (
        0.8
        * torch.exp(-((axis[:, None] - row) ** 2 + (axis - col) ** 2) / (2 * spread**2))[None, None]
    )


# ---- MLPatch


@settings(deadline=None, max_examples=30)
@given(
    st.integers(4, 24),
    st.integers(4, 24),
    st.sampled_from(FACTORS),
    st.sampled_from(sorted(MEMBERS)),
)
def test_without_residual_it_is_bicubic_interpolation_with_half_pixel_centres(
    height, width, factor, member
):
    x = noise(2, 1, height, width, seed=height * 25 + width)
    y = network(member, residual=0.0).upscale(x, factor)
    expected = F.interpolate(x, scale_factor=factor, mode="bicubic", align_corners=False)
    assert y.shape == expected.shape
    rows, cols = (
        (p >= 1) & (p <= n - 2)
        for p, n in ((fine(height, factor), height), (fine(width, factor), width))
    )
    assert (y - expected)[:, :, rows][
        ..., cols
    ].abs().max() < 1e-5  # at the border torch repeats, MLPatch reflects


@settings(deadline=None, max_examples=20)
@given(
    st.floats(13, 18), st.floats(13, 18), st.sampled_from(FACTORS), st.sampled_from(sorted(MEMBERS))
)
def test_the_centre_of_a_blob_stays(row, col, factor, member):
    x = blob(row, col)
    plain = network(member, residual=0.0).upscale(x, factor)
    assert (centre_of_mass(plain, factor) - torch.tensor([row, col])).abs().max() < 0.02
    net = network(
        member, residual=0.02
    )  # random, so it moves the blob: by as much on the fine grid as on the coarse one
    assert (net(x, 0.0) - x).abs().max() > 0.005
    assert (
        centre_of_mass(net.upscale(x, factor), factor) - centre_of_mass(net(x, 0.0), 1)
    ).abs().max() < 0.02


@pytest.mark.parametrize("member", MEMBERS)
def test_factor_one_and_the_middles_of_odd_factors_are_the_grid_form(member):
    net, x = network(member), noise(2, 1, 13, 18)
    y = net(x, 0.0)
    assert (y - x).abs().max() > 0.02
    assert (net.upscale(x, 1) - y).abs().max() < 1e-5
    for factor in (3, 5):
        middle = factor // 2
        assert (net.upscale(x, factor)[..., middle::factor, middle::factor] - y).abs().max() < 1e-5


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("factor", [2, 2.5])
def test_tiles_do_not_show(member, factor):
    x = noise(2, 1, 23, 30)
    assert (
        network(member, tile=7).upscale(x, factor) - network(member, tile=1000).upscale(x, factor)
    ).abs().max() < 1e-5


@pytest.mark.parametrize("member", MEMBERS)
def test_coordinates_of_each_image_or_of_all(member):
    net, x = network(member), noise(3, 1, 12, 15)
    coords = places(12, 15, 2)
    shared = net.at(x, coords)
    assert (net.at(x, coords.expand(3, -1, -1)) - shared).abs().max() < 1e-5
    order = torch.stack(
        [torch.randperm(len(coords), generator=torch.Generator().manual_seed(k)) for k in range(3)]
    )
    each = net.at(x, coords[order])
    for k in range(3):
        assert (each[k] - shared[k, :, order[k]]).abs().max() < 1e-5


@pytest.mark.parametrize("factor", [0.5, 0, -2, math.nan, math.inf, "2", None, True])
def test_bad_factors(factor):
    with pytest.raises(InputError, match=r"MLPatch.upscale: factor must be a number >= 1, got "):
        network("features").upscale(noise(1, 1, 8, 8), factor)


def test_bad_images():
    net = network("features")
    with pytest.raises(
        InputError, match=r"MLPatch.upscale: this denoiser has 1 channel\(s\), the image has 3"
    ):
        net.upscale(noise(1, 3, 8, 8), 2)
    with pytest.raises(InputError, match="no empty axis"):
        net.upscale(noise(8, 8), 2)
    with pytest.raises(InputTypeError, match="must be a torch tensor"):
        net.upscale(np.zeros((1, 1, 8, 8)), 2)
    with pytest.raises(InputTypeError, match="must be float32 or float64"):
        net.upscale(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 2)


# ---- LIIF


@pytest.fixture(scope="module")
def liif():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        import liif

        yield liif


@pytest.fixture
def registered(liif, monkeypatch):
    """LIIF is known to training, until the test is over."""
    for name in ("_made", "_needs", "_networks"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    return registry.register("liif", network=liif.LIIF)(liif.LIIF)


def small(liif, seed=0, **config):
    torch.manual_seed(seed)
    return (
        liif.LIIF(**{"width": 8, "blocks": 2, "hidden": (16, 16, 16), **config})
        .eval()
        .requires_grad_(False)
    )


def test_liif_has_the_published_size(liif):
    for channels in (1, 3):
        assert 1.5e6 < sum(p.numel() for p in liif.LIIF(channels).parameters()) < 1.6e6
    encoder = liif.LIIF(3)
    assert sum(
        p.numel() for part in (encoder.head, encoder.blocks) for p in part.parameters()
    ) == pytest.approx(1.22e6, rel=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_liif_is_the_formula_of_the_paper(liif, channels):
    """By hand: unfolded codes, one linear layer on code, distance and cell, areas of the opposite
    rectangles.
    """
    net, x = small(liif, channels=channels), noise(1, channels, 9, 11)
    features = net.head(2 * x - 1)
    features = features + net.blocks(features)
    codes = F.unfold(features, 3, padding=1).reshape(1, -1, 9, 11)
    weight = torch.cat([net.code.weight.flatten(1), net.place.weight], dim=1)
    for p in ([3.2, 4.9], [0.0, 7.5], [6.75, 0.1]):
        expected, areas = torch.zeros(channels), 0.0
        for i in (math.floor(p[0]), math.floor(p[0]) + 1):
            for j in (math.floor(p[1]), math.floor(p[1]) + 1):
                # in the paper the image is [-1, 1]^2: a pixel is 2 / H wide, and distances and cell
                # are multiplied by H
                place = torch.tensor([2 * (p[0] - i), 2 * (p[1] - j), 2 / 3, 2 / 3])
                h = F.linear(torch.cat([codes[0, :, i, j], place]), weight, net.code.bias)
                for layer in net.layers:
                    h = layer(h.relu())
                opposite = (2 * math.floor(p[0]) + 1 - i, 2 * math.floor(p[1]) + 1 - j)
                area = abs(p[0] - opposite[0]) * abs(p[1] - opposite[1])
                expected, areas = expected + area * (0.5 * h + 0.5), areas + area
        assert areas == pytest.approx(1)
        assert (net.at(x, torch.tensor([p]), factor=3)[0, :, 0] - expected).abs().max() < 1e-5


@given(st.floats(-0.5, 50, width=32), st.floats(-0.5, 50, width=32))
def test_the_ensemble_is_an_average(liif, row, col):
    corners, weights = zip(
        *liif.neighbours(torch.tensor([[row, col]], dtype=torch.float64)), strict=True
    )
    assert all(0 <= float(weight) <= 1 for weight in weights)
    assert float(sum(weights)) == pytest.approx(1)
    mean = sum(weight * corner for weight, corner in zip(weights, corners, strict=True))
    assert mean.flatten().tolist() == pytest.approx([row, col], abs=1e-9)


@pytest.mark.parametrize("boundary", [0.0, 0.5, 4.0, 4.5, 8.0])
def test_liif_is_continuous_where_the_codes_change(liif, boundary):
    net, x = small(liif), noise(1, 1, 9, 10)
    across = torch.linspace(-0.4, 9.4, 50)
    for axis in (0, 1):
        sides = [
            torch.stack(
                [torch.full_like(across, boundary + step), across.clamp(-0.5, 8.4 + axis)], dim=-1
            )
            for step in (-1e-5, 1e-5)
        ]
        before, after = (net.at(x, side.flip(-1) if axis else side) for side in sides)
        assert float(before.std()) > 1e-3
        assert (before - after).abs().max() < 1e-3


@pytest.mark.parametrize("factor", FACTORS)
def test_liif_does_not_shift(liif, factor):
    """With the bilinear image added and nothing from the MLP, it is torch's interpolation, borders
    too.
    """
    net, x = small(liif, channels=3, skip=True), noise(2, 3, 9, 12)
    for values in net.layers[-1].parameters():
        values.zero_()
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert (net.upscale(x, factor) - expected).abs().max() < 1e-5


def test_liif_at_coordinates_of_each_image_or_of_all(liif):
    net, x = small(liif), noise(3, 1, 8, 9)
    coords = 7 * noise(3, 40, 2)
    each = net.at(x, coords)
    assert each.shape == (3, 1, 40)
    for k in range(3):
        assert (net.at(x, coords[k])[k] - each[k]).abs().max() < 1e-5
        assert (net.at(x[k : k + 1], coords[k], chunk=7)[0] - each[k]).abs().max() < 1e-5
    assert net(x, 0.0).shape == x.shape
    with pytest.raises(InputError, match=r"coords must have shape \(Q, 2\) or \(3, Q, 2\)"):
        net.at(x, coords[:2])
    with pytest.raises(InputError, match="factor must be a number >= 1"):
        net.upscale(x, 0.5)


@pytest.fixture
def pictures(tmp_path):
    rows, cols = np.mgrid[:64, :72]
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        picture = (
            128
            + 60 * np.sin(rows / (3 + k)) * np.cos(cols / (7 - k))
            + 50 * ((rows - 14) ** 2 + (cols - 9 * k) ** 2 < 90)
        )
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(
            tmp_path / "pictures" / f"{k}.png"
        )
    return tmp_path / "pictures"


def test_liif_learns(registered, pictures, tmp_path):
    config = TrainConfig(
        data=str(pictures),
        out=str(tmp_path / "out"),
        validation=str(pictures),
        denoiser="liif",
        task="upscale",
        sigma_max=0,
        model={"width": 8, "blocks": 1, "hidden": [16, 16]},
        size=24,
        batch=4,
        queries=64,
        steps=30,
        warmup=3,
        lr=1e-2,
        ema=0.8,
        validate_every=15,
    )
    path = train(config, progress=False)
    log = np.genfromtxt(tmp_path / "out" / "log.csv", delimiter=",", names=True)
    assert (
        log["loss"][1] < 0.9 * log["loss"][0]
    )  # a running average that starts at the first loss: the last one is far lower
    net, images = registered.load(path), read_folder(pictures, 1, 1)
    torch.manual_seed(config.seed)
    start, end = validate_upscale(registered(**config.model), images), validate_upscale(net, images)
    assert end["psnr_x2"] == pytest.approx(log["psnr_x2"][1], abs=1e-4)
    assert all(end[name] > start[name] + 2 for name in end)
    assert net.card["task"] == "upscale"
    longer = train(
        replace(config, out=str(tmp_path / "again"), init=str(path), model={}, steps=1),
        progress=False,
    )
    assert registered.load(longer).config == net.config


def test_the_benchmark(registered, pictures, tmp_path, monkeypatch, capsys):
    """It trains both networks, prints and writes the table, and draws; a second run takes the
    weights of the first.
    """
    import superres

    threads = torch.get_num_threads()
    line = [
        "superres.py",
        "--quick",
        "--test",
        str(pictures),
        "--out",
        str(tmp_path / "out"),
        "--json",
        str(tmp_path / "a.json"),
    ]
    printed = []
    try:
        for more in (["--train", str(pictures)], []):
            monkeypatch.setattr(sys, "argv", [*line, *more])
            superres.main()
            printed.append(capsys.readouterr().out)
    finally:
        torch.set_num_threads(threads)
    assert [text.count("s a step, 4 steps") for text in printed] == [2, 0]
    (rows,) = json.loads((tmp_path / "a.json").read_text())["tables"].values()
    assert [row[""] for row in rows] == ["bilinear", "bicubic", "LIIF", "MLPatch"]
    assert rows[3]["x2 (dB)"] == pytest.approx(
        rows[1]["x2 (dB)"], abs=3
    )  # four steps from bicubic interpolation
    assert read_image(tmp_path / "out" / "superres_pictures.png").shape[1] == 3
