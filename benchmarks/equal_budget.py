"""Train several denoisers on the same images for the same processor time: MLPatch (both members),
the published one, DnCNN, IRCNN, U-Net, DRU-Net.

The time of a step is measured first, as processor time of one thread, which hardly depends on what
else the machine does; the number of steps follows from it, and the schedule of each recipe is
stretched to it. The weights go to OUT/NAME/weights.safetensors; benchmarks/denoising.py --weights
OUT/*/weights.safetensors makes the table of them.
Run: python benchmarks/equal_budget.py FOLDER --minutes 6 --threads 1 --out runs/equal [--only NAME
     ...] [--optimizer muon]
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import arguments, parse, publish

import pnp_mlpatch
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.weights import load, read_toml

RECIPES = Path(pnp_mlpatch.__file__).parent / "training" / "recipes"
NAMES = {
    "mlpatch-features": "mlpatch-grey",
    "mlpatch-samples": "mlpatch-samples-grey",
    "mlpatch-published": "mlpatch-published",
    "dncnn": "dncnn-grey",
    "ircnn": "ircnn-grey",
    "unet": "unet-grey",
    "drunet": "drunet-grey",
}


def seconds_per_step(config):
    """Processor time of a step, from the difference of two short runs."""

    def run(steps):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            train(
                replace(
                    config, out=folder, steps=steps, checkpoint_every=10**9, validate_every=10**9
                ),
                progress=False,
            )
            return time.process_time() - start

    run(2)
    few, more = 5, 25
    while (
        spent := run(more) - run(few)
    ) < 5 and more < 2000:  # long enough for the clock and the noise of two set-ups
        more *= 2
    return max(1e-3, spent / (more - few))


def main():
    parser = arguments(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=Path("runs/equal"))
    parser.add_argument("--only", nargs="*", choices=NAMES)
    parser.add_argument("--optimizer", help="of all networks, if not that of each recipe")
    parser.add_argument("--size", type=int, help="of the training windows, if not 128")
    args = parse(parser)
    rows = []
    for name in args.only or NAMES:
        values = {
            **read_toml(RECIPES / f"{NAMES[name]}.toml"),
            "data": str(args.data),
            "out": str(args.out / name),
        }
        values.pop("validation", None)
        config = TrainConfig.from_dict(values)
        if args.optimizer:
            config = replace(config, optimizer=args.optimizer)
        if args.size:
            config = replace(config, size=args.size, crop=min(config.crop, args.size))
        path = args.out / name / "weights.safetensors"
        if not path.exists():
            seconds = seconds_per_step(config)
            steps = 2 if args.quick else max(20, round(60 * args.minutes / seconds))
            config = replace(
                config,
                steps=steps,
                warmup=min(config.warmup, steps // 10),
                checkpoint_every=max(1, steps // 10),
            )
            start = time.process_time()
            train(
                replace(
                    config,
                    validate_every=10**9,
                    card={**config.card, "CPU seconds per step": round(seconds, 4)},
                )
            )
            spent = f"{(time.process_time() - start) / 60:.2f}"
        else:
            spent = "-"
        card = load(path, kind=config.denoiser)[2]
        row = {
            "network": name,
            "parameters": card["parameters"],
            "steps": card["steps"],
            "Mpx": card["pixels"] / 1e6,
        }
        rows.append(
            row
            | {
                "CPU minutes planned": card["steps"] * card["CPU seconds per step"] / 60,
                "spent": spent,
            }
        )
    publish(args, {f"Training on {args.data.name}": rows})


if __name__ == "__main__":
    main()
