"""Local Lipschitz constants of denoisers: known norms of linear ones, both methods, what the report
says, and what is refused.
"""

from __future__ import annotations

import pytest
import torch

from pnp_mlpatch import as_denoiser, averaged, denoisers
from pnp_mlpatch.convergence import Expansion, expansion, lipschitz
from pnp_mlpatch.errors import PnPError

SHAPE = (1, 8, 6)
PIXELS = 48
IMAGE = torch.rand(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MATRIX = (
    torch.randn(PIXELS, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    / 12
)
ONE = torch.eye(PIXELS, dtype=torch.float64)


def norm(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


def linear(matrix):
    return lambda x, sigma: (x.flatten(1) @ matrix.to(x).T).reshape(x.shape)


SYMMETRIC = (MATRIX + MATRIX.T) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "matrix",
    [MATRIX, SYMMETRIC, 0.5 * ONE, torch.zeros_like(ONE), torch.ones_like(ONE) / PIXELS],
    ids=range(5),
)
def test_norms_of_linear_denoisers(matrix, dtype):
    found = expansion(linear(matrix), IMAGE.to(dtype), 0.1)
    assert found.method == "autograd"
    assert found.denoiser == pytest.approx(norm(matrix), rel=1e-4, abs=1e-6)
    assert found.residual == pytest.approx(norm(ONE - matrix), rel=1e-4)
    assert found.reflection == pytest.approx(norm(2 * matrix - ONE), rel=1e-4)
    assert lipschitz(linear(matrix), IMAGE.to(dtype), 0.1) == found.denoiser


@pytest.mark.parametrize("hidden", ["no_grad", "numpy"])
def test_norms_by_differences(hidden):
    if hidden == "numpy":
        D = as_denoiser(
            lambda image, sigma: (SYMMETRIC.numpy() @ image.ravel()).reshape(image.shape),
            array="numpy",
        )
    else:
        D = torch.no_grad()(linear(SYMMETRIC))
    found = expansion(D, IMAGE, 0.1, iterations=400)
    assert found.method == "finite differences"
    assert found.denoiser == pytest.approx(norm(SYMMETRIC), rel=1e-4)
    assert found.residual == pytest.approx(norm(ONE - SYMMETRIC), rel=1e-4)
    assert found.reflection == pytest.approx(norm(2 * SYMMETRIC - ONE), rel=1e-4)
    skew = torch.no_grad()(linear(MATRIX))
    assert 0.3 * norm(MATRIX) < lipschitz(skew, IMAGE, 0.1) <= norm(MATRIX) * (1 + 1e-6)


def test_both_methods_agree_on_a_network(mlpatch, photo):
    x = photo[..., :20, :20] + 0.1 * torch.randn(
        1, 1, 20, 20, generator=torch.Generator().manual_seed(0)
    )
    by_autograd = expansion(mlpatch, x, 0.1)
    assert by_autograd.method == "autograd"
    assert 0.5 < by_autograd.denoiser < 5
    by_differences = expansion(
        torch.no_grad()(lambda x, sigma: mlpatch(x, sigma)), x, 0.1, iterations=60
    )
    assert by_differences.method == "finite differences"
    for name in (
        "denoiser",
        "residual",
        "reflection",
    ):  # J is not symmetric, so a little less is found
        assert 0.8 < getattr(by_differences, name) / getattr(by_autograd, name) < 1.01


def test_the_point_the_batch_and_the_seed(mlpatch, photo):
    """A nonlinear D has its norm where it is asked; a batch the largest of its images."""

    def cubic(x, sigma):
        return x**3 / 3

    x = torch.tensor([0.2, 0.5, 1.5]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4).contiguous()
    assert [lipschitz(cubic, x[k : k + 1], 0.1) for k in range(3)] == pytest.approx(
        [0.04, 0.25, 2.25], rel=1e-4
    )
    assert lipschitz(cubic, x, 0.1) == pytest.approx(2.25, rel=1e-4)
    part = photo[..., :16, :16].contiguous()
    kept = part.clone()
    first = lipschitz(mlpatch, part, 0.1)
    assert first == lipschitz(mlpatch, part, 0.1)
    assert first == pytest.approx(lipschitz(mlpatch, part, torch.tensor([0.1]), seed=3), rel=1e-2)
    assert torch.equal(part, kept)
    assert all(p.grad is None for p in mlpatch.parameters())


@pytest.mark.parametrize("name", ["tv", "dncnn", "ircnn", "unet", "drunet", "mlpatch"])
def test_every_denoiser_has_figures(name, photo):
    x = photo[..., :16, :16] + 0.1 * torch.randn(
        1, 1, 16, 16, generator=torch.Generator().manual_seed(0)
    )
    D = denoisers.make(name)
    found = expansion(D, x, 0.1, iterations=10)
    assert all(0 < value < 100 for value in (found.denoiser, found.residual, found.reflection))
    assert found.reflection <= found.denoiser + found.residual + 1e-3
    half = expansion(averaged(D), x, 0.1, iterations=10)
    assert half.residual == pytest.approx(found.residual / 2, rel=2e-2)
    assert half.reflection == pytest.approx(found.denoiser, rel=2e-2)  # 2 (1 + J) / 2 - 1 = J


def spectrum(*values):
    """A symmetric D with these eigenvalues."""
    basis = torch.linalg.qr(MATRIX)[0]
    d = torch.linspace(min(values), max(values), PIXELS, dtype=torch.float64)
    return linear(basis @ torch.diag(d) @ basis.T)


@pytest.mark.parametrize(
    ("D", "words"),
    [
        (spectrum(0, 1), "D is firmly nonexpansive here: what the solvers need."),
        (
            spectrum(-0.5, 1),
            "D is nonexpansive here, but not firmly: ADMM, DRS and PDHG may swing. "
            "averaged(D, 0.666) makes it firm",
        ),
        (
            spectrum(-1.6, 1),
            "D is expansive here, as it overshoots: any solver may diverge. averaged(D, "
            "0.384) mends it, if J is symmetric.",
        ),
        (
            spectrum(0, 1.25),
            "D is expansive here, as it amplifies: no theorem promises convergence",
        ),
        (spectrum(-1.2, 1.25), "D is expansive here, as it amplifies"),
    ],
    ids=["firm", "nonexpansive", "overshoots", "amplifies", "both"],
)
def test_the_report_says_what_follows(D, words):
    found = expansion(D, IMAGE, 0.1, iterations=48)
    assert words in str(found)
    assert str(found).startswith(f"|J| = {found.denoiser:.4g}, |I - J| = {found.residual:.4g}")
    assert "by autograd" in str(found)


def test_what_the_report_advises_is_true():
    for low, high in ((-0.5, 1), (-1.5, 1), (-4, 0.5)):
        D = spectrum(low, high)
        found = expansion(D, IMAGE, 0.1, iterations=48)
        mended = expansion(averaged(D, 1 / found.residual), IMAGE, 0.1, iterations=48)
        assert mended.reflection < 1 + 1e-6
    D = spectrum(0, 1.25)
    scale = lipschitz(D, IMAGE, 0.1, iterations=48)
    assert (
        expansion(lambda x, sigma: D(x, sigma) / scale, IMAGE, 0.1, iterations=48).reflection
        < 1 + 1e-6
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"D": "tv"}, "lipschitz: the denoiser must be callable as D"),
        ({"x": IMAGE[0]}, r"lipschitz: the image must have shape \(B, C, H, W\)"),
        ({"x": IMAGE.int()}, "lipschitz: the image must be float32 or float64"),
        ({"x": IMAGE * float("nan")}, "lipschitz: the image holds NaN or infinite values"),
        ({"iterations": 0}, "lipschitz: iterations must be an integer >= 1, got 0"),
        ({"iterations": 2.5}, "lipschitz: iterations must be an integer >= 1, got 2.5"),
        ({"seed": -1}, "lipschitz: seed must be an integer >= 0, got -1"),
        ({"seed": "a"}, "lipschitz: seed must be an integer >= 0, got 'a'"),
        ({"sigma": -1.0}, "sigma must be finite and >= 0"),
        ({"D": lambda x, sigma: x[..., 1:]}, r"expected \(1, 1, 8, 6\) torch.float64 on cpu back"),
        (
            {"D": lambda x, sigma: x / 0 * 0},
            "lipschitz: the denoiser returns values that are not finite",
        ),
    ],
)
@pytest.mark.parametrize("function", [lipschitz, expansion])
def test_what_is_refused(function, settings, words):
    arguments = {"D": denoisers.make("tv"), "x": IMAGE, "sigma": 0.1} | settings
    with pytest.raises(PnPError, match=words):
        function(**arguments)


def test_a_report_can_be_made_by_hand():
    assert "by hand" in str(Expansion(0.9, 0.9, 1.0, "hand"))
