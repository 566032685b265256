"""Denoisers by name: ``names()``, ``make(name, ...)``, ``info(name)``; and the bases for writing one."""

from pnp_mlpatch.denoisers._adapt import (
    as_denoiser,
    averaged,
    contracted,
    describe,
    e_mode,
    equivariant,
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
from pnp_mlpatch.denoisers._network import Network

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = [
    "Denoiser",
    "DenoiserInfo",
    "Network",
    "as_denoiser",
    "averaged",
    "check_image",
    "contracted",
    "describe",
    "e_mode",
    "equivariant",
    "get",
    "info",
    "make",
    "names",
    "per_channel",
    "register",
    "registry",
    "rescaled",
    "sigma_column",
]
