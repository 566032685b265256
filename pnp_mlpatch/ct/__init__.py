"""Computed tomography: scanning geometries, counts, Hounsfield units, and scans in files.

The room knows no operators. The projector of a geometry is
:class:`~pnp_mlpatch.operators.radon.Radon`.
"""

from pnp_mlpatch.ct._detector import BEAMS
from pnp_mlpatch.ct._scan_arguments import AXES
from pnp_mlpatch.ct.counts import dead_bins, line_integrals, simulate_counts
from pnp_mlpatch.ct.dicom import read_dicom
from pnp_mlpatch.ct.geometry import (
    FanBeam,
    Geometry,
    ParallelBeam,
    as_dict,
    coordinates,
    from_dict,
    rays,
    sizes,
)
from pnp_mlpatch.ct.scan import COUNTS, INTEGRALS, Scan, read_scan
from pnp_mlpatch.ct.units import MU_WATER, hounsfield_range, to_attenuation, to_hounsfield
from pnp_mlpatch.ct.volumes import write_volume
from pnp_mlpatch.io.voxels import Voxels

__all__ = [
    "AXES",
    "BEAMS",
    "COUNTS",
    "INTEGRALS",
    "MU_WATER",
    "FanBeam",
    "Geometry",
    "ParallelBeam",
    "Scan",
    "Voxels",
    "as_dict",
    "coordinates",
    "dead_bins",
    "from_dict",
    "hounsfield_range",
    "line_integrals",
    "rays",
    "read_dicom",
    "read_scan",
    "simulate_counts",
    "sizes",
    "to_attenuation",
    "to_hounsfield",
    "write_volume",
]
