"""The report of a mass map: the map beside Kaiser-Squires, its fit, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.lensing import ShearMap
from pnp_mlpatch.pipelines.mass_map import SIGMA_SCALE, MassMap, MassMapConfig
from pnp_mlpatch.viz._fit import Fit
from pnp_mlpatch.viz._of_result import card_of, fit_plots, fit_rows
from pnp_mlpatch.viz.report import Report, Row

LISTED = 5  # peaks in the report


def report_mass_map(
    result: MassMap,
    shear: ShearMap,
    D: Denoiser,
    config: MassMapConfig,
    *,
    truth: Tensor | None = None,
    title: str = "Mass map",
    settings: Mapping[str, Any] | None = None,
    choices: Sequence[Row] = (),
    command: str = "",
) -> Report:
    """Make the report of a mass map.

    Parameters
    ----------
    result : MassMap
        What :func:`~pnp_mlpatch.pipelines.mass_map.map_mass` returned.
    shear, D, config
        What it was given.
    truth : Tensor, shape (H, W), optional
        The known convergence.
    title : str
        What was mapped.
    settings : mapping, optional
        Settings to list.
    choices : sequence of tuple of str
        Further choices (setting, value, why).
    command : str
        What repeats the run.

    Returns
    -------
    Report
        Each map less its mean over what was seen; :func:`pnp_mlpatch.viz.write_report` writes it.
    """
    seen, width = shear.seen, result.settings["width"]
    maps = {"map": result.kappa[0], f"Kaiser-Squires, {width}": result.smoothed[0]}
    maps |= {} if truth is None else {"truth": truth}
    shown = {name: _centred(kappa, seen) for name, kappa in maps.items()}
    data = seen.expand(2, *seen.shape)
    chi2 = float(result.residual.square().sum() / data.sum())
    found = Fit(result.residual, data, chi2)
    top = float(shown["map"][seen].quantile(0.998))
    return Report(
        title=title,
        images=shown,
        truth=shown.get("truth"),
        statuses=("done",),
        numbers=_numbers(result, found, seen),
        choices=[*_choices(result, config), *choices],
        plots=fit_plots(found, upwards=True),
        settings={**(settings or {}), "settings": result.settings, **card_of(D)},
        command=command,
        window=(-0.03, max(0.05, top)),
        colours="inferno",
        upwards=True,
    )


def _centred(kappa: Tensor, seen: Tensor) -> Tensor:
    values = kappa.detach().cpu().double()
    return (values - values[seen].mean()).where(seen, torch.nan)


def _numbers(result: MassMap, found: Fit, seen: Tensor) -> list[Row]:
    s = result.statistics
    if s["signs"]["seem wrong"]:
        excess = "a sign of the shear seems to be wrong"
    elif s["B rms"] < 1.2 * s["B rms of noise"]:
        excess = "no more than noise makes"
    else:
        excess = "more than noise makes: look for systematic errors of the shear"
    return [
        ("seen", f"{100 * s['seen']:.0f} % of the pixels", f"pixels of {result.settings['pixel']}"),
        ("E rms", f"{s['rms']:.4f}", "of the map, the mean of the posterior"),
        ("peaks above 0.1", str(s["peaks"]["0.1"]), ""),
        *_errors(result, seen),
        (
            "B rms, smoothed",
            f"{s['B rms']:.4f}",
            f"noise alone {s['B rms of noise']:.4f}: {excess}",
        ),
        *fit_rows(found, False),
        ("time", f"{result.seconds:.1f} s", ""),
    ]


def _errors(result: MassMap, seen: Tensor) -> list[Row]:
    """Return the errors of pixels and of the highest peaks, if they were asked for."""
    if result.std is None or result.kappa_low is None or result.kappa_high is None:
        return []
    width = float((result.kappa_high - result.kappa_low)[seen].mean())
    level = result.settings["errors"]["level"]
    rows: list[Row] = [
        ("standard deviation", f"{float(result.std[seen].mean()):.4f}", "of the errors, mean"),
        ("width of the intervals", f"{width:.4f}", f"{100 * level:.0f} %, mean"),
    ]
    for k, peak in enumerate((result.peaks or ())[:LISTED], start=1):
        value = f"{peak['kappa']:.3f} ({peak['low']:.3f} to {peak['high']:.3f})"
        rows.append((f"peak {k}", value, f"row {peak['row']}, column {peak['column']}"))
    return rows


def _choices(result: MassMap, config: MassMapConfig) -> list[Row]:
    s = result.settings
    rows: list[Row] = [
        ("noise", f"{s['noise']:.3g}", "root of the harmonic mean of the variances that were given")
    ]
    if config.sigma is None:
        why = f"{SIGMA_SCALE:g} of the noise, at most what the denoiser takes"
        rows.append(("sigma", f"{s['sigma']:.3g}", why))
    if config.padding is None:
        why = (
            "up to an unseen border of an eighth of the side, since Fourier transforms are periodic"
        )
        rows.append(("padding", f"{s['padding']} pixels", why))
    why = "of the filter: best for this noise and the spectrum of the convergence"
    rows.append(("width of Kaiser-Squires", str(s["width"]), why))
    if "errors" in s:
        learned, amplitude = s["errors"], result.statistics["amplitude of skies"]
        value = f"{learned['skies']} generated maps of {learned['iterations']} iterations"
        why = f"with the mask and the noise of the shear; amplitude {amplitude:.2f}, from E"
        rows.append(("errors", value, why))
    rows.append(("iterations", f"{s['iterations']}, {s['burn_in']} left out", "as in the settings"))
    return rows


__all__ = ["report_mass_map"]
