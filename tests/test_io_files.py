"""Whole files, checkpoints with a checksum, locks; and the command line as a process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

from pnp_mlpatch.cli import explain
from pnp_mlpatch.denoisers._network import read_state_dict
from pnp_mlpatch.errors import FileError, InputError, WeightsError
from pnp_mlpatch.io import atomic, checkpoint
from pnp_mlpatch.io.atomic import atomic_write, check_writable
from pnp_mlpatch.io.lock import lock

# ---- whole files


def put(path, text="new") -> None:
    atomic_write(path, lambda temporary: temporary.write_text(text))


def test_modes_and_links_are_kept(tmp_path):
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.txt", tmp_path / "link.txt"
    put(real)
    assert real.stat().st_mode & 0o111 == 0
    real.chmod(0o640)
    link.symlink_to(real)
    put(link, "newer")
    assert link.is_symlink()
    assert real.read_text() == "newer"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    (tmp_path / "dangling").symlink_to(tmp_path / "later.txt")
    put(tmp_path / "dangling")
    assert (tmp_path / "later.txt").read_text() == "new"


def test_the_umask_is_not_touched(tmp_path, monkeypatch):
    """It belongs to all threads of the process: between two calls of umask, another thread's files
    are open to everybody.
    """
    monkeypatch.setattr(os, "umask", None)
    put(tmp_path / "a")


def test_temporaries_of_killed_processes_are_removed(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    stray = tmp_path / f"{atomic._prefix()}{int(ended.stdout)}-0123abcd.npy"
    other = tmp_path / f"{atomic._prefix()}{os.getppid()}-0123abcd.npy"  # of a process that runs
    elsewhere = tmp_path / ".pnp-mlpatch-elsewhere-1-0123abcd.npy"  # of another machine
    for path in (stray, other, elsewhere):
        path.touch()
    put(tmp_path / "a")
    assert (stray.exists(), other.exists(), elsewhere.exists()) == (False, True, True)
    os.utime(elsewhere, (0, 0))
    put(tmp_path / "a")
    assert not elsewhere.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    put(tmp_path / "a", "old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(FileError, match=r"a: could not be written .*as it was before"):
        atomic_write(tmp_path / "a", fails)
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_written_is_told_before(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for a, b in (("a", "b"), ("b", "a")):
        (tmp_path / a).symlink_to(tmp_path / b)
    for name, words in (
        ("folder", "it is a folder"),
        ("fifo", "not a plain file"),
        ("a", "Remove the link"),
        ("none/x", "there is no folder"),
        ("file/x", "cannot be written"),
        ("x" * 300, "name too long"),
    ):
        with pytest.raises(FileError, match=words):
            check_writable(tmp_path / name)
    (tmp_path / "twin").symlink_to(tmp_path / "file")
    with pytest.raises(InputError, match="this is the input"):
        check_writable(tmp_path / "twin", [tmp_path / "file"])
    assert check_writable(tmp_path / "new") == tmp_path / "new"


# ---- checkpoints

CONTENT = {"x": torch.arange(300.0), "step": 3, "nested": {"a": [1, (2, "b")]}}


def test_checkpoints_give_back_what_they_were_given(tmp_path):
    path = tmp_path / "state.pt"
    checkpoint.save(path, CONTENT, about={"history": {"loss": [0.1]}, "name": "é"})
    content, about = checkpoint.load(path)
    assert torch.equal(content.pop("x"), CONTENT["x"])
    assert content == {"step": 3, "nested": {"a": [1, (2, "b")]}}
    assert about == {"history": {"loss": [0.1]}, "name": "é"}
    assert torch.equal(
        torch.load(path, weights_only=True)["x"], CONTENT["x"]
    )  # and is a file of torch
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def test_every_flipped_bit_is_found(tmp_path):
    path = tmp_path / "state.pt"
    checkpoint.save(path, CONTENT, about={"seed": 1})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        )
        with pytest.raises(WeightsError, match="not a saved checkpoint"):
            checkpoint.load(path)
    for place in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:place])
        with pytest.raises(WeightsError, match="not a saved checkpoint"):
            checkpoint.load(path)
    torch.save(CONTENT, path)
    with pytest.raises(WeightsError, match="it has no checksum"):
        checkpoint.load(path)


def test_tables_are_sealed(tmp_path):
    path = tmp_path / "table.json"
    checkpoint.save_table(path, {"window": [0.0, 0.05], "done": {"0": None}})
    assert checkpoint.load_table(path) == {"window": [0.0, 0.05], "done": {"0": None}}
    path.write_text(path.read_text().replace("0.05", "0.06"))
    with pytest.raises(WeightsError, match="its checksum is another"):
        checkpoint.load_table(path)
    path.write_text("[" * 100_000)
    with pytest.raises(WeightsError, match="damaged"):
        checkpoint.load_table(path)


def test_a_flipped_bit_in_weights_of_others_is_found(tmp_path):
    """torch.load compares no checksum."""
    path = tmp_path / "net.pth"
    torch.save({"layer.weight": torch.ones(64, 64)}, path)
    assert read_state_dict(path, "net")["layer.weight"].sum() == 64**2
    content = bytearray(path.read_bytes())
    content[content.find(torch.ones(8).numpy().tobytes()) + 1000] ^= 0x40
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["layer.weight"], torch.ones(64, 64))
    with pytest.raises(WeightsError, match=r"net.pth.*checksum"):
        read_state_dict(path, "net")


# ---- locks


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path):
    out = tmp_path / "v.json"
    with lock(out):
        with (
            pytest.raises(
                FileError,
                match=rf"v.json: another run is writing it \(process {os.getpid()} on .*Wait for "
                r"its end",
            ),
            lock(out),
        ):
            pass
        with lock(tmp_path / "w.json"):
            pass
        assert os.listdir(tmp_path) == [".v.json.lock"]
    assert os.listdir(tmp_path) == []
    with lock(out):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = (
        "import os, sys\nfrom pnp_mlpatch.io.lock import lock\nwith lock(sys.argv[1]): "
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "v"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FileError, match=f"process {other.pid} on"), lock(tmp_path / "v"):
            pass
        other.kill()
        other.wait()
    with lock(tmp_path / "v"):
        pass
    assert os.listdir(tmp_path) == []


def test_only_one_holds_a_lock(tmp_path):
    inside, most, taken = [], [], []

    def work() -> None:
        mine = 0
        while mine < 15:  # until it had its turns: how often it is refused, nobody knows
            try:
                with lock(tmp_path / "v"):
                    inside.append(0)
                    most.append(len(inside))
                    inside.pop()
                    mine += 1
                    taken.append(0)
            except FileError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 60
    assert set(most) == {1}


def test_a_lock_that_vanishes_while_it_is_taken(tmp_path, monkeypatch):
    """The holder removes the file after it was opened, before it is looked at: it is made anew."""
    place, real, left = tmp_path / ".v.lock", Path.stat, [1]

    def stat(self, **settings):
        if self == place and left and left.pop():
            place.unlink()
        return real(self, **settings)

    monkeypatch.setattr(Path, "stat", stat)
    with lock(tmp_path / "v"):
        assert not left
        assert place.exists()
    assert not place.exists()


# ---- the process

BIN = [sys.executable, "-m", "pnp_mlpatch.cli"]


@pytest.mark.parametrize("seconds", [0.05, 0.3, 1.0])
def test_interrupted_while_modules_are_imported(seconds):
    """One line, and 130; torch and all else comes after the command line itself."""
    code = (
        "import sys; from pnp_mlpatch.cli import main; assert 'torch' not in sys.modules; "
        "sys.argv[1:] = ['list'];"
        "print('here', flush=True); sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "here\n"
        time.sleep(seconds)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=60)
    assert (program.returncode, err) in ((130, "pnp-mlpatch: interrupted\n"), (0, ""))


def test_a_closed_pipe_is_no_fault():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*BIN, "list"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_at_the_end_of_the_pipe_is_told():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*BIN, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "the memory does not suffice (MemoryError)"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate "
                "memory: you tried 9 bytes"
            ),
            "Free some",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "the memory does not suffice",
        ),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (FileError("a.npy: two\nlines"), "a.npy: two lines"),
    ],
)
def test_what_runs_out_is_one_sentence(error, words):
    assert words in explain(error)


def test_faults_of_the_program_are_not_hidden():
    with pytest.raises(RuntimeError, match="a fault"):
        explain(RuntimeError("a fault"))
