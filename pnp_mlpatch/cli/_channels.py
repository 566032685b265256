"""The channels of images of ``solve``: E and B modes, real and imaginary parts."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser, describe, e_mode, for_complex, per_channel
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.arrays import read_complex
from pnp_mlpatch.operators import LinearOperator

LEAST, MOST = 0.1, 10.0  # the largest magnitude of samples of mri in the right units


def truth_of(picture: Tensor, operator: str) -> Tensor:
    """Return the truth that a picture (1, C, H, W) stands for.

    A grey picture is the E mode of lensing, and the real part of a complex image of mri.
    """
    if picture.shape[1] != 1 or operator not in ("lensing", "mri"):
        return picture
    if operator == "lensing":  # shear does not see its mean, and there is no B mode
        picture = picture - picture.mean()
    return torch.cat([picture, torch.zeros_like(picture)], dim=1)


def fit(D: Denoiser, operator: str, A: LinearOperator) -> Denoiser:
    """Adapt D to the channels of A's images.

    ``e_mode`` for lensing, ``complex_channels`` for complex images where D takes grey ones,
    ``per_channel`` where D takes one channel and there are more.
    """
    known = describe(D).channels
    if operator == "lensing" and known != 2:
        return e_mode(D)
    if A.complex_image:
        return for_complex(D)
    return per_channel(D) if known == 1 and A.image_shape[0] > 1 else D


def shown(x: Tensor, A: LinearOperator) -> Tensor:
    """Return what is written and scored: of a complex image its magnitude (1, 1, H, W)."""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True) if A.complex_image else x


def in_scale(x0: Tensor, A: LinearOperator) -> Tensor:
    """Return the start; warn where samples of mri make magnitudes far from [0, 1]."""
    largest = float(shown(x0, A).max()) if A.complex_image else 1.0
    if largest > 0 and not LEAST <= largest <= MOST:
        warnings.warn(
            f"mri: the magnitudes of the zero-filled image reach {largest:.3g}, and denoisers are "
            "made for images in [0, 1]. Divide the data and noise by about that.",
            stacklevel=2,
        )
    return x0


def read_kspace(path: Path) -> Tensor:
    """Read Fourier samples of mri from a .npy file: (1, 2, H, W) or (1, coils, 2, H, W)."""
    if path.suffix.lower() != ".npy":
        raise InputError(
            f"{path}: the data of mri are a .npy file, complex (H, W) or (coils, H, W), or real "
            "with both parts: (2, H, W) or (coils, 2, H, W)."
        )
    q = read_complex(path).float()
    return q if q.ndim > 3 and len(q) == 1 else q[None]
