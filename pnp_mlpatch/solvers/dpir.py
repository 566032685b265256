"""DPIR: half-quadratic splitting with its published settings."""

from __future__ import annotations

from torch import Tensor

from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, register, registry


@register("dpir")
def dpir(
    *,
    iterations: int = 8,
    sigma: schedules.Schedule | None = None,
    alpha: float | Tensor | None = None,
    alpha_scale: float = 0.23,
    tol: float = 0.0,
    data_iterations: int = 10,
    data_tol: float = 1e-6,
) -> Solver:
    r"""The solver "hqs" with the settings of DPIR.

    Sigma falls from 49/255 to the noise of the data as the start of each image shows it, evenly in
    its logarithm.

    .. math::

        f_k = h(x_{k-1}; \text{alpha\_scale} \, (\text{noise} / \sigma_k)^2), \qquad
        x_k = D(f_k, \sigma_k), \qquad k = 1, \dots, \text{iterations}

    Parameters
    ----------
    iterations : int
        Number of steps. DPIR takes 8 for deblurring and 24 for superresolution.
    sigma, alpha, alpha_scale, tol, data_iterations, data_tol
        As for :class:`~pnp_mlpatch.solvers.hqs.HQS`; ``sigma`` gives other levels.

    Returns
    -------
    HQS

    Raises
    ------
    InputError, InputTypeError
        As HQS does.

    Notes
    -----
    For images in [0, 1], noise that is known, and denoisers that take any sigma.

    References
    ----------
    Zhang, Li, Zuo, Zhang, Van Gool and Timofte 2021.
    """  # noqa: D401  it is listed with the classes, and names a solver as they do
    return registry.get("hqs")(
        iterations=iterations,
        sigma=sigma,
        alpha=alpha,
        alpha_scale=alpha_scale,
        tol=tol,
        data_iterations=data_iterations,
        data_tol=data_tol,
    )


__all__ = ["dpir"]
