"""The strict reading of a site profile: a value as TOML gives it in, a Site or a clear refusal out.

What stands in a profile becomes part of a script that a scheduler runs, so every word has a form, every number bounds,
and an unknown key is an error. `sites/isambard-ai.toml` shows the keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from allod.core.errors import Invalid
from allod.core.nations.places import fault_of_place
from allod.fleet.site import Container, Exclusion, NodePower, NodePrice, Site

MAX_ROWS = 256

_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,1000}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORD_OR_NOTHING = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
_MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
_PATH_OR_NOTHING = re.compile(r"(/[^\x00-\x1f\x7f:]{0,500})?")
_BIND = re.compile(r"/[^\x00-\x1f\x7f:,]{0,500}(:/[^\x00-\x1f\x7f:,]{0,500})?")

_REQUIRED = {"name", "source", "scheduler", "jurisdiction"}
_OPTIONAL = {
    "machine", "partition", "account", "walltime_s", "poll_s", "gpus_per_node", "cpus_per_rank", "modules",
    "environment", "container", "exclusions", "price", "power", "all_reduce_floor_mb_s", "unreachable", "scratch",
    "min_free_bytes",
}  # fmt: skip


def read_site(data: Mapping[str, Any], *, where: str) -> Site:
    """The profile in `data`, the content of a TOML file that complaints call `where`.

    Raises Invalid (`site_malformed`) with the place where the fault stands.
    """
    top = _Table(data, where, "")
    top.check_keys(_REQUIRED, _OPTIONAL)
    return Site(
        name=top.text("name", _NAME),
        source=top.text("source", _TEXT),
        scheduler=top.one_of("scheduler", ("local", "slurm")),
        jurisdiction=top.place("jurisdiction"),
        machine=top.one_of("machine", ("", "x86_64", "aarch64")),
        partition=top.text("partition", _WORD_OR_NOTHING),
        account=top.text("account", _WORD_OR_NOTHING),
        walltime_s=top.number("walltime_s", 0, 31 * 86_400),
        poll_s=top.number("poll_s", 1, 3600, default=1),
        gpus_per_node=top.number("gpus_per_node", 0, 64),
        cpus_per_rank=top.number("cpus_per_rank", 1, 1024, default=1),
        modules=top.words("modules", _MODULE),
        environment=_environment(top.table("environment")),
        container=_container(top.table("container")),
        exclusions=tuple(_exclusion(row) for row in top.rows("exclusions")),
        price=_price(top.table("price")),
        power=_power(top.table("power")),
        all_reduce_floor_mb_s=top.number("all_reduce_floor_mb_s", 0, 10**7),
        unreachable=top.words("unreachable", _ADDRESS),
        scratch=top.text("scratch", _PATH_OR_NOTHING),
        min_free_bytes=top.number("min_free_bytes", 0, 1 << 60),
    )


def _environment(table: _Table) -> dict[str, str]:
    for name in table.values:
        table.check_form(name, name, _VARIABLE)
    return {name: table.text(name, _TEXT) for name in table.values}


def _container(table: _Table) -> Container | None:
    if not table.values:
        return None
    table.check_keys({"command", "image"}, {"binds"})
    command = table.one_of("command", ("podman-hpc", "apptainer"))
    return Container(command, table.text("image", _TEXT), table.words("binds", _BIND))


def _exclusion(row: _Table) -> Exclusion:
    row.check_keys({"node", "reason", "until"}, ())
    return Exclusion(row.text("node", _NAME), row.text("reason", _TEXT), row.day("until"))


def _price(table: _Table) -> NodePrice | None:
    if not table.values:
        return None
    table.check_keys({"currency", "micros_per_node_hour"}, ())
    return NodePrice(table.text("currency", _CURRENCY), table.number("micros_per_node_hour", 0, 10**12))


def _power(table: _Table) -> NodePower | None:
    if not table.values:
        return None
    table.check_keys({"watts_per_node", "grams_per_kwh", "method"}, ())
    watts, grams = table.number("watts_per_node", 1, 10**6), table.number("grams_per_kwh", 0, 10**4)
    return NodePower(watts, grams, table.text("method", _TEXT))


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the profile and where it stands, so that each complaint can say so."""

    values: Mapping[str, Any]
    where: str
    path: str

    def refuse(self, key: str, problem: str) -> Invalid:
        place = f"{self.path}.{key}".strip(".")
        return Invalid(f"{self.where}: {place}: {problem}", code="site_malformed", param=place)

    def check_keys(self, required: Collection[str], optional: Collection[str]) -> None:
        known = {*required, *optional}
        for key in self.values:
            if key not in known:
                raise self.refuse(key, f"unknown key; known here: {', '.join(sorted(known))}")
        for key in sorted(required):
            if key not in self.values:
                raise self.refuse(key, "is missing")

    def check_form(self, key: str, word: Any, form: re.Pattern[str]) -> str:
        if not isinstance(word, str) or form.fullmatch(word) is None:
            raise self.refuse(key, f"{word!r} is not text of the form {form.pattern}")
        return word

    def text(self, key: str, form: re.Pattern[str]) -> str:
        return self.check_form(key, self.values.get(key, ""), form)

    def place(self, key: str) -> str:
        place = self.values.get(key, "")
        if fault := fault_of_place(place):
            raise self.refuse(key, fault)
        return str(place)

    def one_of(self, key: str, words: Collection[str]) -> str:
        word = self.values.get(key, "")
        if word not in words:
            raise self.refuse(key, f"{word!r} is none of {', '.join(filter(None, words))}")
        return str(word)

    def number(self, key: str, low: int, high: int, *, default: int = 0) -> int:
        number = self.values.get(key, default)
        if type(number) is not int or not low <= number <= high:
            raise self.refuse(key, f"{number!r} is not a whole number from {low} to {high}")
        return number

    def day(self, key: str) -> date:
        day = self.values[key]
        if not isinstance(day, date) or isinstance(day, datetime):
            raise self.refuse(key, f"{day!r} is not a day (2026-11-30, without quotes)")
        return day

    def words(self, key: str, form: re.Pattern[str]) -> tuple[str, ...]:
        words = self.values.get(key, [])
        if not isinstance(words, list) or len(words) > MAX_ROWS:
            raise self.refuse(key, f"must be a list of at most {MAX_ROWS}")
        return tuple(self.check_form(key, word, form) for word in words)

    def table(self, key: str) -> _Table:
        return self._inner(key, self.values.get(key, {}))

    def rows(self, key: str) -> list[_Table]:
        rows = self.values.get(key, [])
        if not isinstance(rows, list) or len(rows) > MAX_ROWS:
            raise self.refuse(key, f"must be a list of at most {MAX_ROWS} tables")
        return [self._inner(f"{key}[{number}]", row) for number, row in enumerate(rows)]

    def _inner(self, key: str, value: Any) -> _Table:
        if not isinstance(value, Mapping):
            raise self.refuse(key, "must be a table")
        return _Table(value, self.where, f"{self.path}.{key}".strip("."))
