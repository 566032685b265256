"""Our rays are those of ASTRA, ODL, scikit-image and deepinv, and integrals in closed form; every
projector is matched.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct import FanBeam, ParallelBeam, convert
from pnp_mlpatch.ct.geometry import as_dict, from_dict, rays
from pnp_mlpatch.ct.projection import AstraPair, SparsePair, Symmetry, check_projector
from pnp_mlpatch.ct.spectrum import coverage
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.testing import adjoint_mismatch, check_operator

N = 65  # odd: scikit-image turns about a pixel
FAN = {"source_origin": 120.0, "origin_detector": 60.0}


def degrees(first, last, n):
    return torch.arange(n, dtype=torch.float64) * math.radians((last - first) / n) + math.radians(
        first
    )


def blob(shape, row, column, variance):
    rows, cols = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    return torch.exp(-((rows - row) ** 2 + (cols - column) ** 2) / (2 * variance))


def phantom(n=N):
    """Three blobs, on neither diagonal and of different sizes."""
    return (
        blob((n, n), 22, 40, 12.0)
        + 0.7 * blob((n, n), 43, 25, 20.0)
        + 0.4 * blob((n, n), 36, 46, 8.0)
    )


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def ours(geometry, image, backend="auto"):
    return Radon(geometry, cache=False, backend=backend)(image[None, None])[0, 0]


# ---- other packages


def astra_sinogram(geometry, image, kind):
    astra = require("astra", "test")
    projection, volume = convert.to_astra(geometry)
    identity = astra.create_projector(kind, projection, volume)
    try:
        number, sinogram = astra.create_sino(image.numpy(), identity)
        astra.data2d.delete(number)
        return torch.from_numpy(sinogram)
    finally:
        astra.projector.delete(identity)


def odl_sinogram(geometry, image):
    """ODL's sinogram of our image, and our geometry of ODL's."""
    odl, tomo = require("odl", "test"), require("odl.applications.tomo", "test")
    n, count = N, geometry.detectors
    space = odl.uniform_discr([-n / 2, -n / 2], [n / 2, n / 2], [n, n], dtype="float32")
    step = geometry.theta[1]
    turn = odl.uniform_partition(
        -float(step) / 2, float(geometry.theta[-1] + step / 2), len(geometry.angles)
    )
    half = count * geometry.spacing / 2
    line = odl.uniform_partition(-half, half, count)
    if isinstance(geometry, FanBeam):
        theirs = tomo.FanBeamGeometry(
            turn, line, src_radius=geometry.source_origin, det_radius=geometry.origin_detector
        )
    else:
        theirs = tomo.Parallel2dGeometry(turn, line)
    transform = tomo.RayTransform(space, theirs, impl="astra_cpu")
    sinogram = transform(space.element(np.rot90(image.numpy(), -1).copy()))
    return torch.from_numpy(np.asarray(sinogram.data)), convert.from_odl(theirs, space)


def deepinv_sinogram(image, angles, fan=None):
    physics = require("deepinv.physics", "test")
    settings = (
        {"circle": True}
        if fan is None
        else {"circle": True, "fan_beam": True, "fan_parameters": fan}
    )
    T = physics.Tomography(
        angles=torch.as_tensor(angles).float(), img_width=N, normalize=False, **settings
    )
    geometry = convert.from_deepinv(N, angles, **settings)
    return convert.deepinv_sinogram(T.A(image[None, None])[0, 0], geometry), geometry


def test_parallel_sinograms_of_five_packages_agree():
    from skimage.transform import radon

    image, angles = phantom(), np.arange(0, 180, 15.0)
    geometry = ParallelBeam((N, N), angles, N, degrees=True)
    mine = ours(geometry, image)
    assert relative(astra_sinogram(geometry, image, "linear"), mine) < 1e-5
    odl, same = odl_sinogram(geometry, image)
    assert relative(odl, mine) < 1e-4
    assert torch.allclose(same.theta, geometry.theta, atol=1e-6)
    skimage = torch.from_numpy(
        radon(image.numpy().astype(np.float64), angles, circle=True).T.copy()
    )
    assert relative(skimage, mine) < 0.01
    assert convert.from_skimage((N, N), angles) == geometry
    deepinv, same = deepinv_sinogram(image, angles.tolist())
    assert relative(deepinv, mine) < 0.02
    assert relative(ours(same, image), mine) < 1e-5
    wrong = {
        "mirrored detector": mine.flip(1),
        "reversed angles": ours(replace(geometry, angles=(-geometry.theta)), image),
    }
    wrong |= {
        "transposed image": ours(geometry, image.T.contiguous()),
        "turned image": ours(geometry, image.rot90().contiguous()),
    }
    for name, sinogram in wrong.items():
        assert relative(sinogram, mine) > 0.3, name


def test_fan_beam_sinograms_of_four_packages_agree():
    image = phantom()
    geometry = FanBeam((N, N), 24, 121, spacing=1.2, **FAN)
    mine = ours(geometry, image)
    assert relative(astra_sinogram(geometry, image, "line_fanflat"), mine) < 1e-5
    odl, same = odl_sinogram(geometry, image)
    assert relative(odl, mine) < 1e-4
    assert same.source_origin == pytest.approx(120.0)
    fan = {
        "pixel_spacing": 1.0,
        "source_radius": 120.0,
        "detector_radius": 60.0,
        "n_detector_pixels": 121,
        "detector_spacing": 1.2,
    }
    angles = (90 + torch.rad2deg(geometry.theta)).tolist()
    deepinv, same = deepinv_sinogram(image, angles, fan)
    assert relative(deepinv, ours(same, image)) < 0.02
    assert relative(deepinv.flip(1), ours(same, image)) > 0.3
    assert relative(ours(replace(geometry, angles=-geometry.theta), image), mine) > 0.3


def test_conversions_lead_there_and_back():
    for geometry in (
        ParallelBeam((20, 30), 9, 40, pixel=0.5, spacing=0.7),
        ParallelBeam((20, 30), 9, 40, offset=1.5),
        FanBeam((20, 30), 9, 40, pixel=0.5, **FAN),
        FanBeam((20, 30), 9, 40, offset=-2.0, **FAN),
    ):
        back = convert.from_astra(*convert.to_astra(geometry))
        assert torch.allclose(
            torch.remainder(back.theta - geometry.theta + 1, 2 * math.pi),
            torch.ones(9, dtype=torch.float64),
            atol=1e-9,
        )
        values = [replace(g, angles=geometry.theta) for g in (back, geometry)]
        assert [
            round(v, 9) if isinstance(v, float) else v
            for v in as_dict(values[0]).values()
            if not isinstance(v, list)
        ] == [
            round(v, 9) if isinstance(v, float) else v
            for v in as_dict(values[1]).values()
            if not isinstance(v, list)
        ]
    tigre = convert.from_tigre(
        DSO=120.0,
        DSD=180.0,
        nVoxel=N,
        dVoxel=1.0,
        nDetector=121,
        dDetector=1.2,
        angles=[-math.pi / 2, 0.0],
    )
    assert tigre == FanBeam((N, N), [0.0, math.pi / 2], 121, spacing=tigre.spacing, **FAN)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: convert.to_astra(FanBeam((8, 8), 4, arc=True, **FAN)),
            InputError,
            "ASTRA has no arc",
        ),
        (lambda: convert.from_astra("parallel", {}), InputTypeError, "projection must be a dict"),
        (
            lambda: convert.from_astra(
                {"type": "cone"}, convert.to_astra(ParallelBeam((8, 8), 4))[1]
            ),
            InputError,
            "type must be parallel",
        ),
        (
            lambda: convert.from_odl(1, 2),
            InputTypeError,
            "expected a Parallel2dGeometry or a FanBeamGeometry, got int",
        ),
        (
            lambda: convert.from_tigre(200.0, 100.0, 8, 8.0, 12, 1.0, [0.0]),
            InputError,
            "expected 0 < DSO <= DSD",
        ),
        (
            lambda: convert.from_tigre(100.0, 200.0, 8, None, 12, 1.0, [0.0]),
            InputTypeError,
            "give one of sVoxel",
        ),
        (
            lambda: convert.from_deepinv(9, 4, fan_beam=True, fan_parameters={"radius": 1.0}),
            InputError,
            "fan_parameters has",
        ),
        (lambda: convert.from_skimage((1, 2, 3), [0.0]), InputError, r"shape must be \(H, W\)"),
    ],
)
def test_conversions_refuse(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---- integrals in closed form

VARIANTS = {
    "parallel": ParallelBeam((60, 80), 8, pixel=0.5, spacing=0.4),
    "parallel, offset": ParallelBeam(
        (60, 80), degrees(0, 360, 9), 140, pixel=0.5, spacing=0.6, offset=1.3
    ),
    "fan": FanBeam((60, 80), 9, pixel=0.5, **FAN),
    "fan, offset": FanBeam((60, 80), 9, 120, pixel=0.5, offset=2.0, **FAN),
    "arc": FanBeam((60, 80), 9, pixel=0.5, arc=True, **FAN),
    "arc, offset": FanBeam((60, 80), 9, 130, pixel=0.5, offset=-1.7, arc=True, **FAN),
}


def projectors(geometry):
    if isinstance(geometry, ParallelBeam):
        return ("linear", "line", "strip")
    return ("line",) if geometry.arc or geometry.offset else ("line", "strip")


CASES = [
    (name, kind, backend)
    for name, g in VARIANTS.items()
    for kind in projectors(g)
    for backend in ("sparse", "astra_cpu")
]


@pytest.mark.parametrize(("name", "kind", "backend"), CASES)
def test_line_integrals_of_a_gaussian(name, kind, backend):
    """Along a ray at the distance s from its centre the integral of exp(-r^2 / 2 w^2) is sqrt(2 pi)
    w exp(-s^2 / 2 w^2).
    """
    geometry, row, column, width = VARIANTS[name], 20.0, 47.0, 3.0
    image = blob(geometry.shape, row, column, (width / geometry.pixel) ** 2)
    centre = torch.tensor(
        [(column - 39.5) * geometry.pixel, (29.5 - row) * geometry.pixel], dtype=torch.float64
    )
    start, end = rays(geometry)
    along = (end - start) / (end - start).norm(dim=-1, keepdim=True)
    away = centre - start
    s = away[..., 0] * along[..., 1] - away[..., 1] * along[..., 0]
    exact = math.sqrt(2 * math.pi) * width * torch.exp(-(s**2) / (2 * width**2))
    A = Radon(geometry, projector=kind, backend=backend, cache=False)
    assert relative(A(image[None, None])[0, 0], exact) < (0.02 if kind == "line" else 0.01)


@pytest.mark.parametrize(("name", "kind", "backend"), CASES)
def test_every_projector_is_matched(name, kind, backend):
    A = Radon(VARIANTS[name], projector=kind, backend=backend, cache=False)
    assert adjoint_mismatch(A) < 1e-6


@pytest.mark.parametrize(
    "geometry",
    [
        FanBeam((14, 18), 9, **FAN),
        FanBeam((15, 15), 8, arc=True, **FAN),
        ParallelBeam((12, 12), 8, offset=0.7),
    ],
)
def test_contracts_of_other_geometries(geometry):
    assert len(check_operator(Radon(geometry, channels=2, cache=False))) > 15


# ---- symmetry

SYMMETRIC = {
    **{f"{n} angles": ParallelBeam((20, 20), n) for n in (1, 2, 3, 7, 8, 12)},
    "not square": ParallelBeam((20, 26), 12),
    "offset": ParallelBeam((20, 20), 12, offset=1.3),
    "whole turn": ParallelBeam((20, 20), degrees(0, 360, 16)),
    "shuffled": ParallelBeam(
        (20, 20),
        degrees(0, 180, 12)[torch.randperm(12, generator=torch.Generator().manual_seed(0))],
    ),
    "random": ParallelBeam((20, 20), torch.rand(9, generator=torch.Generator().manual_seed(0)) * 3),
    "fan": FanBeam((20, 20), 16, **FAN),
    "fan, odd": FanBeam((21, 21), 7, **FAN),
    "fan, offset": FanBeam((20, 20), 16, offset=2.0, **FAN),
    "arc": FanBeam(
        (21, 21), 16, arc=True, **FAN
    ),  # odd: a ray along the border of pixels may fall to either side
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_folded_matrix_is_the_whole_one(name):
    geometry = SYMMETRIC[name]
    kind, count = check_projector(geometry, None), len(geometry.angles)
    everything = Symmetry([(0, False)], list(range(count)), list(range(count)), [False] * count)
    folded, whole = (
        SparsePair(geometry, kind, Symmetry.of(geometry), False),
        SparsePair(geometry, kind, everything, False),
    )
    x, y = torch.rand(3, *geometry.shape), torch.rand(3, count, geometry.detectors)
    assert relative(folded.forward_project(x), whole.forward_project(x)) < 1e-5
    assert relative(folded.back_project(y), whole.back_project(y)) < 1e-5
    assert relative(folded.normal(x), whole.normal(x)) < 1e-5
    assert relative(AstraPair(geometry, kind).forward_project(x), whole.forward_project(x)) < 1e-6


def test_how_much_symmetry_saves():
    bases = {name: len(Symmetry.of(geometry).base) for name, geometry in SYMMETRIC.items()}
    assert (bases["8 angles"], bases["12 angles"], bases["not square"], bases["offset"]) == (
        3,
        4,
        7,
        6,
    )
    assert (bases["fan"], bases["fan, offset"], bases["arc"], bases["random"]) == (3, 4, 3, 9)


# ---- filtered backprojection


@pytest.mark.parametrize(
    ("geometry", "bound"),
    [
        (ParallelBeam((96, 96), 150, pixel=0.5), 0.06),
        (ParallelBeam((96, 96), 150, pixel=0.5, spacing=0.8), 0.04),
        (
            ParallelBeam(
                (96, 96), torch.rand(240, generator=torch.Generator().manual_seed(0)) * math.pi
            ),
            0.08,
        ),
        (FanBeam((96, 96), 240, pixel=0.5, **FAN), 0.03),
        (FanBeam((96, 96), 240, pixel=0.5, arc=True, **FAN), 0.03),
        (FanBeam((96, 96), degrees(20, 270, 200), pixel=0.5, **FAN), 0.03),
        (
            FanBeam((96, 96), -degrees(0, 360, 240), 200, pixel=0.5, offset=2.0, arc=True, **FAN),
            0.03,
        ),
    ],
    ids=[
        "parallel",
        "wide elements",
        "random angles",
        "fan",
        "arc",
        "short scan",
        "reversed arc, offset",
    ],
)
def test_filtered_backprojection(geometry, bound):
    image = blob((96, 96), 35, 58, 40.0) + 0.6 * blob((96, 96), 60, 40, 25.0)
    A = Radon(geometry, cache=False)
    assert float((A.fbp(A(image[None, None]), window="none")[0, 0] - image).abs().max()) < bound


# ---- the geometry itself


@pytest.mark.parametrize("name", VARIANTS)
def test_geometry_goes_through_json_and_scales(name):
    geometry = VARIANTS[name]
    assert from_dict(json.loads(json.dumps(as_dict(geometry)))) == geometry
    assert hash(replace(geometry)) == hash(geometry)
    lengths = {
        key: 3 * getattr(geometry, key)
        for key in ("pixel", "spacing", "offset", "source_origin", "origin_detector")
        if hasattr(geometry, key)
    }
    image = torch.rand(60, 80)
    assert relative(ours(replace(geometry, **lengths), image), 3 * ours(geometry, image)) < 1e-5
    file = io.BytesIO()
    geometry.plot().savefig(file)
    assert len(file.getvalue()) > 10_000


def test_coverage():
    assert coverage(ParallelBeam((9, 9), 60)) == 1
    assert coverage(ParallelBeam((9, 9), degrees(0, 120, 60))) == pytest.approx(2 / 3, abs=0.05)
    assert coverage(FanBeam((9, 9), 60, **FAN)) == 1
    assert coverage(ParallelBeam((9, 9), degrees(0, 360, 60))) == 1
    assert coverage(FanBeam((9, 9), degrees(0, 60, 60), **FAN)) < 0.5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ParallelBeam((8, 8), [0.0, 45.0, 90.0]),
            "angles reach 90, which cannot be radians.*degrees=True",
        ),
        (lambda: ParallelBeam((8, 8), [0.0, math.nan]), "finite"),
        (lambda: ParallelBeam((8, 8), []), "non-empty"),
        (
            lambda: ParallelBeam((8, 8), 4, offset=30.0),
            "offset 30 puts the centre of rotation off the detector",
        ),
        (lambda: ParallelBeam((8, 8), 4, pixel=0.0), "pixel must be a length > 0"),
        (lambda: ParallelBeam((8, 8), 4, spacing=-1.0), "spacing must be a length > 0"),
        (lambda: ParallelBeam((8, 8), 4, 2.5), "detectors must be an integer >= 1, got 2.5"),
        (
            lambda: FanBeam((8, 8), 4, source_origin=3.0, origin_detector=5.0),
            "source at 3 lies within the image",
        ),
        (
            lambda: FanBeam((8, 8), 4, source_origin=-30.0, origin_detector=5.0),
            "source_origin must be a length > 0",
        ),
        (
            lambda: FanBeam((8, 8), 4, source_origin=30.0, origin_detector=-5.0),
            "origin_detector must be a length >= 0.*DSD - DSO",
        ),
        (lambda: FanBeam((8, 8), 4, 900, arc=True, spacing=1.0, **FAN), "spans half a turn"),
        (
            lambda: Radon(FanBeam((8, 8), 4, **FAN), projector="linear"),
            "no 'linear' projector for fan beams",
        ),
        (
            lambda: Radon(FanBeam((8, 8), 4, arc=True, **FAN), projector="strip"),
            "flat, centred fan beams only",
        ),
        (
            lambda: Radon(ParallelBeam((8, 8), 4), angles=4),
            r"a geometry has its shape, angles and detectors; call Radon\(geometry\)",
        ),
        (
            lambda: Radon(image_shape=(1, 8, 8), angles=4, memory=0),
            "memory must be a number of GiB > 0",
        ),
        (
            lambda: from_dict({"type": "ConeBeam"}),
            "type must be one of ParallelBeam, FanBeam, got 'ConeBeam'",
        ),
        (
            lambda: from_dict({"type": "ParallelBeam", "shape": [8, 8], "angles": 4, "colour": 1}),
            "It takes: shape, angles",
        ),
    ],
)
def test_bad_geometry(make, words):
    with pytest.raises(PnPError, match=words):
        make()


def test_warnings_of_angles():
    with pytest.warns(UserWarning, match="10 angles span only .* degrees; are they radians"):
        ParallelBeam((8, 8), [0.3 * k for k in range(10)], degrees=True)
    with pytest.warns(UserWarning, match="1 of the 3 angles repeat"):
        ParallelBeam((8, 8), [0.0, 1.0, 2 * math.pi])


def test_too_little_memory_falls_back_and_says_so():
    with pytest.warns(UserWarning, match="the projections run by 'astra_cpu'"):
        A = Radon(image_shape=(1, 32, 32), angles=9, memory=1e-6)
    assert A.backend == "astra_cpu"
    assert "would take about" in A.why
    assert "memory=1e-06" in repr(A)


def test_a_cache_of_another_version_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PNP_MLPATCH_CACHE", str(tmp_path))
    x = torch.rand(1, 1, 12, 12)
    first = Radon(image_shape=(1, 12, 12), angles=7)(x)
    (path,) = tmp_path.glob("radon-*.npz")
    with np.load(path) as file:
        values = dict(file)
    np.savez(path, **(values | {"key": np.array("(1, 'of old')"), "data": 2 * values["data"]}))
    with pytest.warns(UserWarning, match="it is of another version or geometry.*built again"):
        again = Radon(image_shape=(1, 12, 12), angles=7)
    assert torch.equal(again(x), first)
