r"""The three ellipses that fit projections best: what may lie beyond the detector.

.. math:: \min \sum_i \rho\Big(\sum_k m_k \, l_i(c_k, a_k, b_k, \varphi_k) - q_i\Big)

:math:`l_i` is the length of the ray i within an ellipse of centre c, half axes a and b, and angle
phi, m its density of either sign, and rho the loss of SciPy's "soft_l1", so that bones count for
less. The first ellipse begins as the outline, the others as two parts inside of another density,
such as lungs. One ellipse alone would take the mean density for that of the outer parts.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct.geometry import Geometry, rays, sizes

STARTS = 4  # angles of the outline from which the fit begins
MOST = 48  # views, and elements, that are looked at
OUTLINE, PART = (math.log(1.5), math.log(1.2)), (math.log(0.4), math.log(0.5))
BEGIN = ((0, 0, *OUTLINE, 0, 0.6), (-0.5, 0, *PART, 0, -0.3), (0.5, 0, *PART, 0, -0.3))
SOFT = 0.05  # of the largest line integrals: misfits beyond it count for less
LARGEST = 4.0  # half axes, in widths of the detector
FADE = 0.15  # of the measured width, over which a step at its end fades
END = 4  # elements at an end, over which the step is measured


def extend(geometry: Geometry, q: Tensor, seen: Tensor) -> Tensor | None:
    """Return the projections of the ellipses that fit, without a step at the ends of the detector.

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
        None where none fit.
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
    """Return rows (x, y, log a, log b, angle, density), the outline first, or None."""
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
    unit = np.array([half, half, 1, 1, 1, max(float(values[known].mean()), 0.1 * top) / half])
    zero = np.array([0, 0, math.log(half), math.log(half), 0, 0])

    def ellipses(p: np.ndarray) -> np.ndarray:
        return p.reshape(-1, 6) * unit + zero

    def misfit(p: np.ndarray) -> np.ndarray:
        return (_integrals(ellipses(p), source, end) - values)[known]

    tries = []
    for k in range(STARTS):
        begin = np.array(BEGIN)
        begin[0, 4] = k * math.pi / STARTS
        tries.append(fit(misfit, begin.ravel(), loss="soft_l1", f_scale=SOFT * top, max_nfev=80))
    best = ellipses(min(tries, key=lambda one: one.cost).x)
    far = np.exp(best[0, 2:4]).max() > LARGEST * sizes(geometry)[0] * geometry.width
    return None if far or not np.isfinite(best).all() else best


def _integrals(ellipses: np.ndarray, source: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the line integrals of the sum of ellipses along rays, (...)."""
    along = end - source
    along = along / np.linalg.norm(along, axis=-1, keepdims=True)
    total = np.zeros(source.shape[:-1])
    for x, y, log_a, log_b, angle, density in ellipses:
        cos, sin = math.cos(angle), math.sin(angle)
        axes = np.exp(np.clip([log_a, log_b], -60, 60))
        turn = np.array([[cos, sin], [-sin, cos]])
        o, d = (source - [x, y]) @ turn.T / axes, along @ turn.T / axes
        a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
        total += density * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a
    return total


__all__ = ["extend"]
