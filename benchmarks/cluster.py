"""Volumes and images by several processes: kills, speed, overhead, memory.

kills       A scan by four workers, of which two are killed (SIGKILL) at random moments. The volume
            must be that of one process, and nothing may be left over.
schedulers  The same by a scheduler and two workers of its own. The scheduler is killed at a random
            moment: the run must end with one sentence and status 2, or be finished. The same
            command with a new scheduler must give the same volume.
modes       One process, 1, 2 and 4 workers, and three shards: one sha256.
speed       Wall and processor seconds of one process with one thread, of one worker and of two, and
            the load of the machine meanwhile. Start-up of the workers is a column of its own.
denoise     A square image, zarr to zarr: seconds, peak memory, equality to the whole image on a
            crop that crosses tiles and blocks, and the bits of one process and of four workers.
inpaint     Peak memory of reconstruct, as multiples of the image.
training    Seconds of a step, and of the sum of the gradients over two processes: by one all_reduce
            of all gradients, and by DistributedDataParallel.

Each trial has a seed, which is printed where it fails. Linux only.

Run: python benchmarks/cluster.py [--only kills speed ...] [--kills 20] [--schedulers 5]
     [--slices 32] [--size 96] [--image 16384]
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from cluster_parts import PARTS, draw, measured, projected
from common import arguments, parse, publish

from pnp_mlpatch.ct.geometry import ParallelBeam
from pnp_mlpatch.operators.radon import Radon

ANGLES, LIMIT = 60, 600
NAMES = ("kills", "schedulers", "modes", "speed", "denoise", "inpaint", "training")


class Fault(Exception):
    """What went wrong."""


def make_scan(folder: Path, slices: int, size: int) -> None:
    """Write line integrals of random ellipses with noise."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    rows, cols = np.mgrid[:size, :size] / size - 0.5
    images = np.zeros((slices, 1, size, size), np.float32)
    for image in images[:, 0]:
        image += 0.02 * (rows**2 + cols**2 < 0.2)
        for _ in range(6):
            y, x, r = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.uniform(0.02, 0.1)
            image += rng.uniform(-0.01, 0.01) * ((rows - y) ** 2 + (cols - x) ** 2 < r**2)
    q = Radon(ParallelBeam((size, size), ANGLES), cache=False)(torch.from_numpy(images))[:, 0]
    q = q + 0.01 * torch.randn(q.shape, generator=generator)
    np.save(folder / "scan.npy", q.numpy())


def command(out: str, size: int, *more: str, iterations: int = 4, batch: int = 2) -> list[str]:
    """Return the command that reconstructs the scan."""
    words = ["ct", "scan.npy", "--kind", "line-integrals", "--angles", str(ANGLES)]
    words += ["--shape", str(size), str(size), "--window", "0", "0.03", "--threads", "1"]
    words += ["--iterations", str(iterations), "--batch", str(batch), "--quiet", "--out", out]
    return [sys.executable, "-m", "pnp_mlpatch.cli", *words, *more]


def sha(path: Path) -> str:
    """Return the sha256 of a file, or of the files of a folder with their names."""
    found = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        found.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return found.hexdigest()


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Return the exit status of a process, and what it said."""
    try:
        _, said = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise Fault("it hangs") from error
    return process.returncode, said


def start(words: list[str], folder: Path) -> subprocess.Popen:
    """Start a process in a folder."""
    return subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)


def until(path: Path, process: subprocess.Popen) -> None:
    """Wait until a file is there, or the process has ended."""
    end = time.monotonic() + LIMIT
    while not path.exists() and process.poll() is None:
        if time.monotonic() > end:
            raise Fault(f"no {path.name} in {LIMIT} s")
        time.sleep(0.005)


def check(folder: Path, whole: str) -> None:
    """Raise unless the volume is whole, and alone with its report."""
    if sha(folder / "v.zarr") != whole:
        raise Fault("the volume is another")
    rest = {p.name for p in folder.iterdir()} - {"scan.npy", "v.zarr", "v.json", "scheduler.json"}
    if rest:
        raise Fault(f"left over: {', '.join(sorted(rest))}")
    shutil.rmtree(folder / "v.zarr")


def undisturbed(folder: Path, size: int) -> tuple[str, float]:
    """Return the sha256 of the volume of one process, and the seconds that four workers need."""
    subprocess.run(command("v.zarr", size), cwd=folder, check=True)
    whole = sha(folder / "v.zarr")
    process = start(command("v.zarr", size, "--workers", "4"), folder)
    until(folder / ".v.zarr.partial.json", process)
    begun = time.monotonic()
    if finish(process)[0]:
        raise Fault("four workers do not finish")
    check(folder, whole)
    return whole, time.monotonic() - begun


# ---- kills


def kill_two(folder: Path, size: int, whole: str, seconds: float, seed: int) -> str:
    """Kill two of four workers; return what came of it."""
    rng = np.random.default_rng(seed)
    process = start(command("v.zarr", size, "--workers", "4"), folder)
    until(folder / ".v.zarr.partial.json", process)
    begun, killed = time.monotonic(), 0
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    found = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
    for moment in sorted(rng.uniform(0, seconds, 2)):
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        if process.poll() is None and found:
            victim = found.pop(int(rng.integers(len(found))))
            victim.send_signal(signal.SIGKILL)
            killed += 1
    status, said = finish(process)
    if status:
        raise Fault(f"status {status}: {said}")
    psutil.wait_procs(family, timeout=10)
    if alive := [one.pid for one in family if one.is_running()]:
        raise Fault(f"processes are left over: {alive}")
    check(folder, whole)
    return f"{killed} killed, the same volume"


@contextmanager
def scheduler(folder: Path, workers: int) -> Iterator[subprocess.Popen]:
    """A scheduler and its workers, as processes of their own."""
    (folder / "scheduler.json").unlink(missing_ok=True)
    dask = [sys.executable, "-m", "distributed.cli.dask_"]
    quiet: dict[str, Any] = {"cwd": folder, "stderr": subprocess.DEVNULL}
    file = ["--scheduler-file", "scheduler.json", "--no-dashboard"]
    first = subprocess.Popen([*dask[:2], f"{dask[2]}scheduler", *file, "--port", "0"], **quiet)
    until(folder / "scheduler.json", first)
    more = ["--nthreads", "1", "--no-nanny", "--local-directory", tempfile.gettempdir()]
    started = [first]
    for _ in range(workers):
        started.append(subprocess.Popen([*dask[:2], f"{dask[2]}worker", *file, *more], **quiet))
    try:
        yield first
    finally:
        for process in started:
            process.kill()
            process.wait()
        (folder / "scheduler.json").unlink(missing_ok=True)


def kill_scheduler(folder: Path, size: int, whole: str, seconds: float, seed: int) -> str:
    """Kill the scheduler; return what came of it."""
    words = command("v.zarr", size, "--scheduler-file", "scheduler.json")
    with scheduler(folder, 2) as first:
        process = start(words, folder)
        until(folder / ".v.zarr.partial.json", process)
        time.sleep(np.random.default_rng(seed).uniform(0, seconds))
        first.kill()
        status, said = finish(process)
    if status == 0:
        check(folder, whole)
        return "finished before"
    if status != 2 or len(said.strip().splitlines()) != 1 or "scheduler" not in said:
        raise Fault(f"status {status}: {said}")
    with scheduler(folder, 2):
        status, said = finish(start(words, folder))
    if status:
        raise Fault(f"then status {status}: {said}")
    check(folder, whole)
    return "one sentence, then the same volume"


def trials(args: Any, folder: Path, kind: str) -> list[dict[str, Any]]:
    """Run the trials of a kind, and count what came of them."""
    whole, seconds = undisturbed(folder, args.size)
    function, count = {
        "kills": (kill_two, args.kills),
        "schedulers": (kill_scheduler, args.schedulers),
    }[kind]
    ended: Counter[str] = Counter()
    for seed in range(args.first, args.first + count):
        try:
            outcome = function(folder, args.size, whole, seconds, seed)
            print(f"{kind}, seed {seed}: {outcome}", flush=True)
            ended[outcome] += 1
        except Fault as fault:
            print(f"{kind}, seed {seed}: {fault}", flush=True)
            ended["FAULT"] += 1
    return [{"kind": kind, "outcome": text, "trials": n} for text, n in sorted(ended.items())]


# ---- modes and speed


def modes(args: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the sha256 of the volume by every way to run."""
    rows = []
    ways: list[tuple[str, list[list[str]]]] = [("one process", [[]])]
    ways += [(f"{n} workers", [["--workers", str(n)]]) for n in (1, 2, 4)]
    ways += [("3 shards", [["--shard", f"{k}/3"] for k in (1, 2, 3)])]
    for name, runs in ways:
        processes = [start(command("v.npy", args.size, *more), folder) for more in runs]
        if any(finish(process)[0] for process in processes):
            raise Fault(f"{name} does not finish")
        if name == "3 shards":
            merge = [sys.executable, "-m", "pnp_mlpatch.cli", "merge", "v.npy", "--quiet"]
            subprocess.run(merge, cwd=folder, check=True)
        rows.append({"by": name, "sha256": sha(folder / "v.npy")[:16]})
        (folder / "v.npy").unlink()
    return rows


def speed(args: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the times of one process, one worker and two."""
    return measured(folder, args.size, ANGLES, iterations=args.iterations)


def main() -> None:
    """Run what was asked for."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--schedulers", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first trial")
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--iterations", type=int, default=20, help="of speed")
    parser.add_argument("--image", type=int, default=16384)
    parser.add_argument("--picture", type=Path, help="draw the speed there")
    args = parse(parser)
    if args.quick:
        args.kills = args.schedulers = 1
        args.slices, args.size, args.image, args.iterations = 8, 24, 300, 1
    tables: dict[str, list[dict[str, Any]]] = {}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scan(folder, args.slices, args.size)
        for kind in args.only:
            if kind in ("kills", "schedulers"):
                tables[kind] = trials(args, folder, kind)
            elif kind in PARTS:
                tables[kind] = PARTS[kind](args, folder)
            else:
                tables[kind] = {"modes": modes, "speed": speed}[kind](args, folder)
    if rows := tables.get("speed"):
        tables["2048 slices, projected"] = projected(rows, args.slices)
        if args.picture:
            draw(args.picture, rows, args.slices)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    publish(args, tables, [f"Peak memory of this program {peak:.2f} GiB."])
    if any(row.get("outcome") == "FAULT" for rows in tables.values() for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
