"""Denoisers whose convolutions run in half the bits, where the processor or the GPU has them."""

from __future__ import annotations

import platform
import time

import torch
from torch import Tensor, nn

from pnp_mlpatch.denoisers._base import Denoiser, check_image
from pnp_mlpatch.denoisers._wrapper import Wrapper, checked_result
from pnp_mlpatch.errors import InputError, InputTypeError

PRECISIONS = ("auto", "float32", "bfloat16")
FASTER = 1.3  # "auto" takes bfloat16 if float32 takes so many times as long


class in_precision(Wrapper):
    """D with its products in another precision; weights, sums and results keep their own.

    Parameters
    ----------
    D : Denoiser
        A module.
    precision : {"auto", "float32", "bfloat16"}
        "bfloat16" multiplies numbers of 8 significant bits: 0.3 to 0.6 of the time on processors
        with AMX, and some 0.01 dB less. "auto" takes bfloat16 where the device has it and a
        short trial at the first call finds it at least 1.3 times as fast.

    Raises
    ------
    InputTypeError
        If ``D`` is not a module.
    InputError
        For another precision, or at the call if the device has no bfloat16.

    Notes
    -----
    This is ``torch.autocast`` for the call of D alone. The same bits on every machine need
    "float32". :attr:`chosen` tells what "auto" took on each kind of device.
    """

    def __init__(self, D: Denoiser, precision: str = "auto"):
        super().__init__(D, "")
        if not isinstance(D, nn.Module):
            raise InputTypeError(
                f"in_precision: the denoiser must be a torch module, got {type(D).__name__}."
            )
        if precision not in PRECISIONS:
            raise InputError(
                f"in_precision: precision must be one of {', '.join(PRECISIONS)}, "
                f"got {precision!r}."
            )
        self.settings = {"precision": precision}
        self.chosen: dict[str, str] = {}

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise images.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        sigma : float or Tensor, shape (B,) or (B, 1, H, W)
            Standard deviation of the noise, in the units of ``x``.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        check_image(x, self.info.name)
        kind = x.device.type
        if kind not in self.chosen:
            self.chosen[kind] = self._choose(x, sigma)
        return checked_result(self._run(x, sigma, self.chosen[kind]), x, self.known.name)

    def _run(self, x: Tensor, sigma: float | Tensor, precision: str) -> Tensor:
        low = precision == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            return self.inner(x, sigma)

    def _choose(self, x: Tensor, sigma: float | Tensor) -> str:
        """Return the precision for the device of x."""
        precision, there = self.settings["precision"], has_bfloat16(x.device)
        if precision == "bfloat16" and not there:
            raise InputError(
                f"{self.info.name}: this device ({x.device}) does not compute in bfloat16. "
                "Take precision='float32', or 'auto'."
            )
        if precision != "auto" or not there:
            return "float32" if precision == "auto" else precision
        trial = x.detach()[:1, :, :96, :96].float()
        level = sigma
        if isinstance(sigma, Tensor):
            level = sigma.detach()[:1]
            level = level[..., :96, :96] if level.ndim == 4 else level
        seconds = {name: self._seconds(trial, level, name) for name in ("float32", "bfloat16")}
        return "bfloat16" if seconds["float32"] > FASTER * seconds["bfloat16"] else "float32"

    @torch.no_grad()
    def _seconds(self, x: Tensor, sigma: float | Tensor, precision: str) -> float:
        """Return the least time of three calls, after one that is not counted."""
        best = float("inf")
        for trial in range(4):
            start = time.perf_counter()
            self._run(x, sigma, precision)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            if trial:
                best = min(best, time.perf_counter() - start)
        return best


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16 by itself.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    bool
        For other devices than processors and CUDA GPUs: False.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        if platform.machine() in ("x86_64", "AMD64"):
            kinds = ("amx_tile", "avx512_bf16")
            return any(getattr(torch.cpu, f"_is_{kind}_supported", bool)() for kind in kinds)
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
