"""Plug-and-play ADMM with several data terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._dual import Dual, DualState
from pnp_mlpatch.solvers._problem import Problem


@runtime_checkable
class Blocks(Protocol):
    """An operator made of several operators of one image."""

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The operators."""
        ...

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """Split the data.

        Parameters
        ----------
        y : Tensor, shape (B, ...)
            Data of all blocks.

        Returns
        -------
        tuple of Tensor
            Data of each.
        """
        ...


@dataclass(frozen=True)
class ConsensusState(DualState):
    """State of ADMM with several data terms."""


@register("consensus")
@dataclass(frozen=True)
class Consensus(Dual[ConsensusState]):
    r"""ADMM with a data step for each of several data sets, which agree on one image.

    For :math:`q_i = A_i f + n_i` it minimises

    .. math::

        \sum_i \frac{1}{2 \, \text{noise}_i^2} |A_i f_i - q_i|^2 + R(v)
        \quad \text{so that} \quad f_i = v, \quad i = 1, \dots, n

    From :math:`v = x_0` and :math:`u_i = 0`, with the estimate v,

    .. math::

        f_i &= h_i(v - u_i; \alpha_i), \qquad
            h_i(z; \alpha) = (A_i^H A_i + \alpha)^{-1} (A_i^H q_i + \alpha z) \\
        v &= D(\text{mean}_i (f_i + u_i), \sigma) \\
        u_i &= u_i + f_i - v, \qquad
            \alpha_i = \text{alpha\_scale} \, (\text{noise}_i / \sigma)^2 / n

    Parameters
    ----------
    iterations, sigma, alpha, alpha_scale, tol, data_iterations, data_tol
        As for :class:`~pnp_mlpatch.solvers.admm.ADMM`. ``alpha`` is in place of
        (noise / sigma)^2, once a noise map is divided out; each term has alpha / n.

    Notes
    -----
    The operator is a stack of blocks, ``operators.make("stack", blocks=[A_1, A_2])``, and the noise
    one number for all, or a map (``A.noise([...])``), which is divided out. Any other operator
    is one term, and the iterates are those of ADMM.

    With the penalty :math:`\rho/2 \, |f_i - v + u_i|^2` of each term, v minimises

    .. math::

        R(v) + \sum_i \rho/2 \, |f_i - v + u_i|^2
        = R(v) + n \rho/2 \, |v - \text{mean}_i (f_i + u_i)|^2 + \text{constant}

    and D stands for the proximal map of R at :math:`\sigma^2`, so :math:`1 / (n \rho) = \sigma^2`
    and :math:`\alpha_i = \rho \, \text{noise}_i^2`. The fixed points are those of ADMM with the
    stacked operator, for every denoiser:

    .. math::

        \sum_i A_i^H (A_i v - q_i) / \text{noise}_i^2 + u / \sigma^2 = 0, \qquad
        v = D(v + u, \sigma), \qquad u = \text{mean}_i u_i

    The data steps are those of the blocks and exact where theirs are, while that of the stack
    takes many iterations. Each step costs :math:`A_i^H q_i` of each block more.

    References
    ----------
    Boyd et al. 2011 (section 7.1); Buzzard, Chan, Sreehari and Bouman 2018 (MACE).
    """

    state_type: ClassVar[type[State]] = ConsensusState

    def terms(self, problem: Problem) -> list[Problem]:
        A = problem.A
        if not isinstance(A, Blocks):
            return [problem]
        blocks = [cast(LinearOperator, block) for block in A.blocks]
        return [
            replace(problem, q=q, A=block, Aty=block.adjoint(q))
            for block, q in zip(blocks, A.split(problem.q), strict=True)
        ]


__all__ = ["Blocks", "Consensus", "ConsensusState"]
