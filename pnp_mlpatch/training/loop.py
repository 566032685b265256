"""The training loop: one function, read from top to bottom."""

from __future__ import annotations

import atexit
import copy
import csv
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch import weights as weight_files
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import Network, registry
from pnp_mlpatch.errors import Diverged, FileError, InputError, InputTypeError, WeightsError
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.io.atomic import atomic_write, check_writable
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.training.config import TrainConfig
from pnp_mlpatch.training.data import batch
from pnp_mlpatch.training.sources import open_sources, whole_images

LEVELS = (15, 25, 50)  # noise levels of the validation, in 1/255
FACTORS = (2, 4)  # of the validation of upscaling


def train(config: TrainConfig, *, resume: bool = True, progress: bool | None = None) -> Path:
    """Train a denoiser and write ``weights.safetensors``, ``log.csv``, ``log.png`` and ``checkpoint.pt`` to ``config.out``.

    Every ``checkpoint_every`` steps the whole state is written; a run that was killed goes on from there (``resume``) and
    ends with bit-identical weights on the same CPU, since the random numbers of image b of step k come from (seed, k, b) alone.
    In processes started by ``torchrun`` each takes the images b = rank, rank + world, ... of every batch, and rank 0 writes the
    files. Returns the path of the weights.

    Raises :class:`FileError` without usable images, :class:`WeightsError` for a checkpoint that is damaged or belongs to
    other settings and for weights to start from that do not fit, :class:`Diverged` if the loss is not finite, and :class:`FileError` where
    another run writes to the folder.
    """
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{out}: cannot be made a folder of results ({error.strerror}). Choose another 'out'."
        ) from error
    try:
        json.dumps(config.to_dict())
    except (TypeError, ValueError, RecursionError) as error:
        raise InputTypeError(
            f"train: settings and card must be plain values, of numbers and texts ({error})."
        ) from error
    device, rank, world = _processes(config)
    if rank:
        return _train(config, out, device, rank, world, resume, progress)
    for name in ("weights.safetensors", "checkpoint.pt", "log.csv", "log.png"):
        check_writable(out / name)
    with lock(out / "checkpoint.pt"):
        return _train(config, out, device, rank, world, resume, progress)


def _train(
    config: TrainConfig,
    out: Path,
    device: torch.device,
    rank: int,
    world: int,
    resume: bool,
    progress: bool | None,
) -> Path:
    """The training of one process, read from top to bottom."""
    # what is trained, and on what
    model = _model(config).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the fast layout for convolutions
    average = copy.deepcopy(model).eval().requires_grad_(False) if config.ema else model
    sources = open_sources(
        config.data,
        model.channels,
        math.ceil(config.size / config.scale),
        config.window,
        config.seed,
    )
    smallest = 1 if config.task == "denoise" else 2 * max(FACTORS)
    checked = config.validation if rank == 0 and config.validation else []
    validation = open_sources(checked, model.channels, smallest, config.window, config.seed + 1)

    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    autocast = torch.autocast(
        device.type, getattr(torch, config.precision), enabled=config.precision != "float32"
    )

    # where it was left
    parts = {"model": model, "average": average, "optimizer": optimizer, "scaler": scaler}
    first, seen, spent = _restore(out / "checkpoint.pt", config, parts) if resume else (0, 0.0, 0.0)
    if rank == 0:
        _cut_log(
            out / "log.csv",
            first,
            ["step", "loss", "seconds", *(_columns(config) if validation else [])],
        )

    start = time.perf_counter() - spent
    hidden = True if rank else None if progress is None else not progress
    for step in (
        bar := tqdm(
            range(first, config.steps),
            initial=first,
            total=config.steps,
            disable=hidden,
            desc="train",
        )
    ):
        mine = range(rank, config.batch, world)
        noisy, sigma, clean, coords = batch(sources, config, model.halo, step, mine).to(device)
        with autocast:
            denoised = (
                model.denoise_block(noisy, sigma)
                if coords is None
                else model.at(noisy, coords, sigma.flatten())
            )
        error = (denoised.float() - clean).square().flatten(1).mean(dim=1)
        loss = (error / (sigma.flatten() ** 2 + (5 / 255) ** 2) ** 0.6).sum() / config.batch
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        value = float(
            _sum_over_processes(parameters, loss.detach()) if world > 1 else loss.detach()
        )
        if not math.isfinite(value):
            raise Diverged(
                f"train: the loss is {value} at step {step}. Lower lr (now {config.lr}); the last checkpoint is kept in {out}."
            )
        scaler.unscale_(optimizer)
        if config.clip:
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        scaler.step(optimizer)
        scaler.update()
        if average is not model:
            _follow(average, model, min(config.ema, (1 + step) / (10 + step)))

        seen = 0.99 * seen + 0.01 * value if seen else value
        bar.set_postfix(loss=f"{seen:.5f}", refresh=False)
        done = step + 1
        if rank == 0 and (done % config.validate_every == 0 or done == config.steps):
            shown = whole_images(validation)
            scores = (
                validate(average, shown, _levels(config))
                if config.task == "denoise"
                else validate_upscale(average, shown)
            )
            _log(
                out / "log.csv",
                {"step": done, "loss": seen, "seconds": time.perf_counter() - start, **scores},
            )
            _plot(out / "log.csv", out / "log.png")
        if rank == 0 and (done % config.checkpoint_every == 0 or done == config.steps):
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"step": done, "loss": seen, "seconds": time.perf_counter() - start}
            checkpoint.save(out / "checkpoint.pt", state, about=config.to_dict())

    card = {
        **config.card,
        "trained_size": [config.size, config.size],
        "sigma_range": [0.0, config.sigma_max],
        "parameters": sum(p.numel() for p in parameters),
        "steps": config.steps,
        "pixels": config.steps
        * config.batch
        * (config.queries if config.task == "upscale" else config.pixels or config.crop**2),
        "seed": config.seed,
        "precision": config.precision,
        "images": sum(source.count for source in sources),
    }
    if config.task == "upscale":
        card |= {"task": "upscale", "factor": config.factor}
    if rank == 0:
        average.save(out / "weights.safetensors", card)
    if world > 1:
        dist.barrier()  # nobody returns before the weights are there
    return out / "weights.safetensors"


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up to ``lr``, then a cosine to zero at ``steps``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    return (
        config.lr
        * 0.5
        * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup)))
    )


@torch.no_grad()
def validate(
    model: Network, images: Iterable[Tensor], levels: Iterable[float] = LEVELS
) -> dict[str, float]:
    """Mean PSNR in dB over images (C, H, W) at noise levels given in 1/255, each with a fixed noise draw."""
    device, levels = next(model.parameters()).device, list(levels)
    scores: dict[str, list[float]] = {f"psnr_{level:g}": [] for level in levels}
    for k, image in enumerate(images):
        for level, found in zip(levels, scores.values(), strict=True):
            noise = torch.randn(
                image.shape, generator=torch.Generator().manual_seed(int(1000 * level) + k)
            )
            x = (image + level / 255 * noise)[None].to(device)
            found.append(float(psnr(model(x, level / 255), image[None].to(x))))
    return {name: sum(found) / len(found) for name, found in scores.items() if found}


@torch.no_grad()
def validate_upscale(
    model: Network, images: Iterable[Tensor], factors: Sequence[int] = FACTORS
) -> dict[str, float]:
    """Mean PSNR in dB of upscaled images (C, H, W) to the images themselves, cut to multiples of the largest factor.

    They were shrunk by antialiased bicubic interpolation, without noise.
    """
    scores: dict[str, list[float]] = {f"psnr_x{factor}": [] for factor in factors}
    for image in images:
        height, width = (n - n % max(factors) for n in image.shape[1:])
        truth = image[None, :, :height, :width].to(next(model.parameters()).device)
        for factor, found in zip(factors, scores.values(), strict=True):
            low = F.interpolate(
                truth,
                size=(height // factor, width // factor),
                mode="bicubic",
                antialias=True,
                align_corners=False,
            )
            found.append(float(psnr(model.upscale(low, factor), truth)))  # type: ignore[operator]
    return {name: sum(found) / len(found) for name, found in scores.items() if found}


def _levels(config: TrainConfig) -> list[float]:
    """The noise levels of the validation: those the network is trained for, or the highest it is."""
    return [level for level in LEVELS if level / 255 <= config.sigma_max] or [
        config.sigma_max * 255
    ]


def _columns(config: TrainConfig) -> list[str]:
    """The columns of the validation in the log."""
    return (
        [f"psnr_{level:g}" for level in _levels(config)]
        if config.task == "denoise"
        else [f"psnr_x{factor}" for factor in FACTORS]
    )


def _processes(config: TrainConfig) -> tuple[torch.device, int, int]:
    """The device, tried; the rank of this process; and how many there are: those of torchrun, which are joined here, else one."""
    world, name = int(os.environ.get("WORLD_SIZE", "1")), config.device
    if world > 1 and name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    elif world > 1 and name.startswith("cuda"):
        raise InputError(
            f"train: {world} processes cannot share device {name!r}. Set device = 'cuda': each then takes a GPU of its own."
        )
    try:
        device = torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"train: device {name!r} cannot be used ({str(error).splitlines()[0]})."
        ) from error
    if config.precision == "float16" and device.type != "cuda":
        raise InputError(
            f"train: precision 'float16' needs device 'cuda', the device is '{name}'. Use 'bfloat16' or 'float32'."
        )
    if world == 1:
        return device, 0, 1
    if world > config.batch:
        raise InputError(
            f"train: batch ({config.batch}) must be at least the number of processes ({world}), which share its images."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        try:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1)
            )  # the validation may be long
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"train: WORLD_SIZE is {world}, but the processes do not meet ({error}). Start them with torchrun."
            ) from error
        atexit.register(dist.destroy_process_group)
    return device, dist.get_rank(), world


def _sum_over_processes(parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
    """Sum the gradients over the processes, in place, and the loss, which is returned."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([loss.reshape(1), *(g.flatten() for g in gradients)])
    dist.all_reduce(flat)
    for gradient, total in zip(
        gradients, flat[1:].split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(total.view_as(gradient))
    return flat[0]


def _model(config: TrainConfig) -> Any:
    """The network with the weights it starts from: random by the seed, or those of ``init``."""
    torch.manual_seed(config.seed)
    network = registry.network(config.denoiser)
    start = network.load(weight_files.locate(config.init)) if config.init else None
    settings = {
        "sigma_max": config.sigma_max,
        **(start.config if start is not None and not config.model else config.model),
    }
    try:
        model = network(**settings)
    except TypeError as error:
        raise InputTypeError(
            f"train: 'model' does not fit '{config.denoiser}' ({error})."
        ) from error
    if model.sigma_max is not None and config.sigma_max > model.sigma_max:
        raise InputError(
            f"train: sigma_max ({config.sigma_max:.4g}) is above that of the network ({model.sigma_max:.4g}). Lower it, or set model.sigma_max."
        )
    if start is not None:
        try:
            model.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise WeightsError(
                f"{config.init}: these weights do not fit the 'model' of this run ({error}). Leave 'model' empty to take theirs."
            ) from error
    upscale = config.task == "upscale"
    absent = [
        name
        for name in ("at", "upscale")[: 2 if upscale else 1]
        if not callable(getattr(model, name, None))
    ]
    if absent and (upscale or config.pixels):
        asked = "task 'upscale'" if upscale else "pixels > 0"
        raise InputError(
            f"train: {asked} needs a network with {' and '.join(absent)}; '{config.denoiser}' has none. Try 'mlpatch'."
        )
    return model


@torch.no_grad()
def _follow(average: Network, model: Network, decay: float) -> None:
    """One step of the running average: ``a <- decay a + (1 - decay) w``; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)


def _restore(path: Path, config: TrainConfig, parts: dict[str, Any]) -> tuple[int, float, float]:
    """Load a checkpoint into the parts; the number of steps done, the loss and the seconds so far, zeros if there is none."""
    if not path.exists():
        return 0, 0.0, 0.0
    state, about = checkpoint.load(path, "checkpoint of a training")
    try:
        saved, progress = (
            {**config.defaults(), **about},
            (int(state["step"]), float(state["loss"]), float(state["seconds"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: not a checkpoint of a training ({error}). Remove it, or train with resume=False."
        ) from error
    free = ("out", "card", "checkpoint_every", "validate_every", "validation", "data", "device")
    now = json.loads(json.dumps(config.to_dict()))
    differ = [key for key in now if key not in free and saved.get(key) != now[key]]
    if differ:
        raise WeightsError(
            f"{path}: the checkpoint was made with other settings ({', '.join(differ)}). Use another 'out', or resume=False."
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: the checkpoint does not fit this version of the model ({error})."
        ) from error
    return progress


def _cut_log(path: Path, done: int, columns: list[str]) -> None:
    """Keep the rows up to step ``done``, under these columns: what came after the checkpoint is done again."""
    if path.exists():
        _write_log(path, columns, [row for row in _read_log(path) if int(row["step"]) <= done])


def _log(path: Path, row: dict[str, float]) -> None:
    """Add a row to a CSV log."""
    rows: list[dict[str, Any]] = [
        *(_read_log(path) if path.exists() else []),
        {key: round(value, 6) for key, value in row.items()},
    ]
    _write_log(path, list(row), rows)


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; those that were cut off, or hold no numbers, are left out."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return [row for row in reader if _is_row(row, reader.fieldnames or [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(
            f"{path}: is not the log of a training ({error}). Remove it, or use another 'out'."
        ) from error


def _is_row(row: dict[str, Any], columns: Sequence[str]) -> bool:
    """Whether every column has its number; those of the validation may be empty."""
    try:
        int(row["step"]), float(row["loss"]), float(row["seconds"])
        return set(row) == set(columns) and all(
            value == "" or float(value) is not None for value in row.values()
        )
    except (
        KeyError,
        TypeError,
        ValueError,
    ):  # DictReader puts None for what is missing, and under None what is too much
        return False


def _write_log(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)

    atomic_write(path, write)


def _plot(log: Path, picture: Path) -> None:
    """Draw the log: the loss, and the PSNR of the validation, against the step."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = require("matplotlib.figure", "Drawing the log").Figure(figsize=(9, 3.2))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.16, top=0.96, wspace=0.25)
    steps = [int(row["step"]) for row in rows]
    left.semilogy(steps, [float(row["loss"]) for row in rows], ".-")
    left.set(xlabel="step", ylabel="loss, averaged over 100 steps")
    for name in (name for name in rows[-1] if name.startswith("psnr_")):
        right.plot(steps, [float(row[name] or "nan") for row in rows], ".-", label=name)
    right.set(xlabel="step", ylabel="PSNR of the validation, dB")
    if right.lines:
        right.legend()
    atomic_write(picture, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
