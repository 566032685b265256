"""Stripes in sinograms, which are rings in images, removed by the package algotom."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError


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
    InputError
        If algotom refuses the sinogram.

    References
    ----------
    Vo, Atwood and Drakopoulos, Superior techniques for eliminating ring artifacts in X-ray
    micro-tomography, Optics Express 2018: algotom's ``remove_all_stripe``, with its defaults.
    """
    removal = require("algotom.prep.removal", "Removing stripes")
    alive = np.flatnonzero(seen.numpy().any(0))
    if not len(alive):
        return torch.zeros_like(q)
    part = slice(int(alive[0]), int(alive[-1]) + 1)  # without a margin of elements that saw nothing
    values, known = q[:, part].double().numpy().copy(), seen[:, part].numpy()
    places = np.arange(values.shape[1])
    for row, mask in zip(values, known, strict=True):
        if mask.any() and not mask.all():
            row[~mask] = np.interp(places[~mask], places[mask], row[mask])
    try:
        clean = removal.remove_all_stripe(values)
    except ValueError as error:
        raise InputError(
            f"stripes: algotom does not filter this sinogram of {values.shape[0]} angles x "
            f"{values.shape[1]} detectors ({error}). Leave out stripes (--stripes)."
        ) from error
    found = torch.zeros_like(q)
    found[:, part] = torch.from_numpy(np.ascontiguousarray(clean)).to(q)
    return torch.where(seen, found, 0.0)


__all__ = ["remove_stripes"]
