"""The geometry itself: axes, masses, symmetries and reconstruction beyond what
tests/test_ct_agreement.py holds against other packages.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_mlpatch.ct import FanBeam, ParallelBeam, _memory, projection
from pnp_mlpatch.ct.geometry import as_dict, coordinates, from_dict, rays
from pnp_mlpatch.ct.projection import SparsePair, Symmetry
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.operators.radon import Radon

FAN = {"source_origin": 120.0, "origin_detector": 60.0}
FAR = {"source_origin": 250.0, "origin_detector": 120.0}


def degrees(first, last, n):
    return torch.arange(n, dtype=torch.float64) * math.radians((last - first) / n) + math.radians(
        first
    )


def shuffled(angles):
    return angles[torch.randperm(len(angles), generator=torch.Generator().manual_seed(0))]


def blob(shape, row, column, variance):
    rows, cols = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    return torch.exp(-((rows - row) ** 2 + (cols - column) ** 2) / (2 * variance))


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


# ---- axes, units


def test_the_rays_are_the_equations_of_the_docstring():
    """At theta = 0 up the columns, u to the right; a quarter turn later to the left, u up. The arc
    is equally far from the source.
    """
    parallel = ParallelBeam((6, 8), [0.0, math.pi / 2], 5, pixel=0.5, spacing=0.4, offset=0.1)
    u = torch.tensor([-0.7, -0.3, 0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.allclose(coordinates(parallel), u)
    start, end = rays(parallel)
    assert torch.allclose(start[0, :, 0], u)
    assert bool((end[0, :, 1] > start[0, :, 1]).all())
    assert torch.allclose(end[1, :, 1], u)
    assert bool((end[1, :, 0] < start[1, :, 0]).all())
    flat = FanBeam((6, 8), [0.0], 5, offset=1.0, **FAN)
    assert torch.allclose(rays(flat)[0][0], torch.tensor([[0.0, -120.0]], dtype=torch.float64))
    assert torch.allclose(
        rays(flat)[1][0],
        torch.stack([coordinates(flat), torch.full((5,), 60.0, dtype=torch.float64)], -1),
    )
    arc = FanBeam((6, 8), [0.7, 2.0], 5, offset=1.0, arc=True, **FAN)
    start, end = rays(arc)
    assert torch.allclose(
        (end - start).norm(dim=-1), torch.full((2, 5), 180.0, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "geometry",
    [
        ParallelBeam((41, 41), degrees(0, 360, 7), 70, pixel=0.5, spacing=0.7, offset=2.3),
        FanBeam((41, 41), degrees(20, 380, 7), 90, pixel=0.5, spacing=1.0, offset=-3.1, **FAN),
        FanBeam(
            (41, 41), degrees(20, 380, 7), 90, pixel=0.5, spacing=1.0, offset=2.4, arc=True, **FAN
        ),
    ],
)
def test_where_the_axis_of_rotation_is_projected(geometry):
    """To the element (D - 1) / 2 - offset / spacing, from all sides.

    Not along the axes: "line" takes the pixel a ray is in, and one element to the pixel is then off
    by a part of it, the same for all rays.
    """
    q = Radon(geometry, cache=False)(blob((41, 41), 20, 20, 9.0)[None, None])[0, 0].double()
    place = (q * torch.arange(geometry.detectors)).sum(1) / q.sum(1)
    axis = (geometry.detectors - 1) / 2 - geometry.offset / geometry.spacing
    assert torch.allclose(place, torch.full((7,), axis, dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize(("kind", "bound"), [("linear", 2e-3), ("line", 5e-3), ("strip", 1e-5)])
def test_mass_is_kept(kind, bound):
    geometry, image = (
        ParallelBeam((40, 56), 24, pixel=0.5, spacing=0.4),
        blob((40, 56), 15, 33, 8.0),
    )
    mass = Radon(geometry, projector=kind, cache=False)(image[None, None])[0, 0].sum(1) * 0.4
    assert float((mass / (image.sum() * 0.25) - 1).abs().max()) < bound


def test_angles_and_defaults():
    quarter = [0.0, 45.0, 90.0]
    assert ParallelBeam((8, 8), quarter, degrees=True).theta.tolist() == pytest.approx(
        [0.0, math.pi / 4, math.pi / 2]
    )
    assert ParallelBeam((8, 8), torch.tensor(quarter), degrees=True) == ParallelBeam(
        (8, 8), quarter, degrees=True
    )
    assert ParallelBeam((8, 8), 4) == ParallelBeam((8, 8), [0.0, 45.0, 90.0, 135.0], degrees=True)
    assert FanBeam((8, 8), 4, **FAN) == FanBeam(
        (8, 8), [0.0, 90.0, 180.0, 270.0], degrees=True, **FAN
    )
    parallel, fan = ParallelBeam((30, 40), 4, pixel=0.5), FanBeam((30, 40), 4, pixel=0.5, **FAN)
    assert (parallel.detectors, parallel.spacing) == (50, 0.5)
    assert (fan.spacing, fan.width, fan.magnification, fan.distance) == (0.75, 0.5, 1.5, 180.0)
    for geometry in (
        fan,
        FanBeam((30, 40), 4, pixel=0.5, arc=True, **FAN),
    ):  # the outermost rays pass by the circle about the image
        start, end = rays(geometry)
        along = (end - start) / (end - start).norm(dim=-1, keepdim=True)
        passes = (start[..., 0] * along[..., 1] - start[..., 1] * along[..., 0]).abs()
        assert float(passes[:, 0].min()) > 12.5 - 0.5
        assert float(passes[:, -1].min()) > 12.5 - 0.5


def test_equality_hash_and_json():
    kinds = [
        ParallelBeam((8, 9), 4),
        ParallelBeam((8, 9), 4, offset=0.5),
        FanBeam((8, 9), 4, **FAN),
        FanBeam((8, 9), 4, arc=True, **FAN),
    ]
    again = [from_dict(json.loads(json.dumps(as_dict(geometry)))) for geometry in kinds]
    assert again == kinds
    assert len({*kinds, *again}) == 4
    assert "angles" not in repr(kinds[0])
    with pytest.raises(AttributeError):
        kinds[0].offset = 1.0


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: ParallelBeam((8, 8), torch.tensor([1j, 2j])),
            InputTypeError,
            "angles must be real",
        ),
        (
            lambda: ParallelBeam((8, 8), ["a", "b"]),
            InputTypeError,
            "a number of angles or a sequence in radians",
        ),
        (
            lambda: ParallelBeam((8, 8), None),
            InputTypeError,
            "a number of angles or a sequence in radians",
        ),
        (lambda: ParallelBeam((8, 8), [0.0, math.inf]), InputError, "finite"),
        (lambda: ParallelBeam((8, 8), torch.zeros(2, 2)), InputError, "one-dimensional"),
        (lambda: ParallelBeam((8, 8), 0), InputError, "number of angles must be >= 1, got 0"),
        (
            lambda: ParallelBeam((8, 8), 4, 0),
            InputError,
            "detectors must be an integer >= 1, got 0",
        ),
        (
            lambda: ParallelBeam((8, 8), 4, True),
            InputError,
            "detectors must be an integer >= 1, got True",
        ),
        (lambda: ParallelBeam((8,), 4), InputError, r"shape must be \(H, W\)"),
        (lambda: ParallelBeam((8, 0), 4), InputError, r"shape must be \(H, W\)"),
        (
            lambda: ParallelBeam((8, 8), 4, pixel=-0.5),
            InputError,
            "pixel must be a length > 0, got -0.5",
        ),
        (
            lambda: ParallelBeam((8, 8), 4, offset=math.nan),
            InputError,
            "offset must be a finite number",
        ),
        (
            lambda: FanBeam((8, 8), 4, pixel=40.0, **FAN),
            InputError,
            "source at 120 lies within the image, whose corners are at 226",
        ),
        (
            lambda: FanBeam((8, 8), 4, source_origin=0, origin_detector=1.0),
            InputError,
            "source_origin must be a length > 0 .*got 0",
        ),
        (
            lambda: FanBeam((8, 8), [0.0, 120.0, 240.0], **FAN),
            InputError,
            "FanBeam: angles reach 240, which cannot be radians",
        ),
        (
            lambda: Radon(FanBeam((8, 8), 4, offset=1.0, **FAN), projector="strip"),
            InputError,
            "flat, centred fan beams only",
        ),
        (
            lambda: Radon(ParallelBeam((8, 8), 4), projector="cubic"),
            InputError,
            "projector must be one of linear, line, strip",
        ),
        (
            lambda: Radon(ParallelBeam((8, 8), 4), backend="gpu"),
            InputError,
            "backend must be one of auto, sparse",
        ),
        (
            lambda: Radon(ParallelBeam((8, 8), 4), detectors=5),
            InputError,
            "a geometry has its shape, angles and detectors",
        ),
        (lambda: Radon((8, 8)), InputTypeError, "geometry must be a ParallelBeam"),
        (lambda: Radon(image_shape=(1, 8, 8)), InputTypeError, "give image_shape=.* and angles="),
        (
            lambda: Radon(image_shape=(1, 8, 8), angles=[0.0, 90.0]),
            InputError,
            "^Radon: angles reach 90",
        ),
        (
            lambda: Radon(image_shape=(1, 8, 8), angles=4, memory=-1.0),
            InputError,
            "memory must be a number of GiB > 0, or None, got -1",
        ),
        (
            lambda: Radon(image_shape=(1, 8, 8), angles=4, memory=math.nan),
            InputError,
            "memory must be a number",
        ),
        (
            lambda: Radon(image_shape=(1, 64, 64), angles=40, backend="sparse", memory=1e-6),
            InputError,
            "Raise memory, or use 'astra_cpu'",
        ),
        (
            lambda: Radon(image_shape=(0, 8, 8), angles=4),
            InputError,
            "image_shape must be",
        ),
        (
            lambda: from_dict({"type": "FanBeam", "shape": [8, 8], "angles": 4}),
            InputTypeError,
            "source_origin",
        ),
        (lambda: from_dict({"type": "ParallelBeam", "angles": 4}), InputTypeError, "shape"),
        (
            lambda: from_dict({"shape": [8, 8], "angles": 4}),
            InputError,
            "type must be one of ParallelBeam, FanBeam, got None",
        ),
    ],
)
def test_bad_geometry(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert isinstance(caught.value, PnPError)


def test_what_counts_as_a_repeated_angle():
    for make in (
        lambda: ParallelBeam((8, 8), [0.0, 1.0, 1.0]),
        lambda: FanBeam((8, 8), [0.0, 1.0, 2 * math.pi], **FAN),
    ):
        with pytest.warns(UserWarning, match="1 of the 3 angles repeat"):
            make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ParallelBeam((8, 8), torch.arange(180.0), degrees=True)
        ParallelBeam((8, 8), degrees(0, 360, 16))  # opposite directions are no repetition


# ---- symmetry


def several(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # angles repeat
        return make()


SYMMETRIC = {
    "12": ParallelBeam((20, 20), 12),
    "a pair": ParallelBeam((21, 21), 2),
    "repeated": several(lambda: ParallelBeam((20, 20), degrees(0, 180, 8).repeat(2))),
    "some repeated": several(
        lambda: ParallelBeam((20, 20), torch.cat([degrees(0, 180, 8), degrees(0, 180, 8)[:3]]))
    ),
    "whole turn, offset": ParallelBeam((20, 20), degrees(0, 360, 16), offset=1.3),
    "whole turn, odd": ParallelBeam((20, 20), degrees(0, 360, 9)),
    "backwards": ParallelBeam((20, 20), -degrees(0, 360, 12)),
    "from 13 degrees": ParallelBeam((20, 20), degrees(13, 193, 12)),
    "wide elements": ParallelBeam((20, 20), 12, pixel=0.5, spacing=0.7),
    "fan, 24": FanBeam((20, 20), 24, **FAN),
    "fan, not square": FanBeam((20, 26), 16, **FAN),
    "fan, repeated": several(lambda: FanBeam((21, 21), degrees(0, 360, 8).repeat(2), **FAN)),
    "fan, short scan": FanBeam((21, 21), degrees(0, 250, 25), **FAN),
    "fan, shuffled": FanBeam((21, 21), shuffled(degrees(0, 360, 16)), **FAN),
    "arc, offset": FanBeam((21, 21), 16, offset=2.0, arc=True, **FAN),
    "fan, from 3 degrees": FanBeam((21, 21), degrees(3, 363, 16), **FAN),
}
# ASTRA's strips of fans at 45 degrees are not symmetric themselves
STRIPS = [name for name, g in SYMMETRIC.items() if isinstance(g, ParallelBeam)] + [
    "fan, short scan",
    "fan, from 3 degrees",
]
FOLDS = [
    (name, "linear" if isinstance(g, ParallelBeam) else "line") for name, g in SYMMETRIC.items()
] + [(name, "strip") for name in STRIPS]


@pytest.mark.parametrize(("name", "kind"), FOLDS)
def test_folded_matrix_is_the_whole_one(name, kind):
    """Measured 1e-6, for fans 4e-5: ASTRA computes in float32."""
    geometry = SYMMETRIC[name]
    count, symmetry = len(geometry.angles), Symmetry.of(geometry)
    everything = Symmetry([(0, False)], list(range(count)), list(range(count)), [False] * count)
    folded, whole = (SparsePair(geometry, kind, which, False) for which in (symmetry, everything))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *geometry.shape, generator=generator)
    y = torch.rand(3, count, geometry.detectors, generator=generator)
    bound = 1e-5 if isinstance(geometry, ParallelBeam) else 1e-4
    assert relative(folded.forward_project(x), whole.forward_project(x)) < bound
    assert relative(folded.back_project(y), whole.back_project(y)) < bound
    assert relative(folded.normal(x), whole.normal(x)) < bound


def test_an_even_number_of_angles_needs_a_quarter_and_a_fan_an_eighth():
    for n in range(2, 65, 2):
        assert len(Symmetry.of(ParallelBeam((20, 20), n)).base) <= n / 4 + 1
        if n % 8 == 0:
            assert len(Symmetry.of(FanBeam((20, 20), n, **FAN)).base) <= n / 8 + 1
            assert (
                len(Symmetry.of(FanBeam((20, 20), shuffled(degrees(0, 360, n)), **FAN)).base)
                <= n / 8 + 1
            )


# ---- filtered backprojection

FBP = {
    "parallel": (ParallelBeam((128, 128), 200), 0.06),
    "parallel, reversed": (ParallelBeam((128, 128), -degrees(0, 180, 200)), 0.06),
    "parallel, offset": (ParallelBeam((128, 128), 200, 200, offset=3.3), 0.06),
    "parallel, whole turn, offset": (
        ParallelBeam((128, 128), degrees(0, 360, 200), 200, offset=3.3),
        0.03,
    ),
    "parallel, fine elements": (ParallelBeam((128, 128), 200, spacing=0.7), 0.01),
    "random": (
        ParallelBeam(
            (128, 128), torch.rand(300, generator=torch.Generator().manual_seed(0)) * math.pi
        ),
        0.06,
    ),
    "fan": (FanBeam((128, 128), 240, **FAR), 0.01),
    "fan, offset": (FanBeam((128, 128), 240, 270, offset=4.0, **FAR), 0.01),
    "fan, shuffled": (FanBeam((128, 128), shuffled(degrees(0, 360, 240)), **FAR), 0.01),
    "fan, short scan": (FanBeam((128, 128), degrees(20, 270, 200), **FAR), 0.01),
    "arc": (FanBeam((128, 128), 240, arc=True, **FAR), 0.01),
    "arc, short scan, reversed": (
        FanBeam((128, 128), -degrees(20, 270, 200), arc=True, **FAR),
        0.01,
    ),
}


@pytest.mark.parametrize("name", FBP)
def test_filtered_backprojection(name):
    """The largest error, of blobs of height 1: 0.004 to 0.005 in fans, 0.015 to 0.043 where the
    transpose does the backprojection.
    """
    geometry, bound = FBP[name]
    image = blob((128, 128), 47, 77, 70.0) + 0.6 * blob((128, 128), 80, 53, 45.0)
    A = Radon(
        geometry,
        backend="sparse" if isinstance(geometry, ParallelBeam) else "astra_cpu",
        cache=False,
    )
    assert float((A.fbp(A(image[None, None]), window="none")[0, 0] - image).abs().max()) < bound


# ---- the cache and the memory


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("indices", lambda v: v + 10**6, "its indices are out of range"),
        ("indices", lambda v: -v - 1, "its indices are out of range"),
        ("indices", lambda v: v[:-1], "of other types or sizes"),
        ("indptr", lambda v: v[:-1], "of other types or sizes"),
        (
            "indptr",
            lambda v: np.where(np.arange(len(v)) == 3, len(v) * 50, v).astype(v.dtype),
            "rows do not follow each other",
        ),
        (
            "data",
            lambda v: np.where(v > 0, np.nan, v).astype(np.float32),
            "its values are not finite",
        ),
        ("data", lambda v: v.astype(np.float64), "of other types or sizes"),
    ],
)
def test_a_forged_matrix_is_built_again(name, change, words, tmp_path, monkeypatch):
    """With the right key, and numbers with which the product would read beyond its arrays."""
    monkeypatch.setenv("PNP_MLPATCH_CACHE", str(tmp_path))
    x = torch.rand(1, 1, 12, 12)
    first = Radon(image_shape=(1, 12, 12), angles=7)(x)
    (path,) = tmp_path.glob("radon-*.npz")
    with np.load(path) as file:
        values = dict(file)
    np.savez(path, **values | {name: change(values[name])})
    with pytest.warns(UserWarning, match=f"{words}.*built again"):
        again = Radon(image_shape=(1, 12, 12), angles=7)
    assert torch.equal(again(x), first)


def test_without_a_home_nothing_is_cached(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("PNP_MLPATCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", nowhere)
    with pytest.warns(UserWarning, match="no home folder.*Set PNP_MLPATCH_CACHE"):
        assert Radon(image_shape=(1, 12, 12), angles=7)(torch.rand(1, 1, 12, 12)).shape == (
            1,
            1,
            7,
            17,
        )


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_control_groups(version, tmp_path):
    base = tmp_path / "memory" if version == 1 else tmp_path
    names = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if version == 1
        else ("memory.max", "memory.current")
    )
    (base / "a/b").mkdir(parents=True)
    for folder, limit, used, cached in (
        ("a", 3 * 2**30, 2 * 2**30, 2**29),
        ("a/b", "max", 2**30, 0),
    ):
        for name, value in zip(
            (*names, "memory.stat"), (limit, used, f"anon 5\ninactive_file {cached}"), strict=True
        ):
            (base / folder / name).write_text(f"{value}\n")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/a/b\n1:cpu:/x\n" if version == 1 else "0::/a/b\n")
    assert _memory._groups_free(tmp_path, own) == [1.5 * 2**30]
    assert _memory._groups_free(tmp_path, tmp_path / "none") == []


def test_memory_of_the_limits_of_the_process():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = _memory._field_of(Path("/proc/self/status"), "VmData:", 1024)
    if used is None:
        pytest.skip("no /proc")
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (int(used) + 2**28, before[1]))
        free = projection.available_gib()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert free <= 0.25


def test_without_memory_for_the_matrices_auto_projects_without_them(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(projection, "astra_matrix", full)
    with pytest.warns(
        UserWarning, match="there was no memory for the sparse matrices.*'astra_cpu'"
    ):
        A = Radon(image_shape=(1, 12, 12), angles=7, cache=False)
    assert A.backend == "astra_cpu"
    assert A(torch.rand(1, 1, 12, 12)).shape == (1, 1, 7, 17)
    with pytest.raises(InputError, match=r"there was no memory .* or use 'astra_cpu'"):
        Radon(image_shape=(1, 12, 12), angles=7, backend="sparse", cache=False)


# ---- angles


@pytest.mark.parametrize("angles", [[0, 4, 8, 12], np.arange(10), torch.tensor([0.0, 10.0, 5.0])])
def test_whole_numbers_are_degrees(angles):
    with pytest.raises(InputError, match="they look like degrees, not radians"):
        ParallelBeam((8, 8), angles)
    assert float(ParallelBeam((8, 8), angles, degrees=True).theta.max()) < 0.3


@pytest.mark.parametrize(
    ("angles", "words"),
    [([0, 1, 2, 3, 4], "are whole numbers"), (np.arange(0, 12, 0.5), "span 1.83 turns")],
)
def test_angles_that_may_be_degrees(angles, words):
    with pytest.warns(UserWarning, match=f"{words}; are they degrees"):
        ParallelBeam((8, 8), angles)


def test_first_and_last_angle_of_a_turn_in_float32():
    for theta in (
        np.linspace(0, 2 * math.pi, 9, dtype=np.float32),
        torch.deg2rad(torch.linspace(0, 360, 9)),
        -torch.linspace(0, 2 * math.pi, 9),
    ):
        with pytest.warns(UserWarning, match="1 of the 9 angles repeat"):
            FanBeam((8, 8), theta, **FAN)


def test_numbers_of_numpy_are_numbers():
    made = ParallelBeam(
        (np.int64(8), np.int32(9)),
        np.int64(5),
        np.uint16(12),
        pixel=np.float32(0.5),
        offset=np.float32(0.25),
    )
    assert made == ParallelBeam((8, 9), 5, 12, pixel=0.5, offset=0.25)
    assert from_dict(json.loads(json.dumps(as_dict(made)))) == made
    assert Radon(made, channels=np.int64(2), cache=False).image_shape == (2, 8, 9)
    with pytest.raises(InputError, match="detectors must be an integer"):
        ParallelBeam((8, 9), 5, np.float64(12.0))
