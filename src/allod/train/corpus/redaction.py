"""Personal data in a text, replaced by what it was: `[NHS NUMBER]`, `[E-MAIL ADDRESS]`, `[POSTCODE]`.

A net for what slips in by accident: identifiers by the nation's patterns and check digits (`govern.identifiers`), and
addresses by their form. Names are not found, and neither is what someone hides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from allod.core.nations.nation import Identifier, Nation
from allod.govern.identifiers import find_identifiers

# RFC 5321 allows more; nobody writes it. Bounded everywhere, so that the work at one place of a text is.
_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9](?:[\w.+%-]{0,62}[\w+%-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}"
    r"[A-Za-z]{2,24}(?![\w-])",
    re.ASCII,
)

# Ofcom's National Telephone Numbering Plan: ten digits after +44 or 0, the first none of 0, 4, 5 and 6, in any groups.
_GAP = r"[ \u00a0.-]?"
_TELEPHONE = re.compile(
    rf"(?<![\w.,/+-])(?:(?:\+44|0044){_GAP}(?:\(0\){_GAP})?|\(?0)[1-37-9](?:{_GAP}(?:\){_GAP})?[0-9]){{9}}"
    r"(?![\w/]|[.,-][0-9])",
    re.ASCII,
)

# Royal Mail's areas (Postcode Address File), each with a district and, after one space, a unit.
_AREAS = (
    "AB|AL|B|BA|BB|BD|BH|BL|BN|BR|BS|BT|CA|CB|CF|CH|CM|CO|CR|CT|CV|CW|DA|DD|DE|DG|DH|DL|DN|DT|DY|E|EC|EH|EN|EX|FK|FY|G|"
    "GL|GU|GY|HA|HD|HG|HP|HR|HS|HU|HX|IG|IM|IP|IV|JE|KA|KT|KW|KY|L|LA|LD|LE|LL|LN|LS|LU|M|ME|MK|ML|N|NE|NG|NN|NP|NR|NW|"
    "OL|OX|PA|PE|PH|PL|PO|PR|RG|RH|RM|S|SA|SE|SG|SK|SL|SM|SN|SO|SP|SR|SS|ST|SW|SY|TA|TD|TF|TN|TQ|TR|TS|TW|UB|W|WA|WC|WD|"
    "WF|WN|WR|WS|WV|YO|ZE"
)
_POSTCODE = re.compile(
    rf"(?<![\w.-])(?:{_AREAS})[0-9][0-9A-HJKMNPR-Y]? [0-9][ABD-HJLNP-UW-Z]{{2}}(?![\w-])", re.ASCII
)  # fmt: skip

_FRACTION = re.compile(r"[0-9][.,](?=[0-9])")  # 0.9999999999 is no NHS number, though its check digit is right

_ADDRESSES = (("e-mail address", _EMAIL), ("telephone number", _TELEPHONE), ("postcode", _POSTCODE))


class Redactor:
    """Redacts texts, and counts what it replaced, by name."""

    def __init__(self, identifiers: Sequence[Identifier]) -> None:
        self._nation = Nation(code="", name="", source="", tiers=(), identifiers=tuple(identifiers))
        names = [identifier.name for identifier in identifiers] + [name for name, _ in _ADDRESSES]
        self.counts = Counter(dict.fromkeys(names, 0))

    def redact(self, text: str) -> str:
        """The text without the personal data that was found. A document without a digit or an @ is not looked at."""
        pieces, end = [], 0
        for found in find_identifiers(text, self._nation):
            if _FRACTION.match(text, max(0, found.start - 2)):
                continue
            self.counts[found.name] += 1
            pieces += [text[end : found.start], _in_place_of(found.name)]
            end = found.end
        text = "".join([*pieces, text[end:]])
        for name, pattern in _ADDRESSES:
            text, count = pattern.subn(_in_place_of(name), text)
            self.counts[name] += count
        return text


def _in_place_of(name: str) -> str:
    return f"[{name.upper()}]"
