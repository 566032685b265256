"""Map the convergence of several tomographic bins at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from os import PathLike

import torch

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.lensing import ShearMap
from pnp_mlpatch.pipelines._mass_map_checks import check_map_and_denoiser
from pnp_mlpatch.pipelines._mass_map_run import run_maps
from pnp_mlpatch.pipelines._mass_map_sample import SAVE_EVERY, Running
from pnp_mlpatch.pipelines.mass_map import MassMap, MassMapConfig


def map_mass_bins(
    shears: Sequence[ShearMap] | Mapping[int, ShearMap],
    D: Denoiser,
    config: MassMapConfig | None = None,
    *,
    checkpoint: str | PathLike[str] | None = None,
    save_every: float = SAVE_EVERY,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
) -> list[MassMap]:
    """Map the convergence of tomographic bins, as a batch.

    Each iteration calls the denoiser once for all bins. The bins do not influence each other: the
    maps are those of :func:`~pnp_mlpatch.pipelines.mass_map.map_mass` of each bin, up to rounding,
    with the same seed and padding. The level of the denoiser is that of each bin. Without
    ``config.padding`` the padding is the largest that a bin needs.

    Parameters
    ----------
    shears : sequence of ShearMap, or mapping of int to ShearMap
        The bins, all on the same pixels, as
        :func:`~pnp_mlpatch.lensing.binning.bin_shear_tomographic` makes them.
    D : Denoiser
        See :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`.
    config : MassMapConfig, optional
        The settings.
    checkpoint, save_every, device, progress
        See :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`; one checkpoint holds all bins.

    Returns
    -------
    list of MassMap
        One for each bin, in order. ``seconds`` is the time of the batch over the number of bins.

    Raises
    ------
    InputError
        If there are no bins, their pixels differ, or for a reason of
        :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`.
    WeightsError, FileError
        See :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`.
    """
    shears = list(shears.values()) if isinstance(shears, Mapping) else shears
    if isinstance(shears, ShearMap) or not isinstance(shears, Sequence):
        raise InputTypeError(
            "map_mass_bins: expected a list of ShearMap, one for each bin, got "
            f"{type(shears).__name__}. For one map use map_mass."
        )
    check_map_and_denoiser(shears, D, "map_mass_bins")
    if not shears:
        raise InputError("map_mass_bins: the list of shear maps is empty. Give one for each bin.")
    first = shears[0]
    for k, shear in enumerate(shears):
        for name in ("shape", "pixel", "flip_ra", "header"):
            ours, others = _of(first, name), _of(shear, name)
            if ours != others:
                raise InputError(
                    f"map_mass_bins: all bins need the same pixels; {name} of bin 0 is {ours!r}, "
                    f"of bin {k} {others!r}. Bin the catalogue by bin_shear_tomographic."
                )
    with nullcontext() if checkpoint is None else lock(checkpoint):
        run = Running(checkpoint, save_every, device, progress)
        return run_maps(list(shears), D, config or MassMapConfig(), run)


def _of(shear: ShearMap, name: str) -> object:
    return tuple(shear.noise.shape) if name == "shape" else getattr(shear, name)


__all__ = ["map_mass_bins"]
