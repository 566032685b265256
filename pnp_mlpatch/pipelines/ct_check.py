"""What a scan shows before it is reconstructed: gain, centre, truncation, impossible values.

One slice is read, the one in the middle. What is certain is settled; what looks wrong becomes a
warning that says what was seen, the figure, and what to do.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.ct import COUNTS, Geometry, ParallelBeam, Scan, sizes
from pnp_mlpatch.ct.binning import bin_geometry, divide, divide_pixels, elements_in_a_pixel
from pnp_mlpatch.ct.center import Center, look
from pnp_mlpatch.ct.fbp import whole_turn
from pnp_mlpatch.ct.gain import gain_of_air
from pnp_mlpatch.ct.truncation import Frame, cut_sides, widen
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.pipelines.ct_config import VolumeConfig
from pnp_mlpatch.pipelines.ct_slab import Slab, read_slab

OFF_CENTER = 0.3  # elements: a centre that is off by more is warned of
FAR = 10  # elements: so far off the angles may be wrong instead
FALSE_BEAM = 0.004  # what opposite rays differ by, relative to their squares, beyond their noise
SMOOTHED = 0.28  # of the variance of noise is left when opposite rays are compared
BRIGHTER = 1.5  # times the flat field: no object lets through so much
NOTHING = 1.2  # chi^2 of an empty image, up to which a slice shows nothing
COARSE = 1.5  # elements, or bins of them, in a pixel: more are warned of
BEYOND = (
    "the object goes on beyond the detector: readings at its ends are far from zero. It is "
    "reconstructed with a margin that is cut off at the end. Values in the field of view may be "
    "off by a slow change; near its rim and outside do not trust them"
)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the middle slice shows.

    Parameters
    ----------
    config : VolumeConfig
        The settings, with the gain that was found.
    facts : dict
        Plain JSON values for the record.
    faults : tuple of str
        One sentence for each thing that looks wrong.
    center : Center or None
        The rotation axis, where the scan tells it.
    truncated : bool
        Whether the object goes on beyond the detector.
    slab : Slab
        The slice.
    """

    config: VolumeConfig
    facts: dict[str, Any]
    faults: tuple[str, ...]
    center: Center | None
    truncated: bool
    slab: Slab = field(repr=False)

    def room(self, scan: Scan, geometry: Geometry) -> tuple[Scan, Geometry, Frame]:
        """Give an object that goes on beyond the detector room; divide pixels, bin elements.

        Parameters
        ----------
        scan : Scan
            The scan.
        geometry : ParallelBeam or FanBeam
            Its geometry.

        Returns
        -------
        scan, geometry, frame
            By :func:`~pnp_mlpatch.ct.truncation.widen`, or as they are. The geometry is that of the
            bins, which :func:`~pnp_mlpatch.pipelines.ct_slab.read_slab` makes, and the frame is for
            :func:`~pnp_mlpatch.ct.truncation.crop`.
        """
        fine, margin = self.facts.get("parts of a pixel", 1), 0
        geometry = divide_pixels(geometry, fine) if fine > 1 else geometry
        if self.truncated:
            scan, geometry, margin = widen(scan, geometry)
        return scan, bin_geometry(geometry, self.config.bin or 1), Frame(margin, fine)

    def warn(self, scan: Scan, more: list[str]) -> None:
        """Warn of what was seen.

        Parameters
        ----------
        scan : Scan
            For messages.
        more : list of str
            What was seen later.
        """
        for text in (*self.faults, *more):
            end = "" if text.endswith("?") else "."
            warnings.warn(f"{scan.path}: {text}{end}", stacklevel=5)


def examine(scan: Scan, geometry: Geometry, config: VolumeConfig) -> Seen:
    """Look at the middle slice of a scan.

    Parameters
    ----------
    scan : Scan
        Counts or line integrals.
    geometry : ParallelBeam or FanBeam
        What the user says that the geometry is.
    config : VolumeConfig
        The settings.

    Returns
    -------
    Seen

    Raises
    ------
    InputError
        For flats and darks that are swapped, and for transmissions that are taken for line
        integrals.
    """
    middle = scan.shape[0] // 2
    facts: dict[str, Any] = {"slice": middle}
    faults: list[str] = []
    if scan.kind == COUNTS:
        _check_fields(scan)
        config = _settle_gain(scan, config, middle, facts, faults)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again when the volume is made
        slab = read_slab(scan, replace(config, bin=1), middle, middle + 1)
    config = _settle_bin(geometry, config, facts, faults)
    if not len(slab.q):
        return Seen(config, facts, tuple(faults), None, False, slab)
    q, seen = slab.q[0].cpu(), ~slab.missing[0].cpu()
    facts["noise"] = float(slab.noise.median()) if scan.kind != COUNTS else None
    facts["integrals"] = [
        float(value) for value in torch.quantile(some(q[seen]), torch.tensor([0.01, 0.99]))
    ]
    _look_for_transmissions(scan, q, seen, faults)
    if slab.noise.ndim == 1 or scan.kind == COUNTS:
        ratio = (slab.q[0].cpu() / slab.noise[0].cpu())[seen].square().mean()
        if float(ratio) < NOTHING:
            faults.append(
                f"slice {middle}, in the middle, shows no object: its line integrals are noise. "
                "Gain, centre and window follow from it. Choose slices with the object, and give "
                "window= (--window)"
            )
    found = look(geometry, q, seen)
    _compare_center(scan, geometry, found, slab, facts, faults)
    truncated = _is_truncated(geometry, cut_sides(q, seen))
    facts["truncated"] = truncated
    if truncated:
        faults.append(BEYOND)
    return Seen(config, facts, tuple(faults), found, truncated, slab)


def _check_fields(scan: Scan) -> None:
    """Raise where the flat field is not brighter than the dark field."""
    if scan.flat is None:
        return
    flat = float(scan.flat.median())
    dark = 0.0 if scan.dark is None else float(scan.dark.median())
    if flat <= dark:
        raise InputError(
            f"{scan.path}: the flat field has {flat:.4g} and the dark field {dark:.4g} in the "
            "median element, so nothing was measured between them. Are they swapped? "
            "Or was the shutter closed? Give flat= and dark=."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = scan.read(scan.shape[0] // 2, scan.shape[0] // 2 + 1)
    passed = (float(raw.nanmedian()) - dark) / (flat - dark)
    if passed > BRIGHTER:
        raise InputError(
            f"{scan.path}: the readings are {passed:.3g} times the open beam in the median, and an "
            "object can but weaken it. Was the shutter closed for the flats, or have they another "
            "exposure? Give flat=."
        )


def _settle_gain(
    scan: Scan, config: VolumeConfig, middle: int, facts: dict[str, Any], faults: list[str]
) -> VolumeConfig:
    """Return the settings with a gain: given, or from the flats, or from air, or 1."""
    source = "given"
    if config.gain is None:
        assert scan.flat is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = scan.read(middle, middle + 1)[0].double().numpy()
        flat = scan.flat[middle].double().numpy()
        dark = 0 * flat if scan.dark is None else scan.dark[middle].double().numpy()
        air, flats = gain_of_air(raw, flat, dark), scan.gain
        alike = air is None or flats is None or 2 / 3 < air / flats < 1.5
        found, source = (flats, "flats") if flats and alike else (air, "readings beside the object")
        if found is None:
            found, source = 1.0, "assumed"
            faults.append(
                "the gain, detector units per photon, is taken as 1: neither flat frames nor "
                "readings beside the object tell it. If the counts are not photons, give gain= "
                "(--gain); 1 is right where --check shows chi^2 near 1"
            )
        config = replace(config, gain=found)
    facts |= {"gain": config.gain, "gain from": source}
    if scan.dark is None and config.gain != 1.0:
        faults.append(
            f"there is no dark field, though the counts are no photons (gain {config.gain:.3g}); "
            "it is taken as 0. A dark signal of 1 % of the open beam changes dense objects by "
            "several per cent. Give dark= (--dark; --dark 0 if it was subtracted)"
        )
    return config


def _look_for_transmissions(scan: Scan, q: Tensor, seen: Tensor, faults: list[str]) -> None:
    """Raise where line integrals are largest at the ends of the detector, about 1."""
    if scan.kind == COUNTS or q.shape[1] < 16:
        return
    width = max(2, q.shape[1] // 32)
    ends = torch.cat([q[:, :width][seen[:, :width]], q[:, -width:][seen[:, -width:]]])
    third = slice(q.shape[1] // 3, 2 * q.shape[1] // 3)
    inner = q[:, third][seen[:, third]]
    if not len(ends) or not len(inner):
        return
    edge, middle, top = (
        float(ends.median()),
        float(inner.median()),
        float(some(q[seen]).quantile(0.99)),
    )
    if not (0.8 < edge < 1.2 and top < 1.3 and middle < 0.9 * edge):
        return
    text = (
        f"the values are {edge:.3g} at the ends of the detector and {middle:.3g} in the middle, "
        "like transmissions, whose logarithm was not taken. Give -log of them; or, if they are "
        "counts over the open beam, the counts with kind='counts'"
    )
    if not scan.sure:
        raise InputError(
            f"{scan.path}: {text}; if they are line integrals, say kind='line integrals'."
        )
    faults.append(text)


def _compare_center(
    scan: Scan,
    geometry: Geometry,
    found: Center | None,
    slab: Slab,
    facts: dict[str, Any],
    faults: list[str],
) -> None:
    """Check whether the views agree with each other at the centre that is used."""
    count, spacing = sizes(geometry)
    used = (count - 1) / 2 - geometry.offset / spacing
    facts["center"] = used
    if found is None:
        return
    facts |= {"center that fits": found.center, "its error": found.error, "by": found.method}
    noise = slab.noise.masked_fill(slab.missing, 0.0) if slab.noise.ndim > 1 else slab.noise
    expected = float(noise.square().mean() / slab.q.square().mean().clamp_min(1e-30))
    expected *= SMOOTHED
    if found.method == "opposite rays" and found.mismatch > FALSE_BEAM + 1.5 * expected:
        parallel = isinstance(geometry, ParallelBeam)
        faults.append(
            f"opposite rays differ by {math.sqrt(found.mismatch):.2g} of their values at any "
            "centre; noise explains "
            f"{math.sqrt(expected):.2g}. "
            + (
                "Is it a fan beam (--beam fan), or do the angles cover half a turn and not a whole "
                "one (--angles)?"
                if parallel
                else "Check the distances of source and detector, and the angles"
            )
        )
        return
    off = found.center - used
    far = ". If it cannot be so far off, the angles are wrong" if abs(off) > FAR else ""
    if found.error < OFF_CENTER and abs(off) > max(OFF_CENTER, 4 * found.error):
        faults.append(
            f"the rotation axis is taken at element {used:.2f}, but the views fit each other at "
            f"{found.center:.2f} ({found.method}, standard error {found.error:.2g}). Give center= "
            f"(--center {found.center:.2f}, or --center auto){far}"
        )


def _is_truncated(geometry: Geometry, cut: tuple[bool, bool]) -> bool:
    """Return whether lines are missing; half acquisition sees one side from the other."""
    spacing = sizes(geometry)[1]
    if whole_turn(geometry.theta) and abs(geometry.offset) > 2 * spacing:
        return cut[1] if geometry.offset > 0 else cut[0]
    return any(cut)


def _settle_bin(
    geometry: Geometry, config: VolumeConfig, facts: dict[str, Any], faults: list[str]
) -> VolumeConfig:
    """Return the settings with the elements of a bin: given, or those that fit the pixels."""
    ratio = elements_in_a_pixel(geometry)
    fine, factor = divide(ratio) if config.bin is None else (1, config.bin)
    facts |= {"elements in a pixel": ratio, "parts of a pixel": fine, "elements in a bin": factor}
    if ratio / (fine * factor) > COARSE:
        width = geometry.pixel / ratio
        faults.append(
            f"a pixel is {ratio:.2g} detector elements wide, so that the image cannot show what "
            "the data do, and chi^2 stays above 1. Give pixel= "
            f"(--pixel {width:.4g}) and a larger shape, or leave out bin= (--bin)"
        )
    return replace(config, bin=factor)


def some(values: Tensor, most: int = 1_000_000) -> Tensor:
    """Return at most so many of the values, evenly spaced, for quantiles.

    Parameters
    ----------
    values : Tensor
        Of any shape.
    most : int
        How many.

    Returns
    -------
    Tensor, shape (N,), float32
    """
    flat = values.flatten().float()
    return flat[:: -(-len(flat) // most) or 1]


__all__ = ["Seen", "examine", "some"]
