"""How much the divergence that Stein's estimate needs varies from one random change of the data to
the next: signs against tuning.noise.probe.

Images of benchmarks/matrix.py, ADMM at a constant level, 15 iterations. "deviation" is that of <b,
A x(q + eps b) - A x(q)> / (eps m) over the changes b, eps = noise / 10, with random signs and with
a flat spectrum; "ratio" is how many signs tell as much as one of the others (a ratio of variances).

Run: python benchmarks/probes.py [--quick] [--draws 40]
"""

from collections.abc import Callable

import torch
from common import arguments, parse, publish
from matrix import cases
from torch import Tensor

from pnp_mlpatch import reconstruct
from pnp_mlpatch.tuning.noise import probe, reached

PROBLEMS = (
    ("blur, noise 4/255, face", "tv", 0.03),
    ("blur, noise 4/255, face", "dncnn", 0.12),
    ("blur, noise 12/255, leaves", "tv", 0.12),
    ("CT, 35 dB, chest", "tv", 0.06),
    ("CT, 25 dB, leaves", "tv", 0.12),
    ("lensing, 30 galaxies, sky 0", "tv", 0.1),
)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, default=40)
    args = parse(parser)
    rows, found = [], {str(case): case for case in cases(32 if args.quick else 96)}
    for name, denoiser, sigma in PROBLEMS[: 1 if args.quick else None]:
        case = found[name]
        seen, D = reached(case.A).expand_as(case.q), case.denoiser(denoiser)

        def fit(q: Tensor, case=case, D=D, sigma=sigma) -> Tensor:
            x = reconstruct(
                q, case.A, D, noise=case.noise, sigma=sigma, iterations=15, tol=0.0, progress=False
            ).x
            return case.A(x) / case.noise

        def deviation(
            draw: Callable[[torch.Generator], Tensor], case=case, fit=fit, seen=seen
        ) -> tuple[float, float]:
            generator, base = torch.Generator().manual_seed(0), fit(case.q)
            told = []
            for _ in range(2 if args.quick else args.draws):
                b = torch.where(seen, draw(generator), 0.0)
                told.append(
                    float(((fit(case.q + 0.1 * case.noise * b) - base) * b).sum())
                    / (0.1 * int(seen.sum()))
                )
            return float(torch.tensor(told).mean()), float(torch.tensor(told).std())

        _, signs = deviation(
            lambda g, q=case.q: 2.0 * torch.randint(0, 2, q.shape, generator=g) - 1
        )
        mean, flat = deviation(lambda g, q=case.q, seen=seen: probe(q, seen, g))
        rows.append(
            {
                "problem": name,
                "denoiser": denoiser,
                "sigma": sigma,
                "div / m": f"{mean:.4f}",
                "deviation, signs": f"{signs:.5f}",
                "flat": f"{flat:.5f}",
                "ratio": (signs / flat) ** 2,
            }
        )
    publish(args, {"deviation of the divergence": rows})


if __name__ == "__main__":
    main()
