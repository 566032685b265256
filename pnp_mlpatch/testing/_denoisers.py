"""The contract of denoisers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from pnp_mlpatch._checks import torch_device
from pnp_mlpatch.denoisers import Denoiser, describe
from pnp_mlpatch.testing._checks import Check, at_most, guarded, judge, refuses


def check_denoiser(
    D: Denoiser,
    *,
    channels: int | None = None,
    sigma: float = 0.1,
    stateless_only: bool = False,
    device: torch.device | str | None = None,
) -> list[Check]:
    """Check the contract of a denoiser.

    It covers shapes (odd, not square, tiny), dtype, purity, repeatability, independence of the
    batch, sigma for each image, locality, and that noise is reduced.

    Parameters
    ----------
    D : callable
        The denoiser.
    channels : int, optional
        Of the images; by default that of ``D.info``, else 1.
    sigma : float
        A noise level that D can take.
    stateless_only : bool
        Leave out the check that noise on a smooth image is reduced, for networks without trained
        weights.
    device : torch.device or str, optional
        Where the images are; by default where the parameters of D are, else the CPU.

    Returns
    -------
    list of Check

    Raises
    ------
    ContractError
        If a check fails.
    """
    who = f"Denoiser {describe(D).name}"
    c = channels or describe(D).channels or 1
    generator = torch.Generator().manual_seed(0)
    place = _place(D) if device is None else torch_device(device, "check_denoiser")
    x = (_smooth(c, 37, 30) + sigma * torch.randn(3, c, 37, 30, generator=generator)).contiguous()
    x = x.to(place)
    with torch.no_grad():
        y = D(x.clone(), sigma)
        if not isinstance(y, Tensor):
            advice = f"got {type(y).__name__}. Wrap it with as_denoiser(...)."
            return judge(who, [Check("returns a tensor", False, advice)])
        groups = (
            _calls(D, x, sigma),
            _sizes(D, x, sigma),
            _kinds(D, x, sigma),
            _reach(D, c, sigma, place),
        )
        checks = chain(*groups, () if stateless_only else (_reduces(D, c, sigma, place),))
        return judge(who, checks)


def _place(D: Denoiser) -> torch.device:
    parameters = D.parameters() if isinstance(D, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def _smooth(channels: int, height: int, width: int) -> Tensor:
    rows = torch.linspace(0, 3, height)[:, None]
    cols = torch.linspace(0, 2, width)[None, :]
    image = 0.5 + 0.3 * torch.sin(rows) * torch.cos(cols)
    return image.expand(1, channels, height, width).contiguous()


def _calls(D: Denoiser, x: Tensor, sigma: float) -> Iterator[Check]:
    kept = x.clone()
    y = D(x, sigma)
    yield Check(
        "shape, dtype and device are kept",
        y.shape == x.shape and y.dtype == x.dtype and y.device == x.device,
        f"{tuple(y.shape)} {y.dtype}",
    )
    advice = "D writes into its input; clone it first."
    yield Check("input is not changed", torch.equal(x, kept), advice)
    again = D(x, sigma)
    change = float((y - again).abs().max())
    advice = f"differs by {change:.1e}: D keeps state or draws random numbers."
    yield Check("the same call gives the same result", torch.equal(y, again), advice)
    alone = torch.cat([D(x[k : k + 1], sigma) for k in range(3)])
    name = "an image does not depend on the others of its batch"
    advice = "Is a batch norm in training mode?"
    yield at_most(name, float((alone - y).abs().max()), 1e-4, advice)
    yield Check("the result is finite", bool(torch.isfinite(y).all()))

    def levels() -> Check:
        ladder = torch.tensor([0.3, 0.6, 1.0]).to(x) * sigma
        single = torch.cat([D(x[k : k + 1], float(ladder[k])) for k in range(3)])
        gap = float((D(x, ladder) - single).abs().max())
        return at_most("sigma as a tensor (B,)", gap, 1e-4)

    yield guarded("sigma as a tensor (B,)", levels)
    if describe(D).sigma == "input":
        changed = not torch.equal(D(x, sigma), D(x, sigma / 4))
        yield Check("sigma changes the result", changed, "info.sigma is 'input', but D ignores it.")


def _sizes(D: Denoiser, x: Tensor, sigma: float) -> Iterator[Check]:
    generator = torch.Generator().manual_seed(1)
    for shape in ((1, 1), (1, 9), (13, 1), (7, 11)):
        small = torch.rand(1, x.shape[1], *shape, generator=generator).to(x)
        name = f"takes {shape[0]} x {shape[1]} pixels"

        def tiny(small: Tensor = small, name: str = name) -> Check:
            out = D(small, sigma)
            good = out.shape == small.shape and bool(torch.isfinite(out).all())
            return Check(name, good, f"{tuple(out.shape)}")

        yield guarded(name, tiny)


def _kinds(D: Denoiser, x: Tensor, sigma: float) -> Iterator[Check]:
    strided = x.transpose(-1, -2)
    gap = float((D(strided, sigma) - D(strided.contiguous(), sigma)).abs().max())
    yield at_most("non-contiguous input", gap, 1e-4)
    double = D(x.double(), sigma)
    close = float((double - D(x, sigma)).abs().max()) < 1e-3
    good = double.dtype == torch.float64 and close
    yield Check("float64 in, float64 out", good, f"{double.dtype}")
    yield refuses(lambda bad: D(bad, sigma), (x[0], x.int(), None))  # type: ignore[arg-type]


def _reach(D: Denoiser, channels: int, sigma: float, place: torch.device) -> Iterator[Check]:
    field = describe(D).field
    if field is None:
        return
    side = 2 * field + 9
    generator = torch.Generator().manual_seed(2)
    big = torch.rand(1, channels, side, side, generator=generator).to(place)
    touched = big.clone()
    touched[..., 0, :] += 1
    touched[..., :, 0] += 1
    far = (..., slice(field + 1, None), slice(field + 1, None))
    yield Check(
        f"pixels further than field = {field} have no influence",
        torch.equal(D(big, sigma)[far], D(touched, sigma)[far]),
        "info.field is too small, or D is not local.",
    )


def _reduces(D: Denoiser, channels: int, sigma: float, place: torch.device) -> Check:
    clean = _smooth(channels, 64, 64).to(place)
    generator = torch.Generator().manual_seed(3)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator).to(place)
    before = float((noisy - clean).square().mean())
    after = float((D(noisy, sigma) - clean).square().mean())
    name = "noise on a smooth image is reduced"
    return Check(name, after < 0.5 * before, f"mean squared error {before:.2e} -> {after:.2e}")
