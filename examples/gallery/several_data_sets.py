"""
Several data sets
=================
One image, seen by two instruments: one is sharp and sees few pixels, the other sees all of them,
blurred. Each has its own noise.
"""

import torch

from pnp_mlpatch import operators, reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.mask import Mask
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (64, 4) if quick else (160, 20)

# %%
# Data
# ----
# ``stack`` joins the operators. ``noise`` joins the levels, which decide what each data set counts.
truth = samples.camera()[..., 100 : 100 + size, 180 : 180 + size].contiguous()
sharp, blurred = Mask.random((1, size, size), keep=0.15), Blur(gaussian_psf(2.0), (1, size, size))
A = operators.make("stack", blocks=[sharp, blurred])
levels = (10 / 255, 2 / 255)
generator = torch.Generator().manual_seed(0)
parts = [
    y + level * torch.randn(y.shape, generator=generator)
    for y, level in zip(A.split(A(truth)), levels, strict=True)
]

# %%
# Each alone, and both
# --------------------
# ``consensus`` runs the data step of each operator by itself; ``admm`` would solve both by
# conjugate gradients. Their fixed points are the same.
settings = {"sigma": 12 / 255, "iterations": iterations}
results = {
    "sharp alone": reconstruct(parts[0], sharp, "mlpatch", noise=levels[0], **settings),
    "blurred alone": reconstruct(parts[1], blurred, "mlpatch", noise=levels[1], **settings),
    "both": reconstruct(
        A.join(parts), A, "mlpatch", "consensus", noise=A.noise(list(levels)), **settings
    ),
}

# %%
images = {name: result.x for name, result in results.items()}
print(table([{"data": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
data = {"data, sharp": parts[0], "data, blurred": parts[1]}
panel(out / "several_data_sets.png", {**data, **images, "truth": truth})
