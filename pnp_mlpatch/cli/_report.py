"""The HTML reports of the commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pnp_mlpatch.cli._common import DEFAULTS
from pnp_mlpatch.cli._problem import Run
from pnp_mlpatch.solvers import Result
from pnp_mlpatch.viz._of_result import report_of
from pnp_mlpatch.viz.report import Row, write_report

if TYPE_CHECKING:
    from pnp_mlpatch.ct import Geometry, Scan
    from pnp_mlpatch.denoisers import Denoiser
    from pnp_mlpatch.lensing import ShearMap
    from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, VolumeResult
    from pnp_mlpatch.pipelines.mass_map import MassMap, MassMapConfig


def report_solve(
    args: argparse.Namespace,
    run: Run,
    result: Result,
    asked: dict[str, Any],
    about: dict[str, Any],
) -> None:
    """Write the report of ``solve``.

    ``asked`` are all settings; ``about`` has the arguments of ``Result.report``, such as q and A.
    """
    choices: list[Row] = []
    for family, default in DEFAULTS.items():
        if getattr(args, family) is None and getattr(run, family)["name"] == default:
            choices.append((family, default, "the default"))
    choices.append(("start", "A.initial(q)", f"what the operator '{run.operator['name']}' gives"))
    if result.tuned is None or "iterations" not in result.tuned.settings:
        given = "iterations" in run.solver
        most = str(asked["solver"].get("iterations", "?"))
        why = "given" if given else f"the default of {run.solver['name']}"
        choices.append(("iterations at most", most, why))
    report = report_of(
        result,
        **about,
        title=f"{run.source.name}: {run.operator['name']}, {run.denoiser['name']}",
        settings=asked,
        choices=choices,
        command=args.command_line,
    )
    write_report(args.report, report)


def report_ct(
    args: argparse.Namespace,
    result: VolumeResult,
    scan: Scan,
    geometry: Geometry,
    D: Denoiser | None,
    config: VolumeConfig,
) -> None:
    """Write the report of ``ct``, if one is asked for."""
    if args.report is None:
        return
    from pnp_mlpatch.pipelines.ct_report import report_volume

    choices: list[Row] = []
    if D is not None and args.denoiser == DEFAULTS["denoiser"]:
        why = "the default" if args.weights is None else "by --weights"
        choices.append(("denoiser", args.denoiser, why))
    report = report_volume(
        result, scan, geometry, D, config, command=args.command_line, choices=choices
    )
    write_report(args.report, report)


def report_massmap(
    args: argparse.Namespace,
    result: MassMap,
    shear: ShearMap,
    D: Denoiser,
    config: MassMapConfig,
    truth: Tensor | None,
    provenance: dict[str, Any],
) -> None:
    """Write the report of ``massmap``, if one is asked for."""
    if args.report is None:
        return
    from pnp_mlpatch.pipelines.mass_map_report import report_mass_map

    asked = provenance["asked"]
    choices: list[Row] = []
    if "denoiser" not in asked:
        weights = asked.get("weights", "mlpatch-kappa")
        choices.append(("denoiser", "mlpatch", f"the default, with the weights {weights}"))
    report = report_mass_map(
        result,
        shear,
        D,
        config,
        truth=truth,
        title=f"{Path(asked['shear']).name}: mass map",
        settings={"asked": asked, "sha256": provenance["sha256"]},
        choices=choices,
        command=args.command_line,
    )
    write_report(args.report, report)


__all__ = ["report_ct", "report_massmap", "report_solve"]
