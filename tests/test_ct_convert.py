"""Words of ASTRA, ODL, TIGRE, deepinv and scikit-image: the rays they mean are those of the
geometry we make of them.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct import FanBeam, ParallelBeam, convert
from pnp_mlpatch.ct.geometry import coordinates, rays
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.radon import Radon

FAN = {"source_origin": 120.0, "origin_detector": 60.0}
DEGREES = np.arange(0, 360, 15.0)


def blob(shape, row, column, variance):
    rows, cols = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    return torch.exp(-((rows - row) ** 2 + (cols - column) ** 2) / (2 * variance))


def phantom(h, w, shift=0.0):
    """Two blobs on neither diagonal, near enough to the middle for every circle; moved by ``shift``
    rows and columns.
    """
    return blob((h, w), 0.40 * h + shift, 0.57 * w + shift, 0.005 * h * w) + 0.6 * blob(
        (h, w), 0.60 * h + shift, 0.46 * w + shift, 0.004 * h * w
    )


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def ours(geometry, image, projector=None):
    return Radon(geometry, projector=projector, cache=False)(image[None, None])[0, 0]


def same_rays(geometry, other):
    """The largest distance between the lines of two geometries, over the rays, at
    both their ends.
    """
    (start, end), (a, b) = rays(geometry), rays(other)
    along = (b - a) / (b - a).norm(dim=-1, keepdim=True)
    away = torch.stack([start - a, end - a])
    return float((away[..., 0] * along[..., 1] - away[..., 1] * along[..., 0]).abs().max())


# ---- ASTRA

ASTRA = {
    "linear": ParallelBeam((40, 56), 9, pixel=0.5, spacing=0.7),
    "strip": ParallelBeam((40, 56), 9, 100, pixel=0.5, offset=1.3),
    "line_fanflat": FanBeam((40, 56), 9, 100, pixel=0.5, offset=-1.3, **FAN),
    "strip_fanflat": FanBeam((40, 56), 9, pixel=0.5, **FAN),
}


@pytest.mark.parametrize("kind", ASTRA)
def test_astra_projects_alike_with_pixels_and_offsets(kind):
    """To float32: the strips, which are differences of areas, to 2e-5."""
    astra, geometry, image = require("astra", "test"), ASTRA[kind], phantom(40, 56)
    projection, volume = convert.to_astra(geometry)
    identity = astra.create_projector(kind, projection, volume)
    try:
        number, sinogram = astra.create_sino(image.numpy(), identity)
        astra.data2d.delete(number)
    finally:
        astra.projector.delete(identity)
    assert relative(torch.from_numpy(sinogram), ours(geometry, image, kind.split("_")[0])) < 5e-5


@pytest.mark.parametrize("kind", ASTRA)
def test_astra_there_and_back(kind):
    """Through angles and through vectors: those that ASTRA itself makes of the angles, too."""
    astra, geometry = require("astra", "test"), ASTRA[kind]
    projection, volume = convert.to_astra(geometry)
    back = convert.from_astra(projection, volume)
    assert (type(back), back.shape, back.detectors) == (
        type(geometry),
        geometry.shape,
        geometry.detectors,
    )
    assert same_rays(back, geometry) < 1e-9
    if not projection["type"].endswith("_vec"):
        assert back == geometry
        assert same_rays(convert.from_astra(astra.geom_2vec(projection), volume), geometry) < 1e-9
        moved = astra.geom_postalignment(projection, 2.5)  # by 2.5 detector elements
        assert (
            same_rays(
                convert.from_astra(moved, volume), replace(geometry, offset=2.5 * geometry.spacing)
            )
            < 1e-9
        )


def vectors(change=None, kind="fanflat_vec"):
    """ASTRA's dicts of a geometry with an offset, its vectors changed in place."""
    geometry = (
        FanBeam((8, 8), 5, 30, offset=1.0, **FAN)
        if kind == "fanflat_vec"
        else ParallelBeam((8, 8), 5, 30, offset=1.0)
    )
    projection, volume = convert.to_astra(geometry)
    assert projection["type"] == kind
    (change or (lambda v: None))(projection["Vectors"])
    return projection, volume


def window(**change):
    projection, volume = convert.to_astra(ParallelBeam((8, 8), 5))
    names = {"low": "WindowMinX", "high": "WindowMaxX"}
    return projection, volume | {
        "option": volume["option"] | {names[key]: value for key, value in change.items()}
    }


def scale(columns, factor, rows=slice(None)):
    def change(v):
        v[rows, columns] *= factor

    return change


def move(columns, by):
    def change(v):
        v[:, columns] += by

    return change


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: ({"type": "parallel"}, 3),
            InputTypeError,
            "volume must be a dict of astra.create_vol_geom, got int",
        ),
        (
            lambda: (3, {}),
            InputTypeError,
            "projection must be a dict of astra.create_proj_geom, got int",
        ),
        (
            lambda: ({"type": "parallel", "DetectorCount": 4}, window()[1]),
            InputError,
            "expected an entry 'ProjectionAngles'",
        ),
        (
            lambda: (window()[0] | {"DetectorCount": 0}, window()[1]),
            InputError,
            "DetectorCount must be an integer >= 1, got 0",
        ),
        (
            lambda: ({"type": "cone"}, window()[1]),
            InputError,
            "type must be parallel, fanflat.*got 'cone'",
        ),
        (
            lambda: (window()[0] | {"ProjectionAngles": ["a"]}, window()[1]),
            InputTypeError,
            "ProjectionAngles must be a sequence of real",
        ),
        (
            lambda: (vectors()[0] | {"Vectors": [[1, 2], [3]]}, window()[1]),
            InputTypeError,
            "Vectors must be a sequence of real",
        ),
        (
            lambda: (vectors()[0] | {"Vectors": [1.0, 2.0]}, window()[1]),
            InputError,
            r"of shape \(angles, 6\)",
        ),
        (
            lambda: (window()[0], window()[1] | {"option": None}),
            InputTypeError,
            "option of the volume must be a dict",
        ),
        (lambda: window(high=math.nan), InputError, "must be finite numbers"),
        (lambda: window(high=8.0), InputError, "pixels must be square"),
        (lambda: window(low=0.0, high=8.0), InputError, "centred on the origin"),
        (lambda: (window()[0], window()[1] | {"GridSliceCount": 3}), InputError, "must be a plane"),
        (
            lambda: vectors(scale(slice(4, 6), 1.5, 2)),
            InputError,
            "length of a detector element varies",
        ),
        (lambda: vectors(scale(slice(0, 2), 1.5, 2)), InputError, "distance of the source varies"),
        (lambda: vectors(scale(slice(4, 6), -1.0)), InputError, "runs backwards"),
        (lambda: vectors(scale(slice(4, 6), 0.0)), InputError, "length > 0"),
        (lambda: vectors(scale(0, math.nan)), InputError, "finite"),
        (lambda: vectors(move(slice(0, 4), 3.0)), InputError, "varies over the angles|aside"),
        (lambda: vectors(move(0, 0.7), "parallel_vec"), InputError, "rays must be perpendicular"),
        (
            lambda: vectors(scale(slice(0, 2), 0.0), "parallel_vec"),
            InputError,
            "rays must have a direction",
        ),
    ],
)
def test_what_astra_can_say_and_we_cannot(make, error, words):
    with pytest.raises(error, match=words):
        convert.from_astra(*make())


def test_to_astra_refuses():
    with pytest.raises(InputError, match="ASTRA has no arc"):
        convert.to_astra(FanBeam((8, 8), 5, arc=True, **FAN))
    with pytest.raises(InputTypeError, match="expected a ParallelBeam or a FanBeam, got dict"):
        convert.to_astra({})


# ---- ODL


def space(h, w, pixel, centre=(0.0, 0.0)):
    low = [centre[0] - w * pixel / 2, centre[1] - h * pixel / 2]
    return require("odl", "test").uniform_discr(
        low, [low[0] + w * pixel, low[1] + h * pixel], [w, h], dtype="float32"
    )


def odl_fan(low, high, turn=None, **options):
    odl, tomo = require("odl", "test"), require("odl.applications.tomo", "test")
    turn = odl.uniform_partition(0, 2 * math.pi, 12) if turn is None else turn
    return tomo.FanBeamGeometry(
        turn,
        odl.uniform_partition(low, high, 120),
        **({"src_radius": 120, "det_radius": 60} | options),
    )


def odl_parallel(low, high, **options):
    odl, tomo = require("odl", "test"), require("odl.applications.tomo", "test")
    return tomo.Parallel2dGeometry(
        odl.uniform_partition(0, math.pi, 12), odl.uniform_partition(low, high, 120), **options
    )


ODL = {
    "parallel": (lambda: odl_parallel(-30, 30), (40, 56, 0.5)),
    "parallel, offset": (lambda: odl_parallel(-28, 32), (40, 56, 0.5)),
    "parallel, turned": (lambda: odl_parallel(-28, 32, det_pos_init=(1, 0)), (40, 56, 0.5)),
    "parallel, backwards": (lambda: odl_parallel(-28, 32, det_axis_init=(-1, 0)), (40, 56, 0.5)),
    "fan": (lambda: odl_fan(-40, 40), (40, 56, 0.5)),
    "fan, offset": (lambda: odl_fan(-38, 42), (40, 56, 0.5)),
    "fan, turned": (lambda: odl_fan(-38, 42, src_to_det_init=(1, 0)), (40, 56, 0.5)),
    "fan, moved with the image": (
        lambda: odl_fan(-38, 42, translation=(3, -5)),
        (40, 56, 0.5, (3.0, -5.0)),
    ),
    "arc": (lambda: odl_fan(-0.2, 0.2, det_curvature_radius=180), (40, 56, 0.5)),
    "arc, offset": (lambda: odl_fan(-0.2, 0.22, det_curvature_radius=180), (40, 56, 0.5)),
}


@pytest.mark.parametrize("name", ODL)
def test_rays_of_odl(name):
    """The places of source and detector that ODL's geometry itself gives are on our rays, in its
    order.
    """
    make, given = ODL[name]
    theirs = make()
    geometry = convert.from_odl(theirs, space(*given))
    middle = np.array(given[3]) if len(given) > 3 else np.zeros(2)
    elements = np.asarray(theirs.det_partition.coord_vectors[0])
    points = torch.from_numpy(
        np.stack(
            [theirs.det_point_position(angle, elements).reshape(-1, 2) for angle in theirs.angles]
        )
        - middle
    )
    start, end = rays(geometry)
    if isinstance(geometry, FanBeam):
        assert torch.allclose(end, points, atol=1e-9)
        assert torch.allclose(
            start[:, 0], torch.from_numpy(theirs.src_position(theirs.angles) - middle), atol=1e-9
        )
    along = (end - start) / (end - start).norm(dim=-1, keepdim=True)
    away = points - start
    assert float((away[..., 0] * along[..., 1] - away[..., 1] * along[..., 0]).abs().max()) < 1e-9
    assert (geometry.shape, geometry.pixel) == ((40, 56), pytest.approx(0.5))
    assert getattr(geometry, "arc", False) == name.startswith("arc")


@pytest.mark.parametrize("name", ["parallel", "fan, offset", "fan, turned"])
def test_odl_projects_alike_and_its_adjoint_is_weighted(name):
    make, given = ODL[name]
    theirs, domain, image = make(), space(*given), phantom(40, 56)
    transform = require("odl.applications.tomo", "test").RayTransform(
        domain, theirs, impl="astra_cpu"
    )
    A = Radon(convert.from_odl(theirs, domain), cache=False)
    mine = A(image[None, None])
    sinogram = transform(domain.element(np.rot90(image.numpy(), -1).copy()))
    assert relative(torch.from_numpy(np.asarray(sinogram.data)), mine[0, 0]) < 1e-4
    back = torch.from_numpy(np.rot90(np.asarray(transform.adjoint(sinogram).data)).copy())
    weight = transform.domain.weighting.const / transform.range.weighting.const
    assert relative(back * weight, A.adjoint(mine)[0, 0]) < 1e-4


def uneven():
    odl, tomo = require("odl", "test"), require("odl.applications.tomo", "test")
    line = odl.nonuniform_partition(np.array([-4.0, -1.0, 0.0, 2.0, 5.0]))
    return tomo.FanBeamGeometry(
        odl.uniform_partition(0, 6.0, 12), line, src_radius=120, det_radius=60
    )


def shifted(angles):
    angles = np.asarray(angles)
    return np.stack([0.3 * np.cos(2 * angles), 0 * angles], -1)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: (
                odl_fan(-40, 40, src_to_det_init=(0, 1), det_axis_init=(-1, 0)),
                space(8, 8, 1.0),
            ),
            InputError,
            "runs backwards",
        ),
        (
            lambda: (odl_fan(-0.2, 0.2, det_curvature_radius=60), space(8, 8, 1.0)),
            InputError,
            "det_curvature_radius must be None or",
        ),
        (
            lambda: (odl_fan(-40, 40), space(8, 8, 1.0, (3.0, 0.0))),
            InputError,
            "circular scan about the centre|aside",
        ),
        (
            lambda: (odl_fan(-40, 40, src_shift_func=shifted), space(8, 8, 1.0)),
            InputError,
            "varies over the angles|aside",
        ),
        (
            lambda: (
                odl_fan(-40, 40),
                require("odl", "test").uniform_discr([-4, -4], [4, 4], [8, 16]),
            ),
            InputError,
            "pixels must be square",
        ),
        (
            lambda: (
                odl_fan(-40, 40),
                require("odl", "test").uniform_discr([-4] * 3, [4] * 3, [8] * 3),
            ),
            InputTypeError,
            "two axes",
        ),
        (
            lambda: (uneven(), space(8, 8, 1.0)),
            InputError,
            "must be uniform, got sampling that varies",
        ),
        (lambda: (odl_fan(-40, 40), None), InputTypeError, "expected a space of odl.uniform_discr"),
        (lambda: (object(), space(8, 8, 1.0)), InputTypeError, "got object"),
    ],
)
def test_what_odl_can_say_and_we_cannot(make, error, words):
    with pytest.raises(error, match=words):
        convert.from_odl(*make())


# ---- deepinv

FAN_PARAMETERS = {
    "pixel_spacing": 1.0,
    "source_radius": 120.0,
    "detector_radius": 60.0,
    "n_detector_pixels": 121,
    "detector_spacing": 1.2,
}


def deepinv(width, angles, *, normalize=False, image=None, **settings):
    """Their sinogram in our units and axes, and our geometry."""
    T = require("deepinv.physics", "test").Tomography(
        angles=angles if isinstance(angles, int) else torch.as_tensor(angles).float(),
        img_width=width,
        normalize=normalize,
        **settings,
    )
    geometry = convert.from_deepinv(width, angles, **settings)
    norm = float(T.operator_norm) if normalize else 1.0
    image = phantom(width, width) if image is None else image
    return convert.deepinv_sinogram(T.A(image[None, None])[0, 0], geometry, norm), geometry


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("circle", [False, True])
def test_deepinv_projects_alike(circle, normalize):
    """Measured 0.002 and for fans 0.011, of samples a pixel apart along the beam."""
    image = phantom(48, 48)
    for angles, bound, settings in (
        (DEGREES[:12], 0.005, {}),
        (DEGREES, 0.02, {"fan_beam": True, "fan_parameters": FAN_PARAMETERS}),
    ):
        theirs, geometry = deepinv(48, angles, circle=circle, normalize=normalize, **settings)
        mine = ours(geometry, image)
        assert relative(theirs, mine) < bound
        assert relative(theirs.flip(1), mine) > 0.3
        assert relative(ours(replace(geometry, angles=-geometry.theta), image), mine) > 0.3
        assert relative(ours(geometry, image.T.contiguous()), mine) > 0.3


def test_deepinv_sums_across_the_fan_in_a_smaller_pixel():
    """A blob at the side of a wide fan: 0.013, but 0.064 without 1 / cos(gamma), 0.083 with pixels
    of the size that was asked for.
    """
    wide = FAN_PARAMETERS | {"source_radius": 70.0, "detector_radius": 30.0}
    image = blob((64, 64), 31.5, 56.0, 9.0)
    theirs, geometry = deepinv(
        64, [90.0, 270.0], image=image, circle=True, fan_beam=True, fan_parameters=wide
    )
    assert geometry.pixel == pytest.approx(64 / 63)
    gamma = torch.atan(coordinates(geometry) / geometry.distance)
    assert relative(theirs, ours(geometry, image)) < 0.02
    assert relative(theirs * gamma.cos(), ours(geometry, image)) > 0.04
    assert relative(theirs / geometry.pixel, ours(replace(geometry, pixel=1.0), image)) > 0.04


def test_deepinv_defaults():
    """A number of angles, and a fan of its own defaults, whose elements are wide: 0.02."""
    for settings, bound in (({"circle": True}, 0.005), ({"circle": True, "fan_beam": True}, 0.04)):
        theirs, geometry = deepinv(48, 7, **settings)
        assert relative(theirs, ours(geometry, phantom(48, 48))) < bound


@pytest.mark.parametrize(("width", "sign"), [(50, -0.5), (65, 0.5)])
def test_deepinv_turns_about_another_point_when_it_pads_oddly(width, sign):
    """Half a pixel in x and in y, as the warning says: an image moved by as much gives the same."""
    for settings in ({}, {"fan_beam": True, "fan_parameters": FAN_PARAMETERS}):
        with pytest.warns(UserWarning, match=f"pads {width} to .* half a pixel"):
            theirs, geometry = deepinv(width, DEGREES[:12], **settings)
        assert relative(theirs, ours(geometry, phantom(width, width))) > 0.04
        assert relative(theirs, ours(geometry, phantom(width, width, sign))) < 0.01


def test_deepinv_refuses():
    geometry = convert.from_deepinv(48, 6, circle=True)
    for sinogram in (torch.zeros(6, 48), np.zeros((48, 6))):
        with pytest.raises(InputError, match=r"expected a tensor \(..., 48, 6\)"):
            convert.deepinv_sinogram(sinogram, geometry)
    assert convert.deepinv_sinogram(torch.zeros(2, 1, 48, 6), geometry).shape == (2, 1, 6, 48)
    with pytest.raises(
        InputTypeError, match=r"floating-point data, got torch.int64. Call sinogram.float\(\)"
    ):
        convert.deepinv_sinogram(torch.ones(48, 6, dtype=torch.long), geometry)
    with pytest.raises(InputTypeError, match="fan_parameters must be a dict, got list"):
        convert.from_deepinv(48, 6, circle=True, fan_beam=True, fan_parameters=[1])
    for width, words in (
        (1, "img_width must be >= 2"),
        (2.5, "integer >= 1"),
        (True, "integer >= 1"),
    ):
        with pytest.raises(InputError, match=words):
            convert.from_deepinv(width, 6)
    with pytest.raises(InputTypeError, match="sequence of real numbers"):
        convert.from_deepinv(48, ["a"], circle=True)
    with pytest.raises(InputTypeError, match="sequence of real numbers"):
        convert.from_deepinv(48, [1j], circle=True)
    with pytest.raises(InputError, match="angles must be an integer >= 1"):
        convert.from_deepinv(48, 0, circle=True)


# ---- scikit-image


def skimage(image, circle):
    from skimage.transform import radon

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the blobs are 1e-6 outside the circle
        return torch.from_numpy(radon(image.double().numpy(), DEGREES[:12], circle=circle).T.copy())


@pytest.mark.parametrize(
    ("h", "w", "circle"), [(49, 49, True), (49, 49, False), (45, 61, False), (61, 45, True)]
)
def test_skimage_projects_alike(h, w, circle):
    """Also where the padded detector is even (70 elements of 49 pixels). Measured 0.003."""
    image = blob((h, w), 0.45 * h, 0.57 * w, 6.0) + 0.6 * blob((h, w), 0.55 * h, 0.46 * w, 9.0)
    mine = ours(convert.from_skimage((h, w), DEGREES[:12], circle), image)
    assert relative(skimage(image, circle), mine) < 0.01
    assert relative(skimage(image, circle).flip(1), mine) > 0.3


@pytest.mark.parametrize(("n", "circle"), [(64, True), (50, False)])
def test_skimage_turns_about_another_point_for_even_sides(n, circle):
    with pytest.warns(
        UserWarning, match=rf"turns about the pixel \({n // 2}, {n // 2}\), half a pixel"
    ):
        geometry = convert.from_skimage((n, n), DEGREES[:12], circle)
    theirs = skimage(phantom(n, n), circle)
    assert relative(theirs, ours(geometry, phantom(n, n))) > 0.04
    assert relative(theirs, ours(geometry, phantom(n, n, -0.5))) < 0.01


@pytest.mark.parametrize(
    ("shape", "words"),
    [((9,), r"shape must be \(H, W\)"), ((9, 0), "shape must be an integer"), (9, "shape must be")],
)
def test_skimage_refuses(shape, words):
    with pytest.raises(InputError, match=words):
        convert.from_skimage(shape, [0.0, 1.0])


# ---- TIGRE


def test_tigre_rays():
    """Of its sources: from DSO (cos alpha, sin alpha) to the element at (DSO - DSD) along it and u
    (-sin alpha, cos alpha) aside.
    """
    alpha = torch.tensor([0.0, 0.3, 2.0, 5.0], dtype=torch.float64)
    given = {
        "nVoxel": (40, 56),
        "dVoxel": np.array([0.5, 0.5]),
        "nDetector": 70,
        "dDetector": 1.2,
        "angles": alpha,
        "offDetector": 2.0,
    }
    geometry = convert.from_tigre(120.0, 180.0, **given)
    assert (geometry.shape, geometry.pixel, geometry.detectors) == ((40, 56), 0.5, 70)
    out = torch.stack([alpha.cos(), alpha.sin()], -1)[:, None]
    u = (torch.arange(70, dtype=torch.float64) - 35 + 0.5) * 1.2 + 2.0
    aside = torch.stack([-alpha.sin(), alpha.cos()], -1)[:, None] * u[:, None]
    start, end = rays(geometry)
    assert torch.allclose(start, (120 * out).expand_as(start), atol=1e-9)
    assert torch.allclose(end, -60 * out + aside, atol=1e-9)
    parallel = convert.from_tigre(0.0, 0.0, mode="parallel", **given)
    assert isinstance(parallel, ParallelBeam)
    start, end = rays(parallel)
    e = aside[:, -1:] / u[-1]
    assert torch.allclose((start * e).sum(-1), u.expand(4, -1), atol=1e-9)
    assert torch.allclose(
        (end - start) / (end - start).norm(dim=-1, keepdim=True), (-out).expand_as(end), atol=1e-9
    )
    assert (
        convert.from_tigre(
            120.0,
            180.0,
            **{key: value for key, value in given.items() if key != "dVoxel"},
            sVoxel=(20.0, 28.0),
        )
        == geometry
    )


TIGRE = {
    "DSO": 120.0,
    "DSD": 180.0,
    "nVoxel": 8,
    "sVoxel": 8.0,
    "nDetector": 30,
    "dDetector": 1.0,
    "angles": [0.0, 1.0],
}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"mode": "fan"}, InputError, "mode must be 'cone' or 'parallel', got 'fan'"),
        ({"dVoxel": np.array([1.0, 1.0])}, InputTypeError, "give one of sVoxel.*got both"),
        ({"sVoxel": None}, InputTypeError, "got neither"),
        ({"DSD": 100.0}, InputError, "expected 0 < DSO <= DSD"),
        ({"DSO": math.nan}, InputError, "expected 0 < DSO <= DSD"),
        ({"sVoxel": (8.0, 9.0)}, InputError, "voxels must be square"),
        ({"sVoxel": -8.0}, InputError, "lengths > 0"),
        ({"nVoxel": (8, 8, 8)}, InputError, r"nVoxel must be a number or \(y, x\) of the slice"),
        ({"nVoxel": 8.5}, InputError, "nVoxel must be an integer"),
        ({"nDetector": 0}, InputError, "nDetector must be an integer >= 1, got 0"),
        ({"dDetector": 0.0}, InputError, "spacing must be a length > 0"),
        ({"angles": ()}, InputError, "non-empty"),
        ({"angles": ["x"]}, InputTypeError, "angles must be a sequence of real numbers"),
        ({"angles": np.zeros((4, 3))}, InputError, "one-dimensional"),
        ({"angles": [0.0, 90.0, 180.0]}, InputError, "cannot be radians"),
    ],
)
def test_tigre_refuses(change, error, words):
    with pytest.raises(error, match=words):
        convert.from_tigre(**(TIGRE | change))
