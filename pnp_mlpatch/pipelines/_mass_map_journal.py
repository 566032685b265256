"""The checkpoint of a mass map: which chains are done, and where the present one is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import WeightsError
from pnp_mlpatch.io import checkpoint as checkpoints
from pnp_mlpatch.solvers import State
from pnp_mlpatch.solvers.split_gibbs import SplitGibbsState


@dataclass
class Position:
    """Where a chain is: in which pass, with which map of the pass before, and which state."""

    pass_number: int = 0
    kappa: Tensor | None = None
    state: SplitGibbsState | None = None


class Journal:
    """Results of the chains that are done, tensors, and the position of the present one.

    ``about`` describes the run; a file of another run is refused.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None,
        about: Mapping[str, Any],
        save_every: float,
        device: torch.device,
    ):
        self.path, self.about, self.save_every = path, about, save_every
        self.done: list[tuple[Tensor, ...]] = []
        self.position, self.saved = Position(), time.perf_counter()
        found = checkpoints.resume(path, about, "checkpoint of map_mass", device)
        if found is None:
            return
        content = found[0]
        try:
            self.done = [tuple(chain) for chain in content.get("done", [])]
            state = None if content["state"] is None else SplitGibbsState(**content["state"])
            self.position = Position(int(content["pass"]), content["kappa"], state)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path}: not a checkpoint of map_mass ({type(error).__name__}). "
                "Remove it to start anew."
            ) from error

    def chain(self, number: int, run: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return what ``run`` returned for this chain; run it, from its position, if it is next."""
        if number < len(self.done):
            return self.done[number]
        self.done.append(run())
        self.position = Position()
        if self.path is not None:
            self._save(self.position, None)
        return self.done[-1]

    def keep(self, position: Position, state: State) -> None:
        """Save the state of the present chain, if the last time was long enough ago."""
        if self.path is not None and time.perf_counter() - self.saved > self.save_every:
            self._save(position, vars(state))

    def _save(self, position: Position, state: dict[str, Any] | None) -> None:
        assert self.path is not None
        content = {"pass": position.pass_number, "kappa": position.kappa, "state": state}
        done = [list(chain) for chain in self.done]
        checkpoints.save(self.path, {**content, "done": done}, about=self.about)
        self.saved = time.perf_counter()
