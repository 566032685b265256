"""
Training in two minutes
=======================
A small MLPatch learns from random pictures that the package draws: no data are needed. It is short
of the shipped weights, which learned from photographs for hours, but it denoises.
"""

import tempfile
from pathlib import Path

import torch

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.training import TrainConfig, train
from pnp_mlpatch.viz import panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)

# %%
# Training
# --------
# ``data`` may be a folder of pictures instead. The network sees crops of 32 x 32 pixels, and works
# on images of any size.
with tempfile.TemporaryDirectory() as folder:
    config = TrainConfig(
        data="procedural",
        validation=None,
        out=str(Path(folder) / "run"),
        model={"square": 3, "features": 16, "dilations": [1, 1, 2], "width": 32},
        size=64,
        crop=32,
        batch=8,
        steps=20 if quick else 800,
        lr=2e-3,
        warmup=10,
        ema=0.9 if quick else 0.99,
        card={"licence": "CC0-1.0"},
    )
    small = denoisers.make("mlpatch", weights=train(config, progress=False))
print(f"{sum(p.numel() for p in small.parameters())} parameters")

# %%
# Result
# ------
clean = samples.camera()[..., 100:260, 180:340].contiguous()
sigma = 25 / 255
noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
shipped = denoisers.make("mlpatch")
images = {"noisy": noisy, "just trained": small(noisy, sigma), "shipped": shipped(noisy, sigma)}
print(table([{"image": n, "PSNR (dB)": float(psnr(x, clean))} for n, x in images.items()]))
panel(out / "training_in_two_minutes.png", images | {"truth": clean}, truth=clean)
