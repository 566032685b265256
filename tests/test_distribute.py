"""Images that are larger than the memory: the same bits as the whole image, zarr to zarr."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from pnp_mlpatch.denoisers import as_denoiser, rescaled
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.pipelines import distribute

da = pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr", minversion="3")


def net(**settings) -> MLPatch:
    torch.manual_seed(0)
    D = MLPatch(features=4, square=3, dilations=(1, 2), width=8, depth=1, tile=16, **settings)
    torch.nn.init.normal_(D.last, std=0.3)
    return D.eval().requires_grad_(False)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def whole(D, x: np.ndarray) -> np.ndarray:
    lead = (1, 1, *x.shape) if x.ndim == 2 else x.shape if x.ndim == 4 else (1, *x.shape)
    return D(torch.from_numpy(x).reshape(lead), 0.1).reshape(x.shape).numpy()


def blocks(x: np.ndarray, D, **settings) -> np.ndarray:
    return distribute.denoise(da.from_array(x), D, 0.1, **settings).compute(scheduler="synchronous")


@pytest.mark.parametrize("size", [(70, 53), (64, 64), (65, 33), (7, 40), (1, 1)], ids=str)
@pytest.mark.parametrize("fold", [1, 2])
def test_the_bits_are_those_of_the_whole_image(size, fold):
    D, x = net(fold=fold), image(*size)
    assert np.array_equal(blocks(x, D, block=16), whole(D, x))


def test_channels_batches_and_wrappers():
    D, x = rescaled(net(channels=2), 2.0, 0.5), image(3, 2, 40, 37)
    assert np.array_equal(blocks(x, D, block=20), whole(D, x))
    assert np.array_equal(blocks(x[0], D, block=32), whole(D, x[0]))
    assert distribute.tile_step(D) == 16
    assert distribute.denoise(da.from_array(x), D, 0.1, block=20).chunks[2] == (40,)


def test_a_margin_that_is_too_small_would_be_seen(monkeypatch):
    D, x = net(), image(64, 64)
    monkeypatch.setattr(distribute, "_margin", lambda *args: 1)
    assert not np.array_equal(blocks(x, D, block=16), whole(D, x))


def test_zarr_to_zarr(tmp_path):
    D, x = net(), image(70, 53)
    zarr.create_array(str(tmp_path / "in.zarr"), data=x, chunks=(30, 20))
    out = distribute.denoise_zarr(tmp_path / "in.zarr", tmp_path / "out.zarr", D, 0.1, block=16)
    assert np.array_equal(zarr.open_array(str(out), mode="r")[:], whole(D, x))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zarr", "out.zarr"]
    with pytest.raises(FileError, match=r"out.zarr: is there already"):
        distribute.denoise_zarr(tmp_path / "in.zarr", out, D, 0.1)
    with pytest.raises(FileError, match=r"no.zarr: no such store"):
        distribute.denoise_zarr(tmp_path / "no.zarr", tmp_path / "b.zarr", D, 0.1)
    (tmp_path / "bad.zarr").mkdir()
    with pytest.raises(FileError, match=r"bad.zarr: not a readable zarr array"):
        distribute.denoise_zarr(tmp_path / "bad.zarr", tmp_path / "b.zarr", D, 0.1)
    with pytest.raises(FileError, match=r"there is no folder .*none"):
        distribute.denoise_zarr(tmp_path / "in.zarr", tmp_path / "none/b.zarr", D, 0.1)


def test_a_failure_leaves_nothing(tmp_path):
    def broken(x, sigma):
        raise InputError("broken: expected another image.")

    zarr.create_array(str(tmp_path / "in.zarr"), data=image(40, 40))
    with pytest.raises(InputError, match="broken"):
        distribute.denoise_zarr(
            tmp_path / "in.zarr", tmp_path / "out.zarr", as_denoiser(broken), 0.1, overlap=2
        )
    assert [p.name for p in tmp_path.iterdir()] == ["in.zarr"]


def test_refusals():
    x = da.from_array(image(40, 40))
    with pytest.raises(InputError, match=r"tv does not say how far it sees .* Give overlap"):
        distribute.denoise(x, TV(), 0.1)
    assert distribute.denoise(x, TV(), 0.1, overlap=20).shape == (40, 40)
    with pytest.raises(InputError, match=r"sees 4 pixels far, so overlap must be at least"):
        distribute.denoise(x, net(), 0.1, overlap=3)
    for overlap in (-1, 1.5, True):
        with pytest.raises(InputError, match="overlap must be an integer >= 0"):
            distribute.denoise(x, net(), 0.1, overlap=overlap)
    for settings in ({"block": 0}, {"threads": 1.5}):
        with pytest.raises(InputError, match="must be an integer >= 1"):
            distribute.denoise(x, net(), 0.1, **settings)
    for sigma in (-1, float("nan"), "a"):
        with pytest.raises(InputError, match="sigma must be a number >= 0"):
            distribute.denoise(x, net(), sigma)
    with pytest.raises(InputTypeError, match="expected a dask array, got ndarray"):
        distribute.denoise(image(4, 4), net(), 0.1)
    for other in (x.astype(int), x[0], x[None, None, None]):
        with pytest.raises(InputTypeError, match="expected float32 or float64 of shape"):
            distribute.denoise(other, net(), 0.1)


def test_a_denoiser_that_cannot_be_pickled():
    held = threading.Lock()
    D = as_denoiser(lambda x, sigma: x * (held is not None), sigma="ignored")
    with pytest.raises(
        InputTypeError, match=r"the denoiser cannot be sent to workers .*Hold no locks"
    ):
        distribute.denoise(da.from_array(image(40, 40)), D, 0.1, overlap=0)
