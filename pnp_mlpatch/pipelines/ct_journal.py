"""What lies on disk until a CT volume is complete, so that a run that was killed can be resumed."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from pnp_mlpatch.ct import Scan
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, WeightsError
from pnp_mlpatch.io.checkpoint import check_same, load_table, save_table
from pnp_mlpatch.pipelines.ct_digest import Shard, partial_files, tensor_digest
from pnp_mlpatch.pipelines.ct_parts import RUN, Parts

ROW = ("status", "iterations", "residual", "noise", "sigma", "alpha_scale", "chi2")
ROW += ("outliers", "zingers", "bad_elements", "element_spread")
ANEW = "remove it, or start anew with resume=False (--no-resume)"
SCAN_FILE = "scan file"  # the setting that tells the file of the scan; it is not in the report
Row = dict[str, Any]


class Journal:
    """A JSON file that says which batches are finished, beside the folder in which they are.

    One process writes it, whoever writes the batches: a batch is on the disk before it is named.

    Parameters
    ----------
    out : Path
        The volume; batches and journal lie beside it.
    shape : tuple of int
        (slices, H, W).
    settings : dict
        Plain JSON values that must be the same when a run is resumed.
    batches : list of tuple of int
        All batches (start, stop) of slices of the scan.
    shard : tuple of int, optional
        (i, N): the journal is of every N-th batch from the i-th on.

    Raises
    ------
    InputTypeError
        For settings that JSON cannot hold.
    """

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int, int],
        settings: dict[str, Any],
        batches: list[tuple[int, int]],
        shard: Shard | None = None,
    ):
        self.out, self.shard = out, shard
        folder, self.path = partial_files(out, shard)
        try:
            self.settings = json.loads(json.dumps(settings, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"reconstruct_volume: meta and settings must be plain JSON values ({error})."
            ) from error
        run = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        self.parts = Parts(folder, shape, batches[0][1] - batches[0][0], run)
        self.number = {start: number for number, (start, _) in enumerate(batches)}
        self.batches = batches if shard is None else batches[shard[0] - 1 :: shard[1]]
        self.found: dict[str, Any] = {}
        self._done: dict[int, dict[str, Any]] = {}

    # ---- an interrupted run

    def open(self, resume: bool) -> None:
        """Take over what an interrupted run finished, or begin an empty journal.

        Parameters
        ----------
        resume : bool
            Whether an interrupted run is resumed.

        Raises
        ------
        InputError
            If the interrupted run had other settings.
        FileError
            If the journal is damaged, or the disk has no room.
        """
        self._recover()
        if resume and self.path.exists():
            self._resume()
        elif self.shard is None or not self.parts.exists():
            self.path.unlink(missing_ok=True)
            self._check_room()
            self.parts.make()
        if self.shard is not None:
            self.write()  # so that other runs see the shard

    def _recover(self) -> None:
        """Take back a zarr store that was moved into place by a run that was killed right then."""
        if self.out.is_dir() and not self.parts.folder.exists() and (self.out / RUN).exists():
            self.out.rename(self.parts.folder)

    def _resume(self) -> None:
        """Take over the batches of the interrupted run whose digest is right."""
        done = self.load()
        whole, damaged = self.parts.exists(), []
        for a, b in self.batches:
            if a not in done:
                continue
            x = self.parts.read(self.number[a]) if whole else None
            if x is not None and tensor_digest(x) == done[a].get("sha256"):
                self._done[a] = done[a]
            else:
                damaged.append(f"{a}:{b}")
        if damaged:
            warnings.warn(
                f"{self.parts.folder}: the slices {', '.join(damaged)} are missing or damaged; "
                "they are made again.",
                stacklevel=5,
            )
        if not whole:
            self._check_room()
            self.parts.make()

    def load(self) -> dict[int, dict[str, Any]]:
        """Read the journal on disk; take over what was chosen for its run.

        Returns
        -------
        dict
            From the first slice of each finished batch to what is known of it.

        Raises
        ------
        InputError
            If the settings of the interrupted run were others.
        FileError
            If the journal is damaged.
        """
        try:
            before = load_table(self.path)
            settings, found, done = dict(before["settings"]), before["found"], before["done"]
        except (WeightsError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error
        check_same(self.path, settings, self.settings, anew=ANEW, values=True)
        try:
            if found or done:
                low, high = found["window"]
                found = {**found, "backend": str(found["backend"])}
                found["window"] = [float(low), float(high)]
            rows = {int(a): row for a, row in done.items()}
            for a, b in self.batches:
                if a in rows and [set(row) for row in rows[a]["slices"]] != [set(ROW)] * (b - a):
                    raise ValueError("its rows")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from error
        self.found = found
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

    def _check_room(self) -> None:
        """Raise unless the disk has room for the batches and for the volume."""
        slices, height, width = self.parts.shape
        share = 4 / 3 if self.out.suffix.lower() == ".zarr" else 2  # a zarr store is not copied
        size = share * 4 * slices * height * width
        free = shutil.disk_usage(self.path.parent).free
        if free < size:
            raise FileError(
                f"{self.parts.folder}: the volume and its finished batches need "
                f"{size / 2**30:.3g} GiB, but {free / 2**30:.3g} GiB are free. Make room there."
            )

    def begin(self, found: dict[str, Any]) -> None:
        """Write down what was chosen for this run.

        Parameters
        ----------
        found : dict
            "backend", "window" and what else the end of the run needs.
        """
        self.found = found
        self.write()

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

    def finished(self) -> dict[int, dict[str, Any]]:
        """Return what is known of the finished batches, by their first slices.

        Returns
        -------
        dict
        """
        return dict(self._done)

    def adopt(self, found: dict[str, Any], done: dict[int, dict[str, Any]]) -> None:
        """Take over what other journals say; nothing is written.

        Parameters
        ----------
        found : dict
            As in :meth:`begin`.
        done : dict
            As :meth:`finished` returns.
        """
        self.found, self._done = found, dict(done)

    def put(self, start: int, row: dict[str, Any]) -> None:
        """Name a batch that was written.

        Parameters
        ----------
        start : int
            Its first slice.
        row : dict
            "sha256" of its values, "scan", that of the data that it was made from, and "slices",
            how each slice ended.
        """
        self._done[start] = row
        self.write()

    def rows(self) -> list[Row]:
        """Return how each slice ended, once all batches are finished.

        Returns
        -------
        list of dict
        """
        return [row for start, _ in self.batches for row in self._done[start]["slices"]]

    def batch(self, start: int) -> Tensor:
        """Read a finished batch as it was written.

        Parameters
        ----------
        start : int
            Its first slice.

        Returns
        -------
        Tensor, shape (k, H, W)

        Raises
        ------
        FileError
            If the file was changed since.
        """
        x = self.parts.read(self.number[start])
        if x is None or tensor_digest(x) != self._done[start]["sha256"]:
            raise FileError(
                f"{self.parts.folder}: the batch from slice {start} on was changed on disk. Run "
                "the same command again; it makes it again."
            )
        return x

    def write(self) -> None:
        """Write the journal."""
        done = {str(start): row for start, row in self._done.items()}
        save_table(self.path, {"settings": self.settings, "found": self.found, "done": done})


__all__ = ["ROW", "SCAN_FILE", "Journal", "Row"]
