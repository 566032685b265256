"""Plugins for pnp_mlpatch: ``superres``, ``guided`` and ``nesterov``: by entry points."""
