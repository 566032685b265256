"""Whole runs on a pretend GPU: to the bit those of the CPU, and how often the host waits.

Everything that has a name is tried, so new plugins are too.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from pretend_cuda import CUDA, PretendCuda

from pnp_mlpatch import denoisers, operators, solvers
from pnp_mlpatch.ct import INTEGRALS, ParallelBeam, read_scan
from pnp_mlpatch.denoisers import _convolution
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.lensing import ShearMap
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass
from pnp_mlpatch.testing._solvers import shrink
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.training.data import batch
from pnp_mlpatch.training.loop import _Training as Training
from pnp_mlpatch.tuning import AutoConfig, auto

STEPS = 3
SEARCH = AutoConfig(levels=2, max_runs=5, holdout_fraction=0.2)


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """Apply activations after the convolutions on the processor too, as on a GPU."""
    monkeypatch.setattr(_convolution, "NAMES", {})


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def data_of(A):
    q = A(draw(2, *A.image_shape))
    return q + 0.05 * torch.randn(q.shape, generator=torch.Generator().manual_seed(1))


def short(name):
    """The solver with few steps, none of them the last by chance."""
    solver = solvers.make(name)
    samples = {"burn_in": 1} if hasattr(solver, "burn_in") else {}
    return replace(solver, iterations=STEPS, tol=0.0, **samples)


@pytest.mark.parametrize("operator", operators.names())
@pytest.mark.parametrize("solver", solvers.names())
def test_solvers_run_on_the_gpu_and_rarely_wait(solver, operator):
    A, run = operators.get(operator).example(), short(solver)
    q = data_of(A)
    x0 = A.initial(q)
    wanted = run.run(q, A, shrink, noise=0.05, x0=x0, progress=False)
    marks = []
    with PretendCuda() as gpu:
        A = A.to("cuda")

        def mark(state):
            cg = sum(n for line, n in gpu.waits.items() if line.startswith("linalg.py"))
            marks.append((cg, sum(gpu.waits.values()) - cg))

        found = run.run(
            q.to("cuda"),
            A,
            shrink,
            noise=0.05,
            x0=x0.to("cuda"),
            callbacks=[mark],
            progress=False,
        )
        assert found.x.device == CUDA
        assert torch.equal(found.x.cpu(), wanted.x)
    for name in ("residual", "iteration"):
        assert found.history[name] == wanted.history[name]
    assert found.statuses == wanted.statuses
    (cg_before, before), (cg, after) = marks[-2:]
    # one for all numbers of a step; CG waits once in each of its steps
    assert after - before == 1, gpu.waits
    steps = getattr(run, "data_iterations", 0) if solver != "split_gibbs" else 20
    assert cg - cg_before <= (0 if A.closed_form else steps + 2), gpu.waits


# ---- denoisers


def made(name):
    required = [
        p
        for p in inspect.signature(denoisers.get(name)).parameters.values()
        if p.default is p.empty
    ]
    torch.manual_seed(0)
    return denoisers.registry.network(name).example() if required else denoisers.make(name)


def tv():
    return TV(iterations=3)


WRAPPERS = {
    "as_denoiser": lambda: denoisers.as_denoiser(shrink),
    "as_denoiser numpy": lambda: denoisers.as_denoiser(lambda x, s: 0.9 * x, array="numpy"),
    "per_channel": lambda: denoisers.per_channel(tv()),
    "e_mode": lambda: denoisers.e_mode(tv()),
    "complex_channels": lambda: denoisers.complex_channels(tv()),
    "rescaled": lambda: denoisers.rescaled(tv(), scale=2.0, offset=-0.5),
    "equivariant": lambda: denoisers.equivariant(tv()),
    "averaged": lambda: denoisers.averaged(tv(), 0.5),
    "contracted": lambda: denoisers.contracted(tv(), 2.0),
    "slabs": lambda: denoisers.slabs(tv()),
    "in_precision": lambda: denoisers.in_precision(made("mlpatch"), "float32"),
}


# Waits for a number, and for a tensor whose values are checked; none and one if not here.
WAITS = {
    "tv": (6, 7),  # one for each 10 iterations
    "as_denoiser numpy": (2, 3),
    "per_channel": (0, 2),  # checked again inside
    "complex_channels": (0, 2),
    "equivariant": (0, 9),  # 8 calls
    "slabs": (6, 7),  # one for each plane and image
}


@pytest.mark.parametrize("name", [*denoisers.names(), *WRAPPERS])
def test_denoisers_run_on_the_gpu(name):
    D = WRAPPERS[name]() if name in WRAPPERS else made(name)
    channels = (
        2
        if name in ("per_channel", "e_mode", "complex_channels")
        else denoisers.describe(D).channels or 1
    )
    x, levels = draw(2, channels, 11, 10), torch.tensor([0.1, 0.05])
    wanted = [D(x, sigma).detach() for sigma in (0.1, levels)]
    with PretendCuda() as gpu:
        there = WRAPPERS[name]() if name in WRAPPERS else made(name)
        there = there.to("cuda") if isinstance(there, torch.nn.Module) else there
        for sigma, want, most in zip(
            (0.1, levels.to("cuda")), wanted, WAITS.get(name, (0, 1)), strict=True
        ):
            gpu.waits.clear()
            got = there(x.to("cuda"), sigma).detach()
            assert sum(gpu.waits.values()) <= most, gpu.waits
            assert got.device == CUDA
            assert torch.equal(got.cpu(), want)


# ---- the rest of the package


@pytest.mark.parametrize("keep", [0.9, 0.3])  # estimates of the error: by SURE, and held out
def test_auto(keep):
    mask = (draw(14, 14) < keep).float()
    A = operators.make("mask", mask=mask)
    q = A(draw(1, 1, 14, 14)) + 0.05 * mask * torch.randn(
        1, 1, 14, 14, generator=torch.Generator().manual_seed(0)
    )
    solver = solvers.make("admm", iterations=4)
    search = partial(auto, D=tv(), solver=solver, noise=0.05, config=SEARCH, progress=False)
    wanted = search(q, A)
    with PretendCuda():
        found = search(q.to("cuda"), A.to("cuda"))
        assert found.x.device == CUDA
        assert torch.equal(found.x.cpu(), wanted.x)


def small_training(tmp_path, **settings):
    (tmp_path / "pictures").mkdir()
    for k in range(2):
        picture = (255 * draw(20, 22, seed=k)).to(torch.uint8).numpy()
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{k}.png")
    return TrainConfig(
        data=str(tmp_path / "pictures"),
        out=str(tmp_path / "cpu"),
        model={"width": 4, "rings": 1, "angles": 4, "radius": 1.0, "depth": 2},
        size=8,
        crop=4,
        batch=2,
        warmup=1,
        **settings,
    )


def test_training(tmp_path):
    config = small_training(tmp_path, steps=2, validate_every=2)
    wanted = MLPatch.load(train(config, progress=False)).state_dict()
    with PretendCuda():
        path = train(replace(config, out=str(tmp_path / "cuda"), device="cuda"), progress=False)
    found = MLPatch.load(path).state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_images_of_the_next_step_are_on_the_gpu_already(tmp_path):
    config = small_training(tmp_path, steps=3, device="cuda")
    with PretendCuda() as gpu:
        training = Training(config, torch.device("cuda"), rank=0, world=1)
        wanted = [batch(training.sources, config, training.model.halo, k, range(2)) for k in (1, 2)]
        for step, expected in enumerate([*wanted, None]):
            gpu.waits.clear()
            training._step(step)
            assert sum(gpu.waits.values()) <= 2, gpu.waits  # for the loss, and the norm
            if expected is None:
                assert training.ahead is None
                continue
            for found, part in zip(training.ahead[:3], expected[:3], strict=True):
                assert found.device == CUDA
                assert torch.equal(found.cpu(), part)


@pytest.mark.filterwarnings("ignore:map_mass")
def test_mass_maps():
    noise = torch.full((12, 11), 0.03, dtype=torch.float64)
    noise[:2] = torch.inf
    shear = ShearMap(torch.where(noise < 1, 0.1 * draw(2, 12, 11).double(), 0.0), noise, "1 arcmin")
    config = MassMapConfig(iterations=3, burn_in=1, passes=2, padding=2, sigma=0.1)
    run = partial(map_mass, shear, shrink, config, progress=False)
    wanted = run()
    with PretendCuda():
        found = run(device="cuda")
        assert torch.equal(found.kappa.cpu(), wanted.kappa)


def test_volumes(tmp_path):
    geometry = ParallelBeam((12, 12), 8, 16)
    q = Radon(geometry, cache=False)(torch.nn.functional.pad(draw(3, 1, 6, 6), [3] * 4))[:, 0]
    np.save(tmp_path / "scan.npy", q.numpy())
    scan = read_scan(tmp_path / "scan.npy", kind=INTEGRALS)
    config = VolumeConfig(iterations=2, batch=2, sigma=0.06)

    def run(name, config):
        out = tmp_path / f"{name}.npy"
        reconstruct_volume(scan, geometry, tv(), out, config, progress=False)
        return np.load(out)

    wanted = run("cpu", config)
    with PretendCuda():
        assert np.array_equal(run("cuda", replace(config, device="cuda")), wanted)
