"""``pnp-mlpatch train``."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import textwrap
from typing import Any

from pnp_mlpatch.cli._common import blame, command, flags_of_a_run, no_resume, plain_text, prepare
from pnp_mlpatch.cli._problem import literal
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
    """Train a denoiser from a TOML file and flags.

    Parameters
    ----------
    args : argparse.Namespace
        The flags.

    Returns
    -------
    int
        The exit status.
    """
    from pnp_mlpatch.training import TrainConfig, train

    if args.scan is not None:
        from pnp_mlpatch.cli._self import run_self

        prepare(args)
        return run_self(args)
    if args.ct is not None:
        raise InputError("--ct holds the flags of ct for --self; give --self SCAN with it.")
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
    """Set ``lr=0.002`` or ``model.width=64`` in the settings.

    Parameters
    ----------
    values : dict
        The settings so far, changed in place.
    text : str
        ``KEY=VALUE``; the value is a TOML value, or else a text.
    """
    key, equals, value = text.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not key or (dot and (section not in ("model", "card") or not name)):
        raise InputError(
            f"--set '{text}': expected KEY=VALUE, model.KEY=VALUE or card.KEY=VALUE, for "
            "example --set lr=0.002."
        )
    if dot:
        values[section] = {**values.get(section, {}), name: literal(value)}
    else:
        values[key] = literal(value)


EPILOG = """\
A file:
  data = "pictures/train"           # folder of .png, .jpg, .tiff, .npy; or as below
  out = "runs/grey"                 # gets weights.safetensors, log.csv, log.png and checkpoint.pt
  validation = "pictures/val"       # its PSNR goes to log.csv every validate_every steps
  steps = 20000
  checkpoint_every = 1000           # the same command resumes from the last one
  [model]                           # settings of the network: pnp-mlpatch info mlpatch
  width = 256
  depth = 3
  radius = 8.0
  rings = 10
  angles = 16
  [card]                            # free text, kept in the weights file
  licence = "CC-BY-4.0"

Data:
  data = "pictures"                 # pictures of the folder, in memory; bad files are skipped
  data = "scans.npy"                # (N, H, W) or (N, C, H, W), may exceed memory
  data = "scans.h5:train/slices"    # .h5 and .zarr need pip install 'pnp-mlpatch[data]'
  data = ["a.npz:hu", "b.npz:hu"]   # several. CT in HU: with window = [-1024, 1024]
  data = "procedural"               # endless random pictures
  data = "convergence"              # endless log-normal mass maps of weak lensing

Resume. The same command resumes from checkpoint.pt, to bit-identical weights on the same CPU;
other settings are refused (data, validation, out, card, device and the two *_every may change).
--no-resume starts anew.

A scan of your own, without truth (Noise2Inverse): two halves of its views teach the network, from
--init (by default mlpatch-grey, or mlpatch-ct for Hounsfield units), in 300 steps; views that took
no part decide whether the new weights are kept:
  pnp-mlpatch train --self scan.h5 --ct "--spacing 0.0065 --center auto" --out own
  pnp-mlpatch ct scan.h5 --spacing 0.0065 --center auto --out volume.h5 \\
      --weights own/weights.safetensors

Several processes or GPUs share each batch; the result is that of one, to rounding:
  torchrun --standalone --nproc-per-node 4 -m pnp_mlpatch.cli train --config grey.toml --device cuda

Examples:
  pnp-mlpatch train --config grey.toml
  pnp-mlpatch train --config grey.toml --device cuda --precision bfloat16 --out runs/gpu
  pnp-mlpatch train --data procedural --out runs/small --set crop=32 --set batch=8 \\
      --set model.width=64 --steps 500
  pnp-mlpatch train --config grey.toml --out runs/tuned --init runs/grey/weights.safetensors \\
      --data scans.npy --set lr=1e-4
  pnp-mlpatch solve --simulate photo.png --gray --operator identity --noise 0.1 \\
      --set denoiser.weights=runs/grey/weights.safetensors --output x.png
"""


def add_parser(commands: Any) -> None:
    """Add the command and its flags.

    Parameters
    ----------
    commands : argparse sub-parsers
        Where it is added.
    """
    from pnp_mlpatch.training import TrainConfig

    doc = plain_text(inspect.getdoc(TrainConfig) or "")
    keys = textwrap.fill(", ".join(_key(f) for f in dataclasses.fields(TrainConfig)), 110)
    about = f"{doc}\n\nKeys and defaults:\n{keys}\n\n{EPILOG}"
    sub = command(
        commands,
        "train",
        run_train,
        "Train a denoiser, or an upscaler, on pictures or stacks of images.",
        about,
    )
    sub.add_argument(
        "--config", metavar="FILE.toml", help="the settings, see below; flags override them"
    )
    sub.add_argument(
        "--data",
        action="append",
        metavar="SOURCE",
        help="training images: folder, stack or procedural; may be given many times",
    )
    sub.add_argument(
        "--self",
        dest="scan",
        metavar="SCAN",
        help="fine-tune on this CT scan without truth; kept only if held-out views prefer it",
    )
    sub.add_argument("--ct", metavar="FLAGS", help="for --self: the flags of ct, in quotes")
    sub.add_argument("--out", metavar="FOLDER", help="where weights, log and checkpoint go")
    sub.add_argument("--denoiser", metavar="NAME", help="what to train (default: mlpatch)")
    sub.add_argument(
        "--validation",
        action="append",
        metavar="SOURCE",
        help="images to measure PSNR on; may be given many times",
    )
    sub.add_argument("--init", metavar="WEIGHTS", help="start from these: a shipped name or a path")
    _running(sub)


def _running(sub: argparse.ArgumentParser) -> None:
    """Add the flags of how it trains."""
    sub.add_argument(
        "--task", choices=["denoise", "upscale", "pairs"], help="what to learn (default: denoise)"
    )
    sub.add_argument("--steps", type=int, metavar="N", help="number of steps")
    sub.add_argument(
        "--precision",
        choices=["float32", "bfloat16", "float16"],
        help="of the arithmetic; weights stay float32",
    )
    sub.add_argument("--seed", type=int, metavar="N", help="seed of the weights, cuts and noise")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, or model.KEY=VALUE; may be given many times",
    )
    no_resume(sub, "a checkpoint")
    flags_of_a_run(sub, "cpu, cuda ...", quiet=False)


def _key(field: dataclasses.Field[Any]) -> str:
    from dataclasses import MISSING

    if field.default_factory is not MISSING:
        return f"{field.name} = {field.default_factory()!r}"
    if field.default is MISSING:
        return f"{field.name} (required)"
    return (
        f"{field.name} = {field.default:.4g}"
        if isinstance(field.default, float)
        else f"{field.name} = {field.default!r}"
    )
