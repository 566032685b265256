r"""Derivatives: the backward of A is :math:`A^H`, that of a data step another solve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.linalg import pcg
from pnp_mlpatch.operators._place import same_place

if TYPE_CHECKING:
    from pnp_mlpatch.operators._base import LinearOperator

TRANSPOSE = {"forward": "adjoint", "adjoint": "forward", "normal": "normal"}
BACKWARD_STEPS = 100  # the least number of CG steps that a gradient may take


def full_precision(x: Tensor) -> torch.autocast:
    """Switch ``torch.autocast`` off: sparse products have no half precision.

    Parameters
    ----------
    x : Tensor
        A tensor on the device of the operator.

    Returns
    -------
    torch.autocast
        A context manager.
    """
    return torch.autocast(x.device.type, enabled=False)


class Linear(torch.autograd.Function):
    """A linear map for autograd: its backward is the transposed map, its derivative the map."""

    @staticmethod
    def forward(x: Tensor, operator: LinearOperator, kind: str) -> Tensor:
        with full_precision(x), same_place(operator._who(), x):
            return getattr(operator, "_" + kind)(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.operator, ctx.kind = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0].contiguous()
        return Linear.apply(gradient, ctx.operator, TRANSPOSE[ctx.kind]), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return Linear.apply(tangents[0], ctx.operator, ctx.kind)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        x, operator, kind = args
        x = x.movedim(in_dims[0], 0)
        y = Linear.apply(x.flatten(0, 1), operator, kind)
        return y.unflatten(0, x.shape[:2]), 0


class Solve(torch.autograd.Function):
    r"""Solve :math:`(A^H A + \alpha) f = b` by preconditioned conjugate gradients.

    The output is f, the relative residual of each image and the number of steps. The derivative is
    that of the exact solution, wherever the iteration started. For the gradient g of f and
    :math:`v = (A^H A + \alpha)^{-1} g`, the gradient of b is v and that of alpha is
    :math:`-\langle v, f \rangle`.
    """

    @staticmethod
    def forward(
        b: Tensor, alpha: Tensor, x0: Tensor, operator: LinearOperator, tol: float, max_iter: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        def equation(x: Tensor) -> Tensor:
            return operator._normal(x) + alpha * x

        with full_precision(b):
            x, info = pcg(
                equation,
                b,
                x0,
                precondition=operator._precondition(alpha),
                tol=tol,
                max_iter=max_iter,
            )
        return (x.clone() if x is x0 else x), info.residual, torch.tensor(info.iterations)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, alpha, _, ctx.operator, ctx.tol, ctx.max_iter = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(alpha, output[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One batch of all images."""
        b, alpha, x0 = (
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(args[:3], in_dims[:3], strict=True)
        )
        images = torch.broadcast_shapes(b.shape, x0.shape)[:2]
        parts = [t.expand(*images, *t.shape[2:]).flatten(0, 1) for t in (b, alpha, x0)]
        f, residual, steps = Solve.apply(*parts, *args[3:])
        return (f.unflatten(0, images), residual.unflatten(0, images), steps), (0, 0, None)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        alpha, f = ctx.saved_tensors
        g = gradients[0].contiguous()
        steps = max(ctx.max_iter, BACKWARD_STEPS)
        v = Solve.apply(g, alpha, torch.zeros_like(g), ctx.operator, ctx.tol, steps)[0]
        by_alpha = -(v * f).flatten(1).sum(1).reshape(-1, 1, 1, 1)
        if alpha.shape[0] == 1:
            by_alpha = by_alpha.sum(0, keepdim=True)
        return v, by_alpha, None, None, None, None
