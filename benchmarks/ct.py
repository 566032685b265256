"""The CT data step: iteration counts, the projector pair, one data step and one ADMM iteration
against deepinv, ODL and plain CG.

Times are the smallest of several runs in one process, of what each package does with its own
operator until its own relative residual |(A^H A + alpha) f - b| / |b| is 1e-5, b = A^H q + alpha z,
from the start z. Every package has its most exact adjoint.
Run: python benchmarks/ct.py [--only counts pair step admm exactness] [--size N] [--views N]
     [--threads N]
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, parse, publish
from torch import Tensor

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch._optional import require
from pnp_mlpatch.linalg import CGInfo, pcg
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.solvers import make_problem
from pnp_mlpatch.solvers.admm import ADMM

PARTS = ("counts", "pair", "step", "admm", "exactness")
TOL = 1e-5


def main():
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--views", type=int, default=60)
    args = parse(parser)
    if args.quick:
        args.size, args.views = 48, 20
    tables = {}
    for part in args.only:
        tables |= {
            "counts": counts,
            "pair": pairs,
            "step": data_step,
            "admm": whole_iteration,
            "exactness": exactness,
        }[part](args)
    publish(args, tables)


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def photo(size: int) -> Tensor:
    return F.interpolate(samples.camera(), size=(size, size), mode="area")


def problem(size: int, views: int) -> tuple[Radon, Tensor, float, Tensor, float]:
    """The operator, data with 1 % of noise, the noise, the filtered backprojection,
    and L = |A|^2.
    """
    A = Radon(image_shape=(1, size, size), angles=views)
    q, noise = simulate(A, photo(size), snr_db=40)
    return A, q, noise, A.initial(q), A.norm() ** 2


# ---- iteration counts


def counts(args) -> dict:
    rows = []
    for views in (args.views, 3 * args.views):
        A, q, _, z, L = problem(args.size, views)
        Aty = A.adjoint(q)
        flat = torch.full_like(z, float(z.mean()))
        for decade in (-4, -3, -2, -1):
            alpha = 10.0**decade * L
            row = {"views": views, "alpha / L": f"1e{decade}"}
            for start, name in ((z, "FBP"), (flat, "constant")):
                b = Aty + alpha * start
                for label, precondition in (
                    ("CG", None),
                    ("PCG", A._precondition(torch.full((1, 1, 1, 1), alpha))),
                ):
                    reached = [
                        solve(A, alpha, b, start, precondition, tol).iterations
                        for tol in (1e-3, TOL, 1e-6)
                    ]
                    row[f"{label} from {name}"] = "/".join(map(str, reached))
            rows.append(row)
    return {f"Iterations to a residual of 1e-3 / 1e-5 / 1e-6, {args.size} x {args.size}": rows}


def solve(
    A: Radon, alpha: float, b: Tensor, start: Tensor, precondition, tol: float, steps: int = 300
) -> CGInfo:
    return pcg(
        lambda x: A._normal(x) + alpha * x,
        b,
        start,
        precondition=precondition,
        tol=tol,
        max_iter=steps,
    )[1]


# ---- the projector pair


def pairs(args) -> dict:
    rows = []
    for size, views in (
        (args.size, args.views),
        (args.size, 3 * args.views),
        (2 * args.size, args.views),
    ):
        A, B = (
            Radon(image_shape=(1, size, size), angles=views),
            Radon(image_shape=(1, size, size), angles=views, backend="astra_cpu"),
        )
        one, eight = torch.rand(1, 1, size, size), torch.rand(8, 1, size, size)
        ours, theirs, batch = (
            best(lambda A=A, x=x: A.adjoint(A(x))) for A, x in ((A, one), (B, one), (A, eight))
        )
        rows.append(
            {
                "size": size,
                "views": views,
                "sparse (ms)": 1e3 * ours,
                "ASTRA CPU (ms)": 1e3 * theirs,
                "ratio": theirs / ours,
                "sparse, a slice of 8 (ms)": 1e3 * batch / 8,
                "ratio a slice of 8": 8 * theirs / batch,
                "matrices (MB)": sum(b.numel() * b.element_size() for b in A.pair.buffers()) / 1e6,
            }
        )
    return {"Projector pair A^T A": rows}


# ---- one data step


def data_step(args) -> dict:
    rows = []
    for ratio in (1e-2, 1e-3):
        timings = {}
        A, q, _, z, L = problem(args.size, args.views)
        Aty, alpha = A.adjoint(q), ratio * L
        timings["ours (PCG)"] = timed_until(
            lambda n, A=A, z=z, alpha=alpha, Aty=Aty: A.data_step(
                z, alpha, Aty=Aty, tol=0.1 * TOL, max_iter=n
            )[0],
            lambda f, A=A, z=z, alpha=alpha, Aty=Aty: residual(A.normal, f, z, Aty, alpha),
        )
        b = Aty + alpha * z
        timings["our operator, plain CG"] = timed_until(
            lambda n, A=A, z=z, alpha=alpha, b=b: pcg(
                lambda x: A._normal(x) + alpha * x, b, z, tol=0.1 * TOL, max_iter=n
            )[0],
            lambda f, A=A, z=z, alpha=alpha, Aty=Aty: residual(A.normal, f, z, Aty, alpha),
        )
        timings["deepinv Tomography.prox_l2"] = deepinv_step(args, ratio)
        timings["ODL RayTransform (ASTRA) + CG"] = odl_step(args, ratio)
        ours = timings["ours (PCG)"][0]
        for name, (seconds, steps, reached) in timings.items():
            row = {
                "alpha / L": f"{ratio:g}",
                "data step": name,
                "iterations": steps,
                "residual": f"{reached:.1e}",
            }
            rows.append(row | {"ms": 1e3 * seconds, "times ours": seconds / ours})
    return {
        f"One data step, {args.size} x {args.size}, {args.views} views, to a residual of 1e-5": rows
    }


def residual(
    normal: Callable[[Tensor], Tensor], f: Tensor, z: Tensor, Aty: Tensor, alpha: float
) -> float:
    b = Aty + alpha * z
    return float((normal(f) + alpha * f - b).norm() / b.norm())


def timed_until(
    step: Callable[[int], Tensor], measure: Callable[[Tensor], float]
) -> tuple[float, int, float]:
    """Seconds, number and residual of the fewest iterations that reach the tolerance."""
    n, reached = 0, np.inf
    while n < 60 and reached > TOL:
        n += 1
        reached = measure(step(n))
    return best(lambda: step(n), 3), n, reached


def deepinv_physics(args):
    physics = require("deepinv.physics", "This benchmark")
    return physics.Tomography(
        angles=args.views, img_width=args.size, normalize=False, adjoint_via_backprop=True
    )


def deepinv_step(args, ratio: float) -> tuple[float, int, float]:
    T = deepinv_physics(args)
    q = T.A(photo(args.size))
    q = q + 0.01 * q.square().mean().sqrt() * torch.randn(
        q.shape, generator=torch.Generator().manual_seed(0)
    )
    Aty = T.A_adjoint(q)
    x = torch.rand(1, 1, args.size, args.size, generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        x = T.A_adjoint_A(x / x.norm())
    alpha = ratio * float(x.norm())
    z = (
        T.A_dagger(q, max_iter=1)
        if args.quick
        else photo(args.size)
        + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    )
    return timed_until(
        lambda n: T.prox_l2(z, q, gamma=1 / alpha, solver="CG", max_iter=n, tol=1e-12).detach(),
        lambda f: residual(T.A_adjoint_A, f, z, Aty, alpha),
    )


def odl_step(args, ratio: float) -> tuple[float, int, float]:
    odl, tomo = require("odl", "This benchmark"), require("odl.applications.tomo", "This benchmark")
    n, detectors = args.size, int(np.ceil(args.size * 2**0.5))
    space = odl.uniform_discr([-n / 2, -n / 2], [n / 2, n / 2], [n, n], dtype="float32")
    geometry = tomo.Parallel2dGeometry(
        odl.uniform_partition(0, np.pi, args.views),
        odl.uniform_partition(-detectors / 2, detectors / 2, detectors),
    )
    T = tomo.RayTransform(space, geometry, impl="astra_cpu")
    truth = space.element(photo(n)[0, 0].numpy())
    q = T(truth)
    normal = T.adjoint * T  # self-adjoint in the weighted inner product of the space
    L = float(odl.power_method_opnorm(T, maxiter=10) ** 2)
    alpha = ratio * L
    z = space.element(
        truth.asarray() + 0.05 * np.random.default_rng(0).standard_normal((n, n)).astype("float32")
    )
    b = T.adjoint(q) + alpha * z
    system = normal + alpha * odl.IdentityOperator(space)
    solver = require("odl.solvers", "This benchmark").conjugate_gradient

    def step(iterations: int):
        f = z.copy()
        solver(system, f, b, niter=iterations)
        return f

    return timed_until(step, lambda f: float((system(f) - b).norm() / b.norm()))


# ---- a whole iteration


def whole_iteration(args) -> dict:
    """ADMM with the same denoiser: ours with two warm-started steps, and with the exact step;
    deepinv's with its exact step.
    """
    D = denoisers.make("mlpatch", weights="mlpatch-grey")
    A, q, noise, z, L = problem(args.size, args.views)
    alpha = 1e-2 * L
    state_problem = make_problem(q, A, noise)
    rows = []
    with torch.no_grad():
        alone = best(lambda: D(z, 20 / 255), 3)
        for name, solver in (
            ("ours, 2 PCG steps", ADMM(sigma=20 / 255, alpha=alpha)),
            (
                "ours, to a residual of 1e-5",
                ADMM(sigma=20 / 255, alpha=alpha, data_iterations=100, data_tol=TOL),
            ),
        ):
            state = replace(
                solver.step(state_problem, D, solver.init(state_problem, z)), iteration=3
            )  # the first ones take a step more
            rows.append(
                {
                    "ADMM iteration": name,
                    "ms": 1e3
                    * best(
                        lambda solver=solver, state=state: solver.step(state_problem, D, state), 3
                    ),
                }
            )
        optim, T = require("deepinv.optim", "This benchmark"), deepinv_physics(args)
        T.max_iter, T.tol = 100, TOL
        data = T.A(photo(args.size))
        x = torch.rand(1, 1, args.size, args.size)
        for _ in range(10):
            x = T.A_adjoint_A(x / x.norm())
        stepsize = 1 / (1e-2 * float(x.norm()))

        def theirs(iterations: int) -> float:
            settings = {
                "g_param": 20 / 255,
                "stepsize": stepsize,
                "beta": 1.0,
                "max_iter": iterations,
                "early_stop": False,
            }
            model = optim.ADMM(data_fidelity=optim.L2(), prior=optim.PnP(denoiser=D), **settings)
            init = (photo(args.size), torch.zeros_like(x))
            return best(lambda: model(data, T, init=init), 1)

        few, more = theirs(1), theirs(3)
    rows.append({"ADMM iteration": "deepinv, to a residual of 1e-5", "ms": 1e3 * (more - few) / 2})
    rows.append({"ADMM iteration": "(the denoiser alone, in each of them)", "ms": 1e3 * alone})
    base = rows[0]["ms"] - 1e3 * alone
    for row in rows[:3]:
        row |= {
            "without the denoiser (ms)": row["ms"] - 1e3 * alone,
            "times ours": (row["ms"] - 1e3 * alone) / base,
        }
    rows[3] |= {"without the denoiser (ms)": 0.0, "times ours": 0.0}
    return {
        f"One ADMM iteration with MLPatch, {args.size} x {args.size}, {args.views} views, "
        "alpha = 0.01 L": rows
    }


# ---- two steps against the exact one


def exactness(args) -> dict:
    truth, D, rows = photo(args.size), denoisers.make("mlpatch", weights="mlpatch-grey"), []
    A, q, noise, _, _ = problem(args.size, args.views)
    iterations = 5 if args.quick else 30
    for name, sigma in (("sigma 20/255", 20 / 255), ("sigma 10/255", 10 / 255)):
        runs = {}
        for steps, tol in ((1, 0.0), (2, 0.0), (5, 0.0), (300, 1e-6)):
            estimates: list[Tensor] = []
            solver = ADMM(
                sigma=sigma,
                iterations=iterations,
                tol=0,
                data_iterations=steps,
                data_tol=max(tol, 1e-12),
            )
            solver.run(
                q,
                A,
                D,
                noise=noise,
                callbacks=[lambda state, keep=estimates: keep.append(state.x)],
                progress=False,
            )
            runs[steps] = estimates
        for k in sorted({1, 2, 5, 10, 15, 20, 30} & set(range(1, iterations + 1))):
            exact = runs[300][k - 1]
            row = {"level": name, "iteration": k, "exact (dB)": float(psnr(exact, truth))}
            for steps in (1, 2, 5):
                x = runs[steps][k - 1]
                row[f"{steps} steps: dB"] = float(psnr(x, truth) - psnr(exact, truth))
                row[f"{steps} steps: distance"] = f"{float((x - exact).norm() / exact.norm()):.1e}"
            rows.append(row)
    return {
        f"Warm-started PCG steps against the exact data step, {args.size} x {args.size}, "
        f"{args.views} views, 40 dB": rows
    }


if __name__ == "__main__":
    main()
