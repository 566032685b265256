"""Every benchmark on MLPatch runs with --quick, prints its tables, and writes the same as JSON with
the machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend_cuda import PretendCuda

from pnp_mlpatch import samples
from pnp_mlpatch.denoisers import _convolution
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.io.images import write_image
from pnp_mlpatch.lensing import lognormal_convergence
from pnp_mlpatch.weights import DIRECTORY, manifest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Small test sets of every kind: grey and colour pictures, a CT stack, a convergence map."""
    folder = tmp_path_factory.mktemp("sets")
    photo = samples.camera()[..., 100:164, 190:254]
    for name, image in (
        ("grey", photo),
        ("colour", torch.cat([photo, photo.flip(-1), photo.flip(-2)], dim=1)),
    ):
        (folder / name).mkdir()
        write_image(folder / name / "a.png", image)
        write_image(folder / name / "b.png", image.flip(-1))
    hu = samples.chest_ct()[..., 200:264, 200:264].short().expand(1, 8, -1, -1)[0].numpy()
    np.savez(folder / "slices.npz", hu=hu)
    np.save(
        folder / "kappa.npy",
        0.02 * np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32),
    )
    return folder


def run(program, *arguments, out):
    """The tables of ``python benchmarks/PROGRAM.py --quick --json OUT ARGUMENTS``, run in this
    process.
    """
    path, threads = BENCHMARKS / f"{program}.py", torch.get_num_threads()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        patch.setattr(sys, "argv", [str(path), "--quick", "--json", str(out), *map(str, arguments)])
        patch.syspath_prepend(BENCHMARKS)
        runpy.run_path(str(path), run_name="__main__")
    torch.set_num_threads(threads)
    content = json.loads(out.read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert content["quick"] is True
    for title, rows in content["tables"].items():
        assert not rows or title in printed.getvalue()
        for row in rows:
            assert list(row) == list(rows[0])
            assert all(value == value for value in row.values()), f"NaN in {row}"
    return content["tables"]


def test_mlpatch_speed(tmp_path):
    tables = run("mlpatch_speed", "--threads", 1, out=tmp_path / "s.json")
    for row in tables["Per pixel against grid form and MLPatch.at, random weights"]:
        assert float(row["largest difference"]) < 1e-4
        assert row["rms of the residual"] > 0.1
    assert {row["what"] for row in tables["Denoising 48 x 48"]} >= {
        "published: grid form",
        "mlpatch-grey",
        "dncnn-grey",
    }
    assert [row["tile"] for row in tables["Tiles of mlpatch-grey"]] == [32, 64, 128, 256, 512]


@pytest.mark.slow
def test_memory(tmp_path):
    """Each size in a process of its own."""
    denoising, mlpatch, whole, far = run("memory", "--threads", 1, out=tmp_path / "m.json").values()
    assert len(denoising) == len(mlpatch) == 2
    assert mlpatch[0]["saved for backward (MB)"] == pytest.approx(
        mlpatch[1]["saved for backward (MB)"], rel=0.01
    )
    assert whole[0]["saved, ratio"] == pytest.approx(4, abs=0.05)
    assert "(ext.)" in far[0]["1024"]


def test_memory_on_a_gpu_tried_on_the_cpu(tmp_path):
    (rows,) = run("memory", "--cuda", "--device", "cpu", out=tmp_path / "g.json").values()
    assert [row["network"].partition(" ")[0] for row in rows] == ["DnCNN", "U-Net", "MLPatch"]


def test_denoising(sets, tmp_path):
    colour = tmp_path / "runs" / "colour" / "weights.safetensors"
    trained_in_colour(colour)
    found = run(
        *(
            "denoising",
            sets / "grey",
            sets / "colour",
            "--out-of-distribution",
            sets / "slices.npz",
            sets / "kappa.npy",
        ),
        *("--weights", "dncnn-grey", colour, "--levels", 25),
        out=tmp_path / "d.json",
    )
    rows, groups, difference, left = found.values()
    assert [row["denoiser"] for row in rows if row["set"] == "colour"] == [
        "TV",
        "dncnn-grey per channel",
        "colour",
    ]
    assert [row["images"] for row in rows if row["denoiser"] == "dncnn-grey"] == [2, 2, 1]
    assert all(row["PSNR 25"] > 21 for row in rows if row["denoiser"] == "dncnn-grey")
    assert [row["denoiser"] for row in groups] == ["TV", "dncnn-grey"]
    assert difference[0]["in colour"] == "colour"
    assert [row["denoiser"] for row in left] == ["TV", "dncnn-grey", "colour"]
    assert all(0 < row["25"] < 30 for row in left[:2])


def trained_in_colour(path):
    """Weights of three channels, not trained."""
    from pnp_mlpatch.denoisers.dncnn import DnCNN

    DnCNN(3, depth=3, width=4).save(path, {})


def test_inpainting(sets, tmp_path):
    sweep, rows, summary = run(
        "inpainting", "--choose", sets / "grey", out=tmp_path / "i.json"
    ).values()
    assert len(sweep) == 2
    assert [row["image"] for row in rows] == ["camera", "mean"]
    assert summary[0]["denoiser"] == "mlpatch-grey"
    assert rows[0]["biharmonic"] == pytest.approx(rows[0]["scikit-image"], abs=0.3)


def test_sr_plugplay(sets, tmp_path):
    (rows,) = run("sr_plugplay", sets / "colour", out=tmp_path / "s.json").values()
    assert [(row["shrunk by"], row["factor"]) for row in rows] == [
        ("Gaussian, 1.6", 2),
        ("Gaussian, 1.6", 3),
        ("bicubic", 2),
        ("bicubic", 3),
    ]
    assert all(row["HQS over bicubic"] > 0 for row in rows)


def test_demosaicing(sets, tmp_path):
    (rows,) = run("demosaicing", sets / "colour", out=tmp_path / "d.json").values()
    names = ["bilinear", "Malvar, He, Cutler 2004", "mlpatch-colour-folded"]
    assert [row["method"] for row in rows] == names
    assert all(row["PSNR"] > 25 for row in rows)


def test_ct_self(sets, tmp_path):
    (rows,) = run("ct_self", "--chest", sets / "slices.npz", out=tmp_path / "s.json").values()
    row = rows[0]
    gain = row["held-out before"] - row["held-out after"]
    assert row["kept"] == (gain > row["standard error"])
    assert np.isnan(row["after"]) != row["kept"]  # a volume with weights that are gone has no score


def test_deblurring(sets, tmp_path):
    drawn = tmp_path / "d.png"
    (rows,) = run("deblurring", sets / "grey", "--picture", drawn, out=tmp_path / "d.json").values()
    assert rows[-1]["kernel"] == "all"
    assert rows[-1]["PnP, valid"] > rows[-1]["Wiener, circular"] + 3
    assert drawn.stat().st_size > 10_000


def test_colour_inpainting(sets, tmp_path):
    rows, summary = run("colour_inpainting", sets / "colour", out=tmp_path / "i.json").values()
    grey, folded, colour = summary
    assert grey["mean gain"] == 0
    assert (folded["denoiser"], colour["denoiser"]) == ("mlpatch-colour-folded", "mlpatch-colour")
    assert folded["|J|"] < 2 < colour["|J|"]  # on channels that have nothing to do with each other
    assert {"start", "mlpatch-colour"} <= set(rows[0])


def test_deepen_hardly_changes_the_result(tmp_path):
    out = tmp_path / "deeper.safetensors"
    run("deepen", "mlpatch-grey", out, out=tmp_path / "table.json")
    old, deeper = MLPatch.load(DIRECTORY / "mlpatch-grey.safetensors"), MLPatch.load(out)
    assert deeper.field == old.field + 6
    noise = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    x = samples.camera()[..., :96, :96] + 0.1 * noise
    with torch.no_grad():
        assert (deeper(x, 0.1) - old(x, 0.1)).norm() < 0.1 * (old(x, 0.1) - x).norm()
    with pytest.raises(SystemExit):  # there is no layer 99
        run("deepen", "mlpatch-grey", out, "--after", 99, out=tmp_path / "table.json")


def test_ship_weights_quick_writes_nothing(sets, tmp_path):
    path = tmp_path / "weights.safetensors"
    trained_in_colour(path)
    (rows,) = run(
        "ship_weights", "dncnn-colour", path, sets / "colour", out=tmp_path / "w.json"
    ).values()
    assert rows[0]["images"] == 2
    (rows,) = run(
        "ship_weights",
        "any-name",
        DIRECTORY / "dncnn-grey.safetensors",
        sets / "slices.npz",
        out=tmp_path / "w.json",
    ).values()
    assert rows[0]["psnr_25"] > 21
    assert not {"dncnn-colour", "any-name"} & {
        *manifest(),
        *(path.stem for path in DIRECTORY.iterdir()),
    }


def test_ct(tmp_path):
    tables = run("ct", "--only", "counts", "pair", "step", "exactness", out=tmp_path / "c.json")
    counts, pairs, step, exactness = tables.values()
    assert [row["alpha / L"] for row in counts] == 2 * ["1e-4", "1e-3", "1e-2", "1e-1"]
    for row in counts:
        cg, pcg = (int(row[f"{name} from FBP"].split("/")[1]) for name in ("CG", "PCG"))
        assert pcg < cg
    assert all(row["sparse (ms)"] > 0 for row in pairs)
    assert len(step) == 8
    assert all(float(row["residual"]) <= 1e-5 for row in step)
    assert all(float(row["5 steps: distance"]) < 2e-3 for row in exactness)


@pytest.mark.slow
def test_ct_quality(sets, tmp_path):
    (rows,) = run(
        "ct_quality",
        "--only",
        "120 degrees",
        "fan",
        "--pictures",
        tmp_path / "pictures",
        out=tmp_path / "q.json",
    ).values()
    assert [row["images"] for row in rows] == [1, 1]
    assert all(row["mlpatch-ct"] > row["FBP"] + 3 for row in rows)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


@pytest.mark.slow
def test_signs(tmp_path):
    kappa = lognormal_convergence((96, 96), seed=0)[0, 0].numpy()
    maps = {"kappa": kappa, "std": np.full_like(kappa, 0.05), "mask": np.ones_like(kappa)}
    for name, values in maps.items():
        np.save(tmp_path / f"{name}.npy", values)
    files = ("--kappa", tmp_path / "kappa.npy", "--std", tmp_path / "std.npy")
    files += ("--mask", tmp_path / "mask.npy")
    (rows,) = run("signs", *files, out=tmp_path / "f.json").values()
    hints = {row["signs"]: row["hints"] for row in rows}
    assert hints["right"] == hints["both"] == "0 of 2"
    assert hints["e2"] == hints["ra"] == "2 of 2"
    (rows,) = run("signs", "--galaxies", 30, 60, out=tmp_path / "g.json").values()
    assert [row["galaxies"] for row in rows] == ["30"] * 5 + ["60"] * 5


@pytest.mark.slow
def test_mass_errors(tmp_path):
    keep = tmp_path / "maps"
    tables = run("mass_errors", "--kappatng", "--keep", keep, out=tmp_path / "e.json")
    for title in ("coverage of held-out skies", "coverage of kappaTNG"):
        assert [row["pixels"] for row in tables[title]][:3] == ["all pixels", "measured", "edge"]
        assert all(0 <= float(row["coverage"]) <= 1 for row in tables[title])
    methods = [row["method"] for row in tables["detection of peaks"]]
    assert methods[0] == "map_mass"
    assert methods[-1] == "by chance"
    again = run("mass_errors", "--kappatng", "--keep", keep, out=tmp_path / "f.json")
    assert again == tables  # from the maps that were kept


def test_mass_protocol(tmp_path):
    (rows,) = run("mass_protocol", out=tmp_path / "p.json").values()
    by_name = {row["method"]: row for row in rows}
    assert float(by_name["MCALens"]["nrmse"]) < float(by_name["Kaiser-Squires, smoothed"]["nrmse"])
    assert 0.75 < float(by_name["plug-and-play (map_mass)"]["covered"]) < 1


def test_mass_clusters(tmp_path):
    (rows,) = run("mass_clusters", out=tmp_path / "c.json").values()
    assert [row["halo"] for row in rows] == ["nfw", "gauss"]
    assert all(
        float(row["Wiener"]) < float(row["map_mass, mlpatch-kappa-clusters"]) < 1.2 for row in rows
    )


def test_mass_patches(tmp_path):
    kept = tmp_path / "kept"
    (rows,) = run("mass_patches", "--plain", "--keep", kept, out=tmp_path / "m.json").values()
    assert [row["method"] for row in rows] == ["map_mass_patches", "pasted"]
    assert float(rows[0]["seams"]) < 0.5 * float(rows[1]["seams"])
    assert len(list(kept.glob("*/patch-*.pt"))) == 9 + 2


@pytest.mark.slow
def test_massmap(tmp_path):
    (rows,) = run("massmap", "--picture", tmp_path / "none.png", out=tmp_path / "m.json").values()
    assert [row["method"] for row in rows][-1] == "plug-and-play (map_mass)"
    assert float(rows[-1]["nrmse"]) < float(rows[0]["nrmse"])
    (rows,) = run("massmap", "--choose", out=tmp_path / "c.json").values()
    assert len(rows[0]) == 7
    (rows,) = run("massmap", "--speed", out=tmp_path / "s.json").values()
    assert [row["method"] for row in rows] == ["wiener", "map_mass"]
    (rows,) = run("massmap", "--generator", tmp_path / "g.png", out=tmp_path / "g.json").values()
    assert {row["quantity"] for row in rows} >= {"rms", "skewness", "peaks > 0.1"}
    assert (tmp_path / "g.png").stat().st_size > 10_000
    (rows,) = run(
        "ship_weights",
        "any-name",
        DIRECTORY / "mlpatch-kappa.safetensors",
        "convergence",
        out=tmp_path / "w.json",
    ).values()
    assert rows[0]["nrmse_0.3"] < 1


def test_mri(sets, tmp_path):
    tables = run("mri", sets / "grey", "--out", tmp_path / "mri", out=tmp_path / "m.json")
    rows = tables["Accelerated MRI, 1 slices"]
    assert [row["method"] for row in rows] == ["zero-filled", "TV", "MLPatch"]
    assert rows[2]["PSNR (dB)"] > rows[0]["PSNR (dB)"]
    assert [row["wanted (dB)"] for row in tables["Gain in PSNR"]] == [4.0, 0.5]
    assert (tmp_path / "mri" / "mri.png").stat().st_size > 10_000


def test_tuning(tmp_path):
    each, summary = run("tuning", out=tmp_path / "t.json").values()
    assert len(each) == 3
    assert all(row["loss, cross-validated"] >= 0 for row in each)
    assert {row["level"] for row in summary} == {"cross-validated", "from noise"}


@pytest.mark.slow
def test_auto(tmp_path):
    kept = tmp_path / "kept.jsonl"
    tables = run("auto", "--keep", kept, "--what", "oracle", "auto", "run", out=tmp_path / "a.json")
    rows = {
        (row["denoiser"], row["problems"], row["rule"]): row
        for row in tables["loss against the oracle"]
    }
    assert rows["all", "all", "auto"]["cases"] == rows["all", "all", "run"]["cases"] == 4
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 12
    assert all(row["loss (dB)"] > 1 for row in tables["losses above 1 dB"])


def test_auto_figure(tmp_path):
    drawn = tmp_path / "a.png"
    (rows,) = run(
        "auto_figure", "--picture", drawn, "--denoiser", "tv", out=tmp_path / "f.json"
    ).values()
    assert len(rows) == 4
    assert drawn.stat().st_size > 10_000


def test_mechanisms(tmp_path):
    settings = (
        "--keep",
        tmp_path / "kept",
        "--image",
        "face",
        "--denoiser",
        "tv",
        "--operator",
        "blur",
        "inpainting",
    )
    tables = run("mechanisms", *settings, out=tmp_path / "m.json")
    assert all(rows[0]["largest"] == 0 for rows in tables.values()), (
        "the larger search against itself"
    )
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.slow
def test_uncertainty(sets, tmp_path):
    known, photographs = run(
        "uncertainty",
        "--images",
        sets / "grey",
        "--picture",
        tmp_path / "u.png",
        out=tmp_path / "u.json",
    ).values()
    assert [row["solver"] for row in known] == [
        "ula",
        "ula",
        "skrock(3)",
        "skrock(5)",
        "skrock(10)",
        "skrock(5)",
    ]
    assert len(photographs) == 2
    assert (tmp_path / "u.png").stat().st_size > 10_000


@pytest.mark.slow
def test_choosing(tmp_path):
    keep, drawn = tmp_path / "kept.jsonl", tmp_path / "c.png"
    each, totals, ends, used = run(
        "choosing", "--keep", keep, "--picture", drawn, out=tmp_path / "c.json"
    ).values()
    assert len(each) == len(used) == 2
    assert all(any(str(cell).startswith("1.0 x") for cell in row.values()) for row in each)
    assert [row["solver"] for row in ends] == [
        row["solver"] for row in totals if row["solver"] != "hqs"
    ]
    assert len(keep.read_text().splitlines()) == 2 * 3 * len(totals)  # swept, refined, timed
    assert drawn.stat().st_size > 10_000


@pytest.mark.slow
def test_cluster(tmp_path):
    """The short forms of its trials are in test_cluster and test_distribute."""
    only = ("modes", "speed", "denoise", "training")
    tables = run(
        "cluster", "--only", *only, "--picture", tmp_path / "p.png", out=tmp_path / "c.json"
    )
    assert len({row["sha256"] for row in tables["modes"]}) == 1
    assert [row["by"] for row in tables["speed"]] == ["one process", "1 workers", "2 workers"]
    assert [row["equal"] for row in tables["denoise"]] == [
        "the bits of the whole",
        "the bits of one process",
    ]
    assert float(tables["training"][0]["relative difference of gradients"]) < 1e-5
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_waits(tmp_path):
    (rows,) = run("waits", "--only", "admm", "hqs", out=tmp_path / "w.json").values()
    assert [row["solver"] for row in rows] == ["admm", "hqs"]
    assert 1 <= rows[0]["blur"] <= rows[0]["radon"]


# ---- what a machine with a GPU is for


def on_gpu(*arguments, work, **environment):
    """The lines that benchmarks/on_gpu.sh prints, and its exit status."""
    done = subprocess.run(
        ["bash", str(BENCHMARKS / "on_gpu.sh"), "--device", "cpu", "--quick", *arguments],
        env={
            **os.environ,
            **{"PYTHON": sys.executable, "WORK": str(work), "OMP_NUM_THREADS": "1"},
            **{name: str(value) for name, value in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines(), done.returncode


def test_on_gpu_goes_on_where_it_was_left(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    lines, code = on_gpu("--minutes", "0", "projectors", work=work)
    assert (lines, code) == ([f"left for the next call: {work}/projectors.json"], 0)
    lines, code = on_gpu("projectors", "grey", work=work, OUT=out)
    assert (lines[-1], code) == ("nothing is left", 0)
    assert "mlpatch-grey-large: left out, it needs --data" in lines
    assert (out / "projectors.json").read_bytes() == (work / "projectors.json").read_bytes()
    lines, code = on_gpu("projectors", work=work)
    assert (lines, code) == ([f"{work}/projectors.json: finished before", "nothing is left"], 0)
    lines, code = on_gpu("whole", work=work, PYTHON="false")
    assert (lines, code) == ([f"failed: {work}/whole.json"], 1)


@pytest.mark.slow
def test_on_gpu_trains(sets, tmp_path):
    for name, folder in (("train/BSD400_gray180", "grey"), ("test/Set12_gray", "grey")):
        shutil.copytree(sets / folder, tmp_path / name)
    lines, code = on_gpu("--data", str(tmp_path), "grey", work=tmp_path / "w", OUT=tmp_path / "out")
    assert (lines[-1], code) == ("nothing is left", 0)
    net = MLPatch.load(tmp_path / "out" / "mlpatch-grey-large" / "weights.safetensors")
    assert 1.7e6 < sum(p.numel() for p in net.parameters()) < 1.9e6
    assert not list(tmp_path.glob("out/*/checkpoint.pt"))


@pytest.mark.parametrize("stage", ["denoising", "projectors", "whole"])
def test_gpu_on_a_pretend_gpu(stage, tmp_path, monkeypatch):
    monkeypatch.setattr(_convolution, "NAMES", {})  # activations by themselves, as on a GPU
    (here,) = run("gpu", stage, "--device", "cpu", out=tmp_path / "cpu.json").values()
    with PretendCuda():
        (rows,) = run("gpu", stage, "--device", "cuda", out=tmp_path / "cuda.json").values()
    assert [row.keys() for row in rows] == [row.keys() for row in here]
    if stage == "projectors":
        assert [row["device"] for row in rows] == ["cuda", "cpu", "cpu", "cuda"]
        assert float(rows[0]["adjoint mismatch"]) < 1e-6
    if stage == "whole":
        assert [row["PSNR (dB)"] for row in rows] == [row["PSNR (dB)"] for row in here]
