"""Weights files: safetensors with the configuration and the card of the model in the header.

Shipped weights lie in this folder and are listed in its ``manifest.toml`` with their sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, WeightsError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.reading import refuse_special

DIRECTORY = Path(__file__).parent


def read_toml(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict

    Raises
    ------
    FileError
        If it is missing or not TOML.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        tomllib = require("tomli", "Reading TOML on Python 3.10")
    refuse_special(path)
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read ({error}). Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path}: not valid TOML: {error}.") from error


def manifest() -> dict[str, dict[str, Any]]:
    """List the shipped weights.

    Returns
    -------
    dict
        name -> {file, sha256, kind}.
    """
    path = DIRECTORY / "manifest.toml"
    return read_toml(path) if path.exists() else {}


def sha256(path: str | PathLike[str]) -> str:
    """Compute the sha256 of a file.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    str
        Hexadecimal digits.
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def locate(weights: str | PathLike[str]) -> Path:
    """Find a weights file.

    Parameters
    ----------
    weights : str or path
        A shipped name, or a path.

    Returns
    -------
    Path
        The file. The sha256 of a shipped one is checked.

    Raises
    ------
    WeightsError
        If there is none, or a shipped one is damaged.
    """
    shipped = manifest()
    if not isinstance(weights, (str, os.PathLike)):
        raise WeightsError(
            f"weights must be a shipped name or a path, got {weights!r}. "
            f"Shipped: {', '.join(sorted(shipped)) or 'none'}."
        )
    if str(weights) in shipped:
        entry = shipped[str(weights)]
        path = DIRECTORY / entry["file"]
        if not path.exists():
            raise WeightsError(
                f"{path}: the shipped weights '{weights}' are missing. Reinstall the package."
            )
        if sha256(path) != entry["sha256"]:
            raise WeightsError(
                f"{path}: sha256 differs from the manifest, the file was changed or damaged. "
                "Reinstall the package."
            )
        return path
    path = Path(weights)
    refuse_special(path)
    if not path.is_file():
        raise WeightsError(
            f"'{weights}' is neither a weights file nor a shipped name. "
            f"Shipped: {', '.join(sorted(shipped)) or 'none'}."
        )
    return path


def save(
    path: str | PathLike[str],
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    config: Mapping[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Write a weights file, whole or not at all; equal contents make equal bytes.

    Parameters
    ----------
    path : str or path
    tensors : mapping of str to Tensor
    kind : str
        The name of the model.
    config : mapping
        The arguments that make the model.
    card : mapping
        What is known of the weights.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    to_bytes = require("safetensors.torch", "Writing weights").save
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"kind": kind, "config": json.dumps(dict(config)), "card": json.dumps(dict(card))}
    content = to_bytes(plain, metadata=header)
    length = int.from_bytes(
        content[:8], "little"
    )  # the library writes the header in random order: sort it
    ordered = json.dumps(
        json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")
    ).encode()
    ordered += b" " * (-len(ordered) % 8)
    atomic_write(
        path,
        lambda temporary: temporary.write_bytes(
            len(ordered).to_bytes(8, "little") + ordered + content[8 + length :]
        ),
    )


def load(
    path: str | PathLike[str], *, kind: str
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Read a weights file.

    Parameters
    ----------
    path : str or path
    kind : str
        The model that is expected.

    Returns
    -------
    tensors, config, card : dict

    Raises
    ------
    WeightsError
        Unless the file is whole and of this ``kind``.
    """
    safetensors = require("safetensors", "Reading weights")
    refuse_special(path)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file.") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}). Save or copy it again."
        ) from error
    if header.get("kind") != kind:
        raise WeightsError(
            f"{path}: expected weights of kind '{kind}', "
            f"got {header.get('kind', 'a file without a kind')!r}."
        )
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path}: tensor '{name}' holds values that are not finite.")
    try:
        config, card = (json.loads(header[name]) for name in ("config", "card"))
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path}: the config or the card in its header is missing or damaged ({error})."
        ) from error
    if not isinstance(card, dict):
        raise WeightsError(f"{path}: the card in its header is not a dictionary.")
    return tensors, config, card
