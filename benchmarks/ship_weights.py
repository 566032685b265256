"""Put trained weights into the package: measure them, write the scores into their card, and list
them in the manifest.

Run: python benchmarks/ship_weights.py NAME runs/NAME/weights.safetensors SET [SET ...]
The kind of network is read from the file. Every SET of test images gives a row of scores: a folder
of pictures, read in colour for a network of three channels, an .npz with a CT stack or an .npy with
a convergence map, as in benchmarks/denoising.py. Scores are the mean PSNR at sigma 15, 25, 50 (of
255); of weights for upscaling, that of pictures shrunk by 2 and 4 without noise, and upscaled. The
SET "convergence" is 16 generated mass maps of 256 x 256 pixels, scored by |D(x) - kappa| / |kappa|
at sigma 0.05, 0.1, 0.2, 0.3, beside the Wiener filter that knows the spectrum and amplitude of each
map. --quick measures small parts of two images of every set and writes nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import arguments, network, parse, publish, read_set

from pnp_mlpatch import weights
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing.fields import PIXEL, lognormal_convergence
from pnp_mlpatch.lensing.spectra import convergence_spectrum, power, wavenumbers
from pnp_mlpatch.training.validation import FACTORS, LEVELS, validate, validate_upscale

KAPPA = (0.05, 0.1, 0.2, 0.3)


@torch.no_grad()
def score_convergence(model, count: int) -> dict[str, float]:
    """Mean NRMSE over maps of amplitudes from 0.7 to 1.7, of the network and of the
    Wiener filter.
    """
    found = {f"{kind}_{level:g}": 0.0 for level in KAPPA for kind in ("nrmse", "wiener")}
    for k in range(count):
        amplitude = 0.7 + (k + 0.5) / count
        truth = lognormal_convergence((256, 256), seed=10_000 + k, amplitude=amplitude)
        prior = amplitude**2 * power(wavenumbers(truth.shape, PIXEL), convergence_spectrum, PIXEL)
        for level in KAPPA:
            x = truth + level * torch.randn(truth.shape, generator=torch.Generator().manual_seed(k))
            linear = torch.fft.ifft2(prior / (prior + level**2) * torch.fft.fft2(x)).real
            for kind, y in (("nrmse", model(x, level)), ("wiener", linear)):
                found[f"{kind}_{level:g}"] += float((y - truth).norm() / truth.norm()) / count
    return found


def main():
    parser = arguments(__doc__)
    parser.add_argument(
        "name", help="shipped name: the kind of network, a hyphen, and what it was trained on"
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("sets", type=Path, nargs="*", metavar="SET")
    parser.add_argument("--every", type=int, default=4, help="every so many slices of a CT stack")
    args = parse(parser)
    model = network(args.path)
    upscale = model.card.get("task") == "upscale"
    scores, rows = {}, []
    for path in args.sets:
        if str(path) == "convergence":
            found = score_convergence(model, 2 if args.quick else 16)
            scores["convergence"] = {key: round(value, 4) for key, value in found.items()}
            rows.append({"set": "convergence", "images": 2 if args.quick else 16, **found})
            continue
        images = read_set(path, model.channels, args.every)
        images = [image[:, :48, :48] for image in images[:2]] if args.quick else images
        with torch.no_grad():
            found = (validate_upscale if upscale else validate)(model, images)
        scores[path.stem] = {key: round(value, 2) for key, value in found.items()}
        rows.append({"set": path.stem, "images": len(images), **found})
    publish(
        args,
        {
            f"{args.name}, a {model.kind} of {sum(p.numel() for p in model.parameters())} "
            "parameters": rows
        },
    )
    if args.quick:
        return
    recipe = weights.read_toml(
        Path(weights.__file__).parents[1] / "training" / "recipes" / f"{args.name}.toml"
    )
    card = {**model.card, **recipe.get("card", {}), "recipe": f"{args.name}.toml", "scores": scores}
    if "convergence" not in scores:
        card |= {"factors": list(FACTORS)} if upscale else {"levels": list(LEVELS)}
    card["command"] = (
        f"python benchmarks/ship_weights.py {args.name} weights.safetensors "
        f"{' '.join(path.name for path in args.sets)}"
    )
    target = weights.DIRECTORY / f"{args.name}.safetensors"
    model.save(target, card)
    entries = weights.manifest() | {
        args.name: {"kind": model.kind, "file": target.name, "sha256": weights.sha256(target)}
    }
    lines = ["# Weights that ship with the package; written by benchmarks/ship_weights.py."]
    for name, entry in sorted(entries.items()):
        lines += ["", f"[{name}]", *(f'{key} = "{value}"' for key, value in entry.items())]
    atomic_write(
        weights.DIRECTORY / "manifest.toml",
        lambda temporary: temporary.write_text("\n".join(lines) + "\n", encoding="utf-8"),
    )
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
