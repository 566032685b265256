"""
What MLPatch looks at
=====================
The value of a pixel follows from a patch of samples around it. In the network of the talk their
places are learned.
"""

import torch

from pnp_mlpatch import denoisers, samples, viz
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.viz import table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)

# %%
# The patch
# ---------
# One marker for each sample; its area is its weight in the first layer.
D = denoisers.make("mlpatch", weights="mlpatch-samples-grey")
viz.save(viz.patch(D), out / "learned_patches.png", dpi=100)

# %%
# On an image
# -----------
# Positions need not be pixels.
clean = samples.camera()[..., 60:140, 200:280].contiguous()
sigma = 25 / 255
noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
figure = viz.patches_over(D, noisy, [(20, 30), (60.5, 40.25), (76, 3)], sigma)
viz.save(figure, out / "learned_patches_over.png", dpi=100)

# %%
# Patches that follow the content
# -------------------------------
# Another network moves its samples by what it sees, twice. In flat regions the patch is round; at
# an edge it is narrow, follows the edge, and stays on the side of its pixel.
follows = denoisers.make("mlpatch", weights="mlpatch-deform-grey")
figure = viz.patches_over(follows, noisy, [(36, 57), (33, 62), (50, 68), (60, 30)], sigma)
viz.save(figure, out / "learned_patches_follow.png", dpi=100)

# %%
# What moves the result
# ---------------------
# The derivative of one output pixel by each input pixel, over four decades: grey is exactly zero.
# A convolutional network of three scales looks much further.
for name, other in (("MLPatch", D), ("U-Net", denoisers.make("unet"))):
    figure = viz.receptive_field(other, noisy, (40, 40), sigma)
    viz.save(figure, out / f"learned_patches_{name}.png", dpi=100)

# %%
# How good it is
# --------------
all_three = {"learned patch": D, "follows": follows, "U-Net": denoisers.make("unet")}
rows = [
    {"denoiser": name, "PSNR (dB)": float(psnr(denoiser(noisy, sigma), clean))}
    for name, denoiser in all_three.items()
]
print(table(rows))
