"""From photon counts to line integrals with their noise, and back."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError

FLOOR = 0.5  # photons: fewer are counted as so many, which bounds the logarithm
FEW = 2.0  # photons: a blank below it is no number of photons, but a transmission of 1


def line_integrals(
    counts: Tensor,
    blank: Tensor | float,
    dark: Tensor | float = 0.0,
    *,
    electronic: float = 0.0,
    gain: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Convert counts to line integrals and their standard deviation.

    .. math:: q = -\log \frac{I - \mathrm{dark}}{\mathrm{blank} - \mathrm{dark}}, \qquad
              \mathrm{std}(q) = \frac{\sqrt{I + \mathrm{electronic}^2}}{I - \mathrm{dark}}

    Parameters
    ----------
    counts : Tensor, shape (..., angles, detectors)
        I, in detector units.
    blank, dark : Tensor or float
        The open beam and the dark field, broadcast to ``counts``: a field (slices, detectors)
        goes in as ``field[:, None]``.
    electronic : float
        The standard deviation of the electronic noise, in detector units.
    gain : float
        Detector units per photon: all of the above are divided by it.

    Returns
    -------
    q, std : Tensor, shape (..., angles, detectors)
        float64 if ``counts`` are, else float32. What was not measured has q = 0 and std = inf,
        which is weight 0: counts that are not finite, rays with blank <= dark, and dead bins.

    Raises
    ------
    InputTypeError
        For anything but tensors of real numbers.
    InputError
        For shapes that do not fit, where nothing was measured, and for values that look like line
        integrals or transmissions already.

    Warns
    -----
    UserWarning
        For negative counts without ``dark`` and ``electronic``.

    Notes
    -----
    Fewer than 0.5 photons, also negative ones after ``dark`` is subtracted, are taken as 0.5 in
    both formulas, so that their std is above 1. The dark signal counts as photons too. The noise
    of ``blank`` and ``dark``, which are means over many frames, is left out. The logarithm lifts
    the mean of q by about 1 / (2 I).

    References
    ----------
    Barrett and Swindell, Radiological Imaging, 1981.
    """
    who = "line_integrals"
    counts, blank, dark = _three(counts, blank, dark, who)
    for name, value, lowest in (
        ("electronic", electronic, "number >= 0"),
        ("gain", gain, "number > 0"),
    ):
        if not finite_number(value) or value < 0 or (name == "gain" and value == 0):
            raise InputError(f"{who}: {name} must be a {lowest}, got {value!r}.")
    counts, blank, dark, electronic = counts / gain, blank / gain, dark / gain, electronic / gain
    _look(counts, blank, dark, electronic, gain)
    dead = dead_bins(counts, blank, dark)
    if bool(dead.all()):
        raise InputError(
            f"{who}: no detector bin measured anything, blank <= dark or counts <= dark in all of "
            "them. Are counts, blank and dark in order? Line integrals need no conversion."
        )
    open_beam = blank - dark
    missing = (
        dead.unsqueeze(-2) | ~torch.isfinite(counts) | ~(open_beam > 0) | ~torch.isfinite(open_beam)
    )
    net = (counts - dark).clamp_min(FLOOR)
    q = torch.log(open_beam / net)
    std = torch.sqrt(net + dark.clamp_min(0) + electronic**2) / net
    return q.masked_fill(missing, 0.0), std.masked_fill(missing, torch.inf)


def dead_bins(counts: Tensor, blank: Tensor | float, dark: Tensor | float = 0.0) -> Tensor:
    """Find the detector bins that saw nothing.

    Parameters
    ----------
    counts, blank, dark
        As in :func:`line_integrals`.

    Returns
    -------
    Tensor, shape (..., detectors), bool
        True where there is no angle at which counts > dark and blank > dark, all finite.

    Raises
    ------
    InputError, InputTypeError
        As :func:`line_integrals`, for shapes and types.
    """
    counts, blank, dark = _three(counts, blank, dark, "dead_bins")
    alive = (counts > dark) & torch.isfinite(counts) & (blank > dark) & torch.isfinite(blank - dark)
    return ~alive.any(dim=-2)


def simulate_counts(
    q: Tensor,
    blank: Tensor | float,
    dark: Tensor | float = 0.0,
    *,
    electronic: float = 0.0,
    seed: int = 0,
) -> Tensor:
    r"""Simulate what a detector counts.

    .. math:: I \sim \mathrm{Poisson}((\mathrm{blank} - \mathrm{dark}) e^{-q} + \mathrm{dark})
              + N(0, \mathrm{electronic}^2)

    Parameters
    ----------
    q : Tensor, shape (..., angles, detectors)
        Line integrals, real floats.
    blank, dark : Tensor or float
        The open beam and the dark signal in photons, broadcast to ``q``.
    electronic : float
        The standard deviation of the electronic noise.
    seed : int
        Equal seeds give equal counts on every device.

    Returns
    -------
    Tensor, shape (..., angles, detectors)
        Of the dtype of ``q``.

    Raises
    ------
    InputError
        Unless blank >= dark >= 0, all values are finite and the shapes fit.
    InputTypeError
        For other types.
    """
    who = "simulate_counts"
    if not isinstance(q, Tensor) or not q.is_floating_point():
        got = q.dtype if isinstance(q, Tensor) else type(q).__name__
        raise InputTypeError(f"{who}: expected q as a tensor of real floats, got {got}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputTypeError(f"{who}: seed must be an integer, got {seed!r}.")
    if not finite_number(electronic) or electronic < 0:
        raise InputError(f"{who}: electronic must be a number >= 0, got {electronic!r}.")
    integrals, blank, dark = _three(q.detach().cpu().double(), blank, dark, who)
    if not all(bool(torch.isfinite(values).all()) for values in (integrals, blank, dark)):
        raise InputError(
            f"{who}: q, blank or dark holds NaN or infinite values. Replace them first."
        )
    if bool((dark < 0).any()) or bool((blank < dark).any()):
        raise InputError(
            f"{who}: expected blank >= dark >= 0, in photons. Give the blank of a dead bin as its "
            "dark."
        )
    generator = torch.Generator().manual_seed(seed)
    counts = torch.poisson((blank - dark) * torch.exp(-integrals) + dark, generator=generator)
    if electronic:
        counts = counts + electronic * torch.randn(
            counts.shape, generator=generator, dtype=counts.dtype
        )
    return counts.to(dtype=q.dtype, device=q.device)


def _three(
    counts: Tensor, blank: Tensor | float, dark: Tensor | float, who: str
) -> tuple[Tensor, Tensor, Tensor]:
    """All three as floats on one device; blank and dark broadcast to the counts."""
    if not isinstance(counts, Tensor) or counts.is_complex() or counts.dtype == torch.bool:
        got = counts.dtype if isinstance(counts, Tensor) else type(counts).__name__
        raise InputTypeError(
            f"{who}: counts must be a tensor of real numbers (..., angles, detectors), got {got}."
        )
    if counts.ndim < 2 or counts.numel() == 0:
        raise InputError(
            f"{who}: counts must be (..., angles, detectors), not empty, got {tuple(counts.shape)}."
        )
    counts = counts.detach().to(torch.float64 if counts.dtype == torch.float64 else torch.float32)
    return counts, _field(blank, counts, "blank", who), _field(dark, counts, "dark", who)


def _field(value: Tensor | float, counts: Tensor, name: str, who: str) -> Tensor:
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bool:
        field = value.detach().to(counts)
    elif finite_number(value):
        field = counts.new_tensor(value)
    else:
        got = value.dtype if isinstance(value, Tensor) else repr(value)
        raise InputTypeError(
            f"{who}: {name} must be a finite number or a tensor of real numbers, got {got}."
        )
    shape, angles = tuple(counts.shape), counts.shape[-2]
    try:
        fits = torch.broadcast_shapes(field.shape, shape) == shape
    except RuntimeError:
        fits = False
    ambiguous = (
        field.ndim == 2 and counts.ndim > 2 and angles == counts.shape[-3] == field.shape[0] > 1
    )
    if not fits or ambiguous:
        wrong = "could be per slice or per angle of" if fits else "does not broadcast to"
        raise InputError(
            f"{who}: {name} of shape {tuple(field.shape)} {wrong} counts {shape}, (..., angles, "
            f"detectors). Give one value per detector, or {name}[:, None] for one field per slice, "
            f"{name}[None] for one value per angle."
        )
    return field


def _look(counts: Tensor, blank: Tensor, dark: Tensor, electronic: float, gain: float) -> None:
    """Raise or warn where the values, now in photons, are not counts."""
    brightest = float(torch.nan_to_num(blank - dark, nan=0.0, posinf=0.0, neginf=0.0).max())
    seen = torch.nan_to_num(counts, nan=0.0, posinf=0.0, neginf=0.0)
    if 0 < brightest < FEW:
        raise InputError(
            f"line_integrals: the open beam has {brightest:.3g} photons at most; these look like "
            "transmissions I / I0. Give counts, or gain = 1 / I0 with I0 photons in the open beam; "
            "for line integrals there is nothing to convert."
        )
    if (
        brightest >= 1000
        and float(seen.max()) <= 20
        and gain == 1
        and bool((seen != seen.round()).any())
    ):
        raise InputError(
            f"line_integrals: the counts are fractions up to {float(seen.max()):.3g} for an open "
            f"beam of {brightest:.3g}; they look like line integrals or transmissions already. If "
            "they are photons, round them."
        )
    negative = int((seen < 0).sum())
    if negative and electronic == 0 and not bool(dark.any()):
        warnings.warn(
            f"line_integrals: {negative} of {seen.numel()} counts are negative, with dark = 0 and "
            "electronic = 0; they are taken as 0 photons. Is a dark field missing, or was it "
            "subtracted twice?",
            stacklevel=3,
        )
