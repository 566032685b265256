"""
An operator of your own
=======================
An operator is two functions: what is measured of an image, and the adjoint. Solvers, starts, noise
levels and gradients follow from them.
"""

import torch

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.testing import check_operator
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (64, 4) if quick else (160, 30)


# %%
# The operator
# ------------
# A camera whose rows are exposed one after the other while it moves: row k is shifted by k times
# ``speed`` pixels, and each reading is the mean of two neighbours.
class RollingShutter(LinearOperator):
    def __init__(self, image_shape, speed=0.25):
        super().__init__(image_shape, image_shape)
        rows, cols = (torch.arange(n) for n in image_shape[-2:])
        self.shift = (rows * speed).long()[:, None]
        self.cols = cols

    def _moved(self, x, sign):
        places = (self.cols + sign * self.shift) % x.shape[-1]
        return x.gather(-1, places.expand(x.shape))

    def _forward(self, x):
        y = self._moved(x, 1)
        return (y + y.roll(1, -1)) / 2

    def _adjoint(self, y):
        return self._moved((y + y.roll(-1, -1)) / 2, -1)


# %%
# Its checks
# ----------
for check in check_operator(RollingShutter((1, 9, 11))):
    print(f"{check.name}: passed")

# %%
# A reconstruction
# ----------------
truth = samples.camera()[..., 100 : 100 + size, 180 : 180 + size].contiguous()
A, noise = RollingShutter((1, size, size)), 4 / 255
q = A(truth) + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
result = reconstruct(q, A, "mlpatch", noise=noise, iterations=iterations)
images = {"data": q, "MLPatch": result.x}
print(table([{"image": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
panel(out / "own_operator.png", images | {"truth": truth})
