"""The command line: ``pnp-mlpatch list``, ``info``, ``solve``, ``train`` and ``demo``.

What the user can mend (a file, a name, a setting) is one line on stderr and the exit status 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pnp_mlpatch
from pnp_mlpatch import metrics, weights
from pnp_mlpatch.denoisers.base import Denoiser
from pnp_mlpatch.denoisers.base import registry as denoisers
from pnp_mlpatch.denoisers.wrap import describe, e_mode, per_channel
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError, UnknownPlugin, WeightsError, require
from pnp_mlpatch.imageio import READABLE, read_array, read_image, write_image
from pnp_mlpatch.operators.base import LinearOperator
from pnp_mlpatch.operators.base import registry as operators
from pnp_mlpatch.operators.mask import random_mask
from pnp_mlpatch.registry import Registry, did_you_mean
from pnp_mlpatch.solvers.base import Solver, State
from pnp_mlpatch.solvers.base import registry as solvers
from pnp_mlpatch.weights import read_toml, sha256, write_whole

REGISTRIES: dict[str, Registry] = {"operator": operators, "denoiser": denoisers, "solver": solvers}
DEFAULTS = {"denoiser": "mlpatch", "solver": "admm"}
CHECKPOINT_EVERY = 5
EXAMPLES = ("ct_512.py", "inpainting_512.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit status: 0, 2 for what the user can mend, 130 if interrupted."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return args.run(args)
    except (PnPError, OSError) as error:
        print(f"pnp-mlpatch: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pnp-mlpatch: interrupted", file=sys.stderr)
        return 130


# ---- list and info


def list_plugins(args: argparse.Namespace) -> int:
    """Print a table of the plugins: name, family, needs, first line of the docstring."""
    rows = [("NAME", "FAMILY", "NEEDS", "")]
    for family, registry in REGISTRIES.items():
        if args.family in (None, f"{family}s"):
            for found in map(registry.info, registry.names()):
                needs = ", ".join(f"{package} (missing)" if package in found.missing else package for package in found.needs)
                first = plain_text(found.doc).partition("\n")[0]
                rows.append((found.name, family, "BROKEN" if found.broken else needs or "-", found.broken or first))
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())
    return 0


def show_info(args: argparse.Namespace) -> int:
    """Print what is known of a plugin, or the card of shipped weights."""
    families = [family for family in REGISTRIES if args.family in (None, family) and args.name in REGISTRIES[family].names()]
    shipped = weights.manifest()
    if len(families) > 1:
        raise InputError(f"info: '{args.name}' is in {len(families)} families. Say --family {' or --family '.join(families)}.")
    if families:
        _print_plugin(REGISTRIES[families[0]], args.name)
        own = [name for name in shipped if _kind(name) == args.name] if families == ["denoiser"] else []
        for name in own:
            print()
            try:
                _print_card(name)
            except WeightsError as error:
                print(f"weights {name}\n  cannot be read: {error}")
        if args.name == "mlpatch" and not own:
            print("\nNo weights are shipped; give a file: --set denoiser.weights=PATH")
    elif args.name in shipped and args.family in (None, "denoiser"):
        _print_card(args.name)
    else:
        known = sorted({name for family, r in REGISTRIES.items() if args.family in (None, family) for name in r.names()} | {*shipped})
        raise UnknownPlugin(
            f"info: no {args.family or 'plugin'} is called '{args.name}'. {did_you_mean(args.name, known)}See: pnp-mlpatch list"
        )
    return 0


def _print_plugin(registry: Registry, name: str) -> None:
    found = registry.info(name)
    print(f"{name}: {registry.family}, {found.source or 'broken'}")
    if found.broken:
        print(f"\n{found.broken}")
        return
    if found.needs:
        print(f"needs: {', '.join(found.needs)}" + (f"; missing: {', '.join(found.missing)}" if found.missing else ""))
    print(f"\n{plain_text(found.doc)}\n\nsettings (--set {registry.family}.NAME=VALUE):")
    for p in inspect.signature(registry.get(name)).parameters.values():
        kind = "" if p.annotation is p.empty else f": {p.annotation}"
        print(f"  {p.name}{kind}" + (" (required)" if p.default is p.empty else f" = {p.default!r}"))


def _kind(name: str) -> str:
    """The denoiser that shipped weights belong to."""
    return weights.manifest()[name].get("kind", "mlpatch")


def _print_card(name: str) -> None:
    _, config, card = weights.load(weights.locate(name), kind=_kind(name))
    print(f"weights {name}")
    for title, values in (("card", card), ("config", config)):
        print(f"  {title}:")
        for key, value in values.items():
            print(f"    {key}: {value}")


def plain_text(doc: str) -> str:
    """A docstring without its reStructuredText marks."""
    return re.sub(r":\w+:`~?(?:pnp_mlpatch\.[\w.]*\.)?([^`]*)`", r"\1", doc).replace("``", "").replace("\\*", "*")


# ---- solve


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
    output: Path


def solve(args: argparse.Namespace) -> int:
    """Reconstruct one image and write it, with a JSON file that tells how it was made."""
    device = _prepare(args)
    run = read_run(args)
    checkpoint = Path(args.checkpoint) if args.checkpoint else None
    for path in (run.output, checkpoint):
        _check_target(path, run.source)
    if run.output.suffix.lower() not in (".npy", ".png", ".tif", ".tiff"):
        raise InputError(f"{run.output}: unknown ending '{run.output.suffix}'. Writable: .npy, .png, .tiff.")

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
    asked["sha256"] = {file: sha256(file) for file in _files(asked)}
    state = resume(checkpoint, solver, plain(asked), device) if checkpoint else None

    def save(now: State) -> None:
        if checkpoint and now.iteration % CHECKPOINT_EVERY == 0:
            now.save(checkpoint)

    score, before = None, None
    x0 = A.initial(q)
    if truth is not None:
        score = _psnr_to(truth)
        before = score(x0)
    result = solver.run(
        q,
        A,
        D,
        noise=run.noise,
        x0=x0,
        state=state,
        callbacks=[save],
        record={"psnr": score} if score else None,
        progress=False if args.quiet else None,
    )
    if checkpoint:
        result.state.save(checkpoint)

    report: dict[str, Any] = {
        "version": pnp_mlpatch.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
        **asked,
        "output": str(run.output),
        "status": result.status,
        "iterations": result.state.iteration,
        "resumed_at": state.iteration if state else None,
        "seconds": result.seconds,
    }
    if truth is not None and score is not None:
        enough = min(truth.shape[-2:]) >= 11
        report |= {"data_range": _data_range(truth), "psnr_initial": before, "psnr": score(result.x)}
        report["ssim"] = float(metrics.ssim(result.x, truth, _data_range(truth)).mean()) if enough else None
    report["history"] = result.history
    write_image(run.output, result.x)
    text = json.dumps(plain(report), indent=2) + "\n"
    write_whole(run.output.with_suffix(".json"), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    if not args.quiet:
        gain = f", PSNR {before:.2f} -> {report['psnr']:.2f} dB" if before is not None else ""
        print(f"{result.status}: {result.state.iteration} iterations, {result.seconds:.2f} s{gain}, {run.output}")
    return 0


def read_run(args: argparse.Namespace) -> Run:
    """The flags laid over the configuration file, and checked."""
    values = read_toml(args.config) if args.config else {}
    known = ["data", "simulate", "noise", "seed", "gray", "output", *REGISTRIES]
    for key in values:
        if key not in known:
            raise InputTypeError(f"{args.config}: unknown key '{key}'. {did_you_mean(key, known)}Known: {', '.join(known)}.")

    given = {key: getattr(args, key) for key in ("data", "simulate") if getattr(args, key) is not None}
    given = given or {key: values[key] for key in ("data", "simulate") if key in values}
    if len(given) != 1:
        raise InputError(f"solve: give exactly one of --simulate IMAGE and --data FILE; got {'both' if given else 'neither'}.")
    (mode, source), output = next(iter(given.items())), values.get("output") if args.output is None else args.output
    if output is None:
        raise InputError("solve: give --output PATH, ending in .npy, .png or .tiff.")
    for key, value in ((mode, source), ("output", output)):
        if not isinstance(value, str) or not value:
            raise InputTypeError(f"solve: {key} must be the path of a file, got {value!r}.")

    noise = values.get("noise") if args.noise is None else args.noise
    if noise is not None and (isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < math.inf):
        raise InputError(f"solve: noise is a standard deviation, a number > 0 in the units of the data; got {noise!r}.")
    seed = values.get("seed", 0) if args.seed is None else args.seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise InputError(f"solve: seed must be an integer from 0 to {2**31 - 1}, got {seed!r}.")
    gray = values.get("gray", False) if args.gray is None else args.gray
    if not isinstance(gray, bool):
        raise InputTypeError(f"solve: gray must be true or false, got {gray!r}.")

    sections = {family: _section(args, values.get(family, {}), family) for family in REGISTRIES}
    for text in args.set:
        family, key, value = parse_set(text)
        sections[family][key] = value
    return Run(Path(source), mode == "simulate", **sections, noise=noise, seed=seed, gray=gray, output=Path(output))


def _section(args: argparse.Namespace, table: Any, family: str) -> dict[str, Any]:
    """Name and settings of one family; settings that the file gives for another name than the flag's are left out."""
    if not isinstance(table, dict):
        raise InputTypeError(f'{args.config}: {family} must be a table: [{family}], then name = "...", then its settings.')
    name = getattr(args, family) or table.get("name") or DEFAULTS.get(family)
    if name is None:
        raise InputError(f"solve: give --{family} NAME. Known: {', '.join(REGISTRIES[family].names())}.")
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


def make(family: str, section: Mapping[str, Any], loaded: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """A plugin from its section, and all settings that it runs with, defaults included.

    ``loaded`` are the settings to call it with, where those of the section only describe them (files).
    """
    registry, name = REGISTRIES[family], section["name"]
    settings = {key: value for key, value in section.items() if key != "name"}
    with _blame(f"the {family} '{name}'"):
        made = registry.make(name, **(settings if loaded is None else loaded))
    parameters = inspect.signature(registry.get(name)).parameters.values()
    return made, {p.name: p.default for p in parameters if p.default is not p.empty} | settings


@contextmanager
def _blame(who: str) -> Iterator[None]:
    """Turn the plain errors of a constructor that was given a wrong setting into one that says whose it was."""
    try:
        yield
    except (PnPError, OSError):
        raise
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise InputTypeError(f"{who}: a setting has a wrong type or value ({type(error).__name__}: {error}).") from error


def make_problem(run: Run) -> tuple[LinearOperator, dict[str, Any], Tensor, Tensor | None]:
    """The operator, its settings, the data (1, *data_shape), and the truth (1, C, H, W) if the data are simulated."""
    name = run.operator["name"]
    if run.simulate:
        truth = read_image(run.source, gray=run.gray)
        if name == "lensing" and truth.shape[1] == 1:  # the E mode; shear does not see its mean, and there is no B mode
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
        q = read_array(run.source).float() if run.source.suffix.lower() == ".npy" else read_image(run.source, gray=run.gray)[0]
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


def make_operator(section: Mapping[str, Any], sizes: Mapping[str, Any]) -> tuple[LinearOperator, dict[str, Any]]:
    """The operator with the ``sizes`` that it asks for and was not given, with files in place of tensors."""
    name = section["name"]
    parameters = inspect.signature(operators.get(name)).parameters
    given = {key: value for key, value in section.items() if key != "name"}
    for key, value in sizes.items():
        if key in parameters and key not in given and not (key == "shape" and "weight" in given):  # a weight has the shape
            given[key] = value
    loaded = {}
    for key, value in given.items():
        with _blame(f"operator.{key}"):
            loaded[key] = _tensor(value, key) if key in parameters and "Tensor" in str(parameters[key].annotation) else value
    if name == "mask" and ("mask" in given) == ("keep" in given):
        raise InputError(
            "the operator 'mask': give either operator.mask=FILE or operator.keep=FRACTION, the part of the pixels seen at random."
        )
    if name == "mask" and "keep" in given:
        given.setdefault("seed", 0)
        with _blame("operator.keep, operator.seed"):
            loaded["mask"] = random_mask(sizes["shape"], keep=loaded.pop("keep"), seed=given["seed"])
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
    return {"image_shape": (channels, height, width), "shape": (height, width), "channels": channels}


def _image_shaped(plugin: Callable[..., Any]) -> bool:
    """Whether the data of an operator have the shape of its image, as in its example."""
    example = getattr(plugin, "example", None)
    if example is None:
        return False
    A = example()
    return A.image_shape == A.data_shape


def fit(D: Denoiser, operator: str, channels: int) -> Denoiser:
    """D for images of so many channels: ``e_mode`` for lensing, ``per_channel`` where D takes one channel and there are more."""
    known = describe(D).channels
    if operator == "lensing" and known != 2:
        return e_mode(D)
    return per_channel(D) if known == 1 and channels > 1 else D


def resume(path: Path, solver: Solver, asked: dict[str, Any], device: torch.device) -> State | None:
    """The state that an earlier run of the same problem left at ``path``, or None; a state of another problem is refused.

    What the run was asked for lies beside the state, in ``path`` + ".json"; iterations and tol may change between runs.
    """
    beside = path.with_name(path.name + ".json")
    asked = {**asked, "solver": {key: value for key, value in asked["solver"].items() if key not in ("iterations", "tol")}}
    state = None
    if path.exists():
        state = type(solver).load_state(path)
        values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        state = dataclasses.replace(state, **{key: value.to(device) for key, value in values.items() if isinstance(value, Tensor)})
        if beside.exists():
            try:
                before = json.loads(beside.read_text(encoding="utf-8"))
            except ValueError as error:
                raise FileError(f"{beside}: not valid JSON ({error}). Remove it and {path}, or use another --checkpoint.") from error
            differ = [key for key in asked if before.get(key) != asked[key]]
            if differ:
                raise InputError(f"{path}: the state of another run ({', '.join(differ)} differ). Remove it, or use another --checkpoint.")
    write_whole(beside, lambda temporary: temporary.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8"))
    return state


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


def _data_range(truth: Tensor) -> float:
    """1 for a truth in [0, 1], else the spread of its values."""
    low, high = float(truth.min()), float(truth.max())
    return 1.0 if (low >= 0 and high <= 1) or low == high else high - low


def _psnr_to(truth: Tensor) -> Callable[[Tensor], float]:
    return lambda x: float(metrics.psnr(x, truth, _data_range(truth)).mean())


def _check_target(path: Path | None, source: Path) -> None:
    """Raise unless ``path`` can be written: known before the long computation, not after it."""
    if path is None:
        return
    folder = path.parent
    if not folder.is_dir():
        raise FileError(f"{path}: there is no folder {folder}. Create it first.")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise FileError(f"{path}: cannot be written. Choose a file in a folder that you may write to.")
    if path.resolve() == source.resolve():
        raise InputError(f"{path}: this is the input; choose another name.")


def _check_channels(output: Path, channels: int) -> None:
    suffix = output.suffix.lower()
    if (suffix == ".png" and channels not in (1, 3)) or (suffix in (".tif", ".tiff") and channels != 1):
        raise InputError(f"{output}: {channels} channels do not fit a {suffix} file. Write .npy.")


def _prepare(args: argparse.Namespace) -> torch.device:
    """Set the threads, and return the device after trying it."""
    if args.threads is not None:
        if args.threads < 1:
            raise InputError(f"--threads must be >= 1, got {args.threads}.")
        torch.set_num_threads(args.threads)
    try:
        device = torch.device(args.device or "cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"--device {args.device}: cannot be used ({str(error).partition(chr(10))[0]}). Use cpu, or cuda where there is one."
        ) from error
    return device


# ---- train


def train_denoiser(args: argparse.Namespace) -> int:
    """Train a denoiser from a TOML file and flags."""
    from pnp_mlpatch.training import TrainConfig, train

    values = read_toml(args.config) if args.config else {}
    for key in ("data", "out", "validation", "steps", "device", "precision", "seed", "denoiser"):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    with _blame(args.config or "train"):
        config = TrainConfig.from_dict(values, source=args.config or "train")
    args.device = config.device
    _prepare(args)
    path = train(config, resume=not args.no_resume)
    print(f"weights: {path}")
    return 0


# ---- demo


def run_demo(args: argparse.Namespace) -> int:
    """Run the example programs, one after the other."""
    folder = find_examples()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if folder.parent.joinpath("pyproject.toml").exists():  # a checkout: the examples shall import this package
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder.parent), environment.get("PYTHONPATH")]))
    for name in EXAMPLES:
        command = [sys.executable, str(folder / name), "--out", str(out), *(["--quick"] if args.quick else [])]
        print(f"== {name}", flush=True)
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode:
            raise PnPError(f"demo: {name} ended with exit status {done.returncode}; what it says is above.")
    print(f"The pictures are in {out.resolve()}")
    return 0


def find_examples() -> Path:
    """The folder of the example programs: in the installed package, or beside it in a checkout."""
    package = Path(pnp_mlpatch.__file__).resolve().parent
    places = (package / "examples", package.parent / "examples")
    for folder in places:
        if all((folder / name).is_file() for name in EXAMPLES):
            return folder
    raise FileError(f"demo: {' and '.join(EXAMPLES)} are neither in {places[0]} nor in {places[1]}. Reinstall the package.")


# ---- the parser

DESCRIPTION = "Plug-and-play reconstruction: an operator (how the data came about), a denoiser (what images look like), a solver."

EPILOG = """\
Start here:
  pnp-mlpatch list                  what there is
  pnp-mlpatch info radon            what it does, and its settings
  pnp-mlpatch demo --quick          two reconstructions, with pictures
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 --noise 0.02 --output filled.png
"""

LIST_EPILOG = """\
A plugin that cannot be imported is listed as BROKEN with the reason; the others are not affected.

Examples:
  pnp-mlpatch list
  pnp-mlpatch list denoisers
"""

INFO_EPILOG = """\
Examples:
  pnp-mlpatch info mlpatch          docstring, settings, shipped weights
  pnp-mlpatch info mlpatch-grey     the card of shipped weights
  pnp-mlpatch info admm --family solver
"""

SOLVE_EPILOG = """\
Data. --simulate takes IMAGE as the truth f, and makes q = A f + n with n of standard deviation --noise, from --seed.
--data takes q itself: .npy, or a picture where the data have the shape of the image. Images are (H, W), (H, W, 3) or
(C, H, W); 8- and 16-bit pictures are scaled to [0, 1]. Sizes that the operator asks for (shape, image_shape, channels)
are taken from the picture; for data of another shape, such as sinograms, give them: --set 'operator.shape=[512,512]'.

Settings. VALUE is a TOML value (60, 0.06, true, [64, 48]), else a text. A setting of the operator that is an array (mask,
psf, weight, angles) is given by the path of a .npy file or of a picture; a picture of a mask is cut at half its range, one
of a psf is scaled to sum 1. The mask operator also takes operator.keep=FRACTION (and operator.seed=N): random pixels.
Denoisers of one channel run on every channel by itself; lensing denoises the E mode, and takes a picture less its mean as E.

Results. --output gets the image; beside it, with the ending .json, what was run, how it ended, PSNR and SSIM, and the history.
--checkpoint keeps the state every 5 iterations; the same command goes on from it, and --set solver.iterations may be raised.

A configuration file has the same words; flags override it, and paths are relative to where you are:
  simulate = "photo.png"            # or: data = "sinogram.npy"
  noise = 0.02
  seed = 0
  gray = true
  output = "out.png"
  [operator]
  name = "mask"
  keep = 0.3
  [denoiser]
  name = "tv"
  [solver]
  name = "admm"
  sigma = 0.06

Examples:
  pnp-mlpatch solve --simulate photo.png --gray --operator mask --set operator.keep=0.3 --noise 0.02 --output filled.png
  pnp-mlpatch solve --data sinogram.npy --operator radon --set 'operator.shape=[512,512]' --set operator.angles=60 --noise 0.5 --output slice.tiff
  pnp-mlpatch solve --config run.toml --solver hqs --checkpoint state.pt --output out.npy
"""

TRAIN_EPILOG = """\
A file:
  data = "pictures/train"           # folder of .png, .jpg, .tiff, .npy
  out = "runs/grey"                 # gets weights.safetensors, log.csv and checkpoint.pt
  validation = "pictures/val"       # folder; its PSNR goes to log.csv every validate_every steps
  steps = 20000
  checkpoint_every = 1000           # the same command goes on from the last checkpoint
  [model]                           # settings of the network
  width = 256
  depth = 3
  radius = 8.0
  rings = 10
  angles = 16
  [card]                            # free text, kept in the weights file
  licence = "CC-BY-4.0"

Examples:
  pnp-mlpatch train --config grey.toml
  pnp-mlpatch train --config grey.toml --device cuda --precision bfloat16 --out runs/gpu
  pnp-mlpatch solve --simulate photo.png --gray --operator identity --noise 0.1 --set denoiser.weights=runs/grey/weights.safetensors --output x.png
"""

DEMO_EPILOG = """\
Examples:
  pnp-mlpatch demo                  sparse-view CT and inpainting at 512 x 512, minutes on a CPU
  pnp-mlpatch demo --quick --out pictures
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; every command has a description and examples."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("pnp-mlpatch", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"pnp-mlpatch {pnp_mlpatch.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, epilog: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=raw)
        sub.set_defaults(run=run)
        return sub

    sub = command("list", list_plugins, "List the operators, denoisers and solvers.", LIST_EPILOG)
    sub.add_argument("family", nargs="?", choices=[f"{family}s" for family in REGISTRIES], help="only this family")

    sub = command("info", show_info, "Tell what a plugin does, and its settings; or show the card of shipped weights.", INFO_EPILOG)
    sub.add_argument("name", metavar="NAME", help="a plugin, or weights that ship with the package")
    sub.add_argument("--family", choices=list(REGISTRIES), help="where a name is in several families")

    sub = command("solve", solve, "Reconstruct an image from data, or from data simulated from a known image.", SOLVE_EPILOG)
    sub.add_argument("--simulate", metavar="IMAGE", help="take this picture as the truth, and simulate its data")
    sub.add_argument("--data", metavar="FILE", help="data: .npy, or a picture for data of the image's shape")
    sub.add_argument("--operator", metavar="NAME", help="the operator")
    sub.add_argument("--denoiser", metavar="NAME", help=f"the denoiser (default: {DEFAULTS['denoiser']})")
    sub.add_argument("--solver", metavar="NAME", help=f"the solver (default: {DEFAULTS['solver']})")
    sub.add_argument("--noise", type=float, metavar="STD", help="standard deviation of the noise, in the units of the data")
    sub.add_argument("--seed", type=int, metavar="N", help="seed of the simulated noise (default: 0)")
    sub.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting; may be given many times")
    sub.add_argument("--config", metavar="FILE.toml", help="a configuration file; flags override it")
    sub.add_argument("--gray", action="store_true", default=None, help="turn colour into luminance")
    sub.add_argument("--output", metavar="PATH", help="the result: .npy, .png or .tiff (float); beside it a .json that tells all")
    sub.add_argument("--checkpoint", metavar="STATE.pt", help="keep the solver's state here, and go on from it if it is there")
    sub.add_argument("--device", metavar="DEVICE", help="cpu (default), cuda, cuda:1 ...")
    sub.add_argument("--threads", type=int, metavar="N", help="threads of torch")
    sub.add_argument("--quiet", action="store_true", help="no progress bar and no summary")

    from pnp_mlpatch.training import TrainConfig

    doc = plain_text(inspect.getdoc(TrainConfig) or "")
    keys = textwrap.fill(", ".join(_key(f) for f in dataclasses.fields(TrainConfig)), 110)
    about = f"{doc}\n\nKeys and defaults:\n{keys}\n\n{TRAIN_EPILOG}"
    sub = command("train", train_denoiser, "Train a denoiser on a folder of pictures.", about)
    sub.add_argument("--config", metavar="FILE.toml", help="the settings, see below; flags override them")
    sub.add_argument("--data", metavar="FOLDER", help="the training pictures")
    sub.add_argument("--out", metavar="FOLDER", help="where weights, log and checkpoint go")
    sub.add_argument("--denoiser", metavar="NAME", help="what to train (default: mlpatch)")
    sub.add_argument("--validation", metavar="FOLDER", help="pictures to measure PSNR on")
    sub.add_argument("--steps", type=int, metavar="N", help="number of steps")
    sub.add_argument("--device", metavar="DEVICE", help="cpu, cuda ...")
    sub.add_argument("--precision", choices=["float32", "bfloat16"], help="of the arithmetic; weights stay float32")
    sub.add_argument("--seed", type=int, metavar="N", help="seed of the weights, cuts and noise")
    sub.add_argument("--no-resume", action="store_true", help="start anew even if there is a checkpoint")
    sub.add_argument("--threads", type=int, metavar="N", help="threads of torch")

    sub = command("demo", run_demo, "Run the two example reconstructions, and keep their pictures.", DEMO_EPILOG)
    sub.add_argument("--out", metavar="DIR", default="demo", help="folder of the pictures (default: demo)")
    sub.add_argument("--quick", action="store_true", help="small and few iterations")
    return parser


def _key(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name} = {field.default_factory()!r}"
    if field.default is dataclasses.MISSING:
        return f"{field.name} (required)"
    return f"{field.name} = {field.default:.4g}" if isinstance(field.default, float) else f"{field.name} = {field.default!r}"


if __name__ == "__main__":
    sys.exit(main())
