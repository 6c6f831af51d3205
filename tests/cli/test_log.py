"""A log that was put back, or is gone: whoever reads it says so, and none of them goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.app.test_opening import write_receipts

from allod.app.clock import believed_clock
from allod.app.home import Home, load_settings
from allod.app.models import ReleasedModels
from allod.app.opening import open_realm
from allod.cli.main import main
from allod.core.errors import AllodError
from allod.prove.keys import load_signing_key
from allod.prove.log import open_log
from allod.settings import Settings


def made(folder: Path) -> Settings:
    """A realm with a policy and charged receipts; `older` has its logs when they were empty, `heads` its tree heads."""
    settings = load_settings(home=folder / "home")
    home = Home(settings.home)
    found = open_realm(settings)
    with found.resources:
        write_receipts(found, 3)
        found.meter.catch_up()
    (folder / "heads").mkdir()
    for log, key in ((home.receipts, home.log_key), (home.artefacts, home.artefacts_key)):
        open_log(folder / "older" / log.name, load_signing_key(key)).close()
        shutil.copy(log / "checkpoint", folder / "heads" / log.name)
    return settings


def put_back(folder: Path, log: Path) -> None:
    """With all that is derived from it."""
    shutil.rmtree(log)
    shutil.copytree(folder / "older" / log.name, log)


def take_away(folder: Path, log: Path) -> None:
    shutil.rmtree(log)


@pytest.mark.parametrize("name", ["receipts", "artefacts"])
@pytest.mark.parametrize("change", [put_back, take_away], ids=["older", "gone"])
def test_one_verdict_on_a_log_that_is_not_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path, Path], None]
) -> None:
    """No gateway starts, fsck is not clean, and neither is what it rebuilds; a kept tree head is not consistent."""
    settings = made(tmp_path)
    monkeypatch.setenv("ALLOD_HOME", str(settings.home))
    asked = ["fsck"], ["fsck", "--rebuild"], ["compare", str(tmp_path / "heads" / name)]
    assert [main(["log", *words]) for words in asked] == [0, 0, 0]
    change(tmp_path, settings.home / "logs" / name)
    with pytest.raises(AllodError):
        open_realm(settings)
    assert [main(["log", *words]) for words in asked] == [1, 1, 1]


@pytest.mark.parametrize("change", [put_back, take_away], ids=["older", "gone"])
def test_what_an_artefacts_log_vouches_for_falls_with_it(tmp_path: Path, change: Callable[[Path, Path], None]) -> None:
    """Releases are not merely unknown, and no time is believed."""
    settings = made(tmp_path)
    change(tmp_path, Home(settings.home).artefacts)
    with pytest.raises(AllodError):
        ReleasedModels(settings).newest()
    if change is take_away:
        with pytest.raises(AllodError):
            believed_clock(settings)
