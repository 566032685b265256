"""Put trained weights into the package: measure them, write the scores into their card, and list them in the manifest.

Run: python benchmarks/ship_weights.py NAME runs/NAME/weights.safetensors FOLDER [FOLDER ...]
Every FOLDER of test pictures gives a row of scores: mean PSNR at sigma 15, 25, 50 (of 255), as benchmarks/denoising.py.
"""

import argparse
from pathlib import Path

import torch

from pnp_mlpatch import weights
from pnp_mlpatch.denoisers.base import registry
from pnp_mlpatch.imageio import READABLE, read_image
from pnp_mlpatch.training.loop import LEVELS, validate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="shipped name: the kind of network, a hyphen, and what it was trained on")
    parser.add_argument("path", type=Path)
    parser.add_argument("folders", type=Path, nargs="*")
    args = parser.parse_args()
    kind = args.name.partition("-")[0]
    recipe = weights.read_toml(Path(weights.__file__).parent / "training" / "recipes" / f"{args.name}.toml")
    _, _, card = weights.load(args.path, kind=kind)
    model = registry.network(kind).load(args.path)
    scores = {}
    for folder in args.folders:
        images = [read_image(p, gray=model.channels == 1)[0] for p in sorted(folder.iterdir()) if p.suffix.lower() in READABLE]
        with torch.no_grad():
            scores[folder.name] = {name: round(value, 2) for name, value in validate(model, images).items()}
        print(folder.name, len(images), "pictures", scores[folder.name])
    tests = " ".join(folder.name for folder in args.folders)
    card = {**card, **recipe.get("card", {}), "recipe": f"{args.name}.toml", "scores": scores, "levels": list(LEVELS)}
    card["command"] = f"python benchmarks/ship_weights.py {args.name} weights.safetensors {tests}"
    target = weights.DIRECTORY / f"{args.name}.safetensors"
    model.save(target, card)
    entries = weights.manifest() | {args.name: {"kind": kind, "file": target.name, "sha256": weights.sha256(target)}}
    lines = ["# Weights that ship with the package; written by benchmarks/ship_weights.py."]
    for name, entry in sorted(entries.items()):
        lines += ["", f"[{name}]", *(f'{key} = "{value}"' for key, value in entry.items())]
    weights.write_whole(
        weights.DIRECTORY / "manifest.toml", lambda temporary: temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    )
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
