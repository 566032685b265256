r"""The base class of linear operators: public methods that check, and the hooks behind them.

The data step of all solvers is

.. math::

    h(z; \alpha) = \arg\min_f \tfrac12 |A f - q|^2 + \tfrac{\alpha}{2} |f - z|^2
                 = (A^H A + \alpha)^{-1} (A^H q + \alpha z)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.linalg import CGInfo, Map, largest_eigenvalue, power_of_two
from pnp_mlpatch.operators._algebra import Algebra, between
from pnp_mlpatch.operators._autograd import Linear, Solve, full_precision
from pnp_mlpatch.operators._inputs import (
    alpha_column,
    check_image_shape,
    check_tensor,
    check_weight,
)
from pnp_mlpatch.operators._place import device_of
from pnp_mlpatch.operators._start import smooth_start
from pnp_mlpatch.registry import Registry

registry = Registry("operator", package="pnp_mlpatch.operators")
register = registry.register


class LinearOperator(Algebra, nn.Module, ABC):
    r"""A linear map A from images (B, C, H, W) to data (B, \*data_shape), real in and real out.

    A subclass writes two hooks, ``_forward`` and ``_adjoint``: batches in, batches out, no checks.
    It may write others where it does better than the default: ``_normal`` (:math:`A^H A`),
    ``_inverse`` (the data step in closed form), ``_precondition``, ``_initial`` and ``_weighted``.
    The public methods check their input, call the hook and carry gradients; they are not
    overridden. A plugin also has ``example()``, a tiny instance for the contract tests. Tensors are
    float32 or float64.

    Parameters
    ----------
    image_shape : sequence of int
        (C, H, W).
    data_shape : sequence of int
        The shape of the data of one image.

    Attributes
    ----------
    verified : bool
        Operators from outside this package are checked when a solver first uses them
        (:func:`~pnp_mlpatch.operators._foreign.check_foreign`). True leaves the check out.
    constructors : tuple of str
        The names of class methods that make the operator from ``image_shape`` and a few numbers.
    complex_image : bool
        Whether the two channels of the image are a real and an imaginary part.
    row_orthonormal : bool
        Whether :math:`A A^H = 1`, from which the data step follows in closed form.

    Raises
    ------
    InputError
        If ``image_shape`` is not three integers >= 1.
    """

    verified = False
    constructors: ClassVar[tuple[str, ...]] = ()
    complex_image: bool = False
    row_orthonormal: bool = False

    def __init__(self, image_shape: Sequence[int], data_shape: Sequence[int]):
        super().__init__()
        self.image_shape = check_image_shape(type(self).__name__, image_shape)
        self.data_shape = tuple(data_shape)

    # ---- public

    def forward(self, x: Tensor) -> Tensor:
        r"""Apply the operator, :math:`A x`.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
            Images.

        Returns
        -------
        Tensor, shape (B, \*data_shape)
        """
        self._check(x, "image", "A(x)")
        return Linear.apply(x, self, "forward")

    def adjoint(self, y: Tensor) -> Tensor:
        r"""Apply the adjoint, :math:`A^H y`.

        Parameters
        ----------
        y : Tensor, shape (B, \*data_shape)
            Data.

        Returns
        -------
        Tensor, shape (B, C, H, W)

        Notes
        -----
        .. math:: \langle A x, y \rangle = \langle x, A^H y \rangle
        """
        self._check(y, "data", "A.adjoint(y)")
        return Linear.apply(y, self, "adjoint")

    def normal(self, x: Tensor) -> Tensor:
        r"""Apply :math:`A^H A`.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
            Images.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        self._check(x, "image", "A.normal(x)")
        return Linear.apply(x, self, "normal")

    def norm(self, *, iterations: int = 100, tol: float = 1e-3) -> float:
        r"""Return an upper bound of the spectral norm :math:`|A|`, by the Lanczos method.

        The start is random, with a fixed seed. The bound fails only if the start does not contain
        the leading singular vector, which is very unlikely.

        Parameters
        ----------
        iterations : int
            The most applications of :math:`A^H A`. If they are used up, the bound may be more than
            ``tol`` too high.
        tol : float
            How much too high the bound may be, relative to :math:`|A|`.

        Returns
        -------
        float
            With one weight for each image of a batch, the largest of their norms.
        """
        return self._norm(iterations, tol)

    def data_step(
        self,
        z: Tensor,
        alpha: float | Tensor,
        *,
        Aty: Tensor,
        x0: Tensor | None = None,
        tol: float = 1e-6,
        max_iter: int = 100,
    ) -> tuple[Tensor, CGInfo]:
        r"""Solve :math:`(A^H A + \alpha) f = A^H q + \alpha z`.

        Operators with a closed form are exact. The others run preconditioned conjugate gradients.
        Gradients to ``z``, ``Aty`` and ``alpha`` are those of the exact solution.

        Parameters
        ----------
        z : Tensor, shape (B, C, H, W)
            The image to stay close to.
        alpha : float or Tensor, shape (B,)
            How much so, > 0.
        Aty : Tensor, shape (B, C, H, W)
            ``A.adjoint(q)``.
        x0 : Tensor, shape (B, C, H, W), optional
            The start of the iteration; ``z`` if it is not given.
        tol : float
            Stop at this relative residual.
        max_iter : int
            Stop after so many steps.

        Returns
        -------
        f : Tensor, shape (B, C, H, W)
        info : CGInfo
            The steps taken and the relative residual of each image; 0 and 0 in closed form.
        """
        self._check(z, "image", "A.data_step(z)")
        self._check(Aty, "image", "A.data_step(Aty=)", "image (the adjoint of the data)")
        if x0 is not None:
            self._check(x0, "image", "A.data_step(x0=)")
        for name, other in (("Aty", Aty), ("x0", x0)):
            if other is not None and other.shape[0] not in (1, z.shape[0]):
                raise InputError(
                    f"{self._who()}.data_step: z has {z.shape[0]} images, {name} has "
                    f"{other.shape[0]}. Give both one batch."
                )
        column = alpha_column(self, alpha, z)
        with full_precision(z):
            inverse = self._inverse(column)
            if inverse is None:
                return self._solve(z, column, Aty, z if x0 is None else x0, tol, max_iter)
            return inverse(Aty + column * z), CGInfo(0, z.new_zeros(z.shape[0]))

    @property
    def closed_form(self) -> bool:
        """Whether the data step has a closed form; it takes iterations otherwise."""
        return type(self)._inverse is not LinearOperator._inverse or self.row_orthonormal

    @property
    def device(self) -> torch.device:
        """The device of the buffers; without any that of the data, which solvers pass on."""
        return device_of(self)

    def initial(self, q: Tensor) -> Tensor:
        r"""Return an image to start from.

        Parameters
        ----------
        q : Tensor, shape (B, \*data_shape)
            Data.

        Returns
        -------
        Tensor, shape (B, C, H, W)
        """
        self._check(q, "data", "A.initial(q)")
        with full_precision(q):
            return self._initial(q)

    def weighted(self, weight: Tensor) -> LinearOperator:
        r"""Return the operator :math:`f \mapsto w \cdot (A f)`. Noise maps are carried this way.

        Parameters
        ----------
        weight : Tensor
            Finite, >= 0, not all zero. It broadcasts to data_shape, or is (B, \*data_shape) with
            one map for each image.

        Returns
        -------
        LinearOperator
            With one map for each image it takes batches of that size only.
        """
        weight = check_weight(self, weight)
        if weight.ndim > len(self.data_shape):
            return self._weighted_each(weight)
        return self._weighted(weight)

    def for_images(self, rows: Tensor) -> LinearOperator:
        """Return the operator for some images of a batch.

        Parameters
        ----------
        rows : Tensor of int64
            The numbers of the images.

        Returns
        -------
        LinearOperator
            Itself, unless it has one weight for each image.
        """
        return self

    @classmethod
    def example(cls) -> LinearOperator:
        """Return a tiny instance, not square if possible, on which the contract tests run.

        Returns
        -------
        LinearOperator
        """
        raise InputError(
            f"{cls.__name__}: has no example(), a class method that makes a tiny instance. "
            "Write one, or make it by its constructor."
        )

    # ---- hooks

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self._forward(x))

    def _inverse(self, alpha: Tensor) -> Map | None:
        """Return b -> (A^H A + alpha)^-1 b, where it has a closed form; alpha (B, 1, 1, 1)."""
        return between(self, alpha, lambda y: y / (1 + alpha)) if self.row_orthonormal else None

    def _precondition(self, alpha: Tensor) -> Map | None:
        """Return a map close to (A^H A + alpha)^-1, symmetric positive definite, or None."""
        return self._inverse(alpha)

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map | None:
        """Return the same for A^H w^2 A + alpha; by default with the mean of w^2 of each image."""
        each = weight.ndim > len(self.data_shape)
        mean = weight.square().flatten(1 if each else 0).mean(-1).to(alpha).reshape(-1, 1, 1, 1)
        inner = self._precondition(alpha / mean)
        return None if inner is None else lambda r: inner(r) / mean

    def _solve(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> tuple[Tensor, CGInfo]:
        """Do the data step by iterations."""
        f, residual, steps = Solve.apply(Aty + alpha * z, alpha, x0, self, tol, max_iter)
        return f, CGInfo(int(steps), residual)

    def _initial(self, q: Tensor) -> Tensor:
        return smooth_start(self, q)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor | None:
        """Return data for the start where none were ``seen``, or None for the smooth start."""
        return None

    def _weighted(self, weight: Tensor) -> LinearOperator:
        from pnp_mlpatch.operators._weighted import Weighted  # a subclass

        return Weighted(self, weight)

    def _weighted_each(self, weight: Tensor) -> LinearOperator:
        r"""As ``_weighted``, with one weight for each image, (B, \*data_shape)."""
        return LinearOperator._weighted(self, weight)

    def _norm(self, iterations: int, tol: float) -> float:
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(1, *self.image_shape, generator=generator).to(self.device)
        with torch.no_grad():
            # in units in which |A|^2 stays in the range of float32
            size = self.forward(start).abs().max()
            unit = float(power_of_two(size)) if bool(size > 0) else 1.0
            scaled = largest_eigenvalue(
                lambda x: self.normal(x / unit) / unit, start, iterations=iterations, tol=2 * tol
            )
        return unit * math.sqrt(max(0.0, scaled))

    # ---- checks

    def _who(self) -> str:
        """Return the name in error messages."""
        return type(self).__name__

    def _check(self, x: Tensor, kind: str, call: str, expected: str | None = None) -> None:
        check_tensor(self, x, kind, call, expected or kind)
