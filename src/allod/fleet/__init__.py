"""Machines and jobs: what a site is like, whether a run may begin there, and how it is started. Knows no models."""
