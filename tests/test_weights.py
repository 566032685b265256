"""Weights files: what was saved comes back; anything else is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from pnp_mlpatch import denoisers, weights
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import FileError, PnPError, WeightsError

CARD = {
    "data": "six pictures",
    "licence": "CC0",
    "trained_size": [32, 32],
    "scores": {"psnr_25": 29.5},
}


def tiny(**settings) -> MLPatch:
    torch.manual_seed(0)
    net = MLPatch(**{"width": 8, "rings": 2, "angles": 4, "radius": 2.0, "depth": 2, **settings})
    torch.nn.init.normal_(net.last, std=0.05)
    return net


@pytest.fixture
def path(tmp_path):
    tiny().save(tmp_path / "tiny.safetensors", CARD)
    return tmp_path / "tiny.safetensors"


@pytest.mark.parametrize(
    "settings", [{}, {"channels": 3, "sigma_max": 0.5, "radius": 1.25, "depth": 1, "width": 5}]
)
def test_round_trip(settings, tmp_path):
    net = tiny(**settings)
    net.save(tmp_path / "new" / "a.safetensors", CARD)
    back = MLPatch.load(tmp_path / "new" / "a.safetensors")
    assert back.config == net.config
    assert back.card == CARD
    assert back.info.trained_size == (32, 32)
    assert not back.training
    assert not any(p.requires_grad for p in back.parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    x = torch.rand(2, net.channels, 9, 7)
    with torch.no_grad():  # else the activations of ``net`` are applied by themselves
        assert torch.equal(back(x, 0.1), net(x, 0.1))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_a_path_is_a_plugin_setting(path):
    x = torch.rand(1, 1, 9, 7)
    for weights_setting in (path, str(path)):
        D = denoisers.make("mlpatch", weights=weights_setting, tile=8)
        assert D.tile == 8
        torch.testing.assert_close(D(x, 0.1), tiny()(x, 0.1))


@pytest.mark.parametrize("tile", [0, 2.5])
def test_a_tile_that_cannot_be(tile, path):
    with pytest.raises(PnPError, match=f"tile must be an integer >= 1, got {tile}"):
        denoisers.make("mlpatch", weights=path, tile=tile)


def test_weights_of_float64_and_strided_tensors(tmp_path):
    tensors = {
        name: tensor.double().t().contiguous().t() if tensor.ndim == 2 else tensor
        for name, tensor in tiny().state_dict().items()
    }
    weights.save(tmp_path / "a", tensors, kind="mlpatch", config=tiny().config, card={})
    x = torch.rand(1, 1, 9, 7)
    with torch.no_grad():
        assert torch.equal(MLPatch.load(tmp_path / "a")(x, 0.1), tiny()(x, 0.1))


def rewrite(path, *, tensors=None, **header) -> None:
    """Write the file again with other tensors or header entries; None leaves an entry out."""
    old = {
        "kind": "mlpatch",
        "config": json.dumps(tiny().config),
        "card": json.dumps(CARD),
    } | header
    save_file(
        tiny().state_dict() if tensors is None else tensors,
        path,
        metadata={k: v for k, v in old.items() if v is not None},
    )


def config(**changes) -> str:
    return json.dumps(tiny().config | changes)


def with_nan() -> dict[str, torch.Tensor]:
    state = {name: tensor.clone() for name, tensor in tiny().state_dict().items()}
    state["last"][0, 3] = torch.nan
    return state


NOT_WHOLE = r"not a whole safetensors file \(.*\). Save or copy it again"
NO_FIT = "these weights do not fit (an )?MLPatch of this version"
SPOILT = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), NOT_WHOLE),
    "truncated header": (lambda p: p.write_bytes(p.read_bytes()[:100]), NOT_WHOLE),
    "empty": (lambda p: p.write_bytes(b""), NOT_WHOLE),
    "garbage": (lambda p: p.write_bytes(b"\x80garbage" * 1000), NOT_WHOLE),
    "text": (lambda p: p.write_text("weights"), NOT_WHOLE),
    "pickle": (lambda p: torch.save(tiny().state_dict(), p), NOT_WHOLE),
    "missing": (lambda p: p.unlink(), "no such file|neither a weights file nor a shipped name"),
    "kind": (lambda p: rewrite(p, kind="unet"), "expected weights of kind 'mlpatch', got 'unet'"),
    "no kind": (
        lambda p: rewrite(p, kind=None),
        "expected weights of kind 'mlpatch', got 'a file without a kind'",
    ),
    "no header": (
        lambda p: save_file(tiny().state_dict(), p),
        "expected weights of kind 'mlpatch', got 'a file without a kind'",
    ),
    "no config": (lambda p: rewrite(p, config=None), "config"),
    "config is no JSON": (lambda p: rewrite(p, config="{"), "config|header"),
    "config is a list": (lambda p: rewrite(p, config="[1]"), NO_FIT),
    "card is a list": (lambda p: rewrite(p, card="[1]"), "card|header"),
    "no card": (lambda p: rewrite(p, card=None), "card"),
    "NaN": (
        lambda p: rewrite(p, tensors=with_nan()),
        "tensor 'last' holds values that are not finite",
    ),
    "other width": (lambda p: rewrite(p, config=config(width=9)), NO_FIT + ".*size mismatch"),
    "impossible width": (
        lambda p: rewrite(p, config=config(width=0)),
        NO_FIT + ".*width must be an integer >= 1, got 0",
    ),
    "text for a number": (lambda p: rewrite(p, config=config(radius="wide")), NO_FIT),
    "unknown setting": (lambda p: rewrite(p, config=config(height=3)), NO_FIT + ".*height"),
    "tensor missing": (
        lambda p: rewrite(p, tensors={"first": torch.ones(8, 1, 8)}),
        NO_FIT + ".*Missing key",
    ),
    "tensor too many": (
        lambda p: rewrite(p, tensors=tiny().state_dict() | {"more": torch.ones(1)}),
        NO_FIT + ".*Unexpected key",
    ),
}


@pytest.mark.parametrize(
    "load",
    [MLPatch.load, lambda path: denoisers.make("mlpatch", weights=path)],
    ids=["load", "make"],
)
@pytest.mark.parametrize("case", SPOILT)
def test_refused(case, load, path):
    spoil, words = SPOILT[case]
    spoil(path)
    with pytest.raises(WeightsError, match=f"(?s){words}") as caught:
        load(path)
    assert "tiny.safetensors" in str(caught.value)


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(WeightsError, match=NOT_WHOLE):
        MLPatch.load(tmp_path)
    with pytest.raises(WeightsError, match="neither a weights file nor a shipped name"):
        weights.locate(tmp_path)


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(file, content):
        with open(file, "wb") as half:
            half.write(content[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        tiny().save(path, CARD)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_equal_weights_make_equal_files(tmp_path):
    for name in ("a", "b", "c"):
        tiny().save(tmp_path / name, CARD)
    assert (
        (tmp_path / "a").read_bytes()
        == (tmp_path / "b").read_bytes()
        == (tmp_path / "c").read_bytes()
    )


def test_saved_files_are_readable_by_others(path):
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- shipped weights


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped weights with one entry, "small"."""
    monkeypatch.setattr(weights, "DIRECTORY", tmp_path)
    tiny().save(tmp_path / "small.safetensors", CARD)
    (tmp_path / "manifest.toml").write_text(
        '[small]\nfile = "small.safetensors"\nsha256 = '
        f'"{weights.sha256(tmp_path / "small.safetensors")}"\n'
    )
    return tmp_path


def test_shipped_weights_are_found_by_name(shipped):
    assert list(weights.manifest()) == ["small"]
    assert weights.locate("small") == shipped / "small.safetensors"
    assert denoisers.make("mlpatch", weights="small").card == CARD


def test_unknown_names_list_the_shipped_ones(shipped):
    with pytest.raises(
        WeightsError, match=r"'smal' is neither a weights file nor a shipped name. .*Shipped: small"
    ):
        denoisers.make("mlpatch", weights="smal")
    (shipped / "manifest.toml").unlink()
    with pytest.raises(
        WeightsError, match=r"'small' is neither a weights file nor a shipped name. .*Shipped: none"
    ):
        weights.locate("small")


@pytest.mark.parametrize("name", [None, 3])
def test_names_are_strings_or_paths(name, shipped):
    with pytest.raises(
        WeightsError, match=f"{name}.* is neither a weights file nor a shipped name|weights must be"
    ):
        denoisers.make("mlpatch", weights=name)


def test_a_changed_file_is_refused(shipped):
    with (shipped / "small.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(
        WeightsError,
        match=r"small.safetensors: sha256 differs from the manifest.*Reinstall the package",
    ):
        weights.locate("small")


def test_a_lost_file_is_refused(shipped):
    (shipped / "small.safetensors").unlink()
    with pytest.raises(
        WeightsError,
        match=r"small.safetensors: the shipped weights 'small' are missing. Reinstall the package",
    ):
        weights.locate("small")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"[small", "not valid TOML"), (b"\xff\xfe", "cannot be read .*Check the path")],
)
def test_a_damaged_manifest_is_refused(content, words, shipped):
    (shipped / "manifest.toml").write_bytes(content)
    with pytest.raises(FileError, match=f"manifest.toml: {words}"):
        weights.locate("small")
