"""Map the convergence of a large field by patches that are blended."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError, InputTypeError, WeightsError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.lensing import Catalogue, ShearMap
from pnp_mlpatch.lensing.patches import Patch, blend, offsets, patches_of
from pnp_mlpatch.pipelines._mass_map_checks import border, check_map_and_denoiser, check_scales
from pnp_mlpatch.pipelines._mass_map_fields import FlatField, SkyField
from pnp_mlpatch.pipelines._mass_map_place import Place
from pnp_mlpatch.pipelines._mass_map_run import about_run, finish, prepare
from pnp_mlpatch.pipelines._mass_map_sample import SAVE_EVERY, Job, Running, sample
from pnp_mlpatch.pipelines.mass_map import MassMap, MassMapConfig

SIZE, OVERLAP = "5 deg", "2 deg"  # from benchmarks/mass_patches.py


def map_mass_patches(
    shear: ShearMap,
    D: Denoiser,
    config: MassMapConfig | None = None,
    *,
    catalogue: Catalogue | None = None,
    size: Any = SIZE,
    overlap: Any = OVERLAP,
    checkpoint: str | PathLike[str] | None = None,
    save_every: float = SAVE_EVERY,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
) -> MassMap:
    r"""Map the convergence of a large field by overlapping patches.

    Each patch is mapped as by :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`, and the maps are
    blended with weights that sum to one, see :mod:`pnp_mlpatch.lensing.patches`. With a catalogue
    each patch is a tangent plane about its own centre, with the ellipticities turned to its axes;
    without one the patches are cut from ``shear``.

    Parameters
    ----------
    shear : ShearMap
        The shear of the whole field. With a catalogue it is the result of ``bin_shear`` for it,
        with ``pixel`` and whatever ``shape`` and ``centre``, and gives the pixels of the result.
    D : Denoiser
        See :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`.
    config : MassMapConfig, optional
        The settings. ``padding`` is that of each patch.
    catalogue : Catalogue, optional
        The galaxies, for patches on the sphere.
    size : str or astropy quantity
        Largest side of a patch, an angle with its unit.
    overlap : str or astropy quantity
        What neighbours share, an angle with its unit, at most two thirds of the size.
    checkpoint : str or path, optional
        Folder for the finished patches and the state of the one that is mapped. If it is there,
        the run resumes from it. It stays at the end: remove it once the result is saved.
    save_every, device, progress
        See :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`; the bar counts patches.

    Returns
    -------
    MassMap
        On the pixels of ``shear``. ``settings`` has the number of patches and their offsets.

    Raises
    ------
    InputError
        If the overlap does not fit the size, the shear has no WCS that ``bin_shear`` writes (with
        a catalogue), or for a reason of :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`.
    WeightsError, FileError
        See :func:`~pnp_mlpatch.pipelines.mass_map.map_mass`.

    Notes
    -----
    The denoiser is local, the shear is not: a patch lacks the shear beyond its border. What that
    changes is estimated by the Wiener filter, which is cheap: the difference c of the Wiener maps
    of the field and of the patch, on the pixels of the patch. Sampling goes on with

    .. math:: \kappa = u + c, \qquad D_c(u, \sigma) = D(u + c, \sigma) - c,

    where u explains the data of the patch. A field is the whole map, or on the sphere the patch
    with as much again on every side. The mean of each patch, which shear does not tell, is then set
    to agree with those of its neighbours, by least squares. The random numbers follow from the
    place in the field, so they are the same in all patches.
    """
    check_map_and_denoiser([shear], D, "map_mass_patches")
    if catalogue is not None and not isinstance(catalogue, Catalogue):
        raise InputTypeError(
            "map_mass_patches: catalogue must be a Catalogue, see lensing.read_catalogue; got "
            f"{type(catalogue).__name__}."
        )
    start, device, config = time.perf_counter(), torch.device(device), config or MassMapConfig()
    height, width = shear.noise.shape
    patches = patches_of((height, width), shear.pixel, size, overlap)
    job = _prepared(shear, D, config, device)
    config = replace(config, sigma=job.sigmas[0])
    field = FlatField(shear, job.A.padding) if catalogue is None else SkyField(shear, catalogue)
    folder = None if checkpoint is None else _folder(checkpoint)
    maps, spreads = [], []
    with nullcontext() if folder is None else lock(folder):
        for k, patch in enumerate(tqdm(patches, desc="patches", disable=_hidden(progress))):
            run = Running(folder and folder / f"patch-{k:04d}.pt", save_every, device, False)
            kappa, spread = _map_patch(field, patch, D, config, job.widths[0], run)
            maps.append(kappa)
            spreads.append(spread)
    found = offsets(maps, patches, shear.seen)
    maps = [x + float(c) for x, c in zip(maps, found, strict=True)]
    blended = [blend(x, patches, (height, width)) for x in (maps, spreads)]
    result = _result(job, shear, D, blended, start)
    result.settings.update(
        {"size": str(size), "overlap": str(overlap), "patches": len(patches)}
        | {"offsets": found.tolist(), "sphere": catalogue is not None}
    )
    return result


def _prepared(shear: ShearMap, D: Denoiser, config: MassMapConfig, device: torch.device) -> Job:
    """Return what is needed for the whole field, checked."""
    job = prepare([shear], D, config, device, Place())
    check_scales(shear, job.levels[0])
    return job


def _result(job: Job, shear: ShearMap, D: Denoiser, blended: list[Tensor], start: float) -> MassMap:
    """Return the result of the blended map and spread (H, W), with no mass beyond the field."""
    sides = [job.A.padding] * 4
    kappa, spread = (F.pad(x[None, None].to(job.g.device), sides) for x in blended)
    kappa = torch.cat([kappa, torch.zeros_like(kappa)], dim=1)
    return finish(job, [shear], D, kappa, spread, start)[0]


def _hidden(progress: bool | None) -> bool | None:
    """Return what tqdm takes as ``disable``: None hides the bar where there is no terminal."""
    return None if progress is None else not progress


def _map_patch(
    field: FlatField | SkyField,
    patch: Patch,
    D: Denoiser,
    config: MassMapConfig,
    width: str,
    run: Running,
) -> tuple[Tensor, Tensor]:
    """Return the map (h, w) of a patch and its spread, from its file if it is finished."""
    cut, device = field.cut(patch), torch.device(run.device)
    if cut is None:
        return torch.zeros(patch.shape), torch.zeros(patch.shape)
    padding = border(cut.shear.seen) if config.padding is None else config.padding
    place = Place(cut.origin, field.outside(cut, padding, device), field.digest)
    job = prepare([cut.shear], D, replace(config, padding=padding), device, place, [width])
    about = about_run(job, [cut.shear], D)
    path = None if run.checkpoint is None else Path(run.checkpoint)
    found = _finished(path, about)
    if found is None:
        partial = None if path is None else path.with_suffix(".partial.pt")
        kappa, spread = sample(job, replace(run, checkpoint=partial), about)
        found = torch.cat([job.A.cut(job.whole(kappa))[0, :1], job.A.cut(spread)[0, :1]]).cpu()
        if path is not None and partial is not None:
            checkpoints.save(path, {"maps": found}, about=about)
            partial.unlink(missing_ok=True)
    maps = field.onto(cut, found)
    return maps[0], maps[1]


def _finished(path: Path | None, about: dict[str, Any]) -> Tensor | None:
    """Return the map and the spread of a finished patch."""
    found = checkpoints.resume(path, about, "patch of map_mass_patches")
    if found is None:
        return None
    try:
        return found[0]["maps"]
    except KeyError as error:
        raise WeightsError(
            f"{path}: not a patch of map_mass_patches ({error} is missing). "
            "Remove it to start anew."
        ) from error


def _folder(path: str | PathLike[str]) -> Path:
    """Return the folder of the checkpoints, made if it is not there."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"map_mass_patches: checkpoint {folder} is a file; patches need a folder. Name another."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


__all__ = ["map_mass_patches"]
