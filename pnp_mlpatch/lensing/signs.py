r"""Check the signs of a shear map by its E and B modes.

Lenses make E and, to first order, no B. With the wrong sign of :math:`\gamma_2` the shear of a real
convergence is the conjugate of what it should be, and Kaiser-Squires gives

.. math:: \hat\kappa' = \bar D \, \overline{\hat\gamma}(-l) = \bar D^2 \hat\kappa
          = e^{-4 i \varphi} \hat\kappa, \qquad
          \hat E' = \cos(4 \varphi) \hat\kappa, \quad \hat B' = -\sin(4 \varphi) \hat\kappa

with :math:`\varphi` the angle of the wave vector: at every scale half of the power is in B. A
mirror of right ascension, with the components as they are, gives the same for the mirrored
convergence. Both at once are a parity: E is the mirror image of the truth, B changes its sign, and
neither power tells it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing._shear_map import ShearMap
from pnp_mlpatch.lensing.estimators import kaiser_squires, optimal_width, smoothed
from pnp_mlpatch.lensing.spectra import convergence_spectrum

DRAWS = 24  # maps of turned shears, of which each gives two variances, those of E and B
SIGNIFICANT = 4.0  # standard deviations of the noise


@dataclass(frozen=True)
class Signs:
    r"""What :func:`check_signs` found: variances of smoothed maps inside the mask.

    Parameters
    ----------
    e, b : float
        Of E and B of the data as they are.
    flipped_e, flipped_b : float
        Of E and B with :math:`\gamma_2` of the other sign; with a mirror of right ascension in its
        place they are the same.
    noise : float
        Of the noise: the mean of E and B when each shear is turned by a random angle.
    scatter : float
        Standard deviation of the variances of such maps, > 0.
    width : str
        Standard deviation of the Gaussian that smooths the maps.
    """

    e: float
    b: float
    flipped_e: float
    flipped_b: float
    noise: float
    scatter: float
    width: str

    @property
    def excess(self) -> dict[str, float]:
        """By how many standard deviations each variance is above that of the noise."""
        values = {
            "E": self.e,
            "B": self.b,
            "flipped E": self.flipped_e,
            "flipped B": self.flipped_b,
        }
        return {name: (value - self.noise) / self.scatter for name, value in values.items()}

    @property
    def seem_wrong(self) -> bool:
        """Whether one flip explains B.

        B is more than 4 standard deviations above the noise, the flip raises E - B by more than 4
        of its own, and leaves B less than half of E. Before the flip E is more than a third of B:
        a wrong sign leaves half of the power in E, a shear that is turned by 45 degrees nothing.
        """
        z = self.excess
        gain = z["flipped E"] - z["flipped B"] - z["E"] + z["B"]  # of scatter 2
        return (
            z["B"] > SIGNIFICANT and gain > 2 * SIGNIFICANT and z["flipped B"] < z["flipped E"] / 2
        )


def check_signs(
    shear: ShearMap,
    *,
    width: Any = None,
    padding: int = 0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Signs:
    """Measure E and B of a shear map, as it is and with one sign flipped.

    Nothing is flipped in ``shear``. Two wrong signs, of e2 and of right ascension, are not found:
    together they make a mirror image, which has no B.

    Parameters
    ----------
    shear : ShearMap
        The shear; its noise counts only as the mask.
    width : str or astropy quantity, optional
        Standard deviation of the Gaussian that smooths the maps, an angle with its unit. By default
        that of :func:`~pnp_mlpatch.lensing.estimators.optimal_width`.
    padding : int
        Pixels of zero shear added on every side for Kaiser-Squires, >= 0.
    seed : int
        Seed of the random angles, >= 0.
    device : str or torch.device
        Where it is computed.

    Returns
    -------
    Signs
        The variances; ``seem_wrong`` tells whether a flip is needed.

    Raises
    ------
    InputTypeError
        If ``shear`` is no ShearMap.
    InputError
        If ``padding`` or ``seed`` is no integer >= 0, or ``width`` is no angle.
    """
    if not isinstance(shear, ShearMap):
        raise InputTypeError(
            f"check_signs: expected a ShearMap, see lensing.read_shear; got {type(shear).__name__}."
        )
    for name, value in (("padding", padding), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"check_signs: {name} must be an integer >= 0, got {value!r}.")
    if width is None:
        width = optimal_width(shear.noise, convergence_spectrum, shear.pixel)
    g, seen = shear.gamma.float()[None].to(device), shear.seen.to(device)
    height, columns = g.shape[-2:]

    def variances(gamma: Tensor) -> list[float]:
        maps = kaiser_squires(F.pad(gamma, [padding] * 4), flip_ra=shear.flip_ra)
        maps = maps[..., padding : padding + height, padding : padding + columns]
        return smoothed(maps, width, shear.pixel)[0, :, seen].double().var(dim=1).tolist()

    rng = np.random.default_rng((seed, *b"signs"))  # no stream that simulated noise came from
    alone = torch.tensor([variances(_turned(g, rng)) for _ in range(DRAWS)])
    e, b = variances(g)
    flipped_e, flipped_b = variances(g * g.new_tensor([1, -1])[:, None, None])
    noise, scatter = float(alone.mean()), max(float(alone.std()), 1e-30)
    return Signs(e, b, flipped_e, flipped_b, noise, scatter, str(width))


def _turned(g: Tensor, rng: np.random.Generator) -> Tensor:
    """Turn each shear by a random angle, which leaves the noise and no signal."""
    angle = torch.from_numpy(rng.uniform(0, 2 * math.pi, g.shape[-2:])).to(g)
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * g[:, 0] - s * g[:, 1], s * g[:, 0] + c * g[:, 1]], dim=1)


__all__ = ["Signs", "check_signs"]
