"""``pnp-mlpatch massmap``: the convergence from a shear map or a catalogue, from disk to disk."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import pnp_mlpatch
from pnp_mlpatch.cli._common import COLUMNS, prepare
from pnp_mlpatch.cli._problem import make
from pnp_mlpatch.cli._report import report_massmap
from pnp_mlpatch.cli._solve import plain
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.io.atomic import atomic_write, check_writable
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.io.reading import refuse_special
from pnp_mlpatch.lensing import bin_shear, read_catalogue
from pnp_mlpatch.lensing.fits import ShearMap, read_map, read_shear, split_source, write_convergence
from pnp_mlpatch.lensing.statistics import judge
from pnp_mlpatch.viz.report import check_report
from pnp_mlpatch.weights import sha256

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.mass_map import MassMap

KEPT = (
    "shear",
    "gamma1",
    "gamma2",
    "noise",
    "n_gal",
    "shape_noise",
    "mask",
    "pixel",
    "flip_ra",
    "reduced",
    "catalogue",
    "columns",
    "flip_e2",
    "center",
    "shape",
    "denoiser",
    "weights",
    "sigma",
    "iterations",
    "burn_in",
    "padding",
    "seed",
    "errors",
    "truth",
)
MAP_ONLY = ("gamma1", "gamma2", "noise", "n_gal", "shape_noise", "mask")
CATALOGUE_ONLY = ("columns", "flip_e2", "center", "shape")


def run_massmap(args: argparse.Namespace) -> int:
    """Map the convergence and write it, with a JSON file from which the run can be repeated."""
    device = prepare(args)
    asked, before = _asked(args)
    if "shear" not in asked or args.out is None:
        raise InputError(
            "massmap: "
            f"{'give SHEAR, the input' if 'shear' not in asked else 'give --out FILE.fits'}. "
            "See pnp-mlpatch massmap -h."
        )
    out = Path(args.out)
    _check_out(args, out, asked)
    with lock(out.with_suffix(".json")):
        return _map(args, out, asked, before, device)


def _map(
    args: argparse.Namespace,
    out: Path,
    asked: dict[str, Any],
    before: dict[str, str],
    device: torch.device,
) -> int:
    """Map, and write the result."""
    from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass

    digests = {name: sha256(path) for name, path in _files(asked).items()}
    for name, digest in digests.items():
        if before.get(name, digest) != digest:
            raise InputError(
                f"{_files(asked)[name]}: is not the file that {args.source} was made from; "
                "give another SHEAR, or run it without --from."
            )
    shear = _shear(asked)
    truth = _truth(asked, shear)
    names = ("sigma", "iterations", "burn_in", "padding", "seed")
    settings = {key: asked[key] for key in names if key in asked}
    config = MassMapConfig(**settings, passes=3 if asked.get("reduced") else 1)
    name = asked.get("denoiser", "mlpatch")
    weights = asked.get("weights", "mlpatch-kappa" if name == "mlpatch" else None)
    D, used = make("denoiser", {"name": name, **({} if weights is None else {"weights": weights})})
    partial = _partial(out)
    if args.no_resume:
        partial.unlink(missing_ok=True)
    progress = False if args.quiet else None
    errors = bool(asked.get("errors"))
    result = map_mass(
        shear, D, config, errors=errors, checkpoint=partial, device=device, progress=progress
    )
    denoiser = {"name": name, **used, **result.settings["denoiser"]}
    provenance = {
        "pnp_mlpatch": pnp_mlpatch.__version__,
        "asked": asked,
        "sha256": digests,
        "settings": plain({**result.settings, "denoiser": denoiser}),
    }
    _write(out, result, shear, truth, provenance)
    if args.figure:
        _draw(args.figure, name, result, shear, truth)
    report_massmap(args, result, shear, D, config, truth, provenance)
    partial.unlink(missing_ok=True)  # last: until all is written, the same command resumes from it
    if not args.quiet:
        _say(out, result, shear)
    return 0


def _truth(asked: dict[str, Any], shear: ShearMap) -> Tensor | None:
    """Return the known convergence, if there is one."""
    if "truth" not in asked:
        return None
    path, which = split_source(asked["truth"], Path(asked["truth"]))
    truth = read_map(path, None if which == asked["truth"] else which)[0]
    if truth.shape != shear.noise.shape:
        raise InputError(
            f"--truth {asked['truth']}: must have the shape {tuple(shear.noise.shape)} of the "
            f"shear, has {tuple(truth.shape)}."
        )
    return truth


def _write(
    out: Path,
    result: MassMap,
    shear: ShearMap,
    truth: Tensor | None,
    provenance: dict[str, Any],
) -> None:
    """Write the maps, and beside them how they were made."""
    maps = {"SPREAD": result.spread, "SMOOTHED": result.smoothed[0], "MASK": shear.seen}
    named = ("KAPPA_LOW", result.kappa_low), ("KAPPA_HIGH", result.kappa_high), ("STD", result.std)
    maps |= {name: values for name, values in named if values is not None}
    write_convergence(out, result.kappa, shear, more=maps, provenance=provenance)
    table: dict[str, Any] = {
        **provenance,
        "output": out.name,
        "statistics": plain(result.statistics),
        "seconds": round(result.seconds, 1),
    }
    if result.peaks is not None:
        table["peaks"] = plain(list(result.peaks))
    if truth is not None:
        table["judged"] = {
            name: plain(judge(kappa, truth, shear.pixel, shear.seen))
            for name, kappa in (("map", result.kappa), ("smoothed", result.smoothed))
        }
    text = json.dumps(table, indent=2) + "\n"
    atomic_write(
        out.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def _draw(path: str, name: str, result: MassMap, shear: ShearMap, truth: Tensor | None) -> None:
    """Draw the map beside Kaiser-Squires, and the truth if there is one."""
    from pnp_mlpatch.viz.panels import mass_panel

    shown = {} if truth is None else {"truth": truth}
    shown |= {
        name: result.kappa[0],
        f"Kaiser-Squires, {result.settings['width']}": result.smoothed[0],
    }
    mass_panel(path, shown, pixel=shear.pixel, mask=shear.seen, flip_ra=shear.flip_ra)


def _say(out: Path, result: MassMap, shear: ShearMap) -> None:
    """Print what the map shows."""
    s, (height, width) = result.statistics, shear.noise.shape
    print(
        f"{height} x {width} pixels of {shear.pixel}, {100 * s['seen']:.0f} % seen; "
        f"noise {result.settings['noise']:.3g}"
    )
    print(
        f"E rms {s['rms']:.4f} (mean of the posterior), peaks above 0.1: {s['peaks']['0.1']}\n"
        f"smoothed by {result.settings['width']}: E rms {s['E rms smoothed']:.4f}, "
        f"B rms {s['B rms']:.4f}; noise alone: {s['B rms of noise']:.4f}"
    )
    if result.std is not None:
        print(f"standard deviation of the errors: {float(result.std[shear.seen].mean()):.4f}")
    print(f"{result.seconds:.1f} s, {out}")


def _asked(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of flags and --from, and the sha256 of the files of that earlier run."""
    asked, before = {}, {}
    if args.source is not None:
        refuse_special(args.source)
        try:
            content = json.loads(Path(args.source).read_text(encoding="utf-8"))
            asked, before = dict(content["asked"]), dict(content["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(
                f"{args.source}: is not the .json of a mass map ({type(error).__name__}: {error})."
            ) from error
        if unknown := sorted(set(asked) - set(KEPT)):
            raise FileError(
                f"{args.source}: holds unknown settings ({', '.join(unknown)}). Is it of "
                "another version?"
            )
        if args.shear is not None:
            before = {}
    return asked | {
        key: getattr(args, key) for key in KEPT if getattr(args, key) is not None
    }, before


def _shear(asked: dict[str, Any]) -> ShearMap:
    pixel = asked.get("pixel")
    if not asked.get("catalogue"):
        if wrong := [key for key in CATALOGUE_ONLY if asked.get(key)]:
            raise InputError(
                f"massmap: --{wrong[0].replace('_', '-')} is for a catalogue; give --catalogue too."
            )
        given: dict[str, Any] = {
            key: _number(asked[key]) if key in ("noise", "n_gal") else asked[key]
            for key in (*MAP_ONLY, "flip_ra")
            if key in asked
        }
        return read_shear(asked["shear"], pixel=pixel, **given)
    if wrong := [key for key in MAP_ONLY if key in asked]:
        raise InputError(
            f"massmap: --{wrong[0].replace('_', '-')} is for a shear map, not for a "
            "catalogue, which tells it. Leave it out."
        )
    if pixel is None:
        raise InputError(
            "massmap: a catalogue needs --pixel, the side of the pixels that it is put on, "
            "such as '0.4 arcmin'."
        )
    names = {}
    for text in asked.get("columns", []):
        key, sign, column = text.partition("=")
        if not sign or key not in COLUMNS or not column:
            raise InputError(
                f"--columns {text}: expected NAME=COLUMN with NAME one of {', '.join(COLUMNS)}."
            )
        names[key] = column
    flip_e2, flip_ra = bool(asked.get("flip_e2")), bool(asked.get("flip_ra"))
    catalogue = read_catalogue(asked["shear"], **names, flip_e2=flip_e2, flip_ra=flip_ra)
    shape, center = (
        None if asked.get(key) is None else tuple(asked[key]) for key in ("shape", "center")
    )
    return bin_shear(catalogue, pixel, shape=shape, centre=center)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _files(asked: dict[str, Any]) -> dict[str, Path]:
    """Return the files that the run reads, by setting."""
    found = {}
    for key in ("shear", "gamma1", "gamma2", "noise", "n_gal", "mask", "weights"):
        value = asked.get(key)
        path = (
            Path(str(value))
            if key in ("shear", "weights")
            else split_source(str(value), Path())[0]
            if value is not None
            else None
        )
        if value is not None and path is not None and path.is_file():
            found[key] = path
    return found


def _check_out(args: argparse.Namespace, out: Path, asked: dict[str, Any]) -> None:
    """Raise unless the results can be written, and nothing that is read is overwritten."""
    if out.suffix.lower() not in (".fits", ".fit", ".fts"):
        raise InputError(f"--out {out}: expected a file ending in .fits.")
    if args.figure is not None and Path(args.figure).suffix.lower() != ".png":
        raise InputError(f"--figure {args.figure}: expected a file ending in .png.")
    reads = [*_files(asked).values(), *([Path(args.source)] if args.source else [])]
    written = [
        out,
        out.with_suffix(".json"),
        _partial(out),
        *([Path(args.figure)] if args.figure else []),
        *([check_report(args.report)] if args.report else []),
    ]
    for k, path in enumerate(written):
        check_writable(path, [*reads, *written[:k]])


def _partial(out: Path) -> Path:
    """Where the state lies until the map is written."""
    return out.with_name(f".{out.name}.partial.pt")


__all__ = ["run_massmap"]
