"""Stripes in sinograms, which are rings in images, removed by the package algotom."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require


def remove_stripes(q: Tensor, seen: Tensor) -> Tensor:
    """Remove all kinds of stripes from the sinogram of one slice.

    Parameters
    ----------
    q : Tensor, shape (angles, detectors)
        Line integrals.
    seen : Tensor, shape (angles, detectors), bool
        What was measured. The rest is interpolated along the detector before, and stays 0.

    Returns
    -------
    Tensor, shape (angles, detectors)

    Raises
    ------
    MissingPackage
        Without algotom.

    References
    ----------
    Vo, Atwood and Drakopoulos, Superior techniques for eliminating ring artifacts in X-ray
    micro-tomography, Optics Express 2018: algotom's ``remove_all_stripe``, with its defaults.
    """
    removal = require("algotom.prep.removal", "Removing stripes")
    values, known = q.double().numpy().copy(), seen.numpy()
    places = np.arange(values.shape[1])
    for row, mask in zip(values, known, strict=True):
        if mask.any() and not mask.all():
            row[~mask] = np.interp(places[~mask], places[mask], row[mask])
    clean = torch.from_numpy(np.ascontiguousarray(removal.remove_all_stripe(values))).to(q)
    return torch.where(seen, clean, 0.0)


__all__ = ["remove_stripes"]
