"""What a solver is: frozen settings, explicit state, one step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError, InputTypeError, WeightsError
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers._problem import Problem, make_problem
from pnp_mlpatch.solvers._state import S, State, register, registry, state_from

if TYPE_CHECKING:
    from pnp_mlpatch.solvers._result import Result

# True stops the run; a tensor (B,) of True and False stops those images
Callback = Callable[["State"], object]


class Solver(ABC, Generic[S]):
    """A solver: a frozen dataclass of settings with two hooks, ``init`` and ``step``.

    All that moves is in the state, so a solver can be used again and a step repeated. A plugin
    declares its settings as dataclass fields, ``iterations`` and ``tol`` among them.

    Attributes
    ----------
    state_type : type
        Class of its states.
    rising : bool
        Whether ``sigma`` may rise during a run, so that :func:`pnp_mlpatch.tuning.auto` may
        choose it. Such a solver takes schedules and one level an image (``schedules.level``).
    iterations : int
        Number of steps at most.
    tol : float
        Relative change below which an image has converged; 0 for none.
    """

    state_type: ClassVar[type[State]] = State
    rising: ClassVar[bool] = False
    iterations: int
    tol: float

    @abstractmethod
    def init(self, problem: Problem, x0: Tensor) -> S:
        """Return the state before the first step.

        Parameters
        ----------
        problem : Problem
            The problem.
        x0 : Tensor, shape (B, C, H, W)
            The start.

        Returns
        -------
        State
        """

    @abstractmethod
    def step(self, problem: Problem, denoise: Denoiser, state: S) -> S:
        """Do one iteration. The old state is not changed, and gradients flow.

        Parameters
        ----------
        problem : Problem
            The problem.
        denoise : Denoiser
            D(x, sigma), with its output checked.
        state : State
            The state before.

        Returns
        -------
        State
        """

    def levels(self, problem: Problem, state: S) -> dict[str, float | Tensor]:
        """Return the parameters of the step that follows ``state``, for the history.

        Parameters
        ----------
        problem : Problem
            The problem.
        state : State
            The state before the step.

        Returns
        -------
        dict of str to float or Tensor, shape (B,)
            Of one number an image the history gets the mean.
        """
        return {}

    def residuals(self, old: S, new: S) -> Tensor:
        r"""Return the relative change of each estimate.

        Parameters
        ----------
        old, new : State
            The states before and after a step.

        Returns
        -------
        Tensor, shape (B,)
            :math:`|x_k - x_{k-1}| / |x_k|`, NaN where :math:`|x_k|` overflows.
        """
        change, size = sizes(new.x - old.x), sizes(new.x)
        ratio = change / size.clamp_min(torch.finfo(size.dtype).tiny)
        return torch.where(torch.isfinite(size), ratio, torch.nan)

    def residual(self, old: S, new: S) -> float:
        """Return the largest of the ``residuals`` of the batch.

        Parameters
        ----------
        old, new : State
            The states before and after a step.

        Returns
        -------
        float
        """
        return float(self.residuals(old, new).max())

    # ---- driving it

    def iterate(self, problem: Problem, D: Denoiser, state: S) -> Iterator[S]:
        """Yield the states after ``state`` without end, for those who own the loop. Gradients flow.

        Parameters
        ----------
        problem : Problem
            The problem, of :func:`make_problem`.
        D : Denoiser
            The denoiser.
        state : State
            The state to start from, of ``init``.

        Yields
        ------
        State

        Raises
        ------
        Diverged
            If an estimate is not finite, or runs away. It holds the last finite state.
        """
        from pnp_mlpatch.solvers._driver import iterate  # which imports this file

        return iterate(self, problem, D, state)

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
        r"""Solve ``q = A f + n`` without gradients.

        Each image of a batch stops by itself, when its relative change is below ``tol`` or
        ``iterations`` are done. It is as if it were alone, and then costs nothing more.

        Parameters
        ----------
        q : Tensor, shape (B, \*data_shape)
            Data.
        A : LinearOperator
            Operator.
        D : Denoiser
            D(x, sigma).
        noise : float, Tensor or None
            Standard deviation of n, see :func:`make_problem`.
        x0 : Tensor, shape (B, C, H, W), optional
            Start, ``A.initial(q)`` by default.
        state : State, optional
            State of an earlier run to resume from; ``iterations`` counts from the very start.
        callbacks : sequence of callables
            Each gets the state after every step. It stops the run by returning True, or some
            images by returning a tensor (B,) of True and False.
        record : mapping of str to callable, optional
            Functions of x whose values become columns of the history.
        history : dict, optional
            History of the run that ``state`` is from. Rows are added to it, and seconds count on.
        progress : bool, optional
            Whether to show a bar; by default on a terminal.

        Returns
        -------
        Result
            A warning is given for images whose status is "outside".

        Raises
        ------
        Diverged
            If an estimate is not finite, or runs away. It holds the last finite state.
        InputError, InputTypeError
            If an argument does not fit.
        """
        from pnp_mlpatch.solvers._driver import solve  # which imports this file
        from pnp_mlpatch.solvers._stopping import warn_outside

        with torch.no_grad():
            problem = make_problem(q, A, noise)
        result = solve(
            self,
            problem,
            D,
            x0=x0,
            state=state,
            callbacks=callbacks,
            record=record,
            history=history,
            progress=progress,
        )
        warn_outside(result, type(self).__name__)
        return result

    @classmethod
    def load_state(
        cls, path: str | PathLike[str], map_location: torch.device | str = "cpu"
    ) -> State:
        """Read a state that ``State.save`` wrote.

        Parameters
        ----------
        path : str or path
            The file.
        map_location : torch.device or str
            The device to put it on, that of the data.

        Returns
        -------
        State

        Raises
        ------
        WeightsError
            If the file is damaged, or the state is of another solver.
        """
        return cls.state_of(checkpoint.load(path, "solver state")[0], path).to(map_location)

    @classmethod
    def state_of(cls, values: Mapping[str, Any], path: str | PathLike[str]) -> State:
        """Make a state of this solver from the values that were read from a file.

        Parameters
        ----------
        values : mapping
            The content of the file.
        path : str or path
            The file, for the errors.

        Returns
        -------
        State

        Raises
        ------
        WeightsError
            If the state is damaged, or of another solver.
        """
        if "kind" not in values:
            raise WeightsError(f"{path}: not a saved solver state, but another checkpoint.")
        kind = values["kind"]
        if kind != cls.state_type.__name__:
            raise WeightsError(
                f"{path}: a state of kind {kind}, expected {cls.state_type.__name__}. "
                "Load it with the solver that made it."
            )
        state = state_from(values, [cls.state_type])
        if state is None:
            raise WeightsError(
                f"{path}: a damaged state of kind {kind}, its parts are not those of the solver."
            )
        return state


def check_settings(solver: Solver[Any], **positive: float | Tensor | None) -> None:
    """Check the settings that solvers share.

    Parameters
    ----------
    solver : Solver
        Its ``iterations`` must be >= 1 and its ``tol`` >= 0.
    **positive : float, Tensor or None
        Other settings by name, finite and > 0 unless None.

    Raises
    ------
    InputError, InputTypeError
        If one does not fit.
    """
    who, iterations = type(solver).__name__, solver.iterations
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise InputError(f"{who}: iterations must be an integer >= 1, got {iterations!r}.")
    if not isinstance(solver.tol, (int, float)) or not solver.tol >= 0:
        raise InputError(f"{who}: tol must be a number >= 0, got {solver.tol!r}.")
    for name, value in positive.items():
        if value is None:
            continue
        try:
            values = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(f"{who}: {name} must be a number, got {value!r}.") from error
        if values.numel() == 0 or not bool((torch.isfinite(values) & (values > 0)).all()):
            raise InputError(f"{who}: {name} must be finite and > 0, got {value!r}.")


__all__ = ["Callback", "S", "Solver", "State", "check_settings", "register", "registry"]
