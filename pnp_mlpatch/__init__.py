"""Plug-and-play reconstruction: operators, denoisers and solvers that meet in a registry.

>>> from pnp_mlpatch import denoisers, operators, reconstruct, solvers
>>> "mask" in operators.names(), "mlpatch" in denoisers.names(), "admm" in solvers.names()
(True, True, True)
"""

from pnp_mlpatch import denoisers, operators, samples, solvers
from pnp_mlpatch.api import reconstruct
from pnp_mlpatch.denoisers.wrap import as_denoiser, averaged, contracted, e_mode, equivariant, per_channel, rescaled

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "as_denoiser",
    "averaged",
    "contracted",
    "denoisers",
    "e_mode",
    "equivariant",
    "operators",
    "per_channel",
    "reconstruct",
    "rescaled",
    "samples",
    "solvers",
]
