"""The processes that share a training, started by torchrun."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.training.config import TrainConfig


def processes(config: TrainConfig) -> tuple[torch.device, int, int]:
    """Join the processes of torchrun, if there are any.

    Returns the device, tried; the rank of this process; and the number of processes.
    """
    world, name = int(os.environ.get("WORLD_SIZE", "1")), config.device
    if world > 1 and name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    elif world > 1 and name.startswith("cuda"):
        raise InputError(
            f"train: {world} processes cannot share device {name!r}. Set device = 'cuda': "
            "each then takes a GPU of its own."
        )
    try:
        device = torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"train: device {name!r} cannot be used ({str(error).splitlines()[0]})."
        ) from error
    if config.precision == "float16" and device.type != "cuda":
        raise InputError(
            f"train: precision 'float16' needs device 'cuda', the device is '{name}'. "
            "Use 'bfloat16' or 'float32'."
        )
    if world == 1:
        return device, 0, 1
    if world > config.batch:
        raise InputError(
            f"train: batch ({config.batch}) must be at least the number of processes ({world}), "
            "which share its images."
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
                f"train: WORLD_SIZE is {world}, but the processes do not meet ({error}). "
                "Start them with torchrun."
            ) from error
        atexit.register(dist.destroy_process_group)
    return device, dist.get_rank(), world


def sum_over_processes(parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
    """Sum the gradients over the processes, in place, and the loss, which is returned."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([loss.reshape(1), *(g.flatten() for g in gradients)])
    dist.all_reduce(flat)
    for gradient, total in zip(
        gradients, flat[1:].split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(total.view_as(gradient))
    return flat[0]
