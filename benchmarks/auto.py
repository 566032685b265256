"""Settings chosen by the data against settings chosen with the truth, over the matrix of problems
of benchmarks/matrix.py.

8 images x (inpainting of 30 %, CT of 60 views, blur and noise, lensing) x 3 levels of noise, with
MLPatch, TV and a CNN (DnCNN), by ADMM.

oracle    the best of 5 levels of the denoiser x alpha = (1/16, 1/4, 1, 4) (noise / sigma)^2, 30
          iterations, scored with the truth
auto      reconstruct(q, A, D, noise=noise, tune="auto"): the search, at most 12 runs
unknown   the same where the noise is estimated too
run       reconstruct(q, A, D, noise=noise): one run, the level from the noise
before    the search of the first edition, of 20 to 30 runs (commit 10a2fd9); "before, unknown" with
          the noise estimated
speed     iterations to a residual |g(z) - z| / |z| of 1e-4 of ADMM with the level of the search,
          held constant, and with anderson(solver, 5); at most 150, which is what counts for one
          that does not arrive where the other does

A loss is in dB against the oracle (of the error inside the mask, less its mean, for lensing).
Results are kept in --keep FILE, one line each, and an interrupted run goes on from there. All of it
takes some hours on one core; --denoiser tv, --what auto and --case "CT, 35" "lensing, 30" take
parts. benchmarks/auto.jsonl has those of docs/benchmarks.md. Where a rule of tuning.auto changes,
"auto" and "unknown" are to be computed again.

Run: python benchmarks/auto.py --keep auto.jsonl [--kept] [--denoiser mlpatch tv dncnn] [--what
     oracle auto unknown run speed] [--case blur CT]
     [--settle PICTURES SLICES.npz] (the images on which the rules were settled, not those of the
     matrix)
"""

import json
import statistics
import time
from pathlib import Path

import torch
from common import arguments, parse, publish
from matrix import OPERATORS, cases

from pnp_mlpatch import reconstruct, solvers
from pnp_mlpatch.denoisers import describe
from pnp_mlpatch.errors import Diverged
from pnp_mlpatch.solvers import schedules

WHAT = ("oracle", "auto", "unknown", "run", "speed")
RULES = ("auto", "before", "unknown", "before, unknown", "run")
FACTORS = (1 / 16, 1 / 4, 1, 4)
MOST = 150  # iterations of speed


def main():
    parser = arguments(__doc__)
    parser.add_argument("--denoiser", nargs="+", default=["mlpatch", "tv", "dncnn"])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument(
        "--case", nargs="+", default=[""], help="only cases with one of these in their name"
    )
    parser.add_argument("--keep", type=Path, help="a file of results, read first and added to")
    parser.add_argument(
        "--settle",
        nargs=2,
        type=Path,
        metavar=("PICTURES", "SLICES"),
        help="a folder of pictures, and an .npz of slices",
    )
    parser.add_argument(
        "--kept", action="store_true", help="print the tables of what is kept, and compute nothing"
    )
    args = parse(parser)
    found = {}
    if args.keep and args.keep.exists():
        for line in args.keep.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["denoiser"], row["case"], row["what"]] = row
    where = {} if not args.settle else {"pictures": args.settle[0], "slices": args.settle[1]}
    todo = [
        case
        for case in cases(48 if args.quick else 96, **where)
        if any(part in str(case) for part in args.case)
    ]
    if args.quick:
        todo, args.denoiser = (
            [case for case in todo if case.image in ("face", "sky 1")][1:12:3],
            ["tv"],
        )
    for case in [] if args.kept else todo:
        for name in args.denoiser:
            for what in args.what:
                if (name, str(case), what) not in found:
                    row = {
                        "denoiser": name,
                        "case": str(case),
                        "what": what,
                        **COMPUTE[what](case, name, args.quick, found),
                    }
                    found[name, str(case), what] = row
                    print(row, flush=True)
                    if args.keep:
                        with args.keep.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
    publish(args, tables(found, args.denoiser, [str(case) for case in todo]))


def levels(case, D):
    known = describe(D).sigma_range
    top = known[1] if known else 60 / 255 if case.operator != "lensing" else 0.35
    return schedules.geometric(top / 15, top, 5)


def oracle(case, name, quick, found):
    D, best = case.denoiser(name), {"score": -1e9}
    for sigma in levels(case, D)[1 : 3 if quick else 5] if quick else levels(case, D):
        for factor in FACTORS[1 : 3 if quick else 4] if quick else FACTORS:
            settings = {
                "sigma": sigma,
                "alpha": factor * (case.noise / sigma) ** 2,
                "iterations": 5 if quick else 30,
                "tol": 1e-5,
            }
            try:
                x = reconstruct(
                    case.q, case.A, D, "admm", noise=case.noise, progress=False, **settings
                ).x
            except Diverged:
                continue
            if case.score(x) > best["score"]:
                best = {"score": case.score(x), "sigma": sigma, "factor": factor}
    return best


def automatic(case, name, quick, found, *, known=True):
    start = time.perf_counter()
    settings = {"iterations": 5} if quick else {}
    noise = case.noise if known else None
    result = reconstruct(
        case.q,
        case.A,
        case.denoiser(name),
        "admm",
        noise=noise,
        tune="auto",
        progress=False,
        **settings,
    )
    tuned = result.tuned
    chosen = {
        "sigma": float(tuned.settings["sigma"].reshape(-1)[-1]),
        "iterations": int(tuned.settings["iterations"]),
    }
    told = float(torch.as_tensor(tuned.noise).mean()) / case.noise
    return {
        "score": case.score(result.x),
        **chosen,
        "told": told,
        "seconds": time.perf_counter() - start,
    }


def one_run(case, name, quick, found):
    settings = {"iterations": 5} if quick else {}
    result = reconstruct(
        case.q, case.A, case.denoiser(name), "admm", noise=case.noise, progress=False, **settings
    )
    return {
        "score": case.score(result.x),
        "sigma": float(torch.as_tensor(result.tuned.settings["sigma"])),
    }


def speed(case, name, quick, found):
    chosen = found.get((name, str(case), "auto")) or automatic(case, name, quick, found)
    alpha, counts = (case.noise / chosen["sigma"]) ** 2, {}
    for label, depth in (("plain", 0), ("anderson", 5)):
        solver = solvers.make(
            "admm",
            sigma=chosen["sigma"],
            alpha=alpha,
            iterations=10 if quick else MOST,
            tol=0.0,
        )
        solver = solvers.anderson(solver, depth) if depth else solver
        result = solver.run(
            case.q,
            case.A,
            case.denoiser(name),
            noise=case.noise,
            progress=False,
            callbacks=[lambda s: bool((s.fixed_point < 1e-4).all())],
        )
        counts[label] = result.state.iteration if result.status == "stopped" else None
        counts[label + " score"] = case.score(result.x)
    return counts


def unknown(case, name, quick, found):
    return automatic(case, name, quick, found, known=False)


COMPUTE = {"oracle": oracle, "auto": automatic, "unknown": unknown, "run": one_run, "speed": speed}


def tables(found, names, shown):
    found = {key: row for key, row in found.items() if key[1] in shown}
    loss, fast = [], []
    for name in (*names, "all"):
        for operator in (*OPERATORS, "all"):
            mine = {
                key: row
                for key, row in found.items()
                if name in (key[0], "all") and (operator in key[1] or operator == "all")
            }
            common = {"denoiser": name, "problems": operator}
            searched = {key[:2] for key in mine if key[2] == "auto"}
            for what in RULES:
                cases = {key[:2] for key in mine if key[2] == what and (*key[:2], "oracle") in mine}
                cases &= searched if what == "before" and searched else cases  # the same cases
                losses = sorted(
                    mine[(*case, "oracle")]["score"] - mine[(*case, what)]["score"]
                    for case in cases
                )
                if losses:
                    spread = {
                        "median loss (dB)": statistics.median(losses),
                        "90 %": losses[int(0.9 * (len(losses) - 1) + 0.5)],
                    }
                    loss.append(
                        common
                        | {"rule": what, "cases": len(losses)}
                        | spread
                        | {"worst": losses[-1]}
                    )
            counts = [
                (r["plain"], r["anderson"]) for (*_, kind), r in mine.items() if kind == "speed"
            ]
            if any(a or b for a, b in counts):
                fast.append(common | faster(counts))
    return {
        "loss against the oracle": loss,
        "losses above 1 dB": worst(found),
        "iterations to 1e-4": fast,
    }


def faster(counts):
    either = [(a or MOST, b or MOST) for a, b in counts if a or b]
    return {
        "cases": len(counts),
        "plain arrives": sum(a is not None for a, _ in counts),
        "anderson arrives": sum(b is not None for _, b in counts),
        "median iterations": statistics.median(a for a, _ in either),
        "with anderson": statistics.median(b for _, b in either),
        "ratio": statistics.median(a / b for a, b in either),
        "where both arrive": statistics.median(
            [a / b for a, b in counts if a and b] or [float("nan")]
        ),
    }


def worst(found):
    rows = []
    for (name, case, what), row in found.items():
        best = found.get((name, case, "oracle"))
        if what in ("auto", "unknown") and best and best["score"] - row["score"] > 1:
            rows.append(
                {
                    "denoiser": name,
                    "case": case,
                    "noise": what,
                    "score (dB)": row["score"],
                    "loss (dB)": best["score"] - row["score"],
                }
            )
    return sorted(rows, key=lambda row: -row["loss (dB)"])


if __name__ == "__main__":
    main()
