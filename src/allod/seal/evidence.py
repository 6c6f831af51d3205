"""What the kernel says of a sealed process, read from outside by whoever may look into /proc/PID.

`evidence` gives JSON of text, integers, lists and objects: `stable` does not change while the process lives and is
what a receipt's `seal.proof` digests (`proof_of`); `now` holds counters. Everything in `stable` but the launcher's
facts is the kernel's own word. Landlock shows nothing in /proc, so its ABI is the launcher's, written by code that ran
before the first instruction of the command; the escape suite is the test of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.core.canonical import JsonValue, digest_of
from allod.core.errors import Unavailable
from allod.seal.profiles.profile import PROFILES

FORMAT = "allod-seal-evidence-1"

_STATUS_NUMBERS = ("NoNewPrivs", "Seccomp", "Seccomp_filters")
_STATUS_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_NAMESPACES = ("user", "net", "ipc", "uts", "pid", "mnt")
_OWN_NAMESPACES = ("user", "net", "ipc", "uts", "pid")
_OWN_NAMESPACES_OF_A_GROUP = (*_OWN_NAMESPACES, "mnt")
_INTERNET_TABLES = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6", "packet")
_HAND_MADE = ("raw", "raw6", "icmp", "icmp6", "packet")
_REJECT_ROUTE = 0x200  # RTF_REJECT: IPv6 lists "unreachable" as a route


@dataclass(frozen=True, kw_only=True)
class SealFacts:
    """What the launcher says was entered. `missing` is part → reason; `profile_digest` covers filter and file rules.
    `devices` are the paths of those that it may use."""

    kind: str
    missing: Mapping[str, str]
    profile: str
    profile_digest: str
    landlock_abi: int
    devices: tuple[str, ...] = ()


def evidence(pid: int, *, facts: SealFacts) -> dict[str, JsonValue]:
    """The evidence for process `pid`. Raises Unavailable `engine_gone` when it ended or may not be looked into."""
    process = Path("/proc") / str(pid)
    try:
        started = _start_ticks(process)
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        found: dict[str, JsonValue] = {
            "format": FORMAT,
            "stable": {
                "pid": pid,
                "start_ticks": started,
                "seal": _facts(facts),
                "status": _status(status),
                "namespaces": {name: _namespace(process, name) for name in _NAMESPACES},
            },
            "now": {
                "interfaces": _interfaces(process),
                "num_routes": _num_routes(process),
                "num_routes_out": _num_routes_out(process),
                "num_internet_sockets": {table: _num_rows(process, table) for table in _INTERNET_TABLES},
                "unix_sockets": _unix_sockets(process),
            },
        }
        if _start_ticks(process) != started:
            raise ProcessLookupError("its number was given to another process")
    except OSError as error:
        raise Unavailable(f"process {pid} cannot be looked into: {error}", code="engine_gone") from error
    return found


def proof_of(found: Mapping[str, JsonValue]) -> str:
    """`sha256:<hex>` of the canonical bytes of the stable part: a receipt's `seal.proof`."""
    return digest_of(found["stable"])


def describe(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of `{name, value, expected, ok}` in plain words, for a page that a visitor reads."""
    stable, now = found["stable"], found["now"]
    seal, status = stable["seal"], stable["status"]
    is_group = PROFILES[seal["profile"]].is_group
    rows = [_row("Seal", seal["kind"], seal["profile"])]
    if devices := ", ".join(seal.get("devices", ())):
        rows.append(_row("Devices", devices, devices))
    for name in _OWN_NAMESPACES_OF_A_GROUP if is_group else _OWN_NAMESPACES:
        ids = stable["namespaces"][name]
        rows.append(_row(f"Namespace: {name}", "its own" if ids["process"] != ids["caller"] else "shared", "its own"))
    rows.append(_row("Network interfaces", ", ".join(sorted(now["interfaces"])) or "none", "lo"))
    rows += _loopback_rows(now) if is_group else _silent_rows(now)
    rows += [
        _row("System-call filter", _FILTER.get(status["Seccomp"], "unknown"), "on"),
        _row("May gain privileges", "no" if status["NoNewPrivs"] else "yes", "no"),
        _row("Capabilities", "none" if not _any_capability(status) else "some", "none"),
        _row("File rules (Landlock)", "on" if seal["landlock_abi"] else "off", "on"),
    ]
    return rows


def _silent_rows(now: Mapping[str, Any]) -> list[dict[str, Any]]:
    sent = sum(counters["tx_bytes"] + counters["rx_bytes"] for counters in now["interfaces"].values())
    return [
        _row("Bytes over any interface", sent, 0),
        _row("Routes", now["num_routes"], 0),
        _row("TCP, UDP, raw and packet sockets", sum(now["num_internet_sockets"].values()), 0),
    ]


def _loopback_rows(now: Mapping[str, Any]) -> list[dict[str, Any]]:
    raw = sum(now["num_internet_sockets"][table] for table in _HAND_MADE)
    return [
        _row("Routes that leave loopback", now["num_routes_out"], 0),
        _row("Raw and packet sockets", raw, 0),
    ]


_FILTER = {0: "off", 1: "strict mode", 2: "on"}


def _row(name: str, value: str | int, expected: str | int) -> dict[str, Any]:
    return {"name": name, "value": value, "expected": expected, "ok": value == expected}


def _any_capability(status: Mapping[str, str]) -> bool:
    return any(int(status[name], 16) for name in _STATUS_CAPABILITIES if name != "CapBnd")


def _facts(facts: SealFacts) -> dict[str, JsonValue]:
    devices: dict[str, JsonValue] = {"devices": list(facts.devices)} if facts.devices else {}
    return {
        "kind": facts.kind,
        "missing": dict(facts.missing),
        "profile": facts.profile,
        "profile_digest": facts.profile_digest,
        "landlock_abi": facts.landlock_abi,
        **devices,
    }


def _status(status: Mapping[str, str]) -> dict[str, JsonValue]:
    numbers: dict[str, JsonValue] = {name: int(status[name]) for name in _STATUS_NUMBERS if name in status}
    return numbers | {name: status[name] for name in _STATUS_CAPABILITIES}


def _start_ticks(process: Path) -> int:
    after_name = (process / "stat").read_text().rpartition(")")[2].split()
    return int(after_name[19])  # field 22 of proc_pid_stat(5)


def _namespace(process: Path, name: str) -> dict[str, JsonValue]:
    def number(link: Path) -> int:
        return int(str(link.readlink()).partition("[")[2].rstrip("]"))

    return {
        "process": number(process / "ns" / name),
        "caller": number(Path("/proc/self/ns", name)),
    }


def _interfaces(process: Path) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for line in (process / "net" / "dev").read_text().splitlines()[2:]:
        name, _, counters = line.partition(":")
        values = [int(item) for item in counters.split()]
        found[name.strip()] = {"rx_bytes": values[0], "tx_bytes": values[8]}
    return found


def _table(process: Path, name: str) -> list[list[str]]:
    try:
        return [line.split() for line in (process / "net" / name).read_text().splitlines()]
    except FileNotFoundError:  # a protocol that this kernel does not have
        return []


def _num_rows(process: Path, table: str) -> int:
    return max(0, len(_table(process, table)) - 1)


def _num_routes(process: Path) -> int:
    version_6 = [row for row in _table(process, "ipv6_route") if not int(row[8], 16) & _REJECT_ROUTE]
    return _num_rows(process, "route") + len(version_6)


def _num_routes_out(process: Path) -> int:
    """Routes over another interface than loopback. IPv4 names it first, IPv6 last (proc_pid_net(5))."""
    devices = [row[0] for row in _table(process, "route")[1:]] + [row[-1] for row in _table(process, "ipv6_route")]
    return sum(device != "lo" for device in devices)


def _unix_sockets(process: Path) -> list[str]:
    return sorted(" ".join(row[7:]) or "unnamed" for row in _table(process, "unix")[1:])
