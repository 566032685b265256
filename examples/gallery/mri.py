"""
MRI with every third line
=========================
A scanner measures the Fourier transform of a complex image, line by line. Fewer lines take less
time. A CT slice stands in for the magnitude; the phase is smooth.
"""

import math

import torch

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.mri import MRI, cartesian_mask
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)

# %%
# Data
# ----
# Images and data have two channels, the real and the imaginary part. Low frequencies are in the
# middle of the mask, and all of them are measured.
hu = torch.nn.functional.avg_pool2d(samples.chest_ct(), 8 if quick else 3)
magnitude, size = ((hu + 1024) / 2048).clamp(0, 1), hu.shape[-1]
y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, size)], indexing="ij")
truth = torch.polar(magnitude[:, 0], 0.8 * x - 0.5 * y + x * y)
truth = torch.view_as_real(truth).movedim(-1, -3)
mask = cartesian_mask((size, size), acceleration=3)
noise, generator = 0.02, torch.Generator().manual_seed(0)

# %%
# One coil and four
# -----------------
# With sensitivity maps, each coil has its own data. Denoisers of grey images get the two parts one
# after the other.
corners = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
maps = torch.stack([torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 2) for a, b in corners])
phases = torch.exp(1j * math.pi / 4 * torch.arange(4))[:, None, None]
maps = phases * maps / maps.square().sum(0).sqrt()
rows, images = [], {}
for coils, A in (("one coil", MRI(mask)), ("four coils", MRI(mask, maps))):
    q = A(truth)
    q = q + noise * mask * torch.randn(q.shape, generator=generator)
    steps = {"iterations": 2 if quick else 12, "alpha": 0.1}
    start = A.initial(q)
    result = reconstruct(q, A, "mlpatch", noise=noise, sigma=30 / 255, **steps)
    for name, found in (("zero-filled", start), ("MLPatch", result.x)):
        found = torch.linalg.vector_norm(found, dim=1, keepdim=True)
        images[f"{coils}, {name}"] = found
        rows.append({"": f"{coils}, {name}", "PSNR (dB)": float(psnr(found, magnitude))})
print(table(rows))
part = (size // 3, size // 6, size // 3, size // 3)
panel(out / "mri.png", images | {"truth": magnitude}, truth=magnitude, zoom=part)
