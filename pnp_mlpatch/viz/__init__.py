"""Pictures: of denoisers, of results, panels of images."""

from pnp_mlpatch.viz.denoiser import (
    equivariance,
    equivariance_error,
    influence,
    patch,
    patches_over,
    receptive_field,
    save,
)
from pnp_mlpatch.viz.result import result_figure

__all__ = [
    "equivariance",
    "equivariance_error",
    "influence",
    "patch",
    "patches_over",
    "receptive_field",
    "result_figure",
    "save",
]
