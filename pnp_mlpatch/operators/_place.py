"""Where an operator computes that has no buffers: where the data are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from pnp_mlpatch.errors import InputError

_data: ContextVar[torch.device | None] = ContextVar("device of the data", default=None)


@contextmanager
def data_on(device: torch.device | str | None) -> Iterator[None]:
    """Let operators without buffers compute on a device, within this block.

    Parameters
    ----------
    device : torch.device, str or None
        Where the data are; None changes nothing.
    """
    token = _data.set(_data.get() if device is None else torch.device(device))
    try:
        yield
    finally:
        _data.reset(token)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the buffers; without any that of :func:`data_on`, else the CPU.

    Parameters
    ----------
    module : torch.nn.Module
        An operator.

    Returns
    -------
    torch.device
    """
    given = _data.get()
    return next((b.device for b in module.buffers()), given or torch.device("cpu"))


@contextmanager
def same_place(who: str, x: Tensor) -> Iterator[None]:
    """Raise :class:`InputError` where an operator holds tensors on another device than x.

    Parameters
    ----------
    who : str
        The operator, for the message.
    x : Tensor
        What it is applied to.
    """
    try:
        yield
    except RuntimeError as error:
        if "same device" not in str(error):
            raise
        raise InputError(
            f"{who}: it was applied to a tensor on {x.device}, and holds tensors on another "
            "device. Say which: from_functions(..., device='cuda'), a buffer in a class of your "
            "own, or operators.data_on('cuda') around the call."
        ) from error
