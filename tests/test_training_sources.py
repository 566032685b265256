"""Where training images come from: pictures, stacks in four formats, read piece by piece, and
procedural images.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import FileError, InputError, MissingPackage, PnPError
from pnp_mlpatch.io import reading
from pnp_mlpatch.lensing.fields import HALOS, WIDER, random_convergence
from pnp_mlpatch.training import TrainConfig, sources, train
from pnp_mlpatch.training._generated import dead_leaves, generator
from pnp_mlpatch.training._stacks import STACKS, split_name, stack
from pnp_mlpatch.training.data import draw
from pnp_mlpatch.training.sources import open_sources, whole_images

TINY = {"width": 8, "rings": 1, "angles": 4, "radius": 2.0, "depth": 1}
STACK = np.random.default_rng(0).random((5, 20, 24), dtype=np.float32)
COLOUR = np.random.default_rng(1).random((4, 3, 20, 24), dtype=np.float32)


def write(folder, ending: str, array: np.ndarray, name: str = "images") -> str:
    """The array in a file of that format, with a vector beside it where the format can."""
    path = folder / f"stack{ending}"
    if ending == ".npy":
        np.save(path, array)
    elif ending == ".npz":
        np.savez_compressed(
            path, **{name: array, "z_mm": np.arange(5.0), "files": np.array(["a", "b"])}
        )
    elif ending == ".zarr":
        group = zarr.open_group(str(path), mode="w")
        group.create_array(name, data=array, chunks=(1, *array.shape[1:]))
        group.create_array("z_mm", data=np.arange(5.0))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset(
                f"train/{name}", data=array, chunks=(1, *array.shape[1:]), compression="gzip"
            )
            file["z_mm"] = np.arange(5.0)
    return str(path)


# ---- stacks


@pytest.mark.parametrize("ending", STACKS)
def test_stacks_are_read_window_by_window(ending, tmp_path):
    item = write(tmp_path, ending, STACK)
    source = stack(item, 1, 16)
    assert (source.name, source.count) == (item, 5)
    np.testing.assert_array_equal(source.whole(3).numpy(), STACK[3][None])
    rng, same = np.random.default_rng(7), np.random.default_rng(7)
    for k in range(5):
        top, left = (int(same.random() * (n - 16 + 1)) for n in STACK.shape[1:])
        np.testing.assert_array_equal(
            source.window(k, 16, 0, rng).numpy(), STACK[k, top : top + 16, left : left + 16][None]
        )


@pytest.mark.parametrize("ending", STACKS)
def test_colour_and_a_window_of_values(ending, tmp_path):
    source = stack(write(tmp_path, ending, COLOUR), 3, 16)
    np.testing.assert_array_equal(source.whole(2).numpy(), COLOUR[2])
    hounsfield = (COLOUR[:, 0] * 5000 - 2000).astype(np.int16)
    (tmp_path / "hu").mkdir()
    source = stack(write(tmp_path / "hu", ending, hounsfield), 1, 16, [-1024, 1024])
    expected = ((hounsfield[1].astype(np.float32) + 1024) / 2048).clip(0, 1)
    np.testing.assert_allclose(source.whole(1)[0].numpy(), expected, atol=1e-7)
    assert expected.min() == 0
    assert expected.max() == 1


def test_names_of_arrays(tmp_path):
    assert split_name("a/b.h5:train/x") == ("a/b.h5", "train/x")
    assert split_name("a/b.npz") == ("a/b.npz", "")
    assert split_name("odd:folder/pictures") == ("odd:folder/pictures", "")
    h5, npz = write(tmp_path, ".h5", STACK), str(tmp_path / "two.npz")
    assert stack(f"{h5}:train/images", 1, 8).count == 5
    zarr.create_array(str(tmp_path / "one.zarr"), data=STACK, chunks=(1, 20, 24))
    assert stack(str(tmp_path / "one.zarr"), 1, 8).count == 5
    np.savez(npz, hu=STACK, mask=STACK > 0.5)
    np.testing.assert_array_equal(stack(f"{npz}:mask", 1, 8).whole(0).numpy(), STACK[:1] > 0.5)
    with pytest.raises(
        FileError,
        match=r"two.npz: expected one array of images, found 2 .*\(hu, mask\). Name one: "
        r"'.*two.npz:NAME'",
    ):
        stack(npz, 1, 8)
    with pytest.raises(FileError, match=r"stack.h5: holds no array 'images'"):
        stack(f"{h5}:images", 1, 8)
    with pytest.raises(
        FileError,
        match=r"stack.npy:x: a .npy file holds one array, without a name. Leave ':x' away",
    ):
        stack(write(tmp_path, ".npy", STACK) + ":x", 1, 8)


def test_only_what_is_asked_for_is_read(tmp_path):
    """A stack of 8 GB on paper, of which no byte is written: opening it and a few windows touch a
    few pages.
    """
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(500, 2000, 2000))
    source = stack(str(path), 1, 64)
    assert source.window(499, 64, 0, np.random.default_rng(0)).shape == (1, 64, 64)
    path.unlink()


@pytest.mark.parametrize(
    ("array", "channels", "smallest", "words"),
    [
        (
            STACK[0],
            1,
            8,
            r"expected images in an array \(N, H, W\) of real numbers, got \(20, 24\) of float32",
        ),
        (
            STACK,
            3,
            8,
            r"expected images in an array \(N, 3, H, W\) of real numbers, got \(5, 20, 24\)",
        ),
        (COLOUR, 1, 8, r"expected images in an array \(N, H, W\)"),
        (STACK[:0], 1, 8, r".* got \(0, 20, 24\)"),
        (STACK.astype(complex), 1, 8, ".* got .* of complex128"),
        (STACK, 1, 21, "its images have 20 x 24 pixels, at least 21 x 21 are needed"),
        (STACK.astype(np.int16), 1, 8, r"holds int16. Set window = \[low, high\] to map it"),
        (np.where(STACK > 0.9, np.nan, STACK), 1, 8, "image 2 holds NaN or infinite values"),
    ],
    ids=[
        "one image",
        "grey for colour",
        "colour for grey",
        "empty",
        "complex",
        "small",
        "integers",
        "NaN",
    ],
)
def test_arrays_that_are_refused(array, channels, smallest, words, tmp_path):
    with pytest.raises(FileError, match=f"stack.npy: {words}"):
        stack(write(tmp_path, ".npy", array), channels, smallest)


def test_values_far_from_the_unit_range(tmp_path):
    with pytest.warns(UserWarning, match=r"stack.npy: values run from -?\d.* to .*Set window"):
        stack(write(tmp_path, ".npy", STACK * 3000), 1, 8)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
@pytest.mark.parametrize(
    "spoil",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"words, not an array"],
    ids=["half", "empty", "text"],
)
def test_a_damaged_file_is_refused_by_name(ending, spoil, tmp_path):
    path = tmp_path / f"stack{ending}"
    write(tmp_path, ending, STACK)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FileError, match=rf"stack{ending}: .*(cannot be read|holds)"):
        stack(str(path), 1, 8)
    with pytest.raises(FileError, match=r"none.*: no such file or folder"):
        stack(str(tmp_path / f"none{ending}"), 1, 8)


def test_a_damaged_chunk_is_refused_when_it_is_met(tmp_path):
    source = stack(write(tmp_path, ".zarr", STACK), 1, 8)
    (tmp_path / "stack.zarr" / "images" / "c" / "4" / "0" / "0").write_bytes(b"nothing")
    assert source.whole(1).shape == (1, 20, 24)
    with pytest.raises(FileError, match=r"stack.zarr: image 4 cannot be read .*Is the file whole"):
        source.whole(4)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    item = write(tmp_path, ".h5", STACK)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(
        MissingPackage, match=r"Reading an HDF5 file needs the package 'h5py'.*pip install h5py"
    ):
        stack(item, 1, 8)


# ---- several sources, and procedural images


def test_images_are_drawn_uniformly_from_all_sources(tmp_path):
    for name, count, value in (("a", 1, 0.0), ("b", 3, 1.0)):
        np.save(tmp_path / f"{name}.npy", np.full((count, 16, 16), value))
    (tmp_path / "pictures").mkdir()
    for k in range(4):
        Image.new("L", (16, 16), 128).save(tmp_path / "pictures" / f"{k}.png")
    found = open_sources(
        [str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), str(tmp_path / "pictures")], 1, 16
    )
    assert [source.count for source in found] == [1, 3, 4]
    values = [
        round(float(draw(found, 16, 0, np.random.default_rng(k))[0, 0, 0]), 1) for k in range(800)
    ]
    assert [
        abs(values.count(v) / 800 - share) < 0.05
        for v, share in ((0.0, 1 / 8), (1.0, 3 / 8), (0.5, 1 / 2))
    ] == [True] * 3
    with_leaves = open_sources([sources.PROCEDURAL, str(tmp_path / "pictures")], 1, 16)
    assert [(source.name, source.count) for source in with_leaves][-1] == ("procedural", 4)
    assert len(list(whole_images(found))) == 8


def test_few_images_of_a_stack_are_validated_on(tmp_path):
    array = np.broadcast_to(np.linspace(0, 1, 100, dtype=np.float32)[:, None, None], (100, 4, 4))
    used = [
        float(image[0, 0, 0])
        for image in whole_images([stack(write(tmp_path, ".npy", array), 1, 1)])
    ]
    assert len(used) == sources.VALIDATED
    assert (used[0], used[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_procedural_images(channels):
    image = dead_leaves(64, channels, np.random.default_rng(0))
    assert image.shape == (channels, 64, 64)
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) < 0.3
    assert 0.7 < float(image.max()) <= 1
    assert torch.equal(image, dead_leaves(64, channels, np.random.default_rng(0)))
    assert not torch.equal(image, dead_leaves(64, channels, np.random.default_rng(1)))


def test_procedural_windows_follow_from_seed_and_step():
    def opened(seed):
        return generator("procedural", 1, 48, seed, bank=3)

    def windows(seed, step, source=None):
        source = source or opened(seed)
        return torch.stack([source.window(0, 32, step, np.random.default_rng(k)) for k in range(4)])

    used = opened(1)
    windows(1, 0, used)
    assert torch.equal(windows(1, 40, used), windows(1, 40))  # whatever was drawn before
    assert not torch.equal(windows(1, 0), windows(1, 40))
    assert not torch.equal(windows(1, 0), windows(2, 0))


# ---- training on them


def test_training_on_every_kind(tmp_path):
    hounsfield = (STACK * 2000 - 1000).astype(np.int16)
    items = [write(tmp_path, ending, hounsfield) for ending in STACKS]
    config = TrainConfig(
        data=[*items, "procedural"],
        validation=items[0],
        window=[-1024, 1024],
        out=str(tmp_path / "out"),
        model=TINY,
        size=16,
        crop=4,
        batch=4,
        steps=2,
        warmup=1,
        sigma_max=20 / 255,
    )
    path = train(config, progress=False)
    assert MLPatch.load(path).card["images"] == 2 * 5 * len(items)
    header, row = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert header == "step,loss,seconds,psnr_15"  # the levels that it is trained for
    assert float(row.split(",")[-1]) > 20
    low = dataclasses.replace(config, sigma_max=2 / 255, out=str(tmp_path / "low"))
    train(low, progress=False)
    assert (tmp_path / "low" / "log.csv").read_text().startswith("step,loss,seconds,psnr_2\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"data": []},
            r"train: data must be a folder, an array file, or one of procedural, convergence, "
            r"clusters, or a list of these; got \[\]",
        ),
        ({"data": 3}, "train: data must be a folder"),
        ({"data": ["a", 1]}, "train: data must be a folder"),
        ({"validation": ""}, "train: validation must be a folder"),
        (
            {"window": [1, 0]},
            r"train: window must be \[low, high\] with low < high, .*got \[1, 0\]",
        ),
        ({"window": [0]}, "train: window must be"),
        ({"window": 5}, "train: window must be"),
        ({"window": [0, "high"]}, "train: window must be"),
        ({"model": 3}, r"train: model must be a table of settings, \[model\] in a file, got 3"),
        ({"card": "me"}, "train: card must be a table"),
    ],
    ids=str,
)
def test_settings(settings, words):
    with pytest.raises(PnPError, match=words):
        TrainConfig(**{"data": "a", "out": "b", **settings})


# ---- mass maps


def test_clusters_are_mass_maps_and_on_a_part_of_them_halos():
    def kappa(k, halos):
        return random_convergence(32, np.random.default_rng(k), halos=halos, amplitudes=WIDER)

    added = [kappa(k, HALOS) - kappa(k, 0.0) for k in range(60)]
    bright = [halos for halos in added if bool(halos.any())]
    assert 0.1 < len(bright) / len(added) < 0.5  # 0.3 are wanted
    assert all(float(halos.min()) > 0 for halos in bright)
    (source,) = open_sources("clusters", 1, 32, seed=1)
    assert not torch.equal(source.whole(0), open_sources("convergence", 1, 32, seed=1)[0].whole(0))


def test_generated_mass_maps():
    """About zero, one channel, of (seed, step); beside others they give half of the windows, and
    validation has maps of its own.
    """
    (source,) = open_sources("convergence", 1, 32, seed=1)
    (other,) = open_sources("convergence", 1, 32, seed=2)
    one = source.whole(0)
    assert one.shape == (1, 256, 256)
    assert abs(float(one.mean())) < 0.02
    assert 0.01 < float(one.std()) < 0.05
    assert not torch.equal(one, other.whole(0))
    rng = np.random.default_rng(0)
    assert source.window(0, 32, 5, rng).shape == (1, 32, 32)
    assert len(list(whole_images([source]))) == 16
    both = open_sources(["convergence", "procedural", "convergence"], 1, 32)
    assert [s.name for s in both] == ["convergence", "procedural"]
    with pytest.raises(InputError, match="'convergence' has one channel, the network has 3"):
        open_sources("convergence", 3, 32)


def test_a_codec_that_runs_code_is_refused(tmp_path):
    """A zarr 2 array whose filter is pickle: what it unpickles would be called when it is read, or
    even opened.
    """
    folder = tmp_path / "evil.zarr"
    folder.mkdir()
    trace = tmp_path / "ran"
    meta = {
        "zarr_format": 2,
        "shape": [3, 16, 16],
        "chunks": [3, 16, 16],
        "dtype": "<f4",
        "order": "C",
        "fill_value": 0,
        "compressor": None,
    }
    (folder / ".zarray").write_text(json.dumps(meta | {"filters": [{"id": "pickle"}]}))

    class Evil:
        def __reduce__(self):
            return Path.touch, (trace,)

    (folder / "0.0.0").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(
        FileError, match=r"\.zarray: has the codec pickle; only plain compression is read"
    ):
        stack(str(folder), 1, 8)
    assert not trace.exists()
    (folder / ".zarray").write_text("[" * 10**5)
    with pytest.raises(FileError, match=r"\.zarray: cannot be read"):
        stack(str(folder), 1, 8)


def test_codecs_inside_of_groups_and_shards_are_seen(tmp_path):
    shard = {
        "name": "sharding_indexed",
        "configuration": {
            "codecs": [{"name": "numcodecs.pickle"}],
            "index_codecs": [{"name": "crc32c"}],
        },
    }
    (tmp_path / "a.zarr" / "part").mkdir(parents=True)
    (tmp_path / "a.zarr" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"codecs": ["mine"]}})
    )
    (tmp_path / "a.zarr" / "part" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "array", "codecs": [shard]})
    )
    with pytest.raises(FileError, match=r"part.zarr.json: has the codec pickle"):
        stack(str(tmp_path / "a.zarr"), 1, 8)


def test_hdf5_that_was_not_written_or_is_elsewhere(tmp_path):
    import h5py

    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("half", STACK.shape, STACK.dtype, chunks=(1, *STACK.shape[1:]))[:2] = (
            STACK[:2]
        )
        file.create_dataset("none", STACK.shape, STACK.dtype)
        file["far"] = h5py.ExternalLink("../b.h5", "images")
    for name, words in (
        ("half", "3 of its 5 chunks were never"),
        ("none", "1 of its 1 chunks were never"),
        ("far", "outside of its folder"),
    ):
        with pytest.raises(FileError, match=words):
            stack(f"{path}:{name}", 1, 8)
    with pytest.raises(FileError, match="outside of its folder"):
        stack(str(path), 1, 8)


def test_files_that_unpack_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "ROOM", 10**5)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros((50, 64, 64), np.float32))
    with pytest.raises(
        FileError,
        match=r"a.npz: its \d+ bytes claim to hold at least \d+. The file is damaged or made to "
        r"fill",
    ):
        stack(str(tmp_path / "a.npz"), 1, 8)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_pipes_are_no_stacks(ending, tmp_path):
    os.mkfifo(tmp_path / f"a{ending}")
    with pytest.raises(FileError, match="expected a file, got a pipe"):
        stack(str(tmp_path / f"a{ending}"), 1, 8)
