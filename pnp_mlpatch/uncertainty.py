r"""Calibrated error bars, and tests of samples: conformal intervals, coverage, rank statistics.

The standard deviation of the samples of :class:`~pnp_mlpatch.solvers.ula.ULA` or
:class:`~pnp_mlpatch.solvers.skrock.SKROCK` says where an image is uncertain. How wide an interval
has to be is learned from images whose truth is known (split conformal prediction). With n pixels

.. math:: s_i = \frac{|truth_i - x_i|}{\max(std_i, floor)}, \qquad
          c = s_{(\lceil (n + 1) level \rceil)}, \qquad
          [low, high] = x \mp c \max(std, floor)

where :math:`s_{(k)}` is the k-th smallest score. A pixel of another image, of the same kind and
with data of the same kind, is inside with probability ``level``, however wrong std is.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.reading import refuse_special


@dataclass(frozen=True)
class Intervals:
    r"""The result of :func:`calibrate`: intervals :math:`x \mp factor \max(std, floor)`.

    For Gaussian errors with deviation std, the factor is 1.645 at the level 0.9. A larger one shows
    that std was too small.

    Parameters
    ----------
    factor : float
        Factor of std.
    level : float
        Probability that a pixel is inside.
    floor : float
        Least std.
    """

    factor: float
    level: float
    floor: float

    def interval(self, x: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the intervals of an estimate.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
            Estimates.
        std : Tensor, shape (B, C, H, W)
            Their standard deviations, in the units of the calibration.

        Returns
        -------
        low, high : Tensor, shape (B, C, H, W)
            The ends of the intervals.
        """
        _images("interval", x=x, std=std)
        half = self.factor * std.clamp_min(self.floor)
        return x - half, x + half

    def save(self, path: str | PathLike[str]) -> None:
        """Write the three numbers as JSON, whole or not at all.

        Parameters
        ----------
        path : str or path
            The file.
        """
        atomic_write(
            path,
            lambda temporary: temporary.write_text(
                json.dumps(asdict(self)) + "\n", encoding="utf-8"
            ),
        )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Intervals:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or path
            The file.

        Returns
        -------
        Intervals
            The intervals.

        Raises
        ------
        FileError
            If the file does not hold intervals.
        """
        refuse_special(path)
        try:
            found = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
            if not all(finite_number(value) and value >= 0 for value in asdict(found).values()):
                raise ValueError("factor, level and floor must be numbers >= 0")
        except (OSError, TypeError, ValueError) as error:
            raise FileError(
                f"{path}: not saved intervals ({error}). Calibrate again, or check the path."
            ) from error
        return found


def calibrate(x: Tensor, std: Tensor, truth: Tensor, level: float = 0.9) -> Intervals:
    """Find the factor of std that gives intervals of known coverage.

    The equations stand at the top of this module. A std below ``floor`` = 1/100 of its root mean
    square counts as that, so that a pixel without any does not decide. Pixels of one image depend
    on each other, so what counts is the number of images: ten or more, as different as the ones to
    come. The coverage of a single image may be far from ``level``.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Estimates of other images than those that the intervals are for.
    std : Tensor, shape (B, C, H, W)
        Their standard deviations, >= 0.
    truth : Tensor, shape (B, C, H, W)
        The true images.
    level : float
        Probability that a pixel is inside, in (0, 1).

    Returns
    -------
    Intervals
        The factor, the level and the floor.

    Raises
    ------
    InputError
        If shapes differ, std is negative or zero everywhere, the level is out of range, or there
        are too few pixels.

    References
    ----------
    Vovk, Gammerman and Shafer (2005); Papadopoulos et al. (2008) for normalised scores;
    Angelopoulos et al. (2022) for images.
    """
    _images("calibrate", x=x, std=std, truth=truth)
    if not finite_number(level) or not 0 < level < 1:
        raise InputError(
            f"calibrate: level must be a number between 0 and 1, such as 0.9, got {level!r}."
        )
    size = float(std.double().square().mean().sqrt())
    if size == 0:
        raise InputError(
            "calibrate: std is 0 everywhere, so it says nothing of the errors. Give that of "
            "samples, two or more."
        )
    floor, rank = 0.01 * size, math.ceil((x.numel() + 1) * level - 1e-9)
    if rank > x.numel():
        raise InputError(
            f"calibrate: for the level {level:g}, {math.ceil(level / (1 - level) - 1e-9)} pixels "
            f"or more are needed, got {x.numel()}."
        )
    scores = (truth.to(x.device).double() - x.double()).abs() / std.double().clamp_min(floor)
    return Intervals(
        factor=float(scores.flatten().kthvalue(rank).values), level=float(level), floor=floor
    )


def coverage(low: Tensor, high: Tensor, truth: Tensor) -> Tensor:
    """Compute the share of pixels of each image that lie in their interval.

    Parameters
    ----------
    low, high : Tensor, shape (B, C, H, W)
        Ends of the intervals.
    truth : Tensor, shape (B, C, H, W)
        The true images.

    Returns
    -------
    Tensor, shape (B,)
        Shares in [0, 1], float64.

    Raises
    ------
    InputError
        If shapes differ, or low > high somewhere.
    """
    _images("coverage", low=low, high=high, truth=truth)
    if bool((low > high).any()):
        raise InputError(
            f"coverage: low must be <= high; it is not at {int((low > high).sum())} pixels. Are "
            "they exchanged?"
        )
    truth = truth.to(low.device)
    return ((low <= truth) & (truth <= high)).double().mean(dim=(1, 2, 3))


def ranks(samples: Tensor, truth: Tensor) -> Tensor:
    """Count the samples below the truth.

    If the truth is drawn from the prior, the data from the truth, and the samples from the
    posterior, all independent, then all ranks are equally probable (simulation-based calibration).
    A histogram like a cup shows that the samples are too narrow, a hill too wide, a slope that they
    are shifted.

    Parameters
    ----------
    samples : Tensor, shape (K, ...)
        Samples.
    truth : Tensor, shape (...)
        The truth.

    Returns
    -------
    Tensor, shape (...)
        Integers from 0 to K.

    Raises
    ------
    InputError
        If shapes do not fit.

    References
    ----------
    Talts et al. (2018).
    """
    for name, value in (("samples", samples), ("truth", truth)):
        _values("ranks", name, value)
    if samples.shape[1:] != truth.shape or not len(samples):
        raise InputError(
            f"ranks: samples must be (K, ...) of a truth (...), got {tuple(samples.shape)} and "
            f"{tuple(truth.shape)}."
        )
    return (samples < truth.to(samples.device)).sum(0)


def chi2_uniform(ranks: Tensor, samples: int, bins: int = 10) -> float:
    """Test whether ranks are uniform on 0 ... K, by Pearson's chi-square test.

    Parameters
    ----------
    ranks : Tensor
        Integers of :func:`ranks`, of independent draws: one pixel of each image, or of each chain.
    samples : int
        The number K of samples.
    bins : int
        Number of bins, each of which holds (K + 1) / bins ranks, rounded down or up.

    Returns
    -------
    float
        The probability that uniform ranks would look less uniform. Below 1e-3 they are not uniform.

    Raises
    ------
    InputError
        If ranks are outside, there are more bins than ranks, or fewer than 5 are expected in a bin.

    References
    ----------
    Pearson (1900).
    """
    if (
        not isinstance(ranks, Tensor)
        or ranks.is_floating_point()
        or ranks.is_complex()
        or ranks.dtype == torch.bool
    ):
        got = ranks.dtype if isinstance(ranks, Tensor) else type(ranks).__name__
        raise InputTypeError(
            "chi2_uniform: the ranks must be a tensor of integers, as ranks(samples, truth) makes "
            f"them, got {got}."
        )
    for name, value, least in (("samples", samples, 1), ("bins", bins, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"chi2_uniform: {name} must be an integer >= {least}, got {value!r}.")
    if bins > samples + 1:
        raise InputError(
            f"chi2_uniform: {samples} samples have {samples + 1} ranks, too few for {bins} bins. "
            "Use fewer bins."
        )
    if ranks.numel() == 0 or int(ranks.min()) < 0 or int(ranks.max()) > samples:
        raise InputError(
            f"chi2_uniform: ranks must be from 0 to samples = {samples}, one or more. Give the K "
            "of ranks(samples, truth)."
        )
    place = torch.arange(samples + 1) * bins // (samples + 1)
    expected = place.bincount(minlength=bins).double() * ranks.numel() / (samples + 1)
    if float(expected.min()) < 5:
        raise InputError(
            "chi2_uniform: 5 ranks or more are expected in each bin, here "
            f"{float(expected.min()):.2g}. Use fewer bins."
        )
    counts = place[ranks.flatten().cpu()].bincount(minlength=bins).double()
    chi2 = float(((counts - expected).square() / expected).sum())
    return float(require("scipy.stats", "chi2_uniform").chi2.sf(chi2, bins - 1))


def _values(who: str, name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InputTypeError(
            f"{who}: {name} must be a torch tensor of floating numbers, got {got}."
        )
    if not bool(torch.isfinite(value).all()):
        raise InputError(
            f"{who}: {name} holds {int((~torch.isfinite(value)).sum())} values that are NaN or "
            "infinite."
        )


def _images(who: str, **images: Tensor) -> None:
    """Raise unless all are finite images of one shape (B, C, H, W), and a std is >= 0."""
    for name, value in images.items():
        _values(who, name, value)
        if name == "std" and bool((value < 0).any()):
            raise InputError(
                f"{who}: std is a standard deviation, >= 0; got {float(value.min()):g}."
            )
    shapes = [tuple(value.shape) for value in images.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) != 4 or 0 in shapes[0]:
        raise InputError(
            f"{who}: {', '.join(images)} must have one shape (B, C, H, W) with no empty axis, got "
            f"{', '.join(map(str, shapes))}."
        )


__all__ = ["Intervals", "calibrate", "chi2_uniform", "coverage", "ranks"]
