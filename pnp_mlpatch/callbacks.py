"""Callbacks that watch a run: frames, PSNR against the truth, early stopping, checkpoints.

A callback gets the :class:`~pnp_mlpatch.solvers.State` after every step, and stops the run by
returning True. Any function will do; these are four that are often wanted::

    callbacks = [save_frames("frames", every=5), live_psnr(truth)]
    reconstruct(q, A, D, noise=noise, callbacks=callbacks)
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
    """Write the estimate as frame_0001.png, frame_0002.png, ... into a folder.

    The number is the iteration. Each file is written whole or not at all; existing frames are
    replaced. The grey value is (x - low) / (high - low), clipped to [0, 1], in 8 bit. 1 or 3
    channels are drawn as they are, of 2 the first, or their magnitude.

    Parameters
    ----------
    folder : str or path
        The folder, which is made if there is none.
    every : int
        Steps between two frames, >= 1.
    window : tuple of float
        Values (low, high) of black and white.
    image : int
        Number of the image in the batch.
    magnitude : bool
        Whether the 2 channels are the parts of a complex image, whose magnitude is drawn.

    Attributes
    ----------
    paths : list of Path
        The files that were written.

    Raises
    ------
    FileError
        At once, if the folder cannot be written to.
    InputError
        If an argument is out of range, or the batch does not have this image.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        every: int = 1,
        window: tuple[float, float] = (0.0, 1.0),
        image: int = 0,
        magnitude: bool = False,
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
                "save_frames: image must be the number of an image in the batch, an integer >= 0, "
                f"got {image!r}."
            )
        self.folder, self.every, self.window, self.image = Path(folder), every, window, image
        self.magnitude, self.paths = magnitude, list[Path]()
        require("PIL.Image", "Writing frames")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise FileError(
                f"save_frames: {self.folder}: cannot write there ({error.strerror}). Choose a "
                "folder that you may write to."
            ) from error

    def __call__(self, state: State) -> None:
        if state.iteration % self.every:
            return
        if self.image >= len(state.x):
            raise InputError(
                f"save_frames: the batch has {len(state.x)} images, there is no number "
                f"{self.image}; the first is 0."
            )
        low, high = self.window
        x = state.x[self.image].detach()
        path = self.folder / f"frame_{state.iteration:04d}.png"
        if x.shape[0] == 2:
            x = torch.linalg.vector_norm(x, dim=0, keepdim=True) if self.magnitude else x[:1]
        write_image(path, (x - low) / (high - low))
        self.paths.append(path)


class live_psnr:
    r"""Print the iteration and the PSNR of each image against the truth, in dB.

    .. math:: 10 \log_{10} \frac{data\_range^2}{\mathrm{mean} |x - truth|^2}

    Parameters
    ----------
    truth : Tensor, shape (B, C, H, W)
        The true images.
    every : int
        Steps between two lines, >= 1.
    data_range : float
        Range of the values, > 0.
    write : callable
        Takes one line. The default does not break the progress bar.

    Attributes
    ----------
    iterations : list of int
        The iterations that were printed.
    values : list of Tensor, shape (B,)
        The PSNR of each.

    Raises
    ------
    InputError
        If an argument is out of range, or the truth has another shape than the estimate.
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
                "live_psnr: the truth must be a torch tensor (B, C, H, W), got "
                f"{type(truth).__name__}."
            )
        if not finite_number(data_range) or not data_range > 0:
            raise InputError(f"live_psnr: data_range must be finite and > 0, got {data_range!r}.")
        if not callable(write):
            raise InputTypeError(
                "live_psnr: write must be a function of one line, such as print, got "
                f"{type(write).__name__}."
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
    """Stop the run when a quantity has not grown for some steps, and keep the best estimate.

    The quantity is judged image by image. The run stops when no image has improved for ``patience``
    steps. Values that are not finite are no improvement. Make one for each run; a resumed run may
    keep its own.

    Parameters
    ----------
    patience : int
        Steps without improvement, >= 1.
    quantity : callable
        Takes the estimate (B, C, H, W), returns what should be large: a number, or (B,). For
        example the PSNR against a truth, or minus the error on held-out data.

    Attributes
    ----------
    best : Tensor, shape (B, C, H, W), or None
        Each image where it was best; None before the first step.
    iteration : Tensor, shape (B,)
        The iteration of the best image.
    value : Tensor, shape (B,)
        The quantity there.

    Raises
    ------
    InputError
        If ``patience`` < 1, or the quantity has another shape.
    """

    def __init__(self, *, patience: int, quantity: Callable[[Tensor], float | Tensor]):
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise InputError(
                f"early_stop: patience is a number of steps, an integer >= 1, got {patience!r}."
            )
        if not callable(quantity):
            raise InputTypeError(
                "early_stop: quantity must be a function of the estimate x, got "
                f"{type(quantity).__name__}."
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
                f"early_stop: quantity must give a number, or one for each of {len(x)} images, got "
                f"shape {tuple(value.shape)}."
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
    """Write the state to a file, whole or not at all, so that a killed run can resume.

    The resumed run gives the same bits. Data, operator, denoiser and settings are not in the file:
    give the same.

    Parameters
    ----------
    path : str or path
        The file.
    every : int
        Steps between two checkpoints, >= 1.

    Attributes
    ----------
    saved : int
        The last iteration that was written.

    Raises
    ------
    FileError
        At once, if the folder cannot be written to.
    InputError
        If ``every`` < 1.

    Examples
    --------
    ::

        solver = solvers.make("skrock", iterations=5000)
        state = solver.load_state("chain.pt") if Path("chain.pt").exists() else None
        keep = checkpoint("chain.pt", every=50)
        result = solver.run(q, A, D, noise=noise, state=state, callbacks=[keep])
    """

    def __init__(self, path: str | PathLike[str], *, every: int = 10):
        _check_every(every, "checkpoint")
        self.path, self.every, self.saved = Path(path), every, 0
        try:
            tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            raise FileError(
                f"checkpoint: {self.path.parent}: cannot write there ({error.strerror}). Choose a "
                "folder that is there."
            ) from error

    def __call__(self, state: State) -> None:
        if state.iteration % self.every == 0:
            state.save(self.path)
            self.saved = state.iteration


def _check_every(every: int, who: str) -> None:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"{who}: every is a number of steps, an integer >= 1, got {every!r}.")


__all__ = ["checkpoint", "early_stop", "live_psnr", "save_frames"]
