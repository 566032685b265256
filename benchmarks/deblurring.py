"""Deblurring of photographs whose border the camera did not see: a Wiener filter and plug-and-play
that take the blur for circular, against plug-and-play that knows the valid data only.

Every picture is a scene of 256 x 256 pixels. It is blurred by two of eight kernels: six random
camera shakes, a Gaussian and a disk, all made from a fixed seed. The data are the pixels that
depend on the scene alone, without a border of half the kernel, with noise of 2.55/255. PSNR is over
the area of the data. The Wiener filters have the constant ratio of noise to signal that is best for
the truth, in each case; "tapered" fades the border of the data into their circular blur first. The
PnP methods are HQS with the settings of DPIR and know only the noise.

Run: python benchmarks/deblurring.py SET12 [--picture PATH] [--weights NAME_OR_PATH]
"""

from __future__ import annotations

import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, network, parse, publish, read_set
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch import reconstruct
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, disk_psf, gaussian_psf, path_psf
from pnp_mlpatch.viz.panels import panel

NOISE, SIDE = 2.55 / 255, 256
SHAKES = (9, 13, 15, 17, 21, 25)  # the most rows or columns of each
RATIOS = 10 ** torch.linspace(-3.5, -0.5, 25)  # of noise to signal, for the Wiener filters
WIENER, TAPERED, CIRCULAR, VALID = "Wiener, circular", "tapered", "PnP, circular", "PnP, valid"


def shake(size: int, seed: int, points: int = 400) -> Tensor:
    """The point spread function of a camera that shakes: a smoothed random walk with drift."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(2, points, generator=generator, dtype=torch.float64).cumsum(1)
    walk = F.avg_pool1d(walk[None], 41, 1)[0]
    walk = walk + 0.02 * walk.cumsum(1)
    walk = walk - walk.mean(1, keepdim=True)
    return path_psf(*(walk / walk.abs().max() * (size // 2)))


def kernels() -> dict[str, Tensor]:
    """The eight kernels by name."""
    made = {f"shake {k}": shake(size, k) for k, size in enumerate(SHAKES, 1)}
    return made | {"Gaussian": gaussian_psf(2.0), "disk": disk_psf(4.0)}


def wiener(q: Tensor, A: Blur, truth: Tensor) -> Tensor:
    """The best of the filters, around the mean of the data."""
    z, Aty = torch.full_like(q, float(q.mean())), A.adjoint(q)
    return max(
        (A.data_step(z, float(ratio), Aty=Aty)[0] for ratio in RATIOS),
        key=lambda x: float(psnr(x, truth)),
    )


def tapered(q: Tensor, A: Blur, size: tuple[int, int]) -> Tensor:
    """The data, faded into their circular blur over the length of the kernel at each side."""
    weight = torch.ones(())
    for n, length in zip(q.shape[-2:], size, strict=True):
        ends = torch.arange(n) + 0.5
        ramp = (torch.minimum(ends, n - ends) / length).clamp(max=1)
        weight = weight[..., None] * (0.5 - 0.5 * torch.cos(torch.pi * ramp))
    return weight * q + (1 - weight) * A(q)


def solve(scene: Tensor, psf: Tensor, D: Denoiser, seed: int) -> dict[str, Any]:
    """All methods on one scene: the truth, the data, and the images on their area."""
    A = Blur(psf, tuple(scene.shape[1:]), "valid")
    q = A(scene)
    q = q + NOISE * torch.randn(q.shape, generator=torch.Generator().manual_seed(seed))
    circular, truth = Blur(psf, tuple(q.shape[1:])), A.frame.crop(scene)
    found = {"truth": truth, "data": q, WIENER: wiener(q, circular, truth)}
    found[TAPERED] = wiener(tapered(q, circular, A.frame.psf), circular, truth)
    for name, B in ((CIRCULAR, circular), (VALID, A)):
        start = time.process_time()
        with warnings.catch_warnings():
            if B is circular:  # it may say that this estimate is of no use
                warnings.simplefilter("ignore")
            x = reconstruct(q, B, D, "dpir", noise=NOISE, progress=False).x
        found[f"seconds, {name}"] = time.process_time() - start
        found[name] = A.frame.crop(x) if B is A else x
    return found


def main():
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path, help="of test pictures")
    parser.add_argument("--picture", type=Path, help="draw the first case there")
    parser.add_argument("--weights", default="mlpatch-grey", help="a shipped name or a path")
    parser.set_defaults(threads=1)
    args = parse(parser)
    D, side = network(args.weights), 64 if args.quick else SIDE
    scenes = [image[None] for image in read_set(args.folder, channels=1)]
    scenes = [F.pad(x, [(side - n) // 2 for n in x.shape[:1:-1] for _ in (0, 1)]) for x in scenes]
    scenes = [x[..., :side, :side].contiguous() for x in scenes[: 2 if args.quick else None]]
    made = list(kernels().items())
    made = made[:2] if args.quick else made
    methods = (WIENER, TAPERED, CIRCULAR, VALID)
    scores: dict[str, list[dict[str, float]]] = {name: [] for name, _ in made}
    seconds: dict[str, list[float]] = {CIRCULAR: [], VALID: []}
    with torch.no_grad():
        for k in tqdm(range(2 * len(scenes)), disable=None):
            name, psf = made[k % len(made)]
            found = solve(scenes[k // 2], psf, D, k)
            scores[name].append({m: float(psnr(found[m], found["truth"])) for m in methods})
            for method in seconds:
                seconds[method].append(found[f"seconds, {method}"])
            if k == 0 and args.picture:
                shown = {m: found[m] for m in ("data", *methods, "truth")}
                panel(args.picture, shown, truth=found["truth"], zoom=(0, 0, side // 4, side // 4))
    rows = []
    for name, psf in made:
        row: dict[str, Any] = {"kernel": name, "size": " x ".join(map(str, psf.shape))}
        row["pictures"] = len(scores[name])
        rows.append(row | {m: statistics.mean(s[m] for s in scores[name]) for m in methods})
    total = [one for each in scores.values() for one in each]
    mean = {m: statistics.mean(s[m] for s in total) for m in methods}
    rows.append({"kernel": "all", "size": "", "pictures": len(total)} | mean)
    gains = [s[VALID] - s[WIENER] for s in total]
    note = (
        f"PnP, valid, above Wiener, circular: {mean[VALID] - mean[WIENER]:.2f} dB in the mean "
        f"(wanted: 3), at least {min(gains):.2f} dB. Seconds of the processor a picture: "
        + ", ".join(f"{m} {statistics.mean(v):.1f}" for m, v in seconds.items())
    )
    publish(args, {f"Deblurring {side} x {side}, noise 2.55/255, PSNR (dB)": rows}, [note])


if __name__ == "__main__":
    main()
