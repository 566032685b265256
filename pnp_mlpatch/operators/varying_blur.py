"""Blur that varies over the image: a sum of convolutions of products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators._base import LinearOperator, Map, register
from pnp_mlpatch.operators._convolution import (
    Frame,
    check_boundary,
    check_psf,
    complex_of,
    filtered,
)


@register("varying_blur")
class VaryingBlur(LinearOperator):
    r"""Blur whose point spread function changes over the image.

    .. math:: A x = \sum_k P_k (m_k x)

    with the convolutions :math:`P_k` of :class:`~pnp_mlpatch.operators.blur.Blur`. Where a map is 1
    and the others are 0, light spreads by its point spread function; between, by a mean of them.

    Parameters
    ----------
    psfs : Tensor, shape (N, K, L)
        The point spread functions, not larger than the image.
    maps : Tensor, shape (N, H, W)
        Where each of them holds, >= 0. Usually they add up to 1.
    image_shape : sequence of int
        (C, H, W); each channel is blurred alike.
    boundary : {"circular", "reflect", "valid"}
        What the image is beyond its border, as for Blur. The data are (C, H, W), with "valid"
        (C, H - K + 1, W - L + 1).

    Raises
    ------
    InputError
        If the shapes do not fit, a psf has no sum > 0, a map is negative or not finite, or all are
        zero; if ``boundary`` is unknown.
    InputTypeError
        If ``psfs`` or ``maps`` are not real tensors.

    Notes
    -----
    The data step takes conjugate gradients. With :math:`c_k` the values of :math:`P_k` in the
    Fourier basis, the preconditioner is the convolution with :math:`1 / (s + \alpha)`, where s is
    :math:`|\sum_k m_k c_k|^2` averaged over the image.

    References
    ----------
    Nagy and O'Leary 1998; Gilad and von Hardenberg 2006.
    """

    def __init__(
        self, psfs: Tensor, maps: Tensor, image_shape: Sequence[int], boundary: str = "circular"
    ):
        super().__init__(image_shape, image_shape)
        channels, height, width = self.image_shape
        for name, value in (("psfs", psfs), ("maps", maps)):
            if not isinstance(value, Tensor) or value.is_complex():
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise InputTypeError(f"VaryingBlur: {name} must be a real torch tensor, got {got}.")
        if psfs.ndim != 3 or not len(psfs):
            raise InputError(
                f"VaryingBlur: psfs must be (N, K, L), N >= 1, got {tuple(psfs.shape)}."
            )
        if tuple(maps.shape) != (len(psfs), height, width):
            raise InputError(
                "VaryingBlur: maps must be one for each psf and pixel, "
                f"{(len(psfs), height, width)}, got {tuple(maps.shape)}."
            )
        maps = maps.detach().to(psfs.device).double()
        if not bool(torch.isfinite(maps).all()) or float(maps.min()) < 0 or not bool(maps.any()):
            raise InputError("VaryingBlur: maps must be finite, >= 0 and not all zero.")
        kernels = torch.stack([check_psf("VaryingBlur", psf, (height, width)) for psf in psfs])
        self.boundary = check_boundary("VaryingBlur", boundary)
        self.frame = Frame((height, width), (psfs.shape[1], psfs.shape[2]), boundary)
        self.data_shape = (channels, *self.frame.data)
        self.maps: Tensor
        self.otfs: Tensor
        self.power: Tensor
        self.register_buffer("maps", maps.clone())
        self.register_buffer("otfs", self.frame.transfer(kernels))
        gram = torch.einsum("kij,lij->kl", maps, maps) / (height * width)
        self.register_buffer("power", torch.einsum("kl,kijc,lijc->ij", gram, self.otfs, self.otfs))

    @classmethod
    def example(cls) -> VaryingBlur:
        psfs = torch.tensor(
            [[[0.1, 0.3], [0.2, 0.1], [0.0, 0.1]], [[0.0, 0.2], [0.1, 0.5], [0, 0]]]
        )
        slope = torch.linspace(0, 1, 11).expand(8, 11)
        return cls(psfs, torch.stack([slope, 1 - slope]), (2, 8, 11), "valid")

    def _forward(self, x: Tensor) -> Tensor:
        frame = self.frame
        parts = [
            torch.fft.rfft2(frame.extend(m * x)) * transfer for m, transfer in self._parts(x.dtype)
        ]
        return frame.crop(torch.fft.irfft2(sum(parts[1:], parts[0]), s=frame.size)).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        frame = self.frame
        spectrum = torch.fft.rfft2(frame.place(y))
        parts = [
            m * frame.fold(torch.fft.irfft2(spectrum * transfer.conj(), s=frame.size))
            for m, transfer in self._parts(y.dtype)
        ]
        return sum(parts[1:], parts[0])

    def _parts(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Give each map with the transfer function that goes with it."""
        return zip(self.maps.to(dtype), complex_of(self.otfs, dtype), strict=True)

    def _precondition(self, alpha: Tensor) -> Map:
        frame = self.frame
        values = 1 / (self.power.to(alpha.dtype) + alpha) / frame.copies
        return lambda r: frame.fold(filtered(frame.extend(r), values))

    def _initial(self, q: Tensor) -> Tensor:
        """Return the data, continued to the border of the image by their outermost values."""
        if self.boundary != "valid":
            return q.clone()
        return F.pad(q, self.frame.margins, mode="replicate")
