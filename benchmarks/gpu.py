"""What a GPU is for: denoising, ASTRA's projectors, and a whole reconstruction, a table each.

* denoising: D(x, sigma) of a grey image, for the shipped networks, mlpatch-grey in tiles of 128,
  and the published network pixel by pixel (mlpatch_speed.py): time, and the memory beyond what was
  there before.
* projectors: the adjoint mismatch |<A x, y> - <x, A^H y>| / (|A x| |y|) and the time of A x and
  A^H y, one image and a batch, for ASTRA's GPU projectors, its CPU ones and the package's matrices.
* whole: a chest CT slice, 60 parallel views, 40 dB: the data step, the denoiser, 30 iterations of
  ADMM as in examples/ct_512.py, and the presets of the recipe. Wanted: ADMM in 0.5 s.

Medians, after a first call that is not counted. --device cpu shows that the program works.
Run: python benchmarks/gpu.py denoising|projectors|whole [--device cuda] [--repeats 5]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, network, parse, publish, shipped
from mlpatch_speed import PUBLISHED, SIGMA, PerPixel, random_net

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.errors import InputError, MissingPackage
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.testing import adjoint_mismatch
from pnp_mlpatch.tuning import recipe
from pnp_mlpatch.tuning.discrepancy import PRESETS

LEVEL = 20 / 255  # of the denoiser in the reconstruction
SPLIT = 65536  # pixels that the published network takes at a time on a GPU
MS = ("A x (ms)", "A^H y (ms)", "A x, batch (ms)", "A^H y, batch (ms)")


def waited(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], Any], device: str, repeats: int) -> float:
    """The median time of a call, the first not counted."""
    spent = []
    for _ in range(1 + repeats):
        waited(device)
        start = time.perf_counter()
        call()
        waited(device)
        spent.append(time.perf_counter() - start)
    return 1e3 * statistics.median(spent[1:])


def gib(call: Callable[[], Any], device: str) -> str:
    """The memory of the device that a call takes beyond what is there; "-" without a GPU."""
    if not device.startswith("cuda") or not torch.cuda.is_initialized():
        return "-"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return f"{(torch.cuda.max_memory_allocated(device) - before) / 2**30:.3f}"


# ---- the tables


def denoising(args: Any) -> list[dict[str, Any]]:
    """Every network at every size, a row each."""
    sizes = [12] if args.quick else args.sizes
    names = ["mlpatch-grey", "dncnn-grey"] if args.quick else shipped(channels=1)
    networks = {name: network(name) for name in names}
    networks["mlpatch-grey, tiles of 128"] = denoisers.make(
        "mlpatch", weights="mlpatch-grey", tile=128
    )
    forms = {name: D.to(args.device) for name, D in networks.items()}
    published = random_net(PUBLISHED).to(args.device)
    rows = []
    for size in sizes:
        photo = samples.camera()[..., : min(size, 512), : min(size, 512)]
        x = photo.repeat(1, 1, -(-size // 512), -(-size // 512))[..., :size, :size]
        x = x.contiguous().to(args.device)
        per_pixel = PerPixel(published, size)
        per_pixel.chunk = SPLIT if args.device.startswith("cuda") else per_pixel.chunk
        calls: dict[str, Callable[[], Any]] = {
            name: (lambda D=D, x=x: D(x, SIGMA)) for name, D in forms.items()
        }
        calls["published: grid form"] = lambda x=x: published(x, SIGMA)
        if size <= 1024:
            calls["published: per pixel"] = lambda x=x, form=per_pixel: form(x)
        for name, call in calls.items():
            spent = milliseconds(call, args.device, args.repeats)
            row = {
                "network": name,
                "size": size,
                "ms": spent,
                "ns per pixel": 1e6 * spent / size**2,
            }
            rows.append(row | {"GiB": gib(call, args.device)})
    return rows


def projectors(args: Any) -> list[dict[str, Any]]:
    """Every backend where it runs, a row each."""
    size, views = (16, 4) if args.quick else (args.size, 60)
    places = {"sparse": args.device, "sparse, on the CPU": "cpu", "astra_cpu": "cpu"}
    places |= {"astra_cuda": args.device}
    rows = []
    for name, device in places.items():
        backend = name.partition(",")[0]
        row: dict[str, Any] = {"backend": name, "device": device}
        try:
            A = Radon(
                image_shape=(1, size, size), angles=views, backend=backend, cache=not args.quick
            )
        except (InputError, MissingPackage) as error:
            row |= dict.fromkeys(("adjoint mismatch", *MS), "-")
            rows.append(row | {"note": str(error).partition(";")[0]})
            continue
        A = A.to(device)
        row["adjoint mismatch"] = f"{adjoint_mismatch(A):.1e}"
        for batch, (forward, back) in ((1, MS[:2]), (args.batch, MS[2:])):
            x = torch.rand(batch, *A.image_shape, generator=torch.Generator().manual_seed(0))
            x = x.to(device)
            y = A(x)
            row[forward] = milliseconds(lambda A=A, x=x: A(x), device, args.repeats)
            row[back] = milliseconds(lambda A=A, y=y: A.adjoint(y), device, args.repeats)
        rows.append(row | {"note": ""})
    return rows


def whole(args: Any) -> list[dict[str, Any]]:
    """The parts of a reconstruction, and the whole, a row each."""
    size, views, steps = (24, 6, 2) if args.quick else (args.size, 60, 30)
    truth = ((samples.chest_ct() + 1024) / 2048).clamp(0, 1)
    truth = F.interpolate(truth, size=(size, size), mode="area")
    A = Radon(image_shape=(1, size, size), angles=views, backend="sparse", cache=not args.quick)
    q, noise = simulate(A, truth, snr_db=40)
    sigma = schedules.from_noise(A, noise)
    A, q = A.to(args.device), q.to(args.device)
    D = network("mlpatch-grey").to(args.device)
    x, Aty, alpha = A.initial(q), A.adjoint(q), (noise / LEVEL) ** 2
    fixed = {"noise": noise, "sigma": LEVEL, "iterations": steps, "tol": 0.0, "progress": False}
    calls: dict[str, Callable[[], Any]] = {
        "A.initial(q)": lambda: A.initial(q),
        "data step, 2 steps of CG": lambda: A.data_step(x, alpha, Aty=Aty, max_iter=2)[0],
        "D(x, sigma)": lambda: D(x, LEVEL),
        f"ADMM, {steps} iterations": lambda: reconstruct(q, A, D, "admm", **fixed).x,
    }
    for preset in () if args.quick else PRESETS:
        settings: dict[str, Any] = {"noise": noise, "sigma": sigma, "progress": False}
        calls[f"recipe, {preset}"] = lambda preset=preset, settings=settings: (
            recipe(q, A, D, preset=preset, **settings).x
        )
    rows = []
    for name, call in calls.items():
        score = float(psnr(call(), truth).mean())
        spent = milliseconds(call, args.device, args.repeats)
        rows.append({"what": name, "ms": spent, "PSNR (dB)": score})
    return rows


STAGES = {"denoising": denoising, "projectors": projectors, "whole": whole}


def main():
    parser = arguments(__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512, help="of projectors and whole")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[128, 256, 512, 1024, 4096], help="of denoising"
    )
    parser.add_argument("--batch", type=int, default=16, help="images of the batch of projectors")
    parser.add_argument("--repeats", type=int, default=5)
    args = parse(parser)
    if args.quick:
        args.batch, args.repeats = 2, 1
    with torch.no_grad():
        rows = STAGES[args.stage](args)
    publish(args, {args.stage: rows}, device=args.device)


if __name__ == "__main__":
    main()
