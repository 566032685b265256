"""``pnp-mlpatch list`` and ``info``: what there is."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from pnp_mlpatch import weights
from pnp_mlpatch.cli._by_numbers import constructors
from pnp_mlpatch.cli._common import REGISTRIES, command, plain_text
from pnp_mlpatch.errors import InputError, UnknownPlugin, WeightsError
from pnp_mlpatch.registry import Registry, did_you_mean


def list_plugins(args: argparse.Namespace) -> int:
    """Print a table of the plugins: name, family, needs, source, first line of the docstring.

    Parameters
    ----------
    args : argparse.Namespace
        The flags.

    Returns
    -------
    int
        The exit status.
    """
    rows = [("NAME", "FAMILY", "NEEDS", "SOURCE", "")]
    for family, registry in REGISTRIES.items():
        if args.family in (None, f"{family}s"):
            for found in map(registry.info, registry.names()):
                needs = ", ".join(
                    f"{package} (missing)" if package in found.missing else package
                    for package in found.needs
                )
                first = plain_text(found.doc).partition("\n")[0]
                rows.append(
                    (
                        found.name,
                        family,
                        "BROKEN" if found.broken else needs or "-",
                        found.source or "-",
                        found.broken or first,
                    )
                )
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    for row in rows:
        print(
            "  ".join(
                [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]
            ).rstrip()
        )
    return 0


def show_info(args: argparse.Namespace) -> int:
    """Print what is known of a plugin, or the card of shipped weights.

    Parameters
    ----------
    args : argparse.Namespace
        The flags.

    Returns
    -------
    int
        The exit status.
    """
    families = [
        family
        for family in REGISTRIES
        if args.family in (None, family) and args.name in REGISTRIES[family].names()
    ]
    shipped = weights.manifest()
    if len(families) > 1:
        raise InputError(
            f"info: '{args.name}' is in {len(families)} families. Say --family "
            f"{' or --family '.join(families)}."
        )
    if families:
        _print_plugin(REGISTRIES[families[0]], args.name)
        own = (
            [name for name in shipped if _kind(name) == args.name]
            if families == ["denoiser"]
            else []
        )
        for name in own:
            print()
            try:
                _print_card(name)
            except WeightsError as error:
                print(f"weights {name}\n  cannot be read: {error}")
        if args.name == "mlpatch" and not own:
            print("\nNo weights are shipped; give a file: --set denoiser.weights=PATH")
    elif args.name in shipped and args.family in (None, "denoiser"):
        _print_card(args.name)
    else:
        known = sorted(
            {
                name
                for family, r in REGISTRIES.items()
                if args.family in (None, family)
                for name in r.names()
            }
            | {*shipped}
        )
        raise UnknownPlugin(
            f"info: no {args.family or 'plugin'} is called '{args.name}'. "
            f"{did_you_mean(args.name, known)}See: pnp-mlpatch list"
        )
    return 0


def _print_plugin(registry: Registry, name: str) -> None:
    found = registry.info(name)
    print(f"{name}: {registry.family}, {found.source or 'broken'}")
    if found.broken:
        print(f"\n{found.broken}")
        return
    if found.needs:
        print(
            f"needs: {', '.join(found.needs)}"
            + (f"; missing: {', '.join(found.missing)}" if found.missing else "")
        )
    print(f"\n{plain_text(found.doc)}\n\nsettings (--set {registry.family}.NAME=VALUE):")
    for p in inspect.signature(registry.get(name)).parameters.values():
        kind = "" if p.annotation is p.empty else f": {p.annotation}"
        print(
            f"  {p.name}{kind}" + (" (required)" if p.default is p.empty else f" = {p.default!r}")
        )
    for other, make in constructors(registry.get(name)).items():
        settings = [str(p).partition(":")[0] for p in inspect.signature(make).parameters.values()]
        first = plain_text(inspect.getdoc(make) or "").partition("\n")[0]
        print(f"or {', '.join(settings)} ({other})\n  {first}")


def _kind(name: str) -> str:
    """Return the denoiser that shipped weights belong to."""
    return weights.manifest()[name].get("kind", "mlpatch")


def _print_card(name: str) -> None:
    _, config, card = weights.load(weights.locate(name), kind=_kind(name))
    print(f"weights {name}")
    for title, values in (("card", card), ("config", config)):
        print(f"  {title}:")
        for key, value in values.items():
            print(f"    {key}: {value}")


LIST_EPILOG = """\
A plugin that cannot be imported is listed as BROKEN with the reason; the others are not affected.

Examples:
  pnp-mlpatch list
  pnp-mlpatch list denoisers
"""

INFO_EPILOG = """\
Examples:
  pnp-mlpatch info mlpatch          docstring, settings, shipped weights
  pnp-mlpatch info mlpatch-grey     the card of shipped weights
  pnp-mlpatch info admm --family solver
"""


def add_parser(commands: Any) -> None:
    """Add the commands ``list`` and ``info`` and their flags.

    Parameters
    ----------
    commands : argparse sub-parsers
        Where they are added.
    """
    sub = command(
        commands, "list", list_plugins, "List the operators, denoisers and solvers.", LIST_EPILOG
    )
    sub.add_argument(
        "family",
        nargs="?",
        choices=[f"{family}s" for family in REGISTRIES],
        help="only this family",
    )
    sub = command(
        commands,
        "info",
        show_info,
        "Tell what a plugin does, and its settings; or show the card of shipped weights.",
        INFO_EPILOG,
    )
    sub.add_argument("name", metavar="NAME", help="a plugin, or weights that ship with the package")
    sub.add_argument(
        "--family", choices=list(REGISTRIES), help="where a name is in several families"
    )
