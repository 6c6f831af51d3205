"""One dial: a size in parameters becomes widths, layers and the number of tokens in a step."""

from __future__ import annotations

import math
import re

from allod.core.errors import Invalid
from allod.model.network.llama import Shape

LADDER = ("1m", "2m", "5m", "15m", "30m", "60m", "124m", "350m", "1b")
"""Sizes that `auto` chooses from."""
WIDTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096)
QUANTISABLE = 12_000_000  # from here on widths are multiples of 256, as the engine's K-quants want them
MAX_PARAMETERS = 10_000_000_000
MIN_LAYERS = 2
MIN_STEP_TOKENS = 2048
WIDTH_OF_A_LAYER = 64  # one layer for each so many channels, about; at least four
SHAPELY = 0.25  # how much the proportion of width to layers counts beside the number of parameters


def parse_size(size: str) -> int:
    """Parameters that a size such as `5m`, `0.5m` or `1b` asks for. Raises Invalid."""
    found = re.fullmatch(r"(\d{1,4}(?:\.\d{1,2})?)([mb])", size)
    number = round(float(found[1]) * {"m": 1_000_000, "b": 1_000_000_000}[found[2]]) if found else 0
    if not 100_000 <= number <= MAX_PARAMETERS:
        raise Invalid(
            f"{size!r} is no size of a model",
            code="size_invalid",
            hint="such as 1m, 5m, 124m, 1b, or auto",
            param="size",
        )
    return number


def shape_of(size: str, *, vocab: int, context: int) -> Shape:
    """The network of about `size` parameters, its table of words included.

    Heads are 64 wide (32 in the tiniest). Among the widths in steps of 64 (256 from 12 million on) the one is taken
    that comes nearest to the size with about one layer for each 64 channels.
    """
    wanted = parse_size(size)
    step = 256 if wanted >= QUANTISABLE else 64
    widths = [width for width in WIDTHS if width % step == 0]
    shapes = [_fill(width, wanted, step=step, vocab=vocab, context=context) for width in widths]
    return min(shapes, key=lambda shape: _distance(shape, wanted))


def batch_rows(shape: Shape) -> int:
    """Windows of `context` tokens in one step: a power of two, about two tokens for each thousand parameters.

    Small steps, and so many of them, are what a small network learns from most in few minutes; smaller still, and the
    optimiser's own work for a step counts (docs/log.md). A large network keeps many ranks busy with a large step.
    """
    tokens = max(MIN_STEP_TOKENS, shape.num_parameters / 500)
    return max(2, 1 << round(math.log2(tokens / shape.context)))


def _fill(width: int, wanted: int, *, step: int, vocab: int, context: int) -> Shape:
    """The network of this width whose number of layers comes nearest to the wanted parameters."""
    heads = max(2, width // 64)
    hidden = max(step, round(width * 8 / 3 / step) * step)
    one, two = (Shape(vocab, width, layers, heads, heads, hidden, context).num_parameters for layers in (1, 2))
    layers = max(MIN_LAYERS, 1 + round((wanted - one) / (two - one)))
    return Shape(vocab, width, layers, heads, heads, hidden, context)


def _distance(shape: Shape, wanted: int) -> float:
    layers = max(4, shape.width / WIDTH_OF_A_LAYER)
    return abs(math.log(shape.num_parameters / wanted)) + SHAPELY * abs(math.log(shape.layers / layers))
