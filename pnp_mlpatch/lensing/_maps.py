"""The parts of :func:`pnp_mlpatch.lensing.fits.read_shear`: components, mask, noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.lensing._hdus import (
    as_plane,
    hdu_names,
    image_numbers,
    listed,
    read_image,
    with_fits,
)
from pnp_mlpatch.lensing.units import pixel_noise

PAIRS, CUBES = (("GAMMA1", "GAMMA2"), ("E1", "E2"), ("G1", "G2")), ("SHEAR", "GAMMA")
Source = str | int | Tensor  # of a map


def components(
    path: Path, gamma1: str | int | None, gamma2: str | int | None
) -> tuple[Tensor, str]:
    """Read gamma (2, H, W), and the cards of the header of gamma_1."""
    for name, value in (("gamma1", gamma1), ("gamma2", gamma2)):
        if isinstance(value, bool) or not (value is None or isinstance(value, (str, int))):
            raise InputTypeError(
                f"read_shear: {name} must be the name or number of an HDU, got {value!r}."
            )
    if gamma1 is None and gamma2 is not None:
        raise InputError(
            "read_shear: gamma2 is named but gamma1 is not. "
            "Name both, or with gamma1 alone a cube (2, H, W)."
        )
    if gamma1 is None and path.suffix.lower() != ".npy":
        gamma1, gamma2 = _default_components(path)
    data, cards, name = read_image(path, gamma1)
    if gamma2 is not None:
        other, _, other_name = read_image(path, gamma2)
        first, second = as_plane(data, name), as_plane(other, other_name)
        if first.shape != second.shape:
            raise InputError(
                f"{name} is {tuple(first.shape)} but {other_name} is {tuple(second.shape)}. "
                "Both components need one shape."
            )
        return torch.stack([first, second]), cards
    if data.ndim != 3 or data.shape[0] != 2:
        raise InputError(
            f"{name}: expected a cube (2, H, W) of both components, got {data.shape}. "
            "Of two images, name gamma1 and gamma2."
        )
    return torch.from_numpy(data), cards


def _default_components(path: Path) -> tuple[str | int, str | None]:
    """Return the names of the components where none was given: a pair, or a cube and None."""
    names = hdu_names(path)
    for pair in PAIRS:
        if set(pair) <= set(names):
            return pair
    cube = next((name for name in CUBES if name in names), None) or with_fits(path, _only_cube)
    if cube is None:
        wanted = ", ".join(" and ".join(pair) for pair in PAIRS)
        raise FileError(
            f"{path}: expected images {wanted}, or a cube (2, H, W) named {' or '.join(CUBES)}; "
            f"images in the file: {listed(path)}. Name them: gamma1='NAME', gamma2='NAME'."
        )
    return cube, None


def _only_cube(hdus: Any) -> int | None:
    """Return the number of the only image of a file, if it is a cube of two components."""
    images = image_numbers(hdus)
    shape = hdus[images[0]].shape if len(images) == 1 else ()
    return images[0] if len(shape) == 3 and shape[0] == 2 else None


def mask_of(mask: Source | None, path: Path, gamma: Tensor) -> Tensor:
    """Return the mask as booleans; all True without one."""
    shape = tuple(gamma.shape[1:])
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    values = map_of(mask, path, shape, "mask")
    if bad := int(torch.isnan(values).sum()):
        raise InputError(
            f"{path}: {bad} pixels of the mask are NaN. Put 0 where nothing is seen, 1 elsewhere."
        )
    return values != 0


def noise_of_density(
    n_gal: float | Source, path: Path, gamma: Tensor, inside: Tensor, side: str, shape_noise: float
) -> Tensor:
    """Return the noise map of a density of galaxies; infinite where there are none."""
    seen = torch.isfinite(gamma).all(0)
    density = map_of(n_gal, path, tuple(gamma.shape[1:]), "n_gal")
    density = torch.where(inside & (seen | (density > 0)), density, 0.0)
    if bad := int((~(density >= 0) | torch.isinf(density)).sum()):
        raise InputError(
            f"{path}: n_gal of {bad} pixels is NaN, infinite or negative. "
            "Give galaxies per square arcminute, or mask these pixels."
        )
    if not bool(density.any()):
        return torch.full_like(density, math.inf)
    return torch.as_tensor(pixel_noise(density, side, shape_noise))


def map_of(value: Any, path: Path, shape: tuple[int, ...], what: str) -> Tensor:
    """Return a map (H, W) float64 from a number, a tensor, or the name of an image."""
    number = finite_number(value) or (isinstance(value, str) and _is_number(value))
    if isinstance(value, Tensor) and not value.is_complex():
        values, name = value.detach().cpu().double(), f"read_shear: {what}"
    elif what != "mask" and number:
        if not float(value) > 0:
            raise InputError(f"read_shear: {what} must be > 0, got {value!r}.")
        return torch.full(shape, float(value), dtype=torch.float64)
    elif isinstance(value, str) or (
        what == "mask" and isinstance(value, int) and not isinstance(value, bool)
    ):
        data, _, name = read_image(path, value)
        values = as_plane(data, name)
    else:
        raise InputTypeError(
            f"read_shear: {what} must be a number, a tensor (H, W) or the name of an image, "
            f"got {value!r}."
        )
    if tuple(values.shape) != shape:
        raise InputError(
            f"{name} is {tuple(values.shape)}, the shear is {shape}. Both need one shape."
        )
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
