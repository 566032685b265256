"""What moves in a solver, and how it is kept in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from pnp_mlpatch._checks import torch_device
from pnp_mlpatch.errors import PnPError
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.registry import Registry

if TYPE_CHECKING:
    from typing_extensions import Self

registry = Registry("solver", package="pnp_mlpatch.solvers")
register = registry.register


@dataclass(frozen=True)
class State:
    """All that changes in a run; subclasses add the fields of their solver.

    Tensors are batch first, so that images can be taken out of a batch.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        The estimate.
    iteration : int
        Number of steps done.
    resting : Tensor of bool, shape (B,), or None
        The images that have converged and do not move any more. None where all move.
    """

    x: Tensor
    iteration: int
    resting: Tensor | None = field(default=None, kw_only=True)

    def measures(self) -> dict[str, float | Tensor]:
        """Return what the last step measured, for the history.

        Returns
        -------
        dict of str to float or Tensor, shape (B,)
            Of one number an image the history gets the largest, and ``per_image`` all.
        """
        return {}

    def to(self, device: torch.device | str) -> Self:
        """Return the state with its tensors on a device.

        Parameters
        ----------
        device : torch.device or str
            Where the data are with which the run goes on.

        Returns
        -------
        State

        Raises
        ------
        InputError
            If there is no such device.
        """
        place = torch_device(device, "State.to")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{k: v.to(place) for k, v in values.items() if isinstance(v, (Tensor, State))}
        )

    def save(self, path: str | PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Write the state to a file, to resume from.

        ``Solver.load_state`` reads the file, and ``run(..., state=)`` resumes to the same result.

        Parameters
        ----------
        path : str or path
            The file, written whole or not at all.
        about : mapping, optional
            What this is the state of, in plain JSON values;
            :func:`pnp_mlpatch.io.checkpoint.load` gives it back.

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        checkpoint.save(path, state_values(self), about=about)


S = TypeVar("S", bound=State)


def state_values(state: State) -> dict[str, Any]:
    """Return the fields of a state by name, and its "kind"; a state in a state likewise."""
    values = {f.name: getattr(state, f.name) for f in fields(state)}
    nested = {k: state_values(value) for k, value in values.items() if isinstance(value, State)}
    return {"kind": type(state).__name__, **values, **nested}


def state_from(values: Mapping[str, Any], kinds: Iterable[type[State]]) -> State | None:
    """Return the state of one of the ``kinds`` with such ``values``, None if none has such fields.

    Fields with a default may be missing.
    """
    given = {name: value for name, value in values.items() if name != "kind"}
    nested = {
        name: state_from(value, state_types())
        for name, value in given.items()
        if isinstance(value, dict)
    }
    if None in nested.values():
        return None
    for kind in kinds:
        names = {f.name for f in fields(kind)}
        required = {f.name for f in fields(kind) if f.default is MISSING}
        if kind.__name__ == values.get("kind") and required <= given.keys() <= names:
            return cast(Any, kind)(**given | nested)
    return None


def state_types() -> Iterator[type[State]]:
    """State and all subclasses: of what is imported, then of every solver that has a name."""
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
