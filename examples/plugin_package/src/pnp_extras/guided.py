"""The guided filter of an image by itself: smooths where the image is flat, keeps edges."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.denoisers import DenoiserInfo, check_image, sigma_column
from pnp_mlpatch.errors import InputError


class Guided:
    """The guided filter, D(x, sigma) = mean(a) x + mean(b).

        a = var(x) / (var(x) + strength sigma^2)
        b = (1 - a) mean(x)

    mean and var are those of the window of (2 ``radius`` + 1)^2 pixels around each pixel, cut off
    at the border: a x + b is the best affine fit of x in the window, with a penalty on a. D(c x, c
    sigma) = c D(x, sigma). Every channel by itself.

    He, Sun, Tang 2013.
    """

    def __init__(self, radius: int = 1, strength: float = 4.0):
        if isinstance(radius, bool) or not isinstance(radius, int) or radius < 1:
            raise InputError(f"Guided: radius must be an integer >= 1, got {radius!r}.")
        if not 0 < strength < math.inf:
            raise InputError(f"Guided: strength must be finite and > 0, got {strength!r}.")
        self.radius, self.strength = radius, float(strength)
        self.info = DenoiserInfo(
            "guided", sigma="input", field=2 * radius
        )  # a mean of what a mean saw

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """``x`` (B, C, H, W), any size; ``sigma`` a float or (B,), in the units of ``x``."""
        check_image(x, "Guided")
        penalty = self.strength * sigma_column(sigma, x, "Guided") ** 2
        mean = self._mean(x)
        variance = (self._mean(x * x) - mean * mean).clamp_min(0)
        a = variance / (variance + penalty).clamp_min(torch.finfo(x.dtype).tiny)
        return self._mean(a) * x + self._mean((1 - a) * mean)

    def _mean(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x, 2 * self.radius + 1, stride=1, padding=self.radius, count_include_pad=False
        )
