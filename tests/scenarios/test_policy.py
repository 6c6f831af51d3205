"""The policy in force: one at every moment, whatever is killed; and none where anything about it is not right."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from allod.app.artefacts import policies as policies_module
from allod.app.artefacts.log import ArtefactsLog
from allod.app.artefacts.policies import Policies
from allod.app.home import load_settings
from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.statements.policy import PolicyVersion, policy_statement
from allod.govern.policy.decision import default_text
from allod.prove.formats.signing_key import SigningKey, create_signing_key, load_signing_key
from allod.prove.policy_history import read_history
from allod.prove.receipts.from_log import bundle_for
from allod.prove.tlog.log import Entry, open_log
from allod.prove.tlog.reader import read_log
from allod.prove.tlog.segment import find_end
from allod.settings.files import load_nation

NATION = load_nation("gb")
REALM = "realm.example"
NOW_MS = 1_795_000_000_000
OTHER_TEXT = default_text().replace("above-clearance", "above-the-clearance")
THIRD_TEXT = default_text().replace("above-clearance", "over-clearance")
CHANGES = {"open", "write", "pwrite", "unlink", "fsync", "fdatasync", "ftruncate", "replace", "rename", "link", "mkdir"}


@pytest.fixture(autouse=True)
def no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check_policy` asks thousands of questions; here every policy is one that it finds nothing against."""
    monkeypatch.setattr(policies_module, "check_policy", lambda text, nation: SimpleNamespace(findings=()))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A realm with the built-in policy in force."""
    made = tmp_path / "home"
    opened(made).set_default(now_ms=NOW_MS)
    return made


def opened(home: Path) -> Policies:
    return Policies(log_of(home), NATION)


def log_of(home: Path, realm: str = REALM) -> ArtefactsLog:
    return ArtefactsLog(load_settings({"realm.name": realm}, home=home))


def set_other(policies: Policies, text: str = OTHER_TEXT, *, now_ms: int = NOW_MS + 1) -> None:
    policies.set(text, who="cli:officer", now_ms=now_ms)


def assert_unavailable(policies: Policies, reason: str) -> None:
    with pytest.raises(Unavailable, match=reason) as refused:
        policies.current()
    assert refused.value.code == "policy_unavailable"


def file_of(home: Path, text: str, kind: str) -> Path:
    (found,) = [path for path in (home / "policies").glob("*.cedar") if path.read_text() == text]
    return found.with_suffix(f".{kind}")


# What is in force


def test_a_realm_starts_with_the_built_in_policy(home: Path) -> None:
    """As version 1, with a statement in the log; a second start leaves it alone."""
    policies = opened(home)
    assert policies.current().text == default_text()
    assert policies.set_default(now_ms=NOW_MS + 1) is None
    assert [logged.version.version for logged in policies.history().versions] == [1]


def test_the_newest_statement_is_in_force(home: Path) -> None:
    """A policy that was set, one that replaced it, and the first one back again: each a version of its own."""
    policies = opened(home)
    for text in (OTHER_TEXT, THIRD_TEXT, default_text()):
        set_other(policies, text)
        assert opened(home).current().text == text
    versions = [logged.version for logged in policies.history().versions]
    assert [version.version for version in versions] == [1, 2, 3, 4]
    assert [version.previous for version in versions] == [None, *(version.digest for version in versions[:-1])]
    assert versions[0].digest == versions[3].digest == policies.current().digest


def test_what_is_in_force_is_not_set_again(home: Path) -> None:
    """No new version, no new entry."""
    assert opened(home).set(default_text(), who="cli:officer", now_ms=NOW_MS) is None


def test_a_clock_that_goes_back_does_not_turn_the_history_around(home: Path) -> None:
    """A version is never earlier than the one it replaces, so that each moment has one policy."""
    policies = opened(home)
    set_other(policies, now_ms=NOW_MS - 5_000)
    assert [logged.version.at_ms for logged in policies.history().versions] == [NOW_MS, NOW_MS]


def test_a_running_gateway_sees_the_change(home: Path) -> None:
    """By one look at a file's status; what it has loaded stays until then."""
    running = opened(home)
    assert running.has_changed()
    running.current()
    assert not running.has_changed()
    set_other(opened(home))
    assert running.has_changed()
    assert running.current().text == OTHER_TEXT
    assert not running.has_changed()


def test_two_cannot_set_at_once(home: Path) -> None:
    """The second is told that another process is at it, and nothing of it is in force."""
    log = open_log(home / "logs" / "artefacts", log_of(home).signing_key())
    with pytest.raises(Unavailable) as refused:
        set_other(opened(home))
    log.close()
    assert refused.value.code == "log_locked"
    assert opened(home).current().text == default_text()


# What the check finds


def test_errors_refuse_a_policy_and_warnings_unless_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`even_so` lets warnings pass and never an error; what is refused leaves no trace in the log."""
    findings: list[Any] = []
    report = SimpleNamespace(findings=findings, is_sound=True)
    monkeypatch.setattr(policies_module, "check_policy", lambda text, nation: report)
    policies = opened(home)
    for severity, even_so, is_refused in [
        ("error", False, True),
        ("error", True, True),
        ("warning", False, True),
        ("warning", True, False),
    ]:
        findings[:] = [SimpleNamespace(severity=severity, message="it permits something")]
        before = len(policies.history().versions)
        if is_refused:
            with pytest.raises(Denied, match="permits something") as refused:
                policies.set(OTHER_TEXT, who="cli:officer", now_ms=NOW_MS, even_so=even_so)
            assert refused.value.code == "policy_refused"
        else:
            policies.set(OTHER_TEXT, who="cli:officer", now_ms=NOW_MS, even_so=even_so)
        assert len(policies.history().versions) == before + (not is_refused)


# Killed


def run_and_kill(act: Callable[[], object], number: int) -> bool:
    """Run `act` in a process that is killed as it enters its `number`th call that changes a file; whether it was."""
    child = os.fork()
    if child == 0:
        counted = itertools.count()

        def count(frame: Any, event: str, called: Any) -> None:
            is_change = event == "c_call" and called.__module__ == "posix" and called.__name__ in CHANGES
            if is_change and next(counted) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        try:
            act()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def test_killed_anywhere_the_old_or_the_new_is_in_force(home: Path, tmp_path: Path) -> None:
    """At every call of `set` that changes a file, in turn: never none, never a third; setting it again then works."""
    killed_in: set[str] = set()
    for number in itertools.count():
        copy = tmp_path / f"killed-{number}"
        shutil.copytree(home, copy)
        policies = opened(copy)
        was_killed = run_and_kill(lambda policies=policies: set_other(policies), number)  # type: ignore[misc]
        found = opened(copy).current().text
        assert found in (default_text(), OTHER_TEXT)
        killed_in.add(found)
        set_other(opened(copy))
        assert opened(copy).current().text == OTHER_TEXT
        assert len(opened(copy).history().versions) == 2
        if not was_killed:
            break
    assert number > 20
    assert killed_in == {default_text(), OTHER_TEXT}


def test_killed_on_its_first_start_a_realm_starts_again(tmp_path: Path) -> None:
    """Before anything is in force nothing is permitted; the next start finishes what the first one began."""
    for number in itertools.count():
        made = tmp_path / f"killed-{number}"
        made.mkdir()
        policies = opened(made)
        was_killed = run_and_kill(lambda policies=policies: policies.set_default(now_ms=NOW_MS), number)  # type: ignore[misc]
        opened(made).set_default(now_ms=NOW_MS)
        assert opened(made).current().text == default_text()
        assert len(opened(made).history().versions) == 1
        if not was_killed:
            break
    assert number > 20


# Tampered with


def test_a_text_that_was_changed_is_not_used(home: Path) -> None:
    """Nor one whose words were changed, nor one that is gone."""
    for kind in ("cedar", "cedarschema"):
        file = file_of(home, default_text(), kind)
        kept = file.read_text()
        file.write_text(kept.replace("lowest", "highest"))
        assert_unavailable(opened(home), "changed on disk")
        file.unlink()
        assert_unavailable(opened(home), "the store has no policy")
        file.write_text(kept)
        opened(home).current()


def test_a_log_that_was_changed_is_not_believed(home: Path) -> None:
    """Whoever rewrites who set the policy breaks the tree head."""
    segment = home / "logs" / "artefacts" / "segment"
    segment.write_bytes(segment.read_bytes().replace(b"first start", b"First start"))
    assert_unavailable(opened(home), "damaged")


def test_a_log_that_is_gone_is_not_begun_anew(home: Path) -> None:
    """Else deleting it would bring the built-in policy back."""
    set_other(opened(home))
    for name in ("segment", "checkpoint", "index.sqlite", "lock"):
        (home / "logs" / "artefacts" / name).unlink()
    assert_unavailable(opened(home), "there is no log here")
    for begin in (
        opened(home).at_start,
        lambda: opened(home).set_default(now_ms=NOW_MS),
        lambda: set_other(opened(home)),
    ):
        with pytest.raises(Unavailable, match="gone"):
            begin()
        assert not (home / "logs" / "artefacts" / "segment").exists()
    assert_unavailable(opened(home), "there is no log here")


def test_a_forged_bundle_is_not_passed_over(home: Path) -> None:
    """It is what an outsider would be shown: changed, signed by another key of that name, or of another policy."""
    file = file_of(home, default_text(), "json")
    real = file.read_text()
    file.write_text(real.replace("built-in", "built in"))
    assert_unavailable(opened(home), "does not verify")
    forged = home / "forged"
    log = open_log(forged, SigningKey(f"{REALM}/artefacts", bytes([9]) * 32))
    version = opened_version(home)
    log.append([Entry(policy_statement(version), version.id)])
    file.write_bytes(bundle_for(log, version.id))
    log.close()
    assert_unavailable(opened(home), "does not verify")
    file.write_text(real)
    set_other(opened(home))
    shutil.copy(file_of(home, OTHER_TEXT, "json"), file)
    assert_unavailable(opened(home), "another policy")


def opened_version(home: Path) -> PolicyVersion:
    """The first version, read where nothing in the store is looked at."""
    key = load_signing_key(home / "keys" / "artefacts.key").verifier
    return read_history(partial(read_log, home / "logs" / "artefacts", key)).versions[0].version


def test_another_realms_log_is_not_believed(home: Path, tmp_path: Path) -> None:
    """Neither its log under our key, nor its log and its key under our name."""
    other = tmp_path / "other"
    theirs = Policies(log_of(other, "other.example"), NATION)
    theirs.set(OTHER_TEXT, who="cli:intruder", now_ms=NOW_MS)
    shutil.rmtree(home / "logs" / "artefacts")
    shutil.copytree(other / "logs" / "artefacts", home / "logs" / "artefacts")
    named = f"the log here is other.example/artefacts, and the key that is trusted is of {REALM}/artefacts"
    assert_unavailable(opened(home), named)
    shutil.copy(other / "keys" / "artefacts.key", home / "keys" / "artefacts.key")
    assert_unavailable(opened(home), "key is for other.example")
    (home / "keys" / "artefacts.key").unlink()
    create_signing_key(home / "keys" / "artefacts.key", f"{REALM}/artefacts")
    assert_unavailable(opened(home), f"{named}|does not verify")


def test_an_older_log_put_back_is_found_by_what_remembers_a_later_one(home: Path, tmp_path: Path) -> None:
    """By the bundles in the store, by a running gateway. All files put back together, with nobody running, pass: only
    somebody outside who kept a later tree head, or receipts that name a policy not in the history, can tell then."""
    older = tmp_path / "older"
    shutil.copytree(home, older)
    running = opened(home)
    set_other(opened(home))
    running.current()
    newer = tmp_path / "newer"
    shutil.copytree(home, newer)

    def put_back(name: str) -> None:
        shutil.rmtree(home / name)
        shutil.copytree(older / name, home / name)

    put_back("logs")
    assert_unavailable(opened(home), "size 2 once, and now ends at 1")
    with pytest.raises(Invalid, match="size 2 once"):
        set_other(opened(home), THIRD_TEXT)
    put_back("policies")
    assert running.has_changed()
    assert_unavailable(running, "size 2 once, and now ends at 1")
    assert opened(home).current().text == default_text()


def test_a_policy_that_is_set_while_another_reads_is_no_damage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader knows no later head than the end that it reads to, so that a running gateway refuses nobody for it."""
    running = opened(home)

    def find_end_and_set(file: BinaryIO) -> int:
        end = find_end(file)
        reading.undo()
        set_other(opened(home))
        return end

    with monkeypatch.context() as reading:
        reading.setattr("allod.prove.tlog.reader.find_end", find_end_and_set)
        running.current()
    assert running.current().text == OTHER_TEXT


def test_a_history_written_anew_is_found(home: Path, tmp_path: Path) -> None:
    """By the same key, put back to version 1 and another version 2 set: the bundle of the first version 2 is of another
    tree."""
    older = tmp_path / "older"
    shutil.copytree(home / "logs", older)
    set_other(opened(home))
    kept = {path: path.read_bytes() for path in (home / "policies").iterdir()}
    shutil.rmtree(home / "logs")
    shutil.copytree(older, home / "logs")
    file_of(home, OTHER_TEXT, "json").unlink()
    set_other(opened(home), THIRD_TEXT)
    for path, data in kept.items():
        path.write_bytes(data)
    assert_unavailable(opened(home), "another signed tree head of size 2")


def test_another_profile_needs_another_decision(home: Path) -> None:
    """Words that have changed their meaning are not the words that were decided on."""
    changed = replace(NATION, purposes={**NATION.purposes, "leisure": "after hours"})
    policies = Policies(log_of(home), changed)
    assert_unavailable(policies, "profile is not the one")
    policies.set(default_text(), who="cli:officer", now_ms=NOW_MS)
    assert policies.current().text == default_text()
    assert_unavailable(opened(home), "profile is not the one")


def test_a_realm_without_a_policy_permits_nothing(tmp_path: Path) -> None:
    """And asking for it makes nothing."""
    assert_unavailable(opened(tmp_path), "no policy yet")
    assert list(tmp_path.iterdir()) == []
    assert opened(tmp_path).has_changed()
