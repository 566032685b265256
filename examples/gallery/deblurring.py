"""
Deblurring
==========
A shaken, noisy photograph. The blur is known, but not what lies beyond the border of the picture.
"""

import torch

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, motion_psf
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size = 64 if quick else 224

# %%
# Data
# ----
# A camera sees light from beyond its border. With ``boundary="valid"`` the data are those pixels
# that depend on the image alone, so the image is larger than the data.
scene = samples.camera()[..., 60 : 60 + size, 160 : 160 + size].contiguous()
psf = motion_psf(length=11, angle=0.6)
A = Blur(psf, (1, size, size), boundary="valid")
noise = 2 / 255
q = A(scene)
q = q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))
print(f"kernel {tuple(psf.shape)}, image {A.image_shape}, data {A.data_shape}")

# %%
# Three reconstructions
# ---------------------
# A circular blur takes what is beyond the right border from the left. Its Wiener filter rings. HQS,
# here by the name ``dpir``, lowers the level of the denoiser from 49/255 to that of the noise in
# eight steps (Zhang et al. 2021). ADMM keeps one level, which follows from the noise.
circular = Blur(psf, q.shape[1:])
mean = torch.full_like(q, float(q.mean()))
wiener, _ = circular.data_step(mean, 0.01, Aty=circular.adjoint(q))
admm = reconstruct(q, A, "mlpatch", "admm", noise=noise, iterations=4 if quick else 20)
hqs = reconstruct(q, A, "mlpatch", "dpir", noise=noise)
print(admm.tuned)

# %%
# They are compared where there are data.
truth = A.frame.crop(scene)
images = {"data": q, "Wiener, circular": wiener}
images |= {"ADMM": A.frame.crop(admm.x), "HQS": A.frame.crop(hqs.x)}
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
zoom = tuple(n * size // 224 for n in (90, 0, 80, 80))
panel(out / "deblurring.png", images | {"truth": truth}, truth=truth, zoom=zoom)
