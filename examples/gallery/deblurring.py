"""
Deblurring
==========
A photograph is out of focus and noisy. The point spread function is known.
"""

import torch

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size = 64 if quick else 224

# %%
# Data
# ----
# The blur is circular: what leaves on the right comes back on the left.
truth = samples.camera()[..., 60 : 60 + size, 160 : 160 + size].contiguous()
A = Blur(gaussian_psf(1.6), (1, size, size))
noise = 2 / 255
q = A(truth) + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

# %%
# Two solvers
# -----------
# ADMM keeps one level of the denoiser. HQS, here by the name ``dpir``, lowers it from 49/255 to the
# level of the noise in eight steps (Zhang et al. 2021).
admm = reconstruct(q, A, "mlpatch", "admm", noise=noise, iterations=4 if quick else 20)
hqs = reconstruct(q, A, "mlpatch", "dpir", noise=noise)
print(admm.tuned)

# %%
images = {"data": q, "ADMM": admm.x, "HQS": hqs.x}
seconds = {"data": 0.0, "ADMM": admm.seconds, "HQS": hqs.seconds}
rows = [
    {"image": n, "PSNR (dB)": float(psnr(x, truth)), "seconds": seconds[n]}
    for n, x in images.items()
]
print(table(rows))
zoom = tuple(n * size // 224 for n in (30, 20, 80, 80))
panel(out / "deblurring.png", images | {"truth": truth}, truth=truth, zoom=zoom)
