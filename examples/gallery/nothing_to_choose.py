"""
Nothing to choose
=================
Data and an operator, and nothing else: no noise level, no settings, no truth. The noise is
estimated, and a search finds the level of the denoiser and the number of iterations.
"""

import torch

from pnp_mlpatch import reconstruct, samples, viz
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (48, 5) if quick else (128, 20)

# %%
# Data
# ----
truth = samples.camera()[..., 60 : 60 + size, 190 : 190 + size].contiguous()
A = Blur(gaussian_psf(1.6), (1, size, size))
q = A(truth) + 4 / 255 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))

# %%
# One run, then a search
# ----------------------
# Without settings there is one run: its level follows from the estimated noise. ``tune="auto"``
# makes at most twelve, and keeps the one that predicts held-out data best. ``tuned`` says what was
# chosen, and why.
one = reconstruct(q, A, "mlpatch", iterations=iterations)
print(one.tuned)
best = reconstruct(q, A, "mlpatch", iterations=iterations, tune="auto")
print(best.tuned)
print(f"noise: {255 * float(best.tuned.noise):.2f}/255, in truth 4/255")

# %%
# Result
# ------
# Only here, at the end, the truth is used.
images = {"data": q, "one run": one.x, "search": best.x}
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
panel(out / "nothing_to_choose.png", images | {"truth": truth}, truth=truth)

# %%
viz.save(best.plot(), out / "nothing_to_choose_run.png")
