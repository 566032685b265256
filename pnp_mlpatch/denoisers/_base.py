"""What a denoiser is, and the checks that every denoiser of this package starts with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.registry import Registry

registry = Registry("denoiser", package="pnp_mlpatch.denoisers")
register = registry.register


@runtime_checkable
class Denoiser(Protocol):
    """Any callable ``D(x, sigma)`` that denoises ``x = clean + sigma * white Gaussian noise``.

    ``x`` is a real tensor (B, C, H, W), any H and W. ``sigma`` is the standard deviation of the
    noise in the units of ``x``, a float or a tensor of shape (B,). The result has the shape, dtype
    and device of ``x``. ``x`` is not changed, and the same call gives the same result. Every
    deepinv denoiser fits.
    """

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor: ...


@dataclass(frozen=True)
class DenoiserInfo:
    """What is known of a denoiser; None where a fact is not known.

    Parameters
    ----------
    name : str
    channels : int, optional
        None also for denoisers of any number of channels.
    sigma : str
        How the noise level is used: "input" (one model for a range of levels), "ignored" (a blind
        or single-level model) or "unknown".
    sigma_range : tuple of two floats, optional
        The trained range, in the units of the image.
    field : int, optional
        The output at a pixel depends on input pixels at most so many rows or columns away.
    trained_size : tuple of two ints, optional
        Height and width of the training images.
    """

    name: str
    channels: int | None = None
    sigma: str = "unknown"
    sigma_range: tuple[float, float] | None = None
    field: int | None = None
    trained_size: tuple[int, int] | None = None


def check_image(x: Tensor, who: str, channels: int | None = None) -> None:
    """Check the image that a denoiser is given.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        float32 or float64, with at least one pixel.
    who : str
        The name of the denoiser, for messages.
    channels : int, optional
        The channels that it must have.

    Raises
    ------
    InputTypeError
        If it is no such tensor.
    InputError
        If its shape does not fit.
    """
    if not isinstance(x, Tensor):
        raise InputTypeError(
            f"{who}: the image must be a torch tensor of shape (B, C, H, W), "
            f"got {type(x).__name__}. For a numpy function or array see as_denoiser."
        )
    if x.device.type == "meta":
        raise InputTypeError(
            f"{who}: the image is a meta tensor, which has no values. Make it on a device."
        )
    if not x.is_floating_point() or x.dtype in (torch.float16, torch.bfloat16):
        raise InputTypeError(
            f"{who}: the image must be float32 or float64, got {x.dtype}. "
            "Convert it first, e.g. x.float() / 255 for 8-bit values."
        )
    if x.ndim != 4 or 0 in x.shape:
        raise InputError(
            f"{who}: the image must have shape (B, C, H, W) with no empty axis, "
            f"got {tuple(x.shape)}. Add axes with x[None, None] for one grey image."
        )
    if channels is not None and x.shape[1] != channels:
        raise InputError(
            f"{who}: this denoiser has {channels} channel(s), the image has {x.shape[1]}. "
            "Use per_channel(D) to run a one-channel denoiser on every channel."
        )


def sigma_column(
    sigma: float | Tensor, x: Tensor, who: str, largest: float | None = None, *, maps: bool = False
) -> Tensor:
    """Check a noise level and bring it into the shape in which it meets the image.

    Parameters
    ----------
    sigma : float or Tensor, shape (B,)
        With ``maps`` also (B, 1, H, W) or (1, 1, H, W).
    x : Tensor, shape (B, C, H, W)
        The image, checked.
    who : str
        The name of the denoiser, for messages.
    largest : float, optional
        The top of its noise range.
    maps : bool
        Whether maps are allowed.

    Returns
    -------
    Tensor, shape (B, 1, 1, 1) or (B, 1, H, W)
        In the dtype and on the device of ``x``.

    Raises
    ------
    InputError, InputTypeError
        Unless it is finite, >= 0 and in range, and its shape fits.
    """
    column = _column(sigma, x, who, maps)
    if torch.compiler.is_compiling():
        return column
    if isinstance(sigma, Tensor):
        low, high = _extent(column.detach(), who)
    else:
        low = high = float(sigma)
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
        raise InputError(f"{who}: sigma must be finite and >= 0, got {low if low < 0 else high:g}.")
    if largest is not None and high > largest * (1 + 1e-4):
        raise InputError(
            f"{who}: sigma = {high:.4g} is above the trained range 0 to {largest:.4g}. Sigma is a "
            "standard deviation in the units of the image; if the image is not in [0, 1], use "
            "rescaled(D, scale, offset)."
        )
    return column


def _column(sigma: float | Tensor, x: Tensor, who: str, maps: bool) -> Tensor:
    """Bring the noise level into shape; its values are not checked."""
    batch = x.shape[0]
    if not isinstance(sigma, Tensor):
        try:
            return x.new_full((1, 1, 1, 1), float(sigma)).expand(batch, 1, 1, 1)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"{who}: sigma must be a number or a tensor of shape (B,), got {sigma!r}."
            ) from error
    if sigma.is_complex() or sigma.dtype == torch.bool:
        raise InputTypeError(f"{who}: sigma must be real, got {sigma.dtype}.")
    if maps and sigma.shape in {(n, 1, *x.shape[2:]) for n in (1, batch)}:
        return sigma.to(x).expand(batch, -1, -1, -1)
    if sigma.numel() not in (1, batch) or sum(n != 1 for n in sigma.shape) > 1:
        size = f" A map must have shape ({batch}, 1, {x.shape[2]}, {x.shape[3]})." if maps else ""
        raise InputError(
            f"{who}: sigma must be a number or a tensor of shape ({batch},), one level an image, "
            f"got shape {tuple(sigma.shape)}.{size}"
        )
    return sigma.to(x).reshape(-1, 1, 1, 1).expand(batch, 1, 1, 1)


def _extent(sigma: Tensor, who: str) -> tuple[float, float]:
    """Return the least and the largest value; both are NaN where one is."""
    try:
        low, high = torch.stack(torch.aminmax(sigma)).tolist()  # a GPU is waited for once
    except RuntimeError as error:
        raise InputTypeError(
            f"{who}: the values of sigma cannot be read, which torch.vmap does not allow. "
            "Give a number, or a batch of images and one sigma for each, without vmap."
        ) from error
    return low, high
