"""Inpainting: only some pixels are seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import two_levels, weights_of
from pnp_mlpatch.linalg import laplacian, pcg
from pnp_mlpatch.operators._base import DecomposableOperator, register


@register("mask", needs=("scipy",))
class Mask(DecomposableOperator):
    """A x = mask * x, with a mask of zeros and ones (or of weights) of shape (H, W) or (C, H, W).

    Masks of integers hold 0 and 1, or 0 and 255, as pictures do; weights are floats.

    An (H, W) mask serves ``channels`` channels alike. The data have the shape of the image, zero where nothing is seen.
    ``initial`` fills the gaps smoothly (:func:`interpolate_gaps`): started from zeros, plug-and-play inpainting fails.

    Raises :class:`InputError` for another rank, for values that are not finite or negative, other integers, floats 0 and 255, and a
    mask of zeros only.
    """

    def __init__(self, mask: Tensor, channels: int = 1):
        if not isinstance(mask, Tensor):
            raise InputTypeError(
                f"Mask: the mask must be a torch tensor (H, W) or (C, H, W), got {type(mask).__name__}. Use torch.as_tensor."
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
                f"Mask: the mask holds floats 0 and {white:g}, which would scale the image. Give mask / {white:g}, or mask > 0."
            )
        if not bool(torch.isfinite(mask).all()) or float(mask.min()) < 0:
            raise InputError("Mask: mask values must be finite and >= 0 (0 = not seen, 1 = seen).")
        if not bool(mask.any()):
            raise InputError(
                "Mask: the mask is zero everywhere, so the data say nothing. Is it inverted? 1 means seen."
            )
        mask = mask.expand(channels, *mask.shape).clone() if mask.ndim == 2 else mask.clone()
        super().__init__(mask.shape, mask.shape)
        self.mask: Tensor
        self.register_buffer("mask", mask)

    @classmethod
    def example(cls) -> Mask:
        return cls(random_mask((6, 9), keep=0.4, seed=1), channels=2)

    def _d(self, dtype: torch.dtype) -> Tensor:
        return self.mask.to(dtype)

    def _initial(self, q: Tensor) -> Tensor:
        seen = self.mask > 0
        return interpolate_gaps(
            torch.where(seen, q / torch.where(seen, self.mask, 1.0), 0.0).to(q.dtype), seen
        )

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor:
        """As in ``initial``, for what is seen of each image."""
        mask = self.mask.to(q.dtype)
        x = torch.where(mask > 0, q / torch.where(mask > 0, mask, 1.0), 0.0)
        return mask * torch.cat(
            [interpolate_gaps(x[k : k + 1], seen[k] & (mask > 0)) for k in range(len(x))]
        )

    def _weighted(self, weight: Tensor) -> Mask:
        weighted = Mask(self.mask > 0)
        weighted.mask = self.mask * weight  # any weights: 1 / noise may be 255
        return weighted

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
        inverse = 1 / (
            (self.mask.to(alpha.dtype) * weight).square() + alpha
        )  # exact, for maps of each image
        return lambda r: r * inverse


def random_mask(shape: tuple[int, int], *, keep: float, seed: int = 0) -> Tensor:
    """A mask (H, W) of zeros and ones in which each pixel is kept with probability ``keep``.

    Its random numbers are others than those of a generator with the same seed, so noise drawn with that seed does not depend on
    which pixels are seen.
    """
    if not 0 < keep <= 1:
        raise InputError(f"random_mask: keep must be in (0, 1], got {keep}.")
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(0x6D61736B + seed)) < keep
    ).float()


def interpolate_gaps(x: Tensor, seen: Tensor, *, tol: float = 1e-3, max_iter: int = 500) -> Tensor:
    """Fill the pixels of x (B, C, H, W) where ``seen`` (C, H, W) is false with the smoothest continuation of the seen ones.

    It minimises |Laplacian u|^2 with u = x at the seen pixels (the biharmonic interpolation), by conjugate gradients from the
    nearest seen pixels; thousands of small gaps take some fifteen steps. A channel in which nothing is seen is filled with the
    mean of what is seen of the image.
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
