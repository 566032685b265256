"""Tensors on a GPU, tested without one: everything stays on its device, or says what does not."""

from __future__ import annotations

import pytest
import torch
from pretend_cuda import CUDA, PretendCuda, on_gpu

from pnp_mlpatch import denoisers, lensing, metrics, operators, reconstruct, solvers, uncertainty
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import _convolution
from pnp_mlpatch.denoisers._tiles import tiles
from pnp_mlpatch.denoisers.mlpatch import MLPatch
from pnp_mlpatch.errors import ContractError, Diverged, InputError
from pnp_mlpatch.interop import from_deepinv, from_functions, to_deepinv, to_odl, to_scipy
from pnp_mlpatch.operators import Emission, Transmission, adjoint_mismatch, data_on, reached
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.operators.stack import Stack
from pnp_mlpatch.solvers import Result, schedules
from pnp_mlpatch.testing import check_denoiser, check_operator, check_solver
from pnp_mlpatch.testing._solvers import shrink


@pytest.fixture
def gpu():
    with PretendCuda() as found:
        yield found


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """Apply activations after the convolutions on the processor too, as on a GPU."""
    monkeypatch.setattr(_convolution, "NAMES", {})


def draw(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


# ---- the pretend GPU itself


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here.add_(there),
        lambda here, there: here[there > 0],
        lambda here, there: torch.where(there > 0, there, here),
        lambda here, there: there @ here.T,
        lambda here, there: there.numpy(),
        lambda here, there: torch.rand(2, device="cuda", generator=torch.Generator()),
    ],
)
def test_the_pretend_gpu_refuses_what_a_gpu_refuses(gpu, wrong):
    with pytest.raises((RuntimeError, TypeError), match="device"):
        wrong(draw(2, 3), draw(2, 3).to("cuda"))


def test_the_pretend_gpu_counts_waits_and_keeps_values(gpu):
    x = draw(2, 3)
    y = x.to("cuda").requires_grad_()
    z = torch.where(y > 0.5, y * torch.tensor(2.0), 0.0) + torch.ones(3, device="cuda")
    z.sum().backward()
    assert z.device == y.grad.device == CUDA
    assert not gpu.waits
    assert float(z.detach().sum()) == float((torch.where(x > 0.5, x * 2, 0.0) + 1).sum())
    assert bool(y.detach().any())
    z.cpu()
    assert gpu.waits == {"elsewhere": 3}


# ---- operators


def test_astra_on_the_processor_takes_data_on_the_gpu(gpu):
    A = Radon(image_shape=(2, 9, 11), angles=7, backend="astra_cpu", cache=False)
    x, y = draw(2, *A.image_shape), draw(2, *A.data_shape)
    wanted = (
        A(x),
        A.adjoint(y),
        A.initial(y),
        solvers.make("admm", iterations=2).run(y, A, shrink, noise=0.1, progress=False),
    )
    A = A.to("cuda")
    x, y = x.to("cuda"), y.to("cuda")
    run = solvers.make("admm", iterations=2).run(y, A, shrink, noise=0.1, progress=False)
    for want, got in zip(
        (*wanted[:3], wanted[3].x), (A(x), A.adjoint(y), A.initial(y), run.x), strict=True
    ):
        assert got.device == CUDA
        assert torch.equal(got.cpu(), want)


def test_a_projector_of_astra_takes_data_on_the_gpu(gpu):
    astra = pytest.importorskip("astra")
    from pnp_mlpatch.interop import from_astra

    projection = astra.create_proj_geom("parallel", 1.0, 13, [0.1, 0.9, 2.0])
    A = from_astra(projection, astra.create_vol_geom(7, 9))
    x, y = draw(2, *A.image_shape), draw(2, *A.data_shape)
    for function, value in ((A, x), (A.adjoint, y)):
        got = function(value.to("cuda"))
        assert got.device == CUDA
        assert torch.equal(got.cpu(), function(value))


def scaled_on(place, **options):
    """The map x -> w x whose w is out of sight of torch.nn."""
    w = draw(1, 4, 5).to(place) + 0.5
    return from_functions(lambda x: w * x, lambda y: w * y, (1, 4, 5), (1, 4, 5), **options)


def test_functions_on_the_gpu_say_so(gpu):
    A = scaled_on("cuda", device="cuda")
    assert A.device == CUDA
    check_operator(A)
    here = scaled_on("cpu")
    assert A.norm() == here.norm()
    assert adjoint_mismatch(A) == adjoint_mismatch(here)
    assert schedules.from_noise(A, 0.1) == schedules.from_noise(here, 0.1)
    with pytest.raises(InputError, match=r"tensor is on cpu, the operator on cuda:0"):
        A(draw(1, 1, 4, 5))


@pytest.mark.parametrize("device", ["nowhere", 3.5])
def test_functions_refuse_a_device_that_is_none(device):
    with pytest.raises(InputError, match="from_functions: device"):
        scaled_on("cpu", device=device)


def test_operators_without_buffers_are_where_the_data_are(gpu):
    A, here = scaled_on("cuda"), scaled_on("cpu")
    x = draw(2, 1, 4, 5)
    q = here(x)
    q[0, 0, 1, 2] = torch.nan  # makes the solver ask what A reaches
    noise = torch.full((1, 4, 5), 0.1)
    noise[0, 1, 2] = torch.inf
    for level in (noise, 0.1):
        data = q if level is noise else here(x)
        for name in ("admm", "pgd"):
            solver = solvers.make(name, sigma=0.1, iterations=2)
            want = solver.run(data, here, shrink, noise=level, progress=False)
            on = level.to("cuda") if level is noise else level
            got = solver.run(data.to("cuda"), A, shrink, noise=on, progress=False)
            assert torch.equal(got.x.cpu(), want.x)
    assert reached(A, device="cuda").device == CUDA
    assert schedules.from_noise(A, noise.to("cuda")) == schedules.from_noise(here, noise)


def test_a_wrong_adjoint_on_the_gpu_is_found(gpu):
    w = draw(1, 4, 5).to("cuda")
    A = from_functions(lambda x: w * x, lambda y: y, (1, 4, 5), (1, 4, 5))
    with pytest.raises(InputError, match="adjoint is not the transpose"):
        solvers.make("admm").run(w[None], A, shrink, noise=0.1, progress=False)


def test_noise_of_a_stack_is_where_its_maps_are(gpu):
    A = Stack([scaled_on("cuda"), scaled_on("cuda")])
    levels = [0.1, torch.full((1, 4, 5), 0.2)]
    here = Stack([scaled_on("cpu"), scaled_on("cpu")]).noise(levels)
    there = A.noise([0.1, levels[1].to("cuda")])
    assert there.device == CUDA
    assert torch.equal(there.cpu(), here)


def test_weights_follow_the_operator(gpu):
    A = operators.get("blur").example()
    weight, x = draw(*A.data_shape) + 0.5, draw(2, *A.image_shape)
    want = A.weighted(weight)(x)
    there = A.to("cuda").weighted(weight)
    assert there.device == CUDA
    assert torch.equal(there(x.to("cuda")).cpu(), want)


def test_one_weight_an_image_and_white_steps():
    """The bound on the steps is that of each image, whatever the operator is made of."""
    A, counts = operators.get("identity")((1, 4, 5)), 50 + 100 * draw(2, 1, 4, 5)
    T, noise = Transmission(A, counts, 200.0), 1 + draw(2, 1, 4, 5)
    one = Transmission(A, counts[1:], 200.0)
    for white in (False, True):
        solver = solvers.make("pgd", iterations=3, white=white, sigma=0.1)
        both = solver.run(T.q, T, shrink, noise=noise, progress=False)
        alone = solver.run(one.q, one, shrink, noise=noise[1:], progress=False)
        assert torch.allclose(both.x[1:], alone.x, rtol=1e-4)
    E = Emission(A, counts, 10.0)
    for B in (T, T.weighted(noise), T.weighted(noise[0]), A.weighted(noise), E):
        for C in (B, B.weighted(noise)):
            each = [C.for_images(torch.tensor([k])).norm() for k in (0, 1)]
            assert C.norm() == max(each) != min(each)


@pytest.mark.parametrize("kind", [Emission, Transmission])
@pytest.mark.parametrize("place", ["operator", "functions"])
def test_likelihoods_of_counts(gpu, kind, place):
    def run(device):
        inner = operators.get("blur").example().to(device)
        A = inner
        if place == "functions":  # which hold their tensors out of sight
            A = from_functions(inner, inner.adjoint, inner.image_shape, inner.data_shape)
        counts = (20 + 100 * draw(2, *A.data_shape)).round().to(device)
        L, solver = kind(A, counts, 50.0), solvers.make("admm", iterations=2, sigma=0.1)
        return solver.run(L.q, L, shrink, noise=1.0, progress=False).x

    there = run("cuda")
    assert there.device == CUDA
    assert torch.equal(there.cpu(), run("cpu"))


# ---- results


def test_a_loaded_state_goes_on_on_the_gpu(gpu, tmp_path):
    A = operators.get("blur").example()
    q = A(draw(2, *A.image_shape))
    for name in ("admm", "split_gibbs", "fast_admm"):
        solver = solvers.make(name)
        options = {"burn_in": 1} if hasattr(solver, "burn_in") else {}
        short, long = (solvers.make(name, iterations=n, **options) for n in (2, 4))
        whole = long.run(q, A, shrink, noise=0.1, progress=False)
        half = short.run(q, A, shrink, noise=0.1, progress=False)
        half.save(tmp_path / "result")
        half.state.save(tmp_path / "state")
        there = operators.get("blur").example().to("cuda")
        for state in (
            type(long).load_state(tmp_path / "state", map_location="cuda"),
            long.load_state(tmp_path / "state").to("cuda"),
            Result.load(tmp_path / "result", map_location="cuda").state,
            Result.load(tmp_path / "result").to("cuda").state,
        ):
            result = long.run(q.to("cuda"), there, shrink, noise=0.1, state=state, progress=False)
            assert result.x.device == CUDA
            assert torch.equal(result.x.cpu(), whole.x), name
        with pytest.raises(InputError, match=r"got .* on cpu\. Move it with \.to\('cuda:0'\)"):
            long.run(q.to("cuda"), there, shrink, noise=0.1, state=half.state, progress=False)


def test_a_state_keeps_what_is_no_tensor():
    half = solvers.make("admm", iterations=1).run(
        draw(1, 1, 4, 5), operators.get("identity")((1, 4, 5)), shrink, noise=0.1, progress=False
    )
    moved = half.to("cpu")
    assert moved.state == half.state.to("cpu") or moved.state.iteration == half.state.iteration
    assert moved.statuses == half.statuses
    with pytest.raises(InputError, match=r"State\.to: device"):
        half.state.to("nowhere")


def test_maps_are_judged_where_they_are(gpu):
    kappa, truth, mask = draw(2, 12, 12), draw(12, 12), torch.ones(12, 12)
    mask[:2] = 0
    want = lensing.judge(kappa, truth, "1 arcmin", mask)
    assert lensing.judge(kappa.to("cuda"), truth, "1 arcmin", mask) == want
    assert lensing.judge(kappa, truth.to("cuda"), "1 arcmin", mask.to("cuda")) == want
    found = lensing.peaks(truth.to("cuda"), 0.5, mask)
    assert found.device == CUDA
    assert torch.equal(found.cpu(), lensing.peaks(truth, 0.5, mask))
    here, there = (
        lensing.power_spectrum(x, "1 arcmin", other=truth)[1].nan_to_num()
        for x in (kappa[0], kappa[0].to("cuda"))
    )
    assert torch.equal(there.cpu(), here)


def test_a_table_of_a_spectrum_serves_every_device(gpu):
    ell, C = torch.tensor([10.0, 100.0, 1000.0]), torch.tensor([1e-9, 1e-10, 1e-12])
    at = torch.tensor([0.0, 50.0, 500.0])
    want = lensing.tabulated(ell, C)(at)
    for table in ((ell, C), (ell.to("cuda"), C)):
        spectrum = lensing.tabulated(*table)
        assert torch.equal(spectrum(at.to("cuda")).cpu(), want)
        assert torch.equal(spectrum(at), want)


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim"])
def test_a_truth_may_be_on_another_device(gpu, name):
    x, truth, metric = draw(2, 1, 12, 12), 1 - draw(2, 1, 12, 12), getattr(metrics, name)
    for a, b in ((x.to("cuda"), truth), (x, truth.to("cuda"))):
        assert metric(a, b).device == a.device
        assert torch.equal(metric(a, b).cpu(), metric(x, truth))


def test_contracts_are_checked_on_the_gpu(gpu):
    A = operators.get("mask").example().to("cuda")
    check_solver(solvers.make("admm", iterations=3), A)
    seen = set()

    def blur(x, sigma):
        seen.add(x is None or on_gpu(x))
        mean = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return x + torch.as_tensor(sigma).to(x).reshape(-1, 1, 1, 1).clamp_max(1) * (mean - x)

    with pytest.raises(ContractError, match=r"breaks 2 of .*\n  - bad .*\n  - noise on"):
        check_denoiser(blur, device="cuda")
    assert seen == {True}


# ---- reconstruct


def test_reconstruct_passes_the_device_of_the_data_on(gpu):
    A, here = scaled_on("cuda"), scaled_on("cpu")
    q = here(draw(1, 1, 4, 5))
    for name in ("admm", "pgd"):
        found, want = (
            reconstruct(data, B, shrink, name, noise=0.1, iterations=2, check=True, progress=False)
            for data, B in ((q.to("cuda"), A), (q, here))
        )
        assert found.x.device == CUDA
        assert torch.equal(found.x.cpu(), want.x)


def test_a_denoiser_by_name_goes_where_the_data_are(gpu):
    A = operators.get("identity")((1, 6, 7))
    q = draw(1, 1, 6, 7)
    want = reconstruct(q, A, "mlpatch", noise=0.1, iterations=1, progress=False)
    found = reconstruct(
        q.to("cuda"), A.to("cuda"), "mlpatch", noise=0.1, iterations=1, progress=False
    )
    assert torch.equal(found.x.cpu(), want.x)


def test_a_denoiser_on_another_device_is_named(gpu):
    A = operators.get("identity")((1, 6, 7)).to("cuda")
    D = denoisers.make("mlpatch")
    with pytest.raises(InputError, match=r"weights are on cpu, the image on cuda:0\. Move it"):
        reconstruct(draw(1, 1, 6, 7).to("cuda"), A, D, noise=0.1, iterations=1, progress=False)


# ---- where tensors are that nobody moved


def test_functions_that_do_not_say_where_they_are(gpu):
    A, here = scaled_on("cuda"), scaled_on("cpu")
    x, y = draw(20).numpy(), draw(1, 4, 5)
    calls = {
        "norm": lambda A: A.norm(),
        "adjoint_mismatch": adjoint_mismatch,
        "from_noise": lambda A: schedules.from_noise(A, 0.1),
        "to_scipy": lambda A: to_scipy(A).matvec(x).tolist(),
        "to_odl": lambda A: to_odl(A)(to_odl(A).domain.element(y.numpy())).data.tolist(),
    }
    for name, call in calls.items():
        wanted = call(here)
        with pytest.raises(InputError, match=r"applied to a tensor on cpu, and holds tensors on a"):
            call(A)
        with data_on("cuda"):
            assert call(A) == wanted
        if name.startswith("to_"):
            assert call(scaled_on("cuda", device="cuda")) == wanted


def test_other_errors_of_functions_stay(gpu):
    A = from_functions(lambda x: x @ x, lambda y: y, (1, 4, 5), (1, 4, 5))
    with pytest.raises(RuntimeError, match="size"):
        A(draw(1, 1, 4, 5))


def test_physics_that_does_not_say_where_it_is(gpu):
    physics = require("deepinv.physics", "test")

    class Scaled(physics.LinearPhysics):
        def __init__(self, w):
            super().__init__()
            self.w = w

        def A(self, x, **options):
            return self.w * x

        def A_adjoint(self, y, **options):
            return self.w * y

    w, x = draw(1, 4, 5), draw(2, 1, 4, 5)
    with pytest.raises(InputError, match=r"\(1, 4, 5\) on cpu .*Move its buffers there"):
        from_deepinv(Scaled(w.to("cuda")), (1, 4, 5))
    A = from_deepinv(Scaled(w.to("cuda")).to("cuda"), (1, 4, 5))
    assert A.device == CUDA
    assert torch.equal(A(x.to("cuda")).cpu(), w * x)


def test_deepinv_gets_what_is_on_the_gpu(gpu):
    A, here = scaled_on("cuda"), scaled_on("cpu")
    y = draw(2, 1, 4, 5)
    for call in (
        lambda P, y: P.A(y),
        lambda P, y: P.A_adjoint(y),
        lambda P, y: P.prox_l2(0.0, y, 2.0),
        lambda P, y: P.A_dagger(y),
    ):
        found = call(to_deepinv(A), y.to("cuda"))
        assert found.device == CUDA
        assert torch.equal(found.cpu(), call(to_deepinv(here), y))


SETTINGS = [
    (name, setting)
    for name in solvers.names()
    for setting in ("sigma", "alpha", "alpha_scale", "delta")
    if hasattr(solvers.make(name), setting)
]


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_settings_of_each_image_may_be_on_the_cpu(name, setting):
    settings = {"burn_in": 1} if hasattr(solvers.make(name), "burn_in") else {}
    levels, noise = torch.tensor([0.1, 0.05]), torch.tensor([0.1, 0.2])
    settings[setting] = 1e-4 * levels if setting == "delta" else levels
    solver = solvers.make(name, iterations=2, **settings)
    A = operators.get("identity")((1, 4, 5))
    q = draw(2, 1, 4, 5)
    wanted = solver.run(q, A, shrink, noise=noise, progress=False)
    with PretendCuda():
        found = solver.run(q.to("cuda"), A.to("cuda"), shrink, noise=noise, progress=False)
        assert torch.equal(found.x.cpu(), wanted.x)
        assert found.history.keys() == wanted.history.keys()


def test_balance_with_levels_of_each_image(gpu):
    solver = solvers.make("admm", iterations=4, balance=3, sigma=torch.tensor([0.1, 0.05]))
    A, q = operators.get("identity")((1, 4, 5)), draw(2, 1, 4, 5)
    wanted = solver.run(q, A, shrink, noise=0.1, progress=False)
    found = solver.run(q.to("cuda"), A.to("cuda"), shrink, noise=0.1, progress=False)
    assert torch.equal(found.x.cpu(), wanted.x)


def test_images_of_hqs_that_rest_keep_their_noise(gpu):
    """The levels of HQS are made on the CPU, from the noise of the images that move."""

    def halt(state):
        return torch.tensor([state.iteration == 2, False])

    def run(device):
        A, q = operators.get("blur").example().to(device), draw(2, 2, 8, 11).to(device)
        solver, noise = solvers.make("hqs", iterations=4), torch.tensor([0.1, 0.03])
        return solver.run(A(q), A, shrink, noise=noise, callbacks=[halt], progress=False)

    there, here = run("cuda"), run("cpu")
    assert there.x.device == CUDA
    assert torch.equal(there.x.cpu(), here.x)
    assert there.history["sigma"] == here.history["sigma"]


def test_a_run_that_diverges_is_stopped_at_once(gpu):
    A, q = operators.get("identity")((1, 4, 5)).to("cuda"), draw(2, 1, 4, 5).to("cuda")

    def bad(x, sigma):
        calls.append(x)
        return torch.where(
            torch.tensor([False, len(calls) == 3]).reshape(2, 1, 1, 1).to(x.device), torch.nan, x
        )

    calls = []
    with pytest.raises(Diverged, match="of image 1 is not finite after iteration 3") as caught:
        solvers.make("pgd", sigma=0.1, tol=0.0).run(q, A, bad, noise=0.1, progress=False)
    assert caught.value.state.iteration == 2
    assert bool(torch.isfinite(caught.value.state.x).all())
    assert len(calls) == 3


def test_maps_of_a_blur_go_where_its_psfs_are(gpu):
    psfs, maps, x = draw(2, 3, 3), draw(2, 6, 7), draw(1, 1, 6, 7)
    there = operators.get("varying_blur")(psfs.to("cuda"), maps, (1, 6, 7))
    here = operators.get("varying_blur")(psfs, maps, (1, 6, 7))
    assert torch.equal(there(x.to("cuda")).cpu(), here(x))


def test_a_truth_may_be_on_another_device_than_samples(gpu):
    samples, truth = draw(5, 2, 1, 6, 7), draw(2, 1, 6, 7) / 2
    low, std = samples[0] - 0.3, samples.std(0)
    for function, values in (
        (uncertainty.ranks, (samples,)),
        (uncertainty.coverage, (low, low + 0.6)),
        (uncertainty.calibrate, (samples[0], std)),
    ):
        found = function(*(value.to("cuda") for value in values), truth)
        wanted = function(*values, truth)
        assert torch.equal(found.cpu(), wanted) if on_gpu(found) else found == wanted


# ---- tiles


def test_tiles_are_larger_on_a_gpu():
    D, x = denoisers.make("mlpatch", weights="mlpatch-grey"), draw(1, 1, 140, 130)
    wide = MLPatch(rings=9, angles=9, sectors=(370, 100), width=370)
    given = denoisers.make("mlpatch", weights="mlpatch-grey", tile=40)
    want = D(x, 0.1)
    with PretendCuda():
        there = x.to("cuda")
        assert (D.side(x), D.side(there), given.side(there)) == (128, 1024, 40)
        assert 16 * 9 * 370 * wide.side(there) ** 2 <= 2**31 < 16 * 9 * 370 * 1024**2
        assert len(list(tiles(x, there[..., :1, :1], D.side(x), D.halo, 1))) == 4
        assert len(list(tiles(there, there[..., :1, :1], D.side(there), D.halo, 1))) == 1
        got = denoisers.make("mlpatch", weights="mlpatch-grey").to("cuda")(there, 0.1)
        assert got.device == CUDA
        assert torch.allclose(got.cpu(), want, atol=1e-6)
