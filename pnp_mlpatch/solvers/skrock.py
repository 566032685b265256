"""Plug-and-play sampling of the posterior by SK-ROCK: long Langevin steps by explicit stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import register
from pnp_mlpatch.solvers._chain import Chain
from pnp_mlpatch.solvers._chebyshev import chebyshev, longest
from pnp_mlpatch.solvers._langevin import ChainState, curvature, drift, follow, step_size, white
from pnp_mlpatch.solvers._problem import Problem, column


@register("skrock")
@dataclass(frozen=True)
class SKROCK(Chain):
    r"""Samples of the posterior by the stochastic orthogonal Runge-Kutta-Chebyshev method.

    With G as in :class:`~pnp_mlpatch.solvers.ula.ULA`, white e, and :math:`T_j` the Chebyshev
    polynomials,

    .. math::

        k_0 &= s, \qquad k_1 = s + \mu_1 \delta G(s + \nu_1 \sqrt{2 \delta} \, e)
            + \kappa_1 \sqrt{2 \delta} \, e \\
        k_j &= \mu_j \delta G(k_{j-1}) + \nu_j k_{j-1} + (1 - \nu_j) k_{j-2}, \qquad
            j = 2, \dots, m \\
        s &\leftarrow k_m

    for m ``stages``, :math:`\eta = 0.05` and

    .. math::

        w_0 &= 1 + \eta / m^2, \quad w_1 = T_m(w_0) / T'_m(w_0), \quad
            \mu_1 = w_1 / w_0, \quad \nu_1 = m w_1 / 2, \quad \kappa_1 = m \mu_1 \\
        \mu_j &= 2 w_1 T_{j-1}(w_0) / T_j(w_0), \qquad \nu_j = 2 w_0 T_{j-1}(w_0) / T_j(w_0)

    Parameters
    ----------
    iterations, sigma, burn_in, seed, tol, box, keep
        As for ULA. A state of one resumes with the other.
    stages : int
        Stages m of a step, >= 2. A step costs m gradients, so as many denoisers, and is stable
        for a delta up to l / L, which grows as the square of m:

        .. math::

            l = (m - 1/2)^2 (2 - 4/3 \, \eta) - 3/2, \qquad
            L = |A|^2 / \text{noise}^2 + 1 / \sigma^2

        or :math:`2 / \sigma^2` with a box.
    delta : float, Tensor of shape (B,), or None
        Step size. None is the smaller of 0.8 l / L and 4 sigma^2, for each image.

    Raises
    ------
    InputError, InputTypeError
        If a setting is out of range.

    Notes
    -----
    The default step is stable if D(s) - s changes by no more than 1.25 times the change of s
    (:func:`~pnp_mlpatch.convergence.expansion` measures it as ``residual``). Its second bound is
    for denoisers that sharpen: the density is then not log-concave, and longer steps overshoot
    where sigma is small beside the noise, until the chain leaves the images. With a linear D,
    delta may be larger.

    The mean of a Gaussian posterior is exact for every delta. The samples are too narrow in the
    directions that the data know best, where delta times the precision is not small (down to half
    the variance and less), and right in the others.

    References
    ----------
    Pereyra, Vargas Mieles and Zygalakis 2020; Abdulle, Almuslimani and Vilmart 2018.
    """

    iterations: int = 200
    burn_in: int = 40
    stages: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.stages, bool) or not isinstance(self.stages, int) or self.stages < 2:
            raise InputError(
                f"SKROCK: stages must be an integer >= 2, got {self.stages!r}. "
                "One stage is the solver ula."
            )

    def levels(self, problem: Problem, state: ChainState) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        L = curvature(problem, state, sigma, self.box, "SKROCK")
        bound = torch.as_tensor(4 * column(sigma) ** 2).to(L)
        default = torch.minimum(0.8 * longest(self.stages) / L, bound)
        return {"sigma": sigma, "delta": step_size(self.delta, default, state.sample, "SKROCK")}

    def step(self, problem: Problem, denoise: Denoiser, state: ChainState) -> ChainState:
        level, s = self.levels(problem, state), state.sample
        sigma, delta = level["sigma"], level["delta"]
        T, w_1 = chebyshev(self.stages)
        w_0, noise = T[1], (2 * delta) ** 0.5 * white(self.seed, state.iteration, s)
        mu = w_1 / w_0
        shifted = s + self.stages * w_1 / 2 * noise
        gradient = drift(problem, denoise, shifted, sigma, self.box, "SKROCK")
        before, k = s, s + mu * delta * gradient + self.stages * mu * noise
        for j in range(2, self.stages + 1):
            ratio = 2 * T[j - 1] / T[j]
            nu = ratio * w_0
            gradient = drift(problem, denoise, k, sigma, self.box, "SKROCK")
            before, k = k, ratio * w_1 * delta * gradient + nu * k + (1 - nu) * before
        return follow(state, k, self.burn_in, self.keep)


__all__ = ["SKROCK", "chebyshev", "longest"]
