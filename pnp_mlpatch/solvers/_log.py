"""The history of a run while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.solvers._state import State


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


def on_host(*tables: Mapping[str, float | Tensor]) -> tuple[dict[str, float | Tensor], ...]:
    """Return the same numbers with all tensors on the CPU, by one copy, for which a GPU waits once.

    Parameters
    ----------
    *tables : mapping of str to float or Tensor
        Real numbers of a step by name.

    Returns
    -------
    tuple of dict
        One for each table, with the dtypes as they were.
    """
    host = torch.device("cpu")
    values = [value for table in tables for value in table.values()]
    away = [v.detach() for v in values if isinstance(v, Tensor) and v.device != host]
    if not away:
        return tuple(dict(table) for table in tables)
    copied = torch.cat([v.double().flatten() for v in away]).cpu().split([v.numel() for v in away])
    here = iter(c.to(v.dtype).reshape(v.shape) for c, v in zip(copied, away, strict=True))

    def moved(value: float | Tensor) -> float | Tensor:
        return next(here) if isinstance(value, Tensor) and value.device != host else value

    return tuple({name: moved(value) for name, value in table.items()} for table in tables)


def _number(value: Any) -> float:
    number = float(value.detach().double().mean()) if isinstance(value, Tensor) else float(value)
    return number if math.isfinite(number) else math.nan
