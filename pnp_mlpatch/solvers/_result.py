"""What a run returns, how it is recorded, and how it is kept in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import torch_device
from pnp_mlpatch.errors import MissingPackage, WeightsError
from pnp_mlpatch.io import checkpoint
from pnp_mlpatch.solvers._state import State, state_from, state_types, state_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pnp_mlpatch.denoisers import Denoiser
    from pnp_mlpatch.operators import LinearOperator


@dataclass(frozen=True)
class Tuned:
    """Settings that were chosen from the data, and why; ``print`` it.

    Parameters
    ----------
    settings : dict
        The chosen settings, numbers or one for each image (B,).
    noise : float or Tensor
        Noise of the data.
    estimated : bool
        Whether the noise was estimated.
    tried : dict of str to Tensor
        Columns of equal length, a row for each iteration of each candidate, and "score" (S, B),
        their estimated error.
    why : str
        The reason, as a sentence.
    """

    settings: dict[str, Any]
    noise: float | Tensor
    estimated: bool
    tried: dict[str, Tensor]
    why: str

    def __str__(self) -> str:
        chosen = ", ".join(f"{name} = {_shown(value)}" for name, value in self.settings.items())
        known = "estimated" if self.estimated else "given"
        return f"{chosen}; noise {known}: {_shown(self.noise)}. {self.why}"


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        The estimate.
    status : str
        The one of ``statuses`` that needs attention most.
    state : State
        State after the last step, to resume from.
    history : dict of str to list of float
        Columns of equal length, a row for each iteration: "iteration", "residual", "seconds", the
        levels, what the steps measured, and what ``record`` asked for. Of one number
        an image it has the largest residual or measure, and the mean level.
    seconds : float
        Duration.
    statuses : tuple of str
        Outcome for each image:

        - "converged": the relative change fell below ``tol``;
        - "max_iter": it was still falling after ``iterations``, or ``tol`` is 0;
        - "stalled": it no longer fell;
        - "oscillating": it no longer fell, and the iterates went back and forth;
        - "stopped": by a callback, or at the iteration that tuning chose;
        - "outside": far outside the range of the start, though the data do not ask for that. The
          denoiser amplifies.
    per_image : dict of str to Tensor, shape (K, B)
        Residuals and measures of each image. An image at rest keeps its last.
    tuned : Tuned or None
        Settings that were chosen from the data.
    complex_image : bool
        Whether x holds the real and the imaginary part of a complex image. Its magnitude is drawn.
    """

    x: Tensor
    status: str
    state: State
    history: dict[str, list[float]]
    seconds: float
    statuses: tuple[str, ...] = ()
    per_image: dict[str, Tensor] = field(default_factory=dict)
    tuned: Tuned | None = None
    complex_image: bool = False

    def __repr__(self) -> str:
        """One line: how the run ended, and the range of x."""
        counts = ", ".join(f"{n} {status}" for status, n in Counter(self.statuses).items())
        outcome = counts if len(set(self.statuses)) > 1 else self.status
        low, high = float(self.x.detach().min()), float(self.x.detach().max())
        return (
            f"Result({outcome} after {self.state.iteration} iterations, {self.seconds:.3g} s, "
            f"x {tuple(self.x.shape)} from {low:.3g} to {high:.3g}"
            f"{'' if self.tuned is None else ', tuned'})"
        )

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows: a picture, how it ended; nothing without Pillow."""
        from pnp_mlpatch.viz._of_result import small_form

        try:
            return small_form(self)
        except MissingPackage:
            return None

    def plot(self) -> Figure:
        """Draw the image, the residuals, the levels and the time of each step.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from pnp_mlpatch.viz.result import result_figure

        return result_figure(self)

    def report(
        self,
        path: str | PathLike[str],
        *,
        q: Tensor | None = None,
        A: LinearOperator | None = None,
        noise: float | Tensor | None = None,
        D: Denoiser | None = None,
        truth: Tensor | None = None,
        start: Tensor | None = None,
        title: str | None = None,
        settings: Mapping[str, Any] | None = None,
        command: str = "",
        window: tuple[float, float] | None = None,
    ) -> None:
        r"""Write one HTML file that tells the result; it needs no network.

        It has the image with a window, a zoom and a slider against the start or the truth, the
        status in words, what was chosen from the data and why, and curves. What more it has
        depends on what is given. Of complex images the magnitude is shown and scored.

        Parameters
        ----------
        path : str or path
            The file, ending in .html.
        q : Tensor, shape (B, \*A.data_shape), optional
            The data, and with ``A`` how well the image fits them: chi-squared, the residual, and
            whether that is white.
        A : LinearOperator, optional
            The operator.
        noise : float or Tensor, optional
            Standard deviation of the noise; by default the one that the settings were chosen for.
        D : Denoiser, optional
            The denoiser, for the card of its weights.
        truth : Tensor, optional
            The truth, for PSNR and a map of the error.
        start : Tensor, optional
            What the result is compared with; by default ``A.initial(q)``.
        title : str, optional
            What was reconstructed.
        settings : mapping, optional
            Settings to list; those that are mappings become tables of their own.
        command : str
            What repeats the run.
        window : tuple of float, optional
            Values that are black and white at first.

        Raises
        ------
        InputError
            If the ending is another, or images have different shapes.
        FileError
            If the file cannot be written.
        MissingPackage
            Without jinja2, which ``pip install 'pnp-mlpatch[report]'`` brings.
        """
        from pnp_mlpatch.viz._of_result import report_of
        from pnp_mlpatch.viz.report import check_report, write_report

        check_report(path)
        told = report_of(
            self,
            q=q,
            A=A,
            noise=noise,
            D=D,
            truth=truth,
            start=start,
            title=title,
            settings=settings,
            command=command,
            window=window,
        )
        write_report(path, told)

    def to(self, device: torch.device | str) -> Result:
        """Return the result with image and state on a device; what was measured stays on the CPU.

        Parameters
        ----------
        device : torch.device or str
            The device.

        Returns
        -------
        Result
        """
        place = torch_device(device, "Result.to")
        return replace(self, x=self.x.to(place), state=self.state.to(place))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the result to one file, whole or not at all.

        ``Result.load`` reads it, and ``run(..., state=result.state)`` resumes from it.

        Parameters
        ----------
        path : str or path
            The file.

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"kind": "Result", "state": state_values(self.state)}
        values["tuned"] = None if self.tuned is None else asdict(self.tuned)
        checkpoint.save(path, values)

    @classmethod
    def load(cls, path: str | PathLike[str], map_location: torch.device | str = "cpu") -> Result:
        """Read a result that ``Result.save`` wrote.

        Parameters
        ----------
        path : str or path
            The file.
        map_location : torch.device or str
            The device to put it on.

        Returns
        -------
        Result

        Raises
        ------
        WeightsError
            If the file is damaged, or its state is of a solver that is not installed.
        """
        values, _ = checkpoint.load(path, "result")
        if "kind" not in values:
            raise WeightsError(f"{path}: not a saved result, but another checkpoint.")
        if values.pop("kind") != "Result":
            raise WeightsError(
                f"{path}: not a saved result. "
                "A state is read by load_state of the solver that made it."
            )
        since = {"statuses": (), "per_image": {}, "tuned": None, "complex_image": False}
        values = since | values  # older files lack some
        wrong = [name for name, kind in _KINDS.items() if not isinstance(values.get(name), kind)]
        if wrong or values.keys() != {f.name for f in fields(cls)}:
            raise WeightsError(
                f"{path}: a damaged result ({', '.join(wrong) or 'unknown parts'}). Save it again."
            )
        state, tuned = state_from(values["state"], state_types()), values["tuned"]
        if state is None:
            raise WeightsError(
                f"{path}: its state is of kind {values['state'].get('kind')}, "
                "which no solver here has. Import the one that made it, or save it again."
            )
        values |= {"state": state, "tuned": None if tuned is None else Tuned(**tuned)}
        return cls(**values).to(map_location)


_KINDS = {
    "x": Tensor,
    "status": str,
    "state": dict,
    "history": dict,
    "seconds": float,
    "statuses": tuple,
    "per_image": dict,
    "complex_image": bool,
}


def _shown(value: Any) -> str:
    """Return a number, or the range of several."""
    if not isinstance(value, Tensor):
        return f"{value:.4g}"
    low, high = float(value[torch.isfinite(value)].min()), float(value[torch.isfinite(value)].max())
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
