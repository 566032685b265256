"""The Chebyshev polynomials of SK-ROCK."""

from __future__ import annotations

ETA = 0.05  # the damping of the polynomials


def longest(stages: int) -> float:
    """Return the longest stable step times L.

    Parameters
    ----------
    stages : int
        Number of stages.

    Returns
    -------
    float
    """
    return (stages - 0.5) ** 2 * (2 - 4 / 3 * ETA) - 1.5


def chebyshev(stages: int) -> tuple[list[float], float]:
    """Return the Chebyshev polynomials that the coefficients are made of.

    Parameters
    ----------
    stages : int
        Number of stages, m.

    Returns
    -------
    tuple of list of float, and float
        T_0, ..., T_m at w_0 = T_1, and w_1 = T_m / T'_m there.
    """
    w_0 = 1 + ETA / stages**2
    T, U = [1.0, w_0], [1.0, 2 * w_0]
    for _ in range(2, stages + 1):
        T.append(2 * w_0 * T[-1] - T[-2])
        U.append(2 * w_0 * U[-1] - U[-2])
    return T, T[stages] / (stages * U[stages - 1])
