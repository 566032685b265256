"""Checks of a shear map: its noise, its pixels, and its signs."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing import ShearMap, Signs, arcmin, check_signs

BORDER_FRACTION = 1 / 8  # of the side: an unseen border, since Fourier transforms are periodic
LEAST_SIDE = 16  # pixels: below it a map is mostly the guess of the denoiser


def b_mode_check(
    shear: ShearMap, width: str, padding: int, seed: int, device: torch.device
) -> dict[str, Any]:
    """Return the rms of E and B, smoothed, and of noise; warn if a sign seems to be wrong."""
    signs = check_signs(shear, width=width, padding=padding, seed=seed, device=device)
    _warn_of_signs(signs, shear)
    return {
        "E rms smoothed": math.sqrt(signs.e),
        "B rms": math.sqrt(signs.b),
        "B rms of noise": math.sqrt(signs.noise),
        "signs": signs.excess | {"seem wrong": signs.seem_wrong},
    }


def _warn_of_signs(signs: Signs, shear: ShearMap) -> None:
    """Warn where one flip turns B into E: say what was found, what it means, and what to try."""
    if not signs.seem_wrong:
        return
    z = {name: f"{value:.1f}" for name, value in signs.excess.items()}
    if shear.binned:
        turned, meaning = "e2", "e2 has the other sign, or right ascension grows to the West"
        try_ = (
            "flip_e2=True or flip_ra=True (or without it, if it was given): B is the same with "
            "either, and the two maps are mirror images, so look up which it is"
        )
    else:
        turned, meaning = "gamma_2", "gamma_2 has the other sign for these columns and rows"
        try_ = f"flip_ra={not shear.flip_ra}"
    warnings.warn(
        f"map_mass: B is well above its noise: E {z['E']}, B {z['B']} "
        f"(variances smoothed by {signs.width}, in standard deviations above the same shears, each "
        f"turned by a random angle). Lenses make no B. With {turned} of the other sign: "
        f"E {z['flipped E']}, B {z['flipped B']}. So {meaning}. Nothing was flipped. Try {try_}.",
        stacklevel=4,
    )


def check_errors(errors: bool, shear: ShearMap) -> None:
    """Raise unless ``errors`` is a boolean, and the map large enough to learn errors from."""
    if not isinstance(errors, bool):
        raise InputTypeError(f"map_mass: errors must be True or False, got {errors!r}.")
    if errors and min(shear.noise.shape) < LEAST_SIDE:
        raise InputError(
            f"map_mass: errors are learned from maps of {LEAST_SIDE} x {LEAST_SIDE} pixels or "
            f"more, got {' x '.join(map(str, shear.noise.shape))}. Take errors=False."
        )


def check_scales(shear: ShearMap, level: float) -> None:
    """Raise or warn where the noise, the pixels or the size of the map cannot be right."""
    seen, side = shear.seen, arcmin(shear.pixel)
    count, rms = int(seen.sum()), float(shear.gamma[:, seen].square().mean().sqrt())
    if count >= 30 and 0 < rms < level / 2:
        raise InputError(
            f"map_mass: the noise is {level:.3g}, but the rms of the shear, signal and noise "
            f"together, only {rms:.3g}. The noise must be a standard deviation of one component; "
            "are these weights, 1 / variance? Then give weights.rsqrt()."
        )
    if count >= 30 and rms > max(0.1, 3 * level):
        warnings.warn(
            f"map_mass: the rms of the shear is {rms:.3g}, {rms / level:.3g} times its noise, more "
            "than lenses make. The noise must be a standard deviation of one component, not a "
            "variance.",
            stacklevel=4,
        )
    if not 0.02 < side < 4:
        warnings.warn(
            f"map_mass: pixels of {shear.pixel}. Haloes, which are what shear tells of, have a few "
            "arcmin: such pixels hardly show them, or hold no galaxies. Is the unit right?",
            stacklevel=4,
        )
    if min(shear.noise.shape) < LEAST_SIDE:
        warnings.warn(
            f"map_mass: a map of {' x '.join(map(str, shear.noise.shape))} pixels is too small for "
            "what a denoiser has learnt of maps: what it returns is mostly its own guess. "
            "Take smaller pixels, or the smoothed map.",
            stacklevel=4,
        )


def border(seen: Tensor) -> int:
    """Return the padding that gives a mask an unseen border of an eighth of its longer side.

    Parameters
    ----------
    seen : Tensor, shape (H, W)
        True where something was measured.

    Returns
    -------
    int
        Pixels to add on every side.
    """
    rows, columns = (seen.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    height, width = seen.shape
    free = min(
        int(rows[0]), height - 1 - int(rows[-1]), int(columns[0]), width - 1 - int(columns[-1])
    )
    return max(0, math.ceil(max(height, width) * BORDER_FRACTION) - free)
