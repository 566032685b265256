"""The short form of benchmarks/random_operators.py: random operators against dense
float64 algebra.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from random_operators import trial


@pytest.mark.parametrize("first", range(0, 40, 8))
@pytest.mark.filterwarnings("ignore")
def test_random_operators_are_their_matrices(first):
    for seed in range(first, first + 8):
        name, wrong = trial(seed)
        assert not wrong, f"seed {seed}, {name}: {'; '.join(wrong)}"
