"""What lies on disk until a CT volume is complete, so that a run that was killed can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.ct import Scan
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, WeightsError
from pnp_mlpatch.io.checkpoint import check_same, load_table, save_table
from pnp_mlpatch.pipelines.ct_digest import partial_files, tensor_digest

ROW = ("status", "iterations", "residual", "noise", "sigma", "alpha_scale", "chi2")
ROW += ("outliers", "zingers", "bad_elements", "element_spread")
HEADER = 128  # bytes of the header of a .npy file of three axes
ANEW = "remove it, or start anew with resume=False (--no-resume)"


class Journal:
    """The partial volume, a .npy file, and a JSON file that says which batches are in it.

    A batch is flushed to the disk before the journal names it. Plain writes, not a memory map:
    the pages of a map count as memory of the process, and a full disk kills it.

    Parameters
    ----------
    out : Path
        The volume; partial file and journal lie beside it.
    shape : tuple of int
        (slices, H, W).
    settings : dict
        Plain JSON values that must be the same when a run is resumed.
    scan : dict
        The :func:`~pnp_mlpatch.pipelines.ct_digest.scan_fingerprint`.
    batches : list of tuple of int
        The batches (start, stop) of slices of the scan.
    resume : bool
        Whether an interrupted run is resumed.

    Raises
    ------
    InputError
        If the interrupted run had other settings.
    InputTypeError
        For settings that JSON cannot hold.
    FileError
        If the journal is damaged, or the disk has no room.
    """

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int, int],
        settings: dict[str, Any],
        scan: dict[str, Any],
        batches: list[tuple[int, int]],
        resume: bool,
    ):
        self.partial, self.path = partial_files(out)
        self.shape, self.batches, self.first = shape, batches, batches[0][0]
        try:
            self.settings = json.loads(json.dumps({**settings, "scan file": scan}, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"reconstruct_volume: meta and settings must be plain JSON values ({error})."
            ) from error
        self.found: dict[str, Any] = {}
        self._done: dict[int, dict[str, Any]] = {}
        if resume and self.path.exists():
            self._resume()
        else:
            self._make()

    # ---- an interrupted run

    def _resume(self) -> None:
        """Take over the batches of the interrupted run whose digest is right."""
        done = self._load()
        damaged = []
        whole = self.partial.exists() and self.partial.stat().st_size == self._offset(self.shape[0])
        for a, b in self.batches:
            if a not in done:
                continue
            digest = done[a].get("sha256")
            if whole and tensor_digest(self.read(a - self.first, b - self.first)) == digest:
                self._done[a] = done[a]
            else:
                damaged.append(f"{a}:{b}")
        if damaged:
            warnings.warn(
                f"{self.partial}: the slices {', '.join(damaged)} are missing or damaged; they are "
                "made again.",
                stacklevel=5,
            )
        if not whole:
            self._make()

    def _load(self) -> dict[int, dict[str, Any]]:
        """Return the batches that the journal names; raise if damaged, or of other settings."""
        try:
            before = load_table(self.path)
            settings, found, done = dict(before["settings"]), before["found"], before["done"]
        except (WeightsError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error
        check_same(self.path, settings, self.settings, anew=ANEW, values=True)
        try:
            low, high = found["window"]
            self.found = {"backend": str(found["backend"]), "window": [float(low), float(high)]}
            rows = {int(a): row for a, row in done.items()}
            for a, b in self.batches:
                if a in rows and [set(row) for row in rows[a]["slices"]] != [set(ROW)] * (b - a):
                    raise ValueError("its rows")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from error
        return rows

    def _damaged(self, error: Exception) -> FileError:
        return FileError(
            f"{self.path}: the journal of the interrupted run is damaged ({error}); {ANEW}."
        )

    def check_scan(self, scan: Scan) -> None:
        """Check that the scan still holds what the finished batches were made from.

        Parameters
        ----------
        scan : Scan
            The scan.

        Raises
        ------
        InputError
            If its content has changed.
        """
        for a, b in self.batches:
            if self.done(a) and tensor_digest(scan.read(a, b)) != self._done[a].get("scan"):
                raise InputError(
                    f"{scan.path}: the slices {a}:{b} are not those that the interrupted run read. "
                    f"Give that scan; or remove {self.path}, or start anew with resume=False "
                    "(--no-resume)."
                )

    # ---- a run

    def _make(self) -> None:
        """Make an empty partial volume; raise unless the disk has room for it and the final one."""
        self.remove()
        size = self._offset(self.shape[0])
        free = shutil.disk_usage(self.partial.parent).free
        if free < 2 * size:
            raise FileError(
                f"{self.partial}: the volume and its partial file need {2 * size / 2**30:.3g} GiB, "
                f"but {free / 2**30:.3g} GiB are free. Make room there."
            )
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        try:
            with self.partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(size)
        except OSError as error:
            raise FileError(
                f"{self.partial}: cannot be written ({error.strerror}). Choose another folder."
            ) from error

    def begin(self, found: dict[str, Any]) -> None:
        """Write down what was chosen for this run.

        Parameters
        ----------
        found : dict
            "backend" and "window".
        """
        self.found = found
        self._write()

    def done(self, start: int) -> bool:
        """Return whether a batch is finished.

        Parameters
        ----------
        start : int
            Its first slice.

        Returns
        -------
        bool
        """
        return start in self._done

    def rows(self) -> list[dict[str, Any]]:
        """Return how each slice ended, once all batches are finished.

        Returns
        -------
        list of dict
        """
        return [row for start, _ in self.batches for row in self._done[start]["slices"]]

    def put(self, start: int, x: Tensor, rows: list[dict[str, Any]], scan: str) -> None:
        """Write a finished batch.

        Parameters
        ----------
        start : int
            Its first slice.
        x : Tensor, shape (k, H, W)
            Its slices, on the CPU.
        rows : list of dict
            How each slice ended.
        scan : str
            The sha256 of the data that it was made from.

        Raises
        ------
        FileError
            If the disk is full.
        """
        array = x.contiguous().numpy().astype("<f4", copy=False)
        try:
            with self.partial.open("r+b") as file:
                file.seek(self._offset(start - self.first))
                file.write(array.data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileError(
                f"{self.partial}: could not be written ({error.strerror}). Make room; the same "
                "command resumes the run."
            ) from error
        self._done[start] = {"sha256": tensor_digest(x), "scan": scan, "slices": rows}
        self._write()

    def read(self, start: int, stop: int) -> Tensor:
        """Read slices of the partial volume.

        Parameters
        ----------
        start, stop : int
            The slices start ... stop - 1 of the volume.

        Returns
        -------
        Tensor, shape (stop - start, H, W)

        Raises
        ------
        FileError
            If the file cannot be read.
        """
        try:
            with self.partial.open("rb") as file:
                file.seek(self._offset(start))
                content = file.read(self._offset(stop) - self._offset(start))
            values = np.frombuffer(bytearray(content), dtype="<f4")
            return torch.from_numpy(values.reshape(stop - start, *self.shape[1:]))
        except (OSError, ValueError) as error:
            raise FileError(
                f"{self.partial}: cannot be read ({error}). Run the same command again."
            ) from error

    def batch(self, start: int, stop: int) -> Tensor:
        """Read a finished batch as it was put.

        Parameters
        ----------
        start, stop : int
            The slices start ... stop - 1 of the scan.

        Returns
        -------
        Tensor, shape (stop - start, H, W)

        Raises
        ------
        FileError
            If the file was changed since.
        """
        x = self.read(start - self.first, stop - self.first)
        if tensor_digest(x) != self._done[start]["sha256"]:
            raise FileError(
                f"{self.partial}: the slices {start}:{stop} were changed on disk. Run the same "
                "command again; it makes them again."
            )
        return x

    def remove(self) -> None:
        """Remove the partial volume and the journal."""
        self.path.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)

    def _write(self) -> None:
        done = {str(start): row for start, row in self._done.items()}
        save_table(self.path, {"settings": self.settings, "found": self.found, "done": done})

    def _offset(self, index: int) -> int:
        """Where slice ``index`` begins in the partial file."""
        return HEADER + 4 * index * self.shape[1] * self.shape[2]


__all__ = ["ROW", "Journal"]
