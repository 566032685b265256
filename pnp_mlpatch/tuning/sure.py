"""Stein's unbiased risk estimate and generalised cross-validation: errors without the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Problem, make_problem
from pnp_mlpatch.tuning.noise import probe, reached

PROBE_STEP = 0.1  # size of a perturbation of the data, in units of their noise


def sure(
    q: Tensor,
    A: LinearOperator,
    estimate: Callable[[Tensor], Tensor],
    *,
    noise: float | Tensor,
    level: float | None = None,
    probes: int = 1,
    seed: int = 0,
) -> Tensor:
    r"""Stein's unbiased estimate of the error of an estimator, in units of the noise.

    .. math::
        \frac{|A (x(q) - f)|^2}{m\,\mathrm{noise}^2} \approx
        \frac{|A x(q) - q|^2}{m\,\mathrm{noise}^2} - 1 + \frac{2}{m} \mathrm{div}, \qquad
        \mathrm{div} = \sum_i \frac{\partial (A x(q))_i}{\partial q_i}

    with m data that depend on the image. The divergence is estimated by random perturbations of
    the data, :func:`~pnp_mlpatch.tuning.noise.probe`.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    estimate : callable
        The estimator x(q), such as ``lambda q: reconstruct(q, A, D, noise=noise, sigma=sigma).x``.
        It is called ``1 + probes`` times.
    noise : float or Tensor
        Standard deviation of the noise: a number, a tensor (B,), or a map, infinite where nothing
        was measured.
    level : float, optional
        Prior standard deviation of an image. With it the error of the image is estimated, as far
        as the data tell it, in place of that of the data. See :class:`ErrorNorm`.
    probes : int
        Number of perturbations.
    seed : int
        Seed of the perturbations.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    InputError
        If a setting is out of range, or the noise is missing.

    Notes
    -----
    Data that a mask leaves out do not count. To choose settings there, hold data out
    (:func:`~pnp_mlpatch.tuning.cross_validate`).

    References
    ----------
    Stein 1981; Monte Carlo divergence, Ramani, Blu and Unser 2008; error of the image, Eldar 2009.
    """
    misfit, divergence = _probe(q, A, estimate, noise, level, probes, seed, "sure")
    return misfit - 1 + 2 * divergence


def gcv(
    q: Tensor,
    A: LinearOperator,
    estimate: Callable[[Tensor], Tensor],
    *,
    noise: float | Tensor,
    level: float | None = None,
    probes: int = 1,
    seed: int = 0,
) -> Tensor:
    r"""Generalised cross-validation, which needs the noise only up to a factor.

    .. math::
        \mathrm{gcv} = \frac{|A x(q) - q|^2 / (m\,\mathrm{noise}^2)}{(1 - \mathrm{div} / m)^2}

    Its minimum over the settings is near that of :func:`sure`, where it is about 1 + sure. The
    noise is then about ``noise * sqrt(gcv)``. It is infinite where div = m.

    Parameters
    ----------
    q, A, estimate, noise, level, probes, seed
        As for :func:`sure`.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    InputError
        As :func:`sure`.

    References
    ----------
    Golub, Heath and Wahba 1979; with random perturbations, Hutchinson 1990.
    """
    misfit, divergence = _probe(q, A, estimate, noise, level, probes, seed, "gcv")
    return misfit / (1 - divergence).clamp_min(1e-12).square()


@dataclass(frozen=True)
class ErrorNorm:
    r"""The norm in which errors are estimated from the data.

    .. math::
        \frac{|B A (x - f)|^2}{E |B e|^2}, \qquad
        B = (A^H A + c)^{-1} A^H, \quad c = (\mathrm{noise} / \mathrm{level})^2

    with a ``level``, and :math:`B = 1 / \mathrm{noise}` without one. The first is Wiener's
    estimate of an image from a residual. It is the error of the image wherever A passes more than
    c. The second is the error of the data, in which components that A attenuates hardly count.

    Attributes
    ----------
    problem : Problem
        The whitened data, operator and noise.
    noise : Tensor
        Map of the noise, shape (1 or B, \*data_shape).
    seen : Tensor of bool
        Where anything was measured.
    level : Tensor of shape (B,), optional
        Prior standard deviation of each image.

    References
    ----------
    Stein 1981; Eldar 2009; Wiener's inverse of a blur, Xue, Luisier and Blu 2013.
    """

    problem: Problem
    noise: Tensor
    seen: Tensor
    level: Tensor | None = None

    def weigh(self, r: Tensor) -> Tensor:
        r"""B r for a residual r of shape (B, \*data_shape); unmeasured data count as 0.

        Parameters
        ----------
        r : Tensor, shape (B, \*data_shape)
            A residual.

        Returns
        -------
        Tensor
        """
        r = torch.where(self.seen, r / torch.where(self.seen, self.noise, 1.0), 0.0)
        if self.level is None:
            return r
        return self._solve(self.problem.A.adjoint(self._unit(r) * r), self.level)

    def expected(self, probes: list[Tensor]) -> Tensor:
        """E|B e|^2, shape (B,), from probes drawn like the noise.

        Parameters
        ----------
        probes : list of Tensor
            Changes of the data, drawn like the noise.

        Returns
        -------
        Tensor, shape (B,)
        """
        return torch.stack([square_norm(self.weigh(b)) for b in probes]).mean(0)

    def standard_error(self, difference: Tensor) -> Tensor:
        """Return the standard error of the difference of two estimated errors, times E|B e|^2.

        .. math:: 2 |B^T B A (x - y)|

        for two estimates x and y with ``difference`` = B A (x - y).

        Parameters
        ----------
        difference : Tensor
            B A (x - y).

        Returns
        -------
        Tensor, shape (B,)
        """
        if self.level is not None:
            y = self.problem.A(self._solve(difference, self.level))
            difference = torch.where(self.seen, self._unit(y) * y, 0.0)
        return 2 * square_norm(difference).sqrt()

    def _solve(self, v: Tensor, level: Tensor) -> Tensor:
        """(A^H A + c)^-1 v."""
        c = (self._unit(v).flatten() / level).square()
        return self.problem.A.data_step(torch.zeros_like(v), c, Aty=v)[0]

    def _unit(self, like: Tensor) -> Tensor:
        """Return the noise of the whitened problem, one number an image."""
        unit = torch.as_tensor(self.problem.known_noise("sure")).to(like).expand(len(like))
        return unit.reshape(-1, *[1] * (like.ndim - 1))


def noise_as_map(q: Tensor, A: LinearOperator, noise: float | Tensor) -> Tensor:
    r"""Return the noise as a map of the data, shape (1 or B, \*data_shape).

    Parameters
    ----------
    q : Tensor, shape (B, \*data_shape)
        Data.
    A : LinearOperator
        The operator.
    noise : float or Tensor
        Standard deviation of the noise: a number, (B,) or a map.

    Returns
    -------
    Tensor, shape (1 or B, \*data_shape)
    """
    level = torch.as_tensor(noise, dtype=q.dtype, device=q.device)
    if level.ndim == 1 and len(A.data_shape) > 1:
        level = level.reshape(-1, *[1] * (q.ndim - 1))
    return level.expand(level.shape[0] if level.ndim == q.ndim else 1, *A.data_shape)


def square_norm(v: Tensor) -> Tensor:
    """Sum of squares of each image, in float64, shape (B,).

    Parameters
    ----------
    v : Tensor, shape (B, ...)
        Values of each image.

    Returns
    -------
    Tensor, shape (B,)
    """
    return v.flatten(1).square().sum(1).double()


def _probe(
    q: Tensor,
    A: LinearOperator,
    estimate: Callable[[Tensor], Tensor],
    noise: float | Tensor,
    level: float | None,
    probes: int,
    seed: int,
    who: str,
) -> tuple[Tensor, Tensor]:
    """Misfit and divergence over E|B e|^2, one number an image each."""
    _check(estimate, level, probes, who)
    with torch.no_grad():
        problem = make_problem(q, A, noise)
        problem.known_noise(who)
        deviation = noise_as_map(q, A, noise)
        seen = torch.isfinite(deviation) & reached(A, len(q), q.device)
        clean = torch.where(seen, q, 0.0)
        generator = torch.Generator().manual_seed(seed)
        size = torch.where(seen, deviation, 0.0)
        changes = [size * probe(q, seen.expand_as(q), generator) for _ in range(probes)]
        prior = None if level is None else torch.full((len(q),), float(level)).to(q)
        norm = ErrorNorm(problem, deviation, seen, prior)
        fit, expected = A(estimate(clean)), norm.expected(changes)
        divergence = torch.zeros_like(expected)
        for b in changes:
            moved = norm.weigh(A(estimate(clean + PROBE_STEP * b)) - fit)
            product = (norm.weigh(b) * moved).flatten(1).sum(1).double()
            divergence += product / PROBE_STEP / probes
        misfit = square_norm(norm.weigh(fit - clean))
        return misfit / expected, divergence / expected


def _check(
    estimate: Callable[[Tensor], Tensor], level: float | None, probes: int, who: str
) -> None:
    if not callable(estimate):
        raise InputTypeError(
            f"{who}: estimate must be a function of the data, got {type(estimate).__name__}. "
            "Example: lambda q: A.initial(q)."
        )
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise InputError(f"{who}: probes must be an integer >= 1, got {probes!r}.")
    if level is None:
        return
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < math.inf:
        raise InputError(
            f"{who}: level is a deviation of images, a number > 0, or None for the error of the "
            f"data; got {level!r}."
        )


__all__ = ["ErrorNorm", "gcv", "noise_as_map", "sure"]
