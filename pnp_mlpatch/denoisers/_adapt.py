"""Callables as denoisers, and wrappers that fit a denoiser to other images.

Every wrapper is a module that holds the denoiser as ``inner``. It is copied and pickled with it,
has its ``parameters()``, and ``.to`` moves both.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pnp_mlpatch.denoisers._base import Denoiser, check_image, registry, sigma_column
from pnp_mlpatch.denoisers._wrapper import Wrapper, checked_result, not_real
from pnp_mlpatch.errors import InputError, InputTypeError

_EXAMPLES = (
    "as_denoiser('tv'); as_denoiser(net, sigma='ignored') for a module called as net(x); "
    "as_denoiser(f, array='numpy') for a numpy function f(image, sigma) of one (H, W) or "
    "(H, W, C) image"
)


def as_denoiser(D: Any, *, sigma: str | None = None, array: str = "torch") -> Denoiser:
    """Make a denoiser ``D(x, sigma)`` of a name, a module, a deepinv model, or a function.

    The result of every call is checked: real floating numbers in the shape of the image. A module
    gets images in the precision of its weights, and its result the dtype of the image. Put a module
    in evaluation mode first.

    Parameters
    ----------
    D : str or callable
        A name of the registry, a module, or a function of a tensor (B, C, H, W) or a numpy image.
    sigma : str, optional
        How the noise level is passed: "input" (second argument), "map" (second argument, as a map
        (B, 1, H, W)) or "ignored" (D is called as D(x)). By default it is read from the signature:
        one required argument means "ignored", two mean "input".
    array : str
        "torch", or "numpy" for a function of one numpy image, float64, (H, W) for one channel and
        (H, W, C) for more, and a float sigma. Each image of a batch is passed by itself.

    Returns
    -------
    Denoiser
        A module that holds ``D`` as ``inner``, or what the registry makes of a name.

    Raises
    ------
    InputTypeError
        If the signature does not tell how to call ``D``. Later, if ``D`` returns anything but real
        floating numbers.

    Examples
    --------
    >>> from pnp_mlpatch.denoisers import as_denoiser
    >>> D = as_denoiser(lambda x, sigma: x / (1 + sigma**2))
    """
    return registry.make(D) if isinstance(D, str) else Adapted(D, sigma, array)


class Adapted(Wrapper):
    """What :func:`as_denoiser` makes of a callable."""

    def __init__(self, D: Any, sigma: str | None, array: str):
        if not callable(D):
            raise InputTypeError(
                f"as_denoiser: expected a name or a callable, got {type(D).__name__}. "
                f"Examples: {_EXAMPLES}."
            )
        if array not in ("torch", "numpy"):
            raise InputError(f"as_denoiser: array must be 'torch' or 'numpy', got {array!r}.")
        if sigma not in (None, "input", "map", "ignored"):
            raise InputError(
                f"as_denoiser: sigma must be 'input', 'map' or 'ignored', got {sigma!r}."
            )
        super().__init__(cast(Denoiser, D), "")
        how = sigma or _sigma_use(D)
        self.settings = {"sigma": how, "array": array}
        self.tell(replace(self.info, sigma="ignored" if how == "ignored" else "input"))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        if self.settings["array"] == "numpy":
            return self._on_numpy(x, sigma)
        if self.settings["sigma"] == "map":
            sigma = sigma_column(sigma, x, self.info.name, maps=True).expand(-1, 1, *x.shape[2:])
        dtype = _precision(self.inner, x)
        if isinstance(sigma, Tensor) and sigma.is_floating_point():
            sigma = sigma.to(dtype)
        return checked_result(self._call(x.to(dtype), sigma), x, self.info.name)

    def _call(self, x: Any, sigma: Any) -> Any:
        return self.inner(x) if self.settings["sigma"] == "ignored" else self.inner(x, sigma)

    def _on_numpy(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        levels = sigma_column(sigma, x, self.info.name).flatten().tolist()
        images = x.detach().cpu().double().numpy()
        out = []
        for image, level in zip(images, levels, strict=True):
            single = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
            y = np.asarray(self._call(single.copy(), level))
            if y.shape != single.shape:
                raise InputError(
                    f"denoiser {self.info.name}: expected an array {single.shape} back, "
                    f"got {y.shape}."
                )
            if y.dtype.kind != "f":
                raise InputTypeError(
                    not_real(self.info.name, "complex" if y.dtype.kind == "c" else str(y.dtype))
                )
            out.append(y[None] if len(image) == 1 else np.moveaxis(y, -1, 0))
        return checked_result(torch.from_numpy(np.stack(out)).to(x), x, self.info.name)


class rescaled(Wrapper):
    r"""D for images in other units.

    .. math:: x \mapsto \mathrm{scale} \cdot D((x - \mathrm{offset}) / \mathrm{scale},
        \sigma / \mathrm{scale}) + \mathrm{offset}

    Parameters
    ----------
    D : Denoiser
    scale, offset : float
        Such that ``(x - offset) / scale`` is in the range that D was trained on.

    Raises
    ------
    InputError
        Unless ``scale`` > 0 and both are finite.

    Examples
    --------
    Chest CT in HU, with a denoiser that was trained on [0, 1]:

    >>> from pnp_mlpatch import denoisers
    >>> D = denoisers.rescaled(denoisers.make("tv"), scale=2048, offset=-1024)
    """

    def __init__(self, D: Denoiser, scale: float, offset: float = 0.0):
        super().__init__(D, "rescaled")
        if not (scale > 0 and np.isfinite(scale) and np.isfinite(offset)):
            raise InputError(
                f"rescaled: scale must be > 0 and both finite, got scale={scale}, offset={offset}."
            )
        self.settings = {"scale": float(scale), "offset": float(offset)}
        levels = self.known.sigma_range
        if levels is not None:
            self.tell(replace(self.info, sigma_range=(levels[0] * scale, levels[1] * scale)))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        scale, offset = self.settings["scale"], self.settings["offset"]
        scaled = (x - offset) / scale
        return (
            checked_result(self.inner(scaled, sigma / scale), scaled, self.known.name) * scale
            + offset
        )


class per_channel(Wrapper):
    """A one-channel D on every channel of the image by itself.

    Parameters
    ----------
    D : Denoiser
        One of one channel. All channels get the same noise level, a number or a map.
    """

    def __init__(self, D: Denoiser):
        super().__init__(D, "per_channel")
        self.tell(replace(self.info, channels=None))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, f"per_channel({self.known.name})")
        batch, channels = x.shape[:2]
        if isinstance(sigma, Tensor) and sigma.numel() > 1:
            level = sigma_column(sigma, x, self.known.name, maps=True).repeat_interleave(
                channels, 0
            )
            sigma = level if level.shape[2:] == x.shape[2:] and sigma.ndim == 4 else level.flatten()
        planes = x.reshape(batch * channels, 1, *x.shape[2:])
        return checked_result(self.inner(planes, sigma), planes, self.known.name).reshape(x.shape)


class e_mode(Wrapper):
    """A one-channel D for convergence maps (E, B): E is denoised, B set to zero.

    Gravity makes no B modes.

    Parameters
    ----------
    D : Denoiser
        One of one channel.
    """

    def __init__(self, D: Denoiser):
        super().__init__(D, "e_mode")
        self.tell(replace(self.info, channels=2))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, f"e_mode({self.known.name})", 2)
        e = x[:, :1].contiguous()
        e = checked_result(self.inner(e, sigma), e, self.known.name)
        return torch.cat([e, torch.zeros_like(e)], dim=1)


def _precision(D: Any, x: Tensor) -> torch.dtype:
    """Find the dtype of the weights of a module; that of the image for all else."""
    weights = D.parameters() if isinstance(D, nn.Module) else ()
    return next((p.dtype for p in weights if p.is_floating_point()), x.dtype)


def _sigma_use(D: Any) -> str:
    """Read from the signature of D whether it takes sigma: "input" or "ignored"."""
    target = D.forward if isinstance(D, nn.Module) else D
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) == 2 or (len(positional) >= 2 and positional[1].name == "sigma"):
        return "input"
    if len(positional) == 1:
        return "ignored"
    name = getattr(D, "__name__", type(D).__name__)
    raise InputTypeError(
        f"as_denoiser: cannot tell from its signature how {name} takes the noise level. "
        f"Say sigma='input' or 'ignored'. Examples: {_EXAMPLES}."
    )
