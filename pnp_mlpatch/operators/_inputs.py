"""What the public methods of operators check before they call a hook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of

if TYPE_CHECKING:
    from pnp_mlpatch.operators._base import LinearOperator


def check_image_shape(who: str, image_shape: Any) -> tuple[int, int, int]:
    """Return ``image_shape`` as a tuple (C, H, W); raise :class:`InputError` if it is not one.

    Parameters
    ----------
    who : str
        Who takes it, for messages.
    image_shape : sequence of int
        (C, H, W).

    Returns
    -------
    tuple of int
    """
    if (
        not isinstance(image_shape, Sequence)
        or len(image_shape) != 3
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in image_shape)
    ):
        raise InputError(
            f"{who}: image_shape must be (C, H, W), three integers >= 1, got {image_shape!r}."
        )
    channels, height, width = image_shape
    return channels, height, width


def check_seed(who: str, seed: Any) -> int:
    """Return ``seed``; raise :class:`InputError` if it is no integer from 0 to 2^31 - 1.

    Parameters
    ----------
    who : str
        Who takes it, for messages.
    seed : int
        The seed.

    Returns
    -------
    int
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise InputError(f"{who}: seed must be an integer from 0 to {2**31 - 1}, got {seed!r}.")
    return seed


def check_size(who: str, shape: Any) -> tuple[int, int]:
    """Return ``shape`` as a tuple (H, W); raise :class:`InputError` if it is not one.

    Parameters
    ----------
    who : str
        Who takes it, for messages.
    shape : sequence of int
        (H, W).

    Returns
    -------
    tuple of int
    """
    try:
        _, height, width = check_image_shape(who, (1, *shape))
    except (TypeError, InputError) as error:
        raise InputError(
            f"{who}: shape must be (H, W), two integers >= 1, got {shape!r}."
        ) from error
    return height, width


def check_tensor(A: LinearOperator, x: Any, kind: str, call: str, expected: str) -> None:
    r"""Raise :class:`InputError` or :class:`InputTypeError` unless x is a batch for A.

    Parameters
    ----------
    A : LinearOperator
        The operator.
    x : object
        What should be a tensor (B, C, H, W) or (B, \*data_shape).
    kind : {"image", "data"}
        Which of the two.
    call : str
        The call to name in messages.
    expected : str
        What to call x in messages.
    """
    who = f"{A._who()}: {call}"
    if not isinstance(x, Tensor):
        raise InputTypeError(
            f"{who} takes a torch tensor of {expected}, got {type(x).__name__}. "
            "Convert with torch.as_tensor."
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise InputTypeError(
            f"{who} takes float32 or float64, got {x.dtype}. "
            "Convert it first, e.g. with .float(); complex values travel as two channels: "
            "torch.view_as_real(x).movedim(-1, -3)."
        )
    shape = A.image_shape if kind == "image" else A.data_shape
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
        raise InputError(
            f"{who} takes {expected} of shape (B, {', '.join(map(str, shape))}), "
            f"got {tuple(x.shape)}.{_hint(A, x, kind, shape)}"
        )
    if x.shape[0] == 0:
        raise InputError(f"{who} got an empty batch.")
    if x.device != A.device and any(True for _ in A.buffers()):
        raise InputError(
            f"{who}: the tensor is on {x.device}, the operator on {A.device}. "
            "Move one with .to(device)."
        )
    if x.device.type == "meta":
        raise InputTypeError(
            f"{who} takes {expected} with values, got a meta tensor, which has none. "
            "Make it on a device."
        )


def _hint(A: LinearOperator, x: Tensor, kind: str, shape: tuple[int, ...]) -> str:
    """Return the likely mistake behind a wrong shape, as a sentence; or nothing."""
    got = tuple(x.shape[1:])
    if tuple(x.shape) == shape:
        return " Add the batch axis: x[None]."
    if kind == "image" and got == A.data_shape:
        return " This is the shape of the data; use A.adjoint."
    if kind == "data" and got == A.image_shape:
        return " This is the shape of the image; use A(x)."
    if len(shape) > 1 and got == (*shape[:-2], shape[-1], shape[-2]):
        return " The last two axes look transposed."
    return ""


def alpha_column(A: LinearOperator, alpha: float | Tensor, z: Tensor) -> Tensor:
    """Return ``alpha`` as a tensor (1, 1, 1, 1) or (B, 1, 1, 1).

    Parameters
    ----------
    A : LinearOperator
        The operator, for messages.
    alpha : float or Tensor, shape (B,)
        Finite and > 0.
    z : Tensor, shape (B, C, H, W)
        Its dtype, device and batch size are taken.

    Returns
    -------
    Tensor
    """
    who = f"{A._who()}.data_step"
    try:
        column = torch.as_tensor(alpha, dtype=z.dtype, device=z.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{who}: alpha must be a number or a tensor (B,), got {alpha!r}."
        ) from error
    if column.numel() not in (1, z.shape[0]):
        raise InputError(
            f"{who}: alpha must be a number or of shape ({z.shape[0]},), got {tuple(column.shape)}."
        )
    try:
        # looked at where it is: nobody waits for a GPU if that is the host
        seen = torch.as_tensor(alpha, dtype=z.dtype).detach()
        good = bool(((seen > 0) & torch.isfinite(seen)).all())
    except RuntimeError as error:
        raise InputTypeError(
            f"{who}: the values of alpha cannot be read, which torch.vmap does not allow. "
            "Give a number, or a batch of images and one alpha for each, without vmap."
        ) from error
    if not good:
        raise InputError(f"{who}: alpha must be finite and > 0, got {alpha!r}.")
    return column.reshape(-1, 1, 1, 1)


def check_weight(A: LinearOperator, weight: Any) -> Tensor:
    r"""Return ``weight`` in the shape of the data, or of a batch of them.

    Parameters
    ----------
    A : LinearOperator
        The operator whose data are weighted.
    weight : Tensor
        Real, finite, >= 0, not all zero; broadcasts to data_shape or is (B, \*data_shape).

    Returns
    -------
    Tensor, shape data_shape or (B, \*data_shape)
        On the device of the buffers of A.
    """
    who = f"{A._who()}.weighted"
    if not isinstance(weight, Tensor) or weight.is_complex():
        got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise InputTypeError(f"{who}: the weight must be a real torch tensor, got {got}.")
    weight = weights_of(weight, who)
    if any(True for _ in A.buffers()):
        weight = weight.to(A.device)
    batch = weight.shape[:1] if weight.ndim == len(A.data_shape) + 1 else ()
    try:
        weight = torch.broadcast_to(weight.detach(), (*batch, *A.data_shape))
    except RuntimeError as error:
        raise InputError(
            f"{who}: a weight of shape {tuple(weight.shape)} does not broadcast "
            f"to data {A.data_shape}."
        ) from error
    if batch == (1,):
        weight = weight[0]
    if not bool(torch.isfinite(weight).all()) or float(weight.min()) < 0 or not bool(weight.any()):
        raise InputError(f"{who}: weights must be finite, >= 0 and not all zero.")
    return weight
