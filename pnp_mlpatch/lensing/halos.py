r"""The convergence of a halo of dark matter: the projected profile of Navarro, Frenk and White.

.. math::

    \kappa(x) \propto \frac{1}{x^2 - 1} \left( 1 - \frac{\operatorname{arccosh}(1 / x)}
        {\sqrt{1 - x^2}} \right), \qquad x < 1,

with x the distance over the scale radius, and arccos and :math:`x^2 - 1` under the root beyond it
(Bartelmann 1996; Wright and Brainerd 2000).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing.units import radians


def nfw_convergence(
    shape: tuple[int, int],
    pixel: Any,
    *,
    peak: float,
    scale: Any = "2 arcmin",
    core: Any = "0.3 arcmin",
    center: tuple[float, float] | None = None,
    axis_ratio: float = 1.0,
    angle: float = 0.0,
) -> Tensor:
    r"""Make the convergence of one halo.

    The profile diverges at the centre, so that distances r are :math:`\sqrt{r^2 + core^2}`.

    Parameters
    ----------
    shape : tuple of int
        Size (H, W) of the map.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    peak : float
        Convergence at the centre, > 0.
    scale : str or astropy quantity
        Scale radius.
    core : str or astropy quantity
        Radius within which the profile is flat.
    center : tuple of float, optional
        Row and column; by default the middle pixel.
    axis_ratio : float
        Short over long axis of the contours, above 0 and at most 1.
    angle : float
        Direction of the long axis in radians, from the columns to the rows.

    Returns
    -------
    Tensor, shape (1, 1, H, W)
        float32.

    Raises
    ------
    InputError
        If a number is out of its range or has no unit of an angle.

    References
    ----------
    Navarro, Frenk and White 1997; Bartelmann 1996; Wright and Brainerd 2000.
    """
    whole = len(shape) == 2 and all(isinstance(n, int) and n >= 1 for n in shape)
    if not whole:
        raise InputError(f"nfw_convergence: shape must be (H, W), integers >= 1, got {shape!r}.")
    for name, value, top in (("peak", peak, math.inf), ("axis_ratio", axis_ratio, 1.0)):
        if not finite_number(value) or not 0 < value <= top:
            raise InputError(
                f"nfw_convergence: {name} must be above 0 and at most {top:g}, got {value!r}."
            )
    if not finite_number(angle):
        raise InputError(f"nfw_convergence: angle must be a number of radians, got {angle!r}.")
    side = radians(pixel)
    row, column = (n // 2 for n in shape) if center is None else center
    place = (float(row), float(column))
    lengths = radians(scale, "scale") / side, radians(core, "core") / side
    return _halo(tuple(shape), place, lengths, (axis_ratio, angle), peak)[None, None]


def random_halos(side: int, pixel: Any, rng: np.random.Generator) -> Tensor:
    r"""Draw the halos of one map to train on.

    One to four halos have a peak log-uniform in 0.05 to 1.5, a scale radius log-uniform in 0.5 to 4
    arcmin, a core log-uniform in 0.15 to 1.5 arcmin, and an axis ratio of 0.6 to 1.

    Parameters
    ----------
    side : int
        Side of the map in pixels.
    pixel : str or astropy quantity
        Side of a pixel.
    rng : numpy.random.Generator
        Source of the random numbers.

    Returns
    -------
    Tensor, shape (side, side)
        float32.
    """
    unit = radians("1 arcmin") / radians(pixel)  # pixels
    total = torch.zeros(side, side)
    for _ in range(1 + int(4 * rng.random())):
        u = rng.random(7)
        place = (float(u[0] * side), float(u[1] * side))
        peak, scale, core = 0.05 * 30 ** u[2], 0.5 * 8 ** u[3], 0.15 * 10 ** u[4]
        form = (0.6 + 0.4 * float(u[5]), math.pi * float(u[6]))
        lengths = (float(scale * unit), float(core * unit))
        total += _halo((side, side), place, lengths, form, float(peak))
    return total


def _halo(
    shape: tuple[int, ...],
    place: tuple[float, float],
    lengths: tuple[float, float],
    form: tuple[float, float],
    peak: float,
) -> Tensor:
    """Return a halo (H, W); scale radius and core are in pixels."""
    (scale, core), (ratio, angle) = lengths, form
    y = (torch.arange(shape[0]) - place[0])[:, None]
    x = (torch.arange(shape[1]) - place[1])[None]
    along, across = (
        math.cos(angle) * x + math.sin(angle) * y,
        math.cos(angle) * y - math.sin(angle) * x,
    )
    square = ratio * along**2 + across**2 / ratio + core**2
    top = _profile(torch.tensor(core / scale))
    return peak * _profile(square.sqrt() / scale) / top


def _profile(x: Tensor) -> Tensor:
    """Return the NFW profile at x > 0, in units of rho_s r_s / Sigma_cr times 2."""
    near = (x - 1).abs() < 1e-3
    safe = torch.where(near, 2.0, x)
    inside = torch.arccosh((1 / safe).clamp_min(1)) / (1 - safe**2).clamp_min(1e-12).sqrt()
    outside = torch.arccos((1 / safe).clamp_max(1)) / (safe**2 - 1).clamp_min(1e-12).sqrt()
    value = (1 - torch.where(safe < 1, inside, outside)) / (safe**2 - 1)
    return torch.where(near, 1 / 3 - 0.4 * (x - 1), value)


__all__ = ["nfw_convergence", "random_halos"]
