"""One check of a contract, and what turns a list of them into an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from pnp_mlpatch.errors import ContractError, PnPError


@dataclass(frozen=True)
class Check:
    """One check of a contract.

    Parameters
    ----------
    name : str
        What holds if the check passes.
    passed : bool
        Whether it does.
    detail : str
        The measured figure, or the reason.
    """

    name: str
    passed: bool
    detail: str = ""


def judge(who: str, checks: Iterable[Check]) -> list[Check]:
    """Carry out all checks.

    Parameters
    ----------
    who : str
        What is checked, for the message.
    checks : iterable of Check
        The checks, made one by one.

    Returns
    -------
    list of Check

    Raises
    ------
    ContractError
        If one fails; the message lists all that do.
    """
    done = list(checks)
    failed = [check for check in done if not check.passed]
    if failed:
        lines = "\n".join(f"  - {check.name}: {check.detail}" for check in failed)
        raise ContractError(f"{who} breaks {len(failed)} of {len(done)} checks:\n{lines}")
    return done


def relative(a: Tensor, b: Tensor) -> float:
    """Return the distance of two tensors, relative to the second.

    Parameters
    ----------
    a, b : Tensor
        Of one shape.

    Returns
    -------
    float
    """
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def at_most(name: str, value: float, bound: float, advice: str = "") -> Check:
    """Check that a figure is at most ``bound``.

    Parameters
    ----------
    name : str
        What holds then.
    value : float
        The figure.
    bound : float
        Its bound.
    advice : str
        What to do otherwise.

    Returns
    -------
    Check
    """
    passed = math.isfinite(value) and value <= bound
    return Check(name, passed, f"{value:.2e} (at most {bound:.0e}). {advice}".strip())


def guarded(name: str, function: Callable[[], Check]) -> Check:
    """Make a check that fails if its function raises.

    Parameters
    ----------
    name : str
        What holds if it passes.
    function : callable
        Makes the check.

    Returns
    -------
    Check
    """
    try:
        return function()
    except Exception as error:
        return Check(name, False, f"raised {type(error).__name__}: {error}")


def refuses(function: Callable[[object], object], bad: Iterable[object]) -> Check:
    """Check that a function raises one of this package's errors for each of some arguments.

    Parameters
    ----------
    function : callable
        Takes one argument.
    bad : iterable of object
        The arguments.

    Returns
    -------
    Check
    """
    name = "bad input is refused"
    for value in bad:
        try:
            function(value)
        except PnPError:
            continue
        except Exception as error:
            return Check(name, False, f"raised {type(error).__name__}: {error}")
        shown = f"{getattr(value, 'shape', '')} {getattr(value, 'dtype', '')}"
        return Check(name, False, f"{type(value).__name__} {shown} went through")
    return Check(name, True)
