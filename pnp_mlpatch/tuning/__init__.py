"""Settings from the data themselves: the search, the criteria, and the noise level."""

from pnp_mlpatch.tuning.auto import auto, tunable
from pnp_mlpatch.tuning.config import AutoConfig
from pnp_mlpatch.tuning.discrepancy import Discrepancy, chi2, discrepancy, recipe
from pnp_mlpatch.tuning.heldout import CrossValidation, cross_validate
from pnp_mlpatch.tuning.noise import noise_level
from pnp_mlpatch.tuning.sure import gcv, sure

__all__ = [
    "AutoConfig",
    "CrossValidation",
    "Discrepancy",
    "auto",
    "chi2",
    "cross_validate",
    "discrepancy",
    "gcv",
    "noise_level",
    "recipe",
    "sure",
    "tunable",
]
