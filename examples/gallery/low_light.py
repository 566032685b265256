"""
Low light
=========
A dim photograph of a few photons a pixel, and the same through a lens out of focus.
"""

import torch

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators import Emission
from pnp_mlpatch.operators.blur import Blur, disk_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, steps = (64, 4) if quick else (224, 30)
truth = samples.camera()[..., 60 : 60 + size, 160 : 160 + size].contiguous()
D = denoisers.make("mlpatch")
seed = torch.Generator().manual_seed(0)

# %%
# Counts
# ------
# White is 10 photons a pixel; 1 more comes from elsewhere. The variance of a count is its mean.
gain, background = 10.0, 1.0
counts = torch.poisson(gain * truth + background, seed)

# %%
# Anscombe
# --------
# The classical way: make the noise 1 everywhere by a root, denoise, and go back (here by the
# inverse of Makitalo and Foi 2011, which is unbiased).
top = 2 * (gain + background + 3 / 8) ** 0.5
y = top * D(2 * (counts + 3 / 8).sqrt() / top, 1 / top)
y = y**2 / 4 + 1.5**0.5 / 4 / y - 11 / 8 / y**2 + 5 / 8 * 1.5**0.5 / y**3 - 1 / 8
anscombe = (y - background) / gain

# %%
# The likelihood
# --------------
# ``Emission`` makes the likelihood of counts an operator. Its data step is exact for each pixel.
E = Emission(Identity(truth.shape[1:]), counts, gain, background)
result = reconstruct(E.q, E, D, noise=1.0, iterations=steps)
images = {"counts": (counts - background) / gain, "Anscombe": anscombe, "PnP": result.x}

# %%
# Out of focus
# ------------
# A root would make the blur nonlinear. For the likelihood only A changes. White is 100 photons.
A, gain = Blur(disk_psf(3.0), truth.shape[1:], "reflect"), 100.0
blurred = torch.poisson(gain * A(truth) + background, seed)
E = Emission(A, blurred, gain, background)
result = reconstruct(E.q, E, D, noise=1.0, iterations=steps, data_iterations=10)
images |= {"blurred": (blurred - background) / gain, "PnP, blurred": result.x}

# %%
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
panel(out / "low_light.png", images | {"truth": truth}, truth=truth)
