"""Denoisers made to expand less, so that solvers converge."""

from __future__ import annotations

from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers._base import Denoiser, check_image
from pnp_mlpatch.denoisers._wrapper import Wrapper, checked_result
from pnp_mlpatch.errors import InputError


class averaged(Wrapper):
    r"""D mixed with the identity, for solvers that oscillate with D.

    .. math:: D_\theta(x, \sigma) = (1 - \theta) x + \theta D(x, \sigma)

    Parameters
    ----------
    D : Denoiser
    theta : float
        The share of D, in (0, 1].

    Raises
    ------
    InputError
        For another theta.

    Notes
    -----
    If D is nonexpansive, :math:`D_\theta` is firmly nonexpansive for theta <= 1/2, which ADMM, DRS
    and PDHG need. If the Jacobian of D is symmetric with eigenvalues in [-m, 1], m > 1, D expands.
    :math:`D_\theta` does not for theta <= 2 / (1 + m), and is firmly nonexpansive for
    theta <= 1 / (1 + m). :func:`pnp_mlpatch.convergence.expansion` measures m + 1. Eigenvalues
    above 1 stay above 1: see :class:`contracted`. The effect on the image is that of a smaller
    sigma.

    References
    ----------
    Krasnoselskii 1955.
    """

    def __init__(self, D: Denoiser, theta: float = 0.5):
        super().__init__(D, "averaged")
        if not finite_number(theta) or not 0 < theta <= 1:
            raise InputError(f"averaged: theta must be a number in (0, 1], got {theta!r}.")
        self.settings = {"theta": float(theta)}

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        theta = self.settings["theta"]
        return (1 - theta) * x + theta * checked_result(self.inner(x, sigma), x, self.known.name)


class contracted(Wrapper):
    r"""D divided by its Lipschitz constant L, the mean m of each channel kept (spectral scaling).

    .. math:: D_L(x, \sigma) = m + (D(x, \sigma) - m) / L

    Parameters
    ----------
    D : Denoiser
    bound : float
        The Lipschitz constant L of D, at least 1, as :func:`pnp_mlpatch.convergence.lipschitz`
        measures it.

    Raises
    ------
    InputError
        Unless ``bound`` >= 1.

    Notes
    -----
    :math:`D_L` is nonexpansive if D keeps means. Then PGD, HQS and RED do not diverge, and with
    :class:`averaged` ADMM, DRS and PDHG converge. The price is contrast: each call draws what the
    data do not show towards the mean, by 1 / L. So use it for an L little above 1, and try
    :class:`averaged` and a smaller sigma first.

    References
    ----------
    Ryu et al. 2019, who divide every layer, which bounds D more strictly.
    """

    def __init__(self, D: Denoiser, bound: float):
        super().__init__(D, "contracted")
        if not finite_number(bound) or bound < 1:
            raise InputError(
                "contracted: bound must be a number >= 1, the Lipschitz constant of D "
                f"(convergence.lipschitz), got {bound!r}."
            )
        self.settings = {"bound": float(bound)}

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        y = checked_result(self.inner(x, sigma), x, self.known.name)
        mean = y.mean(dim=(-2, -1), keepdim=True)
        return mean + (y - mean) / self.settings["bound"]
