"""``pnp-mlpatch train``."""

from __future__ import annotations

import argparse

from pnp_mlpatch.cli.common import blame, prepare
from pnp_mlpatch.weights import read_toml


def run_train(args: argparse.Namespace) -> int:
    """Train a denoiser from a TOML file and flags."""
    from pnp_mlpatch.training import TrainConfig, train

    values = read_toml(args.config) if args.config else {}
    for key in ("data", "out", "validation", "steps", "device", "precision", "seed", "denoiser"):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    with blame(args.config or "train"):
        config = TrainConfig.from_dict(values, source=args.config or "train")
    args.device = config.device
    prepare(args)
    path = train(config, resume=not args.no_resume)
    print(f"weights: {path}")
    return 0
