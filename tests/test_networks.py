"""The networks of the talk: sizes, foreign state dicts with batch normalisation folded, files,
training by the one loop.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pnp_mlpatch import denoisers, training, weights
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import registry
from pnp_mlpatch.denoisers.drunet import DRUNet
from pnp_mlpatch.denoisers.unet import UNet
from pnp_mlpatch.errors import InputError, PnPError, WeightsError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.training import TrainConfig, train

NAMES = ("dncnn", "ircnn", "unet", "drunet")


def stack(*, inputs=1, depth=4, width=6, norm=True, dilations=None) -> nn.Sequential:
    """A plain published-style network: convolutions, batch normalisations with statistics of their
    own, ReLU.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    dilations = dilations or [1] * depth
    widths = [inputs, *[width] * (len(dilations) - 1), 1]
    for k, d in enumerate(dilations):
        layers.append(
            nn.Conv2d(
                widths[k],
                widths[k + 1],
                3,
                padding=d,
                dilation=d,
                bias=k in (0, len(dilations) - 1),
            )
        )
        if k < len(dilations) - 1:
            if norm and k:
                bn = nn.BatchNorm2d(width)
                nn.init.normal_(bn.weight, 1, 0.3)
                nn.init.normal_(bn.bias, 0, 0.3)
                bn.running_mean.normal_(0, 0.2)
                bn.running_var.uniform_(0.5, 2)
                layers.append(bn)
            layers.append(nn.ReLU())
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("norm", [True, False])
def test_a_published_dncnn_is_read_and_its_norms_are_folded(tmp_path, norm, ending):
    net = stack(norm=norm)
    path = tmp_path / f"net.{ending}"
    state = {f"model.{name}": t for name, t in net.state_dict().items()}
    if ending == "pth":
        torch.save({"state_dict": state}, path)
    else:
        from safetensors.torch import save_file

        save_file(state, str(path))
    D = denoisers.make("dncnn", weights=path)
    x = torch.rand(2, 1, 13, 17)
    with torch.no_grad():
        assert torch.allclose(D(x, 0.1), x - net(x), atol=1e-5)
    assert D.info.sigma == "ignored"
    assert D.field == 4
    assert not any(isinstance(m, nn.BatchNorm2d) for m in D.modules())


def test_more_than_nine_layers_keep_their_order(tmp_path):
    net = stack(depth=12, norm=False)
    torch.save(net.state_dict(), tmp_path / "deep.pth")
    x = torch.rand(1, 1, 9, 9)
    with torch.no_grad():
        assert torch.allclose(
            denoisers.make("dncnn", weights=tmp_path / "deep.pth")(x, 0.1), x - net(x), atol=1e-5
        )


def test_a_sigma_map_and_a_direct_output_are_told_from_the_shapes(tmp_path):
    net = stack(inputs=2, norm=False)
    torch.save(net.state_dict(), tmp_path / "fdncnn.pth")
    D = denoisers.make("dncnn", weights=tmp_path / "fdncnn.pth")
    x = torch.rand(2, 1, 9, 8)
    with torch.no_grad():
        expected = net(torch.cat([x, torch.full_like(x, 0.3)], dim=1))
        assert torch.allclose(D(x, 0.3), expected, atol=1e-6)
        residual = denoisers.make("dncnn", weights=tmp_path / "fdncnn.pth", residual=True)
        assert torch.allclose(residual(x, 0.3), x - expected, atol=1e-6)
    assert D.info.sigma == "input"


def test_a_published_ircnn_is_read(tmp_path):
    net = stack(dilations=[1, 2, 3, 4, 3, 2, 1])
    torch.save(net.state_dict(), tmp_path / "ircnn.pth")
    D = denoisers.make("ircnn", weights=tmp_path / "ircnn.pth")
    x = torch.rand(1, 1, 20, 21)
    with torch.no_grad():
        assert torch.allclose(D(x, 0.1), x - net(x), atol=1e-5)
    assert D.field == 16
    torch.save(stack().state_dict(), tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"ircnn: expected 7 convolutions, .* has 4"):
        denoisers.make("ircnn", weights=tmp_path / "short.pth")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            {"a.weight": torch.ones(4, 3, 3, 3), "b.weight": torch.ones(1, 4, 3, 3)},
            "image .and sigma map. in, image out",
        ),
        (
            {"a.weight": torch.ones(4, 1, 5, 5), "b.weight": torch.ones(1, 4, 3, 3)},
            "expected 3 x 3 convolutions",
        ),
        ({"a.weight": torch.ones(4, 4)}, "neither a convolution nor a batch normalisation"),
        ({"a.bias": torch.ones(4)}, "not a plain stack of convolutions"),
        ({}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
    ],
)
def test_foreign_weights_that_do_not_fit(tmp_path, state, words):
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=f"dncnn: .*{words}"):
        denoisers.make("dncnn", weights=tmp_path / "other.pth")


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_damaged_weights(name, tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"garbage")
    (tmp_path / "bad.safetensors").write_bytes(b"garbage")
    for path in ("none.pth", "bad.pth", "bad.safetensors"):
        with pytest.raises(WeightsError, match=path.partition(".")[0]):
            denoisers.make(name, weights=tmp_path / path)


def test_the_sizes_of_the_talk():
    def count(net):
        return sum(p.numel() for p in net.parameters())

    assert count(DRUNet(nc=(32, 64, 128, 256))) == pytest.approx(8.16e6, rel=0.01)
    assert count(DRUNet()) == pytest.approx(32.6e6, rel=0.01)
    assert count(UNet()) == pytest.approx(8.5e6, rel=0.1)
    assert count(registry.network("dncnn")(conditional=False)) == pytest.approx(0.556e6, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(96, 80), (57, 43)])
def test_shipped_networks_denoise(name, shape, photo):
    """Better than they came, on sizes that 8 does not divide too; the card says at what size they
    were trained.
    """
    D = denoisers.make(name)
    clean = photo[..., : shape[0], : shape[1]]
    for level in (15, 50):
        noisy = clean + level / 255 * torch.randn(
            clean.shape, generator=torch.Generator().manual_seed(level)
        )
        assert float(psnr(D(noisy, level / 255), clean)) > float(psnr(noisy, clean)) + 4
    assert D.card["trained_size"] == [128, 128]
    assert D.card["scores"]["BSD68_gray"]["psnr_25"] > 28
    assert weights.locate(f"{name}-grey").stat().st_size < 4e6


@pytest.mark.parametrize("name", ["mlpatch", *NAMES])
def test_one_loop_trains_them_all(name, tmp_path):
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 255, (24, 26), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    model = registry.network(name).example().config
    config = TrainConfig(
        data=str(tmp_path),
        out=str(tmp_path / "run"),
        denoiser=name,
        model=model,
        size=16,
        crop=8,
        batch=2,
        steps=3,
        warmup=1,
        card={"note": "tiny"},
    )
    path = train(config, progress=False)
    D = denoisers.make(name, weights=path)
    assert type(D).kind == name
    assert D.card["note"] == "tiny"
    assert D.config == model
    x = torch.rand(1, 1, 11, 9)
    assert torch.isfinite(D(x, 0.1)).all()


def test_what_cannot_be_trained_or_made():
    with pytest.raises(InputError, match=r"'tv' cannot be trained. Trainable: .*mlpatch"):
        registry.network("tv")
    for name, bad in (
        ("dncnn", {"depth": 1}),
        ("ircnn", {"width": 0}),
        ("unet", {"widths": (4,)}),
        ("drunet", {"nc": (4, 4)}),
    ):
        with pytest.raises(PnPError, match=registry.network(name).__name__):
            registry.network(name)(**bad)


RECIPES = sorted((Path(training.__file__).parent / "recipes").glob("*.toml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipes_run(recipe, tmp_path):
    """Every recipe, at full width, for one step on the CPU."""
    pixels = np.random.default_rng(0).integers(0, 255, (215, 214, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    config = TrainConfig.from_toml(recipe)
    assert config.size == 128
    small = replace(
        config,
        data=str(tmp_path),
        validation=None,
        window=None,
        out=str(tmp_path / "run"),
        steps=1,
        batch=1,
        crop=16,
    )
    card = weights.load(train(replace(small, device="cpu"), progress=False), kind=config.denoiser)[
        2
    ]
    level = 0.35 if recipe.stem.startswith("mlpatch-kappa") else 60 / 255  # mass maps, pictures
    assert card["sigma_range"] == [
        0.0,
        pytest.approx(0.0 if config.task == "upscale" else level),
    ]
    assert card["licence"].startswith("MIT")


def test_every_shipped_name_has_its_recipe():
    assert {p.stem for p in RECIPES} >= set(weights.manifest())
    for name in weights.manifest():
        tensors, config, card = weights.load(
            weights.locate(name), kind=weights.manifest()[name]["kind"]
        )
        recipe = TrainConfig.from_toml(next(p for p in RECIPES if p.stem == name))
        assert (
            config
            == registry.network(recipe.denoiser)(
                **{"sigma_max": recipe.sigma_max, **recipe.model}
            ).config
        )
        assert (card["steps"], card["seed"]) == (recipe.steps, recipe.seed)
        assert card["parameters"] == sum(t.numel() for t in tensors.values())


def test_downloaded_weights_are_read_without_running_code(tmp_path, monkeypatch):
    """deepinv's own download unpickles whatever comes."""
    trace = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (trace,)

    torch.save({"m_head.weight": Evil()}, tmp_path / "evil.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    utils = require("deepinv.models.utils", "a test")
    monkeypatch.setattr(
        utils, "get_weights_url", lambda model_name, file_name: (tmp_path / "evil.pth").as_uri()
    )
    for _ in range(2):  # from the network, from the cache
        with pytest.raises(
            WeightsError,
            match=r"drunet: .*drunet_deepinv_gray_finetune_26k.pth is not a readable state dict",
        ):
            denoisers.make("drunet", weights="download")
        assert not trace.exists()
    monkeypatch.setattr(
        utils, "get_weights_url", lambda model_name, file_name: (tmp_path / "none.pth").as_uri()
    )
    with pytest.raises(
        WeightsError,
        match=r"the published weights could not be downloaded .*Give the path of a local file "
        r"instead",
    ):
        denoisers.make("drunet", weights="download", channels=3)


def test_a_flipped_bit_in_foreign_weights_is_seen(tmp_path):
    path = tmp_path / "d.pth"
    torch.save(
        nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3)
        ).state_dict(),
        path,
    )
    denoisers.make("dncnn", weights=path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda member: member.file_size)
    content[largest.header_offset + 200] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"not a readable state dict .*the checksum of .* is another"
    ):
        denoisers.make("dncnn", weights=path)


def test_pipes_are_no_weights(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(PnPError, match="expected a file, got a pipe"):
            denoisers.make("dncnn", weights=tmp_path / name)
