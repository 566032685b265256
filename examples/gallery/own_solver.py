"""
A solver of your own
====================
A solver is a frozen dataclass of settings with two methods, ``init`` and ``step``. The package adds
batches, stopping, histories, checkpoints and progress.
"""

from dataclasses import dataclass

import torch

from pnp_mlpatch import reconstruct, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.solvers import Splitting, SplittingState
from pnp_mlpatch.testing import check_solver
from pnp_mlpatch.viz import curves, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
size, iterations = (64, 4) if quick else (160, 20)


# %%
# The solver
# ----------
# Data step and denoiser in turn, with over-relaxation. ``Splitting`` has the settings ``sigma`` and
# ``alpha``; ``levels`` gives their values in this step, and ``data_step`` solves
# ``min |A f - q|^2 + alpha |f - x|^2``. A step returns a new state and does not change the old one.
@dataclass(frozen=True)
class Relaxed(Splitting[SplittingState]):
    relaxation: float = 1.5
    state_type = SplittingState

    def init(self, problem, x0):
        return SplittingState(x0, 0, x0.new_zeros(len(x0)))

    def step(self, problem, denoise, state):
        level = self.levels(problem, state)
        f, residual = self.data_step(problem, state.x, level["alpha"], state.x)
        x = state.x + self.relaxation * (denoise(f, level["sigma"]) - state.x)
        return SplittingState(x, state.iteration + 1, residual)


print(len(check_solver(Relaxed(), Blur(gaussian_psf(1.6), (1, 16, 16)))), "checks passed")

# %%
# In use
# ------
A, noise = Blur(gaussian_psf(1.6), (1, size, size)), 4 / 255
truth = samples.camera()[..., 100 : 100 + size, 180 : 180 + size].contiguous()
q = A(truth) + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
settings = {"noise": noise, "record": {"psnr": lambda x: psnr(x, truth)}}
runs = {}
for r in (1.0, 1.5):
    solver = Relaxed(sigma=8 / 255, iterations=iterations, relaxation=r)
    runs[f"relaxation {r}"] = reconstruct(q, A, "mlpatch", solver, **settings)
print(table([{"solver": n, "PSNR (dB)": run.history["psnr"][-1]} for n, run in runs.items()]))
curves(out / "own_solver.png", {name: run.history for name, run in runs.items()})
