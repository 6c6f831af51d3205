"""`allod tune` as it runs: over a modelled engine what it keeps and when it ends, and once over a real one, sealed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.serve.tiny_model import write_tiny_model

from allod.app.home import load_settings
from allod.app.tuning import tune as tune_module
from allod.app.tuning.at_hand import files_of_same_model
from allod.app.tuning.configuration import Configuration
from allod.app.tuning.figures import Figures
from allod.app.tuning.kept import FILE
from allod.app.tuning.tune import Outcome, tune
from allod.cli.main import main
from allod.core.errors import Invalid, Unavailable
from allod.model.store import silent
from allod.settings.tree import Settings

ANSWERS = (("a", "b", "c"),)
Find = Callable[[Configuration], Figures]


def figures(pace: float) -> Figures:
    return Figures(answer_tokens_s=pace, prompt_tokens_s=pace, together_tokens_s=pace, answers=ANSWERS)


def find_slots_matter(configuration: Configuration) -> Figures:
    """An engine that is twice as fast with 8 slots, and the slower the more threads it has."""
    return figures((20 if configuration.slots == 8 else 10) / configuration.threads / configuration.replicas)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = write_tiny_model(tmp_path / "tiny.Q8_0.gguf")
    return load_settings({"model.name": str(path), "model.threads": 1}, home=tmp_path / "home")


@pytest.fixture
def modelled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Find], list[Configuration]]:
    """Have an engine modelled; what was measured is in the list that is given back."""

    def model(find: Find) -> list[Configuration]:
        measured: list[Configuration] = []

        async def measure(_: object, __: object, configuration: Configuration, *, with_answers: bool) -> Figures:
            measured.append(configuration)
            found = find(configuration)
            return found if with_answers else replace(found, answers=())

        async def measure_memory(*_: object) -> int:
            return 100

        monkeypatch.setattr(tune_module, "measure", measure)
        monkeypatch.setattr(tune_module, "measure_memory", measure_memory)
        monkeypatch.setattr(tune_module, "num_physical_cores", lambda: 2)
        return measured

    return model


def run(settings: Settings, *, minutes: float = 1, again: bool = False) -> Outcome:
    return tune(settings, minutes=minutes, again=again, progress=silent)


def test_the_fastest_is_found_beside_what_is_set(
    settings: Settings, modelled: Callable[[Find], list[Configuration]]
) -> None:
    """Each round has the reference in it."""
    measured = modelled(find_slots_matter)
    outcome = run(settings)
    assert (outcome.best.slots, outcome.best.threads, outcome.best.replicas) == (8, 1, 1)
    assert outcome.ending == "clear"
    assert measured.count(outcome.reference) == 3
    assert outcome.num_measured == len(measured)


def test_what_was_measured_is_not_measured_again(
    settings: Settings, modelled: Callable[[Find], list[Configuration]]
) -> None:
    """Unless that is asked for; a line that a crash cut off, or of another machine, is passed over."""
    measured = modelled(find_slots_matter)
    best = run(settings).best
    kept = settings.home / FILE
    other = json.loads(kept.read_text().splitlines()[-1]) | {"machine": "another"}
    kept.write_text(kept.read_text() + json.dumps(other) + '\n{"machine":')
    measured.clear()
    assert run(settings).best == best
    assert measured == []
    assert run(settings, again=True).best == best
    assert measured != []


def test_a_run_that_is_stopped_goes_on_where_it_was(
    settings: Settings, modelled: Callable[[Find], list[Configuration]]
) -> None:
    """Ctrl-C keeps what was measured; only the reference is measured beside the rest again."""

    def interrupt(_: Configuration) -> Figures:
        if len(measured) == 6:
            raise KeyboardInterrupt
        return find_slots_matter(_)

    measured = modelled(interrupt)
    outcome = run(settings)
    assert (outcome.ending, outcome.best, outcome.num_measured) == ("interrupted", outcome.reference, 5)
    first = measured[1:5]
    measured = modelled(find_slots_matter)
    assert run(settings).best.slots == 8
    assert len(first) == 4
    assert set(measured[:5]).isdisjoint(first)  # the first round's rest and the reference
    assert outcome.reference in measured[:5]


def test_the_time_is_a_bound(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that would outlast it is ended, and not kept."""

    async def measure(*_: object, **__: object) -> Figures:
        await asyncio.sleep(60)
        return figures(1)

    monkeypatch.setattr(tune_module, "measure", measure)
    outcome = run(settings, minutes=0.01)
    assert (outcome.ending, outcome.num_measured, outcome.best) == ("time", 0, outcome.reference)


def test_one_that_does_not_start_is_out_and_said(
    settings: Settings, modelled: Callable[[Find], list[Configuration]]
) -> None:
    """What is set must run."""

    def find(configuration: Configuration) -> Figures:
        if configuration.slots == 8:
            raise Unavailable("no memory for it", code="engine_not_started")
        return figures(10)

    modelled(find)
    outcome = run(settings)
    assert outcome.best == outcome.reference
    errors = {each.configuration.slots: each.rounds[0].error for each in outcome.tried if each.rounds[0].error}
    assert errors == {8: "no memory for it"}
    eight = replace(settings, model=replace(settings.model, slots=8))
    with pytest.raises(Unavailable, match="no memory"):
        run(eight, again=True)


def test_one_that_answers_otherwise_is_out(
    settings: Settings, modelled: Callable[[Find], list[Configuration]], tmp_path: Path
) -> None:
    """Another quantisation lies beside the file and is faster; two of three tokens are others."""
    other = shutil.copy(settings.model.name, tmp_path / "tiny.Q2_K.gguf")
    with open(other, "r+b") as file:  # noqa: PTH123 (a byte of the last tensor)
        file.seek(-1, 2)
        file.write(b"\x01")

    def find(configuration: Configuration) -> Figures:
        if configuration.file.name == "tiny.Q2_K.gguf":
            return replace(figures(99), answers=(("a", "x", "y"),))
        return figures(10)

    modelled(find)
    outcome = run(settings)
    assert outcome.best == outcome.reference
    assert [each.agreement for each in outcome.tried if each.configuration.file.name == "tiny.Q2_K.gguf"] == [0.5]


def test_only_the_same_model_counts_as_another_quantisation(tmp_path: Path) -> None:
    """By name, shape and template; a file that the gate refuses is none."""
    one, two = write_tiny_model(tmp_path / "tiny-Q4_0.gguf"), write_tiny_model(tmp_path / "tiny-Q8_0.gguf")
    write_tiny_model(tmp_path / "tiny-F16.gguf", template="{{ messages }}")
    write_tiny_model(tmp_path / "other-Q8_0.gguf")
    (tmp_path / "tiny-Q5_0.gguf").write_bytes(b"GGUF")
    assert files_of_same_model(one, [tmp_path], stem=one.stem) == [two]


def test_two_at_once_are_refused(settings: Settings, modelled: Callable[[Find], list[Configuration]]) -> None:
    """They would measure each other."""

    def find(_: Configuration) -> Figures:
        with pytest.raises(Unavailable) as told:
            run(settings)
        assert told.value.code == "tune_running"
        return figures(10)

    modelled(find)
    run(settings)


def test_what_makes_no_answers_is_refused(settings: Settings) -> None:
    """The echo engine has nothing to tune."""
    with pytest.raises(Invalid) as told:
        run(replace(settings, model=replace(settings.model, name="echo")))
    assert told.value.code == "tune_model"


def test_what_is_better_is_written_where_asked(
    settings: Settings,
    modelled: Callable[[Find], list[Configuration]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing else of the file is changed."""
    modelled(find_slots_matter)
    monkeypatch.setenv("ALLOD_HOME", str(settings.home))
    file = settings.home / "allod.toml"
    file.write_text(f"[model] # mine\nname = '{settings.model.name}'\nslots = 4 # four\nthreads = 1\n")
    before = file.read_text()
    assert main(["tune"]) == 0
    assert file.read_text() == before
    assert "[model]\nslots = 8\n" in capsys.readouterr().out
    assert main(["tune", "--write", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changes"], told["written"]) == ({"slots": 8}, True)
    assert file.read_text() == before.replace("slots = 4", "slots = 8")


def test_beside_a_gateway_nothing_is_measured_unless_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names it."""
    monkeypatch.setenv("ALLOD_HOME", str(settings.home))
    monkeypatch.setattr("allod.cli.verbs.tune.find_gateway", lambda _: "http://127.0.0.1:8400")
    assert main(["tune"]) == 3
    told = capsys.readouterr().err
    assert "http://127.0.0.1:8400" in told
    assert "--beside" in told


@pytest.mark.slow
def test_a_real_engine_is_measured_in_its_seal(settings: Settings) -> None:
    """A tiny model: all rates are there, its memory too, and it answers alike whatever the threads."""
    outcome = run(settings, minutes=1)
    assert outcome.num_measured >= 2
    for tried in outcome.tried:
        first = tried.rounds[0]
        assert first.error == ""
        assert first.score > 0
        assert first.memory_mib > 0
        assert first.first_token_s > 0
        assert tried.agreement is not None
    assert outcome.engine.startswith("sha256:")
