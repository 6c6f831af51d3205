"""The loss curve, as data and as a picture."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from allod.train.learning.curve import BACKGROUND, EVERY, HEIGHT, SMOOTH, WIDTH, draw, write_curve


def pixels(png: bytes) -> list[bytes]:
    """Rows of a PNG with one byte a pixel, its checks checked."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    place, data = 8, b""
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        data += body if kind == b"IDAT" else b""
        place += 12 + length
    rows = zlib.decompress(data)
    return [rows[row * (WIDTH + 1) + 1 : (row + 1) * (WIDTH + 1)] for row in range(HEIGHT)]


@pytest.mark.parametrize("losses", [[3.0], [2.0, 2.0], [7.0, 6.0, 5.5, 5.2], [9 - n / 500 for n in range(3000)]])
def test_it_is_a_picture(losses: list[float]) -> None:
    """Any number of losses, one and equal ones included, makes a whole PNG."""
    assert {len(row) for row in pixels(draw(losses))} == {WIDTH}


def test_a_falling_loss_falls() -> None:
    """The line is high at the left and low at the right."""
    rows = pixels(draw([7 - number / 20 for number in range(100)]))
    heights = [[row for row in range(HEIGHT) if rows[row][column] in (EVERY, SMOOTH)] for column in (90, WIDTH - 40)]
    assert max(heights[0]) < min(heights[1])
    assert rows[0][0] == BACKGROUND


def test_the_same_losses_are_the_same_bytes(tmp_path: Path) -> None:
    """No time and no name of a program is in the files; numbers have six decimals."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_curve([7.62431, 7.1], tmp_path / name, tokens_per_step=1024)
    for name in ("losses.jsonl", "curve.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "a" / "losses.jsonl").read_text().splitlines()]
    assert lines == [
        {"loss": "7.624310", "step": 1, "tokens": 1024},
        {"loss": "7.100000", "step": 2, "tokens": 2048},
    ]
