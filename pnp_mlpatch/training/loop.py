"""The training loop."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch import weights as weight_files
from pnp_mlpatch.denoisers import Network, registry
from pnp_mlpatch.errors import Diverged, FileError, InputError, InputTypeError, WeightsError
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.io.atomic import check_writable
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.training._log import add_row, cut_log, plot_log
from pnp_mlpatch.training._optimizers import optimizers
from pnp_mlpatch.training._processes import processes, sum_over_processes
from pnp_mlpatch.training.config import TrainConfig
from pnp_mlpatch.training.data import Batch, batch
from pnp_mlpatch.training.sources import open_sources, whole_images
from pnp_mlpatch.training.validation import (
    FACTORS,
    columns,
    levels_of,
    validate,
    validate_upscale,
)

FREE = ("out", "card", "checkpoint_every", "validate_every", "validation", "data", "device")
MEMORY = 0.99  # of the running average of the loss


def train(config: TrainConfig, *, resume: bool = True, progress: bool | None = None) -> Path:
    """Train a denoiser.

    Parameters
    ----------
    config : TrainConfig
    resume : bool
        Continue from the checkpoint in ``config.out``, if there is one.
    progress : bool, optional
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Path
        The weights, ``weights.safetensors`` in ``config.out``, beside ``log.csv``, ``log.png`` and
        ``checkpoint.pt``.

    Raises
    ------
    FileError
        Without usable images, or if another run writes to the folder.
    InputError
        For a checkpoint that belongs to other settings.
    WeightsError
        For a checkpoint that is damaged, and for weights to start from that do not fit.
    Diverged
        If the loss is not finite.

    Notes
    -----
    Every ``checkpoint_every`` steps the whole state is written. A resumed run ends with
    bit-identical weights on the same CPU: the random numbers of image b of step k come from
    (seed, k, b) alone.

    In processes started by ``torchrun`` each takes the images b = rank, rank + world, ... of every
    batch, and rank 0 writes the files.
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
    device, rank, world = processes(config)
    if rank:
        return _Training(config, device, rank, world).run(resume, progress)
    for name in ("weights.safetensors", "checkpoint.pt", "log.csv", "log.png"):
        check_writable(out / name)
    with lock(out / "checkpoint.pt"):
        return _Training(config, device, rank, world).run(resume, progress)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Compute the learning rate: a linear warm-up to ``lr``, then a cosine to zero at ``steps``.

    Parameters
    ----------
    config : TrainConfig
    step : int
        From 0.

    Returns
    -------
    float
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


class _Training:
    """The training of one process: the network, its average, the optimiser and the images."""

    def __init__(self, config: TrainConfig, device: torch.device, rank: int, world: int):
        self.config, self.out = config, Path(config.out)
        self.device, self.rank, self.world = device, rank, world
        model = _model(config).to(device)
        # the fast layout for convolutions
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = self.model
        if config.ema:
            self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        channels, size = self.model.channels, math.ceil(config.size / config.scale)
        channels *= 2 if config.task == "pairs" else 1
        self.sources = open_sources(config.data, channels, size, config.window, config.seed)
        smallest = 1 if config.task == "denoise" else 2 * max(FACTORS)
        checked = config.validation if rank == 0 and config.validation else []
        self.validation = open_sources(checked, channels, smallest, config.window, config.seed + 1)
        self.parameters = list(self.model.parameters())
        self.optimizers = optimizers(config, self.parameters)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.loss, self.start = 0.0, time.perf_counter()
        self.ahead: Batch | None = None

    def run(self, resume: bool, progress: bool | None) -> Path:
        """Train from the checkpoint, or from the start, to the end."""
        config, first, weights = self.config, 0, self.out / "weights.safetensors"
        if resume:
            first, self.loss, spent = _restore(self.out / "checkpoint.pt", config, self._parts())
            self.start = time.perf_counter() - spent
        if self.rank == 0:
            checked = columns(config) if self.validation else []
            cut_log(self.out / "log.csv", first, ["step", "loss", "seconds", *checked])
        hidden = True if self.rank else None if progress is None else not progress
        steps = range(first, config.steps)
        bar = tqdm(steps, initial=first, total=config.steps, disable=hidden, desc="train")
        for step in bar:
            value = self._step(step)
            self.loss = MEMORY * self.loss + (1 - MEMORY) * value if self.loss else value
            bar.set_postfix(loss=f"{self.loss:.5f}", refresh=False)
            done = step + 1
            last = done == config.steps
            if self.rank == 0 and (last or done % config.validate_every == 0):
                self._validate(done)
            if self.rank == 0 and (last or done % config.checkpoint_every == 0):
                state = {name: part.state_dict() for name, part in self._parts().items()}
                state |= {"step": done, "loss": self.loss, "seconds": self._seconds()}
                checkpoint.save(self.out / "checkpoint.pt", state, about=config.to_dict())
        if self.rank == 0:
            self.average.save(weights, self._card())
        if self.world > 1:
            dist.barrier()  # nobody returns before the weights are there
        return weights

    def _step(self, step: int) -> float:
        """Make one step of the optimiser; return the loss before it."""
        config = self.config
        loss = self._loss(self.ahead or self._images(step))
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        # made while a GPU is busy, which the next line waits for
        more = self.device.type == "cuda" and step + 1 < config.steps
        self.ahead = self._images(step + 1) if more else None
        loss = loss.detach()
        value = float(sum_over_processes(self.parameters, loss) if self.world > 1 else loss)
        if not math.isfinite(value):
            raise Diverged(
                f"train: the loss is {value} at step {step}. Lower lr (now {config.lr}); "
                f"the last checkpoint is kept in {self.out}."
            )
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        if config.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
        rate = learning_rate(config, step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.average is not self.model:
            _follow(self.average, self.model, min(config.ema, (1 + step) / (10 + step)))
        return value

    def _images(self, step: int) -> Batch:
        """Make this process's share of the images of a step, on the device."""
        mine = range(self.rank, self.config.batch, self.world)
        return batch(self.sources, self.config, self.model.halo, step, mine).to(self.device)

    def _loss(self, images: Batch) -> Tensor:
        """Compute this process's share of the loss of a step."""
        config, model = self.config, self.model
        noisy, sigma, clean, coords = images
        kind, low = getattr(torch, config.precision), config.precision != "float32"
        with torch.autocast(self.device.type, kind, enabled=low):
            if coords is None:
                denoised = model.denoise_block(noisy, sigma)
            else:
                denoised = model.at(noisy, coords, sigma.flatten())
        error = (denoised.float() - clean).square().flatten(1).mean(dim=1)
        if config.loss == "log":
            return 0.01 * torch.log1p(255**2 * error).sum() / config.batch
        return (error / (sigma.flatten() ** 2 + (5 / 255) ** 2) ** 0.6).sum() / config.batch

    def _validate(self, done: int) -> None:
        """Add a row to the log, with the PSNR of the validation, and draw it."""
        images = whole_images(self.validation)
        if self.config.task == "denoise":
            scores = validate(self.average, images, levels_of(self.config))
        else:
            scores = validate_upscale(self.average, images)
        row = {"step": done, "loss": self.loss, "seconds": self._seconds(), **scores}
        add_row(self.out / "log.csv", row)
        plot_log(self.out / "log.csv", self.out / "log.png")

    def _parts(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "model": self.model,
            "average": self.average,
            "scaler": self.scaler,
            **dict(zip(("optimizer", "kernels"), self.optimizers, strict=False)),
        }

    def _seconds(self) -> float:
        """Return the time spent so far, earlier runs included."""
        return time.perf_counter() - self.start

    def _card(self) -> dict[str, Any]:
        """Return what the weights file says of the training."""
        config, upscale = self.config, self.config.task == "upscale"
        asked = config.queries if upscale else config.pixels or config.crop**2
        return {
            **config.card,
            "trained_size": [config.size, config.size],
            "sigma_range": [0.0, config.sigma_max],
            "parameters": sum(p.numel() for p in self.parameters),
            "steps": config.steps,
            "pixels": config.steps * config.batch * asked,
            "seed": config.seed,
            "precision": config.precision,
            "images": sum(source.count for source in self.sources),
            **({"task": "upscale", "factor": config.factor} if upscale else {}),
        }


def _model(config: TrainConfig) -> Any:
    """Make the network, with random weights by the seed or those of ``init``."""
    torch.manual_seed(config.seed)
    network = registry.network(config.denoiser)
    start = network.load(weight_files.locate(config.init)) if config.init else None
    own = start.config if start is not None and not config.model else config.model
    try:
        model = network(**{"sigma_max": config.sigma_max, **own})
    except TypeError as error:
        raise InputTypeError(
            f"train: 'model' does not fit '{config.denoiser}' ({error})."
        ) from error
    if model.sigma_max is not None and config.sigma_max > model.sigma_max:
        raise InputError(
            f"train: sigma_max ({config.sigma_max:.4g}) is above that of the network "
            f"({model.sigma_max:.4g}). Lower it, or set model.sigma_max."
        )
    if start is not None:
        try:
            model.load_state_dict(start.state_dict())
        except RuntimeError as error:
            raise WeightsError(
                f"{config.init}: these weights do not fit the 'model' of this run ({error}). "
                "Leave 'model' empty to take theirs."
            ) from error
    _check_methods(model, config)
    return model


def _check_methods(model: Network, config: TrainConfig) -> None:
    """Raise unless the network has the methods that the task needs."""
    upscale = config.task == "upscale"
    needed = ("at", "upscale") if upscale else ("at",) if config.pixels else ()
    absent = [name for name in needed if not callable(getattr(model, name, None))]
    if absent:
        asked = "task 'upscale'" if upscale else "pixels > 0"
        raise InputError(
            f"train: {asked} needs a network with {' and '.join(absent)}; "
            f"'{config.denoiser}' has none. Try 'mlpatch'."
        )


@torch.no_grad()
def _follow(average: Network, model: Network, decay: float) -> None:
    """Update the running average: ``a <- decay a + (1 - decay) w``; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)


def _restore(path: Path, config: TrainConfig, parts: dict[str, Any]) -> tuple[int, float, float]:
    """Load a checkpoint into the parts; return the steps, loss and seconds so far, or zeros."""
    found = checkpoint.resume(
        path,
        config.to_dict(),
        "checkpoint of a training",
        free=FREE,
        defaults=config.defaults(),
        anew="use another 'out', or resume=False",
    )
    if found is None:
        return 0, 0.0, 0.0
    state, _ = found
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["step"]), float(state["loss"]), float(state["seconds"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: the checkpoint does not fit this version of the model ({error})."
        ) from error
