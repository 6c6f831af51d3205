"""Whoever can write into a run's folder, and has no key, gets nothing of his released: each forgery is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.train.test_pipeline import PREDICATE, Run, recipe

from allod.app.artefacts.log import ArtefactsLog
from allod.app.home import load_settings
from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.core.statements.training import check_training_statement, derivation_of
from allod.settings.tree import Settings
from allod.train.outputs import list_files
from allod.train.pipeline import PipelineStage, stages_of
from allod.train.resolving import read_recorded, record

STAGES = [stage.name for stage in stages_of(recipe())]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"realm.name": "realm.example"}, home=tmp_path / "home")


class LoggedRun(Run):
    """A pipeline of small stages, whose log is the realm's own."""

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path)
        self.log: Any = ArtefactsLog(settings)

    def perform(
        self, stage: PipelineStage, *, key: str, inputs: Mapping[str, Path], output: Path
    ) -> Mapping[str, JsonValue]:
        said = super().perform(stage, key=key, inputs=inputs, output=output)
        return {**said, "id": f"training_{sha256_hex(f'{self.path}{stage.name}{len(self.performed)}'.encode())[:32]}"}


@pytest.fixture
def run(tmp_path: Path, settings: Settings) -> LoggedRun:
    run = LoggedRun(tmp_path / "run", settings)
    run.go()
    return run


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write files.json and manifest.json anew, so that all of it follows from itself."""
    files = list_files(folder)
    (folder / "files.json").write_bytes(files)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    digest = sha256_hex(files)
    manifest["subject"][0]["digest"]["sha256"] = digest
    held = manifest["predicate"]
    change(held)
    held["derivation"] = derivation_of(held["key"], f"sha256:{digest}")
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    assert check_training_statement(canonical_json(manifest))


def a_better_machine(held: dict[str, Any]) -> None:
    held["stated"] = {"site": "isambard-ai", "jurisdiction": "GB", "nodes": 1, "accelerators_per_node": 4}
    held["observed"] = {"by": "stage", "machine": {"accelerators": ["GH200"] * 4}}


def refused(run: LoggedRun) -> Invalid:
    with pytest.raises(Invalid) as caught:
        run.go()
    return caught.value


@pytest.mark.parametrize("stage", STAGES)
def test_a_forged_stage_is_no_stage(run: LoggedRun, stage: str) -> None:
    """Other outputs, a list and a manifest that fit them, a site that sounds well: the log knows another one."""
    (run.path / stage / "made.txt").write_text("weights of somebody else")
    forge(run.path / stage, a_better_machine)
    error = refused(run)
    assert error.code == "stage_unlogged"
    assert f"the stage {stage}" in error.message
    assert re.search("its files are another list, sha256:[0-9a-f]{64} and not sha256:[0-9a-f]{64}; ", error.message)
    assert "; observed machine accelerators is GH200, GH200, GH200, GH200 and not " in error.message
    assert "; stated site is isambard-ai and not " in error.message
    assert not set("{}[]") & set(error.message)
    assert "the next start makes it again" in str(error.hint)
    run.go()
    assert run.performed == [stage]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("energy", {"label": "METERED", "millijoules": 1, "method": "believe me"}),
        ("at", {"start_ms": 5, "end_ms": 6}),
        ("stated", {"site": "elsewhere", "jurisdiction": "FR", "nodes": 1, "accelerators_per_node": 0}),
        ("observed", {"by": "trainer", "machine": {"processor": "a better one"}}),
        ("measured", {"tokens": 10**9}),
        ("label", {"tier": "PUBLIC"}),
        ("seal", {"kind": "island"}),
    ],
)
def test_a_manifest_whose_own_words_were_changed_is_no_leaf(run: LoggedRun, field: str, value: Any) -> None:
    """Nothing of these is in key or derivation, and each is still signed for."""
    forge(run.path / "pretrain", lambda held: held.update({field: value}))
    error = refused(run)
    assert (error.code, field in error.message) == ("stage_unlogged", True)


def test_files_replaced_after_the_leaf_are_noticed(run: LoggedRun) -> None:
    """The manifest is a leaf; what it lists is not what is there."""
    (run.path / "pretrain" / "made.txt").write_text("weights of somebody else")
    error = refused(run)
    assert error.code == "stage_changed"
    assert re.search("made.txt is changed .sha256 [0-9a-f]{64} and not [0-9a-f]{64}.", error.message)


def test_a_forged_stage_that_has_not_got_its_name_yet_is_not_taken_over(run: LoggedRun) -> None:
    """What looks like an interrupted end is believed for its leaf alone, too."""
    folder = run.path / "pretrain"
    key = check_training_statement((folder / "manifest.json").read_bytes()).key
    (folder / "made.txt").write_text("weights of somebody else")
    forge(folder, a_better_machine)
    folder.rename(run.path / f".ended-pretrain-{key.removeprefix('sha256:')[:16]}")
    run.go()
    assert run.performed == ["pretrain"]
    assert "somebody else" not in (folder / "made.txt").read_text()


def test_a_log_that_was_put_back_knows_no_later_stage(run: LoggedRun, settings: Settings, tmp_path: Path) -> None:
    """Nor does a realm whose log is gone: stages are made again, and nothing is believed."""
    shutil.rmtree(settings.home / "logs" / "artefacts")
    error = refused(run)
    assert (error.code, "source" in error.message) == ("stage_unlogged", True)


def test_a_run_of_another_realm_is_not_ours(run: LoggedRun, tmp_path: Path) -> None:
    """A folder copied from another machine: its stages are leaves of another log, whose key is not ours."""
    other = LoggedRun(run.path, load_settings({"realm.name": "other.example"}, home=tmp_path / "other"))
    assert refused(other).code == "stage_unlogged"


def test_the_log_of_another_realm_is_not_believed(run: LoggedRun, settings: Settings, tmp_path: Path) -> None:
    """A forger may bring a log in which his stages are; it is not signed by this realm's key."""
    theirs = load_settings({"realm.name": "other.example"}, home=tmp_path / "other")
    other = LoggedRun(tmp_path / "theirs", theirs)
    other.go()
    shutil.rmtree(settings.home / "logs" / "artefacts")
    shutil.copytree(theirs.home / "logs" / "artefacts", settings.home / "logs" / "artefacts")
    shutil.rmtree(run.path)
    shutil.copytree(other.path, run.path)
    assert refused(run).code == "log_origin"
    assert (run.path / "source").is_dir()  # the log's damage says nothing of the stages


def test_two_derivations_of_one_key_on_one_machine_are_refused(run: LoggedRun) -> None:
    """Both are shown, nothing is logged, and what was made is set aside."""
    shutil.rmtree(run.path / "pretrain")
    before = run.log.read(lambda *_: None).head.size

    def other(stage: PipelineStage, *, key: str, inputs: Mapping[str, Path], output: Path) -> Mapping[str, JsonValue]:
        (output / "made.txt").write_text("something else")
        return {**PREDICATE, "id": "training_other"}

    run.perform = other  # type: ignore[method-assign]
    error = refused(run)
    assert error.code == "derivation_differs"
    assert error.message.count("sha256:") == 4
    assert run.log.read(lambda *_: None).head.size == before
    assert (run.path / ".partial-pretrain").exists() is False


def test_another_machine_may_round_otherwise(run: LoggedRun) -> None:
    """Another processor's bits are another derivation, and both stand in the log."""
    shutil.rmtree(run.path / "pretrain")

    def elsewhere(
        stage: PipelineStage, *, key: str, inputs: Mapping[str, Path], output: Path
    ) -> Mapping[str, JsonValue]:
        (output / "made.txt").write_text(f"something else {key}")
        seen: dict[str, JsonValue] = {"by": "trainer", "machine": {"processor": "another"}}
        return {**PREDICATE, "id": f"training_{stage.name}-elsewhere", "observed": seen}

    run.perform = elsewhere  # type: ignore[method-assign]
    run.go()


def test_a_forged_measurement_does_not_decide_how_long_is_learnt(tmp_path: Path, settings: Settings) -> None:
    """`resolved.json` lies where the stages lie; its size and steps must have been measured by this realm."""
    asked = recipe(size="auto", steps=0, minutes=5)
    forged = replace(asked, size="1m", steps=3, minutes=0)
    record(tmp_path, asked, forged, {}, beside=tmp_path)
    with pytest.raises(Invalid) as caught:
        read_recorded(tmp_path, asked, ArtefactsLog(settings))
    assert caught.value.code == "record_unlogged"
