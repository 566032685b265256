"""A geometry from vectors that turn with the apparatus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pnp_mlpatch.ct.convert._checks import NEAR
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam
from pnp_mlpatch.errors import InputError


@dataclass(frozen=True)
class RigidScan:
    """Vectors (angles, 2) as (x, y) that turn as one about the origin.

    Parameters
    ----------
    who : str
        The caller, for messages.
    shape : tuple of int
        The image (H, W).
    pixel : float
        The side of a pixel.
    detectors : int
        The number of detector elements.
    element : ndarray
        From one detector element to the next.
    centre : ndarray
        From the origin to the middle of the detector, or to where ``shift`` is counted from.
    source : ndarray or None
        From the origin to the source of a fan.
    ray : ndarray or None
        The direction of parallel rays.
    shift : float
        Added to the offset of the detector along itself.
    arc : bool
        Whether the detector is an arc about the source.
    """

    who: str
    shape: tuple[int, int]
    pixel: float
    detectors: int
    element: np.ndarray
    centre: np.ndarray
    source: np.ndarray | None = None
    ray: np.ndarray | None = None
    shift: float = 0.0
    arc: bool = False

    def geometry(self) -> Geometry:
        """Return the geometry; raise :class:`InputError` unless the scan is circular.

        Returns
        -------
        ParallelBeam or FanBeam
        """
        spacing = np.linalg.norm(self.element, axis=1)
        if not (spacing > 0).all():
            raise InputError(
                f"{self.who}: the detector elements must have a length > 0, got {spacing.min():g}."
            )
        e = self.element / spacing[:, None]
        theta = torch.from_numpy(np.arctan2(e[:, 1], e[:, 0]))
        width = self._same(spacing, "the length of a detector element")
        along = (self.centre * e).sum(1)
        offset = self._same(along, "the place of the detector along itself") + self.shift
        offset = 0.0 if abs(offset) <= self._near else offset
        common: dict[str, Any] = {"pixel": self.pixel, "spacing": width, "offset": offset}
        if self.source is None:
            self._check_rays(e)
            return ParallelBeam(self.shape, theta, self.detectors, **common)
        before, behind = self._distances(self.source, e)
        if self.arc and abs(offset - self.shift) > self._near:
            raise InputError(
                f"{self.who}: the arc must be centred on the source, got a detector shifted by "
                f"{offset - self.shift:g}."
            )
        return FanBeam(
            self.shape,
            theta,
            self.detectors,
            source_origin=before,
            origin_detector=behind,
            arc=self.arc,
            **common,
        )

    @property
    def _near(self) -> float:
        """Lengths nearer than this are the same."""
        lengths = [np.abs(self.centre).max(), np.linalg.norm(self.element, axis=1).max()]
        if self.source is not None:
            lengths.append(np.abs(self.source).max())
        return NEAR * float(max(lengths))

    def _same(self, values: np.ndarray, what: str) -> float:
        """Return the mean of values that must be the same for all angles."""
        if float(np.ptp(values)) > self._near:
            raise InputError(
                f"{self.who}: expected a circular scan about the centre of the image, but {what} "
                f"varies over the angles from {values.min():g} to {values.max():g}. Such a scan "
                "has no ParallelBeam or FanBeam."
            )
        return float(values.mean())

    def _check_rays(self, e: np.ndarray) -> None:
        """Raise unless parallel rays are perpendicular to the detector."""
        if self.ray is None:
            return
        length = np.linalg.norm(self.ray, axis=1)
        if not (length > 0).all():
            raise InputError(
                f"{self.who}: the rays must have a direction, got vectors of length 0."
            )
        tilt = np.abs((self.ray * e).sum(1)) / length
        if tilt.max() > NEAR:
            raise InputError(
                f"{self.who}: the rays must be perpendicular to the detector, got a cosine of "
                f"{tilt.max():.3g}. Rebin the data."
            )

    def _distances(self, source: np.ndarray, e: np.ndarray) -> tuple[float, float]:
        """From the source to the origin, and from there to the detector."""
        aside = np.abs((source * e).sum(1)).max()
        if aside > self._near:
            raise InputError(
                f"{self.who}: the line from the source to the centre of the image must be "
                f"perpendicular to the detector, got a source that is {aside:g} aside. Such a "
                "scan has no FanBeam."
            )
        d = np.stack([-e[:, 1], e[:, 0]], 1)
        before = self._same(-(source * d).sum(1), "the distance of the source")
        behind = self._same((self.centre * d).sum(1), "the distance of the detector")
        if before < 0:
            raise InputError(
                f"{self.who}: the detector runs backwards: seen from the source it must run to the "
                "right. Negate its vectors, and flip the detector axis of the data."
            )
        return before, 0.0 if abs(behind) <= self._near else behind
