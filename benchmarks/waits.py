"""How often the host waits for a GPU in an iteration, for every solver and operator.

Counted on a pretend GPU (tests/pretend_cuda.py) on the examples of the operators, two images, by
the difference of the last two of a few iterations, with a denoiser that never waits. A test holds
the counts down (tests/test_device_runs.py).
Run: python benchmarks/waits.py [--only SOLVER ...]
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from common import arguments, parse, publish

from pnp_mlpatch import operators, solvers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from pretend_cuda import PretendCuda


def shrink(x, sigma):
    return x / (1 + (sigma.reshape(-1, 1, 1, 1) if isinstance(sigma, torch.Tensor) else sigma))


def waits(name, operator, iterations=4):
    """The waits of the last iteration."""
    solver, marks = solvers.make(name), []
    samples = {"burn_in": 1} if hasattr(solver, "burn_in") else {}
    solver = replace(solver, iterations=iterations, tol=0.0, **samples)
    A = operators.get(operator).example()
    generator = torch.Generator().manual_seed(0)
    q = A(torch.rand(2, *A.image_shape, generator=generator))
    q, x0 = q + 0.05 * torch.randn(q.shape, generator=generator), A.initial(q)
    with PretendCuda() as gpu:

        def mark(state):
            marks.append(sum(gpu.waits.values()))

        A, q, x0 = A.to("cuda"), q.to("cuda"), x0.to("cuda")
        solver.run(q, A, shrink, noise=0.05, x0=x0, callbacks=[mark], progress=False)
    return marks[-1] - marks[-2]


def main():
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", help="these solvers")
    args = parse(parser)
    iterations = 3 if args.quick else 4
    rows = [
        {"solver": name} | {A: waits(name, A, iterations) for A in operators.names()}
        for name in args.only or solvers.names()
    ]
    publish(args, {"Waits of the host in an iteration": rows})


if __name__ == "__main__":
    main()
