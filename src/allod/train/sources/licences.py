"""Terms under which text may be trained on. What this table does not permit is refused, not guessed at."""

from __future__ import annotations

import re

from allod.core.errors import Invalid
from allod.train.recipe import Source

MAX_DEPTH = 8

# SPDX identifiers, and why text under each may be copied and learnt from. Share-alike and non-commercial terms are not
# here: whether a model must follow the first is disputed, and that a model never earns anything cannot be promised.
PERMITTED = {
    "0BSD": "no conditions",
    "Apache-2.0": "notices are kept, as lineage does",
    "BSD-2-Clause": "notices are kept, as lineage does",
    "BSD-3-Clause": "notices are kept, as lineage does",
    "BSL-1.0": "notices are kept, as lineage does",
    "CC-BY-3.0": "authors are named, as lineage does",
    "CC-BY-4.0": "authors are named, as lineage does",
    "CC0-1.0": "given to the public",
    "ISC": "notices are kept, as lineage does",
    "MIT": "notices are kept, as lineage does",
    "MIT-0": "no conditions",
    "MPL-2.0": "its conditions are those of each file, and of nothing larger that is made with it",
    "ODC-By-1.0": "authors are named, as lineage does",
    "OGL-UK-1.0": "Crown copyright, free to use when its source is named",
    "OGL-UK-2.0": "Crown copyright, free to use when its source is named",
    "OGL-UK-3.0": "Crown copyright, free to use when its source is named",
    "PDDL-1.0": "given to the public",
    "Unicode-3.0": "notices are kept, as lineage does",
    "Unlicense": "given to the public",
    "Zlib": "no conditions for what is made from it",
    # SPDX knows no identifier for these (SPDX specification, annex D: LicenseRef)
    "LicenseRef-public-domain": "no rights are left, where the source says so",
    "LicenseRef-own": "the operator's own text, or text whose rights the operator holds",
    "LicenseRef-WordNet-3.0": "any purpose without fee, notices are kept (Princeton University)",
}

_TOKEN = re.compile(r"\s*([A-Za-z0-9.+-]+|[()])")


def check_licence(source: Source) -> None:
    """Raise Invalid (`licence_refused`, `licence_malformed`) unless the source's licence permits training.

    Of `A OR B` one must be permitted, of `A AND B` both (SPDX specification, annex D).
    """
    refused: list[str] = []
    if not _Expression(source, refused).permits():
        raise Invalid(
            f"source {source.name}: the licence {' and '.join(refused)} is not known to permit training",
            code="licence_refused",
            param="licence",
            hint=f"take other text, or state the terms as one of: {', '.join(sorted(PERMITTED))}",
        )


class _Expression:
    """`either := both (OR both)*`, `both := one (AND one)*`, `one := identifier | ( either )`."""

    def __init__(self, source: Source, refused: list[str]) -> None:
        self._name, self._refused = source.name, refused
        self._tokens = _TOKEN.findall(source.licence)
        if "".join(self._tokens) != re.sub(r"\s", "", source.licence):
            raise self._malformation()

    def permits(self) -> bool:
        answer = self._either(MAX_DEPTH)
        if self._tokens:
            raise self._malformation()
        return answer

    def _either(self, depth: int) -> bool:
        answer = self._both(depth)
        while self._next("OR"):
            answer |= self._both(depth)
        return answer

    def _both(self, depth: int) -> bool:
        answer = self._one(depth)
        while self._next("AND"):
            answer &= self._one(depth)
        return answer

    def _one(self, depth: int) -> bool:
        if not self._tokens or depth == 0:
            raise self._malformation()
        if self._next("("):
            answer = self._either(depth - 1)
            if not self._next(")"):
                raise self._malformation()
            return answer
        identifier = self._tokens.pop(0)
        if identifier in ("AND", "OR", "WITH", ")"):
            raise self._malformation()
        if identifier not in PERMITTED:
            self._refused.append(identifier)
        return identifier in PERMITTED

    def _next(self, token: str) -> bool:
        if self._tokens and self._tokens[0] == token:
            del self._tokens[0]
            return True
        return False

    def _malformation(self) -> Invalid:
        return Invalid(
            f"source {self._name}: the licence is no SPDX expression of identifiers, AND, OR and brackets",
            code="licence_malformed",
            param="licence",
            hint="write one as in MIT, or MIT AND CC-BY-4.0; text that nobody owns is LicenseRef-public-domain",
        )
