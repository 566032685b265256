"""Numerical checks of an operator: linearity, its adjoint, and what it sees."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators._base import LinearOperator
from pnp_mlpatch.operators._place import data_on

NONLINEAR = 0.01  # relative; more is refused
UNMATCHED = 0.05  # relative mismatch of the adjoint; more is refused
DOUBTFUL = 1e-3  # relative mismatch of the adjoint; more is warned of
TINY = 1e-300
ADVICE = (
    " pnp_mlpatch.testing.check_operator(A) says more; A.verified = True leaves this check out."
)


def adjoint_mismatch(
    A: LinearOperator, *, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32
) -> float:
    r"""Measure how far the adjoint is from the transpose, for random x and y.

    .. math:: |\langle A x, y \rangle - \langle x, A^H y \rangle| \, / \, (|A x| \, |y|)

    Parameters
    ----------
    A : LinearOperator
        The operator.
    batch : int
        The number of images and of data sets.
    seed : int
        Of the random numbers.
    dtype : torch.dtype
        The precision of x and y; the products are summed in float64.

    Returns
    -------
    float
        About 1e-7 for a matched pair in float32.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(batch, *shape, generator=generator, dtype=dtype).to(A.device)
        for shape in (A.image_shape, A.data_shape)
    )
    return mismatch(A(x), y, x, A.adjoint(y))


def mismatch(Ax: Tensor, y: Tensor, x: Tensor, Aty: Tensor) -> float:
    r"""Return :math:`|\langle A x, y \rangle - \langle x, A^H y \rangle| / (|A x| |y|)`.

    Parameters
    ----------
    Ax, y : Tensor
        Data.
    x, Aty : Tensor
        Images.

    Returns
    -------
    float
    """
    Ax, y, x, Aty = (v.double() for v in (Ax, y, x, Aty))
    gap = (Ax * y).sum() - (x * Aty).sum()
    return float(gap.abs() / (Ax.norm() * y.norm()).clamp_min(TINY))


def reached(A: LinearOperator, images: int = 1, device: torch.device | str | None = None) -> Tensor:
    r"""Return which data depend on the image at all.

    Parameters
    ----------
    A : LinearOperator
        The operator.
    images : int
        How many images A takes at a time, where it has weights for each.
    device : torch.device or str, optional
        Where the data are, for an A without buffers.

    Returns
    -------
    Tensor of bool, shape (images, \*data_shape)
        Where a random positive image gives a value other than 0.
    """
    x = torch.rand(1, *A.image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), data_on(device):
        return A((x.to(A.device) + 1).expand(images, -1, -1, -1)).abs() > 0


def check_foreign(
    A: LinearOperator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> None:
    r"""Check once that each part of A from outside this package is linear, and its adjoint right.

    .. math::

        \frac{|A(x + 2 x') - A x - 2 A x'|}{|A x| + 2 |A x'|} \qquad
        \frac{|\langle A x, y \rangle - \langle x, A^H y \rangle|}{|A x| \, |y|}

    with random images x and x', and y = A x of norm 1 plus noise of norm 1. It costs three
    applications of A and one of the adjoint.

    Parameters
    ----------
    A : LinearOperator
        The operator; those that it is made of are checked too.
    dtype : torch.dtype
        The precision in which it is used.
    device : torch.device or str, optional
        Where the data are, for an A without buffers.

    Raises
    ------
    InputError
        If A is not linear to 1 %, if its adjoint is not its transpose to 5 %, or if values are not
        finite.

    Warns
    -----
    UserWarning
        If the adjoint is not the transpose to 0.1 %.
    """
    for operator in A.modules():
        home = type(operator).__module__
        foreign = not home.startswith("pnp_mlpatch.") or home.startswith("pnp_mlpatch.interop.")
        if isinstance(operator, LinearOperator) and foreign and not operator.verified:
            with data_on(device):
                _check_once(operator, dtype)
            operator.verified = True


def _check_once(A: LinearOperator, dtype: torch.dtype) -> None:
    generator, size = torch.Generator().manual_seed(1), torch.linalg.vector_norm
    x, other = (
        torch.randn(1, *A.image_shape, generator=generator).to(A.device, dtype) for _ in range(2)
    )
    noise = torch.randn(1, *A.data_shape, generator=generator).to(x)
    with torch.no_grad():
        try:
            Ax, Aother, both = A(x), A(other), A(x + 2 * other)
            y = noise / size(noise) + (Ax / size(Ax) if bool(size(Ax) > 0) else 0)
            Aty = A.adjoint(y)
        except Exception:  # it may take batches of one size only; other faults show when it is used
            return
    _check_values(A, (Ax, both, Aty), (noise.shape, noise.shape, x.shape))
    Ax, Aother, both = Ax.double(), Aother.double(), both.double()
    bent = float(size(both - Ax - 2 * Aother) / (size(Ax) + 2 * size(Aother)).clamp_min(TINY))
    if bent > NONLINEAR:
        raise InputError(
            f"{A._who()}: A is not linear: A(x + 2 x') differs from A(x) + 2 A(x') by {bent:.1%}. "
            f"Leave out offsets, clipping and noise.{ADVICE}"
        )
    gap = mismatch(Ax, y, x, Aty)
    wrong = (
        f"{A._who()}: the adjoint is not the transpose of A: "
        f"|<A x, y> - <x, A^H y>| = {gap:.1e} |A x| |y|, "
    )
    if gap > UNMATCHED:
        raise InputError(
            f"{wrong}and solvers would go to another image, or diverge. "
            f"Is a factor, a flip or a conjugate missing?{ADVICE}"
        )
    if gap > DOUBTFUL:
        warnings.warn(f"{wrong}so solvers may stall or diverge.{ADVICE}", stacklevel=5)


def _check_values(
    A: LinearOperator, values: Sequence[Tensor], shapes: Sequence[torch.Size]
) -> None:
    """Refuse results of a wrong shape or that are not finite: A x, A of another image, A^H y."""
    if tuple(v.shape for v in values) != tuple(shapes):
        raise InputError(
            f"{A._who()}: A(x) must have the shape {tuple(shapes[0])} and A.adjoint(y) "
            f"{tuple(shapes[2])}, got {tuple(values[0].shape)} and {tuple(values[2].shape)}."
            f"{ADVICE}"
        )
    if not all(bool(torch.isfinite(v).all()) for v in values):
        raise InputError(
            f"{A._who()}: A(x) or A.adjoint(y) is NaN or infinite for random x and y.{ADVICE}"
        )
