"""Princeton WordNet's definitions and examples: a document a lexicographer's file (`noun.animal`), a line a meaning.

Formats: wndb(5WN), lexnames(5WN).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from allod.core.errors import Invalid

_FILES = {"usr/share/wordnet/data." + part: part for part in ("adj", "adv", "noun", "verb")}
_CALLED = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}

# Files by their number in lexnames(5WN).
_TOPICS = [
    *("adj.all", "adj.pert", "adv.all"),
    *("noun." + topic for topic in ("Tops", "act", "animal", "artifact", "attribute", "body", "cognition")),
    *("noun." + topic for topic in ("communication", "event", "feeling", "food", "group", "location", "motive")),
    *("noun." + topic for topic in ("object", "person", "phenomenon", "plant", "possession", "process", "quantity")),
    *("noun." + topic for topic in ("relation", "shape", "state", "substance", "time")),
    *("verb." + topic for topic in ("body", "change", "cognition", "communication", "competition", "consumption")),
    *("verb." + topic for topic in ("contact", "creation", "emotion", "motion", "perception", "possession")),
    *("verb." + topic for topic in ("social", "stative", "weather")),
    "adj.ppl",
]

_MEANING = re.compile(rb"[0-9]{8} ([0-9]{2}) ([nvasr]) ([0-9a-f]{2}) (.+?) \| (.+)")
_POSITION = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand


def wants(member: str) -> bool:
    """Whether the reader needs this member of the package."""
    return member in _FILES


def read(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Name and text of every topic that has a meaning in it. Raises Invalid (`wordnet`)."""
    lines: dict[str, list[str]] = {topic: [] for topic in _TOPICS}
    for path, content in sorted(members.items()):
        for number, line in enumerate(content.splitlines(), start=1):
            if line.startswith(b"  "):  # the licence stands at the head of each file
                continue
            try:
                topic, text = _read_meaning(line)
            except ValueError as error:
                raise Invalid(f"{path}, line {number}: no meaning", code="wordnet") from error
            lines[topic].append(text)
    for topic in _TOPICS:
        if lines[topic]:
            yield topic, "\n".join(lines[topic]) + "\n"


def _read_meaning(line: bytes) -> tuple[str, str]:
    """`breathe, respire (verb): draw air into, and expel out of, the lungs`, and its topic."""
    match = _MEANING.fullmatch(line.rstrip())
    if match is None or int(match[1]) >= len(_TOPICS):
        raise ValueError("not of the form that wndb(5WN) gives")
    fields = match[4].decode("utf-8").split(" ")
    words = fields[0 : 2 * int(match[3], 16) : 2]  # each is followed by a number
    called = ", ".join(_POSITION.sub("", word).replace("_", " ") for word in words)
    return _TOPICS[int(match[1])], f"{called} ({_CALLED[match[2].decode()]}): {match[5].decode('utf-8').strip()}"
