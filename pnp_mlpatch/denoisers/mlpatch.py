r"""MLPatch: a local denoiser that computes each pixel from a small patch around it, by an MLP.

For a point p of the image plane (pixel units, pixel centres at the integers, row before column)

.. math:: D(x, \sigma)(p) = x(p) - \mathrm{MLP}([F(p + o_1), \ldots, F(p + o_M)], \sigma)

where :math:`x(\cdot)` and :math:`F(\cdot)` are bicubic interpolations (Keys 1981, a = -0.75). The
settings choose one of two members:

* *image samples*, the published network: F = x, and the offsets :math:`o_m` are learned, in pixels.
* *local features*: F is a stack of 3 x 3 convolutions of x on the grid, and the patch a small
  square of feature samples. Neighbouring pixels share the features, which saves most of the work.

The image is continued by reflection about its border pixels. The features are those of the
continued image. The first layer has kernels of zero mean, so that D(x + c) = D(x) + c. Pixels are
not coupled in any other way: D is local and shift-equivariant.

Some images are weaker than their noise, such as the convergence of weak lensing. They have a
standard deviation ``signal`` = s about zero. Then kernels need not have zero mean, and the MLP
works on numbers of variance one (Karras et al. 2022):

.. math::

    D(x, \sigma)(p) = \frac{s^2}{r^2} x(p)
        - \frac{s \sigma}{r} \mathrm{MLP}([F(p + o_1), \ldots, F(p + o_M)], \sigma),
    \qquad r^2 = s^2 + \sigma^2,

with F the features of x / r. The first term is the best estimate of a pixel from itself alone, the
second what the patch adds. D(x, 0) = x.

Two forms give the same numbers. :meth:`MLPatch.at`, the continuous form, samples at any
coordinates. ``D(x, sigma)``, the grid form, folds sampling and the next layer into one convolution.
It works tile by tile with the true margin, which bounds the memory and changes no result.

References
----------
"MLPatch: Scalable Local MLPs for Cosmological Inverse Problems" (talk), published as LoFi,
Khorashadizadeh et al. 2024, arXiv 2411.04995. Shared features: LIIF, Chen et al. 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch import weights as weight_files
from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers._base import check_image, register, sigma_column
from pnp_mlpatch.denoisers._bicubic import check_coords, cubic
from pnp_mlpatch.denoisers._by_channels import ByChannels
from pnp_mlpatch.denoisers._features import cropped, cropped_level
from pnp_mlpatch.denoisers._patch import PatchNetwork
from pnp_mlpatch.denoisers._precision import in_precision
from pnp_mlpatch.denoisers._tiles import aligned, tiles
from pnp_mlpatch.errors import InputError

AUTO = ("mlpatch-grey", "mlpatch-colour-folded")


class MLPatch(PatchNetwork):
    r"""A noise-conditional local denoiser.

    Parameters
    ----------
    channels : int
        Channels of the image.
    radius : float
        Learned offsets stay within so many pixels.
    rings, angles : int
        Learned offsets start on ``rings`` circles of ``angles`` points.
    square : int
        0, or the odd side of a fixed square of neighbours in place of learned offsets.
    features : int
        Local features that are sampled; 0: samples of the image.
    dilations : sequence of int
        Dilations of the 3 x 3 convolutions that make the features.
    fold : int
        Side of the cells of pixels that become channels before these convolutions.
    stem_width : int
        Channels between these convolutions; 0: ``features``.
    residual : bool
        Add the output of pairs of these convolutions to their input.
    sectors : sequence of int
        Widths of one MLP for each angle before the common one, as published.
    width, depth : int
        Width and number of the layers of the MLP, before its linear one.
    deform : int
        How often the offsets are refined from the samples themselves; 0: never.
    activation : str
        "gelu" or "relu".
    signal : float
        Standard deviation of images about zero that are weaker than their noise; 0: photographs.
    sigma_max : float
        Top of the trained noise range, in the units of the image; 0: images without noise.
    tile : int, optional
        Side of the tiles, which bounds memory; by default 64 to 512, on a GPU what takes 2 GiB.

    Raises
    ------
    InputError
        If the settings make no sense.

    Notes
    -----
    The output at a pixel depends on input pixels at most ``field`` rows or columns away. The
    network runs in the precision of its weights; the result has the dtype of the image.

    The published network is ``MLPatch(rings=9, angles=9, sectors=(370, 370, 370, 100), width=370,
    depth=3, activation="relu")``, 3.5 million parameters.
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
        super().__init__(
            {
                **{"channels": channels, "radius": radius, "rings": rings, "angles": angles},
                **{"square": square, "features": features, "dilations": list(dilations)},
                **{"fold": fold, "stem_width": stem_width, "residual": residual},
                **{"sectors": list(sectors), "width": width, "depth": depth, "deform": deform},
                **{"activation": activation, "sigma_max": sigma_max, "signal": signal},
                "tile": tile,
            }
        )

    @classmethod
    def example(cls) -> MLPatch:
        net = cls(square=3, features=12, dilations=(1, 2), width=16, depth=2)
        nn.init.normal_(net.last, std=0.1)
        return net.eval().requires_grad_(False)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise images, the grid form.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
            Any H, W >= 1.
        sigma : float or Tensor, shape (B,) or (B, 1, H, W)
            Noise level in the units of ``x``, from 0 to ``sigma_max``.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        check_image(x, "MLPatch", self.channels)
        sigma = sigma_column(sigma, x, "MLPatch", self.sigma_max, maps=True)
        kernel = None if self.deform else self._folded()
        out = torch.empty_like(x)
        for images, rows, cols, block, noise in tiles(x, sigma, self.side(x), self.halo, self.fold):
            clean = self.denoise_block(block, noise, kernel)
            h, w = rows.stop - rows.start, cols.stop - cols.start
            out[images, :, rows, cols] = clean[:, :, :h, :w]
        return out

    def denoise_block(self, block: Tensor, sigma: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Denoise a block that brings its own margin.

        Parameters
        ----------
        block : Tensor, shape (B, C, h + 2 halo, w + 2 halo)
            ``fold`` divides h and w.
        sigma : Tensor, shape (B, 1, 1, 1) or (B, 1, h + 2 halo, w + 2 halo)
        kernel : Tensor, optional
            What ``_folded()`` returns, to compute it once for many blocks.

        Returns
        -------
        Tensor, shape (B, C, h, w)
        """
        f, level = self.halo, self._level(sigma)
        features = self._features(self._gain(sigma) * block, level)
        features = cropped(features, f - self.eaten - self.reach)
        level, (keep, scale) = cropped_level(level, f), self._mix(cropped_level(sigma, f))
        clean = cropped(block, f)
        if self.deform:
            rows, cols = (
                self.reach + torch.arange(n, device=block.device, dtype=features.dtype)
                for n in clean.shape[-2:]
            )
            coords = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1)
            level = level.flatten(2)[..., None]
            residual = self._between(features, coords.reshape(1, -1, 2), level).reshape(clean.shape)
        else:
            kernel = self._folded() if kernel is None else kernel
            residual = self._mlp(self._first(features, level, kernel), level)
        return keep * clean - scale * residual.to(block.dtype)

    def at(
        self, x: Tensor, coords: Tensor, sigma: float | Tensor = 0.0, chunk: int = 1024
    ) -> Tensor:
        """Compute the denoised value at any coordinates, the continuous form.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        coords : Tensor, shape (Q, 2) or (B, Q, 2)
            (row, column) in pixels, pixel centres at the integers; at most half a pixel outside the
            centres of the border pixels.
        sigma : float or Tensor, shape (B,) or (B, 1, H, W)
            Noise level in the units of ``x``; a map is interpolated at the coordinates.
        chunk : int
            Points that are computed at a time, which bounds the memory.

        Returns
        -------
        Tensor, shape (B, C, Q)

        Raises
        ------
        InputError
            If the coordinates have another shape or lie outside the image.
        """
        check_image(x, "MLPatch.at", self.channels)
        column = sigma_column(sigma, x, "MLPatch.at", self.sigma_max, maps=True)
        check_coords(x, coords, "MLPatch.at")
        if coords.ndim == 2 or len(coords) == 1:
            return self._at(x, coords.reshape(1, -1, 2), column, chunk)
        if self.stem or self.deform:
            images = zip(x.split(1), coords.split(1), column.split(1), strict=True)
            return torch.cat([self._at(*image, chunk) for image in images])
        return self._at(x, coords, column, max(1, chunk // len(x)))

    def upscale(self, x: Tensor, factor: float, sigma: float | Tensor = 0.0) -> Tensor:
        """Compute the image on a finer grid, for weights trained for it (``mlpatch-sr``).

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        factor : float
            At least 1. Fine pixel i lies at ``(i + 0.5) / factor - 0.5``.
        sigma : float or Tensor, shape (B,)
            Noise level in the units of ``x``, not a map.

        Returns
        -------
        Tensor, shape (B, C, floor(H factor), floor(W factor))

        Raises
        ------
        InputError
            If ``factor`` is below 1 or not finite.
        """
        check_image(x, "MLPatch.upscale", self.channels)
        column = sigma_column(sigma, x, "MLPatch.upscale", self.sigma_max)
        if not finite_number(factor) or factor < 1:
            raise InputError(f"MLPatch.upscale: factor must be a number >= 1, got {factor!r}.")
        if factor == 1:
            return self(x, sigma)
        if not self.deform and factor == int(factor):
            return self._phases(x, int(factor), column)
        size = [math.floor(n * factor + 1e-9) for n in x.shape[-2:]]
        rows, cols = (
            (torch.arange(n, dtype=torch.float64, device=x.device) + 0.5) / factor - 0.5
            for n in size
        )
        coords = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), dim=-1).reshape(-1, 2)
        return self.at(x, coords, sigma).reshape(*x.shape[:2], *size)

    def _phases(self, x: Tensor, factor: int, sigma: Tensor) -> Tensor:
        """Upscale by a whole factor: fine pixels at one place in their cell are one convolution."""
        taps = torch.arange(-2, 3, device=x.device)
        shifts = [(i + 0.5) / factor - 0.5 for i in range(factor)]
        phases = []
        for (i, down), (j, across) in product(enumerate(shifts), enumerate(shifts)):
            base = (cubic(down - taps)[:, None] * cubic(across - taps)).to(x.dtype)
            base = base.expand(self.channels, 1, -1, -1)
            phases.append((i, j, self._folded((down, across)), base))
        out = x.new_empty(*x.shape[:2], factor * x.shape[2], factor * x.shape[3])
        margin = self.eaten + aligned(self.reach + 2, self.fold)
        for images, rows, cols, block, noise in tiles(x, sigma, self.side(x), margin, self.fold):
            level, (keep, scale) = self._level(noise), self._mix(noise)
            features = self._features(self._gain(noise) * block, level)
            features = cropped(features, margin - self.eaten - self.reach - 2)
            middle = cropped(block, margin - 2)
            down, across = (slice(s.start * factor, s.stop * factor) for s in (rows, cols))
            target = out[images, :, down, across]
            h, w = rows.stop - rows.start, cols.stop - cols.start
            for i, j, kernel, base in phases:
                residual = self._mlp(self._first(features, level, kernel), level).to(x.dtype)
                fine = keep * F.conv2d(middle, base, groups=self.channels) - scale * residual
                target[:, :, i::factor, j::factor] = fine[:, :, :h, :w]
        return out


@register("mlpatch", network=MLPatch)
def mlpatch(
    weights: str | PathLike[str] = "auto", *, tile: int | None = None, precision: str = "float32"
) -> MLPatch | ByChannels | in_precision:
    """Make an :class:`MLPatch` with trained weights.

    Parameters
    ----------
    weights : str or path
        "auto": "mlpatch-grey" for one channel and "mlpatch-colour-folded" for three, at each call.
        Else a file of this package's training, or a shipped name: these two and "mlpatch-colour"
        (all shifts) for photographs in [0, 1], "mlpatch-ct" for chest CT (-1024 ... 1024 HU mapped
        to [0, 1]), all for sigma 0 to 60/255; "mlpatch-samples-grey", "mlpatch-deform-grey" (slow);
        "mlpatch-sr" to :meth:`~MLPatch.upscale`; "mlpatch-kappa(-clusters)" for mass maps.
    tile : int, optional
        Side of the tiles; by default that of :class:`MLPatch`.
    precision : {"float32", "bfloat16", "auto"}
        Of the products; see :class:`~pnp_mlpatch.denoisers.in_precision`.

    Returns
    -------
    MLPatch, ByChannels or in_precision
        With "auto" weights, a module with both networks. Beyond float32, wrapped.

    Raises
    ------
    WeightsError
        If the weights are unknown, missing or damaged.
    """
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise InputError(f"mlpatch: tile must be an integer >= 1, got {tile!r}.")
    if precision != "float32":
        return in_precision(mlpatch(weights, tile=tile), precision)
    if isinstance(weights, str) and weights == "auto":
        return ByChannels({name: mlpatch(name, tile=tile) for name in AUTO})  # type: ignore[misc]
    model = MLPatch.load(weight_files.locate(weights))
    model.tile, model.gpu_tile = tile or model.tile, tile or model.gpu_tile
    return model
