"""``pnp-mlpatch ct``: a scan on disk to a volume on disk."""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pnp_mlpatch.cli._common import blame, prepare
from pnp_mlpatch.cli._ct_check import (
    ask_back,
    element_width,
    find_center,
    given_center,
    origin_detector,
    run_check,
    say_fit,
)
from pnp_mlpatch.cli._ct_processes import parse_shard, print_estimate, run_shard, run_whole
from pnp_mlpatch.cli._problem import make, parse_set
from pnp_mlpatch.cli._solve import plain
from pnp_mlpatch.ct.geometry import Geometry, from_dict
from pnp_mlpatch.ct.scan import INTEGRALS, Scan, read_scan
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.reading import refuse_special
from pnp_mlpatch.weights import read_toml

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
GEOMETRY = (
    "beam",
    "shape",
    "pixel",
    "spacing",
    "center",
    "offset",
    "source_origin",
    "origin_detector",
    "source_detector",
)  # flags that --geometry replaces


def run_ct(args: argparse.Namespace) -> int:
    """Reconstruct a volume and write it, with a JSON file that tells how it was made."""
    from pnp_mlpatch.pipelines.ct_volume import check_out, check_scan

    shard = parse_shard(args)
    device = prepare(args)
    sections = _sections(args)
    table = _table(args)
    scan = _scan(args, table)
    geometry = _geometry(args, scan) if table is None else _from_table(args, scan, table)
    ask_back(args, scan, geometry)
    config = _config(args, scan, sections["solver"], str(device))
    first, last = check_scan(scan, geometry, config)
    if args.check:
        return run_check(scan, geometry, config)
    if args.out is None:
        raise InputError("ct: give --out FILE, or --check for a look without a volume.")
    pictures = [Path(path) for path in (args.plot, args.preview) if path is not None]
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
    if not args.quiet:
        _say(result)
        say_fit(result, first)
    return 0


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


def _table(args: argparse.Namespace) -> dict[str, Any] | None:
    """Return what the file of --geometry holds; the file beside an earlier volume will do."""
    if args.geometry is None:
        return None
    void = [f"--{name.replace('_', '-')}" for name in GEOMETRY if getattr(args, name) is not None]
    if void:
        raise InputError(
            f"--geometry {args.geometry} tells the whole geometry; leave out "
            f"{', '.join(void)}, or change the file."
        )
    path = Path(args.geometry)
    refuse_special(path)
    try:
        values = (
            read_toml(path)
            if path.suffix.lower() == ".toml"
            else json.loads(path.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError) as error:
        raise (
            error
            if isinstance(error, FileError)
            else FileError(f"{path}: cannot be read as JSON ({error}). Give .json or .toml.")
        ) from error
    if isinstance(values, dict) and isinstance(values.get("geometry"), dict):
        values = values["geometry"]
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: expected a table of the values of a geometry, got {type(values).__name__}."
        )
    if args.angles is not None and "angles" in values:
        raise InputError(
            f"--geometry {path} has the angles; leave out --angles, or take them out of the file."
        )
    return values


def _from_table(args: argparse.Namespace, scan: Scan, table: dict[str, Any]) -> Geometry:
    """Make the geometry of the file; the scan gives the angles and detectors that it lacks."""
    if "angles" not in table and scan.angles is None:
        raise InputError(
            f"{args.geometry}: neither it nor the scan tells the angles. Give --angles "
            "FILE or --angles N."
        )
    angles = {} if "angles" in table or scan.angles is None else {"angles": scan.angles.tolist()}
    with blame(args.geometry):
        return from_dict({**table, **angles, "detectors": table.get("detectors", scan.shape[2])})


def _slices(text: str, scan: Scan) -> tuple[int, int]:
    start, colon, stop = text.partition(":")
    if not colon or not all(part.isdigit() or part == "" for part in (start, stop)):
        raise InputError(f"--slices {text}: expected START:STOP, such as 10:20, 10: or :20.")
    return int(start or 0), int(stop or scan.shape[0])


def _check_files(args: argparse.Namespace, scan: Scan) -> None:
    """Raise unless the pictures can be written, and nothing that is read is overwritten."""
    out = Path(args.out)
    results = {out.resolve(): "--out", out.with_suffix(".json").resolve(): "the .json beside --out"}
    for name in ("plot", "preview"):
        text = getattr(args, name)
        if text is None:
            continue
        path = Path(text)
        if path.suffix.lower() != ".png":
            raise InputError(f"--{name} {text}: expected a file ending in .png.")
        results[path.resolve()] = f"--{name}"
    angles = None if args.angles is None or args.angles.isdigit() else args.angles
    for text in (str(scan.path), args.geometry, angles, args.blank, args.dark, args.weights):
        if text is not None and Path(text).resolve() in results:
            raise InputError(
                f"{results[Path(text).resolve()]} would overwrite {text}, which is read. "
                "Choose another name."
            )


__all__ = ["run_ct"]
