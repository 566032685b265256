"""Geometries of scikit-image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pnp_mlpatch.ct.convert._checks import Values, as_count, as_vector, warn_half
from pnp_mlpatch.ct.geometry import ParallelBeam
from pnp_mlpatch.errors import InputError

WHO = "from_skimage"


def from_skimage(shape: Sequence[int], theta: Values, circle: bool = True) -> ParallelBeam:
    """Convert the geometry of ``skimage.transform.radon(image, theta, circle)``.

    Parameters
    ----------
    shape : sequence of int
        The image (H, W).
    theta : sequence of float
        Degrees.
    circle : bool
        Whether the detector has D = min(H, W) elements; else D = ceil(sqrt(2) max(H, W)).

    Returns
    -------
    ParallelBeam

    Raises
    ------
    InputError
        For another shape, or what the geometry refuses.

    Warns
    -----
    UserWarning
        Where H or W is even: scikit-image turns about the pixel (H // 2, W // 2), which is then
        half a pixel from the centre.

    Notes
    -----
    Angles and images are ours. Its sinogram is (detectors, angles): ours = theirs.T. The axis is
    projected to the element D // 2: the offset is 0 for odd D, -1/2 for even.
    """
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise InputError(f"{WHO}: shape must be (H, W), got {shape!r}.")
    height, width = (as_count(n, "shape", WHO) for n in shape)
    least = min(height, width)
    count = least if circle else math.ceil(math.sqrt(2) * max(height, width))
    axis = [  # the pixel of the axis of rotation
        -(-(n - least) // 2) + least // 2 if circle else n // 2 for n in (height, width)
    ]
    if any(2 * place != n - 1 for place, n in zip(axis, (height, width), strict=True)):
        what = f"scikit-image turns about the pixel {tuple(axis)}"
        warn_half(WHO, what, "Odd H and W avoid it.")
    return ParallelBeam(
        (height, width),
        as_vector(theta, "theta", WHO),
        count,
        offset=(count - 1) / 2 - count // 2,
        degrees=True,
    )


__all__ = ["from_skimage"]
