"""The command line, called in-process on small synthesized files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pnp_mlpatch
from pnp_mlpatch import cli, denoisers, operators, solvers, weights
from pnp_mlpatch.cli import _common as common
from pnp_mlpatch.cli import _problem as solving
from pnp_mlpatch.cli import _solve, demo
from pnp_mlpatch.cli._common import spoken
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.images import read_image, write_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import gaussian_psf
from pnp_mlpatch.operators.downsample import Downsample
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.registry import Registry

HEIGHT, WIDTH = 29, 24


def scene(height=HEIGHT, width=WIDTH) -> np.ndarray:
    """A picture with flat parts, edges and a slope, in [0, 1]."""
    rows, cols = np.mgrid[:height, :width] / max(height, width)
    return 0.2 + 0.3 * rows + 0.4 * ((rows - 0.5) ** 2 + (cols - 0.4) ** 2 < 0.06)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with grey.png and colour.png."""
    monkeypatch.chdir(tmp_path)
    grey = (scene() * 255).astype(np.uint8)
    Image.fromarray(grey).save("grey.png")
    Image.fromarray(np.stack([grey, grey // 2, 255 - grey], axis=-1)).save("colour.png")
    return tmp_path


@pytest.fixture
def run(here, capsys):
    """Call ``pnp-mlpatch`` with one string of arguments: (exit status, stdout, stderr)."""

    def call(line: str):
        status = cli.main(line.split())
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def fails(run):
    """Call with arguments that must fail in one line on stderr; return that line."""

    def call(line: str) -> str:
        status, out, err = run(line)
        assert status == 2
        assert out == ""
        assert err.startswith("pnp-mlpatch: ")
        assert err.count("\n") == 1
        return err

    return call


TV = "--denoiser tv --set denoiser.iterations=20 --set solver.iterations=4 --output out.npy"


def report(path="out.json") -> dict:
    return json.loads(
        open(path, encoding="utf-8").read(),
        parse_constant=lambda name: pytest.fail(f"{name} in JSON"),
    )


# ---- list, info, help


def test_list(run):
    status, out, _ = run("list")
    assert status == 0
    for word in ("mask", "radon", "lensing", "mlpatch", "tv", "admm", "astra, scipy"):
        assert word in out
    assert ":class:" not in out
    _, out, _ = run("list solvers")
    assert "admm" in out
    assert "radon" not in out


def test_list_goes_on_past_broken_and_incomplete_plugins(run, monkeypatch, tmp_path):
    package = tmp_path / "brokenpkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bad.py").write_text("raise RuntimeError('no engine')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("operator", "brokenpkg")
    registry.register("fine", needs=("no_such_package",))(lambda: None)
    monkeypatch.setitem(common.REGISTRIES, "operator", registry)
    status, out, _ = run("list operators")
    assert status == 0
    assert "BROKEN" in out
    assert "no engine" in out
    assert "no_such_package (missing)" in out
    assert "no engine" in run("info bad")[1]
    assert "missing: no_such_package" in run("info fine")[1]


def test_list_survives_two_plugins_of_one_name(run, monkeypatch):
    def get(name):
        raise pnp_mlpatch.errors.InputError(f"Two operators are called '{name}'.")

    monkeypatch.setattr(common.REGISTRIES["operator"], "get", get)
    status, out, _ = run("list")
    assert status == 0
    assert "Two operators are called 'mask'" in out
    assert "admm" in out


def test_info(run):
    status, out, _ = run("info radon")
    assert status == 0
    assert "needs: astra, scipy" in out
    assert "angles: int | Sequence[float] | Tensor | None = None" in out
    assert "detectors: int | None = None" in out
    assert "iterations: int = 20" in run("info admm --family solver")[1]
    out = run("info downsample")[1]
    assert "or image_shape, factor, width (gaussian)\n  Make a Gaussian blur" in out


def test_info_of_shipped_weights(run, fails, monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "DIRECTORY", tmp_path)
    assert "No weights are shipped" in run("info mlpatch")[1]
    MLPatch(width=4, rings=1, angles=4).save(tmp_path / "a.safetensors", {"trained_on": "nothing"})
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    (tmp_path / "manifest.toml").write_text(
        f'[mlpatch-toy]\nfile = "a.safetensors"\nsha256 = "{digest}"\n[lost]\nfile = '
        '"b.safetensors"\nsha256 = ""\n'
    )
    assert "trained_on: nothing" in run("info mlpatch-toy")[1]
    out = run("info mlpatch")[1]
    assert "trained_on: nothing" in out
    assert "cannot be read" in out
    assert "are missing" in fails("info lost")
    assert "Did you mean 'mlpatch-toy'" in fails("info mlpatchtoy")


def test_info_of_unknown_and_ambiguous_names(fails, run, monkeypatch):
    assert "Did you mean 'radon'" in fails("info radom")
    assert "no solver is called 'radon'" in fails("info radon --family solver")
    twin = Registry("solver", "pnp_mlpatch.operators")
    monkeypatch.setitem(common.REGISTRIES, "solver", twin)
    assert "--family operator or --family solver" in fails("info radon")
    assert run("info radon --family operator")[0] == 0


@pytest.mark.parametrize("words", [[], ["list"], ["info"], ["solve"], ["train"], ["demo"]])
def test_help_teaches(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert out.count("  pnp-mlpatch " + " ".join(words)) >= 2


def test_help_of_train_has_every_key(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    out = capsys.readouterr().out
    for key in (
        "data (required)",
        "sigma_max = 0.2353",
        "card = {}",
        "Steps up to it; then a cosine",
    ):
        assert key in out


def test_version_no_command_and_module(run, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert pnp_mlpatch.__version__ in capsys.readouterr().out
    assert run("")[0] == 2
    command, root = (
        [sys.executable, "-m", "pnp_mlpatch.cli", "info", "nothing"],
        Path(pnp_mlpatch.__file__).parent.parent,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 2
    assert done.stderr.startswith("pnp-mlpatch: ")


def test_interrupt(here, monkeypatch, capsys):
    def stop(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(common.REGISTRIES["solver"], "info", stop)
    assert cli.main(["list", "solvers"]) == 130
    assert "interrupted" in capsys.readouterr().err


# ---- solve


def test_solve_mask_and_its_report(run, here):
    line = (
        "solve --simulate grey.png --operator mask --set operator.keep=0.5 --noise 0.02 "
        f"--seed 3 --threads 1 {TV}"
    )
    status, out, _ = run(line)
    assert status == 0
    assert "max_iter: 4 iterations" in out
    assert "PSNR" in out
    x = np.load("out.npy")
    assert x.shape == (HEIGHT, WIDTH)
    made = report()
    assert made["version"] == pnp_mlpatch.__version__
    assert made["torch"] == torch.__version__
    assert made["device"] == "cpu"
    assert made["operator"] == {"name": "mask", "channels": 1, "keep": 0.5, "seed": 0}
    assert made["denoiser"] == {"name": "tv", "strength": 0.8, "iterations": 20, "tol": 1e-4}
    assert "The level follows from the noise" in made["tuned"]["why"]
    assert made["solver"]["sigma"] == pytest.approx(made["history"]["sigma"][0]) != 15 / 255
    assert (made["noise"], made["seed"], made["status"], made["iterations"]) == (
        0.02,
        3,
        "max_iter",
        4,
    )
    assert made["sha256"] == {
        "grey.png": hashlib.sha256((here / "grey.png").read_bytes()).hexdigest()
    }
    assert made["history"]["iteration"] == [1, 2, 3, 4]
    assert made["history"]["psnr"][-1] == pytest.approx(made["psnr"])
    truth = np.asarray(Image.open("grey.png")) / 255
    assert made["psnr"] == pytest.approx(-10 * np.log10(np.mean((x - truth) ** 2)), abs=1e-3)
    assert made["psnr"] > 20
    assert 0 < made["ssim"] < 1
    run(line)
    assert np.array_equal(np.load("out.npy"), x)
    assert run(f"{line} --quiet")[1] == ""


def test_solve_with_mask_of_a_file(run):
    mask = random_mask((HEIGHT, WIDTH), keep=0.5, seed=0)
    write_image("mask.png", mask[None] * 0.8)
    np.save("mask.npy", mask.numpy())
    np.save("mask_u8.npy", (255 * mask).byte().numpy())
    found = []
    for setting in (
        "operator.mask=mask.png",
        "operator.mask=mask.npy",
        "operator.keep=0.5",
        "operator.mask=mask_u8.npy",
    ):
        assert (
            run(f"solve --simulate colour.png --operator mask --set {setting} --noise 0.02 {TV}")[0]
            == 0
        )
        found.append(np.load("out.npy"))
    assert found[0].shape == (3, HEIGHT, WIDTH)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[0], found[3])


def test_counts_are_no_sinogram(run):
    np.save("counts.npy", np.full((5, 38), 900, np.uint16))
    code, _, err = run(
        "solve --data counts.npy --operator radon --set operator.image_shape=[1,20,20] "
        "--set operator.angles=5 --noise 1 --output o.npy"
    )
    assert code == 2
    assert (
        "counts.npy: expected data in floats, got torch.int64. Counts become line "
        "integrals by pnp-mlpatch ct" in err
    )


def test_noise_does_not_depend_on_the_mask(run):
    """Normal and uniform draws of one seed go together: with the same stream the noise of the seen
    pixels would be too small.
    """
    np.save("flat.npy", np.full((128, 128), 0.5))
    args = cli.build_parser().parse_args(
        [
            "solve",
            "--simulate",
            "flat.npy",
            "--operator",
            "mask",
            "--set",
            "operator.keep=0.1",
            "--noise",
            "1",
            "--output",
            "x.npy",
        ]
    )
    A, _, q, _ = solving.make_problem(solving.read_run(args))
    assert float((q - 0.5)[A(torch.ones_like(q)) > 0].std()) == pytest.approx(1, abs=0.06)


def test_solve_radon_from_image_and_from_data(run):
    simulated = "--operator radon --set operator.angles=20"
    assert run(f"solve --simulate grey.png {simulated} --noise 0.1 {TV}")[0] == 0
    made = report()
    assert made["operator"]["image_shape"] == [1, HEIGHT, WIDTH]
    assert made["psnr"] > made["psnr_initial"] > 10
    A = operators.make("radon", image_shape=(1, HEIGHT, WIDTH), angles=20)
    q = A(torch.from_numpy(scene()).float()[None, None])
    for data in (q[0, 0], q[0], q):
        np.save("sinogram.npy", data.numpy())
        status, out, _ = run(
            f"solve --data sinogram.npy {simulated} --set "
            f"operator.image_shape=[1,{HEIGHT},{WIDTH}] --noise 0.1 {TV}"
        )
        assert status == 0
        assert "PSNR" not in out
        assert "psnr" not in report()
        assert np.abs(np.load("out.npy") - scene()).mean() < 0.05
    np.save("angles.npy", A.angles.numpy())
    once = np.load("out.npy")
    assert (
        run(
            "solve --data sinogram.npy --operator radon --set operator.angles=angles.npy "
            f"--set operator.image_shape=[1,29,24] --noise 0.1 {TV}"
        )[0]
        == 0
    )
    assert np.allclose(np.load("out.npy"), once, atol=1e-5)
    assert len(report()["sha256"]) == 2


def test_data_of_another_shape_is_refused(fails):
    np.save("sinogram.npy", np.zeros((20, 5)))
    radon = (
        "solve --data sinogram.npy --operator radon --set operator.angles=20 --noise 0.1 "
        "--denoiser tv --output out.npy"
    )
    err = fails(f"{radon} --set operator.image_shape=[1,{HEIGHT},{WIDTH}]")
    assert "data of shape (1, 20, 5)" in err
    assert "(1, 20, 38)" in err
    assert "give image_shape=(C, H, W)" in fails(radon)
    assert "transposed" not in fails(
        f"{radon} --set operator.image_shape=7"
    )  # a plain TypeError inside, named here
    np.save("batch.npy", np.zeros((2, 1, 20, 38)))
    assert "(2, 1, 20, 38)" in fails(
        radon.replace("sinogram", "batch") + f" --set operator.image_shape=[1,{HEIGHT},{WIDTH}]"
    )
    np.save("mask.npy", np.ones((4, 4)))
    assert "takes images (1, 4, 4)" in fails(
        f"solve --simulate grey.png --operator mask --set operator.mask=mask.npy {TV}"
    )
    assert "data of shape (1, 29, 24)" in fails(
        f"solve --data grey.png --operator mask --set operator.mask=mask.npy {TV}"
    )


def test_solve_blur_of_a_picture_and_of_data(run):
    psf = gaussian_psf(1.0)
    np.save("psf.npy", psf.numpy())
    write_image("psf.tiff", psf[None] * 7)
    for name in ("psf.npy", "psf.tiff"):
        assert (
            run(
                f"solve --simulate grey.png --operator blur --set operator.psf={name} "
                f"--noise 0.01 {TV}"
            )[0]
            == 0
        )
        assert report()["psnr"] > report()["psnr_initial"] > 15
    write_image(
        "blurred.png",
        operators.make("blur", psf=psf, image_shape=(1, HEIGHT, WIDTH))(
            torch.from_numpy(scene()).float()[None, None]
        ),
    )
    assert (
        run(
            "solve --data blurred.png --operator blur --set "
            f"operator.psf=[[0,1,0],[1,2,1],[0,1,0]] --noise 0.01 {TV}"
        )[0]
        == 0
    )
    assert report()["operator"]["image_shape"] == [1, HEIGHT, WIDTH]


@pytest.mark.parametrize("picture", ["grey.png", "colour.png"])
def test_solve_downsample_of_a_picture_and_of_data(run, picture):
    truth = read_image(picture)[..., :28, :]
    write_image(picture, truth)
    asked = "--operator downsample --set operator.factor=2 --set operator.width=0.8"
    assert run(f"solve --simulate {picture} {asked} --noise 0.01 {TV}")[0] == 0
    assert report()["psnr"] > report()["psnr_initial"] > 15
    A = Downsample.gaussian(truth.shape[1:], 2, 0.8)
    write_image(f"small_{picture}", A(truth))
    np.save("small.npy", A(truth)[0].numpy())
    for file in (f"small_{picture}", "small.npy"):
        assert run(f"solve --data {file} {asked} --noise 0.01 {TV}")[0] == 0
        assert report()["operator"] == {
            "name": "downsample",
            "factor": 2,
            "width": 0.8,
            "image_shape": [*truth.shape[1:]],
        }
        x = torch.from_numpy(np.load("out.npy")).reshape(truth.shape)
        assert float(psnr(x, truth)) > 20


def test_solve_downsample_by_its_constructors(run, fails):
    write_image("grey.png", read_image("grey.png")[..., :27, :])
    asked = "solve --simulate grey.png --operator downsample"
    assert run(f"{asked} --set operator.factor=3 --noise 0.01 {TV}")[0] == 0
    needed = (
        "operator.psf, operator.factor; or operator.factor (bicubic); or operator.factor, "
        "operator.width (gaussian)."
    )
    assert f"the operator 'downsample' takes {needed}" in fails(f"{asked} {TV}")
    said = fails(f"{asked} --set operator.factor=3 --set operator.wdth=1 {TV}")
    assert f"has no setting 'wdth'. Did you mean 'width'? It takes {needed}" in said
    assert "factor 5 does not divide the image 27 x 24. Crop the image to 25 x 20" in fails(
        f"{asked} --set operator.factor=5 {TV}"
    )
    assert "factor must be an integer >= 2, got 1.5" in fails(
        f"solve --data grey.png --operator downsample --set operator.factor=1.5 {TV}"
    )
    assert "width must be finite and > 0, got 'wide'" in fails(
        f"{asked} --set operator.factor=3 --set operator.width=wide {TV}"
    )


def test_solve_lensing(run, fails):
    assert run(f"solve --simulate colour.png --gray --operator lensing --noise 0.1 {TV}")[0] == 0
    x = np.load("out.npy")
    assert x.shape == (2, HEIGHT, WIDTH)
    assert not x[1].any()
    assert report()["psnr"] > report()["psnr_initial"]
    np.save("weight.npy", np.ones((HEIGHT, WIDTH)))
    assert (
        run(
            "solve --simulate grey.png --operator lensing --set "
            f"operator.weight=weight.npy --noise 0.1 {TV}"
        )[0]
        == 0
    )
    assert np.allclose(np.load("out.npy").shape, x.shape)
    refused = fails(f"solve --simulate colour.png --operator lensing --noise 0.1 {TV}")
    assert "the channels E and B" in refused
    assert refused.rstrip().endswith("--gray makes one channel of three.")
    assert "do not fit a .png" in fails(
        "solve --simulate grey.png --operator lensing --noise 0.1 --denoiser tv --output out.png"
    )


@pytest.mark.parametrize("solver", ["admm", "hqs", "pgd"])
def test_solve_identity_on_odd_sizes_and_depths(run, here, solver):
    Image.fromarray((scene(13, 7) * 65535).astype(np.uint16)).save("deep.png")
    assert (
        run(f"solve --simulate deep.png --operator identity --noise 0.05 --solver {solver} {TV}")[0]
        == 0
    )
    made = report()
    assert made["psnr"] > made["psnr_initial"]
    assert made["ssim"] is None
    assert made["solver"]["name"] == solver
    for output in ("x.png", "x.tiff"):
        assert (
            run(
                "solve --simulate deep.png --operator identity --noise 0.05 --denoiser tv "
                f"--set solver.iterations=1 --output {output}"
            )[0]
            == 0
        )
        assert Image.open(output).size == (7, 13)


def test_picture_out_of_the_unit_range_has_its_own_data_range(run):
    np.save("hounsfield.npy", 2000 * scene() - 1000)
    assert (
        run(
            "solve --simulate hounsfield.npy --operator identity --noise 50 --set "
            f"solver.sigma=50 {TV}"
        )[0]
        == 0
    )
    assert report()["data_range"] == pytest.approx(2000 * np.ptp(scene()), rel=1e-4)
    assert report()["psnr"] > report()["psnr_initial"] > 20


def test_config_file_and_flags(run, fails):
    with open("run.toml", "w") as file:
        file.write(
            'simulate = "colour.png"\nnoise = 0.02\nseed = 5\ngray = true\noutput = "a.npy"\n'
            '[operator]\nname = "mask"\nkeep = 0.6\nseed = 2\n[denoiser]\nname = '
            '"tv"\niterations = 9\n[solver]\nsigma = 0.1\niterations = 2\n'
        )
    assert run("solve --config run.toml")[0] == 0
    made = report("a.json")
    assert (made["noise"], made["seed"], made["gray"], made["iterations"]) == (0.02, 5, True, 2)
    assert made["operator"] == {"name": "mask", "channels": 1, "keep": 0.6, "seed": 2}
    assert made["denoiser"]["iterations"] == 9
    assert (made["solver"]["name"], made["solver"]["sigma"]) == ("admm", 0.1)
    line = (
        "solve --config run.toml --noise 0.1 --seed 6 --operator identity --solver hqs --set "
        "solver.sigma=0.2 --output b.npy --data grey.png"
    )
    assert run(line)[0] == 0
    made = report("b.json")
    assert (made["data"], made["noise"], made["seed"]) == ("grey.png", 0.1, 6)
    assert made["operator"] == {
        "name": "identity",
        "image_shape": [1, HEIGHT, WIDTH],
    }  # keep was for the mask
    assert (made["solver"]["name"], made["solver"]["sigma"]) == ("hqs", 0.2)
    for text, message in {
        "noises = 1": "Did you mean 'noise'",
        "operator = 'mask'": "must be a table",
        "seed = 1.5": "seed must be an integer",
        "gray = 1": "true or false",
        "noise = 'much'": "noise is a standard deviation",
        "simulate = 3": "must be the path of a file",
        "oops": "not valid TOML",
    }.items():
        with open("bad.toml", "w") as file:
            file.write(text + "\n")
        source = "" if "simulate" in text else "--simulate grey.png"
        assert message in fails(f"solve --config bad.toml {source} --operator identity {TV}")
    assert "cannot be read" in fails("solve --config none.toml")


@pytest.mark.parametrize("solver", ["admm", "hqs", "pgd", "admm --anderson 3"])
def test_checkpoint_goes_on_to_the_same_result(run, fails, solver):
    line = (
        "solve --simulate grey.png --operator mask --set operator.keep=0.5 --noise 0.05 "
        "--denoiser tv --set denoiser.iterations=10 "
        f"--solver {solver} --set solver.tol=0.0 --set solver.sigma=0.06"
    )
    assert run(f"{line} --set solver.iterations=9 --output whole.npy")[0] == 0
    assert run(f"{line} --set solver.iterations=6 --output part.npy --checkpoint state.pt")[0] == 0
    assert run(f"{line} --set solver.iterations=9 --output rest.npy --checkpoint state.pt")[0] == 0
    assert np.array_equal(np.load("rest.npy"), np.load("whole.npy"))
    assert not np.array_equal(np.load("part.npy"), np.load("whole.npy"))
    made = report("rest.json")
    assert (made["resumed_at"], made["iterations"], made["history"]["iteration"]) == (
        6,
        9,
        [*range(1, 10)],
    )  # the rows of both runs
    err = fails(f"{line} --seed 1 --output rest.npy --checkpoint state.pt")
    assert "an interrupted run had other data or settings (seed)" in err


def test_a_resumed_state_goes_to_the_device_with_what_it_holds(tmp_path):
    """The state of an accelerated solver holds that of the solver."""
    path, about = tmp_path / "state.pt", {"seed": 0}
    A = operators.make("identity", image_shape=(1, 5, 6))
    solver = solvers.anderson(solvers.make("admm", iterations=2, sigma=0.1), 3)
    state = solver.run(A(torch.rand(1, 1, 5, 6)), A, denoisers.make("tv"), noise=0.1).state
    state.save(path, {**about, "history": {"iteration": [1, 2]}})
    found, history = _solve.resume(path, solver, about, torch.device("meta"))
    inner = [getattr(found.inner, f.name) for f in dataclasses.fields(found.inner)]
    tensors = [value for value in (found.x, found.memory, *inner) if isinstance(value, Tensor)]
    assert len(tensors) > 6
    assert {value.device.type for value in tensors} == {"meta"}
    assert history == {"iteration": [1, 2]}
    with pytest.raises(InputError, match=r"other data or settings \(seed\)"):
        _solve.resume(path, solver, {"seed": 1}, torch.device("cpu"))


def test_anderson_in_the_shell(run, fails):
    line = "solve --simulate grey.png --operator identity --noise 0.05 --denoiser tv"
    assert run(f"{line} --anderson 2 --output a.npy --set solver.sigma=0.05")[0] == 0
    assert report("a.json")["anderson"] == 2
    q, kept = torch.from_numpy(np.load("a.npy")), report("a.json")["history"]
    assert torch.isfinite(q).all()
    assert "fixed_point" in kept
    assert "without --anderson" in fails(f"{line} --anderson 2 --tune --output b.npy")
    assert "an integer from 1 to 50" in fails(f"{line} --anderson 0 --output b.npy")
    assert "must be a fixed-point iteration" in fails(
        f"{line} --anderson 2 --solver fista --output b.npy"
    )


def test_checkpoint_is_kept_when_interrupted(here, monkeypatch, capsys):
    seen = []

    class Stopping:
        def __call__(self, x, sigma):
            seen.append(sigma)
            if len(seen) == 8:
                raise KeyboardInterrupt
            return 0.9 * x

    line = (
        "solve --simulate grey.png --operator identity --noise 0.1 --denoiser stopping "
        "--output out.npy --checkpoint state.pt --set solver.tol=0"
    )
    monkeypatch.setitem(common.REGISTRIES["denoiser"]._made, "stopping", Stopping)
    assert cli.main(line.split()) == 130
    assert not (here / "out.npy").exists()
    assert cli.main(line.split()) == 0
    assert report()["resumed_at"] == 5


def test_damaged_checkpoints_are_refused(run, fails, here):
    line = f"solve --simulate grey.png --operator identity --noise 0.05 {TV} --checkpoint state.pt"
    (here / "state.pt").write_bytes(b"nothing")
    assert "not a saved solver state" in fails(line)
    (here / "state.pt").unlink()
    assert run(line)[0] == 0
    assert "an interrupted run had other data or settings (solver)" in fails(line + " --solver hqs")
    content = bytearray((here / "state.pt").read_bytes())
    content[len(content) // 2] ^= 64
    (here / "state.pt").write_bytes(content)
    assert "its checksum is another" in fails(line)


def test_a_state_of_other_data_is_never_continued(run, fails, here):
    """The description lies in the state itself: there is no second file that may be lost."""
    line = (
        f"solve --simulate grey.png --operator mask --noise 0.05 {TV} --checkpoint state.pt "
        "--set operator.keep="
    )
    assert run(line + "0.3")[0] == 0
    assert not list(here.glob("state.pt.*"))
    assert "an interrupted run had other data or settings (operator)" in fails(line + "0.8")
    state = solvers.get("admm").load_state("state.pt")
    state.save("state.pt")
    assert "does not say which problem it is the state of" in fails(line + "0.3")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--simulate none.png --operator identity", "none.png: cannot be read as a picture"),
        ("--simulate corrupt.png --operator identity", "corrupt.png: cannot be read as a picture"),
        ("--simulate clear.png --operator identity", "partly transparent"),
        ("--simulate nan.npy --operator identity", "NaN or infinite"),
        (
            "--data none.npy --operator radon --set operator.angles=3 --set "
            "operator.image_shape=[1,4,4]",
            "not a readable .npy array",
        ),
        ("--simulate grey.png", "give --operator NAME. Known: blur, "),
        ("--simulate grey.png --operator maks", "Did you mean 'mask'"),
        ("--simulate grey.png --operator identity --solver adm", "Did you mean 'admm'"),
        ("--simulate grey.png --operator identity --denoiser tvv", "Did you mean 'tv'"),
        (
            "--simulate grey.png --operator identity --set denoiser.strenght=1",
            "Did you mean 'strength'",
        ),
        ("--simulate grey.png --operator identity --set denoiser.strength=x", "strength"),
        ("--simulate grey.png --operator radon", "and angles="),
        ("--simulate grey.png --operator mask", "operator.keep=FRACTION"),
        ("--simulate grey.png --operator mask --set operator.keep=2", "keep must be in (0, 1]"),
        (
            "--simulate grey.png --operator mask --set operator.keep=much",
            "random_mask: keep must be in (0, 1], got 'much'",
        ),
        (
            "--simulate grey.png --operator mask --set operator.mask=none.png",
            "none.png: cannot be read",
        ),
        (
            "--simulate grey.png --operator blur --set operator.psf=[[1,2],[3]]",
            "operator.psf: a setting has a wrong type",
        ),
        ("--simulate grey.png --operator identity --set sigma=1", "expected SECTION.KEY=VALUE"),
        (
            "--simulate grey.png --operator identity --set solver.sigma",
            "expected SECTION.KEY=VALUE",
        ),
        (
            "--simulate grey.png --operator identity --set solver.name=hqs",
            "expected SECTION.KEY=VALUE",
        ),
        (
            "--simulate grey.png --data grey.png --operator identity",
            "exactly one of --simulate IMAGE and --data FILE; got both",
        ),
        ("--operator identity", "got neither"),
        ("--simulate grey.png --operator identity --output x.gif", "unknown ending '.gif'"),
        ("--simulate grey.png --operator identity --output none/x.png", "there is no folder none"),
        ("--simulate grey.png --operator identity --output grey.png", "this is the input"),
        ("--simulate grey.png --operator identity --output folder.npy", "cannot be written"),
        (
            "--simulate grey.png --operator identity --checkpoint none/state.pt",
            "there is no folder none",
        ),
        (
            "--simulate colour.png --operator identity --output x.tiff",
            "3 channels do not fit a .tiff file",
        ),
        ("--simulate grey.png --operator identity --noise -1", "noise is a standard deviation"),
        ("--simulate grey.png --operator identity --noise nan", "noise is a standard deviation"),
        ("--simulate grey.png --operator identity --seed -1", "seed must be an integer"),
        ("--simulate grey.png --operator identity --threads 0", "--threads must be >= 1"),
        (
            "--simulate grey.png --operator identity --device nowhere",
            "--device nowhere: cannot be used",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(fails, here, line, message):
    (here / "corrupt.png").write_bytes((here / "grey.png").read_bytes()[:100])
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save("clear.png")
    np.save("nan.npy", np.full((12, 12), np.nan))
    (here / "folder.npy").mkdir()
    output = "" if "--output" in line else "--output out.npy"
    noise = "" if "--noise" in line else "--noise 0.1"
    assert message in fails(f"solve --denoiser tv {noise} {output} {line}")
    assert not (here / "out.npy").exists()
    assert not (here / "out.json").exists()


def test_missing_output_and_missing_noise(fails):
    assert "give --output PATH" in fails(
        "solve --simulate grey.png --operator identity --denoiser tv"
    )
    assert "noise level of the data is needed" in fails(
        f"solve --simulate grey.png --operator identity --set solver.sigma=0.1 {TV}"
    )


def test_without_noise_and_with_alpha(run):
    assert (
        run(
            "solve --simulate grey.png --operator mask --set operator.keep=0.5 --set "
            f"solver.alpha=0.05 {TV}"
        )[0]
        == 0
    )
    assert report()["noise"] is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("60", 60),
        ("0.06", 0.06),
        ("1e-3", 1e-3),
        ("true", True),
        ("[29, 24]", [29, 24]),
        ('"60"', "60"),
        ("linear", "linear"),
        ("a/b.png", "a/b.png"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_literals(text, value):
    assert solving.literal(text) == value
    assert solving.parse_set(f"operator.key={text}") == ("operator", "key", value)


# ---- train


@pytest.fixture
def training(here):
    (here / "train").mkdir()
    for k in range(4):
        Image.fromarray((np.roll(scene(20 + k, 24), k) * 255).astype(np.uint8)).save(
            f"train/{k}.png"
        )
    (here / "train.toml").write_text(
        'data = "train"\nout = "ignored"\nsize = 16\ncrop = 4\nbatch = 2\nsteps = 50\nwarmup = 1\n'
        "[model]\nwidth = 8\nrings = 1\nangles = 4\nradius = 2.0\ndepth = 2\n"
    )


def test_train_then_solve(training, run):
    line = "train --config train.toml --out runs --steps 3 --seed 1 --validation train --threads 1"
    status, out, _ = run(line)
    assert status == 0
    assert "runs/weights.safetensors" in out
    first, _, card = weights.load("runs/weights.safetensors", kind="mlpatch")
    assert (card["steps"], card["seed"], card["images"]) == (3, 1, 4)
    assert run(f"{line} --no-resume")[0] == 0
    again, _, _ = weights.load("runs/weights.safetensors", kind="mlpatch")
    assert all(torch.equal(first[key], again[key]) for key in first)
    solve = (
        "--set denoiser.weights=runs/weights.safetensors --denoiser mlpatch --set "
        "solver.iterations=2 --output out.npy"
    )
    assert run(f"solve --simulate grey.png --operator identity --noise 0.05 {solve}")[0] == 0
    assert report()["denoiser"] == {
        "name": "mlpatch",
        "weights": "runs/weights.safetensors",
        "tile": None,
        "precision": "float32",
    }
    assert set(report()["sha256"]) == {"grey.png", "runs/weights.safetensors"}
    assert run(f"solve --simulate colour.png --operator identity --noise 0.05 {solve}")[0] == 0
    assert np.load("out.npy").shape == (3, HEIGHT, WIDTH)
    assert run(f"solve --simulate grey.png --operator lensing --noise 0.05 {solve}")[0] == 0


def test_train_mistakes(training, fails, here):
    assert "'out' is missing" in fails("train --data train")
    assert "no such folder" in fails("train --config train.toml --data none --out runs")
    assert "steps must be an integer" in fails("train --config train.toml --steps 0")
    assert "cannot be used" in fails("train --config train.toml --device nowhere")
    (here / "train.toml").write_text('data = "train"\nout = "runs"\nlr = "fast"\nstep = 3\n')
    assert "Did you mean 'steps'" in fails("train --config train.toml")
    (here / "train.toml").write_text('data = "train"\nout = "runs"\nlr = "fast"\n')
    assert "'fast'" in fails("train --config train.toml")
    (here / "train.toml").write_text(
        'data = "train"\nout = "runs"\nsize = 16\ncrop = 4\n[model]\nwidht = 8\n'
    )
    assert "widht" in fails("train --config train.toml")


# ---- demo


def test_demo_runs_every_example(here, monkeypatch, run, fails):
    folder = here / "checkout" / "examples"
    folder.mkdir(parents=True)
    (here / "checkout" / "pyproject.toml").touch()
    for name in demo.EXAMPLES:
        (folder / name).write_text(
            f"import sys; open(sys.argv[2] + '/{name}.txt', 'w').write(' '.join(sys.argv[3:]))\n"
        )
    monkeypatch.setattr(demo, "find_examples", lambda: folder)
    status, out, _ = run("demo --out pictures --quick")
    assert status == 0
    assert str(here / "pictures") in out
    assert [(here / "pictures" / f"{name}.txt").read_text() for name in demo.EXAMPLES] == [
        "--quick",
        "--quick",
    ]
    (folder / demo.EXAMPLES[0]).write_text("raise SystemExit(3)\n")
    status, _, err = run("demo --out pictures")
    assert status == 2
    assert "exit status 3" in err


def test_demo_without_examples(here, monkeypatch, fails):
    monkeypatch.setattr(demo, "EXAMPLES", ("no_such_example.py",))
    err = fails("demo --out pictures")
    assert "no_such_example.py" in err
    assert "Reinstall" in err
    assert not (here / "pictures").exists()


@pytest.mark.parametrize(
    ("command", "said", "heard"),
    [
        ("solve", "pass noise= (a standard deviation).", "pass --noise (a standard deviation)."),
        ("solve", "Give sigma=.", "Give --set solver.sigma=VALUE."),
        ("solve", "as_denoiser(net, sigma='ignored')", "as_denoiser(net, sigma='ignored')"),
        (
            "solve",
            "Take 'mlpatch' with weights='mlpatch-sr'.",
            "Take 'mlpatch' with --set denoiser.weights=mlpatch-sr.",
        ),
        (
            "ct x --out y",
            "or give flat= and dark= yourself, or say degrees=False",
            "or give --blank and --dark yourself, or say --no-degrees",
        ),
        (
            "ct x --out y",
            "start anew with resume=False (--no-resume)",
            "start anew with --no-resume",
        ),
        (
            "massmap",
            "Give pixel='0.29 arcmin', and flip_ra=False.",
            "Give --pixel '0.29 arcmin', and --no-flip-ra.",
        ),
        (
            "massmap",
            "Name one: e1='NAME'. Give shape= and centre=.",
            "Name one: --columns e1=NAME. Give --shape and --center.",
        ),
    ],
)
def test_errors_in_the_shell_speak_of_flags(command, said, heard):
    assert spoken(said, cli.build_parser().parse_args(command.split())) == heard


def test_the_shell_says_noise_as_a_flag(fails, here):
    assert "pass --noise (" in fails(
        "solve --simulate grey.png --operator identity --denoiser tv --output x.npy "
        "--set solver.sigma=0.1"
    )


def test_weights_given_as_a_denoiser(fails):
    line = fails(
        "solve --simulate grey.png --operator identity --denoiser mlpatch-sr --noise 0.1 "
        "--output x.npy"
    )
    assert (
        "'mlpatch-sr' are weights, not a denoiser. Take the denoiser 'mlpatch' with --set "
        "denoiser.weights=mlpatch-sr." in line
    )


def test_warnings_in_the_shell_are_one_line(here):
    np.save("shear.npy", 0.2 * np.random.default_rng(0).standard_normal((2, 7, 7)))
    line = (
        "massmap shear.npy --noise 0.2 --iterations 2 --burn-in 0 --threads 1 --quiet --out "
        "k.fits --pixel"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pnp_mlpatch.cli", *line.split(), "0.3 arcmin"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith(
        "pnp-mlpatch: warning: map_mass: a map of 7 x 7 pixels is too small"
    )
    assert done.stderr.count("\n") == 1


def test_tune_in_the_shell(run, fails):
    line = (
        f"solve --simulate grey.png --operator mask --set operator.keep=0.5 --noise 0.05 {TV} "
        "--set solver.iterations=4 --tune"
    )
    status, out, _ = run(line)
    assert status == 0
    assert "chosen: sigma = " in out
    made = json.loads(Path("out.json").read_text())
    assert made["tuned"]["settings"]["sigma"] > 0
    assert made["tuned"]["noise"] == 0.05
    assert "Leave one of them out" in fails(f"{line} --checkpoint s.pt")
    assert "solver.sigma gives it" in fails(f"{line} --set solver.sigma=0.1")


def test_a_grey_mosaic_is_data_of_a_colour_filter_array(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    colour = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    mosaic = Mask.bayer((3, 12, 10), "GRBG")(colour)
    np.save("grey.npy", mosaic.sum(1)[0].numpy())
    np.save("colour.npy", mosaic[0].numpy())
    flags = ["--operator", "mask", "--set", "operator.pattern=GRBG", "--noise", "0.1", "--quiet"]
    flags += ["--denoiser", "tv", "--set", "solver.iterations=2"]
    for name in ("grey", "colour"):
        assert (
            cli.main(["solve", "--data", f"{name}.npy", *flags, "--output", f"{name}_x.npy"]) == 0
        )
    assert np.load("grey_x.npy").shape == (3, 12, 10)
    assert np.allclose(np.load("grey_x.npy"), np.load("colour_x.npy"), atol=1e-6)


def test_two_ways_to_make_a_mask_are_told_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).random((3, 8, 8)).astype(np.float32))
    flags = ["--operator", "mask", "--set", "operator.pattern=RGGB", "--set", "operator.keep=0.5"]
    assert cli.main(["solve", "--simulate", "x.npy", *flags, "--output", "o.npy"]) != 0
    assert "operator.keep (random); or operator.pattern (bayer)" in capsys.readouterr().err
