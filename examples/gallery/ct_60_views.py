"""
CT from 60 views
================
A chest slice is measured from 60 directions, a tenth of what filtered backprojection needs. ADMM
with MLPatch reconstructs it without the streaks. MLPatch was trained on photographs of 128 x 128.
"""

import torch.nn.functional as F

from pnp_mlpatch import denoisers, reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.viz import curves, panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (96, 4) if quick else (256, 30)

# %%
# Data
# ----
# The Hounsfield units -1024 ... 1024 become values from 0 to 1. The projections are computed on a
# grid twice as fine as that of the reconstruction. The noise is white, 40 dB below the data.
truth = ((samples.chest_ct() + 1024) / 2048).clamp(0, 1)
truth = F.interpolate(truth, size=(size, size), mode="area")
A = Radon(image_shape=(1, size, size), angles=60, cache=False)
q, noise = simulate(A, truth, snr_db=40)

# %%
# Reconstruction
# --------------
# The operator, the denoiser and the solver are independent of each other. ``sigma`` is the noise
# level that the denoiser removes. Total variation, in the same solver, is beside it.
settings = {"noise": noise, "sigma": 20 / 255, "record": {"psnr": lambda x: psnr(x, truth)}}
tv = reconstruct(
    q, A, denoisers.make("tv", strength=1.0), iterations=5 if quick else 50, **settings
)
ours = reconstruct(q, A, "mlpatch", "admm", iterations=iterations, **settings)
print(ours.status)

# %%
# Result
# ------
# Values above 0.75, about 500 HU, are white. The last row shows the errors.
images = {"filtered backprojection": A.initial(q), "total variation": tv.x, "MLPatch": ours.x}
rows = [{"method": name, "PSNR (dB)": float(psnr(x, truth))} for name, x in images.items()]
print(table(rows))
panel(out / "ct_60_views.png", images | {"truth": truth}, truth=truth, window=(0, 0.75))

# %%
# Both runs go on until the image no longer changes, or the iterations are used up.
curves(out / "ct_60_views_convergence.png", {"TV": tv.history, "MLPatch": ours.history})
