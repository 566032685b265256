"""Faults of real scans: what each costs when nothing but the file tells of it.

A chest slice is simulated on a grid twice as fine, with 20 flats and darks, and written as a Data
Exchange file with one fault. ``reconstruct_volume`` gets the file and the geometry that a user
would give. PSNR in dB, of [0, 1] = -1024 ... 1024 HU, within the circle that the detector sees.

Run: python benchmarks/ct_faults.py [--only NAME ...] [--denoiser tv] [--size N] [--views N]
     [--chest FILE.npz --slice K]
"""

import contextlib
import importlib.util
import math
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, parse, publish
from torch import Tensor

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.ct import MU_WATER, FanBeam, Geometry, ParallelBeam, read_scan, to_attenuation
from pnp_mlpatch.ct.counts import simulate_counts
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume

WATER, FIELD, PHOTONS, DARK = MU_WATER[70], 400.0, 1e4, 100.0


def main():
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", help="parts of the names of faults")
    parser.add_argument("--denoiser", default="mlpatch-ct", help="tv, or weights of mlpatch")
    parser.add_argument("--chest", type=Path, help="an .npz with slices 'hu'; else the sample")
    parser.add_argument("--slice", type=int, default=0, help="of that file")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=180)
    args = parse(parser)
    if args.quick:
        args.size, args.views, args.denoiser = 48, 48, "tv"
    rows = []
    for name, fault in FAULTS.items():
        if args.only and not any(part in name for part in args.only):
            continue
        with warnings.catch_warnings(record=True) as seen, tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("always")
            row = {"fault": name, **fault(Scene(args), Path(folder))}
        told = [str(w.message).partition(": ")[2] for w in seen if w.category is UserWarning]
        rows.append(row)
        print(row, *told, sep="\n    ", flush=True)
    publish(args, {"Faults of real scans": rows})


class Scene:
    """The truth, its clean line integrals, and files of its counts."""

    def __init__(self, args):
        self.size, self.pixel = args.size, FIELD / args.size
        self.D = "tv" if args.denoiser == "tv" else denoisers.make("mlpatch", weights=args.denoiser)
        hu = samples.chest_ct()
        if args.chest:
            with np.load(args.chest) as file:
                hu = torch.from_numpy(file["hu"][args.slice].astype(np.float32))[None, None]
        hu = F.interpolate(hu.clamp(-1024, 1024), size=(args.size,) * 2, mode="area")
        rows, cols = np.mgrid[: args.size, : args.size] - (args.size - 1) / 2
        self.inside = torch.from_numpy(np.hypot(rows, cols) < args.size / 2 - 1)
        hu[:, :, ~self.inside] = -1000.0
        self.hu = hu
        self.geometry = ParallelBeam((args.size,) * 2, args.views, args.size, pixel=self.pixel)

    def integrals(self, geometry: Geometry | None = None) -> Tensor:
        A = Radon(geometry or self.geometry, cache=False)
        return simulate(A, to_attenuation(self.hu, WATER))[0][0]

    def write(
        self,
        path: Path,
        q: Tensor,
        *,
        gain: float = 1.0,
        photons: float = PHOTONS,
        sensitivity: Tensor | None = None,
        geometry: Geometry | None = None,
        spoil=None,
    ) -> Path:
        """Write counts in units of ``gain``; ``sensitivity`` is what the flats do not know."""
        shape = (20, *q.shape[-1:])
        seen = q if sensitivity is None else q - torch.log(sensitivity)
        noise = torch.Generator().manual_seed(5)

        def units(photons: Tensor, seed: int) -> np.ndarray:
            read = torch.randn(photons.shape, generator=noise) * 2
            return (gain * photons + DARK + read).round().clamp(0, 65535).numpy()

        data = units(simulate_counts(seen, photons, seed=1), 1)[0]
        white = units(simulate_counts(torch.zeros(shape), photons, seed=2), 2)
        dark = units(torch.zeros(shape), 3)
        if spoil is not None:
            spoil(data)
        theta = (geometry or self.geometry).theta
        with h5py.File(path, "w") as file:
            file["exchange/data"] = data[:, None].astype(np.uint16)
            file["exchange/data_white"] = white[:, None].astype(np.uint16)
            file["exchange/data_dark"] = dark[:, None].astype(np.uint16)
            file["exchange/theta"] = np.rad2deg(theta.numpy())
        return path

    def solve(
        self,
        path: Path,
        geometry: Geometry | None = None,
        config: VolumeConfig | None = None,
        **how,
    ) -> dict[str, float]:
        """PSNR of filtered backprojection and of the volume, and chi-squared."""
        config = replace(config or VolumeConfig(), mu_water=WATER)
        scan = read_scan(path, **how)
        result = reconstruct_volume(
            scan,
            geometry or self.geometry,
            self.D,
            path.with_suffix(".npy"),
            config,
            progress=False,
        )
        import json

        row = json.loads(path.with_suffix(".json").read_text())["result"]
        return {
            "PSNR": self.score(result.middle),
            "FBP": self.score(result.fbp),
            "chi2": float("nan") if row["chi2"][0] is None else row["chi2"][0],
            "alpha": row["alpha_scale"][0],
        }

    def score(self, hu: Tensor) -> float:
        x = F.interpolate(hu[None, None], size=self.hu.shape[-2:], mode="nearest")
        error = ((x - self.hu) / 2048)[..., self.inside]
        return float(-10 * torch.log10(error.square().mean()))


# ---- the faults


def clean(scene: Scene, folder: Path) -> dict:
    return scene.solve(scene.write(folder / "scan.h5", scene.integrals()))


def gain(scene: Scene, folder: Path) -> dict:
    path = scene.write(folder / "scan.h5", scene.integrals(), gain=6.0)
    right = scene.solve(path, config=VolumeConfig(gain=6.0))
    return scene.solve(path) | {"right": right["PSNR"]}


def zingers(scene: Scene, folder: Path) -> dict:
    draw = np.random.default_rng(0)

    def spoil(data):
        data.reshape(-1)[draw.choice(data.size, data.size // 870, replace=False)] = 65535

    return scene.solve(scene.write(folder / "scan.h5", scene.integrals(), spoil=spoil))


def hot(scene: Scene, folder: Path) -> dict:
    def spoil(data):
        for column in (0.37, 0.62):
            data[:, int(column * data.shape[1])] *= 4

    return scene.solve(scene.write(folder / "scan.h5", scene.integrals(), spoil=spoil))


def center(scene: Scene, folder: Path, off: float = 3.7) -> dict:
    moved = replace(scene.geometry, offset=-off * scene.pixel)
    path = scene.write(folder / "scan.h5", scene.integrals(moved))
    return scene.solve(path) | {"right": scene.solve(path, moved)["PSNR"]}


def coarse(scene: Scene, folder: Path) -> dict:
    """Pixels three elements wide, and what a reconstruction without the discrepancy rule gives."""
    path = scene.write(folder / "scan.h5", scene.integrals())
    side = scene.size // 3
    wide = replace(scene.geometry, shape=(side, side), pixel=3 * scene.pixel)
    rest = (scene.size - 3 * side) // 2
    inner = (..., slice(rest, rest + 3 * side), slice(rest, rest + 3 * side))
    scene.hu = F.interpolate(scene.hu[inner], size=(side, side), mode="area")
    part = scene.inside[inner].float()[None, None]
    scene.inside = F.interpolate(part, size=(side, side), mode="area")[0, 0] == 1
    settings = {"bins alone": VolumeConfig(bin=3), "neither": VolumeConfig(bin=1)}
    settings["neither, alpha as it is"] = VolumeConfig(bin=1, preset="fast")
    others = {name: scene.solve(path, wide, config)["PSNR"] for name, config in settings.items()}
    return scene.solve(path, wide) | others


def truncated(scene: Scene, folder: Path) -> dict:
    part = replace(scene.geometry, detectors=int(scene.size * 0.6))
    scene_circle = scene.inside
    rows, cols = np.mgrid[: scene.size, : scene.size] - (scene.size - 1) / 2
    scene.inside = scene_circle & torch.from_numpy(np.hypot(rows, cols) < 0.28 * scene.size)
    rim = (np.hypot(rows, cols) < 0.3 * scene.size) & ~scene.inside.numpy()
    path = scene.write(folder / "scan.h5", scene.integrals(part))
    whole = scene.write(folder / "whole.h5", scene.integrals())
    right, found = scene.solve(whole), scene.solve(path, part)
    for name, file in (("", path), ("right ", whole)):
        error = np.load(file.with_suffix(".npy"))[0] - scene.hu[0, 0].numpy()
        found[f"{name}mean error inside, HU"] = float(error[scene.inside.numpy()].mean())
        found[f"{name}error at the rim, HU"] = float(np.sqrt(np.mean(error[rim] ** 2)))
    return found | {"right": right["PSNR"]}


def half(scene: Scene, folder: Path, fan: bool) -> dict:
    """The axis near the edge of a detector of half the width, over a whole turn.

    "right" is the whole detector with half of the views, so that each line is measured once as
    well; "twice" is the whole detector with all views.
    """
    size, pixel, views = scene.size, scene.pixel, scene.geometry.theta.numel()
    count = round(1.25 * size) if fan else size
    kept = count // 2 + max(4, count // 16)

    def geometry(views: int, turn: float, elements: int) -> Geometry:
        theta = torch.arange(views) * (turn / views)
        away = (count - elements) / 2  # of the middle of the detector, in elements
        shape, how = (size, size), {"detectors": elements, "pixel": pixel}
        if not fan:
            return ParallelBeam(shape, theta, **how, offset=away * pixel)
        width = pixel * 949 / 541
        distances = {"source_origin": 541.0, "origin_detector": 408.0}
        return FanBeam(
            shape, theta, **how, **distances, spacing=width, offset=away * width, arc=True
        )

    def run(name: str, *how) -> dict[str, float]:
        chosen = geometry(*how)
        path = scene.write(folder / f"{name}.h5", scene.integrals(chosen), geometry=chosen)
        return scene.solve(path, chosen)

    whole = 2 * math.pi
    found = run("half", 2 * views, whole, kept)
    once = run("once", views, whole if fan else math.pi, count)
    twice = run("twice", 2 * views, whole, count)
    return found | {"right": once["PSNR"], "twice": twice["PSNR"]}


def rings(scene: Scene, folder: Path) -> dict:
    spread = torch.randn(scene.size, generator=torch.Generator().manual_seed(3))
    path = scene.write(folder / "scan.h5", scene.integrals(), sensitivity=1 + 0.02 * spread)
    row = scene.solve(path)
    if importlib.util.find_spec("algotom"):
        with contextlib.suppress(InputError):  # it refuses some small sinograms
            row["algotom"] = scene.solve(path, config=VolumeConfig(stripes=True))["PSNR"]
    return row | {"neither": scene.solve(path, config=VolumeConfig(rings=False))["PSNR"]}


FAULTS = {
    "none": clean,
    "gain of 6, not told": gain,
    "saturated readings, 1 of 870": zingers,
    "two hot columns": hot,
    "centre 3.7 elements off": center,
    "centre 1 element off": lambda scene, folder: center(scene, folder, 1.0),
    "pixels three elements wide": coarse,
    "truncated: 60 % of the width": truncated,
    "gain errors of 2 % (rings)": rings,
    "half acquisition, parallel": lambda scene, folder: half(scene, folder, False),
    "half acquisition, fan": lambda scene, folder: half(scene, folder, True),
}

if __name__ == "__main__":
    main()
