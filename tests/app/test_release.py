"""A release: whole or not at all, once and for all, and only of a run that holds in every link."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.app import finished_runs
from tests.app.finished_runs import BASE_DIGEST, LABEL, TEXTS, FinishedRun, adapter_run, corpus, logged, model_run

from allod.app.artefacts import log as artefacts_log
from allod.app.artefacts import release_log
from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.policies import open_policies
from allod.app.artefacts.released_models import ReleasedModels
from allod.app.home import Home, load_settings
from allod.app.training import release as release_module
from allod.app.training.release import NewRelease, models_key, release
from allod.core.canonical import canonical_json
from allod.core.errors import Invalid, Unavailable, VerificationError
from allod.core.statements.receipt import check_statement
from allod.core.statements.training import derivation_of, key_of
from allod.model.gguf.header import read_header
from allod.model.network.tokenizer_files import CHAT_TEMPLATE
from allod.model.releases.released import check_template
from allod.model.store import Store, silent
from allod.prove.releases.model_signing import sign_folder
from allod.prove.tlog.log import open_log
from allod.settings.tree import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"realm.name": "realm.example", "realm.jurisdiction": "GB"}, home=tmp_path / "home")


def released(settings: Settings, run: FinishedRun, now_ms: int = 5_000) -> NewRelease:
    return release(settings, logged(settings, run).folder, now_ms=now_ms, report=silent)


def refused(settings: Settings, run: FinishedRun) -> str:
    with pytest.raises(Invalid) as caught:
        released(settings, run)
    assert not list(Home(settings.home).store.glob("[!.]*"))
    return caught.value.code


def num_logged(settings: Settings) -> int:
    return ArtefactsLog(settings).read(lambda *_: None).head.size


def test_a_finished_run_becomes_a_model_in_the_store(settings: Settings, tmp_path: Path) -> None:
    """By the digest of what is served, signed, with its lineage; its statement and its stages' are in the log."""
    run = model_run(tmp_path / "run")
    made = released(settings, run)
    assert (made.name, made.kind, made.entry) == ("tiny", "model", len(run.manifests))
    assert made.folder == Home(settings.home).store / made.digest.removeprefix("sha256:")
    assert (made.folder / "weights.gguf").read_bytes() == (run.folder / "export" / "tiny-q8_0.gguf").read_bytes()
    assert Store(made.folder.parent).find(made.folder.name) == made.folder / "weights.gguf"
    files = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert {"passport.json", "bom.cdx.json", "summary.md", "model.sig", "model/model.safetensors"} <= files
    assert {"lineage/source/index.jsonl", "lineage/pack/documents.jsonl", "lineage/evaluate/evaluation.json"} <= files
    assert not any(path.stat().st_mode & 0o222 for path in made.folder.rglob("*") if path.is_file())
    found = ReleasedModels(settings)
    artefact = found.find("tiny")
    assert artefact is not None
    assert (artefact.artefact_digest, artefact.derivation, artefact.at_ms) == (made.digest, made.root, 5_000)
    assert found.check(artefact).passport.licence == "LicenseRef-public-domain AND MIT"


def test_an_adapter_is_released_beside_its_base(settings: Settings, tmp_path: Path) -> None:
    """In a file that nobody takes for a model by itself."""
    made = released(settings, adapter_run(tmp_path / "run"))
    assert made.kind == "adapter"
    assert (made.folder / "adapter.gguf").is_file()
    assert Store(made.folder.parent).find(made.folder.name) is None
    (found,) = ReleasedModels(settings).adapters_of(BASE_DIGEST)
    assert (found.name, found.base) == ("style", BASE_DIGEST)


def test_releasing_again_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    """The same statement, the same files, nothing more in the log."""
    run = model_run(tmp_path / "run")
    first, size = released(settings, run), num_logged(settings)
    assert released(settings, run, now_ms=9_000) == first
    assert num_logged(settings) == size


def test_two_realms_release_the_same_bytes(tmp_path: Path) -> None:
    """But for the key: passport, bill of materials and summary follow from the manifests alone."""
    run, made = model_run(tmp_path / "run"), []
    for name in ("a", "b"):
        settings = load_settings({"realm.name": "realm.example"}, home=tmp_path / name)
        made.append(released(settings, run).folder)
    for name in ("passport.json", "bom.cdx.json", "summary.json", "summary.md"):
        assert (made[0] / name).read_bytes() == (made[1] / name).read_bytes()


STEPS = ["_copy", "_render", "sign_folder", "install_release", "append"]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_nothing_or_a_whole_release(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After whichever step it comes: no name stands for anything yet, and the next try completes it."""
    run = model_run(tmp_path / "run")
    target: Any = release_log.ReleaseLog if step == "append" else release_module
    with monkeypatch.context() as patched:

        def crash(*arguments: Any, **named: Any) -> None:
            if step == "install_release":
                original(*arguments, **named)
            raise KeyboardInterrupt

        original = getattr(target, step)
        patched.setattr(target, step, crash)
        with pytest.raises(KeyboardInterrupt):
            released(settings, run)
    assert ReleasedModels(settings).find("tiny") is None
    whole = step in ("install_release", "append")
    assert bool(list(Home(settings.home).store.glob("[!.]*"))) is whole
    made = released(settings, run)
    artefact = ReleasedModels(settings).find("tiny")
    assert artefact is not None
    assert ReleasedModels(settings).check(artefact).checked.folder == made.folder


def test_a_crash_before_the_bundle_loses_only_the_bundle(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement is in the log: the release has its name, and the next try writes the bundle."""
    run = model_run(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(release_log, "bundle_for", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            released(settings, run)
    assert ReleasedModels(settings).find("tiny") is not None
    assert not list((settings.home / "releases").glob("*.json"))
    size = num_logged(settings)
    made = released(settings, run)
    assert num_logged(settings) == size
    assert (settings.home / "releases" / f"{made.folder.name}.json").is_file()


def test_a_model_without_its_evaluation_is_refused(settings: Settings, tmp_path: Path) -> None:
    """And so is one whose evaluation is of other weights."""
    assert refused(settings, model_run(tmp_path / "other", evaluated="e" * 64)) == "not_evaluated"
    run = model_run(tmp_path / "none")
    shutil.rmtree(run.folder / "evaluate")
    assert refused(settings, run) == "bad_folder"


def test_weights_that_carry_another_history_are_refused(settings: Settings, tmp_path: Path) -> None:
    """The file that is served says itself which stages it came from."""
    assert refused(settings, model_run(tmp_path / "run", derivation="sha256:" + "d" * 64)) == "bad_lineage"


def test_a_licence_that_does_not_permit_training_is_refused(settings: Settings, tmp_path: Path) -> None:
    """Once more at the end: whatever let it in, it does not go out."""
    run = model_run(tmp_path / "run", licences={"novels": "CC-BY-NC-4.0", "plays": "MIT"})
    assert refused(settings, run) == "licence_refused"


@pytest.mark.parametrize("name", ["smollm2-135m", "auto", "echo"])
def test_a_name_that_means_something_else_is_refused(settings: Settings, tmp_path: Path, name: str) -> None:
    """A name leads to one model."""
    assert refused(settings, model_run(tmp_path / "run", name)) == "model_name"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (
            "pack/documents.jsonl",
            lambda path: path.write_bytes(path.read_bytes().replace(b"novels/one", b"novels/two")),
        ),
        ("export/tiny-q8_0.gguf", lambda path: path.write_bytes(path.read_bytes() + bytes(32))),
        ("pretrain/losses.jsonl", Path.unlink),
        ("clean/texts.jsonl", lambda path: path.write_bytes(b"[]")),
        ("pretrain/manifest.json", lambda path: path.write_bytes(path.read_bytes().replace(b'"seed":1', b'"seed":2'))),
    ],
    ids=["documents", "weights", "missing", "not kept", "manifest"],
)
def test_a_run_that_was_changed_on_disk_is_refused(
    settings: Settings, tmp_path: Path, file: str, change: Callable[[Path], None]
) -> None:
    """Every file of every stage is read and compared, those that a release does not keep, too; a manifest's own words
    that no digest follows from are for the log to hold."""
    run = model_run(tmp_path / "run")
    logged(settings, run)
    change(run.folder / file)
    with pytest.raises((Invalid, VerificationError)):
        released(settings, run)
    assert ReleasedModels(settings).find("tiny") is None


@pytest.mark.parametrize("stage", ["source", "pretrain", "export"])
def test_a_stage_that_is_no_leaf_is_not_released(settings: Settings, tmp_path: Path, stage: str) -> None:
    """Nothing is signed, stored or logged for a run in which one stage's manifest is nobody's word."""
    run = model_run(tmp_path / "run")
    ArtefactsLog(settings).append([manifest for name, manifest in run.manifests.items() if name != stage])
    before = num_logged(settings)
    with pytest.raises(Invalid, match=f"the stage {stage} was not made here") as caught:
        release(settings, run.folder, now_ms=5_000, report=silent)
    assert caught.value.code == "stage_unlogged"
    assert num_logged(settings) == before
    assert not list(Home(settings.home).store.glob("[!.]*"))


def test_a_link_in_a_run_is_refused(settings: Settings, tmp_path: Path) -> None:
    """What it leads to could be anything tomorrow."""
    run = model_run(tmp_path / "run")
    report = run.folder / "clean" / "report.json"
    report.rename(tmp_path / "report.json")
    report.symlink_to(tmp_path / "report.json")
    with pytest.raises(Invalid):
        released(settings, run)


def test_an_unfinished_run_is_refused(settings: Settings, tmp_path: Path) -> None:
    """With what to do about it."""
    run = FinishedRun(tmp_path / "run")
    corpus(run)
    assert refused(settings, run) == "run_unfinished"


def test_what_another_recipe_left_in_the_folder_stays_out(settings: Settings, tmp_path: Path) -> None:
    """Only stages that the export was made from are part of the release."""
    run = model_run(tmp_path / "run")
    shutil.copytree(run.folder / "pretrain", run.folder / "tune")
    assert not (released(settings, run).folder / "lineage" / "tune").exists()


def test_a_label_is_never_lower_than_that_of_a_stage(settings: Settings, tmp_path: Path) -> None:
    """What was learnt from SECRET text is SECRET."""
    secret = {**LABEL, "tier": "SECRET", "markings": ["PERSONAL DATA"]}
    made = released(settings, model_run(tmp_path / "run", label=secret))
    artefact = ReleasedModels(settings).find(made.name)
    assert artefact is not None
    told = ReleasedModels(settings).check(artefact).passport
    assert (told.tier, told.markings) == ("SECRET", ("PERSONAL DATA",))
    assert artefact.predicate["label"]["tier"] == "SECRET"


def test_the_same_file_has_one_name(settings: Settings, tmp_path: Path) -> None:
    """A run that exports the very bytes under another name does not take them over."""
    made = released(settings, adapter_run(tmp_path / "run", "style"))
    run = adapter_run(tmp_path / "again", "style")
    export = run.folder / "export_adapter"
    manifest = json.loads((export / "manifest.json").read_bytes())
    held = manifest["predicate"]
    held["parameters"]["name"] = "another"
    held["key"] = key_of(held["stage"], held["version"], held["parameters"], held["inputs"])
    held["derivation"] = derivation_of(held["key"], f"sha256:{manifest['subject'][0]['digest']['sha256']}")
    (export / "manifest.json").write_bytes(canonical_json(manifest))
    run.manifests["export_adapter"] = canonical_json(manifest)
    with pytest.raises(Invalid, match="released as style already"):
        released(settings, run)
    assert made.folder.is_dir()


def test_statements_are_logged_once(settings: Settings, tmp_path: Path) -> None:
    """A stage that is there already is not logged again; another statement under its id is refused."""
    run = model_run(tmp_path / "run")
    manifests = list(run.manifests.values())
    ArtefactsLog(settings).append(manifests[:2])
    ArtefactsLog(settings).append(manifests)
    assert num_logged(settings) == len(manifests)
    changed = json.loads(manifests[0])
    changed["predicate"]["at"]["end_ms"] += 1
    assert check_statement(canonical_json(changed))
    with pytest.raises(Invalid) as caught:
        ArtefactsLog(settings).append([canonical_json(changed)])
    assert caught.value.code == "statement_differs"


def test_a_log_that_another_process_has_is_waited_for(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setting a policy takes a moment; what stays locked is unavailable, and the release is completed later."""
    run = model_run(tmp_path / "run")
    log = open_log(settings.home / "logs" / "artefacts", ArtefactsLog(settings).signing_key())
    closing = threading.Timer(0.3, log.close)
    closing.start()
    ArtefactsLog(settings).append([run.manifests["source"]])
    closing.join()
    monkeypatch.setattr(artefacts_log, "TRIES", 2)
    log = open_log(settings.home / "logs" / "artefacts", ArtefactsLog(settings).signing_key())
    try:
        with pytest.raises(Unavailable) as caught:
            released(settings, run)
    finally:
        log.close()
    assert caught.value.code == "log_locked"
    assert released(settings, run).entry == len(run.manifests)


def test_a_log_that_was_put_back_is_noticed(settings: Settings, tmp_path: Path) -> None:
    """A release that the log no longer names is known by its bundle."""
    released(settings, model_run(tmp_path / "one", "one"))
    logs = settings.home / "logs" / "artefacts"
    shutil.copytree(logs, tmp_path / "earlier")
    released(settings, model_run(tmp_path / "two", "two"))
    shutil.rmtree(logs)
    (tmp_path / "earlier").rename(logs)
    with pytest.raises(Invalid) as caught:
        _ = ReleasedModels(settings).releases
    assert caught.value.code == "log_damaged"
    with pytest.raises(Invalid) as again:  # policies are read from the same log, and say the same of it
        open_policies(settings).history()
    assert (again.value.code, again.value.message) == (caught.value.code, caught.value.message)


def test_the_models_key_is_secret_and_its_public_half_is_not(settings: Settings) -> None:
    """Made once; the public half is put right again where somebody changed it."""
    key, home = models_key(settings), Home(settings.home)
    assert home.models_key.stat().st_mode & 0o777 == 0o600
    home.models_pub.write_text("another")
    assert models_key(settings).public.pem == key.public.pem == home.models_pub.read_bytes()


# What is served is what was released, whoever else can write into the store.


def writable(folder: Path) -> Path:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def check_fails(settings: Settings, name: str) -> str:
    models = ReleasedModels(settings)
    artefact = models.find(name)
    assert artefact is not None
    with pytest.raises(VerificationError) as caught:
        models.check(artefact)
    return f"{caught.value.step} {caught.value.name}"


def test_a_changed_file_of_a_release_is_not_served(settings: Settings, tmp_path: Path) -> None:
    """Weights, passport or a record: the signature covers all of it."""
    made = released(settings, model_run(tmp_path / "run"))
    for name in ("weights.gguf", "passport.json", "lineage/pack/documents.jsonl", "summary.md"):
        path = writable(made.folder) / name
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        assert check_fails(settings, "tiny") == "1 signature"
        path.write_bytes(data)
    models = ReleasedModels(settings)
    assert models.check(models.newest()["tiny"])


def test_another_models_lineage_does_not_pass(settings: Settings, tmp_path: Path) -> None:
    """Not even signed anew by the realm's own key: the log names the signature that counts."""
    made = released(settings, model_run(tmp_path / "run"))
    other = released(settings, model_run(tmp_path / "other", "other", texts={**TEXTS, "novels/new": "New."}))
    shutil.rmtree(writable(made.folder) / "lineage")
    shutil.copytree(other.folder / "lineage", made.folder / "lineage")
    assert check_fails(settings, "tiny") == "1 signature"
    (made.folder / "model.sig").write_bytes(sign_folder(made.folder, models_key(settings)))
    assert check_fails(settings, "tiny") == "1 signature"


def test_another_models_folder_does_not_pass(settings: Settings, tmp_path: Path) -> None:
    """Whole, signed and logged as it is, it is not the one that this name stands for."""
    made = released(settings, model_run(tmp_path / "run"))
    other = released(settings, model_run(tmp_path / "other", "other"))
    shutil.rmtree(writable(made.folder))
    shutil.copytree(other.folder, made.folder)
    assert check_fails(settings, "tiny") == "1 signature"


def test_links_in_the_store_do_not_pass(settings: Settings, tmp_path: Path) -> None:
    """A release that is a link, or holds one, is no release."""
    made = released(settings, model_run(tmp_path / "run"))
    weights = writable(made.folder) / "weights.gguf"
    weights.rename(tmp_path / "weights.gguf")
    weights.symlink_to(tmp_path / "weights.gguf")
    assert check_fails(settings, "tiny") == "1 signature"
    weights.unlink()
    (tmp_path / "weights.gguf").rename(weights)
    made.folder.rename(tmp_path / "moved")
    made.folder.symlink_to(tmp_path / "moved")
    assert check_fails(settings, "tiny") == "1 signature"


def test_a_release_that_is_gone_is_said_to_be(settings: Settings, tmp_path: Path) -> None:
    """And can be made again from its run."""
    run = model_run(tmp_path / "run")
    made = released(settings, run)
    shutil.rmtree(writable(made.folder))
    models = ReleasedModels(settings)
    with pytest.raises(Invalid) as caught:
        models.check(models.newest()["tiny"])
    assert caught.value.code == "model_missing"
    assert released(settings, run) == made


def test_the_newest_release_of_a_name_counts(settings: Settings, tmp_path: Path) -> None:
    """The one before stays in the log and in the store, by its digest."""
    first = released(settings, model_run(tmp_path / "one"))
    second = released(settings, model_run(tmp_path / "two", texts={**TEXTS, "novels/new": "New."}))
    models = ReleasedModels(settings)
    found, before = models.find("tiny"), models.find(first.digest)
    assert found is not None
    assert before is not None
    assert (found.artefact_digest, before.artefact_digest) == (second.digest, first.digest)
    assert list(models.newest()) == ["tiny"]


def test_a_pipe_for_a_manifest_blocks_nobody(settings: Settings, tmp_path: Path) -> None:
    """Nor does a manifest that is huge."""
    run = model_run(tmp_path / "run")
    manifest = run.folder / "pack" / "manifest.json"
    manifest.unlink()
    os.mkfifo(manifest)
    assert refused(settings, run) == "bad_folder"
    manifest.unlink()
    with manifest.open("wb") as file:
        file.truncate(1 << 40)
    assert refused(settings, run) == "bad_folder"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("modeling_own.py", b"import os"),
        ("pytorch_model.bin", b"\x80\x04."),
        ("config.json", b'{"auto_map": {"AutoModel": "modeling_own.Own"}}'),
        ("config.json", b"[]"),
        ("tokenizer_config.json", b'{"chat_template": "{{ cycler.__init__ }}"}'),
        ("tokenizer_config.json", b"[" * 100_000),
    ],
)
def test_an_export_that_holds_more_than_weights_is_not_signed(
    settings: Settings, tmp_path: Path, name: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export's process read what others wrote: code, pickles and templates of its own do not get our signature."""

    more = {name: data}

    class Poisoned(FinishedRun):
        def stage(self, name: str, files: Mapping[str, bytes], **arguments: Any) -> str:
            return super().stage(name, {**files, **more} if name == "export" else files, **arguments)

    monkeypatch.setattr(finished_runs, "FinishedRun", Poisoned)
    assert refused(settings, model_run(tmp_path / "run")) in ("bad_model_set", "bad_record")


@pytest.mark.parametrize(("template", "is_ours"), [(CHAT_TEMPLATE, True), ("{{ cycler.__init__ }}", False)])
def test_a_chat_template_is_allods_own(tmp_path: Path, template: str, is_ours: bool) -> None:
    """A template is a program that runs on every prompt."""
    file = tmp_path / "x.gguf"
    file.write_bytes(finished_runs.gguf_bytes({"general.architecture": "llama", "tokenizer.chat_template": template}))
    with nullcontext() if is_ours else pytest.raises(Invalid, match="chat template"):
        check_template(read_header(file))
