"""Scans on disk, read slab by slab."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.ct._detector import detector_geometry
from pnp_mlpatch.ct._scan_arguments import (
    Angles,
    Field,
    choose_angles,
    choose_layout,
    mean_field,
    read_field,
    scan_shape,
    to_radians,
)
from pnp_mlpatch.ct._scan_file import format_ranges
from pnp_mlpatch.ct._slabs import SlabReader
from pnp_mlpatch.ct.formats import open_scan_file, split_name
from pnp_mlpatch.ct.gain import gain_of_flats
from pnp_mlpatch.ct.geometry import Geometry
from pnp_mlpatch.errors import InputError, InputTypeError

COUNTS, INTEGRALS = "counts", "line integrals"
MAX_INTEGRAL = 20  # line integrals of any body are less: exp(-20) is one photon in 5e8


@dataclass(frozen=True, eq=False)
class Scan:
    """Projections on disk. :func:`read_scan` opens them, :meth:`read` reads them.

    Parameters
    ----------
    path : Path
        The file or folder.
    kind : str
        "counts" or "line integrals".
    shape : tuple of int
        (slices, angles, detectors).
    angles : Tensor, shape (angles,), float64, or None
        Radians. None where the file has none.
    flat, dark : Tensor, shape (slices, detectors), float32, or None
        The open beam and the dark field, means over their frames.
    meta : dict
        Plain JSON values that say what was found where.
    slab : callable
        ``slab(start, stop)`` reads slices as an array (slices, angles, detectors). That of
        :func:`read_scan` opens the file again where it is unpickled.
    sure : bool
        Whether ``kind`` was given rather than guessed.
    gain : float, optional
        Detector units per photon, where the flat frames tell it.
    """

    path: Path
    kind: str
    shape: tuple[int, int, int]
    angles: Tensor | None = field(repr=False)
    flat: Tensor | None = field(repr=False)
    dark: Tensor | None = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    slab: Callable[[int, int], np.ndarray] = field(repr=False)
    sure: bool = field(default=True, repr=False)
    gain: float | None = field(default=None, repr=False)

    def read(self, start: int, stop: int) -> Tensor:
        """Read the slices start ... stop - 1; no more than these are kept in memory.

        Parameters
        ----------
        start, stop : int
            ``0 <= start < stop <= shape[0]``.

        Returns
        -------
        Tensor, shape (stop - start, angles, detectors), float32
            NaN stands for what was not measured: chunks of an HDF5 file that were never written,
            and projections of counts that are the same number in every ray. A warning names them.

        Raises
        ------
        InputError
            For slices that the scan does not have, and for line integrals that look like counts:
            above 20, or whole numbers. If ``kind`` was given, this is a warning.
        FileError
            If the file is damaged.
        """
        for value in (start, stop):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                text = f"start and stop must be integers, got {value!r}."
                raise InputTypeError(f"{self.path}: {text}")
        if not 0 <= start < stop <= self.shape[0]:
            raise InputError(
                f"{self.path}: expected 0 <= start < stop <= {self.shape[0]}, the number of "
                f"slices, got {start} and {stop}."
            )
        values = np.array(self.slab(start, stop), dtype=np.float32, order="C")
        if self.kind == INTEGRALS:
            _check_integrals(values, self.path, sure=self.sure)
        else:
            _drop_dead_projections(values, self.path)
        return torch.from_numpy(values)

    def geometry(
        self,
        beam: str = "parallel",
        *,
        shape: tuple[int, int] | None = None,
        pixel: float | None = None,
        spacing: float | None = None,
        center: float | None = None,
        offset: float | None = None,
        source_origin: float | None = None,
        origin_detector: float | None = None,
    ) -> Geometry:
        """Make the geometry of the scan; angles and detector elements are those of the file.

        Parameters
        ----------
        beam : str
            "parallel", "fan" (flat detector) or "arc" (detector on an arc about the source).
        shape : tuple of int, optional
            The image (H, W). By default the square that the detector sees.
        pixel : float, optional
            The side of a pixel. By default ``spacing`` over the magnification, or else 1.
        spacing : float, optional
            The width of a detector element. By default that of a pixel, magnified.
        center : float, optional
            The detector element of the rotation axis, counted from 0: a whole number is the
            middle of an element. By default the middle of the detector.
        offset : float, optional
            The same as a shift of the detector, in the unit of ``pixel``.
        source_origin, origin_detector : float, optional
            The distances of source and detector from the rotation axis, in the unit of ``pixel``.
            A fan needs both; a parallel beam has none.

        Returns
        -------
        ParallelBeam or FanBeam

        Raises
        ------
        InputError
            If the scan has no angles, or for values that do not fit each other.
        """
        if self.angles is None:
            raise InputError(
                f"{self.path}: the scan tells no angles. Give angles= where it is read (--angles "
                f"FILE, or --angles N for equally spaced ones; {self.shape[1]} projections)."
            )
        return detector_geometry(
            beam,
            self.angles,
            self.shape[2],
            shape=shape,
            pixel=pixel,
            spacing=spacing,
            center=center,
            offset=offset,
            source_origin=source_origin,
            origin_detector=origin_detector,
        )


def read_scan(
    path: str | PathLike[str],
    *,
    dataset: str | None = None,
    kind: str | None = None,
    layout: str | None = None,
    angles: Angles | None = None,
    degrees: bool | None = None,
    dark: Field | None = None,
    flat: Field | None = None,
) -> Scan:
    """Open a scan. The projections are read later, by :meth:`Scan.read`.

    Parameters
    ----------
    path : str or path
        A file, FILE:NAME, or a folder, of the formats below.
    dataset : str, optional
        The array in the file, in place of FILE:NAME.
    kind : str, optional
        "counts" or "line integrals". By default counts where there is an open beam or the
        numbers are integers.
    layout : str, optional
        The order of the axes: s slices, a angles, d detectors. An array of two axes is "ad" or
        "da". By default that of the format.
    angles : sequence, array or path, optional
        The angles, in place of those of the file; or a .npy or .txt file of them.
    degrees : bool, optional
        The unit of the angles. By default radians for angles that are given; for those of the
        file what its attribute ``units`` says, or else degrees.
    dark, flat : number, array or path, optional
        The dark field and the open beam, in place of those of the file: a number, (detectors,),
        (slices, detectors), (frames, slices, detectors), or a file of one of these.

    Returns
    -------
    Scan

    Raises
    ------
    FileError
        If the file is missing or damaged, has no such dataset, or holds less than half of it.
    InputError
        For shapes, layouts, angles and fields that do not fit each other.
    MissingPackage
        Without h5py or Pillow, where the format needs them.

    Warns
    -----
    UserWarning
        For angles that repeat, go back and forth or seem to have another unit, and for parts of
        the file that were never written.

    Notes
    -----
    ===========================  =================================================  ======
    path                         what it holds                                      layout
    ===========================  =================================================  ======
    ``scan.h5``                  Data Exchange: /exchange/data, data_white,         asd
                                 data_dark, theta
    ``scan.nxs:NAME``            NXtomo: image_key tells projections, flats and     asd
                                 darks apart; rotation_angle
    ``scan.h5:NAME``             one dataset; LoDoPaB: "data"                       sad
    ``scan.npy, scan.npz:NAME``  one array; only an .npz is read as a whole         sad
    ``scan.tif``                 one sinogram, or pages of one sinogram each        sad
    ``folder``                   TIFF files of one projection each, by name,        asd
                                 numbers in names as numbers
    ``scan.zarr:NAME``           a zarr array, or one of a group                    sad
    ``sliceNNNNN/modeK``         2DeteCT: sinogram.tif, dark.tif, flat1.tif,        ad
                                 flat2.tif
    ===========================  =================================================  ======

    The layouts are those of Data Exchange [1]_, LoDoPaB [2]_ and 2DeteCT [3]_.

    In HDF5 files the fields are also found under neighbouring names (data_white_pre, data_flat,
    flats, dark_field). Chunks that were never written, and parts of a virtual dataset whose
    source is gone, are read as NaN.

    For 2DeteCT we assume that the rows of sinogram.tif are equally spaced angles from 0 to 360
    degrees, of which the last repeats the first and is dropped (3601 x 1912 becomes 3600 x 1912),
    and that the two flats count equally. Detectors are not flipped.

    References
    ----------
    .. [1] De Carlo et al., Scientific data exchange, J. Synchrotron Rad. 2014.
    .. [2] Leuschner et al., LoDoPaB-CT, Scientific Data 2021.
    .. [3] Kiss et al., 2DeteCT, Scientific Data 2023.
    """
    if kind not in (None, COUNTS, INTEGRALS):
        raise InputError(f"read_scan: kind must be '{COUNTS}' or '{INTEGRALS}', got {kind!r}.")
    if degrees is not None and not isinstance(degrees, bool):
        raise InputTypeError(f"read_scan: degrees must be True or False, got {degrees!r}.")
    path, name = split_name(path, dataset)
    found = open_scan_file(path, name)
    order = choose_layout(layout, found, path)
    theta, in_degrees = choose_angles(angles, degrees, found, path)
    slices, count, detectors = scan_shape(found.data.shape, order, theta, path)
    if found.closed:
        count -= 1
    radians = None if theta is None else to_radians(theta, in_degrees, count, path)
    flat, dark = found.flat if flat is None else flat, found.dark if dark is None else dark
    dtype = found.data.dtype
    counted = flat is not None or dtype.kind in "iu"
    meta = {"source": str(path), **found.meta, "layout": order, "dtype": str(dtype)}
    if theta is not None:
        meta["angles"] = meta.get("angles", "computed") if angles is None else "given"
        meta["units"] = "degrees" if in_degrees else "radians"
    fields = ((flat, "flat"), (dark, "dark"))
    whites, darks = (read_field(field, slices, detectors, what, path) for field, what in fields)
    return Scan(
        path,
        kind or (COUNTS if counted else INTEGRALS),
        (slices, count, detectors),
        radians,
        mean_field(whites, slices, detectors),
        mean_field(darks, slices, detectors),
        meta,
        SlabReader(path, name, order, count, found.data),
        sure=kind is not None,
        gain=gain_of_flats(whites, darks),
    )


def _check_integrals(values: np.ndarray, path: Path, *, sure: bool) -> None:
    """Raise where line integrals look like counts; warn if the user says that they are not."""
    known = values[np.isfinite(values)]
    beyond, top = int((known > MAX_INTEGRAL).sum()), float(known.max(initial=0.0))
    if beyond:
        seen = (
            f"{beyond} of {values.size} line integrals are above {MAX_INTEGRAL}, up to {top:.4g}: "
            f"no body lets through so little, exp(-{MAX_INTEGRAL})"
        )
    elif top >= 2 and bool((known == np.round(known)).all()):
        seen = f"all of them are whole numbers, up to {top:.4g}"
    else:
        return
    advice = (
        "If they are counts, say kind='counts' and give the open beam (on the command line --kind "
        "counts --blank I0); if the file holds it under a name of its own, give that; if single "
        "rays are broken, set them to NaN"
    )
    if not sure:
        raise InputError(
            f"{path}: {seen}. {advice}; if they are line integrals, say kind='{INTEGRALS}'."
        )
    if beyond:
        warnings.warn(f"{path}: {seen}. {advice}.", stacklevel=3)


def _drop_dead_projections(values: np.ndarray, path: Path) -> None:
    """Set projections that are one number in every ray, where others are not, to NaN; warn."""
    if values.shape[2] < 8:
        return
    dead = (values == values[..., :1]).all(-1)
    dead[dead.all(-1)] = False  # a slice in which nothing was measured
    if dead.any():
        values[dead] = np.nan
        warnings.warn(
            f"{path}: the projections {format_ranges(np.flatnonzero(dead.any(0)))} are the same "
            "number in every ray; they get no weight.",
            stacklevel=3,
        )


__all__ = ["COUNTS", "INTEGRALS", "Scan", "read_scan"]
