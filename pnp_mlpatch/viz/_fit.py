"""How an image fits its data: the residual in units of noise, chi-squared, whiteness."""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.operators import LinearOperator, reached
from pnp_mlpatch.solvers import make_problem
from pnp_mlpatch.viz._figure import ORANGE, new_figure
from pnp_mlpatch.viz._words import say_whiteness

LAGS = 12
PAIRS = 100  # fewer pairs of neighbours tell no correlation
SURE = 4.0  # standard errors beyond which a correlation is no chance
AXES = ("along a row", "along a column")


@dataclass(frozen=True)
class Fit:
    """The residual of an image, of one data set.

    Parameters
    ----------
    residual : Tensor, shape data_shape
        A x - q over the noise; over its own size where the noise is not known. 0 where
        nothing was measured.
    measured : Tensor of bool, shape data_shape
        Where it was measured: data that depend on the image, of finite noise.
    chi2 : float or None
        Per measured datum. None where the noise is not known.
    axes : tuple of str
        Directions along the last axis of the data, and along the one before it.
    """

    residual: Tensor
    measured: Tensor
    chi2: float | None
    axes: tuple[str, str] = AXES

    def correlations(self) -> dict[str, tuple[list[float], list[float]]]:
        r"""Return the correlations at lags 1, 2, ..., and their standard errors, by direction.

        .. math:: \rho_k = \frac{\mathrm{mean}(r_i r_{i + k})}{\mathrm{mean}(r_i^2)}
        """
        r, seen = self.residual.double(), self.measured.double()
        size = float(r.square().sum() / seen.sum().clamp_min(1)) or 1.0
        found = {}
        for axis, name in zip((-1, -2), self.axes, strict=True):
            if r.ndim < -axis:
                continue
            values, errors = [], []
            for lag in range(1, min(LAGS, r.shape[axis] - 1) + 1):
                rest = r.shape[axis] - lag
                pairs = float((seen.narrow(axis, 0, rest) * seen.narrow(axis, lag, rest)).sum())
                if pairs < PAIRS:
                    break
                total = float((r.narrow(axis, 0, rest) * r.narrow(axis, lag, rest)).sum())
                values.append(total / pairs / size)
                errors.append(pairs**-0.5)
            if values:
                found[name] = (values, errors)
        return found

    def whiteness(self) -> tuple[float, str] | None:
        """Return the correlation that exceeds chance most, and what it means in words."""
        rows = [
            (abs(value) / error, value, error, f"{name}, {lag} apart")
            for name, (values, errors) in self.correlations().items()
            for lag, (value, error) in enumerate(zip(values, errors, strict=True), 1)
        ]
        if not rows:
            return None
        _, value, error, where = max(rows)
        return value, say_whiteness(value, where, SURE * error)

    def picture(self) -> Tensor | None:
        """Return the residual as an image (H, W), NaN where nothing was measured."""
        r = self.residual.masked_fill(~self.measured, torch.nan)
        while r.ndim > 2:
            r = r[0]
        return r if r.ndim == 2 else None


def fit(
    q: Tensor,
    A: LinearOperator,
    x: Tensor,
    noise: float | Tensor | None,
    axes: tuple[str, str] | None = None,
) -> Fit:
    """Compare the first image of a batch with its data."""
    with torch.no_grad():
        problem = make_problem(q, A, noise)
        r = (problem.A(x) - problem.q)[0]
        # what a noise map weighs by 0 is not measured
        measured = reached(problem.A, len(q), problem.q.device)[0]
        r = torch.where(measured, r, 0.0)
        chi2 = None
        if problem.noise is not None:
            r = r / torch.as_tensor(problem.noise).reshape(-1)[0].to(r)
        square = float(r.square().sum() / measured.sum().clamp_min(1))
        if problem.noise is not None:
            chi2 = square
        else:
            r = r / (square**0.5 or 1.0)
    shown = (
        AXES
        if A.data_shape == A.image_shape
        else ("along the last axis", "along the axis before it")
    )
    return Fit(r.cpu(), measured.cpu(), chi2, axes or shown)


def whiteness_figure(found: Fit) -> str:
    """Draw the correlations with the band of chance; the data of a PNG in base64."""
    figure = new_figure(4.6, 3.1, "A report")
    axis = figure.subplots()
    styles: Any = zip(("C0", ORANGE), ("o", "s"), (-0.12, 0.12), strict=True)
    for (name, (values, errors)), (color, marker, shift) in zip(
        found.correlations().items(), styles, strict=False
    ):
        lags = range(1, len(values) + 1)
        places = [lag + shift for lag in lags]
        axis.vlines(places, 0, values, color=color, linewidth=1)
        axis.plot(places, values, marker, color=color, markersize=4, label=name)
        band = [2 * error for error in errors]
        axis.fill_between(lags, [-b for b in band], band, color="0.85", zorder=0)
    axis.axhline(0, color="0.4", linewidth=0.8)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.1), max(high, 0.1))
    axis.set(xlabel="distance of the readings", ylabel="correlation")
    axis.legend(fontsize=8)
    return png(figure)


def png(figure: Any) -> str:
    """Return a figure as the data of a PNG in base64."""
    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png")
    return b64encode(out.getvalue()).decode()
