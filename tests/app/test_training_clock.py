"""A run's statements are dated by a clock that is believed: at its start, around each stage, and at its release."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from allod.app.artefacts.log import ArtefactsLog
from allod.app.gateway.open_realm import open_realm
from allod.app.home import Home, load_settings
from allod.app.training import run as training
from allod.app.training.run import train
from allod.app.training.surroundings import RunCallbacks, TrainOptions
from allod.core.errors import Unavailable
from allod.core.times import now_ms
from allod.prove.receipts.clock import Clock
from allod.prove.releases.release import read_releases
from allod.prove.tlog.log import Entry
from allod.settings.tree import Settings
from allod.train import sealed_stage

DAY_MS = 86_400_000
RECIPE = """
name = "tiny"
size = "1m"
steps = 1
[[source]]
name = "notes"
kind = "text"
path = "notes"
licence = "CC0-1.0"
jurisdiction = "GB"
origin = "Us"
date = "2026-01-01"
"""


@dataclass
class Place:
    """A realm whose log has one receipt, dated now and `ahead_ms`, and a recipe beside one document."""

    folder: Path
    settings: Settings

    def __init__(self, folder: Path, *, ahead_ms: int = 0) -> None:
        self.folder, self.settings = folder, load_settings(home=folder / "home")
        (folder / "notes").mkdir()
        (folder / "notes" / "a.txt").write_text("One of the documents.\n" * 20)
        (folder / "recipe.toml").write_text(RECIPE)
        opened = open_realm(self.settings)
        with opened.resources:
            at = b'{"end_ms":%d}' % (now_ms() + ahead_ms)
            opened.log.append([Entry(b'{"predicate":{"at":' + at + b',"id":"r"}}', "r")])

    def train(self, until: str = "source", **heard: Callable[..., Any]) -> None:
        told = {name: lambda *_: None for name in ("progress", "findings", "resolved", "stage")}
        options = TrainOptions(recipe=self.folder / "recipe.toml", until=until)
        train(self.settings, options, RunCallbacks(**{**told, **heard}), should_stop=lambda: False)

    def refused(self, until: str = "source", **heard: Callable[..., Any]) -> None:
        with pytest.raises(Unavailable) as caught:
            self.train(until, **heard)
        assert caught.value.code == "clock_wrong"

    def num_manifests(self) -> int:
        return len(read_releases(ArtefactsLog(self.settings).read).trainings)


class Stepping:
    """A clock that a test puts forward, held against one that runs."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.step_ms = 0
        clock = Clock(None, wall_ms=lambda: now_ms() + self.step_ms)
        patch.setattr(training, "clock_of_realm", lambda settings: clock)

    def forward(self, *_: object) -> None:
        self.step_ms = DAY_MS


def test_no_run_begins_before_the_logs_last_time(tmp_path: Path) -> None:
    """Nothing is made, and nothing is logged."""
    place = Place(tmp_path, ahead_ms=2 * DAY_MS)
    place.refused()
    assert not (Home(place.settings.home).path / "runs").exists()
    assert place.num_manifests() == 0


def test_a_stage_whose_clock_stepped_is_not_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its times are nobody's evidence; once the clock is right the next start goes on."""
    place, clock = Place(tmp_path), Stepping(monkeypatch)
    place.refused(progress=lambda what, *_: clock.forward() if what == "documents read" else None)
    assert place.num_manifests() == 0
    clock.step_ms = 0
    place.train()
    assert place.num_manifests() == 1


def test_no_stage_begins_after_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of work would be for nothing: what was logged before the step stays, and no other stage starts."""
    place, clock = Place(tmp_path), Stepping(monkeypatch)
    begun: list[str] = []
    monkeypatch.setattr(sealed_stage, "run_sealed", _noting(begun, sealed_stage.run_sealed))
    place.refused("clean", stage=clock.forward)
    assert (begun, place.num_manifests()) == (["source"], 1)


def test_no_release_is_dated_by_a_wrong_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its stages were right."""
    place, clock = Place(tmp_path), Stepping(monkeypatch)
    monkeypatch.setattr(training, "run_stages", clock.forward)
    monkeypatch.setattr(training, "release", lambda *arguments, **named: pytest.fail("it was released"))
    place.refused("release")


def _noting(begun: list[str], run: Callable[..., Any]) -> Callable[..., Any]:
    def noted(stage: str, *arguments: Any, **named: Any) -> Any:
        begun.append(stage)
        return run(stage, *arguments, **named)

    return noted
