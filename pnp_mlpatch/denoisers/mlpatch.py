r"""MLPatch: each pixel from a small patch around it, through an MLP.

For a point p of the image plane (pixel units, pixel centres at the integers, row before column)

    D(x, sigma)(p) = x(p) - MLP( [F(p + o_1), ..., F(p + o_M)], sigma )

where x(.) and F(.) are bicubic interpolations (Keys 1981, a = -0.75). Two members, told apart by their settings:

* *image samples*, the network of the talk: F = x, and the offsets o_m are learned, in *input pixels*, |o_m| <= radius;
* *local features*: F is a few 3 x 3 convolutions of x on the grid, and the patch a small square of feature samples. What neighbouring
  pixels have in common is computed once, which is worth more than anything else per operation.

The image goes on by reflection about its border pixels, and so do the features, which are those of the continued image. The first
layer has kernels of zero mean, so that D(x + c) = D(x) + c. There is no other coupling between pixels: D is local and
shift-equivariant.

Images that are weaker than their noise, such as the convergence of weak lensing, have a standard deviation ``signal`` = s about zero
instead. Then kernels need not have zero mean, and the MLP works on numbers of variance one (Karras et al. 2022),

    D(x, sigma)(p) = s^2 / (s^2 + sigma^2) x(p) - s sigma / r MLP( [F(p + o_1), ..., F(p + o_M)], sigma ),   r^2 = s^2 + sigma^2

with F that of x / r: the best estimate of a pixel from itself alone, and what the patch adds to it. D(x, 0) = x.

Two forms give the same numbers:

* :meth:`MLPatch.at`, the continuous form, samples at any coordinates.
* ``D(x, sigma)``, the grid form, uses that at pixel centres the sampling is a fixed filter: with G[m, t] the weight of pixel t in
  sample m and W the first layer after it, W G is one small convolution, and the samples are never formed. It is evaluated tile by tile
  with the true halo, so memory is bounded by the tile, and the result is that of the whole image everywhere.

References: "MLPatch: Scalable Local MLPs for Cosmological Inverse Problems" (talk), published as LoFi,
Khorashadizadeh et al. 2024, arXiv 2411.04995. Sharing convolutional features: as in LIIF, Chen et al. 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from os import PathLike
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch import weights as weight_files
from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers._base import check_image, register, sigma_column
from pnp_mlpatch.denoisers._bicubic import (
    cubic,
    neighbours,
    polar_offsets,
    reflect,
    sample,
    square_offsets,
    window,
)
from pnp_mlpatch.denoisers._network import Network
from pnp_mlpatch.errors import InputError, InputTypeError

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
HIDDEN, SIGNAL = (
    math.sqrt(2),
    4.0,
)  # initial gains: of hidden layers, and of the one that sees the small differences between pixels


def zero_mean(weight: Tensor) -> Tensor:
    """Kernels (outputs, ...) that do not see a constant: each less its mean."""
    return weight - weight.flatten(1).mean(dim=1).reshape(-1, *[1] * (weight.ndim - 1))


class Affine(nn.Module):
    """``y = W * h + b``: a convolution, the form that all layers have on the grid; ``conditional``: ``+ level s``, after the noise level."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        gain: float = HIDDEN,
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

    def forward(self, h: Tensor, level: Tensor, weight: Tensor | None = None) -> Tensor:
        """``h`` (B, inputs, H, W), ``level`` (B or 1, 1, 1, 1) = sigma / sigma_max; another ``weight`` of the same layer is its folded form."""
        weight = (self.weight if weight is None else weight).to(h.dtype)
        if self.slope is None or len(level) == 1:
            bias = self.bias if self.slope is None else self.bias + level.flatten() * self.slope
            return F.conv2d(h, weight, bias.to(h.dtype), dilation=self.dilation, groups=self.groups)
        bias = (self.bias + level.flatten(1) * self.slope).to(h.dtype)
        return (
            F.conv2d(h, weight, dilation=self.dilation, groups=self.groups) + bias[:, :, None, None]
        )


class MLPatch(Network):
    r"""A noise-conditional local denoiser; the network and its two forms of evaluation.

    The patch: ``rings x angles`` learned offsets that start on circles and keep within ``radius`` pixels, or, with ``square`` > 0, the
    fixed ``square x square`` neighbours. ``features`` > 0 makes them samples of that many local features, of 3 x 3 convolutions with
    these ``dilations``; else samples of the image. The MLP has ``depth`` layers of ``width`` and a linear one; ``sectors`` puts one
    MLP of these widths for each angle before it, as published. ``deform`` > 0: content-dependent offsets, refined so many times from the
    samples themselves (CCPG). ``signal`` > 0 is the standard deviation of images about zero that are weaker than their noise.
    ``sigma_max`` is the top of the noise range, in image units; 0 for noiseless images. ``tile`` is the side
    of the tiles of the grid form: it bounds the memory and does not change the result; by default what fits a cache, 128 on
    features, 64 on image samples.

    The published network is ``MLPatch(rings=9, angles=9, sectors=(370, 370, 370, 100), width=370, depth=3, activation="relu")``, 3.5 M
    parameters.

    The output at a pixel depends on input pixels at most ``field`` rows or columns away.

    The network runs in the precision of its weights, float32 unless ``.double()`` makes them float64. What it takes off x comes
    back in the dtype of x.

    Raises :class:`InputError` or :class:`InputTypeError` for images that are not float (B, C, H, W) with the right C, and
    for sigma outside 0 to ``sigma_max``.
    """

    kind = "mlpatch"

    def __init__(
        self,
        channels: int = 1,
        *,
        radius: float = 8.0,
        rings: int = 10,
        angles: int = 16,
        square: int = 0,
        features: int = 0,
        dilations: Sequence[int] = (),
        fold: int = 1,
        stem_width: int = 0,
        residual: bool = False,
        sectors: Sequence[int] = (),
        width: int = 256,
        depth: int = 3,
        deform: int = 0,
        activation: str = "gelu",
        signal: float = 0.0,
        sigma_max: float = 60 / 255,
        tile: int | None = None,
    ):
        config: dict[str, Any] = {
            "channels": channels,
            "radius": radius,
            "rings": rings,
            "angles": angles,
            "square": square,
            "features": features,
            "dilations": list(dilations),
            **({"fold": fold, "stem_width": stem_width} if fold != 1 or stem_width else {}),
            **({"residual": residual} if residual else {}),
            "sectors": list(sectors),
            "width": width,
            "depth": depth,
            "deform": deform,
            "activation": activation,
            "sigma_max": sigma_max,
            **({"signal": signal} if signal else {}),
        }
        tile = (256 if fold > 1 else 128 if features else 64) if tile is None else tile
        _check_config({"fold": fold, "stem_width": stem_width, **config, "tile": tile})
        super().__init__(channels, float(sigma_max), config)
        self.tile, self.deform, self.signal = tile, deform, float(signal)
        self.activation = ACTIVATIONS[activation]

        sampled = features or channels
        self.fold, self.residual = fold, residual
        hidden, folded = stem_width or features, fold**2
        self.stem = nn.ModuleList()
        for k, dilation in enumerate(dilations):
            outputs = features * folded if k == len(dilations) - 1 else hidden
            if k:
                gain = (
                    HIDDEN / 2 if residual and k % 2 == 0 else HIDDEN
                )  # a branch ends small, so that the sum keeps its size
                self.stem.append(Affine(hidden, outputs, 3, dilation=dilation, gain=gain))
            else:
                self.stem.append(
                    Affine(
                        channels * folded,
                        outputs,
                        3,
                        dilation=dilation,
                        gain=SIGNAL,
                        conditional=True,
                    )
                )
        self.fixed, self.groups = square > 0, angles if sectors else 1
        if square:
            self.radius, self.reach = float(square // 2), square // 2
            self.register_buffer("offsets", square_offsets(square), persistent=False)
        else:
            self.radius, self.reach = (
                float(radius),
                math.ceil(radius) + 1,
            )  # cubic weights reach |t - o| < 2
            offsets = polar_offsets(0.95 * radius, rings, angles).reshape(rings, angles, 2)
            self.offsets = nn.Parameter(
                (offsets.transpose(0, 1) if sectors else offsets).reshape(-1, 2).contiguous()
            )
        self.eaten = fold * sum(
            dilations
        )  # rows that the features are smaller than their block on either side
        self.field = self.eaten + self.reach + fold - 1
        self.halo = self.eaten + self._aligned(self.reach)

        samples = len(self.offsets)
        first = (
            {"gain": HIDDEN, "conditional": False}
            if features
            else {"gain": SIGNAL, "conditional": True}
        )
        layers, inputs = [], sampled * samples
        for outputs in sectors:
            layers.append(
                Affine(
                    inputs, self.groups * outputs, groups=self.groups, **({} if layers else first)
                )
            )
            inputs = self.groups * outputs
        for _ in range(depth):
            layers.append(Affine(inputs, width, **({} if layers else first)))
            inputs = width
        self.layers = nn.ModuleList(layers)
        self.last = nn.Parameter(torch.zeros(channels, inputs, 1, 1))
        self.steer = nn.ModuleList(
            nn.ModuleList(
                [Affine(sampled * samples, 64, **first), Affine(64, 2 * samples, gain=0.0)]
            )
            for _ in range(deform)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the fast layout for convolutions

    @classmethod
    def example(cls) -> MLPatch:
        net = cls(square=3, features=12, dilations=(1, 2), width=16, depth=2)
        nn.init.normal_(net.last, std=0.1)
        return net.eval().requires_grad_(False)

    # ---- the two forms

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Grid form: ``x`` (B, C, H, W), any H, W >= 1; ``sigma`` a float or (B,), in the units of ``x``."""
        check_image(x, "MLPatch", self.channels)
        column = sigma_column(sigma, x, "MLPatch", self.sigma_max)
        kernel = None if self.deform else self._folded()
        out = torch.empty_like(x)
        for images, rows, cols, block in self._tiles(x, self.halo):
            h, w = rows.stop - rows.start, cols.stop - cols.start
            out[images, :, rows, cols] = self.denoise_block(block, column[images], kernel)[
                :, :, :h, :w
            ]
        return out

    def denoise_block(self, block: Tensor, sigma: Tensor, kernel: Tensor | None = None) -> Tensor:
        """The grid form on a block (B, C, h + 2 halo, w + 2 halo) that brings its own halo -> (B, C, h, w); ``sigma`` is (B, 1, 1, 1).

        ``fold`` divides h and w.
        """
        level, (gain, keep, scale) = self._level(sigma), self._scales(sigma)
        f = self.halo
        features = _cropped(self._features(gain * block, level), f - self.eaten - self.reach)
        clean = block[:, :, f : block.shape[2] - f, f : block.shape[3] - f]
        if self.deform:
            r = self.reach
            rows, cols = (
                torch.arange(r, size - r, device=block.device, dtype=features.dtype)
                for size in features.shape[-2:]
            )
            coords = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1).reshape(
                1, -1, 2
            )
            residual = self._between(features, coords, level).reshape(clean.shape)
        else:
            residual = self._mlp(
                self._first(features, level, self._folded() if kernel is None else kernel), level
            )
        return keep * clean - scale * residual.to(block.dtype)

    def at(
        self, x: Tensor, coords: Tensor, sigma: float | Tensor = 0.0, chunk: int = 1024
    ) -> Tensor:
        """Continuous form: the denoised value at any coordinates.

        ``coords`` (Q, 2), or (B, Q, 2) with those of each image, are (row, column) in pixels, pixel centres at the integers 0 ... H - 1;
        the result is (B, C, Q). Coordinates may lie up to half a pixel outside the centres of the border pixels. The points go tile by
        tile, ``chunk`` at a time, which bounds the memory.
        """
        check_image(x, "MLPatch.at", self.channels)
        column = sigma_column(sigma, x, "MLPatch.at", self.sigma_max)
        _check_coords(x, coords, "MLPatch.at")
        if coords.ndim == 2 or len(coords) == 1:
            return self._at(x, coords.reshape(1, -1, 2), column, chunk)
        if self.stem or self.deform:
            return torch.cat(
                [
                    self._at(x[b : b + 1], coords[b : b + 1], column[b : b + 1], chunk)
                    for b in range(len(x))
                ]
            )
        return self._at(x, coords, column, max(1, chunk // len(x)))

    def upscale(self, x: Tensor, factor: float, sigma: float | Tensor = 0.0) -> Tensor:
        """The image on a grid finer by ``factor`` >= 1, with half-pixel centres: fine pixel i lies at ``(i + 0.5) / factor - 0.5``.

        ``x`` (B, C, H, W) gives (B, C, floor(H factor), floor(W factor)). Meant for weights trained for it (``mlpatch-sr``).
        """
        check_image(x, "MLPatch.upscale", self.channels)
        if not finite_number(factor) or factor < 1:
            raise InputError(f"MLPatch.upscale: factor must be a number >= 1, got {factor!r}.")
        if factor == 1:
            return self(x, sigma)
        if not self.deform and factor == int(factor):
            return self._phases(
                x, int(factor), sigma_column(sigma, x, "MLPatch.upscale", self.sigma_max)
            )
        size = [math.floor(n * factor + 1e-9) for n in x.shape[-2:]]
        rows, cols = (
            (torch.arange(n, dtype=torch.float64, device=x.device) + 0.5) / factor - 0.5
            for n in size
        )
        coords = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1).reshape(-1, 2)
        return self.at(x, coords, sigma).reshape(*x.shape[:2], *size)

    # ---- the patch, to be looked at

    def patch_offsets(self) -> Tensor:
        """The offsets (M, 2) of the patch, (row, column) in pixels, kept within the radius."""
        return self.offsets if self.fixed else self._within(self.offsets)

    def patch_weights(self) -> Tensor:
        """How much each sample counts, (M,): the norm of what the first layer of the MLP does with it."""
        return self._first_weight().square().sum(dim=(1, 2)).sqrt().flatten()

    def patch_at(self, x: Tensor, coords: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Where the samples for ``coords`` (Q, 2) are taken: (B, Q, M, 2), (row, column) in pixels of ``x`` (B, C, H, W)."""
        check_image(x, "MLPatch.patch_at", self.channels)
        column = sigma_column(sigma, x, "MLPatch.patch_at", self.sigma_max)
        _check_coords(x, coords, "MLPatch.patch_at")
        level, f = self._level(column), self.eaten
        height, width = (self._aligned(n) for n in x.shape[-2:])
        features = self._features(
            self._scales(column)[0] * window(x, -f, height + f, -f, width + f), level
        )
        offsets = self._steered(features, coords.reshape(1, -1, 2), level)
        return (coords.reshape(1, -1, 1, 2) + offsets).expand(len(x), coords.shape[-2], -1, -1)

    # ---- parts

    def _level(self, sigma: Tensor) -> Tensor:
        """The noise level (B, 1, 1, 1) on the scale 0 to 1, logarithmic beyond ``signal``; one for all where it is one."""
        level = sigma / self.sigma_max if self.sigma_max else torch.zeros_like(sigma)
        if self.signal:
            level = torch.log1p(sigma / self.signal) / math.log1p(
                (self.sigma_max or 1.0) / self.signal
            )
        return (
            level[:1]
            if len(level) > 1
            and not torch.compiler.is_compiling()
            and bool((level == level[:1]).all())
            else level
        )

    def _scales(self, sigma: Tensor) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
        """What multiplies the image before the network, the image beside it, and what the network takes off: 1, 1, 1 without ``signal``."""
        if not self.signal:
            return 1.0, 1.0, 1.0
        square = self.signal**2 + sigma**2
        return square.rsqrt(), self.signal**2 / square, self.signal * sigma * square.rsqrt()

    def _centred(self, weight: Tensor) -> Tensor:
        """The kernels that see the image, of zero mean unless the images themselves have it."""
        return weight if self.signal else zero_mean(weight)

    def _within(self, offsets: Tensor) -> Tensor:
        """Offsets (..., 2) shortened to the radius where they are longer."""
        return offsets * (self.radius / offsets.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp(
            max=1
        )

    def _first_weight(self) -> Tensor:
        """The layer that takes the samples: (groups, outputs, C, M / groups)."""
        weight = self.layers[0].weight
        assert isinstance(weight, Tensor)
        weight = weight if self.stem else self._centred(weight)
        return weight.reshape(
            self.groups, weight.shape[0] // self.groups, -1, len(self.offsets) // self.groups
        )

    def _tiles(self, x: Tensor, margin: int) -> Iterator[tuple[slice, slice, slice, Tensor]]:
        """Images, rows and columns of each tile, and the block that has ``margin`` more pixels on every side; small images go together.

        ``fold`` divides ``margin`` and the sides of the block, which is larger at the bottom and on the right where it must be.
        """
        batch, _, height, width = x.shape
        tile = self._aligned(self.tile)
        step = max(1, tile**2 // (min(tile, height) * min(tile, width)))
        for b, top, left in product(
            range(0, batch, step), range(0, height, tile), range(0, width, tile)
        ):
            bottom, right = min(top + tile, height), min(left + tile, width)
            low, far = (
                top + self._aligned(bottom - top) + margin,
                left + self._aligned(right - left) + margin,
            )
            block = window(x[b : b + step], top - margin, low, left - margin, far)
            yield slice(b, b + step), slice(top, bottom), slice(left, right), block

    def _aligned(self, size: int) -> int:
        """The least multiple of ``fold`` that is at least ``size``."""
        return -(-size // self.fold) * self.fold

    def _folded(self, shift: tuple[float, float] | None = None) -> Tensor:
        """Sampling and the layer after it as one convolution: kernel (outputs, C, K, K), K = 2 reach + 1.

        With sectors, where that would be more work than the two of them, the sampling alone: (M, 1, K, K). ``shift`` is for points so far
        from the pixel centres, less than a pixel; K is larger by 4.
        """
        offsets, reach = self.patch_offsets(), self.reach
        if shift is not None:
            offsets, reach = offsets + offsets.new_tensor(shift), reach + 2
        axis = torch.arange(-reach, reach + 1, device=offsets.device)
        taps = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
        with torch.autocast(axis.device.type, enabled=False):
            weight = self._first_weight()
            kernel = cubic(offsets[:, None, :] - taps).prod(dim=-1).to(weight.dtype)
            kernel = (
                kernel[:, None]
                if self.groups > 1
                else torch.einsum("ocm,mt->oct", weight[0], kernel)
            )
        return kernel.unflatten(-1, (len(axis), -1)).contiguous(memory_format=torch.channels_last)

    def _first(self, features: Tensor, level: Tensor, kernel: Tensor) -> Tensor:
        """Sampling and the first layer of the MLP on the grid, by the kernel of :meth:`_folded`: (B, outputs, h, w)."""
        if self.groups == 1:
            return self.layers[0](features, level, kernel)
        planes = features.flatten(0, 1)[:, None]
        samples = (
            F.conv2d(planes, kernel.to(planes.dtype))
            .unflatten(0, (len(features), -1))
            .unflatten(2, (self.groups, -1))
        )
        samples = samples.transpose(1, 2).flatten(
            1, 3
        )  # the order of the first layer: groups, C, M / groups
        return self.layers[0](
            samples, level, self._first_weight().reshape(self.layers[0].weight.shape)
        )  # type: ignore[arg-type]

    def _phases(self, x: Tensor, factor: int, sigma: Tensor) -> Tensor:
        """Upscaling by a whole factor: the fine pixels at the same place in their coarse pixel are one convolution of the features."""
        taps = torch.arange(-2, 3, device=x.device)
        shifts = [(i + 0.5) / factor - 0.5 for i in range(factor)]
        phases = []
        for (i, down), (j, across) in product(enumerate(shifts), enumerate(shifts)):
            base = (
                (cubic(down - taps)[:, None] * cubic(across - taps))
                .to(x.dtype)
                .expand(self.channels, 1, -1, -1)
            )
            phases.append((i, j, self._folded((down, across)), base))
        out = x.new_empty(*x.shape[:2], factor * x.shape[2], factor * x.shape[3])
        margin = self.eaten + self._aligned(self.reach + 2)
        for images, rows, cols, block in self._tiles(x, margin):
            level, (gain, keep, scale) = self._level(sigma[images]), self._scales(sigma[images])
            features = _cropped(
                self._features(gain * block, level), margin - self.eaten - self.reach - 2
            )
            middle = _cropped(block, margin - 2)
            h, w = rows.stop - rows.start, cols.stop - cols.start
            for i, j, kernel, base in phases:
                residual = self._mlp(self._first(features, level, kernel), level)
                fine = keep * F.conv2d(middle, base, groups=self.channels) - scale * residual.to(
                    x.dtype
                )
                out[
                    images,
                    :,
                    rows.start * factor + i : rows.stop * factor : factor,
                    cols.start * factor + j : cols.stop * factor : factor,
                ] = fine[:, :, :h, :w]
        return out

    def _features(self, block: Tensor, level: Tensor) -> Tensor:
        """The local features of a block, smaller by ``eaten`` on every side; the block itself for the member on image samples."""
        block = block.to(self.last.dtype)
        h = F.pixel_unshuffle(block, self.fold) if self.fold > 1 else block
        branch, pairs = h, 2 * ((len(self.stem) - 2) // 2) if self.residual else 0
        for k, layer in enumerate(self.stem):
            if k and k <= pairs:  # the second layer of a pair adds to what the first one took
                branch = layer(branch if k % 2 == 0 else h, level)
                if k % 2:
                    branch = self.activation(branch)
                else:
                    h = _cropped(h, (h.shape[-1] - branch.shape[-1]) // 2) + branch
                continue
            h = layer(h, level, None if k else self._centred(layer.weight))  # type: ignore[arg-type]
            h = h if self.residual and k < pairs else self.activation(h)
        return F.pixel_shuffle(h, self.fold) if self.fold > 1 else h

    def _mlp(self, h: Tensor, level: Tensor) -> Tensor:
        """The MLP after its first product, at every point of h (B, width, ., .) -> (B, C, ., .)."""
        h = self.activation(h)
        for layer in self.layers[1:]:  # type: ignore[union-attr]
            h = self.activation(layer(h, level))
        return F.conv2d(h, self.last.to(h.dtype))

    def _samples(self, features: Tensor, coords: Tensor, offsets: Tensor) -> Tensor:
        """Samples at ``coords + offsets`` in the order of the first layer: (B, groups C M / groups, Q, 1)."""
        s = sample(features, coords, offsets)
        batch, channels, points, _ = s.shape
        return (
            s.reshape(batch, channels, points, self.groups, -1)
            .permute(0, 3, 1, 4, 2)
            .reshape(batch, -1, points, 1)
        )

    def _steered(self, features: Tensor, coords: Tensor, level: Tensor) -> Tensor:
        """The offsets at ``coords`` (b, Q, 2): (1, 1, M, 2) where they are the same everywhere, else (B, Q, M, 2)."""
        offsets = self.patch_offsets()[None, None]
        for take, move in self.steer:  # type: ignore[misc]
            weight = take.weight if self.stem else self._centred(take.weight)
            step = move(
                self.activation(take(self._samples(features, coords, offsets), level, weight)),
                level,
            )
            offsets = self._within(
                offsets + step[..., 0].movedim(1, 2).unflatten(-1, (-1, 2)).to(offsets.dtype)
            )
        return offsets

    def _between(self, features: Tensor, coords: Tensor, level: Tensor) -> Tensor:
        """What D takes off x at ``coords`` (b, Q, 2), in pixels of the features: (B, C, Q)."""
        if not self.deform and bool(
            (coords == coords.round()).all()
        ):  # pixel centres: the folded kernel on their neighbours
            patch = neighbours(features, coords.long(), self.reach)
            h = self._first(
                patch.transpose(1, 2).flatten(0, 1),
                level.repeat_interleave(patch.shape[2], 0) if len(level) > 1 else level,
                self._folded(),
            )
            h = h.reshape(patch.shape[0], patch.shape[2], -1, 1).transpose(1, 2)
        else:
            samples = self._samples(features, coords, self._steered(features, coords, level))
            h = self.layers[0](
                samples, level, self._first_weight().reshape(self.layers[0].weight.shape)
            )  # type: ignore[arg-type]
        return self._mlp(h, level)[..., 0]

    def _at(self, x: Tensor, coords: Tensor, sigma: Tensor, chunk: int) -> Tensor:
        """The continuous form for ``coords`` (1 or B, Q, 2), tile by tile where there are features."""
        level, f = self._level(sigma), self.eaten
        gain, keep, scale = (
            part[..., 0] if isinstance(part, Tensor) else part for part in self._scales(sigma)
        )
        taken = gain[..., None] * x if isinstance(gain, Tensor) else x
        centre = x.new_zeros(1, 1, 1, 2)
        points = torch.arange(coords.shape[1], device=x.device)
        groups = [points] if len(points) else []
        if self.stem:
            down, across = (coords[0].clamp_min(0) / self.tile).long().unbind(dim=1)
            cell = down * (x.shape[-1] // self.tile + 1) + across
            order = cell.argsort(stable=True)
            groups = [group for group in order.split(torch.bincount(cell).tolist()) if len(group)]
        out = x.new_empty(*x.shape[:2], len(points))
        for group in groups:
            inside, features, corner = (
                coords[:, group],
                taken.to(self.last.dtype),
                coords.new_zeros(2),
            )
            if self.stem:
                margin = math.ceil(self.radius) + 2  # all taps of the bicubic samples
                top, left = (int(v) - margin for v in inside[0].amin(dim=0).floor())
                bottom, right = (int(v) + margin + 1 for v in inside[0].amax(dim=0).floor())
                top, left, bottom, right = (
                    -self._aligned(-top),
                    -self._aligned(-left),
                    self._aligned(bottom),
                    self._aligned(right),
                )
                features = self._features(
                    window(taken, top - f, bottom + f, left - f, right + f), level
                )
                corner = coords.new_tensor([top, left])
            for part, p in zip(group.split(chunk), inside.split(chunk, dim=1), strict=True):
                out[..., part] = keep * sample(x, p, centre)[..., 0] - scale * self._between(
                    features, p - corner, level
                ).to(x.dtype)
        return out


def _cropped(x: Tensor, border: int) -> Tensor:
    """``x`` (B, C, H, W) without ``border`` pixels on every side."""
    return x[..., border : x.shape[-2] - border, border : x.shape[-1] - border] if border else x


def _check_coords(x: Tensor, coords: Tensor, who: str) -> None:
    """Raise unless ``coords`` are places within the pixels of ``x``."""
    if not isinstance(coords, Tensor) or not coords.is_floating_point():
        raise InputTypeError(
            f"{who}: coords must be a floating tensor of shape (Q, 2) or (B, Q, 2): (row, column) in pixels."
        )
    if (
        coords.ndim not in (2, 3)
        or coords.shape[-1] != 2
        or (coords.ndim == 3 and len(coords) not in (1, len(x)))
    ):
        raise InputError(
            f"{who}: coords must have shape (Q, 2) or ({len(x)}, Q, 2), (row, column) in pixels, got {tuple(coords.shape)}."
        )
    height, width = x.shape[-2:]
    low, high = coords.new_tensor([-0.5, -0.5]), coords.new_tensor([height - 0.5, width - 0.5])
    if not bool(((coords >= low) & (coords <= high)).all()):
        raise InputError(
            f"{who}: coordinates must lie in [-0.5, {height - 0.5}] x [-0.5, {width - 0.5}] for an image of "
            f"{height} x {width} pixels; some do not (or are NaN). They are in pixels, not in [-1, 1]."
        )


def _check_config(config: dict[str, Any]) -> None:
    """Raise unless the settings of an :class:`MLPatch` make sense, each and together."""

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    for name, least in {
        "channels": 1,
        "rings": 1,
        "angles": 1,
        "width": 1,
        "depth": 1,
        "tile": 1,
        "fold": 1,
        "stem_width": 0,
        "square": 0,
        "features": 0,
        "deform": 0,
    }.items():
        if not whole(config[name], least):
            raise InputError(
                f"MLPatch: {name} must be an integer >= {least}, got {config[name]!r}."
            )
    for name in ("dilations", "sectors"):
        if not all(whole(value, 1) for value in config[name]):
            raise InputError(
                f"MLPatch: {name} must be a list of integers >= 1, got {config[name]!r}."
            )
    if not finite_number(config["radius"]) or config["radius"] <= 0:
        raise InputError(f"MLPatch: radius must be positive, got {config['radius']!r}.")
    if not finite_number(config["sigma_max"]) or config["sigma_max"] < 0:
        raise InputError(f"MLPatch: sigma_max must be >= 0, got {config['sigma_max']!r}.")
    if config["activation"] not in ACTIVATIONS:
        raise InputError(
            f"MLPatch: activation must be one of {', '.join(ACTIVATIONS)}, got {config['activation']!r}."
        )
    signal = config.get("signal", 0.0)
    if not finite_number(signal) or signal < 0:
        raise InputError(
            f"MLPatch: signal must be >= 0, the standard deviation of the images (0: photographs), got {signal!r}."
        )
    if (config["features"] > 0) != (len(config["dilations"]) > 0):
        raise InputError(
            "MLPatch: features and dilations go together: a number of features, and one dilation for each 3 x 3 convolution."
        )
    if config["square"] and (config["square"] % 2 == 0 or config["sectors"] or config["deform"]):
        raise InputError(
            "MLPatch: square must be odd, and takes neither sectors nor deform, which need offsets on circles."
        )


@register("mlpatch", network=MLPatch)
def mlpatch(weights: str | PathLike[str] = "mlpatch-grey", *, tile: int | None = None) -> MLPatch:
    """An :class:`MLPatch` with trained weights: a name that ships with the package, or a path.

    Shipped, all trained on windows of 128 x 128 pixels: ``mlpatch-grey`` and ``mlpatch-colour`` for photographs in [0, 1], ``mlpatch-ct`` for
    chest CT (-1024 ... 1024 HU mapped to [0, 1]), sigma 0 to 60/255 each; ``mlpatch-samples-grey``, the member on image samples;
    ``mlpatch-sr`` for :meth:`MLPatch.upscale`; ``mlpatch-kappa`` for the convergence of weak lensing, sigma 0 to 0.35. ``tile`` is by default what fits the cache of current processors: 128 for the member on
    features, 64 for the one on image samples. Raises :class:`WeightsError` for unknown, missing or corrupt weights.
    """
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise InputError(f"mlpatch: tile must be an integer >= 1, got {tile!r}.")
    model = MLPatch.load(weight_files.locate(weights))
    model.tile = tile or model.tile
    return model


__all__ = ["MLPatch", "cubic", "mlpatch", "polar_offsets", "reflect"]
