"""
Other people's denoisers
========================
Any function of an image and a noise level is a denoiser. Only the denoiser changes here.
"""

import torch
import torch.nn.functional as F
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from pnp_mlpatch import as_denoiser, denoisers, reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import Mask
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (64, 3) if quick else (160, 20)


# %%
# Three of them
# -------------
# Two numpy functions of one image, and a network that does not know the noise level. Denoisers of
# deepinv need no wrapper: they are functions of an image and a level.
def nl_means(image, sigma):
    return denoise_nl_means(image, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6)


def total_variation(image, sigma):
    return denoise_tv_chambolle(image, weight=0.8 * sigma)


class Smooth(torch.nn.Module):
    def forward(self, x):
        kernel = torch.tensor([[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]]) / 16
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel)


candidates = {
    "scikit-image, NL means": as_denoiser(nl_means, array="numpy"),
    "a module of three lines": as_denoiser(Smooth(), sigma="ignored"),
    "scikit-image, TV": as_denoiser(total_variation, array="numpy"),
    "MLPatch": denoisers.make("mlpatch"),
}

# %%
# One problem
# -----------
# Inpainting with 30 % of the pixels and a little noise.
truth = samples.camera()[..., 100 : 100 + size, 180 : 180 + size].contiguous()
A, noise = Mask.random((1, size, size), keep=0.3, seed=0), 2 / 255
q = A(truth + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)))
images, rows = {}, []
for name, D in candidates.items():
    result = reconstruct(q, A, D, noise=noise, sigma=12 / 255, iterations=iterations)
    images[name] = result.x
    rows.append({"denoiser": name, "PSNR (dB)": float(psnr(result.x, truth))})
print(table(rows))
panel(out / "third_party_denoiser.png", {"data": q, **images, "truth": truth})
