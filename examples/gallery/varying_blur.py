"""
Blur that varies over the image
===============================
A lens that is sharp in the middle and out of focus at the border.
"""

import torch

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.varying_blur import VaryingBlur
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size = 64 if quick else 224

# %%
# Data
# ----
# Two kernels, and a map for each: how much of the light of a pixel it spreads.
truth = samples.camera()[..., 60 : 60 + size, 160 : 160 + size].contiguous()
t = torch.linspace(-1, 1, size)
border = ((t[:, None] ** 2 + t**2) / 1.5).clamp(max=1)
kernels = torch.stack([gaussian_psf(0.6, size=15), gaussian_psf(2.5, size=15)])
A = VaryingBlur(kernels, torch.stack([1 - border, border]), (1, size, size), boundary="reflect")
noise = 2 / 255
q = A(truth)
q = q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))

# %%
# With one kernel, and with both
# ------------------------------
# One kernel for all rings in the middle and stays blurred at the border.
mean = Blur((kernels[0] + kernels[1]) / 2, (1, size, size), boundary="reflect")
how = {"noise": noise, "iterations": 2 if quick else 8}
one = reconstruct(q, mean, "mlpatch", "dpir", **how).x
both = reconstruct(q, A, "mlpatch", "dpir", **how).x

images = {"data": q, "one kernel": one, "two kernels": both}
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
zoom = tuple(n * size // 224 for n in (110, 60, 90, 90))
panel(out / "varying_blur.png", images | {"truth": truth}, truth=truth, zoom=zoom)
