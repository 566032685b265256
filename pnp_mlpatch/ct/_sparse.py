"""Sparse matrices as modules."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

COLUMNS = 16  # of one sparse product: more no longer share the cache

# torch says once in a process that its CSR layout is a beta. It says so here, where nobody hears
# it: a filter set around each product would be one for all threads, and two of them would leave it
# set for good.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(
        torch.tensor([0, 0]),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0),
        size=(1, 1),
        check_invariants=False,
    )


class SparseMatrix(nn.Module):
    """A float32 matrix in compressed rows; it is copied and moved like any module.

    Parameters
    ----------
    matrix : scipy.sparse.csr_matrix
        Its values.
    """

    def __init__(self, matrix: Any):
        super().__init__()
        self.shape = tuple(matrix.shape)
        self.rows: Tensor
        self.columns: Tensor
        self.values: Tensor
        self.register_buffer("rows", torch.from_numpy(matrix.indptr), persistent=False)
        self.register_buffer("columns", torch.from_numpy(matrix.indices), persistent=False)
        self.register_buffer("values", torch.from_numpy(matrix.data), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply dense columns.

        Parameters
        ----------
        x : Tensor, shape (columns, k)
            Dense columns.

        Returns
        -------
        Tensor, shape (rows, k)
        """
        matrix = torch.sparse_csr_tensor(
            self.rows, self.columns, self.values.float(), size=self.shape, check_invariants=False
        )
        if x.shape[1] <= COLUMNS:
            return matrix @ x
        out = x.new_empty(self.shape[0], x.shape[1])
        for start in range(0, x.shape[1], COLUMNS):
            out[:, start : start + COLUMNS] = matrix @ x[:, start : start + COLUMNS].contiguous()
        return out


__all__ = ["SparseMatrix"]
