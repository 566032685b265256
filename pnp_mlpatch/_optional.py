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
    """Import a package, or say how to install it.

    Parameters
    ----------
    package : str
        Its import name; dotted names work.
    needed_by : str
        Who needs it, for the message.

    Returns
    -------
    module

    Raises
    ------
    MissingPackage
        If it, or a package that it imports, is not installed. Other faults inside it are shown as
        they are.
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
    """Import torchvision even where its compiled operators are for another torch (CUDA, CPU).

    deepinv imports torchvision, but uses only its Python parts. A torchvision without its compiled
    operators stops at the first fake kernel that it registers. With the schema declared it goes on.
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
