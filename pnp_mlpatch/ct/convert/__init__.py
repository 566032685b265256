"""Geometries of other packages: ASTRA, ODL, TIGRE, deepinv, scikit-image. None is imported.

With the axes and signs of :mod:`pnp_mlpatch.ct.geometry` (theta counter-clockwise, rows down, y up,
sinograms (angles, detectors)):

============  =========================  ==============================  =======================
package       angle                      image                           sinogram
============  =========================  ==============================  =======================
ASTRA         theta                      as ours                         as ours
ODL           theta, cell midpoints      [x, y]: ours = rot90(theirs)    as ours
TIGRE         theta - pi / 2             [y, x]: ours = flipud(theirs)   as ours, of the slice
deepinv       theta; fans: theta + pi/2  as ours                         (detectors, angles), see
                                                                         :func:`deepinv_sinogram`
scikit-image  theta, degrees             as ours                         ours = theirs.T
============  =========================  ==============================  =======================
"""

from pnp_mlpatch.ct.convert.astra import from_astra, to_astra
from pnp_mlpatch.ct.convert.deepinv import deepinv_sinogram, from_deepinv
from pnp_mlpatch.ct.convert.odl import from_odl
from pnp_mlpatch.ct.convert.skimage import from_skimage
from pnp_mlpatch.ct.convert.tigre import from_tigre

__all__ = [
    "deepinv_sinogram",
    "from_astra",
    "from_deepinv",
    "from_odl",
    "from_skimage",
    "from_tigre",
    "to_astra",
]
