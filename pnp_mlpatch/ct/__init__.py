"""Computed tomography: scanning geometries, counts, Hounsfield units, and the files that scans come in."""

from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam

__all__ = ["FanBeam", "Geometry", "ParallelBeam"]
