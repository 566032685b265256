"""Settings chosen by the data against settings chosen with the truth, over the matrix of problems of benchmarks/matrix.py.

8 images x (inpainting of 30 %, CT of 60 views, blur and noise, lensing) x 3 levels of noise, with MLPatch, TV and a CNN (DnCNN), by ADMM.

oracle    the best of 5 levels of the denoiser x alpha = (1/16, 1/4, 1, 4) (noise / sigma)^2, 30 iterations, scored with the truth
auto      reconstruct(q, A, D, noise=noise): tuning.auto; "alone" is the loss of the best of what it tried, of which it gives a mean
unknown   reconstruct(q, A, D): the noise is estimated too
speed     iterations to a residual |g(z) - z| / |z| of 1e-4 of ADMM with what auto chose, held constant, and with anderson(solver, 5); at most 150,
          which is what counts for one that does not arrive where the other does

A loss is in dB against the oracle (of the error inside the mask, less its mean, for lensing). Results are kept in --keep FILE, one line each, and an
interrupted run goes on from there. All of it takes some hours on one core; --denoiser tv, --what auto and --case "CT, 35" "lensing, 30" take parts.
benchmarks/auto.jsonl has those of docs/benchmarks.md. Where a rule of tuning.auto changes, all but the oracle's are to be computed again.

Run: python benchmarks/auto.py --keep auto.jsonl [--kept] [--denoiser mlpatch tv dncnn] [--what oracle auto unknown speed] [--case blur CT]
     [--settle PICTURES SLICES.npz] (the images on which the rules were settled, not those of the matrix)
     [--prior 2] (of what deviation images are taken to be, for the error of the image, in tops of the range; in a file of its own)
"""

import json
import statistics
import time
from pathlib import Path

import torch
from common import arguments, parse, publish
from matrix import OPERATORS, cases

from pnp_mlpatch import reconstruct, solvers, tuning
from pnp_mlpatch.denoisers import describe
from pnp_mlpatch.errors import Diverged
from pnp_mlpatch.solvers import schedules

WHAT = ("oracle", "auto", "unknown", "speed")
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
        "--prior",
        type=float,
        default=tuning.PRIOR,
        help="the rule of tuning.auto with another PRIOR than its own",
    )
    parser.add_argument(
        "--kept", action="store_true", help="print the tables of what is kept, and compute nothing"
    )
    args = parse(parser)
    tuning.PRIOR = args.prior
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
        case.q, case.A, case.denoiser(name), "admm", noise=noise, progress=False, **settings
    )
    tuned = result.tuned
    last = int(tuned.settings["iterations"]) - 1
    chosen = {
        "sigma": float(tuned.settings["sigma"].reshape(-1)[-1]),
        "factor": float(tuned.settings["alpha_scale"]),
        "iterations": last + 1,
    }
    runs = int((tuned.tried["iteration"] == 1).sum())
    told = float(torch.as_tensor(tuned.noise).mean()) / case.noise
    scores = {"score": case.score(result.x), "alone": case.score(result.state.x)}
    return {**scores, **chosen, "runs": runs, "told": told, "seconds": time.perf_counter() - start}


def speed(case, name, quick, found):
    chosen = found.get((name, str(case), "auto")) or automatic(case, name, quick, found)
    alpha, counts = chosen["factor"] * (case.noise / chosen["sigma"]) ** 2, {}
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
            callbacks=[lambda s: bool((s.measures()["fixed_point"] < 1e-4).all())],
        )
        counts[label] = result.state.iteration if result.status == "stopped" else None
        counts[label + " score"] = case.score(result.x)
    return counts


def unknown(case, name, quick, found):
    return automatic(case, name, quick, found, known=False)


COMPUTE = {"oracle": oracle, "auto": automatic, "unknown": unknown, "speed": speed}


def tables(found, names, shown):
    loss, fast = [], []
    found = {key: row for key, row in found.items() if key[1] in shown}
    for name in (*names, "all"):
        for operator in (*OPERATORS, "all"):
            mine = {
                key: row
                for key, row in found.items()
                if name in (key[0], "all") and (operator in key[1] or operator == "all")
            }
            rows = {(f"{key[0]} {key[1]}", key[2]): row for key, row in mine.items()}
            row = {"denoiser": name, "problems": operator}
            for what in ("auto", "unknown"):
                pairs = [
                    (rows[case, "oracle"], r)
                    for (case, kind), r in rows.items()
                    if kind == what and (case, "oracle") in rows
                ]
                losses = [best["score"] - r["score"] for best, r in pairs]
                alone = [best["score"] - r["alone"] for best, r in pairs if "alone" in r]
                if losses:
                    pad = " " * WHAT.index(what)  # columns need names of their own
                    row |= {
                        f"{what}: cases": len(losses),
                        f"median loss (dB){pad}": statistics.median(losses),
                        f"worst{pad}": max(losses),
                    }
                if alone and what == "auto":
                    row |= {"alone": statistics.median(alone), "worst alone": max(alone)}
            loss += [row] if len(row) > 2 else []
            counts = [
                (r["plain"], r["anderson"]) for (_, kind), r in rows.items() if kind == "speed"
            ]
            either = [(a or MOST) / (b or MOST) for a, b in counts if a or b]
            if either:
                fast.append(
                    {
                        "denoiser": name,
                        "problems": operator,
                        "cases": len(counts),
                        "plain arrives": sum(a is not None for a, _ in counts),
                        "anderson arrives": sum(b is not None for _, b in counts),
                        "median iterations": statistics.median(
                            a or MOST for a, b in counts if a or b
                        ),
                        "with anderson": statistics.median(b or MOST for a, b in counts if a or b),
                        "ratio": statistics.median(either),
                        "where both arrive": statistics.median(
                            [a / b for a, b in counts if a and b] or [float("nan")]
                        ),
                    }
                )
    keys = dict.fromkeys(key for row in loss for key in row)
    loss = [{key: row.get(key, float("nan")) for key in keys} for row in loss]
    return {
        "loss against the oracle": loss,
        "losses above 1 dB": worst(found),
        "iterations to 1e-4": fast,
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
