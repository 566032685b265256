"""Put trained weights into the package: measure them, write the scores into their card, and list them in the manifest.

Run: python benchmarks/ship_weights.py NAME runs/NAME/weights.safetensors SET [SET ...]
The kind of network is read from the file. Every SET of test images gives a row of scores: a folder of pictures, read in colour for a
network of three channels, an .npz with a CT stack or an .npy with a convergence map, as in benchmarks/denoising.py. Scores are the mean
PSNR at sigma 15, 25, 50 (of 255); of weights for upscaling, that of pictures shrunk by 2 and 4 without noise, and upscaled.
--quick measures small parts of two images of every set and writes nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import arguments, network, parse, publish, read_set

from pnp_mlpatch import weights
from pnp_mlpatch.training.loop import FACTORS, LEVELS, validate, validate_upscale


def main():
    parser = arguments(__doc__)
    parser.add_argument("name", help="shipped name: the kind of network, a hyphen, and what it was trained on")
    parser.add_argument("path", type=Path)
    parser.add_argument("sets", type=Path, nargs="*", metavar="SET")
    parser.add_argument("--every", type=int, default=4, help="every so many slices of a CT stack")
    args = parse(parser)
    model = network(args.path)
    upscale = model.card.get("task") == "upscale"
    scores, rows = {}, []
    for path in args.sets:
        images = read_set(path, model.channels, args.every)
        images = [image[:, :48, :48] for image in images[:2]] if args.quick else images
        with torch.no_grad():
            found = (validate_upscale if upscale else validate)(model, images)
        scores[path.stem] = {key: round(value, 2) for key, value in found.items()}
        rows.append({"set": path.stem, "images": len(images), **found})
    publish(args, {f"{args.name}, a {model.kind} of {sum(p.numel() for p in model.parameters())} parameters": rows})
    if args.quick:
        return
    recipe = weights.read_toml(Path(weights.__file__).parent / "training" / "recipes" / f"{args.name}.toml")
    card = {**model.card, **recipe.get("card", {}), "recipe": f"{args.name}.toml", "scores": scores}
    card |= {"factors": list(FACTORS)} if upscale else {"levels": list(LEVELS)}
    card["command"] = f"python benchmarks/ship_weights.py {args.name} weights.safetensors {' '.join(path.name for path in args.sets)}"
    target = weights.DIRECTORY / f"{args.name}.safetensors"
    model.save(target, card)
    entries = weights.manifest() | {args.name: {"kind": model.kind, "file": target.name, "sha256": weights.sha256(target)}}
    lines = ["# Weights that ship with the package; written by benchmarks/ship_weights.py."]
    for name, entry in sorted(entries.items()):
        lines += ["", f"[{name}]", *(f'{key} = "{value}"' for key, value in entry.items())]
    weights.write_whole(
        weights.DIRECTORY / "manifest.toml", lambda temporary: temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    )
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
