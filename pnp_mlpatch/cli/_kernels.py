"""The point spread function of ``--operator blur``: from a file, or by numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pnp_mlpatch.cli._common import blame
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.blur import disk_psf, gaussian_psf, motion_psf

KERNELS = {"gaussian": gaussian_psf, "motion": motion_psf, "disk": disk_psf}


def blur_settings(
    given: Mapping[str, Any], loaded: Mapping[str, Any], measured: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings as they are reported, and as the operator takes them.

    Parameters
    ----------
    given : mapping
        Settings by name, with files by their paths.
    loaded : mapping
        The same with what is in the files. In place of psf there may be one of ``KERNELS``.
    measured : bool
        Whether image_shape is that of the data: with a border that they do not see, the image is
        larger.

    Returns
    -------
    tuple of dict

    Raises
    ------
    InputError
        If not exactly one point spread function is given.
    """
    made, kinds = dict(loaded), [name for name in ("psf", *KERNELS) if name in given]
    if len(kinds) != 1:
        raise InputError(
            "the operator 'blur': give one of operator.psf=FILE, operator.gaussian=WIDTH, "
            "operator.motion=[LENGTH, ANGLE] and operator.disk=RADIUS (pixels and radians); "
            f"got {' and '.join(kinds) or 'none'}."
        )
    if kinds[0] in KERNELS:
        numbers = made.pop(kinds[0])
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if not 1 <= len(numbers) <= (2 if kinds[0] == "motion" else 1):
            raise InputTypeError(
                f"operator.{kinds[0]}: expected one number, of motion a length and an angle, "
                f"got {numbers}."
            )
        with blame(f"operator.{kinds[0]}"):
            made["psf"] = KERNELS[kinds[0]](*numbers)
    reported = dict(given)
    psf, boundary = made["psf"], made.get("boundary")
    if measured and boundary == "valid" and isinstance(psf, Tensor) and psf.ndim == 2:
        channels, height, width = made["image_shape"]
        made["image_shape"] = (channels, height + psf.shape[0] - 1, width + psf.shape[1] - 1)
        reported["image_shape"] = made["image_shape"]
    return reported, made


__all__ = ["KERNELS", "blur_settings"]
