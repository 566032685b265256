"""How large the voxels of a volume are, and in which unit."""

from __future__ import annotations

from dataclasses import dataclass

LENGTHS = {  # the name of OME-NGFF and of UDUNITS-2, and micrometres
    "m": ("meter", 1e6),
    "cm": ("centimeter", 1e4),
    "mm": ("millimeter", 1e3),
    "um": ("micrometer", 1.0),
    "nm": ("nanometer", 1e-3),
}


@dataclass(frozen=True)
class Voxels:
    """Voxels of a volume, for the header of its file.

    Parameters
    ----------
    size : tuple of float
        (dz, dy, dx): the distance of slices, of rows and of columns.
    length : str
        The unit of these: "m", "cm", "mm", "um" or "nm"; "" where it is unknown.
    units : str
        The unit of the values, such as "HU" or "1 / mm".
    """

    size: tuple[float, float, float]
    length: str = ""
    units: str = ""

    @property
    def name(self) -> str | None:
        """The unit of length as OME-NGFF calls it, or None."""
        return LENGTHS[self.length][0] if self.length else None

    @property
    def micrometres(self) -> tuple[float, ...] | None:
        """The size in micrometres, or None."""
        if not self.length:
            return None
        return tuple(float(f"{side * LENGTHS[self.length][1]:.12g}") for side in self.size)


__all__ = ["LENGTHS", "Voxels"]
