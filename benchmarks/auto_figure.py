"""The figure of docs/tuning.md: how tuning.auto chooses, on a blurred photograph of 96 x 96 pixels.

Run: python benchmarks/auto_figure.py --picture docs/tuning/auto.png [--denoiser dncnn]
"""

from pathlib import Path

import torch
from common import arguments, parse, publish
from matrix import cases

from pnp_mlpatch import reconstruct
from pnp_mlpatch._optional import require

CASE = "blur, noise 4/255, face"
GRAY = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}


def main():
    parser = arguments(__doc__)
    parser.add_argument("--denoiser", default="dncnn")
    parser.add_argument("--picture", type=Path, required=True, help="draw the figure there")
    args = parse(parser)
    torch.set_num_threads(args.threads or 1)
    case = next(c for c in cases(32 if args.quick else 96) if str(c) == CASE)
    D, settings = case.denoiser(args.denoiser), {"noise": case.noise, "progress": False}
    result = reconstruct(case.q, case.A, D, tune="auto", **settings)
    tried = {
        name: column.reshape(len(column), -1)[:, 0] for name, column in result.tuned.tried.items()
    }
    N, curves = int(tried["iteration"].max()), []
    for begin in range(0, len(tried["score"]), N):
        sigma = tried["sigma"][begin : begin + N].float()
        scores = []
        watch = [lambda state, scores=scores: scores.append(case.score(state.x))]
        run = {"sigma": float(sigma[0]), "iterations": N, "tol": 0.0, "callbacks": watch}
        reconstruct(case.q, case.A, D, **settings, **run)
        curves.append((sigma, tried["score"][begin : begin + N], scores))
    best = int(tried["score"].argmin()) // N, int(result.tuned.settings["iterations"]) - 1
    draw(args.picture, case, result, curves, best)
    rows = [
        {"candidate": label(sigma), "least score": float(score.min()), "best (dB)": max(scores)}
        for sigma, score, scores in curves
    ]
    publish(args, {"candidates": rows}, [str(result.tuned), f"{case.score(result.x):.2f} dB"])


def label(sigma):
    return f"sigma {255 * float(sigma[0]):.0f}/255"


def draw(path, case, result, curves, best):
    """The estimated error, the PSNR, the data and the image."""
    require("matplotlib", "Drawing")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    told, true, data, image = figure.subplots(1, 4, width_ratios=(1.3, 1.3, 1, 1))
    for k, (sigma, score, scores) in enumerate(curves):
        iterations = range(1, len(scores) + 1)
        told.plot(iterations, score, label=label(sigma), color=f"C{k}")
        true.plot(iterations, scores, color=f"C{k}")
    k, row = best
    told.plot(row + 1, curves[k][1][row], "o", color=f"C{k}", markersize=9)
    true.plot(row + 1, curves[k][2][row], "o", color=f"C{k}", markersize=9)
    all_scores = torch.stack([score for _, score, _ in curves])
    low, high = float(all_scores.min()), float(all_scores.quantile(0.9))
    told.set(title="estimated error, from the data alone", xlabel="iteration")
    told.set_ylim(low - 0.1 * (high - low), high)
    told.legend(fontsize=8)
    true.set(title="PSNR (dB), from the truth", xlabel="iteration")
    for axis in (told, true):
        axis.grid(alpha=0.3)
    for axis, x, title in ((data, case.q, "data"), (image, result.x, "chosen")):
        axis.imshow(x[0, 0], **GRAY)
        axis.set(xticks=[], yticks=[], title=title, xlabel=f"{case.score(x):.1f} dB")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
