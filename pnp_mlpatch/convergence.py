r"""Predict whether plug-and-play converges: how much a denoiser expands.

What decides is the Jacobian J of D at an image. If D is the proximal map of a convex function, J is
symmetric with eigenvalues in [0, 1], and the solvers converge. A network guarantees nothing of the
kind, but its Jacobian can be measured:

- :math:`|J| \le 1`: D is nonexpansive; PGD, HQS and RED do not diverge.
- :math:`|2 J - I| \le 1`: D is firmly nonexpansive; those, and ADMM, DRS and PDHG, converge.

The values hold near x, which should be like what D is given at the end of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser, check_image
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.solvers import checked

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Expansion:
    """The result of :func:`expansion`: lower bounds that grow with its iterations.

    ``print`` it to read what follows from the values.

    Parameters
    ----------
    denoiser : float
        :math:`|J|`.
    residual : float
        :math:`|I - J|`.
    reflection : float
        :math:`|2 J - I|`.
    method : str
        "autograd" or "finite differences".
    """

    denoiser: float
    residual: float
    reflection: float
    method: str

    def __str__(self) -> str:
        slack = 1 + 1e-3
        figures = (
            f"|J| = {self.denoiser:.4g}, |I - J| = {self.residual:.4g}, "
            f"|2 J - I| = {self.reflection:.4g}, by {self.method}"
        )
        if self.reflection <= slack:
            return f"{figures}. D is firmly nonexpansive here: what the solvers need."
        theta = f"averaged(D, {math.floor(1e3 / self.residual) / 1e3:g})"
        if self.denoiser <= slack:
            return (
                f"{figures}. D is nonexpansive here, but not firmly: ADMM, DRS and PDHG may swing. "
                f"{theta} makes it firm, if J is symmetric."
            )
        # a symmetric J has eigenvalues >= 1 - |I - J|, so what is large is negative
        if self.denoiser <= self.residual - 1 / slack:
            return (
                f"{figures}. D is expansive here, as it overshoots: any solver may diverge. "
                f"{theta} mends it, if J is symmetric."
            )
        return (
            f"{figures}. D is expansive here, as it amplifies: no theorem promises convergence, "
            "and averaged does not change it. Watch the residual."
        )


def lipschitz(
    D: Denoiser, x: Tensor, sigma: float | Tensor, *, iterations: int = 30, seed: int = 0
) -> float:
    r"""Estimate the local Lipschitz constant of D at x; above 1, D is expansive there.

    .. math:: |J| = \max_v |J v| / |v|, \qquad J = \partial D(x, \sigma) / \partial x

    Parameters
    ----------
    D : Denoiser
        The denoiser.
    x : Tensor, shape (B, C, H, W)
        Noisy images. The largest value of the batch is returned. Memory is that of training on x:
        cut x to a part if it is large.
    sigma : float or Tensor
        Noise level, as D takes it.
    iterations : int
        Steps of the iteration, >= 1.
    seed : int
        Seed of the start, >= 0.

    Returns
    -------
    float
        A lower bound of the constant.

    Raises
    ------
    InputError
        For invalid settings or images.

    Notes
    -----
    Where autograd follows D, these are steps of Lanczos on :math:`J^T J`. Where it does not (numpy
    functions, ``no_grad``, or derivatives that are not finite, as at the kinks of TV), it is power
    iteration on J alone, with J v by central differences over a hundredth of sigma. That is a lower
    bound, which is exact in the limit for a symmetric J. :func:`expansion` says which was used.

    The derivative of a D that iterates inside, as TV does, is that of its unfinished iteration,
    which may be larger than that of the limit. ``torch.no_grad()(lambda x, sigma: D(x, sigma))`` is
    measured by differences.
    """
    return _norms(D, x, sigma, iterations, seed, ((0.0, 1.0),))[0][0]


def expansion(
    D: Denoiser, x: Tensor, sigma: float | Tensor, *, iterations: int = 30, seed: int = 0
) -> Expansion:
    r"""Measure :math:`|J|`, :math:`|I - J|` and :math:`|2 J - I|` of D at x.

    :math:`|I - J| < 1`, with data that determine the image, is the condition of Ryu et al.;
    :math:`|2 J - I| \le 1` that of ADMM and DRS. The method is that of :func:`lipschitz`.

    Parameters
    ----------
    D : Denoiser
        The denoiser.
    x : Tensor, shape (B, C, H, W)
        Noisy images.
    sigma : float or Tensor
        Noise level, as D takes it.
    iterations : int
        Steps of the iteration, >= 1.
    seed : int
        Seed of the start, >= 0.

    Returns
    -------
    Expansion
        The three values; its text says what they mean for the solvers.

    References
    ----------
    Ryu et al. (2019).
    """
    values, method = _norms(D, x, sigma, iterations, seed, ((0.0, 1.0), (1.0, -1.0), (-1.0, 2.0)))
    return Expansion(denoiser=values[0], residual=values[1], reflection=values[2], method=method)


def _norms(
    D: Denoiser,
    x: Tensor,
    sigma: float | Tensor,
    iterations: int,
    seed: int,
    pairs: tuple[tuple[float, float], ...],
) -> tuple[list[float], str]:
    """Return |a I + b J| for each (a, b), and how J was computed."""
    if not callable(D):
        raise InputTypeError(
            f"lipschitz: the denoiser must be callable as D(x, sigma), got {D!r}. Make one of a "
            "name with as_denoiser(name)."
        )
    check_image(x, "lipschitz")
    if not bool(torch.isfinite(x).all()):
        raise InputError("lipschitz: the image holds NaN or infinite values.")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise InputError(f"lipschitz: iterations must be an integer >= 1, got {iterations!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"lipschitz: seed must be an integer >= 0, got {seed!r}.")
    start = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    D, x = checked(D), x.detach()
    jacobian = _by_autograd(D, x, sigma, start)
    if jacobian is not None:
        forward, backward = jacobian
        squares = [_lanczos(_normal(forward, backward, a, b), start, iterations) for a, b in pairs]
        return [math.sqrt(max(0.0, value)) for value in squares], "autograd"
    differences = _by_differences(D, x, sigma)
    return [
        _power(lambda v, a=a, b=b: a * v + b * differences(v), start, iterations) for a, b in pairs
    ], "finite differences"


def _normal(forward: Map, backward: Map, a: float, b: float) -> Map:
    """Return v -> M^T M v for M = a I + b J."""

    def normal(v: Tensor) -> Tensor:
        w = a * v + b * forward(v)
        return a * w + b * backward(w)

    return normal


def _by_autograd(
    D: Denoiser, x: Tensor, sigma: float | Tensor, trial: Tensor
) -> tuple[Map, Map] | None:
    """Return v -> J v and w -> J^T w, or None where autograd does not follow D.

    J v is the derivative of <J^T w, v> with respect to w. One pass of D serves all products, and
    functions that torch.func cannot take work too.
    """
    try:
        with torch.enable_grad():
            point = x.clone().requires_grad_()
            y = D(point, sigma)
            if not y.requires_grad:
                return None
            w = torch.zeros_like(y).requires_grad_()
            (pulled,) = torch.autograd.grad(y, point, w, create_graph=True)

        def forward(v: Tensor) -> Tensor:
            (out,) = torch.autograd.grad(pulled, w, v, retain_graph=True, materialize_grads=True)
            return out

        def backward(v: Tensor) -> Tensor:
            (out,) = torch.autograd.grad(y, point, v, retain_graph=True)
            return out

        sound = bool(torch.isfinite(forward(trial)).all()) and bool(
            torch.isfinite(backward(trial)).all()
        )
        return (forward, backward) if sound else None
    except RuntimeError:
        return None


def _by_differences(D: Denoiser, x: Tensor, sigma: float | Tensor) -> Map:
    """Return v -> (D(x + h v) - D(x - h v)) / (2 h), with h v of rms sigma / 100."""
    size = (
        float(torch.as_tensor(sigma).double().mean())
        or float(x.double().square().mean().sqrt())
        or 1.0
    )

    def forward(v: Tensor) -> Tensor:
        h = 0.01 * size / max(float(v.double().square().mean().sqrt()), 1e-30)
        with torch.no_grad():
            out = (D(x + h * v, sigma) - D(x - h * v, sigma)) / (2 * h)
        if not bool(torch.isfinite(out).all()):
            raise InputError(
                "lipschitz: the denoiser returns values that are not finite for this image and "
                "sigma."
            )
        return out

    return forward


def _power(forward: Map, v: Tensor, iterations: int) -> float:
    """Return the largest |M v| / |v| that power iteration meets."""
    best = 0.0
    for _ in range(iterations):
        v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
        v = forward(v)
        best = max(best, float(v.norm()))
    return best


def _lanczos(normal: Map, start: Tensor, iterations: int) -> float:
    """Compute the largest eigenvalue of a symmetric map (Lanczos 1950), in float64.

    Each vector is orthogonalised against all before.
    """
    v = start.double().flatten()
    basis, diagonal, beside = [v / v.norm()], [], []
    for _ in range(min(iterations, v.numel())):
        w = normal(basis[-1].reshape(start.shape).to(start.dtype)).double().flatten()
        diagonal.append(float(w @ basis[-1]))
        for _ in range(2):
            known = torch.stack(basis)
            w = w - known.T @ (known @ w)
        size = float(w.norm())
        if not size > 1e-7 * abs(diagonal[0]):  # what is left is rounding
            break
        beside.append(size)
        basis.append(w / size)
    off = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
    ladder = (
        torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        + torch.diag(off, 1)
        + torch.diag(off, -1)
    )
    return float(torch.linalg.eigvalsh(ladder)[-1])


__all__ = ["Expansion", "expansion", "lipschitz"]
