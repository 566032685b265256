"""``pnp-mlpatch train``."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pnp_mlpatch.cli.common import blame, prepare
from pnp_mlpatch.cli.solve import literal
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.weights import read_toml

FLAGS = (
    "data",
    "out",
    "denoiser",
    "validation",
    "init",
    "task",
    "steps",
    "device",
    "precision",
    "seed",
)


def run_train(args: argparse.Namespace) -> int:
    """Train a denoiser from a TOML file and flags."""
    from pnp_mlpatch.training import TrainConfig, train

    values = read_toml(args.config) if args.config else {}
    for key in FLAGS:
        given = getattr(args, key)
        if given is not None:
            values[key] = given[0] if isinstance(given, list) and len(given) == 1 else given
    with blame(args.config or "train"):
        for text in args.set:
            put(values, text)
        config = TrainConfig.from_dict(values, source=args.config or "train")
    args.device = (
        config.device if os.environ.get("WORLD_SIZE", "1") == "1" else None
    )  # else train gives every process its own
    prepare(args)
    path = train(config, resume=not args.no_resume)
    if os.environ.get("RANK", "0") == "0":
        print(f"weights: {path}")
    return 0


def put(values: dict[str, Any], text: str) -> None:
    """Set ``lr=0.002`` or ``model.width=64`` in the settings; the value is a TOML value, or else a text."""
    key, equals, value = text.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not key or (dot and (section not in ("model", "card") or not name)):
        raise InputError(
            f"--set '{text}': expected KEY=VALUE, model.KEY=VALUE or card.KEY=VALUE, for example --set lr=0.002."
        )
    if dot:
        values[section] = {**values.get(section, {}), name: literal(value)}
    else:
        values[key] = literal(value)
