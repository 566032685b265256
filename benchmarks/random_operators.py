"""Random operators against dense float64 algebra: every public method of every kind, with random
sizes, settings, weights and units.

Each trial has a seed of its own, which is printed where it fails: --first SEED --trials 1 repeats
it. The operators are those of the registry, their weighted forms (one map, or one for each image),
stacks of two, and matrices by interop. With M the matrix of A:

    forward, adjoint, normal       M x, M^T y, M^T M x
    data step                      (M^T M + alpha)^-1 (M^T q + alpha z), alpha = 10^-4 ... 10^2
                                   |M|^2, for units 10^-25 ... 10^25
    norm                           the largest singular value
    gradient                       that of <w, A x> is M^T w

Run: python benchmarks/random_operators.py [--trials 2000] [--first 0]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from common import arguments, parse, publish
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch import operators
from pnp_mlpatch.ct import FanBeam, ParallelBeam
from pnp_mlpatch.operators import LinearOperator

FLOAT32, FLOAT64 = (
    2e-5,
    1e-8,
)  # relative errors allowed: of projectors, which compute in float32, and of the others
NORM = 2e-3  # of norm(), as its docstring says
STEP = 1e-4  # of the data step, which stops at a relative residual of 1e-9

Numbers = np.random.Generator


def blur(rng: Numbers, shape: tuple[int, int, int]) -> LinearOperator:
    """A random kernel with a sum > 0, even or odd, up to the size of the image."""
    size = tuple(int(rng.integers(1, n + 1)) for n in shape[1:])
    psf = torch.from_numpy(rng.normal(size=size))
    boundary = str(rng.choice(["circular", "reflect", "valid"]))
    return operators.make("blur", psf=psf * psf.sum().sign(), image_shape=shape, boundary=boundary)


def identity(rng: Numbers, shape: tuple[int, int, int]) -> LinearOperator:
    """The identity."""
    return operators.make("identity", image_shape=shape)


def mask(rng: Numbers, shape: tuple[int, int, int]) -> LinearOperator:
    """Zeros and ones, or weights."""
    values = rng.random(shape) * (rng.random(shape) < 0.6)
    values.flat[int(rng.integers(values.size))] = 1.0
    values = (values > 0).astype(float) if rng.random() < 0.5 else values
    return operators.make("mask", mask=torch.from_numpy(values))


def radon(rng: Numbers, shape: tuple[int, int, int]) -> LinearOperator:
    """A parallel or fan beam with random angles, elements and offset."""
    angles = tuple(
        float(v)
        for v in np.sort(
            rng.random(int(rng.integers(1, 9))) * (np.pi if rng.random() < 0.5 else 2 * np.pi)
        )
    )
    detectors, width = int(rng.integers(2, 14)), float(rng.uniform(0.6, 1.6))
    backend = "sparse" if rng.random() < 0.7 else "astra_cpu"
    if rng.random() < 0.5:
        offset = float(rng.uniform(-0.4, 0.4)) * detectors * width
        geometry = ParallelBeam(shape[1:], angles, detectors, spacing=width, offset=offset)
        projector = str(rng.choice(["linear", "line", "strip"]))
    else:
        far = float(rng.uniform(20, 60))
        distances = {"source_origin": far, "origin_detector": float(rng.uniform(0, 40))}
        geometry = FanBeam(shape[1:], angles, detectors, spacing=width, **distances)
        projector = str(rng.choice(["line", "strip"]))
    return operators.make(
        "radon",
        geometry=geometry,
        channels=shape[0],
        projector=projector,
        backend=backend,
        cache=False,
    )


def matrix(rng: Numbers, shape: tuple[int, int, int]) -> LinearOperator:
    """A dense matrix by way of SciPy."""
    from scipy.sparse.linalg import aslinearoperator

    from pnp_mlpatch.interop import from_scipy

    columns = int(np.prod(shape))
    return from_scipy(
        aslinearoperator(rng.normal(size=(int(rng.integers(1, 2 * columns)), columns))),
        image_shape=shape,
    )


def lensing(rng: Numbers, shape: tuple[int, int, int]) -> LinearOperator:
    """Shear under a random mask; the image has two channels and a border."""
    seen = torch.from_numpy((rng.random(shape[1:]) < 0.7).astype(float))
    seen[0, 0] = 1
    return operators.make("lensing", weight=seen, padding=int(rng.integers(0, 3)))


KINDS: dict[str, Callable[[Numbers, tuple[int, int, int]], LinearOperator]] = {
    "blur": blur,
    "identity": identity,
    "lensing": lensing,
    "mask": mask,
    "matrix": matrix,
    "radon": radon,
}


def draw(seed: int) -> tuple[str, LinearOperator, float]:
    """The operator of a seed: its name, itself, and the relative error that its
    arithmetic allows.
    """
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 8)), int(rng.integers(1, 8)))
    name = str(rng.choice([*KINDS, "stack"]))
    if name == "stack":
        parts = [
            str(part)
            for part in rng.choice(["blur", "identity", "mask", "matrix", "radon"], size=2)
        ]
        A: LinearOperator = operators.make(
            "stack", blocks=[KINDS[part](rng, shape) for part in parts]
        )
        name = f"stack of {parts[0]} and {parts[1]}"
    else:
        A = KINDS[name](rng, shape)
    if rng.random() < 0.4:
        images = (2,) if rng.random() < 0.5 else ()
        weight = torch.from_numpy(
            rng.random((*images, *A.data_shape))
            * (rng.random(A.data_shape) < (1 if "stack" in name else 0.8))
        )
        weight[..., -1] += 0.1
        A = A.weighted(weight)
        name += ", a weight for each image" if images else ", weighted"
    return name, A, FLOAT32 if "radon" in name else FLOAT64


def dense(A: LinearOperator, images: int) -> Tensor:
    """The matrix of each image of a batch, (images, data, pixels), float64, one unit vector after
    the other.
    """
    pixels = int(np.prod(A.image_shape))
    columns = [
        A(e.reshape(1, *A.image_shape).expand(images, -1, -1, -1)).flatten(1)
        for e in torch.eye(pixels, dtype=torch.float64)
    ]
    return torch.stack(columns, dim=2)


def trial(seed: int) -> tuple[str, list[str]]:
    """Try one operator; its name, and what was wrong with it."""
    name, A, allowed = draw(seed)
    rng = np.random.default_rng((seed, 1))
    images = 2
    M = dense(A, images)
    size = float(torch.linalg.matrix_norm(M, 2).max())
    x, z = (torch.from_numpy(rng.normal(size=(images, *A.image_shape))) for _ in range(2))
    y = torch.from_numpy(rng.normal(size=(images, *A.data_shape)))
    wrong = []

    def compare(what: str, found: Tensor, expected: Tensor, tolerance: float, scale: float) -> None:
        error = float((found.flatten(1) - expected.flatten(1)).norm()) / max(scale, 1e-300)
        if not error <= tolerance:
            wrong.append(f"{what}: relative error {error:.1e}")

    flat_x, flat_y = x.flatten(1)[..., None], y.flatten(1)[..., None]
    compare("forward", A(x), M @ flat_x, allowed, size * float(x.norm()))
    compare("adjoint", A.adjoint(y), M.mT @ flat_y, allowed, size * float(y.norm()))
    compare("normal", A.normal(x), M.mT @ (M @ flat_x), 2 * allowed, size**2 * float(x.norm()))
    leaf = x.clone().requires_grad_()
    (A(leaf) * y).sum().backward()
    compare("gradient", leaf.grad, M.mT @ flat_y, allowed, size * float(y.norm()))
    if size > 0 and not abs(A.norm() / size - 1) <= NORM:
        wrong.append(f"norm: {A.norm():.6g}, the largest singular value is {size:.6g}")

    alpha = 10 ** rng.uniform(-4, 2) * max(size**2, 1e-12)
    units = 10 ** rng.uniform(-25, 25)
    H = M.mT @ M + alpha * torch.eye(M.shape[2], dtype=torch.float64)
    expected = torch.linalg.solve(H, M.mT @ flat_y + alpha * z.flatten(1)[..., None]) * units
    for dtype, tolerance in ((torch.float64, STEP), (torch.float32, 20 * STEP)):
        q, start = (units * y).to(dtype), (units * z).to(dtype)
        f = A.data_step(
            start,
            alpha,
            Aty=A.adjoint(q),
            tol=1e-9 if dtype is torch.float64 else 1e-6,
            max_iter=3000,
        )[0]
        compare(
            f"data step, {dtype}, units {units:.1e}",
            f.double(),
            expected,
            tolerance,
            float(expected.norm()),
        )
    return name, wrong


def main():
    parser = arguments(__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first trial")
    args = parse(parser)
    tried, failed, notes = Counter(), Counter(), []
    for seed in tqdm(
        range(args.first, args.first + (14 if args.quick else args.trials)), disable=None
    ):
        name, wrong = trial(seed)
        kind = name.split()[0].rstrip(",")
        tried[kind] += 1
        failed[kind] += bool(wrong)
        notes += [f"seed {seed}, {name}: {'; '.join(wrong)}"] if wrong else []
    rows = [
        {"operator": kind, "trials": tried[kind], "wrong": failed[kind]} for kind in sorted(tried)
    ]
    rows.append({"operator": "all", "trials": sum(tried.values()), "wrong": sum(failed.values())})
    publish(args, {"Random operators against dense float64 algebra": rows}, notes)


if __name__ == "__main__":
    main()
