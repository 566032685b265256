"""Checks of a shear map: its noise, its pixels, and the sign of its second component."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing import ShearMap, arcmin

BORDER_FRACTION = 1 / 8  # of the side: an unseen border, since Fourier transforms are periodic
NOISE_DRAWS = 8  # maps of noise alone, for the rms that it gives to B


def b_mode_check(
    estimate: Callable[[Tensor], Tensor], g: Tensor, noise: Tensor, *, seed: int, flip_ra: bool
) -> dict[str, float]:
    """Return the rms of E and B, and of B of noise alone; warn if gamma_2 seems flipped.

    ``estimate`` takes a shear (1, 2, H, W), such as ``g``, to smoothed maps of E and B (2, H, W).
    """
    seen = torch.isfinite(noise)
    negated = estimate(g * g.new_tensor([1, -1])[:, None, None])
    e, b, other = (float(x[seen].double().std()) for x in (*estimate(g), negated[1]))
    alone = _noise_rms(estimate, noise, seed)
    if b > 1.3 * alone and other - alone < (b - alone) / 2:
        warnings.warn(
            f"map_mass: smoothed, B has the rms {b:.3g}, and noise alone {alone:.3g}; with gamma_2 "
            f"of the other sign it is {other:.3g}. The sign seems to be wrong: turn it, of a "
            f"catalogue by flip_e2=True, of a map by flip_ra={not flip_ra}.",
            stacklevel=3,
        )
    return {"E rms smoothed": e, "B rms": b, "B rms of noise": alone}


def _noise_rms(estimate: Callable[[Tensor], Tensor], noise: Tensor, seed: int) -> float:
    """Return the rms of B inside the mask, of maps of noise alone."""
    generator, total = torch.Generator().manual_seed(seed), 0.0
    seen = torch.isfinite(noise)
    std = torch.where(seen, noise, 0.0)
    for _ in range(NOISE_DRAWS):
        draw = std * torch.randn(1, 2, *std.shape, generator=generator).to(std)
        total += float(estimate(draw)[1][seen].double().var())
    return math.sqrt(total / NOISE_DRAWS)


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
    if min(shear.noise.shape) < 16:
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
