"""What the error of blurred data does not tell: pairs of estimates of which the worse is as near, or nearer, to the data without their noise.

For cases of benchmarks/auto.py that lose most: an estimate of settings that held-out data or SURE prefer, then one of better ones. "true" is the error
of the data |A x - A f|^2 / (m noise^2), known here from the truth f, and "SURE" is what tuning.sure tells of it without (one probe). A rule that
minimises this error can be no better than "true". "apart" is by how many standard errors 2 |A (x - y)| / (m noise) SURE tells the second from the first.
"weighted" is |(A^H A + c)^-1 A^H A (x - f)|^2 / (m noise^2) with c = (noise / 0.1)^2, which does tell them
apart, and "told" its unbiased estimate without the truth, less a constant, with its deviation over the probes.

Run: python benchmarks/blind.py [--quick] [--probes 4]
"""

from typing import Any

import torch
from common import arguments, parse, publish
from matrix import Case, cases, shipped
from torch import Tensor

from pnp_mlpatch import reconstruct, tuning
from pnp_mlpatch.noise import probe

PAIRS = (
    ("blur, noise 1/255, coat", "mlpatch", (0.0309, 1.0, 20), (0.0608, 1.0, 20)),
    ("blur, noise 1/255, phantom", "mlpatch", (0.0314, 1.0, 20), (0.0608, 1.0, 30)),
    ("blur, noise 1/255, waves", "dncnn", (0.0627, 4.0, 20), (0.2353, 4.0, 30)),
    ("blur, noise 1/255, chest", "mlpatch", (0.0314, 1.0, 17), (0.0309, 0.25, 30)),
)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--probes", type=int, default=4, help="changes of the data for the unbiased estimate (default: 4)")
    args = parse(parser)
    size = 48 if args.quick else 96
    found = {str(case): case for case in cases(size)}
    rows = []
    for name, denoiser, *both in PAIRS[: 1 if args.quick else len(PAIRS)]:
        case, truth, fits = found[name], shipped(size)[found[name].image], list[Tensor]()
        for settings in both:
            row, fit = judge(case, truth, denoiser, settings, 1 if args.quick else args.probes)
            fits.append(fit)
            deviation = 2 * float((fit - fits[0]).norm()) / (fit.numel() * case.noise)
            rows.append(row | {"apart": (row["SURE"] - rows[-1]["SURE"]) / deviation if deviation else 0.0})
            print(rows[-1], flush=True)
    publish(args, {"estimates": rows})


def judge(case: Case, truth: Tensor, denoiser: str, settings: tuple[float, float, int], probes: int) -> tuple[dict[str, Any], Tensor]:
    sigma, factor, iterations = settings
    q, A, D, noise = case.q, case.A, case.denoiser(denoiser), case.noise

    def estimate(q: Tensor) -> Tensor:
        return reconstruct(q, A, D, noise=noise, sigma=sigma, factor=factor, iterations=iterations, tol=0.0, progress=False).x

    def back(r: Tensor) -> Tensor:
        return A.data_step(torch.zeros_like(truth), (noise / 0.1) ** 2, Aty=A.adjoint(r))

    unit, x, everything = q.numel() * noise**2, estimate(q), torch.ones_like(q, dtype=torch.bool)
    told = []
    for seed in range(probes):
        b = probe(q, everything, torch.Generator().manual_seed(seed))
        moved = (A(estimate(q + 0.1 * noise * b)) - A(x)) / (0.1 * noise)
        told.append(float((back(A(x) - q).square().sum() + 2 * noise**2 * (back(b) * back(moved)).sum()) / unit))
    told = torch.tensor(told)
    row = {
        "case": str(case),
        "denoiser": denoiser,
        "sigma": sigma,
        "factor": factor,
        "score (dB)": case.score(x),
        "true": float((A(x) - A(truth)).square().sum() / unit),
        "SURE": float(tuning.sure(q, A, estimate, noise=noise)),
        "weighted": float(back(A(x) - A(truth)).square().sum() / unit),
        "told": float(told.mean()),
        "deviation": float(told.std()) if probes > 1 else 0.0,
    }
    return row, A(x)


if __name__ == "__main__":
    main()
