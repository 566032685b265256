"""A shear map and its noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing.units import radians


@dataclass(frozen=True, eq=False)
class ShearMap:
    r"""A shear map and its noise, on square pixels of the tangent plane.

    With ``flip_ra`` the shear is given along (right ascension, declination), but right ascension
    falls along the columns (or declination along the rows). Then

    .. math:: \gamma_1 = \gamma_1^{(column, row)}, \qquad \gamma_2 = -\gamma_2^{(column, row)}.

    Pixels whose shear is NaN or infinite become unseen, with a warning.

    Parameters
    ----------
    gamma : Tensor, shape (2, H, W)
        The shear, or the reduced shear. It is kept as float64, 0 where unseen.
    noise : Tensor, shape (H, W)
        Standard deviation of each component, > 0; infinite where nothing was measured.
    pixel : str
        Side of a pixel with its unit, such as "0.293 arcmin".
    flip_ra : bool
        Whether right ascension falls along the columns.
    header : str
        Cards of the FITS header, WCS and others, one a line. They are written with the output.
    binned : bool
        Whether it was made from a catalogue. Messages then name the flags of a catalogue.

    Raises
    ------
    InputError
        If shapes do not fit, the noise is NaN or not positive, the shear is more than 6 standard
        deviations above 1, or no pixel is measured.
    InputTypeError
        If an argument has another type.
    """

    gamma: Tensor
    noise: Tensor
    pixel: str
    flip_ra: bool = False
    header: str = field(default="", repr=False)
    binned: bool = False

    def __post_init__(self) -> None:
        _check_arguments(self)
        gamma, noise = self.gamma.detach().double(), self.noise.detach().double()
        finite = torch.isfinite(gamma).all(0)
        lost = int((~finite & torch.isfinite(noise)).sum())
        noise = torch.where(finite, noise, torch.inf)
        seen = torch.isfinite(noise)
        gamma = torch.where(seen, gamma, 0.0)
        _check_values(gamma, noise)
        if lost:
            warnings.warn(
                f"ShearMap: the shear of {lost} pixels is NaN or infinite; "
                "they count as not measured.",
                stacklevel=3,
            )
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "noise", noise)

    @property
    def seen(self) -> Tensor:
        """Mask (H, W), True where the shear was measured."""
        return torch.isfinite(self.noise)


def _check_arguments(shear: ShearMap) -> None:
    gamma, noise = shear.gamma, shear.noise
    if not all(isinstance(x, Tensor) and not x.is_complex() for x in (gamma, noise)):
        raise InputTypeError(
            "ShearMap: gamma and noise must be real tensors, (2, H, W) and (H, W)."
        )
    whole = gamma.ndim == 3 and gamma.shape[0] == 2 and noise.numel() > 0
    if not whole or noise.shape != gamma.shape[1:]:
        raise InputError(
            "ShearMap: expected gamma (2, H, W) and noise (H, W), got "
            f"{tuple(gamma.shape)} and {tuple(noise.shape)}."
        )
    if not isinstance(shear.pixel, str):
        raise InputTypeError(
            "ShearMap: pixel must be a text with its unit, such as '0.29 arcmin', "
            f"got {shear.pixel!r}."
        )
    radians(shear.pixel, "ShearMap: pixel")
    if not isinstance(shear.flip_ra, bool) or not isinstance(shear.header, str):
        raise InputTypeError("ShearMap: flip_ra must be True or False, and header a text.")


def _check_values(gamma: Tensor, noise: Tensor) -> None:
    if bad := int((~(noise > 0)).sum()):
        raise InputError(
            f"ShearMap: the noise of {bad} pixels is NaN or not > 0. Give standard deviations > 0, "
            "infinite where nothing was measured, or a mask that leaves these pixels out."
        )
    seen = torch.isfinite(noise)
    if not bool(seen.any()):
        raise InputError(
            "ShearMap: no pixel is measured. Check the mask (not 0 = seen) and the noise "
            "(infinite = not measured)."
        )
    size = torch.hypot(gamma[0], gamma[1])
    if too_large := int((seen & (size > 1 + 6 * noise)).sum()):
        raise InputError(
            f"ShearMap: in {too_large} pixels the shear is far beyond 1 (up to "
            f"{float(size.max()):.4g}), which no shear is. Is it in per cent? If it marks pixels "
            "without data, mask them or make them NaN."
        )
