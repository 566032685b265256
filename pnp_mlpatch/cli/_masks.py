"""Masks that ``solve`` draws at random, where none is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pnp_mlpatch.cli._common import blame
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.mri import cartesian_mask

DRAWN: dict[str, tuple[str, str, tuple[str, ...], Callable[..., Tensor]]] = {
    "mask": (
        "keep",
        "FRACTION, the part of the pixels seen at random, or operator.pattern=RGGB",
        (),
        random_mask,
    ),
    "mri": (
        "acceleration",
        "NUMBER, the columns of the Fourier transform over those sampled at random",
        ("centre_fraction",),
        cartesian_mask,
    ),
}  # operator: the setting that asks for a mask, what it is, others, and the function of (H, W)


def draw_mask(
    name: str, given: dict[str, Any], loaded: dict[str, Any], sizes: Mapping[str, Any]
) -> None:
    """Draw the mask that the settings ask for, in place of them.

    ``given`` are the settings as they were given, which gain the seed; in ``loaded``, the settings
    to call the operator with, the mask takes their place.
    """
    if name not in DRAWN:
        return
    if name == "mask" and "pattern" in given and "mask" not in given:
        with blame("operator.pattern"):
            loaded["mask"] = Mask.bayer(sizes["image_shape"], loaded.pop("pattern")).mask
        return
    key, what, others, make = DRAWN[name]
    if ("mask" in given) == (key in given):
        raise InputError(
            f"the operator '{name}': give either operator.mask=FILE or operator.{key}={what}."
        )
    if key in given:
        given.setdefault("seed", 0)
        names = [k for k in (key, "seed", *others) if k in given]
        with blame(", ".join(f"operator.{k}" for k in names)):
            settings = {k: given[k] for k in names}
            loaded["mask"] = make(tuple(sizes["image_shape"][1:]), **settings)
        for k in names:
            loaded.pop(k, None)
