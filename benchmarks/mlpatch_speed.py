"""Speed of MLPatch on the CPU: the published network pixel by pixel, the same in the grid form, and
the shipped weights.

All in one process, on one grey 512 x 512 image; the repeats are interleaved, and the tables hold
medians.

* "per pixel, as published": the pixels go in chunks (the fastest of three sizes), samples by
  F.grid_sample (bicubic, reflection, align_corners) at pixel + offsets, then the MLPs as plain
  matrix products, one for each of 9 angles. torch samples one image on one thread; "sampling on all
  threads" gives it a part of the points for each thread. Both are first compared with the grid form
  and with MLPatch.at at random weights scaled so that the output is of order 1. Where 512 x 512
  would take over 30 seconds, chunks spread evenly over the image are timed and the time is scaled;
  the column "measured" says which share.
* "grid form": D(x, sigma), for the random networks at the fastest tile of 32, 64 and 128. The gain
  of folding is grid form against per pixel with the same network; that of the architecture is the
  shipped weights against the grid form of the published network.
* Limit: the rate of torch.mm for the products of the shipped network, layer by layer, at the pixels
  of one tile; against the rate of the grid form, counted in useful operations (2 for each
  multiplication and addition of an output pixel; no halo, no activation).

Run: python benchmarks/mlpatch_speed.py [--threads 2] [--repeats 5]
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, network, parse, publish, shipped
from torch import Tensor, nn
from tqdm.auto import tqdm

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.denoisers.mlpatch import MLPatch

SIGMA = 25 / 255
PUBLISHED: dict[str, Any] = {
    "rings": 9,
    "angles": 9,
    "sectors": (370, 370, 370, 100),
    "width": 370,
    "depth": 3,
    "activation": "relu",
}
SMALL: dict[str, Any] = {"width": 352, "depth": 3}  # 0.3M parameters
CHUNKS, LIMIT_S, TILES = (1024, 4096, 16384), 30.0, (32, 64, 128, 256, 512)


class PerPixel:
    """An MLPatch on samples of the image, as it is published: every pixel by itself, from matrix
    products alone.
    """

    def __init__(self, net: MLPatch, size: int, split: int = 1):
        first = net.layers[0]
        level = SIGMA / net.sigma_max
        self.net, self.split, self.offsets = net, split, net.patch_offsets()
        weights = [
            first.weight - first.weight.mean(dim=(1, 2, 3), keepdim=True),
            *(layer.weight for layer in net.layers[1:]),
        ]
        groups = [
            layer.groups for layer in net.layers
        ]  # groups of one network: 9 for those of the angles, 1 for the mixer
        biases = [
            layer.bias if layer.slope is None else layer.bias + level * layer.slope
            for layer in net.layers
        ]
        self.layers = [  # (groups, inputs, outputs) and (groups, 1, outputs)
            (w.flatten(1).unflatten(0, (g, -1)).mT.contiguous(), b.reshape(g, 1, -1))
            for w, g, b in zip(weights, groups, biases, strict=True)
        ]
        self.last = net.last.flatten(1).T.contiguous()
        axis = torch.arange(float(size), device=self.last.device)
        self.pixels, self.size, self.chunk = torch.cartesian_prod(axis, axis), size, CHUNKS[0]

    def points(self, x: Tensor, coords: Tensor) -> Tensor:
        """The denoised values at pixels (Q, 2): (Q,)."""
        where = (coords[:, None] + self.offsets) * (
            2 / (self.size - 1)
        ) - 1  # row, column from -1 to 1
        grid = where.flip(-1).reshape(
            self.split, -1, len(self.offsets), 2
        )  # grid_sample wants (x, y)
        s = F.grid_sample(
            x.expand(self.split, -1, -1, -1),
            grid,
            mode="bicubic",
            padding_mode="reflection",
            align_corners=True,
        )
        h = s.reshape(len(coords), self.layers[0][0].shape[0], -1).transpose(
            0, 1
        )  # groups, Q, samples
        for weight, bias in self.layers:
            if h.shape[0] != len(weight):  # from the angles to the mixer
                h = h.transpose(0, 1).reshape(1, len(coords), -1)
            h = self.net.activation(torch.baddbmm(bias, h, weight))
        return x[0, 0, coords[:, 0].long(), coords[:, 1].long()] - (h[0] @ self.last)[:, 0]

    def __call__(self, x: Tensor, share: float = 1.0) -> Tensor:
        chunks = self.pixels.split(self.chunk)
        step = max(1, round(1 / share))
        return torch.cat([self.points(x, chunk) for chunk in chunks[::step]])

    def prepare(self, x: Tensor) -> float:
        """Choose the fastest chunk; the share of the chunks to time, 1 if all take no more than
        half a minute.
        """
        per_pixel = {}
        for chunk in CHUNKS:
            coords = self.pixels[:chunk]
            self.points(x, coords)
            per_pixel[chunk] = seconds(lambda coords=coords: self.points(x, coords)) / len(coords)
        self.chunk = min(per_pixel, key=per_pixel.__getitem__)
        count = math.ceil(self.size**2 / self.chunk)
        step = 1 if per_pixel[self.chunk] * self.size**2 <= LIMIT_S else min(8, count)
        return len(range(0, count, step)) / count


def seconds(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def fastest_tile(net: MLPatch, x: Tensor) -> int:
    """The tile at which a part of the image takes least."""
    part, spent = x[..., :256, :256], {}
    for tile in (32, 64, 128):
        net.tile = tile
        net(part[..., :tile, :tile], SIGMA)
        spent[tile] = seconds(lambda: net(part, SIGMA))
    return min(spent, key=spent.__getitem__)


def random_net(settings: dict[str, Any]) -> MLPatch:
    """Random weights with a residual of order 1: at the initial ones it is zero, and any two forms
    agree.
    """
    torch.manual_seed(0)
    net = MLPatch(**settings)
    nn.init.normal_(net.last, std=2 / math.sqrt(net.last.shape[1]))
    for layer in net.layers:
        nn.init.normal_(layer.bias, std=0.1)
    return net.eval().requires_grad_(False)


def agreement(net: MLPatch, split: int) -> dict[str, Any]:
    """The largest difference of the per-pixel evaluation to the grid form and to ``at``, and the
    size of what the network takes off.
    """
    x = samples.camera()[..., 200:232, 200:232].contiguous()
    a, b = PerPixel(net, 32, split)(x), net(x, SIGMA).flatten()
    c = net.at(x, PerPixel(net, 32).pixels, SIGMA).flatten()
    worst = max(float((a - b).abs().max()), float((a - c).abs().max()))
    if worst > 1e-4:
        raise SystemExit(f"the per-pixel evaluation differs from the network by {worst:.1e}")
    return {
        "largest difference": f"{worst:.1e}",
        "rms of the residual": float((x.flatten() - b).square().mean().sqrt()),
    }


def products(net: MLPatch) -> list[tuple[int, int, int]]:
    """The matrix products of the grid form for each pixel: (groups, inputs, outputs)."""
    found = [
        (layer.groups, layer.weight[0].numel(), layer.weight.shape[0] // layer.groups)
        for layer in net.stem
    ]
    channels, window, first = (
        net.config["features"] or net.channels,
        (2 * net.reach + 1) ** 2,
        net.layers[0],
    )
    if net.groups > 1:  # the sampling, then the first layer; else both in one
        found += [
            (channels, window, len(net.patch_offsets())),
            (first.groups, first.weight[0].numel(), len(first.weight) // first.groups),
        ]
    else:
        found.append((1, channels * window, len(first.weight)))
    found += [
        (layer.groups, layer.weight[0].numel(), layer.weight.shape[0] // layer.groups)
        for layer in net.layers[1:]
    ]
    return [*found, (1, net.last.shape[1], net.channels)]


def flops(net: MLPatch) -> int:
    """Useful operations for each pixel."""
    return 2 * sum(groups * inputs * outputs for groups, inputs, outputs in products(net))


def mm_seconds(net: MLPatch, pixels: int, times: int = 3) -> list[float]:
    """The time of every product of ``net`` at so many pixels, by torch.mm (torch.bmm for groups),
    warm.
    """
    found = []
    for groups, inputs, outputs in products(net):
        a, b = torch.randn(groups, pixels, inputs), torch.randn(groups, inputs, outputs)
        out = torch.empty(groups, pixels, outputs)

        def multiply(a: Tensor = a, b: Tensor = b, out: Tensor = out) -> Tensor:
            return torch.mm(a[0], b[0], out=out[0]) if len(a) == 1 else torch.bmm(a, b, out=out)

        multiply()
        found.append(seconds(lambda multiply=multiply: [multiply() for _ in range(times)]) / times)
    return found


def main():
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(threads=2)
    args = parse(parser)
    size, repeats = (48, 1) if args.quick else (args.size, args.repeats)
    x = samples.camera()[..., :size, :size].contiguous()
    split = 1 << (torch.get_num_threads().bit_length() - 1)  # parts of equal size
    published, small = random_net(PUBLISHED), random_net(SMALL)
    with torch.no_grad():
        checks = [
            {"network": name, **agreement(net, part)}
            for name, net in (("published", published), ("0.3M", small))
            for part in {1, split}
        ]

        # what is timed: name -> (a call, the share of the image that it does, the network)
        runs: dict[str, tuple[Callable[[], object], float, Any]] = {}
        for name, net in (("published", published), ("0.3M on image samples", small)):
            for how, part in (
                ("per pixel, as published", 1),
                ("per pixel, sampling on all threads", split),
            ):
                form = PerPixel(net, size, part)
                share = form.prepare(x)
                runs[f"{name}: {how}"] = (lambda form=form, share=share: form(x, share)), share, net
            net.tile = fastest_tile(net, x)
            runs[f"{name}: grid form"] = (lambda net=net: net(x, SIGMA)), 1.0, net
        ours = [name for name in shipped("mlpatch", channels=1) if not network(name).deform]
        others = [
            name for name in ("dncnn", "ircnn", "unet", "drunet") if name in denoisers.names()
        ]
        context = {f"{name}-grey": denoisers.make(name) for name in others}
        for name, D in ({name: network(name) for name in ours} | context).items():
            runs[name] = (lambda D=D: D(x, SIGMA)), 1.0, D
        main_net = network("mlpatch-grey")
        tiles: dict[int, tuple[MLPatch, list[float]]] = {}
        for tile in TILES:
            tiles[tile] = denoisers.make("mlpatch", weights="mlpatch-grey", tile=tile), []
        times: dict[str, list[float]] = {name: [] for name in runs}
        mm: list[list[float]] = []
        for name, (call, _, _) in tqdm(runs.items(), desc="warm-up", disable=None):
            if ": per pixel" not in name:  # these have been warmed up
                call()
        for _ in tqdm(range(repeats), desc="repeats", disable=None):
            for name, (call, share, _) in runs.items():
                times[name].append(seconds(call) / share)
            for net, spent in tiles.values():
                spent.append(seconds(lambda net=net: net(x, SIGMA)))
            mm.append(mm_seconds(main_net, min(main_net.tile, size) ** 2))

    median = {name: statistics.median(spent) for name, spent in times.items()}
    base, grid = "published: per pixel, as published", "published: grid form"
    rows = [
        {
            "what": name,
            "parameters": sum(p.numel() for p in D.parameters()),
            "seconds": median[name],
            "fastest": min(times[name]),
            "us per pixel": 1e6 * median[name] / size**2,
            "measured": f"{100 * share:.0f} %",
            "published per pixel / this": median[base] / median[name],
        }
        for name, (_, share, D) in runs.items()
    ]
    ratios = gains(median, base, grid, ours)

    pixels = min(main_net.tile, size) ** 2
    layer_s = [statistics.median(column) for column in zip(*mm, strict=True)]
    limit = [
        {
            "product": f"{groups} x " * (groups > 1)
            + f"({pixels} x {inputs}) ({inputs} x {outputs})",
            "share of the operations (%)": 200 * groups * inputs * outputs / flops(main_net),
            "GFLOP/s": 2e-9 * pixels * groups * inputs * outputs / spent,
        }
        for (groups, inputs, outputs), spent in zip(products(main_net), layer_s, strict=True)
    ]
    best, achieved = (
        1e-9 * flops(main_net) * pixels / sum(layer_s),
        1e-9 * flops(main_net) * size**2 / median["mlpatch-grey"],
    )
    limit.append({"product": "all", "share of the operations (%)": 100.0, "GFLOP/s": best})
    limit.append(
        {
            "product": "achieved by the grid form",
            "share of the operations (%)": 100.0,
            "GFLOP/s": achieved,
        }
    )
    sweep = [
        {
            "tile": tile,
            "seconds": (spent_s := statistics.median(spent)),
            "us per pixel": 1e6 * spent_s / size**2,
        }
        for tile, (_, spent) in tiles.items()
    ]
    notes = [
        f"mlpatch-grey: {1e-6 * flops(main_net):.2f} MFLOP per pixel, at "
        f"{100 * achieved / best:.0f} % of torch.mm (wanted: 80 %)."
    ]
    notes.append(
        f"The published network: {1e-6 * flops(published):.2f} MFLOP per pixel in the grid "
        f"form. Medians of {repeats} repeats."
    )
    tables = {
        f"Denoising {size} x {size}": rows,
        "Gains": ratios,
        "The limit of mlpatch-grey": limit,
        "Tiles of mlpatch-grey": sweep,
    }
    publish(
        args, tables | {"Per pixel against grid form and MLPatch.at, random weights": checks}, notes
    )


def gains(median, base, grid, ours):
    """What folding, the architecture, and both bring: ratios of medians."""
    spread = "published: per pixel, sampling on all threads"
    ratios = [
        {"gain": "folding, published network", "times": median[base] / median[grid], "wanted": ""}
    ]
    ratios += [
        {
            "gain": "the same, sampling on all threads",
            "times": median[spread] / median[grid],
            "wanted": "",
        }
    ]
    name = "0.3M on image samples"
    for how, wanted in (("as published", "2"), ("sampling on all threads", "")):
        gain = median[f"{name}: per pixel, {how}"] / median[f"{name}: grid form"]
        ratios.append({"gain": f"folding, {name}, {how}", "times": gain, "wanted": wanted})
    for name in ours:
        ratios.append(
            {
                "gain": f"architecture, {name} against the published in grid form",
                "times": median[grid] / median[name],
                "wanted": "",
            }
        )
        wanted = "18, better 25" if name == "mlpatch-grey" else ""
        ratios.append(
            {
                "gain": f"both, {name} against the published per pixel",
                "times": median[base] / median[name],
                "wanted": wanted,
            }
        )
        ratios.append(
            {
                "gain": "the same, sampling on all threads",
                "times": median[spread] / median[name],
                "wanted": "",
            }
        )
    return ratios


if __name__ == "__main__":
    main()
