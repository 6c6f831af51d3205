"""The architectures that an adapter can be learnt over, written for and loaded beside."""

from __future__ import annotations

from pathlib import Path

from allod.core.errors import Invalid
from allod.model.gguf.header import read_header

ADAPTABLE = ("llama", "qwen2")  # as GGUF's `general.architecture`, and transformers' `model_type`, have them


def check_adaptable(base: Path) -> None:
    """Raise Invalid (`base_unsupported`) for a GGUF file that no adapter of ours would load beside; before any work."""
    architecture = read_header(base).architecture
    if architecture not in ADAPTABLE:
        raise Invalid(
            f"an adapter over {base.name} would not load: its architecture is {architecture}",
            code="base_unsupported",
            param="adapt.base",
            hint=f"adapt a model of the architecture {' or '.join(ADAPTABLE)}",
        )
