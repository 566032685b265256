"""What a command asks for, and the operator, the denoiser, the solver and the data made of it."""

from __future__ import annotations

import argparse
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.cli._by_numbers import by_numbers, sizes_of_data
from pnp_mlpatch.cli._channels import read_kspace, truth_of
from pnp_mlpatch.cli._common import DEFAULTS, REGISTRIES, blame
from pnp_mlpatch.cli._masks import draw_mask
from pnp_mlpatch.cli._pictures import read_measured, read_picture
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.arrays import read_array, read_complex
from pnp_mlpatch.io.images import READABLE, read_image
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.operators import registry as operators
from pnp_mlpatch.registry import did_you_mean
from pnp_mlpatch.weights import read_toml


@dataclass(frozen=True)
class Run:
    """What ``solve`` is asked for, by flags and configuration file together.

    Each section holds "name" and the settings given.
    """

    source: Path
    simulate: bool
    operator: dict[str, Any]
    denoiser: dict[str, Any]
    solver: dict[str, Any]
    noise: float | None
    seed: int
    gray: bool
    tune: bool
    anderson: int | None
    output: Path
    slice: int | None = None


def read_run(args: argparse.Namespace) -> Run:
    """Lay the flags over the configuration file, and check them."""
    values = read_toml(args.config) if args.config else {}
    known = ["data", "simulate", "slice", "noise", "seed", "gray", "tune", "anderson", "output"]
    known += REGISTRIES
    for key in values:
        if key not in known:
            raise InputTypeError(
                f"{args.config}: unknown key '{key}'. {did_you_mean(key, known)}Known: "
                f"{', '.join(known)}."
            )

    (mode, source), output = _source(args, values)
    noise, seed = _noise_and_seed(args, values)
    gray = values.get("gray", False) if args.gray is None else args.gray
    tune = values.get("tune", False) if args.tune is None else args.tune
    for key, value in (("gray", gray), ("tune", tune)):
        if not isinstance(value, bool):
            raise InputTypeError(f"solve: {key} must be true or false, got {value!r}.")

    sections = {family: _section(args, values.get(family, {}), family) for family in REGISTRIES}
    for text in args.set:
        family, key, value = parse_set(text)
        sections[family][key] = value
    anderson = values.get("anderson") if args.anderson is None else args.anderson
    if tune and args.checkpoint:
        raise InputError(
            "solve: --tune makes many runs, which --checkpoint cannot go on from. Leave "
            "one of them out."
        )
    if tune and anderson is not None:
        raise InputError(
            "solve: --tune searches with the plain solver, without --anderson. Leave one of "
            "them out."
        )
    if tune and (given_levels := [key for key in ("sigma", "alpha") if key in sections["solver"]]):
        raise InputError(
            f"solve: --tune chooses the level, and solver.{given_levels[0]} gives it. "
            "Leave one of them out."
        )
    return Run(
        Path(source),
        mode == "simulate",
        **sections,
        noise=noise,
        seed=seed,
        gray=gray,
        tune=tune,
        anderson=anderson,
        output=Path(output),
        slice=_slice(args, values),
    )


def _slice(args: argparse.Namespace, values: dict[str, Any]) -> int | None:
    """Return the slice of a DICOM series that is asked for."""
    index = values.get("slice") if args.slice is None else args.slice
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise InputError(f"solve: slice must be an integer >= 0, counted from 0, got {index!r}.")
    return index


def _source(args: argparse.Namespace, values: dict[str, Any]) -> tuple[tuple[str, str], str]:
    """Return what is read ("data" or "simulate", and the path), and where the result goes."""
    given = {
        key: getattr(args, key) for key in ("data", "simulate") if getattr(args, key) is not None
    }
    given = given or {key: values[key] for key in ("data", "simulate") if key in values}
    if len(given) != 1:
        raise InputError(
            "solve: give exactly one of --simulate IMAGE and --data FILE; got "
            f"{'both' if given else 'neither'}."
        )
    (mode, source), output = (
        next(iter(given.items())),
        values.get("output") if args.output is None else args.output,
    )
    if output is None:
        raise InputError("solve: give --output PATH, ending in .npy, .png or .tiff.")
    for key, value in ((mode, source), ("output", output)):
        if not isinstance(value, str) or not value:
            raise InputTypeError(f"solve: {key} must be the path of a file, got {value!r}.")
    return (mode, source), output


def _noise_and_seed(args: argparse.Namespace, values: dict[str, Any]) -> tuple[float | None, int]:
    """Return the noise of the data, and the seed of simulated noise."""
    noise = values.get("noise") if args.noise is None else args.noise
    if noise is not None and (
        isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < math.inf
    ):
        raise InputError(
            "solve: noise is a standard deviation, a number > 0 in the units of the data; "
            f"got {noise!r}."
        )
    seed = values.get("seed", 0) if args.seed is None else args.seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise InputError(f"solve: seed must be an integer from 0 to {2**31 - 1}, got {seed!r}.")
    return noise, seed


def _section(args: argparse.Namespace, table: Any, family: str) -> dict[str, Any]:
    """Return name and settings of one family.

    Settings that the file gives for another name than the flag's are left out.
    """
    if not isinstance(table, dict):
        raise InputTypeError(
            f'{args.config}: {family} must be a table: [{family}], then name = "...", then '
            "its settings."
        )
    name = getattr(args, family) or table.get("name") or DEFAULTS.get(family)
    if name is None:
        raise InputError(
            f"solve: give --{family} NAME. Known: {', '.join(REGISTRIES[family].names())}."
        )
    settings = table if table.get("name", name) == name else {}
    return {**settings, "name": name}


def parse_set(text: str) -> tuple[str, str, Any]:
    """``solver.sigma=0.06`` -> ("solver", "sigma", 0.06)."""
    found = re.fullmatch(r"(\w+)\.(\w+)=(.*)", text, re.DOTALL)
    if found is None or found[1] not in REGISTRIES or found[2] == "name":
        raise InputError(
            f"--set '{text}': expected SECTION.KEY=VALUE with SECTION operator, denoiser "
            "or solver, for example --set solver.sigma=0.06. "
            "Names are given by --operator, --denoiser and --solver."
        )
    return found[1], found[2], literal(found[3])


def literal(text: str) -> Any:
    """Return a TOML value (60, 0.06, true, [64, 48], "text"), or the text itself if it is none."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        tomllib = require("tomli", "--set on Python 3.10")
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return values["value"] if len(values) == 1 else text


def make(
    family: str, section: Mapping[str, Any], loaded: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Make a plugin from its section; return it with all its settings, defaults included.

    ``loaded`` are the settings to call it with, where those of the section only describe them
    (files).
    """
    registry, name = REGISTRIES[family], section["name"]
    settings = {key: value for key, value in section.items() if key != "name"}
    with blame(f"the {family} '{name}'"):
        made = registry.make(name, **(settings if loaded is None else loaded))
    parameters = inspect.signature(registry.get(name)).parameters.values()
    return made, {p.name: p.default for p in parameters if p.default is not p.empty} | settings


def make_problem(run: Run) -> tuple[LinearOperator, dict[str, Any], Tensor, Tensor | None]:
    r"""Make the operator and the data.

    Returns the operator, its settings, the data (1, \*data_shape), and the truth (1, C, H, W) if
    the data are simulated.
    """
    name = run.operator["name"]
    if run.simulate:
        truth = truth_of(read_picture(run.source, gray=run.gray, index=run.slice), name)
        try:
            A, used = make_operator(run.operator, _sizes(truth))
        except InputError as error:
            if truth.shape[1] == 1 or "image_shape" not in str(error):
                raise
            raise InputError(f"{error} --gray makes one channel of three.") from error
        if tuple(truth.shape[1:]) != A.image_shape:
            raise InputError(
                f"{run.source}: the picture has shape {tuple(truth.shape[1:])}, the "
                f"operator '{name}' takes images {A.image_shape}. "
                "Give operator settings that fit the picture; --gray makes one channel of three."
            )
        q = A(truth)
        if run.noise is not None:
            # another stream than random_mask(seed=...): normal draws from one seed depend on its
            # uniform draws
            generator = torch.Generator().manual_seed(run.seed + 2**31)
            q = q + run.noise * torch.randn(q.shape, generator=generator)
        return A, used, q, truth
    A, used, q = _measured(run)
    if tuple(q.shape) != (1, *A.data_shape):
        shown = tuple(q.shape[1:]) if q.shape[0] == 1 else tuple(q.shape)
        raise InputError(
            f"{run.source}: data of shape {shown}, but the operator '{name}' has data of "
            f"shape {A.data_shape} for images {A.image_shape}. "
            f"Set the shapes of the operator (pnp-mlpatch info {name}), or transpose the data."
        )
    return A, used, q, None


def _measured(run: Run) -> tuple[LinearOperator, dict[str, Any], Tensor]:
    """Read data, and make the operator that they ask for, its settings with it."""
    name = run.operator["name"]
    if name == "mri":
        q = read_kspace(run.source)
        if q.ndim == 5 and "maps" not in run.operator:
            raise InputError(
                f"{run.source}: data of {q.shape[1]} coils. Give their maps: --set "
                "operator.maps=FILE."
            )
        return *make_operator(run.operator, {"image_shape": tuple(q.shape[-3:])}), q
    if _image_shaped(operators.get(name)):
        q = read_picture(run.source, gray=run.gray, index=run.slice)
        if "pattern" in run.operator and q.shape[1] == 1:  # a mosaic as the camera has it
            q = q.repeat(1, 3, 1, 1)
        A, used = make_operator(run.operator, _sizes(q))
        if A.data_shape != A.image_shape and "image_shape" not in run.operator:
            A, used = make_operator(run.operator, {"image_shape": _around(A)})
        return A, used, q
    q = (
        read_measured(run.source)
        if run.source.suffix.lower() == ".npy"
        else read_picture(run.source, gray=run.gray, index=run.slice)[0]
    )
    A, used = make_operator(run.operator, sizes_of_data(run.operator, q))
    while q.ndim < len(A.data_shape) + 1:
        q = q[None]
    return A, used, q


def make_operator(
    section: Mapping[str, Any], sizes: Mapping[str, Any]
) -> tuple[LinearOperator, dict[str, Any]]:
    """Make the operator, with files read for tensors.

    ``sizes`` are taken where the operator asks for them and the section does not give them.
    """
    name = section["name"]
    parameters = inspect.signature(operators.get(name)).parameters
    given = {key: value for key, value in section.items() if key != "name"}
    for key, value in sizes.items():
        spare = {"image_shape": "weight", "channels": "image_shape"}[key]  # it says the same
        if key in parameters and key not in given and spare not in given:
            given[key] = value
    loaded = {}
    for key, value in given.items():
        with blame(f"operator.{key}"):
            loaded[key] = (
                _tensor(value, key)
                if key in parameters and "Tensor" in str(parameters[key].annotation)
                else value
            )
    draw_mask(name, given, loaded, sizes)
    made = by_numbers(name, given, loaded)
    return made or make("operator", {"name": name, **given}, loaded)


def _tensor(value: Any, key: str) -> Any:
    """Read a tensor from a file or from a table of numbers; return other values as they are.

    A picture of a mask is cut at 0.5, one of a psf is scaled to sum 1.
    """
    if isinstance(value, list) and value and isinstance(value[0], list):
        return torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, str) or Path(value).suffix.lower() not in READABLE:
        return value
    if key == "maps":
        return read_complex(value)
    if value.lower().endswith(".npy"):
        array = read_array(value)
        return array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    picture = read_image(value, gray=True)[0, 0]
    if key == "mask":
        return (picture >= 0.5).float()
    return picture / picture.sum() if key == "psf" else picture


def _sizes(image: Tensor) -> dict[str, Any]:
    return {"image_shape": tuple(image.shape[1:]), "channels": image.shape[1]}


def _around(A: LinearOperator) -> tuple[int, ...]:
    """Return the shape of the image whose data have the shape of A's image: with its border."""
    return tuple(2 * n - m for n, m in zip(A.image_shape, A.data_shape, strict=True))


def _image_shaped(plugin: Callable[..., Any]) -> bool:
    """Whether the data of an operator have the shape of its image, as in its example."""
    try:
        A = getattr(plugin, "example")()  # noqa: B009
    except (AttributeError, InputError):
        return False
    return A.image_shape == A.data_shape
