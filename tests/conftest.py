"""Shared pieces: real weights, real images at small size, a private cache folder."""

from __future__ import annotations

import os

import pytest
import torch

from pnp_mlpatch import denoisers, samples

LAST = (  # they solve whole problems, train, or start programs
    *(
        "test_agreement",
        "test_ct_agreement",
        "test_parity",
        "test_training_engine",
        "test_sampling",
        "test_auto",
    ),
    *("test_examples", "test_docs", "test_plugin_package", "test_benchmarks"),
)


def pytest_collection_modifyitems(items):
    """Contracts first, then what is quick, then ``LAST`` in its order.

    Each worker begins with a part of the list, and helps the others when it has finished. So the
    parts are every other file, and each goes from quick to slow.
    """

    def place(item):
        name = item.path.stem
        return LAST.index(name) + 1 if name in LAST else 0 if name != "test_contracts" else -1

    items.sort(key=place)
    files = {name: k for k, name in enumerate(dict.fromkeys(item.path.stem for item in items))}
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items.sort(key=lambda item: files[item.path.stem] % workers)


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PNP_MLPATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def mlpatch():
    """The shipped weights."""
    return denoisers.make("mlpatch", weights="mlpatch-grey")


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    """A part of the sample photograph, (1, 1, 96, 80)."""
    return samples.camera()[..., 100:196, 200:280].contiguous()
