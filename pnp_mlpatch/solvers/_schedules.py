"""Noise levels over the iterations: a number for all of them, one for each image (B,), a sequence with one for each iteration, or both (K, B)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator

Level = float | Tensor
Schedule = float | Sequence[float] | Tensor


def geometric(start: float, end: float, steps: int) -> tuple[float, ...]:
    """``steps`` levels from ``start`` to ``end``, equally spaced in the logarithm."""
    if not (start > 0 and end > 0 and math.isfinite(start) and math.isfinite(end)):
        raise InputError(f"geometric: both levels must be positive, got {start} and {end}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"geometric: steps must be an integer >= 1, got {steps!r}.")
    if steps == 1:
        return (float(end),)
    return tuple(start * (end / start) ** (k / (steps - 1)) for k in range(steps))


def dpir(noise: float, steps: int = 8, *, start: float = 49 / 255) -> tuple[float, ...]:
    """The schedule of DPIR: from 49/255 down to the noise level (Zhang et al. 2021), at least 1/255. ``noise`` is that in the image."""
    return geometric(start, max(min(noise, start), 1 / 255), steps)


def from_noise(
    A: LinearOperator, noise: float | Tensor, *, scale: float = 1.0, seed: int = 0
) -> Level:
    r"""A level for the denoiser that suits the noise of the data, without the truth:

        sigma = scale clip(sqrt(0.15 s), 5/255, 50/255)        s = rms(A.initial(n)) / scale

    with n a draw of noise of the standard deviation ``noise`` (a number, or a map, infinite where nothing was measured), in the units
    of the data, and s what it becomes in the image that the solvers start from; ``scale`` is the length of the range of the image
    that the denoiser sees as [0, 1]. Noise of several images, (B,) or a map for each, gives a level for each, (B,), from the same
    draw. Settled on CT and photographs of the training sets (docs/ct.md). Raises :class:`InputError` for a noise or a scale that
    is not > 0.
    """
    deviation = torch.as_tensor(noise, dtype=torch.float32)
    if bool(torch.isnan(deviation).any()) or not bool((deviation > 0).all()) or not scale > 0:
        raise InputError(
            f"from_noise: noise and scale must be > 0, got {noise if deviation.ndim == 0 else 'a map'!r} and {scale!r}."
        )
    deviation = torch.where(torch.isinf(deviation), torch.zeros_like(deviation), deviation)
    if deviation.ndim == 1 and len(A.data_shape) > 1:
        deviation = deviation.reshape(-1, *[1] * len(A.data_shape))
    device = next((b.device for b in A.buffers()), torch.device("cpu"))
    draw = deviation.to(device) * torch.randn(
        1, *A.data_shape, generator=torch.Generator().manual_seed(seed)
    ).to(device)
    with torch.no_grad():
        s = A.initial(draw).flatten(1).square().mean(1).sqrt().double() / scale
    sigma = scale * (0.15 * s).sqrt().clamp(5 / 255, 50 / 255)
    return sigma.float() if len(sigma) > 1 else float(sigma)


def level(schedule: Schedule, k: int) -> Level:
    """The level at iteration k: a sequence is held at its last value, a tensor (B,) is one level an image, (K, B) a sequence of those."""
    if isinstance(schedule, Tensor) and schedule.ndim == 2:
        return schedule[min(k, len(schedule) - 1)]
    if isinstance(schedule, Tensor) or not isinstance(schedule, Sequence):
        return schedule
    return schedule[min(k, len(schedule) - 1)]


def check_schedule(schedule: Schedule, who: str) -> None:
    """Raise unless every level is finite and > 0."""
    if isinstance(schedule, Tensor):
        values = schedule.detach().double().reshape(-1)
    else:
        try:
            values = torch.tensor(schedule, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(
                f"{who} must be a number, a sequence of numbers or a tensor (B,), got {schedule!r}."
            ) from error
    if values.ndim > 1:
        raise InputError(
            f"{who} must be a number, a sequence of numbers or a tensor (B,), got {schedule!r}."
        )
    if (
        values.numel() == 0
        or not bool(torch.isfinite(values).all())
        or not bool((values > 0).all())
    ):
        raise InputError(f"{who} must be finite and > 0, got {schedule!r}.")
