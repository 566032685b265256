"""Checkpoints: files with their own sha256 and a description of the run.

A checkpoint is what ``torch.save`` writes, with ``pnp_mlpatch <sha256>`` as the comment of the zip
archive: the digest of all bytes before it. It is compared before anything is unpickled.
``torch.load(path, weights_only=True)`` reads the file as well. Tables are JSON files with a sha256.

To resume a run, call :func:`resume` with a description of its settings and data, and :func:`save`
with the same description as ``about``. A run that keeps a table calls :func:`load_table` and
:func:`check_same`, and :func:`save_table`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, WeightsError
from pnp_mlpatch.io.atomic import atomic_write, out_of_memory

ABOUT = "about"
ANEW = "remove the file to start anew"
COMMENT = re.compile(rb"pnp_mlpatch ([0-9a-f]{64})")
LENGTH = len("pnp_mlpatch ") + 64


def save(
    path: str | PathLike[str], content: Mapping[str, Any], *, about: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, whole or not at all.

    Parameters
    ----------
    path : str or path
        The file.
    content : mapping
        Tensors, numbers, texts, and lists, tuples and dictionaries of them.
    about : mapping, optional
        What this is the state of, in plain JSON values: settings, data, history. It is kept under
        "about".

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    file = io.BytesIO()
    torch.save({**content, ABOUT: None if about is None else json.dumps(about)}, file)
    file.seek(-2, io.SEEK_END)  # the length of the comment, 0 as torch writes it
    file.write(LENGTH.to_bytes(2, "little"))
    file.write(b"pnp_mlpatch " + hashlib.sha256(file.getbuffer()).hexdigest().encode())
    atomic_write(path, lambda temporary: temporary.write_bytes(file.getbuffer()))


def load(
    path: str | PathLike[str], what: str = "checkpoint", device: str | torch.device = "cpu"
) -> tuple[dict[str, Any], Any]:
    """Read a checkpoint that :func:`save` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    what : str
        What it should be, for the errors.
    device : str or torch.device
        Where its tensors go.

    Returns
    -------
    tuple
        The content, and what was given as ``about``.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or no checkpoint.
    """
    try:
        whole = Path(path).read_bytes()
        found = COMMENT.fullmatch(whole[-LENGTH:])
        if found is None:
            raise ValueError("it has no checksum")
        if hashlib.sha256(memoryview(whole)[:-LENGTH]).hexdigest().encode() != found[1]:
            raise ValueError("its checksum is another")
        content = torch.load(io.BytesIO(whole), map_location=device, weights_only=True)
        about = content.pop(ABOUT)
        return content, None if about is None else json.loads(about)
    except Exception as error:  # torch raises many kinds for a damaged file
        if out_of_memory(error):
            raise
        raise WeightsError(
            f"{path}: not a saved {what} ({_reason(error)}). It is damaged, or something else; "
            "remove it to start anew."
        ) from error


def resume(
    path: str | PathLike[str] | None,
    about: Mapping[str, Any],
    what: str = "checkpoint",
    device: str | torch.device = "cpu",
    *,
    free: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    anew: str = ANEW,
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read the checkpoint of an interrupted run, if there is one.

    Parameters
    ----------
    path : str, path or None
        The file.
    about : mapping
        Settings and data of the run that is to go on, in plain JSON values.
    what : str
        What it should be, for the errors.
    device : str or torch.device
        Where the tensors go.
    free : collection of str
        Keys of the descriptions that may differ.
    defaults : mapping, optional
        What a key was that the file does not have.
    anew : str
        How to start anew, for the errors.

    Returns
    -------
    tuple of dict, or None
        The content and its description; None without a path, or if there is no file.

    Raises
    ------
    InputError
        If the checkpoint belongs to other settings or data.
    WeightsError
        If it is damaged, or no checkpoint.
    """
    if path is None or not Path(path).exists():
        return None
    content, before = load(path, what, device)
    if isinstance(before, Mapping):
        before = {**(defaults or {}), **before}
    check_same(path, before, json.loads(json.dumps(dict(about))), free=free, anew=anew)
    return content, before


def check_same(
    path: str | PathLike[str],
    before: Any,
    now: Mapping[str, Any],
    *,
    free: Collection[str] = (),
    anew: str = ANEW,
    values: bool = False,
) -> None:
    """Refuse to resume a run with other settings or data.

    Parameters
    ----------
    path : str or path
        The file that the interrupted run left.
    before, now : mapping
        The descriptions of that run and of this one, in plain JSON values.
    free : collection of str
        Keys that may differ.
    anew : str
        How to start anew, for the errors.
    values : bool
        Whether the error gives the values before and now.

    Raises
    ------
    InputError
        If they differ.
    WeightsError
        If ``before`` is no description.
    """
    if not isinstance(before, Mapping):
        raise WeightsError(
            f"{path}: does not say which problem it is the state of. Give another file, or {anew}."
        )
    differ = [key for key in differing(before, now) if key not in free]
    if differ and values:
        differ = [
            f"{key}: {_short(before.get(key))} before, {_short(now.get(key))} now" for key in differ
        ]
    if differ:
        raise InputError(
            f"{path}: an interrupted run had other data or settings "
            f"({('; ' if values else ', ').join(differ)}). Give the same, or {anew}."
        )


def read_torch(path: str | PathLike[str]) -> Any:
    """Read a file of ``torch.save`` that others made, to the CPU, without running code from it.

    The checksums of the archive are compared first, which torch does not do. Files in the format
    before torch 1.6 have none.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    object
        Its content.

    Raises
    ------
    WeightsError
        If the file is damaged, or cannot be read without running code.
    """
    try:
        if is_zipfile(path):
            with ZipFile(path) as file:
                damaged = file.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is another")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        if out_of_memory(error):
            raise
        raise WeightsError(
            f"{path}: cannot be read ({_reason(error)}). It is damaged, or something else."
        ) from error


def save_table(path: str | PathLike[str], values: Mapping[str, Any]) -> None:
    """Write plain values as JSON, with the sha256 of their text under "sha256".

    Parameters
    ----------
    path : str or path
        The file.
    values : mapping
        Plain JSON values.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    text = (
        json.dumps(
            {**values, "sha256": hashlib.sha256(json.dumps(dict(values)).encode()).hexdigest()}
        )
        + "\n"
    )
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def load_table(path: str | PathLike[str]) -> dict[str, Any]:
    """Read what :func:`save_table` wrote.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    dict
        The values.

    Raises
    ------
    WeightsError
        If the file is missing or damaged.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        digest = content.pop("sha256")
        if hashlib.sha256(json.dumps(content).encode()).hexdigest() != digest:
            raise ValueError("its checksum is another")
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged ({_reason(error)}).") from error


def digest(*tensors: Tensor) -> str:
    """Return the sha256 of tensors, with their shapes.

    Parameters
    ----------
    tensors : Tensor
        On the CPU.

    Returns
    -------
    str
        In hexadecimal.
    """
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def differing(before: Any, now: Mapping[str, Any]) -> list[str]:
    """Compare two descriptions of runs.

    Parameters
    ----------
    before, now : mapping
        The descriptions.

    Returns
    -------
    list of str
        The keys in which they differ; all of them if ``before`` is no mapping.
    """
    before = before if isinstance(before, Mapping) else {}
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) and str(error) else type(error).__name__


__all__ = [
    "check_same",
    "differing",
    "digest",
    "load",
    "load_table",
    "read_torch",
    "resume",
    "save",
    "save_table",
]
