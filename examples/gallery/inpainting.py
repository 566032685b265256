"""
Inpainting
==========
70 % of the pixels of a photograph are lost. The rest is enough to find them.
"""

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mask import Mask
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (64, 4) if quick else (224, 20)

# %%
# Data
# ----
truth = samples.camera()[..., 60 : 60 + size, 160 : 160 + size].contiguous()
A = Mask.random((1, size, size), keep=0.3, seed=0)
q = A(truth)

# %%
# Reconstruction
# --------------
# There is no noise in the data, so the weight ``alpha`` of the data step is given in its place.
# ``A.initial(q)``, where the solver starts, is biharmonic interpolation.
ours = reconstruct(q, A, "mlpatch", alpha=0.02, sigma=20 / 255, iterations=iterations)
tv = reconstruct(
    q, A, denoisers.make("tv", strength=0.02), alpha=0.05, sigma=12 / 255, iterations=2 * iterations
)

# %%
images = {"start": A.initial(q), "total variation": tv.x, "MLPatch": ours.x}
print(table([{"method": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
zoom = tuple(n * size // 224 for n in (30, 20, 80, 80))
panel(out / "inpainting.png", {"data": q} | images | {"truth": truth}, truth=truth, zoom=zoom)
