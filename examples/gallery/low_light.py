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
size = 64 if quick else 224
truth = samples.camera()[..., 60 : 60 + size, 160 : 160 + size].contiguous()
D, background = denoisers.make("mlpatch"), 1.0
seed = torch.Generator().manual_seed(0)


# %%
# Anscombe
# --------
# The classical way: a root makes the noise 1 everywhere; denoise, and go back (here by the inverse
# of Makitalo and Foi 2011, which is unbiased). It knows no blur.
def anscombe(counts, gain):
    top = 2 * (gain + background + 3 / 8) ** 0.5
    y = top * D(2 * (counts + 3 / 8).sqrt() / top, 1 / top)
    y = y**2 / 4 + 1.5**0.5 / 4 / y - 11 / 8 / y**2 + 5 / 8 * 1.5**0.5 / y**3 - 1 / 8
    return (y - background) / gain


# %%
# The likelihood
# --------------
# ``Emission`` makes the likelihood of counts an operator: white is ``gain`` photons a pixel, and 1
# more comes from elsewhere. Its data step is exact for each pixel, and takes a few Newton steps
# where the light is spread by a lens.
shape, images = truth.shape[1:], {}
cases = {"dim": (Identity(shape), 10.0), "blurred": (Blur(disk_psf(3.0), shape, "reflect"), 100.0)}
for name, (A, gain) in cases.items():
    counts = torch.poisson(gain * A(truth) + background, seed)
    E = Emission(A, counts, gain, background)
    settings = {"sigma": 40 / 255, "iterations": 4 if quick else 8, "data_iterations": 10}
    result = reconstruct(E.q, E, D, noise=1.0, **settings)
    images[f"{name}: counts"] = (counts - background) / gain
    images[f"{name}: Anscombe"] = anscombe(counts, gain)
    images[f"{name}: PnP"] = result.x

# %%
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
panel(out / "low_light.png", images | {"truth": truth}, truth=truth)
