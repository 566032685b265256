"""What each mechanism of a larger search than that of tuning.auto would add.

The candidates of the larger search run once, for each case of benchmarks/matrix.py with ADMM, and
their iterates are kept in --keep FOLDER, one file a case; an interrupted run resumes. Rules are
then judged from these files, without further runs.

Larger search: 5 constant levels (4 with masks) from 1/15 of the top of the range, and one that
rises to the top; constant levels go on to 40 iterations while the estimated error falls; at the
best, alpha is multiplied and divided by 4, as long as that helps; SURE with 3 perturbations, or 3
folds of held-out data; of each candidate the last iterate within one standard error of its least
error; with masks, the second half of the iterations starts from the mean of held-out runs.

"loss" is what a rule without the mechanism loses against it, in dB; "to the oracle" is the loss
against the best iterate of all candidates, found with the truth.

Run: python benchmarks/mechanisms.py --keep FOLDER [--kept] [--size 64] [--image face phantom]
     [--denoiser tv] [--operator blur CT]
"""

import statistics
from pathlib import Path

import torch
from common import arguments, parse, publish
from matrix import OPERATORS, cases, shipped

from pnp_mlpatch import solvers
from pnp_mlpatch.errors import Diverged
from pnp_mlpatch.solvers import make_problem, schedules
from pnp_mlpatch.tuning import AutoConfig
from pnp_mlpatch.tuning.auto import top_level
from pnp_mlpatch.tuning.heldout import holdout_masks
from pnp_mlpatch.tuning.noise import probe, reached
from pnp_mlpatch.tuning.sure import PROBE_STEP, ErrorNorm, square_norm

N = 20  # iterations, as ADMM has by default
PROBES = FOLDS = 3
MIDDLE = ("noise 10/255", "35 dB", "noise 4/255", "30 galaxies")
FALLS = 0.02  # of the error less that of the noise, in the last quarter of a run that goes on
FULL = ("no rising level", {"rising": False}), ("4 constant levels", {"levels": (1, 2, 3, 4)})
SURE_RULES = (
    *FULL,
    ("3 constant levels", {"levels": (0, 2, 4)}),
    ("no more than 20 iterations", {"longer": False}),
    ("no scales of alpha", {"scales": 0}),
    ("1 perturbation", {"probes": 1}),
    ("no standard error", {"standard_error": 0.0}),
)
HELD_RULES = (
    *FULL,
    ("2 constant levels", {"levels": (1, 3)}),
    ("no more than 20 iterations", {"longer": False}),
    ("no scales of alpha", {"scales": 0}),
    ("1 fold", {"folds": 1}),
    ("2 folds", {"folds": 2}),
    ("no standard error", {"standard_error": 0.0}),
    ("no restart from held-out runs", {"restart": False}),
)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--keep", type=Path, required=True, help="a folder, one file a case")
    parser.add_argument("--kept", action="store_true", help="only judge what is there")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side (default: 64)")
    parser.add_argument("--image", nargs="+", default=["face", "phantom", "leaves", "chest"])
    parser.add_argument("--denoiser", nargs="+", default=["mlpatch", "tv", "dncnn"])
    parser.add_argument("--operator", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    args = parse(parser)
    torch.set_num_threads(args.threads or 1)
    size = 32 if args.quick else args.size
    args.keep.mkdir(parents=True, exist_ok=True)
    skies = [f"sky {k}" for k, name in enumerate(shipped(size)) if name in args.image]
    found = []
    for case in cases(size):
        wanted = case.image in (*args.image, *skies) and case.operator in args.operator
        for name in args.denoiser if wanted and case.level in MIDDLE else ():
            file = args.keep / f"{name}; {str(case).replace('/', '_')}.pt"
            if not file.exists() and not args.kept:
                torch.save(record(case, case.denoiser(name)), file)
                print(file.name, flush=True)
            if file.exists():
                kept = torch.load(file, weights_only=True)
                judge = JudgeHeldOut if case.operator == "inpainting" else JudgeSure
                found.append(judge(case, name, kept))
    tables = {}
    for title, judge, rules in (
        ("SURE: blur, CT, lensing", JudgeSure, SURE_RULES),
        ("held-out data: inpainting", JudgeHeldOut, HELD_RULES),
    ):
        mine = [one for one in found if isinstance(one, judge)]
        tables[title] = table(mine, rules) if mine else []
    publish(args, tables)


def table(judges, rules):
    base = [one.score() for one in judges]
    rows = [line("the larger search", judges, base, base)]
    for name, without in rules:
        rows.append(line(name, judges, base, [one.score(**without) for one in judges]))
    return rows


def line(name, judges, base, scores):
    losses = sorted(b - s for b, s in zip(base, scores, strict=True))
    to_oracle = [one.oracle - s for one, s in zip(judges, scores, strict=True)]
    return {
        "rule": name,
        "cases": len(judges),
        "median loss (dB)": statistics.median(losses),
        "90th percentile": losses[int(0.9 * (len(losses) - 1) + 0.5)],
        "largest": losses[-1],
        "to the oracle": statistics.median(to_oracle),
    }


# ---- recording


def record(case, D):
    """All runs of a case."""
    problem = make_problem(case.q, case.A, case.noise)
    top = top_level(problem, D)
    draw = torch.randn(1, *case.A.data_shape, generator=torch.Generator().manual_seed(0))
    first = (
        float(case.A.initial(case.noise * draw).std()) / 4
    )  # a quarter of the noise in the start
    first = min(max(first, float(top) / 15), float(top) / 2)
    rises = schedules.geometric(first, float(top), N)
    common = (case, D, float(top), rises)
    return record_held_out(*common) if case.operator == "inpainting" else record_sure(*common)


def run(case, D, q, noise, sigma, scale, iterations, state=None):
    """Iterates (K, B, C, H, W), and the last state, None where the run diverged."""
    xs = []
    made = solvers.make("admm", sigma=sigma, alpha_scale=scale, iterations=iterations, tol=0.0)
    settings = {"noise": noise, "state": state, "progress": False}
    try:
        end = made.run(q, case.A, D, callbacks=[lambda s: xs.append(s.x)], **settings).state
    except Diverged:
        end = None
    return torch.stack(xs), end


def norm_of(case, top):
    problem, shape = make_problem(case.q, case.A, case.noise), (1, *case.A.data_shape)
    prior = torch.tensor([AutoConfig().prior_scale * top]) if case.A.closed_form else None
    return ErrorNorm(problem, torch.full(shape, case.noise), reached(case.A), prior)


def record_sure(case, D, top, rises):
    norm, generator = norm_of(case, top), torch.Generator().manual_seed(0)
    seen = norm.seen.expand_as(case.q)
    changes = [case.noise * probe(case.q, seen, generator) * seen for _ in range(PROBES)]
    size, key = float(norm.expected(changes)), "image" if case.A.closed_form else "data"
    data, weighed = norm.weigh(case.q), [norm.weigh(b) for b in changes]
    batch, rows = torch.cat([case.q, *(case.q + PROBE_STEP * b for b in changes)]), []

    def follow(kind, sigma, scale, state=None):
        iterations = N if state is None else 2 * N
        xs, end = run(case, D, batch, case.noise, sigma, scale, iterations, state)
        fits = [[norm.weigh(case.A(x[None])) for x in four] for four in xs]
        misfit = [float(square_norm(fit[0] - data)) / size for fit in fits]
        div = [
            [float(((fit[k + 1] - fit[0]) * b).sum()) / (PROBE_STEP * size) for fit in fits]
            for k, b in enumerate(weighed)
        ]
        row = {"kind": kind, "sigma": sigma, "scale": scale, "xs": xs[:, 0].clone()}
        row |= {"misfit": {key: torch.tensor(misfit).double()}}
        row |= {"div": {key: torch.tensor(div).double()}, "score": [case.score(x[:1]) for x in xs]}
        return row, end

    for sigma in [top * s for s in schedules.geometric(1 / 15, 1.0, 5)]:
        row, end = follow("constant", sigma, 1.0)
        error = row["misfit"][key] + 2 * row["div"][key].mean(0)
        if end is not None and falls(error):
            row["more"] = follow("constant", sigma, 1.0, end)[0]
        rows.append(row)
    rows.append(follow("rising", rises, 1.0)[0])

    def least(row):
        return float((row["misfit"][key] + 2 * row["div"][key].mean(0)).min())

    search_scales(rows, least, lambda row, scale: follow(row["kind"], row["sigma"], scale)[0])
    return {"rows": rows, "key": key, "high": top, "sizes": {key: size}}


def record_held_out(case, D, top, rises):
    masks, deviation = parts(case), torch.full((1, *case.A.data_shape), case.noise)
    rows, noises = [], [*(torch.where(mask, torch.inf, deviation) for mask in masks), case.noise]

    def follow(kind, sigma, scale, iterations=N):
        *held, full = (run(case, D, case.q, m, sigma, scale, iterations)[0][:, 0] for m in noises)
        row = {"kind": kind, "sigma": sigma, "scale": scale, "xs": torch.stack(held, dim=1)}
        return row | {"score": [case.score(x[None]) for x in full]}

    for sigma in (*(top / 15 * 2**k for k in range(4)), top):
        rows.append(follow("constant", sigma, 1.0, 2 * N))
    rows.append(follow("rising", rises, 1.0))

    def least(row):
        held = [squares(case, row)[:, f][:, mask[0]].mean(1) for f, mask in enumerate(masks)]
        return float(torch.stack(held).mean(0).min())

    search_scales(rows, least, lambda row, scale: follow(row["kind"], row["sigma"], scale))
    return {"rows": rows, "high": top}


def search_scales(rows, least, follow):
    """Other scales of alpha at the two best candidates, as long as they help."""
    for row in sorted(rows, key=least)[:2]:
        for step in (4.0, 0.25):
            scale, before = 1.0, least(row)
            for _ in range(2):
                scale *= step
                rows.append(follow(row, scale))
                if least(rows[-1]) >= before:
                    break
                before = least(rows[-1])


def parts(case):
    return holdout_masks(reached(case.A), case.A, 0.1, FOLDS, 0, "mechanisms")


def squares(case, row):
    """Square residuals in units of the noise, (K, folds, C, H, W); a mask keeps what it sees."""
    return ((row["xs"] - case.q) / case.noise).square().double()


def falls(error):
    end = len(error) - 1
    return bool(error[end - end // 4] - error[end] > FALLS * (error[end] - 1).abs())


# ---- judging


class Judge:
    """The runs of a case, and the score of what a rule would take of them."""

    def __init__(self, case, name, kept):
        self.case, self.name, self.rows, self.kept = case, name, kept["rows"], kept
        constant = [row["sigma"] for row in self.rows if row["kind"] == "constant"]
        order = sorted(set(constant))
        for row in self.rows:
            row["level"] = order.index(row["sigma"]) if row["kind"] == "constant" else None
            longer = row.get("more", {}).get("score", [])
            row["scores"] = [*row["score"], *longer]
        self.oracle = max(max(row["scores"]) for row in self.rows if row["scores"])

    def first(self, rising, levels):
        at_one = [row for row in self.rows if row["scale"] == 1.0]
        return [
            row for row in at_one if (rising if row["level"] is None else row["level"] in levels)
        ]

    def scaled(self, row, up):
        """The recorded scales of a candidate, from 1 on."""
        same = [r for r in self.rows if (r["kind"], r["sigma"]) == (row["kind"], row["sigma"])]
        return [r for r in same if (r["scale"] > 1 if up else r["scale"] < 1)]


class JudgeSure(Judge):
    def score(
        self,
        rising=True,
        levels=range(5),
        longer=True,
        scales=2,
        standard_error=1.0,
        probes=PROBES,
    ):
        def judged(row):
            error = self.errors(row, probes, longer)
            k = int(error.argmin())
            near = error - error[k] <= standard_error * self.deviation(row, k)[: len(error)]
            taken = int(near.nonzero().max()) if standard_error else k
            return float(error[k]), row["scores"][taken], row

        best = min(map(judged, self.first(rising, levels)), key=lambda found: found[0])
        start = best[2]
        for up in (True, False):
            for row in self.scaled(start, up)[:scales]:
                found = judged(row)
                if found[0] >= best[0]:
                    break
                best = found
        return best[1]

    def errors(self, row, probes, longer):
        key = self.kept["key"]
        misfit, div = row["misfit"][key], row["div"][key][:probes].mean(0)
        error = misfit[: len(div)] + 2 * div
        if longer and "more" in row and falls(error):
            more = row["more"]
            change = div[-1] - row["div"][key][0][-1]  # of a mean of perturbations to the first
            error = torch.cat([error, more["misfit"][key] + 2 * (more["div"][key][0] + change)])
        return torch.where(torch.isfinite(error), error, torch.inf)

    def deviation(self, row, k):
        """Standard errors of the difference to iteration k."""
        if k not in row.setdefault("deviations", {}):
            norm = norm_of(self.case, self.kept["high"])
            xs = torch.cat([row["xs"], row["more"]["xs"]]) if "more" in row else row["xs"]
            fits = [norm.weigh(self.case.A(x[None])) for x in xs]
            apart = torch.cat([norm.standard_error(fit - fits[k]) for fit in fits])
            row["deviations"][k] = apart / self.kept["sizes"][self.kept["key"]]
        return row["deviations"][k]


class JudgeHeldOut(Judge):
    def score(
        self,
        rising=True,
        levels=range(4),
        longer=True,
        scales=2,
        standard_error=0.5,
        folds=FOLDS,
        restart=True,
    ):
        rows = self.first(rising, levels)
        settings = (longer, standard_error, folds)
        row, K = self.best(rows, *settings)
        start = row
        for up in (True, False):
            for scaled in self.scaled(start, up)[:scales]:
                rows.append(scaled)
                row, K = self.best(rows, *settings)
                if row is not scaled:
                    break
        if not restart or row["kind"] == "rising" or K < 2:
            return row["scores"][K - 1]
        return self.restarted(row, K, folds)

    def best(self, rows, longer, standard_error, folds):
        """The candidate and the number of iterations."""
        masks = parts(self.case)[:folds]
        errors, misfits, index = [], [], []
        for row in rows:
            r = squares(self.case, row)
            held = torch.cat([r[:, f][:, mask[0]] for f, mask in enumerate(masks)], 1)
            shown = reached(self.case.A)[0]
            fit = [r[:, f][:, shown & ~mask[0]].mean(1) for f, mask in enumerate(masks)]
            end = len(r) if longer and falls(held[:N].mean(1)) else N
            errors, misfits = [*errors, held[:end]], [*misfits, torch.stack(fit).mean(0)[:end]]
            index += [(row, k + 1) for k in range(len(held[:end]))]
        errors, misfit = torch.cat(errors), torch.cat(misfits)
        mean, s = errors.mean(1), float(reached(self.case.A).double().mean())
        noise = mean.min().clamp(1e-30, 1.0)
        kept = (misfit / mean).clamp_max(1)
        bias = (errors - noise) / noise
        scores = (s * kept + 1 - s)[:, None] * bias + (s * (1 - kept.sqrt()).square())[:, None]
        least = int(scores.mean(1).argmin())
        apart = (scores - scores[least]).std(1) / scores.shape[1] ** 0.5
        near = (scores - scores[least]).mean(1) <= standard_error * apart
        smoothest = torch.where(near, misfit, -1.0).argmax()
        return index[int(smoothest) if standard_error else least]

    def restarted(self, row, K, folds):
        """The second half of the iterations from the mean of the held-out runs."""
        key, half = (K, folds), K // 2
        if key not in row.setdefault("restarted", {}):
            x0, case = row["xs"][half - 1][:folds].mean(0, keepdim=True), self.case
            made = {"sigma": row["sigma"], "alpha_scale": row["scale"], "iterations": K - half}
            solver, D = solvers.make("admm", tol=0.0, **made), case.denoiser(self.name)
            x = solver.run(case.q, case.A, D, noise=case.noise, x0=x0, progress=False).x
            row["restarted"][key] = case.score(x)
        return row["restarted"][key]


if __name__ == "__main__":
    main()
