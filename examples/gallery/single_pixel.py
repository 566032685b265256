"""
Single-pixel camera
===================
A picture from a third of its Walsh-Hadamard coefficients, as a camera of one pixel measures them.
"""

import torch

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.hadamard import Hadamard
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size = 32 if quick else 256

# %%
# Data
# ----
# Each datum is the light that passes one pattern of open and closed mirrors. Half of the patterns
# are the coarsest ones, the others are drawn at random.
truth = samples.camera()[..., 60 : 60 + size, 160 : 160 + size].contiguous()
A = Hadamard((1, size, size), keep=0.3)
noise = 5 / 255
q = A(truth)
q = q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))
print(f"{A.data_shape[-1]} data for {truth.numel()} pixels")

# %%
# Two reconstructions
# -------------------
# Without a denoiser, coefficients that were not measured are 0. The data step of ADMM is exact,
# since the rows of A are orthonormal. Most coefficients are unknown: the level of the denoiser is
# higher than that of the noise.
zeros = A.adjoint(q)
iterations = 3 if quick else 30
pnp = reconstruct(q, A, "mlpatch", "admm", noise=noise, sigma=25 / 255, iterations=iterations)

images = {"zero-filled": zeros, "ADMM": pnp.x}
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
zoom = tuple(n * size // 256 for n in (60, 100, 90, 90))
panel(out / "single_pixel.png", images | {"truth": truth}, truth=truth, zoom=zoom)
