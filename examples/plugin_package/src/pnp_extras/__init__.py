"""Plugins for pnp_mlpatch: the operator ``superres``, the denoiser ``guided``, the solver ``nesterov``; found by their entry points."""
