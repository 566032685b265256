r"""What a solver is: frozen settings, explicit state, one step; and the loop that drives every solver.

The problem is ``q = A f + n`` with ``n`` of standard deviation ``noise``; the solution balances ``1/(2 noise^2) |q - A f|^2``
against what the denoiser says of images.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any, ClassVar
from zipfile import ZipFile

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers.base import Denoiser
from pnp_mlpatch.errors import Diverged, InputError, InputTypeError, PnPError, WeightsError
from pnp_mlpatch.operators.base import LinearOperator
from pnp_mlpatch.registry import Registry
from pnp_mlpatch.weights import write_whole

registry = Registry("solver", package="pnp_mlpatch.solvers", not_plugins=("base", "schedules"))
register = registry.register

Callback = Callable[["State"], object]


@dataclass(frozen=True)
class Problem:
    """Data, operator and noise as the solvers see them: ``noise`` is a number or one a image (B,), a map is already divided out.

    ``Aty`` is A^H q; ``noise_map`` the one that was divided out, 0 where nothing was measured, or None. Made by :func:`make_problem`.
    """

    q: Tensor
    A: LinearOperator
    noise: float | Tensor | None
    Aty: Tensor
    noise_map: Tensor | None = None

    def known_noise(self, who: str) -> float | Tensor:
        """The noise, or an error that says what can be given instead."""
        if self.noise is None:
            raise InputError(f"{who}: the noise level of the data is needed: pass noise= (a standard deviation, in the units of q).")
        return self.noise


def make_problem(q: Tensor, A: LinearOperator, noise: float | Tensor | None) -> Problem:
    """Check the data and the noise, and whiten: with a noise map m (data shape), A becomes A / m, q becomes q / m, noise 1.

    ``noise`` is the standard deviation of the noise in the units of q: a number, a tensor (B,), or a map that broadcasts to
    the data, one for all images or one for each (B, *data_shape). Where a map is infinite nothing was measured: it has no weight, and q
    may hold anything, NaN too. ``None`` where the solver is told all it needs.
    """
    if not isinstance(A, LinearOperator):
        raise InputTypeError(f"solver: A must be a LinearOperator, got {type(A).__name__}.")
    if not isinstance(q, Tensor):
        raise InputTypeError(f"solver: the data q must be a torch tensor, got {type(q).__name__}. Convert with torch.as_tensor.")
    A._check(q, A.data_shape, "A.adjoint(y)", "data", "image", A.image_shape)
    if isinstance(noise, Tensor) and noise.ndim > 1 and not noise.is_complex():
        with suppress(RuntimeError):  # a map of another shape, which is refused below
            q = torch.where(torch.isposinf(noise.detach()).to(q.device).expand_as(q), torch.zeros_like(q), q)
    if not bool(torch.isfinite(q.detach()).all()):
        raise InputError(
            f"solver: {int((~torch.isfinite(q.detach())).sum())} of the data are NaN or infinite. Mask them out, or repair them."
        )
    if noise is None:
        return Problem(q, A, None, A.adjoint(q))
    if not isinstance(noise, Tensor):
        try:
            if isinstance(noise, str):
                raise TypeError
            noise = float(noise)
        except (TypeError, ValueError) as error:
            raise InputTypeError(f"solver: noise must be a number or a tensor, got {noise!r}.") from error
    if isinstance(noise, Tensor) and (noise.is_complex() or noise.numel() == 0):
        raise InputTypeError(
            f"solver: noise must be real and not empty (noise is a standard deviation), got {tuple(noise.shape)} {noise.dtype}."
        )
    values = torch.as_tensor(noise).detach().double()
    unseen = torch.isposinf(values)
    seen = values if values.ndim < 2 or bool(unseen.all()) else values[~unseen]
    if not bool(torch.isfinite(seen).all()) or not bool((seen > 0).all()):
        shown = (
            f"{noise:g}" if isinstance(noise, float) else f"a tensor with values from {float(values.min()):g} to {float(values.max()):g}"
        )
        raise InputError(
            f"solver: noise is a standard deviation, finite and > 0; got {shown}. "
            "For data without noise give a small one, such as 1/255 of the range, or give alpha and no noise."
        )
    per_image = values.ndim == 0 or (values.ndim == 1 and values.numel() == q.shape[0] and len(A.data_shape) > 1)
    if isinstance(noise, Tensor) and not per_image:
        if values.ndim == len(A.data_shape) + 1 and values.shape[0] not in (1, q.shape[0]):
            raise InputError(
                f"solver: a noise map of shape {tuple(values.shape)} does not broadcast to data {A.data_shape}, or to {q.shape[0]} of them."
            )
        whitener = (1 / values).to(q)
        A = A.weighted(whitener)
        q = q * whitener
        return Problem(q, A, 1.0, A.adjoint(q), torch.where(unseen, torch.zeros_like(values), values).to(q))
    return Problem(q, A, noise.to(q) if isinstance(noise, Tensor) else noise, A.adjoint(q))


@dataclass(frozen=True)
class State:
    """All that moves in a solver: the estimate ``x`` (B, C, H, W), the number of steps done, and what a subclass adds."""

    x: Tensor
    iteration: int

    def measures(self) -> dict[str, float | Tensor]:
        """What the step that led here found out, for the history."""
        return {}

    def save(self, path: str | PathLike[str]) -> None:
        """Write the state; ``Solver.load_state`` reads it, and ``run(..., state=)`` goes on from it to the same result."""
        values = _values(self)
        write_whole(path, lambda temporary: torch.save(values, temporary))


@dataclass(frozen=True)
class Result:
    """What ``run`` returns: the estimate, how the run ended, its last state, and what was recorded at each iteration.

    ``status`` is "converged" (the relative change fell below ``tol``), "max_iter", or "stopped" (by a callback). ``history``
    holds lists of equal length: "iteration", "residual", "seconds", the levels used, and what ``record`` asked for.
    """

    x: Tensor
    status: str
    state: State
    history: dict[str, list[float]]
    seconds: float

    def save(self, path: str | PathLike[str]) -> None:
        """Write all of it to one file, whole or not at all; ``Result.load`` reads it, and ``run(..., state=result.state)`` goes on."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"kind": "Result", "state": _values(self.state)}
        write_whole(path, lambda temporary: torch.save(values, temporary))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Result:
        """Read what ``Result.save`` wrote, to the CPU; raise :class:`WeightsError` if it is damaged, or of a solver that is not there."""
        values = _read(path, "result")
        if values.pop("kind") != "Result":
            raise WeightsError(f"{path}: not a saved result. A state is read by load_state of the solver that made it.")
        expected = {"x": Tensor, "status": str, "state": dict, "history": dict, "seconds": float}
        wrong = [name for name, kind in expected.items() if not isinstance(values.get(name), kind)]
        if wrong or values.keys() != expected.keys():
            raise WeightsError(f"{path}: a damaged result ({', '.join(wrong) or 'unknown parts'}). Save it again.")
        state = values["state"]
        kind = state.pop("kind", None)
        for state_type in _state_types():
            if state_type.__name__ == kind and {f.name for f in fields(state_type)} == state.keys():
                return cls(values["x"], values["status"], state_type(**state), values["history"], values["seconds"])
        raise WeightsError(f"{path}: its state is of kind {kind}, which no solver here has. Import the one that made it, or save it again.")


def checked(D: Denoiser) -> Denoiser:
    """``D`` with its output checked: a tensor of the same shape, dtype and device."""
    name = getattr(D, "__name__", type(D).__name__)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        y = D(x, sigma)
        if not isinstance(y, Tensor):
            raise InputTypeError(f"denoiser {name}: expected a tensor back, got {type(y).__name__}. Wrap it with as_denoiser(...).")
        if y.shape != x.shape or y.dtype != x.dtype or y.device != x.device:
            raise InputError(
                f"denoiser {name}: expected {tuple(x.shape)} {x.dtype} on {x.device} back, got {tuple(y.shape)} {y.dtype} on {y.device}. "
                "Wrap it with as_denoiser(...), or per_channel(...) if it takes one channel."
            )
        return y

    return denoise


class Solver(ABC):
    """A solver: a frozen dataclass of settings with ``init`` and ``step``; all that moves is in the state.

    A plugin declares its settings as dataclass fields (``iterations`` and ``tol`` among them), its ``state_type``, and the
    hooks ``init`` and ``step``; ``levels`` says which numbers of a step go into the history.
    """

    state_type: ClassVar[type[State]] = State
    iterations: int
    tol: float

    @abstractmethod
    def init(self, problem: Problem, x0: Tensor) -> State:
        """The state before the first step, from the start ``x0`` (B, C, H, W)."""

    @abstractmethod
    def step(self, problem: Problem, denoise: Denoiser, state: State) -> State:
        """One iteration: a new state; the old one is not changed. Gradients flow."""

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        """The parameters of the step that follows ``state``, for the history (means where there is one an image)."""
        return {}

    def residual(self, old: State, new: State) -> float:
        """Relative change of the estimate, |x_k - x_(k-1)| / |x_k|, the largest of the batch; NaN where |x_k| overflows, which is no rest."""
        change = (new.x - old.x).detach().flatten(1).norm(dim=1)
        size = new.x.detach().flatten(1).norm(dim=1)
        ratio = (change / size.clamp_min(torch.finfo(size.dtype).tiny)).max()
        return float(ratio) if bool(torch.isfinite(size).all()) else math.nan

    # ---- driving it

    def iterate(self, problem: Problem, D: Denoiser, state: State) -> Iterator[State]:
        """Endless states after ``state``; for those who own the loop. Gradients flow.

        Raises :class:`Diverged`, with the last finite state, as soon as an estimate is not finite.
        """
        denoise = checked(D)
        while True:
            new = self.step(problem, denoise, state)
            if not bool(torch.isfinite(new.x.detach()).all()):
                raise Diverged(
                    f"{type(self).__name__}: the estimate is not finite after iteration {new.iteration}. Likely causes: a step size or "
                    "sigma too large, a denoiser that amplifies, an image outside the range of the denoiser (use rescaled). "
                    "The last finite state is in .state of this error.",
                    state,
                )
            state = new
            yield state

    def run(
        self,
        q: Tensor,
        A: LinearOperator,
        D: Denoiser,
        *,
        noise: float | Tensor | None = None,
        x0: Tensor | None = None,
        state: State | None = None,
        callbacks: Sequence[Callback] = (),
        record: Mapping[str, Callable[[Tensor], Any]] | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Solve ``q = A f + n`` without gradients, until the relative change is below ``tol`` or ``iterations`` are done.

        ``noise`` is the standard deviation of n (see :func:`make_problem`). ``x0`` is the start, ``A.initial(q)`` by default;
        ``state`` goes on from an earlier run instead (``iterations`` counts from the very start). Each callback gets the state
        after every step and stops the run by returning True. ``record`` adds columns to the history, functions of x.
        ``progress`` shows a bar; by default it does so on a terminal.
        """
        if not callable(D):
            raise InputTypeError(f"solver: the denoiser must be callable as D(x, sigma), got {type(D).__name__}. See as_denoiser.")
        start = time.perf_counter()
        with torch.no_grad():
            problem = make_problem(q, A, noise)
            if state is None:
                x0 = problem.A.initial(problem.q) if x0 is None else self._start(x0, problem)
                state = self.init(problem, x0)
            elif type(state) is not self.state_type:
                raise InputTypeError(
                    f"{type(self).__name__}: state must be {self.state_type.__name__} from an earlier run, got {type(state).__name__}."
                )
            else:
                self._start(state.x, problem)
            first, status = state.iteration, "max_iter"
            history: dict[str, list[float]] = {}
            bar = tqdm(total=max(0, self.iterations - first), desc=type(self).__name__, disable=None if progress is None else not progress)
            with bar:
                states = self.iterate(problem, D, state)
                while state.iteration < self.iterations:
                    old, state = state, next(states)
                    residual = self.residual(old, state)
                    row = {"iteration": state.iteration, "residual": residual, "seconds": time.perf_counter() - start}
                    row |= {name: _number(value) for name, value in (self.levels(problem, old) | state.measures()).items()}
                    row |= {name: _number(function(state.x)) for name, function in (record or {}).items()}
                    for name, value in row.items():
                        history.setdefault(name, []).append(value)
                    bar.update()
                    bar.set_postfix({name: f"{row[name]:.3g}" for name in ("residual", *(record or {}))}, refresh=False)
                    answers = [callback(state) for callback in callbacks]
                    if any(answer is True for answer in answers):
                        status = "stopped"
                        break
                    if residual < self.tol:
                        status = "converged"
                        break
        return Result(state.x, status, state, history, time.perf_counter() - start)

    @classmethod
    def load_state(cls, path: str | PathLike[str]) -> State:
        """Read a state that ``State.save`` wrote, to the CPU; raise :class:`WeightsError` if it is damaged or of another solver."""
        values = _read(path, "solver state")
        kind = values.pop("kind")
        if kind != cls.state_type.__name__:
            raise WeightsError(f"{path}: a state of kind {kind}, expected {cls.state_type.__name__}. Load it with the solver that made it.")
        try:
            return cls.state_type(**values)
        except TypeError as error:
            raise WeightsError(f"{path}: a damaged state of kind {kind} ({error}).") from error

    def _start(self, x0: Tensor, problem: Problem) -> Tensor:
        expected = (problem.q.shape[0], *problem.A.image_shape)
        if not isinstance(x0, Tensor) or tuple(x0.shape) != expected or x0.dtype != problem.q.dtype or x0.device != problem.q.device:
            got = f"{tuple(x0.shape)} {x0.dtype} on {x0.device}" if isinstance(x0, Tensor) else type(x0).__name__
            raise InputError(f"{type(self).__name__}: the start must be {expected} {problem.q.dtype} on {problem.q.device}, got {got}.")
        if not bool(torch.isfinite(x0.detach()).all()):
            raise InputError(f"{type(self).__name__}: the start holds NaN or infinite values.")
        return x0


def check_settings(solver: Solver, **positive: float | Tensor | None) -> None:
    """Raise unless ``iterations`` >= 1, ``tol`` >= 0 and every given number of ``positive`` is finite and > 0."""
    who = type(solver).__name__
    if isinstance(solver.iterations, bool) or not isinstance(solver.iterations, int) or solver.iterations < 1:
        raise InputError(f"{who}: iterations must be an integer >= 1, got {solver.iterations!r}.")
    if not isinstance(solver.tol, (int, float)) or not solver.tol >= 0:
        raise InputError(f"{who}: tol must be a number >= 0, got {solver.tol!r}.")
    for name, value in positive.items():
        if value is None:
            continue
        try:
            values = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(f"{who}: {name} must be a number, got {value!r}.") from error
        if values.numel() == 0 or not bool(torch.isfinite(values).all()) or not bool((values > 0).all()):
            raise InputError(f"{who}: {name} must be finite and > 0, got {value!r}.")


def weight_of(problem: Problem, alpha: float | Tensor | None, sigma: float | Tensor, who: str) -> float | Tensor:
    """alpha = (noise / sigma)^2, what statistics says of the balance of data and prior, unless ``alpha`` is given."""
    return (problem.known_noise(f"{who} (or give alpha)") / sigma) ** 2 if alpha is None else alpha


def data_step(problem: Problem, z: Tensor, alpha: float | Tensor, x0: Tensor, tol: float, max_iter: int) -> tuple[Tensor, Tensor]:
    """h(z; alpha) of the problem, warm-started from ``x0``, and the relative residual that each image reached (0 where h is exact)."""
    reached: list[Tensor] = []
    f = problem.A.data_step(
        z, alpha, Aty=problem.Aty, x0=x0, tol=tol, max_iter=max_iter, report=lambda info: reached.append(info.residual.detach())
    )
    return f, reached[-1]


def column(value: float | Tensor) -> float | Tensor:
    """A number as it is, a tensor (B,) as (B, 1, 1, 1)."""
    return value.reshape(-1, 1, 1, 1) if isinstance(value, Tensor) and value.ndim else value


def per_image(value: float | Tensor, like: Tensor, who: str) -> float | Tensor:
    """A number as it is, a tensor (B,) shaped to broadcast against ``like`` (B, ...); raise :class:`InputError` for another batch."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.numel() not in (1, len(like)):
        raise InputError(f"{who} must be a number or of shape ({len(like)},), got {tuple(value.shape)}.")
    return value.to(like).reshape(-1, *[1] * (like.ndim - 1))


def _values(state: State) -> dict[str, Any]:
    return {"kind": type(state).__name__, **{f.name: getattr(state, f.name) for f in fields(state)}}


def _read(path: str | PathLike[str], what: str) -> dict[str, Any]:
    """A dictionary with a "kind", read to the CPU; its checksums are looked at, which torch does not do."""
    try:
        with ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(damaged)
        values = torch.load(path, map_location="cpu", weights_only=True)
        return {"kind": values["kind"], **values}
    except Exception as error:  # torch raises many kinds for a damaged file
        raise WeightsError(f"{path}: not a saved {what} ({type(error).__name__}). It is damaged, or something else.") from error


def _state_types() -> Iterator[type[State]]:
    """State and all that derive from it: first those of what is imported, then those of every solver that has a name."""
    seen: set[type[State]] = set()
    for name in (None, *registry.names()):
        if name is not None:
            with suppress(PnPError):
                registry.get(name)
        waiting: list[type[State]] = [State]
        while waiting:
            kind = waiting.pop()
            waiting += kind.__subclasses__()
            if kind not in seen:
                seen.add(kind)
                yield kind


def _number(value: Any) -> float:
    number = float(value.detach().double().mean()) if isinstance(value, Tensor) else float(value)
    return number if math.isfinite(number) else math.nan


__all__ = [
    "Problem",
    "Result",
    "Solver",
    "State",
    "check_settings",
    "checked",
    "column",
    "data_step",
    "make_problem",
    "per_image",
    "register",
    "registry",
    "weight_of",
]
