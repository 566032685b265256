"""Members of MLPatch side by side: trained for the same processor time, judged on validation
pictures, with their time of use.

The first member is on the pixel grid; the others work on a folded grid (squares of 2 x 2 or 4 x 4
pixels as channels). Rows are grey, sigma is uniform in 0 to 60/255, the schedule is a cosine that
ends with the time. "CPU s" is the processor time of one 512 x 512 picture on one thread, the least
of three. Two seeds differ by about 0.05 dB.
Run: python benchmarks/members.py TRAIN_FOLDER [TRAIN_FOLDER ...] --validation FOLDER --minutes 4
     --threads 1 [--only WORD ...] [--optimizers adamw muon] [--losses squares log]
"""

import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from common import arguments, parse, publish
from equal_budget import seconds_per_step

from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.training.sources import read_folder
from pnp_mlpatch.training.validation import LEVELS, validate

GRID = {"square": 3, "width": 64, "depth": 2}
FOLDED = {"square": 3, "features": 16, "width": 32, "depth": 2, "fold": 2, "residual": True}
ROWS = {
    "grid, 64 x 8": {**GRID, "features": 64, "dilations": (1, 1, 1, 1, 1, 2, 2, 1)},
    "folded 2, 96 x 10": {**FOLDED, "stem_width": 96, "dilations": (1,) * 10},
    "folded 2, 96 x 10, not residual": {
        **FOLDED,
        "stem_width": 96,
        "dilations": (1,) * 10,
        "residual": False,
    },
    "folded 2, 96 x 10, ReLU": {
        **FOLDED,
        "stem_width": 96,
        "dilations": (1,) * 10,
        "activation": "relu",
    },
    "folded 2, 128 x 8": {**FOLDED, "stem_width": 128, "dilations": (1,) * 8},
    "folded 2, 80 x 14": {**FOLDED, "stem_width": 80, "dilations": (1,) * 14},
    "folded 4, 256 x 6": {**FOLDED, "fold": 4, "stem_width": 256, "dilations": (1,) * 6},
}


def seconds_of_use(model, side):
    """Least processor time of three calls on a grey picture."""
    x, found = torch.rand(1, 1, side, side), []
    with torch.no_grad():
        for _ in range(3):
            start = time.process_time()
            model(x, 25 / 255)
            found.append(time.process_time() - start)
    return min(found)


def main():
    parser = arguments(__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0, help="of one processor, for each row")
    parser.add_argument("--out", type=Path, default=Path("runs/members"))
    parser.add_argument("--only", nargs="*", help="rows that hold one of these words")
    parser.add_argument("--optimizers", nargs="*", default=["adamw"], help="adamw, muon, or both")
    parser.add_argument("--losses", nargs="*", default=["squares"], help="squares, log, or both")
    parser.add_argument("--size", type=int, default=128, help="of the training windows")
    args = parse(parser)
    images = read_folder(args.validation, 1, 1)
    images = [image[:, :48, :48] for image in images[:2]] if args.quick else images
    rows = []
    for (name, settings), optimizer, loss in product(ROWS.items(), args.optimizers, args.losses):
        if args.only and not any(word in name for word in args.only):
            continue
        folder = args.out / f"{name.replace(' ', '-').replace(',', '')}-{optimizer}-{loss}"
        config = TrainConfig(
            data=[str(path) for path in args.data],
            out=str(folder),
            model=settings,
            size=args.size,
            crop=max(4, args.size * 3 // 16 * 4),
            batch=4,
            optimizer=optimizer,
            loss=loss,
            lr=1.5e-3,
            scale=0.6 if args.size == 128 else 1.0,
            precision="bfloat16",
            validate_every=10**9,
            checkpoint_every=10**9,
        )
        seconds = seconds_per_step(config)
        steps = 2 if args.quick else max(20, round(60 * args.minutes / seconds))
        start = time.process_time()
        model = MLPatch.load(train(replace(config, steps=steps, warmup=min(300, steps // 10))))
        spent = (time.process_time() - start) / 60
        rows.append(
            {
                "member": name,
                "optimizer": optimizer,
                "loss": loss,
                "parameters": sum(p.numel() for p in model.parameters()),
                "field": model.field,
                "CPU s": seconds_of_use(model, 64 if args.quick else 512),
                "Mpx": config.batch * config.crop**2 * steps / 1e6,
                "CPU minutes": f"{spent:.1f}",
                **{
                    f"PSNR {level}": value
                    for level, value in zip(LEVELS, validate(model, images).values(), strict=True)
                },
            }
        )
        publish(args, {f"Members, {args.validation.name}": rows})


if __name__ == "__main__":
    main()
