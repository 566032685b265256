"""The matrix of problems by which the automatic settings are judged: 8 images of different kinds x
4 operators x 3 levels of noise.

Images of 96 x 96 pixels. Those of the matrix ship with the package or are computed; those on which
settings are chosen (``settle``) are read from a folder of pictures, a stack of CT slices and
generated skies, so that none is seen twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from common import read_set
from ct_quality import shepp_logan
from torch import Tensor

from pnp_mlpatch import denoisers, e_mode, rescaled, samples
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.lensing.fields import lognormal_convergence
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.operators.blur import Blur
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon, simulate

SIZE = 96
PIXEL = "0.293 arcmin"
OPERATORS = ("inpainting", "CT", "blur", "lensing")


@dataclass(frozen=True)
class Case:
    """One problem: data ``q`` of ``A`` with white noise of deviation ``noise``, and ``score``, dB
    against the truth, of an estimate.
    """

    image: str
    operator: str
    level: str
    q: Tensor
    A: LinearOperator
    noise: float
    score: Callable[[Tensor], float]

    def __str__(self) -> str:
        return f"{self.operator}, {self.level}, {self.image}"

    def denoiser(self, name: str) -> Denoiser:
        """MLPatch, TV or a CNN for this case: for skies MLPatch has the weights for them, the
        others are scaled, and all see E alone.
        """
        if self.operator != "lensing":
            return denoisers.make(name)
        if name == "mlpatch":
            return e_mode(denoisers.make(name, weights="mlpatch-kappa"))
        return e_mode(
            denoisers.make(name) if name == "tv" else rescaled(denoisers.make(name), 0.4, -0.1)
        )


def cases(
    size: int = SIZE, *, pictures: Path | None = None, slices: Path | None = None
) -> Iterator[Case]:
    """All cases, image by image; with ``pictures`` and ``slices`` those on which settings are
    chosen.
    """
    images = settling(size, pictures, slices) if pictures and slices else shipped(size)
    for index, (name, truth) in enumerate(images.items()):
        yield from of_picture(name, truth)
        yield from of_sky(index, size, settle=bool(pictures))


def shipped(size: int) -> dict[str, Tensor]:
    """Eight images (1, 1, size, size) of different kinds, in [0, 1]."""
    photo, chest = samples.camera(), ((samples.chest_ct() + 1024) / 2048).clamp(0, 1)
    generator = torch.Generator().manual_seed(0)
    waves = torch.arange(size) / size
    return {
        "photograph": F.interpolate(photo, size=(size, size), mode="area"),
        "face": photo[..., 60 : 60 + size, 200 : 200 + size],
        "coat": photo[..., 400 : 400 + size, 60 : 60 + size],
        "chest": F.interpolate(chest, size=(size, size), mode="area"),
        "lung": chest[..., 200 : 200 + size, 100 : 100 + size],
        "phantom": shepp_logan(size),
        "leaves": dead_leaves(size, generator),
        "waves": (
            0.5 + 0.4 * torch.sin(2 * math.pi * (2 + 10 * waves[:, None]) * waves) * waves[:, None]
        )[None, None],
    }


def settling(size: int, pictures: Path, slices: Path) -> dict[str, Tensor]:
    """Other images, on which settings are chosen: four pictures, three CT slices, leaves of another
    draw, and what is drawn.
    """
    photos, scans = read_set(pictures, 1), read_set(slices)
    found = {f"picture {k}": photos[k][None] for k in (7, 101, 203, 302)} | {
        f"slice {k}": scans[k][None] for k in (8, 14)
    }
    found = {
        name: x[..., (x.shape[-2] - size) // 2 :, (x.shape[-1] - size) // 2 :][..., :size, :size]
        for name, x in found.items()
    }
    found |= {"small slice": F.interpolate(scans[3][None], size=(size, size), mode="area")}
    return (
        found | {"other leaves": dead_leaves(size, torch.Generator().manual_seed(5))} | drawn(size)
    )


def dead_leaves(size: int, generator: torch.Generator) -> Tensor:
    """Discs that cover one another, radii with the density r^-3: edges of all scales (1, 1, size,
    size).
    """
    grid = torch.arange(size) + 0.5
    image = torch.full((size, size), 0.5)
    for _ in range(800):
        u, row, col, gray = torch.rand(4, generator=generator).tolist()
        radius = (u / (size / 3) ** 2 + (1 - u) / 2.0**2) ** -0.5
        image[(grid[:, None] - row * size) ** 2 + (grid - col * size) ** 2 < radius**2] = gray
    return image[None, None]


def drawn(size: int) -> dict[str, Tensor]:
    """A ring chirp, ellipses, thin bright shells around darker ellipses, and a dark plane with
    rough bright edges.
    """
    at = (torch.arange(size) + 0.5) / size - 0.5
    r = (at[:, None].square() + at.square()).sqrt()
    ellipses, shells = torch.full((size, size), 0.1), torch.zeros(size, size)

    def inside(row: float, col: float, turn: float, long: float, short: float) -> Tensor:
        y, x = at[:, None] - row, at - col
        u, v = x * math.cos(turn) + y * math.sin(turn), -x * math.sin(turn) + y * math.cos(turn)
        return (u / long) ** 2 + (v / short) ** 2 < 1

    generator = torch.Generator().manual_seed(3)
    for _ in range(12):
        a, b, c, d, turn, gray = torch.rand(6, generator=generator).tolist()
        ellipses[
            inside(
                (a - 0.5) * 0.7, (b - 0.5) * 0.7, math.pi * turn, 0.05 + 0.3 * c, 0.03 + 0.15 * d
            )
        ] = gray
    generator = torch.Generator().manual_seed(11)
    for _ in range(4):
        a, b, c, d, turn, gray = torch.rand(6, generator=generator).tolist()
        row, col, long, short = (a - 0.5) * 0.5, (b - 0.5) * 0.5, 0.12 + 0.2 * c, 0.12 + 0.2 * d
        shells[inside(row, col, math.pi * turn, long, short)] = 0.6 + 0.4 * gray
        shells[inside(row, col, math.pi * turn, long - 0.03, short - 0.03)] = 0.4 * gray
    generator = torch.Generator().manual_seed(12)
    edge = 0.12 + 0.03 * at.expand(size, size)
    edge[:, :7] = 0.75 + 0.12 * torch.rand(size, 7, generator=generator)
    low, right = size * 5 // 8, size * 5 // 16
    edge[low:, right:] = 0.45 + 0.02 * torch.rand(size - low, size - right, generator=generator)
    edge[: size * 5 // 16, size * 25 // 48 :] -= 0.06
    ring = 0.5 + 0.4 * torch.cos(2 * math.pi * (3 * r + 22 * r * r))
    return {
        name: x[None, None]
        for name, x in {
            "ring": ring,
            "ellipses": ellipses,
            "shells": shells,
            "edge": edge.clamp(0, 1),
        }.items()
    }


def of_picture(name: str, truth: Tensor) -> Iterator[Case]:
    """Inpainting, CT and deblurring of one image (1, 1, H, W)."""
    shape = tuple(truth.shape[1:])
    taps = torch.exp(-(torch.arange(-6, 7.0) ** 2) / (2 * 1.6**2))
    kernel = taps[:, None] * taps
    mask, blur = Mask(random_mask(shape[1:], keep=0.3, seed=1)), Blur(kernel / kernel.sum(), shape)

    def score(x: Tensor) -> float:
        return float(psnr(x, truth))

    for A, operator, levels in ((mask, "inpainting", (2, 10, 25)), (blur, "blur", (1, 4, 12))):
        for level in levels:
            e = torch.randn(1, *A.data_shape, generator=torch.Generator().manual_seed(level))
            q = A(truth) + level / 255 * e * (A(torch.ones_like(truth)).abs() > 0)
            yield Case(name, operator, f"noise {level}/255", q, A, level / 255, score)
    radon = Radon(image_shape=(1, *shape[1:]), angles=60, cache=False)
    for snr in (45, 35, 25):
        q, noise = simulate(radon, truth, snr_db=snr)
        yield Case(name, "CT", f"{snr} dB", q, radon, float(noise), score)


def of_sky(index: int, size: int, *, settle: bool) -> Iterator[Case]:
    """Mass maps of one part of the sky, with the holes of a survey: shear of the whole field, cut
    out.
    """
    field, std, _ = samples.lensing()
    if settle:
        field = lognormal_convergence((360, 360), PIXEL, seed=40 + index)[0, 0]
    row, col = ((index * 130) % (360 - size), (index * 75 + 20) % (360 - size))
    part = (slice(row, row + size), slice(col, col + size))
    whole = Lensing(image_shape=(2, 360, 360))
    shear = whole(torch.stack([field, torch.zeros_like(field)])[None])[(..., *part)]
    truth, seen = field[part], torch.isfinite(std[130 : 130 + size, 130 : 130 + size])
    A = Lensing(weight=seen.float(), padding=size // 8, pixel=PIXEL)

    def score(x: Tensor) -> float:
        error = (A.cut(x)[0, 0] - truth)[seen]
        return -10 * math.log10(float((error - error.mean()).square().mean()))

    for galaxies in (8, 30, 66):
        noise = 0.26 / math.sqrt(galaxies * 0.293**2)
        e = torch.randn(
            1, 2, size, size, generator=torch.Generator().manual_seed(galaxies + 1000 * index)
        )
        yield Case(
            f"sky {index}",
            "lensing",
            f"{galaxies} galaxies",
            (shear + noise * e) * seen,
            A,
            noise,
            score,
        )
