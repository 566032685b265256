"""Plugins by name: listed without being imported, made with checked arguments.

A plugin is a module of its family's package, of the same name, that registers a class or factory::

    @register("mask")
    class Mask(LinearOperator): ...

or an entry point of another package, in the group ``pnp_mlpatch.operators``, ``.denoisers`` or
``.solvers``.
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
    """What is known of a plugin.

    Parameters
    ----------
    name, family, source : str
        Its name, its family, and where it is: "built in", or a module of another package.
    signature, doc : str
        How it is called, and its docstring.
    needs, missing : tuple of str
        The optional packages that it needs, and those that are not installed.
    broken : str, optional
        Why it cannot be used.
    """

    name: str
    family: str
    source: str
    signature: str = ""
    doc: str = ""
    needs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    broken: str | None = None


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint for a misspelt word.

    Parameters
    ----------
    word : str
        What was given.
    known : list of str
        What could be meant.

    Returns
    -------
    str
        As "Did you mean 'mask'? ", or nothing.
    """
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'? " if close else ""


def _full_name(plugin: Callable[..., Any]) -> str:
    """Return module and name; of objects without a name (``functools.partial``) their repr."""
    name = getattr(plugin, "__qualname__", None) or repr(plugin)
    return f"{getattr(plugin, '__module__', None)}.{name}"


class Registry:
    """The plugins of one family.

    Parameters
    ----------
    family : str
        "operator", "denoiser" or "solver".
    package : str
        The package of its plugin files, and the group of its entry points.
    """

    def __init__(self, family: str, package: str):
        self.family, self.package, self.group = family, package, package
        self._made: dict[str, Callable[..., Any]] = {}
        self._needs: dict[str, tuple[str, ...]] = {}
        self._networks: dict[str, type] = {}

    def register(
        self, name: str, *, needs: tuple[str, ...] = (), network: type | None = None
    ) -> Callable[[T], T]:
        """Return a decorator that registers a class or factory.

        Parameters
        ----------
        name : str
            Of the plugin, and of its file.
        needs : tuple of str
            The import names of optional packages that it needs.
        network : type, optional
            The class that training makes, if it can be trained.

        Returns
        -------
        callable
        """

        def decorate(plugin: T) -> T:
            known = self._made.get(name)
            if known is not None and _full_name(known) != _full_name(plugin):
                raise InputError(
                    f"Two {self.family}s register the name '{name}': {_full_name(known)} and "
                    f"{_full_name(plugin)}. Rename one of them."
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
        """List all plugins without importing them.

        Returns
        -------
        list of str
            Files of the package, entry points, and what was registered, sorted.
        """
        return sorted({*self._modules(), *self._entry_points(), *self._made})

    def get(self, name: str) -> Callable[..., Any]:
        """Import a plugin.

        Parameters
        ----------
        name : str
            One of :meth:`names`.

        Returns
        -------
        callable

        Raises
        ------
        UnknownPlugin, MissingPackage, BrokenPlugin
        """
        if not isinstance(name, str):
            raise InputTypeError(
                f"The name of a plugin ({self.family}) is a string; got {type(name).__name__}."
            )
        if name in self._made:
            return self._made[name]
        points = self._entry_points().get(name, [])
        source = self._source(name, points)
        try:
            if points:
                self._made.setdefault(name, self._loaded(name, points[0]))
            else:
                importlib.import_module(f"{self.package}.{name}")
        except (PnPError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a plugin does not end the program
            raise BrokenPlugin(
                f"The {self.family} '{name}' ({source}) cannot be imported: "
                f"{type(error).__name__}: {error}. The other plugins are not affected."
            ) from error
        if name not in self._made:
            module = f"{self.package}.{name}"
            raise BrokenPlugin(f"The module {module} registers no {self.family} called '{name}'.")
        return self._made[name]

    def _source(self, name: str, points: list[importlib.metadata.EntryPoint]) -> str:
        """Where the plugin comes from; raise unless that is one place."""
        distinct = {
            f"{point.value} of package {point.dist.name}" if point.dist else point.value
            for point in points
        }
        if name in self._modules():
            distinct.add(f"{self.package}.{name}")
        if len(distinct) > 1:
            raise InputError(
                f"Two {self.family}s are called '{name}': {', '.join(sorted(distinct))}. "
                "Uninstall or rename one of them."
            )
        if distinct:
            return distinct.pop()
        names, shipped = self.names(), manifest() if self.family == "denoiser" else {}
        if name in shipped:
            raise UnknownPlugin(
                f"'{name}' are weights, not a denoiser. Take the denoiser "
                f"'{shipped[name].get('kind', 'mlpatch')}' with weights='{name}'."
            )
        raise UnknownPlugin(
            f"No {self.family} is called '{name}'. {did_you_mean(name, names)}"
            f"Known: {', '.join(names)}."
        )

    def _loaded(self, name: str, point: importlib.metadata.EntryPoint) -> Callable[..., Any]:
        plugin = point.load()
        if not callable(plugin):
            raise TypeError(f"{point.value} is not callable")
        _signature(plugin, f"The {self.family} '{name}'")
        return plugin

    def make(self, name: str, **config: Any) -> Any:
        """Make a plugin.

        Parameters
        ----------
        name : str
            One of :meth:`names`.
        **config
            Its settings, checked against its signature before it is called.

        Returns
        -------
        object

        Raises
        ------
        InputTypeError
            For settings that it does not have, and for required ones that are not given.
        """
        plugin = self.get(name)
        signature = _signature(plugin, f"The {self.family} '{name}'")
        settings = [
            p
            for p in signature.parameters.values()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        known = [p.name for p in settings]
        for key in config:
            if key not in known:
                raise InputTypeError(
                    f"The {self.family} '{name}' has no setting '{key}'. "
                    f"{did_you_mean(key, known)}It takes: {', '.join(known) or 'none'}."
                )
        absent = [p.name for p in settings if p.default is p.empty and p.name not in config]
        if absent:
            hint = " A denoiser is registered as a class or factory that returns D(x, sigma)."
            hint = hint if absent[0] == "x" else ""
            raise InputTypeError(
                f"The {self.family} '{name}' needs {', '.join(absent)}. "
                f"Call: {name}{signature}.{hint}"
            )
        return plugin(**config)

    def network(self, name: str) -> type:
        """Return the class that training makes for a plugin.

        Parameters
        ----------
        name : str
            One of :meth:`names`.

        Returns
        -------
        type

        Raises
        ------
        InputError
        """
        self.get(name)
        if name not in self._networks:
            raise InputError(
                f"The {self.family} '{name}' cannot be trained. "
                f"Trainable: {', '.join(sorted(self._networks)) or 'none'}."
            )
        return self._networks[name]

    def info(self, name: str) -> PluginInfo:
        """Return what is known of a plugin.

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
            kind, who = type(error).__name__, f"The {self.family} '{name}'"
            reason = f"{who} cannot be described: {kind}: {error}."
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
    """How a plugin is called; :class:`BrokenPlugin` if unknown, as of classes written in C."""
    try:
        return inspect.signature(plugin)
    except (ValueError, TypeError) as error:
        raise BrokenPlugin(
            f"{who} has no signature ({error}). Register a function or class written in Python."
        ) from error


def _absent(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is None
    except (ImportError, ValueError, AttributeError):  # the parent is absent or no package
        return True
