"""What a source of training images is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Where training images come from.

    Parameters
    ----------
    name : str
    count : int
        The number of images.
    window : callable
        ``window(k, size, step, rng)`` is a random part (C, size, size) of image k. Only generators,
        whose image k is replaced from time to time, look at ``step``.
    whole : callable
        ``whole(k)`` is all of image k, (C, H, W).
    """

    name: str
    count: int
    window: Callable[[int, int, int, np.random.Generator], Tensor]
    whole: Callable[[int], Tensor]


def below(high: int, rng: np.random.Generator) -> int:
    """Draw a random integer 0 ... high - 1."""
    return int(rng.random() * high)
