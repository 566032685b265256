"""Any 2-D projection geometry of ASTRA (van Aarle et al. 2016).

For the usual parallel and fan beams there is the operator "radon".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError, MissingPackage
from pnp_mlpatch.interop.functions import FunctionOperator, hint
from pnp_mlpatch.operators import LinearOperator


def from_astra(
    projection: Any, volume: dict | None = None, projector: str | None = None
) -> LinearOperator:
    """Make an operator of a 2-D projector of ASTRA.

    Call ``from_astra(projector_id)``, or ``from_astra(projection, volume, projector)`` with ASTRA's
    geometries. Images are (1, H, W), with ASTRA's rows and columns, and sinograms (angles,
    detectors).

    Parameters
    ----------
    projection : int or dict
        The id of a projector, which the caller keeps and deletes; or a projection geometry
        (parallel, parallel_vec, fanflat, fanflat_vec). In the second case a projector is made for
        each call and deleted after it.
    volume : dict, optional
        The volume geometry.
    projector : str, optional
        The name of a projector: "linear" by default, "line_fanflat" or "strip_fanflat" for fan
        beams.

    Returns
    -------
    LinearOperator

    Raises
    ------
    MissingPackage
        Without astra-toolbox, or for a CUDA projector without a GPU.
    InputError
        For an id that does not exist, and for geometries that ASTRA refuses.
    InputTypeError
        For other types.

    Notes
    -----
    The projectors are float32; float64 tensors are converted there and back. ASTRA's CPU projectors
    are matched, its "cuda" projector is not: see ``pnp_mlpatch.testing.adjoint_mismatch``. Tensors
    on a GPU go through the host for a CPU projector.
    """
    astra = require("astra", "from_astra")
    if isinstance(projection, dict) and isinstance(volume, dict):
        recipe = (
            "linear" if projector is None else projector,
            copy.deepcopy(projection),
            copy.deepcopy(volume),
        )
    elif isinstance(projection, int) and not isinstance(projection, bool):
        if volume is not None or projector is not None:
            raise InputError(
                "from_astra: a projector id has its geometries already: "
                "call from_astra(projector_id)."
            )
        recipe = projection
    else:
        raise InputTypeError(
            "from_astra: expected a projector id (an integer), or the two geometries (dicts) of "
            "astra.create_proj_geom and astra.create_vol_geom, "
            f"got {type(projection).__name__} and {type(volume).__name__}.{hint(projection)}"
        )
    with _projector(recipe) as (_, identity):
        on_gpu = astra.projector.is_cuda(identity)
        if on_gpu and not astra.use_cuda():
            raise MissingPackage(
                "from_astra: this is a CUDA projector, but there is no GPU (or an ASTRA without "
                "CUDA). Use 'linear' or 'line_fanflat'."
            )
        size = astra.functions.geom_size
        image_shape = (1, *size(astra.projector.volume_geometry(identity)))
        data_shape = size(astra.projector.projection_geometry(identity))

    def run(x: Tensor, shape: tuple[int, ...], forward: bool) -> Tensor:
        sources = x.detach().reshape(len(x), *x.shape[-2:]).float().contiguous()
        return _projected(recipe, sources if on_gpu else sources.cpu(), shape, forward)

    return FunctionOperator(
        lambda x: run(x, data_shape, True),
        lambda y: run(y, image_shape[1:], False)[:, None],
        image_shape,
        data_shape,
        None,
        "from_astra",
    )


def _projected(
    recipe: int | tuple[str, dict, dict], sources: Tensor, shape: tuple[int, ...], forward: bool
) -> Tensor:
    """Project images one by one, or backproject sinograms."""
    out = sources.new_empty(len(sources), *shape)
    if sources.is_cuda:  # ASTRA knows nothing of torch's streams
        torch.cuda.current_stream(sources.device).synchronize()
    with _projector(recipe) as (direct, identity):
        for source, target in zip(sources, out, strict=True):
            (direct.direct_FP if forward else direct.direct_BP)(identity, source, out=target)
    return out


@contextmanager
def _projector(recipe: int | tuple[str, dict, dict]) -> Iterator[tuple[Any, int]]:
    """``astra.projector`` and the id of a projector: the caller's, or a temporary one."""
    astra = require("astra", "from_astra")
    if isinstance(recipe, int):
        try:
            astra.projector.volume_geometry(recipe)
        except astra.log.AstraError as error:
            raise InputError(
                f"from_astra: there is no 2-D projector of the id {recipe}. "
                "Make it with astra.create_projector, and keep it while A is used."
            ) from error
        yield astra.projector, recipe
        return
    name, projection, volume = recipe
    try:
        identity = astra.create_projector(name, projection, volume)
    except (astra.log.AstraError, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"from_astra: ASTRA refuses the projector {name!r} for the geometry "
            f"{projection.get('type')!r}: {error}. The 2-D ones are 'linear', 'line' and 'strip' "
            "for parallel beams, 'line_fanflat' and 'strip_fanflat' for fan beams."
        ) from error
    try:
        yield astra.projector, identity
    finally:
        astra.projector.delete(identity)
