"""
Error bars
==========
Many images fit the same data. Samples of the posterior show where they differ, and images with a
known truth calibrate the width of the intervals.
"""

import torch

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import Mask
from pnp_mlpatch.uncertainty import calibrate, coverage
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, steps, burn_in = (48, 12, 4) if quick else (64, 40, 10)

# %%
# Data
# ----
# Four parts of a photograph. Three calibrate, the last one is the test.
corners = ((100, 200), (300, 100), (220, 300), (60, 240))
photo = samples.camera()
truth = torch.cat([photo[..., r : r + size, c : c + size] for r, c in corners])
A, noise = Mask.random((1, size, size), keep=0.4, seed=0), 5 / 255
q = A(truth + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)))

# %%
# Samples
# -------
# SK-ROCK (Laumont et al. 2022) starts from a reconstruction. The state has the standard deviation.
D = denoisers.make("mlpatch")
start = reconstruct(q, A, D, noise=noise, sigma=16 / 255, iterations=4 if quick else 20).x
settings = {"sigma": 10 / 255, "iterations": steps, "burn_in": burn_in, "box": (0.0, 1.0)}
chain = reconstruct(q, A, D, "skrock", noise=noise, x0=start, **settings)
mean, std = chain.x, chain.state.std

# %%
# Intervals
# ---------
# The factor is chosen so that the intervals hold 90 % of the pixels of the first three images.
found = calibrate(mean[:3], std[:3], truth[:3], level=0.9)
low, high = found.interval(mean[3:], std[3:])
print(f"factor {float(found.factor):.2f}, holds {float(coverage(low, high, truth[3:])):.1%}")

# %%
rows = [{"image": "start", "PSNR (dB)": float(psnr(start[3:], truth[3:])[0])}]
rows.append({"image": "mean of the samples", "PSNR (dB)": float(psnr(mean[3:], truth[3:])[0])})
print(table(rows))
error, scale = (mean[3:] - truth[3:]).abs(), 1 / float(std[3:].quantile(0.995))
missed = ((truth[3:] < low) | (truth[3:] > high)).float()
images = {"mean": mean[3:], "deviation": scale * std[3:], "|error|": scale * error}
panel(out / "error_bars.png", images | {"outside the interval": missed, "truth": truth[3:]})
