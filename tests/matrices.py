"""The matrix of an operator, and how far two tensors are apart."""

from __future__ import annotations

import math

import torch


def dense(A, dtype=torch.float64):
    """The matrix of an operator, column by column."""
    count = math.prod(A.image_shape)
    basis = torch.eye(count, dtype=dtype).reshape(count, *A.image_shape)
    return A(basis).reshape(count, -1).T


def relative(a, b):
    """|a - b| / |b|."""
    return float((a - b).norm() / b.norm())
