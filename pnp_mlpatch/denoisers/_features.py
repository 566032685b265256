"""Local features of an image: 3 x 3 convolutions on its grid, or on a grid of folded cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch.denoisers._convolution import convolve

HIDDEN_GAIN = math.sqrt(2)  # of the initial weights of a hidden layer
SIGNAL_GAIN = 4.0  # of a layer that sees the small differences between pixels


def zero_mean(weight: Tensor) -> Tensor:
    """Subtract from each kernel (outputs, ...) its mean, so that it does not see a constant."""
    return weight - weight.flatten(1).mean(dim=1).reshape(-1, *[1] * (weight.ndim - 1))


def cropped(x: Tensor, border: int) -> Tensor:
    """Cut ``border`` pixels off every side of ``x`` (B, C, H, W)."""
    return x[..., border : x.shape[-2] - border, border : x.shape[-1] - border] if border else x


def is_map(sigma: Tensor) -> bool:
    """Whether ``sigma`` (B, 1, H, W) is a map; one number an image has shape (B, 1, 1, 1)."""
    return sigma.shape[-2:] != (1, 1)


def cropped_level(sigma: Tensor, border: int) -> Tensor:
    """Crop a map of noise levels as the image is cropped; numbers (B, 1, 1, 1) stay as they are."""
    return cropped(sigma, border) if is_map(sigma) else sigma


class Affine(nn.Module):
    r"""A convolution whose bias may depend on the noise level, without padding.

    .. math:: y = W * h + b + s \cdot \mathrm{level}

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    size : int
        Side of the kernel.
    dilation, groups : int
        As in ``torch.nn.Conv2d``.
    gain : float
        The initial weights have standard deviation gain / sqrt(fan-in).
    conditional : bool
        Whether there is the term :math:`s \cdot \mathrm{level}`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        gain: float = HIDDEN_GAIN,
        conditional: bool = False,
    ):
        super().__init__()
        self.dilation, self.groups = dilation, groups
        fan_in = inputs // groups * size**2
        self.weight = nn.Parameter(
            torch.randn(outputs, inputs // groups, size, size) * (gain / math.sqrt(fan_in))
        )
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.slope = nn.Parameter(torch.randn(outputs) / 2) if conditional else None

    def forward(
        self,
        h: Tensor,
        level: Tensor,
        weight: Tensor | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Apply the layer, and the activation to what it gives.

        Parameters
        ----------
        h : Tensor, shape (B, inputs, H, W)
        level : Tensor, shape (B or 1, 1, 1, 1) or (B or 1, 1, H, W)
            The noise level, from 0 to 1. A map is read at the centres of the kernels.
        weight : Tensor, optional
            Other kernels in place of the layer's own.
        activation : callable, optional

        Returns
        -------
        Tensor, shape (B, outputs, H', W')
        """
        weight = self.weight if weight is None else weight
        d, groups = self.dilation, self.groups
        if self.slope is None or level.numel() == 1:
            bias = self.bias if self.slope is None else self.bias + level.flatten() * self.slope
            return convolve(h, weight, bias, activation, dilation=d, groups=groups)
        y = convolve(h, weight, None, dilation=d, groups=groups)
        level = cropped_level(level, (level.shape[-2] - y.shape[-2]) // 2)
        y = y + (self.bias[:, None, None] + level * self.slope[:, None, None]).to(h.dtype)
        return y if activation is None else activation(y)


class Stem(nn.ModuleList):
    """The 3 x 3 convolutions that make local features of an image.

    Without any, the features are the image.

    Parameters
    ----------
    channels, features : int
        Channels of the image and of the features.
    dilations : sequence of int
        One for each convolution.
    fold : int
        Side of the cells of pixels that become channels before the first convolution, and pixels
        again after the last.
    width : int
        Channels between the convolutions.
    residual : bool
        Add the output of each pair of inner convolutions to its input.
    centred : bool
        Give the kernels of the first layer zero mean.
    activation : callable
        Applied after each convolution; with ``residual`` within the pairs and after the last.
    """

    def __init__(
        self,
        channels: int,
        features: int,
        dilations: Sequence[int],
        *,
        fold: int,
        width: int,
        residual: bool,
        centred: bool,
        activation: Callable[[Tensor], Tensor],
    ):
        super().__init__()
        self.fold, self.centred, self.activation = fold, centred, activation
        self.eaten = fold * sum(dilations)  # pixels that each side loses
        self.pairs = max(0, (len(dilations) - 2) // 2) if residual else 0
        for k, dilation in enumerate(dilations):
            outputs = features * fold**2 if k == len(dilations) - 1 else width
            if k == 0:
                inputs, gain = channels * fold**2, SIGNAL_GAIN
            else:  # a branch starts small, so that its sum with the input keeps its size
                inputs, gain = width, HIDDEN_GAIN / (2 if residual and k % 2 == 0 else 1)
            self.append(
                Affine(inputs, outputs, 3, dilation=dilation, gain=gain, conditional=k == 0)
            )

    def forward(self, block: Tensor, level: Tensor) -> Tensor:
        """Compute the features of a block.

        Parameters
        ----------
        block : Tensor, shape (B, channels, H, W)
            ``fold`` divides H and W.
        level : Tensor, shape (B or 1, 1, 1, 1) or (B or 1, 1, H, W)
            The noise level, from 0 to 1; a map is averaged over the cells.

        Returns
        -------
        Tensor, shape (B, features, H - 2 eaten, W - 2 eaten)
        """
        if not len(self):
            return block
        h = F.pixel_unshuffle(block, self.fold) if self.fold > 1 else block
        if self.fold > 1 and is_map(level):
            level = F.avg_pool2d(level, self.fold)
        layers = list(self)
        paired, rest = layers[1 : 1 + 2 * self.pairs], layers[1 + 2 * self.pairs :]
        weight = zero_mean(cast(Tensor, layers[0].weight)) if self.centred else None
        h = layers[0](h, level, weight, None if paired else self.activation)
        for first, second in zip(paired[::2], paired[1::2], strict=True):
            branch = second(first(h, level, activation=self.activation), level)
            h = cropped(h, (h.shape[-1] - branch.shape[-1]) // 2) + branch
        for layer in rest:
            h = layer(h, level, activation=self.activation)
        return F.pixel_shuffle(h, self.fold) if self.fold > 1 else h
