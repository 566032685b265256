"""A GPU to test without one: tensors that say cuda:0, computed on the CPU under a GPU's rules.

``with PretendCuda() as gpu`` makes ``.to("cuda")`` and ``device="cuda"`` return ``Pretend``
tensors. Values are those of the CPU, so results compare bit for bit. Raises ``RuntimeError`` where
a GPU would: two devices in one operation, ``.numpy()``, a generator of another device.
``gpu.waits`` counts what makes the host wait, by the line of the package that asked.

To C++ a ``Pretend`` is a tensor of the CPU, so no driver is needed and autograd works as ever; only
Python sees cuda:0. A function mode does what C++ would decide by the device; a dispatch mode makes
the factories; ``_run`` keeps the rules. It does not see missing kernels, rounding, memory, speed,
streams, nor ``map_location``. Leave no module behind on the pretend device.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten

READS = {  # the host needs the values, or the shape of the result depends on them
    *(aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default),
    *(aten.nonzero.default, aten.masked_select.default, aten.repeat_interleave.Tensor),
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default),
    *(aten.bincount.default, aten._linalg_check_errors.default),
}
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor, aten._unsafe_index_put.default} | {
    *(aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
}
TAKES_SCALARS = {aten.where.self, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
MATERIAL = {aten._conj.default: aten._conj_physical.default, aten._neg_view.default: aten.neg}


class _Call:
    """The call of torch that runs: whether it was given CPU tensors, or asked for the CPU."""

    mixed = host = False
    gpu: PretendCuda | None = None


class Pretend(torch.Tensor):
    """A tensor that says cuda:0, around the tensor ``held`` of the CPU."""

    @staticmethod
    def __new__(cls, held):
        layout = {}
        if held.layout == torch.strided:
            layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        self = torch.Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, **layout)
        self.held = held
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    held: torch.Tensor

    def tolist(self):
        _wait()
        return self.held.tolist()

    def numpy(self, *, force=False):
        if force:
            return self.cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **kwargs):
        raise BufferError("a pretend tensor has no memory on a GPU")

    def __reduce_ex__(self, protocol):
        return self.held.detach().requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        copy = Pretend(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True
        return memo.setdefault(id(self), copy)

    def __repr__(self, **kwargs):
        return f"{self.held!r} on cuda:0"


class _Move(torch.autograd.Function):
    """A copy to the other device, with gradients."""

    @staticmethod
    def forward(x):
        return x.held.detach().clone() if isinstance(x, Pretend) else Pretend(x.detach().clone())

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.was_on_gpu = on_gpu(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return g if isinstance(g, Pretend) == ctx.was_on_gpu else _Move.apply(g)


def on_gpu(x):
    """Whether x is a pretend tensor, also inside a transform of torch.func."""
    while isinstance(x, torch.Tensor) and not isinstance(x, Pretend):
        if not torch._C._functorch.is_functorch_wrapped_tensor(x):
            return False
        x = torch._C._functorch.get_unwrapped(x)
    return isinstance(x, Pretend)


def _tensors(*values):
    """The tensors in arguments, which lists, tuples and dicts may hold."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


def _changed(kind, change, value):
    """``value`` with ``change`` applied to what is of the ``kind`` in lists, tuples and dicts."""
    if isinstance(value, kind):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_changed(kind, change, v) for v in value)
    if isinstance(value, dict):
        return {name: _changed(kind, change, v) for name, v in value.items()}
    return value


def _is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"


def _wait():
    """Count a wait, by the innermost line of the package."""
    frame = sys._getframe(1)
    while frame is not None and "/pnp_mlpatch/" not in frame.f_code.co_filename:
        frame = frame.f_back
    name = "elsewhere"
    if frame is not None:
        name = f"{frame.f_code.co_filename.rpartition('/pnp_mlpatch/')[2]}:{frame.f_lineno}"
    if _Call.gpu is not None:
        _Call.gpu.waits[name] += 1


# ---- operations


def _runs_on_gpu(func, args, kwargs):
    """Whether an operation runs on the GPU; raises where a GPU refuses its arguments."""
    tensors, device, generator = (
        _tensors(args, kwargs),
        kwargs.get("device"),
        kwargs.get("generator"),
    )
    there = [t for t in tensors if isinstance(t, Pretend)]
    here = [t for t in tensors if not isinstance(t, Pretend)]
    if there and not _Call.host and not _is_cuda(device):
        device = None  # C++ names the device of a tensor that is the CPU to it
    cuda = bool(there) if device is None else _is_cuda(device)
    if generator is not None and cuda != (generator.device.type == "cuda"):
        raise RuntimeError(f"Expected another device type for generator ({func})")
    if not there or not here or not _Call.mixed or func is aten.copy_.default:
        return bool(there) or cuda
    shown = ", ".join(f"{tuple(t.shape)} {t.device}" for t in tensors)
    if func in INDEXING:
        large = [t for t in _tensors(args[2:], kwargs) if t.ndim and not isinstance(t, Pretend)]
        bad = not isinstance(args[0], Pretend) or bool(large)
    else:
        written = func._schema.is_mutable and not isinstance(tensors[0], Pretend)
        scalars = (torch.Tag.pointwise in func.tags and len(here) == 1) or func in TAKES_SCALARS
        bad = written or not scalars or any(t.ndim for t in here)
    if bad:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu! "
            f"({func}: {shown})"
        )
    return True


def _run(func, args, kwargs):
    """Carry out an operation of ATen, on the pretend GPU if that is where it belongs."""
    if not _runs_on_gpu(func, args, kwargs):
        return func(*args, **kwargs)
    to_host = func is aten.copy_.default and not isinstance(args[0], Pretend)
    masks = _tensors(args[1]) if func in INDEXING else []
    if func in READS or to_host or any(t.dtype in (torch.bool, torch.uint8) for t in masks):
        _wait()
    device = kwargs.get("device")
    leaves = device is not None and not _is_cuda(device) and _Call.host
    if _is_cuda(device):
        kwargs = kwargs | {"device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = kwargs | {"pin_memory": False}
    given = [t for t in _tensors(args, kwargs) if isinstance(t, Pretend)]
    args_, kwargs_ = _changed(Pretend, lambda t: t.held, (args, kwargs))
    out = MATERIAL.get(func, func)(*args_, **kwargs_)
    if to_host or leaves:
        return args[0] if to_host else out
    same = {id(t.held): t for t in given} if func._schema.is_mutable else {}
    return _changed(torch.Tensor, lambda t: same[id(t)] if id(t) in same else Pretend(t), out)


# ---- what C++ decides by the device

GETTERS = {
    torch.Tensor.device.__get__: CUDA,
    torch.Tensor.is_cuda.__get__: True,
    torch.Tensor.is_cpu.__get__: False,
}
SPARSE = {torch.sparse_csr_tensor, torch.sparse_csc_tensor, torch.sparse_coo_tensor} | {
    torch.sparse_compressed_tensor
}


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, first = dict(kwargs or {}), args[0] if args else None
        before = _Call.mixed, _Call.host
        device = kwargs.get("device")
        _Call.mixed = any(not on_gpu(t) for t in _tensors(args, kwargs))
        _Call.host = device is not None and not _is_cuda(device)
        try:
            if func in GETTERS:
                return GETTERS[func] if on_gpu(first) else func(*args)
            if func is torch.Tensor.to:
                return _to(*args, **kwargs)
            if func in (torch.Tensor.cpu, torch.Tensor.cuda):
                return _to(first, func.__name__)
            if func is torch.Tensor.pin_memory:
                return _pinned(first)
            if func is torch.Tensor.type_as:
                return _to(first, args[1])
            if func is torch.Tensor.new_tensor and on_gpu(first):
                return _made(
                    torch.tensor, args[1:], {"dtype": first.dtype, "device": CUDA} | kwargs
                )
            if func in (torch.tensor, torch.as_tensor, torch.asarray):
                return _made(func, args, kwargs)
            if func in SPARSE:
                return _sparse(func, args, kwargs)
            return func(*args, **kwargs)
        finally:
            _Call.mixed, _Call.host = before


def _to(x, *args, copy=False, other=None, **kwargs):
    """``x.to(...)`` with the devices that Python sees."""
    if args and isinstance(args[0], torch.Tensor):
        other = args[0]
    if other is not None:
        device, dtype, form = CUDA if on_gpu(other) else other.device, other.dtype, None
    else:
        device, dtype, _, form = torch._C._nn._parse_to(*args, **kwargs)
    cuda = on_gpu(x) if device is None else device.type == "cuda"
    options = {} if form is None else {"memory_format": form}
    if cuda == on_gpu(x):
        return torch.Tensor.to(x, dtype or x.dtype, copy=copy, **options)
    if not cuda:
        _wait()
    return torch.Tensor.to(_Move.apply(x), dtype or x.dtype, **options)


def _pinned(x):
    if on_gpu(x):
        raise RuntimeError("cannot pin a tensor of the device cuda:0: only those of the CPU")
    return x.clone()


def _made(func, args, kwargs):
    """``torch.tensor``, ``as_tensor``, ``asarray``."""
    data, device, dtype = args[0], kwargs.pop("device", None), kwargs.pop("dtype", None)
    dtype = args[1] if len(args) > 1 else dtype
    if isinstance(data, torch.Tensor):
        target = device if device is not None else CUDA if on_gpu(data) else data.device
        data = data.detach().clone() if func is torch.tensor else data
        return _to(data, target, dtype or data.dtype)
    if any(map(on_gpu, _tensors(data))):
        _wait()
        data = _changed(Pretend, lambda t: t.held.item(), data)
    out = func(data, dtype=dtype, **kwargs)
    return _to(out, CUDA) if _is_cuda(device) else out


def _sparse(func, args, kwargs):
    parts = _tensors(args, kwargs)
    if len(set(map(on_gpu, parts))) > 1:
        raise RuntimeError(f"the parts of a sparse tensor are on two devices ({func.__name__})")
    cuda = any(map(on_gpu, parts)) or _is_cuda(kwargs.get("device"))
    if cuda:
        kwargs.pop("device", None)
    args, kwargs = _changed(Pretend, lambda t: t.held, (args, kwargs))
    return Pretend(func(*args, **kwargs)) if cuda else func(*args, **kwargs)


class _Autocast(torch.autocast):
    def __init__(self, device_type, *args, **kwargs):
        if device_type == "cuda" and not args:
            kwargs["dtype"] = kwargs.get("dtype") or torch.float16
        super().__init__("cpu", *args, **kwargs)


class PretendCuda(TorchDispatchMode):
    """The pretend GPU while it is entered; ``waits`` counts by line."""

    def __init__(self):
        super().__init__()
        self.waits, self._stack = Counter(), ExitStack()

    def __enter__(self):
        functions, stack = _Functions(), self._stack
        engine = torch.autograd.graph._engine_run_backward

        def backward(*args, **kwargs):  # the mode is off within a call of torch
            with functions:
                return engine(*args, **kwargs)

        stream = mock.Mock(synchronize=_wait)
        for name, value in {
            "torch.cuda._lazy_init": lambda: None,
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.device_count": lambda: 1,
            "torch.cuda.current_device": lambda: 0,
            "torch.cuda.set_device": lambda device: None,
            "torch.cuda.synchronize": lambda device=None: _wait(),
            "torch.cuda.current_stream": lambda device=None: stream,
            "torch.cuda.mem_get_info": lambda device=None: (2**34, 2**34),
            "torch.cuda.get_device_name": lambda device=None: "a pretend GPU",
            "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
            "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
            "torch.amp.grad_scaler.torch.cuda.amp.common.amp_definitely_not_available": (
                lambda: False
            ),
            "torch.autocast": _Autocast,
            "torch.autograd._engine_run_backward": backward,
            "torch.autograd.graph._engine_run_backward": backward,
        }.items():
            stack.enter_context(mock.patch(name, value))
        future = torch.__future__  # parameters become pretend tensors
        stack.callback(
            future.set_overwrite_module_params_on_conversion,
            future.get_overwrite_module_params_on_conversion(),
        )
        future.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(mock.patch.object(_Call, "gpu", self))
        super().__enter__()
        stack.enter_context(functions)
        return self

    def __exit__(self, *info):
        self._stack.close()
        super().__exit__(*info)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})
