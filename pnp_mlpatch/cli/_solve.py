"""``pnp-mlpatch solve``: one reconstruction from files, with a JSON file of how it was made."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pnp_mlpatch
from pnp_mlpatch import metrics
from pnp_mlpatch.api import level_from_noise, reconstruct
from pnp_mlpatch.cli._channels import fit, in_scale, shown
from pnp_mlpatch.cli._common import REGISTRIES, prepare
from pnp_mlpatch.cli._problem import Run, make, make_problem, read_run
from pnp_mlpatch.cli._report import report_solve
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.io.atomic import atomic_write, check_writable
from pnp_mlpatch.io.images import write_image
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Result, Solver, State, anderson
from pnp_mlpatch.viz.report import check_report
from pnp_mlpatch.weights import sha256

CHECKPOINT_EVERY = 5


def run_solve(args: argparse.Namespace) -> int:
    """Reconstruct one image and write it, with a JSON file that tells how it was made."""
    device = prepare(args)
    run = read_run(args)
    checkpoint = Path(args.checkpoint) if args.checkpoint else None
    if run.output.suffix.lower() not in (".npy", ".png", ".tif", ".tiff"):
        raise InputError(
            f"{run.output}: unknown ending '{run.output.suffix}'. Writable: .npy, .png, .tiff."
        )
    told = [] if args.report is None else [check_report(args.report)]
    beside = run.output.with_suffix(".json")
    written = [run.output, beside, *([checkpoint] if checkpoint else []), *told]
    reads = [run.source, *([args.config] if args.config else []), *_files(dataclasses.asdict(run))]
    for k, path in enumerate(written):
        check_writable(path, [*reads, *written[:k]])
    with ExitStack() as locks:
        for path in written[1 : len(written) - len(told)]:
            locks.enter_context(lock(path))
        return _solve(args, run, checkpoint, device)


def _solve(
    args: argparse.Namespace, run: Run, checkpoint: Path | None, device: torch.device
) -> int:
    """Run the solver, and write the result."""
    solver, solver_used = make("solver", run.solver)
    D, denoiser_used = make("denoiser", run.denoiser)
    A, operator_used, q, truth = make_problem(run)
    _check_channels(run.output, 1 if A.complex_image else A.image_shape[0])
    A, q, truth = A.to(device), q.to(device), None if truth is None else truth.to(device)
    D = fit(D.to(device) if hasattr(D, "to") else D, run.operator["name"], A)

    asked = _asked(run, operator_used, denoiser_used, solver_used)
    about = _lasting(plain(asked))
    state, history = resume(checkpoint, _accelerated(solver, run), about, device) or (None, {})
    resumed_at = state.iteration if state else None

    def save(now: State) -> None:
        if checkpoint and now.iteration % CHECKPOINT_EVERY == 0:
            now.save(checkpoint, {**about, "history": history})

    score = None if truth is None else _psnr_to(truth, A)
    x0 = in_scale(A.initial(q), A)
    noise, tuned = run.noise, None
    if not run.tune and not {"sigma", "alpha"} & run.solver.keys():
        solver, noise, tuned = level_from_noise(q, A, D, solver, noise)
    result = reconstruct(
        q,
        A,
        D,
        _accelerated(solver, run),
        tune="auto" if run.tune else None,
        noise=noise,
        x0=x0,
        state=state,
        callbacks=[save],
        record={"psnr": score} if score else None,
        history=history,
        progress=False if args.quiet else None,
    )
    result = dataclasses.replace(result, tuned=result.tuned or tuned)
    if checkpoint:
        result.state.save(checkpoint, {**about, "history": history})
    report = _report(result, asked, run.output, device, resumed_at)
    if truth is not None:
        report |= _scores(x0, result.x, truth, A)
    report["history"] = result.history
    _write(run.output, shown(result.x, A), report)
    if args.report is not None:
        about = {"q": q, "A": A, "D": D, "noise": noise, "truth": truth, "start": x0}
        report_solve(args, run, result, asked, about)
    if not args.quiet:
        _say(result, report)
    return 0


def _accelerated(solver: Solver, run: Run) -> Solver:
    """Return the solver, with Anderson acceleration if that is asked for."""
    return solver if run.anderson is None else anderson(solver, run.anderson)


def _asked(
    run: Run,
    operator_used: dict[str, Any],
    denoiser_used: dict[str, Any],
    solver_used: dict[str, Any],
) -> dict[str, Any]:
    """Return all settings of a run, and the sha256 of the files that it reads."""
    asked: dict[str, Any] = {
        "simulate" if run.simulate else "data": str(run.source),
        "gray": run.gray,
        "noise": run.noise,
        "seed": run.seed,
        "operator": {"name": run.operator["name"], **operator_used},
        "denoiser": {"name": run.denoiser["name"], **denoiser_used},
        "solver": {"name": run.solver["name"], **solver_used},
    }
    if run.slice is not None:
        asked["slice"] = run.slice
    if run.anderson is not None:
        asked["anderson"] = run.anderson
    asked["sha256"] = {file: sha256(file) for file in _files(asked)}
    return asked


def _report(
    result: Result,
    asked: dict[str, Any],
    output: Path,
    device: torch.device,
    resumed_at: int | None,
) -> dict[str, Any]:
    """How a result was made."""
    report: dict[str, Any] = {
        "version": pnp_mlpatch.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
        **asked,
        "output": str(output),
        "status": result.status,
        "iterations": result.state.iteration,
        "resumed_at": resumed_at,
        "seconds": result.seconds,
    }
    if result.tuned is not None:
        names = ("settings", "noise", "estimated", "why")
        report["tuned"] = {name: _one(getattr(result.tuned, name)) for name in names}
        report["solver"] = asked["solver"] | report["tuned"]["settings"]
    return report


def _scores(x0: Tensor, x: Tensor, truth: Tensor, A: LinearOperator) -> dict[str, Any]:
    """PSNR of the start and of the result, and SSIM where the image is large enough."""
    score, target = _psnr_to(truth, A), shown(truth, A)
    values, enough = _data_range(target), min(truth.shape[-2:]) >= 11
    similar = metrics.ssim(shown(x, A), target, values) if enough else None
    return {
        "data_range": values,
        "psnr_initial": score(x0),
        "psnr": score(x),
        "ssim": None if similar is None else float(similar.mean()),
    }


def _write(output: Path, image: Tensor, report: dict[str, Any]) -> None:
    """Write the image, and the report beside it."""
    write_image(output, image)
    text = json.dumps(plain(report), indent=2) + "\n"
    atomic_write(
        output.with_suffix(".json"),
        lambda temporary: temporary.write_text(text, encoding="utf-8"),
    )


def _say(result: Result, report: dict[str, Any]) -> None:
    """Print how a run ended."""
    gain = ""
    if "psnr" in report:
        gain = f", PSNR {report['psnr_initial']:.2f} -> {report['psnr']:.2f} dB"
    print(
        f"{result.status}: {result.state.iteration} iterations, {result.seconds:.2f} s{gain}, "
        f"{report['output']}"
    )
    if result.tuned is not None:
        print(f"chosen: {result.tuned}")


def resume(
    path: Path | None, solver: Solver, asked: Mapping[str, Any], device: torch.device
) -> tuple[State, dict[str, list[float]]] | None:
    """Return the state and the history that an earlier run of the same problem left at ``path``."""
    found = checkpoints.resume(path, asked, "solver state", device, free=("history",))
    if found is None:
        return None
    content, about = found
    return type(solver).state_of(content, str(path)), about.get("history", {})


def _lasting(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what must not change between a run and its resumption: iterations and tol may."""
    return {
        **asked,
        "solver": {
            key: value for key, value in asked["solver"].items() if key not in ("iterations", "tol")
        },
    }


def plain(value: Any) -> Any:
    """Convert a value to JSON: numbers that are not finite become null, unknown types text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _files(asked: Mapping[str, Any]) -> list[str]:
    """Return the files that a run reads: its source, and every setting that is a path."""
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


def _psnr_to(truth: Tensor, A: LinearOperator) -> Callable[[Tensor], float]:
    target = shown(truth, A)
    values = _data_range(target)
    return lambda x: float(metrics.psnr(shown(x, A), target, values).mean())


def _check_channels(output: Path, channels: int) -> None:
    suffix = output.suffix.lower()
    if (suffix == ".png" and channels not in (1, 3)) or (
        suffix in (".tif", ".tiff") and channels != 1
    ):
        raise InputError(f"{output}: {channels} channels do not fit a {suffix} file. Write .npy.")
