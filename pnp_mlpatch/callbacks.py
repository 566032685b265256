"""Watching a run: pictures on the way, PSNR against the truth, stopping early, checkpoints.

A callback gets the :class:`~pnp_mlpatch.solvers.State` after every step, and stops the run by returning True. Any function will do;
these are four that are often wanted::

    reconstruct(q, A, D, noise=noise, callbacks=[save_frames("frames", every=5), live_psnr(truth)])
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.images import write_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.solvers import State


class save_frames:
    """Write the estimate as frame_0001.png, frame_0002.png, ... into ``folder``, numbered by iteration, one after ``every`` steps.

        grey = (x - low) / (high - low), clipped to [0, 1], in 8 bit        window = (low, high)

    ``image`` is the number of the image in the batch; 1 or 3 channels are drawn as they are, of 2 the first. Each file is written whole or
    not at all; frames that are there already are replaced. ``paths`` lists what was written.

    Raises :class:`FileError` at once for a folder that cannot be written to, :class:`InputError` for a window without width, ``every`` < 1,
    and an image that the batch does not have.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        every: int = 1,
        window: tuple[float, float] = (0.0, 1.0),
        image: int = 0,
    ):
        _check_every(every, "save_frames")
        if (
            not isinstance(window, (tuple, list))
            or len(window) != 2
            or not all(finite_number(v) for v in window)
            or not window[0] < window[1]
        ):
            raise InputError(
                f"save_frames: window must be two numbers (low, high), low < high, got {window!r}."
            )
        if isinstance(image, bool) or not isinstance(image, int) or image < 0:
            raise InputError(
                f"save_frames: image must be the number of an image in the batch, an integer >= 0, got {image!r}."
            )
        self.folder, self.every, self.window, self.image = Path(folder), every, window, image
        self.paths: list[Path] = []
        require("PIL.Image", "Writing frames")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise FileError(
                f"save_frames: {self.folder}: cannot write there ({error.strerror}). Choose a folder that you may write to."
            ) from error

    def __call__(self, state: State) -> None:
        if state.iteration % self.every:
            return
        if self.image >= len(state.x):
            raise InputError(
                f"save_frames: the batch has {len(state.x)} images, there is no number {self.image}; the first is 0."
            )
        low, high = self.window
        x = state.x[self.image].detach()
        path = self.folder / f"frame_{state.iteration:04d}.png"
        write_image(path, ((x[:1] if x.shape[0] == 2 else x) - low) / (high - low))
        self.paths.append(path)


class live_psnr:
    """Print the iteration and the PSNR of each image against ``truth`` (B, C, H, W) after ``every`` steps, in dB.

        psnr = 10 log10(data_range^2 / mean |x - truth|^2)

    ``write`` takes one line; the default leaves the progress bar whole. ``iterations`` lists the iterations that were printed, ``values``
    the PSNR (B,) of each.

    Raises :class:`InputError` for ``data_range`` not > 0, ``every`` < 1, and a truth of another shape than the estimate.
    """

    def __init__(
        self,
        truth: Tensor,
        *,
        every: int = 1,
        data_range: float = 1.0,
        write: Callable[[str], object] = tqdm.write,
    ):
        _check_every(every, "live_psnr")
        if not isinstance(truth, Tensor):
            raise InputTypeError(
                f"live_psnr: the truth must be a torch tensor (B, C, H, W), got {type(truth).__name__}."
            )
        if not finite_number(data_range) or not data_range > 0:
            raise InputError(f"live_psnr: data_range must be finite and > 0, got {data_range!r}.")
        if not callable(write):
            raise InputTypeError(
                f"live_psnr: write must be a function of one line, such as print, got {type(write).__name__}."
            )
        self.truth, self.every, self.data_range, self.write = truth, every, data_range, write
        self.iterations: list[int] = []
        self.values: list[Tensor] = []

    def __call__(self, state: State) -> None:
        if state.iteration % self.every:
            return
        value = psnr(state.x.detach(), self.truth.to(state.x.device), self.data_range).cpu()
        self.iterations.append(state.iteration)
        self.values.append(value)
        self.write(f"{state.iteration:5d}  PSNR {' '.join(f'{v:.2f}' for v in value.tolist())} dB")


class early_stop:
    """Stop the run when ``quantity(x)`` has not got larger for ``patience`` steps, and remember the best x.

    ``quantity`` is what should be large, a function of the estimate (B, C, H, W) that gives a number, or one for each image (B,): PSNR
    against a truth, or minus an error, such as that of data held out. Images are judged one by one: ``best`` (B, C, H, W) has each where
    it was best, ``iteration`` (B,) says when, ``value`` (B,) how good it was; with one number for all, all of them at once. The run stops
    when no image has improved for ``patience`` steps. Values that are not finite are no improvement. ``best`` is None before the first
    step. Make one for each run; a run that is gone on from may keep its own.

    Raises :class:`InputError` for ``patience`` < 1 and quantities of another shape.
    """

    def __init__(self, *, patience: int, quantity: Callable[[Tensor], float | Tensor]):
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise InputError(
                f"early_stop: patience is a number of steps, an integer >= 1, got {patience!r}."
            )
        if not callable(quantity):
            raise InputTypeError(
                f"early_stop: quantity must be a function of the estimate x, got {type(quantity).__name__}."
            )
        self.patience, self.quantity = patience, quantity
        self.best: Any = None
        self.iteration = torch.zeros(0, dtype=torch.int64)
        self.value = torch.zeros(0, dtype=torch.float64)

    def __call__(self, state: State) -> bool:
        x = state.x.detach()
        value = torch.as_tensor(self.quantity(x)).detach().double().cpu()
        if value.numel() not in (1, len(x)):
            raise InputError(
                f"early_stop: quantity must give a number, or one for each of {len(x)} images, got shape {tuple(value.shape)}."
            )
        value = value.flatten().expand(len(x))
        if self.best is None:
            self.best, self.iteration = x.clone(), torch.full((len(x),), state.iteration)
            self.value = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        better = torch.isfinite(value) & (value > self.value)
        self.value = torch.where(better, value, self.value)
        self.iteration = torch.where(better, state.iteration, self.iteration)
        self.best = torch.where(better.to(x.device).reshape(-1, 1, 1, 1), x, self.best)
        return state.iteration - int(self.iteration.max()) >= self.patience


class checkpoint:
    """Write the state to ``path`` after every ``every`` steps, whole or not at all, so that a run that is killed goes on to the same bits::

        solver = solvers.make("skrock", iterations=5000)
        state = solver.load_state("chain.pt") if Path("chain.pt").exists() else None
        result = solver.run(q, A, D, noise=noise, state=state, callbacks=[checkpoint("chain.pt", every=50)])

    Data, operator, denoiser and settings are not in the file: give the same. ``saved`` is the last iteration that was written.
    Raises :class:`FileError` at once for a folder that cannot be written to, :class:`InputError` for ``every`` < 1.
    """

    def __init__(self, path: str | PathLike[str], *, every: int = 10):
        _check_every(every, "checkpoint")
        self.path, self.every, self.saved = Path(path), every, 0
        try:
            tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            raise FileError(
                f"checkpoint: {self.path.parent}: cannot write there ({error.strerror}). Choose a folder that is there."
            ) from error

    def __call__(self, state: State) -> None:
        if state.iteration % self.every == 0:
            state.save(self.path)
            self.saved = state.iteration


def _check_every(every: int, who: str) -> None:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"{who}: every is a number of steps, an integer >= 1, got {every!r}.")


__all__ = ["checkpoint", "early_stop", "live_psnr", "save_frames"]
