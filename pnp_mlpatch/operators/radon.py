r"""Computed tomography by ASTRA (van Aarle et al. 2016), on any machine: parallel and fan beams.

The datum of the angle a at the detector element k is the line integral of the image along its ray,
in the unit of length of the geometry:

.. math:: q_{ak} = \int f \, dl

The rays, axes and signs are those of :mod:`pnp_mlpatch.ct.geometry`. In short, theta turns
counter-clockwise, and at theta = 0 the rays run up the columns of the image. For a parallel beam

.. math:: q_{ak} = \int f(x, y) \, \delta(x \cos\theta_a + y \sin\theta_a - u_k) \, dx \, dy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.ct import fbp as filtered
from pnp_mlpatch.ct import spectrum
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, sizes
from pnp_mlpatch.ct.projection import (
    BACKENDS,
    PROJECTORS,
    AstraPair,
    SparsePair,
    cache_directory,
    check_projector,
    choose,
)
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.operators._base import LinearOperator, Map, register
from pnp_mlpatch.operators._inputs import check_image_shape
from pnp_mlpatch.operators._verify import mismatch

FLOOR = 1.3e-3  # of the preconditioner, relative to its largest eigenvalue: 3e-3 |A|^2
FULL_COVERAGE = 0.9  # of the directions; below it the preconditioner is the nearest circulant
REPEATED = 2  # elements beyond the outermost that was seen, which repeat its value
LEAST_SHARE = 1e-3  # of the rays through a pixel, relative to the most or to the mean


@register("radon", needs=("astra", "scipy"))
class Radon(LinearOperator):
    r"""The X-ray transform of (C, H, W) images; each channel is a slice of its own.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam, optional
        With its units, spacings and offsets. Either this, or ``image_shape`` and ``angles``.
    image_shape : sequence of int, optional
        (C, H, W): a parallel beam with pixels and detector elements of size 1.
    angles : int or sequence of float, optional
        A number n (:math:`k \pi / n` for k < n), or the angles in radians.
    detectors : int, optional
        The number of detector elements; by default they cover the diagonal of the image.
    channels : int, optional
        C, with a geometry; 1 by default.
    projector : {"linear", "line", "strip"}, optional
        The discretisation: "linear" (Joseph 1982; parallel beams, their default), "line" (Siddon
        1985; the default of fan beams) or "strip" (areas).
    backend : {"auto", "sparse", "astra_cpu", "astra_cuda"}
        "sparse" keeps ASTRA's matrix and its transpose as compressed rows, of the angles that
        symmetry does not give. It is exactly matched and the fastest, and follows ``.to(device)``.
        "astra_cpu" calls ASTRA's matched CPU projectors and stores nothing; tensors on a GPU go
        through the host. "astra_cuda" calls its GPU projectors, which are *not* matched:
        ``mismatch`` says by how much, and the data step uses a matched pair. "auto" is "sparse" if
        the matrices fit ``memory``, else "astra_cpu" with a warning. ``A.backend`` and ``A.why``
        tell what was chosen.
    memory : float, optional
        GiB for the matrices; by default half of what is free, at most 4.
    cache : bool
        Keep the matrices on disk.

    Raises
    ------
    MissingPackage
        Without astra-toolbox.
    InputError
        If the geometry or the backend cannot be used.

    Notes
    -----
    Data are (B, C, angles, detectors). The projectors work in float32; float64 tensors are
    converted there and back.

    The data step is preconditioned CG. The preconditioner is the inverse of the convolution that
    :math:`A^H A` is up to sampling (:mod:`pnp_mlpatch.ct.spectrum`): on a grid of twice the size,
    or for a limited angle the nearest circulant on the grid itself (T. Chan 1988). There alpha is
    at least 3e-3 :math:`|A|^2`, since with few angles the smaller eigenvalues are not those of a
    convolution. With weights w it is D C D, :math:`d_j^2 = (A^H w^2)_j / (A^H 1)_j` (Fessler and
    Booth 1999).

    ``initial`` is filtered backprojection with a Hann window, in which projections without any
    weight do not count.
    """

    def __init__(
        self,
        geometry: Geometry | None = None,
        *,
        image_shape: Sequence[int] | None = None,
        angles: int | Sequence[float] | Tensor | None = None,
        detectors: int | None = None,
        channels: int | None = None,
        projector: str | None = None,
        backend: str = "auto",
        memory: float | None = None,
        cache: bool = True,
    ):
        geometry, channels = _geometry(geometry, image_shape, angles, detectors, channels)
        if memory is not None and not (isinstance(memory, (int, float)) and memory > 0):
            raise InputError(f"Radon: memory must be a number of GiB > 0, or None, got {memory!r}.")
        data_shape = (channels, len(geometry.theta), sizes(geometry)[0])
        super().__init__((channels, *geometry.shape), data_shape)
        self.geometry = geometry
        self.projector = check_projector(geometry, projector)
        self.pair, self.why = choose(geometry, projector, backend, memory, cache)
        stored = hasattr(self.pair, "matrix")
        self.backend = backend if backend != "auto" else "sparse" if stored else "astra_cpu"
        self.angles: Tensor
        self.register_buffer("angles", geometry.theta)
        self._spectrum: Tensor | None
        self.register_buffer("_spectrum", None, persistent=False)
        self.mismatch, self.matched = 0.0, None
        if self.backend == "astra_cuda":
            self.mismatch = _mismatch(self.pair, geometry, torch.device("cuda"))
            self.matched, _ = choose(geometry, projector, "auto", memory, cache)

    @classmethod
    def example(cls) -> Radon:
        return cls(image_shape=(2, 14, 18), angles=9, cache=False)

    def extra_repr(self) -> str:
        return f"{self.geometry}, {self.projector!r}, backend={self.backend!r} ({self.why})"

    # ---- projections

    def _forward(self, x: Tensor) -> Tensor:
        return self._each(self.pair.forward_project, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._each(self.pair.back_project, y)

    def _normal(self, x: Tensor) -> Tensor:
        return self._each((self.matched or self.pair).normal, x)

    def _each(self, project: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return project(x.flatten(0, 1)).unflatten(0, x.shape[:2]).to(x.dtype)

    # ---- data step and start

    def _precondition(self, alpha: Tensor) -> Map:
        height, width = self.image_shape[1:]
        limited = spectrum.coverage(self.geometry) < FULL_COVERAGE
        values = self._spectrum
        if values is None:  # it depends on the geometry alone, so any thread may make it for all
            kernel = spectrum.normal_kernel(self.geometry, self.projector)
            make = spectrum.circulant if limited else spectrum.embedded
            values = self._spectrum = make(kernel).to(self.device)
        values = values.to(alpha.dtype)
        floor = (FLOOR * values.max().double()).to(alpha)
        inverse = 1 / (values + torch.maximum(alpha, floor))
        grid = (height, width) if limited else (2 * height, 2 * width)

        def solve(r: Tensor) -> Tensor:
            f = torch.fft.irfft2(torch.fft.rfft2(r, s=grid) * inverse, s=grid)
            return f[..., :height, :width]

        return solve

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map:
        power = weight.square().expand(*torch.broadcast_shapes(weight.shape, (1, *self.data_shape)))
        back_project = (self.matched or self.pair).back_project
        hits = self._each(back_project, torch.ones_like(power[:1]))
        hits = hits.clamp_min(LEAST_SHARE * float(hits.max()))
        share = self._each(back_project, power.contiguous()) / hits
        mean = share.flatten(1).mean(1).reshape(-1, 1, 1, 1).clamp_min(1e-30)
        root = share.clamp_min(LEAST_SHARE * mean).sqrt()
        inner = self._precondition(alpha / mean)
        return lambda r: inner(r / root) / root

    def _initial(self, q: Tensor) -> Tensor:
        return self.fbp(q, window="hann")

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor:
        """Linear interpolation along the detector, so that dead elements leave no rings.

        Where nothing of a projection was seen it stays 0, and the others count for more.
        """
        if bool(seen.all()):
            return q
        filled = _interpolate(q, seen)
        used = seen.any(-1)
        if bool(used.all()):
            return filled
        patterns, which = used.flatten(0, 1).unique(dim=0, return_inverse=True)
        whole = filtered.weights(self.geometry)
        parts = torch.stack([filtered.weights(self.geometry, pattern) for pattern in patterns])
        more = parts / whole.where(whole > 0, torch.inf)
        return filled * more.to(q)[which].reshape(filled.shape)

    def fbp(self, q: Tensor, *, window: str = "hann") -> Tensor:
        r"""Apply filtered backprojection, see :mod:`pnp_mlpatch.ct.fbp`. Gradients flow.

        Parameters
        ----------
        q : Tensor, shape (B, C, angles, detectors)
            Sinograms.
        window : {"hann", "none"}
            The window on the ramp filter; "none" is Ram-Lak.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        if window not in ("hann", "none"):
            raise InputError(f"Radon.fbp: window must be 'hann' or 'none', got {window!r}.")
        self._check(q, "data", "A.fbp(q)")

        def back_project(y: Tensor) -> Tensor:
            return self.adjoint(y.unflatten(0, q.shape[:2])).flatten(0, 1)

        return self._each(lambda y: filtered.fbp(self.geometry, y, window, back_project), q)


def simulate(
    A: Radon, truth: Tensor, *, snr_db: float | None = None, seed: int = 0
) -> tuple[Tensor, float]:
    """Simulate data that were not made by A itself (no inverse crime).

    The line integrals are those of the image interpolated to twice the size (bicubic), averaged
    over the detector elements of A.

    Parameters
    ----------
    A : Radon
        The operator that the data are for.
    truth : Tensor, shape (B, C, H, W)
        Images.
    snr_db : float, optional
        Add white noise of standard deviation 10^(-snr_db / 20), relative to the root mean square of
        the sinogram. None: no noise.
    seed : int
        Of the noise.

    Returns
    -------
    q : Tensor, shape (B, C, angles, detectors)
    noise : float
        The standard deviation of the noise.
    """
    geometry = A.geometry
    count, spacing = sizes(geometry)
    finer = replace(
        geometry,
        shape=(2 * geometry.shape[0], 2 * geometry.shape[1]),
        pixel=geometry.pixel / 2,
        detectors=2 * count,
        spacing=spacing / 2,
    )
    fine = Radon(finer, channels=A.image_shape[0], projector=A.projector, backend="astra_cpu")
    large = F.interpolate(truth.cpu(), scale_factor=2, mode="bicubic")
    q = fine(large).unflatten(-1, (count, 2)).mean(-1)
    if snr_db is None:
        return q.to(truth), 0.0
    noise = float(q.square().mean().sqrt()) * 10 ** (-snr_db / 20)
    draw = torch.randn(q.shape, generator=torch.Generator().manual_seed(seed)).to(q)
    return (q + noise * draw).to(truth), noise


def _geometry(
    geometry: Geometry | None,
    image_shape: Sequence[int] | None,
    angles: int | Sequence[float] | Tensor | None,
    detectors: int | None,
    channels: int | None,
) -> tuple[Geometry, int]:
    """Return the geometry and the number of channels, of what the caller gave."""
    if geometry is not None:
        if not isinstance(geometry, (ParallelBeam, FanBeam)):
            raise InputTypeError(
                "Radon: geometry must be a ParallelBeam or a FanBeam, "
                f"got {type(geometry).__name__}. Or give image_shape=(C, H, W) and angles=."
            )
        if image_shape is not None or angles is not None or detectors is not None:
            raise InputError(
                "Radon: a geometry has its shape, angles and detectors; call Radon(geometry)."
            )
        channels = 1 if channels is None else channels
        if isinstance(channels, bool) or not isinstance(channels, Integral) or channels < 1:
            raise InputError(f"Radon: channels must be an integer >= 1, got {channels!r}.")
        return geometry, int(channels)
    if angles is None or image_shape is None:
        raise InputTypeError(
            "Radon: give image_shape=(C, H, W) and angles=, a number of them or a sequence in "
            "radians; or a geometry: Radon(geometry)."
        )
    if channels is not None:
        raise InputError("Radon: image_shape=(C, H, W) has its channels; leave channels= out.")
    channels, height, width = check_image_shape("Radon", image_shape)
    try:
        return ParallelBeam((height, width), angles, detectors), channels
    except PnPError as error:
        raise type(error)(str(error).replace("ParallelBeam:", "Radon:", 1)) from error


def _interpolate(q: Tensor, seen: Tensor) -> Tensor:
    """Fill q linearly along its last axis where it is not seen; a row without any stays."""
    count = q.shape[-1]
    place = torch.arange(count, device=q.device).expand_as(q)
    left = torch.where(seen, place, torch.full_like(place, -1)).cummax(-1).values
    right = torch.where(seen, place, torch.full_like(place, count))
    right = right.flip(-1).cummin(-1).values.flip(-1)
    one, other = torch.where(left < 0, right, left), torch.where(right >= count, left, right)
    share = ((place - one) / (other - one).clamp_min(1)).to(q.dtype)
    known = (one < count) & (other >= 0)
    # beyond the outermost reading values fall to 0, over a quarter of the detector
    beyond = torch.where((left < 0) | (right >= count), (place - one).abs() - REPEATED, 0)
    beyond = beyond.clamp(0, count / 4)
    fall = torch.cos(2 * math.pi * beyond / count).square().to(q.dtype)
    one, other = (torch.where(known, k, torch.zeros_like(k)) for k in (one, other))
    filled = (1 - share) * q.gather(-1, one) + share * q.gather(-1, other)
    return torch.where(known, fall * filled, q)


def _mismatch(pair: AstraPair | SparsePair, geometry: Geometry, device: torch.device) -> float:
    """Return the mismatch of a pair whose backprojection need not be the transpose."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, *geometry.shape, generator=generator).to(device)
    y = torch.rand(1, len(geometry.theta), sizes(geometry)[0], generator=generator).to(device)
    return mismatch(pair.forward_project(x), y, x, pair.back_project(y))


__all__ = ["BACKENDS", "PROJECTORS", "Radon", "cache_directory", "simulate"]
