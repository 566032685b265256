r"""What a linear operator is: the public methods, the hooks behind them, and the exact data step of the decomposable ones.

The data step of all solvers is

    h(z; alpha) = argmin_f 1/2 |A f - q|^2 + alpha/2 |f - z|^2 = (A^H A + alpha)^-1 (A^H q + alpha z)
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of
from pnp_mlpatch.linalg import CGInfo, laplacian, largest_eigenvalue, pcg, power_of_two
from pnp_mlpatch.registry import Registry

registry = Registry("operator", package="pnp_mlpatch.operators")
register = registry.register

Report = Callable[[CGInfo], object]

SMOOTH = 1e-2  # the weight of the Laplacian in the start of operators that have none of their own, relative to |A|^2
START_STEPS = 100  # of conjugate gradients for it, at most

_TRANSPOSE = {"forward": "adjoint", "adjoint": "forward", "normal": "normal"}


def _full_precision(x: Tensor) -> torch.autocast:
    """The arithmetic of operators is that of their input, within ``torch.autocast`` too: sparse products know no other."""
    return torch.autocast(x.device.type, enabled=False)


class _Linear(torch.autograd.Function):
    """A linear map for autograd: its backward is the transposed map, its forward-mode derivative the map itself."""

    @staticmethod
    def forward(x: Tensor, operator: LinearOperator, kind: str) -> Tensor:
        with _full_precision(x):
            return getattr(operator, "_" + kind)(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.operator, ctx.kind = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return (
            _Linear.apply(gradients[0].contiguous(), ctx.operator, _TRANSPOSE[ctx.kind]),
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Linear.apply(tangents[0], ctx.operator, ctx.kind)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        x, operator, kind = args
        x = x.movedim(in_dims[0], 0)
        y = _Linear.apply(x.flatten(0, 1), operator, kind)
        return y.unflatten(0, x.shape[:2]), 0


class _Solve(torch.autograd.Function):
    """f = (A^H A + alpha)^-1 b by conjugate gradients; the derivative is that of the solution, wherever the iteration started.

    With v = (A^H A + alpha)^-1 g for the gradient g of f: v is the gradient of b, -<v, f> that of alpha.
    """

    @staticmethod
    def forward(
        b: Tensor,
        alpha: Tensor,
        x0: Tensor,
        operator: LinearOperator,
        tol: float,
        max_iter: int,
        report: Report | None,
    ) -> Tensor:
        with _full_precision(b):
            precondition = operator._precondition(alpha)
            x, info = pcg(
                lambda x: operator._normal(x) + alpha * x,
                b,
                x0,
                precondition=precondition,
                tol=tol,
                max_iter=max_iter,
            )
        if report is not None:
            report(info)
        return x.clone() if x is x0 else x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, alpha, _, ctx.operator, ctx.tol, ctx.max_iter, _ = inputs
        ctx.save_for_backward(alpha, output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        """One batch of all images; the report is of the whole batch."""
        b, alpha, x0 = (
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(args[:3], in_dims[:3], strict=True)
        )
        images = torch.broadcast_shapes(b.shape, x0.shape)
        parts = [t.expand(*images[:2], *t.shape[2:]).flatten(0, 1) for t in (b, alpha, x0)]
        return _Solve.apply(*parts, *args[3:]).unflatten(0, images[:2]), 0

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        alpha, f = ctx.saved_tensors
        g = gradients[0].contiguous()
        v = _Solve.apply(
            g, alpha, torch.zeros_like(g), ctx.operator, ctx.tol, max(ctx.max_iter, 100), None
        )
        by_alpha = -(v * f).flatten(1).sum(1).reshape(-1, 1, 1, 1)
        return (
            v,
            by_alpha if alpha.shape[0] > 1 else by_alpha.sum(0, keepdim=True),
            None,
            None,
            None,
            None,
            None,
        )


class LinearOperator(nn.Module, ABC):
    r"""A linear map A from images (B, \*image_shape) to data (B, \*data_shape), real in and real out.

    A subclass gives the two hooks ``_forward`` and ``_adjoint`` (batches in, batches out, no checks needed), and, where it can do better than
    the default, ``_normal`` (A^H A), ``_data_step`` (h in closed form), ``_precondition``, ``_initial`` and ``_weighted``.
    The public methods check their input, call the hook, and carry gradients (the backward of A is A^H); they are not
    overridden. A plugin also has ``example()``, which makes a tiny instance for the contract tests.

    Float32 and float64 tensors are taken; anything else is refused by name.

    Operators that are not of this package are checked once, when a solver first uses them (:func:`check_foreign`); ``verified = True`` leaves that out.
    """

    verified = False

    def __init__(self, image_shape: Sequence[int], data_shape: Sequence[int]):
        super().__init__()
        if (
            not isinstance(image_shape, Sequence)
            or len(image_shape) != 3
            or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in image_shape)
        ):
            raise InputError(
                f"{type(self).__name__}: image_shape must be (C, H, W), three integers >= 1, got {image_shape!r}."
            )
        self.image_shape, self.data_shape = tuple(image_shape), tuple(data_shape)

    # ---- public

    def forward(self, x: Tensor) -> Tensor:
        """A x: (B, C, H, W) -> (B, *data_shape)."""
        self._check(x, self.image_shape, "A(x)", "image", "data", self.data_shape)
        return _Linear.apply(x, self, "forward")

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y: (B, *data_shape) -> (B, C, H, W), with <A x, y> = <x, A^H y>."""
        self._check(y, self.data_shape, "A.adjoint(y)", "data", "image", self.image_shape)
        return _Linear.apply(y, self, "adjoint")

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x: (B, C, H, W) -> (B, C, H, W)."""
        self._check(x, self.image_shape, "A.normal(x)", "image", "data", self.data_shape)
        return _Linear.apply(x, self, "normal")

    def norm(self, *, iterations: int = 100, tol: float = 1e-3) -> float:
        """An upper bound of the spectral norm |A|, at most ``tol`` too high (relative), by Lanczos from a fixed random start.

        It is a bound with near certainty, not with certainty: a singular vector that the random start does not contain, as far as float32
        tells, is not found.

        Parameters
        ----------
        iterations : int
            The most applications of A^H A. If they are used up, the bound may be more than ``tol`` too high.
        tol : float
            How much too high the bound may be, relative to |A|.

        Returns
        -------
        float
        """
        start = torch.randn(1, *self.image_shape, generator=torch.Generator().manual_seed(0)).to(
            self._device()
        )
        with torch.no_grad():
            # of units in which |A|^2 would leave the range of float32
            size = self.forward(start).abs().max()
            unit = float(power_of_two(size)) if bool(size > 0) else 1.0
            scaled = largest_eigenvalue(
                lambda x: self.normal(x / unit) / unit, start, iterations=iterations, tol=2 * tol
            )
        return unit * math.sqrt(max(0.0, scaled))

    def data_step(
        self,
        z: Tensor,
        alpha: float | Tensor,
        *,
        Aty: Tensor,
        x0: Tensor | None = None,
        tol: float = 1e-6,
        max_iter: int = 100,
        report: Report | None = None,
    ) -> Tensor:
        """h(z; alpha) = (A^H A + alpha)^-1 (Aty + alpha z), with ``Aty = A.adjoint(q)``.

        ``alpha`` > 0 is a number or a tensor (B,). Operators with a closed form are exact. The others run preconditioned
        conjugate gradients from ``x0`` (default ``z``) until the relative residual is ``tol``, or for ``max_iter`` steps; gradients
        to z, Aty and alpha are those of the exact solution. ``report`` is called with the :class:`~pnp_mlpatch.linalg.CGInfo`: the
        steps taken and the relative residual that each image reached; 0 and 0 where the step is exact.
        """
        self._check(z, self.image_shape, "A.data_step(z)", "image", "data", self.data_shape)
        self._check(
            Aty,
            self.image_shape,
            "A.data_step(Aty=)",
            "image (the adjoint of the data)",
            "data",
            self.data_shape,
        )
        if x0 is not None:
            self._check(x0, self.image_shape, "A.data_step(x0=)", "image", "data", self.data_shape)
        for name, other in (("Aty", Aty), ("x0", x0)):
            if other is not None and other.shape[0] not in (1, z.shape[0]):
                raise InputError(
                    f"{self._who()}.data_step: z has {z.shape[0]} images, {name} has {other.shape[0]}. Give both one batch."
                )
        column, start = self._alpha(alpha, z), z if x0 is None else x0
        with _full_precision(z):
            if not self.closed_form:
                f, info = self._solve(z, column, Aty, start, tol, max_iter)
            else:
                f, info = (
                    self._data_step(z, column, Aty, start, tol, max_iter),
                    CGInfo(0, z.new_zeros(z.shape[0])),
                )
        if report is not None:
            report(info)
        return f

    @property
    def closed_form(self) -> bool:
        """Whether the data step has a closed form; it takes iterations otherwise."""
        return type(self)._data_step is not LinearOperator._data_step

    def initial(self, q: Tensor) -> Tensor:
        """Where an expert would start from: (B, *data_shape) -> (B, C, H, W)."""
        self._check(q, self.data_shape, "A.initial(q)", "data", "image", self.image_shape)
        with _full_precision(q):
            return self._initial(q)

    def weighted(self, weight: Tensor) -> LinearOperator:
        """The operator f -> weight * (A f); ``weight`` >= 0 broadcasts to data_shape, or has one map for each image, (B, *data_shape).

        Noise maps are carried this way. An operator with one weight for each image takes batches of that size only.
        """
        if not isinstance(weight, Tensor) or weight.is_complex():
            got = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
            raise InputTypeError(
                f"{self._who()}.weighted: the weight must be a real torch tensor, got {got}."
            )
        weight = weights_of(weight, f"{self._who()}.weighted")
        batch = weight.shape[:1] if weight.ndim == len(self.data_shape) + 1 else ()
        try:
            weight = torch.broadcast_to(weight.detach(), (*batch, *self.data_shape))
        except RuntimeError as error:
            raise InputError(
                f"{self._who()}.weighted: a weight of shape {tuple(weight.shape)} does not broadcast to data {self.data_shape}."
            ) from error
        if batch == (1,):
            weight = weight[0]
        if (
            not bool(torch.isfinite(weight).all())
            or float(weight.min()) < 0
            or not bool(weight.any())
        ):
            raise InputError(
                f"{self._who()}.weighted: weights must be finite, >= 0 and not all zero."
            )
        return (
            Weighted(self, weight) if weight.ndim > len(self.data_shape) else self._weighted(weight)
        )

    def for_images(self, rows: Tensor) -> LinearOperator:
        """The operator for the images ``rows`` of a batch only; itself, unless it has one weight for each image."""
        return self

    @classmethod
    def example(cls) -> LinearOperator:
        """A tiny instance, non-square where it can be, on which the contract tests run; registered operators need one."""
        raise InputError(
            f"{cls.__name__}: has no example(), a class method that makes a tiny instance. Write one, or make it by its constructor."
        )

    # ---- hooks

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self._forward(x))

    def _data_step(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> Tensor:
        return self._solve(z, alpha, Aty, x0, tol, max_iter)[0]

    def _solve(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> tuple[Tensor, CGInfo]:
        """The data step by iterations, and what it reached."""
        reached: list[CGInfo] = []
        f = _Solve.apply(Aty + alpha * z, alpha, x0, self, tol, max_iter, reached.append)
        return f, reached[0]

    def _precondition(self, alpha: Tensor) -> Callable[[Tensor], Tensor] | None:
        """A map close to (A^H A + alpha)^-1, symmetric positive definite, or None."""
        return None

    def _precondition_weighted(
        self, alpha: Tensor, weight: Tensor
    ) -> Callable[[Tensor], Tensor] | None:
        """The same for (A^H w^2 A + alpha)^-1; by default that of A at the mean of w^2, of each image if there is a weight for each."""
        per_image = weight.ndim > len(self.data_shape)
        mean = (
            weight.square().flatten(1 if per_image else 0).mean(-1).to(alpha).reshape(-1, 1, 1, 1)
        )
        inner = self._precondition(alpha / mean)
        return None if inner is None else lambda r: inner(r) / mean

    def _initial(self, q: Tensor) -> Tensor:
        return smooth_start(self, q)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor | None:
        """Data for the start where none were ``seen`` (weight 0, and 0 in q); None: the start is the smooth one of the seen data alone."""
        return None

    def _weighted(self, weight: Tensor) -> LinearOperator:
        return Weighted(self, weight)

    # ---- checks

    def _who(self) -> str:
        return type(self).__name__

    def _device(self) -> torch.device:
        return next((b.device for b in self.buffers()), torch.device("cpu"))

    def _check(
        self,
        x: Tensor,
        shape: tuple[int, ...],
        call: str,
        expected: str,
        other: str,
        other_shape: tuple[int, ...],
    ) -> None:
        who = f"{self._who()}: {call}"
        if not isinstance(x, Tensor):
            raise InputTypeError(
                f"{who} takes a torch tensor of {expected}, got {type(x).__name__}. Convert with torch.as_tensor."
            )
        if x.device.type == "meta":
            raise InputTypeError(
                f"{who} takes {expected} with values, got a meta tensor, which has none. Make it on a device."
            )
        if x.dtype not in (torch.float32, torch.float64):
            raise InputTypeError(
                f"{who} takes float32 or float64, got {x.dtype}. Convert it first, e.g. with .float(); complex values travel as two channels."
            )
        if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
            hint = ""
            if tuple(x.shape) == shape:
                hint = " Add the batch axis: x[None]."
            elif tuple(x.shape[1:]) == other_shape:
                hint = f" This is the shape of the {other}; " + (
                    "use A.adjoint." if other == "data" else "use A(x)."
                )
            elif (
                tuple(x.shape[1:]) == (*shape[:-2], shape[-1], shape[-2])
                if len(shape) > 1
                else False
            ):
                hint = " The last two axes look transposed."
            raise InputError(
                f"{who} takes {expected} of shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}.{hint}"
            )
        if x.shape[0] == 0:
            raise InputError(f"{who} got an empty batch.")
        if x.device != self._device() and any(True for _ in self.buffers()):
            raise InputError(
                f"{who}: the tensor is on {x.device}, the operator on {self._device()}. Move one with .to(device)."
            )

    def _alpha(self, alpha: float | Tensor, z: Tensor) -> Tensor:
        try:
            column = torch.as_tensor(alpha, dtype=z.dtype, device=z.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputTypeError(
                f"{self._who()}.data_step: alpha must be a number or a tensor (B,), got {alpha!r}."
            ) from error
        if column.numel() not in (1, z.shape[0]):
            raise InputError(
                f"{self._who()}.data_step: alpha must be a number or of shape ({z.shape[0]},), got {tuple(column.shape)}."
            )
        try:
            good = bool(((column.detach() > 0) & torch.isfinite(column.detach())).all())
        except RuntimeError as error:
            raise InputTypeError(
                f"{self._who()}.data_step: the values of alpha cannot be read, which torch.vmap does not allow. "
                "Give a number, or a batch of images and one alpha for each, without vmap."
            ) from error
        if not good:
            raise InputError(
                f"{self._who()}.data_step: alpha must be finite and > 0, got {alpha!r}."
            )
        return column.reshape(-1, 1, 1, 1)


def check_foreign(A: LinearOperator, dtype: torch.dtype = torch.float32) -> None:
    r"""Check each operator of A that is not of this package, the first time: is it linear, and is its adjoint its transpose?

        |A(x + 2 x') - A x - 2 A x'| / (|A x| + 2 |A x'|)        |<A x, y> - <x, A^H y>| / (|A x| |y|)

    with random images x and x', and y = A x / |A x| + noise of norm 1: two applications more than the solver needs, and one of the adjoint.

    Parameters
    ----------
    A : LinearOperator
        The operator; those that it is made of are looked at too.
    dtype : torch.dtype
        The precision in which they are used.

    Raises
    ------
    InputError
        If A is not linear to 1 %, if its adjoint is not its transpose to 5 %, or if values are not finite.

    Warns
    -----
    UserWarning
        If the adjoint is not the transpose to 0.1 %.
    """
    for operator in A.modules():
        home = type(operator).__module__
        if (
            isinstance(operator, LinearOperator)
            and not operator.verified
            and (not home.startswith("pnp_mlpatch.") or home.startswith("pnp_mlpatch.interop."))
        ):
            _check_once(operator, dtype)
            operator.verified = True


def _check_once(A: LinearOperator, dtype: torch.dtype) -> None:
    generator, size = torch.Generator().manual_seed(1), torch.linalg.vector_norm
    x, other = (
        torch.randn(1, *A.image_shape, generator=generator).to(A._device(), dtype) for _ in range(2)
    )
    noise = torch.randn(1, *A.data_shape, generator=generator).to(x)
    with torch.no_grad():
        try:
            Ax, Aother, both = A(x), A(other), A(x + 2 * other)
            y = noise / size(noise) + (Ax / size(Ax) if bool(size(Ax) > 0) else 0)
            Aty = A.adjoint(y)
        except (
            Exception
        ):  # it may take batches of one size only; what else it refuses it says when it is used
            return
    end = (
        " pnp_mlpatch.testing.check_operator(A) says more; A.verified = True leaves this check out."
    )
    if Ax.shape != noise.shape or Aty.shape != x.shape:
        raise InputError(
            f"{A._who()}: A(x) must have the shape {tuple(noise.shape)} and A.adjoint(y) {tuple(x.shape)}, "
            f"got {tuple(Ax.shape)} and {tuple(Aty.shape)}." + end
        )
    Ax, Aother, both, y, x, Aty = (v.double() for v in (Ax, Aother, both, y, x, Aty))
    if not all(bool(torch.isfinite(v).all()) for v in (Ax, both, Aty)):
        raise InputError(
            f"{A._who()}: A(x) or A.adjoint(y) is NaN or infinite for random x and y." + end
        )
    bent = float(size(both - Ax - 2 * Aother) / (size(Ax) + 2 * size(Aother)).clamp_min(1e-300))
    if bent > 0.01:
        raise InputError(
            f"{A._who()}: A is not linear: A(x + 2 x') differs from A(x) + 2 A(x') by {bent:.1%}. Leave out offsets, clipping and noise."
            + end
        )
    mismatch = float(
        ((Ax * y).sum() - (x * Aty).sum()).abs() / (size(Ax) * size(y)).clamp_min(1e-300)
    )
    wrong = f"{A._who()}: the adjoint is not the transpose of A: |<A x, y> - <x, A^H y>| = {mismatch:.1e} |A x| |y|, "
    if mismatch > 0.05:
        raise InputError(
            wrong
            + "and solvers would go to another image, or diverge. Is a factor, a flip or a conjugate missing?"
            + end
        )
    if mismatch > 1e-3:
        warnings.warn(wrong + "so solvers may stall or diverge." + end, stacklevel=5)


def reached(A: LinearOperator) -> Tensor:
    r"""Which data depend on the image at all, (1, \*data_shape), True and False: a random image is seen there."""
    x = torch.rand(1, *A.image_shape, generator=torch.Generator().manual_seed(0)).to(A._device())
    with torch.no_grad():
        return A(x + 1).abs() > 0


def smooth_start(A: LinearOperator, q: Tensor) -> Tensor:
    r"""The smooth image that explains the data, (B, \*data_shape) -> (B, C, H, W): a start for any operator.

        argmin_x |A x - q|^2 + SMOOTH |A|^2 |Laplacian x|^2

    by at most ``START_STEPS`` steps of conjugate gradients from 0, preconditioned by the inverse for an A that sees all pixels alike. Where A sees nothing the image is continued smoothly: a start that is 0 there is
    not an image, and denoisers amplify its edges. Gradients flow.
    """
    with torch.no_grad():
        unit = float(power_of_two(torch.tensor(A.norm(tol=0.01), dtype=torch.float64))) or 1.0
        signs = (
            torch.randint(0, 2, (1, *A.image_shape), generator=torch.Generator().manual_seed(0)).to(
                q
            )
            * 2
            - 1
        )
        seen = (
            A(signs.expand(len(q), -1, -1, -1) / unit)
            .square()
            .flatten(1)
            .sum(1)
            .reshape(-1, 1, 1, 1)
            / signs.numel()
        )  # tr A^H A / n
        height, width = A.image_shape[1:]
        rows, columns = (
            2 - 2 * torch.cos(2 * torch.pi * f(n).to(q))
            for f, n in ((torch.fft.fftfreq, height), (torch.fft.rfftfreq, width))
        )
        inverse = 1 / (seen.clamp_min(1e-6) + SMOOTH * (rows[:, None] + columns).square())
    b = A.adjoint(q) / unit  # in units in which |A| is about 1

    def energy(x: Tensor) -> Tensor:
        return A.normal(x / unit) / unit + SMOOTH * laplacian(laplacian(x))

    def precondition(r: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(r) * inverse, s=(height, width))

    return (
        pcg(
            energy,
            b,
            torch.zeros_like(b),
            precondition=precondition,
            tol=1e-4,
            max_iter=START_STEPS,
        )[0]
        / unit
    )


class DecomposableOperator(LinearOperator):
    r"""A = V diag(d) U with U unitary and V^H V = I, so that the data step is exact at the price of one U and one U^H:

        h(z; alpha) = U^H [ (|d|^2 + alpha)^-1 U (A^H q + alpha z) ]

    Hooks: ``_u``, ``_uh``, ``_v``, ``_vh`` (identity by default) and ``_d`` (broadcasts against ``_u(x)``; may be complex).
    """

    def _u(self, x: Tensor) -> Tensor:
        return x

    def _uh(self, s: Tensor) -> Tensor:
        return s

    def _v(self, s: Tensor) -> Tensor:
        return s

    def _vh(self, y: Tensor) -> Tensor:
        return y

    @abstractmethod
    def _d(self, dtype: torch.dtype) -> Tensor:
        """The diagonal, in the precision of real ``dtype``."""

    def _forward(self, x: Tensor) -> Tensor:
        return self._v(self._d(x.dtype) * self._u(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._uh(self._d(y.dtype).conj() * self._vh(y))

    def _normal(self, x: Tensor) -> Tensor:
        d = self._d(x.dtype)
        return self._uh((d * d.conj()).real * self._u(x))

    def _data_step(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> Tensor:
        d = self._d(z.dtype)
        return self._uh(self._u(Aty + alpha * z) / ((d * d.conj()).real + alpha))

    def _precondition(self, alpha: Tensor) -> Callable[[Tensor], Tensor]:
        """The inverse itself: what noise maps and joined data, which need conjugate gradients, start from."""
        d = self._d(alpha.dtype)
        weight = 1 / ((d * d.conj()).real + alpha)
        return lambda r: self._uh(self._u(r) * weight)


class Weighted(LinearOperator):
    """f -> weight * (A f) for any A, one weight for all images or one for each; the data step by preconditioned conjugate gradients."""

    def __init__(self, operator: LinearOperator, weight: Tensor):
        super().__init__(operator.image_shape, operator.data_shape)
        self.operator = operator
        self.weight: Tensor
        self.register_buffer("weight", weight.clone(), persistent=False)

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Weighted is made by A.weighted(weight).")

    def _forward(self, x: Tensor) -> Tensor:
        return self._for(x) * self.operator._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._adjoint((self._for(y) * y).contiguous())

    def _for(self, x: Tensor) -> Tensor:
        if self.weight.ndim > len(self.data_shape) and x.shape[0] != self.weight.shape[0]:
            raise InputError(
                f"{self._who()}: there is one weight for each of {self.weight.shape[0]} images, got {x.shape[0]} images. Give a batch of that size."
            )
        return self.weight.to(x.dtype)

    def _precondition(self, alpha: Tensor) -> Callable[[Tensor], Tensor] | None:
        return self.operator._precondition_weighted(alpha, self.weight.to(alpha.dtype))

    def _initial(self, q: Tensor) -> Tensor:
        weight = self._for(q)
        seen = torch.broadcast_to(weight > 0, q.shape)
        q = torch.where(
            seen, q / torch.where(weight > 0, weight, torch.ones_like(weight)), torch.zeros_like(q)
        )
        filled = q if bool(seen.all()) else self.operator._fill(q, seen)
        return (
            smooth_start(Weighted(self.operator, (self.weight > 0).to(q.dtype)), q)
            if filled is None
            else self.operator._initial(filled)
        )

    def _weighted(self, weight: Tensor) -> LinearOperator:
        return Weighted(self.operator, self.weight * weight)

    def for_images(self, rows: Tensor) -> LinearOperator:
        chosen = self.operator.for_images(rows)
        if self.weight.ndim == len(self.data_shape):
            return self if chosen is self.operator else Weighted(chosen, self.weight)
        return Weighted(chosen, self.weight[rows])

    def norm(self, *, iterations: int = 100, tol: float = 1e-3) -> float:
        """The spectral norm, as for all operators; with one weight for each image, the largest of them."""
        if self.weight.ndim == len(self.data_shape):
            return super().norm(iterations=iterations, tol=tol)
        return max(
            Weighted(self.operator, one).norm(iterations=iterations, tol=tol) for one in self.weight
        )
