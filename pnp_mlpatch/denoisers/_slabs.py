"""A denoiser of images that denoises stacks along all three planes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from pnp_mlpatch.denoisers._base import Denoiser, check_image, sigma_column
from pnp_mlpatch.denoisers._wrapper import Wrapper, checked_result
from pnp_mlpatch.errors import InputError

PLANES = {"xy": (0, 1, 2), "xz": (1, 0, 2), "yz": (2, 0, 1)}  # of (slices, H, W): who is a batch


class slabs(Wrapper):
    r"""D on the planes of a stack of slices, averaged (MACE; Buzzard et al. 2018).

    .. math:: D_3(x, \sigma) = \frac{1}{3} \sum_p P_p^{-1} D(P_p x, \sigma)

    where :math:`P_p` makes a batch of the planes of one kind. Streaks that differ from slice to
    slice are edges in the planes across, where D takes them for noise.

    Parameters
    ----------
    D : Denoiser
        Of grey images.
    planes : tuple of str
        Which of "xy", "xz" and "yz"; x is along the rows.
    chunk : int
        The number of images that D gets at a time, which bounds its memory.

    Raises
    ------
    InputError
        For other planes or chunks.

    Notes
    -----
    The slices are the channels of the image, (B, slices, H, W): use
    ``Radon(geometry, channels=slices)``. Take slices on both sides more than are wanted, as many as
    D sees; those at the ends of a stack have neighbours on one side only.
    """

    def __init__(self, D: Denoiser, planes: tuple[str, ...] = ("xy", "xz", "yz"), chunk: int = 16):
        super().__init__(D, "slabs")
        if not planes or any(plane not in PLANES for plane in planes):
            raise InputError(
                f"slabs: planes must be one or more of {', '.join(PLANES)}, got {planes!r}."
            )
        if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
            raise InputError(f"slabs: chunk must be an integer >= 1, got {chunk!r}.")
        self.settings = {"planes": list(planes), "chunk": chunk}
        self.info = replace(self.info, channels=None)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        level = sigma_column(sigma, x, "slabs").reshape(-1).expand(len(x))
        out = x.clone()
        for k, stack in enumerate(x):
            total = stack.new_zeros(stack.shape)
            for plane in self.settings["planes"]:
                order = PLANES[plane]
                images = stack.permute(order)[:, None].contiguous()
                done, view = 0, total.permute(order)
                for part in images.split(self.settings["chunk"]):
                    result = checked_result(self.inner(part, float(level[k])), part, "slabs")
                    view[done : done + len(part)] += result[:, 0]
                    done += len(part)
            out[k] = total / len(self.settings["planes"])
        return out


__all__ = ["PLANES", "slabs"]
