"""Anything as a denoiser: ``as_denoiser``, and what changes a denoiser that there is.

Each of ``rescaled``, ``per_channel``, ``e_mode``, ``equivariant``, ``averaged`` and ``contracted`` is a class whose instances are modules
that hold the denoiser as ``inner``. They are copied and pickled with it, have its ``parameters()``, and ``.to`` moves both.
"""

from __future__ import annotations

import hashlib
import inspect
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers._base import Denoiser, DenoiserInfo, check_image, registry, sigma_column
from pnp_mlpatch.errors import InputError, InputTypeError

_EXAMPLES = (
    "as_denoiser('tv'); as_denoiser(net, sigma='ignored') for a module called as net(x); "
    "as_denoiser(f, array='numpy') for a numpy function f(image, sigma) of one (H, W) or (H, W, C) image"
)


def describe(D: Any) -> DenoiserInfo:
    """What a denoiser says of itself (``D.info``), or its name and nothing more."""
    info = getattr(D, "info", None)
    return (
        info
        if isinstance(info, DenoiserInfo)
        else DenoiserInfo(name=getattr(D, "__name__", type(D).__name__))
    )


def identity(D: Any) -> dict[str, Any]:
    """Name, settings (of wrappers too, from the outside in) and, for a module, the sha256 of its tensors: plain JSON values."""
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
    D
        The denoiser that is wrapped, kept as ``inner``. It need not be a module.
    who
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
                f"{who}: the denoiser must be callable as D(x, sigma), got {D!r}. Make one of a name with as_denoiser(name)."
            )
        self.inner: Any = D
        self.known = describe(D)
        self.settings: dict[str, Any] = {}
        self.tell(replace(self.known, name=f"{who} {self.known.name}".strip()))
        self.training = getattr(D, "training", False)  # what is wrapped stays as it is

    def tell(self, info: DenoiserInfo) -> None:
        """Set ``info``, what is known of the denoiser."""
        self.info = info
        self.__name__ = info.name

    def __repr__(self) -> str:
        return f"<denoiser {self.info.name}>"


def as_denoiser(D: Any, *, sigma: str | None = None, array: str = "torch") -> Denoiser:
    """Make a denoiser ``D(x, sigma)`` of a name, a module, a deepinv model, or a function.

    The result of every call is checked: real floating numbers in the shape of the image. A module sees the precision of its own
    weights, float32 as a rule, whatever that of the image is; what it returns gets the dtype of the image. A module is put in
    evaluation mode by the caller.

    Parameters
    ----------
    D
        A name of the registry, a module, or a function of a tensor (B, C, H, W) or of a numpy image.
    sigma
        How the noise level is passed: "input" (second argument), "map" (second argument, as a map (B, 1, H, W)) or "ignored" (D is
        called as D(x)). By default it is read from the signature: one required argument means "ignored", two mean "input".
    array
        "torch", or "numpy" for a function of one numpy image, (H, W) for one channel and (H, W, C) for more, and a float sigma. Each
        image of the batch is passed by itself, as float64. The result comes back in the dtype and on the device of the input.

    Returns
    -------
    Denoiser
        A module that holds ``D`` as ``inner``, or what the registry makes of a name.

    Raises
    ------
    InputTypeError
        If it cannot know how to call ``D``; later, if ``D`` returns anything but real floating numbers.
    """
    return registry.make(D) if isinstance(D, str) else Adapted(D, sigma, array)


class Adapted(Wrapper):
    """What :func:`as_denoiser` makes of a callable."""

    def __init__(self, D: Any, sigma: str | None, array: str):
        if not callable(D):
            raise InputTypeError(
                f"as_denoiser: expected a name or a callable, got {type(D).__name__}. Examples: {_EXAMPLES}."
            )
        if array not in ("torch", "numpy"):
            raise InputError(f"as_denoiser: array must be 'torch' or 'numpy', got {array!r}.")
        if sigma not in (None, "input", "map", "ignored"):
            raise InputError(
                f"as_denoiser: sigma must be 'input', 'map' or 'ignored', got {sigma!r}."
            )
        super().__init__(D, "")
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
        return _result(self._call(x.to(dtype), sigma), x, self.info.name)

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
                    f"denoiser {self.info.name}: expected an array {single.shape} back, got {y.shape}."
                )
            if y.dtype.kind != "f":
                raise InputTypeError(
                    _not_real(self.info.name, "complex" if y.dtype.kind == "c" else str(y.dtype))
                )
            out.append(y[None] if len(image) == 1 else np.moveaxis(y, -1, 0))
        return _result(torch.from_numpy(np.stack(out)).to(x), x, self.info.name)


class rescaled(Wrapper):
    r"""D for images in other units: ``x -> scale * D((x - offset) / scale, sigma / scale) + offset``.

    Chest CT in HU with D trained on [0, 1]: ``rescaled(D, scale=2048, offset=-1024)``.

    Parameters
    ----------
    D
        A denoiser.
    scale, offset
        Such that ``(x - offset) / scale`` is in the range that D was trained on.

    Raises
    ------
    InputError
        Unless ``scale`` > 0 and both are finite.
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
        return _result(self.inner(scaled, sigma / scale), scaled, self.known.name) * scale + offset


class per_channel(Wrapper):
    """A one-channel D on every channel of the image by itself.

    Parameters
    ----------
    D
        A denoiser of one channel. Its noise level is that of the whole image, or a map for all channels.
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
        return _result(self.inner(planes, sigma), planes, self.known.name).reshape(x.shape)


class e_mode(Wrapper):
    """A one-channel D for convergence maps (E, B): it denoises E and sets B to zero, since gravity makes no B modes.

    Parameters
    ----------
    D
        A denoiser of one channel.
    """

    def __init__(self, D: Denoiser):
        super().__init__(D, "e_mode")
        self.tell(replace(self.info, channels=2))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, f"e_mode({self.known.name})", 2)
        e = x[:, :1].contiguous()
        e = _result(self.inner(e, sigma), e, self.known.name)
        return torch.cat([e, torch.zeros_like(e)], dim=1)


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


class equivariant(Wrapper):
    r"""D averaged over the symmetries g of a group, or at one of them: ``D_G(x, sigma) = 1/|G| sum_g g^-1 D(g x, sigma)``.

    D_G(g x) = g D_G(x) for every g of the groups "dihedral" and "rotations", to rounding, whatever D is. Images need not be square.

    Parameters
    ----------
    D
        A denoiser. Its sigma may be a map (B, 1, H, W), which is turned with the image.
    group
        "dihedral", the 8 flips and rotations by 90 degrees, "rotations", the 4 rotations, or "shifts", the 16 by 0 to 3 pixels down and
        right (x is reflected at its borders by 3 pixels), for networks that see images by strides of 2 or 4.
    draw
        "all" takes the average by |G| calls of D, one after the other. "random" calls D once for each image, at one g (Terris et al. 2024,
        who draw one an iteration): an average over the iterations of a solver, at the price of D.
    seed
        The draw is made from it and the image itself, so that D_G is a function: runs repeat and resume to the same bits, and images do not
        depend on their batch.

    Raises
    ------
    InputError
        For other groups and draws.
    """

    def __init__(self, D: Denoiser, group: str = "dihedral", *, draw: str = "all", seed: int = 0):
        super().__init__(D, "equivariant")
        if group not in ("dihedral", "rotations", "shifts"):
            raise InputError(
                f"equivariant: group must be 'dihedral' (8 symmetries), 'rotations' (4) or 'shifts' (16), got {group!r}."
            )
        if draw not in ("all", "random"):
            raise InputError(f"equivariant: draw must be 'all' or 'random', got {draw!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"equivariant: seed must be an integer >= 0, got {seed!r}.")
        self.settings = {"group": group, "draw": draw, "seed": seed}
        if group == "shifts":
            self.members = [str(number) for number in range(SHIFTS**2)]
        else:
            self.members = [
                name
                for name, (mirror, _) in SYMMETRIES.items()
                if group == "dihedral" or not mirror
            ]

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        levels = sigma_column(sigma, x, self.info.name, maps=True)
        if self.settings["draw"] == "all":
            return sum(
                (self._at(g, x, levels, sigma) for g in self.members), torch.zeros_like(x)
            ) / len(self.members)
        found = []
        for k, image in enumerate(x):
            bits = image.detach().cpu().contiguous().numpy().tobytes()
            g = self.members[zlib.crc32(bits, self.settings["seed"]) % len(self.members)]
            own = levels[k : k + 1] if len(levels) > 1 else levels
            plain = (
                sigma
                if not isinstance(sigma, Tensor) or sigma.numel() == 1
                else own
                if own.numel() > 1
                else own.flatten()
            )
            found.append(self._at(g, image[None], own, plain))
        return torch.cat(found)

    def _at(self, g: str, x: Tensor, levels: Tensor, sigma: float | Tensor) -> Tensor:
        """``g^-1 D(g x, sigma)``."""
        is_map = levels.shape[2:] == x.shape[2:]
        if self.settings["group"] == "shifts":
            down, right = divmod(int(g), SHIFTS)
            border = (right, SHIFTS - 1 - right, down, SHIFTS - 1 - down)
            gx = F.pad(x, border, mode="reflect" if min(x.shape[-2:]) >= SHIFTS else "replicate")
            level = F.pad(levels, border, mode="replicate") if is_map else sigma
            y = _result(self.inner(gx, level), gx, self.known.name)
            return y[..., down : down + x.shape[-2], right : right + x.shape[-1]]
        gx = turned(x, g)
        return turned(
            _result(self.inner(gx, turned(levels, g) if is_map else sigma), gx, self.known.name),
            g,
            back=True,
        )


class averaged(Wrapper):
    r"""D mixed with the identity, so that a solver that it makes swing converges: ``D_theta(x, sigma) = (1 - theta) x + theta D(x, sigma)``.

    If D is nonexpansive, D_theta is firmly so for theta <= 1/2, which is what ADMM, DRS and PDHG need. If the Jacobian of D is
    symmetric with eigenvalues in [-m, 1], m > 1, D expands; D_theta does not for theta <= 2 / (1 + m), and is firmly nonexpansive for
    theta <= 1 / (1 + m). What D amplifies (eigenvalues above 1) it goes on amplifying.
    :func:`pnp_mlpatch.convergence.expansion` measures m + 1. The effect on the image is that of a smaller sigma. Krasnoselskii 1955.

    Parameters
    ----------
    D
        A denoiser.
    theta
        The share of D, in (0, 1].

    Raises
    ------
    InputError
        For another theta.
    """

    def __init__(self, D: Denoiser, theta: float = 0.5):
        super().__init__(D, "averaged")
        if not finite_number(theta) or not 0 < theta <= 1:
            raise InputError(f"averaged: theta must be a number in (0, 1], got {theta!r}.")
        self.settings = {"theta": float(theta)}

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        theta = self.settings["theta"]
        return (1 - theta) * x + theta * _result(self.inner(x, sigma), x, self.known.name)


class contracted(Wrapper):
    r"""D divided by its Lipschitz constant, but for the mean of each channel, so that it expands nothing (spectral scaling).

        D_L(x, sigma) = m + (D(x, sigma) - m) / L,        m = the mean of D(x, sigma) over the pixels

    With ``bound`` = L >= |J|, as :func:`pnp_mlpatch.convergence.lipschitz` measures it, D_L is nonexpansive if D keeps means: PGD, HQS and
    RED do not diverge, and with :class:`averaged` ADMM, DRS and PDHG converge. The price is contrast: what the data do not show is drawn to
    the mean, by 1 / L at every call, so this is for an L that is little above 1; try :class:`averaged` and a smaller sigma first.
    Ryu et al. 2019, who divide every layer; the whole network, as here, is bounded less strictly.

    Parameters
    ----------
    D
        A denoiser.
    bound
        The Lipschitz constant L of D, >= 1.

    Raises
    ------
    InputError
        Unless ``bound`` >= 1.
    """

    def __init__(self, D: Denoiser, bound: float):
        super().__init__(D, "contracted")
        if not finite_number(bound) or bound < 1:
            raise InputError(
                f"contracted: bound must be a number >= 1, the Lipschitz constant of D (convergence.lipschitz), got {bound!r}."
            )
        self.settings = {"bound": float(bound)}

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        y = _result(self.inner(x, sigma), x, self.known.name)
        mean = y.mean(dim=(-2, -1), keepdim=True)
        return mean + (y - mean) / self.settings["bound"]


def _precision(D: Any, x: Tensor) -> torch.dtype:
    """The dtype of the weights of a module; that of the image for all else."""
    weights = D.parameters() if isinstance(D, nn.Module) else ()
    return next((p.dtype for p in weights if p.is_floating_point()), x.dtype)


def _not_real(name: str, kind: str) -> str:
    return (
        f"denoiser {name}: expected real floating numbers in the units of the image back, got {kind} values. "
        "Integers lose what is between them: convert the result of such a filter to the range of the image."
        if "int" in kind or "bool" in kind
        else f"denoiser {name}: expected real floating numbers back, got {kind} values."
    )


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
    if not y.is_floating_point():
        raise InputTypeError(_not_real(name, "complex" if y.is_complex() else str(y.dtype)))
    if y.shape != x.shape:
        raise InputError(
            f"denoiser {name}: expected shape {tuple(x.shape)} back, got {tuple(y.shape)}. One-channel denoisers go through per_channel(...)."
        )
    if y.device != x.device:
        raise InputError(
            f"denoiser {name}: expected the result on {x.device}, got {y.device}. Move the model there first."
        )
    return y.to(x.dtype)
