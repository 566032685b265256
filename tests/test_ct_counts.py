"""Counts to line integrals with their noise, simulated counts, dead bins, and Hounsfield units."""

from __future__ import annotations

import warnings

import pytest
import torch

from pnp_mlpatch.ct.counts import FLOOR, dead_bins, line_integrals, simulate_counts
from pnp_mlpatch.ct.units import MU_WATER, hounsfield_range, to_attenuation, to_hounsfield
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError

Q = torch.linspace(0, 2, 6 * 5, dtype=torch.float64).reshape(6, 5)
COUNTS = 1000 * torch.exp(-Q)


@pytest.fixture(autouse=True)
def _no_warning_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# ---- the formulas


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_without_noise_the_line_integrals_come_back(dtype):
    dark = torch.tensor([0.0, 5.0, 10.0, 0.0, 2.0])
    blank = torch.full((5,), 1000.0) + dark
    q, std = line_integrals((COUNTS + dark).to(dtype), blank, dark, electronic=3.0)
    assert q.dtype == std.dtype == dtype
    torch.testing.assert_close(
        q, Q.to(dtype), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12
    )
    torch.testing.assert_close(std, (torch.sqrt(COUNTS + dark + 9) / COUNTS).to(dtype))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64, torch.float16]
)
def test_other_numbers_become_float32(dtype):
    q, std = line_integrals(torch.tensor([[100, 50], [25, 100]]).to(dtype), 100)
    assert q.dtype == std.dtype == torch.float32
    torch.testing.assert_close(q, torch.log(torch.tensor([[1.0, 2.0], [4.0, 1.0]])))


@pytest.mark.parametrize(
    "shape", [(), (5,), (1, 5), (6, 1), (6, 5), (1, 1, 5), (3, 1, 5), (3, 6, 5)]
)
def test_fields_are_broadcast(shape):
    counts = COUNTS.expand(3, 6, 5)
    q, std = line_integrals(counts, torch.full(shape, 1010.0), torch.full(shape, 10.0))
    assert q.shape == std.shape == counts.shape
    torch.testing.assert_close(q, torch.log(1000 / (counts - 10)))


def test_gain_turns_detector_units_into_photons():
    expected = line_integrals(COUNTS + 7, 1007.0, 7.0, electronic=2.0)
    for mine, photons in zip(
        line_integrals(20 * (COUNTS + 7), 20 * 1007.0, 140.0, electronic=40.0, gain=20.0),
        expected,
        strict=True,
    ):
        torch.testing.assert_close(mine, photons)
    transmissions = line_integrals(COUNTS / 1000, 1.0, gain=1 / 1000)
    torch.testing.assert_close(transmissions[1], line_integrals(COUNTS, 1000.0)[1])


@pytest.mark.parametrize("electronic", [0.0, 8.0])
@pytest.mark.parametrize(("dark", "photons"), [(0.0, 1e4), (0.0, 1e2), (50.0, 1e2)])
def test_statistics(photons, dark, electronic):
    draws = 2000
    true = torch.full((1, draws), 1.0, dtype=torch.float64)
    blank = photons * torch.e + dark
    q, std = line_integrals(
        simulate_counts(true, blank, dark, electronic=electronic, seed=1),
        blank,
        dark,
        electronic=electronic,
    )
    expected = (photons + dark + electronic**2) ** 0.5 / photons
    assert (
        abs(float(q.std()) / expected - 1) < 0.08
    )  # 5 standard deviations of a standard deviation of 2000 draws
    assert abs(float(std.median()) / expected - 1) < 0.02
    bias = float(q.mean()) - 1
    assert abs(bias - expected**2 / 2) < 4 * expected / draws**0.5
    assert abs(bias) < 0.2 * expected


# ---- few photons, none, and less


def test_zero_and_negative_counts_are_floored_with_a_large_std():
    counts = torch.tensor([[100.0, 0.0, 3.0], [100.0, 10.0, 20.0]])
    q, std = line_integrals(counts, 100.0)
    assert float(q[0, 1]) == pytest.approx(torch.log(torch.tensor(100 / FLOOR)).item())
    assert float(std[0, 1]) == pytest.approx(FLOOR**-0.5)
    assert float(std[0, 1]) > 1 > float(std[0, 2])
    below, noise = line_integrals(
        counts + 5 - 8 * (counts == 0), 105.0, 5.0
    )  # -3 counts where the dark is 5: noise
    torch.testing.assert_close(below, q)
    assert bool((noise >= std).all())
    assert float(line_integrals(counts, 100.0, electronic=10.0)[1][0, 1]) > 20


def test_negative_counts_without_a_dark_are_warned_of():
    counts = COUNTS.clone()
    counts[1, 2] = counts[3, 4] = -4
    with pytest.warns(
        UserWarning, match=r"2 of 30 counts are negative.*subtracted twice"
    ) as caught:
        q, _ = line_integrals(counts, 1000.0)
    assert caught[0].filename == __file__
    assert float(q[1, 2]) == pytest.approx(torch.log(torch.tensor(1000 / FLOOR)).item())
    line_integrals(
        counts, 1000.0, electronic=5.0
    )  # the noise of the electronics, no reason to warn


def test_what_was_not_measured_has_no_weight():
    counts, blank = COUNTS.clone(), torch.full((6, 5), 1000.0, dtype=torch.float64)
    counts[0, 0], counts[1, 0], counts[2, 0] = torch.nan, torch.inf, -torch.inf
    counts[:, 1] = 3.0  # all at or below the dark
    blank[:, 2] = 3.0
    blank[4, 3] = 0.0  # the beam was off at one angle
    blank[5, 3] = torch.nan
    q, std = line_integrals(counts, blank, 3.0)
    missing = torch.zeros(6, 5, dtype=torch.bool)
    missing[:3, 0] = missing[:, 1:3] = missing[4:, 3] = True
    assert torch.equal(torch.isinf(std), missing)
    assert torch.equal(q[missing], torch.zeros(int(missing.sum()), dtype=torch.float64))
    assert bool(torch.isfinite(q).all())
    assert dead_bins(counts, blank, 3.0).tolist() == [False, True, True, False, False]


def test_dead_bins_by_slice():
    counts = COUNTS.repeat(2, 1, 1)
    counts[1, :, 4] = 0
    counts[0, :-1, 3] = 0  # seen at one angle: alive
    dead = dead_bins(counts, 1000.0)
    assert dead.shape == (2, 5)
    assert dead.nonzero().tolist() == [[1, 4]]
    q, std = line_integrals(counts, 1000.0)
    assert torch.equal(torch.isinf(std), dead[:, None].expand(2, 6, 5))
    assert bool(torch.isfinite(q).all())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            (COUNTS.numpy(), 1000.0),
            InputTypeError,
            "line_integrals: counts must be a tensor of real numbers .*got ndarray",
        ),
        (
            (COUNTS * 1j, 1000.0),
            InputTypeError,
            "counts must be a tensor of real numbers .*got torch.complex128",
        ),
        (
            (COUNTS > 500, 1000.0),
            InputTypeError,
            "counts must be a tensor of real numbers .*got torch.bool",
        ),
        (
            (COUNTS[0], 1000.0),
            InputError,
            r"counts must be \(..., angles, detectors\), not empty, got \(5,\)",
        ),
        ((COUNTS[:0], 1000.0), InputError, r"not empty, got \(0, 5\)"),
        (
            (COUNTS, "1000"),
            InputTypeError,
            "blank must be a finite number or a tensor of real numbers, got '1000'",
        ),
        (
            (COUNTS, float("nan")),
            InputTypeError,
            "blank must be a finite number or a tensor .*got nan",
        ),
        (
            (COUNTS, 1000.0, COUNTS * 1j),
            InputTypeError,
            "dark must be a finite number or a tensor .*got torch.complex128",
        ),
        (
            (COUNTS, torch.ones(6)),
            InputError,
            r"blank of shape \(6,\) does not broadcast to counts \(6, 5\).*Give one value "
            r"per detector",
        ),
        (
            (COUNTS, torch.ones(2, 6, 5)),
            InputError,
            r"blank of shape \(2, 6, 5\) does not broadcast",
        ),
        (
            (COUNTS.repeat(3, 1, 1), torch.ones(3, 5)),
            InputError,
            r"\(3, 5\) does not broadcast .*blank\[:, None\] for one field per slice",
        ),
        (
            (COUNTS.repeat(6, 1, 1), torch.ones(6, 5)),
            InputError,
            r"blank of shape \(6, 5\) could be per slice or per angle .*blank\[None\]",
        ),
        ((COUNTS, 1000.0, torch.ones(4)), InputError, r"dark of shape \(4,\) does not broadcast"),
        (
            (COUNTS, 0.0),
            InputError,
            "no detector bin measured anything.*in order.*Line integrals need no conversion",
        ),
        ((COUNTS, -1.0), InputError, "no detector bin measured anything"),
        ((COUNTS, 1000.0, 1000.0), InputError, "no detector bin measured anything"),
        ((COUNTS * torch.nan, 1000.0), InputError, "no detector bin measured anything"),
        (
            (COUNTS / 1000, 1.0),
            InputError,
            r"open beam has 1 photons at most; these look like transmissions .*gain = 1 / I0",
        ),
        (
            (Q, 1e4),
            InputError,
            "fractions up to 2 for an open beam of 1e.*look like line integrals",
        ),
    ],
)
def test_line_integrals_refuse(arguments, error, words):
    with pytest.raises(error, match=words):
        line_integrals(*arguments)


@pytest.mark.parametrize("value", [-1.0, float("inf"), "2"])
def test_line_integrals_refuse_settings(value):
    with pytest.raises(InputError, match="line_integrals: electronic must be a number >= 0"):
        line_integrals(COUNTS, 1000.0, electronic=value)
    with pytest.raises(InputError, match="line_integrals: gain must be a number > 0"):
        line_integrals(COUNTS, 1000.0, gain=value)
    with pytest.raises(InputError, match="gain must be a number > 0, got 0"):
        line_integrals(COUNTS, 1000.0, gain=0)


def test_few_whole_photons_are_counts():
    q, _ = line_integrals(torch.tensor([[3.0, 9.0], [1.0, 2.0]]), 1000.0)
    assert bool((q > 4).all())


# ---- simulation


def test_simulation():
    counts = simulate_counts(Q, 1000.0, 20.0, seed=3)
    assert counts.dtype == Q.dtype
    assert counts.shape == Q.shape
    assert torch.equal(counts, counts.round())
    assert torch.equal(counts, simulate_counts(Q, 1000.0, 20.0, seed=3))
    assert not torch.equal(counts, simulate_counts(Q, 1000.0, 20.0, seed=4))
    noisy = simulate_counts(Q, 1000.0, 20.0, electronic=5.0, seed=3)
    assert 1 < float((noisy - counts).std()) < 10
    assert torch.equal(
        simulate_counts(Q.float(), 1000.0, 20.0, seed=3).double(),
        simulate_counts(Q.float().double(), 1000.0, 20.0, seed=3),
    )


def test_simulation_mean_variance_and_dead_bins():
    counts = simulate_counts(
        torch.full((4000, 3), 0.7),
        torch.tensor([500.0, 100.0, 8.0]),
        torch.tensor([30.0, 0.0, 8.0]),
        electronic=4.0,
    )
    rate = torch.tensor([470.0, 100.0, 0.0]) * torch.exp(torch.tensor(-0.7)) + torch.tensor(
        [30.0, 0.0, 8.0]
    )
    assert bool(((counts.mean(0) - rate).abs() < 5 * torch.sqrt((rate + 16) / 4000)).all())
    assert bool(((counts.var(0) / (rate + 16) - 1).abs() < 0.12).all())
    assert torch.equal(simulate_counts(torch.zeros(2, 2), 0.0), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (
            (Q.numpy(), 10.0),
            {},
            "simulate_counts: expected q as a tensor of real floats, got ndarray",
        ),
        ((COUNTS.long(), 10.0), {}, "expected q as a tensor of real floats, got torch.int64"),
        ((Q * torch.nan, 10.0), {}, "q, blank or dark holds NaN or infinite values"),
        ((Q, torch.tensor(torch.inf)), {}, "q, blank or dark holds NaN or infinite values"),
        ((Q, 10.0, 11.0), {}, "expected blank >= dark >= 0"),
        ((Q, 10.0, -1.0), {}, "expected blank >= dark >= 0"),
        ((Q, torch.ones(4)), {}, r"simulate_counts: blank of shape \(4,\) does not broadcast"),
        ((Q, 10.0), {"electronic": -1.0}, "electronic must be a number >= 0, got -1"),
        ((Q, 10.0), {"seed": 1.5}, "seed must be an integer, got 1.5"),
    ],
)
def test_simulation_refuses(arguments, settings, words):
    with pytest.raises(PnPError, match=words):
        simulate_counts(*arguments, **settings)


# ---- units


@pytest.mark.parametrize("mu_air", [0.0, 2e-5])
def test_hounsfield_round_trip(mu_air):
    hu = torch.linspace(-1024, 3000, 60, dtype=torch.float64).reshape(3, 4, 5)
    mu = to_attenuation(hu, MU_WATER[70], mu_air)
    torch.testing.assert_close(to_hounsfield(mu, MU_WATER[70], mu_air), hu, rtol=0, atol=1e-9)
    fixed = to_hounsfield(
        torch.tensor([mu_air, MU_WATER[70]], dtype=torch.float64), MU_WATER[70], mu_air
    )
    torch.testing.assert_close(fixed, torch.tensor([-1000.0, 0.0], dtype=torch.float64))
    scale, offset = hounsfield_range(MU_WATER[70], mu_air)
    window = to_attenuation(
        torch.tensor([-1024.0, 0.0, 1024.0], dtype=torch.float64), MU_WATER[70], mu_air
    )
    torch.testing.assert_close(
        scale * torch.tensor([0, 0.5, 1], dtype=torch.float64) + offset, window
    )


def test_water_attenuates_less_at_higher_energies():
    assert list(MU_WATER) == sorted(MU_WATER)
    assert list(MU_WATER.values()) == sorted(MU_WATER.values(), reverse=True)


@pytest.mark.parametrize(
    ("water", "air"),
    [
        (0.0, 0.0),
        (0.02, 0.02),
        (0.02, -1e-3),
        (float("nan"), 0.0),
        (float("inf"), 0.0),
        ("0.02", 0.0),
    ],
)
def test_units_refuse_coefficients(water, air):
    for convert in (to_attenuation, to_hounsfield):
        with pytest.raises(
            InputError,
            match=f"{convert.__name__}: expected attenuation coefficients mu_water > mu_air >= 0",
        ):
            convert(Q, water, air)
    with pytest.raises(InputError, match="hounsfield_range: expected attenuation coefficients"):
        hounsfield_range(water, air)


def test_units_refuse_values():
    for convert in (to_attenuation, to_hounsfield):
        for values, got in (
            (Q.numpy(), "ndarray"),
            (COUNTS.long(), "torch.int64"),
            (Q * 1j, "torch.complex128"),
        ):
            with pytest.raises(
                InputTypeError,
                match=f"{convert.__name__}: expected a tensor of real floats, got {got}",
            ):
                convert(values, 0.02)
    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, float("inf"))):
        with pytest.raises(
            InputError, match="hounsfield_range: low and high must be finite with low < high"
        ):
            hounsfield_range(0.02, low=low, high=high)
