"""How large a detector element is, by what an HDF5 file says."""

from __future__ import annotations

from typing import Any

import numpy as np

from pnp_mlpatch._optional import require

MILLIMETRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns"), 1e-3),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 1e-6),
}
EFFECTIVE = (  # behind the optics, of NXtomo and of Data Exchange; {} is x or y
    "detector/{}_magnified_pixel_size",
    "sample/{}_pixel_size",
    "objective/resolution",
)
CAMERA = (
    "{}_pixel_size",
    "pixel_size_{}",
    "detector_pixel_size_{}",
    "pixel_size",
)
MAGNIFICATION = "objective/magnification"


def element_size(file: Any) -> dict[str, float]:
    """Return the size of a detector element, as the beam is seen by it.

    The size behind the optics is taken where the file has it, or else that of the camera, divided
    by the magnification of the objective. Numbers without a unit are left out.

    Parameters
    ----------
    file : h5py.File
        The open file.

    Returns
    -------
    dict
        "element_mm" and "element_height_mm", where the file tells them.
    """
    held: dict[str, Any] = {}
    h5py = require("h5py", "Reading an HDF5 file")

    def visit(name: str, member: Any) -> None:
        if isinstance(member, h5py.Dataset) and member.size == 1 and member.dtype.kind in "fiu":
            held[f"/{name}"] = member

    file.visititems(visit)
    size = {}
    for axis, key in (("x", "element_mm"), ("y", "element_height_mm")):
        length = _length(held, [end.format(axis) for end in EFFECTIVE])
        if length is None:
            length = _length(held, [end.format(axis) for end in CAMERA])
            scale = next((held[name] for name in held if name.endswith(MAGNIFICATION)), None)
            factor = 1.0 if scale is None else _number(scale)
            length = length / factor if length is not None and factor > 0 else length
        if length is not None:
            size[key] = length
    return size


def _length(held: dict[str, Any], ends: list[str]) -> float | None:
    """Return the first length of these names, in mm."""
    for end in ends:
        for name, member in held.items():
            unit = MILLIMETRES.get(text_of(member.attrs.get("units", "")))
            if name.endswith(f"/{end}") and unit is not None and _number(member) > 0:
                return _number(member) * unit
    return None


def _number(member: Any) -> float:
    return float(np.asarray(member[()]).reshape(-1)[0])


def text_of(value: Any) -> str:
    """Return an attribute as text, whether it is stored as bytes, text or an array of one.

    Parameters
    ----------
    value : str, bytes or ndarray
        The attribute.

    Returns
    -------
    str
    """
    first = np.asarray(value).reshape(-1)[0] if np.size(value) else ""
    return (first.decode(errors="replace") if isinstance(first, bytes) else str(first)).strip()


__all__ = ["element_size", "text_of"]
