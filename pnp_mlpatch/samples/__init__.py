"""Two real images of 512 x 512 pixels and a simulated sky, for examples and tests.

Sources and licences are in NOTICE.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.io.images import read_image

_FOLDER = Path(__file__).parent


def chest_ct() -> Tensor:
    """Load a chest CT slice, pixels of 0.84 mm.

    Returns
    -------
    Tensor, shape (1, 1, 512, 512)
        Hounsfield units, -1024 to about 1500.
    """
    return (read_image(_FOLDER / "chest_ct_512.png") * 65535).round() - 1024


def camera() -> Tensor:
    """Load a grey photograph.

    Returns
    -------
    Tensor, shape (1, 1, 512, 512)
        In [0, 1].
    """
    return read_image(_FOLDER / "camera_512.png")


def lensing() -> tuple[Tensor, Tensor, str]:
    """Load a simulated convergence and the noise of a real survey.

    The convergence is of kappaTNG; the noise is that of COSMOS, 51 galaxies per square arcminute.

    Returns
    -------
    kappa : Tensor, shape (360, 360)
        The convergence.
    noise : Tensor, shape (360, 360)
        Standard deviation of each component of the shear, infinite where nothing was measured.
    pixel : str
        Side of a pixel, "0.293 arcmin".
    """
    with np.load(_FOLDER / "lensing_360.npz") as file:
        kappa, std = (torch.from_numpy(file[name].astype(np.float32)) for name in ("kappa", "std"))
    return kappa, torch.where(std > 0, std, torch.inf), "0.293 arcmin"
