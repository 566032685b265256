"""``pnp-mlpatch ct``: a scan on disk to a volume on disk."""

from __future__ import annotations

import argparse
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch.cli._common import blame, prepare
from pnp_mlpatch.cli._problem import make, parse_set
from pnp_mlpatch.cli._solve import plain
from pnp_mlpatch.ct.fbp import whole_turn
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, from_dict
from pnp_mlpatch.ct.scan import INTEGRALS, Scan, read_scan
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.reading import refuse_special
from pnp_mlpatch.weights import read_toml

BEAMS = ("parallel", "fan", "arc")
GEOMETRY = (
    "beam",
    "shape",
    "pixel",
    "spacing",
    "center",
    "offset",
    "source_origin",
    "origin_detector",
)  # flags that --geometry replaces


def run_ct(args: argparse.Namespace) -> int:
    """Reconstruct a volume and write it, with a JSON file that tells how it was made."""
    from pnp_mlpatch.pipelines.ct_volume import (
        VolumeConfig,
        check_out,
        check_scan,
        reconstruct_volume,
    )

    device = prepare(args)
    sections = _sections(args)
    table = _table(args)
    scan = _scan(args, table)
    geometry = _geometry(args, scan) if table is None else _from_table(args, scan, table)
    given = {
        key: getattr(args, key)
        for key in (
            "iterations",
            "mu_water",
            "noise",
            "gain",
            "electronic",
            "likelihood",
            "batch",
            "backend",
            "memory",
        )
        if getattr(args, key) is not None
    }
    if args.sigma is not None:
        given["sigma"] = args.sigma[0] if len(args.sigma) == 1 else tuple(args.sigma)
    if args.window is not None:
        given["window"] = tuple(args.window)
    if args.slices is not None:
        given["slices"] = _slices(args.slices, scan)
    with blame("ct"):
        config = VolumeConfig(
            **given, solver=args.solver, settings=sections["solver"], device=str(device)
        )
    first, last = check_scan(scan, geometry, config)
    check_out(
        Path(args.out), scan, [Path(path) for path in (args.plot, args.preview) if path is not None]
    )
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
            f"{scan.path}: {scan.kind}, {scan.shape[1]} angles x {scan.shape[2]} detectors; {count} slices of {height} x {width}"
        )
    result = reconstruct_volume(
        scan,
        geometry,
        D,
        args.out,
        config,
        meta={"denoiser": plain(used)},
        resume=not args.no_resume,
        progress=False if args.quiet else None,
    )
    if args.preview:
        from pnp_mlpatch.viz.panels import panel

        images = {"filtered backprojection": result.fbp[None, None]} | (
            {} if D is None else {args.denoiser: result.middle[None, None]}
        )
        low, high = result.window
        title = f"slice {first + (last - first) // 2}, grey from {low:.4g} to {high:.4g} ({result.units})"
        panel(args.preview, images, window=result.window, title=title)
    if not args.quiet:
        before = f", {result.resumed} of them from an earlier run" if result.resumed else ""
        change = max((value for value in result.residual if value is not None), default=None)
        ended = ", ".join(
            f"{result.status.count(status)} {status}" for status in sorted(set(result.status))
        )
        shown = "" if change is None else f", last change {change:.2g} at most"
        print(
            f"{ended}{shown}; window {result.window[0]:.4g} to {result.window[1]:.4g} ({result.units})"
        )
        print(f"{len(result.status)} slices{before}, {result.seconds:.1f} s, {result.path}")
    return 0


def _sections(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Settings of the denoiser and of the solver that were given by --set."""
    sections: dict[str, dict[str, Any]] = {"denoiser": {}, "solver": {}}
    if args.weights is not None:
        sections["denoiser"]["weights"] = args.weights
    for text in args.set:
        family, key, value = parse_set(text)
        if family == "operator":
            raise InputError(
                f"--set '{text}': the operator of ct is set by its geometry; SECTION is denoiser or solver."
            )
        if family == "solver" and key in ("sigma", "iterations"):
            raise InputError(f"--set '{text}': give --{key}.")
        sections[family][key] = value
    return sections


def _scan(args: argparse.Namespace, table: dict[str, Any] | None) -> Scan:
    """The scan, with what the flags say in place of what the file says."""
    angles, degrees = args.angles, args.degrees
    if angles is not None and angles.isdigit():
        if args.degrees is not None:
            raise InputError(
                f"--degrees tells the unit of a file of angles; --angles {angles} needs none. Leave it out."
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
            "--blank and --dark are for counts; line integrals have been divided by the open beam already."
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
    """The geometry of the flags; what they leave open is taken from the scan."""
    _, count, detectors = scan.shape
    if scan.angles is None:
        raise InputError(
            f"{scan.path}: the scan tells no angles. Give --angles FILE, or --angles N for equally spaced ones ({count} projections)."
        )
    beam = args.beam or "parallel"
    lengths = {name: getattr(args, name) for name in ("source_origin", "origin_detector")}
    for name, value in lengths.items():
        flag = f"--{name.replace('_', '-')}"
        if beam == "parallel" and value is not None:
            raise InputError(f"{flag} is for --beam fan or arc; a parallel beam has no source.")
        if beam != "parallel" and value is None:
            raise InputError(
                f"--beam {beam} needs {flag}, a length in the unit of --pixel. (From source to detector it is source_origin + origin_detector.)"
            )
        if value is not None and not (
            math.isfinite(value) and value >= 0 and (value > 0 or name == "origin_detector")
        ):
            raise InputError(f"{flag} must be a length > 0, got {value}.")
    for name in ("pixel", "spacing"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"--{name} must be a length > 0, got {value}.")
    distance = 1.0 if beam == "parallel" else lengths["source_origin"] + lengths["origin_detector"]
    magnification = 1.0 if beam == "parallel" else distance / lengths["source_origin"]
    pixel = (
        args.pixel
        if args.pixel is not None
        else 1.0
        if args.spacing is None
        else args.spacing / magnification
    )
    spacing = args.spacing if args.spacing is not None else pixel * magnification

    offset = args.offset
    if args.center is not None:
        if offset is not None:
            raise InputError("--center and --offset say the same in two ways; give one.")
        if not -0.5 < args.center < detectors - 0.5:
            raise InputError(
                f"--center {args.center:g} lies off the detector, whose elements are 0 ... {detectors - 1}; its middle is {(detectors - 1) / 2:g}."
            )
        if args.center == detectors / 2:
            warnings.warn(
                f"--center {args.center:g} is half an element right of the middle, {(detectors - 1) / 2:g}: elements are counted from 0 and INDEX "
                "is the middle of one. If it is the default of tomopy, which counts from the edge (D / 2), subtract 0.5.",
                stacklevel=2,
            )
        offset = ((detectors - 1) / 2 - args.center) * spacing
    if args.shape is None:
        half = detectors * spacing / 2
        if whole_turn(scan.angles):  # then each side of the detector sees all around the axis
            half += abs(offset or 0.0)
        if beam != "parallel":
            gamma = (
                math.atan(half / distance) if beam == "fan" else min(half / distance, math.pi / 2)
            )
            half = lengths["source_origin"] * math.sin(gamma)
        side = max(1, math.floor(2 * half / pixel + 1e-6))
        shape = (side, side)
    else:
        shape = tuple(args.shape)
    common: dict[str, Any] = {"pixel": pixel, "spacing": spacing, "offset": offset or 0.0}
    if beam == "parallel":
        return ParallelBeam(shape, scan.angles, detectors, **common)
    return FanBeam(shape, scan.angles, detectors, **lengths, **common, arc=beam == "arc")


def _table(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the file of --geometry holds; the file beside an earlier volume will do."""
    if args.geometry is None:
        return None
    void = [f"--{name.replace('_', '-')}" for name in GEOMETRY if getattr(args, name) is not None]
    if void:
        raise InputError(
            f"--geometry {args.geometry} tells the whole geometry; leave out {', '.join(void)}, or change the file."
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
    """The geometry of the file; angles and detectors that it does not tell are those of the scan."""
    if "angles" not in table and scan.angles is None:
        raise InputError(
            f"{args.geometry}: neither it nor the scan tells the angles. Give --angles FILE or --angles N."
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
                f"{results[Path(text).resolve()]} would overwrite {text}, which is read. Choose another name."
            )


__all__ = ["run_ct"]
