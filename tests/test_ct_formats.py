"""Scans as laboratories keep them: arrays, folders with flats, NXtomo, Nikon, HTC, and volumes
whose files say how large a voxel is.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pnp_mlpatch.ct import ParallelBeam, Voxels, read_scan, write_volume
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_digest import scan_fingerprint
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(5)
A, S, D = 6, 3, 8  # angles, slices, detectors
COUNTS = RNG.integers(500, 900, (A, S, D)).astype(np.uint16)  # as files of projections


def tiff(path: Path, array) -> Path:
    """A TIFF file of one page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
    return path


def page(value: int) -> np.ndarray:
    return np.full((S, D), value, np.uint16)


# ---- arrays


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_an_array_is_a_scan(form, tmp_path):
    q = np.linspace(0, 1, A * S * D, dtype=np.float32).reshape(S, A, D)
    scan = read_scan(form(q), angles=np.arange(A) / 2)
    assert (scan.kind, scan.shape, str(scan.path)) == ("line integrals", (S, A, D), "the array")
    assert np.array_equal(scan.read(1, 3).numpy(), q[1:3])
    assert np.array_equal(pickle.loads(pickle.dumps(scan)).read(0, 1).numpy(), q[:1])
    turned = read_scan(form(q.transpose(1, 0, 2).copy()), layout="asd")
    assert np.array_equal(turned.read(0, S).numpy(), q)
    assert read_scan(form(q[0])).shape == (1, A, D)
    counts = read_scan(form(q.astype(np.int32)), flat=form(np.full(D, 900.0)))
    assert counts.kind == "counts"


def test_a_volume_of_an_array(tmp_path):
    geometry = ParallelBeam((16, 16), 12, 16)
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 6:11, 5:9] = 0.1
    q = Radon(geometry, cache=False)(truth)[0].numpy()
    out, config = tmp_path / "v.npy", VolumeConfig(noise=0.01)
    fingerprint = scan_fingerprint(read_scan(q))
    result = reconstruct_volume(read_scan(q), geometry, None, out, config, progress=False)
    assert result.status == ["fbp"]
    assert float((torch.from_numpy(np.load(out)) - truth[0]).square().mean().sqrt()) < 0.02
    assert scan_fingerprint(read_scan(q.copy())) == fingerprint
    assert scan_fingerprint(read_scan(q + 0.1)) != fingerprint


def test_arrays_that_are_none(tmp_path):
    with pytest.raises(InputTypeError, match=r"numpy or torch, got list"):
        read_scan([[1.0, 2.0]])
    with pytest.raises(InputTypeError, match=r"got torch.bfloat16. Call .float\(\)"):
        read_scan(torch.zeros(3, 4, dtype=torch.bfloat16))
    with pytest.raises(InputError, match=r"the array: expected 2 axes .* got \(2, 2, 2, 2\)"):
        read_scan(np.zeros((2, 2, 2, 2)))
    with pytest.raises(InputError, match=r"the array: expected real numbers, got complex64"):
        read_scan(np.zeros((2, 2), np.complex64))
    with pytest.raises(InputError, match=r"an array has no dataset 'q'"):
        read_scan(np.zeros((2, 2)), dataset="q")


# ---- flats before and after


def test_the_open_beam_is_interpolated_in_time():
    q = RNG.random((A, D))
    first, last, dark = 1000.0, 800.0, 50.0
    beam = first + np.linspace(0, 1, A)[:, None] * (last - first)
    counts = dark + (beam - dark) * np.exp(-q)
    scan = read_scan(counts, flat=np.full(D, first), flat_after=np.full(D, last), dark=dark)
    seen = scan.read(0, 1)[0].double().numpy()
    assert np.allclose(scan.flat.numpy(), 900)
    assert np.allclose(-np.log((seen - dark) / (900 - dark)), q, atol=1e-6)
    assert "interpolated by the index" in scan.meta["open beam"]
    saturated = np.where(np.arange(D) == 2, 65535, 700).astype(np.uint16) * np.ones((A, 1), "u2")
    scan = read_scan(saturated, flat=np.full(D, first), flat_after=np.full(D, last))
    assert (scan.read(0, 1)[0, :, 2] == 65535).all()
    with pytest.raises(
        InputError, match=r"flat_after= is the open beam after the scan. Give flat="
    ):
        read_scan(counts, flat_after=900.0)


@pytest.mark.parametrize(
    "places",
    [
        ("flat_before_{}.tif", "flat_after_{}.tif", "dark_{}.tif", "proj_{}.tif"),
        ("flats_pre/im{}.tif", "flats_post/im{}.tif", "darks/im{}.tif", "proj_{}.tif"),
        ("white_before/{}.tif", "white_after/{}.tif", "dark/{}.tif", "tomo/{}.tif"),
    ],
)
def test_a_folder_with_flats_and_darks(places, tmp_path):
    for place, values in zip(places, ((1000, 1010), (800, 810), (40, 42)), strict=False):
        for k, value in enumerate(values):
            tiff(tmp_path / place.format(k), page(value))
    for k in range(A):
        tiff(tmp_path / places[3].format(k), COUNTS[k])
    scan = read_scan(tmp_path)
    assert (scan.kind, scan.shape) == ("counts", (S, A, D))
    assert torch.allclose(scan.flat, torch.full((S, D), 905.0))
    assert torch.allclose(scan.dark, torch.full((S, D), 41.0))
    beam = 1005 - 200 * np.linspace(0, 1, A)[:, None, None]
    passed = (COUNTS - 41.0) / (beam - 41)
    seen = (scan.read(0, S).numpy() - 41) / (905 - 41)
    assert np.allclose(seen, passed.transpose(1, 0, 2), atol=1e-6)


def test_flats_without_before_and_after_are_averaged(tmp_path):
    for k in range(A):
        tiff(tmp_path / f"scan_{k:06}.tif", COUNTS[k])
    for name, value in (("io000000", 1000), ("io000001", 900), ("di000000", 20)):
        tiff(tmp_path / f"{name}.tif", page(value))
    scan = read_scan(tmp_path)
    assert torch.allclose(scan.flat, torch.full((S, D), 950.0))
    assert np.array_equal(scan.read(0, S).numpy(), COUNTS.transpose(1, 0, 2))
    tiff(tmp_path / "io000002.tif", np.full((S, D + 1), 900, np.uint16))
    with pytest.raises(InputError, match=r"io000002.tif: this flat has \(3, 9\) pixels, the one"):
        read_scan(tmp_path)


def test_names_that_look_like_flats(tmp_path):
    for k in range(A):
        tiff(tmp_path / f"flat-worm_{k}.tif", COUNTS[k])
    assert read_scan(tmp_path).shape == (S, A, D)
    assert read_scan(tmp_path).flat is None


def test_folders_that_are_refused(tmp_path):
    tiff(tmp_path / "a" / "1.tif", page(1))
    tiff(tmp_path / "b" / "1.tif", page(1))
    with pytest.raises(FileError, match=r"no TIFF files in this folder. Its folders: a, b; DICOM"):
        read_scan(tmp_path)
    tiff(tmp_path / "flats" / "1.tif", page(1))
    with pytest.raises(
        InputError, match=r"several folders may hold the projections: a, b.*--blank"
    ):
        read_scan(tmp_path)
    (tmp_path / "scan_geom_corrected.geom").touch()
    with pytest.raises(InputError, match=r"walnut collection .*a cone beam .*ASTRA, TIGRE or CIL"):
        read_scan(tmp_path)


# ---- HDF5


def nxtomo(path: Path, keys, frames, **lengths) -> Path:
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry0000/instrument/detector")
        detector["data"], detector["image_key"] = frames, keys
        file["entry0000/sample/rotation_angle"] = np.linspace(0, 180, len(keys))
        file["entry0000/data/data"] = h5py.SoftLink("/entry0000/instrument/detector/data")
        for name, (value, unit) in lengths.items():
            detector[name] = value
            detector[name].attrs["units"] = unit
    return path


def test_nxtomo_without_a_name(tmp_path):
    keys = np.array([2, 1, 1, 0, 0, 0, 0, 1])
    frames = np.stack([page(50), page(1000), page(1000), *COUNTS[:4], page(700)])
    sizes = {"x_pixel_size": (6.5e-6, "m"), "y_pixel_size": (13e-6, "m")}
    scan = read_scan(nxtomo(tmp_path / "scan.nxs", keys, frames, **sizes))
    assert scan.shape == (S, 4, D)
    assert scan.meta["element_mm"] == pytest.approx(0.0065)
    assert scan.meta["element_height_mm"] == pytest.approx(0.013)
    beam = 1000 - 300 * np.linspace(0, 1, 4)[:, None, None] - 50
    seen = (scan.read(0, S).numpy() - 50) / (scan.flat[:, None].numpy() - 50)
    assert np.allclose(seen, ((COUNTS[:4] - 50.0) / beam).transpose(1, 0, 2), atol=1e-6)
    with h5py.File(tmp_path / "scan.nxs", "a") as file:
        file.copy("entry0000", "entry0001")
    with pytest.raises(InputError, match=r"several scans with an image_key: .*Name one"):
        read_scan(tmp_path / "scan.nxs")
    named = read_scan(tmp_path / "scan.nxs:entry0001/instrument/detector/data")
    assert named.shape == (S, 4, D)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ({"detector/pixel_size": (6.5, "um")}, 0.0065),
        ({"detector/x_pixel_size": (6.5, b"micron")}, 0.0065),
        ({"detector/pixel_size": (6.5, "um"), "objective/magnification": (5.0, "")}, 0.0013),
        ({"detector/pixel_size": (6.5, "um"), "objective/resolution": (0.69, "um")}, 0.00069),
        (
            {
                "detector/x_pixel_size": (6.5e-6, "m"),
                "detector/x_magnified_pixel_size": (6.5e-7, "m"),
            },
            0.00065,
        ),
        ({"detector/pixel_size": (6.5, "")}, None),
        ({"detector/pixel_size": (-6.5, "um")}, None),
    ],
)
def test_the_size_of_an_element(lengths, expected, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = COUNTS
        for name, (value, unit) in lengths.items():
            file[f"measurement/instrument/{name}"] = value
            file[f"measurement/instrument/{name}"].attrs["units"] = unit
    known = read_scan(tmp_path / "a.h5").meta.get("element_mm")
    assert known == (None if expected is None else pytest.approx(expected))


# ---- makers and challenges


def nikon(path: Path, **changes) -> Path:
    """A folder of Nikon: NAME.xtekct, NAME_0001.tif ..."""
    values = {
        "Name": path.stem,
        "InputSeparator": "_",
        "InputFolderName": "",
        "SrcToObject": 100.0,
        "SrcToDetector": 400.0,
        "DetectorPixelsX": D,
        "DetectorPixelsY": S,
        "DetectorPixelSizeX": 0.2,
        "Projections": A,
        "InitialAngle": 30.0,
        "AngularStep": 60.0,
        "WhiteLevel": 60000.0,
    } | changes
    lines = [f"{key}={value}" for key, value in values.items() if value is not None]
    path.write_text("[XTekCT]\n" + "\n".join(lines))
    for k in range(A):
        tiff(path.parent / f"{path.stem}_{k + 1:04}.tif", COUNTS[k])
    return path


def test_nikon_is_its_middle_slice(tmp_path):
    scan = read_scan(nikon(tmp_path / "bone.xtekct"))
    assert np.array_equal(scan.read(0, 1)[0].numpy(), COUNTS[:, 1])
    assert (scan.kind, float(scan.flat.max())) == ("counts", 60000)
    assert np.allclose(np.rad2deg(scan.angles.numpy()), -(30 + 60 * np.arange(A)))
    geometry = scan.geometry(**scan.meta["apparatus"], spacing=scan.meta["element_mm"])
    assert (geometry.source_origin, geometry.origin_detector) == (100, 300)
    assert geometry.pixel == pytest.approx(0.05)
    assert np.array_equal(pickle.loads(pickle.dumps(scan)).read(0, 1)[0].numpy(), COUNTS[:, 1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SrcToObject": None}, "expected SrcToObject, .* with numbers"),
        ({"WhiteLevel": "bright"}, "with numbers .*bright"),
        ({"Projections": A + 1}, r"are \(7, 3, 8\), but the TIFF files beside it \(6, 3, 8\)"),
        ({"InputFolderName": "gone"}, r"no projections bone_\*.tif in .*gone"),
    ],
)
def test_nikon_that_is_not_whole(changes, words, tmp_path):
    with pytest.raises((FileError, InputError), match=words):
        read_scan(nikon(tmp_path / "bone.xtekct", **changes))


def test_htc(tmp_path):
    from scipy.io import savemat

    sinogram = RNG.random((5, D))
    known = {
        "angles": np.linspace(0, 360, 5),
        "distanceSourceOrigin": 410.66,
        "distanceSourceDetector": 553.74,
        "pixelSizePost": 0.2,
    }
    savemat(tmp_path / "ta.mat", {"CtDataFull": {"sinogram": sinogram, "parameters": known}})
    scan = read_scan(tmp_path / "ta.mat")
    assert (scan.kind, scan.shape) == ("line integrals", (1, 4, D))  # the last repeats the first
    assert np.allclose(scan.read(0, 1)[0].numpy(), sinogram[:4])
    assert np.allclose(np.rad2deg(scan.angles.numpy()), np.arange(4) * 90)
    assert scan.meta["apparatus"]["origin_detector"] == pytest.approx(143.08)
    savemat(tmp_path / "b.mat", {"CtDataFull": {"sinogram": sinogram, "parameters": {"a": 1}}})
    with pytest.raises(InputError, match=r"CtDataFull.parameters lacks angles"):
        read_scan(tmp_path / "b.mat")
    savemat(tmp_path / "c.mat", {"m": sinogram})
    with pytest.raises(
        InputError, match=r"expected a structure with sinogram .* got m. Load it by"
    ):
        read_scan(tmp_path / "c.mat")
    (tmp_path / "d.mat").write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"cannot be read as a .mat file"):
        read_scan(tmp_path / "d.mat")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.txrm", "Zeiss .txrm files are cone-beam scans: convert them"),
        ("a.raw", "numpy.fromfile"),
        ("a.edf", "nxtomomill"),
    ],
)
def test_files_that_are_named(name, words, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=words):
        read_scan(tmp_path / name)


# ---- volumes that say how large a voxel is

VOLUME = torch.arange(2.0 * 4 * 5).reshape(2, 4, 5)
VOXELS = Voxels((0.02, 0.0065, 0.0065), "mm", "1 / mm")


def test_hdf5_has_units(tmp_path):
    write_volume(tmp_path / "v.h5", VOLUME, VOLUME.shape, voxels=VOXELS)
    with h5py.File(tmp_path / "v.h5") as file:
        held = dict(file["volume"].attrs)
    assert (held["units"], held["voxel_size_units"]) == ("1 / mm", "mm")
    assert held["voxel_size"].tolist() == [0.02, 0.0065, 0.0065]
    assert held["element_size_um"].tolist() == [20, 6.5, 6.5]
    write_volume(tmp_path / "w.h5", VOLUME, VOLUME.shape, voxels=Voxels((1.0, 2.0, 2.0)))
    with h5py.File(tmp_path / "w.h5") as file:
        assert sorted(file["volume"].attrs) == ["voxel_size"]


@pytest.mark.parametrize("big", [False, True])
def test_tiff_has_the_resolution_of_imagej(big, tmp_path):
    from pnp_mlpatch.io.tiff import BIG_TIFF, write_pages

    chunks = iter([np.ascontiguousarray(VOLUME.numpy(), "<f4")])
    write_pages(tmp_path / "v.tif", chunks, (2, 4, 5), VOXELS, 0 if big else BIG_TIFF)
    with Image.open(tmp_path / "v.tif") as file:
        text = file.tag_v2[270]
        assert text.startswith("ImageJ=")
        assert {"images=2", "slices=2", "unit=mm", "spacing=0.02"} <= set(text.split("\n"))
        assert float(file.tag_v2[282]) == pytest.approx(1 / 0.0065, rel=1e-8)
        assert file.tag_v2[296] == 1
        for k in range(2):
            file.seek(k)
            assert np.array_equal(np.asarray(file), VOLUME[k].numpy())
            assert (270 in file.tag_v2) == (k == 0)


@pytest.mark.parametrize("side", [1e-9, 3e-7, 1 / 3, 1.0, 7.5e4, 1e12])
def test_resolutions_of_any_length(side):
    from pnp_mlpatch.io.tiff import _rational

    top, bottom = _rational(1 / side)
    assert 0 <= top < 2**32
    assert 0 < bottom < 2**32
    if 1e-9 <= side <= 1e9:
        assert top / bottom == pytest.approx(1 / side, rel=1e-6)
