"""``pnp-mlpatch solve``: one reconstruction from files, with a JSON file that tells how it was made."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import os
import platform
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pnp_mlpatch
from pnp_mlpatch import metrics
from pnp_mlpatch._optional import require
from pnp_mlpatch.api import level_from_noise, reconstruct
from pnp_mlpatch.cli.common import DEFAULTS, REGISTRIES, blame, prepare
from pnp_mlpatch.denoisers import Denoiser, describe, e_mode, per_channel
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.atomic import check_writable, write_whole
from pnp_mlpatch.io.images import READABLE, read_image, write_image
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.operators import registry as operators
from pnp_mlpatch.operators.mask import random_mask
from pnp_mlpatch.registry import did_you_mean
from pnp_mlpatch.solvers import Solver, State
from pnp_mlpatch.weights import read_toml, sha256

CHECKPOINT_EVERY = 5


@dataclass(frozen=True)
class Run:
    """What ``solve`` is asked for, flags and configuration file together; each section holds "name" and the settings given."""

    source: Path
    simulate: bool
    operator: dict[str, Any]
    denoiser: dict[str, Any]
    solver: dict[str, Any]
    noise: float | None
    seed: int
    gray: bool
    tune: bool
    output: Path


def run_solve(args: argparse.Namespace) -> int:
    """Reconstruct one image and write it, with a JSON file that tells how it was made."""
    device = prepare(args)
    run = read_run(args)
    checkpoint = Path(args.checkpoint) if args.checkpoint else None
    if run.output.suffix.lower() not in (".npy", ".png", ".tif", ".tiff"):
        raise InputError(
            f"{run.output}: unknown ending '{run.output.suffix}'. Writable: .npy, .png, .tiff."
        )
    written = [run.output, run.output.with_suffix(".json"), *([checkpoint] if checkpoint else [])]
    reads = [run.source, *([args.config] if args.config else []), *_files(dataclasses.asdict(run))]
    for k, path in enumerate(written):
        check_writable(path, [*reads, *written[:k]])
    with ExitStack() as locks:
        for path in written[1:]:
            locks.enter_context(lock(path))
        return _solve(args, run, checkpoint, device)


def _solve(
    args: argparse.Namespace, run: Run, checkpoint: Path | None, device: torch.device
) -> int:
    solver, solver_used = make("solver", run.solver)
    D, denoiser_used = make("denoiser", run.denoiser)
    A, operator_used, q, truth = make_problem(run)
    _check_channels(run.output, A.image_shape[0])
    A, q, truth = A.to(device), q.to(device), None if truth is None else truth.to(device)
    D = fit(D.to(device) if hasattr(D, "to") else D, run.operator["name"], A.image_shape[0])

    asked = {
        "simulate" if run.simulate else "data": str(run.source),
        "gray": run.gray,
        "noise": run.noise,
        "seed": run.seed,
        "operator": {"name": run.operator["name"], **operator_used},
        "denoiser": {"name": run.denoiser["name"], **denoiser_used},
        "solver": {"name": run.solver["name"], **solver_used},
    }
    if run.tune:
        asked["tune"] = "auto"
    asked["sha256"] = {file: sha256(file) for file in _files(asked)}
    about, state, history = {"asked": _lasting(plain(asked))}, None, {}
    if checkpoint and checkpoint.exists():
        state, history = resume(checkpoint, solver, about["asked"], device)
    resumed_at = state.iteration if state else None

    def save(now: State) -> None:
        if checkpoint and now.iteration % CHECKPOINT_EVERY == 0:
            now.save(checkpoint, {**about, "history": history})

    score, before = None, None
    x0 = A.initial(q)
    if truth is not None:
        score = _psnr_to(truth)
        before = score(x0)
    noise, tuned = run.noise, None
    if not run.tune and not {"sigma", "alpha"} & run.solver.keys():
        solver, noise, tuned = level_from_noise(q, A, D, solver, noise)
    result = reconstruct(
        q,
        A,
        D,
        solver,
        noise=noise,
        x0=x0,
        state=state,
        callbacks=[save],
        record={"psnr": score} if score else None,
        history=history,
        progress=False if args.quiet else None,
        tune="auto" if run.tune else None,
    )
    tuned = result.tuned or tuned
    if checkpoint:
        result.state.save(checkpoint, {**about, "history": history})

    report: dict[str, Any] = {
        "version": pnp_mlpatch.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
        **asked,
        "output": str(run.output),
        "status": result.status,
        "iterations": result.state.iteration,
        "resumed_at": resumed_at,
        "seconds": result.seconds,
    }
    if tuned is not None:
        values = {
            "settings": tuned.settings,
            "noise": tuned.noise,
            "estimated": tuned.estimated,
            "why": tuned.why,
        }
        report["tuned"] = {key: _one(value) for key, value in values.items()}
    if truth is not None and score is not None:
        enough = min(truth.shape[-2:]) >= 11
        report |= {
            "data_range": _data_range(truth),
            "psnr_initial": before,
            "psnr": score(result.x),
        }
        report["ssim"] = (
            float(metrics.ssim(result.x, truth, _data_range(truth)).mean()) if enough else None
        )
    report["history"] = result.history
    write_image(run.output, result.x)
    text = json.dumps(plain(report), indent=2) + "\n"
    write_whole(
        run.output.with_suffix(".json"),
        lambda temporary: temporary.write_text(text, encoding="utf-8"),
    )
    if not args.quiet:
        gain = f", PSNR {before:.2f} -> {report['psnr']:.2f} dB" if before is not None else ""
        print(
            f"{result.status}: {result.state.iteration} iterations, {result.seconds:.2f} s{gain}, {run.output}"
        )
        if tuned is not None:
            print(f"chosen: {tuned}")
    return 0


def read_run(args: argparse.Namespace) -> Run:
    """The flags laid over the configuration file, and checked."""
    values = read_toml(args.config) if args.config else {}
    known = ["data", "simulate", "noise", "seed", "gray", "tune", "output", *REGISTRIES]
    for key in values:
        if key not in known:
            raise InputTypeError(
                f"{args.config}: unknown key '{key}'. {did_you_mean(key, known)}Known: {', '.join(known)}."
            )

    given = {
        key: getattr(args, key) for key in ("data", "simulate") if getattr(args, key) is not None
    }
    given = given or {key: values[key] for key in ("data", "simulate") if key in values}
    if len(given) != 1:
        raise InputError(
            f"solve: give exactly one of --simulate IMAGE and --data FILE; got {'both' if given else 'neither'}."
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

    noise = values.get("noise") if args.noise is None else args.noise
    if noise is not None and (
        isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < math.inf
    ):
        raise InputError(
            f"solve: noise is a standard deviation, a number > 0 in the units of the data; got {noise!r}."
        )
    seed = values.get("seed", 0) if args.seed is None else args.seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise InputError(f"solve: seed must be an integer from 0 to {2**31 - 1}, got {seed!r}.")
    gray = values.get("gray", False) if args.gray is None else args.gray
    tune = values.get("tune", False) if args.tune is None else args.tune
    for key, value in (("gray", gray), ("tune", tune)):
        if not isinstance(value, bool):
            raise InputTypeError(f"solve: {key} must be true or false, got {value!r}.")

    sections = {family: _section(args, values.get(family, {}), family) for family in REGISTRIES}
    for text in args.set:
        family, key, value = parse_set(text)
        sections[family][key] = value
    if tune and args.checkpoint:
        raise InputError(
            "solve: --tune makes many runs, which --checkpoint cannot go on from. Leave one of them out."
        )
    if tune and (given_levels := [key for key in ("sigma", "alpha") if key in sections["solver"]]):
        raise InputError(
            f"solve: --tune chooses the level, and solver.{given_levels[0]} gives it. Leave one of them out."
        )
    return Run(
        Path(source),
        mode == "simulate",
        **sections,
        noise=noise,
        seed=seed,
        gray=gray,
        tune=tune,
        output=Path(output),
    )


def _section(args: argparse.Namespace, table: Any, family: str) -> dict[str, Any]:
    """Name and settings of one family; settings that the file gives for another name than the flag's are left out."""
    if not isinstance(table, dict):
        raise InputTypeError(
            f'{args.config}: {family} must be a table: [{family}], then name = "...", then its settings.'
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
            f"--set '{text}': expected SECTION.KEY=VALUE with SECTION operator, denoiser or solver, for example --set solver.sigma=0.06. "
            "Names are given by --operator, --denoiser and --solver."
        )
    return found[1], found[2], literal(found[3])


def literal(text: str) -> Any:
    """A TOML value (60, 0.06, true, [64, 48], "text"), or the text itself if it is none."""
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
    """A plugin from its section, and all settings that it runs with, defaults included.

    ``loaded`` are the settings to call it with, where those of the section only describe them (files).
    """
    registry, name = REGISTRIES[family], section["name"]
    settings = {key: value for key, value in section.items() if key != "name"}
    with blame(f"the {family} '{name}'"):
        made = registry.make(name, **(settings if loaded is None else loaded))
    parameters = inspect.signature(registry.get(name)).parameters.values()
    return made, {p.name: p.default for p in parameters if p.default is not p.empty} | settings


def make_problem(run: Run) -> tuple[LinearOperator, dict[str, Any], Tensor, Tensor | None]:
    """The operator, its settings, the data (1, *data_shape), and the truth (1, C, H, W) if the data are simulated."""
    name = run.operator["name"]
    if run.simulate:
        truth = read_image(run.source, gray=run.gray)
        if (
            name == "lensing" and truth.shape[1] == 1
        ):  # the E mode; shear does not see its mean, and there is no B mode
            truth = torch.cat([truth - truth.mean(), torch.zeros_like(truth)], dim=1)
        A, used = make_operator(run.operator, _sizes(truth))
        if tuple(truth.shape[1:]) != A.image_shape:
            raise InputError(
                f"{run.source}: the picture has shape {tuple(truth.shape[1:])}, the operator '{name}' takes images {A.image_shape}. "
                "Give operator settings that fit the picture; --gray makes one channel of three."
            )
        q = A(truth)
        if run.noise is not None:
            # another stream than random_mask(seed=...): normal draws from one seed depend on its uniform draws
            generator = torch.Generator().manual_seed(run.seed + 2**31)
            q = q + run.noise * torch.randn(q.shape, generator=generator)
        return A, used, q, truth
    if _image_shaped(operators.get(name)):
        q = read_image(run.source, gray=run.gray)
        A, used = make_operator(run.operator, _sizes(q))
    else:
        q = (
            _measured(run.source)
            if run.source.suffix.lower() == ".npy"
            else read_image(run.source, gray=run.gray)[0]
        )
        A, used = make_operator(run.operator, {"channels": q.shape[0]} if q.ndim == 3 else {})
        while q.ndim < len(A.data_shape) + 1:
            q = q[None]
    if tuple(q.shape) != (1, *A.data_shape):
        shown = tuple(q.shape[1:]) if q.shape[0] == 1 else tuple(q.shape)
        raise InputError(
            f"{run.source}: data of shape {shown}, but the operator '{name}' has data of shape {A.data_shape} for images {A.image_shape}. "
            f"Set the shapes of the operator (pnp-mlpatch info {name}), or transpose the data."
        )
    return A, used, q, None


def _measured(path: Path) -> Tensor:
    """Data from a .npy file, in float32; integers are counts or pixels, which no operator has as data."""
    q = read_array(path)
    if not q.is_floating_point():
        raise InputError(
            f"{path}: expected data in floats, got {q.dtype}. Counts become line integrals by pnp-mlpatch ct."
        )
    return q.float()


def make_operator(
    section: Mapping[str, Any], sizes: Mapping[str, Any]
) -> tuple[LinearOperator, dict[str, Any]]:
    """The operator with the ``sizes`` that it asks for and was not given, with files in place of tensors."""
    name = section["name"]
    parameters = inspect.signature(operators.get(name)).parameters
    given = {key: value for key, value in section.items() if key != "name"}
    for key, value in sizes.items():
        if (
            key in parameters and key not in given and not (key == "shape" and "weight" in given)
        ):  # a weight has the shape
            given[key] = value
    loaded = {}
    for key, value in given.items():
        with blame(f"operator.{key}"):
            loaded[key] = (
                _tensor(value, key)
                if key in parameters and "Tensor" in str(parameters[key].annotation)
                else value
            )
    if name == "mask" and ("mask" in given) == ("keep" in given):
        raise InputError(
            "the operator 'mask': give either operator.mask=FILE or operator.keep=FRACTION, the part of the pixels seen at random."
        )
    if name == "mask" and "keep" in given:
        given.setdefault("seed", 0)
        with blame("operator.keep, operator.seed"):
            loaded["mask"] = random_mask(
                sizes["shape"], keep=loaded.pop("keep"), seed=given["seed"]
            )
        loaded.pop("seed", None)
    return make("operator", {"name": name, **given}, loaded)


def _tensor(value: Any, key: str) -> Any:
    """A tensor from a file or from a table of numbers; other values stay. A picture of a mask is cut at 0.5, one of a psf has sum 1."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, str) or Path(value).suffix.lower() not in READABLE:
        return value
    if value.lower().endswith(".npy"):
        array = read_array(value)
        return array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    picture = read_image(value, gray=True)[0, 0]
    if key == "mask":
        return (picture >= 0.5).float()
    return picture / picture.sum() if key == "psf" else picture


def _sizes(image: Tensor) -> dict[str, Any]:
    channels, height, width = image.shape[1:]
    return {
        "image_shape": (channels, height, width),
        "shape": (height, width),
        "channels": channels,
    }


def _image_shaped(plugin: Callable[..., Any]) -> bool:
    """Whether the data of an operator have the shape of its image, as in its example."""
    try:
        A = getattr(plugin, "example")()  # noqa: B009
    except (AttributeError, InputError):
        return False
    return A.image_shape == A.data_shape


def fit(D: Denoiser, operator: str, channels: int) -> Denoiser:
    """D for images of so many channels: ``e_mode`` for lensing, ``per_channel`` where D takes one channel and there are more."""
    known = describe(D).channels
    if operator == "lensing" and known != 2:
        return e_mode(D)
    return per_channel(D) if known == 1 and channels > 1 else D


def resume(
    path: Path, solver: Solver, asked: Mapping[str, Any], device: torch.device
) -> tuple[State, dict[str, list[float]]]:
    """The state that an earlier run of the same problem left at ``path``, and its history; a state of another problem is refused."""
    about = checkpoints.load(path, "solver state")[1]
    if not isinstance(about, dict) or not isinstance(about.get("history"), dict):
        raise InputError(
            f"{path}: does not say which problem it is the state of. Remove it, or use another --checkpoint."
        )
    differ = checkpoints.differing(about.get("asked"), asked)
    if differ:
        raise InputError(
            f"{path}: the state of another run ({', '.join(differ)} differ). Remove it, or use another --checkpoint."
        )
    state = type(solver).load_state(path)
    values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    state = dataclasses.replace(
        state,
        **{key: value.to(device) for key, value in values.items() if isinstance(value, Tensor)},
    )
    return state, about["history"]


def _lasting(asked: dict[str, Any]) -> dict[str, Any]:
    """What must not change between a run and the one that goes on from it: iterations and tol may."""
    return {
        **asked,
        "solver": {
            key: value for key, value in asked["solver"].items() if key not in ("iterations", "tol")
        },
    }


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers that are not finite become null, and what JSON does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _files(asked: Mapping[str, Any]) -> list[str]:
    """The files that a run reads: its source, and every setting that is the path of a file."""
    values = [asked.get("simulate"), asked.get("data")]
    for family in REGISTRIES:
        values += [value for key, value in asked[family].items() if key != "name"]
    return [value for value in values if isinstance(value, str) and os.path.isfile(value)]


def _one(value: Any) -> Any:
    """Tensors, those of the settings too, as numbers and lists."""
    if isinstance(value, Mapping):
        return {key: _one(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    return value


def _data_range(truth: Tensor) -> float:
    """1 for a truth in [0, 1], else the spread of its values."""
    low, high = float(truth.min()), float(truth.max())
    return 1.0 if (low >= 0 and high <= 1) or low == high else high - low


def _psnr_to(truth: Tensor) -> Callable[[Tensor], float]:
    return lambda x: float(metrics.psnr(x, truth, _data_range(truth)).mean())


def _check_channels(output: Path, channels: int) -> None:
    suffix = output.suffix.lower()
    if (suffix == ".png" and channels not in (1, 3)) or (
        suffix in (".tif", ".tiff") and channels != 1
    ):
        raise InputError(f"{output}: {channels} channels do not fit a {suffix} file. Write .npy.")
