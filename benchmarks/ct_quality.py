"""CT reconstructions of many kinds: sparse views, a limited angle, photon counts, a fan beam; by
MLPatch, TV, SIRT, CGLS and FBP.

The data are simulated on a grid twice as fine. SIRT and CGLS have the best number of iterations and
TV the best weight of a sweep, each chosen with the truth. MLPatch has no truth, and one recipe
everywhere (tuning.recipe): sigma from the noise (schedules.from_noise), a start by TV of strength 2
(150 iterations of fast_admm, fewer if they stand still), then 40 with MLPatch, and 20 more with
half of alpha if the residual of the data exceeds the noise; with weights from photographs
(mlpatch-grey) and from chest CT of other patients (mlpatch-ct). PSNR in dB, of [0, 1] = -1024 ...
1024 HU.

Run: python benchmarks/ct_quality.py [--chest FILE.npz] [--head FOLDER] [--pictures FOLDER] [--only
     NAME ...] [--slices N] [--lowest 1]
FILE.npz holds a stack 'hu' of slices of a patient who is in no training set; without it the sample
slice is used. FOLDER has pictures of heads; they are not part of the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from common import arguments, parse, publish, read_set
from torch import Tensor

from pnp_mlpatch import denoisers, reconstruct, rescaled, samples
from pnp_mlpatch.ct import FanBeam, ParallelBeam
from pnp_mlpatch.ct.counts import line_integrals, simulate_counts
from pnp_mlpatch.ct.units import hounsfield_range
from pnp_mlpatch.io.images import read_image
from pnp_mlpatch.linalg import dot
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.tuning import recipe
from pnp_mlpatch.viz.panels import panel

FIELD = 400.0  # mm, the side of the image where attenuation has a unit
MU_WATER = 0.0193  # 1/mm


@dataclass(frozen=True)
class Case:
    """A kind of image and of scan; ``counts`` are the photons of an open ray, else white noise at
    ``snr`` dB.
    """

    images: str
    geometry: Callable[[int, float], ParallelBeam | FanBeam]
    snr: float | None = None
    counts: float | None = None


def parallel(views: int, degrees: float = 180.0) -> Callable[[int, float], ParallelBeam]:
    return lambda n, pixel: ParallelBeam(
        (n, n), torch.arange(views) * math.radians(degrees / views), pixel=pixel
    )


def fan(views: int) -> Callable[[int, float], FanBeam]:
    return lambda n, pixel: FanBeam(
        (n, n), views, source_origin=1.4 * n * pixel, origin_detector=1.2 * n * pixel, pixel=pixel
    )


CASES = {
    "chest, 60 views, 40 dB": Case("chest", parallel(60), snr=40),
    "chest, 30 views, 40 dB": Case("chest", parallel(30), snr=40),
    "chest, 120 views, 40 dB": Case("chest", parallel(120), snr=40),
    "chest, 120 views over 120 degrees, 40 dB": Case("chest", parallel(120, 120.0), snr=40),
    "chest, 360 views, 1e3 photons": Case("chest", parallel(360), counts=1e3),
    "chest, 360 views, 1e4 photons": Case("chest", parallel(360), counts=1e4),
    "chest, 360 views, 1e5 photons": Case("chest", parallel(360), counts=1e5),
    "chest, fan, 360 views, 1e4 photons": Case("chest", fan(360), counts=1e4),
    "head, 60 views, 40 dB": Case("head", parallel(60), snr=40),
    "camera, 60 views, 30 dB": Case("camera", parallel(60), snr=30),
    "camera, 60 views, 40 dB": Case("camera", parallel(60), snr=40),
    "Shepp-Logan, 60 views, 30 dB": Case("shepp", parallel(60), snr=30),
    "Shepp-Logan, 60 views, 40 dB": Case("shepp", parallel(60), snr=40),
}


def main():
    parser = arguments(__doc__)
    parser.add_argument(
        "--chest", type=Path, help="an .npz with slices 'hu' of a patient in no training set"
    )
    parser.add_argument("--head", type=Path, help="a folder of pictures of heads")
    parser.add_argument(
        "--pictures", type=Path, help="write a panel of each case there (not of heads)"
    )
    parser.add_argument("--only", nargs="+", help="parts of the names of cases")
    parser.add_argument("--slices", type=int, default=2, help="images of each case (default: 2)")
    parser.add_argument(
        "--lowest", type=float, default=0.5, help="of the discrepancy; 1 leaves it out"
    )
    args = parse(parser)
    size = 64 if args.quick else 512
    networks = {
        name: denoisers.make("mlpatch", weights=name) for name in ("mlpatch-grey", "mlpatch-ct")
    }
    rows = []
    for name, case in CASES.items():
        if args.only and not any(part in name for part in args.only):
            continue
        truths = images(case.images, args, size)
        if not truths:
            continue
        scores, factors = [], []
        for index, truth in enumerate(truths):
            found, pictures, factor = solve(case, truth, networks, args.quick, args.lowest)
            scores.append(found)
            factors.append(factor)
            if args.pictures and index == 0 and case.images != "head":
                draw(args.pictures, name, case, truth, pictures, found)
        mean = {
            method: sum(score[method] for score in scores) / len(scores) for method in scores[0]
        }
        best = max(mean["TV"], -math.inf)
        row = {"case": name, "images": len(truths), **mean}
        row |= {f"{network} - TV": mean[network] - best for network in networks}
        row |= {
            f"alpha, {network}": sum(factor[network] for factor in factors) / len(factors)
            for network in networks
        }
        rows.append(row)
        print(row, flush=True)
    publish(args, {"PSNR (dB), mean over the images": rows})


def images(kind: str, args, size: int) -> list[Tensor]:
    """Truths (1, 1, size, size) in [0, 1]."""
    if kind == "camera":
        found = [samples.camera()]
    elif kind == "shepp":
        found = [shepp_logan(size)]
    elif kind == "head":
        found = [image[None] for image in read_heads(args.head)] if args.head else []
    elif args.chest:
        stack = read_set(args.chest, every=1)
        found = [
            stack[round((k + 0.5) * len(stack) / args.slices)][None] for k in range(args.slices)
        ]
    else:
        found = [((samples.chest_ct() + 1024) / 2048).clamp(0, 1)]
    return [
        image if image.shape[-1] == size else F.interpolate(image, size=(size, size), mode="area")
        for image in found[: args.slices]
    ]


def read_heads(folder: Path) -> list[Tensor]:
    """Pictures with at least 400 pixels a side, cut to a square in the middle."""
    found = []
    for path in sorted(folder.glob("*.png")):
        image = read_image(path, gray=True)[0]
        side = min(image.shape[-2:])
        if side >= 400:
            top, left = ((n - side) // 2 for n in image.shape[-2:])
            found.append(image[:, top : top + side, left : left + side])
    return found


def shepp_logan(size: int) -> Tensor:
    """The modified phantom of Shepp and Logan (Toft 1996), antialiased: ellipses (value, half axes,
    centre, angle in degrees).
    """
    ellipses = (
        (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
        (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
        (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
        (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
        (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
        (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
        (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
        (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
        (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
        (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
    )
    fine = (torch.arange(4 * size, dtype=torch.float64) + 0.5) / (2 * size) - 1
    y, x = torch.meshgrid(-fine, fine, indexing="ij")
    image = torch.zeros_like(x)
    for value, a, b, x0, y0, degrees in ellipses:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        u, v = (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s
        image += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    return F.avg_pool2d(image[None, None], 4).float().clamp(0, 1)


def solve(case: Case, truth: Tensor, networks, quick: bool, lowest: float):
    """The PSNR of every method, the images, and by what the discrepancy multiplied alpha for each
    network.
    """
    pixel = FIELD / truth.shape[-1] if case.counts else 1.0
    A = Radon(case.geometry(truth.shape[-1], pixel), cache=not quick)
    scale, offset = hounsfield_range(MU_WATER) if case.counts else (1.0, 0.0)
    image = scale * truth + offset
    if case.counts:
        clean, _ = simulate(A, image)
        q, noise = line_integrals(simulate_counts(clean, case.counts), case.counts)
    else:
        q, noise = simulate(A, image, snr_db=case.snr)

    def score(x: Tensor) -> float:
        return float(psnr((x - offset) / scale, truth))

    results = {"FBP": A.initial(q)}
    results["SIRT"] = best_of(sirt(A, q, 20 if quick else 200), score)
    results["CGLS"] = best_of(cgls(A, q, noise, 10 if quick else 40), score)
    sigma = schedules.from_noise(A, noise, scale=scale)
    settings = {"solver": "fast_admm", "noise": noise, "sigma": sigma, "progress": False}
    results["TV"] = best_tv(A, q, settings, score, quick)
    factors = {}
    for name, network in networks.items():
        found = recipe(
            q,
            A,
            rescaled(network, scale, offset),
            noise=noise,
            sigma=sigma,
            lowest=lowest,
            progress=False,
        )
        results[name], factors[name] = found.x, float(found.alpha_scale)
    scores = {name: score(x) for name, x in results.items()}
    return scores, {name: (x - offset) / scale for name, x in results.items()}, factors


def best_of(iterates, score: Callable[[Tensor], float]) -> Tensor:
    return max(iterates, key=score)


def sirt(A: Radon, q: Tensor, iterations: int):
    """Iterates x += C A^T R (q - A x), with R and C the inverses of the row and column sums
    (Gilbert 1972).
    """
    rows, columns = A(torch.ones(1, *A.image_shape)), A.adjoint(torch.ones(1, *A.data_shape))
    R, C = (
        torch.where(s > 1e-3 * s.max(), 1 / s.clamp_min(1e-12), torch.zeros_like(s))
        for s in (rows, columns)
    )
    x = torch.zeros(1, *A.image_shape)
    for k in range(iterations):
        x = x + C * A.adjoint(R * (q - A(x)))
        if k % 5 == 4:
            yield x


def cgls(A: Radon, q: Tensor, noise: float | Tensor, iterations: int):
    """Iterates of conjugate gradients for least squares, weighted where there is a noise map."""
    if isinstance(noise, Tensor):
        A, q = A.weighted(1 / noise), q / noise
    x = torch.zeros(1, *A.image_shape)
    r, s = q, A.adjoint(q)
    p, gamma = s, dot(s, s)
    for _ in range(iterations):
        Ap = A(p)
        step = gamma / dot(Ap, Ap)
        x, r = x + step * p, r - step * Ap
        s = A.adjoint(r)
        gamma, before = dot(s, s), gamma
        p = s + gamma / before * p
        yield x


def best_tv(A: Radon, q: Tensor, settings, score: Callable[[Tensor], float], quick: bool) -> Tensor:
    """TV at the best weight, by steps of 1.5 up and down from 1 until it falls on both sides; 150
    iterations, or until they stand still.
    """
    runs: dict[int, tuple[float, Tensor]] = {}

    def run(power: int) -> float:
        if power not in runs:
            D = denoisers.make("tv", strength=1.5**power)
            x = reconstruct(q, A, D, iterations=5 if quick else 150, tol=2e-4, **settings).x
            runs[power] = score(x), x
        return runs[power][0]

    best = 0
    while not quick:
        better = max((best - 1, best, best + 1), key=run)
        if better == best:
            break
        best = better
    run(best)
    return runs[best][1]


def draw(
    folder: Path,
    name: str,
    case: Case,
    truth: Tensor,
    pictures: dict[str, Tensor],
    scores: dict[str, float],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = truth.shape[-1]
    zoom = (
        (260 * size // 512, 90 * size // 512, 110 * size // 512, 110 * size // 512)
        if case.images == "chest"
        else None
    )
    shown = {"truth": truth} | {
        f"{key}: {scores[key]:.2f} dB": pictures[key]
        for key in ("FBP", "TV", "mlpatch-grey", "mlpatch-ct")
    }
    path = folder / (
        "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()) + ".png"
    )
    panel(
        path,
        shown,
        truth=truth,
        zoom=zoom,
        window=(0.0, 0.75) if case.images == "chest" else (0.0, 1.0),
        title=name,
    )


if __name__ == "__main__":
    main()
