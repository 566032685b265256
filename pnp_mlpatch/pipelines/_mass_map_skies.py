r"""Skies with the mask and the noise of a survey, on which the errors of its map are learned.

The amplitude a of the generated skies follows from the survey: the mean absolute value of the
smoothed E map, less its mean over the mask, is that of the survey. It is less moved by single
clusters than the variance. Skies differ in it, so that sky k gets the amplitude
:math:`a / r_k` with :math:`r_k` its value without noise over the mean of all. Where the survey does
not tell the amplitude, a prior decides, and the skies differ as a does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.lensing import ShearMap, lognormal_convergence, reduced, shear_of
from pnp_mlpatch.lensing.fields import SHIFT, SHIFT_SPREAD

SHORTER = 4  # chains of generated skies have so many times fewer iterations than the map's
MOST, LEAST = 6, 2  # skies
PRIOR = (1.4, 0.8)  # mean and standard deviation of a^2, those of the training maps and wider
SQUARES = (0.2, 6.0)  # range of a^2
STEPS = 20  # of the bisection
MARGIN = 1 / 8  # of the longer side: skies are generated so much wider on every side
DENSEST = 0.9  # E above which reduced shear is not made


@dataclass(frozen=True)
class Sky:
    """A sky of amplitude 1: E (H, W) and its shear (2, H, W)."""

    truth: Tensor
    gamma: Tensor


def counts(iterations: int, burn_in: int) -> tuple[int, int]:
    """Return how many skies are mapped and in how many iterations, for twice the time of the map.

    The mean of few denoised draws has nearly the error of the mean of many.
    """
    fewer = min(iterations, max(burn_in + 2, iterations // SHORTER))
    number = 2 * iterations // (fewer + 1)  # each chain denoises its start as well
    return max(LEAST, min(MOST, number // 2 * 2)), fewer


def skies(shear: ShearMap, count: int, seed: int) -> list[Sky]:
    """Generate skies of amplitude 1, and of the skewness of the training, on a survey's pixels."""
    height, width = shear.noise.shape
    margin = math.ceil(MARGIN * max(height, width))
    inner = (..., slice(margin, margin + height), slice(margin, margin + width))
    found = []
    for k in range(count):
        first = int(np.random.SeedSequence((seed, k, *b"skies")).generate_state(1)[0])
        kappa = lognormal_convergence(
            (height + 2 * margin, width + 2 * margin),
            shear.pixel,
            seed=first,
            shift=SHIFT + SHIFT_SPREAD * _quantile(k, count),
        )
        gamma = shear_of(kappa - kappa.mean(), flip_ra=shear.flip_ra)
        found.append(Sky(kappa[inner][0, 0].clone(), gamma[inner][0].clone()))
    return found


def amplitudes(
    signals: Sequence[Tensor], noises: Sequence[Tensor], measured: Tensor, scatter: float
) -> list[float]:
    """Return the amplitude of each sky for a survey.

    Smoothed E at the measured pixels (N,): ``signals`` of the skies of amplitude 1, ``noises`` of
    their noise, ``measured`` of the survey. ``scatter`` is the standard deviation that noise gives
    the variance of E.
    """
    sizes = [_size(signal) for signal in signals]
    ratios = [max(size / (sum(sizes) / len(sizes)), 1e-30) for size in sizes]
    whole = [signal / ratio for signal, ratio in zip(signals, ratios, strict=True)]

    def size(a: float) -> float:
        pairs = zip(whole, noises, strict=True)
        return sum(_size(a * signal + noise) for signal, noise in pairs) / len(whole)

    low, high = 0.0, math.sqrt(SQUARES[1])
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) < _size(measured) else (low, middle)
    unit = sum(float(signal.double().var()) for signal in signals) / len(signals)
    weights = (max(scatter, 1e-30) / max(unit, 1e-30)) ** -2, PRIOR[1] ** -2
    square = (weights[0] * low**2 + weights[1] * PRIOR[0]) / sum(weights)
    error, found = sum(weights) ** -0.5, []
    for k, ratio in enumerate(ratios):
        drawn = square + error * _quantile(k, len(ratios))
        found.append(math.sqrt(min(max(drawn, SQUARES[0]), SQUARES[1])) / ratio)
    return found


def _size(e: Tensor) -> float:
    return float((e - e.mean()).abs().double().mean())


def _quantile(k: int, count: int) -> float:
    """Return a quantile of a standard normal variable; both halves of the skies have the same."""
    return NormalDist().inv_cdf((k // 2 + 0.5) / (count / 2))


def noise_of(shear: ShearMap, seed: tuple[int, ...]) -> Tensor:
    """Return noise (2, H, W) of a survey, 0 where nothing was measured."""
    rng = np.random.default_rng((*seed, *b"noise of skies"))
    white = torch.from_numpy(rng.standard_normal(tuple(shear.gamma.shape)))
    return shear.noise.where(shear.seen, 0.0) * white


def observed(
    sky: Sky, amplitude: float, shear: ShearMap, *, g: bool, seed: tuple[int, ...]
) -> Tensor:
    """Return the shear (2, H, W) of a sky, or with ``g`` its reduced shear, with the noise."""
    gamma, kappa = amplitude * sky.gamma[None], amplitude * sky.truth[None, None]
    if g:
        gamma = reduced(gamma, kappa.clamp_max(DENSEST))
    return torch.where(shear.seen, gamma[0] + noise_of(shear, seed), 0.0)
