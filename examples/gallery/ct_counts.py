"""
CT from photon counts
=====================
A scanner counts photons. The counts say how much each ray can be trusted: few photons behind bone,
many beside the body. A fan-beam scan of 2000 photons a ray is simulated and reconstructed.
"""

import torch
import torch.nn.functional as F

from pnp_mlpatch import denoisers, reconstruct, rescaled, samples
from pnp_mlpatch.ct import FanBeam, line_integrals, simulate_counts, to_attenuation, to_hounsfield
from pnp_mlpatch.ct.units import MU_WATER, hounsfield_range
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.solvers import make_problem, schedules
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, views, steps = (96, 90, 4) if quick else (192, 240, 30)

# %%
# The scan
# --------
# Lengths are in mm. The flat field is what the detector counts without an object, the dark field
# what it counts without a beam. One detector element is dead.
hounsfield = F.interpolate(samples.chest_ct().clamp(-1024, 1024), size=(size, size), mode="area")
water = MU_WATER[70]  # attenuation of water at 70 keV, in 1/mm
distances = {"source_origin": 541.0, "origin_detector": 408.0, "pixel": 430 / size}
A = Radon(FanBeam((size, size), views, **distances), cache=False)
flat, dark = torch.full(A.data_shape[-1:], 2000.0), 20.0
flat[A.data_shape[-1] // 3] = 0
q, _ = simulate(A, to_attenuation(hounsfield, water))
counts = simulate_counts(q, flat + dark, dark, seed=0)

# %%
# Line integrals and their noise
# ------------------------------
# The noise is a map: it is large where few photons arrived, and infinite for the dead element.
q, noise = line_integrals(counts, flat + dark, dark)
print(f"noise from {float(noise.min()):.3f} to {float(noise[noise.isfinite()].max()):.3f}")

# %%
# Reconstruction
# --------------
# ``rescaled`` lets a denoiser for values from 0 to 1 work on attenuation. The level of the denoiser
# follows from the noise.
scale, offset = hounsfield_range(water)
D = rescaled(denoisers.make("mlpatch", weights="mlpatch-ct"), scale, offset)
level = schedules.from_noise(A, noise, scale=scale)
result = reconstruct(q, A, D, "fast_admm", noise=noise, sigma=level, iterations=steps)

# %%
truth = ((hounsfield + 1024) / 2048).clamp(0, 1)
problem = make_problem(q, A, noise)  # its start fills the gap of the detector
images = {"filtered backprojection": problem.A.initial(problem.q), "MLPatch": result.x}
images = {name: (to_hounsfield(x, water) + 1024) / 2048 for name, x in images.items()}
print(table([{"method": n, "PSNR (dB)": float(psnr(x, truth))} for n, x in images.items()]))
panel(out / "ct_counts.png", images | {"truth": truth}, truth=truth, window=(0, 0.75))
