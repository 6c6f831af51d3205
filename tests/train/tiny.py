"""Sources, and recipes for networks that are smaller than a recipe may ask for: tests wait for nothing."""

from __future__ import annotations

from copy import copy
from typing import Any

from allod.train.recipe import Recipe, Source


def source(name: str, held_out: tuple[str, ...] = ()) -> Source:
    """Text of our own beside the recipe."""
    return Source(name, "text", "CC0-1.0", "GB", "written for the tests", "2026", path=name, held_out=held_out)


def tiny(recipe: Recipe, size: str = "0.1m", **changes: Any) -> Recipe:
    """`recipe` with `changes` and a size, which its check would refuse."""
    small = copy(recipe)
    for name, value in {"size": size, **changes}.items():
        object.__setattr__(small, name, value)
    return small
