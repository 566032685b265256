"""Scans from files of every layout, volumes into files, DICOM series; what is damaged or transposed
is named.
"""

from __future__ import annotations

import json
import math
import os
import re
import tracemalloc
import warnings

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from pnp_mlpatch import cli
from pnp_mlpatch.ct import read_dicom, read_scan, write_volume
from pnp_mlpatch.ct.counts import line_integrals
from pnp_mlpatch.ct.geometry import FanBeam, ParallelBeam, as_dict
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, MissingPackage, PnPError
from pnp_mlpatch.io import tiff as tiff_io

RNG = np.random.default_rng(0)
S, A, D = 4, 7, 5
VOLUME = RNG.random((S, A, D), dtype=np.float32) + 0.5  # slices, angles, detectors
COUNTS = RNG.integers(100, 900, (S, A, D)).astype(np.uint16)
DEGREES = np.linspace(0, 180, A, endpoint=False)


@pytest.fixture(autouse=True)
def _no_warning_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def exchange(path, data=COUNTS, theta=DEGREES, units=None, white=None, dark=None):
    """A Data Exchange file of data (slices, angles, detectors)."""
    with h5py.File(path, "w") as file:
        group = file.create_group("exchange")
        group["data"] = data.transpose(1, 0, 2)
        for name, values in (("theta", theta), ("data_white", white), ("data_dark", dark)):
            if values is not None:
                group[name] = values
        if units is not None:
            group["theta"].attrs["units"] = units
    return path


def hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def npy(path, array):
    np.save(path, array)
    return path


def tiff(path, *pages):
    pictures = [Image.fromarray(np.ascontiguousarray(page)) for page in pages]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


def whole(scan):
    """All slices, in slabs that overlap no page."""
    parts = [
        scan.read(start, min(start + 3, scan.shape[0])) for start in range(0, scan.shape[0], 3)
    ]
    assert all(part.dtype == torch.float32 and part.is_contiguous() for part in parts)
    return torch.cat(parts)


def same(scan, expected):
    assert scan.shape == expected.shape
    assert torch.equal(whole(scan), torch.from_numpy(expected.astype(np.float32)))
    json.dumps(scan.meta, allow_nan=False)
    return True


# ---- Data Exchange


def test_data_exchange(tmp_path):
    white = RNG.integers(900, 1000, (3, S, D)).astype(np.uint16)
    dark = RNG.integers(0, 9, (2, S, D)).astype(np.uint16)
    scan = read_scan(exchange(tmp_path / "scan.h5", white=white, dark=dark))
    assert same(scan, COUNTS)
    assert scan.kind == "counts"
    torch.testing.assert_close(scan.angles, torch.deg2rad(torch.from_numpy(DEGREES)))
    torch.testing.assert_close(scan.flat, torch.from_numpy(white.mean(0, dtype=np.float64)).float())
    torch.testing.assert_close(scan.dark, torch.from_numpy(dark.mean(0, dtype=np.float64)).float())
    assert scan.meta["format"] == "Data Exchange"
    assert (scan.meta["layout"], scan.meta["units"], scan.meta["flat_frames"]) == (
        "asd",
        "degrees",
        3,
    )
    q, std = line_integrals(scan.read(1, 3), scan.flat[1:3, None], scan.dark[1:3, None])
    assert q.shape == std.shape == (2, A, D)
    assert "counts" in repr(scan)
    assert len(repr(scan)) < 200


# ---- the geometry of a scan


ANGLES = np.deg2rad(DEGREES).tolist()
SOURCE = {"source_origin": 10.0, "origin_detector": 10.0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ParallelBeam((D, D), ANGLES, D)),
        (
            {"pixel": 0.5, "center": 1.5},
            ParallelBeam((D, D), ANGLES, D, pixel=0.5, spacing=0.5, offset=0.25),
        ),
        (
            {"spacing": 2.0, "pixel": 1.0, "offset": -0.5, "shape": (3, 4)},
            ParallelBeam((3, 4), ANGLES, D, pixel=1.0, spacing=2.0, offset=-0.5),
        ),
        (
            {"beam": "fan", "spacing": 2.0, **SOURCE},  # it sees 20 sin(atan(5 / 20)) = 4.85
            FanBeam((4, 4), ANGLES, D, pixel=1.0, spacing=2.0, **SOURCE),
        ),
        (
            {"beam": "arc", "pixel": 1.0, **SOURCE},
            FanBeam((4, 4), ANGLES, D, pixel=1.0, spacing=2.0, arc=True, **SOURCE),
        ),
    ],
    ids=["plain", "center", "shape", "fan", "arc"],
)
def test_the_geometry_of_a_scan(arguments, expected, tmp_path):
    scan = read_scan(exchange(tmp_path / "scan.h5"), kind="counts")
    found, wanted = as_dict(scan.geometry(**arguments)), as_dict(expected)
    torch.testing.assert_close(found.pop("angles"), wanted.pop("angles"))
    assert found == wanted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"beam": "cone"}, "beam must be one of parallel, fan, arc, got 'cone'"),
        ({"beam": "fan"}, "beam='fan' needs source_origin"),
        ({"source_origin": 10.0}, "a parallel beam has no source"),
        ({"center": 2.0, "offset": 0.0}, "say the same in two ways"),
        ({"center": 4.5}, "lies off the detector, whose elements are 0 ... 4; its middle is 2"),
        ({"pixel": 0.0}, "pixel must be a length > 0, got 0.0"),
    ],
    ids=["beam", "no source", "a source", "twice", "off", "pixel"],
)
def test_a_geometry_that_a_scan_cannot_have(arguments, words, tmp_path):
    scan = read_scan(exchange(tmp_path / "scan.h5"), kind="counts")
    with pytest.raises(InputError, match=f"Scan.geometry: .*{re.escape(words)}"):
        scan.geometry(**arguments)


def test_a_geometry_needs_angles_and_an_axis_that_is_counted_from_0(tmp_path):
    scan = read_scan(npy(tmp_path / "q.npy", VOLUME))
    with pytest.raises(InputError, match=r"the scan tells no angles.*7 projections"):
        scan.geometry()
    scan = read_scan(npy(tmp_path / "q.npy", VOLUME), angles=ANGLES)
    with pytest.warns(UserWarning, match="center 2.5 is half an element right.*subtract 0.5"):
        assert scan.geometry(center=D / 2).offset == -0.5


@pytest.mark.parametrize("units", ["degrees", b"deg", None, "rad", "radians", b"Radian"])
def test_units_of_theta(units, tmp_path):
    radian = (
        units is not None
        and b"rad" in (units if isinstance(units, bytes) else units.encode()).lower()
    )
    scan = read_scan(
        exchange(
            tmp_path / "scan.h5", theta=np.deg2rad(DEGREES) if radian else DEGREES, units=units
        )
    )
    torch.testing.assert_close(scan.angles, torch.deg2rad(torch.from_numpy(DEGREES)))
    assert scan.meta["units"] == ("radians" if radian else "degrees")


def test_data_exchange_without_the_rest(tmp_path):
    scan = read_scan(exchange(tmp_path / "a.h5", theta=None))
    assert (scan.kind, scan.angles, scan.flat, scan.dark) == ("counts", None, None, None)
    assert read_scan(exchange(tmp_path / "b.h5", data=VOLUME)).kind == "line integrals"
    assert (
        read_scan(exchange(tmp_path / "c.h5", data=VOLUME, white=np.ones((S, D)))).kind == "counts"
    )
    assert read_scan(exchange(tmp_path / "d.h5"), kind="line integrals").kind == "line integrals"
    assert (
        read_scan(exchange(tmp_path / "e.h5"), dataset="/exchange/data").meta["format"]
        == "Data Exchange"
    )


def test_one_slice_of_repeated_frames(tmp_path):
    white = RNG.random((6, 1, D))
    scan = read_scan(exchange(tmp_path / "scan.h5", data=COUNTS[:1], white=white))
    torch.testing.assert_close(scan.flat, torch.from_numpy(white.mean(0)).float())
    given = read_scan(npy(tmp_path / "q.npy", COUNTS[0]), flat=white[:, 0])
    assert torch.equal(given.flat, scan.flat)


# ---- other arrays


@pytest.mark.parametrize("layout", ["sad", "asd", "dsa", "das", "ads", "sda"])
@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "tif", "folder"])
def test_every_layout_of_every_format(layout, kind, tmp_path):
    array = VOLUME.transpose(["sad".index(axis) for axis in layout])
    if kind == "npy":
        path = npy(tmp_path / "a.npy", array)
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", q=array)
        path = tmp_path / "a.npz"
    elif kind == "h5":
        path = f"{hdf5(tmp_path / 'a.h5', q=array)}:q"
    elif kind == "tif":
        path = tiff(tmp_path / "a.tif", *array)
    else:
        path = tmp_path
        for k, page in enumerate(array):
            tiff(path / f"p{k}.tiff", page)
        (path / "notes.txt").touch()
    scan = read_scan(path, layout=layout, angles=DEGREES.tolist(), degrees=True)
    assert same(scan, VOLUME)
    assert scan.kind == "line integrals"
    torch.testing.assert_close(scan.angles, torch.deg2rad(torch.from_numpy(DEGREES)))
    if layout == ("asd" if kind == "folder" else "sad"):
        assert same(read_scan(path), VOLUME)
        assert read_scan(path).angles is None


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.h5"])
def test_one_sinogram(name, tmp_path):
    path = tmp_path / name
    {".npy": npy, ".tif": tiff, ".h5": lambda p, q: hdf5(p, data=q)}[path.suffix](path, COUNTS[0].T)
    scan = read_scan(path, layout="da", dataset="data" if path.suffix == ".h5" else None)
    assert same(scan, COUNTS[:1])
    assert scan.kind == "counts"
    assert read_scan(path, dataset="data" if path.suffix == ".h5" else None).shape == (1, D, A)


def test_names_of_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", q=VOLUME, other=VOLUME[0])
    assert same(read_scan(f"{tmp_path / 'a.npz'}:q"), VOLUME)
    assert same(read_scan(tmp_path / "a.npz", dataset="other"), VOLUME[:1])
    path = hdf5(tmp_path / "lodopab.hdf5", **{"data": VOLUME, "deep/er": VOLUME[1:]})
    assert same(read_scan(path, dataset="data"), VOLUME)
    assert same(read_scan(f"{path}:/deep/er"), VOLUME[1:])
    assert same(read_scan(f"{path}:deep/er", dataset="/deep/er"), VOLUME[1:])


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", "i4", "<f4", ">f8", "f2"])
def test_dtypes(dtype, tmp_path):
    array = (COUNTS / 64 if "f" in dtype else COUNTS).astype(dtype)
    for path in (npy(tmp_path / "a.npy", array), f"{hdf5(tmp_path / 'a.h5', q=array)}:q"):
        assert same(read_scan(path), array)
        assert read_scan(path).kind == ("counts" if array.dtype.kind in "iu" else "line integrals")
    if dtype in ("<u2", "u1", "i4", "<f4"):
        assert same(read_scan(tiff(tmp_path / "a.tif", *array)), array)


def test_files_of_a_folder_are_sorted_by_their_numbers(tmp_path):
    for k in range(11):
        tiff(tmp_path / f"proj_{k}.tif", np.full((3, 4), k + 0.5, np.float32))
    assert read_scan(tmp_path).read(0, 3)[:, :, 0].tolist() == [[k + 0.5 for k in range(11)]] * 3


def two_detect(path, rows=9):
    path.mkdir(parents=True)
    sinogram = RNG.integers(10, 900, (rows, D)).astype(np.uint16)
    tiff(path / "sinogram.tif", sinogram)
    for name, value in (("dark", 4), ("flat1", 1000), ("flat2", 1010)):
        tiff(path / f"{name}.tif", np.full((1, D), value, np.float32))
    return sinogram


def test_2detect(tmp_path):
    sinogram = two_detect(tmp_path / "slice00001" / "mode2")
    scan = read_scan(tmp_path / "slice00001" / "mode2")
    assert same(scan, sinogram[None, :-1])
    assert scan.kind == "counts"
    torch.testing.assert_close(
        scan.angles, torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    )
    assert torch.equal(scan.flat, torch.full((1, D), 1005.0))
    assert torch.equal(scan.dark, torch.full((1, D), 4.0))
    with pytest.raises(
        FileError, match=r"slice00001: no TIFF files in this folder. Its folders: mode2"
    ):
        read_scan(tmp_path / "slice00001")
    for name in ("flat2.tif", "dark.tif"):
        (tmp_path / "slice00001" / "mode2" / name).unlink()
        with pytest.raises(FileError, match=f"{name}: cannot be read as TIFF .*No such file"):
            read_scan(tmp_path / "slice00001" / "mode2")


@pytest.mark.parametrize(
    ("name", "rows", "width", "words"),
    [
        ("sinogram", 1, D, r"one sinogram .* of 2DeteCT, got \(1, 5\)"),
        ("flat2", 1, 4, r"flat1.tif and flat2.tif have 5 and 4 detectors"),
        ("dark", 1, 4, r"dark has shape \(4,\), but the projections"),
    ],
)
def test_2detect_that_does_not_fit(name, rows, width, words, tmp_path):
    two_detect(tmp_path / "mode1")
    tiff(tmp_path / "mode1" / f"{name}.tif", np.ones((rows, width), np.float32))
    with pytest.raises(InputError, match=words):
        read_scan(tmp_path / "mode1")


# ---- fields and angles that are given


def test_fields_that_are_given(tmp_path):
    path, flat = npy(tmp_path / "q.npy", COUNTS), RNG.random((S, D)).astype(np.float32)
    rows = torch.from_numpy(flat)
    frames = np.stack([flat - 0.25, flat + 0.25])
    forms = [
        flat,
        rows,
        frames,
        npy(tmp_path / "f.npy", flat),
        str(npy(tmp_path / "g.npy", frames)),
        tiff(tmp_path / "f.tif", *frames),
    ]
    forms.append(f"{hdf5(tmp_path / 'f.h5', white=frames)}:white")
    for form in forms:
        scan = read_scan(path, flat=form, dark=form)
        torch.testing.assert_close(scan.flat, rows)
        torch.testing.assert_close(scan.dark, rows)
    assert torch.equal(read_scan(path, flat=100).flat, torch.full((S, D), 100.0))
    assert torch.equal(read_scan(path, dark=rows[2]).dark, rows[2].expand(S, D))
    assert read_scan(npy(tmp_path / "float.npy", VOLUME), flat=3.0).kind == "counts"
    given = read_scan(exchange(tmp_path / "scan.h5", white=np.ones((2, S, D))), flat=7.0)
    assert torch.equal(given.flat, torch.full((S, D), 7.0))


def test_angles_that_are_given(tmp_path):
    path, radians = npy(tmp_path / "q.npy", VOLUME), np.deg2rad(DEGREES)
    np.savetxt(tmp_path / "angles.txt", radians)
    forms = [
        radians,
        radians.tolist(),
        torch.from_numpy(radians),
        radians[:, None],
        tmp_path / "angles.txt",
        str(npy(tmp_path / "a.npy", radians)),
    ]
    for form in forms:
        torch.testing.assert_close(read_scan(path, angles=form).angles, torch.from_numpy(radians))
    assert read_scan(path, angles=radians).meta["angles"] == "given"
    over = read_scan(
        exchange(tmp_path / "scan.h5", theta=np.zeros(3)), angles=DEGREES, degrees=True
    )
    torch.testing.assert_close(over.angles, torch.from_numpy(radians))
    assert (
        read_scan(exchange(tmp_path / "b.h5", theta=radians), degrees=False).meta["units"]
        == "radians"
    )
    read_scan(path, angles=np.linspace(0, 360, A), degrees=True)  # both ends of a turn
    read_scan(path, angles=radians[::-1])


@pytest.mark.parametrize(
    ("angles", "degrees", "words"),
    [
        (
            np.deg2rad(DEGREES),
            True,
            "7 angles span only 2.693 degrees; they look like radians. Then say degrees=False",
        ),
        (np.array([0, 1, 2, 2, 3, 4, 5.0]), False, "1 of the 7 angles repeat"),
        (np.array([0, 2, 1, 3, 5, 4, 6.0]), False, "the angles go back and forth"),
    ],
)
def test_angles_that_look_wrong(angles, degrees, words, tmp_path):
    path = npy(tmp_path / "q.npy", VOLUME)
    with pytest.warns(UserWarning, match=words) as caught:
        read_scan(path, angles=angles, degrees=degrees)
    assert [w.filename for w in caught] == [__file__]


# ---- what is refused


def _truncated(path):
    exchange(path, data=np.ones((4, 60, 500)), theta=None)
    path.write_bytes(path.read_bytes()[:5000])


def _broken_chunk(path):
    with h5py.File(path, "w") as file:
        chunk = file.create_dataset("q", data=VOLUME, chunks=VOLUME.shape, compression="gzip")
        offset = chunk.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(bytes(content))


NOISE = RNG.random((64, 64), np.float32)
REFUSED = {
    "missing.h5": (lambda p: None, {}, FileError, "no such file or folder. Check the path"),
    "missing.tif": (lambda p: None, {}, FileError, "no such file or folder"),
    "words.h5": (
        lambda p: p.write_text("not HDF5"),
        {},
        FileError,
        "not a whole HDF5 file .*signature",
    ),
    "truncated.h5": (
        _truncated,
        {},
        FileError,
        "not a whole HDF5 file .*truncated.*download it again",
    ),
    "lodopab.h5": (
        lambda p: hdf5(p, data=VOLUME, more=VOLUME[0]),
        {},
        FileError,
        r"no dataset /exchange/data, .*It holds: data \(4, 7, 5\) float32, more",
    ),
    "empty.h5": (lambda p: hdf5(p), {}, FileError, "It holds: no datasets"),
    "named.h5": (
        exchange,
        {"dataset": "q"},
        FileError,
        r"no dataset 'q'. It holds: exchange/data \(7, 4, 5\) uint16, exchange/theta .*Name one",
    ),
    "group.h5": (exchange, {"dataset": "exchange"}, FileError, "no dataset 'exchange'"),
    "theta.h5": (
        lambda p: exchange(p, theta=np.arange(9.0)),
        {},
        InputError,
        "9 angles for 7 projections; there must be one for each",
    ),
    "matrix.h5": (
        lambda p: exchange(p, theta=np.ones((2, 3))),
        {},
        InputError,
        r"one finite number for each projection, got an array \(2, 3\)",
    ),
    "nan.h5": (
        lambda p: exchange(p, theta=np.full(A, np.nan)),
        {},
        InputError,
        "angles must be one finite number for each projection",
    ),
    "transposed.h5": (
        lambda p: exchange(p, data=COUNTS.transpose(1, 0, 2)),
        {},
        InputError,
        r"with the layout 'asd', \(4, 7, 5\) has 4 angles, but 7 angles are known, as many "
        r"as there would be slices. .*give layout='sad'",
    ),
    "layout.h5": (
        exchange,
        {"layout": "sad"},
        InputError,
        "with the layout 'sad'.*give layout='asd'",
    ),
    "white.h5": (
        lambda p: exchange(p, white=np.ones((3, S, D + 1))),
        {},
        InputError,
        r"flat has shape \(4, 6\), but the projections have 4 slices x 5 detectors",
    ),
    "dark.h5": (
        lambda p: exchange(p, dark=np.ones((3, S + 1, D))),
        {},
        InputError,
        r"dark has shape \(5, 5\), but the projections have 4 slices",
    ),
    "no-frames.h5": (
        lambda p: exchange(p, white=np.ones((0, S, D))),
        {},
        InputError,
        "data_white holds no frames",
    ),
    "text-white.h5": (
        lambda p: exchange(p, white=np.full((1, S, D), b"a")),
        {},
        InputError,
        r"data_white holds \|S1, expected real numbers",
    ),
    "two-names.h5:a": (
        lambda p: exchange(p.with_name("two-names.h5")),
        {"dataset": "b"},
        InputError,
        "names the dataset 'a', but dataset='b'. Name one",
    ),
    "line.npy": (
        lambda p: npy(p, VOLUME[0, 0]),
        {},
        InputError,
        r"expected 2 axes .*got \(5,\). Name another dataset",
    ),
    "four.npy": (
        lambda p: npy(p, VOLUME[None]),
        {},
        InputError,
        r"or 3 with slices, none empty, got \(1, 4, 7, 5\)",
    ),
    "empty.npy": (lambda p: npy(p, VOLUME[:0]), {}, InputError, "none empty, got"),
    "complex.npy": (
        lambda p: npy(p, VOLUME * 1j),
        {},
        InputError,
        "expected real numbers, got complex64",
    ),
    "text.npy": (
        lambda p: npy(p, np.full((2, 2), "a")),
        {},
        InputError,
        "expected real numbers, got <U1",
    ),
    "half.npy": (
        lambda p: (npy(p, VOLUME), p.write_bytes(p.read_bytes()[:200])),
        {},
        FileError,
        "not a readable .npy file",
    ),
    "zero.npy": (lambda p: p.touch(), {}, FileError, "not a readable .npy file"),
    "named.npy": (
        lambda p: npy(p, VOLUME),
        {"dataset": "q"},
        InputError,
        "'q' names an array in it, but a .npy file holds one",
    ),
    "several.npz": (
        lambda p: np.savez(p, a=VOLUME, b=VOLUME),
        {},
        FileError,
        "several arrays. It holds: a, b. Name one",
    ),
    "other.npz": (
        lambda p: np.savez(p, a=VOLUME),
        {"dataset": "c"},
        FileError,
        "no array 'c'. It holds: a",
    ),
    "named.tif": (
        lambda p: tiff(p, VOLUME[0]),
        {"dataset": "q"},
        InputError,
        "'q' names an array in it, but only HDF5, .npz and .zarr",
    ),
    "words.tif": (
        lambda p: p.write_text("not TIFF"),
        {},
        FileError,
        "cannot be read as TIFF .*cannot identify",
    ),
    "half.tif": (
        lambda p: (tiff(p, NOISE), p.write_bytes(p.read_bytes()[:2000])),
        {},
        FileError,
        "cannot be read as TIFF .*truncated",
    ),
    "colour.tif": (
        lambda p: Image.new("RGB", (4, 4)).save(p),
        {},
        InputError,
        "expected one channel of numbers, got a TIFF of mode 'RGB'",
    ),
    "palette.tif": (
        lambda p: Image.new("P", (4, 4)).save(p),
        {},
        InputError,
        "got a TIFF of mode 'P'",
    ),
    "folder": (
        lambda p: p.mkdir(),
        {},
        FileError,
        "no TIFF files in this folder. Its folders: none",
    ),
    "a.xyz": (lambda p: p.touch(), {}, InputError, "unknown ending '.xyz'. Readable: .h5, .hdf5"),
    "a.dcm": (
        lambda p: p.touch(),
        {},
        InputError,
        "DICOM holds slices, .*not projections. To simulate a scan of one: pnp-mlpatch solve "
        "--simulate PATH --operator radon, or read_dicom",
    ),
    "letters.npy": (
        lambda p: npy(p, VOLUME),
        {"layout": "sxd"},
        InputError,
        r"layout must name the 3 axes of \(4, 7, 5\) by the letters s \(slices\), .*got 'sxd'",
    ),
    "short.npy": (
        lambda p: npy(p, VOLUME),
        {"layout": "ad"},
        InputError,
        "layout must name the 3 axes",
    ),
    "flat.npy": (
        lambda p: npy(p, VOLUME[0]),
        {"layout": "sad"},
        InputError,
        r"layout must name the 2 axes of \(7, 5\)",
    ),
    "turned.npy": (
        lambda p: npy(p, VOLUME[0].T),
        {"angles": np.deg2rad(DEGREES)},
        InputError,
        "give layout='da'",
    ),
    "kind.npy": (
        lambda p: npy(p, VOLUME),
        {"kind": "photons"},
        InputError,
        "kind must be 'counts' or 'line integrals', got 'photons'",
    ),
    "unit.npy": (
        lambda p: npy(p, VOLUME),
        {"degrees": "yes"},
        InputTypeError,
        "degrees must be True or False, got 'yes'",
    ),
    "void.npy": (
        lambda p: npy(p, VOLUME),
        {"degrees": True},
        InputError,
        "degrees=True gives the unit of angles, but there are none",
    ),
    "radians.npy": (
        lambda p: npy(p, VOLUME),
        {"angles": DEGREES},
        InputError,
        "angles reach 154.3, which cannot be radians.*Say degrees=True",
    ),
    "number.npy": (
        lambda p: npy(p, VOLUME),
        {"angles": 7},
        InputError,
        "one finite number for each projection",
    ),
    "words.npy": (
        lambda p: npy(p, VOLUME),
        {"angles": ["a"] * A},
        InputTypeError,
        "angles must be real numbers, got <U1",
    ),
    "ragged.npy": (
        lambda p: npy(p, VOLUME),
        {"angles": [[1], [1, 2]]},
        InputTypeError,
        "angles must be a sequence of numbers or a file, got list",
    ),
    "nofile.npy": (
        lambda p: npy(p, VOLUME),
        {"angles": "none.txt"},
        FileError,
        "none.txt: not a readable file of angles",
    ),
    "field.npy": (
        lambda p: npy(p, VOLUME),
        {"flat": np.ones((A, D))},
        InputError,
        r"flat has shape \(7, 5\), but the projections have 4 slices x 5.*Is the layout right",
    ),
    "dict.npy": (
        lambda p: npy(p, VOLUME),
        {"dark": {}},
        InputTypeError,
        "dark must hold real numbers, got object",
    ),
    "list.npy": (
        lambda p: npy(p, VOLUME),
        {"dark": [[1], [1, 2]]},
        InputTypeError,
        "dark must be a number, an array or a file, got list",
    ),
    "lost.npy": (
        lambda p: npy(p, VOLUME),
        {"flat": "lost.tif"},
        FileError,
        "lost.tif: no such file",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    make, settings, error, words = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(error, match=words):
        read_scan(str(tmp_path / name), **settings)


def test_not_a_path():
    words = "read_scan: expected the path of a scan, or an array of numpy or torch, got list"
    with pytest.raises(InputTypeError, match=words):
        read_scan(VOLUME.tolist())


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, S + 1), (2, 2), (3, 1), (S, S + 1)])
def test_slices_out_of_range(start, stop, tmp_path):
    with pytest.raises(
        InputError, match=f"0 <= start < stop <= 4, the number of slices, got {start} and {stop}"
    ):
        read_scan(npy(tmp_path / "q.npy", VOLUME)).read(start, stop)


def test_slices_are_integers(tmp_path):
    with pytest.raises(InputTypeError, match=r"start and stop must be integers, got 1\.0"):
        read_scan(npy(tmp_path / "q.npy", VOLUME)).read(0, 1.0)


def test_damage_that_is_met_when_reading(tmp_path):
    _broken_chunk(tmp_path / "a.h5")
    scan = read_scan(f"{tmp_path / 'a.h5'}:q")
    with pytest.raises(FileError, match=r"a.h5: cannot be read .*hdf5plugin"):
        scan.read(0, 1)
    for k, page in enumerate(VOLUME):
        tiff(tmp_path / f"{k}.tif", page if k != 2 else page[1:])
    scan = read_scan(tmp_path)
    with pytest.raises(InputError, match=r"page 2 has \(6, 5\) pixels, the first has \(7, 5\)"):
        scan.read(0, 1)
    (tmp_path / "2.tif").write_bytes(b"II*\0")
    with pytest.raises(FileError, match=r"2.tif: cannot be read as TIFF"):
        scan.read(0, 1)
    scan = read_scan(tmp_path, layout="sad")
    scan.read(0, 2)
    (tmp_path / "1.tif").unlink()
    with pytest.raises(FileError, match=r"1.tif: cannot be read as TIFF .*No such file"):
        scan.read(0, 2)


@pytest.mark.parametrize("package", ["h5py", "PIL.Image", "pydicom"])
def test_missing_packages_are_named(package, tmp_path, monkeypatch):
    paths = {
        "h5py": exchange(tmp_path / "a.h5"),
        "PIL.Image": tiff(tmp_path / "a.tif", VOLUME[0]),
        "pydicom": tmp_path,
    }
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingPackage, match="Install it with: pip install"):
        (read_dicom if package == "pydicom" else read_scan)(paths[package])


# ---- only the slab is read


def _sparse_npy(path, shape):
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        file.truncate(file.tell() + 4 * math.prod(shape))
    return path


def _sparse_exchange(path, shape):
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "exchange/data",
            shape,
            "u2",
            chunks=(1, 64, shape[2]),
            compression="gzip",
            compression_opts=1,
        )
        for k in range(shape[0]):
            data[k] = 3
    return path


@pytest.mark.parametrize("kind", ["npy sad", "npy asd", "npy das", "h5"])
def test_only_the_slab_is_in_memory(kind, tmp_path):
    if kind == "h5":
        scan = read_scan(_sparse_exchange(tmp_path / "a.h5", (200, 512, 1024)))  # 200 MiB
    else:
        scan = read_scan(
            _sparse_npy(
                tmp_path / "a.npy",
                {"sad": (256, 200, 1024), "asd": (200, 256, 1024), "das": (1024, 200, 256)}[
                    kind[4:]
                ],
            ),
            layout=kind[4:],
        )
    tracemalloc.start()
    try:
        part = scan.read(17, 19)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part.shape == (2, 200, 1024)
    assert bool((part == (3 if kind == "h5" else 0)).all())
    assert peak < 8 * 2**20  # the slab itself is 1.6 MiB


def test_only_the_pages_of_the_slab_are_read(tmp_path, monkeypatch):
    path = tiff(tmp_path / "a.tif", *VOLUME)
    scan = read_scan(path)
    seen = []
    monkeypatch.setattr(
        tiff_io,
        "_pixels",
        lambda file, path, pixels=tiff_io._pixels: seen.append(file.tell()) or pixels(file, path),
    )
    scan.read(2, 3)
    assert seen == [2]


# ---- volumes

NAMES = ["v.npy", "v.tif", "v.TIFF", "v.h5", "v.hdf5"]
LOADED = {
    ".npy": np.load,
    ".tif": lambda path: read_scan(path).read(0, S).numpy(),
    ".tiff": lambda path: read_scan(path).read(0, S).numpy(),
    ".h5": lambda path: h5py.File(path)["volume"][()],
    ".hdf5": lambda path: h5py.File(path)["volume"][()],
}


@pytest.mark.parametrize("name", NAMES)
def test_volume_round_trip(name, tmp_path):
    volume, path = torch.from_numpy(VOLUME), tmp_path / "new" / name
    write_volume(path, volume, volume.shape)
    loaded = LOADED[path.suffix.lower()](path)
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, VOLUME)
    assert [p.name for p in path.parent.iterdir()] == [name]
    first = path.read_bytes()
    forms = [
        volume.double(),
        iter(volume.split(3)),
        list(volume.split(1)),
        volume.clone().requires_grad_(),
        volume.transpose(0, 2).contiguous().transpose(0, 2),
    ]
    for form in forms:
        write_volume(str(path), form, [S, A, D])
        assert path.read_bytes() == first
    if path.suffix.lower() != ".npy":
        with_meta = {"seed": 3, "angles": [0.0, 1.5], "none": None}
        write_volume(path, volume, (S, A, D), meta=with_meta)
        assert json.loads(path.with_suffix(".json").read_text()) == with_meta


def test_tiff_pages_are_plain(tmp_path):
    write_volume(tmp_path / "v.tif", torch.from_numpy(VOLUME), (S, A, D))
    with Image.open(tmp_path / "v.tif") as file:
        assert (file.n_frames, file.mode, file.size) == (S, "F", (D, A))
        file.seek(3)
        assert np.array_equal(np.asarray(file), VOLUME[3])


def test_big_tiff(tmp_path):
    tiff_io.write_pages(
        tmp_path / "v.tif", iter([np.ascontiguousarray(VOLUME, "<f4")]), (S, A, D), big_from=0
    )
    assert (tmp_path / "v.tif").read_bytes()[:4] == b"II+\0"
    assert np.array_equal(LOADED[".tif"](tmp_path / "v.tif"), VOLUME)


@pytest.mark.parametrize("name", NAMES)
def test_volumes_are_streamed(name, tmp_path):
    tracemalloc.start()
    try:
        write_volume(
            tmp_path / name,
            (torch.from_numpy(np.full((1, 256, 256), k, np.float32)) for k in range(64)),
            (64, 256, 256),
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20  # of 16 MiB
    scan = read_scan(tmp_path / name, dataset="volume" if "h" in name else None, kind="counts")
    assert scan.read(63, 64).unique().tolist() == [63]


ONES = torch.ones(S, A, D)


@pytest.mark.parametrize(
    ("volume", "shape", "words"),
    [
        (ONES, (S, A), r"shape must be \(slices, H, W\), integers >= 1, got \(4, 7\)"),
        (ONES, (S, A, 0), "integers >= 1"),
        (ONES, (S, A, 5.0), "integers >= 1"),
        (ONES, (S + 1, A, D), "expected 5 slices, got 4. Nothing was written"),
        (ONES, (S - 1, A, D), r"expected \(3, 7, 5\) in all; after 0 slices came \(4, 7, 5\)"),
        ([ONES, ONES[:, :3]], (2 * S, A, D), r"after 4 slices came \(4, 3, 5\)"),
        (ONES[0], (1, A, D), r"after 0 slices came \(7, 5\)"),
        (
            [ONES[:2], ONES[2:] * torch.nan],
            (S, A, D),
            "slices 2 to 3 hold NaN or infinite values; nothing was written",
        ),
        (ONES.double() * 1e200, (S, A, D), "hold NaN or infinite values"),
        (
            ONES * 1j,
            (S, A, D),
            r"expected tensors \(k, H, W\) of real numbers, got torch.complex64",
        ),
        ([ONES.numpy()], (S, A, D), r"expected tensors \(k, H, W\) of real numbers, got ndarray"),
    ],
)
@pytest.mark.parametrize("name", ["v.npy", "v.tif", "v.h5"])
def test_volumes_that_are_not_written(name, volume, shape, words, tmp_path):
    with pytest.raises(PnPError, match=words):
        write_volume(tmp_path / name, volume, shape, meta={})
    assert not list(tmp_path.iterdir())


def test_endings_and_meta_that_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"v.png: unknown ending '.png'. Writable: .npy, .tif"):
        write_volume(tmp_path / "v.png", ONES, ONES.shape)
    for meta in ({"a": torch.ones(2)}, {"a": float("nan")}):
        with pytest.raises(InputTypeError, match="meta must be plain JSON values"):
            write_volume(tmp_path / "v.npy", ONES, ONES.shape, meta=meta)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write there"):
        write_volume(tmp_path / "file" / "v.npy", ONES, ONES.shape)


@pytest.mark.parametrize("name", ["v.npy", "v.tif", "v.h5"])
def test_a_failed_write_leaves_the_old_volume(name, tmp_path):
    write_volume(tmp_path / name, ONES, ONES.shape)
    before = (tmp_path / name).read_bytes()

    def broken():
        yield ONES[:2]
        raise OSError(28, "No space left on device")

    with pytest.raises(FileError, match=r"could not be written .No space left"):
        write_volume(tmp_path / name, broken(), ONES.shape)
    assert (tmp_path / name).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


# ---- DICOM


def dicom(path, values, number=1, z=0.0, **header):
    """A small CT image; a header value of None takes the element out."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    image.Rows, image.Columns = values.shape
    image.BitsAllocated = image.BitsStored = 16
    (
        image.HighBit,
        image.PixelRepresentation,
        image.SamplesPerPixel,
        image.PhotometricInterpretation,
    ) = 15, 1, 1, "MONOCHROME2"
    image.PixelData = values.astype("<i2").tobytes()
    given = {
        "Modality": "CT",
        "PatientID": "secret",
        "PatientName": "Secret^Name",
        "StudyDescription": "secret",
        "SeriesInstanceUID": "1.2.3",
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
        "InstanceNumber": number,
        "ImagePositionPatient": [1, 2, z],
        "PixelSpacing": [0.7, 0.6],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SliceThickness": 2.5,
        "KVP": 120,
        "ConvolutionKernel": "B30f",
    } | header
    for name, value in given.items():
        if value is not None:
            setattr(image, name, value)
    image.save_as(path, enforce_file_format=True)
    return path


VALUES = RNG.integers(0, 1500, (3, 6, 5))


def series(path, order=(2, 0, 1), **header):
    """Slice k, named by the place of k in ``order``, at z = 1.5 k."""
    path.mkdir(exist_ok=True)
    for name, k in enumerate(order):
        dicom(path / f"IM{name}", VALUES[k], number=10 - k, z=1.5 * k, **header)
    return path


def test_dicom_series(tmp_path):
    path = series(tmp_path / "series")
    (path / "DICOMDIR").touch()
    (path / "notes.txt").write_text("not DICOM" * 50)
    (path / "sub").mkdir()
    with pytest.warns(
        UserWarning,
        match=r"series: 1 files are not DICOM and were passed over: notes.txt. Is a slice among "
        r"them",
    ):
        hu, spacing, meta = read_dicom(path)
    assert hu.dtype == torch.float32
    assert torch.equal(hu, torch.from_numpy(2 * VALUES - 1000).float())
    assert spacing == pytest.approx((1.5, 0.7, 0.6))
    assert meta["KVP"] == 120
    assert meta["PixelSpacing"] == [0.7, 0.6]
    assert (
        meta["Modality"],
        meta["ConvolutionKernel"],
        meta["slices"],
        meta["SliceThickness"],
    ) == ("CT", "B30f", 3, 2.5)
    assert "ecret" not in json.dumps(meta, allow_nan=False)


def test_dicom_of_one_file_and_its_padding(tmp_path):
    values = np.where(VALUES[0] > 700, -2000, VALUES[0])
    hu, spacing, _ = read_dicom(dicom(tmp_path / "a.dcm", values))
    assert hu.shape == (1, 6, 5)
    assert float(hu.min()) == -1024
    assert torch.equal(hu[0], torch.from_numpy(2 * values - 1000).float().clamp_min(-1024))
    assert spacing == pytest.approx((2.5, 0.7, 0.6))


def test_dicom_order(tmp_path):
    by_number = read_dicom(series(tmp_path / "a", ImagePositionPatient=None))
    assert torch.equal(by_number[0], torch.from_numpy(2 * VALUES[::-1].copy() - 1000).float())
    assert by_number[1] == pytest.approx((2.5, 0.7, 0.6))
    assert (
        read_dicom(series(tmp_path / "b", ImagePositionPatient=None, SpacingBetweenSlices=3))[1][0]
        == 3
    )
    with pytest.warns(UserWarning, match="no distance of slices; dz is NaN") as caught:
        assert math.isnan(
            read_dicom(series(tmp_path / "c", ImagePositionPatient=None, SliceThickness=None))[1][0]
        )
    assert caught[0].filename == __file__
    path = tmp_path / "sagittal"
    path.mkdir()
    for k, values in enumerate(VALUES):
        dicom(
            path / f"IM{k}",
            values,
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            ImagePositionPatient=[4 * k, 9, 9],
        )
    hu, spacing, _ = read_dicom(path)
    assert torch.equal(
        hu, torch.from_numpy(2 * VALUES[::-1].copy() - 1000).float()
    )  # the normal points to -x
    assert spacing[0] == 4


def test_dicom_warnings(tmp_path):
    path = series(tmp_path / "a")
    dicom(path / "far", VALUES[0], z=6.0)
    with pytest.warns(
        UserWarning,
        match=r"gaps between slices run from 1.5 to 3 mm; the volume takes 1.5 mm. Is a slice "
        r"missing",
    ) as caught:
        assert read_dicom(path)[1][0] == 1.5
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="no RescaleIntercept") as caught:
        hu = read_dicom(
            dicom(tmp_path / "b.dcm", VALUES[0], RescaleIntercept=None, RescaleSlope=None)
        )[0]
    assert caught[0].filename == __file__
    assert torch.equal(hu[0], torch.from_numpy(VALUES[0]).float())


def _cut(path):
    dicom(path, VALUES[0])
    path.write_bytes(path.read_bytes()[:-9])


def _add(path, **header):
    values = header.pop("values", VALUES[0])
    dicom(series(path) / "added", values, **({"z": 9.0} | header))


REFUSED_DICOM = {
    "missing": (lambda p: None, FileError, "missing: no such file or folder"),
    "words.dcm": (
        lambda p: p.write_text("not DICOM"),
        FileError,
        "words.dcm: not a readable DICOM file",
    ),
    "zero.dcm": (lambda p: p.touch(), FileError, "zero.dcm: not a readable DICOM file"),
    "folder": (lambda p: p.mkdir(), FileError, "folder: no DICOM files in this folder"),
    "cut.dcm": (_cut, FileError, "cut.dcm: its pixels cannot be read"),
    "several": (
        lambda p: _add(p, SeriesInstanceUID="1.2.4"),
        InputError,
        r"several: expected one series, got 2: 1.2.3 \(3 files, such as IM0\); 1.2.4 \(1 "
        r"files, such as added\)",
    ),
    "size": (
        lambda p: _add(p, values=VALUES[0, 1:]),
        InputError,
        r"added: its size is \(5, 5\), that of IM\d is \(6, 5\)|IM\d: its size",
    ),
    "spacing": (lambda p: _add(p, PixelSpacing=[1, 1]), InputError, "its PixelSpacing is"),
    "none": (lambda p: series(p, PixelSpacing=None), InputError, "the header has no PixelSpacing"),
    "frames": (lambda p: series(p, NumberOfFrames=2), InputError, "holds 2 frames in one file"),
    "mr": (
        lambda p: series(p, Modality="MR"),
        InputError,
        "expected Modality CT, whose values are Hounsfield units, got MR",
    ),
    "same": (
        lambda p: _add(p, z=1.5),
        InputError,
        "lie at the same place; several phases or copies",
    ),
    "order": (
        lambda p: series(p, ImagePositionPatient=None, InstanceNumber=None),
        InputError,
        "neither ImagePositionPatient nor InstanceNumber",
    ),
    "short": (
        lambda p: series(p, ImageOrientationPatient=[1, 0, 0]),
        FileError,
        "the DICOM header is damaged",
    ),
}


@pytest.mark.parametrize("name", REFUSED_DICOM)
def test_dicom_refused(name, tmp_path):
    make, error, words = REFUSED_DICOM[name]
    make(tmp_path / name)
    with pytest.raises(error, match=words):
        read_dicom(str(tmp_path / name))


@pytest.mark.parametrize(
    ("element", "error", "words"),
    [("PixelData", FileError, "holds no pixel data"), ("Rows", FileError, "without an image")],
)
def test_dicom_without_an_image(element, error, words, tmp_path):
    import pydicom

    path = dicom(tmp_path / "a.dcm", VALUES[0])
    image = pydicom.dcmread(path)
    delattr(image, element)
    image.save_as(path)
    with pytest.raises(error, match=words):
        read_dicom(path)


def test_flat_field_of_one_value_a_detector_from_a_file(tmp_path):
    np.save(tmp_path / "scan.npy", np.ones((2, 3, 5), np.float32))
    np.save(tmp_path / "flat.npy", np.arange(1, 6, dtype=np.float32))
    scan = read_scan(tmp_path / "scan.npy", kind="counts", flat=tmp_path / "flat.npy")
    assert torch.equal(scan.flat, torch.arange(1.0, 6.0).expand(2, 5))


@pytest.mark.parametrize("cut", [0, 1, 100, 131, 140, 300, -1])
def test_a_dicom_slice_that_is_cut_short_is_named(cut, tmp_path):
    path = series(tmp_path / "series")
    whole = (path / "IM1").read_bytes()
    (path / "IM1").write_bytes(whole[:cut])
    with pytest.raises((FileError, InputError), match="IM1"):
        read_dicom(path)
    (path / "IM1").unlink()
    (path / "IM1.dcm").write_bytes(whole)
    (path / "IM2.dcm").write_bytes(b"no preamble" + whole[11:100])
    with pytest.raises(
        FileError, match=r"1 files are cut short or damaged: IM2.dcm. Copy them again"
    ):
        read_dicom(path)


def test_dicom_padding_values(tmp_path):
    values = VALUES[0].copy()
    values[0, :3] = 3000, 3001, 3002
    hu = read_dicom(
        dicom(tmp_path / "a.dcm", values, PixelPaddingValue=3000, PixelPaddingRangeLimit=3001)
    )[0][0]
    assert hu[0, :3].tolist() == [-1024, -1024, 5004]
    assert torch.equal(hu[1:], torch.from_numpy(2 * values[1:] - 1000).float())
    with pytest.warns(UserWarning, match="PixelPaddingValue is 0 HU, which tissue may have"):
        read_dicom(dicom(tmp_path / "b.dcm", values, PixelPaddingValue=500))


def test_dicom_unused_bits(tmp_path):
    """12 bits stored, with graphics in the four above, which are no part of the values."""
    values = VALUES[0]
    settings = {"BitsStored": 12, "HighBit": 11}
    hu = read_dicom(
        dicom(
            tmp_path / "a.dcm", (values | 0x5000).astype("<i2"), PixelRepresentation=0, **settings
        )
    )[0][0]
    assert torch.equal(hu, torch.from_numpy(2 * values - 1000).float())
    signed = read_dicom(
        dicom(tmp_path / "b.dcm", ((values - 100) & 0xFFF).astype("<i2"), **settings)
    )[0][0]
    assert torch.equal(signed, torch.from_numpy(2 * (values - 100) - 1000).float().clamp_min(-1024))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            {"PhotometricInterpretation": "PALETTE COLOR"},
            "expected grey values with a slope, got PALETTE COLOR",
        ),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": None},
            r"MONOCHROME1 \(white at 0\) without RescaleIntercept",
        ),
        ({"RescaleType": "Z_EFF"}, "expected Hounsfield units, its RescaleType is Z_EFF"),
    ],
)
def test_dicom_values_that_are_no_hounsfield_units(header, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_dicom(dicom(tmp_path / "a.dcm", VALUES[0], **header))


def test_dicom_monochrome1_has_the_same_hounsfield_units(tmp_path):
    with pytest.warns(
        UserWarning, match="MONOCHROME1, white at 0, which tells how to show the values"
    ):
        hu = read_dicom(
            dicom(tmp_path / "a.dcm", VALUES[0], PhotometricInterpretation="MONOCHROME1")
        )[0][0]
    assert torch.equal(hu, torch.from_numpy(2 * VALUES[0] - 1000).float().clamp_min(-1024))


def test_dicom_that_claims_more_than_it_holds(tmp_path, monkeypatch):
    from pnp_mlpatch.io import reading

    monkeypatch.setattr(reading, "ROOM", 1000)
    with pytest.raises(FileError, match=r"a.dcm: its \d+ bytes claim to hold at least"):
        read_dicom(dicom(tmp_path / "a.dcm", VALUES[0], Rows=65000, Columns=65000))


@pytest.mark.parametrize(
    ("photometric", "dtype", "words"),
    [(0, np.uint16, "got 16 bit with white at 0"), (1, np.int8, "got signed 8 bit")],
)
def test_tiff_numbers_that_pillow_turns(photometric, dtype, words, tmp_path):
    from test_io_images import tiff

    (tmp_path / "a.tif").write_bytes(tiff(np.ones((4, 5), dtype), photometric))
    with pytest.raises(InputError, match=words):
        read_scan(tmp_path / "a.tif")


def test_tiff_of_32_bit_without_a_sign(tmp_path):
    from test_io_images import tiff

    (tmp_path / "a.tif").write_bytes(tiff(np.full((4, 5), 4_000_000_000, np.uint32)))
    assert float(read_scan(tmp_path / "a.tif").read(0, 1).min()) == 4e9


def test_tiff_pages_of_two_types(tmp_path):
    """A page of 16 bit among pages of 8 bit was cut to its lowest 8 bits."""
    path = tmp_path / "scan"
    path.mkdir()
    Image.fromarray(np.ones((4, 5), np.uint8)).save(path / "0.tif")
    Image.fromarray(np.full((4, 5), 300, np.uint16)).save(path / "1.tif")
    scan = read_scan(path)
    with pytest.raises(
        InputError, match=r"page 1 holds uint16, the first uint8. Save all in one type"
    ):
        scan.read(0, 1)


def test_pipes_are_no_scans(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    os.mkfifo(tmp_path / "a.dcm")
    for read, name in ((read_scan, "a.tif"), (read_dicom, "a.dcm"), (read_dicom, ".")):
        with pytest.raises(FileError, match=r"expected a file, got a pipe"):
            read(tmp_path / name)
    np.save(tmp_path / "scan.npy", np.ones((2, 3, 5), np.float32))
    os.mkfifo(tmp_path / "angles.txt")
    with pytest.raises(FileError, match=r"angles.txt: expected a file, got a pipe"):
        read_scan(tmp_path / "scan.npy", angles=tmp_path / "angles.txt")


def test_hdf5_in_other_files(tmp_path):
    import h5py

    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    for folder in (inside, outside):
        with h5py.File(folder / "data.h5", "w") as file:
            file["data"] = np.ones((2, 3, 5), np.float32)
    (inside / "raw").write_bytes(b"\0" * 120)
    layout = h5py.VirtualLayout((2, 3, 5), np.float32)
    layout[:] = h5py.VirtualSource("gone.h5", "data", (2, 3, 5))
    with h5py.File(inside / "a.h5", "w") as file:
        file["near"] = h5py.ExternalLink("data.h5", "data")
        file["far"] = h5py.ExternalLink("../out/data.h5", "data")
        file["soft"] = h5py.SoftLink("/far")
        file.create_dataset("raw", (2, 3, 5), np.float32, external=[("raw", 0, 120)])
        file.create_virtual_dataset("gone", layout)
    assert read_scan(f"{inside / 'a.h5'}:near").shape == (2, 3, 5)
    refused = {
        "far": "outside of its folder",
        "soft": "outside of its folder",
        "raw": "keeps its values in raw",
        "gone": "100% of it was never written or its source is gone",
    }
    for name, words in refused.items():
        with pytest.raises(FileError, match=words):
            read_scan(f"{inside / 'a.h5'}:{name}")


# ---- data that are not there, and fields under other names


def _broken_off(path, written, dtype=np.uint16, flat=True):
    """A Data Exchange file of 12 projections, of which only some were written."""
    data = np.random.default_rng(3).integers(100, 900, (12, S, 16)).astype(dtype)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("exchange/data", data.shape, dtype, chunks=(1, 3, 16))
        for k in written:
            stored[k] = data[k]
        file["exchange/theta"] = np.arange(12) * 15.0
        if flat:
            file["exchange/data_white"] = np.full((2, S, 16), 1000.0)
    return data


@pytest.mark.parametrize("layout", ["asd", "sad"])
def test_chunks_that_were_never_written_are_missing(layout, tmp_path):
    data = _broken_off(tmp_path / "a.h5", [k for k in range(12) if k not in (4, 5, 11)])
    name = "a.h5"
    if layout == "sad":  # the same in another order of the axes, chunks cut by the slab
        name = "b.h5:q"
        with h5py.File(tmp_path / "b.h5", "w") as file:
            stored = file.create_dataset("q", (S, 12, 16), np.uint16, chunks=(3, 1, 16))
            for k in (0, 1, 2, 3, 6, 7, 8, 9, 10):
                stored[:, k] = data[k]
    with pytest.warns(UserWarning, match="25% of it was never written.*no weight"):
        scan = read_scan(tmp_path / name, layout=layout, flat=1000.0)
    q = scan.read(1, 4)
    assert torch.isnan(q).all(-1).any(0).nonzero().flatten().tolist() == [4, 5, 11]
    assert torch.equal(q[:, 6], torch.from_numpy(data[6, 1:4].astype(np.float32)))


def test_the_shell_says_what_is_missing_even_where_warnings_are_silenced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _broken_off(tmp_path / "a.h5", range(9), flat=True)
    words = ["ct", "a.h5", "--out", "v.npy", "--slices", "1:2", "--fbp", "--quiet"]
    words += ["--gain", "1"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        assert cli.main(words) == 0
        assert warnings.filters[0][0] == "ignore"  # the filter of the process is as it was
    assert any("25% of it was never written" in str(w.message) for w in caught)


def test_what_is_mostly_missing_is_refused(tmp_path):
    _broken_off(tmp_path / "a.h5", range(5))
    with pytest.raises(
        FileError, match=r"58% of it was never written.* at 5 \.\.\. 11 of the first axis"
    ):
        read_scan(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset(
            "exchange/data", (12, S, 16), np.uint16
        )  # contiguous, and nothing in it
    with pytest.raises(FileError, match="100% of it was never written"):
        read_scan(tmp_path / "b.h5")


def test_angles_and_flats_that_were_never_written(tmp_path):
    _broken_off(tmp_path / "a.h5", range(12), flat=False)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        white = file.create_dataset("exchange/data_white", (4, S, 16), np.uint16, chunks=(1, S, 16))
        white[:3] = 800
    with pytest.warns(UserWarning, match="25% of it was never written"):
        assert torch.equal(read_scan(tmp_path / "a.h5").flat, torch.full((S, 16), 800.0))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["exchange/theta"]
        file.create_dataset("exchange/theta", (12,), np.float64)
    with pytest.raises(FileError, match="exchange/theta was not written"):
        read_scan(tmp_path / "a.h5")


def test_virtual_datasets(tmp_path):
    data = _broken_off(tmp_path / "whole.h5", range(12))
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    for k in range(3):
        hdf5(tmp_path / f"part{k}.h5", q=data[4 * k : 4 * k + 4])
        layout[4 * k : 4 * k + 4] = h5py.VirtualSource(f"part{k}.h5", "q", (4, S, 16))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("exchange/data", layout)
        file["exchange/data_white"] = np.full((2, S, 16), 1000.0)
    assert torch.equal(
        read_scan(tmp_path / "v.h5").read(0, S),
        torch.from_numpy(data.transpose(1, 0, 2).astype(np.float32)),
    )
    (tmp_path / "part1.h5").unlink()
    with pytest.warns(
        UserWarning, match=r"33% of it was never written or its source is gone, at 4 \.\.\. 7"
    ):
        scan = read_scan(tmp_path / "v.h5")
    assert torch.isnan(scan.read(0, 2)).all(-1).all(0).nonzero().flatten().tolist() == [4, 5, 6, 7]
    (tmp_path / "part2.h5").unlink()
    with pytest.raises(FileError, match="67% of it"):
        read_scan(tmp_path / "v.h5")


def test_a_source_with_chunks_that_were_never_written(tmp_path):
    data = _broken_off(tmp_path / "raw.h5", range(10))
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    layout[:] = h5py.VirtualSource("raw.h5", "exchange/data", data.shape)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("q", layout)
    with pytest.warns(UserWarning, match=r"17% of it .* at 10, 11|17% of it .* at 10 \.\.\. 11"):
        read_scan(tmp_path / "v.h5:q")


def test_projections_of_counts_that_are_one_number(tmp_path):
    data = np.random.default_rng(3).integers(100, 900, (2, 12, 16)).astype(np.uint16)
    data[:, 3] = 0  # a black frame
    with pytest.warns(UserWarning, match="the projections 3 are the same number in every ray"):
        q = read_scan(npy(tmp_path / "q.npy", data)).read(0, 2)
    assert torch.isnan(q).all(-1)[0].nonzero().flatten().tolist() == [3]
    data[0], data[1, 3] = 0, data[1, 4]
    assert not torch.isnan(
        read_scan(npy(tmp_path / "q.npy", data)).read(0, 2)
    ).any()  # a slice without anything, whole


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (("data_white_pre", "data_white_post", "data_dark"), ("ffd")),
        (("data_flat", "dark_field"), "fd"),
        (("flats", "darks"), "fd"),
        (("white_field", "data_dark_pre"), "fd"),
    ],
)
def test_fields_under_neighbouring_names(names, kinds, tmp_path):
    path = exchange(tmp_path / "scan.h5", data=COUNTS.astype(np.float32))
    values = {"f": [], "d": []}
    with h5py.File(path, "a") as file:
        for k, (name, kind) in enumerate(zip(names, kinds, strict=True)):
            frames = RNG.random((k + 1, S, D)).astype(np.float32) + (900 if kind == "f" else 10)
            file["exchange"][name] = frames
            values[kind].append(frames)
        file["exchange/white_current"] = np.ones(3)
    with pytest.warns(UserWarning, match="white_current .* is not used as flat"):
        scan = read_scan(path)
    assert scan.kind == "counts"
    torch.testing.assert_close(scan.flat, torch.from_numpy(np.concatenate(values["f"]).mean(0)))
    torch.testing.assert_close(scan.dark, torch.from_numpy(np.concatenate(values["d"]).mean(0)))


def test_nxtomo(tmp_path):
    """Flats and darks within the stack, told apart by image_key; frames of key 3 are dropped, with
    their angles.
    """
    keys = np.array([1, 1, *[0] * A, 3, 2, 2])
    frames = RNG.random((len(keys), S, D)).astype(np.float32) * 100
    theta = np.zeros(len(keys))
    theta[keys == 0] = DEGREES
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file["entry/data/data"] = frames
        file["entry/instrument/detector/image_key"] = keys
        file["entry/sample/rotation_angle"] = theta
        file["other/image_key"] = np.zeros(len(keys), int)
    scan = read_scan(tmp_path / "a.nxs:entry/data/data")
    assert same(scan, frames[keys == 0].transpose(1, 0, 2))
    assert (scan.kind, scan.meta["format"], scan.meta["layout"]) == ("counts", "NXtomo", "asd")
    torch.testing.assert_close(scan.angles, torch.deg2rad(torch.from_numpy(DEGREES)))
    torch.testing.assert_close(scan.flat, torch.from_numpy(frames[keys == 1].mean(0)))
    torch.testing.assert_close(scan.dark, torch.from_numpy(frames[keys == 2].mean(0)))
    for given in (theta, DEGREES):
        torch.testing.assert_close(
            read_scan(tmp_path / "a.nxs:entry/data/data", angles=given, degrees=True).angles,
            scan.angles,
        )
    with pytest.raises(InputError, match="the layout begins with 'a', got 'sad'"):
        read_scan(tmp_path / "a.nxs:entry/data/data", layout="sad")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            COUNTS.astype(np.float32),
            "line integrals are above 20, up to .*If they are counts, say "
            "kind='counts'.*--blank I0",
        ),
        (RNG.poisson(6.0, (S, A, D)).astype(np.float32), "all of them are whole numbers, up to"),
    ],
)
def test_counts_are_not_taken_for_line_integrals(data, words, tmp_path):
    path = npy(tmp_path / "q.npy", data)
    with pytest.raises(InputError, match=words):
        read_scan(path).read(0, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_scan(path, kind="line integrals").read(0, 2)  # the user knows
    assert read_scan(npy(tmp_path / "air.npy", np.zeros((S, A, D)))).read(0, 2).shape == (2, A, D)


def test_units_of_theta_as_an_array(tmp_path):
    path = exchange(tmp_path / "scan.h5", theta=np.deg2rad(DEGREES), units=np.array([b"radians"]))
    torch.testing.assert_close(read_scan(path).angles, torch.deg2rad(torch.from_numpy(DEGREES)))
