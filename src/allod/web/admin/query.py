"""The query string, read strictly: a filter that is misspelt must not answer with everything."""

from __future__ import annotations

from urllib.parse import parse_qsl

from allod.core.errors import Invalid

MAX_FIELDS = 1000
MAX_LIMIT, USUAL_LIMIT = 100, 20
MAX_TIME_S = 253_402_300_799  # the last second of the year 9999


class Query:
    """The fields of one query string. A list is said as `name[]=a&name[]=b` or `name=a&name=b`.

    Raises Invalid for what is unknown, repeated without being a list, or no UTF-8.
    """

    def __init__(self, raw: bytes, *, names: tuple[str, ...], lists: tuple[str, ...] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        try:
            fields = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except ValueError as error:
            raise Invalid("the query string is malformed or too long", code="invalid_query") from error
        for field, value in fields:
            name = field.removesuffix("[]")
            if name not in lists and (field not in names):
                raise Invalid(f"unknown parameter {field[:64]!r}", code="unknown_parameter", param=field[:64])
            self._values.setdefault(name, []).append(value)
            if name not in lists and len(self._values[name]) > 1:
                raise Invalid(f"{name} is repeated", code="repeated_parameter", param=name)

    def text(self, name: str) -> str | None:
        """The field's text; None where it is not said."""
        return self._values[name][0] if name in self._values else None

    def texts(self, name: str) -> list[str]:
        """All values of a list; empty where it is not said."""
        return self._values.get(name, [])

    def integer(self, name: str, *, lowest: int = 0, highest: int = MAX_TIME_S) -> int | None:
        """A whole number within bounds."""
        text = self.text(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and lowest <= int(text) <= highest):
            raise Invalid(f"{name} must be a whole number from {lowest} to {highest}", param=name)
        return int(text)

    def limit(self, *, usual: int = USUAL_LIMIT, highest: int = MAX_LIMIT) -> int:
        """How many things to list."""
        return self.integer("limit", lowest=1, highest=highest) or usual

    def choice(self, name: str, *words: str) -> str:
        """One of these words; the first where none is said."""
        text = self.text(name)
        if text is not None and text not in words:
            raise Invalid(f"{name} must be {' or '.join(words)}", param=name)
        return words[0] if text is None else text
