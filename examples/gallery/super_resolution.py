"""
Super-resolution at any coordinate
==================================
MLPatch is defined between the pixels. One network enlarges a picture by any factor, also by 2.5,
and computes single points.
"""

import torch
import torch.nn.functional as F

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size = 60 if quick else 120

# %%
# Data
# ----
# The picture is shrunk to 1/2 and to 1/2.5, antialiased.
truth = samples.camera()[..., 80 : 80 + 2 * size, 170 : 170 + 2 * size].contiguous()
S = denoisers.make("mlpatch", weights="mlpatch-sr")


def shrink(x, factor):
    return F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True)


# %%
# Enlarged
# --------
# The weights were trained for factors from 1 to 4, without noise.
rows, images = [], {}
for factor in (2.0, 2.5):
    small = shrink(truth, factor)
    ours = S.upscale(small, factor).clamp(0, 1)
    bicubic = F.interpolate(small, size=truth.shape[-2:], mode="bicubic").clamp(0, 1)
    for name, x in (("bicubic", bicubic), ("MLPatch", ours)):
        rows.append({"factor": factor, "method": name, "PSNR (dB)": float(psnr(x, truth))})
        images[f"{name}, x {factor}"] = x
print(table(rows))
part = (2 * size // 5, size // 3, 2 * size // 3, 2 * size // 3)
panel(out / "super_resolution.png", images | {"truth": truth}, truth=truth, zoom=part)

# %%
# One point
# ---------
# Coordinates are (row, column) in pixels of the small picture, pixel centres at the integers.
print(S.at(shrink(truth, 2.0), torch.tensor([[10.5, 20.25], [11.0, 20.25]])))
