"""Checks of the values of a geometry."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from pnp_mlpatch.ct.geometry import Geometry

Angles = int | Sequence[float] | Tensor
SAME = 1e-6  # angles in radians nearer than twice this are one: float32 has 5e-7 at a turn


def as_radians(angles: Angles, degrees: bool, turn: float, who: str) -> Tensor:
    """Convert angles to radians and warn of what they are more likely to be.

    Parameters
    ----------
    angles : int or sequence of float
        The angles, or a number n of them equally spaced in ``turn``.
    degrees : bool
        Their unit: degrees, or else radians.
    turn : float
        The range of n angles, in radians.
    who : str
        The caller, for messages.

    Returns
    -------
    Tensor, shape (angles,), float64

    Raises
    ------
    InputError, InputTypeError
        For anything but finite real numbers, and for radians that must be degrees.
    """
    if isinstance(angles, numbers.Integral) and not isinstance(angles, bool):
        count = int(angles)
        if count < 1:
            raise InputError(f"{who}: the number of angles must be >= 1, got {count}.")
        return torch.arange(count, dtype=torch.float64) * (turn / count)
    theta = _vector(angles, who)
    span = float(theta.max() - theta.min())
    if not degrees:
        _look_at_radians(theta, who)
    elif len(theta) > 4 and span < 2 * math.pi + 1e-6:
        warnings.warn(
            f"{who}: {len(theta)} angles span only {span:.4g} degrees; are they radians? Then "
            "leave out degrees=True.",
            stacklevel=5,
        )
    if degrees:
        theta = torch.deg2rad(theta)
    turns = torch.remainder(theta + SAME, 2 * math.pi).sort().values
    repeated = int((turns.diff() < 2 * SAME).sum())
    if repeated:
        warnings.warn(
            f"{who}: {repeated} of the {len(theta)} angles repeat (modulo a turn); each counts as "
            "data of its own. Drop those that were not measured.",
            stacklevel=5,
        )
    return theta


def _vector(angles: Any, who: str) -> Tensor:
    """Return a sequence of finite angles as float64."""
    if isinstance(angles, Tensor) and angles.is_complex():
        raise InputTypeError(f"{who}: angles must be real, in radians.")
    try:
        if not isinstance(angles, Tensor) and np.iscomplexobj(angles):
            raise TypeError
        theta = torch.as_tensor(angles, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{who}: angles must be a number of angles or a sequence in radians, got {angles!r}."
        ) from error
    if theta.ndim != 1 or len(theta) == 0 or not bool(torch.isfinite(theta).all()):
        raise InputError(
            f"{who}: angles must be a non-empty, finite, one-dimensional sequence in radians."
        )
    return theta


def _look_at_radians(theta: Tensor, who: str) -> None:
    """Raise where the angles cannot be radians; warn where they are more likely degrees."""
    reach, span = float(theta.abs().max()), float(theta.max() - theta.min())
    advice = (
        "Convert degrees with math.radians, or say degrees=True (on the command line --degrees)."
    )
    whole = len(theta) > 2 and bool((theta == theta.round()).all())
    if reach > 4 * math.pi + 1e-9:
        raise InputError(f"{who}: angles reach {reach:.4g}, which cannot be radians. {advice}")
    if whole and reach > 2 * math.pi:
        raise InputError(
            f"{who}: angles are whole numbers up to {reach:.4g}; they look like degrees, not "
            f"radians. {advice}"
        )
    if (whole and reach > 2) or span > 2 * math.pi + 1e-3:
        seen = "are whole numbers" if whole else f"span {span / 2 / math.pi:.3g} turns"
        warnings.warn(f"{who}: angles in radians {seen}; are they degrees? {advice}", stacklevel=6)


def set_field(geometry: Geometry, name: str, value: Any) -> None:
    object.__setattr__(geometry, name, value)


def settle(geometry: Geometry, degrees: bool, turn: float) -> None:
    """Check shape, lengths and angles, and put the angles in radians and the spacing in place."""
    who = type(geometry).__name__
    set_field(geometry, "shape", _two(geometry.shape, who))
    for name in ("pixel", "spacing"):
        value = getattr(geometry, name)
        value = geometry.pixel if value is None else value
        if not finite_number(value) or value <= 0:
            raise InputError(f"{who}: {name} must be a length > 0, got {value!r}.")
        set_field(geometry, name, float(value))
    if not finite_number(geometry.offset):
        raise InputError(
            f"{who}: offset must be a finite number, in the unit of pixel, got {geometry.offset!r}."
        )
    for name in ("offset", "source_origin", "origin_detector"):
        if hasattr(geometry, name):  # NumPy's numbers, too, become plain ones for JSON
            set_field(geometry, name, float(getattr(geometry, name)))
    if _whole(geometry.detectors):
        set_field(geometry, "detectors", int(geometry.detectors or 0))
    set_field(geometry, "angles", tuple(as_radians(geometry.angles, degrees, turn, who).tolist()))


def _two(shape: Sequence[int], who: str) -> tuple[int, int]:
    if (
        not isinstance(shape, Sequence)
        or len(shape) != 2
        or any(not _whole(n) or n < 1 for n in shape)
    ):
        raise InputError(f"{who}: shape must be (H, W), two integers >= 1, got {shape!r}.")
    return int(shape[0]), int(shape[1])


def _whole(value: Any) -> bool:
    """Whether ``value`` is an integer, of Python or of NumPy; a bool is not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_detector(geometry: Geometry) -> None:
    """Raise unless the axis of rotation is projected to the detector."""
    who, count = type(geometry).__name__, cast(Any, geometry.detectors)
    if not _whole(count) or count < 1:
        raise InputError(f"{who}: detectors must be an integer >= 1, got {count!r}.")
    half = count * float(geometry.spacing or 0) / 2
    if abs(geometry.offset) >= half:
        raise InputError(
            f"{who}: offset {geometry.offset:g} puts the centre of rotation off the detector, "
            f"which is {2 * half:g} wide. offset is a length in the unit of pixel, 0 when the axis "
            "is projected to the middle of the detector."
        )


__all__ = ["SAME", "Angles", "as_radians", "check_detector", "set_field", "settle"]
