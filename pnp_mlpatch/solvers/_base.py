r"""What a solver is: frozen settings, explicit state, one step; and the loop that drives every solver.

The problem is ``q = A f + n`` with ``n`` of standard deviation ``noise``; the solution balances ``1/(2 noise^2) |q - A f|^2``
against what the denoiser says of images.
"""

from __future__ import annotations

import math
import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import (
    Diverged,
    InputError,
    InputTypeError,
    MissingPackage,
    PnPError,
    WeightsError,
)
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.io.images import png
from pnp_mlpatch.linalg import power_of_two, sizes
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.operators._base import check_foreign, reached
from pnp_mlpatch.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

registry = Registry("solver", package="pnp_mlpatch.solvers")
register = registry.register

Callback = Callable[
    ["State"], object
]  # True stops the run, a tensor (B,) of True and False those images


@dataclass(frozen=True)
class Problem:
    """Data, operator and noise as the solvers see them: ``noise`` is a number or one an image (B,), a map is already divided out.

    ``Aty`` is A^H q; ``noise_map`` is the map m, 0 where nothing was measured, or None. A and q are those that were given times noise / m. Made by
    :func:`make_problem`.
    """

    q: Tensor
    A: LinearOperator
    noise: float | Tensor | None
    Aty: Tensor
    noise_map: Tensor | None = None

    @property
    def unit(self) -> float | Tensor:
        """What the noise is where a map was divided out, else 1: a given alpha is for a noise of 1, and becomes unit^2 alpha."""
        return 1.0 if self.noise_map is None or self.noise is None else self.noise

    def known_noise(self, who: str) -> float | Tensor:
        """The noise, or an error that says what can be given instead."""
        if self.noise is None:
            raise InputError(
                f"{who}: the noise level of the data is needed: pass noise= (a standard deviation, in the units of q)."
            )
        return self.noise


def make_problem(q: Tensor, A: LinearOperator, noise: float | Tensor | None) -> Problem:
    """Check the data and the noise, and whiten: with a noise map m (data shape), A becomes s A / m, q becomes s q / m, noise s.

    s is 1; where m is below 1e-9 or above 1e9, it is the power of two next to its mean, so that numbers stay in the range of float32.

    ``noise`` is the standard deviation of the noise in the units of q: a number, a tensor (B,), or a map that broadcasts to
    the data, one for all images or one for each (B, *data_shape). Where a map is infinite nothing was measured: it has no weight, and q
    may hold anything, NaN too; so it may where A sees nothing of the image, under a mask. ``None`` where the solver is told all it needs.
    """
    if not isinstance(A, LinearOperator):
        raise InputTypeError(f"solver: A must be a LinearOperator, got {type(A).__name__}.")
    if not isinstance(q, Tensor):
        raise InputTypeError(
            f"solver: the data q must be a torch tensor, got {type(q).__name__}. Convert with torch.as_tensor."
        )
    A._check(q, A.data_shape, "A.adjoint(y)", "data", "image", A.image_shape)
    check_foreign(A, q.dtype)
    if isinstance(noise, Tensor) and noise.ndim > 1 and not noise.is_complex():
        with suppress(RuntimeError):  # a map of another shape, which is refused below
            q = torch.where(
                torch.isposinf(noise.detach()).to(q.device).expand_as(q), torch.zeros_like(q), q
            )
    finite = torch.isfinite(q.detach())
    if not bool(finite.all()):
        finite = finite | ~reached(A)
        q = torch.where(torch.isfinite(q), q, torch.zeros_like(q))
    if not bool(finite.all()):
        raise InputError(
            f"solver: {int((~finite).sum())} of the data are NaN or infinite. Repair them, or leave them out by an infinite noise: "
            "noise=torch.where(q.isfinite(), noise, torch.inf)."
        )
    if noise is None:
        return Problem(q, A, None, A.adjoint(q))
    if not isinstance(noise, Tensor):
        try:
            if isinstance(noise, str):
                raise TypeError
            noise = float(noise)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"solver: noise must be a number or a tensor, got {noise!r}."
            ) from error
    if isinstance(noise, Tensor) and (noise.is_complex() or noise.numel() == 0):
        raise InputTypeError(
            f"solver: noise must be real and not empty (noise is a standard deviation), got {tuple(noise.shape)} {noise.dtype}."
        )
    values = torch.as_tensor(noise).detach().double()
    unseen = torch.isposinf(values)
    seen = values if values.ndim < 2 or bool(unseen.all()) else values[~unseen]
    if not bool(torch.isfinite(seen).all()) or not bool((seen > 0).all()):
        shown = (
            f"{noise:g}"
            if isinstance(noise, float)
            else f"a tensor with values from {float(values.min()):g} to {float(values.max()):g}"
        )
        raise InputError(
            f"solver: noise is a standard deviation, finite and > 0; got {shown}. "
            "For data without noise give a small one, such as 1/255 of the range, or give alpha and no noise."
        )
    per_image = values.ndim == 0 or (
        values.ndim == 1 and values.numel() == q.shape[0] and len(A.data_shape) > 1
    )
    if isinstance(noise, Tensor) and not per_image:
        if values.ndim == len(A.data_shape) + 1 and values.shape[0] not in (1, q.shape[0]):
            raise InputError(
                f"solver: a noise map of shape {tuple(values.shape)} does not broadcast to data {A.data_shape}, or to {q.shape[0]} of them."
            )
        if bool(unseen.all()):
            raise InputError("solver: the noise is infinite everywhere, so nothing was measured.")
        scale = float(power_of_two(seen.log2().mean().exp2()))
        scale = 1.0 if 2**-30 <= scale <= 2**30 else scale
        whitener = (scale / values).to(q)
        A = A.weighted(whitener)
        q = q * whitener
        return Problem(
            q, A, scale, A.adjoint(q), torch.where(unseen, torch.zeros_like(values), values).to(q)
        )
    return Problem(q, A, noise.to(q) if isinstance(noise, Tensor) else noise, A.adjoint(q))


@dataclass(frozen=True)
class State:
    """All that moves in a solver: the estimate ``x`` (B, C, H, W), the number of steps done, and what a subclass adds.

    Tensors are batch first, so that images can be taken out. ``resting`` (B,) marks the images that have converged and are not moved any
    more, None where none has. ``fixed_point`` (B,) is |g(z) - z| / |z| of the step z -> g(z) that led here, for the solvers that are
    fixed-point iterations; ``memory`` and ``mixing`` are those of :mod:`pnp_mlpatch.solvers._anderson`.
    """

    x: Tensor
    iteration: int
    resting: Tensor | None = field(default=None, kw_only=True)
    fixed_point: Tensor | None = field(default=None, kw_only=True)
    memory: Tensor | None = field(default=None, kw_only=True)
    mixing: Tensor | None = field(default=None, kw_only=True)

    def measures(self) -> dict[str, float | Tensor]:
        """What the step that led here found out, numbers or one an image (B,): the largest goes into the history, all into ``per_image``."""
        return {} if self.fixed_point is None else {"fixed_point": self.fixed_point}

    def save(self, path: str | PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Write the state to a file; ``Solver.load_state`` reads it, and ``run(..., state=)`` goes on from it to the same result.

        Parameters
        ----------
        path : str or path
            The file, written whole or not at all.
        about : mapping, optional
            What this is the state of, in plain JSON values; :func:`pnp_mlpatch.io.checkpoint.load` gives it back.

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        checkpoint.save(path, _values(self), about=about)


@dataclass(frozen=True)
class Tuned:
    """What was chosen without the truth, and why (:func:`pnp_mlpatch.tuning.auto`); ``print`` it.

    ``settings`` are the chosen ones, a number or one an image (B,); ``noise`` that of the data, and whether it was ``estimated``. ``tried``
    holds columns of equal length, one row for each iteration of each candidate, and "score" (S, B), their estimated error.
    """

    settings: dict[str, Any]
    noise: float | Tensor
    estimated: bool
    tried: dict[str, Tensor]
    why: str

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} = {_shown(value)}" for name, value in self.settings.items())
        return f"{chosen}; noise {'estimated' if self.estimated else 'given'}: {_shown(self.noise)}. {self.why}"


@dataclass(frozen=True)
class Result:
    """What ``run`` returns: the estimate, how the run ended, its last state, and what was recorded at each iteration.

    ``statuses`` has one for each image, and ``status`` the one that needs attention most:

        "converged"      the relative change fell below ``tol``
        "max_iter"       it was still falling after ``iterations`` (or ``tol`` is 0: it was not asked for)
        "stalled"        it no longer fell
        "oscillating"    it no longer fell, and the iterates went to and fro or round in circles
        "stopped"        by a callback, or where the data say so (``tuned``)
        "outside"        wherever it ended, it is far outside the range of its start, and the data do not ask for that: D amplifies

    ``history`` holds lists of equal length: "iteration", "residual", "seconds", the levels used, and what ``record`` asked for; where there
    is one number an image, the largest residual and the mean of a level. ``per_image`` has the residuals (K, B); an image at rest keeps
    its last. ``tuned`` says which settings were chosen by the data, None where none were.
    """

    x: Tensor
    status: str
    state: State
    history: dict[str, list[float]]
    seconds: float
    statuses: tuple[str, ...] = ()
    per_image: dict[str, Tensor] = field(default_factory=dict)
    tuned: Tuned | None = None

    def __repr__(self) -> str:
        """One line: how the run ended, and what came out; the values are in ``x``."""
        of = (
            ", ".join(f"{number} {status}" for status, number in Counter(self.statuses).items())
            if len(set(self.statuses)) > 1
            else self.status
        )
        chosen = "" if self.tuned is None else ", tuned"
        low, high = float(self.x.detach().min()), float(self.x.detach().max())
        return (
            f"Result({of} after {self.state.iteration} iterations, {self.seconds:.3g} s, x {tuple(self.x.shape)} "
            f"from {low:.3g} to {high:.3g}{chosen})"
        )

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the figure of :meth:`plot`; nothing where there is no matplotlib."""
        try:
            return png(self.plot())
        except MissingPackage:
            return None

    def plot(self) -> Figure:
        """The image, the residuals, the levels, the time of each step, and what was recorded, as a matplotlib figure."""
        from pnp_mlpatch.viz.result import result_figure

        return result_figure(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Write all of it to one file, whole or not at all; ``Result.load`` reads it, and ``run(..., state=result.state)`` goes on."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {
            "kind": "Result",
            "state": _values(self.state),
        }
        values["tuned"] = None if self.tuned is None else asdict(self.tuned)
        checkpoint.save(path, values)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Result:
        """Read what ``Result.save`` wrote, to the CPU; raise :class:`WeightsError` if it is damaged, or of a solver that is not there."""
        values = _read(path, "result")
        if values.pop("kind") != "Result":
            raise WeightsError(
                f"{path}: not a saved result. A state is read by load_state of the solver that made it."
            )
        values = {"statuses": (), "per_image": {}, "tuned": None} | values
        expected = {
            "x": Tensor,
            "status": str,
            "state": dict,
            "history": dict,
            "seconds": float,
            "statuses": tuple,
            "per_image": dict,
        }
        wrong = [name for name, kind in expected.items() if not isinstance(values.get(name), kind)]
        if wrong or values.keys() != {f.name for f in fields(cls)}:
            raise WeightsError(
                f"{path}: a damaged result ({', '.join(wrong) or 'unknown parts'}). Save it again."
            )
        state, tuned = values["state"], values["tuned"]
        kind = state.pop("kind", None)
        for state_type in _state_types():
            if state_type.__name__ == kind and _fits(state_type, state):
                return cls(
                    **{
                        **values,
                        "state": state_type(**state),
                        "tuned": None if tuned is None else Tuned(**tuned),
                    }
                )
        raise WeightsError(
            f"{path}: its state is of kind {kind}, which no solver here has. Import the one that made it, or save it again."
        )


def checked(D: Denoiser) -> Denoiser:
    """``D`` with its output checked: a tensor of the same shape, dtype and device."""
    name = getattr(D, "__name__", type(D).__name__)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        y = D(x, sigma)
        if not isinstance(y, Tensor):
            raise InputTypeError(
                f"denoiser {name}: expected a tensor back, got {type(y).__name__}. Wrap it with as_denoiser(...)."
            )
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
    hooks ``init`` and ``step``; ``levels`` says which numbers of a step go into the history. ``rising`` is whether the level ``sigma`` may rise
    as it runs, by which :func:`pnp_mlpatch.tuning.auto` chooses it: a solver that says so takes schedules (``schedules.level``) and one level an
    image; not where it has to fall, nor in a sampler, nor for a sigma that is a plain number.
    """

    state_type: ClassVar[type[State]] = State
    anderson = 0
    rising: ClassVar[bool] = False
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

    def residuals(self, old: State, new: State) -> Tensor:
        """Relative change of each estimate, |x_k - x_(k-1)| / |x_k|, (B,); NaN where |x_k| overflows, which is no rest.

        With Anderson acceleration at least the residual of the fixed point, since a mixed step may be short by chance.
        """
        change, size = sizes(new.x - old.x), sizes(new.x)
        ratio = change / size.clamp_min(torch.finfo(size.dtype).tiny)
        if self.anderson and new.fixed_point is not None:
            ratio = torch.maximum(ratio, new.fixed_point.detach())
        return torch.where(torch.isfinite(size), ratio, torch.nan)

    def residual(self, old: State, new: State) -> float:
        """The largest of the ``residuals`` of the batch."""
        return float(self.residuals(old, new).max())

    # ---- driving it

    def iterate(self, problem: Problem, D: Denoiser, state: State) -> Iterator[State]:
        """Endless states after ``state``; for those who own the loop. Gradients flow.

        Raises :class:`Diverged`, with the last finite state, as soon as an estimate is not finite, or runs away.
        """
        denoise, growth = checked(D), _Growth(state.x)
        while True:
            new = self.step(problem, denoise, state)
            growth.check(self, state, new)
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
        history: dict[str, list[float]] | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Solve ``q = A f + n`` without gradients, until the relative change is below ``tol`` or ``iterations`` are done.

        ``noise`` is the standard deviation of n (see :func:`make_problem`). ``x0`` is the start, ``A.initial(q)`` by default;
        ``state`` goes on from an earlier run instead (``iterations`` counts from the very start). Each image of a batch stops by itself:
        it is as if it were alone, and costs nothing more. Each callback gets the state
        after every step and stops the run by returning True, or some images by returning those, a tensor (B,) of True and False. ``record`` adds columns to the history, functions of x.
        ``history`` is that of the run which ``state`` is from: the rows of this run are added to it, and seconds count on.
        ``progress`` shows a bar; by default it does so on a terminal. Warns where the status of an image is "outside".
        """
        result = self._run(
            q,
            A,
            D,
            noise=noise,
            x0=x0,
            state=state,
            callbacks=callbacks,
            record=record,
            history=history,
            progress=progress,
        )
        warn_outside(result, type(self).__name__)
        return result

    def _run(
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
        history: dict[str, list[float]] | None = None,
        progress: bool | None = None,
    ) -> Result:
        """:meth:`run` without the warning."""
        if not callable(D):
            raise InputTypeError(
                f"solver: the denoiser must be callable as D(x, sigma), got {type(D).__name__}. See as_denoiser."
            )
        history = {} if history is None else history
        start = time.perf_counter() - (history.get("seconds") or [0.0])[-1]
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
            given = x0
            first, stopped = state.iteration, False
            images, watch = len(state.x), _Watch(self.iterations, state)
            resting = (
                torch.zeros(images, dtype=torch.bool)
                if state.resting is None
                else state.resting.cpu()
            )
            per_image: dict[str, list[Tensor]] = {}
            denoise, growth = checked(D), _Growth(state.x)
            moving, rows, part = torch.zeros_like(resting), None, (self, problem)
            halted = torch.zeros_like(resting)
            bar = tqdm(
                total=max(0, self.iterations - first),
                desc=type(self).__name__,
                disable=None if progress is None else not progress,
            )
            with bar:
                while state.iteration < self.iterations and not bool(resting.all()) and not stopped:
                    old = state
                    if not torch.equal(moving, ~resting):
                        moving = ~resting
                        rows = (
                            None
                            if bool(moving.all())
                            else moving.nonzero().flatten().to(state.x.device)
                        )
                        part = (
                            (self, problem)
                            if rows is None
                            else (
                                _rows_of_solver(self, rows, images),
                                _rows_of_problem(problem, rows),
                            )
                        )
                    before = state if rows is None else _take(state, rows, images)
                    after = part[0].step(part[1], denoise, before)
                    growth.check(self, state, after, rows)
                    residuals = part[0].residuals(before, after)
                    state = after if rows is None else _put(state, rows, after, images)
                    arrived = residuals < self.tol
                    found = {"residual": residuals} | after.measures()
                    row: dict[str, float] = {
                        "iteration": state.iteration,
                        "residual": 0.0,
                        "seconds": time.perf_counter() - start,
                    }
                    row |= {
                        name: _number(value) for name, value in self.levels(problem, old).items()
                    }
                    for name, value in found.items():
                        column_of = _column_of(value, rows, images, per_image.get(name, ()))
                        if column_of is None:
                            row[name] = _number(value)
                        else:
                            per_image.setdefault(name, []).append(column_of)
                            row[name] = _number(column_of.max())
                    row |= {
                        name: _number(function(state.x))
                        for name, function in (record or {}).items()
                    }
                    for name, value in row.items():
                        history.setdefault(name, []).append(value)
                    if bool(arrived.any()):
                        resting = resting.clone()
                        resting[moving] = arrived.cpu()
                        state = replace(state, resting=resting.to(state.x.device))
                    elif bool(resting.any()):
                        state = replace(state, resting=resting.to(state.x.device))
                    watch.see(old, state)
                    bar.update()
                    bar.set_postfix(
                        {name: f"{row[name]:.3g}" for name in ("residual", *(record or {}))},
                        refresh=False,
                    )
                    answers = [callback(state) for callback in callbacks]
                    stopped = any(answer is True for answer in answers)
                    for answer in answers:
                        if isinstance(answer, Tensor) and answer.dtype == torch.bool:
                            halted = halted | (answer.cpu() & ~resting)
                    if bool((halted & ~resting).any()):
                        resting = resting | halted
                        state = replace(state, resting=resting.to(state.x.device))
        stacked = {name: torch.stack(values) for name, values in per_image.items()}
        names = watch.statuses(stacked.get("residual"), resting, halted, stopped, self.tol)
        names = mark_outside(names, problem, given, state.x)
        return Result(
            state.x, worst(names), state, history, time.perf_counter() - start, names, stacked
        )

    @classmethod
    def load_state(cls, path: str | PathLike[str]) -> State:
        """Read a state that ``State.save`` wrote, to the CPU; raise :class:`WeightsError` if it is damaged or of another solver."""
        values = _read(path, "solver state")
        kind = values.pop("kind")
        if kind != cls.state_type.__name__:
            raise WeightsError(
                f"{path}: a state of kind {kind}, expected {cls.state_type.__name__}. Load it with the solver that made it."
            )
        if not _fits(cls.state_type, values):
            raise WeightsError(
                f"{path}: a damaged state of kind {kind}, its parts are not those of the solver."
            )
        return cls.state_type(**values)

    def _start(self, x0: Tensor, problem: Problem) -> Tensor:
        expected = (problem.q.shape[0], *problem.A.image_shape)
        if (
            not isinstance(x0, Tensor)
            or tuple(x0.shape) != expected
            or x0.dtype != problem.q.dtype
            or x0.device != problem.q.device
        ):
            got = (
                f"{tuple(x0.shape)} {x0.dtype} on {x0.device}"
                if isinstance(x0, Tensor)
                else type(x0).__name__
            )
            raise InputError(
                f"{type(self).__name__}: the start must be {expected} {problem.q.dtype} on {problem.q.device}, got {got}."
            )
        if not bool(torch.isfinite(x0.detach()).all()):
            raise InputError(f"{type(self).__name__}: the start holds NaN or infinite values.")
        return x0


def check_settings(solver: Solver, **positive: float | Tensor | None) -> None:
    """Raise unless ``iterations`` >= 1, ``tol`` >= 0 and every given number of ``positive`` is finite and > 0."""
    who = type(solver).__name__
    if (
        isinstance(solver.iterations, bool)
        or not isinstance(solver.iterations, int)
        or solver.iterations < 1
    ):
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
        if (
            values.numel() == 0
            or not bool(torch.isfinite(values).all())
            or not bool((values > 0).all())
        ):
            raise InputError(f"{who}: {name} must be finite and > 0, got {value!r}.")


def weight_of(
    problem: Problem,
    alpha: float | Tensor | None,
    sigma: float | Tensor,
    who: str,
    factor: float | Tensor = 1.0,
) -> float | Tensor:
    """alpha = factor (noise / sigma)^2, what statistics says of the balance of data and prior for factor = 1, unless ``alpha`` is given."""
    if alpha is None:
        return factor * (problem.known_noise(f"{who} (or give alpha)") / sigma) ** 2
    return alpha * problem.unit**2


def norms(A: LinearOperator, images: int) -> list[float]:
    """|A| for each of so many images: one number, unless these have weights of their own."""
    first = A.for_images(torch.tensor([0]))
    if first is A:
        return [A.norm()] * images
    return [A.for_images(torch.tensor([k])).norm() for k in range(images)]


def curvatures(A: LinearOperator, like: Tensor, who: str) -> Tensor:
    """|A|^2 for each image (B,) of ``like`` (B, ...), 1 where A is 0: what gradient steps have to be small enough for.

    Raises :class:`InputError` where that is no number of the dtype, or its inverse is not.
    """
    found = norms(A, len(like))
    squares = like.new_tensor([norm**2 if norm else 1.0 for norm in found])
    if not bool((torch.isfinite(squares) & torch.isfinite(1 / squares) & (squares > 0)).all()):
        raise InputError(
            f"{who}: |A| is {max(found):.1e}, and its square is outside the range of {like.dtype}. Scale A and the data, or use float64."
        )
    return squares


def noise_in_start(problem: Problem, who: str) -> Tensor:
    """What the noise of the data becomes in the start, in the units of the image: its root mean square for each image, (B,)."""
    draw = torch.randn(1, *problem.A.data_shape, generator=torch.Generator().manual_seed(0))
    draw = (draw / draw.square().mean().sqrt()).to(problem.q).expand_as(problem.q)
    draw = per_image(problem.known_noise(who), draw, f"{who}: noise") * draw
    if problem.noise_map is not None:
        draw = draw * (problem.noise_map > 0)
    start = problem.A.initial(draw.contiguous())
    return sizes(start) / start[0].numel() ** 0.5


def data_step(
    problem: Problem, z: Tensor, alpha: float | Tensor, x0: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Tensor]:
    """h(z; alpha) of the problem, warm-started from ``x0``, and the relative residual that each image reached (0 where h is exact)."""
    reached: list[Tensor] = []
    f = problem.A.data_step(
        z,
        alpha,
        Aty=problem.Aty,
        x0=x0,
        tol=tol,
        max_iter=max_iter,
        report=lambda info: reached.append(info.residual.detach()),
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
        raise InputError(
            f"{who} must be a number or of shape ({len(like)},), got {tuple(value.shape)}."
        )
    return value.to(like).reshape(-1, *[1] * (like.ndim - 1))


_SERIOUS = ("outside", "stopped", "oscillating", "stalled", "max_iter")
_RUNAWAY = 1e3  # how many times its first size an estimate may have


_REACH = 3.0  # how many times the range of its start an estimate may be outside of it


def worst(statuses: Sequence[str]) -> str:
    """The status that needs attention most."""
    return next((name for name in _SERIOUS if name in statuses), "converged")


def mark_outside(
    statuses: Sequence[str], problem: Problem, start: Tensor | None, x: Tensor
) -> tuple[str, ...]:
    r"""The ``statuses`` of estimates ``x`` (B, C, H, W), "outside" where one is far outside its range and the data do not ask for that.

    Far is 3 times the range of 0, of the ``start`` and of A.initial(q) beyond it. The data ask for it if they are met worse,
    by 5 %, once x is cut to that range: the peaks of a deconvolution are not garbage.
    """
    images, far = len(x), torch.zeros(len(x), dtype=torch.bool)
    ends = x.new_zeros(2, images)
    with torch.no_grad():
        for find in (lambda: start, lambda: problem.A.initial(problem.q)):
            image = find()
            if image is not None:
                flat = image.flatten(1)
                ends = torch.stack(
                    [torch.minimum(ends[0], flat.amin(1)), torch.maximum(ends[1], flat.amax(1))]
                )
                span = _REACH * (ends[1] - ends[0])
                low, high = (
                    (end + sign * span).reshape(-1, 1, 1, 1)
                    for end, sign in zip(ends, (-1, 1), strict=True)
                )
                far = ((x < low) | (x > high)).flatten(1).any(1)
                if not bool(far.any()):
                    return tuple(statuses)
        cut = torch.minimum(torch.maximum(x, low), high)
        misfits = [sizes(problem.A(image) - problem.q) for image in (x, cut)]
        far = far & (span > 0) & (misfits[1] <= 1.05 * misfits[0])
    return tuple(
        "outside" if away else name for name, away in zip(statuses, far.tolist(), strict=True)
    )


def warn_outside(result: Result, who: str) -> None:
    """Warn of images whose status is "outside"."""
    numbers = [k for k, name in enumerate(result.statuses) if name == "outside"]
    if numbers:
        which = f" of image {', '.join(map(str, numbers[:8]))}" if len(result.statuses) > 1 else ""
        values = result.x[numbers]
        warnings.warn(
            f"{who}: the estimate{which}, {float(values.min()):.3g} to {float(values.max()):.3g}, is far outside the range of its start, and the "
            "data do not ask for that: do not use it. Likely causes: a denoiser that amplifies (convergence.expansion measures it, averaged "
            "and a smaller sigma help), or an image outside the range of the denoiser (rescaled).",
            stacklevel=3,
        )


class _Growth:
    """Whether an estimate runs away: 10^3 times as large as at first, after growing at each of the last five steps by 5 %."""

    def __init__(self, x: Tensor):
        self.first = self.last = sizes(x)
        self.steps, self.growing = 0, torch.zeros_like(self.last)

    def check(self, solver: Solver, old: State, new: State, rows: Tensor | None = None) -> None:
        """Look at the step to ``new``, of all images or of the ``rows``; raise :class:`Diverged` with ``old``."""
        size = sizes(new.x)
        finite = torch.isfinite(new.x.detach()).flatten(1).all(dim=1)
        self.steps += 1
        at = slice(None) if rows is None else rows
        if self.steps <= 3:
            self.first = self.first.index_put(
                (torch.arange(len(self.first), device=size.device)[at],),
                torch.maximum(self.first[at], size),
            )
        grows = size > 1.05 * self.last[at]
        growing, last = self.growing.clone(), self.last.clone()
        growing[at], last[at] = torch.where(grows, growing[at] + 1, 0.0), size
        self.growing, self.last = growing, last
        away = ~finite | ((size > _RUNAWAY * self.first[at]) & (growing[at] >= 5))
        if bool(away.any()):
            what = (
                "is not finite"
                if not bool(finite.all())
                else f"is more than {_RUNAWAY:g} times as large as at the start, and grows"
            )
            numbers = away.nonzero().flatten() if rows is None else rows[away]
            which = (
                f" of image {', '.join(map(str, numbers.tolist()[:8]))}"
                if len(self.first) > 1
                else ""
            )
            raise Diverged(
                f"{type(solver).__name__}: the estimate{which} {what} after iteration {new.iteration}. Likely causes: a step size or "
                "sigma too large, a denoiser that amplifies, an adjoint that is not the transpose of A (testing.check_operator), an image outside the range of the denoiser (use rescaled). "
                "The last finite state is in .state of this error.",
                old,
            )


class _Watch:
    """How the run of each image ends: over its last quarter, whether the residual still falls, and how far the path led."""

    def __init__(self, iterations: int, state: State):
        self.window = max(12, (iterations - state.iteration) // 4)
        self.enough = iterations - state.iteration >= 2 * self.window
        self.begin, self.start = iterations - self.window, state.x
        self.path, self.end = torch.zeros(len(state.x), dtype=torch.float64), state.x

    def see(self, old: State, new: State) -> None:
        if old.iteration == self.begin:
            self.start, self.path = old.x, torch.zeros_like(self.path)
        if old.iteration >= self.begin:
            self.path = self.path + sizes(new.x - old.x).double().cpu()
        self.end = new.x

    def statuses(
        self, residuals: Tensor | None, resting: Tensor, halted: Tensor, stopped: bool, tol: float
    ) -> tuple[str, ...]:
        names = [
            "converged" if rests else "stopped" if stopped else "max_iter"
            for rests in (resting & ~halted).tolist()
        ]
        names = [
            "stopped" if halts else name for name, halts in zip(names, halted.tolist(), strict=True)
        ]
        half = self.window // 2
        if residuals is None or not self.enough or "max_iter" not in names or tol == 0:
            return tuple(names)
        recent, before = (
            residuals[-half:].median(dim=0).values,
            residuals[-2 * half : -half].median(dim=0).values,
        )
        net = sizes(self.end - self.start).double().cpu()
        for k, name in enumerate(names):
            if name == "max_iter" and bool(recent[k] > 0.95 * before[k]):
                names[k] = "oscillating" if bool(net[k] < 0.3 * self.path[k]) else "stalled"
        return tuple(names)


def _take(state: State, rows: Tensor, images: int) -> State:
    """The images ``rows`` of a state."""
    return replace(state, **{name: value[rows] for name, value in _tensors(state, images).items()})


def _put(state: State, rows: Tensor, part: State, images: int) -> State:
    """``state`` with its images ``rows`` from ``part``, and the numbers of ``part``."""
    changes: dict[str, Any] = {}
    for f in fields(part):
        new, old = getattr(part, f.name), getattr(state, f.name)
        if isinstance(old, Tensor) and isinstance(new, Tensor) and old.shape[:1] == (images,):
            new = old.index_put((rows,), new)
        changes[f.name] = new
    return replace(state, **changes | {"resting": state.resting})


def _tensors(thing: Any, images: int) -> dict[str, Tensor]:
    """The fields of a dataclass that hold one entry for each image."""
    values = {f.name: getattr(thing, f.name) for f in fields(thing)}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, Tensor) and value.shape[:1] == (images,)
    }


def _rows_of_problem(problem: Problem, rows: Tensor) -> Problem:
    images = len(problem.q)
    taken = {
        name: value[rows]
        for name, value in _tensors(problem, images).items()
        if name != "noise_map" or value.ndim == problem.q.ndim
    }
    return replace(problem, A=problem.A.for_images(rows), **taken)


def _rows_of_solver(solver: Solver, rows: Tensor, images: int) -> Solver:
    """A solver whose settings (B,) are those of the images ``rows``."""
    changes: Any = {}
    for f in fields(cast(Any, solver)):
        value = getattr(solver, f.name)
        if isinstance(value, Tensor) and value.shape[-1:] == (
            images,
        ):  # (B,), or a schedule (K, B)
            changes[f.name] = value[..., rows.to(value.device)]
    return replace(cast(Any, solver), **changes)


def _column_of(
    value: float | Tensor, rows: Tensor | None, images: int, before: Sequence[Tensor]
) -> Tensor | None:
    """A measure of the moving images as a column (B,), where images at rest keep the number they had; None for a single number."""
    if (
        not isinstance(value, Tensor)
        or value.ndim != 1
        or len(value) != (images if rows is None else len(rows))
    ):
        return None
    value = value.detach().double().cpu()
    if rows is None:
        return value
    full = before[-1].clone() if before else torch.zeros(images, dtype=torch.float64)
    full[rows.cpu()] = value
    return full


def _fits(state_type: type[State], values: Mapping[str, Any]) -> bool:
    """Whether ``values`` are the parts of such a state; those that every state has by default may be missing."""
    names = {f.name for f in fields(state_type)}
    return values.keys() <= names and names - values.keys() <= {
        "resting",
        "fixed_point",
        "memory",
        "mixing",
        "moved",
        "scale",
    }


def _shown(value: Any) -> str:
    """A number, or the range of several."""
    if not isinstance(value, Tensor):
        return f"{value:.4g}"
    low, high = float(value[torch.isfinite(value)].min()), float(value[torch.isfinite(value)].max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _values(state: State) -> dict[str, Any]:
    return {"kind": type(state).__name__, **{f.name: getattr(state, f.name) for f in fields(state)}}


def _read(path: str | PathLike[str], what: str) -> dict[str, Any]:
    """A dictionary with a "kind", read to the CPU."""
    values, _ = checkpoint.load(path, what)
    if "kind" not in values:
        raise WeightsError(f"{path}: not a saved {what}, but another checkpoint.")
    return values


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
    "Tuned",
    "check_settings",
    "checked",
    "column",
    "curvatures",
    "data_step",
    "make_problem",
    "noise_in_start",
    "norms",
    "per_image",
    "register",
    "registry",
    "weight_of",
]
