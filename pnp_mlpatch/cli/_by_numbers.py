"""Operators by a few numbers in place of a tensor, and the size of the image behind data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pnp_mlpatch.cli._common import blame
from pnp_mlpatch.errors import InputTypeError
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.operators import registry as operators
from pnp_mlpatch.registry import did_you_mean


def constructors(plugin: Any) -> dict[str, Callable[..., LinearOperator]]:
    """Return the class methods that make an operator of a few numbers, by name."""
    return {other: getattr(plugin, other) for other in getattr(plugin, "constructors", ())}


def by_numbers(
    name: str, given: Mapping[str, Any], loaded: Mapping[str, Any]
) -> tuple[LinearOperator, dict[str, Any]] | None:
    """Make an operator by the class method that takes just these settings.

    Return it with all its settings, defaults included; None where the class takes them itself.
    ``loaded`` are the settings to call it with, where those ``given`` only describe them (files).
    """
    plugin = operators.get(name)
    ways = constructors(plugin)
    if not ways or _fits(plugin, loaded):
        return None
    for make in ways.values():
        if _fits(make, loaded):
            with blame(f"the operator '{name}'"):
                made = make(**loaded)
            known = inspect.signature(make).parameters.values()
            defaults = {p.name: p.default for p in known if p.default is not p.empty}
            return made, {**defaults, **given}
    takes = {"": plugin, **ways}
    needed = "; or ".join(
        ", ".join(f"operator.{key}" for key in _required(make) or _more(make, plugin))
        + (other and f" ({other})")
        for other, make in takes.items()
    )
    every = sorted({key for make in takes.values() for key in inspect.signature(make).parameters})
    unknown = next((key for key in loaded if key not in every), None)
    fault = "" if unknown is None else f"no setting '{unknown}'. {did_you_mean(unknown, every)}"
    raise InputTypeError(
        f"the operator '{name}' " + (f"has {fault}It takes" if fault else "takes") + f" {needed}."
    )


def _more(make: Callable[..., Any], plugin: Any) -> list[str]:
    """Return the settings of a class method that the class itself does not have."""
    known = inspect.signature(plugin).parameters
    return [key for key in inspect.signature(make).parameters if key not in known][-1:]


def _fits(make: Callable[..., Any], settings: Mapping[str, Any]) -> bool:
    """Whether a call takes just these settings."""
    known = inspect.signature(make).parameters.keys()
    return {*_required(make)} <= settings.keys() <= known


def _required(make: Callable[..., Any]) -> list[str]:
    """Return what a call needs, but for the shape of the image, which the picture has."""
    parameters = inspect.signature(make).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.name != "image_shape"]


def sizes_of_data(section: Mapping[str, Any], q: Tensor) -> dict[str, Any]:
    """Return the sizes of the image that data tell, for operators that change the shape.

    The image of ``downsample`` has ``factor`` times the rows and columns of its data.
    """
    sizes: dict[str, Any] = {"channels": q.shape[0]} if q.ndim == 3 else {}
    if section["name"] == "downsample":
        factor = section.get("factor")
        times = factor if isinstance(factor, int) else 1  # others are refused by the operator
        channels, height, width = (1, 1, *q.shape)[-3:]
        sizes["image_shape"] = (channels, times * height, times * width)
    return sizes


__all__ = ["by_numbers", "constructors", "sizes_of_data"]
