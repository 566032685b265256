"""Plug-and-play reconstruction: operators, denoisers and solvers that meet in a registry.

>>> from pnp_mlpatch import denoisers, operators, reconstruct, solvers
>>> "mask" in operators.names(), "mlpatch" in denoisers.names(), "admm" in solvers.names()
(True, True, True)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pnp_mlpatch import denoisers, operators, samples, solvers
    from pnp_mlpatch.api import reconstruct
    from pnp_mlpatch.denoisers import (
        as_denoiser,
        averaged,
        contracted,
        e_mode,
        equivariant,
        per_channel,
        rescaled,
    )

__version__ = "0.2.0"

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

_PACKAGES = ("denoisers", "operators", "samples", "solvers")


def __getattr__(name: str) -> Any:
    """Import a name of ``__all__`` when it is first used.

    The command line handles Ctrl-C before torch is imported.
    """
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    found = getattr(
        importlib.import_module(f"{__name__}.{'api' if name == 'reconstruct' else 'denoisers'}"),
        name,
    )
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
