"""What the errors of blurred data and of their images do not tell: pairs of estimates that data prefer in the wrong order.

For cases of benchmarks/auto.py that are told worst: an estimate of settings that held-out data or SURE of the data prefer (the first four pairs) or whose error of the
image is the least that is told (the others), then one of better ones. "true" is the error of the data |A x - A f|^2 / (m noise^2), known here from the truth f, and "SURE" is what tuning.sure tells
of it without. "of the image" is |B A (x - f)|^2 / E|B e|^2, B = (A^H A + c)^-1 A^H with c = (noise / level)^2 and the level of tuning.auto, twice the top of the
denoiser's range, and "told" what tuning.sure tells of that. "apart" are the standard errors by which the second is above the first, with three random changes of the
data. A rule that minimises one of these errors can be no better than the error itself.

Run: python benchmarks/blind.py [--quick] [--probes 3]
"""

from typing import Any

import torch
from common import arguments, parse, publish
from matrix import Case, cases, shipped
from torch import Tensor

from pnp_mlpatch import reconstruct, tuning
from pnp_mlpatch.loss import Loss
from pnp_mlpatch.noise import probe
from pnp_mlpatch.solvers import make_problem

PAIRS = (
    ("blur, noise 1/255, coat", "mlpatch", (0.0309, 1.0, 20), (0.0608, 1.0, 20)),
    ("blur, noise 1/255, phantom", "mlpatch", (0.0314, 1.0, 20), (0.0608, 1.0, 30)),
    ("blur, noise 1/255, waves", "dncnn", (0.0627, 4.0, 20), (0.2353, 4.0, 30)),
    ("blur, noise 1/255, chest", "mlpatch", (0.0314, 1.0, 17), (0.0309, 0.25, 30)),
    ("blur, noise 4/255, phantom", "mlpatch", (0.0608, 1.0, 24), (0.1196, 1.0, 30)),
    ("blur, noise 4/255, phantom", "dncnn", (0.1196, 1.0, 9), (0.0608, 1.0, 30)),
    ("blur, noise 4/255, waves", "dncnn", (0.0608, 1.0, 3), (0.2353, 4.0, 30)),
)


LEVEL = 2 * 60 / 255


def main():
    parser = arguments(__doc__)
    parser.add_argument("--probes", type=int, default=3, help="changes of the data (default: 3)")
    args = parse(parser)
    size = 48 if args.quick else 96
    found = {str(case): case for case in cases(size)}
    rows = []
    for name, denoiser, *both in PAIRS[: 1 if args.quick else len(PAIRS)]:
        case, truth = found[name], shipped(size)[found[name].image]
        pair = [
            judge(case, truth, denoiser, settings, 1 if args.quick else args.probes)
            for settings in both
        ]
        rows += [row for row, _ in pair]
        difference = pair[0][1] - pair[1][1]
        for what, level in (("SURE", None), ("told", LEVEL)):
            loss = loss_of(case, level)
            expected, _ = loss.size(changes(case, args.probes))
            rows[-1][what + " apart"] = (rows[-1][what] - rows[-2][what]) * float(
                expected / loss.deviation(loss.see(difference))
            )
        print(*rows[-2:], sep="\n", flush=True)
    small = ("true", "SURE", "of the image", "told")
    publish(
        args, {"estimates": [row | {what: f"{row[what]:.4f}" for what in small} for row in rows]}
    )


def loss_of(case: Case, level: float | None) -> Loss:
    everything, noise = (
        torch.ones_like(case.q, dtype=torch.bool),
        torch.full_like(case.q, case.noise),
    )
    return Loss(
        make_problem(case.q, case.A, case.noise),
        noise,
        everything,
        None if level is None else torch.full((1,), level),
    )


def changes(case: Case, many: int) -> list[Tensor]:
    everything = torch.ones_like(case.q, dtype=torch.bool)
    return [
        case.noise * probe(case.q, everything, torch.Generator().manual_seed(seed))
        for seed in range(many)
    ]


def judge(
    case: Case, truth: Tensor, denoiser: str, settings: tuple[float, float, int], probes: int
) -> tuple[dict[str, Any], Tensor]:
    sigma, factor, iterations = settings
    q, A, D, noise = case.q, case.A, case.denoiser(denoiser), case.noise
    kept: dict[int, Tensor] = {}

    def estimate(q: Tensor) -> Tensor:
        """The same data are not run twice."""
        key = hash(q.numpy().tobytes())
        if key not in kept:
            kept[key] = reconstruct(
                q,
                A,
                D,
                noise=noise,
                sigma=sigma,
                alpha_scale=factor,
                iterations=iterations,
                tol=0.0,
                progress=False,
            ).x
        return kept[key]

    x = estimate(q)
    row = {
        "case": str(case),
        "denoiser": denoiser,
        "sigma": sigma,
        "factor": factor,
        "score (dB)": case.score(x),
    }
    for true, told, level in (("true", "SURE", None), ("of the image", "told", LEVEL)):
        loss = loss_of(case, level)
        expected, _ = loss.size(changes(case, probes))
        found = torch.tensor(
            [
                float(tuning.sure(q, A, estimate, noise=noise, level=level, seed=seed))
                for seed in range(probes)
            ]
        )
        row |= {
            true: float(loss.see(A(x) - A(truth)).square().sum() / expected),
            told: float(found.mean()),
            told + " apart": 0.0,
        }
    return row, A(x)


if __name__ == "__main__":
    main()
