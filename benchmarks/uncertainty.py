"""Error bars by sampling: against Gaussian posteriors, whose answer is known, and on photographs,
where intervals are calibrated and tested.

Gaussian: 16 chains, the channels of one image of 12 x 12, inpainted with the linear denoiser of a
known prior; --calls denoisers each, a fifth of them burn-in. Errors are root mean squares over the
pixels, in standard errors from the effective sample size: 1 is what chance gives. Those of the
variance are against the closed form of the discretised chain; "std / exact" is against the
posterior itself.

Photographs: --count crops of 64 x 64 from the sample picture, or from the middle of the pictures of
--images FOLDER, evenly spaced, in random order. Each of --folds parts is held out in turn; the
others set its factor. "halves": mean and deviation of the coverage of one half, the other
calibrating, over 100 random ones. SK-ROCK with MLPatch, from the result of ADMM. "raw" is x -+
1.645 std.

Run: python benchmarks/uncertainty.py [--images FOLDER] [--count N] [--folds N] [--iterations N]
     [--picture FILE.png]
"""

import time
from pathlib import Path

import torch
from common import arguments, parse, publish

from pnp_mlpatch import denoisers, reconstruct, samples, solvers
from pnp_mlpatch._optional import require
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.images import READABLE, read_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.solvers import _langevin as streaming
from pnp_mlpatch.solvers import make_problem
from pnp_mlpatch.solvers.skrock import chebyshev
from pnp_mlpatch.uncertainty import calibrate, coverage

SIZE, NOISE = 64, 5 / 255


def main():
    parser = arguments(__doc__)
    parser.add_argument(
        "--images", type=Path, help="a folder of pictures of at least 64 x 64 pixels"
    )
    parser.add_argument("--count", type=int, default=32, help="photographs (default: 32)")
    parser.add_argument(
        "--folds", type=int, default=4, help="parts of them that are held out in turn (default: 4)"
    )
    parser.add_argument(
        "--iterations",
        type=int,
        default=80,
        help="of SK-ROCK on photographs, each of five denoisers (default: 80)",
    )
    parser.add_argument(
        "--calls",
        type=int,
        default=20000,
        help="denoisers for each Gaussian chain (default: 20000)",
    )
    parser.add_argument("--picture", type=Path, help="draw the first image that is held out there")
    args = parse(parser)
    if args.quick:
        args.count, args.folds, args.iterations, args.calls = 2, 2, 6, 1000
    rows, drawn = [], {}
    truth = crops(args)
    D = denoisers.make("mlpatch", weights="mlpatch-grey")
    for name, A, q in problems(truth):
        state, mode, seconds = sample(q, A, D, args)
        rows.append(
            {
                "problem": name,
                "denoiser": "mlpatch",
                **judge(state, mode, truth, args.folds),
                "seconds": seconds,
            }
        )
        print(rows[-1], flush=True)
        drawn[name] = (q, state)
    publish(args, {"Gaussian posterior": gaussian(args), "photographs": rows})
    if args.picture:
        picture(args.picture, truth, drawn, args.folds)


# ---- Gaussian posteriors


def gaussian(args, size=12, chains=16, noise=0.5, sigma=0.6):
    """One row for each solver."""
    waves = 2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(size, dtype=torch.float64))
    prior = 1 / (0.2 + waves[:, None] + waves)

    def D(x, s):
        return torch.fft.ifft2(torch.fft.fft2(x) * (prior / (prior + s**2)).to(x.dtype)).real

    A = Mask(random_mask((size, size), keep=0.5, seed=1), channels=chains)
    q = A(
        2
        * torch.randn(
            1, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        ).repeat(1, chains, 1, 1)
    )
    eye = torch.eye(size**2, dtype=torch.float64)
    P = (
        torch.diag(A.mask[0].flatten()) / noise**2
        + (eye - D(eye.reshape(-1, 1, size, size), sigma).flatten(1)) / sigma**2
    )
    mean = torch.linalg.solve(P, q[0, 0].flatten() / noise**2)
    L = 1 / noise**2 + 1 / sigma**2
    settings = [
        ("ula", 1, None),
        ("ula", 1, 0.05 / L),
        *(("skrock", stages, None) for stages in (3, 5, 10)),
        ("skrock", 5, 1 / L),
    ]
    rows = []
    for name, stages, delta in settings:
        iterations = args.calls // stages
        own = {"iterations": iterations, "burn_in": iterations // 5, "delta": delta} | (
            {"stages": stages} if name == "skrock" else {}
        )
        result, squares, seconds = chain(
            q.float(), A, D, name, own | {"noise": noise, "sigma": sigma}, mean.float()
        )
        state, step = result.state, result.history["delta"][0]
        of_mean, of_variance = (
            errors(state, mean),
            errors(squares, covariance(P, step, stages).diagonal()),
        )
        ratio = (squares.x.mean(1).flatten() / torch.linalg.inv(P).diagonal()).sqrt()
        independent = float(state.effective_samples.mean())
        calls = stages * (iterations - iterations // 5)
        rows.append(
            {
                "solver": name if name == "ula" else f"skrock({stages})",
                "delta L": f"{step * L:.2f}",
                "mean error (SE)": f"{float(of_mean.square().mean().sqrt()):.2f}",
                "variance error (SE)": f"{float(of_variance.square().mean().sqrt()):.2f}",
                "std / exact": f"{float(ratio.min()):.2f} to {float(ratio.max()):.2f}",
                "ESS / 1000 denoisers": f"{1000 * independent / calls:.1f}",
                "ESS / s": f"{independent * chains / seconds / 1.25:.0f}",
            }
        )
    return rows


def chain(q, A, D, name, settings, mean):
    """The result, the stream of the squared deviations of its samples from the exact mean, and the
    seconds without that.
    """
    squares, spent = [streaming.start(make_problem(q, A, settings["noise"]), q)], [0.0]

    def square(state):
        begin = time.perf_counter()
        if state.count:
            squares[0] = streaming.follow(
                squares[0], (state.sample - mean.reshape(q.shape[-2:])).square(), 0, 32
            )
        spent[0] += time.perf_counter() - begin

    start = time.perf_counter()
    result = reconstruct(q, A, D, name, progress=False, callbacks=[square], **settings)
    return result, squares[0], time.perf_counter() - start - spent[0]


def errors(state, exact):
    """Of the mean over the chains, in standard errors, at each pixel."""
    width = (state.std.square() / state.effective_samples).double().sum(
        1
    ).flatten().sqrt() / state.x.shape[1]
    return (state.x.double().mean(1).flatten() - exact) / width


def covariance(P, delta, stages):
    """Of the stationary density of the chain: 2 delta b^2 / (1 - a^2) in each eigenvector of P, for
    a step s <- a s + sqrt(2 delta) b e.
    """
    p, vectors = torch.linalg.eigh(P)
    a, b = 1 - delta * p, torch.ones_like(p)
    if stages > 1:
        T, w_1 = chebyshev(stages)
        mu = w_1 / T[1]
        before, a = torch.ones_like(p), 1 - mu * delta * p
        noise, b = torch.zeros_like(p), stages * mu * (1 - w_1 / 2 * delta * p)
        for j in range(2, stages + 1):
            ratio = 2 * T[j - 1] / T[j]
            factor = ratio * (T[1] - w_1 * delta * p)
            before, a = a, factor * a + (1 - ratio * T[1]) * before
            noise, b = b, factor * b + (1 - ratio * T[1]) * noise
    return vectors @ torch.diag(2 * delta * b**2 / (1 - a**2)) @ vectors.T


# ---- photographs


def crops(args):
    """(count, 1, 64, 64) in [0, 1]."""
    wanted = args.count
    if args.images:
        paths = sorted(p for p in args.images.iterdir() if p.suffix.lower() in READABLE)
        found = [
            read_image(path, gray=True) for path in paths[:: max(1, len(paths) // wanted)][:wanted]
        ]
        found = [
            x[..., (x.shape[-2] - SIZE) // 2 :, (x.shape[-1] - SIZE) // 2 :][..., :SIZE, :SIZE]
            for x in found
        ]
        parts = torch.cat(found)
    else:
        parts = (
            samples.camera().unfold(2, SIZE, SIZE).unfold(3, SIZE, SIZE).reshape(-1, 1, SIZE, SIZE)
        )
    parts = parts[torch.randperm(len(parts), generator=torch.Generator().manual_seed(0))][:wanted]
    return parts[..., :32, :32].contiguous() if args.quick else parts.contiguous()


def problems(truth):
    """Names, operators, data."""
    shape = tuple(truth.shape[-2:])
    mask, blur = Mask(random_mask(shape, keep=0.3, seed=1)), Blur(gaussian_psf(1.6), (1, *shape))
    for seed, (name, A) in enumerate((("inpainting, 30 %", mask), ("blur", blur))):
        e = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed))
        yield (
            f"{name}, noise 5/255",
            A,
            A(truth) + NOISE * e * (A(torch.ones_like(truth)).abs() > 0),
        )


def sample(q, A, D, args):
    """The state of the chains, the result of ADMM, the seconds of sampling."""
    mode = reconstruct(
        q, A, D, "admm", noise=NOISE, sigma=16 / 255, iterations=30, progress=False
    ).x
    settings = {
        "sigma": 10 / 255,
        "stages": 5,
        "box": (0.0, 1.0),
        "iterations": args.iterations,
        "burn_in": args.iterations // 4,
    }
    start = time.perf_counter()
    result = solvers.make("skrock", **settings).run(q, A, D, noise=NOISE, x0=mode, progress=False)
    return result.state, mode, time.perf_counter() - start


def held_out(count, folds):
    """For each part: whether an image is in it."""
    return [torch.arange(count) * folds // count == fold for fold in range(folds)]


def judge(state, mode, truth, folds):
    """Each part measured with the factor of the others."""
    x, std, same = state.x, state.std, torch.ones_like(state.x)
    low, high, flat, factors, shares = torch.empty_like(x), torch.empty_like(x), [], [], []
    for part in held_out(len(x), folds):
        found = calibrate(x[~part], std[~part], truth[~part])
        low[part], high[part] = found.interval(x[part], std[part])
        factors.append(found.factor)
        shares.append(100 * float(coverage(low[part], high[part], truth[part]).mean()))
        flat.append(calibrate(x[~part], same[~part], truth[~part]).factor)
    covered, raw = 100 * coverage(low, high, truth), 1.645 * std
    pairs = torch.stack([std.flatten(), (x - truth).abs().flatten()])
    return {
        "images": len(x),
        "psnr of ADMM": f"{float(psnr(mode, truth).mean()):.2f}",
        "of the mean": f"{float(psnr(x, truth).mean()):.2f}",
        "coverage, raw (%)": f"{100 * float(coverage(x - raw, x + raw, truth).mean()):.1f}",
        "factor": f"{min(factors):.2f} to {max(factors):.2f}",
        "coverage, conformal (%)": f"{float(covered.mean()):.1f}",
        "halves (%)": halves(x, std, truth),
        "of a part (%)": f"{min(shares):.1f} to {max(shares):.1f}",
        "of an image (%)": f"{float(covered.min()):.0f} to {float(covered.max()):.0f}",
        "width / 255": f"{255 * float((high - low).mean()):.1f}",
        "of one width for all": f"{255 * 2 * sum(flat) / len(flat):.1f}",
        "correlation of std, error": f"{float(torch.corrcoef(pairs)[0, 1]):.2f}",
        "ESS": f"{float(state.effective_samples.nanmean()):.0f} of {state.count}",
    }


def halves(x, std, truth, draws=100):
    """The coverage of random halves of the images with the factor of the others: its mean and
    standard deviation.
    """
    found = []
    for draw in range(draws):
        part = torch.randperm(len(x), generator=torch.Generator().manual_seed(draw)) < len(x) // 2
        intervals = calibrate(x[part], std[part], truth[part])
        found.append(coverage(*intervals.interval(x[~part], std[~part]), truth[~part]).mean())
    return (
        f"{100 * float(torch.stack(found).mean()):.1f} +- "
        f"{100 * float(torch.stack(found).std()):.1f}"
    )


def picture(path, truth, drawn, folds):
    """Truth, data, mean, std, error, and where the interval misses the truth, of the first image,
    with the factor of the other parts.
    """
    require("matplotlib", "Drawing")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 2.35 * len(drawn)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(drawn), 6, squeeze=False)
    for row, (name, (q, state)) in zip(axes, drawn.items(), strict=True):
        others = ~held_out(len(truth), folds)[0]
        found = calibrate(state.x[others], state.std[others], truth[others])
        f, data, x, std = (image[:1] for image in (truth, q, state.x, state.std))
        low, high = found.interval(x, std)
        inside, top = (
            (low <= f) & (f <= high),
            255 * float(torch.quantile(std, 0.99)) * found.factor,
        )
        share = 100 * float(coverage(low, high, f))
        panels = (
            ("truth", f, "gray", 1.0),
            (f"data: {name}", data, "gray", 1.0),
            (f"mean, {float(psnr(x, f)):.1f} dB", x, "gray", 1.0),
            (f"{found.factor:.2f} std (of 255)", 255 * found.factor * std, "inferno", top),
            ("|error| (of 255)", 255 * (x - f).abs(), "inferno", top),
            (f"outside of 90 %: {100 - share:.1f} %", 1.0 - inside.float(), "gray_r", 1.0),
        )
        for axis, (title, image, colours, highest) in zip(row, panels, strict=True):
            shown = axis.imshow(
                image[0, 0].numpy(), cmap=colours, vmin=0, vmax=highest, interpolation="nearest"
            )
            axis.set_title(title, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
            if colours == "inferno":
                figure.colorbar(shown, ax=axis, shrink=0.8).ax.tick_params(labelsize=7)
    atomic_write(path, lambda temporary: figure.savefig(temporary, dpi=110))


if __name__ == "__main__":
    main()
