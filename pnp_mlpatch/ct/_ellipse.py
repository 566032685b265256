r"""The ellipse of one density that fits projections best: what may lie beyond the detector.

.. math:: \min \sum_i \rho\big(m \, l_i(c, a, b, \varphi) - q_i\big)

l is the length of the ray i within the ellipse of centre c, half axes a and b, and angle phi, m its
density, and rho the loss of SciPy's "soft_l1", so that bones and lungs count for less.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct.geometry import Geometry, rays, sizes

STARTS = 4  # angles of the ellipse from which the fit begins
MOST = 64  # views, and elements, that are looked at
SOFT = 0.05  # of the largest line integrals: misfits beyond it count for less
LARGEST = 4.0  # half axes, in widths of the detector
FADE = 0.15  # of the measured width, over which a step at its end fades
END = 4  # elements at an end, over which the step is measured


def extend(geometry: Geometry, q: Tensor, seen: Tensor) -> Tensor | None:
    """Return the projections of the ellipse that fits, without a step at the ends of the detector.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        With elements at the ends that measured nothing.
    q : Tensor, shape (angles, detectors)
        Line integrals.
    seen : Tensor, shape (angles, detectors), bool
        What was measured.

    Returns
    -------
    Tensor, shape (angles, detectors), or None
        None where no ellipse fits.
    """
    alive = seen.any(0).nonzero().flatten()
    if not len(alive):
        return None
    first, last = int(alive[0]), int(alive[-1]) + 1
    found = _fit(geometry, q, seen, first, last)
    if found is None:
        return None
    source, end = (part.numpy() for part in rays(geometry))
    model = torch.from_numpy(_integrals(found, source, end)).to(q)
    count, out = q.shape[1], model.clone()
    for inner, place in ((first, range(first)), (last - 1, range(last, count))):
        width = slice(inner, inner + END) if inner == first else slice(last - END, last)
        step = (q - model)[:, width].where(seen[:, width], 0.0)
        step = step.sum(1) / seen[:, width].sum(1).clamp_min(1)
        away = torch.tensor([abs(k - inner) for k in place], dtype=q.dtype)
        fade = torch.exp(-away / (FADE * (last - first)))
        part = slice(place.start, place.stop)
        out[:, part] += step[:, None] * fade
    return torch.where(model > 0, out.clamp_min(0.0), 0.0)


def _fit(geometry: Geometry, q: Tensor, seen: Tensor, first: int, last: int) -> np.ndarray | None:
    """Return (x, y, log a, log b, angle, log density), or None."""
    fit = require("scipy.optimize", "Extending truncated projections").least_squares
    views = np.unique(np.linspace(0, len(q) - 1, MOST).astype(int))
    places = np.unique(np.linspace(first, last - 1, MOST).astype(int))
    source, end = (part.numpy()[views][:, places] for part in rays(geometry))
    values = q.double().numpy()[views][:, places]
    known = seen.numpy()[views][:, places]
    if known.sum() < 2 * MOST:
        return None
    top = float(np.percentile(values[known], 99))
    if not top > 0:
        return None
    half = (last - first) / 2 * geometry.width
    start = [math.log(1.5 * half), math.log(1.2 * half)]
    density = math.log(max(float(values[known].mean()), 0.1 * top) / (2.4 * half))

    def misfit(p: np.ndarray) -> np.ndarray:
        return (_integrals(p, source, end) - values)[known]

    tries = [
        fit(misfit, [0, 0, *start, k * math.pi / STARTS, density], loss="soft_l1",
            f_scale=SOFT * top, x_scale=[half, half, 1, 1, 1, 1], max_nfev=60)
        for k in range(STARTS)
    ]  # fmt: skip
    best = min(tries, key=lambda one: one.cost)
    far = np.exp(best.x[2:4]).max() > LARGEST * sizes(geometry)[0] * geometry.width
    return None if far or not np.isfinite(best.x).all() else best.x


def _integrals(p: np.ndarray, source: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the line integrals of an ellipse along rays, (...)."""
    turn = np.array([[math.cos(p[4]), math.sin(p[4])], [-math.sin(p[4]), math.cos(p[4])]])
    axes = np.exp(np.clip(p[2:4], -60, 60))
    along = end - source
    along = along / np.linalg.norm(along, axis=-1, keepdims=True)
    o, d = (source - p[:2]) @ turn.T / axes, along @ turn.T / axes
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    return math.exp(min(p[5], 60.0)) * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a


__all__ = ["extend"]
