"""Inpainting: only some pixels are seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import two_levels, weights_of
from pnp_mlpatch.linalg import laplacian, pcg
from pnp_mlpatch.operators._base import Map, register
from pnp_mlpatch.operators._decomposable import DecomposableOperator
from pnp_mlpatch.operators._inputs import check_image_shape, check_seed, check_size

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")  # of a colour filter array
MASK_STREAM = 0x6D61736B  # added to seeds, so that masks and noise of one seed are independent


@register("mask", needs=("scipy",))
class Mask(DecomposableOperator):
    """Multiplication by a mask: A x = mask * x, zero where nothing is seen.

    ``initial`` fills the gaps smoothly (:func:`interpolate_gaps`); plug-and-play inpainting that
    starts from zeros fails.

    Parameters
    ----------
    mask : Tensor, shape (H, W) or (C, H, W)
        Zeros and ones, or weights >= 0. Integers are 0 and 1, or 0 and 255, as in pictures.
    channels : int
        The number of channels that an (H, W) mask serves alike.

    Raises
    ------
    InputError
        If the mask has another rank, values that are not finite or negative, other integers, floats
        0 and 255, or only zeros.
    InputTypeError
        If the mask is not a real tensor.
    """

    constructors = ("random", "bayer")

    def __init__(self, mask: Tensor, channels: int = 1):
        if not isinstance(mask, Tensor):
            raise InputTypeError(
                "Mask: the mask must be a torch tensor (H, W) or (C, H, W), "
                f"got {type(mask).__name__}. Use torch.as_tensor."
            )
        if mask.ndim not in (2, 3) or mask.numel() == 0:
            raise InputError(
                f"Mask: the mask must have shape (H, W) or (C, H, W), got {tuple(mask.shape)}."
            )
        if mask.is_complex():
            raise InputTypeError("Mask: the mask must be real.")
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise InputError(f"Mask: channels must be an integer >= 1, got {channels!r}.")
        if mask.ndim == 3 and channels not in (1, mask.shape[0]):
            raise InputError(
                f"Mask: the mask has {mask.shape[0]} channels, but channels={channels}."
            )
        mask = weights_of(mask.detach(), "Mask").to(torch.float64)
        if white := two_levels(mask):
            raise InputError(
                f"Mask: the mask holds floats 0 and {white:g}, which would scale the image. "
                f"Give mask / {white:g}, or mask > 0."
            )
        if not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0:
            raise InputError("Mask: mask values must be finite and >= 0 (0 = not seen, 1 = seen).")
        if not bool(mask.any()):
            raise InputError(
                "Mask: the mask is zero everywhere, so the data say nothing. "
                "Is it inverted? 1 means seen."
            )
        mask = mask.expand(channels, *mask.shape).clone() if mask.ndim == 2 else mask.clone()
        super().__init__(mask.shape, mask.shape)
        self.mask: Tensor
        self.register_buffer("mask", mask)

    @classmethod
    def random(cls, image_shape: Sequence[int], keep: float, seed: int = 0) -> Mask:
        """Make a mask in which each pixel is seen with probability ``keep``, in all channels alike.

        Parameters
        ----------
        image_shape : sequence of int
            (C, H, W).
        keep : float
            In (0, 1].
        seed : int
            Of the random numbers.

        Returns
        -------
        Mask
        """
        channels, height, width = check_image_shape("Mask.random", image_shape)
        return cls(random_mask((height, width), keep=keep, seed=seed), channels)

    @classmethod
    def bayer(cls, image_shape: Sequence[int], pattern: str = "RGGB") -> Mask:
        """Make the mask of a colour filter array: each pixel is seen in one of three channels.

        Parameters
        ----------
        image_shape : sequence of int
            (3, H, W), with channels red, green, blue.
        pattern : str
            The filters of the pixels (0, 0), (0, 1), (1, 0), (1, 1): "RGGB", "BGGR", "GRBG" or
            "GBRG".

        Returns
        -------
        Mask

        Raises
        ------
        InputError
            For another number of channels, or another pattern.

        References
        ----------
        Bayer 1976, US patent 3971065.
        """
        channels, height, width = check_image_shape("Mask.bayer", image_shape)
        if channels != 3:
            raise InputError(
                f"Mask.bayer: a colour filter array has 3 channels, got image_shape={image_shape}."
            )
        if pattern not in PATTERNS:
            raise InputError(
                f"Mask.bayer: pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}."
            )
        mask = torch.zeros(3, height, width)
        for k, colour in enumerate(pattern):
            mask["RGB".index(colour), k // 2 :: 2, k % 2 :: 2] = 1
        return cls(mask)

    @classmethod
    def example(cls) -> Mask:
        return cls(random_mask((6, 9), keep=0.4, seed=1), channels=2)

    def _d(self, dtype: torch.dtype) -> Tensor:
        return self.mask.to(dtype)

    def _initial(self, q: Tensor) -> Tensor:
        seen = self.mask > 0
        x = torch.where(seen, q / torch.where(seen, self.mask, 1.0), 0.0)
        return interpolate_gaps(x.to(q.dtype), seen)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor:
        """As in ``initial``, for what is seen of each image."""
        mask = self.mask.to(q.dtype)
        x = torch.where(mask > 0, q / torch.where(mask > 0, mask, 1.0), 0.0)
        filled = [interpolate_gaps(x[k : k + 1], seen[k] & (mask > 0)) for k in range(len(x))]
        return mask * torch.cat(filled)

    def _weighted(self, weight: Tensor) -> Mask:
        weighted = Mask(self.mask > 0)
        weighted.mask = self.mask * weight  # any weights: 1 / noise may be 255
        return weighted

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map:
        # exact, for one map for each image
        inverse = 1 / ((self.mask.to(alpha.dtype) * weight).square() + alpha)
        return lambda r: r * inverse


def random_mask(shape: tuple[int, int], *, keep: float, seed: int = 0) -> Tensor:
    """Return a mask in which each pixel is 1 with probability ``keep``, else 0.

    Its random numbers differ from those of a generator with the same seed, so noise that is drawn
    with that seed does not depend on which pixels are seen.

    Parameters
    ----------
    shape : tuple of int
        (H, W).
    keep : float
        In (0, 1].
    seed : int
        Of the random numbers.

    Returns
    -------
    Tensor, shape (H, W)
    """
    shape = check_size("random_mask", shape)
    if not finite_number(keep) or not 0 < keep <= 1:
        raise InputError(f"random_mask: keep must be in (0, 1], got {keep!r}.")
    generator = torch.Generator().manual_seed(MASK_STREAM + check_seed("random_mask", seed))
    return (torch.rand(shape, generator=generator) < keep).float()


def interpolate_gaps(x: Tensor, seen: Tensor, *, tol: float = 1e-3, max_iter: int = 500) -> Tensor:
    r"""Fill the pixels that are not seen with the smoothest continuation of those that are.

    .. math:: \min_u |\Delta u|^2 \quad \text{with } u = x \text{ at the seen pixels}

    (biharmonic interpolation), by conjugate gradients from the nearest seen pixels; thousands of
    small gaps take about fifteen steps. A channel in which nothing is seen is filled with the mean
    of what is seen of the image.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    seen : Tensor of bool, shape (C, H, W)
        Where x is known.
    tol : float
        Stop at this relative residual.
    max_iter : int
        Stop after so many steps.

    Returns
    -------
    Tensor, shape (B, C, H, W)
    """
    ndimage = require("scipy.ndimage", "Interpolating the missing pixels")
    x = x.detach()
    start = torch.empty_like(x)
    for c in range(x.shape[1]):
        if not bool(seen[c].any()):
            start[:, c] = x[:, seen].mean(dim=1)[:, None, None]
            continue
        rows, cols = ndimage.distance_transform_edt(
            (~seen[c]).cpu().numpy(), return_distances=False, return_indices=True
        )
        start[:, c] = x[
            :, c, torch.from_numpy(rows).to(x.device), torch.from_numpy(cols).to(x.device)
        ]
    gap = (~seen & seen.flatten(1).any(dim=1)[:, None, None]).to(x.dtype)

    def energy(u: Tensor) -> Tensor:
        return gap * laplacian(laplacian(gap * u)) + (1 - gap) * u

    fixed = (1 - gap) * start
    filled, _ = pcg(
        energy, -gap * laplacian(laplacian(fixed)), gap * start, tol=tol, max_iter=max_iter
    )
    return fixed + gap * filled
