"""Plug-and-play sampling of the posterior by the unadjusted Langevin algorithm."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import register
from pnp_mlpatch.solvers._chain import Chain
from pnp_mlpatch.solvers._langevin import ChainState, curvature, drift, follow, step_size, white
from pnp_mlpatch.solvers._problem import Problem


@register("ula")
@dataclass(frozen=True)
class ULA(Chain):
    r"""Samples of the posterior by Langevin steps (PnP-ULA).

    The denoiser stands for the gradient of the logarithm of the prior. With white :math:`e_k`,
    and P the projection on ``box``, which is left out where box is None,

    .. math::

        s_{k+1} &= s_k + \delta G(s_k) + \sqrt{2 \delta} \, e_k \\
        G(s) &= A^H (q - A s) / \text{noise}^2 + (D(s, \sigma) - s) / \sigma^2
            + [(P(s) - s) / \sigma^2]

    Parameters
    ----------
    iterations : int
        Number of steps.
    sigma : float, sequence of float, or Tensor of shape (B,) or (K, B)
        The samples are of images to which noise of this deviation was added, given the data: the
        smaller sigma, the nearer to the images themselves, and the slower the chain. A sequence
        of levels is for the burn-in.
    delta : float, Tensor of shape (B,), or None
        Step size. None is :math:`1 / (3 L)` for each image, as the authors take, with

        .. math:: L = |A|^2 / \text{noise}^2 + 1 / \sigma^2

        or :math:`2 / \sigma^2` with a box.
    burn_in : int
        Number of first steps whose samples do not count.
    seed : int
        Seed of the random numbers, those of iteration k from (seed, k).
    tol : float
        For the relative change of the mean, the largest of the batch, whose images stop together.
        It falls as 1 / k: 0 by default.
    box : tuple of two floats, or None
        Range (low, high) to which the chain is drawn.
    keep : int
        From ``keep`` to 2 ``keep`` - 1 samples are kept. Memory is that of about 2 ``keep`` + 36
        batches.

    Raises
    ------
    InputError, InputTypeError
        If a setting is out of range.

    Notes
    -----
    The result x is the mean of the samples after the burn-in. The state, a
    :class:`~pnp_mlpatch.solvers._langevin.ChainState`, has ``std``, ``quantile(p)``,
    ``effective_samples`` and ``samples``.

    Steps up to 2 / L are stable if D(s) - s changes no more than s does;
    :func:`~pnp_mlpatch.convergence.expansion` measures that as ``residual``. The default is
    stable for a ``residual`` up to 6 at least. Longer steps make the samples too wide: for a
    Gaussian posterior of precision P the covariance is :math:`(P (1 - \delta P / 2))^{-1}`.

    A resumed run goes on as it would have. All images of a batch have the same random numbers, so
    that none depends on the others. Independent chains are runs with other seeds, or, where A and D
    treat channels alike, the channels of one image.

    It is slow where the data are good in some places and absent in others: see
    :class:`~pnp_mlpatch.solvers.skrock.SKROCK`.

    References
    ----------
    Laumont, De Bortoli, Almansa, Delon, Durmus and Pereyra 2022.
    """

    def levels(self, problem: Problem, state: ChainState) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        L = curvature(problem, state, sigma, self.box, "ULA")
        return {"sigma": sigma, "delta": step_size(self.delta, 1 / (3 * L), state.sample, "ULA")}

    def step(self, problem: Problem, denoise: Denoiser, state: ChainState) -> ChainState:
        level, s = self.levels(problem, state), state.sample
        delta, noise = level["delta"], white(self.seed, state.iteration, s)
        gradient = drift(problem, denoise, s, level["sigma"], self.box, "ULA")
        s = s + delta * gradient + (2 * delta) ** 0.5 * noise
        return follow(state, s, self.burn_in, self.keep)


__all__ = ["ULA"]
