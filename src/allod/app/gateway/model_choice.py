"""Which model is meant, and whether it is here: the little that must be known before anything else is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from allod.app.home import Home
from allod.core.digests import hex_of
from allod.core.files.whole import write_whole
from allod.model.catalogue import CatalogueEntry, MachinePace, best_for
from allod.model.store import Store
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings

ECHO = "echo"
AUTO = "auto"


def is_file_name(name: str) -> bool:
    """Whether a model's name means a file rather than an entry of the catalogue."""
    return name.lower().endswith(".gguf") or "/" in name


def name_of_file(path: Path) -> str:
    """What a model of one's own is called: as its file, without the end, or as its folder."""
    return path.stem if path.suffix.lower() == ".gguf" else path.name


def is_at_hand(settings: Settings) -> bool:
    """Whether the models can be served without a download and without measuring this machine first."""
    catalogue, pace = load_catalogue(), read_pace(settings)

    def is_here(name: str) -> bool:
        if name == AUTO:
            return pace is not None and _is_here(settings, best_for(catalogue, pace))
        entry = entry_of(name, catalogue)
        return entry is None or _is_here(settings, entry)

    return all(map(is_here, settings.models))


def path_at_hand(settings: Settings) -> Path | None:
    """The file of the catalogue's model that is meant; None for another, and where it is not here."""
    catalogue, pace = load_catalogue(), read_pace(settings)
    name = settings.model.name
    entry = entry_of(name, catalogue) if name != AUTO else best_for(catalogue, pace) if pace is not None else None
    return None if entry is None else Store(Home(settings.home).store).find(entry.sha256)


def entry_of(name: str, catalogue: tuple[CatalogueEntry, ...]) -> CatalogueEntry | None:
    """The catalogue's entry of that name, or of that digest (`sha256:<hex>` or hex)."""
    return next((entry for entry in catalogue if name == entry.name or hex_of(name) == entry.sha256), None)


def read_pace(settings: Settings) -> MachinePace | None:
    """What was measured of this machine; None where nothing was, or it cannot be read."""
    try:
        kept = json.loads(_pace_file(settings).read_text())
        return MachinePace(prefill_s=float(kept["prefill_s"]), decode_s=float(kept["decode_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_pace(settings: Settings, pace: MachinePace) -> None:
    """Measure no more at the next start."""
    write_whole(_pace_file(settings), json.dumps({"prefill_s": pace.prefill_s, "decode_s": pace.decode_s}) + "\n")


def _is_here(settings: Settings, entry: CatalogueEntry) -> bool:
    return Store(Home(settings.home).store).find(entry.sha256) is not None


def _pace_file(settings: Settings) -> Path:
    return settings.home / "pace.json"
