"""What each choice in MLPatch brings: small networks, an equal number of training pixels, one seed,
one thread.

Two bases, of about equal cost: the member on image samples and the member on local features. Each
row changes one thing, is trained by the same loop on the same windows (AdamW 2e-3, cosine,
bfloat16), and judged on the middle 128 x 128 pixels of the validation pictures. "half a pixel" is
the mean PSNR at sigma 25 of D.at half a pixel off the grid, less that of interpolating D(x) there
(bicubic): what the continuous form is worth as it was trained. Seeds differ by about 0.05 dB.
Run: python benchmarks/ablation.py TRAIN_FOLDER VALIDATION_FOLDER [--megapixels 4] [--only WORD ...]
     [--json PATH]
"""

import tempfile
import time
from pathlib import Path

import torch
from common import arguments, parse, publish
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers import registry
from pnp_mlpatch.denoisers._bicubic import sample
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.training.sources import read_folder
from pnp_mlpatch.training.validation import validate

FEATURES = {"square": 3, "features": 32, "dilations": (1, 1, 1, 1), "width": 48, "depth": 2}
LEARNED = {
    "radius": 2.0,
    "rings": 1,
    "angles": 8,
    "features": 32,
    "dilations": (1, 1, 1),
    "width": 48,
    "depth": 2,
}
SAMPLES = {"radius": 6.0, "rings": 8, "angles": 12, "width": 128, "depth": 3}
NEAR = {**SAMPLES, "radius": 4.0, "rings": 4, "angles": 6}
SECTORS = {"radius": 6.0, "rings": 9, "angles": 9, "sectors": (48, 32), "width": 96, "depth": 2}


class Fixed(MLPatch):
    """The offsets stay on their circles."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.offsets.requires_grad_(False)


class Spectral(MLPatch):
    """The published idea of a learned filter in front: a radial gain of 16 knots on the spectrum of
    what the network sees.
    """

    def __init__(self, **settings):
        super().__init__(**settings)
        self.gain = torch.nn.Parameter(torch.ones(16))

    def _features(self, block, level):
        height, width = block.shape[-2:]
        radius = (
            torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()
        ).sqrt() * 2
        place = radius.clamp(max=1) * (len(self.gain) - 1)
        low = place.floor().long().clamp(max=len(self.gain) - 2)
        gain = self.gain[low] + (place - low) * (self.gain[low + 1] - self.gain[low])
        return super()._features(
            torch.fft.irfft2(torch.fft.rfft2(block.float()) * gain, s=(height, width)), level
        )


class Blind(MLPatch):
    """Sigma is no input."""

    def _level(self, sigma):
        return torch.zeros_like(super()._level(sigma))


class Raw(MLPatch):
    """First kernels with a mean of their own."""

    def _features(self, block, level):
        for layer in self.stem:
            block = self.activation(layer(block, level))
        return block

    def _first_weight(self):
        weight = self.layers[0].weight
        return weight.reshape(
            self.groups, weight.shape[0] // self.groups, -1, len(self.offsets) // self.groups
        )


class Direct(Raw):
    """The clean pixel itself, not the noise in it; its first kernels must see the mean."""

    def denoise_block(self, block, sigma, kernel=None):
        f = self.halo
        noise = block[:, :, f : block.shape[2] - f, f : block.shape[3] - f] - super().denoise_block(
            block, sigma, kernel
        )
        return noise


# name: network, settings, share of the pixels
ROWS = {
    "features: base": (MLPatch, FEATURES, 1),
    "features: ReLU": (MLPatch, {**FEATURES, "activation": "relu"}, 1),
    "features: first kernels not of zero mean": (Raw, FEATURES, 1),
    "features: sigma not an input": (Blind, FEATURES, 1),
    "features: not residual": (Direct, FEATURES, 1),
    "features: dilations 1 2 2 1": (MLPatch, {**FEATURES, "dilations": (1, 2, 2, 1)}, 1),
    "features: dilations 1 1 1 2": (MLPatch, {**FEATURES, "dilations": (1, 1, 1, 2)}, 1),
    "features: narrow and deep (24 x 7)": (
        MLPatch,
        {**FEATURES, "features": 24, "dilations": (1,) * 7},
        1,
    ),
    "features: wide and shallow (44 x 2)": (
        MLPatch,
        {**FEATURES, "features": 44, "dilations": (1, 1)},
        1,
    ),
    "features: patch of 1 x 1": (MLPatch, {**FEATURES, "square": 1, "dilations": (1,) * 5}, 1),
    "features: patch of 5 x 5": (MLPatch, {**FEATURES, "square": 5, "dilations": (1, 1)}, 1),
    "features: MLP 96 x 2": (MLPatch, {**FEATURES, "width": 96}, 1),
    "features: MLP 48 x 1": (MLPatch, {**FEATURES, "depth": 1}, 1),
    "features: learned spectrum in front": (Spectral, FEATURES, 1),
    "features: learned patch of 8": (MLPatch, LEARNED, 0.15),
    "features: learned patch of 8, deformed once": (MLPatch, {**LEARNED, "deform": 1}, 0.15),
    "features: learned patch of 8, deformed twice": (MLPatch, {**LEARNED, "deform": 2}, 0.15),
    "features: learned patch of 8, deformed three times": (MLPatch, {**LEARNED, "deform": 3}, 0.15),
    "features: base, 0.15 of the pixels": (MLPatch, FEATURES, 0.15),
    "samples: base": (MLPatch, SAMPLES, 1),
    "samples: fixed offsets": (Fixed, SAMPLES, 1),
    "samples: radius 8": (MLPatch, {**SAMPLES, "radius": 8.0}, 1),
    "samples: radius 4.5": (MLPatch, {**SAMPLES, "radius": 4.5}, 1),
    "samples: 24 of them in 4 pixels": (MLPatch, NEAR, 1),
    "samples: 24 of them in 4 pixels, deformed twice": (MLPatch, {**NEAR, "deform": 2}, 1),
    "samples: 48 of them": (MLPatch, {**SAMPLES, "rings": 6, "angles": 8}, 1),
    "samples: ReLU": (MLPatch, {**SAMPLES, "activation": "relu"}, 1),
    "samples: MLP 96 x 5": (MLPatch, {**SAMPLES, "width": 96, "depth": 5}, 1),
    "samples: 9 sectors and a mixer": (MLPatch, SECTORS, 1),
    "samples: first kernels not of zero mean": (Raw, SAMPLES, 1),
    "samples: random pixels": (MLPatch, SAMPLES, 0.15),
    "samples: random pixels, up to half a pixel off the grid": (MLPatch, SAMPLES, 0.15),
}


def middle(image, side):
    """The middle of an image (C, H, W), side x side pixels or what there is."""
    top, left = (max(0, (n - side) // 2) for n in image.shape[1:])
    return image[:, top : top + side, left : left + side]


def between(model, images):
    """Mean gain in dB, at sigma 25, of D.at half a pixel off the grid over bicubic samples of D(x)
    there.
    """
    gains = []
    with torch.no_grad():
        for k, image in enumerate(images[:4]):
            clean = image[None]
            x = clean + 25 / 255 * torch.randn(
                clean.shape, generator=torch.Generator().manual_seed(k)
            )
            coords = torch.stack(
                torch.meshgrid(
                    *(torch.arange(8, n - 8) + 0.5 for n in image.shape[1:]), indexing="ij"
                ),
                dim=-1,
            ).reshape(1, -1, 2)
            here = torch.zeros(1, 1, 1, 2)
            truth, interpolated = (
                sample(v, coords, here)[..., 0] for v in (clean, model(x, 25 / 255))
            )
            own = model.at(x, coords[0], 25 / 255)
            gains.append(
                float(psnr(own[..., None], truth[..., None]))
                - float(psnr(interpolated[..., None], truth[..., None]))
            )
    return sum(gains) / len(gains)


def operations(model):
    """Thousands of floating point operations per pixel, in the grid form without halo: two for each
    weight and tap.
    """
    kernel = model._folded()
    rest = [layer.weight for layer in (*model.stem, *model.layers[1:])] + [model.last]
    return 2e-3 * (kernel.numel() + sum(weight.numel() for weight in rest))


def row(name, images, args):
    """Train one row of the table and judge it."""
    network, settings, share = ROWS[name]
    pixels = args.megapixels * 1e6 * share
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            data=str(args.train),
            out=folder,
            denoiser=network.__name__.lower(),
            model=settings,
            size=min(128, args.size),
            steps=max(1, round(pixels / (8 * 32**2))),
            **(
                {"crop": 1, "pixels": 128, "batch": 64}
                if "random pixels" in name
                else {"crop": 32, "batch": 8}
            ),
            jitter=0.5 if "off the grid" in name else 0.0,
            lr=2e-3,
            warmup=100,
            precision="bfloat16",
            validate_every=10**9,
            checkpoint_every=10**9,
        )
        start = time.process_time()
        model = network.load(train(config, progress=False))
        seconds = time.process_time() - start
    scores = validate(model, images)
    return {
        "": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "kFLOP / pixel": f"{operations(model):.0f}",
        "field": model.field,
        "Mpx": round(pixels / 1e6, 2),
        "CPU s": f"{seconds:.0f}",
        **{key.replace("psnr_", "PSNR "): value for key, value in scores.items()},
        "half a pixel": "-" if network is Direct else f"{between(model, images):+.2f}",
    }


def main():
    parser = arguments(__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--megapixels", type=float, default=4.0)
    parser.add_argument("--size", type=int, default=128, help="of the training windows")
    parser.add_argument("--only", nargs="*", help="rows that hold one of these words")
    args = parse(parser)
    if args.quick:
        args.megapixels = 0.02
    registry.get("mlpatch")
    for network in (Fixed, Spectral, Direct, Blind, Raw):
        registry.register(network.__name__.lower(), network=network)(network)
    images = [middle(image, 128) for image in read_folder(args.validation, 1, 1)]
    names = [name for name in ROWS if not args.only or any(word in name for word in args.only)]
    rows = []
    for name in tqdm(names, disable=None):
        rows.append(row(name, images, args))
        if args.json:  # a run that is stopped keeps what it has
            publish(args, {f"Ablation, {args.validation.name}": rows})
    publish(args, {f"Ablation, {args.validation.name}": rows})


if __name__ == "__main__":
    main()
