"""LibreOffice's help in British English as Debian packs it: a document a page.

Of a page's HTML its text stays, with headings, lists, tables and programs as plain text writes them. Left out are the
frame around it and the links to other pages. Where a page has variants for systems or applications, the general one
stays, or else all but macOS's.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser

from allod.core.errors import Invalid

_PAGE = re.compile(r"usr/share/libreoffice/help/en-GB/text/([A-Za-z0-9_/.-]+)\.html")
_VOID = frozenset(
    {"a", "br", "col", "hr", "img", "input", "link", "meta"}
)  # `a` says nothing, and is not always closed
_BLOCKS = frozenset({"div", "dd", "dl", "dt", "ol", "p", "table", "ul", "aside", "section"})
_LEFT_OUT = frozenset({"relatedtopics", "noteicon"})
_SPACE = re.compile(r"[ \t\r\n]+")
MAX_DEPTH = 200


def wants(member: str) -> bool:
    """Whether the reader needs this member of the package."""
    return _PAGE.fullmatch(member) is not None


def read(members: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Name and text of every page, `swriter/guide/footnote_usage` and so on. Raises Invalid (`not_utf8`, `html`)."""
    for path, content in sorted(members.items()):
        match = _PAGE.fullmatch(path)
        assert match is not None  # it was wanted
        page = _Page()
        try:
            page.feed(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Invalid(f"{path} is not UTF-8: {error}", code="not_utf8") from error
        except RecursionError as error:
            raise Invalid(f"{path} is nested more than {MAX_DEPTH} deep", code="html") from error
        if text := page.text().strip():  # some pages are pictures alone
            yield match[1], f"{text}\n"


@dataclass(slots=True)
class _Element:
    tag: str
    is_left_out: bool
    variants: list[tuple[str, int, int]] | None = None  # of a switch: what for, and where in the pieces
    variant_of: _Element | None = field(default=None, repr=False)
    variant: str = ""
    start: int = 0
    number: int = 0  # of a list: the last item's


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[str] = []
        self._open: list[_Element] = []
        self._lists: list[_Element] = []
        self._gap = 0  # empty lines and line ends that are owed before the next text
        self._mark = ""  # what stands before it
        self._is_fresh = True  # no text, or one that ends in a space, is before it
        self._is_within = False
        self._program: list[str] | None = None
        self._tables = 0  # that are open
        self._needs_space = False  # a paragraph of a cell ended

    def text(self) -> str:
        """What was read so far."""
        return re.sub(" +$", "", "".join(self._pieces), flags=re.MULTILINE)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id") in ("DisplayArea", "SearchFrame"):
            self._is_within = given["id"] == "DisplayArea"
        if not self._is_within:
            return
        if tag == "br":
            self._break(1)
        if tag in _VOID:
            return
        if len(self._open) == MAX_DEPTH:
            raise RecursionError
        kind = given.get("class") or ""
        element = _Element(tag, self._is_left_out or kind in _LEFT_OUT, start=len(self._pieces))
        if kind in ("switch", "switchinline"):
            element.variants = []
        elif "hidden" in given:
            element.variant_of = next((above for above in reversed(self._open) if above.variants is not None), None)
            element.variant = kind
        self._begin(element, kind)
        self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if not any(element.tag == tag for element in self._open):
            return
        while self._open:
            element = self._open.pop()
            self._end(element)
            if element.tag == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._is_within or self._is_left_out:
            return
        if self._program is not None:
            self._program.append(data)
            return
        text = _SPACE.sub(" ", data)
        if self._is_fresh or self._gap:
            text = text.lstrip(" ")
        if text:
            self._write(text)

    @property
    def _is_left_out(self) -> bool:
        return bool(self._open) and self._open[-1].is_left_out

    def _begin(self, element: _Element, kind: str) -> None:
        tag = element.tag
        if tag in ("td", "th") and not self._gap:  # a row's first cell has a line end before it
            self._write(" | ")
        elif tag == "pre":
            self._break(2)
            self._program = []
        elif tag == "tr":
            self._break(1)
        elif tag == "li":
            self._break(1)
            self._mark = self._item()
        elif re.fullmatch("h[1-6]", tag):
            self._break(2)
            self._mark = "#" * int(tag[1]) + " "
        elif tag in _BLOCKS:
            self._break(1 if kind.startswith("code") else 2)
        if tag in ("ol", "ul"):
            self._lists.append(element)
        self._tables += tag == "table"

    def _end(self, element: _Element) -> None:
        tag = element.tag
        if tag == "pre" and self._program is not None:
            program = textwrap.dedent("".join(self._program).expandtabs(4)).strip("\n").rstrip()
            self._program = None
            if program:
                self._write(program)
        if tag in ("ol", "ul"):
            self._lists.remove(element)
        self._tables -= tag == "table"
        if tag in _BLOCKS or tag in ("pre", "li", "tr") or re.fullmatch("h[1-6]", tag):
            self._mark = ""
            self._break(1 if tag in ("li", "tr") else 2)
        if element.variant_of is not None and element.variant_of.variants is not None:
            element.variant_of.variants.append((element.variant, element.start, len(self._pieces)))
        if element.variants:
            self._choose(element.variants)

    def _choose(self, variants: list[tuple[str, int, int]]) -> None:
        """Take out of the pieces all variants but the general one, or else those that are macOS's alone."""
        has_general = any(not name for name, _, _ in variants)
        for name, start, end in reversed(variants):
            if name and (has_general or name == "MAC"):
                del self._pieces[start:end]

    def _item(self) -> str:
        indent = "  " * (len(self._lists) - 1)
        if not self._lists or self._lists[-1].tag == "ul":
            return indent + "- "
        self._lists[-1].number += 1
        return f"{indent}{self._lists[-1].number}. "

    def _break(self, gap: int) -> None:
        """Owe a line end (1) or an empty line (2). Items have no empty line between them, cells not even a line end."""
        if self._tables and gap == 2:
            self._needs_space = True
        else:
            self._gap = max(self._gap, 1 if self._lists or self._tables else gap)

    def _write(self, text: str) -> None:
        before = "\n" * self._gap if self._pieces else ""
        if self._needs_space and not (before or self._is_fresh or text.startswith(" ")):
            before = " "
        self._pieces.append(before + self._mark + text)
        self._gap, self._mark, self._needs_space = 0, "", False
        self._is_fresh = text.endswith(" ")
