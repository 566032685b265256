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

TASKS = ("denoise", "upscale")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of :func:`~pnp_mlpatch.training.train`.

    ``denoiser`` is the name of a trainable denoiser, ``model`` its settings. ``init`` starts from trained weights of the same kind
    and shapes, a shipped name or a path; where ``model`` is empty, they bring its settings. ``out`` gets the weights, with ``card``
    in their header, the log, and every ``checkpoint_every`` steps a checkpoint; every ``validate_every`` steps the PSNR over
    ``validation`` goes to the log.

    ``data`` is a folder of pictures, a stack of images in an array (N, H, W) or (N, C, H, W), "procedural" (random pictures of
    discs, boxes, gradients and gratings), "convergence" (log-normal mass maps, about zero), or a list of these; ``validation`` likewise. A stack is FILE.npy, .npz, .h5 or .zarr, or
    FILE:NAME where the file holds several arrays; its values lie in [0, 1], or in ``window`` = [low, high], which is mapped to it.

    Each step takes ``batch`` random images, cuts a window of ``size`` x ``size`` pixels, turns it by a random symmetry of the
    square, adds Gaussian noise with sigma uniform in [0, ``sigma_max``], and asks for ``crop`` x ``crop`` denoised pixels at a
    random place of the window; with ``pixels`` > 0 and ``crop = 1``, for so many random pixels of it, each moved by up to
    ``jitter`` pixels, where the clean image is interpolated (bicubic). The network sees no pixel
    outside the window: beyond its border the window is continued by reflection, as at inference.

    With ``scale`` < 1 the window is cut larger and shrunk to ``size`` by a random factor between ``scale`` and 1 (antialiased bicubic);
    ``permute`` puts the channels in random order.

    ``task = "upscale"`` shrinks the window by ``factor`` (antialiased bicubic, the low-resolution grid at a random sub-pixel
    shift), adds the noise to the small image (``sigma_max = 0``: none), and asks for ``queries`` random pixels of the window.

    Loss: mean of (D(x) - clean)^2 / (sigma^2 + (5/255)^2)^0.6, for both tasks. AdamW, betas (0.9, 0.99), ``weight_decay`` on
    tensors of two or more dimensions; ``warmup`` steps up to ``lr``, then a cosine down to zero at ``steps``. A gradient whose
    norm over all weights is above ``clip`` is scaled down to it (0: never). ``ema`` is the decay of the running average of the
    weights, min(ema, (1 + k) / (10 + k)) at step k (0: none): what is validated and saved is that average.

    ``precision`` is "float32", "bfloat16" or "float16" (autocast; the weights stay float32; "float16" on CUDA only). Under
    ``torchrun``, every process takes its share of the batch, on a GPU of its own with ``device = "cuda"``; the result is that of
    one process, to rounding.
    """

    data: str | list[str]
    out: str
    validation: str | list[str] | None = None
    window: list[float] | None = None
    denoiser: str = "mlpatch"
    model: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    task: str = "denoise"
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
        def integer(name: str, low: int) -> None:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(f"train: {name} must be an integer >= {low}, got {value!r}.")

        for name in (
            "size",
            "crop",
            "batch",
            "steps",
            "queries",
            "checkpoint_every",
            "validate_every",
        ):
            integer(name, 1)
        for name in ("warmup", "seed", "pixels"):
            integer(name, 0)
        if self.crop > self.size:
            raise InputError(
                f"train: crop ({self.crop}) must not be larger than size ({self.size})."
            )
        if self.pixels and self.crop != 1:
            raise InputError(
                f"train: pixels ({self.pixels}) asks for single random pixels; set crop = 1 with it, got crop = {self.crop}."
            )
        if (
            not finite_number(self.jitter)
            or not 0 <= self.jitter <= 0.5
            or (self.jitter and not self.pixels)
        ):
            raise InputError(
                f"train: jitter moves random pixels by 0 to 0.5 pixels; set pixels > 0 with it, got jitter = {self.jitter!r}."
            )
        if (
            not finite_number(self.scale)
            or not 0.1 <= self.scale <= 1
            or (self.scale < 1 and self.task != "denoise")
        ):
            raise InputError(
                f"train: scale must be in [0.1, 1], and 1 for task 'upscale'; got {self.scale!r}."
            )
        if not isinstance(self.permute, bool):
            raise InputTypeError(f"train: permute must be true or false, got {self.permute!r}.")
        check_data(self.data, "data")
        if self.validation is not None:
            check_data(self.validation, "validation")
        check_window(self.window)
        for name in ("model", "card"):
            if not isinstance(getattr(self, name), dict):
                raise InputTypeError(
                    f"train: {name} must be a table of settings, [{name}] in a file, got {getattr(self, name)!r}."
                )
        for name, known in (("task", TASKS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"train: {name} must be {' or '.join(map(repr, known))}, got {getattr(self, name)!r}."
                )
        if not finite_number(self.lr) or self.lr <= 0:
            raise InputError(f"train: lr must be finite and > 0, got {self.lr!r}.")
        for name in ("weight_decay", "clip", "sigma_max"):
            if not finite_number(getattr(self, name)) or getattr(self, name) < 0:
                raise InputError(
                    f"train: {name} must be finite and >= 0, got {getattr(self, name)!r}."
                )
        if self.sigma_max == 0 and self.task == "denoise":
            raise InputError(
                "train: sigma_max must be > 0 to learn to denoise, got 0. Only task = 'upscale' goes without noise."
            )
        if not finite_number(self.ema) or not 0 <= self.ema < 1:
            raise InputError(
                f"train: ema must be in [0, 1), got {self.ema!r}. It is the decay of the average; 0 turns it off."
            )
        if not finite_number(self.factor) or not 1 < self.factor <= self.size:
            raise InputError(
                f"train: factor must be > 1 and at most size ({self.size}), got {self.factor!r}."
            )

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> TrainConfig:
        """Read a TOML file; unknown keys are refused by name."""
        return cls.from_dict(read_toml(path), source=str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "train") -> TrainConfig:
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise InputTypeError(
                    f"{source}: unknown setting '{key}'. {did_you_mean(key, known)}Known: {', '.join(known)}."
                )
        for key in ("data", "out"):
            if key not in values:
                raise InputTypeError(
                    f"{source}: '{key}' is missing; it names the folder of {'images' if key == 'data' else 'results'}."
                )
        return cls(**values)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The settings that need not be given, with their defaults."""
        plain = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
        return plain | {
            f.name: f.default_factory() for f in fields(cls) if f.default_factory is not MISSING
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
