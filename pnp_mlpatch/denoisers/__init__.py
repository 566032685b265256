"""Denoisers by name: ``names()``, ``make(name, ...)``, ``info(name)``; and the base for writing one."""

from pnp_mlpatch.denoisers.base import Denoiser, DenoiserInfo, register, registry

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = ["Denoiser", "DenoiserInfo", "get", "info", "make", "names", "register"]
