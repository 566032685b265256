"""Map the convergence of a shear map, with settings that follow from its noise."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.lensing import ShearMap
from pnp_mlpatch.pipelines._mass_map_checks import border, check_map_and_denoiser
from pnp_mlpatch.pipelines._mass_map_run import run_maps
from pnp_mlpatch.pipelines._mass_map_sample import SAVE_EVERY, Running


@dataclass(frozen=True)
class MassMapConfig:
    r"""Settings of :func:`map_mass`.

    Parameters
    ----------
    sigma : float, optional
        Noise level of the denoiser, > 0, in units of the convergence. By default 0.75 times the
        noise of the data (the root of the harmonic mean of the variances), at most what the
        denoiser takes.
    iterations, burn_in, seed : int
        See :class:`~pnp_mlpatch.solvers.split_gibbs.SplitGibbs`.
    passes : int
        With more than 1 the data are reduced shear, :math:`g = \gamma / (1 - \kappa)`, and the map
        is repeated with :math:`\gamma = g (1 - \kappa)`. Three are enough.
    padding : int, optional
        Unseen pixels added on every side, >= 0. By default as many as the mask lacks to an unseen
        border of an eighth of the side.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    sigma: float | None = None
    iterations: int = 40
    burn_in: int = 4
    passes: int = 1
    padding: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"iterations": 1, "burn_in": 0, "passes": 1, "padding": 0, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if name == "padding" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InputError(
                    f"MassMapConfig: {name} must be an integer >= {low}, got {value!r}."
                )
        if self.burn_in >= self.iterations:
            raise InputError(
                f"MassMapConfig: burn_in ({self.burn_in}) must be below iterations "
                f"({self.iterations})."
            )
        if self.sigma is not None and (not finite_number(self.sigma) or self.sigma <= 0):
            raise InputError(
                f"MassMapConfig: sigma must be > 0, got {self.sigma!r}. "
                "It is in units of the convergence."
            )


@dataclass(frozen=True)
class MassMap:
    """The result of :func:`map_mass`, on the pixels of the shear map.

    Parameters
    ----------
    kappa : Tensor, shape (2, H, W)
        E, the mean of the posterior, and B, which gravity does not make: that of the smoothed
        Kaiser-Squires map, a check.
    spread : Tensor, shape (H, W)
        Standard deviation of the denoised draws. It is no error bar: on generated maps the error is
        below it in 20 % of the pixels, where an error bar would have 68 %.
    smoothed : Tensor, shape (2, H, W)
        E and B of Kaiser-Squires, smoothed by ``settings["width"]``.
    statistics : dict
        Those of :func:`~pnp_mlpatch.lensing.statistics.describe_map` for E; of the smoothed map "E
        rms smoothed", "B rms", and "B rms of noise", that of the same shears, each turned by a
        random angle. A B rms that is much larger indicates systematic errors of the shear, or a
        wrong sign: "signs" has what :func:`~pnp_mlpatch.lensing.signs.check_signs` found.
    settings : dict
        All settings that were used.
    seconds : float
        Computing time.
    residual : Tensor, shape (2, H, W)
        Shear of the map less the data, in units of the noise; 0 where nothing was measured.
    """

    kappa: Tensor
    spread: Tensor
    smoothed: Tensor
    statistics: dict[str, Any]
    settings: dict[str, Any]
    seconds: float
    residual: Tensor


def map_mass(
    shear: ShearMap,
    D: Denoiser,
    config: MassMapConfig | None = None,
    *,
    checkpoint: str | PathLike[str] | None = None,
    save_every: float = SAVE_EVERY,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
) -> MassMap:
    r"""Map the convergence of a shear map by :class:`~pnp_mlpatch.solvers.split_gibbs.SplitGibbs`.

    Pixels that were not measured have no influence.

    Parameters
    ----------
    shear : ShearMap
        The shear and its noise.
    D : Denoiser
        A denoiser of E maps (1, 1, H, W) in units of the convergence, such as
        ``denoisers.make("mlpatch", weights="mlpatch-kappa")``, trained on pixels of 0.29 arcmin. It
        is moved to ``device`` if it is a module.
    config : MassMapConfig, optional
        The settings.
    checkpoint : str or path, optional
        File for the state of the run. If it is there, the run resumes from it, to the same bits. It
        stays at the end: remove it once the result is saved.
    save_every : float
        Seconds between two checkpoints.
    device : str or torch.device
        Where the computation runs. The result is on the CPU.
    progress : bool, optional
        Whether a progress bar is shown; by default on a terminal.

    Returns
    -------
    MassMap
        The convergence, its statistics, and the settings.

    Raises
    ------
    InputError
        If the noise cannot be right, the denoiser does not take this sigma, or the checkpoint
        belongs to other data or settings.
    WeightsError
        If the checkpoint is damaged.
    FileError
        If another run writes the checkpoint.
    """
    check_map_and_denoiser([shear], D, "map_mass")
    with nullcontext() if checkpoint is None else lock(checkpoint):
        run = Running(checkpoint, save_every, device, progress)
        return run_maps([shear], D, config or MassMapConfig(), run)[0]


__all__ = ["MassMap", "MassMapConfig", "border", "map_mass"]
