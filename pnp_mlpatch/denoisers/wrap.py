"""Anything as a denoiser: ``as_denoiser``, and the wrappers ``rescaled``, ``per_channel``, ``e_mode``, ``equivariant``, ``averaged`` and ``contracted``."""

from __future__ import annotations

import hashlib
import inspect
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch.denoisers.base import Denoiser, DenoiserInfo, check_image, registry, sigma_column
from pnp_mlpatch.errors import InputError, InputTypeError, finite_number

_EXAMPLES = (
    "as_denoiser('tv'); as_denoiser(net, sigma='ignored') for a module called as net(x); "
    "as_denoiser(f, array='numpy') for a numpy function f(image, sigma) of one (H, W) or (H, W, C) image"
)


def describe(D: Any) -> DenoiserInfo:
    """What a denoiser says of itself (``D.info``), or its name and nothing more."""
    info = getattr(D, "info", None)
    return info if isinstance(info, DenoiserInfo) else DenoiserInfo(name=getattr(D, "__name__", type(D).__name__))


def identity(D: Any) -> dict[str, Any]:
    """Name and, for a module, the sha256 of its tensors."""
    inner = getattr(D, "inner", D)
    found = {"name": describe(D).name}
    if isinstance(inner, nn.Module):
        digest = hashlib.sha256()
        for name, tensor in sorted(nn.Module.state_dict(inner).items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        found["sha256"] = digest.hexdigest()
    return found


class _Wrapped:
    """A plain callable with a name and an info; every wrapper below returns one."""

    def __init__(self, function: Callable[[Tensor, float | Tensor], Tensor], info: DenoiserInfo, inner: Any = None):
        self._function, self.info, self.inner = function, info, inner
        self.__name__ = info.name

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self._function(x, sigma)

    def to(self, device: torch.device | str) -> _Wrapped:
        """Move the wrapped module, if it is one."""
        if hasattr(self.inner, "to"):
            self.inner.to(device)
        return self

    def __repr__(self) -> str:
        return f"<denoiser {self.info.name}>"


def as_denoiser(D: Any, *, sigma: str | None = None, array: str = "torch") -> Denoiser:
    """Make ``D(x, sigma)`` of a registry name, a module, a deepinv model, or a function of a tensor or of a numpy image.

    ``sigma`` says how the noise level is passed: "input" (second argument), "map" (second argument, as a map (B, 1, H, W)) or
    "ignored" (D is called as D(x)). By default it is read from the signature: one required argument means "ignored", two mean "input".

    ``array="numpy"`` is for functions of one numpy image, (H, W) for one channel and (H, W, C) for more, and a float sigma;
    each image of the batch is passed by itself, as float64, and the result comes back in the dtype and device of the input.

    The result of every call is checked: a tensor (or an array) of the same shape. Modules are put in
    evaluation mode by the caller. Raises :class:`InputTypeError` where it cannot know how to call D.
    """
    if isinstance(D, str):
        return registry.make(D)
    if not callable(D):
        raise InputTypeError(f"as_denoiser: expected a name or a callable, got {type(D).__name__}. Examples: {_EXAMPLES}.")
    if array not in ("torch", "numpy"):
        raise InputError(f"as_denoiser: array must be 'torch' or 'numpy', got {array!r}.")
    if sigma not in (None, "input", "map", "ignored"):
        raise InputError(f"as_denoiser: sigma must be 'input', 'map' or 'ignored', got {sigma!r}.")
    how = sigma or _sigma_use(D)
    known = describe(D)
    use = "ignored" if how == "ignored" else "input"
    info = DenoiserInfo(known.name, known.channels, use, known.sigma_range, known.field, known.trained_size)
    call = (lambda x, s: D(x)) if how == "ignored" else (lambda x, s: D(x, s))

    def on_torch(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, info.name)
        if how == "map":
            sigma = sigma_column(sigma, x, info.name, maps=True).expand(-1, 1, *x.shape[2:])
        return _result(call(x, sigma), x, info.name)

    def on_numpy(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, info.name)
        levels = sigma_column(sigma, x, info.name).flatten().tolist()
        images = x.detach().cpu().double().numpy()
        out = []
        for image, level in zip(images, levels, strict=True):
            single = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
            y = np.asarray(call(single.copy(), level))
            if y.shape == single.shape and y.dtype.kind not in "fiub":
                kind = "complex" if y.dtype.kind == "c" else str(y.dtype)
                raise InputTypeError(f"denoiser {info.name}: expected real numbers back, got {kind} values.")
            if y.shape != single.shape:
                raise InputError(f"denoiser {info.name}: expected an array {single.shape} back, got {y.shape}.")
            out.append(y[None] if len(image) == 1 else np.moveaxis(y, -1, 0))
        return _result(torch.from_numpy(np.stack(out)).to(x), x, info.name)

    return _Wrapped(on_torch if array == "torch" else on_numpy, info, D)


def rescaled(D: Denoiser, scale: float, offset: float = 0.0) -> Denoiser:
    """D for images in other units: ``x -> scale * D((x - offset) / scale, sigma / scale) + offset``.

    ``scale`` > 0 and ``offset`` are such that ``(x - offset) / scale`` is in the range that D was trained on. Chest CT in HU
    with D trained on [0, 1]: ``rescaled(D, scale=2048, offset=-1024)``.
    """
    _callable(D, "rescaled")
    if not (scale > 0 and np.isfinite(scale) and np.isfinite(offset)):
        raise InputError(f"rescaled: scale must be > 0 and both finite, got scale={scale}, offset={offset}.")
    known = describe(D)
    levels = None if known.sigma_range is None else (known.sigma_range[0] * scale, known.sigma_range[1] * scale)
    info = DenoiserInfo(f"rescaled {known.name}", known.channels, known.sigma, levels, known.field, known.trained_size)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, info.name)
        return _result(D((x - offset) / scale, sigma / scale), x, known.name) * scale + offset

    return _Wrapped(denoise, info, D)


def per_channel(D: Denoiser) -> Denoiser:
    """A one-channel D on every channel by itself: (B, C, H, W) goes through D as (B C, 1, H, W)."""
    _callable(D, "per_channel")
    known = describe(D)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, f"per_channel({known.name})")
        batch, channels = x.shape[:2]
        if isinstance(sigma, Tensor) and sigma.numel() > 1:
            sigma = sigma_column(sigma, x, known.name).flatten().repeat_interleave(channels)
        planes = x.reshape(batch * channels, 1, *x.shape[2:])
        return _result(D(planes, sigma), planes, known.name).reshape(x.shape)

    info = DenoiserInfo(f"per_channel {known.name}", None, known.sigma, known.sigma_range, known.field, known.trained_size)
    return _Wrapped(denoise, info, D)


def e_mode(D: Denoiser) -> Denoiser:
    """A one-channel D for convergence maps (E, B): it denoises E and sets B to zero, since gravity makes no B modes."""
    _callable(D, "e_mode")
    known = describe(D)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, f"e_mode({known.name})", 2)
        e = x[:, :1].contiguous()
        e = _result(D(e, sigma), e, known.name)
        return torch.cat([e, torch.zeros_like(e)], dim=1)

    info = DenoiserInfo(f"e_mode {known.name}", 2, known.sigma, known.sigma_range, known.field, known.trained_size)
    return _Wrapped(denoise, info, D)


# The symmetries of the square: whether g mirrors left and right first, and by how many quarters it then turns (counterclockwise).
SYMMETRIES: dict[str, tuple[bool, int]] = {
    "identity": (False, 0),
    "rotation 90": (False, 1),
    "rotation 180": (False, 2),
    "rotation 270": (False, 3),
    "flip left-right": (True, 0),
    "transpose": (True, 1),
    "flip up-down": (True, 2),
    "anti-transpose": (True, 3),
}


SHIFTS = 4  # shifts by 0 to 3 pixels, down and right


def turned(x: Tensor, symmetry: str, *, back: bool = False) -> Tensor:
    """``g x``, or ``g^-1 x`` with ``back``, for a name of ``SYMMETRIES``: (B, C, H, W) to (B, C, H, W) or (B, C, W, H), contiguous."""
    mirror, quarters = SYMMETRIES[symmetry]
    if back:
        x = x.rot90(-quarters, (-2, -1))
        return (x.flip(-1) if mirror else x).contiguous()
    return (x.flip(-1) if mirror else x).rot90(quarters, (-2, -1)).contiguous()


def equivariant(D: Denoiser, group: str = "dihedral", *, draw: str = "all", seed: int = 0) -> Denoiser:
    r"""D averaged over the symmetries g of a group, or at one of them: ``D_G(x, sigma) = 1/|G| sum_g g^-1 D(g x, sigma)``.

    ``group`` is "dihedral", the 8 flips and rotations by 90 degrees, "rotations", the 4 rotations, or "shifts", the 16 by 0 to 3 pixels down
    and right (x is reflected at its borders by 3 pixels), for networks that see images by strides of 2 or 4. With ``draw`` = "all",
    D_G(g x) = g D_G(x) for every g of the first two groups, to rounding, whatever D is, and |G| calls of D, one after the other. "random" calls D once
    for each image, at one g (Terris et al. 2024, who draw one an iteration): an average over the iterations of a solver, at the price of D. The draw is
    made from ``seed`` and the image itself, so that D_G is a function: runs repeat and resume to the same bits, and images do not depend on their batch.

    ``sigma`` is what D takes: a float, (B,), or a map (B, 1, H, W), which is turned with the image. Images need not be square.
    Raises :class:`InputError` for other groups and draws.
    """
    _callable(D, "equivariant")
    if group not in ("dihedral", "rotations", "shifts"):
        raise InputError(f"equivariant: group must be 'dihedral' (8 symmetries), 'rotations' (4) or 'shifts' (16), got {group!r}.")
    if draw not in ("all", "random"):
        raise InputError(f"equivariant: draw must be 'all' or 'random', got {draw!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"equivariant: seed must be an integer >= 0, got {seed!r}.")
    if group == "shifts":
        members = [str(number) for number in range(SHIFTS**2)]
    else:
        members = [name for name, (mirror, _) in SYMMETRIES.items() if group == "dihedral" or not mirror]
    known = describe(D)
    info = DenoiserInfo(f"equivariant {known.name}", known.channels, known.sigma, known.sigma_range, known.field, known.trained_size)

    def at(g: str, x: Tensor, levels: Tensor, sigma: float | Tensor) -> Tensor:
        is_map = levels.shape[2:] == x.shape[2:]
        if group == "shifts":
            down, right = divmod(int(g), SHIFTS)
            border = (right, SHIFTS - 1 - right, down, SHIFTS - 1 - down)
            gx = F.pad(x, border, mode="reflect" if min(x.shape[-2:]) >= SHIFTS else "replicate")
            y = _result(D(gx, F.pad(levels, border, mode="replicate") if is_map else sigma), gx, known.name)
            return y[..., down : down + x.shape[-2], right : right + x.shape[-1]]
        gx = turned(x, g)
        return turned(_result(D(gx, turned(levels, g) if is_map else sigma), gx, known.name), g, back=True)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, info.name)
        levels = sigma_column(sigma, x, info.name, maps=True)
        if draw == "all":
            return sum((at(g, x, levels, sigma) for g in members), torch.zeros_like(x)) / len(members)
        found = []
        for k, image in enumerate(x):
            g = zlib.crc32(image.detach().cpu().contiguous().numpy().tobytes(), seed) % len(members)
            own = levels[k : k + 1] if len(levels) > 1 else levels
            plain = sigma if not isinstance(sigma, Tensor) or sigma.numel() == 1 else own if own.numel() > 1 else own.flatten()
            found.append(at(members[g], image[None], own, plain))
        return torch.cat(found)

    return _Wrapped(denoise, info, D)


def averaged(D: Denoiser, theta: float = 0.5) -> Denoiser:
    r"""D mixed with the identity, so that a solver that it makes swing converges: ``D_theta(x, sigma) = (1 - theta) x + theta D(x, sigma)``.

    If D is nonexpansive, D_theta is firmly so for theta <= 1/2, which is what ADMM, DRS and PDHG need. If the Jacobian of D is
    symmetric with eigenvalues in [-m, 1], m > 1, D expands; D_theta does not for theta <= 2 / (1 + m), and is firmly nonexpansive for
    theta <= 1 / (1 + m). What D amplifies (eigenvalues above 1) it goes on amplifying.
    :func:`pnp_mlpatch.convergence.expansion` measures m + 1. The effect on the image is that of a smaller sigma.

    ``theta`` is in (0, 1]; raises :class:`InputError` if not. Krasnoselskii 1955.
    """
    _callable(D, "averaged")
    if not finite_number(theta) or not 0 < theta <= 1:
        raise InputError(f"averaged: theta must be a number in (0, 1], got {theta!r}.")
    known = describe(D)
    info = DenoiserInfo(f"averaged {known.name}", known.channels, known.sigma, known.sigma_range, known.field, known.trained_size)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, info.name)
        return (1 - theta) * x + theta * _result(D(x, sigma), x, known.name)

    return _Wrapped(denoise, info, D)


def contracted(D: Denoiser, bound: float) -> Denoiser:
    r"""D divided by its Lipschitz constant, but for the mean of each channel, so that it expands nothing (spectral scaling).

        D_L(x, sigma) = m + (D(x, sigma) - m) / L,        m = the mean of D(x, sigma) over the pixels

    With ``bound`` = L >= |J|, as :func:`pnp_mlpatch.convergence.lipschitz` measures it, D_L is nonexpansive if D keeps means: PGD, HQS and RED do not
    diverge, and with :func:`averaged` ADMM, DRS and PDHG converge. The price is contrast: what the data do not show is drawn to the mean, by 1 / L at every
    call, so this is for an L that is little above 1; try :func:`averaged` and a smaller sigma first.

    Raises :class:`InputError` unless bound >= 1. Ryu et al. 2019, who divide every layer; the whole network, as here, is bounded less strictly.
    """
    _callable(D, "contracted")
    if not finite_number(bound) or bound < 1:
        raise InputError(f"contracted: bound must be a number >= 1, the Lipschitz constant of D (convergence.lipschitz), got {bound!r}.")
    known = describe(D)
    info = DenoiserInfo(f"contracted {known.name}", known.channels, known.sigma, known.sigma_range, known.field, known.trained_size)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, info.name)
        y = _result(D(x, sigma), x, known.name)
        mean = y.mean(dim=(-2, -1), keepdim=True)
        return mean + (y - mean) / bound

    return _Wrapped(denoise, info, D)


def _callable(D: Any, who: str) -> None:
    if not callable(D):
        raise InputTypeError(f"{who}: the denoiser must be callable as D(x, sigma), got {D!r}. Make one of a name with as_denoiser(name).")


def _sigma_use(D: Any) -> str:
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
        f"as_denoiser: cannot tell from its signature how {name} takes the noise level. Say sigma='input' or 'ignored'. Examples: {_EXAMPLES}."
    )


def _result(y: Any, x: Tensor, name: str) -> Tensor:
    if not isinstance(y, Tensor):
        raise InputTypeError(
            f"denoiser {name}: expected a tensor back, got {type(y).__name__}. For numpy functions say as_denoiser(..., array='numpy')."
        )
    if y.is_complex():
        raise InputTypeError(f"denoiser {name}: expected real values back, got complex ones ({y.dtype}).")
    if y.shape != x.shape:
        raise InputError(
            f"denoiser {name}: expected shape {tuple(x.shape)} back, got {tuple(y.shape)}. One-channel denoisers go through per_channel(...)."
        )
    if y.device != x.device:
        raise InputError(f"denoiser {name}: expected the result on {x.device}, got {y.device}. Move the model there first.")
    return y.to(x.dtype)
