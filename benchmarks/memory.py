"""Memory of denoising and of training against the size of the image.

Denoising, with the shipped MLPatch: peak resident memory, each size in a process of its own.
"extra" is the peak during D(x, sigma) less the peak after one tile has been denoised, less the
image and its result. It must not grow.

Training, float32, forward, backward and AdamW:

* MLPatch on image samples (the settings of mlpatch-samples-grey), 512 random pixels of each of 64
  images, by MLPatch.at: peak resident memory of three steps, each size in a process of its own,
  less the process with its libraries and network, less the images themselves.
* DnCNN, IRCNN, U-Net and DRU-Net of the recipes dncnn-17, ircnn-64, unet-8m and drunet-8m, on whole
  images: the same for one image at 128 and 256 pixels, and the bytes that autograd saves for the
  backward pass (torch.autograd.graph.saved_tensors_hooks, every storage once, weights not counted).
  At 128 and 256 these are measured; from the ratio of the two, which is 4 where memory goes with
  the number of pixels, follow the figures for 64 images, which are extrapolated and marked so.

--cuda is the whole table of the talk on a GPU, measured: torch.cuda.max_memory_allocated and
seconds a step, of a batch of 64 images, up to 80 GB of memory. With --device cpu it runs without a
GPU, and shows no memory.

Run: python benchmarks/memory.py [--sizes 512 1024 2048 4096 8192] [--training-sizes 128 256 512
     1024] [--only denoising training]
     python benchmarks/memory.py --cuda [--device cuda] [--batch 64]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from common import arguments, parse, publish
from torch import Tensor

import pnp_mlpatch
from pnp_mlpatch import denoisers
from pnp_mlpatch.denoisers import Network, registry
from pnp_mlpatch.weights import read_toml

MB, GB, CARD_GB = 2**20, 2**30, 80
POINTS = 512  # of each image, in a step of MLPatch
RECIPES = {
    "DnCNN": "dncnn-17",
    "IRCNN": "ircnn-64",
    "U-Net": "unet-8m",
    "DRU-Net": "drunet-8m",
    "MLPatch": "mlpatch-samples-grey",
}
# memory and time of an epoch at 128, 256, 512, 1024, as printed there; its DnCNN, IRCNN and MLPatch
# have 3M parameters
TALK = {
    "DnCNN": ("23GB/200s", "78GB/1680s", "> 80GB", "> 80GB"),
    "IRCNN": ("16GB/120s", "55GB/500s", "> 80GB", "> 80GB"),
    "U-Net": ("6GB/40s", "16GB/100s", "60GB/380s", "> 80GB"),
    "DRU-Net": ("7GB/60s", "22GB/220s", "79GB/800s", "> 80GB"),
    "MLPatch": ("2GB/60s", "2GB/80s", "2GB/120s", "3GB/260s"),
}
TALK_SIZES = (128, 256, 512, 1024)


def talk(name: str, size: int) -> str:
    """The talk's figure."""
    return TALK[name][TALK_SIZES.index(size)] if size in TALK_SIZES else "-"


def peak_mb() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def untrained(name: str) -> Network:
    """The network of a recipe with random weights."""
    recipe = read_toml(
        Path(pnp_mlpatch.__file__).parent / "training" / "recipes" / f"{RECIPES[name]}.toml"
    )
    torch.manual_seed(0)
    return registry.network(recipe.get("denoiser", "mlpatch"))(**recipe["model"])


def step_of(net: Network, images: Tensor, points: int = POINTS) -> Callable[[], Tensor]:
    """One step of training on noisy ``images``: a network with ``at`` on random pixels, any other
    on all of them.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    at = getattr(net, "at", None)

    def step() -> Tensor:
        sigma = torch.full((len(images),), 0.1, device=images.device)
        if at is None:
            loss = net(images, sigma).square().mean()
        else:
            places = torch.randint(
                images.shape[-1], (len(images), points, 2), device=images.device
            ).to(images)
            loss = at(images, places, sigma).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def saved_bytes(net: Network, f: Callable[[], object]) -> int:
    """Bytes of the storages that autograd keeps for the backward pass of f(), without
    the weights.
    """
    weights, kept = {p.untyped_storage().data_ptr() for p in net.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (
                storage.nbytes()
            )  # autograd holds them, so no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        f()
    return sum(kept.values())


# ---- each in a process of its own


def denoising(size: int) -> dict[str, float]:
    D = denoisers.make("mlpatch", weights="mlpatch-grey")
    with torch.no_grad():
        D(
            torch.rand(1, 1, D.tile, D.tile), 0.1
        )  # one tile: the libraries and their buffers are there
        before = peak_mb()
        D(torch.rand(1, 1, size, size), 0.1)
    return {"before": before, "peak": peak_mb()}


def training(name: str, size: int, batch: int, steps: int) -> dict[str, float]:
    net = untrained(name)
    warm = step_of(net, torch.rand(1, 1, 32, 32), 1)
    warm()  # libraries, gradients, and what AdamW keeps
    before = peak_mb()
    images = torch.rand(batch, 1, size, size)
    step = step_of(net, images)
    for _ in range(steps):
        step()
    peak = peak_mb()
    parameters = sum(p.numel() for p in net.parameters())
    return {
        "before": before,
        "peak": peak,
        "saved": saved_bytes(net, step) / MB,
        "images": images.numel() * 4 / MB,
        "parameters": parameters,
    }


def in_process(*call: Any, threads: int) -> dict[str, float]:
    """The result of a function above, in a fresh process."""
    command = [sys.executable, __file__, "--threads", str(threads), "--one", json.dumps(call)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{call}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- the tables


def denoising_table(sizes: list[int], threads: int) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        found = in_process("denoising", size, threads=threads)
        images = 2 * 4 * size**2 / MB
        row = {
            "size": f"{size} x {size}",
            "image and result (MB)": images,
            "peak after one tile (MB)": found["before"],
            "peak (MB)": found["peak"],
        }
        rows.append(row | {"extra (MB)": found["peak"] - found["before"] - images})
    return rows


def mlpatch_table(sizes: list[int], batch: int, steps: int, threads: int) -> list[dict[str, Any]]:
    rows, first = [], 0.0
    for size in sizes:
        found = in_process("training", "MLPatch", size, batch, steps, threads=threads)
        beyond = found["peak"] - found["before"] - found["images"]
        first = first or beyond
        row = {
            "size": size,
            "images (MB)": found["images"],
            "peak (MB)": found["peak"],
            "beyond the images (MB)": beyond,
        }
        row |= {
            "saved for backward (MB)": found["saved"],
            "growth (%, wanted: < 10)": 100 * (beyond / first - 1),
        }
        rows.append(row | {"the talk (3M, on a GPU)": talk("MLPatch", size)})
    return rows


def full_image_tables(
    names: Iterable[str], small: int, threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measured at ``small`` and twice that, one image; and extrapolated to 64 images at the sizes
    of the talk.
    """
    measured, extrapolated = [], []
    for name in names:
        a, b = (
            in_process("training", name, size, 1, 2, threads=threads) for size in (small, 2 * small)
        )
        row: dict[str, Any] = {"network": f"{name} ({1e-6 * a['parameters']:.2f}M)"}
        far: dict[str, Any] = dict(row)
        for size, found in ((small, a), (2 * small, b)):
            row[f"peak at {size} (MB)"] = found["peak"] - found["before"] - found["images"]
            row[f"saved at {size} (MB)"] = found["saved"]
        measured.append(row | {"saved, ratio": b["saved"] / a["saved"]})
        for size in TALK_SIZES:
            gb = 64 * b["saved"] * MB / GB * (size / (2 * small)) ** 2
            far |= {
                f"{size}": f"{gb:.0f} GB (ext.)" if gb <= CARD_GB else f"> {CARD_GB} GB (ext.)",
                f"talk {size}": talk(name, size),
            }
        extrapolated.append(far)
    return measured, extrapolated


def gpu_table(
    names: Iterable[str], device: str, sizes: list[int], batch: int, steps: int
) -> list[dict[str, Any]]:
    """Memory and seconds a step of every network at every size, up to the memory of the talk's
    card.
    """
    cuda = device.startswith("cuda")
    if cuda:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, CARD_GB * GB / total), torch.device(device).index
        )  # None: the current one
    rows = []
    for name in names:
        net = untrained(name).to(device)
        row: dict[str, Any] = {
            "network": f"{name} ({1e-6 * sum(p.numel() for p in net.parameters()):.2f}M)"
        }
        for size in sizes:
            row |= {f"{size}": _gpu_cell(net, device, size, batch, steps)}
            row |= {f"talk {size}": talk(name, size)}
        rows.append(row)
        del net
    return rows


def _gpu_cell(net: Network, device: str, size: int, batch: int, steps: int) -> str:
    cuda, spent = device.startswith("cuda"), []
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        step = step_of(net, torch.rand(batch, 1, size, size, device=device))
        for _ in range(1 + steps):
            start = time.perf_counter()
            float(step())  # waits for the device
            if cuda:
                torch.cuda.synchronize(device)
            spent.append(time.perf_counter() - start)
    except torch.OutOfMemoryError:
        net.zero_grad(set_to_none=True)
        return f"> {CARD_GB} GB"
    memory = f"{torch.cuda.max_memory_allocated(device) / GB:.1f} GB" if cuda else "-"
    return f"{memory}, {statistics.median(spent[1:]):.3f} s"


def main():
    parser = arguments(__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192], help="of denoising"
    )
    parser.add_argument("--training-sizes", type=int, nargs="+", default=list(TALK_SIZES))
    parser.add_argument(
        "--only", nargs="+", choices=("denoising", "training"), default=("denoising", "training")
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=64,
        help="images in a step of MLPatch; with --cuda, of all networks",
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--cuda", "--gpu", action="store_true", help="the talk's table on a GPU, and nothing else"
    )
    parser.add_argument("--device", default="cuda", help="of --cuda")
    parser.add_argument("--networks", nargs="+", choices=RECIPES, help="of --cuda")
    parser.add_argument("--one", help="(internal) a function and its arguments as JSON")
    args = parse(parser)
    if args.one:
        name, *rest = json.loads(args.one)
        print(json.dumps({"denoising": denoising, "training": training}[name](*rest)))
        return
    threads = torch.get_num_threads()
    if args.quick:
        args.sizes, args.training_sizes, args.batch, args.steps = [64, 128], [32, 64], 2, 1
    batch = f"{args.batch} images"
    if args.cuda:
        names = args.networks or (("DnCNN", "U-Net", "MLPatch") if args.quick else RECIPES)
        rows = gpu_table(names, args.device, args.training_sizes, args.batch, args.steps)
        title = (
            f"Training, {batch} (MLPatch: {POINTS} random pixels of each), float32: memory and "
            "time of a step; the talk's is an epoch"
        )
        publish(args, {title: rows}, device=args.device)
        return
    tables = {}
    if "denoising" in args.only:
        tables["Denoising"] = denoising_table(args.sizes, threads)
    if "training" in args.only:
        rows = mlpatch_table(args.training_sizes, args.batch, args.steps, threads)
        tables[f"Training MLPatch, {batch}, {POINTS} random pixels of each"] = rows
        measured, extrapolated = full_image_tables(
            ("DnCNN",) if args.quick else list(RECIPES)[:-1], 32 if args.quick else 128, threads
        )
        tables[
            "Training on whole images, 1 image, measured: peak beyond image, network and "
            "libraries, and saved for backward"
        ] = measured
        tables[
            "The same for 64 images, extrapolated by the number of pixels from what is "
            "saved for backward; beside the talk's"
        ] = extrapolated
    publish(args, tables)


if __name__ == "__main__":
    main()
