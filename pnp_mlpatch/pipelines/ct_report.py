"""The report of a CT volume: the slice in the middle, its fit, and why each setting was chosen."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pnp_mlpatch.ct import COUNTS, Geometry, Scan, to_attenuation
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.operators._ringless import Ringless
from pnp_mlpatch.pipelines.ct_batch import projector
from pnp_mlpatch.pipelines.ct_check import Seen, examine
from pnp_mlpatch.pipelines.ct_config import VolumeConfig
from pnp_mlpatch.pipelines.ct_fit import say_chi2
from pnp_mlpatch.pipelines.ct_recipe import problem_of
from pnp_mlpatch.pipelines.ct_slab import read_slab
from pnp_mlpatch.pipelines.ct_volume import VolumeResult
from pnp_mlpatch.tuning.discrepancy import PRESETS
from pnp_mlpatch.viz._fit import Fit, fit
from pnp_mlpatch.viz._of_result import card_of, curve, fit_plots, fit_rows
from pnp_mlpatch.viz.report import Report, Row

AXES = ("along the detector", "along the angles")


def report_volume(
    result: VolumeResult,
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | None,
    config: VolumeConfig,
    *,
    command: str = "",
    choices: Sequence[Row] = (),
) -> Report:
    """Make the report of a volume that was just reconstructed.

    Parameters
    ----------
    result : VolumeResult
        What :func:`~pnp_mlpatch.pipelines.ct_volume.reconstruct_volume` returned.
    scan, geometry, D, config
        What it was given.
    command : str
        What repeats the run.
    choices : sequence of tuple of str
        Further choices (setting, value, why).

    Returns
    -------
    Report
        Of the slice in the middle; :func:`pnp_mlpatch.viz.write_report` writes it.
    """
    record = json.loads(result.path.with_suffix(".json").read_text(encoding="utf-8"))
    first, last = record["slices"]
    middle = first + (last - first) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they came when the volume was made
        seen = examine(scan, geometry, config)
        found = None if seen.truncated else _fit(scan, geometry, seen.config, result, middle)
    if found is not None:
        found = replace(found, chi2=result.chi2[middle - first])  # as the run measured it
    said = say_chi2(result.chi2, first)
    images = {"reconstruction": result.middle, "filtered backprojection": result.fbp}
    return Report(
        title=f"{scan.path.name}, slice {middle} of {first} to {last - 1}",
        images=images if D is not None else {"filtered backprojection": result.fbp},
        statuses=result.status,
        notes=[*(_sentence(text) for text in seen.faults), *([_sentence(said)] if said else [])],
        numbers=_numbers(result, scan, config, found, middle),
        choices=[*_choices(record, config, scan, geometry, D, seen), *choices],
        plots=_plots(result, record, first) | ({} if found is None else fit_plots(found)),
        settings=_settings(record) | card_of(D),
        command=command,
        window=result.window,
        unit="HU" if result.units == "HU" else "",
    )


def _fit(
    scan: Scan, geometry: Geometry, config: VolumeConfig, result: VolumeResult, middle: int
) -> Fit | None:
    """Compare the middle slice with its data; counts as weighted line integrals."""
    slab = read_slab(scan, replace(config, likelihood="gaussian"), middle, middle + 1)
    if not len(slab.q):
        return None
    x = result.middle if config.mu_water is None else to_attenuation(result.middle, config.mu_water)
    A = projector(geometry, config)
    q, T, noise = problem_of(A, slab)
    whitened = isinstance(T, Ringless)
    return fit(q, T, x[None, None].to(q), 1.0 if whitened else noise, AXES)


def _numbers(
    result: VolumeResult, scan: Scan, config: VolumeConfig, found: Fit | None, middle: int
) -> list[Row]:
    count, height, width = result.shape
    rows: list[Row] = [
        ("volume", f"{count} x {height} x {width}", f"{result.path.name}, {result.units}"),
        ("scan", f"{scan.shape[1]} x {scan.shape[2]}", f"angles x detector elements, {scan.kind}"),
    ]
    if found is not None:
        estimated = scan.kind != COUNTS and config.noise is None
        rows += [
            (f"slice {middle}: {name}", value, why)
            for name, value, why in fit_rows(found, estimated)
        ]
    known = sorted(value for value in result.chi2 if value is not None)
    if len(known) > 1:
        shown = f"{known[len(known) // 2]:.3f}, at most {known[-1]:.3f}"
        rows.append(("chi^2 of the slices", shown, "median and largest"))
    changes = [value for value in result.residual if value is not None]
    if changes:
        rows.append(("last change", f"{max(changes):.2g}", "relative, of the slowest slice"))
    rows.append(
        (
            "time",
            f"{result.seconds:.1f} s",
            f"{result.resumed} slices from an earlier run" if result.resumed else "",
        )
    )
    if result.processor_seconds is not None:
        rows.append(("processor", f"{result.processor_seconds:.1f} s", "each slice"))
    return rows


def _choices(
    record: dict[str, Any],
    config: VolumeConfig,
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | None,
    seen: Seen,
) -> list[Row]:
    """Return every setting that the data decided, and why."""
    ended, facts = record["result"], seen.facts
    rows = _of_the_data(record, config, scan, facts)
    if D is not None and any(level is not None for level in ended["sigma"]):
        rows += _recipe(record, config)
    rows += _centre(facts)
    rows.append(
        (
            "truncation",
            "a margin" if seen.truncated else "none",
            (
                "readings at the ends of the detector are far from zero; the margin was cut off"
                if seen.truncated
                else "readings at the ends of the detector are near zero"
            ),
        )
    )
    rows += _left_out(ended, config)
    rows.append(
        (
            "pixel",
            f"{geometry.pixel:.4g}",
            (f"{facts.get('elements in a pixel', 1):.3g} detector elements at the axis"),
        )
    )
    rows.append(
        (
            "projector",
            record["backend"],
            ("given" if config.backend != "auto" else "what is fastest here and fits the memory"),
        )
    )
    return rows


def _of_the_data(
    record: dict[str, Any], config: VolumeConfig, scan: Scan, facts: Mapping[str, Any]
) -> list[Row]:
    """Return the window, and what is known of the noise."""
    low, high = record["window"]
    rows: list[Row] = []
    if config.window is None:
        why = (
            "0 to 1.2 times the 99.5th percentile of filtered backprojection of the slice in the "
            "middle of the scan"
            if config.mu_water is None
            else "the range of Hounsfield units of soft tissue, lung and most bone"
        )
        rows.append(("window", f"{low:.4g} to {high:.4g}", why))
    if scan.kind == COUNTS:
        rows.append(("gain", f"{facts['gain']:.4g}", f"from: {facts['gain from']}"))
        rows.append(("noise", "a map", "from the counts, the gain and the electronic noise"))
    elif config.noise is None:
        why = "the least of four estimates from differences of rays through the object"
        rows.append(("noise", _range(record["result"]["noise"]), f"{why}, for each slice"))
    return rows


def _recipe(record: dict[str, Any], config: VolumeConfig) -> list[Row]:
    """Return what the recipe chose."""
    ended = record["result"]
    preset = PRESETS[config.preset]
    scales = [scale for scale in ended["alpha_scale"] if scale is not None]
    kept = sum(scale == 1 for scale in scales)
    return [
        ("preset", config.preset, "total variation first, then the denoiser"),
        ("iterations at most", f"{preset.start} and {preset.iterations}", "of both, by the preset"),
        ("sigma", _range(ended["sigma"]), "from the noise, relative to the window"),
        (
            "scale of alpha",
            _range(scales),
            f"1 in {kept} of {len(scales)} slices, whose chi^2 is at most 1, or does not fall with "
            "half of it; halved in the others",
        ),
    ]


def _centre(facts: Mapping[str, Any]) -> list[Row]:
    if "center" not in facts:
        return []
    why = "the middle of the detector, or as given"
    if "center that fits" in facts:
        why += (
            f"; the views fit each other at {facts['center that fits']:.2f} "
            f"({facts['by']}, standard error {facts['its error']:.2g})"
        )
    return [("rotation axis", f"element {facts['center']:.2f}", why)]


def _left_out(ended: dict[str, Any], config: VolumeConfig) -> list[Row]:
    """Return what was taken as not measured, and the offsets of elements."""
    rows: list[Row] = []
    if config.outliers:
        total = sum(value or 0 for value in ended["outliers"])
        bad = sorted({k for row in ended["bad_elements"] if row for k in row})
        why = f"bad elements: {bad[:10] if bad else 'none'}; saturated readings and zingers"
        rows.append(("outliers", f"{total} readings", f"left out. {why}"))
    spread = [value for value in ended["element_spread"] if value is not None]
    if config.rings and spread:
        on = sum(value > 0 for value in spread)
        rows.append(
            (
                "offsets of elements",
                f"in {on} of {len(spread)} slices",
                "estimated with the image where elements differ from their neighbours by more than "
                "0.006, which makes rings",
            )
        )
    return rows


def _plots(result: VolumeResult, record: dict[str, Any], first: int) -> dict[str, str]:
    """Draw what differs from slice to slice."""
    slices = list(range(first, first + len(result.status)))
    named = {"Chi^2 of the slices": "chi2", "Sigma of the slices": "sigma"}
    plots = {}
    for caption, key in named.items():
        values = [float("nan") if v is None else v for v in record["result"][key]]
        if len({v for v in values if v == v}) > 1:
            plots[caption] = curve(key, slices, {key: values}, False, "slice")
    return plots


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    hidden = ("result", "seen", "window", "shape", "version", "torch")
    return {key: value for key, value in record.items() if key not in hidden}


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    low, high = min(known), max(known)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


__all__ = ["report_volume"]
