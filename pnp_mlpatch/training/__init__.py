"""Training of denoisers: ``TrainConfig`` and ``train``."""

from pnp_mlpatch.training.config import TrainConfig
from pnp_mlpatch.training.loop import train

__all__ = ["TrainConfig", "train"]
