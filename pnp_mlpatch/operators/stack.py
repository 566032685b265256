"""Several data sets of one image as one operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators._base import LinearOperator, Weighted, register, registry


@register("stack")
class Stack(LinearOperator):
    r"""A x = (A_1 x, ..., A_n x): n operators that see one image, with their data flattened one after the other.

    The blocks A_i take one ``image_shape``; ``data_shape`` is (m_1 + ... + m_n,), with m_i the number of data of A_i. :meth:`join` makes
    data q of those of the blocks, :meth:`noise` a noise map of their standard deviations, and :meth:`split` takes data apart again:

        q = A.join([q_1, q_2]),    noise = A.noise([0.02, 0.1]),    q_1, q_2 = A.split(q)

    The data sets may have units of their own: the noise of each makes them comparable. ``weighted`` weighs each block by itself, so that
    those with an exact data step keep it: a mask under any map, a blur under one weight for all of its data, neither under a map for each
    image. The data step of the whole is by conjugate gradients; the mean of the preconditioners of the blocks makes it slower as often as
    faster, so there is none. The solver "consensus" uses the data steps of the blocks instead.

    ``initial`` is the mean of the starts of the blocks, each with the share that it has of what the data say of a pixel:

        x_0 = sum_i w_i x_0i / sum_i w_i,    w_i = tr(A_i^H A_i), once the noise is divided out

    estimated by |A_i r|^2 with random signs r. ``blocks`` is an ``nn.ModuleList``.

    Raises :class:`InputTypeError` for blocks that are not operators, :class:`InputError` for none, for image shapes that differ, and for
    blocks on several devices.
    """

    def __init__(self, blocks: Sequence[LinearOperator]):
        blocks = list(blocks) if isinstance(blocks, (Sequence, nn.ModuleList)) else [blocks]
        for k, block in enumerate(blocks):
            if not isinstance(block, LinearOperator):
                raise InputTypeError(
                    f"Stack: blocks must be a list of operators, got {type(block).__name__} as number {k}. "
                    "Give [A_1, A_2]; see interop for those of other packages."
                )
        if not blocks:
            raise InputError("Stack: there are no blocks. Give at least one operator.")
        shapes = [block.image_shape for block in blocks]
        if len(set(shapes)) > 1:
            listed = ", ".join(f"{type(block).__name__} {block.image_shape}" for block in blocks)
            raise InputError(
                f"Stack: the blocks must see one image, with one image_shape, got {listed}. Make all of them for the same image."
            )
        devices = {str(buffer.device) for block in blocks for buffer in block.buffers()}
        if len(devices) > 1:
            raise InputError(
                f"Stack: the blocks are on {' and '.join(sorted(devices))}. Move them to one device with .to(device)."
            )
        self.sizes = tuple(torch.Size(block.data_shape).numel() for block in blocks)
        super().__init__(shapes[0], (sum(self.sizes),))
        self.blocks = nn.ModuleList(blocks)

    @classmethod
    def example(cls) -> Stack:
        mask, psf = torch.ones(6, 9), torch.tensor([[0.1, 0.2, 0.1], [0.0, 0.4, 0.2]])
        mask[1:3, 2:] = mask[4, ::2] = 0
        return cls([registry.get("mask")(mask), registry.get("blur")(psf, (1, 6, 9))])

    # ---- data

    def join(self, data: Sequence[Tensor]) -> Tensor:
        r"""The data (B, m) of those of the blocks, (B, \*A_i.data_shape) each, in their order. Gradients flow.

        Raises :class:`InputError` for another number of data sets, or other shapes, dtypes or devices.
        """
        self._count(data, "join", "data sets")
        for k, (block, q) in enumerate(zip(self._all(), data, strict=True)):
            block._check(
                q, block.data_shape, f"number {k} of Stack.join", "data", "image", block.image_shape
            )
            first = data[0]
            if q.shape[0] != first.shape[0] or q.dtype != first.dtype or q.device != first.device:
                raise InputError(
                    f"Stack.join: the data sets must be of the same images, dtype and device; number 0 has {first.shape[0]} images, "
                    f"{first.dtype} on {first.device}, number {k} {q.shape[0]}, {q.dtype} on {q.device}."
                )
        return torch.cat([q.flatten(1) for q in data], dim=1)

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        r"""The data of each block, (B, \*A_i.data_shape), out of y (B, m), or out of a noise map (1, m); the inverse of :meth:`join`."""
        self._check(y, self.data_shape, "A.split(y)", "data", "image", self.image_shape)
        return self._split(y)

    def noise(self, levels: Sequence[float | Tensor]) -> Tensor:
        r"""The noise map (1, m) of one standard deviation > 0 for each block, in the units of its data; (B, m) if one is for each image.

        Each is a number, a tensor that broadcasts to A_i.data_shape, or one for each image, (B, \*A_i.data_shape) (or (B, 1, 1, 1), if the
        data of the block have three axes). Infinite where nothing was measured. To be given to solvers as ``noise``.

        Raises :class:`InputError` for another number of levels, those that are not > 0, and shapes that do not broadcast.
        """
        self._count(levels, "noise", "standard deviations")
        maps = [
            self._noise_map(k, block, level)
            for k, (block, level) in enumerate(zip(self._all(), levels, strict=True))
        ]
        images = {len(m) for m in maps if len(m) > 1}
        if len(images) > 1:
            raise InputError(
                f"Stack.noise: the maps are for {' and '.join(map(str, sorted(images)))} images. Give maps for one batch."
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
                f"Stack.noise: number {k} is a standard deviation, > 0 (infinite where nothing was measured); got {level!r}."
            )
        images = values.shape[0] if values.ndim == len(block.data_shape) + 1 else 1
        try:
            return values.expand(images, *block.data_shape).reshape(images, -1).to(self._device())
        except RuntimeError as error:
            raise InputError(
                f"Stack.noise: number {k} of shape {tuple(values.shape)} does not broadcast to the data {block.data_shape} "
                f"of {type(block).__name__}."
            ) from error

    def _count(self, things: object, call: str, what: str) -> None:
        got = (
            len(things)
            if isinstance(things, Sequence) and not isinstance(things, str)
            else type(things).__name__
        )
        if got != len(self.blocks):
            raise InputError(
                f"Stack.{call} takes a list of {len(self.blocks)} {what}, one for each block, got {got}."
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
        signs = (
            torch.randint(0, 2, self.image_shape, generator=torch.Generator().manual_seed(0)).to(q)
            * 2
            - 1
        )
        told = [
            block._forward(signs.expand(len(q), -1, -1, -1)).flatten(1).square().sum(1)
            for block in self._all()
        ]
        share = torch.stack(told).reshape(len(told), -1, 1, 1, 1)
        starts = torch.stack(
            [block._initial(part) for block, part in zip(self._all(), self._split(q), strict=True)]
        )
        return (share * starts).sum(0) / share.sum(0).clamp_min(1e-30)

    def _weighted(self, weight: Tensor) -> Stack:
        parts = self._split(weight if weight.ndim > 1 else weight[None])
        if weight.ndim == 1:
            parts = tuple(part[0] for part in parts)
        return Stack(
            [
                _weighted(block, part, k)
                for k, (block, part) in enumerate(zip(self._all(), parts, strict=True))
            ]
        )

    def weighted(self, weight: Tensor) -> LinearOperator:
        """The stack of the weighted blocks, also with one weight for each image, (B, m); otherwise as for all operators."""
        A = super().weighted(weight)
        return self._weighted(A.weight) if isinstance(A, Weighted) else A

    def for_images(self, rows: Tensor) -> Stack:
        chosen = [block.for_images(rows) for block in self._all()]
        return (
            self if all(a is b for a, b in zip(chosen, self._all(), strict=True)) else Stack(chosen)
        )

    def norm(self, *, iterations: int = 100, tol: float = 1e-3) -> float:
        """The spectral norm, as for all operators; with one weight for each image, the largest of them."""
        images = self._images()
        if not images:
            return super().norm(iterations=iterations, tol=tol)
        return max(
            self.for_images(torch.tensor([k])).norm(iterations=iterations, tol=tol)
            for k in range(images)
        )

    def _images(self) -> int:
        """For how many images there is a weight each; 0 where one serves all, and 0 for one."""
        found = [0]
        for block in self._all():
            if isinstance(block, Stack):
                found.append(block._images())
            elif isinstance(block, Weighted) and block.weight.ndim > len(block.data_shape):
                found.append(len(block.weight))
        return max(found) if max(found) > 1 else 0


class Scaled(LinearOperator):
    """f -> scale (A f), scale > 0, for an A whose data step is exact: so is this one, h(z; alpha) = h_A(z; alpha / scale^2)."""

    def __init__(self, operator: LinearOperator, scale: float):
        super().__init__(operator.image_shape, operator.data_shape)
        self.operator, self.scale = operator, scale

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Scaled is made by Stack.weighted(weight).")

    def _forward(self, x: Tensor) -> Tensor:
        return self.scale * self.operator._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.scale * self.operator._adjoint(y)

    def _normal(self, x: Tensor) -> Tensor:
        return self.scale**2 * self.operator._normal(x)

    def _data_step(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> Tensor:
        return self.operator._data_step(
            z, alpha / self.scale**2, Aty / self.scale**2, x0, tol, max_iter
        )

    def _initial(self, q: Tensor) -> Tensor:
        return self.operator._initial(q / self.scale)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor | None:
        return self.operator._fill(q, seen)

    def _weighted(self, weight: Tensor) -> LinearOperator:
        return self.operator.weighted(self.scale * weight)

    def for_images(self, rows: Tensor) -> LinearOperator:
        chosen = self.operator.for_images(rows)
        return self if chosen is self.operator else Scaled(chosen, self.scale)


def _weighted(block: LinearOperator, weight: Tensor, k: int) -> LinearOperator:
    """``block`` with a weight of its own; a constant one leaves an exact data step exact."""
    if not bool(weight.any()):
        raise InputError(
            f"Stack.weighted: all weights of block {k}, {type(block).__name__}, are zero. Leave the block out."
        )
    if block.closed_form and bool((weight == weight.flatten()[0]).all()):
        inner, scale = (block.operator, block.scale) if isinstance(block, Scaled) else (block, 1.0)
        return Scaled(inner, scale * float(weight.flatten()[0]))
    return block.weighted(weight)


__all__ = ["Stack"]
