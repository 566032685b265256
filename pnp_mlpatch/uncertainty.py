r"""Error bars that can be trusted, and tests of samples: conformal intervals, their coverage, rank statistics.

The standard deviation of the samples of :class:`~pnp_mlpatch.solvers.ula.ULA` or :class:`~pnp_mlpatch.solvers.skrock.SKROCK` says where the image is
uncertain; how wide an interval has to be is learned from images whose truth is known (split conformal prediction):

    s = |truth - x| / max(std, floor)        factor = the ceil((n + 1) level)-th smallest of all n of them
    low, high = x -+ factor max(std, floor)

A pixel of another image, of the same kind and with data of the same kind, is inside with probability ``level``, however wrong std is.
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
    """What :func:`calibrate` found: intervals are x -+ ``factor`` max(std, ``floor``), for the coverage ``level``.

    For errors that are Gaussian with the deviation std, the factor is 1.645 at the level 0.9; more says that std was too small.
    """

    factor: float
    level: float
    floor: float

    def interval(self, x: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high), each (B, C, H, W), for estimates ``x`` and deviations ``std`` (B, C, H, W) in the units of the calibration."""
        _images("interval", x=x, std=std)
        half = self.factor * std.clamp_min(self.floor)
        return x - half, x + half

    def save(self, path: str | PathLike[str]) -> None:
        """Write the three numbers as JSON, whole or not at all."""
        atomic_write(
            path,
            lambda temporary: temporary.write_text(
                json.dumps(asdict(self)) + "\n", encoding="utf-8"
            ),
        )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Intervals:
        """Read what ``save`` wrote; raise :class:`FileError` if it is not that."""
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
    r"""The factor by which std has to be multiplied, from images whose ``truth`` is known; the equations stand above.

    ``x``, ``std`` and ``truth`` are (B, C, H, W), of images that are not those which the intervals are for. std below ``floor`` = 1/100 of its
    root mean square is taken as that, so that a pixel with none does not decide. All n pixels count alike; those of one image go together, so what
    counts is the number of images: some ten or more, as different as the ones to come. The coverage of a single image may be far from ``level``.

    Raises :class:`InputError` for shapes that differ, std that is negative or zero everywhere, a level outside of (0, 1), and too few pixels.
    Vovk, Gammerman and Shafer 2005; normalised scores, Papadopoulos et al. 2008; for images, Angelopoulos et al. 2022.
    """
    _images("calibrate", x=x, std=std, truth=truth)
    if not finite_number(level) or not 0 < level < 1:
        raise InputError(
            f"calibrate: level must be a number between 0 and 1, such as 0.9, got {level!r}."
        )
    size = float(std.double().square().mean().sqrt())
    if size == 0:
        raise InputError(
            "calibrate: std is 0 everywhere, so it says nothing of the errors. Give that of samples, two or more."
        )
    floor, rank = 0.01 * size, math.ceil((x.numel() + 1) * level - 1e-9)
    if rank > x.numel():
        raise InputError(
            f"calibrate: for the level {level:g}, {math.ceil(level / (1 - level) - 1e-9)} pixels or more are needed, got {x.numel()}."
        )
    scores = (truth.double() - x.double()).abs() / std.double().clamp_min(floor)
    return Intervals(
        factor=float(scores.flatten().kthvalue(rank).values), level=float(level), floor=floor
    )


def coverage(low: Tensor, high: Tensor, truth: Tensor) -> Tensor:
    """The share of the pixels of each image that lie in their interval, low <= truth <= high: (B, C, H, W) three times -> (B,), in float64.

    Raises :class:`InputError` for shapes that differ, and where low > high.
    """
    _images("coverage", low=low, high=high, truth=truth)
    if bool((low > high).any()):
        raise InputError(
            f"coverage: low must be <= high; it is not at {int((low > high).sum())} pixels. Are they exchanged?"
        )
    return ((low <= truth) & (truth <= high)).double().mean(dim=(1, 2, 3))


def ranks(samples: Tensor, truth: Tensor) -> Tensor:
    """The rank of the truth among its samples, the number of them that are below: (K, ...) and (...) -> (...), integers from 0 to K.

    Where the truth is drawn from the prior, the data from the truth, and the samples from the posterior, independent of each other, each rank
    is as probable as any other (simulation-based calibration, Talts et al. 2018): a cup says that the samples are too narrow, a hill too wide,
    a slope that they are shifted. Raises :class:`InputError` for shapes that do not fit.
    """
    for name, value in (("samples", samples), ("truth", truth)):
        _values("ranks", name, value)
    if samples.shape[1:] != truth.shape or not len(samples):
        raise InputError(
            f"ranks: samples must be (K, ...) of a truth (...), got {tuple(samples.shape)} and {tuple(truth.shape)}."
        )
    return (samples < truth).sum(0)


def chi2_uniform(ranks: Tensor, samples: int, bins: int = 10) -> float:
    """The probability that ranks which are uniform on 0 ... ``samples`` would look less so (Pearson's chi-square test), from 0 to 1.

    ``ranks`` are those of :func:`ranks` with K = ``samples``, of draws that are independent of each other: one pixel of each image, or of each
    chain. They are counted in ``bins``, of which each holds samples + 1 ranks over bins, or one more. A value below 1e-3 says that they are not uniform.
    Raises :class:`InputError` for ranks outside, more bins than ranks, and where fewer than 5 are expected in a bin. Pearson 1900.
    """
    if (
        not isinstance(ranks, Tensor)
        or ranks.is_floating_point()
        or ranks.is_complex()
        or ranks.dtype == torch.bool
    ):
        got = ranks.dtype if isinstance(ranks, Tensor) else type(ranks).__name__
        raise InputTypeError(
            f"chi2_uniform: the ranks must be a tensor of integers, as ranks(samples, truth) makes them, got {got}."
        )
    for name, value, least in (("samples", samples, 1), ("bins", bins, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"chi2_uniform: {name} must be an integer >= {least}, got {value!r}.")
    if bins > samples + 1:
        raise InputError(
            f"chi2_uniform: {samples} samples have {samples + 1} ranks, too few for {bins} bins. Use fewer bins."
        )
    if ranks.numel() == 0 or int(ranks.min()) < 0 or int(ranks.max()) > samples:
        raise InputError(
            f"chi2_uniform: ranks must be from 0 to samples = {samples}, one or more. Give the K of ranks(samples, truth)."
        )
    place = torch.arange(samples + 1) * bins // (samples + 1)
    expected = place.bincount(minlength=bins).double() * ranks.numel() / (samples + 1)
    if float(expected.min()) < 5:
        raise InputError(
            f"chi2_uniform: 5 ranks or more are expected in each bin, here {float(expected.min()):.2g}. Use fewer bins."
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
            f"{who}: {name} holds {int((~torch.isfinite(value)).sum())} values that are NaN or infinite."
        )


def _images(who: str, **images: Tensor) -> None:
    """Raise unless all are finite images of one shape (B, C, H, W), and a std among them is >= 0."""
    for name, value in images.items():
        _values(who, name, value)
        if name == "std" and bool((value < 0).any()):
            raise InputError(
                f"{who}: std is a standard deviation, >= 0; got {float(value.min()):g}."
            )
    shapes = [tuple(value.shape) for value in images.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) != 4 or 0 in shapes[0]:
        raise InputError(
            f"{who}: {', '.join(images)} must have one shape (B, C, H, W) with no empty axis, got {', '.join(map(str, shapes))}."
        )


__all__ = ["Intervals", "calibrate", "chi2_uniform", "coverage", "ranks"]
