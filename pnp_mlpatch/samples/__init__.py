"""Two real 512 x 512 images that ship with the package, for examples and tests; their sources and licences are in NOTICE."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pnp_mlpatch.imageio import read_image

_FOLDER = Path(__file__).parent


def chest_ct() -> Tensor:
    """A chest CT slice (1, 1, 512, 512) in Hounsfield units, -1024 to about 1500; pixels of 0.84 mm."""
    return (read_image(_FOLDER / "chest_ct_512.png") * 65535).round() - 1024


def camera() -> Tensor:
    """A grey photograph (1, 1, 512, 512) in [0, 1]."""
    return read_image(_FOLDER / "camera_512.png")
