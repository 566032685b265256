"""
Super-resolution of a blurred photograph
========================================
A small colour picture is enlarged by 2, 3 and 4. It was blurred before it was shrunk, and the blur
is known, so a denoiser that never saw the task can undo both.
"""

import torch
from skimage.data import astronaut

from pnp_mlpatch import denoisers, reconstruct
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.downsample import Downsample
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, steps = (48, 3) if quick else (144, 20)

# %%
# Data
# ----
# The factor divides the sides of the picture. ``A.initial(q)``, where solvers start, is bicubic
# interpolation in the right place. ``Downsample.bicubic`` is the shrinking of image editors.
picture = torch.from_numpy(astronaut()).movedim(-1, 0)[None] / 255
truth = picture[..., 60 : 60 + size, 160 : 160 + size].contiguous()
D = denoisers.make("mlpatch")

# %%
# Two solvers
# -----------
# There is next to no noise, but solvers are told a little: their steps toward the data stay finite.
noise = 0.5 / 255
rows, images = [], {}
for factor in (2, 3, 4):
    A = Downsample.gaussian(tuple(truth.shape[1:]), factor, width=1.6)
    q = A(truth)
    q = q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))
    hqs = reconstruct(q, A, D, "dpir", noise=noise, iterations=min(steps, 8))
    admm = reconstruct(q, A, D, "admm", noise=noise, sigma=12 / 255, iterations=steps)
    for name, x in (("bicubic", A.initial(q)), ("HQS", hqs.x), ("ADMM", admm.x)):
        images[f"{name}, x {factor}"] = x.clamp(0, 1)
        score = float(psnr(x.clamp(0, 1), truth))
        rows.append({"factor": factor, "method": name, "PSNR (dB)": score})
print(table(rows))

# %%
images = {name: x for name, x in images.items() if "ADMM" not in name}  # it looks like HQS
zoom = tuple(n * size // 144 for n in (30, 40, 60, 60))
panel(out / "super_resolution_colour.png", images | {"truth": truth}, truth=truth, zoom=zoom)
