"""The settings of a training run, one frozen dataclass; a TOML file holds the same keys."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
from os import PathLike
from typing import Any

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.registry import did_you_mean
from pnp_mlpatch.training.sources import check_data, check_window
from pnp_mlpatch.weights import read_toml

TASKS = ("denoise", "upscale", "pairs")
OPTIMIZERS = ("adamw", "muon")
LOSSES = ("squares", "log")
PRECISIONS = ("float32", "bfloat16", "float16")
COUNTS = ("size", "crop", "batch", "steps", "queries", "checkpoint_every", "validate_every")


@dataclass(frozen=True)
class TrainConfig:
    r"""Settings of :func:`~pnp_mlpatch.training.train`.

    Parameters
    ----------
    data : str or list of str
        Training images: a folder of pictures, a stack of images (N, H, W) or (N, C, H, W) in
        FILE.npy, .npz, .h5 or .zarr (FILE:NAME where the file holds several arrays), "procedural"
        (random pictures), "convergence" (log-normal mass maps about zero), "clusters" (the same
        with bright halos), or a list of these.
    out : str
        Folder of the weights, the log and the checkpoint.
    validation : str or list of str, optional
        Images on which the PSNR is measured.
    window : list of two floats, optional
        Values of stacks that become 0 and 1. By default values are used as they are.
    denoiser : str
        Name of a trainable denoiser.
    model : dict
        Its settings.
    init : str, optional
        Weights to start from, a shipped name or a path, of the same kind and shapes. They bring
        their settings where ``model`` is empty.
    task : str
        "denoise", "upscale", or "pairs": images of one scene in pairs, whose noise is independent.
        The first half of the channels of ``data`` is shown, the second half is the target.
    level : float
        The standard deviation of the noise that the images of "pairs" have.
    factor : float
        By how much "upscale" shrinks the window, above 1.
    queries : int
        Pixels of the window that "upscale" asks for.
    size : int
        Side of the window that is cut from an image, in pixels.
    crop : int
        Side of the block of denoised pixels that is asked for, at a random place of the window.
    pixels : int
        With ``crop = 1``: ask for so many random pixels instead.
    jitter : float
        By how many pixels these are moved at most, 0 to 0.5.
    scale : float
        Below 1: windows are cut larger and shrunk by a random factor between ``scale`` and 1.
    permute : bool
        Put the channels in random order.
    batch, steps : int
        Images a step, and steps.
    lr : float
        Highest learning rate.
    warmup : int
        Steps up to it; then a cosine to zero at ``steps``.
    optimizer : str
        "adamw", or "muon": Muon for kernels between hidden channels and AdamW for the rest, which
        learns more from as many steps.
    loss : str
        "squares": errors weighted by the noise level; "log": the PSNR of each image. See the notes.
    weight_decay : float
        On tensors of two or more dimensions.
    clip : float
        Largest norm of the gradient; 0: any.
    ema : float
        Decay of the running average of the weights, which is validated and saved; 0: none.
    sigma_max : float
        Noise levels are uniform in [0, sigma_max].
    precision : str
        "float32", or "bfloat16" or "float16" (CUDA only) for autocast.
    seed : int
    device : str
    checkpoint_every, validate_every : int
        Steps between checkpoints, and between rows of the log.
    card : dict
        What the header of the weights says of them.

    Raises
    ------
    InputError, InputTypeError
        For settings that make no sense.

    Notes
    -----
    Each step takes ``batch`` random images, cuts a window of each, turns it by a random symmetry of
    the square and adds Gaussian noise. The network sees no pixel outside the window: beyond its
    border the window is continued by reflection, as at inference. For jittered pixels the clean
    image is interpolated (bicubic).

    "pairs" adds white noise to the first image of a pair, so that both together have a level that
    is uniform in [level, sigma_max], and asks for the second one (Noise2Noise, Lehtinen et al.
    2018).

    "upscale" shrinks the window (antialiased bicubic, the coarse grid at a random sub-pixel shift)
    and adds the noise to the small image; ``sigma_max = 0``: none.

    With e the mean square of D(x) - clean over an image, the loss is the mean over the batch of
    :math:`e / (\sigma^2 + (5/255)^2)^{0.6}` ("squares") or of :math:`0.01 \log(1 + 255^2 e)`
    ("log"), which asks for the PSNR, so that smooth images count as much as textures. AdamW has
    betas (0.9, 0.99). Kernels between hidden channels are tensors with 16 or more inputs and
    outputs; Muon (Jordan 2024) makes their steps orthogonal. The decay of the average is min(ema,
    (1 + k) / (10 + k)) at step k.

    Under ``torchrun``, every process takes its share of the batch, on a GPU of its own with
    ``device = "cuda"``. The result is that of one process, to rounding.
    """

    data: str | list[str]
    out: str
    validation: str | list[str] | None = None
    window: list[float] | None = None
    denoiser: str = "mlpatch"
    model: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    task: str = "denoise"
    level: float = 0.0
    factor: float = 2
    queries: int = 512
    size: int = 128
    crop: int = 12
    pixels: int = 0
    jitter: float = 0.0
    scale: float = 1.0
    permute: bool = False
    batch: int = 64
    steps: int = 20_000
    lr: float = 1e-3
    warmup: int = 300
    optimizer: str = "adamw"
    loss: str = "squares"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    sigma_max: float = 60 / 255
    precision: str = "float32"
    seed: int = 0
    device: str = "cpu"
    checkpoint_every: int = 1000
    validate_every: int = 5000
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in COUNTS:
            self._check(name, _integer(getattr(self, name), 1), "must be an integer >= 1")
        for name in ("warmup", "seed", "pixels"):
            self._check(name, _integer(getattr(self, name), 0), "must be an integer >= 0")
        for name in ("weight_decay", "clip", "sigma_max"):
            self._check(name, _at_least(getattr(self, name), 0), "must be finite and >= 0")
        self._check("lr", _at_least(self.lr, 0) and self.lr > 0, "must be finite and > 0")
        for name in ("model", "card"):
            if not isinstance(getattr(self, name), dict):
                raise InputTypeError(
                    f"train: {name} must be a table of settings, [{name}] in a file, "
                    f"got {getattr(self, name)!r}."
                )
        if not isinstance(self.permute, bool):
            raise InputTypeError(f"train: permute must be true or false, got {self.permute!r}.")
        for name, known in (
            ("task", TASKS),
            ("precision", PRECISIONS),
            ("optimizer", OPTIMIZERS),
            ("loss", LOSSES),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"train: {name} must be {' or '.join(map(repr, known))}, "
                    f"got {getattr(self, name)!r}."
                )
        check_data(self.data, "data")
        if self.validation is not None:
            check_data(self.validation, "validation")
        check_window(self.window)
        self._check_task()
        self._check_ranges()

    def _check(self, name: str, fine: bool, expected: str) -> None:
        """Raise unless a setting is fine."""
        if not fine:
            raise InputError(f"train: {name} {expected}, got {getattr(self, name)!r}.")

    def _check_task(self) -> None:
        """Check what is asked for of each window."""
        if self.crop > self.size:
            raise InputError(
                f"train: crop ({self.crop}) must not be larger than size ({self.size})."
            )
        if self.pixels and self.crop != 1:
            raise InputError(
                f"train: pixels ({self.pixels}) asks for single random pixels; set crop = 1 with "
                f"it, got crop = {self.crop}."
            )
        if self.sigma_max == 0 and self.task != "upscale":
            raise InputError(
                "train: sigma_max must be > 0 to learn to denoise, got 0. "
                "Only task = 'upscale' goes without noise."
            )
        pairs = self.task == "pairs"
        if not _at_least(self.level, 0) or (self.level and not pairs):
            raise InputError(
                "train: level is the noise of the images of task = 'pairs', a number >= 0; got "
                f"{self.level!r} for '{self.task}'."
            )
        if pairs and self.level >= self.sigma_max:
            raise InputError(
                f"train: level ({self.level:.4g}) must be below sigma_max ({self.sigma_max:.4g}), "
                "the top of the noise that the network learns."
            )
        if pairs and (self.validation or self.pixels or self.permute or self.scale < 1):
            raise InputError(
                "train: task 'pairs' goes without validation, pixels, permute and scale. Leave "
                "them out."
            )

    def _check_ranges(self) -> None:
        """Check the numbers that have a range of their own."""
        jitter, scale, ema, factor = self.jitter, self.scale, self.ema, self.factor
        if not _at_least(jitter, 0) or jitter > 0.5 or (jitter and not self.pixels):
            raise InputError(
                "train: jitter moves random pixels by 0 to 0.5 pixels; set pixels > 0 with it, "
                f"got jitter = {jitter!r}."
            )
        if not _at_least(scale, 0.1) or scale > 1 or (scale < 1 and self.task != "denoise"):
            raise InputError(
                f"train: scale must be in [0.1, 1], and 1 for task 'upscale'; got {scale!r}."
            )
        if not _at_least(ema, 0) or ema >= 1:
            raise InputError(
                f"train: ema must be in [0, 1), got {ema!r}. It is the decay of the average; "
                "0 turns it off."
            )
        if not _at_least(factor, 1) or factor == 1 or factor > self.size:
            raise InputError(
                f"train: factor must be > 1 and at most size ({self.size}), got {factor!r}."
            )

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> TrainConfig:
        """Read a TOML file.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        TrainConfig

        Raises
        ------
        InputTypeError
            For keys that are unknown, by name, or missing.
        """
        return cls.from_dict(read_toml(path), source=str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "train") -> TrainConfig:
        """Make the settings from a dictionary.

        Parameters
        ----------
        values : dict
        source : str
            Where they come from, for messages.

        Returns
        -------
        TrainConfig

        Raises
        ------
        InputTypeError
            For keys that are unknown, by name, or missing.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise InputTypeError(
                    f"{source}: unknown setting '{key}'. {did_you_mean(key, known)}"
                    f"Known: {', '.join(known)}."
                )
        for key in ("data", "out"):
            if key not in values:
                raise InputTypeError(
                    f"{source}: '{key}' is missing; it names the folder of "
                    f"{'images' if key == 'data' else 'results'}."
                )
        return cls(**values)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the settings that need not be given.

        Returns
        -------
        dict
            With their defaults.
        """
        plain = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
        return plain | {
            f.name: f.default_factory() for f in fields(cls) if f.default_factory is not MISSING
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dictionary.

        Returns
        -------
        dict
        """
        return asdict(self)


def _integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _at_least(value: Any, least: float) -> bool:
    return finite_number(value) and value >= least
