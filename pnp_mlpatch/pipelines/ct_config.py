"""Settings of a CT volume, and whether scan, geometry and output fit them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pnp_mlpatch import solvers
from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.ct import AXES, COUNTS, INTEGRALS, Geometry, Scan, sizes
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.atomic import check_writable, follow
from pnp_mlpatch.io.voxels import LENGTHS
from pnp_mlpatch.pipelines.ct_digest import partial_files
from pnp_mlpatch.solvers import Solver
from pnp_mlpatch.tuning.discrepancy import PRESETS

WHO = "reconstruct_volume"
ENDINGS = (".npy", ".tif", ".tiff", ".h5", ".hdf5", ".zarr")
LIKELIHOODS = ("gaussian", "poisson")


@dataclass(frozen=True)
class VolumeConfig:
    """Settings of :func:`~pnp_mlpatch.pipelines.ct_volume.reconstruct_volume`.

    By default :func:`~pnp_mlpatch.tuning.recipe` solves each slice. Any of ``sigma``,
    ``iterations``, ``solver`` and ``settings`` replaces it by a plain run of a solver.

    Parameters
    ----------
    sigma : float or sequence of float, optional
        The denoiser level relative to the window, so that 20/255 (the default of a plain run)
        means the same for every scan. A sequence has one level for each iteration; the last is
        held.
    iterations : int, optional
        The number of iterations of a plain run, by default 20.
    solver : str, optional
        The name of the solver of a plain run, by default "admm".
    settings : dict
        Further settings of that solver.
    window : tuple of float, optional
        (low, high) of the image, mapped to the range [0, 1] of the denoiser; values beyond are
        kept. Its unit is attenuation per unit of the geometry's ``pixel``, or Hounsfield units
        with ``mu_water``. By default -1024 to 1024 HU with ``mu_water``, or else 0 to 1.2 times
        the 99.5th percentile of filtered backprojection of the slice in the middle.
    mu_water : float, optional
        The attenuation of water per unit of ``pixel``. The volume is then in Hounsfield units.
    noise : float, optional
        The standard deviation of line integrals. By default
        :func:`~pnp_mlpatch.pipelines.ct_slab.estimate_noise` finds it for each slice. Counts bring
        their own.
    gain : float, optional
        Detector units per photon, for counts. By default from the spread of the flat frames, or of
        readings beside the object; 1 where neither tells.
    electronic : float
        The standard deviation of the electronic noise of counts, in detector units.
    outliers : bool
        Whether saturated readings, zingers and bad detector elements are left out; see
        :mod:`pnp_mlpatch.ct.outliers`.
    rings : bool
        Whether an offset of each detector element is estimated with the image, where elements
        differ from their neighbours by more than 0.006: errors of their gain, which make rings.
        Not with the likelihood "poisson".
    stripes : bool
        Filter each sinogram by :func:`~pnp_mlpatch.ct.stripes.remove_stripes` of algotom, in place
        of ``rings``. Not with the likelihood "poisson".
    bin : int, optional
        Neighbouring detector elements that are taken as one. By default pixels of two elements
        and more are divided and averaged in the end, and elements are taken together where they
        are finer than that. See :mod:`pnp_mlpatch.ct.binning`.
    preset : str
        "fast" or "standard" of :func:`~pnp_mlpatch.tuning.recipe`.
    likelihood : str
        "gaussian", weighted least squares of the line integrals, or "poisson", the likelihood of
        the counts.
    slices : tuple of int, optional
        (start, stop), a part of the scan.
    unit : str, optional
        The unit of the lengths of the geometry, "m", "cm", "mm", "um" or "nm", which is written
        into the volume.
    batch : int
        The number of slices in memory at a time.
    slabs : int, optional
        Denoise stacks of so many slices along all three planes, by
        :func:`~pnp_mlpatch.denoisers.slabs`, in place of each slice by itself. Four slices at
        either side of a stack are solved with it. It takes the place of ``batch``.
    backend : str
        As in :class:`~pnp_mlpatch.operators.radon.Radon`.
    memory : float, optional
        GiB for the matrices, as in :class:`~pnp_mlpatch.operators.radon.Radon`.
    device : str
        The device of torch.
    threads : int, optional
        Threads of torch for a batch. The last bits of the result depend on them. By default those
        that are set; for workers of a cluster 1.

    Raises
    ------
    InputError, InputTypeError
        For values out of these ranges.
    """

    sigma: float | Sequence[float] | None = None
    iterations: int | None = None
    solver: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    window: tuple[float, float] | None = None
    mu_water: float | None = None
    noise: float | None = None
    gain: float | None = None
    electronic: float = 0.0
    outliers: bool = True
    rings: bool = True
    stripes: bool = False
    bin: int | None = None
    preset: str = "standard"
    likelihood: str = "gaussian"
    slices: tuple[int, int] | None = None
    unit: str | None = None
    batch: int = 8
    slabs: int | None = None
    backend: str = "auto"
    memory: float | None = None
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.slabs is not None:
            object.__setattr__(self, "batch", self.slabs)
        if self.likelihood == "poisson" and (self.slabs is not None or self.stripes):
            name = "stripes" if self.stripes else "slabs"
            raise InputError(
                f"{WHO}: {name} are for the likelihood 'gaussian'. Leave one of them out."
            )
        if self.likelihood not in LIKELIHOODS:
            raise InputError(
                f"{WHO}: likelihood must be {' or '.join(map(repr, LIKELIHOODS))}, "
                f"got {self.likelihood!r}."
            )
        if self.preset not in PRESETS:
            raise InputError(
                f"{WHO}: preset must be one of {', '.join(PRESETS)}, got {self.preset!r}."
            )
        if self.unit is not None and self.unit not in LENGTHS:
            raise InputError(f"{WHO}: unit must be {', '.join(LENGTHS)}, got {self.unit!r}.")
        if not isinstance(self.settings, dict):
            raise InputTypeError(
                f"{WHO}: settings must be a dictionary of settings of the solver, "
                f"got {self.settings!r}."
            )
        if self.window is not None and not (
            _is_pair(self.window, finite_number) and self.window[0] < self.window[1]
        ):
            raise InputError(
                f"{WHO}: window must be (low, high) with low < high, in the units of the image, "
                f"got {self.window!r}."
            )
        if self.slices is not None and not _is_pair(self.slices, _is_integer):
            raise InputError(
                f"{WHO}: slices must be (start, stop), two integers, got {self.slices!r}."
            )

    def _check_numbers(self) -> None:
        for name in ("iterations", "batch", "bin", "slabs", "threads"):
            value = getattr(self, name)
            if (name == "batch" or value is not None) and not (_is_integer(value) and value >= 1):
                raise InputError(f"{WHO}: {name} must be an integer >= 1, got {value!r}.")
        for name in ("noise", "mu_water", "memory", "gain"):
            value = getattr(self, name)
            if value is not None and not (finite_number(value) and value > 0):
                raise InputError(f"{WHO}: {name} must be a number > 0, got {value!r}.")
        if not finite_number(self.electronic) or self.electronic < 0:
            raise InputError(f"{WHO}: electronic must be a number >= 0, got {self.electronic!r}.")
        levels: Sequence[Any] = (
            self.sigma if isinstance(self.sigma, (tuple, list)) else [self.sigma]
        )
        if self.sigma is not None and (
            not levels or not all(finite_number(level) and level > 0 for level in levels)
        ):
            raise InputError(
                f"{WHO}: sigma must be a number > 0, relative to the window, or several; "
                f"got {self.sigma!r}."
            )

    def make_solver(self, scale: float) -> Solver | None:
        """Make the solver of a plain run.

        Parameters
        ----------
        scale : float
            The width of the window, in attenuation.

        Returns
        -------
        Solver or None
            None where no setting asks for a plain run, so that the recipe is used.

        Raises
        ------
        InputError, InputTypeError
            For settings that the solver refuses.
        """
        if (self.sigma, self.iterations, self.solver) == (None, None, None) and not self.settings:
            return None
        sigma: Any = 20 / 255 if self.sigma is None else self.sigma
        if isinstance(sigma, (int, float)):
            sigma = sigma * scale
        else:
            sigma = [level * scale for level in sigma]
        iterations = 20 if self.iterations is None else self.iterations
        given = {"sigma": sigma, "iterations": iterations, **self.settings}
        try:
            return solvers.make(self.solver or "admm", **given)
        except TypeError as error:
            raise InputTypeError(f"the solver '{self.solver or 'admm'}': {error}") from error


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(fits, value))


# ---- what must fit


def check_scan(scan: Scan, geometry: Geometry, config: VolumeConfig) -> tuple[int, int]:
    """Check that scan, geometry and settings fit each other.

    Parameters
    ----------
    scan : Scan
        The projections.
    geometry : ParallelBeam or FanBeam
        Its angles and detector elements are those of the scan.
    config : VolumeConfig
        The settings.

    Returns
    -------
    tuple of int
        The slices (start, stop).

    Raises
    ------
    InputError
        If they do not fit.
    """
    slices, angles, detectors = scan.shape
    count, width = len(geometry.theta), sizes(geometry)[0]
    if (count, width) != (angles, detectors):
        raise InputError(
            f"{scan.path}: the scan has {angles} angles x {detectors} detectors (in {slices} "
            f"slices), the geometry {count} angles x {width} detectors."
            f"{_layout_hint(scan, count, width)}"
        )
    (_check_counts if scan.kind == COUNTS else _check_integrals)(scan, config)
    first, last = (0, slices) if config.slices is None else config.slices
    if not 0 <= first < last <= slices:
        raise InputError(
            f"{scan.path}: slices {first}:{last} are not in the scan, which has 0:{slices}."
        )
    config.make_solver(1.0)
    return first, last


def _check_counts(scan: Scan, config: VolumeConfig) -> None:
    if scan.flat is None:
        raise InputError(
            f"{scan.path}: counts need the open beam, and the scan has none. Give flat=I0 "
            "(--blank I0), its counts, where the scan is read; or "
            f"kind='{INTEGRALS}' if the logarithm has been taken."
        )
    if config.noise is not None:
        raise InputError(
            f"{scan.path}: counts bring their noise, so noise= must not be given. Set gain=, "
            "the detector units per photon."
        )


def _check_integrals(scan: Scan, config: VolumeConfig) -> None:
    defaults = {"gain": None, "electronic": 0.0}
    given = [name for name, default in defaults.items() if getattr(config, name) != default]
    if config.likelihood == "poisson" or given:
        what = "the likelihood 'poisson'" if config.likelihood == "poisson" else given[0]
        raise InputError(
            f"{scan.path}: {what} is for counts, and these are line integrals. Give noise=, or "
            f"kind='{COUNTS}'."
        )


def _layout_hint(scan: Scan, angles: int, detectors: int) -> str:
    """Another layout in which the numbers would fit."""
    layout = scan.meta.get("layout", "sad")
    for p in range(3):
        for r in range(3):
            if p != r and (scan.shape[p], scan.shape[r]) == (angles, detectors):
                order = [0, 0, 0]
                order[p], order[r], order[3 - p - r] = 1, 2, 0
                swapped = layout.translate({ord("sad"[k]): "sad"[order[k]] for k in range(3)})
                if sorted(swapped) == sorted(layout):
                    axes = ", ".join(AXES[letter] for letter in swapped)
                    return f" It seems transposed: the layout '{swapped}' ({axes}) would fit."
    return " Check the number of angles, the detectors and the layout."


def check_out(path: Path, scan: Scan, more: Sequence[Path] = ()) -> Path:
    """Check that the output can be written, before the long computation.

    Parameters
    ----------
    path : Path
        The volume; a .json file, and until the end batches and journal, lie beside it.
    scan : Scan
        The scan, which is not overwritten.
    more : sequence of Path
        Other files that will be written.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    InputError
        For another ending, and for outputs that overwrite the scan or each other.
    FileError
        If one of them cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: unknown ending '{path.suffix}'. Writable: {', '.join(ENDINGS)}.")
    store = path.suffix.lower() == ".zarr" and path.is_dir()  # replaced as a whole
    if store and follow(path) == follow(scan.path):
        raise InputError(f"{path}: this is the input; choose another name.")
    journal = partial_files(path)[1]
    written = [*([] if store else [path]), path.with_suffix(".json"), journal, *more]
    for k, one in enumerate(written):
        check_writable(one, [scan.path, *written[:k]])
    return path


__all__ = ["VolumeConfig", "check_out", "check_scan"]
