"""Compare: what a kept tree head shows of a log that grew, was cut back, was written anew, or is another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.conftest import run_allod

from allod.app.gateway.open_realm import open_realm
from allod.app.home import Home, load_settings
from allod.core.errors import Invalid
from allod.prove.compare import compare, read_note
from allod.prove.formats.merkle import is_consistent
from allod.prove.formats.signing_key import SigningKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.from_log import bundle_for
from allod.prove.tlog.log import Entry, open_log

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)


def fill(directory: Path, count: int, *, first: int = 0, key: SigningKey = KEY) -> str:
    """Append entries one by one; the tree head then."""
    log = open_log(directory, key)
    for number in range(first, first + count):
        log.append([Entry(b'{"predicate":{"id":"r%d"}}' % number, f"r{number}")])
    note = log.note
    log.close()
    return note


@pytest.mark.parametrize("kept", [0, 1, 2, 5, 8, 13])
@pytest.mark.parametrize("grown", [0, 1, 3, 20])
def test_a_log_that_only_grew_is_consistent(tmp_path: Path, kept: int, grown: int) -> None:
    """The same, or grown by so many, with a proof that anybody can check."""
    note = fill(tmp_path, kept)
    fill(tmp_path, grown, first=kept)
    found = compare(tmp_path, KEY.verifier, note)
    assert found.head is not None
    assert (found.verdict, found.is_consistent) == ("grown" if grown else "same", True)
    assert found.head.size == kept + grown
    if grown and kept:
        assert f"grown by {grown} entries" in found.said
        old, new = found.kept, found.head
        assert is_consistent(old.size, old.root, new.size, new.root, found.proof)


@pytest.mark.parametrize("is_derived_kept", [True, False])
def test_a_log_that_was_cut_back_is_shorter(tmp_path: Path, is_derived_kept: bool) -> None:
    """So many entries are gone, whether or not the files beside the segment were put back, too."""
    fill(tmp_path / "log", 5)
    shutil.copytree(tmp_path / "log", tmp_path / "older")
    note = fill(tmp_path / "log", 4, first=5)
    if is_derived_kept:
        shutil.copy(tmp_path / "older" / "segment", tmp_path / "log" / "segment")
    found = compare(tmp_path / ("log" if is_derived_kept else "older"), KEY.verifier, note)
    assert (found.verdict, found.is_consistent) == ("shorter", False)
    assert "4 of 9 entries are gone" in found.said


@pytest.mark.parametrize("more", [0, 1, 6])
def test_a_log_that_was_written_anew_is_said(tmp_path: Path, more: int) -> None:
    """By the log's own key, as long or longer: at least one of the entries is another."""
    note = fill(tmp_path / "log", 6)
    fill(tmp_path / "anew", 6 + more, first=1)
    found = compare(tmp_path / "anew", KEY.verifier, note)
    assert (found.verdict, found.is_consistent) == ("rewritten", False)
    assert "its first 6 entries" in found.said


def test_an_empty_log_has_one_root(tmp_path: Path) -> None:
    """A head of no entries and another root, signed though it is, speaks of no log."""
    fill(tmp_path, 2)
    found = compare(tmp_path, KEY.verifier, KEY.sign(TreeHead(KEY.name, 0, bytes(32)).text))
    assert (found.verdict, found.is_consistent) == ("rewritten", False)


def test_what_another_key_signed_is_no_head_of_this_log(tmp_path: Path) -> None:
    """Under the same name; so is one with a changed size."""
    fill(tmp_path / "log", 3)
    forged = fill(tmp_path / "forged", 3, key=SigningKey(KEY.name, bytes([4]) * 32))
    assert compare(tmp_path / "log", KEY.verifier, forged).verdict == "not_signed"
    note = fill(tmp_path / "log", 0).replace("\n3\n", "\n2\n")
    assert compare(tmp_path / "log", KEY.verifier, note).verdict == "not_signed"


def test_a_damaged_log_is_said_to_be_damaged(tmp_path: Path) -> None:
    """Not consistent, not rewritten: nobody can tell."""
    note = fill(tmp_path, 4)
    data = bytearray((tmp_path / "segment").read_bytes())
    data[data.index(b"r1")] ^= 1
    (tmp_path / "segment").write_bytes(data)
    found = compare(tmp_path, KEY.verifier, note)
    assert (found.verdict, found.is_consistent, found.head) == ("damaged", False, None)


def test_a_log_that_is_gone_is_not_consistent(tmp_path: Path) -> None:
    """Who kept a tree head asks just that."""
    note = fill(tmp_path / "log", 4)
    found = compare(tmp_path / "nothing", KEY.verifier, note)
    assert (found.verdict, found.is_consistent, found.head) == ("damaged", False, None)


def test_a_bundle_holds_a_head(tmp_path: Path) -> None:
    """Whoever kept a receipt kept a tree head."""
    log = open_log(tmp_path, KEY)
    log.append([Entry(b'{"predicate":{"id":"r0"}}', "r0")])
    bundle = bundle_for(log, "r0")
    assert read_note(bundle) == read_note(b"\n " + bundle) == log.note == read_note(log.note.encode())
    log.close()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b"realm\n3\n", b'{"statement": 1}'])
def test_what_is_no_head_is_refused(tmp_path: Path, data: bytes) -> None:
    """As wrong input, not as a log that is not consistent."""
    fill(tmp_path, 1)
    with pytest.raises(Invalid):
        compare(tmp_path, KEY.verifier, read_note(data))


def test_the_command_says_it_of_both_logs(tmp_path: Path) -> None:
    """The origin in the head says which; another realm's is wrong input, and what a changed log deserves is a 1."""
    made = load_settings(home=tmp_path / "home")
    open_realm(made).resources.close()
    home = Home(made.home)
    kept = tmp_path / "kept"
    for directory in (home.receipts, home.artefacts):
        shutil.copy(directory / "checkpoint", kept)
        ran = run_allod(made.home, "log", "compare", str(kept), "--json")
        told = json.loads(ran.stdout)
        assert (ran.returncode, told["verdict"], told["origin"]) == (0, "same", kept.read_text().split("\n")[0])
    forged = kept.read_text().replace("\n1\n", "\n2\n")
    kept.write_text(forged)
    ran = run_allod(made.home, "log", "compare", str(kept))
    assert (ran.returncode, "not signed" in ran.stdout) == (1, True)
    kept.write_text(forged.replace("/artefacts", "/elsewhere"))
    assert run_allod(made.home, "log", "compare", str(kept)).returncode == 2
    assert run_allod(made.home, "log", "compare", str(tmp_path / "nothing")).returncode == 2


@pytest.mark.parametrize("content", [b"# Allod\n\nno head\n", b"{}", b"\xff"], ids=["text", "JSON", "bytes"])
def test_a_file_without_a_tree_head_is_named(tmp_path: Path, content: bytes) -> None:
    """Wrong input, and a hint of what it should be."""
    made = load_settings(home=tmp_path / "home")
    open_realm(made).resources.close()
    file = tmp_path / "kept"
    file.write_bytes(content)
    ran = run_allod(made.home, "log", "compare", str(file))
    assert (ran.returncode, str(file) in ran.stderr, "hint: " in ran.stderr) == (2, True, True)
