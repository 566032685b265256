"""Weak lensing: units, spectra, generated maps, Kaiser-Squires, Wiener, reduced shear, the
operator, and how maps are judged.
"""

import math
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lenspack.image.inversion import ks93

from pnp_mlpatch import denoisers, e_mode, reconstruct, samples, solvers
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.lensing import estimators, fields, spectra, units, wiener
from pnp_mlpatch.lensing import statistics as judging
from pnp_mlpatch.lensing.fields import PIXEL, lognormal_convergence
from pnp_mlpatch.linalg import pcg
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import random_mask
from pnp_mlpatch.solvers import make_problem


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def white(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=rng(seed), dtype=dtype)


def noise_map(shape, seed=0, keep=0.7, decades=2.0):
    """Noise over so many decades, infinite where nothing is seen."""
    noise = 10 ** (decades * torch.rand(shape, generator=rng(seed), dtype=torch.float64) - decades)
    return torch.where(random_mask(shape, keep=keep, seed=seed) > 0, noise, torch.inf)


# ---- units


class Quantity:
    """As astropy's: in degrees."""

    def __init__(self, value, unit="deg"):
        self.value, self.unit = value, unit

    def to_value(self, unit):
        if self.unit != "deg":
            raise ValueError(f"'{self.unit}' and '{unit}' are not convertible")
        return math.radians(self.value)


@pytest.mark.parametrize(
    "angle",
    [
        "0.3 arcmin",
        "18 arcsec",
        "0.005 deg",
        f"{math.radians(0.005)!r} rad",
        " 3e-1arcmin ",
        Quantity(0.005),
    ],
)
def test_angles_have_units(angle):
    assert units.arcmin(angle) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("angle", "words"),
    [
        (0.3, "pixel: give an angle with its unit, as '0.29 arcmin'.*got 0.3"),
        (None, "give an angle with its unit"),
        ("0.3", "give an angle with its unit.*got '0.3'"),
        ("0.3 pc", "deg, arcmin, arcsec"),
        ("-1 arcmin", "must be positive and below 180 degrees"),
        ("200 deg", "below 180 degrees"),
        ("nan deg", "give an angle with its unit"),
        ("1e999 deg", "give an angle with its unit"),
        (Quantity(1, "m"), "not convertible"),
    ],
)
def test_angles_that_are_none(angle, words):
    with pytest.raises(PnPError, match=words):
        units.radians(angle)


def test_noise_of_a_pixel():
    assert units.pixel_noise(30, "0.293 arcmin") == pytest.approx(0.162, abs=5e-4)
    density = torch.tensor([[30.0, 0.0, 120.0]])
    found = units.pixel_noise(density, "0.293 arcmin")
    assert found[0, 0] == pytest.approx(2 * float(found[0, 2]))
    assert found[0, 1] == torch.inf
    assert torch.equal(units.pixel_noise(density.long(), "0.293 arcmin"), found)
    for bad in (
        0,
        -1,
        math.nan,
        torch.zeros(2, 2),
        torch.tensor([-1.0, 2.0]),
        torch.tensor([math.nan]),
    ):
        with pytest.raises(InputError, match="pixel_noise: n_gal must be"):
            units.pixel_noise(bad, "1 arcmin")
    with pytest.raises(InputError, match="shape_noise must be > 0"):
        units.pixel_noise(30, "1 arcmin", 0.0)


# ---- spectra


def test_spectrum_of_white_noise():
    x = white(20, 128, 96)
    for taper in (False, True):
        ell, C = spectra.power_spectrum(x, "1 arcmin", taper=taper, edges=(200, 1000, 4000, 10_000))
        np.testing.assert_allclose(C / units.radians("1 arcmin") ** 2, 1, rtol=0.1)
        assert bool(
            (
                (ell[1:] > torch.tensor([1000, 4000])) & (ell[1:] < torch.tensor([4000, 10_000]))
            ).all()
        )
    mask = torch.rand(128, 96, generator=rng()) > 0.3
    np.testing.assert_allclose(
        spectra.power_spectrum(x, "1 arcmin", mask=mask, edges=(1000, 5000))[1]
        / units.radians("1 arcmin") ** 2,
        1,
        rtol=0.1,
    )
    cross = spectra.power_spectrum(
        x, "1 arcmin", other=2 * x + white(20, 128, 96, seed=1), edges=(1000, 5000)
    )[1]
    np.testing.assert_allclose(cross / units.radians("1 arcmin") ** 2, 2, rtol=0.1)


def test_spectra_from_tables():
    ell = np.geomspace(10, 1e5, 80)
    fit = spectra.convergence_spectrum(torch.from_numpy(ell))
    table = spectra.tabulated(ell, fit)
    at = torch.tensor([20.0, 333.0, 5000.0, 7e4], dtype=torch.float64)
    np.testing.assert_allclose(table(at), spectra.convergence_spectrum(at), rtol=2e-3)
    assert float(table(torch.zeros(1))) == 0
    assert float(spectra.tabulated([1, 2], [1.0, 0.5])(torch.tensor(8.0))) == pytest.approx(
        1 / 8
    )  # the last slope goes on
    for bad in (
        ([1, 2], [1]),
        ([1], [1]),
        ([2, 1], [1, 1]),
        ([0, 1], [1, 1]),
        ([1, 2], [1, -1]),
        ([1, 2], [math.nan, 1]),
    ):
        with pytest.raises(InputError, match="tabulated: ell must rise"):
            spectra.tabulated(*bad)


def test_spectra_refuse():
    x = white(8, 8)
    for call, words in (
        (lambda: spectra.power_spectrum(x.long(), PIXEL), "expected maps"),
        (lambda: spectra.power_spectrum(x, PIXEL, other=x[1:]), "both maps must have one shape"),
        (lambda: spectra.power_spectrum(x, PIXEL, mask=x[1:]), "mask must have the shape"),
        (lambda: spectra.power_spectrum(x, PIXEL, mask=0 * x), "not be all zero"),
        (lambda: spectra.power_spectrum(x, PIXEL, edges=(3, 2)), "rising values of l"),
        (lambda: spectra.power_spectrum(x, 0.3), "give an angle with its unit"),
        (lambda: spectra.power(torch.ones(2), lambda ell: -ell, PIXEL), "finite and >= 0"),
    ):
        with pytest.raises(PnPError, match=words):
            call()


# ---- generated maps


@pytest.mark.parametrize(
    ("pixel", "bins", "count"),
    [("1.2 arcmin", slice(0, 9), 60), ("0.293 arcmin", slice(8, 16), 12)],
)
def test_generated_maps_have_their_spectrum(pixel, bins, count):
    """Within 10 % in each of 16 bins from l = 300 to 20000; the lower half on wide maps, 9 degrees,
    which have enough modes.
    """
    maps = lognormal_convergence((448, 448), pixel, seed=0, count=count)
    modes = spectra.wavenumbers((448, 448), pixel).flatten().numpy()
    which = np.digitize(modes, spectra.EDGES) - 1
    target = torch.stack(
        [
            spectra.convergence_spectrum(torch.from_numpy(modes[which == k])).mean()
            for k in range(16)
        ]
    )
    C = spectra.power_spectrum(maps, pixel)[1]
    np.testing.assert_allclose((C / target)[bins], 1, atol=0.1)
    assert abs(float(maps.mean())) < 1e-3


def test_generated_maps_look_like_a_simulated_one():
    """Skewness and peaks of kappaTNG lie within the spread of training maps (3 to 97 %), and so
    does its rms.
    """
    truth, _, _ = samples.lensing()
    found = [fields.random_convergence(360, np.random.default_rng(k))[0] for k in range(60)]
    described = [judging.describe_map(m[None], PIXEL) for m in (truth, *found)]
    for name in ("rms", "skewness"):
        values = [d[name] for d in described]
        assert np.quantile(values[1:], 0.03) < values[0] < np.quantile(values[1:], 0.97), name
    for level in ("0.1", "0.15"):
        counts = [d["peaks"][level] for d in described]
        assert np.quantile(counts[1:], 0.03) <= counts[0] <= np.quantile(counts[1:], 0.97), level


def test_generated_maps_follow_from_the_seed():
    one = lognormal_convergence((12, 17), seed=5, count=2)
    assert one.shape == (2, 1, 12, 17)
    assert one.dtype == torch.float32
    assert torch.equal(one, lognormal_convergence((12, 17), seed=5, count=2))
    assert torch.equal(one[:1], lognormal_convergence((12, 17), seed=5))
    assert not torch.equal(one, lognormal_convergence((12, 17), seed=6, count=2))
    assert torch.allclose(lognormal_convergence((12, 17), seed=5, amplitude=1.5), 1.5 * one[:1])
    assert (
        float(lognormal_convergence((64, 64), seed=5, shift=0.02).min()) > -0.02
    )  # no line of sight is emptier than empty
    again = [fields.random_convergence(32, np.random.default_rng(3)) for _ in range(2)]
    assert torch.equal(*again)
    assert again[0].shape == (1, 32, 32)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shape": (0, 4)}, r"shape must be \(H, W\) and count >= 1"),
        ({"count": 0}, "count >= 1"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"shift": 0.0}, "shift must be > 0"),
        ({"amplitude": -1}, "amplitude must be > 0"),
        ({"pixel": 0.3}, "give an angle with its unit"),
        ({"spectrum": lambda ell: ell * math.nan}, "spectrum: must be finite"),
        (
            {
                "spectrum": lambda ell: 1e-6 * torch.exp(-(((ell - 3000) / 300) ** 2)),
                "shape": (64, 64),
            },
            "no log-normal field of shift",
        ),
    ],
)
def test_generator_refuses(settings, words):
    with pytest.raises(PnPError, match=words):
        lognormal_convergence(**{"shape": (16, 16), "seed": 0, **settings})


# ---- estimators


@pytest.mark.parametrize("shape", [(32, 32), (31, 31), (24, 33), (7, 1), (1, 1)])
@pytest.mark.parametrize("flip_ra", [False, True])
def test_kaiser_squires_inverts_shear(shape, flip_ra):
    """E and B come back, odd and even, but for their means."""
    kappa = white(2, 2, *shape)
    back = estimators.kaiser_squires(estimators.shear_of(kappa, flip_ra=flip_ra), flip_ra=flip_ra)
    assert (back - (kappa - kappa.mean(dim=(-2, -1), keepdim=True))).abs().max() < 1e-12
    single = kappa.float()
    back = estimators.kaiser_squires(estimators.shear_of(single, flip_ra=flip_ra), flip_ra=flip_ra)
    expected = single - single.mean(dim=(-2, -1), keepdim=True)
    assert (back - expected).norm() <= 1e-6 * single.norm()


@pytest.mark.parametrize("shape", [(33, 33), (31, 45)])
def test_kaiser_squires_agrees_with_lenspack(shape):
    gamma = white(1, 2, *shape)
    E, B = ks93(*gamma[0].numpy())
    found = estimators.kaiser_squires(gamma)[0]
    assert np.abs(found[0].numpy() - E).max() < 1e-6
    assert np.abs(found[1].numpy() - B).max() < 1e-6


def test_a_mass_has_tangential_shear_and_flip_ra_turns_gamma_2():
    kappa = torch.zeros(1, 1, 33, 33)
    kappa[..., 16, 16] = 1
    gamma1, gamma2 = estimators.shear_of(kappa)[0]
    assert gamma1[16, 20] < 0 < gamma1[20, 16]
    assert gamma2[20, 20] < 0 < gamma2[20, 12]
    flipped1, flipped2 = estimators.shear_of(kappa, flip_ra=True)[0]
    assert torch.allclose(flipped1, gamma1, atol=1e-6)
    assert torch.allclose(flipped2, -gamma2, atol=1e-6)


def test_the_wrong_sign_of_gamma_2_moves_power_from_e_to_b():
    kappa = lognormal_convergence((96, 96), seed=1)
    gamma = estimators.shear_of(kappa - kappa.mean())
    right, wrong = (
        estimators.kaiser_squires(gamma, flip_ra=flip)[0].square().mean(dim=(-2, -1)).sqrt()
        for flip in (False, True)
    )
    assert right[1] < 1e-4 * right[0]
    assert wrong[1] > 0.5 * right[0]


def test_wiener_is_the_dense_solution():
    shape, pixel = (12, 15), "0.5 arcmin"
    noise = noise_map(shape, decades=1.0)
    gamma = torch.where(torch.isfinite(noise), white(1, 2, *shape) * 0.1, 0.0)
    E = wiener(gamma, noise, spectra.convergence_spectrum, pixel, tol=1e-10)
    n = shape[0] * shape[1]
    eye = torch.eye(n, dtype=torch.float64).reshape(n, 1, *shape)
    A = estimators.shear_of(eye).reshape(n, -1).T
    root = spectra.power(
        spectra.wavenumbers(shape, pixel), spectra.convergence_spectrum, pixel
    ).sqrt()
    C = torch.fft.ifft2(root**2 * torch.fft.fft2(eye)).real.reshape(n, n)
    w = estimators.weights(noise).flatten().repeat(2)
    posterior = C - C @ A.T @ torch.linalg.solve(
        torch.diag(1 / w.clamp_min(1e-9)) + A @ C @ A.T, A @ C
    )
    expected = posterior @ A.T @ (w * gamma.flatten())
    assert (E.flatten() - expected).norm() < 1e-6 * expected.norm()


def test_wiener_beats_the_best_smoothing():
    truth, noise, pixel = samples.lensing()
    seen = torch.isfinite(noise)
    truth = truth - truth.mean()
    gamma = estimators.shear_of(truth[None, None])
    gamma = torch.where(
        seen, gamma + torch.where(seen, noise, 0.0) * white(*gamma.shape, dtype=torch.float32), 0.0
    )
    ks = estimators.kaiser_squires(gamma)
    score = lambda x: judging.judge(x[0], truth, pixel, seen)["nrmse"]  # noqa: E731
    width = estimators.optimal_width(noise, spectra.convergence_spectrum, pixel)
    automatic = score(estimators.smoothed(ks, width, pixel))
    best = min(
        score(estimators.smoothed(ks, f"{w:.2f} arcmin", pixel)) for w in np.arange(0.5, 3, 0.25)
    )
    assert (
        score(wiener(gamma, noise, spectra.convergence_spectrum, pixel))
        < best
        <= automatic
        < 1.03 * best
    )


def test_reduced_shear_needs_three_passes():
    """kappa from g by gamma = g (1 - kappa), starting from gamma = g: errors fall fourfold a pass
    or more, of a map with clusters.
    """
    truth = samples.lensing()[0].double()[None, None]
    truth = truth - truth.mean()
    g = estimators.reduced(estimators.shear_of(truth), truth)
    gamma, errors = g, []
    for _ in range(3):
        kappa = estimators.kaiser_squires(gamma)
        errors.append(float((kappa[:, :1] - truth).norm() / truth.norm()))
        gamma = estimators.from_reduced(g, kappa)
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    with pytest.raises(InputError, match="below 1 everywhere"):
        estimators.reduced(g, truth + 1)


def test_estimators_refuse():
    gamma, noise = white(1, 2, 8, 8), torch.ones(8, 8, dtype=torch.float64)
    for call, words in (
        (
            lambda: estimators.kaiser_squires(gamma[0]),
            r"expected maps \(B, 2, H, W\), got \(2, 8, 8\)",
        ),
        (lambda: estimators.kaiser_squires(gamma[:, :1]), "expected maps"),
        (lambda: estimators.kaiser_squires(gamma.numpy()), "float32 or float64"),
        (lambda: estimators.kaiser_squires(gamma / 0), "NaN or infinite"),
        (lambda: estimators.shear_of(gamma.repeat(1, 2, 1, 1)), "expected maps"),
        (
            lambda: wiener(gamma, noise[1:], spectra.convergence_spectrum, PIXEL),
            "the noise map must be",
        ),
        (
            lambda: wiener(gamma, 0 * noise, spectra.convergence_spectrum, PIXEL),
            "64 pixels are NaN or not > 0",
        ),
        (
            lambda: wiener(gamma, noise / 0, spectra.convergence_spectrum, PIXEL),
            "0 of 64 are measured",
        ),
        (
            lambda: wiener(
                gamma, 1e-3 * noise, spectra.convergence_spectrum, PIXEL, max_iter=1, tol=1e-9
            ),
            "after 1 steps",
        ),
        (lambda: estimators.weights(3.0), "expected a floating tensor"),
    ):
        with pytest.raises(PnPError, match=words):
            call()


# ---- the operator


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("flip_ra", [False, True])
def test_data_step_is_the_dense_solution(padding, flip_ra):
    """24 x 24, a random mask, noise over two decades: to 1e-10 in float64, and conjugate gradients
    come to the same.
    """
    noise = noise_map((24, 24))
    side = 24 + 2 * padding
    A = Lensing(image_shape=(2, side, side), padding=padding, flip_ra=flip_ra)
    q = torch.where(torch.isfinite(noise), white(1, 2, 24, 24), 0.0)
    problem = make_problem(q, A, noise)
    z, alpha = white(1, *A.image_shape, seed=2), 3.0
    h = problem.A.data_step(z, alpha, Aty=problem.Aty)[0]
    n = math.prod(A.image_shape)
    M = (
        torch.cat(
            [
                problem.A(row)
                for row in torch.eye(n, dtype=torch.float64).reshape(-1, 1, *A.image_shape)
            ]
        )
        .reshape(n, -1)
        .T
    )
    expected = torch.linalg.solve(
        M.T @ M + alpha * torch.eye(n, dtype=torch.float64), (problem.Aty + alpha * z).flatten()
    )
    assert (h.flatten() - expected).abs().max() < 1e-10 * max(1.0, float(expected.abs().max()))
    generic, _ = pcg(
        lambda x: problem.A.normal(x) + alpha * x,
        problem.Aty + alpha * z,
        z,
        tol=1e-12,
        max_iter=2000,
    )
    assert (generic - h).norm() < 1e-8 * h.norm()


def test_noise_that_differs_between_the_components_is_preconditioned():
    """Two decades of noise, by a quarter different between the components."""
    noise = noise_map((40, 44))
    noise = torch.stack(
        [noise, noise * 10 ** (0.1 * torch.rand(40, 44, generator=rng(9), dtype=torch.float64))]
    )
    A = Lensing(image_shape=(2, 44, 48), padding=2)
    problem = make_problem(torch.where(torch.isfinite(noise), white(1, 2, 40, 44), 0.0), A, noise)
    z = white(1, *A.image_shape)
    h, info = problem.A.data_step(z, 1.0, Aty=problem.Aty, tol=1e-6)
    residual = problem.A.normal(h) + h - problem.Aty - z
    assert residual.norm() < 1e-5 * (problem.Aty + z).norm()
    assert info.iterations <= 10
    problem.A._precondition = lambda alpha: None
    _, info = problem.A.data_step(z, 1.0, Aty=problem.Aty, tol=1e-6)
    assert info.iterations == 100  # and not there yet
    assert float(info.residual) > 1e-6


@pytest.mark.parametrize(
    "solver",
    [
        ("admm", {"sigma": 0.1}),
        ("pgd", {"white": True, "tau": 0.1}),
        ("split_gibbs", {"sigma": 0.1}),
    ],
)
def test_unseen_pixels_have_no_influence(solver):
    """What stands in masked pixels, 1e6 or NaN, changes no bit of the map."""
    noise = noise_map((40, 36), decades=0.5)
    q = 0.1 * white(1, 2, 40, 36, dtype=torch.float32)
    D = e_mode(denoisers.make("mlpatch", weights="mlpatch-kappa"))
    found = []
    for value in (0.0, 1e6, math.nan):
        there = torch.where(torch.isfinite(noise), q, value)
        settings = {"iterations": 4, "progress": False, **solver[1]}
        found.append(
            reconstruct(
                there,
                Lensing(image_shape=(2, 40, 36)),
                D,
                solver[0],
                noise=noise.float(),
                **settings,
            ).x
        )
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    masked = Lensing(weight=torch.isfinite(noise).double())
    by_weight = [
        reconstruct(
            torch.where(torch.isfinite(noise), q, v), masked, D, solver[0], noise=0.2, **settings
        ).x
        for v in (0.0, 1e6)
    ]
    assert torch.equal(*by_weight)


def test_operator_knows_its_noise_and_its_cut():
    A = Lensing(weight=torch.tensor([[1.0, 0.0], [1.0, 1.0]]), pixel="0.293 arcmin", padding=1)
    assert A.image_shape == (2, 4, 4)
    assert A.noise(30)[0, 1] == torch.inf
    assert float(A.noise(30)[0, 0]) == pytest.approx(0.162, abs=1e-3)
    assert torch.equal(A.noise(torch.full((2, 2), 30.0)), A.noise(30))
    assert A.cut(torch.arange(16).reshape(4, 4)).tolist() == [[5, 6], [9, 10]]
    for call, words in (
        (lambda: A.noise(torch.ones(3, 3)), r"a number or a map \(2, 2\)"),
        (lambda: Lensing(image_shape=(2, 2, 2)).noise(30), "Make the operator with pixel="),
        (lambda: Lensing(image_shape=(2, 2, 2), padding=-1), "padding must be an integer >= 0"),
        (lambda: Lensing(image_shape=(2, 2, 2), padding=1.5), "padding must be an integer >= 0"),
        (
            lambda: Lensing(image_shape=(2, 2, 2), pixel=0.3),
            "Lensing: pixel: give an angle with its unit",
        ),
    ):
        with pytest.raises(PnPError, match=words):
            call()


def test_operators_are_copied_after_a_data_step():
    A = Lensing(weight=torch.rand(6, 7, generator=rng()) + 0.1)
    z = white(1, 2, 6, 7)
    h = A.data_step(z, 0.3, Aty=A.adjoint(z))[0]
    again = pickle.loads(pickle.dumps(A))
    assert torch.equal(again.data_step(z, 0.3, Aty=A.adjoint(z))[0], h)
    with torch.no_grad():
        A.weight *= 2
    assert torch.allclose(
        A.data_step(z, 0.3, Aty=A.adjoint(z))[0],
        Lensing(weight=A.weight).data_step(z, 0.3, Aty=A.adjoint(z))[0],
    )
    assert not torch.allclose(
        A.data_step(z, 0.4, Aty=A.adjoint(z))[0], A.data_step(z, 0.3, Aty=A.adjoint(z))[0]
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_adjoint_of_any_field(height, width, padding, flip_ra, seed):
    weight = torch.rand(height, width, generator=rng(seed)) + 0.1
    A = Lensing(weight=weight, padding=padding, flip_ra=flip_ra)
    x, y = white(1, *A.image_shape, seed=seed), white(1, *A.data_shape, seed=seed + 1)
    assert abs(float((A(x) * y).sum() - (x * A.adjoint(y)).sum())) < 1e-12 * float(
        x.norm() * y.norm()
    )


# ---- white steps of PGD


def test_white_step_carries_white_noise():
    """tau A^H s^-1 n has the standard deviation tau everywhere, whatever the noise map."""
    noise = noise_map((32, 32), keep=1.0, decades=1.0)
    A, kappa = Lensing(image_shape=(2, 32, 32)), torch.zeros(400, 2, 32, 32, dtype=torch.float64)
    q = noise * white(400, 2, 32, 32)
    tau = float(noise.min())
    seen = []

    def D(x, sigma):
        seen.append((x, sigma))
        return x

    reconstruct(q, A, D, "pgd", noise=noise, white=True, x0=kappa, iterations=1, progress=False)
    x, sigma = seen[0][0], float(torch.as_tensor(seen[0][1]).mean())  # the same for all images
    assert sigma == pytest.approx(tau, rel=0.05)
    std = x.std(dim=0)
    assert float((std / sigma - 1).abs().max()) < 0.2
    assert float(std.mean() / sigma) == pytest.approx(1, abs=0.02)
    number = reconstruct(
        q[:2], A, D, "pgd", noise=0.5, white=True, x0=kappa[:2], iterations=1, progress=False
    ).x
    assert torch.allclose(
        number, estimators.kaiser_squires(q[:2]), rtol=2e-3
    )  # tau = noise: one step is Kaiser-Squires


def test_white_needs_noise():
    A = Lensing(image_shape=(2, 8, 8))
    with pytest.raises(InputError, match="noise level of the data is needed"):
        reconstruct(white(1, 2, 8, 8), A, lambda x, s: x, solvers.make("pgd", white=True))
    with pytest.raises(InputTypeError, match="white must be True or False"):
        reconstruct(white(1, 2, 8, 8), A, lambda x, s: x, "pgd", white=1)


# ---- judging


def test_judging_the_truth_and_zero():
    truth, noise, pixel = samples.lensing()
    seen = torch.isfinite(noise)
    perfect = judging.judge(truth + 3, truth, pixel, seen)
    assert perfect["nrmse"] < 1e-4
    assert perfect["pearson"] == pytest.approx(1)
    assert perfect["peaks"] == perfect["true peaks"]
    assert set(perfect["peaks error"].values()) == {0}
    np.testing.assert_allclose([v for v in perfect["ratio"] if v is not None], 1, atol=1e-3)
    np.testing.assert_allclose([v for v in perfect["r"] if v is not None], 1, atol=1e-3)
    assert perfect["pdf distance"] < 1e-4
    nothing = judging.judge(torch.zeros_like(truth), truth, pixel, seen)
    assert nothing["nrmse"] == pytest.approx(1)
    assert nothing["psnr"] == pytest.approx(nothing["psnr of zero"])
    double = judging.judge(torch.stack([2 * truth, 0.1 * truth]), truth, pixel)
    np.testing.assert_allclose([v for v in double["ratio"] if v is not None], 4, rtol=1e-3)
    assert double["B rms"] == pytest.approx(0.1 * float(truth.std()), rel=1e-3)


def test_peaks():
    x = torch.zeros(7, 9)
    x[2, 3], x[4, 6], x[0, 0], x[5, 1], x[5, 2] = (
        0.2,
        0.3,
        9.0,
        0.5,
        0.5,
    )  # a border, and a plateau, are no peaks
    assert judging.peaks(x, 0.1).tolist() == [[4, 6], [2, 3]]
    assert judging.peaks(x, 0.25).tolist() == [[4, 6]]
    mask = torch.ones(7, 9)
    mask[4, 6] = 0
    assert judging.peaks(x, 0.1, mask).tolist() == [[2, 3]]
    assert judging.peaks(torch.ones(1, 5), 0.1).tolist() == []


def test_judging_refuses():
    x = torch.zeros(8, 8)
    with pytest.raises(InputError, match="judge: expected a map"):
        judging.judge(x, x[1:], PIXEL)
    with pytest.raises(InputError, match="mask: must have the shape"):
        judging.judge(x, x, PIXEL, x[1:])
    with pytest.raises(InputError, match="not be all zero"):
        judging.describe_map(x[None], PIXEL, x)


def test_lensing_keeps_nothing_between_calls():
    """Each thread gets the step of its own alpha, and a step costs no more state than the operator
    has.
    """
    A = Lensing(image_shape=(2, 16, 16))
    z, before = white(1, 2, 16, 16), {**vars(A)}
    want = [A.data_step(z, 10.0**-k, Aty=z)[0] for k in range(8)]
    assert vars(A).keys() == before.keys()
    assert all(vars(A)[key] is value for key, value in before.items())

    def wrong(k):
        return sum(not torch.equal(A.data_step(z, 10.0**-k, Aty=z)[0], want[k]) for _ in range(60))

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(wrong, range(8))) == 0
    finally:
        sys.setswitchinterval(switch)
