"""Whole jobs: a CT volume, a mass map."""
