"""The report of a :class:`~pnp_mlpatch.solvers.Result`, and what a notebook shows of it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pnp_mlpatch.denoisers import Denoiser, describe
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Result, Tuned
from pnp_mlpatch.viz._curves import (
    candidate_errors,
    draw_candidates,
    draw_curves,
    residual_curves,
)
from pnp_mlpatch.viz._figure import drawn, new_figure
from pnp_mlpatch.viz._fit import Fit, fit, png, whiteness_figure
from pnp_mlpatch.viz._packed import as_shown, default_window, through
from pnp_mlpatch.viz._words import STATUS, say_chi2, tone
from pnp_mlpatch.viz.report import Report, Row

COLOURS = {"good": "#1d7a46", "fair": "#8a6100", "bad": "#b3261e"}
NOISE = "second differences of the data (tuning.noise_level); give noise= if it is known"


def report_of(
    result: Result,
    *,
    q: Tensor | None = None,
    A: LinearOperator | None = None,
    noise: float | Tensor | None = None,
    D: Denoiser | None = None,
    truth: Tensor | None = None,
    start: Tensor | None = None,
    title: str | None = None,
    settings: Mapping[str, Any] | None = None,
    choices: Sequence[Row] = (),
    command: str = "",
    window: tuple[float, float] | None = None,
) -> Report:
    """Tell what is known of a result; see :meth:`Result.report`."""
    if (q is None) != (A is None):
        raise InputError("report: q= and A= belong together, give both or none.")
    for name, image in (("truth", truth), ("start", start)):
        if image is not None and image.shape != result.x.shape:
            raise InputError(
                f"report: {name}= must have the shape {tuple(result.x.shape)} of the result, got "
                f"{tuple(image.shape)}."
            )
    if noise is None and result.tuned is not None:
        noise = result.tuned.noise
    start = A.initial(q) if start is None and q is not None and A is not None else start
    known = {"result": result.x, "start": start, "truth": truth}
    images = {k: drawn(x, result.complex_image) for k, x in known.items() if x is not None}
    found = None if q is None or A is None else fit(q, A, result.x, noise)
    several = f", first of {len(result.x)} images" if len(result.x) > 1 else ""
    size = " x ".join(map(str, result.x.shape[-2:]))
    return Report(
        title=f"{title or f'Reconstruction of {size} pixels'}{several}",
        images=images,
        truth=images.get("truth"),
        statuses=result.statuses or (result.status,),
        numbers=_numbers(result, found, images),
        choices=[*chosen(result), *choices],
        plots=_plots(result, found),
        settings={**(settings or {}), **card_of(D)},
        command=command,
        window=window,
    )


def chosen(result: Result) -> list[Row]:
    """Return what was chosen from the data, with the reason."""
    tuned = result.tuned
    if tuned is None:
        return []
    rows = [(name, number(value), tuned.why) for name, value in tuned.settings.items()]
    alpha, sigma = result.history.get("alpha"), tuned.settings.get("sigma")
    if alpha and sigma is not None and _is_number(sigma) and _is_number(tuned.noise):
        rule = (float(tuned.noise) / float(sigma)) ** 2
        if math.isclose(alpha[-1], rule, rel_tol=1e-3):
            rows.append(("alpha", number(alpha[-1]), "(noise / sigma)^2: what statistics says"))
    known = f"estimated: {NOISE}" if tuned.estimated else "given"
    rows.append(
        ("noise", number(tuned.noise), known if tuned.settings else f"{known}. {tuned.why}")
    )
    return rows


def number(value: Any) -> str:
    """Return a number, or the range of several."""
    if not isinstance(value, Tensor):
        return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
    finite = value[torch.isfinite(value)]
    if not len(finite.flatten()):
        return "not known"
    low, high = float(finite.min()), float(finite.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def card_of(D: Denoiser | None) -> dict[str, Any]:
    """Return what is known of a denoiser, and the card of its weights, as sections."""
    if D is None:
        return {}
    known = {name: value for name, value in vars(describe(D)).items() if value is not None}
    modules = D.modules() if isinstance(D, nn.Module) else ()
    cards = [m.card for m in modules if isinstance(getattr(m, "card", None), Mapping) and m.card]
    return {"what the denoiser is": known} | ({"card of its weights": cards[0]} if cards else {})


def fit_rows(found: Fit, estimated: bool) -> list[Row]:
    """Return chi-squared and whiteness, with what they mean."""
    rows = []
    if found.chi2 is not None:
        rows.append(("chi^2", f"{found.chi2:.3f} per datum", say_chi2(found.chi2, estimated)))
    white = found.whiteness()
    if white is not None:
        rows.append(("residual of the data", f"correlation {white[0]:.2g}", white[1]))
    return rows


def fit_plots(found: Fit, upwards: bool = False) -> dict[str, str]:
    """Return pictures of the residual of the data and of its correlations."""
    plots, residual = {}, found.picture()
    if residual is not None:
        kind = "A x - q in units of its noise" if found.chi2 is not None else "A x - q, scaled"
        plots[f"Residual of the data, {kind}: blue -3, red 3, grey unseen"] = through(
            residual[None], (-3.0, 3.0), "RdBu_r", upwards
        )
    if found.correlations():
        plots["Whiteness: correlation of residuals at a distance; grey is chance"] = (
            whiteness_figure(found)
        )
    return plots


def curve(
    title: str,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    log: bool,
    xlabel: str = "iteration",
) -> str:
    """Draw curves; the data of a PNG in base64."""
    figure = new_figure(4.6, 3.1, "A report")
    axis = figure.subplots()
    draw_curves(axis, title, x, curves, log=log)
    axis.set_xlabel(xlabel)
    return png(figure)


def _numbers(result: Result, found: Fit | None, images: Mapping[str, Tensor]) -> list[Row]:
    x, start, truth = images["result"], images.get("start"), images.get("truth")
    values = "of the magnitude, which is shown and scored" if result.complex_image else ""
    residual = result.history.get("residual") or [math.nan]
    rows: list[Row] = [
        ("iterations", str(result.state.iteration), ""),
        ("last relative change", f"{residual[-1]:.2g}", "of the image, in the last iteration"),
        ("time", f"{result.seconds:.3g} s", ""),
        ("range of the result", f"{float(x.min()):.4g} to {float(x.max()):.4g}", values),
    ]
    if truth is not None:
        low, high = float(truth.min()), float(truth.max())
        span = 1.0 if (low >= 0 and high <= 1) or low == high else high - low
        before = "" if start is None else f"the start has {_db(start, truth, span)}"
        rows.append(("PSNR", _db(x, truth, span), before))
    if found is not None:
        rows += fit_rows(found, result.tuned is not None and result.tuned.estimated)
    return rows


def _db(x: Tensor, truth: Tensor, span: float) -> str:
    return f"{float(psnr(x, truth, span).mean()):.2f} dB"


def _plots(result: Result, found: Fit | None) -> dict[str, str]:
    history = result.history
    iterations = history.get("iteration", [])
    plots = {
        "Residuals of the solver": curve(
            "relative change", iterations, residual_curves(result), True
        )
    }
    levels = {name: history[name] for name in ("sigma", "alpha", "tau") if name in history}
    if any(min(v) < max(v) for v in levels.values()):
        plots["Levels"] = curve("levels", iterations, levels, True)
    if "psnr" in history:
        plots["PSNR against the truth (dB)"] = curve(
            "PSNR (dB)", iterations, {"psnr": history["psnr"]}, False
        )
    candidates = candidate_errors(result)
    if candidates:
        figure = new_figure(4.6, 3.1, "A report")
        draw_candidates(figure.subplots(), candidates)
        plots["What the search tried: estimated error, each candidate"] = png(figure)
    return plots | ({} if found is None else fit_plots(found))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def small_form(result: Result) -> str:
    """Return the HTML that a notebook shows: a picture, how the run ended, what was chosen."""
    image = as_shown(drawn(result.x, result.complex_image), "Result")
    picture = through(image, default_window([image]), "gray", False)
    low, high = float(result.x.min()), float(result.x.max())
    lines = []
    for status in dict.fromkeys(result.statuses or (result.status,)):
        what, advice = STATUS.get(status, ("", ""))
        lines.append(
            f'<b style="color:{COLOURS[tone(status)]}">{html.escape(status)}</b> {what} '
            f"<i>{advice}</i>"
        )
    size = " x ".join(map(str, result.x.shape))
    lines.append(
        f"{result.state.iteration} iterations, {result.seconds:.3g} s; {size}, "
        f"values {low:.3g} to {high:.3g}"
    )
    if isinstance(result.tuned, Tuned):
        lines.append(f"chosen: {html.escape(str(result.tuned))}")
    shown = "".join(f"<div>{line}</div>" for line in lines)
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">'
        f'<img alt="result" style="width:192px;image-rendering:pixelated" '
        f'src="data:image/png;base64,{picture}"><div style="flex:1 1 16em">{shown}</div></div>'
    )
