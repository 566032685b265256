"""Settings of the search for settings."""

from __future__ import annotations

from dataclasses import dataclass

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.tuning.heldout import check_folds


@dataclass(frozen=True)
class AutoConfig:
    """Settings of the search of :func:`auto`.

    Attributes
    ----------
    levels : int
        Number of levels of the denoiser, geometric from ``lowest`` to 1.
    lowest : float
        The lowest level, relative to the top of the denoiser's range.
    max_runs : int
        Runs of the solver at most: all that measure, and the last one.
    prior_scale : float
        Prior standard deviation of images, relative to the top of the range.
    full_fraction : float
        With data for this fraction of the pixels or more nothing is held out.
    holdout_fraction : float
        Fraction of the data that a fold holds out.
    folds : int
        Number of folds.
    seed : int
        Seed of the perturbation and of the folds.
    """

    levels: int = 4
    lowest: float = 1 / 8
    max_runs: int = 12
    prior_scale: float = 2.0
    full_fraction: float = 0.5
    holdout_fraction: float = 0.1
    folds: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("levels", "max_runs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"AutoConfig: {name} must be an integer >= 1, got {value!r}.")
        if not 0 < self.lowest <= 1:
            raise InputError(f"AutoConfig: lowest must be in (0, 1], got {self.lowest!r}.")
        if not self.prior_scale > 0:
            raise InputError(f"AutoConfig: prior_scale must be > 0, got {self.prior_scale!r}.")
        check_folds("AutoConfig", self.holdout_fraction, self.folds)


__all__ = ["AutoConfig"]
