"""Several data sets of one image as one operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators._base import LinearOperator, register, registry
from pnp_mlpatch.operators._composed import Scaled
from pnp_mlpatch.operators._place import data_on
from pnp_mlpatch.operators._start import random_signs
from pnp_mlpatch.operators._weighted import norm_of_images


@register("stack")
class Stack(LinearOperator):
    r"""Several operators that see one image, A x = (A_1 x, ..., A_n x).

    The data of the blocks are flattened, one after the other: data_shape is (m_1 + ... + m_n,),
    with m_i the number of data of A_i. :meth:`join` makes data of those of the blocks,
    :meth:`noise` a noise map of their standard deviations, and :meth:`split` takes data apart.

    Parameters
    ----------
    blocks : sequence of LinearOperator
        The operators, with one image_shape, on one device.

    Attributes
    ----------
    blocks : torch.nn.ModuleList

    Raises
    ------
    InputTypeError
        If a block is not an operator.
    InputError
        If there are no blocks, or if their image shapes or devices differ.

    Notes
    -----
    The data sets may have different units: the noise of each makes them comparable. Weights are
    given to each block by itself, so that exact data steps stay exact: that of a mask under any
    map, that of a blur under one weight for all of its data. The data step of the whole takes
    conjugate gradients without a preconditioner; the mean of those of the blocks makes it slower as
    often as faster. The solver "consensus" uses the data steps of the blocks instead.

    ``initial`` is a mean of the starts of the blocks, weighted by what their data say of a pixel:

    .. math:: x_0 = \frac{\sum_i w_i x_{0,i}}{\sum_i w_i}, \qquad w_i = \mathrm{tr}(A_i^H A_i),

    once the noise is divided out. The traces are estimated with random signs (Hutchinson 1990).

    Examples
    --------
    >>> import torch
    >>> from pnp_mlpatch import operators
    >>> mask = operators.get("mask").random((1, 8, 8), keep=0.5)
    >>> A = Stack([mask, operators.make("identity", image_shape=(1, 8, 8))])
    >>> x = torch.rand(1, 1, 8, 8)
    >>> q = A.join([block(x) for block in A.blocks])
    >>> noise = A.noise([0.02, 0.1])
    >>> q.shape, noise.shape
    (torch.Size([1, 128]), torch.Size([1, 128]))
    """

    def __init__(self, blocks: Sequence[LinearOperator]):
        blocks = list(blocks) if isinstance(blocks, (Sequence, nn.ModuleList)) else [blocks]
        for k, block in enumerate(blocks):
            if not isinstance(block, LinearOperator):
                raise InputTypeError(
                    "Stack: blocks must be a list of operators, "
                    f"got {type(block).__name__} as number {k}. "
                    "Give [A_1, A_2]; see interop for those of other packages."
                )
        if not blocks:
            raise InputError("Stack: there are no blocks. Give at least one operator.")
        shapes = [block.image_shape for block in blocks]
        if len(set(shapes)) > 1:
            listed = ", ".join(f"{type(block).__name__} {block.image_shape}" for block in blocks)
            raise InputError(
                f"Stack: the blocks must see one image, with one image_shape, got {listed}. "
                "Make all of them for the same image."
            )
        devices = {str(buffer.device) for block in blocks for buffer in block.buffers()}
        if len(devices) > 1:
            raise InputError(
                f"Stack: the blocks are on {' and '.join(sorted(devices))}. "
                "Move them to one device with .to(device)."
            )
        self.sizes = tuple(torch.Size(block.data_shape).numel() for block in blocks)
        super().__init__(shapes[0], (sum(self.sizes),))
        self.blocks = nn.ModuleList(blocks)
        self.complex_image = any(block.complex_image for block in blocks)

    @classmethod
    def example(cls) -> Stack:
        mask, psf = torch.ones(6, 9), torch.tensor([[0.1, 0.2, 0.1], [0.0, 0.4, 0.2]])
        mask[1:3, 2:] = mask[4, ::2] = 0
        return cls([registry.get("mask")(mask), registry.get("blur")(psf, (1, 6, 9))])

    # ---- data

    def join(self, data: Sequence[Tensor]) -> Tensor:
        r"""Join the data of the blocks. Gradients flow.

        Parameters
        ----------
        data : sequence of Tensor, shapes (B, \*A_i.data_shape)
            The data of each block, in their order.

        Returns
        -------
        Tensor, shape (B, m)

        Raises
        ------
        InputError
            If the number of data sets, their shapes, dtypes or devices do not fit.
        """
        self._count(data, "join", "data sets")
        for k, (block, q) in enumerate(zip(self._all(), data, strict=True)):
            block._check(q, "data", f"number {k} of Stack.join")
            first = data[0]
            if q.shape[0] != first.shape[0] or q.dtype != first.dtype or q.device != first.device:
                raise InputError(
                    "Stack.join: the data sets must be of the same images, dtype and device; "
                    f"number 0 has {first.shape[0]} images, {first.dtype} on {first.device}, "
                    f"number {k} {q.shape[0]}, {q.dtype} on {q.device}."
                )
        return torch.cat([q.flatten(1) for q in data], dim=1)

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        r"""Take data apart, the inverse of :meth:`join`.

        Parameters
        ----------
        y : Tensor, shape (B, m)
            Data of all blocks; a noise map (1, m) works too.

        Returns
        -------
        tuple of Tensor, shapes (B, \*A_i.data_shape)
        """
        self._check(y, "data", "A.split(y)")
        return self._split(y)

    def noise(self, levels: Sequence[float | Tensor]) -> Tensor:
        r"""Make a noise map for solvers of one standard deviation for each block.

        Parameters
        ----------
        levels : sequence of float or Tensor
            For each block, > 0 and in the units of its data: a number, a tensor that broadcasts to
            A_i.data_shape, or one for each image, (B, \*A_i.data_shape). Infinite where nothing was
            measured.

        Returns
        -------
        Tensor, shape (1, m), or (B, m) if one is for each image

        Raises
        ------
        InputError
            If their number or shapes do not fit, or one is not > 0.
        """
        self._count(levels, "noise", "standard deviations")
        where = next((level.device for level in levels if isinstance(level, Tensor)), None)
        with data_on(where):  # which counts if no block has buffers
            maps = [
                self._noise_map(k, block, level)
                for k, (block, level) in enumerate(zip(self._all(), levels, strict=True))
            ]
        images = {len(m) for m in maps if len(m) > 1}
        if len(images) > 1:
            raise InputError(
                f"Stack.noise: the maps are for {' and '.join(map(str, sorted(images)))} images. "
                "Give maps for one batch."
            )
        return torch.cat([m.expand(max(images, default=1), -1) for m in maps], dim=1)

    def _noise_map(self, k: int, block: LinearOperator, level: float | Tensor) -> Tensor:
        try:
            values = torch.as_tensor(level, dtype=torch.float64).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(
                f"Stack.noise: number {k} must be a number or a tensor, got {level!r}."
            ) from error
        if values.numel() == 0 or not bool((values > 0).all()):
            raise InputError(
                f"Stack.noise: number {k} is a standard deviation, > 0 "
                f"(infinite where nothing was measured); got {level!r}."
            )
        images = values.shape[0] if values.ndim == len(block.data_shape) + 1 else 1
        try:
            return values.expand(images, *block.data_shape).reshape(images, -1).to(self.device)
        except RuntimeError as error:
            raise InputError(
                f"Stack.noise: number {k} of shape {tuple(values.shape)} does not broadcast "
                f"to the data {block.data_shape} of {type(block).__name__}."
            ) from error

    def _count(self, things: object, call: str, what: str) -> None:
        got = (
            len(things)
            if isinstance(things, Sequence) and not isinstance(things, str)
            else type(things).__name__
        )
        if got != len(self.blocks):
            raise InputError(
                f"Stack.{call} takes a list of {len(self.blocks)} {what}, one for each block, "
                f"got {got}."
            )

    def _all(self) -> Iterator[LinearOperator]:
        return iter(cast("Sequence[LinearOperator]", self.blocks))

    def _split(self, y: Tensor) -> tuple[Tensor, ...]:
        parts = y.split(self.sizes, dim=1)
        return tuple(
            part.reshape(-1, *block.data_shape).contiguous()
            for part, block in zip(parts, self._all(), strict=True)
        )

    # ---- hooks

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat([block._forward(x).flatten(1) for block in self._all()], dim=1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.stack(
            [block._adjoint(part) for block, part in zip(self._all(), self._split(y), strict=True)]
        ).sum(0)

    def _normal(self, x: Tensor) -> Tensor:
        return torch.stack([block._normal(x) for block in self._all()]).sum(0)

    def _initial(self, q: Tensor) -> Tensor:
        signs = random_signs(self, q)
        traces = [block._forward(signs).flatten(1).square().sum(1) for block in self._all()]
        share = torch.stack(traces).reshape(len(traces), -1, 1, 1, 1)
        parts = zip(self._all(), self._split(q), strict=True)
        starts = torch.stack([block._initial(part) for block, part in parts])
        return (share * starts).sum(0) / share.sum(0).clamp_min(1e-30)

    def _weighted(self, weight: Tensor) -> Stack:
        parts = self._split(weight if weight.ndim > 1 else weight[None])
        if weight.ndim == 1:
            parts = tuple(part[0] for part in parts)
        blocks = zip(self._all(), parts, strict=True)
        return Stack([_weighted(block, part, k) for k, (block, part) in enumerate(blocks)])

    def _weighted_each(self, weight: Tensor) -> Stack:
        return self._weighted(weight)

    def for_images(self, rows: Tensor) -> Stack:
        chosen = [block.for_images(rows) for block in self._all()]
        same = all(a is b for a, b in zip(chosen, self._all(), strict=True))
        return self if same else Stack(chosen)

    def _norm(self, iterations: int, tol: float) -> float:
        return norm_of_images(self, iterations, tol)


def _weighted(block: LinearOperator, weight: Tensor, k: int) -> LinearOperator:
    """``block`` with a weight of its own; a constant one leaves an exact data step exact."""
    if not bool(weight.any()):
        raise InputError(
            f"Stack.weighted: all weights of block {k}, {type(block).__name__}, are zero. "
            "Leave the block out."
        )
    if block.closed_form and bool((weight == weight.flatten()[0]).all()):
        inner, scale = (block.operator, block.scale) if isinstance(block, Scaled) else (block, 1.0)
        return Scaled(inner, scale * float(weight.flatten()[0]))
    return block.weighted(weight)


__all__ = ["Stack"]
