r"""Magnetic resonance imaging: Fourier sampling by one or several coils.

Images and data are complex, as two channels, the real and the imaginary part. The Fourier transform
F is unitary and centred, as in fastMRI and deepinv: low frequencies are in the middle of the data,
and the origin of the image is the pixel :math:`(\lfloor H/2 \rfloor, \lfloor W/2 \rfloor)`,

.. math::

    (F x)_{kl} = \frac{1}{\sqrt{HW}} \sum_{ij} x_{ij} \exp\Bigl(-2 \pi i \Bigl[
        \frac{(k - \lfloor H/2 \rfloor)(i - \lfloor H/2 \rfloor)}{H} +
        \frac{(l - \lfloor W/2 \rfloor)(j - \lfloor W/2 \rfloor)}{W} \Bigr]\Bigr).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import two_levels, weights_of
from pnp_mlpatch.operators._base import LinearOperator, Map, register
from pnp_mlpatch.operators._fourier import joined, middle, pair, transform
from pnp_mlpatch.operators._inputs import check_image_shape, check_seed, check_size

LINE_STREAM = 0x6C696E65  # added to seeds, so that lines and noise of one seed are independent
SHIFTED = 10.0  # of the power per sample at the corners to that in the middle: refused from here on
EMPTY = 0.25  # of the samples may be 0, as where scanners fill up the edges
LEAST = 16  # rows, columns and samples for which it is known
SHIFT = "torch.fft.fftshift({}, dim=(-2, -1))"


@register("mri")
class MRI(LinearOperator):
    r"""Masked Fourier samples of a complex image, seen by one or several coils.

    .. math:: (A x)_c = m \cdot F (s_c \cdot x)

    Images are (B, 2, H, W). Data are (B, 2, H, W) without ``maps``, else (B, coils, 2, H, W); they
    are 0 where nothing was sampled. The data step of one coil is exact, for any noise map:

    .. math:: (A^H A + \alpha)^{-1} b = F^H \left[ (m^2 + \alpha)^{-1} F b \right]

    Several coils take conjugate gradients, preconditioned by the diagonal of
    :math:`A^H A + \alpha`. It is :math:`\overline{m^2} \sum_c |s_c|^2 + \alpha`, with the mean of
    the squared mask.

    Parameters
    ----------
    mask : Tensor, shape (H, W)
        1 where the Fourier transform was sampled, else 0; or weights >= 0. Low frequencies are in
        the middle. Integers are 0 and 1, or 0 and 255, as in pictures.
    maps : Tensor, optional, shape (coils, H, W) complex or (coils, 2, H, W) real
        The sensitivity :math:`s_c` of each coil.

    Raises
    ------
    InputError
        If the mask has another rank, values that are not finite or negative, or only zeros; if the
        maps have another size, are not finite, or zero everywhere. Later, if low frequencies are at
        the corners of the data.
    InputTypeError
        If they are no such tensors.

    Warns
    -----
    UserWarning
        Later, if many data are 0 where the mask says that they were sampled, and others are not
        where it says so. If the mask looks as if its low frequencies were at the corners.

    Notes
    -----
    ``initial`` is the zero-filled image. For several coils it is combined by their sensitivities:

    .. math:: x_0 = \frac{\sum_c \bar s_c \cdot F^H q_c}{\sum_c |s_c|^2}

    deepinv's ``MultiCoilMRI`` has the same data with the two parts before the coils.

    Scale the data such that magnitudes are in [0, 1]. ``reconstruct`` adapts denoisers of grey
    images by :func:`~pnp_mlpatch.denoisers.complex_channels`.

    References
    ----------
    Pruessmann et al. 1999.
    """

    constructors = ("cartesian",)
    complex_image = True

    def __init__(self, mask: Tensor, maps: Tensor | None = None):
        mask = _checked_mask(mask)
        height, width = mask.shape
        if maps is not None:
            maps = _checked_maps(maps, (height, width)).to(mask.device)
        coils = () if maps is None else maps.shape[:1]
        super().__init__((2, height, width), (*coils, 2, height, width))
        self.mask: Tensor
        self.maps: Tensor | None
        self.register_buffer("mask", mask)
        self.register_buffer("maps", maps)
        self.row_orthonormal = maps is None and bool((mask == 1).all())

    @classmethod
    def cartesian(
        cls,
        image_shape: Sequence[int],
        acceleration: float,
        centre_fraction: float = 0.08,
        seed: int = 0,
    ) -> MRI:
        """Make the operator of one coil that samples random columns (:func:`cartesian_mask`).

        Parameters
        ----------
        image_shape : sequence of int
            (2, H, W).
        acceleration : float
            The number of columns over the number of those sampled, >= 1.
        centre_fraction : float
            The part of the columns, those in the middle, that are all sampled.
        seed : int
            Of the random numbers.

        Returns
        -------
        MRI
        """
        channels, height, width = check_image_shape("MRI.cartesian", image_shape)
        if channels != 2:
            raise InputError(
                "MRI.cartesian: image_shape must be (2, H, W), the real and the imaginary part, "
                f"got {tuple(image_shape)}."
            )
        return cls(cartesian_mask((height, width), acceleration, centre_fraction, seed))

    @classmethod
    def example(cls) -> MRI:
        return cls.cartesian((2, 6, 9), 2.0, centre_fraction=0.3, seed=1)

    @property
    def closed_form(self) -> bool:
        return self.maps is None

    # ---- hooks

    def _forward(self, x: Tensor) -> Tensor:
        return self.mask.to(x.dtype) * pair(transform(self._seen(x)))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._combined(self.mask.to(y.dtype) * y)

    def _seen(self, x: Tensor) -> Tensor:
        """Return the complex images that the coils see, (B, H, W) or (B, coils, H, W)."""
        return joined(x) if self.maps is None else self._maps(x.dtype) * joined(x)[:, None]

    def _combined(self, y: Tensor) -> Tensor:
        """Transform back, and add what all coils saw."""
        x = transform(joined(y), back=True)
        return pair(x if self.maps is None else (self._maps(y.dtype).conj() * x).sum(1))

    def _maps(self, dtype: torch.dtype) -> Tensor:
        return joined(torch.as_tensor(self.maps).to(dtype))

    def _inverse(self, alpha: Tensor) -> Map | None:
        return self._exact(self.mask.to(alpha.dtype), alpha) if self.closed_form else None

    def _precondition(self, alpha: Tensor) -> Map:
        return self._precondition_weighted(alpha, torch.ones_like(self.mask, dtype=alpha.dtype))

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map:
        weight = self.mask.to(alpha.dtype) * weight
        if self.maps is None:
            return self._exact(weight, alpha)
        means = weight.square().expand(*weight.shape[:-4], *self.data_shape).mean((-3, -2, -1))
        powers = self._maps(alpha.dtype).abs().square()
        inverse = 1 / ((means[..., None, None] * powers).sum(-3)[..., None, :, :] + alpha)
        return lambda r: r * inverse

    def _exact(self, weight: Tensor, alpha: Tensor) -> Map:
        """Return b -> F^H [(weight^2 + alpha)^-1 F b]."""
        values = weight.square() + alpha
        return lambda b: pair(transform(joined(pair(transform(joined(b))) / values), back=True))

    def _initial(self, q: Tensor) -> Tensor:
        mask = self.mask.to(q.dtype)
        self._check_sampled(q)
        q = torch.where(mask > 0, q / torch.where(mask > 0, mask, 1.0), 0.0)
        self._check_centre(q)
        x = self._combined(q)
        if self.maps is None:
            return x
        total = self._maps(q.dtype).abs().square().sum(0)
        floor = torch.finfo(q.dtype).eps * total.max()
        return torch.where(total > floor, x / total.clamp_min(floor), 0.0)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor:
        return q

    def _weighted(self, weight: Tensor) -> LinearOperator:
        if self.maps is not None:
            return super()._weighted(weight)
        other = MRI(torch.ones(self.image_shape[1:], device=self.mask.device))
        other.mask, other.row_orthonormal = self.mask * weight, False
        return other

    # ---- checks

    def _check_sampled(self, q: Tensor) -> None:
        """Warn if many samples are 0 where the mask has them, and others are where it has none."""
        found = (q.detach() != 0).any(-3).reshape(-1, *self.image_shape[1:]).any(0)
        seen = (self.mask > 0).reshape(-1, *self.image_shape[1:]).any(0)
        empty = float((seen & ~found).sum() / seen.sum())
        if empty > EMPTY and bool((found & ~seen).any()):
            warnings.warn(
                f"MRI: {empty:.0%} of the samples that the mask says were taken are 0, and there "
                "are others where it has none. Give the mask with which these data were taken.",
                stacklevel=5,
            )

    def _check_centre(self, q: Tensor) -> None:
        """Refuse data with low frequencies at the corners: more power there than in the middle."""
        if min(self.image_shape[1:]) < LEAST:
            return
        power = q.detach().double().square().sum(-3).reshape(-1, *self.image_shape[1:]).sum(0)
        sampled = (power > 0).double()
        inner, n_inner = (middle(v).sum() for v in (power, sampled))
        outer, n_outer = (middle(torch.fft.fftshift(v)).sum() for v in (power, sampled))
        if min(n_inner, n_outer) >= LEAST and outer / n_outer > SHIFTED * inner / n_inner:
            ratio = float(outer / n_outer / (inner / n_inner).clamp_min(1e-300))
            raise InputError(
                f"MRI: a sample at the corners of the data has {ratio:.3g} times the power of one "
                "in the middle, where low frequencies belong. If they are at the corners, as "
                f"torch.fft has them, give {SHIFT.format('q')}, and the same of the mask."
            )


def cartesian_mask(
    shape: Sequence[int], acceleration: float, centre_fraction: float = 0.08, seed: int = 0
) -> Tensor:
    """Return a mask of random columns, with all of those in the middle.

    Parameters
    ----------
    shape : sequence of int
        (H, W).
    acceleration : float
        W / acceleration columns are sampled, to the next integer; >= 1.
    centre_fraction : float
        The part of all columns in the middle that are sampled, in [0, 1 / acceleration]. At least
        one column is.
    seed : int
        Of the random numbers.

    Returns
    -------
    Tensor, shape (H, W)
        1 where it is sampled, else 0.

    Raises
    ------
    InputError
        For an acceleration below 1, or more columns in the middle than are sampled.
    """
    height, width = check_size("cartesian_mask", shape)
    if not finite_number(acceleration) or not 1 <= acceleration <= width:
        raise InputError(
            f"cartesian_mask: acceleration must be from 1 (all columns) to {width} (one of them), "
            f"got {acceleration!r}."
        )
    if not finite_number(centre_fraction) or not 0 <= centre_fraction <= 1:
        raise InputError(
            f"cartesian_mask: centre_fraction must be in [0, 1], got {centre_fraction!r}."
        )
    count, centre = round(width / acceleration), max(1, round(width * centre_fraction))
    if centre > count:
        raise InputError(
            f"cartesian_mask: {centre} columns in the middle are more than the {count} of {width} "
            f"that an acceleration of {acceleration:g} samples. Give a smaller centre_fraction."
        )
    first = width // 2 - centre // 2
    outside = torch.tensor([k for k in range(width) if not first <= k < first + centre])
    generator = torch.Generator().manual_seed(LINE_STREAM + check_seed("cartesian_mask", seed))
    lines = torch.zeros(width)
    lines[first : first + centre] = 1
    order = torch.randperm(len(outside), generator=generator)[: count - centre]
    lines[outside[order].long()] = 1
    return lines.expand(height, width).clone()


def _checked_mask(mask: Tensor) -> Tensor:
    """Return a mask in float64; warn if its low frequencies look as if they were at the corners."""
    if not isinstance(mask, Tensor) or mask.is_complex():
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise InputTypeError(
            f"MRI: the mask must be a real torch tensor (H, W), got {got}. Use torch.as_tensor."
        )
    if mask.ndim != 2 or mask.numel() == 0:
        raise InputError(
            f"MRI: the mask must have shape (H, W), got {tuple(mask.shape)}. "
            "Give columns as lines.expand(H, W)."
        )
    mask = weights_of(mask.detach(), "MRI: the mask").to(torch.float64).clone()
    if white := two_levels(mask):
        raise InputError(f"MRI: the mask holds floats 0 and {white:g}. Give mask > 0.")
    if not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0:
        raise InputError("MRI: mask values must be finite and >= 0 (0 = not sampled, 1 = sampled).")
    if not bool(mask.any()):
        raise InputError(
            "MRI: the mask is zero everywhere, so the data say nothing. "
            "Is it inverted? 1 means sampled."
        )
    if min(mask.shape) >= LEAST:
        seen = (mask > 0).double()
        inner, outer = (float(middle(m, 16).mean()) for m in (seen, torch.fft.fftshift(seen)))
        if outer == 1 and inner < 0.75:
            warnings.warn(
                f"MRI: the mask has all frequencies at its corners, and {inner:.0%} of those in "
                "its middle, where low frequencies belong. If they are at the corners, as "
                f"torch.fft has them, give {SHIFT.format('mask')}.",
                stacklevel=4,
            )
    return mask


def _checked_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the maps of coils as (coils, 2, H, W), float64."""
    shown = f"(coils, {size[0]}, {size[1]}) complex or (coils, 2, {size[0]}, {size[1]}) real"
    if not isinstance(maps, Tensor) or not (maps.is_complex() or maps.is_floating_point()):
        got = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise InputTypeError(f"MRI: maps must be a torch tensor {shown}, got {got}.")
    pairs = pair(maps) if maps.is_complex() and maps.ndim == 3 else maps
    if pairs.is_complex() or pairs.shape[1:] != (2, *size) or len(pairs) == 0:
        raise InputError(
            f"MRI: maps must have shape {shown}, the size of the mask, got {tuple(maps.shape)} "
            f"{maps.dtype}."
        )
    if not bool(torch.isfinite(pairs).all()) or not bool(pairs.any()):
        raise InputError("MRI: maps must be finite and not zero everywhere.")
    return pairs.detach().to(torch.float64).clone()
