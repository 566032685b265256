"""Nothing to choose: the level of the denoiser by data held out, the noise from the data, and what was chosen in the result."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from pnp_mlpatch import denoisers, e_mode, reconstruct, samples, solvers
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.loss import CHANCE, Loss, stacked, toward
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.noise import noise_level
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.operators.stack import Stack
from pnp_mlpatch.solvers import Result, make_problem
from pnp_mlpatch.tuning import auto, sure

SIZE = 40
TV = denoisers.make("tv", iterations=15)


@pytest.fixture(scope="module")
def photo():
    return F.interpolate(samples.camera(), size=(SIZE, SIZE), mode="area")


def white(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MAKE = {
    "mask": lambda: Mask(random_mask((SIZE, SIZE), keep=0.4)),
    "blur": lambda: Blur(gaussian_psf(1.2), (1, SIZE, SIZE)),
    "radon": lambda: Radon(image_shape=(1, SIZE, SIZE), angles=30, cache=False),
    "identity": lambda: Identity((1, SIZE, SIZE)),
}
NOISE = {"mask": 0.04, "blur": 0.02, "radon": 0.3, "identity": 0.1}


@pytest.mark.parametrize("name", MAKE)
def test_it_is_near_the_best_of_a_sweep_with_the_truth(name, photo):
    A, noise, D = MAKE[name](), NOISE[name], TV
    clean = A(photo)
    q = clean + noise * white(*clean.shape) * (clean != 0)
    result = reconstruct(q, A, D, noise=noise)
    best = max(
        float(
            psnr(
                reconstruct(q, A, D, noise=noise, sigma=sigma, alpha=f * (noise / sigma) ** 2).x,
                photo,
            )
        )
        for sigma in (4 / 255, 10 / 255, 25 / 255, 60 / 255)
        for f in (0.25, 1.0)
    )
    assert float(psnr(result.x, photo)) > best - 0.8
    assert result.status == "stopped"
    found = result.tuned
    assert not found.estimated
    assert found.noise == noise
    K, sigma, factor = (
        int(found.settings["iterations"]),
        found.settings["sigma"],
        float(found.settings["alpha_scale"]),
    )
    held = name == "mask"  # with all of an image measured nothing is held out
    assert result.state.iteration == (K - K // 2 if held and sigma.ndim == 1 else K), (
        "the first half of a constant level is of the parts"
    )
    last = float(sigma.flatten()[-1])
    assert last == pytest.approx(result.history["sigma"][-1])
    assert result.history["alpha"][-1] == pytest.approx(factor * (noise / last) ** 2, rel=1e-5)
    assert set(map(len, found.tried.values())) == {len(found.tried["error"])}
    assert A.closed_form == (name != "radon")
    of = "image" if A.closed_form else "data"
    assert (
        "without some of the data (3 x 10%)"
        if held
        else f"on all of the data; as SURE of the {of} with 3 random changes tells"
    ) in str(found)
    if not held:
        last = {
            "sigma": sigma[:, 0].tolist() if sigma.ndim == 2 else float(sigma),
            "alpha_scale": factor,
            "iterations": K,
            "tol": 0.0,
        }
        assert torch.allclose(
            reconstruct(q, A, D, noise=noise, **last).x, result.state.x, atol=1e-4
        ), "the estimate that was judged"
    assert "noise given" in str(found)


@pytest.mark.parametrize("name", ["mask", "identity", "nothing held out"])
def test_the_error_that_is_expected_is_the_one_that_is_made(name, monkeypatch):
    """A linear denoiser, so that all is linear: 1 + |x - truth|^2 / noise^2 over all pixels, of those that were shown and those that were not."""
    monkeypatch.setattr("pnp_mlpatch.judging.RACE", 1e9)  # all ways are followed to their end
    monkeypatch.setattr("pnp_mlpatch.judging.LONG", 1)
    size, noise = 64, 0.1
    A = Mask(random_mask((size, size), keep=0.4)) if name == "mask" else Identity((1, size, size))
    truth = F.interpolate(samples.camera(), size=(size, size), mode="area")
    q = A(truth) + noise * white(*truth.shape) * (A(torch.ones_like(truth)) != 0)
    k = sum(
        (2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(size))).reshape(shape)
        for shape in ((-1, 1), (1, -1))
    )

    def smooth(x, sigma):
        return torch.fft.ifft2(
            torch.fft.fft2(x) / (1 + 10 * float(torch.as_tensor(sigma).max()) * k)
        ).real

    result = auto(
        q,
        A,
        smooth,
        solvers.make("admm"),
        noise=noise,
        folds=None if name == "nothing held out" else 10,
    )
    tried, made, told = result.tuned.tried, [], []
    for row in range(
        39, 100, 20
    ):  # the ends of four constant levels, after that of the one that rises
        sigma = float(tried["sigma"][row, 0])
        x = reconstruct(q, A, smooth, noise=noise, sigma=sigma, iterations=20, tol=0.0).x
        made.append(float((x - truth).square().mean()) / noise**2)
        told.append(float(tried["error"][row, 0]) - 1)
    assert len(made) == 4
    for e, t in zip(made, told, strict=True):
        assert t == pytest.approx(e, rel=0.25), (made, told)


@pytest.mark.parametrize("known", [True, False])
def test_the_estimate_is_the_mean_of_the_ways_whose_error_is_least(known, photo, monkeypatch):
    for module in (
        "loss",
        "judging",
    ):  # of all means of what is best of each way, not of what is as good to within chance
        monkeypatch.setattr(f"pnp_mlpatch.{module}.CHANCE", 0.0)
    A, noise = MAKE["blur"](), 0.01
    q = A(photo) + noise * white(*photo.shape)
    result = reconstruct(q, A, TV, noise=noise if known else None)
    level = float(result.tuned.noise)
    tried = {
        name: column.reshape(len(column), -1)[:, 0] for name, column in result.tuned.tried.items()
    }
    starts = [*(tried["iteration"] == 1).nonzero()[:, 0].tolist(), len(tried["iteration"])]
    ways = [begin + int(tried["error"][begin:end].argmin()) for begin, end in pairwise(starts)]
    assert set(tried["share"].nonzero()[:, 0].tolist()) <= set(ways), (
        "of each way the best estimate has a part, or none"
    )
    assert float(tried["share"].sum()) == pytest.approx(1)
    count = int((tried["share"] > 0).sum())
    assert count > 1
    assert (
        f"a constant level is best, with {int(result.tuned.settings['iterations'])} iterations"
        in str(result.tuned)
    )
    assert f"a mean of {count} of them" in str(result.tuned)

    def way(begin, row):
        sigma = tried["sigma"][begin : row + 1].float()
        sigma = float(sigma[0]) if bool((sigma == sigma[0]).all()) else sigma[:, None]
        settings = {
            "sigma": sigma,
            "alpha_scale": float(tried["factor"][row]),
            "iterations": int(tried["iteration"][row]),
            "tol": 0.0,
        }
        return lambda data: reconstruct(data, A, TV, noise=level, **settings).x

    estimates = {row: way(begin, row) for begin, row in zip(starts, ways, strict=False)}
    taken = [
        (float(tried["share"][row]), estimates[row]) for row in ways if tried["share"][row] > 0
    ]
    torch.testing.assert_close(
        sum(w * estimate(q) for w, estimate in taken), result.x, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        estimates[int(tried["error"].argmin())](q), result.state.x, atol=1e-4, rtol=0
    )
    judge = {
        "noise": level if known else level * float(tried["error"].min()) ** 0.5,
        "level": 2 * float(A.initial(q).std()),
        "probes": 3,
    }
    mean = float(sure(q, A, lambda data: sum(w * estimate(data) for w, estimate in taken), **judge))
    assert all(mean <= float(sure(q, A, estimate, **judge)) + 1e-3 for _, estimate in taken)


@pytest.mark.parametrize("name", ["blur", "radon"])
def test_of_iterations_that_the_data_do_not_tell_apart_the_last_is_taken(name, photo):
    """Of each way: its error is above the least by no more than the standard error of that, and those of all later ones are by more."""
    A, noise = MAKE[name](), 2 * NOISE[name]
    q = A(photo) + noise * white(*A(photo).shape)
    result = reconstruct(q, A, TV, noise=noise)
    tried = {
        name: column.reshape(len(column), -1)[:, 0] for name, column in result.tuned.tried.items()
    }
    loss = loss_of(A, q, noise, 2 * float(A.initial(q).std()) if A.closed_form else None)
    size = float(loss.size([noise * white(*q.shape, seed=s) for s in range(60)])[0])
    starts, later = (
        [*(tried["iteration"] == 1).nonzero()[:, 0].tolist(), len(tried["iteration"])],
        0,
    )
    for begin, end in pairwise(starts):
        error, sigma = tried["error"][begin:end], tried["sigma"][begin:end].float()
        if not bool(torch.isfinite(error).all()) or not float(tried["share"][begin:end].sum()):
            continue
        settings = {
            "sigma": sigma[:, None],
            "alpha_scale": float(tried["factor"][begin]),
            "iterations": end - begin,
            "tol": 0.0,
        }
        fits = []
        reconstruct(
            q,
            A,
            TV,
            noise=noise,
            callbacks=[lambda state, fits=fits: fits.append(loss.see(A(state.x)))],
            **settings,
        )
        apart = (
            torch.stack([loss.deviation(fit - fits[int(error.argmin())])[0] for fit in fits]) / size
        )
        row, worse = int(tried["share"][begin:end].argmax()), error - error.min()
        assert float(worse[row]) <= 1.03 * float(apart[row])
        assert bool((worse[row + 1 :] > 0.97 * apart[row + 1 :]).all())
        later += row > int(error.argmin())
    assert later > 0 or name == "radon", "some way where that is not the one of least error"
    best = int(tried["error"].argmin())
    begin = max(start for start in starts[:-1] if start <= best)
    assert float(tried["factor"][best]) == float(result.tuned.settings["alpha_scale"]), (
        "of the way that has the least error"
    )
    row = begin + int(result.tuned.settings["iterations"]) - 1
    assert row >= best
    assert float(tried["sigma"][row]) == pytest.approx(
        float(result.tuned.settings["sigma"].reshape(-1)[-1])
    )


def test_means_of_which_the_error_is_least():
    """Against all means of three estimates, in steps of a hundredth; with one that is twice there, and one that is best alone."""
    generator = torch.Generator().manual_seed(1)
    residuals = (
        torch.randn(3, 50, generator=generator).double()
        + torch.randn(50, generator=generator).double()
    )
    products, moved = residuals @ residuals.T / 50, torch.tensor([0.3, 0.1, 0.2]).double()

    def error(w):
        return (w @ products @ w + 2 * w @ moved).item()

    steps = torch.arange(0, 101).double() / 100
    grid = [torch.stack([u, v, 1 - u - v]) for u in steps for v in steps if u + v <= 1]
    w = stacked(products, moved)
    assert float(w.sum()) == pytest.approx(1)
    assert float(w.min()) >= 0
    assert min(map(error, grid)) - 2e-4 < error(w) <= min(map(error, grid)) + 1e-6
    double = [0, 1, 2, 0]
    twice = stacked(products[double][:, double], moved[double])
    assert float(twice[0]) == pytest.approx(float(twice[3]), abs=1e-4)
    torch.testing.assert_close(
        torch.stack([twice[0] + twice[3], twice[1], twice[2]]), w, atol=1e-4, rtol=0
    )
    alone = stacked(products, torch.tensor([9.0, 0.0, 9.0]))
    torch.testing.assert_close(alone, torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(stacked(products[:1, :1], moved[:1]), torch.ones(1).double())


@pytest.mark.parametrize("m", [1, 1000, 100000])
def test_no_mean_is_further_from_the_best_estimate_than_the_data_tell(m):
    """Against all means between the two, in steps of a thousandth; the noise of the difference of two estimates d apart is here 2 d / sqrt(m)."""
    generator = torch.Generator().manual_seed(2)
    residuals = (
        torch.randn(4, 50, generator=generator).double()
        + 3 * torch.randn(50, generator=generator).double()
    )
    products, moved = residuals @ residuals.T / 50, torch.tensor([0.3, 0.1, 0.2, 0.15]).double()

    def error(w):
        return (w @ products @ w + 2 * w @ moved).item()

    best = int((products.diag() + 2 * moved).argmin())
    w, one = stacked(products, moved), torch.eye(4).double()[best]
    assert int((w > 0).sum()) > 1, "a problem whose answer is a mean"
    apart = float((one - w) @ products @ (one - w)) ** 0.5
    told = [
        s / 1000
        for s in range(1001)
        if error(w + s / 1000 * (one - w)) - error(w) <= CHANCE * 2 * s / 1000 * apart / m**0.5
    ]

    def deviation(z):
        return 2 * float(z @ products @ z) ** 0.5 / m**0.5

    taken = toward(best, w, products, moved, deviation)
    torch.testing.assert_close(taken, w + max(told) * (one - w), atol=1e-3, rtol=0)
    assert {1: max(told) == 1, 1000: 0 < max(told) < 1, 100000: 0 < max(told) < 0.2}[m], max(told)
    assert error(taken) <= error(one) + 1e-12
    torch.testing.assert_close(toward(best, one, products, moved, deviation), one)


def loss_of(A, q, noise, level):
    seen = torch.ones(1, *A.data_shape, dtype=torch.bool)
    return Loss(
        make_problem(q, A, noise),
        torch.full((1, *A.data_shape), noise),
        seen,
        None if level is None else torch.full((len(q),), level),
    )


@pytest.mark.parametrize("level", [None, 0.1, 1.0])
def test_stein_s_estimate_of_what_a_smoothing_misses(level):
    """Over many draws of the noise: its mean, with B by Fourier transforms; and how much those of two smoothings differ from theirs."""
    A, noise, many = Blur(gaussian_psf(1.0), (1, 32, 32)), 0.1, 200
    truth = F.interpolate(samples.camera(), size=(32, 32), mode="area")
    q = (A(truth) + noise * white(many, 1, 32, 32)).contiguous()
    wide, narrow = Blur(gaussian_psf(1.0), (1, 32, 32)), Blur(gaussian_psf(0.6), (1, 32, 32))
    first, second = (sure(q, A, smooth, noise=noise, level=level) for smooth in (wide, narrow))

    impulse = torch.zeros(1, 1, 32, 32)
    impulse[..., 0, 0] = 1
    h = torch.fft.fft2(A(impulse))
    b = (
        torch.ones_like(h) / noise
        if level is None
        else h.conj() / (h.abs().square() + (noise / level) ** 2)
    )
    missed = (b * h * torch.fft.fft2(wide(q) - truth)).abs().square().mean((1, 2, 3)) / (
        noise**2 * b.abs().square().mean() * 32 * 32
    )
    assert float(first.mean()) == pytest.approx(
        float(missed.mean()), abs=3 * float((first - missed).std()) / many**0.5
    )
    assert float(missed.mean()) > 3 * float((first - missed).std()) / many**0.5, (
        "a difference that is seen"
    )

    loss = loss_of(A, q, noise, level)
    size, count = loss.size([noise * white(many, 1, 32, 32, seed=s) for s in range(4)])
    told = loss.deviation(loss.see(A(wide(q) - narrow(q)))) / size
    assert float((first - second).std()) == pytest.approx(float(told.mean()), rel=0.35)
    noisy = loss.see(noise * white(many, 1, 32, 32, seed=9)).flatten(1).square().sum(1) / size
    assert float(noisy.std()) == pytest.approx(float((2 / count).sqrt().mean()), rel=0.25), (
        "as that many data vary"
    )
    assert (
        float(count.mean()) == pytest.approx(1024, rel=0.05)
        if level is None
        else float(count.mean()) < 800
    )


def test_where_nothing_is_hidden_both_losses_are_the_same():
    q = white(2, 1, 16, 16)
    A = Identity((1, 16, 16))
    a, b = (sure(q, A, lambda q: 0.7 * q, noise=0.5, level=level) for level in (None, 0.3))
    torch.testing.assert_close(a, b)
    noise = torch.where(torch.arange(16) < 8, 0.5, torch.inf).expand(1, 16, 16)
    shear, seen = (
        0.3 * white(1, 2, 16, 16),
        torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.8,
    )
    A, noise = Lensing(image_shape=(2, 16, 16)), torch.where(seen, 0.3, torch.inf).expand(2, 16, 16)
    a, b = (
        float(sure(shear, A, lambda q: 0.5 * A.adjoint(q), noise=noise, level=level))
        for level in (None, 0.1)
    )
    assert a == pytest.approx(b, abs=0.15), "a unitary operator with holes"
    with pytest.raises(InputError, match=r"sure: level is a deviation of images, a number > 0"):
        sure(q, Identity((1, 16, 16)), lambda q: q, noise=0.5, level=0.0)


def test_a_noise_that_is_not_given_is_estimated_and_said(photo):
    A = MAKE["blur"]()
    q = A(photo) + 0.02 * white(*A(photo).shape)
    result = reconstruct(q, A, TV)
    assert result.tuned.estimated
    assert float(result.tuned.noise) == pytest.approx(0.02, rel=0.1)
    assert "noise estimated: 0.0" in str(result.tuned)
    known = reconstruct(q, A, TV, noise=0.02)
    assert float(psnr(result.x, photo)) > float(psnr(known.x, photo)) - 0.3
    assert (
        "noise estimated"
        in "".join(text.get_text() for text in result.plot().texts) + result.plot().get_suptitle()
    )


def test_images_of_a_batch_are_chosen_by_themselves(photo):
    """One that is smooth and one that is rough, with other noises: each has what it has alone."""
    A = MAKE["blur"]()
    rough = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    truth = torch.cat([photo, rough, photo])
    noise = torch.tensor([0.02, 0.02, 0.1])
    q = A(truth) + noise.reshape(-1, 1, 1, 1) * white(*truth.shape)
    together = reconstruct(q, A, TV, noise=noise)
    assert together.statuses == ("stopped",) * 3
    stops = together.tuned.settings["iterations"].tolist()
    assert len(set(stops)) > 1
    path = solvers.make("admm").iterations
    for k in range(3):
        assert 1 <= stops[k] <= path
        own = auto(q[k : k + 1], A, TV, solvers.make("admm"), noise=float(noise[k]))
        assert (
            float(psnr(together.x[k : k + 1], truth[k : k + 1]))
            > float(psnr(own.x, truth[k : k + 1])) - 0.4
        )


def test_from_a_start_that_is_given_the_settings_are_settings(photo):
    A, x0 = MAKE["mask"](), torch.full_like(photo, 0.5)
    q = A(photo)
    result = reconstruct(q, A, TV, noise=0.03, x0=x0, iterations=10)
    found = result.tuned.settings
    assert result.state.iteration == int(found["iterations"])
    own = {
        "sigma": found["sigma"],
        "alpha_scale": found["alpha_scale"],
        "iterations": int(found["iterations"]),
        "tol": 0.0,
    }
    assert torch.equal(reconstruct(q, A, TV, noise=0.03, x0=x0, **own).x, result.x)


def test_the_fixed_point_that_was_judged_is_the_one_that_is_found(photo):
    """A denoiser with two fixed points for data like these: from A.initial a run on all data leads to the wrong one, if nothing is held out."""
    A = MAKE["blur"]()
    q = A(photo) + 0.02 * white(*photo.shape)
    start = A.initial(q)

    def two_faced(x, sigma):
        return TV(x, sigma) if float((x - start).abs().max()) > 1e-3 else x

    result = reconstruct(q, A, two_faced, noise=0.02)
    assert float(psnr(result.x, photo)) > float(psnr(start, photo)) + 0.5


def test_maps_of_the_noise_with_pixels_that_were_not_measured(photo):
    A = MAKE["identity"]()
    noise = torch.full((1, SIZE, SIZE), 0.08)
    noise[:, 10:14] = torch.inf
    q = photo + torch.where(torch.isfinite(noise), noise, 0.0) * white(*photo.shape)
    broken = torch.where(torch.isfinite(noise), q, torch.nan)
    result = reconstruct(broken, A, TV, noise=noise)
    assert torch.equal(
        result.x, reconstruct(torch.where(torch.isfinite(noise), q, 9.0), A, TV, noise=noise).x
    )
    seen = torch.isfinite(noise).expand_as(q)
    assert float((result.x - photo)[seen].square().mean()) < 0.4 * float(
        (q - photo)[seen].square().mean()
    )


def test_low_signal_is_not_taken_for_structure():
    """A sky of shear that is nothing but noise: the map is nearly empty."""
    A = Lensing(image_shape=(2, SIZE, SIZE))
    q = 0.3 * white(1, 2, SIZE, SIZE)
    D = e_mode(denoisers.make("mlpatch", weights="mlpatch-kappa"))
    result = reconstruct(q, A, D, noise=0.3, iterations=10)
    assert float(result.x[:, 0].std()) < 0.25 * float(A.initial(q)[:, 0].std())


def test_what_is_chosen_is_saved_and_repeatable(photo, tmp_path):
    A = MAKE["mask"]()
    q = A(photo)
    result = reconstruct(q, A, TV, noise=0.01, iterations=8)
    again = reconstruct(q, A, TV, noise=0.01, iterations=8)
    assert torch.equal(result.x, again.x)
    result.save(tmp_path / "result.pt")
    back = Result.load(tmp_path / "result.pt")
    assert str(back.tuned) == str(result.tuned)
    assert torch.equal(back.tuned.tried["error"], result.tuned.tried["error"])


@pytest.mark.parametrize("name", ["drs", "fast_admm", "red", "pdhg", "consensus"])
def test_every_solver_with_a_level_that_may_rise(name, photo):
    A = MAKE["mask"]()
    q = A(photo) + 0.04 * white(*photo.shape) * (A(torch.ones_like(photo)) != 0)
    settings = {"iterations": 10}
    result = reconstruct(q, A, TV, name, noise=0.04, **settings)
    assert result.tuned is not None
    assert float(psnr(result.x, photo)) > float(psnr(A.initial(q), photo))


def test_a_denoiser_that_makes_solvers_diverge_is_no_obstacle(photo):
    """One that amplifies at small levels: runs that diverge are not chosen, and end nothing."""
    tv = TV

    def wild(x, sigma):
        return tv(x, sigma) if float(torch.as_tensor(sigma).max()) > 0.05 else 3 * x + 0.1

    A = MAKE["mask"]()
    q = A(photo) + 0.04 * white(*photo.shape) * (A(torch.ones_like(photo)) != 0)
    result = reconstruct(q, A, wild, noise=0.04, iterations=40)
    assert float(psnr(result.x, photo)) > 20
    assert not bool(torch.isfinite(result.tuned.tried["error"]).all())


def test_where_it_does_not_choose(photo):
    A = MAKE["mask"]()
    q = A(photo)
    settings = {"noise": 0.02, "iterations": 2}
    assert reconstruct(q, A, TV, sigma=0.1, **settings).tuned is None
    assert reconstruct(q, A, TV, alpha=0.1, **settings).tuned is None
    assert reconstruct(q, A, TV, tune="off", **settings).tuned is None
    assert reconstruct(q, A, TV, solvers.make("admm", iterations=2), noise=0.02).tuned is None
    assert reconstruct(q, A, TV, "pgd", **settings).tuned is None, (
        "its level follows from the noise"
    )
    assert reconstruct(q, A, TV, "pgd", tune="auto", **settings).tuned is not None
    assert (
        reconstruct(q, A, TV, solvers.make("admm", iterations=2), noise=0.02, tune="auto").tuned
        is not None
    )
    by_noise = reconstruct(q + 0.02 * white(*q.shape) * (q != 0), A, TV, "hqs", iterations=2).tuned
    assert by_noise.estimated
    assert by_noise.settings == {}
    half = reconstruct(q, A, TV, tune="off", **settings)
    assert reconstruct(q, A, TV, state=half.state, noise=0.02, iterations=3).tuned is None


def test_errors_of_auto(photo):
    A, D = MAKE["mask"](), TV
    q = A(photo)
    with pytest.raises(InputError, match="tune must be 'auto', 'off' or None"):
        reconstruct(q, A, D, noise=0.1, tune="yes")
    half = reconstruct(q, A, D, noise=0.1, tune="off", iterations=1)
    with pytest.raises(InputError, match="cannot go on from a state"):
        reconstruct(q, A, D, noise=0.1, tune="auto", state=half.state)
    with pytest.raises(InputTypeError, match="auto: solver must be a Solver object"):
        auto(q, A, D, "admm", noise=0.1)
    with pytest.raises(
        InputError, match="auto: HQS has no level of the denoiser that may be chosen so"
    ):
        auto(q, A, D, solvers.make("hqs"), noise=0.1)
    with pytest.raises(InputError, match="auto: part must be a number between 0 and 1"):
        auto(q, A, D, solvers.make("admm"), noise=0.1, part=1.0)
    with pytest.raises(InputError, match="auto: folds must be an integer from 1 to 2"):
        auto(q, A, D, solvers.make("admm"), noise=0.1, part=0.4, folds=3)
    with pytest.raises(InputError, match="data are too few to hold out a part"):
        auto(q[..., :4, :4], Mask(torch.ones(4, 4)), D, solvers.make("admm"), noise=0.1)
    with pytest.raises(InputError, match="the start is constant, and the denoiser tells no range"):
        auto(torch.zeros_like(q), A, D, solvers.make("admm"), noise=0.1)


# ---- the noise


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("level", [0.5, 2.0])
def test_noise_levels(name, level, photo):
    A = MAKE[name]()
    truth = photo.repeat(2, 1, 1, 1)
    clean = A(truth)
    noise = level * NOISE[name] * torch.tensor([1.0, 3.0])
    q = clean + noise.reshape(-1, *[1] * (clean.ndim - 1)) * white(*clean.shape) * (clean != 0)
    found = noise_level(q, A)
    assert found.shape == (2,)
    texture = {"mask": 1.7, "radon": 2.0}.get(
        name, 1.25
    )  # few triples of neighbours; few rays through each pixel
    assert bool((found < texture * noise).all()), found / noise
    assert bool((found > 0.85 * noise).all()), found / noise


def test_noise_of_shear_and_of_joined_data(photo):
    A = Lensing(
        weight=(torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.9).float()
    )
    q = 0.2 * white(1, 2, SIZE, SIZE) * A.weight.float()
    assert float(noise_level(q, A)) == pytest.approx(0.2, rel=0.06)
    both = Stack([MAKE["mask"](), MAKE["blur"]()])
    ys = [block(photo) for block in both.blocks]
    ys = [
        y + s * white(*y.shape, seed=k) * (y != 0)
        for k, (y, s) in enumerate(zip(ys, (0.2, 0.02), strict=True))
    ]
    found = both.split(noise_level(both.join(ys), both))
    assert float(found[0].mean()) == pytest.approx(0.2, rel=0.15)
    assert float(found[1].mean()) == pytest.approx(0.02, rel=0.1)


def test_noise_that_cannot_be_told():
    with pytest.raises(
        InputError, match=r"fewer than 30 triples of neighbours that were measured. Pass noise="
    ):
        noise_level(torch.rand(1, 1, 5, 5), Identity((1, 5, 5)))
