"""Sources, and recipes for networks that are smaller than a recipe may ask for: tests wait for nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from allod.train.recipe import Recipe, Source


def source(name: str, held_out: tuple[str, ...] = ()) -> Source:
    """Text of our own beside the recipe."""
    return Source(name, "text", "CC0-1.0", "GB", "written for the tests", "2026", path=name, held_out=held_out)


def tiny(recipe: Recipe, size: str = "0.1m", **changes: Any) -> Recipe:
    """`recipe` with `changes` and a size that its check would refuse."""
    small = replace(recipe, size="1m", **changes)
    object.__setattr__(small, "size", size)
    return small
