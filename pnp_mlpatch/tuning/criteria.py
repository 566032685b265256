"""What :func:`~pnp_mlpatch.tuning.auto` judges settings by: SURE or GCV, and held-out data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Problem, State
from pnp_mlpatch.tuning.config import AutoConfig
from pnp_mlpatch.tuning.heldout import holdout_masks, mean_square, standardised
from pnp_mlpatch.tuning.noise import probe, reached
from pnp_mlpatch.tuning.sure import PROBE_STEP, ErrorNorm, noise_as_map, square_norm

FEWEST = 8  # data that a fold must hold out

Run = Callable[[Tensor, float | Tensor, Callable[[State], None]], None]
"""``run(q, noise, look)`` runs a candidate on these data; ``look`` sees every state."""


@dataclass(frozen=True)
class Curve:
    """What the runs of one candidate measured, shape (N, B): one row an iteration.

    Attributes
    ----------
    misfit : Tensor
        Square residual of the data that the run saw, over that of noise alone.
    evidence : Tensor
        The divergence (SURE), or the square error on held-out data. Infinite where a run diverged.
    """

    misfit: Tensor
    evidence: Tensor


class Criterion(ABC):
    """How the error of an estimate is judged without the truth.

    ``measure`` runs a candidate; ``score`` is a pure function of what was measured.
    """

    runs: int

    @property
    @abstractmethod
    def name(self) -> str:
        """In words, for ``result.tuned``."""

    @abstractmethod
    def measure(self, run: Run, iterations: int) -> Curve:
        """Run a candidate ``runs`` times, and measure every iteration.

        Parameters
        ----------
        run : callable
            ``run(q, noise, look)`` runs the candidate and shows each state to ``look``.
        iterations : int
            Iterations of a run.

        Returns
        -------
        Curve
        """

    @abstractmethod
    def score(self, misfit: Tensor, evidence: Tensor) -> Tensor:
        """Estimated error in units of the noise, shape (R, B), from the rows of all curves.

        It is 1 plus the error of the estimate; infinite where a run diverged.

        Parameters
        ----------
        misfit : Tensor, shape (R, B)
            Misfits of all curves, one row an iteration.
        evidence : Tensor
            What the criterion measured beside the misfits.

        Returns
        -------
        Tensor, shape (R, B)
        """


@dataclass(frozen=True)
class SureCriterion(Criterion):
    r"""SURE, or GCV where the noise is estimated, from one perturbation of the data.

    .. math::
        \mathrm{SURE} + 1 = d + 2 t, \qquad \mathrm{GCV} = d / (1 - t)^2, \qquad
        d = |B (A x - q)|^2 / E|B e|^2, \quad t = \mathrm{div} / E|B e|^2

    Attributes
    ----------
    q : Tensor
        The data, 0 where nothing was measured.
    A : LinearOperator
    noise : float or Tensor
        As the solver takes it.
    norm : ErrorNorm
        B: the error of the image, or of the data.
    probe : Tensor
        A perturbation drawn like the noise.
    generalised : bool
        GCV in place of SURE.
    """

    q: Tensor
    A: LinearOperator
    noise: float | Tensor
    norm: ErrorNorm
    probe: Tensor
    generalised: bool

    runs = 2

    @property
    def name(self) -> str:
        """In words, for ``result.tuned``."""
        of = "data" if self.norm.level is None else "image"
        return f"{'GCV' if self.generalised else 'SURE'} of the {of}"

    def measure(self, run: Run, iterations: int) -> Curve:
        """Run on the data, then on perturbed data."""
        data, b = self.norm.weigh(self.q), self.norm.weigh(self.probe)
        fits: list[Tensor] = []
        products: list[Tensor] = []

        def keep(state: State) -> None:
            fits.append(self.norm.weigh(self.A(state.x)))

        def compare(state: State) -> None:
            if len(products) < len(fits):
                moved = self.norm.weigh(self.A(state.x)) - fits[len(products)]
                products.append((moved * b).flatten(1).sum(1).double())

        run(self.q, self.noise, keep)
        run(self.q + PROBE_STEP * self.probe, self.noise, compare)
        size = square_norm(b)
        misfit = [square_norm(fit - data) / size for fit in fits]
        divergence = [product / (PROBE_STEP * size) for product in products]
        return Curve(_padded(misfit, iterations, size), _padded(divergence, iterations, size))

    def score(self, misfit: Tensor, evidence: Tensor) -> Tensor:
        """SURE + 1, or GCV, of every row."""
        if self.generalised:
            score = misfit / (1 - evidence).clamp_min(1e-6).square()
        else:
            score = misfit + 2 * evidence
        return torch.where(torch.isfinite(misfit) & torch.isfinite(evidence), score, torch.inf)


@dataclass(frozen=True)
class HeldOutCriterion(Criterion):
    r"""The error on held-out data, with the noise that the fit to the others takes over.

    .. math::
        1 + s \left[(1 - t)^2 (e - 1) + t^2\right] + (1 - s) (e - 1), \qquad (1 - t)^2 = d / e

    with e the mean square error on the held-out data and d that on the others, both in units of
    the noise, and s the fraction of the image that was measured. A linear estimate makes of a
    datum that it is shown t of that datum and 1 - t of what the others predict (leave-one-out).
    The measured fraction has this error, the rest that of the prediction. A noise above the least
    e is too large, since e contains all of it: it is lowered to the least e.

    Attributes
    ----------
    q : Tensor
        The data.
    A : LinearOperator
    noise : Tensor
        Map of the noise.
    seen : Tensor of bool
        Where anything was measured.
    masks : list of Tensor of bool
        The held-out part of each fold.
    fraction : Tensor, shape (B,)
        s above.

    References
    ----------
    Stone 1974; leave-one-out, Craven and Wahba 1979.
    """

    q: Tensor
    A: LinearOperator
    noise: Tensor
    seen: Tensor
    masks: list[Tensor]
    fraction: Tensor

    @property
    def runs(self) -> int:  # type: ignore[override]
        """One a fold."""
        return len(self.masks)

    @property
    def name(self) -> str:
        """In words, for ``result.tuned``."""
        return f"error on held-out data ({self.runs} parts)"

    def measure(self, run: Run, iterations: int) -> Curve:
        """Run once without each held-out part."""
        curves = [self._fold(run, held, iterations) for held in self.masks]
        misfit = torch.stack([curve.misfit for curve in curves]).mean(0)
        return Curve(misfit, torch.stack([curve.evidence for curve in curves]).mean(0))

    def _fold(self, run: Run, held: Tensor, iterations: int) -> Curve:
        held = held.expand_as(self.q)
        shown = self.seen.expand_as(self.q) & ~held
        misfit: list[Tensor] = []
        errors: list[Tensor] = []

        def look(state: State) -> None:
            fit = self.A(state.x)
            misfit.append(mean_square(standardised(fit, self.q, self.noise, shown), shown))
            errors.append(mean_square(standardised(fit, self.q, self.noise, held), held))

        run(
            self.q,
            torch.where(held[:1] if len(self.noise) == 1 else held, torch.inf, self.noise),
            look,
        )
        like = self.fraction.double()
        return Curve(_padded(misfit, iterations, like), _padded(errors, iterations, like))

    def score(self, misfit: Tensor, evidence: Tensor) -> Tensor:
        """Estimate the error of every row."""
        tiny = torch.finfo(torch.float32).tiny
        finite = torch.isfinite(misfit) & torch.isfinite(evidence)
        least = torch.where(finite, evidence, torch.inf).min(0).values
        noise = least.clamp(tiny, 1.0)
        kept = torch.where(finite, (misfit / evidence.clamp_min(tiny)).clamp_max(1), 1.0)
        bias, taken = (evidence - noise) / noise, (1 - kept.sqrt()).square()
        s = self.fraction
        score = 1 + s * (kept * bias + taken) + (1 - s) * bias
        return torch.where(finite, score, torch.inf)


def choose_criterion(
    q: Tensor,
    A: LinearOperator,
    noise: float | Tensor,
    estimated: bool,
    problem: Problem,
    top: Tensor,
    config: AutoConfig,
) -> Criterion:
    r"""SURE or GCV where most of the image was measured, else held-out data.

    ``top`` (B,) is the largest level of the denoiser, by which the prior deviation is set.

    Parameters
    ----------
    q : Tensor, shape (B, \*data_shape)
        Data.
    A : LinearOperator
        The operator.
    noise : float or Tensor
        Standard deviation of the noise: a number, (B,) or a map.
    estimated : bool
        Whether the noise was estimated.
    problem : Problem
        Data, operator and noise.
    top : Tensor, shape (B,)
        Largest level of the denoiser; it sets the prior deviation.
    config : AutoConfig
        The settings of the search.

    Returns
    -------
    Criterion
    """
    deviation, pixels = noise_as_map(q, A, noise), problem.A.initial(problem.q)[0].numel()
    seen = reached(A, len(q), q.device) & torch.isfinite(deviation)
    measured = seen.flatten(1).sum(1)
    fraction = (measured / pixels).clamp_max(1).expand(len(q))
    if bool((fraction >= config.full_fraction).all()):
        prior = config.prior_scale * top if problem.A.closed_form else None
        size = torch.where(seen, deviation, 0.0)
        generator = torch.Generator().manual_seed(config.seed)
        b = size * probe(q, seen.expand_as(q), generator)
        norm = ErrorNorm(problem, deviation, seen, prior)
        return SureCriterion(q, A, noise, norm, b, estimated)
    if int(measured.min()) * config.holdout_fraction < FEWEST:
        raise InputError(
            f"auto: {int(measured.min())} data are too few to hold out "
            f"{config.holdout_fraction:g} of them. Give sigma=."
        )
    masks = holdout_masks(seen, A, config.holdout_fraction, config.folds, config.seed, "auto")
    return HeldOutCriterion(q, A, deviation, seen, masks, fraction)


def _padded(rows: list[Tensor], iterations: int, like: Tensor) -> Tensor:
    """Return the rows (B,) as (N, B), infinite after the end of a run that diverged."""
    missing = like.new_full((iterations - len(rows), len(like)), torch.inf)
    return torch.cat([torch.stack(rows).double(), missing]) if rows else missing


__all__ = ["Criterion", "Curve", "HeldOutCriterion", "Run", "SureCriterion", "choose_criterion"]
