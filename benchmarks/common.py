"""What the benchmarks share: their arguments, the machine they ran on, tables as Markdown and JSON,
test images, weights of any kind.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch import samples
from pnp_mlpatch import weights as weight_files
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import Network, registry
from pnp_mlpatch.errors import FileError
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.images import READABLE, read_image
from pnp_mlpatch.viz.panels import table

HU, KAPPA = (
    (-1024.0, 1024.0),
    (-0.1, 0.3),
)  # the values that become 0 and 1: of CT in Hounsfield units, and of convergence maps


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes; ``doc`` is shown by --help."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", type=Path, help="write the tables there as well, with the machine"
    )
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny run that only shows that the program works"
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    return args


def machine(device: str = "cpu") -> dict[str, Any]:
    """The machine: kind, processor, threads of torch, its version, and the GPU where it is used."""
    found = {
        "machine": platform.machine(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return found | (
        {"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {}
    )


def processor() -> str:
    """The model in /proc/cpuinfo, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def publish(
    args: argparse.Namespace,
    tables: dict[str, list[dict[str, Any]]],
    notes: Sequence[str] = (),
    device: str = "cpu",
) -> None:
    """Print every table under its title, after the machine and before the notes; write the same to
    ``args.json``.
    """
    where = machine(device)
    print(
        ", ".join(
            str(value) if key != "threads" else f"{value} threads" for key, value in where.items()
        ),
        "(quick run)" * args.quick,
    )
    for title, rows in tables.items():
        if rows:
            print(f"\n{title}\n\n{table(rows)}")
    if notes:
        print("\n" + "\n".join(notes))
    if args.json:
        content = {"machine": where, "quick": args.quick, "tables": tables, "notes": list(notes)}
        atomic_write(
            args.json,
            lambda temporary: temporary.write_text(
                json.dumps(content, indent=1) + "\n", encoding="utf-8"
            ),
        )


def network(weights: str | Path) -> Network:
    """A trained network of any kind: ``weights`` is a shipped name or a path; the kind stands in
    the header of the file.
    """
    path = weight_files.locate(weights)
    with require("safetensors", "Reading weights").safe_open(str(path), framework="pt") as file:
        kind = (file.metadata() or {}).get("kind", "a file without a kind")
    return registry.network(kind).load(path)


def label(weights: str | Path) -> str:
    """A short name of weights: the shipped name, or the run for runs/RUN/weights.safetensors, or
    the name of the file.
    """
    path = Path(weights)
    return (
        path.parent.name or path.stem
        if path.stem == "weights"
        else path.name
        if path.suffix != ".safetensors"
        else path.stem
    )


def shipped(kind: str | None = None, channels: int | None = None) -> list[str]:
    """The names of the shipped weights that denoise pictures, in order; of one kind or number of
    channels, if given.
    """
    names = [
        name
        for name, entry in sorted(weight_files.manifest().items())
        if kind in (None, entry["kind"])
    ]
    networks = {name: network(name) for name in names}
    return [
        name
        for name, D in networks.items()
        if D.sigma_max and not D.config.get("signal") and channels in (None, D.channels)
    ]


def read_set(path: Path, channels: int | None = None, every: int = 4) -> list[Tensor]:
    """Test images (C, H, W), most of them in [0, 1]: a folder of pictures, an .npz with a stack
    ``hu``, or an .npy with a convergence map.

    Pictures are read in colour or in grey as ``channels`` says, or as they are. Of a stack, every
    ``every``-th slice is taken, with -1024 ... 1024 HU mapped to 0 ... 1 and cut there. Convergence
    maps are mapped by one scale for all, (kappa + 0.1) / 0.4, and not cut.
    """
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            if "hu" not in file or file["hu"].ndim != 3:
                raise FileError(
                    f"{path}: expected a stack of slices 'hu' (N, H, W) in Hounsfield units."
                )
            slices = torch.from_numpy(file["hu"][::every].astype(np.float32))
        return list(((slices - HU[0]) / (HU[1] - HU[0])).clamp(0, 1)[:, None])
    if path.suffix == ".npy":
        kappa = read_array(path).float()
        return [((kappa - KAPPA[0]) / (KAPPA[1] - KAPPA[0])).reshape(1, *kappa.shape[-2:])]
    if not path.is_dir():
        raise FileError(f"{path}: no folder of pictures, .npz stack or .npy map.")
    images = [
        read_image(file, gray=channels == 1)[0]
        for file in sorted(path.iterdir())
        if file.suffix.lower() in READABLE
    ]
    if channels is None and all(
        bool((image == image[:1]).all()) for image in images
    ):  # grey, though perhaps stored as colour
        images = [image[:1] for image in images]
    images = [image for image in images if image.shape[0] == (channels or images[0].shape[0])]
    if not images:
        raise FileError(f"{path}: no picture of {channels or 'any number of'} channels.")
    return images


def survey_noise(std: Sequence[Path] | None, mask: Path | None) -> Tensor:
    """Read the noise map (H, W) of a survey, infinite where nothing was measured.

    ``std`` are .npy files of the standard deviation, of two the root mean square; None: the noise
    of COSMOS that ships. ``mask`` is 0 where nothing was measured.
    """
    noise = samples.lensing()[1].double()
    if std:
        mean = torch.from_numpy(np.mean([np.load(path) ** 2 for path in std], axis=0)).sqrt()
        noise = torch.where(mean > 0, mean.double(), torch.inf)
    if mask:
        noise = torch.where(torch.from_numpy(np.load(mask)) > 0, noise, torch.inf)
    return noise
