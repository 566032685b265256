"""How near a reconstruction is to the truth, which may be on another device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError


def _pair(x: Tensor, truth: Tensor, who: str, data_range: float = 1.0) -> None:
    if not (isinstance(x, Tensor) and isinstance(truth, Tensor)):
        raise InputTypeError(
            f"{who}: both images must be torch tensors, "
            f"got {type(x).__name__} and {type(truth).__name__}."
        )
    if not (x.is_floating_point() and truth.is_floating_point()):
        raise InputTypeError(
            f"{who}: both images must hold real floats, got {x.dtype} and {truth.dtype}. "
            "Give x.float() / 255 for 8 bit."
        )
    if not data_range > 0:
        raise InputError(f"{who}: data_range must be > 0, got {data_range}.")
    if x.shape != truth.shape or x.ndim != 4:
        raise InputError(
            f"{who}: both images must have one shape (B, C, H, W), "
            f"got {tuple(x.shape)} and {tuple(truth.shape)}."
        )


def mse(x: Tensor, truth: Tensor) -> Tensor:
    """Return the mean squared error of each image.

    Parameters
    ----------
    x, truth : Tensor, shape (B, C, H, W)
        The images, real floats.

    Returns
    -------
    Tensor, shape (B,), float64
    """
    _pair(x, truth, "mse")
    return (x.double() - truth.to(x.device).double()).square().mean(dim=(1, 2, 3))


def psnr(x: Tensor, truth: Tensor, data_range: float = 1.0) -> Tensor:
    r"""Return the peak signal-to-noise ratio of each image, in dB.

    .. math:: 10 \log_{10}(range^2 / mse)

    Parameters
    ----------
    x, truth : Tensor, shape (B, C, H, W)
        The images, real floats.
    data_range : float
        The range of values, 1 for images in [0, 1].

    Returns
    -------
    Tensor, shape (B,), float64
        Infinite for equal images.
    """
    _pair(x, truth, "psnr", data_range)
    return 10 * torch.log10(data_range**2 / mse(x, truth))


def ssim(x: Tensor, truth: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the structural similarity of each image, 1 for equal images.

    Gaussian window of standard deviation 1.5 cut at 11 x 11, K1 = 0.01, K2 = 0.03, mean over the
    pixels whose window lies inside the image and over channels.

    Parameters
    ----------
    x, truth : Tensor, shape (B, C, H, W)
        The images, real floats.
    data_range : float
        The range of values, 1 for images in [0, 1].

    Returns
    -------
    Tensor, shape (B,), float64

    Raises
    ------
    InputError
        For images smaller than 11 x 11.

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli 2004.
    """
    _pair(x, truth, "ssim", data_range)
    if min(x.shape[-2:]) < 11:
        raise InputError(
            f"ssim: its window is 11 x 11, the images have {x.shape[-2]} x {x.shape[-1]} pixels."
        )
    a, b = (v.to(x.device).double().flatten(0, 1)[:, None] for v in (x, truth))
    t = torch.arange(-5, 6, dtype=torch.float64, device=x.device)
    g = torch.exp(-(t**2) / (2 * 1.5**2))
    g = g / g.sum()

    def mean(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, g[None, None, :, None]), g[None, None, None, :])

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    value = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return value.reshape(x.shape[0], -1).mean(dim=1)
