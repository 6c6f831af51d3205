"""The strict reading of a site profile: a value as TOML gives it in, a Site or a clear refusal out.

What stands in a profile becomes part of a script that a scheduler runs, so every word has a form, every number bounds,
and an unknown key is an error. `sites/isambard-ai.toml` shows the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from allod.core.errors import Invalid
from allod.core.tables import Complaint, Table
from allod.fleet.site import Container, Exclusion, NodePower, NodePrice, Site

MAX_ROWS = 256

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
    top = Table(data, where, _error_of, MAX_ROWS)
    top.check_keys(_REQUIRED, _OPTIONAL)
    return Site(
        name=top.text("name", _NAME),
        source=top.text("source"),
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


def _environment(table: Table) -> dict[str, str]:
    return {name: table.text(name) for name in table.check_names(_VARIABLE).values}


def _container(table: Table) -> Container | None:
    if not table.values:
        return None
    table.check_keys({"command", "image"}, {"binds"})
    command = table.one_of("command", ("podman-hpc", "apptainer"))
    return Container(command, table.text("image"), table.words("binds", _BIND))


def _exclusion(row: Table) -> Exclusion:
    row.check_keys({"node", "reason", "until"})
    return Exclusion(row.text("node", _NAME), row.text("reason"), _day(row, "until"))


def _price(table: Table) -> NodePrice | None:
    if not table.values:
        return None
    table.check_keys({"currency", "micros_per_node_hour"})
    return NodePrice(table.text("currency", _CURRENCY), table.number("micros_per_node_hour", 0, 10**12))


def _power(table: Table) -> NodePower | None:
    if not table.values:
        return None
    table.check_keys({"watts_per_node", "grams_per_kwh", "method"})
    watts, grams = table.number("watts_per_node", 1, 10**6), table.number("grams_per_kwh", 0, 10**4)
    return NodePower(watts, grams, table.text("method"))


def _day(row: Table, key: str) -> date:
    day = row.values[key]
    if not isinstance(day, date) or isinstance(day, datetime):
        raise row.refusal(key, f"{key}: {day!r} is not a day (2026-11-30, without quotes)")
    return day


def _error_of(complaint: Complaint) -> Invalid:
    return Invalid(complaint.message, code="site_malformed", param=complaint.key_path, hint=complaint.hint)
