"""``pnp-mlpatch ct``: a scan on disk to a volume on disk."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pnp_mlpatch.cli._common import blame, prepare
from pnp_mlpatch.cli._ct_check import (
    ask_back,
    find_center,
    given_center,
    run_check,
    say_fit,
)
from pnp_mlpatch.cli._ct_lengths import (
    element_width,
    origin_detector,
    take_apparatus,
    unit_of_lengths,
)
from pnp_mlpatch.cli._ct_processes import parse_shard, print_estimate, run_shard, run_whole
from pnp_mlpatch.cli._ct_table import GEOMETRY, from_table, read_table
from pnp_mlpatch.cli._problem import make, parse_set
from pnp_mlpatch.cli._report import report_ct
from pnp_mlpatch.cli._solve import plain
from pnp_mlpatch.ct.geometry import Geometry
from pnp_mlpatch.ct.scan import INTEGRALS, Scan, read_scan
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.viz.report import check_report

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, VolumeResult

CONFIG = (
    "iterations",
    "mu_water",
    "noise",
    "gain",
    "electronic",
    "bin",
    "stripes",
    "likelihood",
    "preset",
    "batch",
    "slabs",
    "backend",
    "memory",
    "threads",
)  # flags that are settings of the reconstruction


def run_ct(args: argparse.Namespace) -> int:
    """Reconstruct a volume and write it, with a JSON file that tells how it was made."""
    from pnp_mlpatch.pipelines.ct_volume import check_out, check_scan

    shard = parse_shard(args)
    scan, geometry, config, sections = open_job(args)
    first, last = check_scan(scan, geometry, config)
    if args.check:
        return run_check(args, scan, geometry, config)
    if args.out is None:
        raise InputError("ct: give --out FILE, or --check for a look without a volume.")
    told = [] if args.report is None else [check_report(args.report)]
    pictures = [Path(path) for path in (args.plot, args.preview) if path is not None] + told
    check_out(Path(args.out), scan, pictures)
    _check_files(args, scan)

    D, used = None, None
    if not args.fbp:
        D, used = make("denoiser", {"name": args.denoiser, **sections["denoiser"]})
        used = {"name": args.denoiser, **used}
    if args.plot:
        figure = geometry.plot()
        atomic_write(args.plot, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    if not args.quiet:
        count, height, width = last - first, *geometry.shape
        print(
            f"{scan.path}: {scan.kind}, {scan.shape[1]} angles x {scan.shape[2]} detectors; "
            f"{count} slices of {height} x {width}"
        )
    if args.estimate:
        print_estimate(args, scan, geometry, D, config)
        return 0
    meta = {"denoiser": plain(used)}
    if shard is not None:
        run_shard(args, shard, scan, geometry, D, config, meta)
        return 0
    result = run_whole(args, scan, geometry, D, config, meta)
    if args.preview:
        _preview(args, result, D is not None, first + (last - first) // 2)
    report_ct(args, result, scan, geometry, D, config)
    if not args.quiet:
        _say(result)
        say_fit(result, first)
    return 0


def open_job(
    args: argparse.Namespace,
) -> tuple[Scan, Geometry, VolumeConfig, dict[str, dict[str, Any]]]:
    """Open what the flags of ``ct`` ask for.

    Parameters
    ----------
    args : Namespace
        The flags.

    Returns
    -------
    scan : Scan
    geometry : ParallelBeam or FanBeam
    config : VolumeConfig
    sections : dict
        The settings of the denoiser and of the solver.
    """
    device = prepare(args)
    sections = _sections(args)
    table = read_table(args)
    scan = _scan(args, table)
    geometry = _geometry(args, scan) if table is None else from_table(args, scan, table)
    ask_back(args, scan, geometry)
    return scan, geometry, _config(args, scan, sections["solver"], str(device)), sections


def _config(
    args: argparse.Namespace, scan: Scan, settings: dict[str, Any], device: str
) -> VolumeConfig:
    """Return the settings of the reconstruction that the flags give."""
    from pnp_mlpatch.pipelines.ct_volume import VolumeConfig

    given = {key: getattr(args, key) for key in CONFIG if getattr(args, key) is not None}
    if args.sigma is not None:
        given["sigma"] = args.sigma[0] if len(args.sigma) == 1 else tuple(args.sigma)
    if args.window is not None:
        given["window"] = tuple(args.window)
    if args.slices is not None:
        given["slices"] = _slices(args.slices, scan)
    given["unit"] = unit_of_lengths(args, scan)
    with blame("ct"):
        return VolumeConfig(**given, solver=args.solver, settings=settings, device=device)


def _preview(args: argparse.Namespace, result: VolumeResult, denoised: bool, index: int) -> None:
    """Draw the slice in the middle beside its filtered backprojection."""
    from pnp_mlpatch.viz.panels import panel

    images = {"filtered backprojection": result.fbp[None, None]}
    if denoised:
        images[args.denoiser] = result.middle[None, None]
    low, high = result.window
    title = f"slice {index}, grey from {low:.4g} to {high:.4g} ({result.units})"
    panel(args.preview, images, window=result.window, title=title)


def _say(result: VolumeResult) -> None:
    """Print how the slices ended."""
    before = f", {result.resumed} of them from an earlier run" if result.resumed else ""
    change = max((value for value in result.residual if value is not None), default=None)
    names = sorted(set(result.status))
    ended = ", ".join(f"{result.status.count(status)} {status}" for status in names)
    shown = "" if change is None else f", last change {change:.2g} at most"
    low, high = result.window
    print(f"{ended}{shown}; window {low:.4g} to {high:.4g} ({result.units})")
    spent = result.processor_seconds
    spent_each = "" if spent is None else f", {spent:.1f} processor seconds a slice"
    print(f"{len(result.status)} slices{before}, {result.seconds:.1f} s{spent_each}, {result.path}")


def _sections(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the settings of the denoiser and of the solver that were given by --set."""
    sections: dict[str, dict[str, Any]] = {"denoiser": {}, "solver": {}}
    if args.weights is not None:
        sections["denoiser"]["weights"] = args.weights
    for text in args.set:
        family, key, value = parse_set(text)
        if family == "operator":
            raise InputError(
                f"--set '{text}': the operator of ct is set by its geometry; SECTION is "
                "denoiser or solver."
            )
        if family == "solver" and key in ("sigma", "iterations"):
            raise InputError(f"--set '{text}': give --{key}.")
        sections[family][key] = value
    return sections


def _scan(args: argparse.Namespace, table: dict[str, Any] | None) -> Scan:
    """Read the scan, with what the flags say in place of what the file says."""
    angles, degrees = args.angles, args.degrees
    if angles is not None and angles.isdigit():
        if args.degrees is not None:
            raise InputError(
                f"--degrees tells the unit of a file of angles; --angles {angles} needs "
                "none. Leave it out."
            )
        if int(angles) < 1:
            raise InputError(f"--angles {angles}: the number of angles must be >= 1.")
        parallel = (
            (args.beam or "parallel") == "parallel"
            if table is None
            else table.get("type") == "ParallelBeam"
        )
        turn = math.pi if parallel else 2 * math.pi
        angles, degrees = np.arange(int(angles)) * (turn / int(angles)), False
    fields = {name: _number_or_path(getattr(args, name)) for name in ("blank", "dark")}
    fields["after"] = _number_or_path(args.blank_after)
    if args.kind == INTEGRALS.replace(" ", "-") and any(
        value is not None for value in fields.values()
    ):
        raise InputError(
            "--blank and --dark are for counts; line integrals have been divided by the "
            "open beam already."
        )
    return read_scan(
        args.scan,
        dataset=args.dataset,
        kind=None if args.kind is None else args.kind.replace("-", " "),
        layout=args.layout,
        angles=angles,
        degrees=degrees,
        flat=fields["blank"],
        flat_after=fields["after"],
        dark=fields["dark"],
    )


def _number_or_path(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _geometry(args: argparse.Namespace, scan: Scan) -> Geometry:
    """Make the geometry of the flags; the scan gives what they leave open."""
    if scan.angles is None:
        raise InputError(
            f"{scan.path}: the scan tells no angles. Give --angles FILE, or --angles N for equally "
            f"spaced ones ({scan.shape[1]} projections)."
        )
    take_apparatus(args, scan)
    given: dict[str, Any] = {
        "shape": None if args.shape is None else tuple(args.shape),
        "pixel": args.pixel,
        "spacing": element_width(args, scan),
        "offset": args.offset,
        "source_origin": args.source_origin,
        "origin_detector": origin_detector(args),
    }
    center, beam = given_center(args.center), args.beam or "parallel"
    try:
        geometry = scan.geometry(beam, center=center, **given)
        if args.center != "auto":
            return geometry
        if args.offset is not None:
            raise InputError("center and offset say the same in two ways; give one.")
        return scan.geometry(beam, center=find_center(args, scan, geometry), **given)
    except InputError as error:
        raise InputError(_with_flags(str(error))) from error


def _with_flags(text: str) -> str:
    """Put a message of ``Scan.geometry`` in words with the flags in place of its arguments."""
    text = re.sub(r"\bbeam='(\w+)'", r"--beam \1", text.removeprefix("Scan.geometry: "))
    for name in GEOMETRY[2:]:
        flag = f"--{name.replace('_', '-')}"
        text = re.sub(rf"(?<![-\w]){name}(?![-\w])( \({flag}\))?", flag, text)
    return text


def _slices(text: str, scan: Scan) -> tuple[int, int]:
    start, colon, stop = text.partition(":")
    if not colon or not all(part.isdigit() or part == "" for part in (start, stop)):
        raise InputError(f"--slices {text}: expected START:STOP, such as 10:20, 10: or :20.")
    return int(start or 0), int(stop or scan.shape[0])


def _check_files(args: argparse.Namespace, scan: Scan) -> None:
    """Raise unless the pictures can be written, and nothing that is read is overwritten."""
    out = Path(args.out)
    results = {out.resolve(): "--out", out.with_suffix(".json").resolve(): "the .json beside --out"}
    for name in ("plot", "preview", "report"):
        text = getattr(args, name)
        if text is None:
            continue
        path = Path(text)
        if name != "report" and path.suffix.lower() != ".png":
            raise InputError(f"--{name} {text}: expected a file ending in .png.")
        results[path.resolve()] = f"--{name}"
    angles = None if args.angles is None or args.angles.isdigit() else args.angles
    for text in (
        str(scan.path),
        args.geometry,
        angles,
        args.blank,
        args.blank_after,
        args.dark,
        args.weights,
    ):
        if text is not None and Path(text).resolve() in results:
            raise InputError(
                f"{results[Path(text).resolve()]} would overwrite {text}, which is read. "
                "Choose another name."
            )


__all__ = ["open_job", "run_ct"]
