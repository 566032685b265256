"""Symmetries of a scan, by which the matrix of a part of the angles serves for all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pnp_mlpatch.ct.geometry import Geometry, ParallelBeam


@dataclass(frozen=True)
class Symmetry:
    r"""Which angles have a matrix of their own, and which transform of the image leads to others.

    Parameters
    ----------
    transforms : list of tuple
        (quarter turns, flipped) of the image; a flip is left-right, before the turn.
    base : list of int
        The angles that have a matrix of their own.
    source : list of int
        For each angle, the number of its transform times ``len(base)`` plus its place in ``base``.
    mirrored : list of bool
        For each angle, whether the detector runs backwards.

    Notes
    -----
    With R a rotation by 90 degrees counter-clockwise and F a flip left-right,

    .. math::
        P[R x](\theta, u) &= P[x](\theta - \pi/2, u) \\
        P[F x](\theta, u) &= P[x](-\theta, -u) \\
        P[x](\theta + \pi, u) &= P[x](\theta, -u) \quad \text{for parallel beams.}
    """

    transforms: list[tuple[int, bool]]
    base: list[int]
    source: list[int]
    mirrored: list[bool]

    @classmethod
    def of(cls, geometry: Geometry, tolerance: float = 1e-7) -> Symmetry:
        """Find the symmetries of a scan.

        Parameters
        ----------
        geometry : ParallelBeam or FanBeam
            The scan.
        tolerance : float
            Angles in radians that are nearer than this are one.

        Returns
        -------
        Symmetry
            Without transforms where these would spare less than a third of the matrix.
        """
        theta = geometry.theta.tolist()
        candidates = _candidates(geometry)
        both = isinstance(geometry, ParallelBeam) and geometry.offset == 0
        places = _Places(theta, tolerance)
        found: dict[int, tuple[int, int, bool]] = {}  # transform, place in base, mirrored
        base: list[int] = []
        for index, angle in enumerate(theta):
            if index in found:
                continue
            for number, (turns, flip) in enumerate(candidates):
                for reached, mirror in _reached(angle, turns, flip, both):
                    there = places.take(reached)
                    if there is not None:
                        found[there] = (number, len(base), mirror)
                        break
            base.append(index)
        count = len(theta)
        if 1.5 * len(base) > count:
            return cls([(0, False)], list(range(count)), list(range(count)), [False] * count)
        entries = [found[index] for index in range(count)]
        used = sorted({number for number, _, _ in entries})
        source = [used.index(number) * len(base) + place for number, place, _ in entries]
        mirrored = [mirror for _, _, mirror in entries]
        return cls([candidates[number] for number in used], base, source, mirrored)


def _candidates(geometry: Geometry) -> list[tuple[int, bool]]:
    """Return the transforms that map the image and the detector to themselves."""
    height, width = geometry.shape
    turns = range(4) if height == width else (0, 2)
    flips = (False, True) if geometry.offset == 0 else (False,)
    return [(k, flip) for flip in flips for k in turns]


def _reached(angle: float, turns: int, flip: bool, both: bool) -> Iterator[tuple[float, bool]]:
    """Angles at which the matrix of ``angle`` serves, and whether the detector runs backwards."""
    turned = angle - turns * math.pi / 2
    first = (-turned, True) if flip else (turned, False)
    yield first
    if both:  # the opposite direction of parallel rays
        yield first[0] + math.pi, not first[1]


class _Places:
    """The angles by value, each of which is taken once."""

    def __init__(self, theta: list[float], tolerance: float):
        self.scale = round(1 / tolerance)
        self.period = round(2 * math.pi * self.scale)
        self.free: dict[int, list[int]] = {}
        for index, angle in enumerate(theta):
            self.free.setdefault(round(angle * self.scale) % self.period, []).append(index)

    def take(self, angle: float) -> int | None:
        """Return the first angle of this value that was not taken, or None."""
        key = round(angle * self.scale)
        for near in (key, key - 1, key + 1):
            here = self.free.get(near % self.period)
            if here:
                return here.pop(0)
        return None


__all__ = ["Symmetry"]
