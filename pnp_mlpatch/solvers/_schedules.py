"""Noise levels over the iterations, and levels that follow from the noise of the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator, data_on

Level = float | Tensor
Schedule = float | Sequence[float] | Tensor


def geometric(start: float, end: float, steps: int) -> tuple[float, ...]:
    """Return levels that are equally spaced in the logarithm.

    Parameters
    ----------
    start, end : float
        First and last level, > 0.
    steps : int
        Number of levels, >= 1; one is ``end``.

    Returns
    -------
    tuple of float

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    if not (start > 0 and end > 0 and math.isfinite(start) and math.isfinite(end)):
        raise InputError(f"geometric: both levels must be positive, got {start} and {end}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"geometric: steps must be an integer >= 1, got {steps!r}.")
    if steps == 1:
        return (float(end),)
    return tuple(start * (end / start) ** (k / (steps - 1)) for k in range(steps))


def dpir(noise: float, steps: int = 8, *, start: float = 49 / 255) -> tuple[float, ...]:
    """Return the schedule of DPIR: from 49/255 down to the noise level, at least 1/255.

    Parameters
    ----------
    noise : float
        Noise level in the image.
    steps : int
        Number of levels.
    start : float
        First level.

    Returns
    -------
    tuple of float

    References
    ----------
    Zhang et al. 2021.
    """
    return geometric(start, max(min(noise, start), 1 / 255), steps)


def from_noise(
    A: LinearOperator,
    noise: float | Tensor,
    *,
    scale: float = 1.0,
    seed: int = 0,
    images: int = 1,
) -> Level:
    r"""Return a level for the denoiser that suits the noise of the data.

    .. math::

        \sigma = \text{scale} \cdot \text{clip}(\sqrt{0.15 s}, 5/255, 50/255), \qquad
        s = \text{rms}(\text{A.initial}(n)) / \text{scale}

    with n a draw of noise, so that s is what the noise becomes in the image that solvers start
    from. The rule was fitted on CT and photographs of the training sets (docs/ct.md).

    Parameters
    ----------
    A : LinearOperator
        Operator.
    noise : float or Tensor
        Standard deviation of the noise in the units of the data: a number, or a map, infinite
        where nothing was measured; or one for each image, (B,) or a map for each, from the same
        draw.
    scale : float
        Length of the range of the image that the denoiser sees as [0, 1].
    seed : int
        Seed of the draw.
    images : int
        The number of images, which matters only if A has weights or counts of each image.

    Returns
    -------
    float or Tensor, shape (B,)

    Raises
    ------
    InputError
        If the noise or the scale is not > 0.
    """
    deviation = torch.as_tensor(noise, dtype=torch.float32)
    if bool(torch.isnan(deviation).any()) or not bool((deviation > 0).all()) or not scale > 0:
        raise InputError(
            "from_noise: noise and scale must be > 0, "
            f"got {noise if deviation.ndim == 0 else 'a map'!r} and {scale!r}."
        )
    deviation = torch.where(torch.isinf(deviation), torch.zeros_like(deviation), deviation)
    if deviation.ndim == 1 and len(A.data_shape) > 1:
        deviation = deviation.reshape(-1, *[1] * len(A.data_shape))
    draw = torch.randn(1, *A.data_shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), data_on(deviation.device if isinstance(noise, Tensor) else None):
        draw = deviation.to(A.device) * draw.to(A.device)
        if A.for_images(torch.tensor([0], device=A.device)) is not A:  # each image has its own A
            draw = draw.expand(images, *A.data_shape).contiguous()
        s = A.initial(draw).flatten(1).square().mean(1).sqrt().double() / scale
    sigma = scale * (0.15 * s).sqrt().clamp(5 / 255, 50 / 255)
    return sigma.float() if len(sigma) > 1 else float(sigma)


def level(schedule: Schedule, k: int) -> Level:
    """Return the level at an iteration.

    Parameters
    ----------
    schedule : float, sequence of float, or Tensor of shape (B,) or (K, B)
        A number for all iterations, a sequence that is held at its last, one for each image, or a
        sequence of those.
    k : int
        The iteration, from 0.

    Returns
    -------
    float or Tensor, shape (B,)
    """
    if isinstance(schedule, Tensor) and schedule.ndim == 2:
        return schedule[min(k, len(schedule) - 1)]
    if isinstance(schedule, Tensor) or not isinstance(schedule, Sequence):
        return schedule
    return schedule[min(k, len(schedule) - 1)]


def check_schedule(schedule: Schedule, who: str) -> None:
    """Check that every level is finite and > 0.

    Parameters
    ----------
    schedule : float, sequence of float, or Tensor
        The levels.
    who : str
        Name of the setting, for the error message.

    Raises
    ------
    InputError, InputTypeError
        If one is not.
    """
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
