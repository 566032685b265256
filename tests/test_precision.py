"""Denoisers in bfloat16: near to float32, refused where the device lacks it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from pnp_mlpatch import denoisers, reconstruct
from pnp_mlpatch.denoisers import _precision, fingerprint, in_precision
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.mask import Mask

need_bfloat16 = pytest.mark.skipif(
    not _precision.has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16"
)


@need_bfloat16
@pytest.mark.parametrize("channels", [1, 3])
def test_bfloat16_is_near_to_float32_and_keeps_the_dtype(channels, photo):
    x = photo[..., 40:104, 30:94].repeat(1, channels, 1, 1)
    y = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    exact = denoisers.make("mlpatch")(y, 0.1)
    low = denoisers.make("mlpatch", precision="bfloat16")
    for image in (y, y.double()):
        result = low(image, 0.1)
        assert result.dtype == image.dtype
        assert 0 < (result - exact).abs().max() < 0.02
        assert (result - exact).square().mean().sqrt() < 0.002
    assert low.chosen == {"cpu": "bfloat16"}


@need_bfloat16
def test_bfloat16_does_not_depend_on_tiles(photo):
    y = photo[..., :70, :90]
    one, two = (denoisers.make("mlpatch", precision="bfloat16", tile=tile) for tile in (1000, 32))
    assert (one(y, 0.1) - two(y, 0.1)).abs().max() < 4e-3


def test_auto_takes_what_is_faster(monkeypatch, photo):
    y = photo[..., :20, :20]
    monkeypatch.setattr(_precision, "has_bfloat16", lambda device: True)
    for seconds, taken in ((0.5, "bfloat16"), (0.9, "float32")):
        D = denoisers.make("mlpatch", precision="auto")
        monkeypatch.setattr(
            in_precision, "_seconds", lambda self, x, s, p, t=seconds: t if p != "float32" else 1.0
        )
        D(y, torch.full((1,), 0.1))
        assert D.chosen == {"cpu": taken}


def test_without_bfloat16_auto_is_float32_and_bfloat16_is_refused(monkeypatch, photo):
    y = photo[..., :20, :20]
    monkeypatch.setattr(_precision, "has_bfloat16", lambda device: False)
    D = denoisers.make("mlpatch", precision="auto")
    assert torch.equal(D(y, 0.1), denoisers.make("mlpatch")(y, 0.1))
    with pytest.raises(InputError, match="does not compute in bfloat16"):
        denoisers.make("mlpatch", precision="bfloat16")(y, 0.1)


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(InputError, match="auto, float32, bfloat16"):
        denoisers.make("mlpatch", precision="half")
    with pytest.raises(InputTypeError, match="must be a torch module"):
        in_precision(lambda x, s: x)


def test_it_copies_and_says_what_it_is():
    D = in_precision(MLPatch.example(), "auto")
    assert D.info == MLPatch.example().info
    assert fingerprint(D)["settings"][0] == {"precision": "auto"}
    x = torch.rand(1, 1, 9, 9)
    for other in (copy.deepcopy(D), pickle.loads(pickle.dumps(D))):
        assert (other(x, 0.1) - D(x, 0.1)).abs().max() < 1e-2


@need_bfloat16
def test_a_solver_with_it_ends_near_the_same(photo):
    x = photo[..., 40:72, 30:62]
    A = Mask.random((1, 32, 32), keep=0.5)
    ends = [
        reconstruct(
            A(x), A, denoisers.make("mlpatch", precision=p), noise=0.02, sigma=0.05, iterations=10
        ).x
        for p in ("float32", "bfloat16")
    ]
    assert 0 < (ends[0] - ends[1]).abs().max() < 0.02
