"""`allod model list`, `allod model get`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from allod.app.home import Home, load_settings
from allod.app.weights import prepare_weights
from allod.cli.progress import shown
from allod.model.store import Store
from allod.settings import load_catalogue

HELP = "the models that this realm has or can get"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    listing = parts.add_parser("list", help="the catalogue, and what of it is here")
    listing.add_argument("--json", action="store_true")
    getting = parts.add_parser("get", help="fetch and check a model without starting it")
    getting.add_argument("name", nargs="?", metavar="NAME", help="a name of the catalogue (auto)")


def run(words: argparse.Namespace) -> int:
    """List, or get."""
    return _list(words) if words.part == "list" else _get(words)


def _list(words: argparse.Namespace) -> int:
    settings = load_settings()
    store = Store(Home(settings.home).store)
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "size_bytes": entry.size_bytes,
            "licence": entry.licence,
            "publisher": entry.publisher,
            "country": entry.country,
            "sha256": entry.sha256,
            "here": store.find(entry.sha256) is not None,
        }
        for entry in load_catalogue()
    ]
    if words.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        size, publisher = f"{row['size_bytes'] / 1e6:.0f} MB", f"{row['publisher']} ({row['country']})"
        print(f"{row['name']:22} {size:>8}  {row['licence']:11} {publisher:26} {'here' if row['here'] else '-'}")
    return 0


def _get(words: argparse.Namespace) -> int:
    settings = load_settings({"model.name": words.name})
    with shown() as progress:
        weights = prepare_weights(settings, progress)
    if weights is not None:
        print(f"{weights.served.name} {weights.served.digest}")
    return 0
