"""A log that was put back, or is gone: whoever reads it says so, and none of them goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.app.test_opening import write_receipts

from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.released_models import ReleasedModels
from allod.app.gateway.clock import clock_of_realm
from allod.app.gateway.open_realm import open_realm
from allod.app.home import Home, load_settings
from allod.cli.main import main
from allod.core.errors import AllodError
from allod.core.statements.clock import ClockAccepted, clock_statement
from allod.prove.formats.signing_key import load_signing_key
from allod.prove.tlog.log import open_log
from allod.settings.tree import Settings


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
    """Releases are not merely unknown, no time is believed, and nothing is appended: that would sign a second past."""
    settings = made(tmp_path)
    home = Home(settings.home)
    change(tmp_path, home.artefacts)
    accepted = ClockAccepted("clock_a", 1, settings.origin, 0, "0" * 64, "an officer")
    for verb in (
        ReleasedModels(settings).newest,
        lambda: clock_of_realm(settings),
        lambda: ArtefactsLog(settings).append([clock_statement(accepted)]),
    ):
        with pytest.raises(AllodError) as caught:
            verb()
        assert caught.value.code in ("log_damaged", "log_gone", "no_log")


@pytest.mark.parametrize("name", ["receipts", "artefacts"])
def test_a_rebuild_reports_on_both_logs_where_one_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Which, at which byte, and what was made again; it ends with 1, the answer is no."""
    settings = made(tmp_path)
    monkeypatch.setenv("ALLOD_HOME", str(settings.home))
    segment = settings.home / "logs" / name / "segment"
    data = bytearray(segment.read_bytes())
    data[20] ^= 1
    segment.write_bytes(data)
    assert main(["log", "fsck", "--rebuild"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{name}: segment, byte 8: a sum is wrong; ") for line in lines)
    assert f"{name}: nothing was made again, and nothing changed: the segment is damaged" in lines
    other = "artefacts" if name == "receipts" else "receipts"
    assert f"{other}: made again: the index, the tiles and the checkpoint file" in lines
    assert lines[-1] == "NOT clean: no gateway starts with this"
    assert main(["log", "fsck", "--rebuild", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["logs"]
    assert [told[log]["is_rebuilt"] for log in (name, other)] == [False, True]


def test_a_bundle_that_does_not_verify_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no reason to say nothing of the logs."""
    settings = made(tmp_path)
    monkeypatch.setenv("ALLOD_HOME", str(settings.home))
    (bundle,) = (settings.home / "policies").glob("*.json")
    bundle.write_text(bundle.read_text().replace("allod:first start", "allod:first stare"))
    assert main(["log", "fsck"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("receipts: 3 entries, ")
    assert lines[1].startswith(f"artefacts: what is kept of it: the bundle {bundle.name} does not verify: ")
    assert lines[-1] == "NOT clean: no gateway starts with this"
