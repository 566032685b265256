"""What ``pnp-mlpatch`` takes and gives as laboratories have it: DICOM, units, flats, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pnp_mlpatch import cli
from pnp_mlpatch.ct.counts import simulate_counts
from pnp_mlpatch.ct.geometry import FanBeam, ParallelBeam
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.samples import chest_ct

h5py = pytest.importorskip("h5py")

SIZE, ANGLES, BLANK, DARK = 48, 40, 5000, 40
HALF = ParallelBeam((SIZE, SIZE), ANGLES, SIZE, pixel=2.0)
WHOLE = ParallelBeam((SIZE, SIZE), np.arange(ANGLES) * 2 * np.pi / ANGLES, SIZE, pixel=2.0)
FBP = ["--fbp", "--threads", "1"]


def phantom() -> torch.Tensor:
    """(2, H, W) attenuation per mm, within the field of view."""
    rows, cols = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    body = 0.02 * (rows**2 + cols**2 < 0.16)
    hole = 0.015 * ((cols - 0.15) ** 2 + (rows - 0.1) ** 2 < 0.008)
    bone = 0.02 * ((cols + 0.18) ** 2 + (rows + 0.12) ** 2 < 0.004)
    return torch.from_numpy(np.stack([body - hole + bone] * 2)).float()


TRUTH = phantom()


def exchange(path: str, geometry=HALF, counts=None, theta=None, **fields) -> str:
    """A Data Exchange file of counts with flats and darks."""
    q = Radon(geometry, cache=False)(TRUTH[:, None])[:, 0]
    if counts is None:
        counts = simulate_counts(q, BLANK + DARK, DARK, seed=1).numpy().astype(np.uint16)
    rng = np.random.default_rng(0)
    flats = rng.poisson(BLANK + DARK, (10, 2, counts.shape[-1])).astype(np.uint16)
    darks = rng.poisson(DARK, (10, 2, counts.shape[-1])).astype(np.uint16)
    theta = np.rad2deg(geometry.theta.numpy()) if theta is None else theta
    held = {"data": counts.transpose(1, 0, 2), "data_white": flats, "data_dark": darks}
    with h5py.File(path, "w") as file:
        for name, values in (held | {"theta": theta} | fields).items():
            if values is not None:
                file[f"exchange/{name}"] = values
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here, capsys):
    """Run a command: (exit status, stdout, stderr)."""

    def call(*words: str):
        status = cli.main([str(word) for word in words])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def ct(run):
    """Run ``ct --fbp``; return (exit status, all that was printed, on one line)."""

    def call(line: str):
        words = line.split() + ([] if "--check" in line else FBP)
        status, out, err = run("ct", *words)
        return status, " ".join((out + err).split())

    return call


# ---- DICOM


def dicom_series(folder: Path, hu, order=(2, 0, 1)) -> Path:
    """Slices in files whose names are in another order."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    for name, k in enumerate(order):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(k)])
        image = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        image.Modality, image.SeriesInstanceUID = "CT", "1.2.3"
        image.Rows, image.Columns = hu.shape[1:]
        image.PixelSpacing, image.SliceThickness = [0.7, 0.7], 2.0
        image.ImagePositionPatient = [0, 0, 2.0 * k]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 1, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.RescaleSlope, image.RescaleIntercept = 1, -1024
        image.PixelData = (hu[k] + 1024).astype("<i2").tobytes()
        image.save_as(folder / f"IM{name}", enforce_file_format=True)
    return folder


def test_a_simulation_of_a_dicom_series(run, here):
    pytest.importorskip("pydicom")
    first = torch.nn.functional.interpolate(chest_ct().clamp(-1024, 1500), size=(32, 32))[0, 0]
    hu = np.stack([first.numpy().round(), np.full((32, 32), -1000.0), np.full((32, 32), 2000.0)])
    dicom_series(here / "series", hu)
    common = "--operator identity --denoiser tv --noise 1e-5 --set solver.iterations=1 --quiet"

    def solved(*words: str) -> np.ndarray:
        words = (*words, *common.split(), "--output", "x.npy")
        assert run("solve", *words)[0] == 0
        return np.load("x.npy")

    expected = ((hu + 1024) / 2048).clip(0, 1)
    assert np.abs(solved("--simulate", "series", "--slice", "0") - expected[0]).mean() < 0.02
    assert np.abs(solved("--simulate", "series") - expected[1]).mean() < 0.02  # the middle one
    assert np.abs(solved("--simulate", "series", "--slice", "2") - 1).mean() < 0.02
    assert np.abs(solved("--simulate", "series/IM1") - expected[0]).mean() < 0.02
    assert json.loads(Path("x.json").read_text())["simulate"] == "series/IM1"
    radon = "--operator radon --set operator.angles=20 --noise 0.3 --denoiser tv --output r.npy"
    status, out, _ = run("solve", "--simulate", "series", "--slice", "0", *radon.split())
    assert status == 0
    assert "PSNR" in out


def test_dicom_that_is_refused(run, here):
    pytest.importorskip("pydicom")
    dicom_series(here / "series", np.zeros((3, 8, 8)))
    (here / "empty").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("a.png")
    common = ["--operator", "identity", "--output", "x.npy"]
    for words, said in (
        (("--simulate", "series", "--slice", "3"), "--slice 3 is not in the series, which has 0"),
        (("--simulate", "empty"), "a folder without DICOM files"),
        (("--simulate", "a.png", "--slice", "1"), "--slice is for a DICOM series"),
        (("--simulate", "series", "--slice", "-1"), "slice must be an integer >= 0"),
    ):
        status, _, err = run("solve", *words, *common)
        assert status == 2
        assert said in err
    for path in ("series", "series/IM0"):
        status, _, err = run("ct", path, "--out", "v.npy")
        assert status == 2
        assert "images already, not projections" in err
        assert "pnp-mlpatch solve --simulate" in err
        assert "DICOM-CT-PD" in err


# ---- lengths and units


def with_width(path: str, value: float, unit: str) -> str:
    with h5py.File(path, "a") as file:
        file["measurement/instrument/detector/x_pixel_size"] = value
        file["measurement/instrument/detector/x_pixel_size"].attrs["units"] = unit
    return path


def test_the_volume_says_its_units(ct, here):
    scan = with_width(exchange("scan.h5"), 2000.0, "um")
    status, said = ct(f"{scan} --out v.h5")
    assert status == 0
    assert "an element is 2 mm wide, by the file; lengths are in mm" in said
    with h5py.File("v.h5") as file:
        held = dict(file["volume"].attrs)
    assert (held["units"], held["voxel_size_units"]) == ("1 / mm", "mm")
    assert held["element_size_um"].tolist() == [2000] * 3
    made = json.loads(Path("v.json").read_text())
    assert (made["units"], made["unit"], made["voxel_size"]) == ("1 / mm", "mm", [2.0] * 3)
    assert "an element is 2000 um wide" in ct(f"{scan} --out w.tif --unit um")[1]
    with Image.open("w.tif") as file:
        assert "unit=um" in file.tag_v2[270]
        assert float(file.tag_v2[282]) == pytest.approx(1 / 2000)
    assert np.allclose(np.array(Image.open("w.tif")) * 1000, h5py.File("v.h5")["volume"][0])
    assert ct(f"{scan} --out x.h5 --spacing 2 --pixel 4 --mu-water 0.02")[0] == 0
    with h5py.File("x.h5") as file:
        assert file["volume"].attrs["units"] == "HU"
        assert file["volume"].attrs["voxel_size"].tolist() == [2, 4, 4]  # slices as elements


def test_units_that_are_not_known(ct, here):
    exchange("scan.h5")
    assert ct("scan.h5 --out v.h5 --spacing 2")[0] == 0
    with h5py.File("v.h5") as file:
        assert "voxel_size_units" not in file["volume"].attrs
    assert ct("scan.h5 --out w.h5 --spacing 2 --unit mm")[0] == 0
    with h5py.File("w.h5") as file:
        assert file["volume"].attrs["voxel_size_units"] == "mm"


def test_ome_zarr_has_scales_and_units(ct, here):
    pytest.importorskip("zarr", minversion="3")
    scan = with_width(exchange("scan.h5"), 2.0, "mm")
    assert ct(f"{scan} --out v.zarr --pixel 4 --spacing 2 --shape 24 24")[0] == 0
    image = json.loads(Path("v.zarr/zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    assert {axis["unit"] for axis in image["axes"]} == {"millimeter"}
    assert image["datasets"][0]["coordinateTransformations"][0]["scale"] == [2, 4, 4]


def test_spacing_that_contradicts_the_file(ct, here):
    scan = with_width(exchange("scan.h5"), 2.0, "mm")
    with pytest.warns(UserWarning, match=r"If lengths are in um, say --unit um"):
        ct(f"{scan} --out v.npy --spacing 2000")
    with pytest.warns(UserWarning, match=r"--spacing is 3, but by the file an element is 2000 um"):
        ct(f"{scan} --out v.npy --spacing 3 --unit um")


def test_a_fan_in_the_words_of_users(ct, here):
    fan = FanBeam(
        (SIZE, SIZE),
        np.arange(ANGLES) * 2 * np.pi / ANGLES,
        72,
        source_origin=500.0,
        origin_detector=500.0,
        pixel=2.0,
    )
    exchange("fan.h5", fan)
    lengths = f"--beam fan --source-origin 500 --spacing 4 --pixel 2 --shape {SIZE} {SIZE}"
    assert ct(f"fan.h5 --out a.npy {lengths} --source-detector 1000")[0] == 0
    assert ct(f"fan.h5 --out b.npy {lengths} --origin-detector 500")[0] == 0
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    assert np.abs(np.load("a.npy") - TRUTH.numpy()).mean() < 0.002
    for more, said in (
        ("--source-detector 400", "--source-detector 400 is shorter than --source-origin 500"),
        ("--source-detector 1000 --origin-detector 500", "give --source-origin and one of the"),
    ):
        assert said in ct(f"fan.h5 --out c.npy {lengths} {more}")[1]


def test_the_apparatus_of_a_file_is_used(ct, here):
    folder = here / "nikon"
    folder.mkdir()
    so, sd, width = 500.0, 1000.0, 4.0
    theta = -np.arange(ANGLES) * 360 / ANGLES
    fan = FanBeam(
        (SIZE, SIZE), theta, 72, degrees=True, source_origin=so, origin_detector=sd - so, pixel=2.0
    )
    q = Radon(fan, cache=False)(TRUTH[:1, None])[0, 0].numpy()
    for k, row in enumerate(50000 * np.exp(-q)):
        Image.fromarray(np.tile(row, (3, 1)).astype(np.uint16)).save(folder / f"s_{k:04}.tif")
    (folder / "s.xtekct").write_text(
        f"[XTekCT]\nSrcToObject={so}\nSrcToDetector={sd}\nDetectorPixelsX=72\nDetectorPixelsY=3\n"
        f"DetectorPixelSizeX={width}\nProjections={ANGLES}\nInitialAngle=0\n"
        f"AngularStep={360 / ANGLES}\nWhiteLevel=50000\n"
    )
    status, said = ct(f"nikon/s.xtekct --out v.npy --pixel 2 --shape {SIZE} {SIZE} --dark 0")
    assert status == 0
    assert "a fan beam, source to axis 500 mm, source to detector 1000, by the file" in said
    assert np.abs(np.load("v.npy")[0] - TRUTH[0].numpy()).mean() < 0.002
    with pytest.warns(UserWarning, match=r"--source-origin is 400, but by the file it is 500 mm"):
        ct(f"nikon/s.xtekct --out w.npy --source-origin 400 --shape {SIZE} {SIZE} --pixel 2")


def test_flats_before_and_after(ct, here):
    q = Radon(HALF, cache=False)(TRUTH[:, None])[:, 0].numpy()
    beam = BLANK * (1 + 0.3 * np.linspace(0, 1, ANGLES)[None, :, None])
    np.save("counts.npy", (DARK + beam * np.exp(-q)).astype(np.float32))
    common = f"counts.npy --kind counts --angles {ANGLES} --dark {DARK} --spacing 2 --gain 1"
    flats = f"--blank {BLANK + DARK} --blank-after {1.3 * BLANK + DARK}"
    assert ct(f"{common} --out v.npy {flats}")[0] == 0
    np.save("counts.npy", (DARK + 1.15 * BLANK * np.exp(-q)).astype(np.float32))
    assert ct(f"{common} --out w.npy --blank {1.15 * BLANK + DARK}")[0] == 0
    assert np.abs(np.load("v.npy") - np.load("w.npy")).max() < 1e-6
    assert "Give --blank too" in ct(f"{common} --out x.npy --blank-after 5000")[1]


# ---- bad input


def counted(angles: slice = slice(None)) -> np.ndarray:
    """Counts of the half turn at some angles."""
    q = Radon(HALF, cache=False)(TRUTH[:, None])[:, 0, angles]
    return simulate_counts(q, BLANK + DARK, DARK, seed=1).numpy().astype(np.uint16)


@pytest.mark.parametrize("width", [40, 0])
def test_flats_of_another_size(width, ct, here):
    flats = np.full((3, 2, width) if width else (3, 4, SIZE), BLANK, np.uint16)
    exchange("a.h5", data_white=flats)
    status, said = ct("a.h5 --out v.npy --spacing 2")
    assert status == 2
    assert "but the projections have 2 slices x 48 detectors" in said


def test_flats_that_are_dark(ct, here):
    exchange("a.h5", data_white=np.full((3, 2, SIZE), DARK + 1, np.uint16))
    status, said = ct("a.h5 --out v.npy --spacing 2")
    assert status == 2
    assert "times the open beam in the median" in said
    exchange("a.h5", data_white=np.full((3, 2, SIZE), DARK - 2, np.uint16))
    status, said = ct("a.h5 --out v.npy --spacing 2")
    assert status == 2
    assert "Are they swapped? Or was the shutter closed? Give --blank and --dark." in said
    exchange("b.h5", data_white=np.zeros((3, 2, SIZE), np.uint16), data_dark=None)
    status, said = ct("b.h5 --out v.npy --spacing 2")
    assert status == 2
    assert "the flat field has 0 and the dark field 0 in the median element" in said


def test_half_a_turn_given_as_a_whole_one(ct, here):
    exchange("a.h5", theta=np.arange(ANGLES) * 360 / ANGLES)
    with pytest.warns(UserWarning, match=r"do the angles cover half a turn .*\(--angles\)\?$"):
        ct("a.h5 --out v.npy --spacing 2")


def test_angles_that_stop_early(ct, here):
    theta = np.rad2deg(HALF.theta.numpy()).copy()
    theta[30:] = 0
    exchange("a.h5", theta=theta)
    status, said = ct("a.h5 --out v.npy --spacing 2")
    assert status == 2
    assert "the last 10 of the 40 angles are 0" in said
    assert "--angles" in said
    theta[30:] = np.nan
    exchange("b.h5", theta=theta)
    assert "got 10 that are not finite, from number 30 on" in ct("b.h5 --out v.npy")[1]
    exchange("c.h5", theta=theta[:30])
    assert "30 angles for 40 projections" in ct("c.h5 --out v.npy")[1]
    exchange("d.h5", counts=counted(slice(26)), theta=theta[:26])
    with pytest.warns(UserWarning, match="the angles cover 117 of the 180 degrees"):
        assert ct("d.h5 --out v.npy --spacing 2")[0] == 0


def test_one_view(ct, here):
    exchange("a.h5", counts=counted(slice(1)), theta=np.zeros(1))
    for line in ("a.h5 --out v.npy --spacing 2", "a.h5 --check"):
        status, said = ct(line)
        assert status == 2
        assert "one view" in said
        assert "--layout" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--spacing 2 --center 60", "--center 60 lies off the detector, whose elements are 0 ..."),
        ("--spacing -2", "--spacing must be a length > 0, got -2"),
        ("--spacing 2 --pixel -1", "--pixel must be a length > 0, got -1"),
        ("--spacing 2 --pixel 0.002", "Are --pixel and --spacing in one unit?"),
        ("--spacing 0.002 --pixel 2", "an image of 1 x 1 pixels of 2. Are --pixel and --spacing"),
        ("--spacing 2 --shape 100000 100000", "is larger than any detector"),
        (
            "--beam fan --source-origin 0.5 --source-detector 1 --spacing 4",
            "lies within the image, .* Check the units: --source-origin and --pixel",
        ),
    ],
)
def test_lengths_that_cannot_be(flags, said, ct, here):
    import re

    exchange("a.h5")
    status, text = ct(f"a.h5 --out v.npy {flags}")
    assert status == 2
    assert re.search(said.replace("?", "[?]"), text)
    assert not Path("v.npy").exists()


def test_slices_without_object(ct, here):
    counts = counted()
    counts[1] = np.random.default_rng(2).poisson(BLANK + DARK, counts[1].shape)
    exchange("a.h5", counts=counts)
    with pytest.warns(UserWarning, match=r"slice 1, in the middle, shows no object.*\(--window\)"):
        ct("a.h5 --out v.npy --spacing 2")
    status, said = ct("a.h5 --check --spacing 2")
    assert status == 1
    assert "shows no object" in said
    exchange("b.h5", counts=counts[::-1].copy())
    assert "no object" not in ct("b.h5 --check --spacing 2")[1]


def test_the_shell_speaks_of_its_flags(ct, here):
    exchange("a.h5")
    for flags, said in (
        ("--noise 1", "so --noise must not be given. Set --gain, the detector units"),
        ("--window 1 0", "--window must be (low, high)"),
        ("--iterations 0", "--iterations must be an integer >= 1"),
        ("--shape 0 4", "--shape must be (H, W)"),
        ("--source-origin 4", "is for --beam fan and --beam arc"),
        ("--set solver.step=3", "the solver 'admm'"),
    ):
        text = ct(f"a.h5 --out v.npy {flags}")[1]
        assert said in text
        assert "reconstruct_volume" not in text
    exchange("c.h5", data_white=None)
    assert (
        "Give --blank I0, its counts, where the scan is read; or --kind line-integrals"
        in (ct("c.h5 --out v.npy")[1])
    )
