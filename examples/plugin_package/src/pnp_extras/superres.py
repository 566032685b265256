"""Super-resolution: a camera with large pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator


class Superres(LinearOperator):
    """(A x)[i, j] = the mean of x[s i + k, s j + l] over 0 <= k, l < s, for the factor s.

    ``image_shape`` is (C, H, W), with H and W multiples of ``factor``; the data have the shape
    (C, H / s, W / s). Each channel alike.

    The rows of A do not overlap, A A^T = c with c = 1 / s^2, so P = A^T A / c is a projection and
    the data step is exact:

        (A^T A + alpha)^-1 b = P b / (c + alpha) + (b - P b) / alpha

    ``initial`` is bicubic interpolation.

    Raises :class:`InputError` for a factor that is < 1 or does not divide H and W.
    """

    def __init__(self, image_shape: Sequence[int], factor: int = 2):
        if isinstance(factor, bool) or not isinstance(factor, int):
            raise InputTypeError(f"Superres: factor must be an integer >= 1, got {factor!r}.")
        if factor < 1:
            raise InputError(f"Superres: factor must be an integer >= 1, got {factor}.")
        super().__init__(image_shape, [*image_shape[:1], *(n // factor for n in image_shape[1:])])
        height, width = self.image_shape[1:]
        if height % factor or width % factor:
            raise InputError(
                f"Superres: the factor must divide the height and the width, got {factor} "
                f"for {height} x {width} pixels. "
                f"Crop the image to {height - height % factor} x {width - width % factor}."
            )
        self.factor = factor

    @classmethod
    def example(cls) -> Superres:
        return cls((2, 6, 9), factor=3)

    def _forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def _adjoint(self, y: Tensor) -> Tensor:
        return (
            y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1) / self.factor**2
        )

    def _inverse(self, alpha: Tensor) -> Callable[[Tensor], Tensor]:
        c = 1 / self.factor**2

        def inverse(b: Tensor) -> Tensor:
            seen = self.normal(b) / c
            return seen / (c + alpha) + (b - seen) / alpha

        return inverse

    def _initial(self, q: Tensor) -> Tensor:
        return F.interpolate(q, size=self.image_shape[1:], mode="bicubic", align_corners=False)
