"""The symmetries of the square, and a denoiser averaged over them."""

from __future__ import annotations

import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.denoisers._base import Denoiser, check_image, sigma_column
from pnp_mlpatch.denoisers._wrapper import Wrapper, checked_result
from pnp_mlpatch.errors import InputError

# name -> whether it mirrors left and right first, and the quarter turns (counterclockwise) after it
SYMMETRIES: dict[str, tuple[bool, int]] = {
    "identity": (False, 0),
    "rotation 90": (False, 1),
    "rotation 180": (False, 2),
    "rotation 270": (False, 3),
    "flip left-right": (True, 0),
    "transpose": (True, 1),
    "flip up-down": (True, 2),
    "anti-transpose": (True, 3),
}


SHIFTS = 4  # shifts by 0 to 3 pixels, down and right


def turned(x: Tensor, symmetry: str, *, back: bool = False) -> Tensor:
    """Apply a symmetry g of the square to an image.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
    symmetry : str
        A name of ``SYMMETRIES``.
    back : bool
        Apply the inverse of g.

    Returns
    -------
    Tensor, shape (B, C, H, W) or (B, C, W, H)
        Contiguous.
    """
    mirror, quarters = SYMMETRIES[symmetry]
    if back:
        x = x.rot90(-quarters, (-2, -1))
        return (x.flip(-1) if mirror else x).contiguous()
    return (x.flip(-1) if mirror else x).rot90(quarters, (-2, -1)).contiguous()


class equivariant(Wrapper):
    r"""D averaged over the symmetries g of a group, or applied at one of them.

    .. math:: D_G(x, \sigma) = \frac{1}{|G|} \sum_{g \in G} g^{-1} D(g x, \sigma)

    For the groups "dihedral" and "rotations", :math:`D_G(g x) = g D_G(x)` to rounding, for any D.
    Images need not be square.

    Parameters
    ----------
    D : Denoiser
        Its sigma may be a map (B, 1, H, W), which is turned with the image.
    group : str
        "dihedral": the 8 flips and rotations by 90 degrees. "rotations": the 4 rotations. "shifts":
        the 16 shifts by 0 to 3 pixels down and right, with x reflected at its borders by 3 pixels,
        for networks with strides of 2 or 4.
    draw : str
        "all": the average, by \|G\| calls of D. "random": one call of D for each image, at one g,
        so that a solver averages over its iterations (Terris et al. 2024).
    seed : int
        The random g follows from the seed and the image alone. So runs repeat and resume to the
        same bits, and images do not depend on their batch.

    Raises
    ------
    InputError
        For other groups and draws.

    References
    ----------
    Terris et al. 2024.
    """

    def __init__(self, D: Denoiser, group: str = "dihedral", *, draw: str = "all", seed: int = 0):
        super().__init__(D, "equivariant")
        if group not in ("dihedral", "rotations", "shifts"):
            raise InputError(
                "equivariant: group must be 'dihedral' (8 symmetries), 'rotations' (4) or "
                f"'shifts' (16), got {group!r}."
            )
        if draw not in ("all", "random"):
            raise InputError(f"equivariant: draw must be 'all' or 'random', got {draw!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"equivariant: seed must be an integer >= 0, got {seed!r}.")
        self.settings = {"group": group, "draw": draw, "seed": seed}
        if group == "shifts":
            self.members = [str(number) for number in range(SHIFTS**2)]
        else:
            self.members = [
                name
                for name, (mirror, _) in SYMMETRIES.items()
                if group == "dihedral" or not mirror
            ]

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        check_image(x, self.info.name)
        levels = sigma_column(sigma, x, self.info.name, maps=True)
        if self.settings["draw"] == "all":
            return sum(
                (self._at(g, x, levels, sigma) for g in self.members), torch.zeros_like(x)
            ) / len(self.members)
        found = []
        for k, image in enumerate(x):
            bits = image.detach().cpu().contiguous().numpy().tobytes()
            g = self.members[zlib.crc32(bits, self.settings["seed"]) % len(self.members)]
            own = levels[k : k + 1] if len(levels) > 1 else levels
            plain = (
                sigma
                if not isinstance(sigma, Tensor) or sigma.numel() == 1
                else own
                if own.numel() > 1
                else own.flatten()
            )
            found.append(self._at(g, image[None], own, plain))
        return torch.cat(found)

    def _at(self, g: str, x: Tensor, levels: Tensor, sigma: float | Tensor) -> Tensor:
        """``g^-1 D(g x, sigma)``."""
        is_map = levels.shape[2:] == x.shape[2:]
        if self.settings["group"] == "shifts":
            down, right = divmod(int(g), SHIFTS)
            border = (right, SHIFTS - 1 - right, down, SHIFTS - 1 - down)
            gx = F.pad(x, border, mode="reflect" if min(x.shape[-2:]) >= SHIFTS else "replicate")
            level = F.pad(levels, border, mode="replicate") if is_map else sigma
            y = checked_result(self.inner(gx, level), gx, self.known.name)
            return y[..., down : down + x.shape[-2], right : right + x.shape[-1]]
        gx = turned(x, g)
        return turned(
            checked_result(
                self.inner(gx, turned(levels, g) if is_map else sigma), gx, self.known.name
            ),
            g,
            back=True,
        )
