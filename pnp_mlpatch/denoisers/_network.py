"""What the trainable denoisers share: files, the training interface, foreign state dicts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch import weights as weight_files
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers._base import DenoiserInfo, check_image, sigma_column
from pnp_mlpatch.denoisers._convolution import applied
from pnp_mlpatch.errors import InputError, WeightsError
from pnp_mlpatch.io.checkpoint import read_torch
from pnp_mlpatch.io.reading import refuse_special

if TYPE_CHECKING:
    from typing_extensions import Self


class Network(nn.Module):
    """A trainable denoiser: a module with its configuration and its card, saved as one file.

    A subclass sets ``kind`` and gives ``forward(x, sigma)`` and ``example()``. Training calls
    ``denoise_block`` on blocks with a border of ``halo`` pixels: none by default, the receptive
    field for local networks.

    Parameters
    ----------
    channels : int
    sigma_max : float or None
        Top of the trained noise range, in the units of the image. None: not known.
    config : mapping
        The arguments that make the network again.
    """

    kind: ClassVar[str]
    sigma_use: str = "input"
    field: int | None = None
    halo: int = 0

    def __init__(self, channels: int, sigma_max: float | None, config: Mapping[str, Any]):
        super().__init__()
        self.channels, self.sigma_max = channels, sigma_max
        self.config: dict[str, Any] = dict(config)
        self.card: dict[str, Any] = {}

    @classmethod
    def example(cls) -> Self:
        """Make a tiny instance with random weights, on which the contract tests run.

        Returns
        -------
        Network
        """
        raise InputError(f"{cls.__name__} has no example.")

    @property
    def info(self) -> DenoiserInfo:
        """What the card and the configuration say."""
        size = self.card.get("trained_size")
        return DenoiserInfo(
            name=self.kind,
            channels=self.channels,
            sigma=self.sigma_use,
            sigma_range=None if self.sigma_max is None else (0.0, self.sigma_max),
            field=self.field,
            trained_size=tuple(size) if size else None,
        )

    def with_map(self, x: Tensor, sigma: float | Tensor, multiple: int) -> Tensor:
        """Check the image and add a map of sigma as a channel.

        Parameters
        ----------
        x : Tensor, shape (B, C, H, W)
        sigma : float or Tensor, shape (B,) or (B, 1, H, W)
        multiple : int
            Divides H' and W': the image is continued by replication at the bottom and on the right.

        Returns
        -------
        Tensor, shape (B, C + 1, H', W')
            In the precision of the weights.
        """
        who = type(self).__name__
        check_image(x, who, self.channels)
        column = sigma_column(sigma, x, who, self.sigma_max, maps=True)
        height, width = x.shape[-2:]
        both = torch.cat([x, column.expand(-1, 1, height, width)], dim=1).to(
            next(self.parameters()).dtype
        )
        return F.pad(both, (0, -width % multiple, 0, -height % multiple), mode="replicate")

    def denoise_block(self, block: Tensor, sigma: Tensor) -> Tensor:
        """Denoise a block that brings its own border.

        Parameters
        ----------
        block : Tensor, shape (B, C, h + 2 halo, w + 2 halo)
        sigma : Tensor, shape (B, 1, 1, 1)

        Returns
        -------
        Tensor, shape (B, C, h, w)
        """
        return self(block, sigma.flatten())

    def save(self, path: str | PathLike[str], card: Mapping[str, Any]) -> None:
        """Write weights, configuration and card as one safetensors file.

        Parameters
        ----------
        path : str or path
        card : mapping
            What is known of the weights.
        """
        weight_files.save(path, self.state_dict(), kind=self.kind, config=self.config, card=card)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        Network
            In evaluation mode, without gradients.

        Raises
        ------
        WeightsError
            For a file that is missing, damaged or of another model.
        """
        tensors, config, card = weight_files.load(path, kind=cls.kind)
        try:
            model = cls(**config)
            model.load_state_dict(tensors)
        except (TypeError, RuntimeError, InputError) as error:
            raise WeightsError(
                f"{path}: these weights do not fit {cls.__name__} of this version ({error})."
            ) from error
        model.card = card
        return model.eval().requires_grad_(False)


class ConvNet(Network):
    """A stack of 3 x 3 convolutions, ``self.convolutions``, with ReLU between and zero padding.

    Parameters
    ----------
    channels, width : int
        Channels of the image, and of the inner layers.
    dilations : sequence of int
        One for each convolution, at least two.
    conditional : bool
        A map of sigma is a further input channel.
    residual : bool
        The output is x minus what the stack gives, else what it gives.
    sigma_max, config
        As in :class:`Network`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        dilations: Sequence[int],
        conditional: bool,
        residual: bool,
        sigma_max: float | None,
        config: Mapping[str, Any],
    ):
        who = type(self).__name__
        if (
            any(
                isinstance(n, bool) or not isinstance(n, int) or n < 1
                for n in (channels, width, *dilations)
            )
            or len(dilations) < 2
        ):
            raise InputError(
                f"{who}: channels, width and dilations must be integers >= 1, at least two layers; "
                f"got {dict(config)}."
            )
        super().__init__(channels, sigma_max, config)
        widths = [channels + conditional, *[width] * (len(dilations) - 1), channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=d, dilation=d)
            for a, b, d in zip(widths, widths[1:], dilations, strict=False)
        )
        self.conditional, self.residual = conditional, residual
        self.sigma_use = "input" if conditional else "ignored"
        self.field = sum(dilations)
        for layer in self.convolutions:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if residual:
            nn.init.zeros_(self.convolutions[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise ``x`` (B, C, H, W), any size; ``sigma``: a float, (B,) or a map (B, 1, H, W)."""
        who = type(self).__name__
        check_image(x, who, self.channels)
        column = sigma_column(
            sigma, x, who, self.sigma_max if self.conditional else None, maps=True
        )
        h = torch.cat([x, column.expand(-1, 1, *x.shape[2:])], dim=1) if self.conditional else x
        dtype = next(self.parameters()).dtype
        h = h.to(dtype)
        for layer in self.convolutions[:-1]:
            h = applied(layer, h, F.relu)
        h = self.convolutions[-1](h).to(x.dtype)
        return x - h if self.residual else h


def read_state_dict(path: Path, who: str) -> dict[str, Tensor]:
    """Read a state dict: .safetensors, or .pth or .pt with tensors only.

    Raises :class:`WeightsError` if it is missing or damaged.
    """
    refuse_special(path)
    if not path.is_file():
        raise WeightsError(f"{who}: no weights file at {path}.")
    try:
        if path.suffix == ".safetensors":
            tensors = require("safetensors.torch", f"{who} with .safetensors weights").load_file(
                str(path)
            )
        else:
            tensors = read_torch(path)
    except Exception as error:  # torch and safetensors raise a dozen kinds
        raise WeightsError(
            f"{who}: {path} is not a readable state dict ({type(error).__name__}: {error})."
        ) from error
    tensors = tensors.get("state_dict", tensors) if isinstance(tensors, dict) else tensors
    if (
        not isinstance(tensors, dict)
        or not tensors
        or not all(isinstance(t, Tensor) for t in tensors.values())
    ):
        raise WeightsError(f"{who}: {path} holds no state dict (name -> tensor).")
    return tensors


def load_state(net: nn.Module, path: Path, who: str) -> None:
    """Load a state dict file into ``net``; raise :class:`WeightsError` if it does not fit."""
    tensors = read_state_dict(path, who)
    try:
        net.load_state_dict(tensors)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{who}: {path} does not fit this network. {str(error)[:500]}"
        ) from error


def folded_convolutions(tensors: Mapping[str, Tensor], who: str) -> list[tuple[Tensor, Tensor]]:
    """Read the kernels and biases of a sequence of convolutions, batch normalisations folded in.

    ``y = g (conv(x) - m) / sqrt(v + 1e-5) + b`` becomes one convolution with kernel ``g w / s`` and
    bias ``b + g (bias - m) / s``.
    """

    def order(name: str) -> list[tuple[int, int | str]]:
        return [
            (0, int(part)) if part.isdigit() else (1, part) for part in re.findall(r"\d+|\D+", name)
        ]

    layers: list[tuple[Tensor, Tensor]] = []
    for module in sorted({name.rpartition(".")[0] for name in tensors}, key=order):
        weight = tensors.get(f"{module}.weight")
        if weight is None:
            raise WeightsError(
                f"{who}: the state dict has {module}.* but no {module}.weight; "
                "this is not a plain stack of convolutions."
            )
        if weight.ndim == 4:
            layers.append(
                (weight, tensors.get(f"{module}.bias", weight.new_zeros(weight.shape[0])))
            )
        elif weight.ndim == 1 and f"{module}.running_var" in tensors and layers:
            kernel, bias = layers[-1]
            scale = weight / torch.sqrt(tensors[f"{module}.running_var"] + 1e-5)
            shift = tensors.get(f"{module}.bias", torch.zeros_like(weight))
            layers[-1] = (
                kernel * scale[:, None, None, None],
                shift + scale * (bias - tensors[f"{module}.running_mean"]),
            )
        else:
            raise WeightsError(
                f"{who}: {module}.weight of shape {tuple(weight.shape)} is neither a convolution "
                "nor a batch normalisation."
            )
    return layers


def load_convnet(make: Any, path: str | PathLike[str], who: str) -> Any:
    """Make a :class:`ConvNet` of a foreign state dict.

    ``make(channels, depth, width, conditional)`` makes an untrained one.

    Input channels one more than output channels mean a sigma map.
    """
    layers = folded_convolutions(read_state_dict(Path(path), who), who)
    inputs, outputs = layers[0][0].shape[1], layers[-1][0].shape[0]
    widths = {kernel.shape[0] for kernel, _ in layers[:-1]}
    if (
        len(layers) < 2
        or len(widths) != 1
        or inputs - outputs not in (0, 1)
        or any(kernel.shape[2:] != (3, 3) for kernel, _ in layers)
    ):
        shapes = ", ".join(str(tuple(kernel.shape)) for kernel, _ in layers)
        raise WeightsError(
            f"{who}: expected 3 x 3 convolutions of one width, image (and sigma map) in, image "
            f"out; got kernels {shapes}."
        )
    net = make(outputs, len(layers), widths.pop(), inputs == outputs + 1)
    with torch.no_grad():
        for layer, (kernel, bias) in zip(net.convolutions, layers, strict=True):
            layer.weight.copy_(kernel)
            layer.bias.copy_(bias)
    return net.eval().requires_grad_(False)


def shipped_or_own(weights: str | PathLike[str]) -> Path | None:
    """Find weights in this package's own format: a shipped name, or a safetensors file with a kind.

    Returns None for any other file.
    """
    path = weight_files.locate(weights)
    if path.suffix != ".safetensors":
        return None
    safetensors = require("safetensors", "Reading weights")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return path if (file.metadata() or {}).get("kind") else None
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}). Save or copy it again."
        ) from error
