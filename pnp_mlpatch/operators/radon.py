r"""Parallel-beam computed tomography by ASTRA (van Aarle et al. 2016), on any machine.

Pixel (i, j) of an H x W image has its centre at x_j = j - (W - 1) / 2 (to the right), y_i = (H - 1) / 2 - i (up): lengths are in
pixels. The data of the angle theta_a at the detector element k, t_k = k - (D - 1) / 2, are line integrals,

    q[a, k] = integral f(x, y) delta(x cos(theta_a) + y sin(theta_a) - t_k) dx dy        data shape (C, angles, D)

so the rays of theta = 0 run along the columns, and theta turns counter-clockwise.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch.errors import InputError, InputTypeError, MissingPackage, require
from pnp_mlpatch.operators.base import LinearOperator, register
from pnp_mlpatch.weights import write_whole

BACKENDS = ("auto", "sparse", "astra_cpu", "astra_cuda")
PROJECTORS = ("linear", "line", "strip")


@register("radon", needs=("astra", "scipy"))
class Radon(LinearOperator):
    r"""The Radon transform of (C, H, W) images: sinograms (C, angles, detectors), each channel a slice of its own.

    ``shape`` is (H, W). ``angles`` is a number n (k pi / n for k < n) or a sequence in radians. ``detectors`` is the number
    of detector elements, one pixel wide; the default covers the diagonal of the image. ``projector`` is ASTRA's discretisation:
    "linear" (Joseph 1982), "line" (Siddon 1985) or "strip" (areas).

    ``backend``: "sparse" keeps ASTRA's own matrix and its transpose as compressed rows (exactly matched, and the fastest on a
    CPU; built once and cached on disk; it follows ``.to(device)``); "astra_cpu" calls ASTRA's matched CPU projectors without
    storing anything; "astra_cuda" calls its GPU projectors, whose forward and backprojection are *not* matched (use "sparse" on
    the GPU where that matters). "auto" is "sparse" if the two matrices fit ``memory`` GiB, else "astra_cpu".

    The projectors work in float32; float64 tensors are converted there and back. The data step is preconditioned CG: the
    preconditioner is the inverse, on a grid of twice the size, of the convolution that A^H A is up to sampling, with kernel
    k(d) = sum_a g_a(d . theta_a), g_a the autocorrelation of a pixel's footprint on the detector. ``initial`` is filtered
    backprojection with a Hann window.

    Raises :class:`MissingPackage` without astra-toolbox, :class:`InputError` for a shape, angles or a backend that cannot be.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        angles: int | Sequence[float] | Tensor,
        detectors: int | None = None,
        *,
        channels: int = 1,
        projector: str = "linear",
        backend: str = "auto",
        memory: float = 4.0,
        cache: bool = True,
    ):
        height, width = _two(shape)
        theta = _angles(angles)
        detectors = math.ceil(math.hypot(height, width)) if detectors is None else detectors
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (detectors, channels)):
            raise InputError(f"Radon: detectors and channels must be integers >= 1, got {detectors!r} and {channels!r}.")
        for name, value, known in (("projector", projector, PROJECTORS), ("backend", backend, BACKENDS)):
            if value not in known:
                raise InputError(f"Radon: {name} must be one of {', '.join(known)}, got {value!r}.")
        astra = require("astra", "The operator 'radon'")
        super().__init__((channels, height, width), (channels, len(theta), detectors))
        self.projector = projector
        self.angles: Tensor
        self.register_buffer("angles", theta)
        size = 16 * 2 * len(theta) * height * width / 2**30  # two matrices, 8 bytes an entry, about 2 entries a pixel and angle
        if backend == "auto":
            backend = "sparse" if size <= memory else "astra_cpu"
        elif backend == "sparse" and size > memory:
            raise InputError(
                f"Radon: the sparse matrices need about {size:.1f} GiB, memory={memory} allows less. Raise memory, or use 'astra_cpu'."
            )
        elif backend == "astra_cuda" and not astra.use_cuda():
            raise MissingPackage("Radon: backend 'astra_cuda' needs a CUDA device and an ASTRA built for it; none was found. Use 'auto'.")
        self.backend = backend
        self.matrix = self.transpose = None
        self._spectrum: Tensor | None
        self.register_buffer("_spectrum", None, persistent=False)
        if backend == "sparse":
            matrix = _matrix((height, width), theta.numpy(), detectors, projector, cache)
            self.matrix, self.transpose = SparseMatrix(matrix), SparseMatrix(matrix.T.tocsr())

    @classmethod
    def example(cls) -> Radon:
        return cls((14, 18), angles=9, channels=2, cache=False)

    def extra_repr(self) -> str:
        return f"{self.image_shape} -> {self.data_shape}, projector={self.projector!r}, backend={self.backend!r}"

    # ---- projections

    def _forward(self, x: Tensor) -> Tensor:
        return self._project(x, self.matrix, self.data_shape[1:], forward=True)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._project(y, self.transpose, self.image_shape[1:], forward=False)

    def _project(self, x: Tensor, matrix: SparseMatrix | None, shape: tuple[int, ...], *, forward: bool) -> Tensor:
        slices = x.detach().reshape(-1, *x.shape[2:]).float().contiguous()
        if matrix is not None:
            out = matrix(slices.flatten(1).T).T
        else:
            out = slices.new_empty(len(slices), *shape)
            if slices.is_cuda:
                torch.cuda.current_stream(slices.device).synchronize()
            with _astra_projector(self._geometry(), cuda=self.backend == "astra_cuda") as (astra, projector):
                for source, target in zip(slices, out, strict=True):
                    (astra.projector.direct_FP if forward else astra.projector.direct_BP)(projector, source, out=target)
        return out.reshape(*x.shape[:2], *shape).to(x.dtype)

    def _geometry(self) -> tuple[tuple[int, int], np.ndarray, int, str]:
        return (self.image_shape[1], self.image_shape[2]), self.angles.cpu().numpy(), self.data_shape[2], self.projector

    # ---- data step and start

    def _precondition(self, alpha: Tensor) -> Callable[[Tensor], Tensor]:
        height, width = self.image_shape[1:]
        if self._spectrum is None:
            self._spectrum = normal_spectrum((height, width), self.angles.cpu(), self.projector).to(self.angles.device)
        inverse = 1 / (self._spectrum.to(alpha.dtype) + alpha)

        def solve(r: Tensor) -> Tensor:
            grid = (2 * height, 2 * width)
            return torch.fft.irfft2(torch.fft.rfft2(r, s=grid) * inverse, s=grid)[..., :height, :width]

        return solve

    def _initial(self, q: Tensor) -> Tensor:
        return self.fbp(q, window="hann")

    def fbp(self, q: Tensor, *, window: str = "hann") -> Tensor:
        """Filtered backprojection with the ramp filter under a window, "hann" or "none" (Ram-Lak), for angles over pi or 2 pi."""
        if window not in ("hann", "none"):
            raise InputError(f"Radon.fbp: window must be 'hann' or 'none', got {window!r}.")
        self._check(q, self.data_shape, "A.fbp(q)", "data", "image", self.image_shape)
        count, detectors = self.data_shape[1:]
        size = 2 ** math.ceil(math.log2(2 * detectors))
        ramp = _ramp(size, window).to(q.device, q.dtype)
        filtered = torch.fft.irfft(torch.fft.rfft(q, n=size) * ramp, n=size)[..., :detectors]
        return self.adjoint(filtered.contiguous()) * (math.pi / count)


def simulate(A: Radon, truth: Tensor, *, snr_db: float, seed: int = 0) -> tuple[Tensor, float]:
    """Data of ``truth`` (B, C, H, W) that were not made by A itself: the sinogram, and the standard deviation of its noise.

    Line integrals of the image interpolated to twice the size (bicubic), binned to the detectors of A, with white noise whose
    standard deviation is ``10^(-snr_db / 20)`` times the root mean square of the sinogram.
    """
    channels, height, width = A.image_shape
    detectors = A.data_shape[2]
    fine = Radon((2 * height, 2 * width), A.angles, 2 * detectors, channels=channels, projector=A.projector, backend="astra_cpu")
    q = fine(F.interpolate(truth, scale_factor=2, mode="bicubic")) / 2  # a fine pixel is half a pixel long
    q = q.unflatten(-1, (detectors, 2)).mean(-1)
    noise = float(q.square().mean().sqrt()) * 10 ** (-snr_db / 20)
    return q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(seed)).to(q), noise


def _two(shape: Sequence[int]) -> tuple[int, int]:
    if not isinstance(shape, Sequence) or len(shape) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise InputError(f"Radon: shape must be (H, W), two integers >= 1, got {shape!r}.")
    return shape[0], shape[1]


def _angles(angles: int | Sequence[float] | Tensor) -> Tensor:
    if isinstance(angles, int) and not isinstance(angles, bool):
        if angles < 1:
            raise InputError(f"Radon: the number of angles must be >= 1, got {angles}.")
        return torch.arange(angles, dtype=torch.float64) * (math.pi / angles)
    if isinstance(angles, Tensor) and angles.is_complex():
        raise InputTypeError("Radon: angles must be real, in radians.")
    try:
        theta = torch.as_tensor(angles, dtype=torch.float64).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"Radon: angles must be a number of angles or a sequence in radians, got {angles!r}.") from error
    if theta.ndim != 1 or len(theta) == 0 or not bool(torch.isfinite(theta).all()):
        raise InputError("Radon: angles must be a non-empty, finite, one-dimensional sequence in radians.")
    if float(theta.abs().max()) > 4 * math.pi:
        raise InputError(f"Radon: angles reach {float(theta.abs().max()):.4g}, which cannot be radians. Convert degrees with math.radians.")
    return theta


@contextmanager
def _astra_projector(geometry: tuple[tuple[int, int], np.ndarray, int, str], *, cuda: bool) -> Iterator[tuple]:
    """An ASTRA projector that is deleted at the end, whatever happens."""
    astra = require("astra", "The operator 'radon'")
    (height, width), theta, detectors, kind = geometry
    volume = astra.create_vol_geom(height, width)
    projection = astra.create_proj_geom("parallel", 1.0, detectors, theta)
    projector = astra.create_projector("cuda" if cuda else kind, projection, volume)
    try:
        yield astra, projector
    finally:
        astra.projector.delete(projector)


def _matrix(shape: tuple[int, int], theta: np.ndarray, detectors: int, kind: str, cache: bool):
    """ASTRA's matrix as a float32 scipy CSR array, from the disk cache if it is there and whole."""
    sparse = require("scipy.sparse", "The sparse backend of 'radon'")
    astra = require("astra", "The operator 'radon'")
    key = hashlib.sha256(repr((1, astra.__version__, shape, theta.tolist(), detectors, kind)).encode()).hexdigest()[:24]
    path = cache_directory() / f"radon-{key}.npz"
    if cache and path.exists():
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = file["data"], file["indices"], file["indptr"]
            return sparse.csr_matrix(parts, shape=(len(theta) * detectors, shape[0] * shape[1]))
        except Exception as error:  # numpy and zipfile raise many kinds
            warnings.warn(f"Radon: the cached matrix {path} cannot be read ({type(error).__name__}); it is built again.", stacklevel=3)
    with _astra_projector((shape, theta, detectors, kind), cuda=False) as (astra, projector):
        identity = astra.projector.matrix(projector)
        try:
            matrix = astra.matrix.get(identity).astype(np.float32)
        finally:
            astra.matrix.delete(identity)
    if cache:

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, data=matrix.data, indices=matrix.indices, indptr=matrix.indptr)

        try:
            write_whole(path, write)
        except OSError as error:
            warnings.warn(f"Radon: the matrix could not be cached in {path.parent} ({error}).", stacklevel=3)
    return matrix


def cache_directory() -> Path:
    """Where matrices are cached: $PNP_MLPATCH_CACHE, else pnp_mlpatch in the user's cache folder."""
    folder = os.environ.get("PNP_MLPATCH_CACHE")
    return Path(folder) if folder else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pnp_mlpatch"


class SparseMatrix(nn.Module):
    """A float32 matrix in compressed rows, from a scipy one; it is copied and moved like any module."""

    def __init__(self, matrix):
        super().__init__()
        self.shape = tuple(matrix.shape)
        self.rows: Tensor
        self.columns: Tensor
        self.values: Tensor
        self.register_buffer("rows", torch.from_numpy(matrix.indptr), persistent=False)
        self.register_buffer("columns", torch.from_numpy(matrix.indices), persistent=False)
        self.register_buffer("values", torch.from_numpy(matrix.data), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The product with a dense (columns, k)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR layout a beta
            matrix = torch.sparse_csr_tensor(self.rows, self.columns, self.values.float(), size=self.shape, check_invariants=False)
            return matrix @ x


def _ramp(size: int, window: str) -> Tensor:
    """The ramp filter for unit spacing, from its band-limited impulse response (Kak and Slaney 1988), under a window."""
    n = torch.fft.fftfreq(size, 1 / size).double()
    odd = n.remainder(2) == 1
    response = torch.where(odd, -1 / (math.pi * n.where(n != 0, torch.ones_like(n))) ** 2, torch.zeros_like(n))
    response[0] = 0.25
    ramp = torch.fft.rfft(response).real
    if window == "hann":
        ramp = ramp * 0.5 * (1 + torch.cos(2 * math.pi * torch.fft.rfftfreq(size).double()))
    return ramp


def normal_spectrum(shape: tuple[int, int], theta: Tensor, projector: str) -> Tensor:
    """Eigenvalues (2H, W + 1) of the convolution that A^H A is up to sampling, on the grid of twice the size, negatives clipped.

    The footprint of a pixel on the detector is a convolution of boxes of unit area: "linear" two of width
    max(|cos|, |sin|), "line" those of widths |cos| and |sin|, "strip" one of width 1 in addition. Its autocorrelation has the
    product of the squared sincs as its Fourier transform.
    """
    height, width = shape
    fine, reach = 128, 8  # samples a pixel, half length in pixels of the table of g
    frequency = torch.fft.rfftfreq(2 * reach * fine, 1 / fine).double()
    rows = torch.fft.fftfreq(2 * height, 1 / (2 * height)).double()[:, None]
    cols = torch.fft.fftfreq(2 * width, 1 / (2 * width)).double()[None, :]
    kernel = torch.zeros(2 * height, 2 * width, dtype=torch.float64)
    for angle in theta.tolist():
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        boxes = {"linear": (max(c, s), max(c, s)), "line": (c, s), "strip": (c, s, 1.0)}[projector]
        g = torch.ones_like(frequency)
        for box in boxes:
            g = g * torch.sinc(frequency * box) ** 2
        table = torch.fft.irfft(g) * fine
        distance = (cols * math.cos(angle) - rows * math.sin(angle)).abs()
        index = (distance * fine).round().long().clamp_max(reach * fine)
        kernel += table[index]
    return torch.fft.rfft2(kernel).real.clamp_min(0)
