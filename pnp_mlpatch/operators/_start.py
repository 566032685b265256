"""The start of operators that have none of their own: a smooth image that explains the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pnp_mlpatch.linalg import laplacian, pcg, power_of_two
from pnp_mlpatch.operators._place import data_on

if TYPE_CHECKING:
    from pnp_mlpatch.operators._base import LinearOperator

SMOOTHNESS = 1e-2  # the weight of the Laplacian, relative to |A|^2
STEPS = 100  # of conjugate gradients, at most
TOLERANCE = 1e-4  # of their relative residual
LEAST_SEEN = 1e-6  # of tr A^H A / n in the preconditioner, in units of |A|^2


def random_signs(A: LinearOperator, like: Tensor) -> Tensor:
    """Return a probe of random signs for estimates of traces (Hutchinson 1990).

    Parameters
    ----------
    A : LinearOperator
        The probe is an image of it.
    like : Tensor, shape (B, ...)
        Batch size, dtype and device are taken from here.

    Returns
    -------
    Tensor, shape (B, C, H, W)
        One image of -1 and 1, B times.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (1, *A.image_shape), generator=generator).to(like) * 2 - 1
    return signs.expand(len(like), -1, -1, -1)


def smooth_start(A: LinearOperator, q: Tensor) -> Tensor:
    r"""Return the smooth image that explains the data.

    .. math:: \arg\min_x |A x - q|^2 + \mu |A|^2 |\Delta x|^2

    It takes at most ``STEPS`` steps of conjugate gradients from 0, preconditioned by the inverse
    for an A that sees all pixels alike. Where A sees nothing the image is continued smoothly: zeros
    there would be edges, which denoisers amplify. Gradients flow.

    Parameters
    ----------
    A : LinearOperator
        Any operator.
    q : Tensor, shape (B, \*data_shape)
        Data.

    Returns
    -------
    Tensor, shape (B, C, H, W)
    """
    with torch.no_grad(), data_on(q.device):  # in units in which |A| is about 1
        unit = float(power_of_two(torch.tensor(A.norm(tol=0.01), dtype=torch.float64))) or 1.0
        inverse = 1 / _spectrum(A, q, unit)

    def energy(x: Tensor) -> Tensor:
        return A.normal(x / unit) / unit + SMOOTHNESS * laplacian(laplacian(x))

    def precondition(r: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(r) * inverse, s=A.image_shape[1:])

    b = A.adjoint(q) / unit
    x, _ = pcg(
        energy,
        b,
        torch.zeros_like(b),
        precondition=precondition,
        tol=TOLERANCE,
        max_iter=STEPS,
    )
    return x / unit


def _spectrum(A: LinearOperator, q: Tensor, unit: float) -> Tensor:
    """Return tr A^H A / n plus the squared spectrum of the Laplacian, (B, 1, H, W // 2 + 1)."""
    signs = random_signs(A, q)
    seen = A(signs / unit).square().flatten(1).sum(1).reshape(-1, 1, 1, 1) / signs[0].numel()
    height, width = A.image_shape[1:]
    rows, columns = (
        2 - 2 * torch.cos(2 * torch.pi * frequencies(n).to(q))
        for frequencies, n in ((torch.fft.fftfreq, height), (torch.fft.rfftfreq, width))
    )
    return seen.clamp_min(LEAST_SEEN) + SMOOTHNESS * (rows[:, None] + columns).square()
