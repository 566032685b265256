r"""Geometries in the words of other packages: ASTRA, ODL, TIGRE, deepinv, scikit-image. None of them is imported.

With the axes and signs of :mod:`pnp_mlpatch.ct.geometry` (theta counter-clockwise, rows down, y up, sinograms (angles, detectors)):

=============  ==========================  ===============================  =====================================================
package        angle                       image                            sinogram
=============  ==========================  ===============================  =====================================================
ASTRA          theta                       as ours                          as ours
ODL            theta, cell midpoints       [x, y]: ours = rot90(theirs)     as ours
TIGRE          theta - pi / 2              [y, x]: ours = flipud(theirs)    as ours, of the slice
deepinv        theta, fans: theta + pi/2   as ours                          (detectors, angles), see :func:`deepinv_sinogram`
scikit-image   theta, degrees              as ours                          (detectors, angles): ours = theirs.T
=============  ==========================  ===============================  =====================================================
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, coordinates, sizes
from pnp_mlpatch.errors import InputError, InputTypeError

Values = Sequence[float] | Tensor | np.ndarray
NEAR = 1e-6  # relative to a length of the scan: the same length


def from_astra(projection: Mapping[str, Any], volume: Mapping[str, Any]) -> Geometry:
    """The geometry of ``astra.create_proj_geom`` ("parallel", "fanflat" or their "_vec") and ``astra.create_vol_geom``.

    Angles, axes, images and sinograms are ours; lengths are in the unit of the window of the volume. A row (r, c, u) or (s, c, u) of
    vectors has e = u / |u|, d a quarter turn further, spacing = |u|, offset = c . e; a fan has source_origin = -s . d and
    origin_detector = c . d. These, and s . e = 0 or r x d = 0, must be the same for all angles.

    Raises :class:`InputError` for other types, for pixels that are not square, an image that is not centred on the origin, and vectors
    that describe no circular scan or a detector that runs backwards; :class:`InputTypeError` for anything but two dicts.
    """
    who = "from_astra"
    for name, given, maker in (
        ("projection", projection, "create_proj_geom"),
        ("volume", volume, "create_vol_geom"),
    ):
        if not isinstance(given, Mapping):
            raise InputTypeError(
                f"{who}: {name} must be a dict of astra.{maker}, got {type(given).__name__}."
            )
    shape, pixel = _window(volume, who)
    kind = _entry(projection, "type", who)
    if kind not in ("parallel", "fanflat", "parallel_vec", "fanflat_vec"):
        raise InputError(
            f"{who}: type must be parallel, fanflat, parallel_vec or fanflat_vec, got {kind!r}. Give the scan of one slice."
        )
    count = _count(_entry(projection, "DetectorCount", who), "DetectorCount", who)
    if kind.endswith("_vec"):
        vectors = _numbers(_entry(projection, "Vectors", who), "Vectors", who).numpy()
        if vectors.ndim != 2 or vectors.shape[1] != 6 or not np.isfinite(vectors).all():
            raise InputError(
                f"{who}: Vectors must be finite, of shape (angles, 6), got shape {vectors.shape}."
            )
        first, centre, element = vectors[:, :2], vectors[:, 2:4], vectors[:, 4:]
        fan = kind == "fanflat_vec"
        return _rigid(
            shape,
            pixel,
            count,
            element,
            centre,
            first if fan else None,
            None if fan else first,
            who,
        )
    angles = _numbers(_entry(projection, "ProjectionAngles", who), "ProjectionAngles", who)
    spacing = _entry(projection, "DetectorWidth", who)
    if kind == "parallel":
        return ParallelBeam(shape, angles, count, pixel=pixel, spacing=_plain(spacing))
    return FanBeam(
        shape,
        angles,
        count,
        source_origin=_plain(_entry(projection, "DistanceOriginSource", who)),
        origin_detector=_plain(_entry(projection, "DistanceOriginDetector", who)),
        pixel=pixel,
        spacing=_plain(spacing),
    )


def to_astra(geometry: Geometry) -> tuple[dict[str, Any], dict[str, Any]]:
    """The dicts (projection, volume) that ``astra.create_proj_geom`` and ``create_vol_geom`` would make, in the unit of the geometry.

    "parallel" or "fanflat", and with an offset the same as vectors: r or s, c = origin_detector d + offset e, u = spacing e.

    Raises :class:`InputError` for an arc: ASTRA has flat detectors only in the plane; :class:`InputTypeError` for anything but a geometry.
    """
    if not isinstance(geometry, (ParallelBeam, FanBeam)):
        raise InputTypeError(
            f"to_astra: expected a ParallelBeam or a FanBeam, got {type(geometry).__name__}."
        )
    fan = isinstance(geometry, FanBeam)
    if isinstance(geometry, FanBeam) and geometry.arc:
        raise InputError(
            "to_astra: ASTRA has no arc of detectors in the plane, only flat ones, got arc=True. Project with Radon(geometry)."
        )
    (height, width), (count, spacing) = geometry.shape, sizes(geometry)
    x, y = width * geometry.pixel / 2, height * geometry.pixel / 2
    window = {"WindowMinX": -x, "WindowMaxX": x, "WindowMinY": -y, "WindowMaxY": y}
    volume = {"GridRowCount": height, "GridColCount": width, "option": window}
    theta = np.asarray(geometry.angles)
    e, d = np.stack([np.cos(theta), np.sin(theta)], 1), np.stack([-np.sin(theta), np.cos(theta)], 1)
    if geometry.offset:
        first, behind = (
            (-geometry.source_origin * d, geometry.origin_detector)
            if isinstance(geometry, FanBeam)
            else (d, 0.0)
        )
        vectors = np.concatenate([first, behind * d + geometry.offset * e, spacing * e], 1)
        return {
            "type": "fanflat_vec" if fan else "parallel_vec",
            "DetectorCount": count,
            "Vectors": vectors,
        }, volume
    projection = {
        "type": "parallel",
        "DetectorWidth": spacing,
        "DetectorCount": count,
        "ProjectionAngles": theta,
    }
    if isinstance(geometry, FanBeam):
        lengths = {
            "DistanceOriginSource": geometry.source_origin,
            "DistanceOriginDetector": geometry.origin_detector,
        }
        projection |= {"type": "fanflat", **lengths}
    return projection, volume


def from_odl(geometry: Any, space: Any) -> Geometry:
    """The geometry of ODL's ``Parallel2dGeometry`` or ``FanBeamGeometry`` and a uniform space (``odl.applications.tomo``, ODL 1.0).

    Its images are indexed [x, y], both upwards, so that ours = numpy.rot90(theirs) and theirs = numpy.rot90(ours, -1); sinograms are as
    ours, in the unit of the space, as are lengths. Angles are ``geometry.angles``, the midpoints of the cells of its partition. Our e is
    ``det_axis``: theta is theirs for the default initial vectors, and turned with any others. Offset: the midpoint of the detector. A
    ``det_curvature_radius`` equal to src_radius + det_radius is our arc, with spacing and offset times the radius.

    ODL's ``RayTransform`` on astra_cpu leaves out the offset and the initial vectors of a parallel beam and has no arc; and its adjoint
    is the transpose times the weighting of the range over that of the domain.

    Raises :class:`InputError` for a space or a detector that is not uniform, pixels that are not square, an image not centred on the
    axis of rotation, shifts that vary, and other curvatures; :class:`InputTypeError` for anything else.
    """
    who = "from_odl"
    needed = ("angles", "det_axis", "det_refpoint", "det_partition")
    if getattr(geometry, "ndim", None) != 2 or not all(hasattr(geometry, name) for name in needed):
        raise InputTypeError(
            f"{who}: expected a Parallel2dGeometry or a FanBeamGeometry, got {type(geometry).__name__}."
        )
    grid, detector = getattr(space, "partition", None), geometry.det_partition
    if grid is None or getattr(space, "ndim", None) != 2:
        raise InputTypeError(
            f"{who}: expected a space of odl.uniform_discr with two axes, got {type(space).__name__}."
        )
    if not grid.is_uniform or not detector.is_uniform:
        raise InputError(
            f"{who}: the space and the detector must be uniform, got sampling that varies. Resample the data."
        )
    across, upwards = (float(side) for side in grid.cell_sides)
    if abs(across - upwards) > NEAR * across:
        raise InputError(
            f"{who}: pixels must be square, got sides {across:g} x {upwards:g}. Resample the image."
        )
    shape, middle = (
        (int(grid.shape[1]), int(grid.shape[0])),
        np.asarray(grid.mid_pt, dtype=np.float64),
    )
    angles = np.asarray(geometry.angles, dtype=np.float64)
    side, start = float(detector.cell_sides[0]), float(detector.mid_pt[0])
    axis = np.asarray(geometry.det_axis(angles), dtype=np.float64).reshape(-1, 2)
    centre = np.asarray(geometry.det_refpoint(angles), dtype=np.float64).reshape(-1, 2) - middle
    source = None
    radius = getattr(geometry, "det_curvature_radius", None)
    if hasattr(geometry, "src_position"):
        source = np.asarray(geometry.src_position(angles), dtype=np.float64).reshape(-1, 2) - middle
        distance = geometry.src_radius + geometry.det_radius
        if radius is not None and abs(radius - distance) > NEAR * distance:
            raise InputError(
                f"{who}: det_curvature_radius must be None or src_radius + det_radius = {distance:g}, an arc about the source, got {radius:g}."
            )
    unit = 1.0 if radius is None else float(radius)
    found = _rigid(
        shape,
        across,
        detector.size,
        axis * side * unit,
        centre,
        source,
        None,
        who,
        shift=start * unit,
        arc=radius is not None,
    )
    return found


def from_tigre(
    DSO: float,
    DSD: float,
    nVoxel: int | Sequence[int],
    sVoxel: float | Sequence[float] | None = None,
    nDetector: int = 0,
    dDetector: float = 0.0,
    angles: Values = (),
    offDetector: float = 0.0,
    *,
    dVoxel: float | Sequence[float] | None = None,
    mode: str = "cone",
) -> Geometry:
    """The geometry of the middle slice of TIGRE's, in its words (Biguri et al. 2016): numbers for the slice, lengths in any one unit.

    ``nVoxel`` is N or (y, x); ``sVoxel``, the size of the image, or ``dVoxel``, that of a voxel, a number or (y, x); ``nDetector``,
    ``dDetector`` and ``offDetector`` are those along u; ``angles`` radians. source_origin = DSO, origin_detector = DSD - DSO,
    offset = offDetector; ``mode`` "parallel" needs neither DSO nor DSD.

    As its sources say (Siddon_projection.cu; TIGRE itself was not run): the source of the angle alpha is at DSO (cos alpha, sin alpha), u
    grows along (-sin alpha, cos alpha), and the rows of an image upwards. Hence theta = alpha + pi / 2, and for a slice [y, x]
    ours = flipud(theirs); sinograms are as ours.

    Raises :class:`InputError` for voxels that are not square, DSD < DSO, another mode, and what the geometry refuses;
    :class:`InputTypeError` unless one of sVoxel and dVoxel is given.
    """
    who = "from_tigre"
    if mode not in ("cone", "parallel"):
        raise InputError(f"{who}: mode must be 'cone' or 'parallel', got {mode!r}.")
    if (sVoxel is None) == (dVoxel is None):
        raise InputTypeError(
            f"{who}: give one of sVoxel, the size of the image, and dVoxel, that of a voxel; got {'neither' if dVoxel is None else 'both'}."
        )
    height, width = (_count(n, "nVoxel", who) for n in _pair(nVoxel, "nVoxel", who))
    lengths = [
        _plain(value)
        for value in _pair(
            dVoxel if sVoxel is None else sVoxel, "dVoxel" if sVoxel is None else "sVoxel", who
        )
    ]
    if not all(finite_number(value) and value > 0 for value in lengths):
        raise InputError(
            f"{who}: sVoxel and dVoxel are lengths > 0, got {sVoxel if dVoxel is None else dVoxel!r}."
        )
    tall, wide = lengths if sVoxel is None else (lengths[0] / height, lengths[1] / width)
    if abs(tall - wide) > NEAR * wide:
        raise InputError(
            f"{who}: voxels must be square in the slice, got {tall:g} x {wide:g}. Give nVoxel and sVoxel of the slice, (y, x)."
        )
    count = _count(nDetector, "nDetector", who)
    theta = _numbers(angles, "angles", who) + math.pi / 2
    spacing, offset = _plain(dDetector), _plain(offDetector)
    if mode == "parallel":
        return ParallelBeam(
            (height, width), theta, count, pixel=wide, spacing=spacing, offset=offset
        )
    if not finite_number(DSO) or not finite_number(DSD) or not 0 < DSO <= DSD:
        raise InputError(
            f"{who}: expected 0 < DSO <= DSD, source to origin and source to detector, got DSO = {DSO!r}, DSD = {DSD!r}."
        )
    return FanBeam(
        (height, width),
        theta,
        count,
        source_origin=float(DSO),
        origin_detector=float(DSD - DSO),
        pixel=wide,
        spacing=spacing,
        offset=offset,
    )


def from_deepinv(
    img_width: int,
    angles: int | Values,
    *,
    circle: bool = False,
    fan_beam: bool = False,
    fan_parameters: Mapping[str, float] | None = None,
) -> Geometry:
    """The geometry of ``deepinv.physics.Tomography`` of the same arguments (deepinv 0.5): ``angles`` in degrees, or n of them in 180.

    Its images are ours, its sinograms (detectors, angles) and in other units: :func:`deepinv_sinogram` takes them to ours. Its angle phi
    is theta for parallel beams, theta = phi - pi / 2 for fans. The detector has P = img_width elements with ``circle=True``, else
    P = ceil(sqrt(2) img_width), of the size of a pixel; those of a fan are in ``fan_parameters``, in the unit of ``pixel_spacing``, where
    missing with deepinv's defaults. A fan in P pixels is drawn into P - 1, so that its ``pixel`` is pixel_spacing P / (P - 1).

    Warns where P - img_width is odd: deepinv then turns about a point half a pixel from the centre of the image, in x and in y.

    Raises :class:`InputError` for numbers that cannot be and unknown ``fan_parameters``.
    """
    who = "from_deepinv"
    width = _count(img_width, "img_width", who)
    padded = width if circle else math.ceil(math.sqrt(2) * width)
    if width < 2:
        raise InputError(f"{who}: img_width must be >= 2, got {width}.")
    count = None if not _is_count(angles) else _count(angles, "angles", who)
    degrees = (
        _numbers(angles, "angles", who)
        if count is None
        else torch.arange(count, dtype=torch.float64) * (180 / count)
    )
    if (padded - width) % 2:
        _warn_half(
            who,
            f"deepinv pads {width} to {padded} pixels",
            "Another img_width, or circle=True, avoids it.",
        )
    if not fan_beam:
        return ParallelBeam((width, width), degrees, padded, degrees=True)
    default = {
        "pixel_spacing": 0.5 / width,
        "source_radius": 57.5,
        "detector_radius": 57.5,
        "n_detector_pixels": 258,
        "detector_spacing": 0.077,
    }
    if not isinstance(fan_parameters, (Mapping, type(None))):
        raise InputTypeError(
            f"{who}: fan_parameters must be a dict, got {type(fan_parameters).__name__}."
        )
    unknown = sorted(set(map(str, fan_parameters or {})) - set(default))
    if unknown:
        raise InputError(
            f"{who}: fan_parameters has {', '.join(default)}, got {', '.join(unknown)}."
        )
    words = default | dict(fan_parameters or {})
    return FanBeam(
        (width, width),
        degrees - 90,
        _count(words["n_detector_pixels"], "n_detector_pixels", who),
        source_origin=_plain(words["source_radius"]),
        origin_detector=_plain(words["detector_radius"]),
        pixel=_plain(words["pixel_spacing"]) * padded / (padded - 1),
        spacing=_plain(words["detector_spacing"]),
        degrees=True,
    )


def deepinv_sinogram(sinogram: Tensor, geometry: Geometry, norm: float = 1.0) -> Tensor:
    """Our sinogram (..., angles, detectors) of deepinv's (..., detectors, angles), for a geometry of :func:`from_deepinv`.

    deepinv sums over pixels, in a fan over steps of one pixel along the beam rather than along the ray:

        ours[a, k] = theirs[k, a]  norm pixel / cos(gamma_k)        cos(gamma_k) = 1 for parallel beams

    ``norm`` is ``physics.operator_norm`` of a Tomography made with ``normalize=True``, which divides by it. Raises :class:`InputError` for
    another shape, :class:`InputTypeError` for integers.
    """
    count, number = sizes(geometry)[0], len(geometry.theta)
    if not isinstance(sinogram, Tensor) or sinogram.shape[-2:] != (count, number):
        got = tuple(sinogram.shape) if isinstance(sinogram, Tensor) else type(sinogram).__name__
        raise InputError(
            f"deepinv_sinogram: expected a tensor (..., {count}, {number}), detectors and angles, got {got}."
        )
    if not sinogram.is_floating_point():
        raise InputTypeError(
            f"deepinv_sinogram: expected floating-point data, got {sinogram.dtype}. Call sinogram.float() first."
        )
    factor = torch.full(
        (count,), float(norm) * geometry.pixel, device=sinogram.device, dtype=torch.float64
    )
    if isinstance(geometry, FanBeam):
        factor *= torch.sqrt(1 + (coordinates(geometry).to(factor) / geometry.distance) ** 2)
    return sinogram.transpose(-2, -1) * factor.to(sinogram)


def from_skimage(shape: Sequence[int], theta: Values, circle: bool = True) -> ParallelBeam:
    """The geometry of ``skimage.transform.radon(image, theta, circle)`` of an image of ``shape``; ``theta`` in degrees.

    Angles and images are ours; its sinogram is (detectors, angles): ours = theirs.T. The detector has D = min(H, W) elements with
    ``circle``, else ceil(sqrt(2) max(H, W)), and the axis is projected to the element D // 2: the offset is 0 for odd D, -1/2 for even.

    Warns where H or W is even: scikit-image turns about the pixel (H // 2, W // 2), which is then half a pixel from the centre.

    Raises :class:`InputError` for another shape or what the geometry refuses.
    """
    who = "from_skimage"
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise InputError(f"{who}: shape must be (H, W), got {shape!r}.")
    height, width = (_count(n, "shape", who) for n in shape)
    least = min(height, width)
    count = least if circle else math.ceil(math.sqrt(2) * max(height, width))
    pixels = [
        (-(-(n - least) // 2) + least // 2 if circle else n // 2) for n in (height, width)
    ]  # of the axis of rotation
    if any(2 * pixel != n - 1 for pixel, n in zip(pixels, (height, width), strict=True)):
        _warn_half(
            who, f"scikit-image turns about the pixel {tuple(pixels)}", "Odd H and W avoid it."
        )
    return ParallelBeam(
        (height, width),
        _numbers(theta, "theta", who),
        count,
        offset=(count - 1) / 2 - count // 2,
        degrees=True,
    )


# ---- pieces


def _rigid(
    shape: tuple[int, int],
    pixel: float,
    count: int,
    element: np.ndarray,
    centre: np.ndarray,
    source: np.ndarray | None,
    ray: np.ndarray | None,
    who: str,
    *,
    shift: float = 0.0,
    arc: bool = False,
) -> Geometry:
    """The scan of vectors (angles, 2) that turn as one about the origin: of a detector element, to the detector, to the source, of the rays."""
    spacing = np.linalg.norm(element, axis=1)
    if not (spacing > 0).all():
        raise InputError(
            f"{who}: the detector elements must have a length > 0, got {spacing.min():g}."
        )
    e = element / spacing[:, None]
    d = np.stack([-e[:, 1], e[:, 0]], 1)
    theta = torch.from_numpy(np.arctan2(e[:, 1], e[:, 0]))
    near = NEAR * float(
        max(np.abs(centre).max(), spacing.max(), 0.0 if source is None else np.abs(source).max())
    )

    def same(values: np.ndarray, what: str) -> float:
        if float(np.ptp(values)) > near:
            raise InputError(
                f"{who}: expected a circular scan about the centre of the image, but {what} varies over the angles "
                f"from {values.min():g} to {values.max():g}. Such a scan has no ParallelBeam or FanBeam."
            )
        return float(values.mean())

    width = same(spacing, "the length of a detector element")
    offset = same((centre * e).sum(1), "the place of the detector along itself") + shift
    offset = 0.0 if abs(offset) <= near else offset
    if source is None:
        if ray is not None:
            length = np.linalg.norm(ray, axis=1)
            if not (length > 0).all():
                raise InputError(f"{who}: the rays must have a direction, got vectors of length 0.")
            tilt = np.abs((ray * e).sum(1)) / length
            if tilt.max() > NEAR:
                raise InputError(
                    f"{who}: the rays must be perpendicular to the detector, got a cosine of {tilt.max():.3g}. Rebin the data."
                )
        return ParallelBeam(shape, theta, count, pixel=pixel, spacing=width, offset=offset)
    aside = np.abs((source * e).sum(1)).max()
    if aside > near:
        raise InputError(
            f"{who}: the line from the source to the centre of the image must be perpendicular to the detector, "
            f"got a source that is {aside:g} aside. Such a scan has no FanBeam."
        )
    before, behind = (
        same(-(source * d).sum(1), "the distance of the source"),
        same((centre * d).sum(1), "the distance of the detector"),
    )
    if before < 0:
        raise InputError(
            f"{who}: the detector runs backwards: seen from the source it must run to the right. Negate its vectors, and flip the detector axis of the data."
        )
    if arc and abs(offset - shift) > near:
        raise InputError(
            f"{who}: the arc must be centred on the source, got a detector shifted by {offset - shift:g}."
        )
    return FanBeam(
        shape,
        theta,
        count,
        source_origin=before,
        origin_detector=0.0 if abs(behind) <= near else behind,
        pixel=pixel,
        spacing=width,
        offset=offset,
        arc=arc,
    )


def _window(volume: Mapping[str, Any], who: str) -> tuple[tuple[int, int], float]:
    """The shape and the pixel of ASTRA's volume."""
    if "GridSliceCount" in volume:
        raise InputError(
            f"{who}: the volume must be a plane, got one with GridSliceCount. Give astra.create_vol_geom(rows, columns)."
        )
    height, width = (
        _count(_entry(volume, name, who), name, who) for name in ("GridRowCount", "GridColCount")
    )
    option = _entry(volume, "option", who)
    if not isinstance(option, Mapping):
        raise InputTypeError(
            f"{who}: the option of the volume must be a dict, got {type(option).__name__}. Make it with astra.create_vol_geom."
        )
    edges = [_entry(option, f"Window{name}", who) for name in ("MinX", "MaxX", "MinY", "MaxY")]
    if not all(finite_number(edge) for edge in edges):
        raise InputError(f"{who}: the window of the volume must be finite numbers, got {edges!r}.")
    left, right, low, high = (float(edge) for edge in edges)
    wide, tall = (right - left) / width, (high - low) / height
    if not wide > 0 or abs(wide - tall) > NEAR * wide:
        raise InputError(
            f"{who}: pixels must be square, got {wide:g} x {tall:g}. Give the volume a window with the ratio of its sides."
        )
    if max(abs(left + right), abs(low + high)) > 2 * NEAR * max(right - left, high - low):
        raise InputError(
            f"{who}: the image must be centred on the origin, the axis of rotation, got the window x {left:g} ... {right:g}, y {low:g} ... {high:g}. "
            "Reconstruct a centred image, and crop it."
        )
    return (height, width), wide


def _entry(values: Mapping[str, Any], name: str, who: str) -> Any:
    try:
        return values[name]
    except KeyError as error:
        raise InputError(
            f"{who}: expected an entry {name!r}, got {', '.join(map(str, values))}. Make the dict with ASTRA."
        ) from error


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _count(value: Any, name: str, who: str) -> int:
    if not _is_count(value) or value < 1:
        raise InputError(f"{who}: {name} must be an integer >= 1, got {value!r}.")
    return int(value)


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python; anything else as it is, for the geometry to judge."""
    return float(value) if finite_number(value) else value


def _pair(value: Any, name: str, who: str) -> tuple[Any, Any]:
    values = value.tolist() if isinstance(value, (np.ndarray, Tensor)) else value
    values = [values, values] if isinstance(values, numbers.Number) else values
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        raise InputError(f"{who}: {name} must be a number or (y, x) of the slice, got {value!r}.")
    return values[0], values[1]


def _numbers(values: Any, name: str, who: str) -> Tensor:
    try:
        tensor = (
            values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
        )  # which keeps Python's numbers whole
        if tensor.is_complex():
            raise TypeError("complex")
        tensor = tensor.detach().cpu().to(torch.float64)
        return tensor.reshape(1) if tensor.ndim == 0 else tensor
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{who}: {name} must be a sequence of real numbers, got {values!r}."
        ) from error


def _warn_half(who: str, what: str, advice: str) -> None:
    warnings.warn(
        f"{who}: {what}, half a pixel from the centre of the image, about which our geometry turns. {advice}",
        stacklevel=3,
    )


__all__ = [
    "deepinv_sinogram",
    "from_astra",
    "from_deepinv",
    "from_odl",
    "from_skimage",
    "from_tigre",
    "to_astra",
]
