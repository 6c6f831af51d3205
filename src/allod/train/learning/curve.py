"""The loss curve, as lines of JSON and as a picture; the same bytes each time, with nothing to install for it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from allod.core.canonical import canonical_json

LOSSES = "losses.jsonl"
CURVE = "curve.png"
WIDTH, HEIGHT = 800, 450
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 40  # margins in pixels
NUM_LINES = 5  # of the grid, across and up
PALETTE = ((255, 255, 255), (225, 225, 225), (150, 180, 215), (20, 60, 120), (60, 60, 60))
BACKGROUND, GRID, EVERY, SMOOTH, INK = range(5)
SMOOTHED = 0.95  # how much of the smooth line is what came before
FONT = {  # three columns by five rows, a bit for each pixel
    "0": 0o75557, "1": 0o26227, "2": 0o71747, "3": 0o71717, "4": 0o55711, "5": 0o74717, "6": 0o74757,
    "7": 0o71122, "8": 0o75757, "9": 0o75717, ".": 0o00002,
}  # fmt: skip
ZOOM = 3


def write_curve(losses: Sequence[float], folder: Path, *, tokens_per_step: int) -> None:
    """Write the loss of every step, in nats a token, to `losses.jsonl`, and draw it to `curve.png`."""
    with (folder / LOSSES).open("wb") as file:
        for number, loss in enumerate(losses, start=1):
            line = canonical_json({"loss": f"{loss:.6f}", "step": number, "tokens": number * tokens_per_step})
            file.write(line + b"\n")
    (folder / CURVE).write_bytes(draw(losses))


def draw(losses: Sequence[float]) -> bytes:
    """A PNG: steps to the right, loss upwards; every loss in a light colour and a smoothed line in a dark one."""
    pixels = [bytearray([BACKGROUND]) * WIDTH for _ in range(HEIGHT)]
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    _draw_grid(pixels, low, high, len(losses))
    columns = [_across(number / max(1, len(losses) - 1)) for number in range(len(losses))]
    _draw_line(pixels, columns, [_up((loss - low) / span) for loss in losses], EVERY)
    _draw_line(pixels, columns, [_up((loss - low) / span) for loss in _smooth(losses)], SMOOTH)
    return _png(pixels)


def _smooth(losses: Sequence[float]) -> list[float]:
    """A running mean that forgets; corrected for its short memory at the beginning."""
    smooth, value, weight = [], 0.0, 0.0
    for loss in losses:
        value = SMOOTHED * value + (1 - SMOOTHED) * loss
        weight = SMOOTHED * weight + (1 - SMOOTHED)
        smooth.append(value / weight)
    return smooth


def _across(share: float) -> int:
    return LEFT + round(share * (WIDTH - LEFT - RIGHT - 1))


def _up(share: float) -> int:
    return HEIGHT - BOTTOM - 1 - round(share * (HEIGHT - TOP - BOTTOM - 1))


def _draw_grid(pixels: list[bytearray], low: float, high: float, num_steps: int) -> None:
    for line in range(NUM_LINES + 1):
        share = line / NUM_LINES
        across, up = _across(share), _up(share)
        pixels[up][LEFT : WIDTH - RIGHT] = bytes([GRID]) * (WIDTH - LEFT - RIGHT)
        for row in range(TOP, HEIGHT - BOTTOM):
            pixels[row][across] = GRID
        _draw_text(pixels, f"{low + share * (high - low):.2f}", LEFT - 8, up - 7)
        _draw_text(pixels, str(round(share * num_steps)), min(across + 20, WIDTH - 4), HEIGHT - BOTTOM + 12)


def _draw_text(pixels: list[bytearray], text: str, right: int, top: int) -> None:
    """Digits that end at `right`."""
    for index, letter in enumerate(reversed(text)):
        left = right - (index + 1) * 4 * ZOOM
        for bit in range(15):
            if FONT[letter] >> (14 - bit) & 1:
                for row in range(ZOOM):
                    start = left + bit % 3 * ZOOM
                    pixels[top + bit // 3 * ZOOM + row][start : start + ZOOM] = bytes([INK]) * ZOOM


def _draw_line(pixels: list[bytearray], across: Sequence[int], up: Sequence[int], colour: int) -> None:
    """From point to point, two pixels thick: each column is filled over the heights that the line has in it."""
    for (x0, y0), (x1, y1) in zip(zip(across, up, strict=True), zip(across[1:], up[1:], strict=True), strict=False):
        for x in range(x0, x1 + 1):
            span = max(1, x1 - x0)
            begin, end = y0 + (y1 - y0) * (x - x0) // span, y0 + (y1 - y0) * min(span, x + 1 - x0) // span
            for y in range(min(begin, end), max(begin, end) + 2):
                pixels[y][x] = colour


def _png(pixels: list[bytearray]) -> bytes:
    """One byte a pixel with a palette (PNG specification, ISO/IEC 15948)."""
    rows = b"".join(b"\0" + row for row in pixels)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(value for colour in PALETTE for value in colour)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
