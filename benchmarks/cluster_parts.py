"""Parts of cluster.py that run in processes of their own: speed, huge images, gradients."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.ct import INTEGRALS, read_scan
from pnp_mlpatch.ct.geometry import ParallelBeam
from pnp_mlpatch.operators.mask import Mask
from pnp_mlpatch.pipelines import distribute
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume
from pnp_mlpatch.pipelines.workers import connect

WEIGHTS, SIGMA, CHUNK = "mlpatch-grey", 0.1, 2048
SURVEY = "mlpatch-kappa"  # of the huge image: a convergence map


def apart(part: str, folder: Path, *words: object) -> dict[str, Any]:
    """Run a part in a process of its own; return what it prints as JSON."""
    line = [sys.executable, __file__, part, *map(str, words)]
    done = subprocess.run(line, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak(who: int = resource.RUSAGE_SELF) -> float:
    """Return the most memory in GiB."""
    return resource.getrusage(who).ru_maxrss / 2**20


# ---- speed


def measured(folder: Path, size: int, angles: int, iterations: int) -> list[dict[str, Any]]:
    """Return the times of one process, one worker and two."""
    rows = []
    for count in (0, 1, 2):
        row = apart("volume", folder, count, size, angles, iterations)
        rows.append({"by": f"{count} workers" if count else "one process", **row})
    for row in rows:
        row["times as fast"] = rows[0]["seconds"] / row["seconds"]
    return rows


def volume(workers: int, size: int, angles: int, iterations: int) -> dict[str, Any]:
    """Reconstruct the scan; return wall and processor seconds, and the load."""
    torch.set_num_threads(1)
    geometry = ParallelBeam((size, size), angles)
    scan = read_scan("scan.npy", kind=INTEGRALS, angles=geometry.theta.numpy())
    config = VolumeConfig(iterations=iterations, batch=2, threads=1, window=(0.0, 0.03))
    D = denoisers.make("mlpatch", weights=WEIGHTS)
    begun, before = time.perf_counter(), _busy()
    if not workers:
        result = reconstruct_volume(scan, geometry, D, "s.npy", config, progress=False)
    else:
        with connect(workers) as client:
            started = time.perf_counter() - begun
            before = _busy()
            result = reconstruct_volume(
                scan, geometry, D, "s.npy", config, progress=False, client=client
            )
    busy = _busy() - before
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return {
        "start-up": round(started, 2) if workers else 0.0,
        "seconds": round(result.seconds, 2),
        "processor seconds": round(own, 1),
        "cores busy": round(busy / result.seconds, 2),
    }


def _busy() -> float:
    """Return the processor seconds of all processes of the machine since it started."""
    words = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    ticks = [int(word) for word in words[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def projected(rows: list[dict[str, Any]], slices: int) -> list[dict[str, Any]]:
    """Return the hours of 2048 such slices by N cores, if each keeps the speed that two have."""
    one, two = rows[0]["seconds"], rows[2]["seconds"]
    efficiency, start = one / two / 2, rows[2]["start-up"]
    table = []
    for count in (1, 2, 4, 16, 64, 256):
        seconds = 2048 / slices * one / count / (efficiency if count > 1 else 1.0)
        table.append({"cores": count, "hours": round((seconds + start) / 3600, 3)})
    return table


def draw(path: Path, rows: list[dict[str, Any]], slices: int) -> None:
    """Draw how much faster workers are, and the projection."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([1, 2], [1, 2], color="0.7", label="ideal")
    left.plot([1, 2], [row["times as fast"] for row in rows[1:]], "o-", label="workers, measured")
    left.set(xlabel="workers", ylabel="times as fast as one process", xticks=[1, 2], ylim=(0, 2.2))
    left.legend(frameon=False)
    table = projected(rows, slices)
    right.loglog([row["cores"] for row in table], [row["hours"] for row in table], "o--")
    right.set(xlabel="cores", ylabel="hours", title="2048 slices, projected")
    figure.savefig(path, dpi=110)


# ---- huge images


def denoise(args: Any, folder: Path) -> list[dict[str, Any]]:
    """Denoise a square image zarr to zarr, by one process and by four workers.

    With the smallest weights, those of mass maps.
    """
    import zarr

    size = args.image
    source = zarr.create_array(
        str(folder / "in.zarr"), shape=(size, size), chunks=(CHUNK, CHUNK), dtype="float32"
    )
    photo, rng = samples.camera()[0, 0].numpy(), np.random.default_rng(0)
    for top in range(0, size, CHUNK):
        for left in range(0, size, CHUNK):
            height, width = min(CHUNK, size - top), min(CHUNK, size - left)
            tile = np.tile(photo, (4, 4))[:height, :width]
            noise = rng.standard_normal(tile.shape, dtype=np.float32)
            source[top : top + height, left : left + width] = tile + SIGMA * noise
    rows = []
    for workers in (0, 4):
        out = folder / f"out{workers}.zarr"
        row = apart("image", folder, "in.zarr", out.name, workers)
        rows.append({"by": f"{workers} workers" if workers else "one process", **row})
    one, four = (zarr.open_array(str(folder / f"out{n}.zarr"), mode="r") for n in (0, 4))
    equal = all(np.array_equal(one[k : k + 512], four[k : k + 512]) for k in range(0, size, 512))
    rows[0]["equal"] = _crop_equal(source, one, size)
    rows[1]["equal"] = "the bits of one process" if equal else "OTHER BITS"
    return rows


def _crop_equal(source: Any, result: Any, size: int) -> str:
    """Compare a crop about a corner of blocks with the image denoised as a whole there."""
    torch.set_num_threads(1)
    D = denoisers.make("mlpatch", weights=SURVEY)
    middle = min(CHUNK, size // 2 // 128 * 128)
    low, high = max(0, middle - 384), min(size, middle + 384)
    crop = torch.from_numpy(source[low:high, low:high])[None, None]
    inner = slice(128 if low else 0, high - low - 128 if high < size else high - low)
    want = D(crop, SIGMA)[0, 0, inner, inner].numpy()
    got = result[low:high, low:high][inner, inner]
    return "the bits of the whole" if np.array_equal(want, got) else f"{abs(want - got).max():.2g}"


def image(source: str, out: str, workers: int) -> dict[str, Any]:
    """Denoise zarr to zarr; return seconds and peak memory."""
    torch.set_num_threads(1)
    D = denoisers.make("mlpatch", weights=SURVEY)
    begun = time.perf_counter()
    if workers:
        with connect(workers) as client:
            distribute.denoise_zarr(source, out, D, SIGMA, client=client)
    else:
        distribute.denoise_zarr(source, out, D, SIGMA)
    worker = peak(resource.RUSAGE_CHILDREN) if workers else peak()
    return {"seconds": round(time.perf_counter() - begun), "peak GiB a process": round(worker, 2)}


def inpaint(args: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the peak memory of reconstruct for images of an eighth and a quarter of the size."""
    sizes = (args.image // 8, args.image // 4)
    return [{"size": size, **apart("memory", folder, size)} for size in sizes]


def memory(size: int) -> dict[str, Any]:
    """Fill in 30 % of the pixels, one iteration; return the peak over the data and operator."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(1, size, size, generator=generator) < 0.3
    A = Mask(keep.float())
    q = A(torch.rand(1, 1, size, size, generator=generator))
    D, one = denoisers.make("mlpatch", weights=WEIGHTS), 4 * size * size / 2**30
    D(q[..., :256, :256], SIGMA)
    before, begun = peak(), time.perf_counter()
    reconstruct(q, A, D, "admm", noise=0.01, sigma=SIGMA, iterations=1, progress=False)
    grown = peak() - before
    return {
        "image GiB": round(one, 3),
        "peak GiB": round(peak(), 2),
        "growth in images": round(grown / one, 1),
        "seconds": round(time.perf_counter() - begun),
    }


# ---- training


def training(args: Any, folder: Path) -> list[dict[str, Any]]:
    """Return the seconds of a step of two processes, by both ways to sum gradients."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line += [__file__, "gradients", "2" if args.quick else "12"]
    done = subprocess.run(line, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    found = [text for text in done.stdout.splitlines() if text.startswith("[{")]
    return json.loads(found[-1])


def gradients(steps: int) -> list[dict[str, Any]]:
    """Time steps of the network of mlpatch-grey, by both ways."""
    import torch.distributed as dist

    from pnp_mlpatch.training._processes import sum_over_processes

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    D = denoisers.make("mlpatch", weights=WEIGHTS).requires_grad_(True).train()
    wrapped = torch.nn.parallel.DistributedDataParallel(_Loss(D), find_unused_parameters=True)
    size = 64 + 2 * D.halo
    x = torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(dist.get_rank()))
    sigma, parameters = torch.full((4, 1, 1, 1), SIGMA), list(D.parameters())
    rows, sums = [], []
    for name in ("all_reduce", "DistributedDataParallel"):
        wall, share = [], []
        for _ in range(steps):
            D.zero_grad(set_to_none=True)
            dist.barrier()
            begun = time.perf_counter()
            if name == "all_reduce":
                loss = _Loss.forward(wrapped.module, x, sigma) / 2
                loss.backward()
                dist.barrier()
                before = time.perf_counter()
                sum_over_processes(parameters, loss.detach())
                share.append(time.perf_counter() - before)
            else:
                wrapped(x, sigma).backward()
            wall.append(time.perf_counter() - begun)
        sums.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        row = {"sum": name, "seconds a step": round(float(np.median(wall)), 4)}
        rows.append(row | {"of which the sum": round(float(np.median(share)), 5) if share else "-"})
    difference = float((sums[0] - sums[1]).abs().max() / sums[0].abs().max())
    for row in rows:
        row["relative difference of gradients"] = f"{difference:.1e}"
    rank = dist.get_rank()
    dist.destroy_process_group()
    return rows if rank == 0 else []


class _Loss(torch.nn.Module):
    """The loss of a block, as training computes it."""

    def __init__(self, D: torch.nn.Module):
        super().__init__()
        self.D = D

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return self.D.denoise_block(x, sigma).square().mean()


PARTS = {"denoise": denoise, "inpaint": inpaint, "training": training}


def main() -> None:
    """Run one part."""
    part, *words = sys.argv[1:]
    given = [int(word) if word.isdigit() else word for word in words]
    found = {"volume": volume, "image": image, "memory": memory, "gradients": gradients}[part]
    result = found(*given)
    if result:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
