"""The training loop: one function, read from top to bottom."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers.base import registry
from pnp_mlpatch.denoisers.networks import Network
from pnp_mlpatch.errors import Diverged, FileError, InputError, InputTypeError, WeightsError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.training.config import TrainConfig
from pnp_mlpatch.training.data import batch, read_folder
from pnp_mlpatch.weights import write_whole

LEVELS = (15, 25, 50)  # noise levels of the validation, in 1/255


def train(config: TrainConfig, *, resume: bool = True, progress: bool | None = None) -> Path:
    """Train a denoiser and write ``weights.safetensors``, ``log.csv`` and ``checkpoint.pt`` to ``config.out``.

    Every ``checkpoint_every`` steps the whole state is written; a run that was killed goes on from there (``resume``) and
    ends with bit-identical weights on the same CPU, since the random numbers of step k come from (seed, k) alone. Returns
    the path of the weights.

    Raises :class:`FileError` without usable images, :class:`WeightsError` for a checkpoint that is damaged or belongs to
    other settings, :class:`Diverged` if the loss is not finite.
    """
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{out}: cannot be made a folder of results ({error.strerror}). Choose another 'out'.") from error
    try:
        device = torch.zeros((), device=config.device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train: device {config.device!r} cannot be used ({str(error).splitlines()[0]}).") from error
    torch.manual_seed(config.seed)
    network = registry.network(config.denoiser)
    try:
        model: Network = network(**{"sigma_max": config.sigma_max, **config.model}).to(device)
    except TypeError as error:
        raise InputTypeError(f"train: 'model' does not fit '{config.denoiser}' ({error}).") from error
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  the fast layout for convolutions
    images = read_folder(config.data, model.channels, config.size)
    validation = read_folder(config.validation, model.channels, 1) if config.validation else []
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, betas=(0.9, 0.99))
    first = _restore(out / "checkpoint.pt", config, model, optimizer) if resume else 0
    _cut_log(out / "log.csv", first, ["step", "loss", "seconds", *(f"psnr_{level}" for level in LEVELS if validation)])

    autocast = torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.precision == "bfloat16")
    generator = torch.Generator()
    start, seen = time.perf_counter(), 0.0
    bar = tqdm(
        range(first, config.steps), initial=first, total=config.steps, disable=None if progress is None else not progress, desc="train"
    )
    for step in bar:
        generator.manual_seed(config.seed * 1_000_003 + step)
        noisy, clean, sigma = batch(
            images,
            size=config.size,
            crop=config.crop,
            halo=model.halo,
            count=config.batch,
            sigma_max=config.sigma_max,
            generator=generator,
        )
        noisy, clean, sigma = noisy.to(config.device), clean.to(config.device), sigma.to(config.device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        with autocast:
            denoised = model.denoise_block(noisy, sigma)
        loss = ((denoised.float() - clean).square().mean(dim=(1, 2, 3)) / (sigma.flatten() ** 2 + (5 / 255) ** 2) ** 0.6).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"train: the loss is {value} at step {step}. Lower lr (now {config.lr}); the last checkpoint is kept in {out}.")
        optimizer.step()
        seen = 0.99 * seen + 0.01 * value if seen else value
        bar.set_postfix(loss=f"{seen:.5f}", refresh=False)
        done = step + 1
        if done % config.validate_every == 0 or done == config.steps:
            _log(out / "log.csv", {"step": done, "loss": seen, "seconds": time.perf_counter() - start, **validate(model, validation)})
        if done % config.checkpoint_every == 0 or done == config.steps:
            state = {"config": config.to_dict(), "step": done, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            write_whole(out / "checkpoint.pt", lambda temporary, state=state: torch.save(state, temporary))
    card = {
        **config.card,
        "trained_size": [config.size, config.size],
        "sigma_range": [0.0, config.sigma_max],
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": config.steps,
        "pixels": config.steps * config.batch * config.crop**2,
        "seed": config.seed,
        "precision": config.precision,
        "images": len(images),
    }
    model.save(out / "weights.safetensors", card)
    return out / "weights.safetensors"


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up to ``lr``, then a cosine to zero at ``steps``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


@torch.no_grad()
def validate(model: Network, images: Iterable[Tensor], levels: Iterable[int] = LEVELS) -> dict[str, float]:
    """Mean PSNR in dB over images (C, H, W) at noise levels given in 1/255, each with a fixed noise draw."""
    scores: dict[str, float] = {}
    images = list(images)
    for level in levels if images else ():
        total = 0.0
        for k, image in enumerate(images):
            noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1000 * level + k))
            x = (image + level / 255 * noise)[None].to(next(model.parameters()).device)
            total += float(psnr(model(x, level / 255), image[None].to(x)))
        scores[f"psnr_{level}"] = total / len(images)
    return scores


def _restore(path: Path, config: TrainConfig, model: Network, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint into model and optimizer; the number of steps done, 0 if there is none."""
    if not path.exists():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, map_location=config.device, weights_only=True)
        saved, done = dict(state["config"]), int(state["step"])
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise WeightsError(f"{path}: not a whole checkpoint ({type(error).__name__}). Remove it, or train with resume=False.") from error
    free = ("out", "card", "checkpoint_every", "validate_every", "validation", "data", "device")
    now = config.to_dict()
    differ = [key for key in now if key not in free and saved.get(key) != now[key]]
    if differ:
        raise WeightsError(
            f"{path}: the checkpoint was made with other settings ({', '.join(differ)}). Use another 'out', or resume=False."
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: the checkpoint does not fit this version of the model ({error}).") from error
    return done


def _cut_log(path: Path, done: int, columns: list[str]) -> None:
    """Keep the rows up to step ``done``, under these columns: what came after the checkpoint is done again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit() and int(row["step"]) <= done]

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)

    write_whole(path, write)


def _log(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV log; a header goes first."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({key: round(value, 6) for key, value in row.items()})
