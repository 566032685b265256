"""
A denoiser of your own
======================
A denoiser is a function ``D(x, sigma)`` on tensors (B, C, H, W). This one keeps the large
coefficients of a cosine transform, in overlapping blocks of 8 x 8 pixels.
"""

import math

import torch
import torch.nn.functional as F

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.convergence import expansion
from pnp_mlpatch.denoisers import check_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import Mask
from pnp_mlpatch.testing import check_denoiser
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (48, 4) if quick else (160, 30)

# %%
# The denoiser
# ------------
# The 64 cosine patterns are the kernels of a convolution. What is below 2.5 sigma is noise. The
# first pattern is the mean, which is kept.
k = torch.arange(8.0)
waves = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) * torch.where(k > 0, 0.5, 8**-0.5)[:, None]
basis = torch.einsum("ai,bj->abij", waves, waves).reshape(64, 1, 8, 8)


def dct_denoiser(x, sigma):
    check_image(x, "dct_denoiser")  # refuses what is no image in words
    limit = 2.5 * torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
    limit = limit.expand(len(x), x.shape[1], 1, 1).reshape(-1, 1, 1, 1)
    c = F.conv2d(F.pad(x.flatten(0, 1)[:, None], (7, 7, 7, 7), mode="replicate"), basis.to(x))
    kept = torch.where((c.abs() > limit) | (torch.arange(64) == 0)[:, None, None], c, 0)
    return F.conv_transpose2d(kept, basis.to(x))[..., 7:-7, 7:-7].reshape(x.shape) / 64


# %%
# Its checks; how much it expands
# -----------------------------------
print(", ".join(check.name for check in check_denoiser(dct_denoiser)))
truth = samples.camera()[..., 100 : 100 + size, 180 : 180 + size].contiguous()
print(expansion(dct_denoiser, truth[..., :32, :32], 12 / 255))

# %%
# In a solver
# -----------
A, noise = Mask.random((1, size, size), keep=0.4, seed=0), 2 / 255
q = A(truth + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)))
result = reconstruct(q, A, dct_denoiser, noise=noise, sigma=12 / 255, iterations=iterations)
images = {"start": A.initial(q), "cosine transform": result.x}
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
panel(out / "own_denoiser.png", {"data": q, **images, "truth": truth})
