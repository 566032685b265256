"""
A dark matter map
=================
Weak lensing shears the images of distant galaxies. From the shear of many galaxies follows the
convergence, a map of the matter in front of them. The sky is simulated, the noise and the mask are
those of the COSMOS survey.
"""

import torch

from pnp_mlpatch import denoisers, samples
from pnp_mlpatch.lensing import ShearMap, convergence_spectrum, judge, shear_of, wiener
from pnp_mlpatch.lensing.estimators import kaiser_squires, optimal_width, smoothed
from pnp_mlpatch.pipelines.mass_map import MassMapConfig, map_mass
from pnp_mlpatch.viz import mass_panel, table
from pnp_mlpatch.viz.example import options

quick, out = options(__doc__)
part = slice(130, 210) if quick else slice(60, 300)

# %%
# The shear
# ---------
# The noise is the standard deviation of each component in a pixel; it is infinite where there are
# no galaxies.
kappa, noise, pixel = samples.lensing()
truth, noise = (x[part, part].contiguous() for x in (kappa - kappa.mean(), noise))
seen = torch.isfinite(noise)
gamma = shear_of(truth[None, None])[0]
generator = torch.Generator().manual_seed(0)
gamma = gamma + torch.where(seen, noise, 0.0) * torch.randn(gamma.shape, generator=generator)
shear = ShearMap(gamma, noise=noise, pixel=pixel)

# %%
# Four maps
# ---------
# Kaiser-Squires inverts the shear and keeps its noise; smoothing lowers it. The Wiener filter knows
# the power spectrum. ``map_mass`` has a denoiser that was trained on generated maps.
ks = kaiser_squires(gamma[None])
width = optimal_width(noise, convergence_spectrum, pixel)
D = denoisers.make("mlpatch", weights="mlpatch-kappa")
found = map_mass(shear, D, MassMapConfig(iterations=8) if quick else None)
maps = {
    f"smoothed, {width}": smoothed(ks, width, pixel)[0, 0],
    "Wiener filter": wiener(gamma[None], noise, convergence_spectrum, pixel)[0, 0],
    "MLPatch": found.kappa[0],
}

# %%
# The PSNR says little here: a map of zeros has a high one. The correlation says more.
scores = {name: judge(x[None], truth, pixel, seen) for name, x in maps.items()}
rows = [{"map": n, "correlation": s["pearson"], "PSNR (dB)": s["psnr"]} for n, s in scores.items()]
print(table(rows))
mass_panel(out / "mass_map.png", {"truth": truth, **maps}, pixel=pixel, mask=seen)
