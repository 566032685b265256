"""The search for settings, its criteria, and the noise level; one run where no search
is asked for.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pnp_mlpatch import denoisers, e_mode, reconstruct, samples, solvers
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.operators.stack import Stack
from pnp_mlpatch.solvers import Result, make_problem, schedules
from pnp_mlpatch.tuning import AutoConfig, auto, noise_level, sure
from pnp_mlpatch.tuning.criteria import HeldOutCriterion, SureCriterion
from pnp_mlpatch.tuning.sure import ErrorNorm

SIZE = 40
TV = denoisers.make("tv", iterations=15)
RUNS = 12


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


def noisy(name, truth, noise=None):
    A = MAKE[name]()
    clean = A(truth)
    noise = NOISE[name] if noise is None else noise
    return A, clean + noise * white(*clean.shape) * (clean != 0)


class Counted:
    """TV, and how often it was called."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma):
        self.calls += 1
        return TV(x, sigma)


# ---- the search


@pytest.mark.parametrize("name", MAKE)
def test_search_is_near_the_best_of_a_sweep_with_the_truth(name, photo):
    (A, q), noise, D = noisy(name, photo), NOISE[name], Counted()
    result = reconstruct(q, A, D, noise=noise, tune="auto")
    assert D.calls <= RUNS * solvers.make("admm").iterations
    sweep = [
        reconstruct(q, A, TV, noise=noise, sigma=sigma, alpha_scale=scale).x
        for sigma in (4 / 255, 10 / 255, 25 / 255, 60 / 255)
        for scale in (0.25, 1.0)
    ]
    assert float(psnr(result.x, photo)) > max(float(psnr(x, photo)) for x in sweep) - 0.8
    found = result.tuned
    assert (found.estimated, found.noise) == (False, noise)
    of = {"mask": "held-out data", "radon": "SURE of the data"}.get(name, "SURE of the image")
    assert of in str(found)
    assert set(map(len, found.tried.values())) == {len(found.tried["score"])}
    least = found.tried["score"].argmin()
    assert int(found.tried["iteration"][least]) == int(found.settings["iterations"])


@pytest.mark.parametrize("name", ["mask", "blur"])
def test_image_state_and_history_are_of_one_run(name, photo):
    (A, q), noise = noisy(name, photo), NOISE[name]
    result = reconstruct(q, A, TV, noise=noise, iterations=10, tune="auto")
    assert torch.equal(result.x, result.state.x)
    assert result.status == "stopped"
    K = int(result.tuned.settings["iterations"])
    assert result.state.iteration == len(result.history["sigma"]) == K
    settings = result.tuned.settings | {"iterations": K, "tol": 0.0}
    again = reconstruct(q, A, TV, noise=noise, **settings)
    torch.testing.assert_close(again.x, result.x, atol=1e-5, rtol=0)


def test_budget_of_runs_holds(photo):
    A, q = noisy("blur", photo)
    for config, most in ((AutoConfig(max_runs=5, levels=2), 5), (AutoConfig(), RUNS)):
        D = Counted()
        auto(q, A, D, solvers.make("admm", iterations=4), noise=0.02, config=config)
        assert D.calls <= 4 * most
    with pytest.raises(InputError, match=r"auto: .* need 9 runs, more than max_runs = 8"):
        auto(q, A, TV, solvers.make("admm"), noise=0.02, config=AutoConfig(max_runs=8))


@pytest.mark.parametrize("name", ["mask", "identity", "held-out identity"])
def test_score_is_the_error_that_is_made(name):
    """With a linear denoiser: 1 + |x - truth|^2 / noise^2 over all pixels, measured or not."""
    size, noise = 64, 0.1
    A = Mask(random_mask((size, size), keep=0.4)) if name == "mask" else Identity((1, size, size))
    truth = F.interpolate(samples.camera(), size=(size, size), mode="area")
    q = A(truth) + noise * white(*truth.shape) * (A(torch.ones_like(truth)) != 0)
    rows, cols = (
        (2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(size))).reshape(shape)
        for shape in ((-1, 1), (1, -1))
    )

    def smooth(x, sigma):
        strength = 10 * float(torch.as_tensor(sigma).max())
        return torch.fft.ifft2(torch.fft.fft2(x) / (1 + strength * (rows + cols))).real

    config = AutoConfig(
        folds=10, max_runs=60, full_fraction=2.0 if name == "held-out identity" else 0.5
    )
    result = auto(q, A, smooth, solvers.make("admm", iterations=8), noise=noise, config=config)
    tried = result.tuned.tried
    for row in (7, 15, 23, 31):
        sigma = float(tried["sigma"][row, 0])
        x = reconstruct(q, A, smooth, noise=noise, sigma=sigma, iterations=8, tol=0.0).x
        made = float((x - truth).square().mean()) / noise**2
        assert float(tried["score"][row, 0]) - 1 == pytest.approx(made, rel=0.25)


def test_noise_that_is_not_given_is_estimated_and_said(photo):
    A, q = noisy("blur", photo)
    result = reconstruct(q, A, TV, iterations=10, tune="auto")
    assert result.tuned.estimated
    assert float(result.tuned.noise) == pytest.approx(0.02, rel=0.1)
    assert "noise estimated: 0.0" in str(result.tuned)
    assert "GCV of the image" in str(result.tuned)
    known = reconstruct(q, A, TV, noise=0.02, iterations=10, tune="auto")
    assert float(psnr(result.x, photo)) > float(psnr(known.x, photo)) - 0.3
    figure = result.plot()
    shown = "".join(text.get_text() for text in figure.texts) + figure.get_suptitle()
    assert "noise estimated" in shown


def test_images_of_a_batch_are_chosen_by_themselves(photo):
    """One that is smooth and one that is rough, with other noises: each as if it were alone."""
    A = MAKE["blur"]()
    rough = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    truth, noise = torch.cat([photo, rough, photo]), torch.tensor([0.02, 0.02, 0.1])
    q = A(truth) + noise.reshape(-1, 1, 1, 1) * white(*truth.shape)
    together = reconstruct(q, A, TV, noise=noise, iterations=10, tune="auto")
    assert together.statuses == ("stopped",) * 3
    assert len(set(together.tuned.settings["sigma"].flatten().tolist())) > 1
    for k in range(3):
        own = auto(q[k : k + 1], A, TV, solvers.make("admm", iterations=10), noise=float(noise[k]))
        gain = psnr(together.x[k : k + 1], truth[k : k + 1]) - psnr(own.x, truth[k : k + 1])
        assert float(gain) > -0.4


def test_a_start_that_is_given_is_taken(photo):
    (A, q), x0 = noisy("mask", photo), torch.full_like(photo, 0.5)
    result = reconstruct(q, A, TV, noise=0.04, x0=x0, iterations=6, tune="auto")
    own = result.tuned.settings | {
        "iterations": int(result.tuned.settings["iterations"]),
        "tol": 0.0,
    }
    assert torch.equal(reconstruct(q, A, TV, noise=0.04, x0=x0, **own).x, result.x)


def test_maps_of_the_noise_with_pixels_that_were_not_measured(photo):
    A = MAKE["identity"]()
    noise = torch.full((1, SIZE, SIZE), 0.08)
    noise[:, 10:14] = torch.inf
    seen = torch.isfinite(noise)
    q = photo + torch.where(seen, noise, 0.0) * white(*photo.shape)
    x, same = (
        reconstruct(torch.where(seen, q, gap), A, TV, noise=noise, iterations=10, tune="auto").x
        for gap in (torch.nan, 9.0)
    )
    assert torch.equal(x, same)
    seen = seen.expand_as(q)
    assert float((x - photo)[seen].square().mean()) < 0.4 * float((q - photo)[seen].square().mean())


def test_low_signal_is_not_taken_for_structure():
    """A sky of shear that is nothing but noise: the map is nearly empty."""
    A = Lensing(image_shape=(2, SIZE, SIZE))
    q = 0.3 * white(1, 2, SIZE, SIZE)
    D = e_mode(denoisers.make("mlpatch", weights="mlpatch-kappa"))
    result = reconstruct(q, A, D, noise=0.3, iterations=10, tune="auto")
    assert float(result.x[:, 0].std()) < 0.25 * float(A.initial(q)[:, 0].std())


def test_what_is_chosen_is_saved_and_repeatable(photo, tmp_path):
    A, q = noisy("mask", photo)
    result, again = (reconstruct(q, A, TV, noise=0.04, iterations=6, tune="auto") for _ in range(2))
    assert torch.equal(result.x, again.x)
    result.save(tmp_path / "result.pt")
    back = Result.load(tmp_path / "result.pt")
    assert str(back.tuned) == str(result.tuned)
    assert torch.equal(back.tuned.tried["score"], result.tuned.tried["score"])


@pytest.mark.parametrize("name", ["drs", "fast_admm", "red", "pdhg", "pgd", "consensus"])
def test_every_solver_with_a_level_that_may_rise(name, photo):
    A, q = noisy("mask", photo)
    result = reconstruct(q, A, TV, name, noise=0.04, iterations=10, tune="auto")
    assert float(psnr(result.x, photo)) > float(psnr(A.initial(q), photo))


@pytest.mark.parametrize("name", ["mask", "blur"])
def test_a_denoiser_that_makes_solvers_diverge_is_no_obstacle(name, photo):
    """One that amplifies at small levels: runs that diverge are not chosen, and end nothing."""

    def wild(x, sigma):
        return TV(x, sigma) if float(torch.as_tensor(sigma).max()) > 0.05 else 3 * x + 0.1

    A, q = noisy(name, photo)
    result = reconstruct(q, A, wild, noise=NOISE[name], iterations=40, tune="auto")
    assert float(psnr(result.x, photo)) > 20
    assert not bool(torch.isfinite(result.tuned.tried["score"]).all())


def test_errors_of_the_search(photo):
    A, q = noisy("mask", photo)
    with pytest.raises(InputError, match=r"tune must be 'auto' .* got 'off'"):
        reconstruct(q, A, TV, noise=0.1, tune="off")
    half = reconstruct(q, A, TV, noise=0.1, iterations=1)
    with pytest.raises(InputError, match="cannot go on from a state"):
        reconstruct(q, A, TV, noise=0.1, tune="auto", state=half.state)
    with pytest.raises(InputTypeError, match="auto: solver must be a Solver object"):
        auto(q, A, TV, "admm", noise=0.1)
    for name in ("hqs", "skrock"):
        with pytest.raises(InputError, match="has no level of the denoiser that can be searched"):
            reconstruct(q, A, TV, name, noise=0.1, tune="auto")
    with pytest.raises(InputError, match="data are too few to hold out"):
        auto(q[..., :4, :4], Mask(torch.eye(4)), TV, solvers.make("admm"), noise=0.1)
    with pytest.raises(InputError, match="the start is constant, and the denoiser tells no range"):
        auto(torch.zeros_like(q), A, TV, solvers.make("admm"), noise=0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": 0}, "levels must be an integer >= 1"),
        ({"max_runs": 2.5}, "max_runs must be an integer >= 1"),
        ({"lowest": 2.0}, "lowest must be in"),
        ({"prior_scale": 0.0}, "prior_scale must be > 0"),
        ({"holdout_fraction": 1.0}, "holdout_fraction must be a number between 0 and 1"),
        ({"holdout_fraction": 0.4, "folds": 3}, "folds must be an integer from 1 to 2"),
    ],
)
def test_settings_of_the_search_are_checked(settings, words):
    with pytest.raises(InputError, match="AutoConfig: " + words):
        AutoConfig(**settings)


# ---- one run


def test_one_run_is_the_default_and_its_level_follows_from_the_noise(photo):
    A, q = noisy("blur", photo)
    D = Counted()
    result = reconstruct(q, A, D)
    assert D.calls <= solvers.make("admm").iterations
    tuned = result.tuned
    assert tuned.estimated
    sigma = schedules.from_noise(A, tuned.noise)
    assert torch.equal(torch.as_tensor(tuned.settings["sigma"]), torch.as_tensor(sigma))
    assert torch.equal(result.x, reconstruct(q, A, TV, noise=tuned.noise, sigma=sigma).x)
    assert "noise given: 0.02. The level follows from the noise" in str(
        reconstruct(q, A, TV, noise=0.02).tuned
    )


def test_the_level_has_the_units_of_the_denoiser(photo):
    A, q = noisy("blur", photo)
    D = denoisers.make("dncnn")
    from pnp_mlpatch import rescaled

    one, many = (
        reconstruct(scale * q, A, rescaled(D, scale), noise=scale * 0.02, iterations=3)
        for scale in (1.0, 1000.0)
    )
    assert float(many.tuned.settings["sigma"]) == pytest.approx(
        1000 * float(one.tuned.settings["sigma"])
    )
    torch.testing.assert_close(many.x / 1000, one.x, atol=1e-4, rtol=0)


def test_where_no_level_is_chosen(photo):
    A, q = noisy("mask", photo)
    settings = {"noise": 0.04, "iterations": 2}
    assert reconstruct(q, A, TV, sigma=0.1, **settings).tuned is None
    assert reconstruct(q, A, TV, alpha=0.1, **settings).tuned is None
    assert reconstruct(q, A, TV, solvers.make("admm", iterations=2), noise=0.04).tuned is None
    for name in ("pgd", "hqs"):
        assert reconstruct(q, A, TV, name, **settings).tuned is None, "a rule of its own"
        by_noise = reconstruct(q, A, TV, name, iterations=2).tuned
        assert by_noise.estimated
        assert by_noise.settings == {}


def test_a_resumed_run_has_the_level_of_the_first(photo):
    A, q = noisy("mask", photo)
    whole = reconstruct(q, A, TV, iterations=6, tol=0.0)
    half = reconstruct(q, A, TV, iterations=3, tol=0.0)
    assert torch.equal(reconstruct(q, A, TV, state=half.state, iterations=6, tol=0.0).x, whole.x)


# ---- the criteria


def criterion(generalised):
    A, q = Identity((1, 4, 4)), torch.zeros(1, 1, 4, 4)
    norm = ErrorNorm(make_problem(q, A, 1.0), torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4) > 0)
    return SureCriterion(q, A, 1.0, norm, torch.ones_like(q), generalised)


def test_sure_and_gcv_are_pure_functions():
    misfit, divergence = (
        torch.tensor([[0.5], [0.8], [torch.inf]]),
        torch.tensor([[0.25], [0.1], [0.1]]),
    )
    expected = torch.tensor([[1.0], [1.0], [torch.inf]])
    torch.testing.assert_close(criterion(False).score(misfit, divergence), expected)
    expected = torch.tensor([[0.5 / 0.75**2], [0.8 / 0.9**2], [torch.inf]])
    torch.testing.assert_close(criterion(True).score(misfit, divergence), expected)


def test_held_out_score_is_a_pure_function():
    """e of the held-out data, d of the others; half of the image was measured."""
    A = Identity((1, 4, 4))
    ones = torch.ones(1, 1, 4, 4)
    held = HeldOutCriterion(ones, A, ones, ones > 0, [ones > 0], torch.tensor([0.5]))
    e, d = torch.tensor([[4.0], [1.5], [torch.inf]]), torch.tensor([[1.0], [1.5], [0.5]])
    first = 1 + 0.5 * (0.25 * 3 + 0.25) + 0.5 * 3  # t = 1/2
    torch.testing.assert_close(held.score(d, e), torch.tensor([[first], [1.5], [torch.inf]]))
    lowered = held.score(torch.tensor([[0.1]]), torch.tensor([[0.25]]))
    t = 1 - (0.1 / 0.25) ** 0.5
    assert float(lowered) == pytest.approx(1 + 0.5 * t**2), "the noise is at most the least e"


@pytest.mark.parametrize("level", [None, 0.1, 1.0])
def test_sure_is_the_error_of_a_smoothing(level):
    """Its mean over many draws of the noise, with B by Fourier transforms."""
    A, noise, many = Blur(gaussian_psf(1.0), (1, 32, 32)), 0.1, 100
    truth = F.interpolate(samples.camera(), size=(32, 32), mode="area")
    q = (A(truth) + noise * white(many, 1, 32, 32)).contiguous()
    told = sure(q, A, A, noise=noise, level=level)
    impulse = torch.zeros(1, 1, 32, 32)
    impulse[..., 0, 0] = 1
    h = torch.fft.fft2(A(impulse))
    b = 1 / noise if level is None else h.conj() / (h.abs().square() + (noise / level) ** 2)
    b = torch.as_tensor(b).expand(h.shape)
    missed = (b * h * torch.fft.fft2(A(q) - truth)).abs().square().mean((1, 2, 3))
    missed = missed / (noise**2 * b.abs().square().mean() * 32 * 32)
    error = 3 * float((told - missed).std()) / many**0.5
    assert float(told.mean()) == pytest.approx(float(missed.mean()), abs=error)
    assert float(missed.mean()) > error, "a difference that is seen"


def test_where_nothing_is_hidden_both_norms_are_the_same():
    q = white(2, 1, 16, 16)
    A = Identity((1, 16, 16))
    a, b = (sure(q, A, lambda q: 0.7 * q, noise=0.5, level=level) for level in (None, 0.3))
    torch.testing.assert_close(a, b)
    seen = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.8
    A, noise = Lensing(image_shape=(2, 16, 16)), torch.where(seen, 0.3, torch.inf).expand(2, 16, 16)
    shear = 0.3 * white(1, 2, 16, 16)
    a, b = (
        float(sure(shear, A, lambda q: 0.5 * A.adjoint(q), noise=noise, level=level))
        for level in (None, 0.1)
    )
    assert a == pytest.approx(b, abs=0.15), "a unitary operator with holes"
    with pytest.raises(InputError, match=r"sure: level is a deviation of images, a number > 0"):
        sure(q, Identity((1, 16, 16)), lambda q: q, noise=0.5, level=0.0)


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
