r"""MLPatch: each pixel from a small learned patch around it, through an MLP.

For a point p of the image plane (pixel units, pixel centres at the integers, row before column)

    D(x, sigma)(p) = x(p) - MLP( [x(p + o_1), ..., x(p + o_M)], sigma )

where x(.) is bicubic interpolation (Keys 1981, a = -0.75) of the image, continued by reflection about its border pixels,
and the offsets o_m are learned, in *input pixels*, |o_m| <= radius. The first layer has rows of zero mean, so that
D(x + c) = D(x) + c. There is no other coupling between pixels: D is local and shift-equivariant.

Two forms give the same numbers:

* :meth:`MLPatch.at`, the continuous form, samples the image at any coordinates.
* ``D(x, sigma)``, the grid form, uses that at pixel centres the sampling is a fixed filter: with G[m, t] the weight of
  pixel t in sample m and W the first layer, W G is one small convolution, and the samples are never formed. It is
  evaluated tile by tile with the true halo, so memory is bounded by the tile.

References: "MLPatch: Scalable Local MLPs for Cosmological Inverse Problems" (talk), published as LoFi,
Khorashadizadeh et al. 2024, arXiv 2411.04995.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from os import PathLike
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch import weights as weight_files
from pnp_mlpatch.denoisers.base import check_image, register, sigma_column
from pnp_mlpatch.denoisers.networks import Network
from pnp_mlpatch.errors import InputError, InputTypeError, finite_number


def cubic(t: Tensor) -> Tensor:
    """The cubic convolution kernel of Keys (1981) with a = -0.75, support |t| < 2: the weights of bicubic sampling."""
    a = -0.75
    t = t.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def reflect(index: Tensor, size: int) -> Tensor:
    """Indices continued by reflection about the first and last element (``... 2 1 0 1 2 ...``), for any size >= 1."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * (size - 1))
    return torch.minimum(index, 2 * (size - 1) - index)


def polar_offsets(radius: float, rings: int, angles: int) -> Tensor:
    """``rings x angles`` offsets (row, column) on circles of equally spaced radii, every second ring turned by half a step."""
    r = radius * torch.arange(1, rings + 1, dtype=torch.float64) / rings
    turn = 0.5 * (torch.arange(rings) % 2)
    angle = 2 * math.pi * (torch.arange(angles)[None] + turn[:, None]) / angles
    return torch.stack([r[:, None] * angle.sin(), r[:, None] * angle.cos()], dim=-1).reshape(-1, 2).float()


class MLPatch(Network):
    r"""A noise-conditional local MLP denoiser; the network and its two forms of evaluation.

    ``radius`` bounds the learned offsets in pixels, ``rings x angles`` of them start on circles; ``width`` and ``depth``
    are those of the MLP; ``sigma_max`` is the top of the noise range, in image units. ``tile`` is the side of the tiles
    of the grid form: it bounds the memory and does not change the result.

    The output at a pixel depends on input pixels at most ``field`` rows or columns away: ``ceil(radius) + 1``.

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
        width: int = 256,
        depth: int = 3,
        sigma_max: float = 60 / 255,
        tile: int = 64,
    ):
        for name, value in {"channels": channels, "rings": rings, "angles": angles, "width": width, "depth": depth, "tile": tile}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"MLPatch: {name} must be an integer >= 1, got {value!r}.")
        if not all(finite_number(value) and value > 0 for value in (radius, sigma_max)):
            raise InputError(f"MLPatch: radius and sigma_max must be positive, got {radius!r} and {sigma_max!r}.")
        super().__init__(
            channels,
            float(sigma_max),
            {
                "channels": channels,
                "radius": float(radius),
                "rings": rings,
                "angles": angles,
                "width": width,
                "depth": depth,
                "sigma_max": float(sigma_max),
            },
        )
        self.radius, self.sigma_max, self.tile = float(radius), float(sigma_max), tile
        self.field = self.halo = math.ceil(radius) + 1  # cubic weights reach |t - o| < 2

        self.offsets = nn.Parameter(polar_offsets(0.95 * radius, rings, angles))
        samples = rings * angles
        self.first = nn.Parameter(torch.randn(width, channels, samples) * (4 / math.sqrt(channels * samples)))
        self.first_bias = nn.Parameter(torch.zeros(width))
        self.first_sigma = nn.Parameter(torch.randn(width) / 2)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, channels, bias=False)
        nn.init.zeros_(self.last.weight)

    @classmethod
    def example(cls) -> MLPatch:
        net = cls(radius=3.0, rings=2, angles=6, width=16)
        nn.init.normal_(net.last.weight, std=0.3)
        return net.eval().requires_grad_(False)

    # ---- the two forms

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Grid form: ``x`` (B, C, H, W), any H, W >= 1; ``sigma`` a float or (B,), in the units of ``x``."""
        check_image(x, "MLPatch", self.channels)
        column = sigma_column(sigma, x, "MLPatch", self.sigma_max)
        taps, kernel = self._folded(x.dtype)
        out = torch.empty_like(x)
        batch, _, height, width = x.shape
        step = max(1, self.tile**2 // (min(self.tile, height) * min(self.tile, width)))  # small images go together
        for b in range(0, batch, step):
            image, level = x[b : b + step], column[b : b + step]
            for top in range(0, height, self.tile):
                for left in range(0, width, self.tile):
                    bottom, right = min(top + self.tile, height), min(left + self.tile, width)
                    f = self.halo
                    rows = reflect(torch.arange(top - f, bottom + f, device=x.device), height)
                    cols = reflect(torch.arange(left - f, right + f, device=x.device), width)
                    block = image[:, :, rows[:, None], cols]
                    out[b : b + step, :, top:bottom, left:right] = self.denoise_block(block, level, taps, kernel)
        return out

    def denoise_block(self, block: Tensor, sigma: Tensor, taps: Tensor | None = None, kernel: Tensor | None = None) -> Tensor:
        """The grid form on a block (B, C, h + 2 field, w + 2 field) that brings its own halo -> (B, C, h, w)."""
        if taps is None or kernel is None:
            taps, kernel = self._folded(block.dtype)
        batch, channels, height, width = block.shape
        f = self.halo
        height, width = height - 2 * f, width - 2 * f
        stride = width + 2 * f
        corner = torch.arange(height, device=block.device)[:, None] * stride + torch.arange(width, device=block.device)
        index = corner.reshape(-1, 1) + ((taps[:, 0] + f) * stride + taps[:, 1] + f)
        patches = block.reshape(batch, channels, -1)[:, :, index]  # B, C, pixels, taps
        patches = patches.movedim(1, 2).reshape(batch, index.shape[0], -1)
        residual = self._mlp(F.linear(patches, kernel), sigma)
        residual = residual.movedim(-1, 1).reshape(batch, channels, height, width)
        return block[:, :, f : f + height, f : f + width] - residual.to(block.dtype)

    def at(self, x: Tensor, coords: Tensor, sigma: float | Tensor, chunk: int = 4096) -> Tensor:
        """Continuous form: the denoised value at any coordinates.

        ``coords`` (Q, 2) are (row, column) in pixels, pixel centres at the integers 0 ... H - 1; the result is (B, C, Q).
        Coordinates may lie up to half a pixel outside the centres of the border pixels. ``chunk`` bounds the memory.
        """
        check_image(x, "MLPatch.at", self.channels)
        column = sigma_column(sigma, x, "MLPatch.at", self.sigma_max)
        if not isinstance(coords, Tensor) or not coords.is_floating_point():
            raise InputTypeError("MLPatch.at: coords must be a floating tensor of shape (Q, 2): (row, column) in pixels.")
        if coords.ndim != 2 or coords.shape[1] != 2:
            raise InputError(f"MLPatch.at: coords must have shape (Q, 2), (row, column) in pixels, got {tuple(coords.shape)}.")
        height, width = x.shape[-2:]
        low, high = coords.new_tensor([-0.5, -0.5]), coords.new_tensor([height - 0.5, width - 0.5])
        if not bool(((coords >= low) & (coords <= high)).all()):
            raise InputError(
                f"MLPatch.at: coordinates must lie in [-0.5, {height - 0.5}] x [-0.5, {width - 0.5}] for an image of "
                f"{height} x {width} pixels; some do not (or are NaN). They are in pixels, not in [-1, 1]."
            )
        return torch.cat([self._at(x, part, column) for part in coords.split(chunk)], dim=-1)

    # ---- parts

    def _offsets(self) -> Tensor:
        """The learned offsets, kept within the radius."""
        length = self.offsets.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return self.offsets * (self.radius / length).clamp(max=1)

    def _first(self) -> Tensor:
        """First layer (width, C, M), each row of zero mean over all samples."""
        return self.first - self.first.mean(dim=(1, 2), keepdim=True)

    def _folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Sampling and first layer as one filter: integer taps (T, 2) and kernel (width, C * T)."""
        f = self.halo
        axis = torch.arange(-f, f + 1, device=self.offsets.device)
        taps = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
        beyond = (taps.abs() - 2).clamp_min(0)
        taps = taps[(beyond**2).sum(1) < self.radius**2]
        weight = cubic(self._offsets()[:, None, :] - taps).prod(dim=-1)  # samples, taps
        return taps, (self._first() @ weight).flatten(1).to(dtype)

    def _mlp(self, h: Tensor, sigma: Tensor) -> Tensor:
        """The MLP after its first product: h (B, P, width), sigma (B, 1, 1, 1) -> (B, P, C)."""
        level = (sigma / self.sigma_max).reshape(-1, 1, 1)
        h = F.gelu(h + (self.first_bias + level * self.first_sigma).to(h.dtype))
        for layer in cast("Iterable[nn.Linear]", self.hidden):
            h = F.gelu(F.linear(h, layer.weight.to(h.dtype), layer.bias.to(h.dtype)))
        return F.linear(h, self.last.weight.to(h.dtype))

    def _at(self, x: Tensor, coords: Tensor, sigma: Tensor) -> Tensor:
        """The continuous form for a few coordinates: weights of the samples at the fraction of each coordinate."""
        base = coords.floor()
        fraction = (coords - base).to(x.dtype)
        reach = self.halo + 1
        taps = torch.arange(-reach, reach + 1, device=x.device)
        rows = reflect(base[:, :1].long() + taps, x.shape[-2])
        cols = reflect(base[:, 1:].long() + taps, x.shape[-1])
        patch = x[:, :, rows[:, :, None], cols[:, None, :]]  # B, C, Q, K, K
        points = torch.cat([self._offsets().to(x.dtype), x.new_zeros(1, 2)])  # the last one is the coordinate itself
        where = fraction[:, None, :, None] + points[None, :, :, None] - taps  # Q, M + 1, 2, K
        down, across = cubic(where).unbind(dim=2)
        samples = torch.einsum("qmi,bcqij,qmj->bqcm", down, patch, across)
        kernel = self._first().to(x.dtype).flatten(1)
        residual = self._mlp(F.linear(samples[..., :-1].flatten(2), kernel), sigma)
        return (samples[..., -1] - residual).movedim(-1, 1)


@register("mlpatch", network=MLPatch)
def mlpatch(weights: str | PathLike[str] = "mlpatch-grey", *, tile: int = 64) -> MLPatch:
    """An :class:`MLPatch` with trained weights: a name that ships with the package, or a path.

    Shipped: ``mlpatch-grey``, one channel, images in [0, 1], sigma 0 to 60/255, trained at 128 x 128. The default tile of
    64 fits the cache of current processors. Raises :class:`WeightsError` for unknown, missing or corrupt weights.
    """
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise InputError(f"mlpatch: tile must be an integer >= 1, got {tile!r}.")
    model = MLPatch.load(weight_files.locate(weights))
    model.tile = tile
    return model


__all__ = ["MLPatch", "cubic", "mlpatch", "polar_offsets", "reflect"]
