"""The settings of a training run, one frozen dataclass; a TOML file holds the same keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import Any

from pnp_mlpatch.errors import InputError, InputTypeError, finite_number
from pnp_mlpatch.registry import did_you_mean
from pnp_mlpatch.weights import read_toml


@dataclass(frozen=True)
class TrainConfig:
    """Settings of :func:`~pnp_mlpatch.training.train`.

    ``denoiser`` is the name of a trainable denoiser, ``model`` its settings. ``data`` is a folder of pictures; ``out`` gets the
    weights, with ``card`` in their header, the log, and every ``checkpoint_every`` steps a checkpoint; every ``validate_every``
    steps the PSNR over the folder ``validation`` goes to the log.

    Each step takes ``batch`` random images, cuts a window of ``size`` x ``size`` pixels, turns it by a random symmetry of the
    square, adds Gaussian noise with sigma uniform in [0, ``sigma_max``], and asks for ``crop`` x
    ``crop`` denoised pixels at a random place of the window (``crop = 1``: random pixels). The network sees no pixel outside
    the window: beyond its border the window is continued by reflection, as at inference.

    Loss: mean of (D(x) - clean)^2 / (sigma^2 + (5/255)^2)^0.6. Adam, betas (0.9, 0.99), ``warmup`` steps up to ``lr``, then
    a cosine down to zero at ``steps``. ``precision`` is "float32" or "bfloat16" (autocast; the weights stay float32).
    """

    data: str
    out: str
    validation: str | None = None
    denoiser: str = "mlpatch"
    model: dict[str, Any] = field(default_factory=dict)
    size: int = 128
    crop: int = 12
    batch: int = 64
    steps: int = 20_000
    lr: float = 1e-3
    warmup: int = 300
    sigma_max: float = 60 / 255
    precision: str = "float32"
    seed: int = 0
    device: str = "cpu"
    checkpoint_every: int = 1000
    validate_every: int = 5000
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("size", "crop", "batch", "steps", "checkpoint_every", "validate_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"train: {name} must be an integer >= 1, got {value!r}.")
        if self.crop > self.size:
            raise InputError(f"train: crop ({self.crop}) must not be larger than size ({self.size}).")
        if not isinstance(self.warmup, int) or self.warmup < 0:
            raise InputError(f"train: warmup must be an integer >= 0, got {self.warmup!r}.")
        if not all(finite_number(value) and value > 0 for value in (self.lr, self.sigma_max)):
            raise InputError(f"train: lr and sigma_max must be finite and > 0, got {self.lr!r} and {self.sigma_max!r}.")
        if self.precision not in ("float32", "bfloat16"):
            raise InputError(f"train: precision must be 'float32' or 'bfloat16', got {self.precision!r}.")

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> TrainConfig:
        """Read a TOML file; unknown keys are refused by name."""
        return cls.from_dict(read_toml(path), source=str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "train") -> TrainConfig:
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise InputTypeError(f"{source}: unknown setting '{key}'. {did_you_mean(key, known)}Known: {', '.join(known)}.")
        for key in ("data", "out"):
            if key not in values:
                raise InputTypeError(f"{source}: '{key}' is missing; it names the folder of {'images' if key == 'data' else 'results'}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
