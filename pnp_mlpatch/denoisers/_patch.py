"""The patch of MLPatch: offsets, samples of features at them, and the MLP on the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch.denoisers._base import check_image, sigma_column
from pnp_mlpatch.denoisers._bicubic import (
    check_coords,
    cubic,
    neighbours,
    polar_offsets,
    sample,
    square_offsets,
    window,
)
from pnp_mlpatch.denoisers._features import (
    HIDDEN_GAIN,
    SIGNAL_GAIN,
    Affine,
    Stem,
    is_map,
    zero_mean,
)
from pnp_mlpatch.denoisers._network import Network
from pnp_mlpatch.denoisers._settings import ACTIVATIONS, check_settings, in_file
from pnp_mlpatch.denoisers._tiles import aligned, gpu_tile, points_by_tile

STEER_WIDTH = 64  # of the layers that move the offsets


class PatchNetwork(Network):
    r"""The weights of an MLPatch, and what they compute at given points of features.

    With :math:`G_{mt}` the bicubic weight of pixel t in sample m, and W the layer that takes the
    samples, :math:`W G` is one small convolution. On the grid the samples are never formed.

    Parameters
    ----------
    settings : dict
        All arguments of :class:`~pnp_mlpatch.denoisers.mlpatch.MLPatch`.

    Raises
    ------
    InputError
        If the settings make no sense.
    """

    def __init__(self, settings: dict[str, Any]):
        given, features, fold = (settings[name] for name in ("tile", "features", "fold"))
        tile = (512 if fold != 1 else 128 if features else 64) if given is None else given
        check_settings({**settings, "tile": tile})
        super().__init__(settings["channels"], float(settings["sigma_max"]), in_file(settings))
        self.tile, self.fold = tile, fold
        self.deform, self.signal = settings["deform"], float(settings["signal"])
        self.activation = ACTIVATIONS[settings["activation"]]
        self.stem = Stem(
            self.channels,
            features,
            settings["dilations"],
            fold=fold,
            width=settings["stem_width"] or features,
            residual=settings["residual"],
            centred=not self.signal,
            activation=self.activation,
        )
        self.groups = settings["angles"] if settings["sectors"] else 1
        self._make_offsets(settings)
        self.eaten = self.stem.eaten
        self.field = self.eaten + self.reach + fold - 1
        self.halo = self.eaten + aligned(self.reach, fold)
        self._make_mlp(settings["sectors"], [settings["width"]] * settings["depth"])
        self.gpu_tile = gpu_tile(self._widest()) if given is None else tile
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  fast convolutions

    def _make_offsets(self, settings: dict[str, Any]) -> None:
        """Make the offsets, their bound ``radius``, and ``reach``, the pixels that samples need."""
        square, rings, angles = (settings[name] for name in ("square", "rings", "angles"))
        self.fixed = square > 0
        if self.fixed:
            self.radius, self.reach = float(square // 2), square // 2
            self.register_buffer("offsets", square_offsets(square), persistent=False)
            return
        self.radius = float(settings["radius"])
        self.reach = math.ceil(self.radius) + 1  # cubic weights reach |t - o| < 2
        offsets = polar_offsets(0.95 * self.radius, rings, angles).reshape(rings, angles, 2)
        offsets = offsets.transpose(0, 1) if settings["sectors"] else offsets
        self.offsets = nn.Parameter(offsets.reshape(-1, 2).contiguous())

    def _make_mlp(self, sectors: Sequence[int], widths: Sequence[int]) -> None:
        """Make the layers of the sectors and of the MLP, and those that move the offsets."""
        sampled = self.config["features"] or self.channels
        samples = len(self.offsets)
        first: dict[str, Any] = (
            {"gain": HIDDEN_GAIN} if self.stem else {"gain": SIGNAL_GAIN, "conditional": True}
        )
        layers, inputs = [], sampled * samples
        sizes = [(self.groups * outputs, self.groups) for outputs in sectors]
        for outputs, groups in [*sizes, *((outputs, 1) for outputs in widths)]:
            options = {} if layers else first
            layers.append(Affine(inputs, outputs, groups=groups, **options))
            inputs = outputs
        self.layers = nn.ModuleList(layers)
        self.last = nn.Parameter(torch.zeros(self.channels, inputs, 1, 1))
        self.steer = nn.ModuleList(
            nn.ModuleList(
                [
                    Affine(sampled * samples, STEER_WIDTH, **first),
                    Affine(STEER_WIDTH, 2 * samples, gain=0.0),
                ]
            )
            for _ in range(self.deform)
        )

    def _widest(self) -> float:
        """Return the channels of the widest layer, for each pixel."""
        samples = (self.config["features"] or self.channels) * len(self.offsets)
        formed = samples if self.deform or self.groups > 1 else 1
        made = [layer.weight.shape[0] for layer in self.layers]  # type: ignore[union-attr]
        stem = [layer.weight.shape[0] / self.fold**2 for layer in self.stem]  # type: ignore
        return max(formed, *made, *stem)

    def side(self, x: Tensor) -> int:
        """Return the side of the tiles for images on their device.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)

        Returns
        -------
        int
        """
        return self.tile if x.device.type == "cpu" else self.gpu_tile

    # ---- the patch, to be looked at

    def patch_offsets(self) -> Tensor:
        """Return the offsets of the patch.

        Returns
        -------
        Tensor, shape (M, 2)
            (row, column) in pixels, within ``radius``.
        """
        return self.offsets if self.fixed else self._within(self.offsets)

    def patch_weights(self) -> Tensor:
        """Return how much each sample counts.

        Returns
        -------
        Tensor, shape (M,)
            The norm of the weights of the first layer of the MLP for each sample.
        """
        return self._first_weight().square().sum(dim=(1, 2)).sqrt().flatten()

    def patch_at(self, x: Tensor, coords: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Return where the samples for given coordinates are taken.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        coords : Tensor, shape (Q, 2)
            (row, column) in pixels.
        sigma : float or Tensor, shape (B,)
            Noise level in the units of ``x``, not a map.

        Returns
        -------
        Tensor, shape (B, Q, M, 2)
            (row, column) in pixels of ``x``.
        """
        check_image(x, "MLPatch.patch_at", self.channels)
        column = sigma_column(sigma, x, "MLPatch.patch_at", self.sigma_max)
        check_coords(x, coords, "MLPatch.patch_at")
        level, f = self._level(column), self.eaten
        height, width = (aligned(n, self.fold) for n in x.shape[-2:])
        block = window(x, -f, height + f, -f, width + f)
        features = self._features(self._gain(column) * block, level)
        offsets = self._steered(features, coords.reshape(1, -1, 2), level)
        return (coords.reshape(1, -1, 1, 2) + offsets).expand(len(x), coords.shape[-2], -1, -1)

    # ---- parts

    def _level(self, sigma: Tensor) -> Tensor:
        """Scale the noise level to 0 ... 1, logarithmic beyond ``signal``; one if all are equal."""
        sigma = sigma[:1] if sigma.stride(0) == 0 else sigma  # one number for all images
        if self.signal:
            top = math.log1p((self.sigma_max or 1.0) / self.signal)
            level = torch.log1p(sigma / self.signal) / top
        else:
            level = sigma / self.sigma_max if self.sigma_max else torch.zeros_like(sigma)
        if len(level) == 1 or torch.compiler.is_compiling() or level.device.type != "cpu":
            return level  # nobody waits for a GPU
        return level[:1] if bool((level == level[:1]).all()) else level

    def _gain(self, sigma: Tensor) -> Tensor | float:
        """Return what multiplies the image before the network: 1, or 1 / r with ``signal``."""
        return (self.signal**2 + sigma**2).rsqrt() if self.signal else 1.0

    def _mix(self, sigma: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return the factors of the image and of the network: 1 and 1 without ``signal``."""
        if not self.signal:
            return 1.0, 1.0
        square = self.signal**2 + sigma**2
        return self.signal**2 / square, self.signal * sigma * square.rsqrt()

    def _features(self, block: Tensor, level: Tensor) -> Tensor:
        """Compute the features of a block, smaller by ``eaten`` on every side."""
        return self.stem(block.to(self.last.dtype), level)

    def _features_about(self, x: Tensor, coords: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features that ``coords`` (Q, 2) need, and the pixel (2,) at their corner."""
        margin, f = math.ceil(self.radius) + 2, self.eaten  # all taps of the bicubic samples
        top, left = (-aligned(margin - int(v), self.fold) for v in coords.amin(dim=0).floor())
        bottom, right = (
            aligned(int(v) + margin + 1, self.fold) for v in coords.amax(dim=0).floor()
        )
        place = top - f, bottom + f, left - f, right + f
        noise = window(level, *place) if is_map(level) else level
        return self._features(window(x, *place), noise), coords.new_tensor([top, left])

    def _within(self, offsets: Tensor) -> Tensor:
        """Shorten offsets (..., 2) to the radius where they are longer."""
        length = offsets.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return offsets * (self.radius / length).clamp(max=1)

    def _centred(self, weight: Tensor) -> Tensor:
        """Give kernels that see the image zero mean, unless the images themselves have it."""
        return weight if self.signal else zero_mean(weight)

    def _first_weight(self) -> Tensor:
        """Return the layer that takes the samples: (groups, outputs, C, M / groups)."""
        weight = self.layers[0].weight
        assert isinstance(weight, Tensor)
        weight = weight if self.stem else self._centred(weight)
        return weight.reshape(
            self.groups, weight.shape[0] // self.groups, -1, len(self.offsets) // self.groups
        )

    def _folded(self, shift: tuple[float, float] | None = None) -> Tensor:
        """Fold sampling and the layer after it into one kernel (outputs, C, K, K), K = 2 reach + 1.

        With sectors, where that would be more work than the two of them, the kernel is that of the
        sampling alone: (M, 1, K, K). ``shift`` is for points so far from the pixel centres, less
        than a pixel; K is larger by 4.
        """
        offsets, reach = self.patch_offsets(), self.reach
        if shift is not None:
            offsets, reach = offsets + offsets.new_tensor(shift), reach + 2
        axis = torch.arange(-reach, reach + 1, device=offsets.device)
        taps = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
        with torch.autocast(axis.device.type, enabled=False):
            weight = self._first_weight()
            kernel = cubic(offsets[:, None, :] - taps).prod(dim=-1).to(weight.dtype)
            if self.groups > 1:
                kernel = kernel[:, None]
            else:
                kernel = torch.einsum("ocm,mt->oct", weight[0], kernel)
        return kernel.unflatten(-1, (len(axis), -1)).contiguous(memory_format=torch.channels_last)

    def _first(self, features: Tensor, level: Tensor, kernel: Tensor) -> Tensor:
        """Sample on the grid by the kernel of :meth:`_folded`; the first layer and its activation.

        Returns (B, outputs, h, w), where ``features`` are larger by the reach of the kernel.
        """
        if self.groups == 1:
            return self.layers[0](features, level, kernel, self.activation)
        samples = F.conv2d(features.flatten(0, 1)[:, None], kernel.to(features.dtype))
        samples = samples.unflatten(0, (len(features), -1)).unflatten(2, (self.groups, -1))
        # the order of the first layer: groups, C, M / groups
        return self._on_samples(samples.transpose(1, 2).flatten(1, 3), level)

    def _on_samples(self, samples: Tensor, level: Tensor) -> Tensor:
        """Apply the first layer to samples in its order, and the activation."""
        weight = self._first_weight().reshape(self.layers[0].weight.shape)  # type: ignore[arg-type]
        return self.layers[0](samples, level, weight, self.activation)

    def _samples(self, features: Tensor, coords: Tensor, offsets: Tensor) -> Tensor:
        """Sample at ``coords + offsets``, in the order of the first layer: (B, C M, Q, 1)."""
        samples = sample(features, coords, offsets)
        batch, channels, points, _ = samples.shape
        samples = samples.reshape(batch, channels, points, self.groups, -1)
        return samples.permute(0, 3, 1, 4, 2).reshape(batch, -1, points, 1)

    def _steered(self, features: Tensor, coords: Tensor, level: Tensor) -> Tensor:
        """Return the offsets at ``coords`` (b, Q, 2): (B, Q, M, 2), or (1, 1, M, 2) if equal."""
        offsets = self.patch_offsets()[None, None]
        for take, move in self.steer:  # type: ignore[misc]
            weight = take.weight if self.stem else self._centred(take.weight)
            h = take(self._samples(features, coords, offsets), level, weight, self.activation)
            step = move(h, level)[..., 0].movedim(1, 2).unflatten(-1, (-1, 2))
            offsets = self._within(offsets + self.radius * step.to(offsets.dtype))
        return offsets

    def _mlp(self, h: Tensor, level: Tensor) -> Tensor:
        """Apply the MLP after its first layer to points (B, width, h, w): (B, C, h, w)."""
        for layer in self.layers[1:]:  # type: ignore[union-attr]
            h = layer(h, level, activation=self.activation)
        return F.conv2d(h, self.last.to(h.dtype))

    def _between(self, features: Tensor, coords: Tensor, level: Tensor) -> Tensor:
        """Compute the MLP at ``coords`` (b, Q, 2), in pixels of the features: (B, C, Q).

        ``level`` is (B or 1, 1, 1, 1), or (B or 1, 1, Q, 1) with a level for each point.
        """
        if not self.deform and bool((coords == coords.round()).all()):
            # at pixel centres: the folded kernel on their neighbours
            patches = neighbours(features, coords.long(), self.reach).transpose(1, 2)
            batch, points = patches.shape[:2]
            if level.numel() > 1:
                level = level.expand(batch, 1, points, 1).reshape(-1, 1, 1, 1)
            h = self._first(patches.flatten(0, 1), level, self._folded())
            h = h.reshape(batch, points, -1, 1).transpose(1, 2)
        else:
            offsets = self._steered(features, coords, level)
            h = self._on_samples(self._samples(features, coords, offsets), level)
        return self._mlp(h, level)[..., 0]

    def _at(self, x: Tensor, coords: Tensor, sigma: Tensor, chunk: int) -> Tensor:
        """Compute the continuous form for ``coords`` (1 or B, Q, 2); features tile by tile."""
        level, centre = self._level(sigma), x.new_zeros(1, 1, 1, 2)
        taken = self._gain(sigma) * x if self.signal else x
        points = torch.arange(coords.shape[1], device=x.device)
        groups = [points] if len(points) else []
        if self.stem:
            groups = points_by_tile(coords[0], self.side(x), x.shape[-1])
        out = x.new_empty(*x.shape[:2], len(points))
        for group in groups:
            inside = coords[:, group]
            features, corner = taken.to(self.last.dtype), coords.new_zeros(2)
            if self.stem:
                features, corner = self._features_about(taken, inside[0], level)
            for part, p in zip(group.split(chunk), inside.split(chunk, dim=1), strict=True):
                noise, there = sigma, level
                if is_map(sigma):
                    noise = sample(sigma, p, centre).clamp(0, self.sigma_max)  # B, 1, Q, 1
                    there = self._level(noise)
                keep, scale = (v[..., 0] if isinstance(v, Tensor) else v for v in self._mix(noise))
                residual = self._between(features, p - corner, there).to(x.dtype)
                out[..., part] = keep * sample(x, p, centre)[..., 0] - scale * residual
        return out
