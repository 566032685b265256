"""Plugins by name: listed without being imported, made with checked arguments.

A plugin is a module of its family's package (file name = plugin name) that registers a class or a factory::

    @register("mask")
    class Mask(LinearOperator): ...

or an entry point of another package, in the group ``pnp_mlpatch.operators``, ``.denoisers`` or ``.solvers``.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pnp_mlpatch.errors import BrokenPlugin, InputError, InputTypeError, PnPError, UnknownPlugin
from pnp_mlpatch.weights import manifest

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class PluginInfo:
    """What ``info(name)`` tells: where a plugin comes from, what it needs, how it is called, and why it is broken if it is."""

    name: str
    family: str
    source: str
    signature: str = ""
    doc: str = ""
    needs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    broken: str | None = None


def did_you_mean(word: str, known: list[str]) -> str:
    """A hint such as ``Did you mean 'mask'? `` or nothing."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'? " if close else ""


def _full_name(plugin: Callable[..., Any]) -> str:
    """Module and name, of objects without them (``functools.partial``) what they are."""
    return f"{getattr(plugin, '__module__', None)}.{getattr(plugin, '__qualname__', None) or repr(plugin)}"


class Registry:
    """The plugins of one family: ``names``, ``get``, ``make``, ``info``; ``register`` is the decorator for plugin files."""

    def __init__(self, family: str, package: str):
        self.family, self.package, self.group = family, package, package
        self._made: dict[str, Callable[..., Any]] = {}
        self._needs: dict[str, tuple[str, ...]] = {}
        self._networks: dict[str, type] = {}

    def register(
        self, name: str, *, needs: tuple[str, ...] = (), network: type | None = None
    ) -> Callable[[T], T]:
        """Decorator: make a class or factory known as ``name``.

        ``needs`` are the import names of optional packages; ``network`` is the class that training makes, if it can be trained.
        """

        def decorate(plugin: T) -> T:
            known = self._made.get(name)
            if known is not None and _full_name(known) != _full_name(plugin):
                raise InputError(
                    f"Two {self.family}s register the name '{name}': {_full_name(known)} and {_full_name(plugin)}. Rename one of them."
                )
            self._made[name], self._needs[name] = plugin, tuple(needs)
            if network is not None:
                self._networks[name] = network
            return plugin

        return decorate

    def _modules(self) -> list[str]:
        spec = importlib.util.find_spec(self.package)
        places = list(spec.submodule_search_locations or []) if spec else []
        return [m.name for m in pkgutil.iter_modules(places) if not m.name.startswith("_")]

    def _entry_points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        found: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found

    def names(self) -> list[str]:
        """All plugin names, sorted: files of the package, entry points, and what was registered at run time. Imports none."""
        return sorted({*self._modules(), *self._entry_points(), *self._made})

    def get(self, name: str) -> Callable[..., Any]:
        """The class or factory called ``name``.

        Raises :class:`UnknownPlugin` (with the closest name), :class:`MissingPackage`, or :class:`BrokenPlugin` with the
        reason if its module does not import.
        """
        if not isinstance(name, str):
            raise InputTypeError(
                f"The name of a plugin ({self.family}) is a string; got {type(name).__name__}."
            )
        if name in self._made:
            return self._made[name]
        points = self._entry_points().get(name, [])
        distinct = {
            f"{point.value} of package {point.dist.name}" if point.dist else point.value
            for point in points
        }
        if name in self._modules():
            distinct.add(f"{self.package}.{name}")
        if len(distinct) > 1:
            raise InputError(
                f"Two {self.family}s are called '{name}': {', '.join(sorted(distinct))}. Uninstall or rename one of them."
            )
        if not distinct:
            names, shipped = self.names(), manifest() if self.family == "denoiser" else {}
            if name in shipped:
                raise UnknownPlugin(
                    f"'{name}' are weights, not a denoiser. Take the denoiser '{shipped[name].get('kind', 'mlpatch')}' with weights='{name}'."
                )
            raise UnknownPlugin(
                f"No {self.family} is called '{name}'. {did_you_mean(name, names)}Known: {', '.join(names)}."
            )
        try:
            if points:
                plugin = points[0].load()
                if not callable(plugin):
                    raise TypeError(f"{points[0].value} is not callable")
                _signature(plugin, f"The {self.family} '{name}'")
                self._made.setdefault(name, plugin)
            else:
                importlib.import_module(f"{self.package}.{name}")
        except (PnPError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a plugin does not end the program
            raise BrokenPlugin(
                f"The {self.family} '{name}' ({distinct.pop()}) cannot be imported: {type(error).__name__}: {error}. "
                "The other plugins are not affected."
            ) from error
        if name not in self._made:
            raise BrokenPlugin(
                f"The module {self.package}.{name} registers no {self.family} called '{name}'."
            )
        return self._made[name]

    def make(self, name: str, **config: Any) -> Any:
        """Make the plugin ``name``; ``config`` is checked against its signature before it is called.

        Raises :class:`InputTypeError` for settings that it does not have, and for required ones that are not given.
        """
        plugin = self.get(name)
        signature = _signature(plugin, f"The {self.family} '{name}'")
        known = [
            p.name
            for p in signature.parameters.values()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        for key in config:
            if key not in known:
                raise InputTypeError(
                    f"The {self.family} '{name}' has no setting '{key}'. {did_you_mean(key, known)}It takes: {', '.join(known) or 'none'}."
                )
        absent = [
            p.name
            for p in signature.parameters.values()
            if p.name in known and p.default is p.empty and p.name not in config
        ]
        if absent:
            hint = (
                " A denoiser is registered as a class or factory that returns D(x, sigma)."
                if absent[0] == "x"
                else ""
            )
            raise InputTypeError(
                f"The {self.family} '{name}' needs {', '.join(absent)}. Call: {name}{signature}.{hint}"
            )
        return plugin(**config)

    def network(self, name: str) -> type:
        """The class that training makes for the plugin ``name``; raise :class:`InputError` if it cannot be trained."""
        self.get(name)
        if name not in self._networks:
            raise InputError(
                f"The {self.family} '{name}' cannot be trained. Trainable: {', '.join(sorted(self._networks)) or 'none'}."
            )
        return self._networks[name]

    def info(self, name: str) -> PluginInfo:
        """What is known of a plugin.

        Parameters
        ----------
        name : str
            A name of :meth:`names`.

        Returns
        -------
        PluginInfo
            One that cannot be imported or described has the reason in ``broken``; it is not raised.

        Raises
        ------
        UnknownPlugin
            If no plugin has this name.
        """
        try:
            return self._described(name, self.get(name))
        except (UnknownPlugin, KeyboardInterrupt):
            raise
        except PnPError as error:  # its module does not import, or two have its name
            return PluginInfo(name, self.family, source="", broken=str(error))
        except BaseException as error:  # a name, signature or docstring that runs code of its own
            reason = (
                f"The {self.family} '{name}' cannot be described: {type(error).__name__}: {error}."
            )
            return PluginInfo(name, self.family, source="", broken=reason)

    def _described(self, name: str, plugin: Callable[..., Any]) -> PluginInfo:
        needs = self._needs.get(name, ())
        module = getattr(plugin, "__module__", None) or type(plugin).__module__
        return PluginInfo(
            name,
            self.family,
            "built in" if module.startswith("pnp_mlpatch.") else module,
            signature=str(_signature(plugin, f"The {self.family} '{name}'")),
            doc=inspect.getdoc(plugin) or "",
            needs=needs,
            missing=tuple(package for package in needs if _absent(package)),
        )


def _signature(plugin: Callable[..., Any], who: str) -> inspect.Signature:
    """How a plugin is called; raise :class:`BrokenPlugin` if that cannot be known, as of classes written in C."""
    try:
        return inspect.signature(plugin)
    except (ValueError, TypeError) as error:
        raise BrokenPlugin(
            f"{who} has no signature ({error}). Register a function or class written in Python."
        ) from error


def _absent(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except (
        ImportError,
        ValueError,
        AttributeError,
    ):  # of a dotted name, whose parent is absent or no package
        return True
