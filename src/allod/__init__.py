"""Allod: train, serve, govern and prove language models wholly inside one's own perimeter."""

__version__ = "0.1.0"
