"""A volume by workers and by shards: the same bits, after kills too, and what cannot be."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_mlpatch import cli
from pnp_mlpatch.ct import INTEGRALS, Scan, read_scan
from pnp_mlpatch.ct._slabs import SlabReader
from pnp_mlpatch.ct.geometry import ParallelBeam
from pnp_mlpatch.denoisers import as_denoiser
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import ClusterError, FileError, InputError, InputTypeError
from pnp_mlpatch.io import ome_zarr
from pnp_mlpatch.io.checkpoint import save_table
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines import ct_cluster, ct_parts, ct_publish, workers
from pnp_mlpatch.pipelines.ct_merge import merge_shards
from pnp_mlpatch.pipelines.ct_shards import reconstruct_shard
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume
from pnp_mlpatch.pipelines.workers import connect

distributed = pytest.importorskip("distributed")
zarr = pytest.importorskip("zarr", minversion="3")

SIZE, SLICES = 24, 32
GEOMETRY = ParallelBeam((SIZE, SIZE), 20)
CONFIG = VolumeConfig(iterations=2, batch=5, threads=1, window=(0.0, 0.03))


def denoiser() -> MLPatch:
    torch.manual_seed(0)
    return MLPatch.example()


D = denoiser()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cluster")
    generator = torch.Generator().manual_seed(0)
    x = 0.02 * torch.rand(SLICES, 1, SIZE, SIZE, generator=generator)
    q = Radon(GEOMETRY, cache=False)(x)[:, 0]
    q = q + 0.01 * torch.randn(q.shape, generator=generator)
    np.save(path / "scan.npy", q.numpy())
    reconstruct_volume(opened(path), GEOMETRY, D, path / "one.npy", CONFIG, progress=False)
    return path


@pytest.fixture(scope="module")
def two():
    """Two processes."""
    with connect(2) as client:
        yield client


@pytest.fixture(scope="module")
def inside():
    """A worker that is a thread of this process, so that it sees what is patched."""
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def opened(folder: Path) -> Scan:
    return read_scan(folder / "scan.npy", kind=INTEGRALS, angles=GEOMETRY.theta.numpy())


def run(folder: Path, out: Path, config=CONFIG, D=D, **settings):
    return reconstruct_volume(opened(folder), GEOMETRY, D, out, config, progress=False, **settings)


def shard(folder: Path, out: Path, number: int, count: int, config=CONFIG, **settings):
    return reconstruct_shard(
        opened(folder), GEOMETRY, D, out, (number, count), config, progress=False, **settings
    )


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole(folder: Path, out: Path) -> None:
    """The volume and its report are those of one process, and nothing else is there."""
    assert sha(out) == sha(folder / "one.npy")
    assert sha(out.with_suffix(".json")) == sha(folder / "one.json")
    assert sorted(p.name for p in out.parent.iterdir()) == sorted([out.name, f"{out.stem}.json"])


# ---- the same bits


def test_two_workers(folder, two, tmp_path):
    assert run(folder, tmp_path / "v.npy", client=two).resumed == 0
    whole(folder, tmp_path / "v.npy")


def test_workers_keep_freed_memory(two):
    assert set(two.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_").values()) == {None}


def test_the_log_of_dask_stays_out_of_the_shell(two):
    """A lost scheduler is one sentence; each logger of Dask has a level of its own."""
    assert not logging.getLogger("distributed.client").isEnabledFor(logging.ERROR)


def test_a_worker_is_killed(folder, two, tmp_path):
    """Its batch is made by the other, or by the one that is started in its place."""
    journal, ended = tmp_path / ".v.npy.partial.json", threading.Event()
    one = next(iter(two.run(os.getpid).values()))

    def kill() -> None:
        while not ended.is_set() and not (
            journal.exists() and json.loads(journal.read_text())["done"]
        ):
            time.sleep(0.001)
        os.kill(one, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        run(folder, tmp_path / "v.npy", client=two)
    finally:
        ended.set()
        thread.join()
    assert one not in two.run(os.getpid).values()
    whole(folder, tmp_path / "v.npy")


@pytest.mark.parametrize("ending", [".npy", ".zarr"])
def test_shards(folder, tmp_path, ending):
    out = tmp_path / f"v{ending}"
    for number in (2, 3, 1):
        found = shard(folder, out, number, 3)
        assert (found.resumed, found.slices) == (0, (12, 10, 10)[number - 1])
    assert shard(folder, out, 2, 3).resumed == 10
    merged = merge_shards(out)
    assert merged.status == ["max_iter"] * SLICES
    assert (merged.shape, merged.shards) == ((SLICES, SIZE, SIZE), 3)
    if ending == ".npy":
        whole(folder, out)
    else:
        assert np.array_equal(zarr.open(str(out), mode="r")["0"][:], np.load(folder / "one.npy"))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["v.json", "v.zarr"]


def test_zarr_opens_in_zarr_and_ome_zarr(folder, inside, tmp_path, monkeypatch):
    monkeypatch.setattr(ome_zarr, "SMALLEST", 8)
    out = tmp_path / "v.zarr"
    for _ in range(2):  # the second replaces the first
        run(folder, out, client=inside)
    assert sha(out.with_suffix(".json")) == sha(folder / "one.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.json", "v.zarr"]
    one, group = np.load(folder / "one.npy"), zarr.open_group(str(out), mode="r")
    assert sorted(p.name for p in out.iterdir()) == ["0", "1", "2", "zarr.json"]
    assert [group[name].shape[1] for name in "012"] == [24, 12, 6]
    assert group["0"].chunks == (5, SIZE, SIZE)
    assert group["0"].metadata.dimension_names == ("z", "y", "x")
    assert np.array_equal(group["0"][:], one)
    half = one.reshape(SLICES, 12, 2, 12, 2).mean((2, 4))
    assert np.allclose(group["1"][:], half, atol=1e-7)
    io = pytest.importorskip("ome_zarr.io")
    reader = pytest.importorskip("ome_zarr.reader")
    node = next(iter(reader.Reader(io.parse_url(str(out)))()))
    assert [level.shape for level in node.data] == [(32, 24, 24), (32, 12, 12), (32, 6, 6)]
    assert np.array_equal(node.data[0].compute(), one)
    assert [axis["name"] for axis in node.metadata["axes"]] == ["z", "y", "x"]
    models = pytest.importorskip("ome_zarr_models.v05.image")
    assert models.Image.from_zarr(group).attributes.ome.version == "0.5"


@pytest.mark.parametrize("ending", [".npy", ".h5", ".tif", ".zarr"])
def test_a_scan_is_sent_without_its_data(folder, tmp_path, ending):
    values, path = np.load(folder / "scan.npy"), tmp_path / f"s{ending}"
    if ending == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["data"] = values
    elif ending == ".tif":
        from pnp_mlpatch.io.tiff import write_pages

        write_pages(path, iter(values[:, None][:, 0][None]), values.shape)
    elif ending == ".zarr":
        zarr.create_array(str(path), data=values, chunks=(4, 20, 30))
    else:
        np.save(path, values)
    scan = read_scan(path, kind=INTEGRALS, dataset="data" if ending == ".h5" else None)
    sent = pickle.dumps(scan)
    assert len(sent) < values.nbytes / 10
    assert np.array_equal(pickle.loads(sent).read(3, 7), values[3:7])
    assert np.array_equal(scan.read(3, 7), values[3:7])


# ---- going on


def test_a_store_that_was_moved_when_its_run_was_killed(folder, tmp_path, monkeypatch):
    out, move = tmp_path / "v.zarr", ct_publish._move

    def kill(*paths: Path) -> None:
        move(*paths)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ct_publish, "_move", kill)
        with pytest.raises(KeyboardInterrupt):
            run(folder, out)
    assert run(folder, out).resumed == SLICES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.json", "v.zarr"]
    assert sorted(p.name for p in out.iterdir()) == ["0", "zarr.json"]


def test_the_scheduler_ends(folder, tmp_path):
    """What is finished is kept, and one process goes on from it."""
    out = tmp_path / "v.npy"
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    client = distributed.Client(cluster)
    put, puts = ct_cluster.results, []

    def ending(*args):
        for result in put(*args):
            puts.append(result)
            yield result
            cluster.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ct_cluster, "results", ending)
        with pytest.raises(ClusterError, match=r"connection to the scheduler is lost.*kept"):
            run(folder, out, client=client)
    client.close()
    assert run(folder, out).resumed >= 2
    whole(folder, out)


# ---- what cannot be


def test_workers_that_do_not_fit(folder, inside, tmp_path, monkeypatch):
    class Without:
        submit = wait_for_workers = lambda *args, **settings: None

        def run(self, *args, **settings):
            return {"tcp://a:1": ModuleNotFoundError("No module named 'pnp_mlpatch'")}

    with pytest.raises(ClusterError, match=r"worker tcp://a:1 cannot import pnp_mlpatch .*Install"):
        run(folder, tmp_path / "v.npy", client=Without())
    with pytest.raises(InputTypeError, match=r"client must be a distributed\.Client, got str"):
        run(folder, tmp_path / "v.npy", client="tcp://a:1")
    monkeypatch.setattr(workers, "VERSIONS", "('0.0.1', '2.0')")
    with pytest.raises(ClusterError, match=r"has pnp_mlpatch 0.0.1 with torch 2.0, this process"):
        run(folder, tmp_path / "v.npy", client=inside)


def test_workers_that_do_not_see_the_files(folder, inside, tmp_path, monkeypatch):
    scan, values = opened(folder), np.load(folder / "scan.npy")
    np.save(tmp_path / "other.npy", values[::-1])
    data = scan.slab.data

    def start(name: str, out: Path):
        slab = SlabReader(tmp_path / name, "", "sad", 20, data)
        return reconstruct_volume(
            dataclasses.replace(scan, slab=slab), GEOMETRY, D, out, CONFIG, client=inside,
            progress=False,
        )  # fmt: skip

    with pytest.raises(ClusterError, match=r"cannot read the scan .*gone.npy: no such file"):
        start("gone.npy", tmp_path / "v.npy")
    with pytest.raises(ClusterError, match=r"reads other values from .*scan.npy"):
        start("other.npy", tmp_path / "v.npy")
    monkeypatch.setattr(ct_parts.Parts, "exists", lambda self: False)
    with pytest.raises(ClusterError, match=r"cannot see the output .*\.v\.npy\.partial"):
        run(folder, tmp_path / "v.npy", client=inside)


def test_a_full_disk_of_a_worker(folder, inside, tmp_path, monkeypatch):
    write, out = ct_parts.write_chunk, tmp_path / "v.npy"

    def full(path: Path, x, slices) -> None:
        if "/c/3/" in str(path):
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise FileError(f"{path}: could not be written.") from error
        write(path, x, slices)

    with monkeypatch.context() as patch:
        patch.setattr(ct_parts, "write_chunk", full)
        with pytest.raises(FileError, match=r"No space left on device\). Make room; the same"):
            run(folder, out, client=inside)
    run(folder, out, client=inside)
    whole(folder, out)


def test_a_denoiser_that_cannot_be_sent(folder, inside, tmp_path):
    held = threading.Lock()
    odd = as_denoiser(lambda x, sigma: x * (held is not None))
    with pytest.raises(InputTypeError, match=r"cannot be sent to workers .*Hold no locks"):
        run(folder, tmp_path / "v.npy", D=odd, client=inside)


def test_stores_that_are_there(folder, tmp_path):
    out = tmp_path / "v.zarr"
    run(folder, out, dataclasses.replace(CONFIG, slices=(0, 8), batch=4))
    with pytest.raises(FileError, match=r"chunks of \(4, 24, 24\), this run writes \(5, 24, 24\)"):
        run(folder, out)
    (out / "zarr.json").unlink()
    with pytest.raises(FileError, match=r"v.zarr: there is a folder that is no whole volume"):
        run(folder, out)
    (tmp_path / "w.zarr").write_text("text")
    with pytest.raises(FileError, match=r"w.zarr: expected a zarr store or nothing, got a file"):
        run(folder, tmp_path / "w.zarr")
    zarr.create_group(str(tmp_path / "other.zarr"))
    with pytest.raises(FileError, match=r"other.zarr: there is a folder that is no whole volume"):
        run(folder, tmp_path / "other.zarr")
    values = tmp_path / "in.zarr"
    zarr.create_array(str(values), data=np.load(folder / "scan.npy"))
    scan = read_scan(values, kind=INTEGRALS, angles=GEOMETRY.theta.numpy())
    with pytest.raises(InputError, match=r"in.zarr: this is the input"):
        reconstruct_volume(scan, GEOMETRY, D, values, CONFIG, progress=False)


def test_two_runs_on_one_output(folder, inside, tmp_path):
    out = tmp_path / "v.npy"
    with (
        lock(out.with_suffix(".json")),
        pytest.raises(FileError, match=r"v.json: another run is writing it"),
    ):
        run(folder, out, client=inside)
    shard(folder, out, 1, 2)
    with (
        lock(tmp_path / "v.npy.shard-1-of-2"),
        pytest.raises(FileError, match=r"another run is writing it"),
    ):
        shard(folder, out, 1, 2)
    with pytest.raises(InputError, match=r"the shard 1/2 of it lie there.*pnp-mlpatch merge"):
        run(folder, out)
    with (
        lock(tmp_path / "v.npy.shard-1-of-2"),
        pytest.raises(FileError, match=r"another run is writing it"),
    ):
        run(folder, out, resume=False)
    run(folder, out, resume=False)
    whole(folder, out)


def test_shards_that_cannot_be(folder, tmp_path):
    for number, count in ((5, 4), (0, 4)):
        with pytest.raises(InputError, match=rf"shard {number}/{count}: expected i/N with 1 <= i"):
            shard(folder, tmp_path / "v.npy", number, count)
    with pytest.raises(InputError, match=r"there are 7 batches of slices, .* at most 7"):
        shard(folder, tmp_path / "v.npy", 1, 8)
    with pytest.raises(FileError, match=r"there are no shards of it"):
        merge_shards(tmp_path / "v.npy")
    assert not list(tmp_path.iterdir())


def test_shards_that_are_missing_foreign_or_unfinished(folder, tmp_path):
    out = tmp_path / "v.npy"
    shard(folder, out, 1, 3)
    with pytest.raises(FileError, match=r"the shards 2/3, 3/3 of 3 are missing. Run .*--shard 2/3"):
        merge_shards(out)
    other = dataclasses.replace(CONFIG, iterations=3)
    with pytest.raises(InputError, match=r"partial-1-of-3.json: .*iterations: 2 before, 3 now"):
        shard(folder, out, 2, 3, other)
    with pytest.raises(InputError, match=r"there is a shard of 3, and this is one of 2"):
        shard(folder, out, 2, 2)
    shard(folder, out, 2, 3)
    shard(folder, out, 3, 3)
    journal = tmp_path / ".v.npy.partial-2-of-3.json"
    text = journal.read_text()

    def changed(**values) -> None:
        content = json.loads(text)
        content.pop("sha256")
        save_table(journal, content | values)

    changed(settings=json.loads(text)["settings"] | {"iterations": 9})
    with pytest.raises(InputError, match=r"2-of-3.json: .*other data or settings \(iter"):
        merge_shards(out)
    changed(found=json.loads(text)["found"] | {"window": [0.0, 1.0]})
    with pytest.raises(InputError, match=r"2-of-3.json: .*other data or settings \(chosen window"):
        merge_shards(out)
    changed(done={})
    with pytest.raises(FileError, match=r"the shard 2/3 has finished 0 of 2 batches"):
        merge_shards(out)
    journal.write_text("{")
    with pytest.raises(FileError, match=r"2-of-3.json: the journal of the shard is damaged"):
        merge_shards(out)
    journal.write_text(text)
    part = tmp_path / ".v.npy.partial/0/c/1/0/0"
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(FileError, match=r"the batch from slice 5 on was changed on disk"):
        merge_shards(out)
    with pytest.warns(UserWarning, match="the slices 5:10 are missing or damaged"):
        shard(folder, out, 2, 3)
    merge_shards(out)
    whole(folder, out)


def test_a_shard_beside_an_interrupted_run(folder, tmp_path, monkeypatch):
    out = tmp_path / "v.npy"
    with monkeypatch.context() as patch:
        patch.setattr(ct_publish, "write_volume", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(folder, out)
    with pytest.raises(InputError, match=r"a run of the whole volume was interrupted. Finish it"):
        shard(folder, out, 1, 2)


def test_connect_refuses(tmp_path):
    for given in ({}, {"workers": 2, "scheduler": "tcp://127.0.0.1:1"}):
        with pytest.raises(InputError, match="give one of"), connect(**given):
            pass
    with pytest.raises(InputError, match="workers must be an integer >= 1"), connect(0):
        pass
    missing = tmp_path / "none.json"
    with pytest.raises(ClusterError, match=r"no such file"), connect(scheduler_file=missing):
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "CONNECT", 0.2)
        address = "tcp://127.0.0.1:9"
        with pytest.raises(ClusterError, match="no scheduler answers"), connect(scheduler=address):
            pass


# ---- from the shell


def shell(folder: Path, *words: str) -> int:
    given = ["ct", str(folder / "scan.npy"), "--kind", "line-integrals", "--angles", "20"]
    given += ["--shape", "24", "24", "--fbp", "--window", "0", "0.03", "--threads", "1"]
    return cli.main([*given, *words])


def test_shards_from_the_shell(folder, tmp_path, capsys):
    out = str(tmp_path / "v.zarr")
    for number in (1, 2):
        assert shell(folder, "--out", out, "--shard", f"{number}/2") == 0
    assert f"pnp-mlpatch merge {out}" in capsys.readouterr().out
    assert cli.main(["merge", out]) == 0
    assert "32 slices of 2 shards" in capsys.readouterr().out
    assert shell(folder, "--out", str(tmp_path / "one.npy"), "--quiet") == 0
    assert np.array_equal(zarr.open(out, mode="r")["0"][:], np.load(tmp_path / "one.npy"))
    assert cli.main(["merge", out]) == 2
    assert "there are no shards of it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--shard 5/4", "--shard 5/4: expected i/N"),
        ("--shard half", "--shard half: expected i/N"),
        ("--workers 0", "--workers must be >= 1, got 0"),
        ("--workers 2 --shard 1/2", "--workers and --shard exclude each other"),
        ("--shard 1/2 --preview p.png", "--preview shows the volume"),
        ("--scheduler-file none.json", "none.json: no such file"),
    ],
)
def test_refusals_of_the_shell(folder, tmp_path, capsys, words, said):
    assert shell(folder, "--out", str(tmp_path / "v.npy"), *words.split()) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_estimate(folder, tmp_path, capsys):
    assert shell(folder, "--out", str(tmp_path / "v.npy"), "--estimate", "--workers", "4") == 0
    said = capsys.readouterr().out
    assert "s a slice (measured on slice 16, 1 threads); 32 slices by 4 processes" in said
    assert "GiB a process, with 8 slices at a time" in said
    assert "6.87e-05 GiB the volume, 0.000137 GiB until it is written" in said
    assert not list(tmp_path.iterdir())
