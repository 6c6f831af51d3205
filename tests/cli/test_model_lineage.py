"""`allod model show`, `check`, `affected-by`, `allod verify --lineage`: from an answer to its documents, and back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.app import finished_runs
from tests.app.finished_runs import BASE_DIGEST, TEXTS, FinishedRun, adapter_run, logged, model_run
from tests.conftest import run_allod

from allod.app.artefacts import release_log
from allod.app.artefacts.log import ArtefactsLog, read_artefacts
from allod.app.artefacts.policies import open_policies
from allod.app.home import Home, load_settings
from allod.app.training.release import NewRelease, models_key, release
from allod.cli import main as command_line
from allod.core.digests import sha256_hex
from allod.core.errors import VerificationError
from allod.core.statements.receipt import (
    AnswerPart,
    EnginePart,
    ModelPart,
    PolicyPart,
    Receipt,
    RequestPart,
    SitePart,
    statement_bytes,
)
from allod.model.store import silent
from allod.prove.formats.notes import ED25519_COSIGNATURE, VerifierKey
from allod.prove.receipts.from_log import bundle_for
from allod.prove.releases.answer_lineage import RealmPaths, follow_answer
from allod.prove.releases.model_signing import sign_folder
from allod.prove.tlog.log import Entry, open_log
from allod.prove.trust import Trust, trust_text
from allod.prove.verify import verify
from allod.settings.files import load_catalogue, load_nation
from allod.settings.tree import Settings

DIGEST = "sha256:" + "1" * 64


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A realm of its own, which the command line finds, with the trust file that a gateway writes."""
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path / "home"))
    settings = load_settings({"realm.name": "realm.example", "realm.jurisdiction": "GB"})
    (settings.home / "allod.toml").write_text('[realm]\nname = "realm.example"\njurisdiction = "GB"\n')
    home = Home(settings.home)
    receipts, artefacts = home.signing_key(settings.origin), ArtefactsLog(settings).signing_key()
    home.trust.write_text(trust_text(receipts.verifier, artefacts.verifier))
    return settings


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str | Path) -> Ran:
        return Ran(command_line.main([*map(str, words)]), *capsys.readouterr())

    return run


def released(settings: Settings, run: FinishedRun) -> NewRelease:
    return release(settings, logged(settings, run).folder, now_ms=5_000, report=silent)


@pytest.fixture
def tiny(settings: Settings, tmp_path: Path) -> NewRelease:
    return released(settings, model_run(tmp_path / "run"))


def receipt(settings: Settings, model: ModelPart | None, file: Path) -> Path:
    """The bundle of an answer by that model, or of a refusal where there was none."""
    answer = None if model is None else AnswerPart("b" * 64, 5, "stop")
    label = load_nation("gb").lowest.as_json()
    made = Receipt(
        id=f"rcpt_{file.stem}",
        seq=0,
        nonce="a" * 32,
        start_ms=9_000,
        end_ms=9_500,
        request=RequestPart("a" * 64, 12, {"seed": 1}),
        answer=answer,
        model=model,
        engine=None if model is None else EnginePart("llama.cpp", DIGEST, DIGEST),
        policy=PolicyPart(DIGEST, label, "permit" if answer else "forbid", ("permit-use",)),
        site=SitePart("local", "GB"),
        tenant="c" * 32,
    )
    home = Home(settings.home)
    with closing(open_log(home.receipts, home.signing_key(settings.origin))) as log:
        log.append([Entry(statement_bytes(made), made.id)])
        file.write_bytes(bundle_for(log, made.id))
    return file


def writable(folder: Path) -> Path:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def test_an_answer_leads_to_its_documents(settings: Settings, tiny: NewRelease, tmp_path: Path, run: Run) -> None:
    """The numbered steps go on to the sources and their licences, each of them once."""
    file = receipt(settings, ModelPart("tiny", tiny.digest), tmp_path / "r.json")
    ran = run("verify", "--lineage", file)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    names = ["artefact", "signature", "weights", "stages", "records", "sources"]
    assert [line.split(":")[0] for line in lines[7:13]] == [f"{8 + number} {name}" for number, name in enumerate(names)]
    assert f"  tiny {tiny.digest}" in lines
    sources = [line for line in lines if line.startswith(("  ← source novels", "  ← source plays"))]
    assert len(sources) == 2
    assert sources[0].endswith(": LicenseRef-public-domain AND MIT, GB, the novels")
    assert lines.index("verified") == len(lines) - 1
    told = json.loads(run("verify", "--lineage", "--json", file).out)
    assert told["verified"] is True
    assert [step["number"] for step in told["steps"]] == list(range(1, 14))
    assert [stage["stage"] for stage in told["lineage"][0]["stages"]][:2] == ["export", "evaluate"]


def test_without_lineage_nothing_of_the_store_is_needed(settings: Settings, tmp_path: Path, run: Run) -> None:
    """The seven steps are what they were."""
    file = receipt(settings, ModelPart("any", DIGEST), tmp_path / "r.json")
    ran = run("verify", file)
    assert (ran.status, len(ran.out.splitlines())) == (0, 8)


@pytest.mark.parametrize("has_served", [False, True])
def test_an_imported_models_training_is_not_known(
    settings: Settings, tmp_path: Path, run: Run, has_served: bool
) -> None:
    """Said with the catalogue's licence and origin; the answer is no. A realm that trained nothing may have an
    artefacts log, with the policy that a gateway wrote."""
    if has_served:
        open_policies(settings).set_default(now_ms=5_000)
    entry = load_catalogue()[0]
    file = receipt(settings, ModelPart(entry.name, f"sha256:{entry.sha256}"), tmp_path / "r.json")
    ran = run("verify", "--lineage", file)
    assert ran.status == 1
    assert f"{entry.name} is imported from {entry.publisher} ({entry.country}), {entry.licence}" in ran.out
    assert ran.out.splitlines()[-1] == "not verified: lineage unknown"


def test_a_model_that_nobody_here_knows_has_no_lineage(settings: Settings, tmp_path: Path, run: Run) -> None:
    """A file of one's own in a realm that trained nothing: that is said, not which file of it is missing."""
    open_policies(settings).set_default(now_ms=5_000)
    file = receipt(settings, ModelPart("own", DIGEST), tmp_path / "r.json")
    ran = run("verify", "--lineage", file)
    assert ran.status == 1
    assert f"8 artefact: FAILED: {DIGEST} was not released here: its training is not known" in ran.out
    assert ran.out.splitlines()[-1] == "not verified: lineage unknown"
    told = json.loads(run("verify", "--lineage", "--json", file).out)
    assert told["failed"]["number"] == 8
    assert [(step["number"], step["ok"]) for step in told["steps"]] == [(number, True) for number in range(1, 8)]


def test_without_the_models_key_no_release_holds(
    settings: Settings, tiny: NewRelease, tmp_path: Path, run: Run
) -> None:
    """What was released is not called unknown where the key that signed it is lost."""
    Home(settings.home).models_pub.unlink()
    ran = run("verify", "--lineage", receipt(settings, ModelPart("tiny", tiny.digest), tmp_path / "r.json"))
    assert (ran.status, ran.out.splitlines()[-1]) == (1, "not verified: step 8 (artefact) failed")
    assert "models.pub" in ran.out


def test_an_adapters_chain_is_shown_before_its_base_is_found_unknown(
    settings: Settings, tmp_path: Path, run: Run
) -> None:
    """What is known is shown; what is not makes the whole a no."""
    entry = load_catalogue()[0]
    style = released(settings, adapter_run(tmp_path / "run", base=f"sha256:{entry.sha256}"))
    model = ModelPart("style", f"sha256:{entry.sha256}", adapters=(style.digest,))
    ran = run("verify", "--lineage", receipt(settings, model, tmp_path / "r.json"))
    assert ran.status == 1
    assert "13 sources: novels" in ran.out
    assert "14 artefact: FAILED: smollm2-135m is imported" in ran.out


def test_a_trust_file_of_another_realm_is_called_that(settings: Settings, tmp_path: Path, run: Run) -> None:
    """Both are named, and this realm's log is not called damaged."""
    open_policies(settings).set_default(now_ms=5_000)
    other = replace(settings, home=tmp_path / "other", realm=replace(settings.realm, name="other.example"))
    Home(other.home).make()
    file = receipt(other, ModelPart("any", DIGEST), tmp_path / "r.json")
    theirs = tmp_path / "theirs.policy"
    keys = Home(other.home).signing_key(other.origin).verifier, ArtefactsLog(other).signing_key().verifier
    theirs.write_text(trust_text(*keys))
    ran = run("verify", "--lineage", "--trust", theirs, file)
    said = "the log here is realm.example/artefacts, and the key that is trusted is of other.example/artefacts"
    assert (ran.status, f"8 artefact: FAILED: {said}" in ran.out) == (1, True)
    ran = run("verify", file)
    trusted = "realm.example/artefacts and realm.example/receipts/local"
    said = f"no trusted log signed this tree head of other.example/receipts/local; the trust file is of {trusted}"
    assert (ran.status, f"2 log: FAILED: {said}" in ran.out) == (1, True)


def test_a_refusal_has_no_lineage(settings: Settings, tiny: NewRelease, tmp_path: Path, run: Run) -> None:
    """No model took part: there is nothing to follow."""
    ran = run("verify", "--lineage", receipt(settings, None, tmp_path / "r.json"))
    assert (ran.status, ran.out.splitlines()[-1]) == (1, "not verified: step 8 (artefact) failed")


def _change_weights(folder: Path, settings: Settings) -> None:
    (folder / "weights.gguf").write_bytes((folder / "weights.gguf").read_bytes() + bytes(32))


def _change_a_manifest(folder: Path, settings: Settings) -> None:
    path = folder / "lineage" / "clean" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"seed":1', b'"seed":2'))


def _lose_a_file(folder: Path, settings: Settings) -> None:
    (folder / "lineage" / "pack" / "documents.jsonl").unlink()


def _sign_anew(folder: Path, settings: Settings) -> None:
    _change_a_manifest(folder, settings)
    (folder / "model.sig").write_bytes(sign_folder(folder, models_key(settings), name="tiny"))


def _lose_all(folder: Path, settings: Settings) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [_change_weights, _change_a_manifest, _lose_a_file, _sign_anew, _lose_all])
def test_what_does_not_hold_is_named(
    settings: Settings, tiny: NewRelease, tmp_path: Path, run: Run, change: Callable[[Path, Settings], None]
) -> None:
    """A changed file, a changed manifest, a lost record, a signature made later: the step that fails is the ninth."""
    file = receipt(settings, ModelPart("tiny", tiny.digest), tmp_path / "r.json")
    change(writable(tiny.folder), settings)
    ran = run("verify", "--lineage", file)
    assert (ran.status, ran.out.splitlines()[-1]) == (1, "not verified: step 9 (signature) failed")
    assert run("model", "check", "tiny").status in (1, 2)
    assert run("model", "show", "tiny").status in (1, 2)


def test_a_manifest_that_was_never_logged_is_found(
    settings: Settings, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed, linked and named by a logged release as it may be."""
    finished = model_run(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(release_log, "_check_leaves", lambda *_: None)
        made = release(settings, finished.folder, now_ms=5_000, report=silent)
    ran = run("verify", "--lineage", receipt(settings, ModelPart("tiny", made.digest), tmp_path / "r.json"))
    assert ran.status == 1
    assert "11 stages: FAILED: the manifest of source is no leaf of the artefacts log" in ran.out


def test_an_artefacts_log_under_another_key_is_not_believed(
    settings: Settings, tiny: NewRelease, tmp_path: Path, run: Run
) -> None:
    """The trust file says whose releases count; one without such a key follows nothing."""
    file = receipt(settings, ModelPart("tiny", tiny.digest), tmp_path / "r.json")
    trust = tmp_path / "trust.policy"
    receipts = Home(settings.home).signing_key(settings.origin).verifier
    trust.write_text(trust_text(receipts))
    ran = run("verify", "--lineage", "--trust", trust, file)
    assert (ran.status, "has no key of the log realm.example/artefacts" in ran.out) == (1, True)
    other = load_settings({"realm.name": "realm.example"}, home=tmp_path / "other")
    trust.write_text(trust_text(receipts, ArtefactsLog(other).signing_key().verifier))
    ran = run("verify", "--lineage", "--trust", trust, file)
    assert (ran.status, ran.out.splitlines()[-1]) == (1, "not verified: step 8 (artefact) failed")


def test_an_artefacts_log_that_was_put_back_is_followed_no_further(
    settings: Settings, tiny: NewRelease, tmp_path: Path, run: Run
) -> None:
    """By the bundles that were kept of it, as everything else that reads it; without them nothing tells."""
    file = receipt(settings, ModelPart("tiny", tiny.digest), tmp_path / "r.json")
    log = Home(settings.home).artefacts
    shutil.copytree(log, tmp_path / "older")
    release(settings, logged(settings, adapter_run(tmp_path / "adapter")).folder, now_ms=6_000, report=silent)
    shutil.rmtree(log)
    shutil.copytree(tmp_path / "older", log)
    ran = run("verify", "--lineage", file)
    assert ran.status == 1
    assert "8 artefact: FAILED: " in ran.out
    assert "had a signed tree head of size" in ran.out
    shutil.rmtree(settings.home / "releases")
    shutil.rmtree(settings.home / "policies", ignore_errors=True)
    assert run("verify", "--lineage", file).status == 0


def test_another_gateway_of_the_realm_may_stand_first_in_the_trust_file(
    settings: Settings, tiny: NewRelease, tmp_path: Path
) -> None:
    """Every gateway's artefacts log has the same name: the key that signed this one is the one that counts."""
    bundle = receipt(settings, ModelPart("tiny", tiny.digest), tmp_path / "r.json").read_bytes()
    home = Home(settings.home)
    trust = Trust.parse(home.trust.read_text())
    others = replace(trust.logs[1], public=trust.logs[0].public)
    both = replace(trust, logs=(trust.logs[0], others, trust.logs[1]))
    paths = RealmPaths(home.artefacts, home.store, home.models_pub, partial(read_artefacts, settings.home))
    assert list(follow_answer(verify(bundle, both), both, paths))


def test_a_release_needs_the_witnesses_that_the_trust_file_asks_for(
    settings: Settings, tiny: NewRelease, tmp_path: Path
) -> None:
    """A witnessed answer does not vouch for an artefacts log that nobody witnessed."""
    bundle = receipt(settings, ModelPart("tiny", tiny.digest), tmp_path / "r.json").read_bytes()
    home = Home(settings.home)
    trust = Trust.parse(home.trust.read_text())
    paths = RealmPaths(home.artefacts, home.store, home.models_pub, partial(read_artefacts, settings.home))
    assert list(follow_answer(verify(bundle, trust), trust, paths))
    witness = VerifierKey("w.example", ED25519_COSIGNATURE, bytes(32))
    strict = replace(trust, witnesses={"w": witness}, quorum="w")
    with pytest.raises(VerificationError, match="below the quorum"):
        list(follow_answer(verify(bundle, trust), strict, paths))


def test_show_walks_from_the_model_to_every_source(
    settings: Settings, tiny: NewRelease, run: Run, tmp_path: Path
) -> None:
    """By name, digest or file; with licence, jurisdiction and what became of the documents."""
    shown = run("model", "show", "tiny")
    assert shown.status == 0
    assert (
        "novels: LicenseRef-public-domain AND MIT, GB, the novels; 2 of 3 documents learnt from, 1 held out"
        in shown.out
    )
    assert "1 of 3 documents learnt from, 0 held out, 1 dropped at clean, 1 dropped at dedupe" in shown.out
    assert run("model", "show", tiny.digest).out == shown.out
    assert run("model", "show", tiny.folder / "weights.gguf").out == shown.out
    told = json.loads(run("model", "show", "tiny", "--json").out)
    assert told["passport"]["name"] == "tiny"
    assert [source["learnt"]["num_documents"] for source in told["sources"]] == [2, 1]
    assert run("model", "show", "smollm2-135m").out.splitlines()[1].startswith("imported from Hugging Face (US)")
    assert run("model", "show", "nothing").status == 2


def test_check_prints_its_steps(settings: Settings, tiny: NewRelease, run: Run) -> None:
    """And ends with a word and a status."""
    ran = run("model", "check", "tiny")
    assert (ran.status, ran.out.splitlines()[-1]) == (0, "verified")
    assert json.loads(run("model", "check", "tiny", "--json").out)["verified"] is True
    (writable(tiny.folder) / "summary.md").write_text("")
    ran = run("model", "check", "tiny")
    assert (ran.status, ran.out.splitlines()[-1]) == (1, "not verified: step 1 (signature) failed")


def test_a_file_that_was_not_released_passes_the_gate_and_is_not_verified(
    settings: Settings, tiny: NewRelease, run: Run, tmp_path: Path
) -> None:
    """What the gate found, and that nothing is known of its training; a copy of a release is the release."""
    data = (tiny.folder / "weights.gguf").read_bytes()
    copy, other = tmp_path / "copy.gguf", tmp_path / "other.gguf"
    copy.write_bytes(data)
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert run("model", "check", copy).out.splitlines()[-1] == "verified"
    ran = run("model", "check", other)
    gate, why = ran.out.splitlines()
    assert ran.status == 1
    assert gate.startswith("gate: passed: llama, ")
    assert why.startswith("not verified: it was not released here: its training is not known")
    told = json.loads(run("model", "check", other, "--json").out)
    assert (told["verified"], told["gate"]["architecture"]) == (False, "llama")


@pytest.mark.parametrize("has_released", [False, True])
def test_a_file_that_the_gate_refuses_is_refused_in_its_words(
    settings: Settings, run: Run, tmp_path: Path, has_released: bool
) -> None:
    """As at a start: status 2 and the reason, whether or not the realm ever released anything."""
    if has_released:
        released(settings, model_run(tmp_path / "run"))
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"PK and no model")
    ran = run("model", "check", file)
    assert (ran.status, ran.out) == (2, "")
    assert "no whole GGUF file: it does not begin with GGUF" in ran.err


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_pipe, "a pipe"),
        (Path.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
    ids=["pipe", "folder", "device"],
)
@pytest.mark.parametrize("verb", [["model", "check"], ["model", "show"], ["up", "--port=0", "--model"]], ids=" ".join)
def test_what_is_no_file_is_said_at_once(
    settings: Settings, tmp_path: Path, make: Callable[[Path], object], kind: str, verb: list[str]
) -> None:
    """A pipe would be waited for, a device be read for ever."""
    path = tmp_path / "odd.gguf"
    make(path)
    ran = run_allod(settings.home, *verb, str(path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"error: {path} is {kind}, and not a plain file" in ran.stderr


def test_a_files_name_may_end_in_capitals(
    settings: Settings, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder before it, too: it is a file, and not the name of a release."""
    monkeypatch.chdir(tmp_path)
    Path("mine.GGUF").write_bytes(b"PK and no model")
    ran = run("model", "check", "mine.GGUF")
    assert (ran.status, "no whole GGUF file" in ran.err) == (2, True)


def test_a_name_of_the_catalogue_leads_to_what_checks_it(settings: Settings, run: Run) -> None:
    """It is no release of the realm."""
    ran = run("model", "check", "smollm2-135m")
    assert (ran.status, "allod model get smollm2-135m" in ran.err) == (2, True)


def test_list_shows_releases_beside_the_catalogue(settings: Settings, tiny: NewRelease, run: Run) -> None:
    """With size, licence and publisher; one that does not hold is not here."""
    rows = {row["name"]: row for row in json.loads(run("model", "list", "--json").out)}
    assert rows["tiny"]["origin"] == "released"
    assert rows["tiny"]["here"] is True
    assert rows["smollm2-135m"]["origin"] == "catalogue"
    assert "released here" in run("model", "list").out
    (writable(tiny.folder) / "summary.md").write_text("")
    rows = {row["name"]: row for row in json.loads(run("model", "list", "--json").out)}
    assert rows["tiny"]["here"] is False


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("novels/one", "novels/one: learnt from"),
        ("novels/held", "novels/held: held out"),
        ("plays/short", "plays/short: left out: dropped at clean (too_short)"),
        ("plays/copy", "plays/copy: left out: dropped at dedupe (near_duplicate; plays/one stays)"),
    ],
)
def test_what_became_of_a_document(
    settings: Settings, tiny: NewRelease, run: Run, tmp_path: Path, document: str, said: str
) -> None:
    """By its id, its digest, or its text in a file."""
    digest, file = sha256_hex(TEXTS[document].encode()), tmp_path / "document.txt"
    file.write_text(TEXTS[document])
    for word in (document, digest, f"sha256:{digest}", file):
        ran = run("model", "affected-by", word)
        assert (ran.status, said in ran.out) == (0, True), word
    (trace,) = json.loads(run("model", "affected-by", document, "--json").out)
    assert (trace["model"], trace["document"]) == ("tiny", document)


def test_a_byte_order_mark_hides_no_document(settings: Settings, tiny: NewRelease, run: Run, tmp_path: Path) -> None:
    """Some editors put one before a text, and the reader of texts takes it away."""
    file = tmp_path / "document.txt"
    file.write_text(TEXTS["novels/one"], encoding="utf-8-sig")
    assert "novels/one: learnt from" in run("model", "affected-by", file).out


@pytest.mark.parametrize("word", ["novels/one", sha256_hex(TEXTS["novels/one"].encode())])
def test_a_document_that_the_index_conceals_is_found(
    settings: Settings, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """What was packed was learnt from, whatever the first stage's index says; listed twice, it was not held out."""

    class Deceitful(FinishedRun):
        def stage(self, name: str, files: Any, **words: Any) -> str:
            if name == "source":
                rows = files["index.jsonl"].splitlines(keepends=True)
                files = {**files, "index.jsonl": b"".join(row for row in rows if b"novels/one" not in row)}
            if name == "pack":
                rows = files["documents.jsonl"].splitlines(keepends=True)
                again = next(row for row in rows if b"novels/one" in row).replace(b'"train"', b'"validation"')
                files = {**files, "documents.jsonl": b"".join([*rows, again])}
            return super().stage(name, files, **words)

    monkeypatch.setattr(finished_runs, "FinishedRun", Deceitful)
    released(settings, model_run(tmp_path / "run"))
    assert "novels/one: learnt from" in run("model", "affected-by", word).out


def test_a_document_that_nobody_took_in_affects_nothing(settings: Settings, tiny: NewRelease, run: Run) -> None:
    """It is said that no record has it, and that of imported models nothing is known; the status is no success."""
    ran = run("model", "affected-by", "novels/never")
    assert ran.status == 1
    assert "novels/never: no release here has a record of such a document" in ran.out
    assert "0 models learnt from it" in ran.out
    assert "what imported models learnt from is not known here" in ran.out


def test_an_adapter_is_affected_through_its_base(
    settings: Settings, tiny: NewRelease, run: Run, tmp_path: Path
) -> None:
    """By what its base learnt from, besides its own documents."""
    texts = {**TEXTS, "novels/own": "Only here."}
    base = released(settings, model_run(tmp_path / "base", "base", texts=texts))
    released(settings, adapter_run(tmp_path / "adapter", base=base.digest))
    traces = json.loads(run("model", "affected-by", "novels/own", "--json").out)
    assert [(trace["model"], trace["base"], trace["how"]) for trace in traces] == [
        ("base", "", "learnt from"),
        ("style", "base", "learnt from"),
    ]


def test_a_model_that_cannot_be_looked_into_is_not_passed_over(settings: Settings, tiny: NewRelease, run: Run) -> None:
    """That nothing was found in it shows nothing: the status says so."""
    (writable(tiny.folder) / "lineage" / "pack" / "documents.jsonl").write_text("")
    ran = run("model", "affected-by", "novels/one")
    assert (ran.status, "cannot be told" in ran.out) == (1, True)


def test_a_realm_without_releases_has_none(settings: Settings, run: Run) -> None:
    """Nothing was trained yet, and so no record has a document."""
    assert run("model", "affected-by", "novels/one").status == 1
    assert run("model", "list").status == 0
    assert run("model", "check", "tiny").status == 2
    assert BASE_DIGEST not in run("model", "list").out
