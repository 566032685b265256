"""To and from ``deepinv.physics.LinearPhysics`` (Tachella et al. 2025)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.interop.functions import checked_operator, checked_shape, hint
from pnp_mlpatch.operators import LinearOperator


class DeepinvOperator(LinearOperator):
    """The operator that :func:`from_deepinv` makes.

    Parameters
    ----------
    physics : deepinv.physics.LinearPhysics
        Its own copy.
    image_shape : sequence of int
        (C, H, W).
    data_shape : sequence of int
        The shape of the data of one image.
    """

    def __init__(self, physics: Any, image_shape: Sequence[int], data_shape: Sequence[int]):
        super().__init__(image_shape, data_shape)
        self.physics = physics
        base = require("deepinv.physics", "from_deepinv")
        self.complex_image = isinstance(physics, (base.MRI, base.MultiCoilMRI))

    @classmethod
    def example(cls) -> LinearOperator:
        """Return deepinv's blur with zero padding."""
        physics = require("deepinv.physics", "from_deepinv")
        psf = torch.tensor([[[[0.1, 0.2, 0.1], [0.3, 0.2, 0.1]]]])
        return from_deepinv(physics.Blur(filter=psf, padding="constant"), (2, 8, 11))

    def __deepcopy__(self, memo: dict) -> DeepinvOperator:
        return DeepinvOperator(_copied(self.physics), self.image_shape, self.data_shape)

    def _who(self) -> str:
        return f"from_deepinv({type(self.physics).__name__})"

    def _forward(self, x: Tensor) -> Tensor:
        return self.physics.A(x.detach().to(_dtype(self.physics))).to(x.dtype)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y.detach().to(_dtype(self.physics))).to(y.dtype)


def _copied(physics: Any) -> Any:
    try:
        return copy.deepcopy(physics)
    except TypeError:  # older torch cannot copy random generators; deepinv's slow clone can
        return physics.clone()


def _dtype(physics: Any) -> torch.dtype:
    """Return the precision of a physics: that of its first real buffer, float32 as it is made."""
    return next((b.dtype for b in physics.buffers() if b.is_floating_point()), torch.float32)


def from_deepinv(physics: Any, image_shape: Sequence[int]) -> LinearOperator:
    r"""Make an operator of a ``LinearPhysics``: A = ``physics.A``, A^T = ``physics.A_adjoint``.

    Noise and sensor models are not applied. Data are real tensors, whose shape is found by applying
    A to a zero image; deepinv's MRI has complex numbers as two channels, as here. The physics is
    copied, so that neither changes the other, and runs in its own precision. What came from
    :func:`to_deepinv` is unwrapped, with its closed forms.

    Parameters
    ----------
    physics : deepinv.physics.LinearPhysics
        The physics.
    image_shape : sequence of int
        (C, H, W).

    Returns
    -------
    LinearOperator

    Raises
    ------
    InputTypeError
        If the physics is not linear, or its data are complex or several tensors.
    InputError
        If the physics does not take images of this shape.

    Notes
    -----
    Some adjoints of deepinv are not matched, as that of ``Tomography(adjoint_via_backprop=False)``:
    see ``pnp_mlpatch.testing.adjoint_mismatch``.
    """
    physics_classes = require("deepinv.physics", "from_deepinv")
    if not isinstance(physics, physics_classes.LinearPhysics):
        if isinstance(physics, physics_classes.Physics):
            raise InputTypeError(
                f"from_deepinv: {type(physics).__name__} is not linear (no LinearPhysics), "
                "and these solvers need A and A^T."
            )
        raise InputTypeError(
            f"from_deepinv: expected a deepinv LinearPhysics, got {type(physics).__name__}."
            f"{hint(physics)}"
        )
    who = f"from_deepinv({type(physics).__name__})"
    image_shape = checked_shape(image_shape, who, "image_shape", axes=3)
    try:
        physics = _copied(physics)
    except Exception as error:  # whatever the copied object raises
        raise InputError(
            f"{who}: the physics cannot be copied ({type(error).__name__}: {error}). "
            "Use from_functions(physics.A, physics.A_adjoint, image_shape, data_shape)."
        ) from error
    if isinstance(physics, _physics_class()):
        if physics.operator.image_shape != image_shape:
            raise InputError(
                f"{who}: image_shape must be that of its operator, "
                f"{physics.operator.image_shape}, got {image_shape}."
            )
        return physics.operator
    return DeepinvOperator(physics, image_shape, _data_shape(physics, image_shape, who))


def _data_shape(physics: Any, image_shape: tuple[int, ...], who: str) -> tuple[int, ...]:
    """Return the shape of the data of one image; raise if the physics does not fit."""
    device = next((b.device for b in physics.buffers()), torch.device("cpu"))
    try:
        with torch.no_grad():
            data = physics.A(torch.zeros(1, *image_shape, dtype=_dtype(physics), device=device))
    except Exception as error:  # deepinv and torch raise many kinds
        elsewhere = " Move its buffers there: physics.to('cuda')." * ("same device" in str(error))
        raise InputError(
            f"{who}: the physics does not take images of shape {image_shape} on {device} "
            f"({type(error).__name__}: {error}).{elsewhere}"
        ) from error
    if not isinstance(data, Tensor):
        raise InputTypeError(
            f"{who}: the data must be one tensor, got a {type(data).__name__}. "
            "Wrap the parts of a stacked physics singly."
        )
    if data.is_complex():
        raise InputTypeError(
            f"{who}: the data must be real, got {data.dtype}. "
            "Complex values travel as two channels: torch.view_as_real."
        )
    if data.ndim < 2 or data.shape[0] != 1:
        raise InputError(
            f"{who}: a batch of one image must give a batch of one, "
            f"got data of shape {tuple(data.shape)}."
        )
    if bool(data.any()):
        raise InputError(f"{who}: A(0) is not 0, so A is not linear.")
    return tuple(data.shape[1:])


@cache
def _physics_class() -> type:
    physics = require("deepinv.physics", "to_deepinv")

    class OperatorPhysics(physics.LinearPhysics):
        """The physics that :func:`to_deepinv` makes, with deepinv's signatures.

        Keywords that A does not need are ignored.
        """

        def __init__(self, operator: LinearOperator, max_iter: int, tol: float):
            super().__init__(
                img_size=operator.image_shape,
                noise_model=physics.ZeroNoise(),
                max_iter=max_iter,
                tol=tol,
                solver="CG",
                device=operator.device,
            )
            self.operator = operator

        def A(self, x: Tensor, **kwargs: Any) -> Tensor:
            return self.operator(x)

        def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
            return self.operator.adjoint(y)

        def A_adjoint_A(self, x: Tensor, **kwargs: Any) -> Tensor:
            return self.operator.normal(x)

        def prox_l2(
            self,
            z: Tensor | float | None,
            y: Tensor,
            gamma: float | Tensor,
            solver: str | None = None,
            max_iter: int | None = None,
            tol: float | None = None,
            verbose: bool = False,
            **kwargs: Any,
        ) -> Tensor:
            """h(z; 1 / gamma) of the operator; ``solver`` and ``verbose`` have no effect."""
            Aty = self.operator.adjoint(y)
            if isinstance(gamma, Tensor) and gamma.numel() not in (1, len(Aty)):
                raise InputError(
                    f"to_deepinv: gamma must be a number or of shape ({len(Aty)},), "
                    f"one an image, got {tuple(gamma.shape)}."
                )
            if not isinstance(z, Tensor):
                z = torch.full_like(Aty, 0.0 if z is None else float(z))
            return self.operator.data_step(
                z,
                1 / gamma,
                Aty=Aty,
                tol=self.tol if tol is None else tol,
                max_iter=self.max_iter if max_iter is None else max_iter,
            )[0]

    return OperatorPhysics


def to_deepinv(A: LinearOperator, *, max_iter: int = 100, tol: float = 1e-6) -> Any:
    """Make a ``deepinv.physics.LinearPhysics`` for deepinv's solvers, losses and networks.

    ``prox_l2(z, y, gamma)`` is the data step h(z; 1 / gamma), with gamma a number or a tensor (B,).
    ``A_dagger`` is deepinv's. Gradients flow through all of them. A is held, not copied: moving the
    physics moves A. There is no noise; set ``noise_model``.

    Parameters
    ----------
    A : LinearOperator
        The operator.
    max_iter : int
        The most steps of conjugate gradients, where the data step has no closed form.
    tol : float
        Their relative residual.

    Returns
    -------
    deepinv.physics.LinearPhysics

    Raises
    ------
    InputTypeError
        If A is not an operator of this package.
    """
    return _physics_class()(checked_operator(A, "to_deepinv"), max_iter, tol)
