"""`allod fleet status`, `drain`, `resume`, `restart`: the replicas that answer for the running gateway's models."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.table import Table

from allod.app.home import Home, load_settings
from allod.cli.client import Client
from allod.cli.json_text import json_text
from allod.cli.running import find_gateway
from allod.core.errors import Unavailable
from allod.core.shown_text import make_plain

PATH = "/v1/governance/replicas"
COLUMNS = (
    *("model", "replica", "state", "running", "answered", "failed", "tokens/s", "first token p50/p90", "cached"),
    *("up for", "seal", "evidence", "why"),
)
ACTIONS = {
    "drain": "send a replica nothing new; what it works on goes on",
    "resume": "send a drained replica requests again",
    "restart": "drain a replica, then start it again",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    status = parts.add_parser("status", help="every replica: its state and why, its seal, and what it works on")
    status.add_argument("--json", action="store_true")
    for action, what in ACTIONS.items():
        part = parts.add_parser(action, help=what)
        part.add_argument("model", metavar="MODEL")
        part.add_argument("replica", type=int, metavar="NUMBER", help="as `allod fleet status` numbers them")
        part.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """One of the parts. Raises Unavailable (`no_gateway`) where no gateway of this realm runs."""
    home = Home(load_settings().home)
    url = find_gateway(home)
    if url is None:
        raise Unavailable("no gateway of this realm runs", code="no_gateway", hint="`allod up` starts one")
    with closing(Client(url, home.admin_key)) as client:
        if arguments.part == "status":
            rows = client.read(PATH)["data"]
        else:
            wanted = {"model": arguments.model, "replica": arguments.replica, "action": arguments.part}
            rows = [client.change(PATH, wanted)]
    if arguments.json:
        print(json_text(rows if arguments.part == "status" else rows[0]))
    else:
        _print(rows)
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no engine here is made of replicas: it is part of the gateway")
        return
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*_cells(row), style="bold red" if row["state"] in ("suspect", "down") else None)
    Console(width=None if Console().is_terminal else 200).print(table)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    started_ms, proof = row["started_ms"], row["seal_proof"]
    return (
        make_plain(row["model"], limit=60),
        str(row["replica"]),
        row["state"],
        f"{row['num_running']} of {row['slots']}",
        str(row["num_answered"]),
        str(row["num_failed"]),
        *_pace_cells(row["pace"]),
        f"{max(0, time.time() - started_ms / 1000):.0f} s" if started_ms else "",
        row["seal"],
        proof.removeprefix("sha256:")[:16] if proof else "",
        make_plain(row["why"], limit=200),
    )


def _pace_cells(pace: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Empty where nothing was measured."""
    rate, cached = pace["tokens_per_s"], pace["cached_share"]
    half, most = pace["first_token_ms_p50"], pace["first_token_ms_p90"]
    return (
        "" if rate is None else f"{rate:.1f}",
        "" if half is None or most is None else f"{half:.0f}/{most:.0f} ms",
        "" if cached is None else f"{cached:.0%}",
    )
