"""What a run returns, how it is recorded, and how it is kept in a file."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import MissingPackage, WeightsError
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.io.images import png
from pnp_mlpatch.solvers._state import State, state_from, state_types, state_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tuned:
    """Settings that were chosen from the data, and why; ``print`` it.

    Parameters
    ----------
    settings : dict
        The chosen settings, numbers or one for each image (B,).
    noise : float or Tensor
        Noise of the data.
    estimated : bool
        Whether the noise was estimated.
    tried : dict of str to Tensor
        Columns of equal length, a row for each iteration of each candidate, and "score" (S, B),
        their estimated error.
    why : str
        The reason, as a sentence.
    """

    settings: dict[str, Any]
    noise: float | Tensor
    estimated: bool
    tried: dict[str, Tensor]
    why: str

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} = {_shown(value)}" for name, value in self.settings.items())
        known = "estimated" if self.estimated else "given"
        return f"{chosen}; noise {known}: {_shown(self.noise)}. {self.why}"


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        The estimate.
    status : str
        The one of ``statuses`` that needs attention most.
    state : State
        State after the last step, to resume from.
    history : dict of str to list of float
        Columns of equal length, a row for each iteration: "iteration", "residual", "seconds", the
        levels, what the steps measured, and what ``record`` asked for. Of one number
        an image it has the largest residual or measure, and the mean level.
    seconds : float
        Duration.
    statuses : tuple of str
        Outcome for each image:

        - "converged": the relative change fell below ``tol``;
        - "max_iter": it was still falling after ``iterations``, or ``tol`` is 0;
        - "stalled": it no longer fell;
        - "oscillating": it no longer fell, and the iterates went back and forth;
        - "stopped": by a callback, or at the iteration that tuning chose;
        - "outside": far outside the range of the start, though the data do not ask for that. The
          denoiser amplifies.
    per_image : dict of str to Tensor, shape (K, B)
        Residuals and measures of each image. An image at rest keeps its last.
    tuned : Tuned or None
        Settings that were chosen from the data.
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
        """One line: how the run ended, and the range of x."""
        counts = ", ".join(f"{n} {status}" for status, n in Counter(self.statuses).items())
        outcome = counts if len(set(self.statuses)) > 1 else self.status
        low, high = float(self.x.detach().min()), float(self.x.detach().max())
        return (
            f"Result({outcome} after {self.state.iteration} iterations, {self.seconds:.3g} s, "
            f"x {tuple(self.x.shape)} from {low:.3g} to {high:.3g}"
            f"{'' if self.tuned is None else ', tuned'})"
        )

    def _repr_png_(self) -> bytes | None:
        """Return what a notebook shows: the figure of :meth:`plot`; nothing without matplotlib."""
        try:
            return png(self.plot())
        except MissingPackage:
            return None

    def plot(self) -> Figure:
        """Draw the image, the residuals, the levels and the time of each step.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from pnp_mlpatch.viz.result import result_figure

        return result_figure(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the result to one file, whole or not at all.

        ``Result.load`` reads it, and ``run(..., state=result.state)`` resumes from it.

        Parameters
        ----------
        path : str or path
            The file.

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"kind": "Result", "state": state_values(self.state)}
        values["tuned"] = None if self.tuned is None else asdict(self.tuned)
        checkpoint.save(path, values)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Result:
        """Read a result that ``Result.save`` wrote, to the CPU.

        Parameters
        ----------
        path : str or path
            The file.

        Returns
        -------
        Result

        Raises
        ------
        WeightsError
            If the file is damaged, or its state is of a solver that is not installed.
        """
        values, _ = checkpoint.load(path, "result")
        if "kind" not in values:
            raise WeightsError(f"{path}: not a saved result, but another checkpoint.")
        if values.pop("kind") != "Result":
            raise WeightsError(
                f"{path}: not a saved result. "
                "A state is read by load_state of the solver that made it."
            )
        values = {"statuses": (), "per_image": {}, "tuned": None} | values
        wrong = [name for name, kind in _KINDS.items() if not isinstance(values.get(name), kind)]
        if wrong or values.keys() != {f.name for f in fields(cls)}:
            raise WeightsError(
                f"{path}: a damaged result ({', '.join(wrong) or 'unknown parts'}). Save it again."
            )
        state, tuned = state_from(values["state"], state_types()), values["tuned"]
        if state is None:
            raise WeightsError(
                f"{path}: its state is of kind {values['state'].get('kind')}, "
                "which no solver here has. Import the one that made it, or save it again."
            )
        values |= {"state": state, "tuned": None if tuned is None else Tuned(**tuned)}
        return cls(**values)


_KINDS = {
    "x": Tensor,
    "status": str,
    "state": dict,
    "history": dict,
    "seconds": float,
    "statuses": tuple,
    "per_image": dict,
}


class Log:
    """The history of a run, a row for each step.

    Parameters
    ----------
    history : dict
        History of the run that this one resumes; rows are added to it, and seconds count on.
    record : mapping of str to callable
        Functions of x whose values become columns.
    """

    def __init__(
        self,
        history: dict[str, list[float]] | None,
        record: Mapping[str, Callable[[Tensor], Any]] | None,
    ):
        self.history = {} if history is None else history
        self.record = record or {}
        self.start = time.perf_counter() - (self.history.get("seconds") or [0.0])[-1]
        self._columns: dict[str, list[Tensor]] = {}

    @property
    def seconds(self) -> float:
        """Seconds since the start of the run."""
        return time.perf_counter() - self.start

    @property
    def per_image(self) -> dict[str, Tensor]:
        """The measures of each image, (K, B)."""
        return {name: torch.stack(values) for name, values in self._columns.items()}

    def add(
        self,
        state: State,
        levels: Mapping[str, float | Tensor],
        measures: Mapping[str, float | Tensor],
        rows: Tensor | None,
    ) -> dict[str, float]:
        """Add the row of a step to ``state``, which measured the images ``rows`` (None for all)."""
        row = {"iteration": state.iteration, "residual": 0.0, "seconds": self.seconds}
        row |= {name: _number(value) for name, value in levels.items()}
        for name, value in measures.items():
            column = self._column(name, value, rows, len(state.x))
            row[name] = _number(value if column is None else column.max())
        row |= {name: _number(function(state.x)) for name, function in self.record.items()}
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        return row

    def _column(
        self, name: str, value: float | Tensor, rows: Tensor | None, images: int
    ) -> Tensor | None:
        """Return a measure as a column (B,), images at rest with their last; None for a number."""
        moved = images if rows is None else len(rows)
        if not isinstance(value, Tensor) or value.shape != (moved,):
            return None
        columns = self._columns.setdefault(name, [])
        column = value.detach().double().cpu()
        if rows is not None:
            before = columns[-1] if columns else torch.zeros(images, dtype=torch.float64)
            column = before.index_put((rows.cpu(),), column)
        columns.append(column)
        return column


def _number(value: Any) -> float:
    number = float(value.detach().double().mean()) if isinstance(value, Tensor) else float(value)
    return number if math.isfinite(number) else math.nan


def _shown(value: Any) -> str:
    """Return a number, or the range of several."""
    if not isinstance(value, Tensor):
        return f"{value:.4g}"
    low, high = float(value[torch.isfinite(value)].min()), float(value[torch.isfinite(value)].max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
