"""What ``massmap`` writes and prints, and what it makes of its flags."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

import pnp_mlpatch
from pnp_mlpatch.cli._problem import make
from pnp_mlpatch.cli._solve import plain
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing.fits import ShearMap, write_convergence
from pnp_mlpatch.lensing.statistics import judge

if TYPE_CHECKING:
    from pnp_mlpatch.pipelines.mass_map import MassMap, MassMapConfig


def config_of(asked: dict[str, Any]) -> MassMapConfig:
    """Return the settings of the flags."""
    from pnp_mlpatch.pipelines.mass_map import MassMapConfig

    names = ("sigma", "iterations", "burn_in", "padding", "seed")
    settings = {key: asked[key] for key in names if key in asked}
    return MassMapConfig(**settings, passes=3 if asked.get("reduced") else 1)


def denoiser_of(asked: dict[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """Return the name of the denoiser, itself, and what it was made with."""
    name = asked.get("denoiser", "mlpatch")
    weights = asked.get("weights", "mlpatch-kappa" if name == "mlpatch" else None)
    D, used = make("denoiser", {"name": name, **({} if weights is None else {"weights": weights})})
    return name, D, used


def provenance_of(
    asked: dict[str, Any], digests: dict[str, str], result: MassMap, denoiser: dict[str, Any]
) -> dict[str, Any]:
    """Return how a map was made, in plain JSON values."""
    return {
        "pnp_mlpatch": pnp_mlpatch.__version__,
        "asked": asked,
        "sha256": digests,
        "settings": plain({**result.settings, "denoiser": denoiser}),
    }


def remove(partial: Path) -> None:
    """Remove the state of a run, a file or a folder."""
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)


def write(
    out: Path,
    result: MassMap,
    shear: ShearMap,
    truth: Tensor | None,
    provenance: dict[str, Any],
) -> None:
    """Write the maps, and beside them how they were made."""
    maps = {"SPREAD": result.spread, "SMOOTHED": result.smoothed[0], "MASK": shear.seen}
    write_convergence(out, result.kappa, shear, more=maps, provenance=provenance)
    table: dict[str, Any] = {
        **provenance,
        "output": out.name,
        "statistics": plain(result.statistics),
        "seconds": round(result.seconds, 1),
    }
    if truth is not None:
        table["judged"] = {
            name: plain(judge(kappa, truth, shear.pixel, shear.seen))
            for name, kappa in (("map", result.kappa), ("smoothed", result.smoothed))
        }
    text = json.dumps(table, indent=2) + "\n"
    atomic_write(
        out.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def say(out: Path, result: MassMap, shear: ShearMap) -> None:
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
    print(f"{result.seconds:.1f} s, {out}")
