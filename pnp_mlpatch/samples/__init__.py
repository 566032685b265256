"""Two real 512 x 512 images, and a sky to map, that ship with the package, for examples and tests; sources and licences are in NOTICE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.io.images import read_image

_FOLDER = Path(__file__).parent


def chest_ct() -> Tensor:
    """A chest CT slice (1, 1, 512, 512) in Hounsfield units, -1024 to about 1500; pixels of 0.84 mm."""
    return (read_image(_FOLDER / "chest_ct_512.png") * 65535).round() - 1024


def camera() -> Tensor:
    """A grey photograph (1, 1, 512, 512) in [0, 1]."""
    return read_image(_FOLDER / "camera_512.png")


def lensing() -> tuple[Tensor, Tensor, str]:
    """A simulated convergence (360, 360), the noise of a real survey (360, 360), and the side of a pixel, "0.293 arcmin".

    The convergence is of kappaTNG; the noise is the standard deviation of each component of the shear of COSMOS, 51 galaxies for each
    square arcminute, infinite where nothing was measured.
    """
    with np.load(_FOLDER / "lensing_360.npz") as file:
        kappa, std = (torch.from_numpy(file[name].astype(np.float32)) for name in ("kappa", "std"))
    return kappa, torch.where(std > 0, std, torch.inf), "0.293 arcmin"
