"""The base of the wrappers, what is known of a denoiser, and the check of its results."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pnp_mlpatch.denoisers._base import Denoiser, DenoiserInfo
from pnp_mlpatch.errors import InputError, InputTypeError


def describe(D: Any) -> DenoiserInfo:
    """Return what a denoiser says of itself.

    Parameters
    ----------
    D : Denoiser

    Returns
    -------
    DenoiserInfo
        ``D.info``, or one with a name and nothing more.
    """
    info = getattr(D, "info", None)
    return (
        info
        if isinstance(info, DenoiserInfo)
        else DenoiserInfo(name=getattr(D, "__name__", type(D).__name__))
    )


def fingerprint(D: Any) -> dict[str, Any]:
    """Return what tells a denoiser from others, to recognise it in a later run.

    Parameters
    ----------
    D : Denoiser

    Returns
    -------
    dict
        The name; the settings, of wrappers too, from the outside in; for a module the sha256 of its
        tensors. All are JSON values.
    """
    found: dict[str, Any] = {"name": describe(D).name}
    settings = []
    while True:
        plain = (
            D.settings
            if isinstance(D, Wrapper)
            else {}
            if isinstance(D, nn.Module)
            else getattr(D, "__dict__", {})
        )
        settings.append(
            {
                key: value
                for key, value in plain.items()
                if isinstance(value, (bool, int, float, str))
            }
        )
        if not isinstance(D, Wrapper):
            break
        D = D.inner
    if any(settings):
        found["settings"] = settings
    if isinstance(D, nn.Module):
        digest = hashlib.sha256()
        for name, tensor in sorted(nn.Module.state_dict(D).items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        found["sha256"] = digest.hexdigest()
    return found


class Wrapper(nn.Module):
    """A denoiser made of another one.

    Parameters
    ----------
    D : Denoiser
        What is wrapped, kept as ``inner``. It need not be a module.
    who : str
        The name of the wrapper, for messages and for the name of the denoiser.

    Raises
    ------
    InputTypeError
        If ``D`` cannot be called.
    """

    def __init__(self, D: Denoiser, who: str):
        super().__init__()
        if not callable(D):
            raise InputTypeError(
                f"{who}: the denoiser must be callable as D(x, sigma), got {D!r}. "
                "Make one of a name with as_denoiser(name)."
            )
        self.inner: Any = D
        self.known = describe(D)
        self.settings: dict[str, Any] = {}
        self.tell(replace(self.known, name=f"{who} {self.known.name}".strip()))
        self.training = getattr(D, "training", False)  # what is wrapped stays as it is

    def tell(self, info: DenoiserInfo) -> None:
        """Set what is known of the denoiser.

        Parameters
        ----------
        info : DenoiserInfo
        """
        self.info = info
        self.__name__ = info.name

    def __repr__(self) -> str:
        return f"<denoiser {self.info.name}>"


def checked_result(y: Any, x: Tensor, name: str) -> Tensor:
    """Return the result ``y`` of a denoiser in the dtype of the image ``x``, checked."""
    if not isinstance(y, Tensor):
        raise InputTypeError(
            f"denoiser {name}: expected a tensor back, got {type(y).__name__}. "
            "For numpy functions say as_denoiser(..., array='numpy')."
        )
    if not y.is_floating_point():
        raise InputTypeError(not_real(name, "complex" if y.is_complex() else str(y.dtype)))
    if y.shape != x.shape:
        raise InputError(
            f"denoiser {name}: expected shape {tuple(x.shape)} back, got {tuple(y.shape)}. "
            "One-channel denoisers go through per_channel(...)."
        )
    if y.device != x.device:
        raise InputError(
            f"denoiser {name}: expected the result on {x.device}, got {y.device}. "
            "Move the model there first."
        )
    return y.to(x.dtype)


def not_real(name: str, kind: str) -> str:
    """Say that a denoiser returned integers or complex numbers."""
    if "int" in kind or "bool" in kind:
        return (
            f"denoiser {name}: expected real floating numbers in the units of the image back, "
            f"got {kind} values. Integers lose what is between them: convert the result of such a "
            "filter to the range of the image."
        )
    return f"denoiser {name}: expected real floating numbers back, got {kind} values."
