r"""Computed tomography by ASTRA (van Aarle et al. 2016), on any machine: parallel and fan beams.

The data of the angle a at the detector element k are line integrals of the image, in the unit of length of the geometry,

    q[a, k] = integral f dl along the ray (a, k)        data shape (C, angles, detectors)

The rays, axes and signs are those of :mod:`pnp_mlpatch.ct.geometry`; in short, theta turns counter-clockwise, and at theta = 0 the rays run
up the columns of the image. For a parallel beam q[a, k] = integral f(x, y) delta(x cos(theta_a) + y sin(theta_a) - u_k) dx dy.
"""

from __future__ import annotations

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
from pnp_mlpatch.operators._base import LinearOperator, register

FLOOR = 1.3e-3  # of the preconditioner, relative to its largest eigenvalue: 3e-3 |A|^2


@register("radon", needs=("astra", "scipy"))
class Radon(LinearOperator):
    r"""The X-ray transform of (C, H, W) images: sinograms (C, angles, detectors), each channel a slice of its own.

    ``Radon(geometry)`` takes a :class:`~pnp_mlpatch.ct.ParallelBeam` or a :class:`~pnp_mlpatch.ct.FanBeam`, with their units, spacings and
    offsets. ``Radon(shape, angles, detectors)`` is short for a parallel beam with pixels and detector elements of size 1: ``shape`` is
    (H, W), ``angles`` a number n (k pi / n for k < n) or a sequence in radians; by default the detector covers the diagonal of
    the image.

    ``projector`` is ASTRA's discretisation: "linear" (Joseph 1982; parallel beams, their default), "line" (Siddon 1985; the default
    of fan beams) or "strip" (areas).

    ``backend``: "sparse" keeps ASTRA's own matrix and its transpose as compressed rows, of the angles that symmetry does not give (exactly
    matched, and the fastest; built once and cached on disk; it follows ``.to(device)``); "astra_cpu" calls ASTRA's matched CPU
    projectors without storing anything; "astra_cuda" calls its GPU projectors, whose forward and backprojection are *not*
    matched: ``mismatch`` holds by how much, and the data step runs on a matched pair. "auto" is "sparse" if the matrices fit ``memory``
    GiB (None: half of what is free, at most 4), else "astra_cpu", with a warning. ``A.backend`` and ``A.why`` tell what was chosen.

    The projectors work in float32; float64 tensors are converted there and back. The data step is preconditioned CG. The
    preconditioner is the inverse of the convolution that A^H A is up to sampling (:mod:`pnp_mlpatch.ct.spectrum`): on a grid of
    twice the size, or for a limited angle the nearest circulant on the grid itself (T. Chan 1988); with alpha held at 3e-3 |A|^2 or
    more, since smaller eigenvalues are not those of a convolution when there are few angles. With weights w it is D C D,
    d_j^2 = (A^H w^2)_j / (A^H 1)_j (Fessler and Booth 1999). ``initial`` is filtered backprojection with a Hann window, in which
    projections without any weight do not count.

    Raises :class:`MissingPackage` without astra-toolbox, :class:`InputError` for a geometry or a backend that cannot be.
    """

    def __init__(
        self,
        shape: tuple[int, int] | Geometry,
        angles: int | Sequence[float] | Tensor | None = None,
        detectors: int | None = None,
        *,
        channels: int = 1,
        projector: str | None = None,
        backend: str = "auto",
        memory: float | None = None,
        cache: bool = True,
    ):
        geometry = _geometry(shape, angles, detectors)
        if isinstance(channels, bool) or not isinstance(channels, Integral) or channels < 1:
            raise InputError(f"Radon: channels must be an integer >= 1, got {channels!r}.")
        if memory is not None and not (isinstance(memory, (int, float)) and memory > 0):
            raise InputError(f"Radon: memory must be a number of GiB > 0, or None, got {memory!r}.")
        channels = int(channels)
        super().__init__(
            (channels, *geometry.shape), (channels, len(geometry.theta), sizes(geometry)[0])
        )
        self.geometry = geometry
        self.projector = check_projector(geometry, projector)
        self.pair, self.why = choose(geometry, projector, backend, memory, cache)
        self.backend = (
            backend
            if backend != "auto"
            else "sparse"
            if hasattr(self.pair, "matrix")
            else "astra_cpu"
        )
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
        return cls((14, 18), angles=9, channels=2, cache=False)

    def extra_repr(self) -> str:
        return (
            f"{self.geometry}, projector={self.projector!r}, backend={self.backend!r} ({self.why})"
        )

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

    def _precondition(self, alpha: Tensor) -> Callable[[Tensor], Tensor]:
        height, width = self.image_shape[1:]
        limited = spectrum.coverage(self.geometry) < 0.9
        values = self._spectrum
        if (
            values is None
        ):  # it depends on the geometry alone: whichever thread comes first makes it for all
            kernel = spectrum.normal_kernel(self.geometry, self.projector)
            values = self._spectrum = (spectrum.circulant if limited else spectrum.embedded)(
                kernel
            ).to(self.angles.device)
        values = values.to(alpha.dtype)
        inverse = 1 / (values + alpha.clamp_min(FLOOR * float(values.max())))
        grid = (height, width) if limited else (2 * height, 2 * width)

        def solve(r: Tensor) -> Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(r, s=grid) * inverse, s=grid)[
                ..., :height, :width
            ]

        return solve

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
        power = weight.square().expand(*torch.broadcast_shapes(weight.shape, (1, *self.data_shape)))
        back_project = (self.matched or self.pair).back_project
        hits = self._each(back_project, torch.ones_like(power[:1]))
        share = self._each(back_project, power.contiguous()) / hits.clamp_min(
            1e-3 * float(hits.max())
        )
        mean = share.flatten(1).mean(1).reshape(-1, 1, 1, 1).clamp_min(1e-30)
        root = share.clamp_min(1e-3 * mean).sqrt()
        inner = self._precondition(alpha / mean)
        return lambda r: inner(r / root) / root

    def _initial(self, q: Tensor) -> Tensor:
        return self.fbp(q, window="hann")

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor:
        """Linear interpolation along the detector, so that dead elements leave no rings in the start.

        Where nothing of a projection was seen it stays 0, and the others are multiplied by what they then count for more.
        """
        if bool(seen.all()):
            return q
        count = q.shape[-1]
        place = torch.arange(count, device=q.device).expand_as(q)
        left = torch.where(seen, place, torch.full_like(place, -1)).cummax(-1).values
        right = (
            torch.where(seen, place, torch.full_like(place, count))
            .flip(-1)
            .cummin(-1)
            .values.flip(-1)
        )
        one, other = torch.where(left < 0, right, left), torch.where(right >= count, left, right)
        part = ((place - one) / (other - one).clamp_min(1)).to(q.dtype)
        known = (one < count) & (other >= 0)  # a row without any stays 0
        one, other = (torch.where(known, k, torch.zeros_like(k)) for k in (one, other))
        filled = torch.where(known, (1 - part) * q.gather(-1, one) + part * q.gather(-1, other), q)
        used = seen.any(-1)
        if bool(used.all()):
            return filled
        patterns, which = used.flatten(0, 1).unique(dim=0, return_inverse=True)
        whole = filtered.weights(self.geometry)
        more = torch.stack(
            [filtered.weights(self.geometry, one) for one in patterns]
        ) / whole.where(whole > 0, torch.inf)
        return filled * more.to(q)[which].reshape(filled.shape)

    def fbp(self, q: Tensor, *, window: str = "hann") -> Tensor:
        """Filtered backprojection with the ramp filter under a window, "hann" or "none" (Ram-Lak); see :mod:`pnp_mlpatch.ct.fbp`."""
        if window not in ("hann", "none"):
            raise InputError(f"Radon.fbp: window must be 'hann' or 'none', got {window!r}.")
        self._check(q, self.data_shape, "A.fbp(q)", "data", "image", self.image_shape)

        def back_project(y: Tensor) -> Tensor:
            return self.adjoint(y.unflatten(0, q.shape[:2])).flatten(
                0, 1
            )  # which carries gradients

        return self._each(lambda y: filtered.fbp(self.geometry, y, window, back_project), q)


def simulate(
    A: Radon, truth: Tensor, *, snr_db: float | None = None, seed: int = 0
) -> tuple[Tensor, float]:
    """Data of ``truth`` (B, C, H, W) that were not made by A itself: the sinogram, and the standard deviation of its noise.

    Line integrals of the image interpolated to twice the size (bicubic), averaged over the detector elements of A, with white noise whose
    standard deviation is ``10^(-snr_db / 20)`` times the root mean square of the sinogram; none (and 0) for ``snr_db=None``.
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
    q = (
        fine(F.interpolate(truth.cpu(), scale_factor=2, mode="bicubic"))
        .unflatten(-1, (count, 2))
        .mean(-1)
    )
    if snr_db is None:
        return q.to(truth), 0.0
    noise = float(q.square().mean().sqrt()) * 10 ** (-snr_db / 20)
    return (
        q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(seed)).to(q)
    ).to(truth), noise


def _geometry(
    shape: tuple[int, int] | Geometry,
    angles: int | Sequence[float] | Tensor | None,
    detectors: int | None,
) -> Geometry:
    if isinstance(shape, (ParallelBeam, FanBeam)):
        if angles is not None or detectors is not None:
            raise InputError(
                "Radon: a geometry has its angles and detectors; call Radon(geometry)."
            )
        return shape
    if angles is None:
        raise InputTypeError(
            "Radon: a shape needs angles: Radon(shape, angles), a number of them or a sequence in radians; or give Radon(geometry)."
        )
    try:
        return ParallelBeam(shape, angles, detectors)
    except PnPError as error:
        raise type(error)(str(error).replace("ParallelBeam:", "Radon:", 1)) from error


def _mismatch(pair: AstraPair | SparsePair, geometry: Geometry, device: torch.device) -> float:
    """|<A x, y> - <x, B y>| / (|A x| |y|) of a pair whose backprojection B need not be the transpose, for random x and y."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, *geometry.shape, generator=generator).to(device)
    y = torch.rand(1, len(geometry.theta), sizes(geometry)[0], generator=generator).to(device)
    Ax, By = pair.forward_project(x).double(), pair.back_project(y).double()
    return float(
        ((Ax * y).sum() - (x * By).sum()).abs() / (Ax.norm() * y.double().norm()).clamp_min(1e-30)
    )


__all__ = ["BACKENDS", "PROJECTORS", "Radon", "cache_directory", "simulate"]
