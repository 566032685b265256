"""What a status, chi-squared and the residual of the data mean, and what to do about it."""

from __future__ import annotations

STATUS = {  # what happened, what to do; docs/solvers.md says more
    "converged": ("The image no longer changed by more than the tolerance.", "Nothing to do."),
    "max_iter": (
        "The image was still changing when the iterations ended, or the tolerance is 0.",
        "If the last change is small, nothing. Else continue from result.state, give more "
        "iterations, or accelerate (solvers.anderson, --anderson 5).",
    ),
    "stalled": (
        "The change of the image no longer fell; the image drifts.",
        "Take fewer iterations or a smaller sigma.",
    ),
    "oscillating": (
        "The change of the image no longer fell; the image goes back and forth.",
        "Measure the denoiser by convergence.expansion. If it amplifies, use averaged(D); else "
        "take drs with relaxation below 1, or a smaller sigma.",
    ),
    "outside": (
        "The image is far outside the range of its start, and the data do not ask for that.",
        "Do not use it. The denoiser amplifies (use averaged, or a smaller sigma), or the image "
        "is not in the range of the denoiser (use rescaled).",
    ),
    "stopped": ("A callback, or the iteration that the search chose, ended the run.", "Nothing."),
    "fbp": ("Filtered backprojection alone, as asked for.", "Leave out --fbp to reconstruct."),
    "nothing measured": (
        "No reading of this slice was usable; it became air.",
        "Look at the scan: counts, blank, dark.",
    ),
    "done": ("All samples were drawn.", "Nothing to do."),
}
BAD = ("outside", "oscillating", "stalled", "nothing measured")


def tone(status: str) -> str:
    """Return how a status is coloured: "good", "fair" or "bad"."""
    if status in BAD:
        return "bad"
    return "fair" if status in ("max_iter", "fbp") else "good"


def say_chi2(chi2: float, estimated: bool) -> str:
    """Say what chi-squared per datum means; ``estimated`` is whether the noise was."""
    caution = " The noise was estimated, and chi^2 is no better than that." if estimated else ""
    if chi2 > 1.5:
        return (
            "The image does not fit its data. Look at the operator, the units, outliers, and at "
            f"the noise.{caution}"
        )
    if chi2 > 1.1:
        return (
            "A little more than noise is left: the image is smoothed too much, or the noise is "
            f"larger than thought.{caution}"
        )
    if chi2 < 0.9:
        return (
            "The image fits its data closer than their noise does: the data are few for so many "
            f"pixels, sigma is small, or the noise is less than thought.{caution}"
        )
    return f"Noise is all that is left.{caution}"


def say_whiteness(largest: float, where: str, chance: float) -> str:
    """Say what the largest correlation of neighbours means; ``chance`` bounds that of noise."""
    if abs(largest) <= chance:
        return "White: neighbours are correlated no more than those of noise."
    if abs(largest) < 0.1:
        return f"Nearly white: the largest correlation of neighbours is {largest:.2g} ({where})."
    if largest > 0:
        return (
            f"Not white: neighbours have a correlation of {largest:.2g} ({where}). The data show "
            "something that the image does not: detail that was smoothed, or a fault of the "
            "operator."
        )
    return (
        f"Not white: neighbours have a correlation of {largest:.2g} ({where}). The image follows "
        "the noise, or the noise of the data is not white itself."
    )
