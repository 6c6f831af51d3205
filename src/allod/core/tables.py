"""The strict reading of tables, as TOML or JSON gives them: nothing in one is guessed, dropped or converted.

A table is read key by key, each word in its form, or at once as a dataclass, each field of its own type. What is wrong
becomes a `Complaint`, of which the reader whose file it is makes an error with a code of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from allod.core.errors import Invalid
from allod.core.places import fault_of_place

_Part = TypeVar("_Part")

TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,1000}")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong, and where: the file, the dotted path of the table in it (empty: the whole) and perhaps a key."""

    fault: Literal["unknown", "missing", "wrong"]
    where: str
    table: str
    key: str
    problem: str
    hint: str | None = None

    @property
    def key_path(self) -> str:
        """The key's dotted path."""
        return f"{self.table}.{self.key}".strip(".")

    @property
    def message(self) -> str:
        """What a person is told."""
        return ": ".join(filter(None, (self.where, self.table, self.problem)))


@dataclass(frozen=True, slots=True)
class Table:
    """A table and where it stands. Lists in it have at most `limit` items; a refusal is what `error_of` makes of it."""

    values: Mapping[str, Any]
    where: str
    error_of: Callable[[Complaint], Invalid]
    limit: int
    path: str = ""

    def refusal(self, key: str, problem: str) -> Invalid:
        """The error for a value that may not stand there."""
        return self.error_of(Complaint("wrong", self.where, self.path, key, problem))

    def check_keys(self, required: Collection[str], optional: Collection[str] = ()) -> None:
        """Nothing but these, and all that must be."""
        known = sorted({*required, *optional})
        for key in self.values:
            if key not in known:
                hint = f"known here: {', '.join(known)}"
                raise self.error_of(Complaint("unknown", self.where, self.path, key, f"unknown key {key!r}", hint))
        for key in sorted(required):
            if key not in self.values:
                raise self.error_of(Complaint("missing", self.where, self.path, key, f"{key} is missing"))

    def check_form(self, key: str, word: Any, form: re.Pattern[str]) -> str:
        """The word, if it is text of that form."""
        if not isinstance(word, str) or form.fullmatch(word) is None:
            raise self.refusal(key, f"{key}: {word!r} is not text of the form {form.pattern}")
        return word

    def check_names(self, form: re.Pattern[str]) -> Table:
        """Itself, if its keys are of that form and not too many."""
        if len(self.values) > self.limit:
            raise self.refusal("", f"more than {self.limit}")
        for name in self.values:
            self.check_form(name, name, form)
        return self

    def text(self, key: str, form: re.Pattern[str] = TEXT) -> str:
        """Text of that form; what is not there is empty."""
        return self.check_form(key, self.values.get(key, ""), form)

    def place(self, key: str) -> str:
        """A place that a standard knows."""
        place = self.values.get(key, "")
        if fault := fault_of_place(place):
            raise self.refusal(key, f"{key}: {fault}")
        return str(place)

    def one_of(self, key: str, words: Collection[str]) -> str:
        """One of these words; what is not there is empty."""
        word = self.values.get(key, "")
        if word not in words:
            raise self.refusal(key, f"{key}: {word!r} is none of {', '.join(filter(None, words))}")
        return str(word)

    def number(self, key: str, low: int, high: int, *, default: int = 0) -> int:
        """A whole number within bounds."""
        number = self.values.get(key, default)
        if type(number) is not int or not low <= number <= high:
            raise self.refusal(key, f"{key}: {number!r} is not a whole number from {low} to {high}")
        return number

    def words(self, key: str, form: re.Pattern[str]) -> tuple[str, ...]:
        """A list of texts of that form; what is not there is empty."""
        return tuple(self.check_form(key, word, form) for word in self._list(key, self.values.get(key, [])))

    def table(self, key: str) -> Table:
        """A table inside; what is not there is empty."""
        return self.inner(key, self.values.get(key, {}))

    def rows(self, key: str) -> list[Table]:
        """A list of tables."""
        rows = self._list(key, self.values.get(key, []))
        return [self.inner(f"{key}[{number}]", row) for number, row in enumerate(rows)]

    def inner(self, key: str, value: Any) -> Table:
        """The value of a key as a table."""
        if not isinstance(value, Mapping):
            raise self.refusal(key, f"{key} must be a table")
        return replace(self, values=value, path=f"{self.path}.{key}".strip("."))

    def read(self, part: type[_Part]) -> _Part:
        """The whole table as a dataclass."""
        return part(**self.read_fields(part))

    def read_fields(self, part: type[Any], only: Collection[str] = ()) -> dict[str, Any]:
        """What is said of a dataclass's fields (of `only` these); fields that have a default may be left out."""
        known = [item for item in fields(part) if not only or item.name in only]
        required = [item.name for item in known if item.default is MISSING and item.default_factory is MISSING]
        self.check_keys(required, [item.name for item in known])
        types = get_type_hints(part)
        return {name: self._field(name, types[name], value) for name, value in self.values.items()}

    def _field(self, key: str, kind: Any, value: Any) -> Any:
        if isinstance(kind, type) and is_dataclass(kind):
            return self.inner(key, value).read(kind)
        if get_origin(kind) is Mapping:
            return self._tables(key, kind.__args__[1], value)
        if get_origin(kind) is tuple:
            items = self._list(key, value)
            return tuple(self._field(f"{key}[{number}]", kind.__args__[0], item) for number, item in enumerate(items))
        if type(value) is not kind:
            raise self.refusal(key, f"{key} must be {kind.__name__}")
        return value

    def _tables(self, key: str, kind: Any, value: Any) -> dict[str, Any]:
        """Tables by name. What one leaves out is as in the table that they stand in."""
        types = get_type_hints(kind)
        around = {name: self._field(name, types[name], self.values[name]) for name in types if name in self.values}
        named = self.inner(key, value)
        return {name: named.inner(name, {**around, **named.table(name).values}).read(kind) for name in named.values}

    def _list(self, key: str, value: Any) -> Sequence[Any]:
        if not isinstance(value, (list, tuple)):  # a tuple: what was a value of ours before
            raise self.refusal(key, f"{key} must be a list")
        if len(value) > self.limit:
            raise self.refusal(key, f"{key}: more than {self.limit}")
        return value
