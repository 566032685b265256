"""Hounsfield units and attenuation coefficients."""

from __future__ import annotations

from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError

MU_WATER = {60: 0.02059, 70: 0.01928, 80: 0.01837, 100: 0.01707}
"""Linear attenuation of water in 1/mm by photon energy in keV, with coherent scattering.

(NIST XCOM; Hubbell and Seltzer 1995.)

70 keV is not in their table; it is a cubic through 50 to 100 keV, in logarithms. A tube has a
spectrum; its mean energy, 60 to 75 keV for 120 kV, picks the nearest entry.
"""


def to_attenuation(hu: Tensor, mu_water: float, mu_air: float = 0.0) -> Tensor:
    r"""Convert Hounsfield units to attenuation coefficients.

    .. math:: \mu = \mu_w + \frac{\mathrm{HU}}{1000} (\mu_w - \mu_a)

    Parameters
    ----------
    hu : Tensor
        Hounsfield units, of any shape.
    mu_water, mu_air : float
        Attenuation of water and air, mu_water > mu_air >= 0, in the unit of the
        result, such as 1/mm.

    Returns
    -------
    Tensor
        Of the same shape.

    Raises
    ------
    InputError
        Unless mu_water > mu_air >= 0.
    InputTypeError
        For anything but a tensor of real floats.
    """
    _check(mu_water, mu_air, "to_attenuation")
    return mu_water + _real(hu, "to_attenuation") * ((mu_water - mu_air) / 1000)


def to_hounsfield(mu: Tensor, mu_water: float, mu_air: float = 0.0) -> Tensor:
    r"""Convert attenuation coefficients to Hounsfield units: water is 0, air -1000.

    .. math:: \mathrm{HU} = 1000 \frac{\mu - \mu_w}{\mu_w - \mu_a}

    Parameters
    ----------
    mu : Tensor
        Attenuation coefficients, of any shape.
    mu_water, mu_air : float
        Attenuation of water and air, mu_water > mu_air >= 0, in the unit of ``mu``.

    Returns
    -------
    Tensor
        Of the same shape.

    Raises
    ------
    InputError
        Unless mu_water > mu_air >= 0.
    InputTypeError
        For anything but a tensor of real floats.
    """
    _check(mu_water, mu_air, "to_hounsfield")
    return (_real(mu, "to_hounsfield") - mu_water) * (1000 / (mu_water - mu_air))


def hounsfield_range(
    mu_water: float, mu_air: float = 0.0, low: float = -1024.0, high: float = 1024.0
) -> tuple[float, float]:
    """Return the scale and offset that map [0, 1] to a window of Hounsfield units.

    A denoiser D that was trained on this window becomes one for attenuation coefficients by
    ``rescaled(D, scale, offset)``.

    Parameters
    ----------
    mu_water, mu_air : float
        Attenuation of water and air, mu_water > mu_air >= 0, in the unit of the result.
    low, high : float
        The window in Hounsfield units.

    Returns
    -------
    scale, offset : float
        ``mu = scale u + offset``: u = 0 stands for ``low`` and u = 1 for ``high``.

    Raises
    ------
    InputError
        Unless mu_water > mu_air >= 0 and low < high.
    """
    _check(mu_water, mu_air, "hounsfield_range")
    if not finite_number(low) or not finite_number(high) or not low < high:
        raise InputError(
            "hounsfield_range: low and high must be finite with low < high, in HU, got "
            f"{low!r} and {high!r}."
        )
    per_hu = (mu_water - mu_air) / 1000
    return (high - low) * per_hu, mu_water + low * per_hu


def _check(mu_water: float, mu_air: float, who: str) -> None:
    if not finite_number(mu_water) or not finite_number(mu_air) or not mu_water > mu_air >= 0:
        raise InputError(
            f"{who}: expected attenuation coefficients mu_water > mu_air >= 0, got {mu_water!r} "
            f"and {mu_air!r}. At 70 keV water has 0.0193 / mm, air about 0."
        )


def _real(values: Tensor, who: str) -> Tensor:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise InputTypeError(
            f"{who}: expected a tensor of real floats, got {got}. Convert it first, e.g. with "
            "x.float()."
        )
    return values
