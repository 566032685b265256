"""The rotation axis found in simulated scans, beside the methods of tomopy where it is installed.

Slices are simulated on a grid twice as fine, with the axis at a random place. ``ct.center.find`` is
told the beam and its distances, not the axis. Errors in detector elements.

Run: python benchmarks/ct_center.py [--chest FILE.npz] [--head FOLDER] [--size N]
"""

import math
import time
import warnings
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, parse, publish, read_set

from pnp_mlpatch import samples
from pnp_mlpatch.ct import (
    COUNTS,
    MU_WATER,
    FanBeam,
    ParallelBeam,
    Scan,
    line_integrals,
    sizes,
    to_attenuation,
)
from pnp_mlpatch.ct.center import find
from pnp_mlpatch.ct.counts import simulate_counts
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators.radon import Radon, simulate

FIELD = 400.0  # mm
SCANS = [(45, 1e5), (60, 1e4), (90, 1e3), (90, 1e5), (180, 1e4), (360, 1e3), (360, 1e5), (720, 1e4)]
KINDS = ("parallel 180", "parallel 360", "half acquisition", "fan")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--chest", type=Path, help="an .npz with slices 'hu'")
    parser.add_argument("--head", type=Path, help="a folder of pictures of heads")
    parser.add_argument("--size", type=int, default=128)
    args = parse(parser)
    warnings.simplefilter("ignore")
    truths, rows = cycle(images(args)), []
    draw = np.random.default_rng(0)
    for kind in KINDS:
        for views, photons in SCANS[: 2 if args.quick else None]:
            rows.append(one(kind, views, photons, next(truths), draw, args.size))
            print(rows[-1], flush=True)
    summary = []
    for method in ("find", "find_center_vo", "find_center_pc"):
        errors = [abs(row[method]) for row in rows if isinstance(row.get(method), float)]
        if errors:
            shares = {"median": 0.5, "95 %": 0.95, "largest": 1.0}
            found = {name: float(np.quantile(errors, part)) for name, part in shares.items()}
            summary.append({"method": method, "scans": len(errors), **found})
    publish(args, {"Errors of the centre (elements)": rows, "In all": summary})


def images(args) -> list[torch.Tensor]:
    """Slices (1, 1, N, N) in attenuation, air outside of the circle."""
    size, found = args.size, [samples.chest_ct()]
    if args.chest:
        found = [x[None] * 2048 - 1024 for x in read_set(args.chest, every=8)]
    if args.head:
        found += [x[None] * 2048 - 1024 for x in read_set(args.head, channels=1)[:4]]
    rows, cols = np.mgrid[:size, :size] - (size - 1) / 2
    outside = torch.from_numpy(np.hypot(rows, cols) > 0.44 * size)
    out = []
    for hu in found:
        one = F.interpolate(hu.clamp(-1000, 1024), size=(size, size), mode="area")
        out.append(to_attenuation(one.masked_fill(outside, -1000.0), MU_WATER[70]))
    return out


def one(kind, views, photons, truth, draw, size) -> dict:
    """One scan."""
    pixel, off = FIELD / size, float(draw.uniform(-4, 4))
    turn = math.pi if kind == "parallel 180" else 2 * math.pi
    theta = torch.arange(views) * (turn / views)
    if kind == "fan":
        geometry = FanBeam(
            (size, size),
            theta,
            size + 32,
            source_origin=1000.0,
            origin_detector=500.0,
            pixel=pixel,
        )
    else:
        width = int(0.65 * size) if kind == "half acquisition" else size + 12
        geometry = ParallelBeam((size, size), theta, width, pixel=pixel)
    if kind == "half acquisition":
        off = 0.19 * size + 0.25 * off
    count, spacing = sizes(geometry)
    geometry = replace(geometry, offset=off * spacing)
    right = (count - 1) / 2 - off
    q = simulate(Radon(geometry, cache=False, backend="astra_cpu"), truth)[0][0]
    counts = simulate_counts(q, photons, seed=0)
    flat = torch.full((1, count), photons)
    scan = Scan(
        Path("scan"),
        COUNTS,
        tuple(counts.shape),
        theta.double(),
        flat,
        None,
        {},
        lambda a, b: counts[a:b].numpy(),
    )
    start = time.perf_counter()
    row = {"scan": kind, "views": views, "photons": photons}
    try:
        found = find(scan, replace(geometry, offset=0.0))
        row |= {"find": found.center - right, "error": found.error, "by": found.method}
    except InputError:
        row |= {"find": "refused", "error": "", "by": ""}
    row["seconds"] = time.perf_counter() - start
    return row | tomopy(kind, counts, photons, right)


def tomopy(kind, counts, photons, right) -> dict:
    """What tomopy finds in scans of half a turn, in our convention."""
    try:
        from tomopy.recon import rotation
    except ImportError:
        return {}
    if kind != "parallel 180":
        return {"find_center_vo": "", "find_center_pc": ""}
    q = line_integrals(counts, photons)[0][0].numpy()[:, None]
    vo = float(rotation.find_center_vo(q, ncore=1)) - right
    pc = float(rotation.find_center_pc(q[0], q[-1], tol=0.05)) - right
    return {"find_center_vo": vo, "find_center_pc": pc}


if __name__ == "__main__":
    main()
