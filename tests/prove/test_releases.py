"""A release's folder against its statement: one that does not fit fails, though the right keys signed and logged it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.app import finished_runs
from tests.app.finished_runs import adapter_run, logged, model_run

from allod.app.artefacts import released_models as models_module
from allod.app.artefacts.released_models import ReleasedModels
from allod.app.home import load_settings
from allod.app.training import release as release_module
from allod.app.training.release import models_key, release
from allod.core.canonical import canonical_json
from allod.core.digests import sha256_hex
from allod.core.errors import Invalid, VerificationError
from allod.core.files.plain import digest_of_plain_file, read_plain_file
from allod.core.statements.training import ArtefactStatement, artefact_statement, check_artefact_statement
from allod.model.releases.passport import read_passport
from allod.model.store import silent
from allod.prove.releases.model_signing import sign_folder
from allod.prove.releases.release import CheckedRelease, check_release
from allod.settings.tree import Settings

Change = Callable[[Path], None]
EVALUATION = '{"weights": "sha256:x", "bits_per_byte": "1.95", "gates": [true]}'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"realm.name": "realm.example"}, home=tmp_path / "home")


@pytest.fixture
def folder(settings: Settings, tmp_path: Path) -> Path:
    """A whole release, which may be written to."""
    made = release(settings, logged(settings, model_run(tmp_path / "run")).folder, now_ms=5_000, report=silent).folder
    for path in [made, *made.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return made


def checked(
    settings: Settings, folder: Path, *, said: dict[str, Any] | None = None, pinned: bool = True
) -> CheckedRelease:
    """The folder as it is now, signed anew by the realm's own key and logged so: what its operator alone could do.

    `said` is what the statement says otherwise; not `pinned`, its digests of documents are the ones from before.
    """
    models = ReleasedModels(settings)
    before: ArtefactStatement = models.newest()["tiny"]
    (folder / "model.sig").write_bytes(sign_folder(folder, models_key(settings)))
    names = {"signature": "model.sig"}
    if pinned:
        names |= {"passport": "passport.json", "bom": "bom.cdx.json", "summary": "summary.json"}
    digests = {what: f"sha256:{digest_of_plain_file(folder / name)}" for what, name in names.items()}
    statement = check_artefact_statement(artefact_statement({**before.predicate, **digests, **(said or {})}))
    trainings = {f"sha256:{sha256_hex(path.read_bytes())}" for path in (folder / "lineage").glob("*/manifest.json")}
    return check_release(folder, statement, models_key(settings).public, trainings=trainings)


def failed(settings: Settings, folder: Path, *, said: dict[str, Any] | None = None, pinned: bool = True) -> str:
    with pytest.raises(VerificationError) as caught:
        checked(settings, folder, said=said, pinned=pinned)
    return f"{caught.value.name}: {caught.value.message}"


def test_a_release_that_was_not_touched_holds(settings: Settings, folder: Path) -> None:
    """Signed again, every step passes and says what was found."""
    names = [step.name for step in checked(settings, folder).steps]
    assert names == ["signature", "weights", "stages", "records", "sources"]


def test_other_weights_under_the_same_history_fail(settings: Settings, folder: Path) -> None:
    """Whatever lies there as weights.gguf, the statement's digest is of one file."""
    (folder / "weights.gguf").write_bytes(b"weaker")
    assert failed(settings, folder).startswith("weights: weights.gguf")


@pytest.mark.parametrize("name", ["passport.json", "bom.cdx.json", "summary.json"])
def test_other_documents_than_the_log_names_fail(settings: Settings, folder: Path, name: str) -> None:
    """What is told of a model is pinned as its weights are."""
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert failed(settings, folder, pinned=False) == f"weights: {name} is not the one that the log names"


def test_weights_that_no_stage_made_fail(settings: Settings, folder: Path) -> None:
    """A statement of a newer date that points at other weights has no stage behind it."""
    (folder / "weights.gguf").write_bytes(b"weaker")
    digest = f"sha256:{sha256_hex(b'weaker')}"
    models = ReleasedModels(settings)
    before = models.newest()["tiny"]
    (folder / "model.sig").write_bytes(sign_folder(folder, models_key(settings)))
    predicate = {**before.predicate, "digest": digest}
    predicate["signature"] = f"sha256:{digest_of_plain_file(folder / 'model.sig')}"
    trainings = {stage["statement"] for stage in before.stages}
    statement = check_artefact_statement(artefact_statement(predicate))
    with pytest.raises(VerificationError, match="no file that its last stage made"):
        check_release(folder, statement, models_key(settings).public, trainings=trainings)


@pytest.mark.parametrize(
    "said",
    [
        {"derivation": "sha256:" + "9" * 64},
        {"kind": "adapter", "base": "sha256:" + "9" * 64},
        {"stages": [{"stage": "evaluate", "derivation": "sha256:" + "9" * 64, "statement": "sha256:" + "9" * 64}]},
    ],
    ids=["root", "kind", "stages"],
)
def test_a_statement_of_another_history_fails(settings: Settings, folder: Path, said: dict[str, Any]) -> None:
    """Kind, base, root and stages are those that the folder's manifests lead to."""
    if said.get("kind") == "adapter":
        shutil.copyfile(folder / "weights.gguf", folder / "adapter.gguf")
    assert failed(settings, folder, said=said).startswith("stages: ")


def _forget(folder: Path) -> None:
    path = folder / "lineage" / "pack" / "documents.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))


def _flatter(folder: Path) -> None:
    path = folder / "lineage" / "evaluate" / "evaluation.json"
    path.write_bytes(path.read_bytes().replace(b"1.95", b"0.95"))


def _leave_out(folder: Path) -> None:
    (folder / "lineage" / "pack" / "documents.jsonl").unlink()


def _add(folder: Path) -> None:
    (folder / "lineage" / "pack" / "more.jsonl").write_bytes(b"{}\n")


def _other_set(folder: Path) -> None:
    (folder / "model" / "model.safetensors").write_bytes(b"weaker")


@pytest.mark.parametrize("change", [_forget, _flatter, _leave_out, _add, _other_set])
def test_records_are_what_their_stages_made(settings: Settings, folder: Path, change: Change) -> None:
    """A document forgotten, a figure flattered, a record left out or slipped in, another safetensors set."""
    change(folder)
    assert failed(settings, folder).startswith("records: ")


def test_a_folder_of_a_stage_has_its_name(settings: Settings, folder: Path) -> None:
    """A stage that lies under another's name is not read as either."""
    lineage = folder / "lineage"
    (lineage / "clean").rename(lineage / "cleaner")
    assert failed(settings, folder) == "stages: the folder cleaner holds the stage clean"


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[0].update(licence="CC0-1.0"),
        lambda rows: rows[0].update(jurisdiction=""),
        lambda rows: rows.pop(),
        lambda rows: rows.append({**rows[0], "name": "more"}),
        lambda rows: rows[0].pop("origin"),
        lambda rows: rows[0].update(sha256="sha256:" + "9" * 64),
    ],
    ids=["another licence", "no place", "one less", "one more", "no origin", "other content"],
)
def test_manifest_and_record_say_the_same_of_a_source(
    settings: Settings, tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that the first stage wrote otherwise than its manifest says is found, though every digest agrees."""

    class Deceitful(finished_runs.FinishedRun):
        def stage(self, name: str, files: Any, **words: Any) -> str:
            if name == "source":
                rows = json.loads(files["sources.json"])
                change(rows)
                files = {**files, "sources.json": json.dumps(rows).encode()}
            return super().stage(name, files, **words)

    monkeypatch.setattr(finished_runs, "FinishedRun", Deceitful)
    run = finished_runs.model_run(tmp_path / "run")
    with pytest.raises((VerificationError, Invalid)) as caught:
        release(settings, logged(settings, run).folder, now_ms=5_000, report=silent)
    assert getattr(caught.value, "name", caught.value.code) in ("sources", "bad_record")


def test_an_evaluation_of_other_weights_fails(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever releases past the check leaves a release that nobody else believes."""
    monkeypatch.setattr(release_module, "_evaluation", lambda folder, _: json.loads(EVALUATION))
    run = model_run(tmp_path / "run", evaluated="9" * 64)
    with pytest.raises(VerificationError, match="evaluation is of other weights") as caught:
        release(settings, logged(settings, run).folder, now_ms=5_000, report=silent)
    assert caught.value.name == "records"


def test_a_passport_of_another_model_is_not_served(settings: Settings, folder: Path) -> None:
    """Not even one that the statement pins: it must speak of this name and this digest."""
    value = json.loads((folder / "passport.json").read_bytes())
    value["name"] = "better"
    (folder / "passport.json").write_bytes(canonical_json(value))
    assert read_passport(canonical_json(value)).name == "better"
    again = checked(settings, folder)
    with pytest.raises(VerificationError) as caught:
        models_module._passport_and_header(again)
    assert caught.value.name == "passport"


def test_two_adapters_of_one_corpus_are_told_apart(settings: Settings, tmp_path: Path) -> None:
    """The folder of one does not stand in for the other's."""
    one, two = (
        release(settings, logged(settings, adapter_run(tmp_path / name, name)).folder, now_ms=5_000, report=silent)
        for name in ("one", "two")
    )
    models = ReleasedModels(settings)
    trainings = models.releases.trainings if models.releases else frozenset()
    with pytest.raises(VerificationError):
        check_release(one.folder, models.newest()["two"], models_key(settings).public, trainings=trainings)
    assert check_release(two.folder, models.newest()["two"], models_key(settings).public, trainings=trainings)


@pytest.mark.parametrize("read", [digest_of_plain_file, lambda path: read_plain_file(path, limit_bytes=9)])
def test_a_plain_file_is_no_link(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """Also where somebody puts the link there between the look at the folder and the reading."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read(tmp_path / "file")
    with pytest.raises(Invalid) as caught:
        read(tmp_path / "link")
    assert caught.value.code == "bad_folder"
