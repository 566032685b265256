"""Which solver is the quickest: time to within 0.1 dB of the best, over problems x solvers x
denoisers.

Images of 64 x 64: a photograph with 30 % of its pixels, blurred, in CT of 60 views, and every
second pixel in each direction of the blurred one (an operator of two functions, whose data step is
conjugate gradients without preconditioner); a mass map; all at the middle level of noise of
benchmarks/matrix.py.

Each solver runs with 8 settings, scored with the truth after every step: 4 levels of the denoiser,
1/8 to 1 of the top of its range, with alpha = (noise / sigma)^2 and a quarter of it; pgd and fista
with 6, 1/8 to 4 times sqrt(tau) noise; hqs with schedules of 8 and 24 steps from the top to 1/16
... 1/2 of it. Then with the level of the one that ends highest times and over sqrt(2). No level is
above the range of a network. At most 60 iterations (pgd, fista, pdhg: 150), fewer where the score
moves by less than 0.01 dB in 25.

best       the highest score at the end of a run, of any solver and setting, for this problem and
           denoiser, in dB (of a mass map, of the error in kappa)
start      the score of A.initial(q)
passed     the highest score at any step: above the best where a run is better before it ends, which
           only the truth tells
steps      to the first from which on the score is within 0.1 dB of the best, with the setting of
           the solver that is there first
seconds    of the processor, to there, from A.initial on, with what a solver prepares (the norm of
           A), without the scoring: least of 3
-0.42 dB   no setting gets there; what the one that ends highest lacks
status     of a run with that setting to a relative change of 1e-4, at most 150 iterations

Results are kept in --keep FILE, one line each, and an interrupted run goes on from there.

Run: python benchmarks/choosing.py [--keep FILE.jsonl] [--picture FILE.png] [--denoiser mlpatch tv
     dncnn]
"""

import functools
import json
import statistics
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from auto import levels
from common import arguments, parse, publish
from matrix import Case, cases, shipped

from pnp_mlpatch import solvers
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import describe
from pnp_mlpatch.errors import Diverged
from pnp_mlpatch.interop import from_functions
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.solvers import schedules

SOLVERS = {
    "admm": ("admm", {}),
    "admm, anderson": ("admm", {}),
    "fast_admm": ("fast_admm", {}),
    "drs, relaxation=1.6": ("drs", {"relaxation": 1.6}),
    "hqs": ("hqs", {}),
    "red": ("red", {}),
    "pgd": ("pgd", {}),
    "fista": ("fista", {}),
    "pdhg": ("pdhg", {}),
}


def make(solver, **settings):
    """A solver of the table; "anderson" in its name accelerates it."""
    made = solvers.make(SOLVERS[solver][0], **settings)
    return solvers.anderson(made, 5) if "anderson" in solver else made


GRADIENT = ("pgd", "fista", "pdhg")
NEAR = 0.1  # dB
REST = 25  # steps in which the score moves by less than 0.01 dB


def main():
    parser = arguments(__doc__)
    parser.add_argument("--denoiser", nargs="+", default=["mlpatch", "tv", "dncnn"])
    parser.add_argument("--case", default="", help="only problems with these words in their name")
    parser.add_argument("--keep", type=Path, help="a file of results, read first and added to")
    parser.add_argument(
        "--kept",
        action="store_true",
        help="only what is in --keep already, to look at a run that is not done",
    )
    parser.add_argument("--picture", type=Path, help="draw the figure there")
    args = parse(parser)
    torch.set_num_threads(args.threads or 1)
    todo = {
        name: case for name, case in problems(32 if args.quick else 64).items() if args.case in name
    }
    if args.quick:
        todo, args.denoiser = {name: todo[name] for name in list(todo)[::3]}, ["tv"]
    found = kept(args.keep)

    def once(name, problem, solver, what, compute, *inputs):
        if (name, problem, solver, what) not in found:
            row = {
                "denoiser": name,
                "problem": problem,
                "solver": solver,
                "what": what,
                **compute(*inputs),
            }
            found[name, problem, solver, what] = row
            if args.keep:
                with args.keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        return found[name, problem, solver, what]

    cells = {}
    for name in args.denoiser:
        for problem, case in todo.items():
            if args.kept and any(
                (name, problem, s, what) not in found
                for s in SOLVERS
                for what in ("sweep", "refine", "time")
            ):
                continue
            of_solver = compared(case, name, functools.partial(once, name, problem), args.quick)
            cells |= {(name, problem, s): cell for s, cell in of_solver.items()}
            print(name, problem, {s: text(cell) for s, cell in of_solver.items()}, flush=True)
    publish(args, tables(cells, todo))
    if args.picture:
        picture(args.picture, cells)


def kept(path):
    """The results of a file, by denoiser, problem, solver and what was computed."""
    found = {}
    if path and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["denoiser"], row["problem"], row["solver"], row["what"]] = row
    return found


def compared(case, name, once, quick):
    """A cell of the tables for each solver; ``once`` computes what is not kept."""
    runs = {s: once(s, "sweep", sweep, case, name, s, quick)["runs"] for s in SOLVERS}
    runs |= {
        s: runs[s] + once(s, "refine", refine, case, name, s, runs[s], quick)["runs"]
        for s in SOLVERS
    }
    traces = [run["score"] for of_solver in runs.values() for run in of_solver if run["score"]]
    best, peak = max(scores[-1] for scores in traces), max(map(max, traces))
    cells = {}
    for s in SOLVERS:
        cell = chosen(runs[s], best)
        cell |= {"seconds": 0.0} | once(s, "time", timed, case, name, s, cell, quick)
        start = case.score(case.A.initial(case.q))
        cells[s] = cell | {"start": start, "best": best, "peak": peak}
    return cells


def problems(size):
    """The cases by name: of one photograph and one sky at the middle level, and one whose data step
    is CG.
    """
    found = {}
    for case in cases(size):
        if case.image in ("face", "sky 1"):
            found.setdefault(case.operator, []).append(case)
    named = {
        "inpainting, 30 %": "inpainting",
        "blur": "blur",
        "CT, 60 views": "CT",
        "mass map": "lensing",
    }
    found = {name: found[operator][1] for name, operator in named.items()}
    blurred = found["blur"]
    blur = Blur(gaussian_psf(1.0), (1, size, size))

    def spread(y):
        x = y.new_zeros(len(y), 1, size, size)
        x[..., ::2, ::2] = y
        return blur.adjoint(x)

    truth = shipped(size)[blurred.image]
    A = from_functions(
        lambda x: blur(x)[..., ::2, ::2], spread, (1, size, size), (1, size // 2, size // 2)
    )
    q = A(truth) + blurred.noise * torch.randn(
        1, *A.data_shape, generator=torch.Generator().manual_seed(4)
    )
    found["every 2nd pixel, CG"] = Case(
        blurred.image, "CG", blurred.level, q, A, blurred.noise, lambda x: float(psnr(x, truth))
    )
    return found


def tried(case, D, solver):
    """The levels and factors of alpha (for hqs the steps) that a solver is tried with."""
    top = levels(case, D)[-1]
    if solver == "hqs":
        return [
            (end, steps) for steps in (8, 24) for end in schedules.geometric(top / 16, top / 2, 4)
        ]
    if solver in ("pgd", "fista"):
        return [
            (case.noise / case.A.norm() * factor, None) for factor in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
        ]
    return [
        (sigma, factor) for sigma in schedules.geometric(top / 8, top, 4) for factor in (1, 1 / 4)
    ]


def settings_of(case, D, solver, sigma, second):
    if solver == "hqs":
        return {
            "sigma": schedules.geometric(levels(case, D)[-1], sigma, second),
            "iterations": second,
        }
    alpha = {} if second is None else {"alpha": second * (case.noise / sigma) ** 2}
    return (
        SOLVERS[solver][1]
        | {"iterations": 150 if solver in GRADIENT else 60, "sigma": sigma}
        | alpha
    )


def run(case, D, solver, settings, x0, steps=10**6):
    """The scores after each step, and the seconds of the processor to there."""
    scores, seconds = [], []

    def watch(state):
        seconds.append(time.process_time() - watch.since + (seconds[-1] if seconds else 0.0))
        scores.append(case.score(state.x))
        rests = len(scores) >= REST and max(scores[-REST:]) - min(scores[-REST:]) < 0.01
        watch.since = time.process_time()
        return rests or len(scores) >= steps

    made = make(solver, tol=0.0, **settings)
    watch.since = time.process_time()
    with suppress(Diverged):
        made.run(case.q, case.A, D, noise=case.noise, x0=x0, callbacks=[watch], progress=False)
    return scores, seconds


def sweep(case, name, solver, quick):
    """The scores of every setting."""
    D = case.denoiser(name)
    return {
        "runs": [
            score(case, D, solver, *pair, quick)
            for pair in tried(case, D, solver)[:: 4 if quick else 1]
        ]
    }


def refine(case, name, solver, runs, quick):
    """The scores at levels sqrt(2) above and below that of the run that ended highest."""
    D, best = (
        case.denoiser(name),
        max(runs, key=lambda run: run["score"][-1] if run["score"] else -1e9),
    )
    return {
        "runs": [
            score(case, D, solver, best["level"] * by, best["second"], quick)
            for by in (0.5**0.5, 2**0.5)
        ]
    }


def score(case, D, solver, sigma, second, quick):
    known = describe(D).sigma_range
    sigma = min(sigma, known[1]) if known else sigma
    settings = settings_of(case, D, solver, sigma, second) | (
        {"iterations": 6} if quick and solver != "hqs" else {}
    )
    scores, _ = run(case, D, solver, settings, case.A.initial(case.q))
    finite = [round(value, 4) for value in scores if value == value]
    return {"level": sigma, "second": second, "settings": settings, "score": finite}


def chosen(runs, best):
    """Of a solver's runs the one first near the best, to stay, or else that ends nearest: settings,
    iterations or None, what it lacks.
    """
    found = []
    for run in runs:
        scores = run["score"]
        far = [k + 1 for k, score in enumerate(scores) if abs(score - best) > NEAR]
        first = far[-1] + 1 if far else 1
        found.append(
            (
                first if first <= len(scores) else 10**6,
                best - scores[-1] if scores else 1e9,
                run["settings"],
            )
        )
    first, lacks, settings = min(found, key=lambda item: item[:2])
    return {"iterations": first if first < 10**6 else None, "lacks": lacks, "settings": settings}


def timed(case, name, solver, cell, quick):
    """Seconds to near the best, the least of three, and how a long run with this setting ends."""
    D, x0, steps = case.denoiser(name), case.A.initial(case.q), cell["iterations"]
    found = {}
    if steps:
        settings = {"iterations": steps} | cell["settings"]
        found["seconds"] = min(
            run(case, D, solver, settings, x0, steps)[1][-1] for _ in range(1 if quick else 3)
        )
    if solver == "hqs":
        return found | {"status": "has a schedule"}
    settings = cell["settings"] | {"iterations": 30 if quick else 150, "tol": 1e-4}
    try:
        result = make(solver, **settings).run(
            case.q, case.A, D, noise=case.noise, x0=x0, progress=False
        )
    except Diverged:
        return found | {"status": "diverged"}
    return found | {
        "status": result.status,
        "at the end": case.score(result.x),
        "steps": result.state.iteration,
    }


def ratios(cells, name, problem):
    """Seconds of each solver over those of the quickest, None where it never gets near."""
    row = {s: cells[name, problem, s] for s in SOLVERS}
    least = min(cell["seconds"] for cell in row.values() if cell["iterations"])
    return {s: cell["seconds"] / least if cell["iterations"] else None for s, cell in row.items()}


def text(cell, ratio=None):
    if not cell["iterations"]:
        return f"-{cell['lacks']:.2f} dB"
    return (
        f"{cell['seconds']:.3f} s" if ratio is None else f"{ratio:.1f} x"
    ) + f", {cell['iterations']}"


def rows_of(cells):
    """The problems of each denoiser."""
    found = {}
    for name, problem, _ in cells:
        found.setdefault(name, {})[problem] = None
    return {name: list(problems) for name, problems in found.items()}


def tables(cells, todo):
    each, totals, ends, used = [], [], [], []
    for name, problems in rows_of(cells).items():
        for problem in problems:
            ratio = ratios(cells, name, problem)
            least = min(cells[name, problem, s]["seconds"] for s in SOLVERS if ratio[s])
            cell = cells[name, problem, "admm"]
            row = {
                "denoiser": name,
                "problem": problem,
                "start (dB)": cell["start"],
                "best": cell["best"],
                "passed": cell["peak"],
                "quickest (s)": f"{least:.3f}",
            }
            each.append(row | {s: text(cells[name, problem, s], ratio[s]) for s in SOLVERS})
            used.append(
                {"denoiser": name, "problem": problem}
                | {
                    s: setting(cells[name, problem, s]["settings"], todo[problem].noise)
                    for s in SOLVERS
                }
            )
        for s in SOLVERS:
            here = [cells[name, problem, s] for problem in problems]
            ratio = [r for problem in problems if (r := ratios(cells, name, problem)[s])]
            steps = [
                1000 * cell["seconds"] / cell["iterations"] for cell in here if cell["iterations"]
            ]
            totals.append(
                {
                    "denoiser": name,
                    "solver": s,
                    "problems": len(here),
                    "gets there": len(ratio),
                    "median ratio": f"{statistics.median(ratio):.1f}" if ratio else "none",
                    "ms a step": f"{statistics.median(steps):.0f}" if steps else "none",
                }
            )
            if s != "hqs":
                count = {
                    status: sum(cell["status"] == status for cell in here)
                    for status in ("converged", "max_iter", "stalled", "oscillating", "diverged")
                }
                lost = [cell["best"] - cell["at the end"] for cell in here if "at the end" in cell]
                ends.append(
                    {"denoiser": name, "solver": s}
                    | count
                    | {"largest loss at the end (dB)": max(lost, default=0.0)}
                )
    return {
        "time to within 0.1 dB of the best": each,
        "by solver": totals,
        "status": ends,
        "settings: 255 sigma, factor of alpha": used,
    }


def setting(settings, noise):
    sigma, alpha = settings["sigma"], settings.get("alpha")
    if not isinstance(sigma, float):
        return f"{255 * sigma[0]:.0f} to {255 * sigma[-1]:.0f} in {len(sigma)}"
    return f"{255 * sigma:.3g}" + (f", {alpha * (sigma / noise) ** 2:.2g}" if alpha else "")


def picture(path, cells):
    """A heat map: seconds over those of the quickest of the row."""
    require("matplotlib", "Drawing")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = rows_of(cells)
    counts = [len(problems) for problems in rows.values()]
    figure = Figure(figsize=(13, 1.6 + 0.62 * sum(counts)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True, height_ratios=counts)[:, 0]
    norm = LogNorm(1, 30)
    for axis, (name, todo) in zip(axes, rows.items(), strict=True):
        values = np.array(
            [[ratios(cells, name, problem)[s] or np.nan for s in SOLVERS] for problem in todo],
            dtype=float,
        )
        shown = axis.imshow(
            np.ma.masked_invalid(values), norm=norm, cmap="viridis_r", aspect="auto"
        )
        for row, problem in enumerate(todo):
            for column, s in enumerate(SOLVERS):
                cell, ratio = cells[name, problem, s], values[row, column]
                if ratio != ratio:
                    axis.add_patch(
                        Rectangle(
                            (column - 0.5, row - 0.5),
                            1,
                            1,
                            facecolor="0.9",
                            edgecolor="0.75",
                            hatch="///",
                            linewidth=0,
                        )
                    )
                    box = {"facecolor": "0.9", "edgecolor": "none", "pad": 1.5}
                    axis.text(
                        column,
                        row,
                        f"lacks {cell['lacks']:.2f} dB",
                        ha="center",
                        va="center",
                        fontsize=10,
                        color="0.2",
                        bbox=box,
                    )
                    continue
                ink = "white" if norm(ratio) > 0.5 else "black"
                label = f"{ratio:.1f} x" if ratio < 9.95 else f"{ratio:.0f} x"
                bold = "bold" if ratio == 1 else "normal"
                axis.text(
                    column,
                    row,
                    f"{label}\n{cell['iterations']} step{'s' * (cell['iterations'] > 1)}",
                    ha="center",
                    va="center",
                    fontsize=10,
                    color=ink,
                    weight=bold,
                )
        axis.set_title(f"denoiser: {name}", loc="left", fontsize=12, weight="bold")
        quickest = [
            min(
                cells[name, problem, s]["seconds"]
                for s in SOLVERS
                if cells[name, problem, s]["iterations"]
            )
            for problem in todo
        ]
        best = [cells[name, problem, "admm"]["best"] for problem in todo]
        axis.set_yticks(
            range(len(todo)),
            [
                f"{p}\nbest {b:.1f} dB, 1 x = {t:.2g} s"
                for p, b, t in zip(todo, best, quickest, strict=True)
            ],
            fontsize=10,
        )
        axis.set_xticks(range(len(SOLVERS)), [s.replace(", ", "\n") for s in SOLVERS], fontsize=11)
        axis.tick_params(length=0, labelbottom=axis is axes[-1], labeltop=False)
        axis.set_xticks([k - 0.5 for k in range(1, len(SOLVERS))], minor=True)
        axis.set_yticks([k - 0.5 for k in range(1, len(todo))], minor=True)
        axis.grid(which="minor", color="white", linewidth=2)
        axis.tick_params(which="minor", length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    bar = figure.colorbar(
        shown,
        ax=axes,
        shrink=0.5,
        aspect=30,
        pad=0.01,
        extend="max",
        ticks=[1, 2, 3, 5, 10, 20, 30],
    )
    bar.ax.set_yticklabels(["1 x", "2 x", "3 x", "5 x", "10 x", "20 x", "30 x"], fontsize=10)
    bar.ax.minorticks_off()
    figure.suptitle(
        "Time to within 0.1 dB of the best, over that of the quickest solver of the row",
        fontsize=14,
    )
    figure.supxlabel("grey: never gets there, and what it lacks at the end", fontsize=11)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=100))


if __name__ == "__main__":
    main()
