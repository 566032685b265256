r"""What samplers share: the drift, and what a chain of samples leaves behind in bounded memory.

Chains go to the density of which the drift is the gradient of the logarithm,

.. math::

    G(s) = A^H (q - A s) / \text{noise}^2 + (D(s, \sigma) - s) / \sigma^2
    + [(P(s) - s) / \sigma^2]

The first term is that of the likelihood. The second is that of the prior, of images to which
noise of deviation sigma was added (Tweedie: D(s) - s is sigma^2 times its gradient, if D is the
mean of the image given s). The third, with P the projection on ``box``, keeps a chain near the
range of values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import State
from pnp_mlpatch.solvers._problem import Problem, norms, per_image


@dataclass(frozen=True)
class ChainState(State):
    """State of a chain: x is the mean of the samples since the burn-in, before its end the sample.

    Parameters
    ----------
    sample : Tensor, shape (B, C, H, W)
        The last sample.
    count : int
        Number n of samples in the mean.
    square : Tensor, shape (B, C, H, W)
        Sum of their squared deviations from x (Welford 1962).
    kept : Tensor, shape (B, K, C, H, W)
        The samples number t, 2 t, 3 t, ..., with t = ``thinning``.
    thinning : int
        Distance of the samples that are kept.
    batches : Tensor, shape (B, m, C, H, W)
        Means of m runs of b = ``batch_size`` samples one after the other.
    batch_size : int
        Samples in such a mean.
    partial : Tensor, shape (B, C, H, W)
        Sum of the samples that fill no such run yet.
    norm : Tensor, shape (B,)
        |A|.
    """

    sample: Tensor
    count: int
    square: Tensor
    kept: Tensor
    thinning: int
    batches: Tensor
    batch_size: int
    partial: Tensor
    norm: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of the samples (B, C, H, W); 0 with fewer than two."""
        return (self.square / max(self.count - 1, 1)).sqrt()

    @property
    def samples(self) -> Tensor:
        """The samples that were kept (K, B, C, H, W), evenly spaced since the burn-in."""
        return self.kept.transpose(0, 1)

    @property
    def effective_samples(self) -> Tensor:
        r"""Number of independent samples that give the mean the same error, (B, C, H, W).

        .. math::

            n s^2 / (b S^2), \qquad
            S^2 = \sum (\text{batch mean} - \text{their mean})^2 / (m - 3)

        by batch means (Glynn and Whitt 1991), with m - 3 so that the mean of 1 / S^2 is right.
        The standard error of x is std / sqrt(effective_samples). With 8 to 31 batches a single
        pixel is known to a third or a half only, the mean over pixels well. NaN with fewer than
        16 samples. Too large while the chain is shorter than some hundred times its memory.
        Samples that oscillate can be worth more than their number.
        """
        m = self.batches.shape[1]
        if self.batch_size == 1:
            return torch.full_like(self.x, torch.nan)
        spread = (
            self.batch_size
            * (self.batches - self.batches.mean(1, keepdim=True)).square().sum(1)
            / (m - 3)
        )
        found = self.count * self.square / (self.count - 1) / spread
        return torch.where(spread > 0, found, torch.full_like(found, float(self.count)))

    def quantile(self, p: float) -> Tensor:
        """Return a quantile of each pixel of the samples that were kept, interpolated linearly.

        Parameters
        ----------
        p : float
            Probability, from 0 to 1.

        Returns
        -------
        Tensor, shape (B, C, H, W)

        Raises
        ------
        InputError
            If p is out of range, or no sample is kept yet.
        """
        if not finite_number(p) or not 0 <= p <= 1:
            raise InputError(f"quantile: p must be a number from 0 to 1, got {p!r}.")
        if not self.kept.shape[1]:
            raise InputError(
                "quantile: no sample is kept yet, all steps were burn-in. "
                "Run more iterations, or set burn_in below their number."
            )
        ordered = self.samples.sort(dim=0).values
        place = p * (len(ordered) - 1)
        return torch.lerp(ordered[math.floor(place)], ordered[math.ceil(place)], place % 1)


def start(problem: Problem, x0: Tensor) -> ChainState:
    """Return the state before the first step of a chain from ``x0`` (B, C, H, W)."""
    zero, none = torch.zeros_like(x0), x0.new_zeros(len(x0), 0, *x0.shape[1:])
    return ChainState(
        x=x0,
        iteration=0,
        sample=x0,
        count=0,
        square=zero,
        kept=none,
        thinning=1,
        batches=none,
        batch_size=1,
        partial=zero,
        norm=x0.new_tensor(norms(problem.A, len(x0))),
    )


def follow(state: ChainState, sample: Tensor, burn_in: int, keep: int) -> ChainState:
    """Return the state after ``sample``, with at most 2 ``keep`` - 1 samples and 31 batch means."""
    x, count, square, kept, thinning = sample, state.count, state.square, state.kept, state.thinning
    batches, batch_size, partial = state.batches, state.batch_size, state.partial
    if state.iteration >= burn_in:
        count += 1
        if count > 1:
            x = state.x + (sample - state.x) / count
            square = square + (sample - state.x) * (sample - x)
        if count % thinning == 0:
            kept = torch.cat([kept, sample[:, None]], dim=1)
        while kept.shape[1] >= 2 * keep:
            kept, thinning = kept[:, 1::2].contiguous(), 2 * thinning
        partial = partial + sample
        if count % batch_size == 0:
            batches, partial = (
                torch.cat([batches, partial[:, None] / batch_size], dim=1),
                torch.zeros_like(partial),
            )
        while batches.shape[1] >= min(32, max(16, batch_size)):
            batches, batch_size = (batches[:, 0::2] + batches[:, 1::2]) / 2, 2 * batch_size
    return ChainState(
        x=x,
        iteration=state.iteration + 1,
        sample=sample,
        count=count,
        square=square,
        kept=kept,
        thinning=thinning,
        batches=batches,
        batch_size=batch_size,
        partial=partial,
        norm=state.norm,
    )


def drift(
    problem: Problem,
    D: Denoiser,
    s: Tensor,
    sigma: schedules.Level,
    box: tuple[float, float] | None,
    who: str,
) -> Tensor:
    """G(s), the gradient of the logarithm of the density at s (B, C, H, W)."""
    noise, width = (
        per_image(problem.known_noise(who), s, f"{who}: noise"),
        per_image(sigma, s, f"{who}: sigma"),
    )
    prior = D(s, sigma) - s
    if box is not None:
        prior = prior + s.clamp(*box) - s
    return (problem.Aty - problem.A.normal(s)) / noise**2 + prior / width**2


def curvature(
    problem: Problem,
    state: ChainState,
    sigma: schedules.Level,
    box: tuple[float, float] | None,
    who: str,
) -> Tensor:
    """L (B, 1, 1, 1), the most that G changes for a change of s, with |D(s) - s| taken as 1.

    It is |A|^2 / noise^2 + 1 / sigma^2, and 2 / sigma^2 with a box.
    """
    s = state.sample
    noise, width = (
        per_image(problem.known_noise(who), s, f"{who}: noise"),
        per_image(sigma, s, f"{who}: sigma"),
    )
    return state.norm.reshape(-1, 1, 1, 1) ** 2 / noise**2 + (1 if box is None else 2) / width**2


def white(seed: int, iteration: int, like: Tensor) -> Tensor:
    """White noise of variance one, the same for all images, from seed and iteration alone."""
    (mixed,) = np.random.SeedSequence((seed, iteration)).generate_state(
        1
    )  # torch takes 32 bits of a seed
    return (
        torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(int(mixed)))
        .to(like)
        .expand_as(like)
    )


def step_size(
    delta: float | Tensor | None, default: Tensor, like: Tensor, who: str
) -> float | Tensor:
    """``delta`` as it broadcasts to the images ``like``, or ``default`` where it is None."""
    return default.to(like) if delta is None else per_image(delta, like, f"{who}: delta")
