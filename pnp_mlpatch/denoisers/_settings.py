"""The settings of an MLPatch, checked in one place."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
LEAST = {
    **{"channels": 1, "rings": 1, "angles": 1, "width": 1, "depth": 1, "tile": 1, "fold": 1},
    **{"stem_width": 0, "square": 0, "features": 0, "deform": 0},
}


def in_file(settings: dict[str, Any]) -> dict[str, Any]:
    """Choose the settings that a file holds: the newer ones only where they are not the default."""
    left_out = {"tile", *(name for name in ("residual", "signal") if not settings[name])}
    if settings["fold"] == 1 and not settings["stem_width"]:
        left_out |= {"fold", "stem_width"}
    return {name: value for name, value in settings.items() if name not in left_out}


def check_settings(settings: dict[str, Any]) -> None:
    """Check all settings of an MLPatch, each and together.

    Parameters
    ----------
    settings : dict
        All arguments of :class:`~pnp_mlpatch.denoisers.mlpatch.MLPatch`.

    Raises
    ------
    InputError
        If one of them, or the combination, makes no sense.
    """
    for name, least in LEAST.items():
        if not _integer(settings[name], least):
            raise InputError(
                f"MLPatch: {name} must be an integer >= {least}, got {settings[name]!r}."
            )
    for name in ("dilations", "sectors"):
        if not all(_integer(value, 1) for value in settings[name]):
            raise InputError(
                f"MLPatch: {name} must be a list of integers >= 1, got {settings[name]!r}."
            )
    radius, sigma_max, signal = (settings[name] for name in ("radius", "sigma_max", "signal"))
    if not finite_number(radius) or radius <= 0:
        raise InputError(f"MLPatch: radius must be positive, got {radius!r}.")
    if not finite_number(sigma_max) or sigma_max < 0:
        raise InputError(f"MLPatch: sigma_max must be >= 0, got {sigma_max!r}.")
    if not finite_number(signal) or signal < 0:
        raise InputError(
            "MLPatch: signal must be >= 0, the standard deviation of the images "
            f"(0: photographs), got {signal!r}."
        )
    _check_together(settings)


def _check_together(settings: dict[str, Any]) -> None:
    """Check the choices, and what depends on another setting."""
    if settings["activation"] not in ACTIVATIONS:
        raise InputError(
            f"MLPatch: activation must be one of {', '.join(ACTIVATIONS)}, "
            f"got {settings['activation']!r}."
        )
    if (settings["features"] > 0) != (len(settings["dilations"]) > 0):
        raise InputError(
            "MLPatch: features and dilations go together: a number of features, and one dilation "
            "for each 3 x 3 convolution."
        )
    square = settings["square"]
    if square and (square % 2 == 0 or settings["sectors"] or settings["deform"]):
        raise InputError(
            "MLPatch: square must be odd, and takes neither sectors nor deform, which need offsets "
            "on circles."
        )


def _integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
