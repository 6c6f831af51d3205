"""`allod seal test --gpu` on machines that have none, or have them wrongly: the reason, and no success."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.seal import machines

from allod.cli import gpu_trial
from allod.seal.devices.survey import survey_devices


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes the machine below a folder the one that is looked at."""
    return lambda root: monkeypatch.setattr(gpu_trial, "survey_devices", lambda: survey_devices(root))


def test_without_a_driver_it_fails_and_says_so(
    tmp_path: Path, on: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, what to do, and exit status 1."""
    on(machines.no_driver(tmp_path))
    assert gpu_trial.run([], as_json=False) == 1
    said = capsys.readouterr().out
    assert "no-driver: No NVIDIA driver is loaded here" in said
    assert "hint: " in said
    assert "NO GPU CAN BE USED" in said


def test_as_json_it_names_the_obstacle(
    tmp_path: Path, on: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """For scripts: a stable name."""
    on(machines.wrong_library(tmp_path))
    assert gpu_trial.run([], as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["holds"], told["rows"]) == (False, [])
    assert [obstacle["name"] for obstacle in told["obstacles"]] == ["versions-differ"]


def test_the_suite_gets_no_gpu_that_cannot_be_used(tmp_path: Path, on: Callable[[Path], None]) -> None:
    """And all that can."""
    on(machines.wrong_library(tmp_path / "a"))
    assert gpu_trial.devices_at_hand().nodes == ()
    on(machines.h200_times_8(tmp_path / "b"))
    assert len(gpu_trial.devices_at_hand().nodes) == 10
