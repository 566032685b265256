"""The problem ``q = A f + n`` as solvers see it, and the numbers that they derive from it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.linalg import power_of_two, sizes
from pnp_mlpatch.operators import LinearOperator, check_foreign, data_on, reached


@dataclass(frozen=True)
class Problem:
    r"""Data, operator and noise, made once by :func:`make_problem`.

    Parameters
    ----------
    q : Tensor, shape (B, \*data_shape)
        Data. Where a noise map was given they are divided by it.
    A : LinearOperator
        Operator, divided by the noise map as well.
    noise : float, Tensor of shape (B,), or None
        Standard deviation of the noise of ``q``; None where it is not known.
    Aty : Tensor, shape (B, C, H, W)
        A^H q.
    noise_map : Tensor or None
        The noise map m that was given, 0 where nothing was measured.
    """

    q: Tensor
    A: LinearOperator
    noise: float | Tensor | None
    Aty: Tensor
    noise_map: Tensor | None = None

    @property
    def unit(self) -> float | Tensor:
        """Noise of the whitened data, 1 without a map; its square multiplies a given alpha."""
        return 1.0 if self.noise_map is None or self.noise is None else self.noise

    def known_noise(self, who: str) -> float | Tensor:
        """Return the noise of the data.

        Parameters
        ----------
        who : str
            Who needs it, for the error message.

        Returns
        -------
        float or Tensor, shape (B,)

        Raises
        ------
        InputError
            If the noise is not known.
        """
        if self.noise is None:
            raise InputError(
                f"{who}: the noise level of the data is needed: "
                "pass noise= (a standard deviation, in the units of q)."
            )
        return self.noise


def make_problem(q: Tensor, A: LinearOperator, noise: float | Tensor | None) -> Problem:
    r"""Check data and noise, and divide out a noise map.

    With a noise map :math:`m`, :math:`A` becomes :math:`s A / m`, :math:`q` becomes :math:`s q /
    m`, and the noise :math:`s`. The scale :math:`s` is 1. For a map below 1e-9 or above 1e9 it is
    a power of two near the mean of the map, so that numbers stay in the range of float32.

    Parameters
    ----------
    q : Tensor, shape (B, \*data_shape)
        Data. They may be NaN where the noise is infinite, and where A sees nothing of the image.
    A : LinearOperator
        Operator.
    noise : float, Tensor or None
        Standard deviation of the noise in the units of ``q``: a number, one for each image (B,), or
        a map that broadcasts to the data, one for all images or one for each. Infinite
        where nothing was measured. None if the solver does not need it.

    Returns
    -------
    Problem

    Raises
    ------
    InputTypeError
        If an argument is of another type.
    InputError
        If a shape, dtype or value does not fit.
    """
    _check_data(q, A)
    q = _without_unmeasured(q, A, noise)
    noise = _checked_noise(noise)
    if isinstance(noise, Tensor) and not _one_an_image(noise, q, A):
        return _whitened(q, A, noise)
    return Problem(q, A, noise.to(q) if isinstance(noise, Tensor) else noise, A.adjoint(q))


def _check_data(q: Tensor, A: LinearOperator) -> None:
    """Raise unless A is an operator and q are data of it."""
    if not isinstance(A, LinearOperator):
        raise InputTypeError(f"solver: A must be a LinearOperator, got {type(A).__name__}.")
    if not isinstance(q, Tensor):
        raise InputTypeError(
            f"solver: the data q must be a torch tensor, got {type(q).__name__}. "
            "Convert with torch.as_tensor."
        )
    A._check(q, "data", "A.adjoint(y)")
    check_foreign(A, q.dtype, q.device)


def _without_unmeasured(q: Tensor, A: LinearOperator, noise: object) -> Tensor:
    """Return the data with 0 where nothing was measured; raise if others are not finite."""
    if isinstance(noise, Tensor) and noise.ndim > 1 and not noise.is_complex():
        with suppress(RuntimeError):  # a map of another shape, which is refused below
            unseen = torch.isposinf(noise.detach()).to(q.device).expand_as(q)
            q = torch.where(unseen, torch.zeros_like(q), q)
    finite = torch.isfinite(q.detach())
    if not bool(finite.all()):
        finite = finite | ~reached(A, len(q), q.device)
        q = torch.where(torch.isfinite(q), q, torch.zeros_like(q))
    if not bool(finite.all()):
        raise InputError(
            f"solver: {int((~finite).sum())} of the data are NaN or infinite. Repair them, "
            "or leave them out by an infinite noise: "
            "noise=torch.where(q.isfinite(), noise, torch.inf)."
        )
    return q


def _checked_noise(noise: float | Tensor | None) -> float | Tensor | None:
    """Return the noise as a float or tensor, finite (but for a map) and > 0."""
    if noise is None:
        return None
    if not isinstance(noise, Tensor):
        try:
            if isinstance(noise, str):
                raise TypeError
            noise = float(noise)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"solver: noise must be a number or a tensor, got {noise!r}."
            ) from error
    elif noise.is_complex() or noise.numel() == 0:
        raise InputTypeError(
            "solver: noise must be real and not empty (noise is a standard deviation), "
            f"got {tuple(noise.shape)} {noise.dtype}."
        )
    values = torch.as_tensor(noise).detach().double()
    seen = values if values.ndim < 2 else values[~torch.isposinf(values)]
    if seen.numel() == 0:
        raise InputError("solver: the noise is infinite everywhere, so nothing was measured.")
    if not bool((torch.isfinite(seen) & (seen > 0)).all()):
        shown = f"a tensor with values from {float(values.min()):g} to {float(values.max()):g}"
        raise InputError(
            "solver: noise is a standard deviation, finite and > 0; "
            f"got {f'{noise:g}' if isinstance(noise, float) else shown}. "
            "For data without noise give a small one, such as 1/255 of the range, "
            "or give alpha and no noise."
        )
    return noise


def _one_an_image(noise: Tensor, q: Tensor, A: LinearOperator) -> bool:
    """Whether the noise is a number, or one for each image, and no map."""
    return noise.ndim == 0 or (
        noise.ndim == 1 and noise.numel() == q.shape[0] and len(A.data_shape) > 1
    )


def _whitened(q: Tensor, A: LinearOperator, noise: Tensor) -> Problem:
    """Return the problem with the noise map divided out."""
    values = noise.detach().double()
    if values.ndim == len(A.data_shape) + 1 and values.shape[0] not in (1, q.shape[0]):
        raise InputError(
            f"solver: a noise map of shape {tuple(values.shape)} does not broadcast to "
            f"data {A.data_shape}, or to {q.shape[0]} of them."
        )
    unseen = torch.isposinf(values)
    scale = float(power_of_two(values[~unseen].log2().mean().exp2()))
    scale = 1.0 if 2**-30 <= scale <= 2**30 else scale
    whitener = (scale / values).to(q)
    A, q = A.weighted(whitener), q * whitener
    noise_map = torch.where(unseen, torch.zeros_like(values), values).to(q)
    return Problem(q, A, scale, A.adjoint(q), noise_map)


# ---- numbers that solvers derive from a problem


def weight_of(
    problem: Problem,
    alpha: float | Tensor | None,
    sigma: float | Tensor,
    who: str,
    alpha_scale: float | Tensor = 1.0,
) -> float | Tensor:
    r"""Return the weight of the data step.

    Parameters
    ----------
    problem : Problem
        The problem.
    alpha : float, Tensor of shape (B,), or None
        The weight for a noise of 1 where a noise map was divided out. None for the rule

        .. math:: \alpha = \text{alpha\_scale} \, (\text{noise} / \sigma)^2
    sigma : float or Tensor, shape (B,)
        Level of the denoiser.
    who : str
        Name of the solver, for the error message.
    alpha_scale : float or Tensor, shape (B,)
        Factor of the rule; 1 is what statistics says.

    Returns
    -------
    float or Tensor, shape (B,)
    """
    if alpha is not None:
        alpha, unit = together(alpha, problem.unit)
        return alpha * unit**2
    noise = problem.known_noise(f"{who} (or give alpha)")
    noise, sigma, alpha_scale = together(noise, sigma, alpha_scale)
    return alpha_scale * (noise / sigma) ** 2


def together(*values: float | Tensor) -> list[float | Tensor]:
    """Return numbers on one device: the CPU if all are there, so that no GPU has to be waited for.

    Parameters
    ----------
    *values : float or Tensor, shape (B,)
        Settings of solvers, which may be on the CPU where the data are not.

    Returns
    -------
    list of float or Tensor
    """
    cpu = torch.device("cpu")
    away = [v.device for v in values if isinstance(v, Tensor) and v.device != cpu]
    place = away[0] if away else cpu
    return [v.to(place) if isinstance(v, Tensor) else v for v in values]


def norms(A: LinearOperator, images: int) -> list[float]:
    """Return |A| for each of so many images: one number, unless these have weights of their own."""
    first = A.for_images(torch.tensor([0]))
    if first is A:
        return [A.norm()] * images
    return [A.for_images(torch.tensor([k])).norm() for k in range(images)]


def curvatures(A: LinearOperator, like: Tensor, who: str) -> Tensor:
    """|A|^2 for each image (B,) of ``like`` (B, ...), 1 where A is 0: the bound on gradient steps.

    Raises :class:`InputError` where that is no number of the dtype, or its inverse is not.
    """
    with data_on(like.device):
        found = norms(A, len(like))
    squares = like.new_tensor([norm**2 if norm else 1.0 for norm in found])
    if not bool((torch.isfinite(squares) & torch.isfinite(1 / squares) & (squares > 0)).all()):
        raise InputError(
            f"{who}: |A| is {max(found):.1e}, and its square is outside the range of {like.dtype}. "
            "Scale A and the data, or use float64."
        )
    return squares


def noise_in_start(problem: Problem, who: str) -> Tensor:
    """Root mean square (B,) of what noise like that of the data becomes in ``A.initial``."""
    draw = torch.randn(1, *problem.A.data_shape, generator=torch.Generator().manual_seed(0))
    draw = (draw / draw.square().mean().sqrt()).to(problem.q).expand_as(problem.q)
    draw = per_image(problem.known_noise(who), draw, f"{who}: noise") * draw
    if problem.noise_map is not None:
        draw = draw * (problem.noise_map > 0)
    start = problem.A.initial(draw.contiguous())
    return sizes(start) / start[0].numel() ** 0.5


def column(value: float | Tensor) -> float | Tensor:
    """Return a number as it is, a tensor (B,) as (B, 1, 1, 1)."""
    return value.reshape(-1, 1, 1, 1) if isinstance(value, Tensor) and value.ndim else value


def per_image(value: float | Tensor, like: Tensor, who: str) -> float | Tensor:
    """Shape one number an image to broadcast against a batch.

    Parameters
    ----------
    value : float or Tensor, shape (B,)
        A number stays as it is.
    like : Tensor, shape (B, ...)
        The batch.
    who : str
        What the value is, for the error message.

    Returns
    -------
    float or Tensor, shape (B, 1, ..., 1)

    Raises
    ------
    InputError
        If ``value`` is for another number of images.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.numel() not in (1, len(like)):
        raise InputError(
            f"{who} must be a number or of shape ({len(like)},), got {tuple(value.shape)}."
        )
    return value.to(like).reshape(-1, *[1] * (like.ndim - 1))
