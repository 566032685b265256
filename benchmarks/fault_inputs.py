"""The commands that faults.py disturbs, and the inputs that it damages; all are made and read in
the present folder.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import pydicom
import torch
import zarr
from astropy.io import fits
from pydicom.data import get_testdata_file
from torch import Tensor, nn

from pnp_mlpatch import cli, denoisers, operators, reconstruct, samples
from pnp_mlpatch.ct import read_dicom, read_scan
from pnp_mlpatch.denoisers.dncnn import DnCNN
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.images import read_image, write_image
from pnp_mlpatch.lensing.catalogue import read_catalogue
from pnp_mlpatch.lensing.fits import read_shear
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import Result
from pnp_mlpatch.training.config import TrainConfig
from pnp_mlpatch.training.sources import open_sources, whole_images

PHOTO = samples.camera()[..., 100:132, 230:262]


@dataclass(frozen=True)
class Command:
    """The words of a command, words for other settings, and the files that must be the same, bit by
    bit.
    """

    words: str
    other: str
    finals: tuple[str, ...]

    def run(self, data: Path, other: bool = False) -> int:
        """Run it on what :func:`make_data` made in ``data``; the exit status."""
        return cli.main(shlex.split(f"{self.words} {self.other * other}".format(data=data)))


COMMANDS = {
    "solve": Command(
        "solve --simulate {data}/photo.png --gray --operator mask --set operator.keep=0.3 "
        "--denoiser tv --noise 0.02 --quiet "
        "--output s.npy --checkpoint s.pt --set solver.iterations=12 --set solver.sigma=0.06",
        "--set solver.sigma=0.2",
        ("s.npy",),
    ),
    "ct": Command(
        "ct {data}/scan.npy --layout sad --angles 24 --shape 32 32 --out v.h5 --batch 1 "
        "--quiet --denoiser tv --solver admm --iterations 2 --sigma 0.05",
        "--sigma 0.2",
        ("v.h5", "v.json"),
    ),
    "massmap": Command(
        "massmap {data}/shear.npy --pixel '0.4 arcmin' --n-gal 30 --out k.fits --quiet "
        "--iterations 6",
        "--seed 5",
        ("k.fits",),
    ),
    "train": Command(
        "train --data {data}/train --out run --steps 6 --set checkpoint_every=2 --set "
        "validate_every=6 --set batch=2 --set size=32 "
        "--set crop=8 --set model.width=8 --set model.depth=2 --set model.features=4 --set "
        "model.square=3 --set model.dilations=[1,2]",
        "--seed 5",
        ("run/weights.safetensors",),
    ),
}


def make_data() -> None:
    """The inputs of the commands."""
    Path("train").mkdir()
    for path in ("photo.png", "train/a.png", "train/b.png"):
        write_image(path, PHOTO if "a" not in path else PHOTO.flip(-1))
    rng = np.random.default_rng(0)
    slices = torch.cat(
        [samples.chest_ct()[..., 200 + 8 * k : 232 + 8 * k, 200:232] for k in range(3)]
    )
    integrals = Radon(image_shape=(1, 32, 32), angles=24, cache=False)((slices + 1024) * 1e-5)[
        :, 0
    ].numpy()
    np.save("scan.npy", integrals + 0.005 * rng.normal(size=integrals.shape).astype(np.float32))
    np.save("shear.npy", 0.12 * rng.normal(size=(2, 24, 24)).astype(np.float32))


def digest(value: Any) -> str:
    """The sha256 of tensors, arrays, bytes and texts, and of collections of them."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        value = [digest(part) for part in value]
    elif isinstance(value, (Tensor, np.ndarray)):
        value = (str(value.dtype), tuple(value.shape), np.ascontiguousarray(value).tobytes())
    return hashlib.sha256(repr(value).encode()).hexdigest()


def make_arrays(values: np.ndarray) -> None:
    """Inputs of arrays, each in a folder with the name of its kind; ``values`` (3, 16, 16) are in
    [0, 1].
    """
    np.save("npy/a.npy", values[0])
    np.savez("npz/a.npz", a=values)
    zarr.open_array("zarr/a.zarr", mode="w", shape=values.shape, chunks=(1, 16, 16), dtype="f4")[
        :
    ] = values
    with h5py.File("hdf5/a.h5", "w") as file:
        file["exchange/data"] = (1e4 * np.exp(-values)).astype(np.uint16).transpose(1, 0, 2)
        file["exchange/data_white"] = np.full((2, 3, 16), 10000, np.uint16)
        file["exchange/data_dark"] = np.zeros((2, 3, 16), np.uint16)
        file["exchange/theta"] = np.arange(16) * 11.25
    images = [
        fits.ImageHDU(0.1 * value, name=name)
        for name, value in zip(("GAMMA1", "GAMMA2", "NOISE"), values, strict=True)
    ]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto("fits/a.fits")
    Path("fits.gz/a.fits.gz").write_bytes(gzip.compress(Path("fits/a.fits").read_bytes()))
    galaxies = values.reshape(-1)[:200].reshape(40, 5) * [0.1, 0.1, 0.2, 0.2, 1] + [150, 2, 0, 0, 0]
    np.savetxt("csv/a.csv", galaxies, header="ra,dec,e1,e2,w", delimiter=",", comments="")


def make_others() -> None:
    """The other inputs."""
    for kind in ("png", "tiff"):
        write_image(f"{kind}/a.{kind}", PHOTO)
    Path("toml/a.toml").write_text(
        'data = "x"\nout = "y"\nsteps = 100\nlr = 0.001\n[model]\nwidth = 32\n'
    )
    one = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for k in range(3):
        one.InstanceNumber, one.ImagePositionPatient, one.SOPInstanceUID = (
            k + 1,
            [0, 0, 5.0 * k],
            f"1.2.3.{k}",
        )
        one.save_as(f"dicom/{k}.dcm")
    torch.manual_seed(0)
    DnCNN(1, depth=3, width=4).save("safetensors/a.safetensors", {})
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3)]
    torch.save(nn.Sequential(*layers).state_dict(), "pth/a.pth")
    A = operators.make("mask", mask=(PHOTO[0, 0] > PHOTO.mean()).float())
    reconstruct(A(PHOTO), A, "tv", noise=0.05, sigma=0.05, iterations=3, progress=False).save(
        "result (.pt)/a.pt"
    )
    project("cached matrix")


def read_projections(path: str, **settings: Any) -> Any:
    """All that a scan has."""
    scan = read_scan(path, **settings)
    return scan.read(0, scan.shape[0]), scan.angles, scan.flat, scan.dark, scan.kind


def read_result(path: str) -> Any:
    """All that a result has."""
    result = Result.load(path)
    return result.x, result.status, vars(result.state), result.history, result.seconds


def project(folder: str) -> Tensor:
    """A projection whose matrix is cached in a folder."""
    with patch.dict(os.environ, PNP_MLPATCH_CACHE=os.path.abspath(folder)):
        return Radon(image_shape=(1, 12, 12), angles=5)(torch.ones(1, 1, 12, 12))


def resume(name: str, data: Path) -> Any:
    """The final files of a command that goes on from what an earlier run left."""
    if status := COMMANDS[name].run(data):
        sys.exit(status)
    return [Path(path).read_bytes() for path in COMMANDS[name].finals]


READERS: dict[str, Callable[[], Any]] = {
    "png": partial(read_image, "a.png"),
    "tiff": partial(read_image, "a.tiff"),
    "npy": partial(read_array, "a.npy"),
    "npz": partial(read_projections, "a.npz", layout="sad", angles=np.arange(16) * 0.1),
    "hdf5": partial(read_projections, "a.h5"),
    "zarr": lambda: list(whole_images(open_sources("a.zarr", 1, 8))),
    "fits": lambda: vars(read_shear("a.fits", pixel="0.4 arcmin")),
    "fits.gz": lambda: vars(read_shear("a.fits.gz", pixel="0.4 arcmin")),
    "dicom": partial(read_dicom, "."),
    "csv": lambda: vars(read_catalogue("a.csv")),
    "toml": lambda: vars(TrainConfig.from_toml("a.toml")),
    "safetensors": lambda: denoisers.make("dncnn", weights="a.safetensors").state_dict(),
    "pth": lambda: denoisers.make("dncnn", weights="a.pth").state_dict(),
    "result (.pt)": partial(read_result, "a.pt"),
    "cached matrix": partial(project, "."),
}
CHECKSUM = (
    "png",
    "npz",
    "fits.gz",
    "pth",
    "result (.pt)",
    "cached matrix",
)  # the formats that have one


def make_inputs() -> None:
    """The inputs of all readers."""
    for kind in READERS:
        Path(kind).mkdir()
    make_arrays(np.random.default_rng(0).random((3, 16, 16), dtype=np.float32))
    make_others()
