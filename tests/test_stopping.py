"""Each image of a batch stops by itself, as if it were alone; what does not converge is named; what
runs away is stopped before it is NaN.
"""

from __future__ import annotations

import math

import pytest
import torch

from pnp_mlpatch import denoisers, reconstruct
from pnp_mlpatch.errors import Diverged
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.solvers import Result

SHAPE = (1, 12, 10)
BLUR = Blur(gaussian_psf(0.8), SHAPE)
QUICK_TO_CONVERGE = ["admm", "fast_admm", "drs", "red", "pdhg", "hqs", "pgd", "fista"]


def images(count=3):
    """A constant, a ramp and noise: they take different times."""
    ramp = torch.linspace(0, 1, 10, dtype=torch.float64).repeat(12, 1)
    rough = torch.rand(12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.stack([torch.full_like(ramp, 0.4), ramp, rough])[:count, None]


def smooth(x, sigma):
    """A mean over neighbours: firmly nonexpansive."""
    p = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return 0.5 * x + 0.125 * (
        p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:]
    )


def settings_of(name):
    settings = {"iterations": 4000 if name == "pdhg" else 400, "tol": 1e-6, "sigma": 0.2}
    return settings | (
        {"tau": 0.5} if name in ("pgd", "fista") else {}
    )  # |A| is found from the operator, so it is the same alone


@pytest.mark.parametrize("name", QUICK_TO_CONVERGE)
def test_an_image_of_a_batch_ends_as_if_it_were_alone(name):
    q = BLUR(images()) + 0.01 * torch.randn(
        3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    noise = torch.tensor([0.1, 0.1, 0.02], dtype=torch.float64)
    calls = []

    def counted(x, sigma):
        calls.append(len(x))
        return smooth(x, sigma)

    together = reconstruct(q, BLUR, counted, name, noise=noise, **settings_of(name))
    assert together.status == "converged"
    assert together.statuses == ("converged",) * 3
    lengths = []
    for k in range(3):
        alone = reconstruct(
            q[k : k + 1], BLUR, smooth, name, noise=float(noise[k]), **settings_of(name)
        )
        assert torch.allclose(alone.x, together.x[k : k + 1], rtol=0, atol=1e-12)
        assert together.per_image["residual"][
            len(alone.history["residual"]) - 1, k
        ] == pytest.approx(alone.history["residual"][-1], rel=1e-6)
        lengths.append(alone.state.iteration)
    assert len(set(lengths)) > 1, (
        "the images should take different times, or this test shows nothing"
    )
    assert together.state.iteration == max(lengths)
    assert sum(calls) == sum(lengths), "an image at rest costs nothing"
    last = together.per_image["residual"][-1]
    assert bool((last < 1e-6).all())
    assert together.history["residual"][-1] == pytest.approx(float(last.max()))


def test_settings_and_maps_of_each_image_go_with_it():
    """sigma (B,), alpha (B,) and a noise map for each image are taken apart with the batch."""
    A = Mask(random_mask(SHAPE[1:], keep=0.6))
    q = A(images())
    levels = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    noise = 0.05 + 0.1 * torch.rand(
        3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    together = reconstruct(
        q,
        A,
        smooth,
        "admm",
        noise=noise,
        sigma=levels,
        alpha=2 * levels,
        iterations=3000,
        tol=1e-7,
        data_iterations=60,
        data_tol=1e-12,
    )
    counts = set()
    for k in range(3):
        one = {
            "sigma": float(levels[k]),
            "alpha": 2 * float(levels[k]),
            "iterations": 3000,
            "tol": 1e-7,
            "data_iterations": 60,
            "data_tol": 1e-12,
        }
        alone = reconstruct(
            q[k : k + 1],
            A,
            smooth,
            "admm",
            noise=noise[k],
            x0=A.weighted(1 / noise[k]).initial(q[k : k + 1] / noise[k]),
            **one,
        )
        assert alone.status == together.statuses[k] == "converged"
        counts.add(alone.state.iteration)
        # the start of one with its own map does not fill the gaps, so only what it comes to is
        # compared
        if k:
            assert torch.allclose(alone.x, together.x[k : k + 1], atol=3e-3)
    assert len(counts) > 1


@pytest.mark.parametrize("name", ["admm", "hqs", "fast_admm"])
def test_a_batch_that_partly_rests_resumes_bit_for_bit(name, tmp_path):
    q = BLUR(images()) + 0.01 * torch.randn(
        3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    settings = settings_of(name) | {"noise": 0.1}
    whole = reconstruct(q, BLUR, smooth, name, **settings)

    def one_rests(state):
        return state.resting is not None and bool(state.resting.any())

    half = reconstruct(q, BLUR, smooth, name, callbacks=[one_rests], **settings)
    assert half.status == "stopped"
    assert "converged" in half.statuses
    half.save(tmp_path / "half.pt")
    back = Result.load(tmp_path / "half.pt")
    assert back.statuses == half.statuses
    assert torch.equal(back.per_image["residual"], half.per_image["residual"])
    resumed = reconstruct(q, BLUR, smooth, name, state=back.state, **settings)
    assert torch.equal(resumed.x, whole.x)
    assert resumed.state.iteration == whole.state.iteration


def test_a_callback_stops_single_images():
    stop = torch.tensor([2, 5, 4])
    result = reconstruct(
        BLUR(images()),
        BLUR,
        smooth,
        "admm",
        noise=0.1,
        sigma=0.2,
        iterations=9,
        tol=0,
        callbacks=[lambda state: stop <= state.iteration],
    )
    assert result.status == "stopped"
    assert result.statuses == ("stopped",) * 3
    assert result.state.iteration == 5
    for k in range(3):
        alone = reconstruct(
            BLUR(images())[k : k + 1],
            BLUR,
            smooth,
            "admm",
            noise=0.1,
            sigma=0.2,
            iterations=int(stop[k]),
            tol=0,
        )
        assert torch.allclose(alone.x, result.x[k : k + 1], atol=1e-13)


def turning(x, sigma):
    """A rotation by a right angle in the plane of x and its reverse: of norm 1, and
    never at rest.
    """
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], dim=-1)


def test_oscillating_stalled_and_slow_are_told_apart():
    A, q = Identity(SHAPE), torch.rand(1, *SHAPE, dtype=torch.float64)
    swings = reconstruct(q, A, turning, "pgd", noise=1.0, sigma=1.0, tau=1e-6, iterations=60)
    assert swings.status == "oscillating"

    def drifts(x, sigma):
        return x + 0.01 * x.abs().max()

    drifting = reconstruct(
        q, A, drifts, "pgd", noise=1.0, sigma=1.0, tau=1e-9, iterations=60, tol=1e-9
    )
    assert drifting.status in ("stalled", "max_iter")
    slow = reconstruct(
        q, A, lambda x, s: 0.99 * x, "pgd", noise=1.0, sigma=1.0, tau=0.02, iterations=60, tol=1e-12
    )
    assert slow.status == "max_iter"
    assert (
        reconstruct(
            q, A, turning, "pgd", noise=1.0, sigma=1.0, tau=1e-6, iterations=60, tol=0
        ).status
        == "max_iter"
    ), "it was not asked for"


def test_the_images_that_do_not_converge_are_named():
    """One image of norm 0 rests at once, the others swing."""
    q = torch.rand(3, *SHAPE, dtype=torch.float64)
    q[1] = 0
    result = reconstruct(
        q, Identity(SHAPE), turning, "pgd", noise=1.0, sigma=1.0, tau=1e-6, iterations=60
    )
    assert result.statuses == ("oscillating", "converged", "oscillating")
    assert result.status == "oscillating"


@pytest.mark.parametrize("name", ["pgd", "admm", "red"])
def test_what_runs_away_is_stopped_before_it_is_nan(name):
    q = torch.rand(2, *SHAPE, dtype=torch.float64)
    q[0] = 0
    settings = {"tau": 0.01} if name == "pgd" else {"alpha": 10.0}
    with pytest.raises(
        Diverged, match=r"of image 1 is more than 1000 times as large as at the start, and grows"
    ) as caught:
        reconstruct(
            q,
            Identity(SHAPE),
            lambda x, s: 2 * x,
            name,
            noise=1.0,
            sigma=1.0,
            iterations=2000,
            **settings,
        )
    assert bool(torch.isfinite(caught.value.state.x).all())
    assert float(caught.value.state.x[1].norm()) < 1e5 * float(q[1].norm())
    assert len(caught.value.state.x) == 2


def test_a_slow_start_from_zero_does_not_run_away():
    """Four thousand times the first step, in ever shorter steps."""
    q = torch.rand(1, *SHAPE, dtype=torch.float64)
    result = reconstruct(
        q,
        Identity(SHAPE),
        lambda x, s: x,
        "pgd",
        noise=1.0,
        sigma=1.0,
        tau=6e-5,
        x0=torch.zeros_like(q),
        iterations=5000,
        tol=0,
    )
    assert torch.allclose(result.x, (1 - math.exp(-0.3)) * q, rtol=1e-3)


def test_histories_have_what_a_step_found_for_each_image():
    result = reconstruct(
        BLUR(images()),
        BLUR,
        denoisers.make("tv"),
        "admm",
        noise=0.1,
        sigma=0.2,
        iterations=7,
        tol=0,
    )
    assert {"residual", "primal", "dual", "fixed_point", "data_residual"} <= result.per_image.keys()
    for name, values in result.per_image.items():
        assert values.shape == (7, 3), name
        assert [pytest.approx(float(row.max()), nan_ok=True) for row in values] == result.history[
            name
        ]
    f, v, u = result.state.f, result.state.x, result.state.u
    size = torch.maximum(f.flatten(1).norm(dim=1), v.flatten(1).norm(dim=1))
    assert torch.allclose(result.per_image["primal"][-1], (f - v).flatten(1).norm(dim=1) / size)
    assert bool((result.per_image["primal"][-1] < result.per_image["primal"][0]).all())
    assert u.shape == v.shape
