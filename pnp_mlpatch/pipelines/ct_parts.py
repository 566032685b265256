"""The finished batches of a CT volume, one file each, which any process may write."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.errors import FileError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.ome_zarr import chunk_file, write_chunk
from pnp_mlpatch.pipelines.ct_digest import tensor_digest

RUN = "run"  # the file that says to which run a folder belongs


@dataclass(frozen=True)
class Parts:
    """A folder of batches, in the form of level 0 of a zarr store.

    A batch is flushed to the disk and then moved into place. Processes on several machines may
    write different batches; two that write the same one write the same bytes.

    Parameters
    ----------
    folder : Path
        The folder.
    shape : tuple of int
        (slices, H, W) of the volume.
    batch : int
        The slices of a batch; the last may have fewer.
    run : str
        The digest of the settings of the run that it belongs to.
    """

    folder: Path
    shape: tuple[int, int, int]
    batch: int
    run: str

    @property
    def count(self) -> int:
        """The number of batches."""
        return -(-self.shape[0] // self.batch)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return the slices (start, stop) of a batch, counted within the volume.

        Parameters
        ----------
        number : int
            The batch.

        Returns
        -------
        tuple of int
        """
        return number * self.batch, min((number + 1) * self.batch, self.shape[0])

    def make(self) -> None:
        """Make the folder, empty.

        Raises
        ------
        FileError
            If it cannot be made.
        """
        self.remove()
        try:
            for number in range(self.count):
                chunk_file(self.folder, 0, number).parent.mkdir(parents=True)
            atomic_write(
                self.folder / RUN, lambda temporary: temporary.write_text(self.run, "ascii")
            )
        except OSError as error:
            reason = error.strerror or error
            raise FileError(
                f"{self.folder}: cannot be written ({reason}). Choose another folder."
            ) from error

    def exists(self) -> bool:
        """Return whether the folder is there and belongs to this run.

        Returns
        -------
        bool
        """
        try:
            return (self.folder / RUN).read_text("ascii") == self.run
        except (OSError, ValueError):
            return False

    def write(self, number: int, x: Tensor) -> str:
        """Write a batch.

        Parameters
        ----------
        number : int
            The batch.
        x : Tensor, shape (k, H, W)
            Its slices, on the CPU.

        Returns
        -------
        str
            The sha256 of its values.

        Raises
        ------
        FileError
            If the disk is full, or the folder is not there or belongs to another run.
        """
        if not self.exists():
            raise FileError(
                f"{self.folder}: this folder of the run is not there, or belongs to another run. "
                "Give an output on a file system that all processes see, and run the same command."
            )
        try:
            write_chunk(chunk_file(self.folder, 0, number), x, self.batch)
        except FileError as error:
            reason = getattr(error.__cause__, "strerror", None) or error
            raise FileError(
                f"{self.folder}: could not be written ({reason}). Make room; the same command "
                "resumes the run."
            ) from error
        return tensor_digest(x)

    def read(self, number: int) -> Tensor | None:
        """Read a batch.

        Parameters
        ----------
        number : int
            The batch.

        Returns
        -------
        Tensor, shape (k, H, W), or None
            None if it is not there, or not whole.
        """
        start, stop = self.bounds(number)
        try:
            values = np.fromfile(chunk_file(self.folder, 0, number), dtype="<f4")
            values = values.reshape(self.batch, *self.shape[1:])[: stop - start]
        except (OSError, ValueError):
            return None
        return torch.from_numpy(values.astype(np.float32, copy=False))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


__all__ = ["RUN", "Parts"]
