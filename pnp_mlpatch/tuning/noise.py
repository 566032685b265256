"""The noise level of data, from second differences, and random changes of data for traces."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators import LinearOperator, reached
from pnp_mlpatch.solvers import make_problem

FEW, ENOUGH = 30, 200  # differences that must be there, in one direction and in the plane
PARTS = 4  # parts of the plane each way
SPREAD = 1.4  # the standard error of a median of n overlapping values is SPREAD / sqrt(n)
SURE = 0.05  # what is known so well is compared as it is
ROUNDS = 5  # of making a probe all 1 or -1, and flat


def noise_level(q: Tensor, A: LinearOperator) -> Tensor:
    r"""Estimate the standard deviation of white noise in ``q``, for each image of the batch.

    .. math:: \hat\sigma = \mathrm{median} |d * q| / 0.6745

    The kernel d is the second difference :math:`(1, -2, 1) / \sqrt 6`, along the last axis and
    along the one before it, both together. A smaller estimate replaces this one: from each of the
    two alone, from their product in the plane / 6, or from the quietest quarter of 4 x 4 parts of
    the plane. If its standard error exceeds 5 %, it must be smaller by two standard errors. Only
    measured data count: those that depend on the image, and are not exactly 0. For data that one
    operator joins (:class:`~pnp_mlpatch.operators.stack.Stack`), the noise is that of each part: a
    map (B, m).

    Rough texture counts as noise, so the estimate is too large where the data are few and rough. On
    the images of ``benchmarks/auto.py --settle`` it is within 10 % for lensing and blur; for CT at
    45 dB and inpainting at 2/255 it may be 4 times too large.

    Parameters
    ----------
    q : Tensor, shape (B, \*data_shape)
        Data.
    A : LinearOperator
        The operator.

    Returns
    -------
    Tensor, shape (B,)
        In the units of q, or a map (B, m) for a stack of data sets.

    Raises
    ------
    InputError
        If there are fewer than 30 differences, or the operator refuses q.

    References
    ----------
    Donoho and Johnstone 1994 (the median); Immerkaer 1996 (the stencil in the plane).
    """
    with torch.no_grad():
        make_problem(q, A, None)
        blocks, split = getattr(A, "blocks", None), getattr(A, "split", None)
        if blocks is not None and split is not None:
            levels = [
                noise_level(part, block) for part, block in zip(split(q), blocks, strict=True)
            ]
            return torch.cat(
                [
                    level[:, None].expand(-1, part.flatten(1).shape[1])
                    for level, part in zip(levels, split(q), strict=True)
                ],
                dim=1,
            )
        return torch.stack(
            [
                _level(one, seen, A)
                for one, seen in zip(q.double(), reached(A, len(q), q.device), strict=True)
            ]
        ).to(q)


def probe(q: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
    r"""Draw a random change b of data like ``q``, to estimate traces.

    .. math:: \mathrm{tr} J = E \langle b, J b \rangle, \quad |(F b)(w)| = 1, \quad
        b_i \approx \pm 1

    F is the orthonormal Fourier transform over the axes of the data. Each image has its own draw.
    Its autocorrelation is exactly that of white noise and all shifts are equally likely, so that
    :math:`E b b^T = 1`. The estimate varies less than with random signs where J smooths: it is
    exact in each draw if J is a convolution (with signs: if J is diagonal). The draw starts from
    gaussian noise and meets the two constraints in turn, the flat spectrum last. Where data were
    not ``seen``, b is 0; on the others its mean square is 1.

    Parameters
    ----------
    q : Tensor, shape (B, \*data_shape)
        Data.
    seen : Tensor
        True where data were measured.
    generator : torch.Generator
        Random numbers of the CPU.

    Returns
    -------
    Tensor
        Like ``q``.

    References
    ----------
    Hutchinson 1990 (the estimate of a trace); Gerchberg and Saxton 1972 (constraints in turn).
    """
    axes = tuple(range(1, q.ndim))

    def flat(b: Tensor) -> Tensor:
        wave = torch.fft.fftn(b, dim=axes, norm="ortho")
        return torch.fft.ifftn(
            wave / wave.abs().clamp_min(torch.finfo(b.dtype).tiny), dim=axes, norm="ortho"
        ).real

    b = flat(torch.randn(q.shape, generator=generator, dtype=torch.float64))
    for _ in range(ROUNDS):
        b = flat(b.sign())
    b = torch.where(seen, b.to(q.device), 0.0)
    square = b.square().sum(axes, keepdim=True) / seen.expand_as(q).sum(
        axes, keepdim=True
    ).clamp_min(1)
    return (b / square.sqrt().clamp_min(torch.finfo(b.dtype).tiny)).to(q)


def _level(q: Tensor, seen: Tensor, A: LinearOperator) -> Tensor:
    """Estimate the level of one image.

    Both directions together, unless a stencil or the quiet parts of the plane find less than chance
    explains.
    """
    shape = (-1, 1, *(q.shape[-2:] if q.ndim > 1 else (1, len(q))))  # planes, or a line
    q, seen = q.reshape(shape), (seen & (q != 0)).reshape(shape)
    d = q.new_tensor([1.0, -2.0, 1.0])
    stencils = []  # what they find, where all data that they need are seen
    for kernel, least in (
        (d[None] / 6**0.5, FEW),
        (d[:, None] / 6**0.5, FEW),
        (d[:, None] * d / 6, ENOUGH),
    ):
        if any(n < k for n, k in zip(q.shape[-2:], kernel.shape, strict=True)):
            continue
        whole = F.conv2d(seen.double(), torch.ones_like(kernel)[None, None]) > kernel.numel() - 0.5
        if int(whole.sum()) >= least:
            stencils.append((F.conv2d(torch.where(seen, q, 0.0), kernel[None, None]).abs(), whole))
    if not stencils:
        raise InputError(
            f"noise_level: the data of {type(A).__name__} {A.data_shape} have fewer than "
            f"{FEW} triples of neighbours that were measured. "
            "Pass noise=, the standard deviation in the units of q."
        )
    level = _median(torch.cat([values[whole] for values, whole in stencils[:2]]))[0]
    for values, whole in stencils:
        for found, error in (_median(values[whole]), _quiet(values, whole)):
            chance = 0.0 if float(error) < SURE * float(found) else 2 * error
            level = torch.where(found + chance < level, found, level)
    return level


def _median(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the deviation of gaussian noise with the sizes ``values``, and its standard error."""
    level = values.median() / 0.6745
    return level, SPREAD * level / len(values) ** 0.5


def _quiet(values: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same from the quiet quarter of 4 x 4 parts of the plane.

    Images have smooth parts, spectra an end without signal.
    """
    parts = [
        part[mask]
        for row, seen_row in zip(values.chunk(PARTS, -2), whole.chunk(PARTS, -2), strict=True)
        for part, mask in zip(row.chunk(PARTS, -1), seen_row.chunk(PARTS, -1), strict=True)
        if int(mask.sum()) >= FEW
    ]
    if len(parts) < PARTS**2 // 2:
        return _median(values[whole])
    parts = sorted(parts, key=lambda part: float(part.median()))[: len(parts) // 4]
    count = sum(map(len, parts))
    level = torch.stack([part.median() for part in parts]).mean() / 0.6745
    # the mean of the lowest quarter of draws is 1.27 deviations below theirs
    level = level / (1 - 1.27 * SPREAD / (count / len(parts)) ** 0.5)
    return level, SPREAD * level / count**0.5


__all__ = ["noise_level", "probe", "reached"]
