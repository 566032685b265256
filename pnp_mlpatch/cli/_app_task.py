"""What the app solves: a task, its data and its run, and the Python that repeats it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch import denoisers, operators, samples
from pnp_mlpatch.api import reconstruct
from pnp_mlpatch.errors import FileError, InputError, PnPError
from pnp_mlpatch.io.images import read_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import gaussian_psf
from pnp_mlpatch.operators.mask import random_mask
from pnp_mlpatch.solvers import Result, State

MOST_BYTES = 10 * 2**20  # of an upload
ENDINGS = (".png", ".tif", ".tiff", ".npy")
PICTURES = ("photograph", "chest CT", "upload")
SETTINGS = {  # operator: its setting, the range, the default, a step
    "mask": ("part of the pixels that are seen", 0.05, 0.95, 0.3, 0.05),
    "blur": ("width of the blur (pixels)", 0.5, 6.0, 2.0, 0.1),
    "radon": ("number of views", 8, 360, 60, 1),
    "identity": (None, 0, 1, 0, 1),
}


@dataclass(frozen=True)
class Task:
    """What the form of the app holds.

    Parameters
    ----------
    picture : str
        One of ``PICTURES``.
    name, content : str, bytes
        Of the upload.
    size : int
        Pixels of a side: a larger truth is shrunk by a whole number, then its middle is taken.
    measured : bool
        The picture is the data, and not a truth to simulate data from.
    operator, denoiser, solver : str
        Names.
    setting : float
        Of the operator.
    noise : float
        Standard deviation; 0 where it is to be estimated.
    sigma : float
        Level of the denoiser; 0 where the noise gives it.
    iterations : int
        Of the solver.
    """

    picture: str = "photograph"
    name: str = ""
    content: bytes = b""
    size: int = 128
    measured: bool = False
    operator: str = "mask"
    setting: float = 0.3
    noise: float = 0.05
    denoiser: str = "mlpatch"
    solver: str = "admm"
    sigma: float = 0.0
    iterations: int = 20

    def image(self) -> Tensor:
        """Return the picture (1, 1, H, W), shrunk if it is a truth, and cut to size."""
        if self.picture == "upload":
            x = self._upload()
        elif self.picture == "chest CT":
            x = ((samples.chest_ct() + 1024) / 2048).clamp(0, 1)
        else:
            x = samples.camera()
        if not self.measured:
            x = F.avg_pool2d(x, max(1, min(x.shape[-2:]) // self.size))
        return middle(x, self.size)

    def _upload(self) -> Tensor:
        if not self.content:
            raise InputError("Choose a file to upload first: PNG, TIFF or NPY.")
        if len(self.content) > MOST_BYTES:
            raise InputError(
                f"{self.name}: the file has {len(self.content) / 2**20:.1f} MiB, at most "
                f"{MOST_BYTES / 2**20:.0f} MiB are taken. Make it smaller."
            )
        suffix = Path(self.name).suffix.lower()
        if suffix not in ENDINGS:
            raise InputError(f"{self.name}: expected a file ending in {', '.join(ENDINGS)}.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"upload{suffix}")
            path.write_bytes(self.content)
            try:
                x = read_image(path, gray=True)
            except PnPError as error:
                said = str(error).replace(str(path), self.name)
                raise FileError(" ".join(said.split())) from error
        if x.shape[1] != 1:
            raise InputError(f"{self.name}: expected one or three channels, got {x.shape[1]}.")
        return x

    def make_operator(self, height: int, width: int) -> operators.LinearOperator:
        """Return the operator for images of this size."""
        shape = (1, height, width)
        if self.operator == "mask":
            mask = random_mask((height, width), keep=self.setting, seed=0)
            return operators.make("mask", mask=mask)
        if self.operator == "blur":
            return operators.make("blur", psf=gaussian_psf(self.setting), image_shape=shape)
        if self.operator == "radon":
            return operators.make("radon", image_shape=shape, angles=int(self.setting))
        return operators.make(self.operator, image_shape=shape)

    def solve(self, callback: Callable[[State], bool | None]) -> tuple[Result, dict[str, Any]]:
        """Return the result, and what ``Result.report`` takes with it."""
        x = self.image()
        A = self.make_operator(*x.shape[-2:])
        if self.measured and self.operator not in ("identity", "blur"):
            raise InputError(
                "A picture can be the data of 'identity' and 'blur' only. For the others take it "
                "as the truth, or use pnp-mlpatch solve."
            )
        q = x if self.measured else A(x)
        if self.noise and not self.measured:
            q = q + self.noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
        D = denoisers.make(self.denoiser)
        level: dict[str, Any] = {"sigma": self.sigma} if self.sigma else {}
        truth = None if self.measured else x
        result = reconstruct(
            q,
            A,
            D,
            self.solver,
            noise=self.noise or None,
            callbacks=[callback],
            record=None if truth is None else {"psnr": lambda y: psnr(y, x)},
            progress=False,
            iterations=self.iterations,
            **level,
        )
        given = {"q": q, "A": A, "D": D, "truth": truth, "noise": self.noise or None}
        return result, given

    def code(self) -> str:
        """Return the Python that repeats the run."""
        makes = {
            "mask": f"mask=random_mask((height, width), keep={self.setting!r}, seed=0)",
            "blur": f"psf=gaussian_psf({self.setting!r}), image_shape=(1, height, width)",
            "radon": f"image_shape=(1, height, width), angles={int(self.setting)}",
        }
        made = makes.get(self.operator, "image_shape=(1, height, width)")
        reads = {
            "photograph": "samples.camera()",
            "chest CT": "((samples.chest_ct() + 1024) / 2048).clamp(0, 1)",
        }
        read = reads.get(self.picture, f"read_image({self.name!r}, gray=True)")
        noisy = f" + {self.noise!r} * torch.randn(A.data_shape, generator=seed)"
        level = f", sigma={self.sigma!r}" if self.sigma else ""
        known = "" if self.measured else ", truth=x"
        lines = [
            "import torch",
            "from pnp_mlpatch import denoisers, operators, reconstruct, samples",
            "from pnp_mlpatch.io.images import read_image",
            "from pnp_mlpatch.operators.blur import gaussian_psf",
            "from pnp_mlpatch.operators.mask import random_mask",
            "",
            f"x = {read}",
            *(() if self.measured else (SHRINK.format(self.size),)),
            f"height, width = (min(side, {self.size}) for side in x.shape[-2:])",
            "top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2",
            "x = x[..., top : top + height, left : left + width].contiguous()",
            f"A = operators.make({self.operator!r}, {made})",
            "seed = torch.Generator().manual_seed(1)",
            f"q = {'x' if self.measured else 'A(x)' + (noisy if self.noise else '')}",
            f"D = denoisers.make({self.denoiser!r})",
            f"result = reconstruct(q, A, D, {self.solver!r}, noise={self.noise or None!r}, "
            f"iterations={self.iterations}{level})",
            f'result.report("report.html", q=q, A=A, D=D{known})',
        ]
        return "\n".join(lines)


SHRINK = "x = torch.nn.functional.avg_pool2d(x, max(1, min(x.shape[-2:]) // {}))"


def middle(x: Tensor, size: int) -> Tensor:
    """Return the middle of an image, at most so many pixels each way."""
    height, width = (min(side, size) for side in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width].contiguous()
