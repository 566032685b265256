"""Denoisers by name: ``names()``, ``make(name, ...)``, ``info(name)``; bases for writing one."""

from pnp_mlpatch.denoisers._adapt import (
    as_denoiser,
    e_mode,
    per_channel,
    rescaled,
)
from pnp_mlpatch.denoisers._base import (
    Denoiser,
    DenoiserInfo,
    check_image,
    register,
    registry,
    sigma_column,
)
from pnp_mlpatch.denoisers._bicubic import reflect, sample
from pnp_mlpatch.denoisers._complex import complex_channels, for_complex
from pnp_mlpatch.denoisers._equivariant import SYMMETRIES, equivariant, turned
from pnp_mlpatch.denoisers._network import Network
from pnp_mlpatch.denoisers._precision import in_precision
from pnp_mlpatch.denoisers._relax import averaged, contracted
from pnp_mlpatch.denoisers._slabs import slabs
from pnp_mlpatch.denoisers._wrapper import describe, fingerprint

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = [
    "SYMMETRIES",
    "Denoiser",
    "DenoiserInfo",
    "Network",
    "as_denoiser",
    "averaged",
    "check_image",
    "complex_channels",
    "contracted",
    "describe",
    "e_mode",
    "equivariant",
    "fingerprint",
    "for_complex",
    "get",
    "in_precision",
    "info",
    "make",
    "names",
    "per_channel",
    "reflect",
    "register",
    "registry",
    "rescaled",
    "sample",
    "sigma_column",
    "slabs",
    "turned",
]
