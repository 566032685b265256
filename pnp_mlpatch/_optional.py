"""Packages that are imported where they are used, with the line that installs them."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from types import ModuleType
from typing import Any

from pnp_mlpatch.errors import MissingPackage

# Packages by import name: what to type to get them.
_PIP = {
    "astra": "astra-toolbox",
    "skimage": "scikit-image",
    "PIL": "pillow",
    "yaml": "pyyaml",
}


_torchvision_stubs: list[Any] = []


def require(package: str, needed_by: str) -> ModuleType:
    """Import ``package`` (a dotted name is fine) or raise :class:`MissingPackage` with the pip line.

    The absence of the package, or of one that it imports, is turned into that error; any other fault inside it is shown as it is.
    """
    top = package.partition(".")[0]
    try:
        if top == "deepinv" and importlib.util.find_spec("deepinv") is not None:
            _import_torchvision()
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = (error.name or top).partition(".")[0]
        by = "" if missing in (top, "torchvision") else f" (for '{top}')"
        raise MissingPackage(
            f"{needed_by} needs the package '{missing}'{by}, which is not installed. "
            f"Install it with: pip install {_PIP.get(missing, missing)}"
        ) from error


def _import_torchvision() -> None:
    """Import torchvision even where its compiled operators were built for another torch (CUDA against CPU).

    deepinv imports torchvision at its top, but uses only its Python parts. A torchvision without its compiled
    operators stops at the first fake kernel that it registers; declaring the schema lets it go on.
    """
    for _ in range(8):
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            found = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if found is None:
                raise
            from torch.library import Library

            stub = Library("torchvision", "FRAGMENT")
            stub.define(f"{found[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _torchvision_stubs.append(stub)  # the declaration lives as long as this object
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
