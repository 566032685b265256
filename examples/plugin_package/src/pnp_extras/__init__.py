"""Plugins for pnp_mlpatch: the operator ``superres``, the denoiser ``guided``, the solver ``fista``; found by their entry points."""
