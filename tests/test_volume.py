"""Volumes slice by slice: the units, what was not measured, the window, and going on
after a kill.
"""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from pnp_mlpatch.ct import COUNTS, INTEGRALS, Scan, read_scan
from pnp_mlpatch.ct.counts import simulate_counts
from pnp_mlpatch.ct.geometry import FanBeam, ParallelBeam
from pnp_mlpatch.denoisers import as_denoiser, rescaled
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.checkpoint import save_table
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines import ct_batch, ct_journal, ct_publish, ct_recipe
from pnp_mlpatch.pipelines.ct_volume import (
    VolumeConfig,
    check_scan,
    estimate_noise,
    reconstruct_volume,
)
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.tuning import recipe

SIZE, SLICES, ANGLES, PIXEL, BLANK, DARK = 40, 5, 36, 1.5, 3000.0, 20.0
TV_ = TV(iterations=15)
FAST = VolumeConfig(iterations=3, batch=2, sigma=0.06)


def phantom(size: int = SIZE) -> torch.Tensor:
    """(slices, H, W) attenuation per mm: a disc of 0.02 with a dense disc that moves and a hole,
    air about it.
    """
    rows, cols = np.mgrid[:size, :size] / size - 0.5
    slices = []
    for k in range(SLICES):
        image = 0.02 * (rows**2 + cols**2 < 0.17) + 0.01 * (
            (cols - 0.12) ** 2 + (rows - 0.06 * (k - 2)) ** 2 < 0.01
        )
        slices.append(image - 0.02 * ((np.abs(cols + 0.2) < 0.07) & (np.abs(rows) < 0.1)))
    return torch.from_numpy(np.stack(slices)).float()


TRUTH = phantom()
GEOMETRY = ParallelBeam((SIZE, SIZE), ANGLES, SIZE + 4, pixel=PIXEL)
Q = Radon(GEOMETRY, cache=False)(TRUTH[:, None])[:, 0]


def made(data: torch.Tensor, kind: str, tmp_path, flat=None, dark=None) -> Scan:
    path = tmp_path / "scan.npy"
    np.save(path, data.numpy())
    return read_scan(path, kind=kind, flat=flat, dark=dark)


@pytest.fixture
def counts(tmp_path) -> Scan:
    return made(
        simulate_counts(Q, BLANK + DARK, DARK, seed=1), COUNTS, tmp_path, BLANK + DARK, DARK
    )


@pytest.fixture
def integrals(tmp_path) -> Scan:
    return made(
        Q + 0.05 * torch.randn(Q.shape, generator=torch.Generator().manual_seed(0)),
        INTEGRALS,
        tmp_path,
    )


def run(scan, out, config=FAST, D=TV_, **settings):
    return reconstruct_volume(scan, GEOMETRY, D, out, config, progress=False, **settings)


def changed(config, **settings):
    return dataclasses.replace(config, **settings)


def error(x, truth=TRUTH) -> float:
    return float((torch.as_tensor(x) - torch.as_tensor(truth)).square().mean().sqrt())


# ---- what comes out


def test_counts(counts, tmp_path):
    result = run(counts, tmp_path / "v.npy", meta={"who": "me"})
    x = np.load(tmp_path / "v.npy")
    assert x.shape == result.shape == (SLICES, SIZE, SIZE)
    assert x.dtype == np.float32
    run(counts, tmp_path / "fbp.npy", D=None)
    assert error(x) < 0.7 * error(np.load(tmp_path / "fbp.npy"))
    assert torch.equal(result.middle, torch.from_numpy(x[2]))
    assert torch.allclose(result.fbp, torch.from_numpy(np.load(tmp_path / "fbp.npy")[2]), atol=1e-6)
    assert result.window[0] == 0
    assert result.window[1] == pytest.approx(1.2 * 0.03, rel=0.25)
    assert result.status == ["max_iter"] * SLICES
    assert all(0 < value < 1 for value in result.residual)
    report = json.loads((tmp_path / "v.json").read_text())
    assert report["meta"] == {"who": "me"}
    assert report["geometry"]["pixel"] == PIXEL
    assert (report["sigma"], report["iterations"], report["noise"]) == (0.06, 3, None)
    assert report["result"]["residual"] == result.residual
    assert report["result"]["noise"] == [None] * SLICES
    assert report["units"] == "1 / unit of pixel"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "fbp.json",
        "fbp.npy",
        "scan.npy",
        "v.json",
        "v.npy",
    ]
    assert json.loads((tmp_path / "fbp.json").read_text())["result"]["status"] == ["fbp"] * SLICES


def test_poisson_agrees_and_is_better_where_photons_are_few(tmp_path):
    few = changed(FAST, iterations=6, settings={"data_iterations": 8}, window=(0.0, 0.04))
    scan = made(simulate_counts(Q, 60.0, 2.0, seed=2), COUNTS, tmp_path, 60.0, 2.0)
    run(scan, tmp_path / "gauss.npy", few)
    run(scan, tmp_path / "poisson.npy", changed(few, likelihood="poisson"))
    gauss, poisson = (np.load(tmp_path / f"{name}.npy") for name in ("gauss", "poisson"))
    inside = TRUTH == 0.02
    assert error(poisson) < 1.05 * error(gauss)
    assert abs(poisson[inside].mean() - 0.02) < abs(gauss[inside].mean() - 0.02) + 2e-4
    noisy = changed(few, likelihood="poisson", electronic=3.0)
    assert run(scan, tmp_path / "electronic.npy", noisy).status == ["max_iter"] * SLICES


def test_the_start_is_denoised_at_the_level_of_its_noise(tmp_path, monkeypatch):
    """Where there is more noise than signal, three iterations from filtered backprojection as it is
    would keep its streaks.
    """
    scan = made(
        Q + 0.5 * torch.randn(Q.shape, generator=torch.Generator().manual_seed(1)),
        INTEGRALS,
        tmp_path,
    )
    config = changed(FAST, window=(0.0, 0.04))
    A = Radon(GEOMETRY, cache=False)
    slab = ct_batch.read_slab(scan, config, 0, 2)
    seen = A.initial(slab.q[:, None] - Q[:2, None]).flatten(1).std(1)
    assert (ct_recipe.start_level(A, slab, TV_.info) / 2).tolist() == pytest.approx(
        seen.tolist(), rel=0.2
    )
    trained = dataclasses.replace(TV_.info, sigma_range=(0.0, 0.01))
    assert ct_recipe.start_level(A, slab, trained).tolist() == pytest.approx([0.01] * 2)
    run(scan, tmp_path / "v.npy", config)
    monkeypatch.setattr(ct_recipe, "start_level", lambda A, slab, known: torch.zeros(len(slab.q)))
    run(scan, tmp_path / "raw.npy", config)
    assert error(np.load(tmp_path / "v.npy")) < 0.7 * error(np.load(tmp_path / "raw.npy"))


def test_gain_is_detector_units_per_photon(counts, tmp_path):
    run(counts, tmp_path / "one.npy")
    scaled = dataclasses.replace(
        counts, flat=counts.flat * 4, dark=counts.dark * 4, slab=lambda a, b: 4 * counts.slab(a, b)
    )
    run(scaled, tmp_path / "four.npy", changed(FAST, gain=4.0))
    assert np.allclose(np.load(tmp_path / "one.npy"), np.load(tmp_path / "four.npy"), atol=1e-6)


def test_noise_is_estimated(integrals, tmp_path):
    run(integrals, tmp_path / "v.npy")
    assert json.loads((tmp_path / "v.json").read_text())["result"]["noise"] == pytest.approx(
        [0.05] * SLICES, rel=0.2
    )
    run(integrals, tmp_path / "given.npy", changed(FAST, noise=0.05))
    assert error(np.load(tmp_path / "v.npy"), np.load(tmp_path / "given.npy")) < 3e-4
    assert error(np.load(tmp_path / "v.npy")) < 0.004


def test_hounsfield_units(counts, tmp_path):
    run(counts, tmp_path / "mu.npy", changed(FAST, window=(0.0, 0.04)))
    result = run(
        counts, tmp_path / "hu.npy", changed(FAST, mu_water=0.02, window=(-1000.0, 1000.0))
    )
    mu, hu = np.load(tmp_path / "mu.npy"), np.load(tmp_path / "hu.npy")
    assert np.allclose(1000 * (mu - 0.02) / 0.02, hu, atol=0.5)
    assert (result.units, result.window) == ("HU", (-1000.0, 1000.0))
    assert run(counts, tmp_path / "hu.npy", changed(FAST, mu_water=0.02)).window == (
        -1024.0,
        1024.0,
    )
    assert float(result.fbp[20, 20]) == pytest.approx(0, abs=150)


def test_the_window_only_moves_the_denoiser(counts, tmp_path):
    """TV has no units, so a wider window with a smaller sigma is the same problem."""
    run(counts, tmp_path / "a.npy", changed(FAST, window=(0.0, 0.04)))
    run(counts, tmp_path / "b.npy", changed(FAST, window=(-0.04, 0.04), sigma=FAST.sigma / 2))
    assert np.allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), atol=1e-5)
    run(
        counts,
        tmp_path / "c.npy",
        changed(
            FAST,
            window=(0.0, 0.04),
            sigma=(0.06, 0.06),
            solver="hqs",
            settings={"alpha_scale": 1.0},
        ),
    )
    assert error(np.load(tmp_path / "c.npy")) < 0.005


def test_slices_are_those_of_the_whole(counts, tmp_path):
    config = changed(FAST, window=(0.0, 0.04))
    run(counts, tmp_path / "all.npy", config)
    run(counts, tmp_path / "part.npy", changed(config, slices=(2, 5)))
    assert np.array_equal(np.load(tmp_path / "part.npy"), np.load(tmp_path / "all.npy")[2:])


def test_endings_hold_the_same_numbers(counts, tmp_path):
    h5py = pytest.importorskip("h5py")
    from PIL import Image

    for name in ("v.npy", "v.h5", "v.tif"):
        run(counts, tmp_path / name)
    x = np.load(tmp_path / "v.npy")
    with h5py.File(tmp_path / "v.h5") as file:
        assert np.array_equal(file["volume"], x)
    with Image.open(tmp_path / "v.tif") as pages:
        assert pages.n_frames == SLICES
        assert np.array_equal(np.asarray(pages), x[0])


def test_any_callable_and_names(counts, tmp_path):
    run(counts, tmp_path / "v.npy", D=lambda x, sigma: TV_(x, sigma))
    run(counts, tmp_path / "w.npy")
    assert np.array_equal(np.load(tmp_path / "v.npy"), np.load(tmp_path / "w.npy"))
    run(counts, tmp_path / "n.npy", D="tv")
    run(counts, tmp_path / "m.npy", D=MLPatch.example())
    assert len(json.loads((tmp_path / "m.json").read_text())["denoiser"]["sha256"]) == 64


def test_fan_beam(tmp_path):
    geometry = FanBeam((SIZE, SIZE), 60, source_origin=100.0, origin_detector=50.0, pixel=PIXEL)
    q = Radon(geometry, cache=False)(TRUTH[:, None])[:, 0]
    scan = made(simulate_counts(q, BLANK, seed=1), COUNTS, tmp_path, BLANK)
    reconstruct_volume(scan, geometry, TV_, tmp_path / "v.npy", FAST, progress=False)
    assert error(np.load(tmp_path / "v.npy")) < 0.003


# ---- what was not measured


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson"])
def test_dead_bins_and_nan_do_not_spread(counts, tmp_path, likelihood):
    config = changed(FAST, window=(0.0, 0.04), likelihood=likelihood, iterations=6)
    run(counts, tmp_path / "whole.npy", config)
    data = counts.read(0, SLICES)
    data[:, 5, 10:14] = math.nan
    data[1, 9] = math.nan
    data[:, :, 17] = 0
    data[3] = math.nan
    flat = counts.flat.clone()
    flat[:, 17], flat[:, 30] = 0, DARK
    broken = dataclasses.replace(counts, flat=flat, slab=lambda a, b: data[a:b].numpy())
    with pytest.warns(UserWarning, match="nothing was measured in the slices 3;"):
        result = run(broken, tmp_path / "broken.npy", config)
    assert result.status == ["max_iter"] * 3 + ["nothing measured", "max_iter"]
    whole, x = np.load(tmp_path / "whole.npy"), np.load(tmp_path / "broken.npy")
    assert not x[3].any()
    live = [0, 1, 2, 4]
    assert np.isfinite(x).all()
    assert error(x[live], whole[live]) < 0.5 * error(whole)
    assert error(x[live], TRUTH[live]) < 1.1 * error(whole)


def test_gaps_in_line_integrals(integrals, tmp_path):
    config = changed(FAST, window=(0.0, 0.04))
    run(integrals, tmp_path / "whole.npy", config)
    data = integrals.read(0, SLICES)
    data[:, :, 15] = math.nan
    data[:, 3, 8] = math.inf
    data[2:4] = math.nan
    with pytest.warns(UserWarning, match="slices 2, 3;"):
        run(
            dataclasses.replace(integrals, slab=lambda a, b: data[a:b].numpy()),
            tmp_path / "gaps.npy",
            config,
        )
    whole, x = np.load(tmp_path / "whole.npy"), np.load(tmp_path / "gaps.npy")
    assert not x[2:4].any()
    assert error(x[[0, 1, 4]], TRUTH[[0, 1, 4]]) < 1.1 * error(whole)


def test_filled_is_linear_along_the_detector():
    q = torch.tensor([[0.0, 1.0, 0.0, 0.0, 4.0, 0.0], [0.0] * 6])
    missing = torch.tensor([[True, False, True, True, False, True], [True] * 6])
    filled = Radon(image_shape=(1, 4, 4), angles=2, detectors=6, cache=False)._fill(
        q[None, None], ~missing[None, None]
    )[0, 0]
    one = [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]
    assert filled.tolist() == [
        pytest.approx([2 * value for value in one]),
        [0.0] * 6,
    ]  # the first stands for the second


# ---- the noise


@pytest.fixture(scope="module")
def fine() -> torch.Tensor:
    """Line integrals on 128 detectors, along which the object changes less than the noise."""
    return Radon(ParallelBeam((128, 128), 60, 132, pixel=0.47), cache=False)(
        phantom(128)[:2, None]
    )[:, 0]


@pytest.mark.parametrize("level", [0.02, 0.1])
def test_estimate_noise(fine, level):
    q = fine + level * torch.randn(fine.shape, generator=torch.Generator().manual_seed(4))
    assert estimate_noise(q).shape == (2,)
    assert estimate_noise(q).tolist() == pytest.approx([level] * 2, rel=0.2)
    assert float(estimate_noise(q[0])) == float(estimate_noise(q)[0])
    q[:, :, 12] = math.nan
    assert estimate_noise(q).tolist() == pytest.approx([level] * 2, rel=0.2)


def test_estimate_noise_of_counts_is_that_of_the_object(fine):
    """In air there are more photons, and less noise; the object matters."""
    q = -torch.log(simulate_counts(fine, 1000.0, seed=0).clamp_min(0.5) / 1000)
    inside = fine > 0.1 * fine.max()
    expected = float((1 / (1000 * torch.exp(-fine[inside]))).sqrt().median())
    assert expected > 1.4 * 1000**-0.5
    assert estimate_noise(q).tolist() == pytest.approx([expected] * 2, rel=0.2)


def test_estimate_noise_refuses():
    assert float(estimate_noise(torch.ones(4, 10))) > 0
    with pytest.raises(InputError, match="no three neighbouring"):
        estimate_noise(torch.full((3, 9), math.nan))
    with pytest.raises(InputError, match="no three neighbouring"):
        estimate_noise(torch.ones(3, 2))
    with pytest.raises(InputTypeError, match="tensor of real floats"):
        estimate_noise(torch.ones(3, 9).int())


# ---- going on


@pytest.fixture
def killed(monkeypatch):
    """Run, but as if killed at the batch that begins with a slice."""

    def call(scan, out, at: int, config=FAST, **settings) -> None:
        solve, seen = ct_batch.read_slab, []

        def kill(scan, config, a, b):
            seen.append(a)
            if a == at and len(seen) > 2:  # the start reads two slices
                raise KeyboardInterrupt
            return solve(scan, config, a, b)

        with monkeypatch.context() as patch:
            patch.setattr(ct_batch, "read_slab", kill)
            with pytest.raises(KeyboardInterrupt):
                run(scan, out, config, **settings)

    return call


def batches(monkeypatch) -> list[int]:
    """The first slices of the batches that are solved from now on."""
    seen, solve = [], ct_batch.solve_slab

    def follow(A, D, solver, config, slab):
        seen.append(len(slab.live))
        return solve(A, D, solver, config, slab)

    monkeypatch.setattr(ct_batch, "solve_slab", follow)
    return seen


@pytest.mark.parametrize("ending", [".npy", ".h5", ".tif"])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_killed_run_goes_on_to_the_same_bytes(counts, tmp_path, killed, monkeypatch, ending, at):
    run(counts, tmp_path / f"whole{ending}")
    out = tmp_path / f"v{ending}"
    killed(counts, out, at)
    assert not out.exists()
    parts = [tmp_path / f".v{ending}.partial" / f"0/c/{k}/0/0" for k in range(3)]
    assert [part.exists() for part in parts] == [2 * k < at for k in range(3)]
    seen = batches(monkeypatch)
    result = run(counts, out)
    assert result.resumed == at
    assert sum(seen) == SLICES - at
    assert out.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    assert out.with_suffix(".json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_killed_twice_and_while_writing(counts, tmp_path, killed, monkeypatch):
    run(counts, tmp_path / "whole.npy")
    killed(counts, tmp_path / "v.npy", 2)
    killed(counts, tmp_path / "v.npy", 4)
    with monkeypatch.context() as patch:
        patch.setattr(
            ct_publish, "write_volume", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run(counts, tmp_path / "v.npy")
    seen = batches(monkeypatch)
    assert run(counts, tmp_path / "v.npy").resumed == SLICES
    assert seen == []
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_other_settings_are_refused_by_name(counts, tmp_path, killed):
    out = tmp_path / "v.npy"
    killed(counts, out, 2)
    for config, words in (
        (changed(FAST, sigma=0.07), r"sigma: 0.06 before, 0.07 now\)"),
        (
            changed(FAST, batch=3, iterations=9),
            r"batch: 2 before, 3 now; iterations: 3 before, 9 now\)",
        ),
        (changed(FAST, slices=(0, 4)), r"slices: \[0, 5\] before, \[0, 4\] now"),
    ):
        with pytest.raises(InputError, match=words + r".*resume=False \(--no-resume\)"):
            run(counts, out, config)
    with pytest.raises(InputError, match="denoiser: "):
        run(counts, out, D=MLPatch.example())
    with pytest.raises(InputError, match="meta: "):
        run(counts, out, meta={"weights": "other"})
    np.save(counts.path, np.load(counts.path))  # written anew
    with pytest.raises(InputError, match="scan file: "):
        run(counts, out)
    assert run(counts, out, resume=False).resumed == 0


def test_another_module_is_another_denoiser(counts, tmp_path, killed):
    one, two = MLPatch.example(), MLPatch.example()
    killed(counts, tmp_path / "v.npy", 2, D=one)
    with pytest.raises(InputError, match="denoiser: "):
        run(counts, tmp_path / "v.npy", D=as_denoiser(two))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"settings": 3, "found": {}, "done": {}}',
        "rows",
        "window",
        "keys",
        "flipped",
    ],
    ids=lambda t: t[:12] or "empty",
)
def test_a_damaged_journal_is_refused(counts, tmp_path, killed, text):
    killed(counts, tmp_path / "v.npy", 2)
    path = tmp_path / ".v.npy.partial.json"
    values = json.loads(path.read_text())
    if text == "rows":
        values["done"]["0"]["slices"].pop()
    elif text == "window":
        values["found"]["window"] = None
    elif text == "keys":
        values["done"]["0"] = 3
    if text in ("rows", "window", "keys"):
        save_table(path, {key: value for key, value in values.items() if key != "sha256"})
    else:
        path.write_text(
            json.dumps(values | {"found": values["found"] | {"window": [0.0, 0.03]}})
            if text == "flipped"
            else text
        )
    with pytest.raises(
        FileError, match=r"\.v\.npy\.partial\.json: the journal .* damaged .*--no-resume"
    ):
        run(counts, tmp_path / "v.npy")
    run(counts, tmp_path / "v.npy", resume=False)


@pytest.mark.parametrize("harm", ["bytes", "truncated", "missing", "folder"])
def test_a_damaged_batch_is_made_again(counts, tmp_path, killed, harm):
    run(counts, tmp_path / "whole.npy")
    killed(counts, tmp_path / "v.npy", 4)
    path = tmp_path / ".v.npy.partial/0/c/0/0/0"
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    if harm == "missing":
        path.unlink()
    elif harm == "folder":
        path.parents[4].rename(tmp_path / "elsewhere")
    else:
        path.write_bytes(content if harm == "bytes" else content[:-9])
    with pytest.warns(
        UserWarning,
        match=r"\.v\.npy\.partial: the slices 0:2.* are missing or damaged; they are made",
    ):
        result = run(counts, tmp_path / "v.npy")
    assert result.resumed == (0 if harm == "folder" else 2)
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_batches_without_journal_are_made_anew(counts, tmp_path):
    (tmp_path / ".v.npy.partial").mkdir()
    (tmp_path / ".v.npy.partial/rest").write_bytes(b"of another run")
    assert run(counts, tmp_path / "v.npy").resumed == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.npy", "v.json", "v.npy"]


def test_other_threads_are_another_run(counts, tmp_path, killed):
    """The last bits depend on them."""
    killed(counts, tmp_path / "v.npy", 2, changed(FAST, threads=1))
    with pytest.raises(InputError, match=r"threads: 1 before, 2 now"):
        run(counts, tmp_path / "v.npy", changed(FAST, threads=2))
    threads = torch.get_num_threads()
    assert run(counts, tmp_path / "v.npy", changed(FAST, threads=1)).resumed == 2
    assert torch.get_num_threads() == threads


# ---- refusals


def test_a_full_disk_is_told_before_the_work(counts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        ct_journal.shutil, "disk_usage", lambda path: ct_journal.shutil._ntuple_diskusage(10, 5, 5)
    )
    with pytest.raises(FileError, match=r"need .* GiB, but .* GiB are free"):
        run(counts, tmp_path / "v.npy")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sigma": 0}, "sigma must be a number > 0"),
        ({"sigma": ()}, "sigma must be a number > 0"),
        ({"sigma": "small"}, "sigma must be a number > 0"),
        ({"iterations": 0}, "iterations must be an integer"),
        ({"batch": 1.5}, "batch must be an integer"),
        ({"threads": 0}, "threads must be an integer"),
        ({"window": (1, 0)}, "low < high"),
        ({"window": 3}, "low < high"),
        ({"mu_water": -1}, "mu_water must be a number > 0"),
        ({"electronic": -1}, "electronic must be a number >= 0"),
        ({"likelihood": "laplace"}, "likelihood must be 'gaussian' or 'poisson'"),
        ({"slices": (0, 1.5)}, "two integers"),
        ({"settings": 3}, "dictionary"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(PnPError, match=words):
        VolumeConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slices": (3, 9)}, "slices 3:9 are not in the scan, which has 0:5"),
        ({"slices": (3, 3)}, "slices 3:3"),
        ({"noise": 0.1}, "counts bring their noise"),
        ({"solver": "adm"}, "Did you mean 'admm'"),
        ({"settings": {"step": 3}}, "step"),
        ({"settings": {"alpha": torch.ones(2)}}, "plain JSON"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_scan(counts, tmp_path, settings, words):
    with pytest.raises(PnPError, match=words):
        run(counts, tmp_path / "v.npy", changed(FAST, **settings))
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]


def test_line_integrals_take_no_settings_of_counts(integrals, tmp_path):
    for settings, words in (
        ({"likelihood": "poisson"}, "likelihood 'poisson' is for counts"),
        ({"gain": 2.0}, "gain is for counts"),
    ):
        with pytest.raises(InputError, match=words):
            run(integrals, tmp_path / "v.npy", changed(FAST, **settings))


def test_counts_without_open_beam(counts, tmp_path):
    with pytest.raises(InputError, match=r"counts need the open beam.*--blank"):
        run(dataclasses.replace(counts, flat=None), tmp_path / "v.npy")


def test_geometry_and_scan(counts):
    def check(shape, angles, detectors):
        scan = dataclasses.replace(counts, shape=shape)
        check_scan(scan, ParallelBeam((SIZE, SIZE), angles, detectors), FAST)

    check((5, 36, 44), 36, 44)
    with pytest.raises(
        InputError,
        match=r"36 angles x 44 detectors \(in 5 slices\), the geometry 35 angles x 44 detectors. "
        r"Check the number",
    ):
        check((5, 36, 44), 35, 44)
    with pytest.raises(InputError, match=r"layout 'sda' \(slices, detectors, angles\) would fit"):
        check((5, 44, 36), 36, 44)
    with pytest.raises(InputError, match="layout 'asd'"):
        check((36, 5, 44), 36, 44)


def test_outputs_that_cannot_be(counts, tmp_path):
    (tmp_path / "folder.npy").mkdir()
    for name, words in (
        ("v.png", "unknown ending '.png'"),
        ("none/v.npy", "there is no folder"),
        ("folder.npy", "cannot be written"),
        ("scan.npy", "this is the input"),
    ):
        with pytest.raises(PnPError, match=words):
            run(counts, tmp_path / name)


def test_denoisers_of_colour_are_refused(counts, tmp_path):
    with pytest.raises(InputError, match="slices have one channel"):
        run(
            counts,
            tmp_path / "v.npy",
            D=MLPatch(3, square=3, features=4, dilations=(1,), width=4, depth=1).eval(),
        )


def test_an_empty_middle_tells_no_window(tmp_path):
    scan = made(torch.full(Q.shape, BLANK), COUNTS, tmp_path, BLANK)
    with pytest.raises(InputError, match=r"tells no window. Give window"):
        run(scan, tmp_path / "v.npy")
    data = simulate_counts(Q, BLANK, seed=1)
    data[2] = math.nan
    scan = made(data, COUNTS, tmp_path, BLANK)
    with pytest.raises(InputError, match=r"tells no window. Give window"):
        run(scan, tmp_path / "v.npy")


# ---- the recipe, where no setting of a solver is given

RECIPE = VolumeConfig(batch=2, window=(0.0, 0.04))


def test_the_recipe_is_the_default(counts, tmp_path):
    result = run(counts, tmp_path / "v.npy", RECIPE)
    rows = json.loads((tmp_path / "v.json").read_text())["result"]
    assert error(np.load(tmp_path / "v.npy")) < 0.002
    assert set(result.status) <= {"converged", "max_iter"}
    assert all(5 / 255 <= sigma <= 50 / 255 for sigma in rows["sigma"])
    assert all(
        factor in (1.0, 0.5, 0.25) and (factor == 0.25 or chi2 <= 1)
        for factor, chi2 in zip(rows["alpha_scale"], rows["chi2"], strict=True)
    )
    assert all(value is not None and 0 < value < 0.1 for value in result.residual)
    run(counts, tmp_path / "given.npy", changed(RECIPE, iterations=3))
    given = json.loads((tmp_path / "given.json").read_text())
    assert (given["result"]["iterations"], given["result"]["alpha_scale"]) == (
        [3] * SLICES,
        [None] * SLICES,
    )
    assert given["solver"] is None


def test_the_recipe_is_that_of_tuning(integrals, tmp_path):
    """Each slice has the level of its own noise, and the numbers that it has in a
    batch of its own.
    """
    noisier = Q + torch.tensor([0.05, 0.2, 0.05, 0.1, 0.05])[:, None, None] * torch.randn(
        Q.shape, generator=torch.Generator().manual_seed(0)
    )
    scan = dataclasses.replace(integrals, slab=lambda a, b: noisier[a:b].numpy())
    run(scan, tmp_path / "v.npy", RECIPE)
    rows = json.loads((tmp_path / "v.json").read_text())["result"]
    assert rows["sigma"][1] > rows["sigma"][3] > rows["sigma"][2]
    A = Radon(GEOMETRY, cache=False)
    noise = float(estimate_noise(noisier[4]))
    sigma = schedules.from_noise(A, noise, scale=0.04)
    alone = recipe(
        noisier[4:, None], A, rescaled(TV_, 0.04), noise=noise, sigma=sigma, progress=False
    )
    assert rows["sigma"][4] == pytest.approx(float(sigma) / 0.04)
    assert rows["alpha_scale"][4] == float(alone.alpha_scale)
    assert rows["chi2"][4] == pytest.approx(float(alone.chi2), rel=1e-3)
    assert error(np.load(tmp_path / "v.npy")[4], alone.x[0, 0]) < 1e-6


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson"])
def test_the_recipe_takes_gaps_and_goes_on(counts, tmp_path, killed, likelihood):
    config = changed(RECIPE, likelihood=likelihood)
    data = counts.read(0, SLICES)
    data[:, 5, 10:14] = math.nan
    data[3] = math.nan
    broken = dataclasses.replace(counts, slab=lambda a, b: data[a:b].numpy())
    with pytest.warns(UserWarning, match="nothing was measured in the slices 3;"):
        run(broken, tmp_path / "whole.npy", config)
    killed(broken, tmp_path / "v.npy", 2, config)
    with pytest.warns(UserWarning, match="nothing was measured in the slices 3;"):
        assert run(broken, tmp_path / "v.npy", config).resumed == 2
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert (tmp_path / "v.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    live = [0, 1, 2, 4]
    assert error(np.load(tmp_path / "v.npy")[live], TRUTH[live]) < 0.0025
