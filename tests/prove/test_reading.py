"""Reading: what a pass has shown is the log, whole and unchanged, or the pass says that it is not."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from allod.core.errors import Invalid, VerificationError
from allod.prove.formats.merkle import leaf_hash, root_from_inclusion
from allod.prove.formats.signing_key import SigningKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.bundle import parse_bundle
from allod.prove.receipts.from_log import bundles_of
from allod.prove.tlog.log import Entry, Log, open_log
from allod.prove.tlog.reader import LogRead, read_log
from allod.prove.tlog.segment import ENTRY, encode_frame
from allod.prove.trust import Trust, trust_text
from allod.prove.verify import verify

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)
TRUST = Trust.parse(trust_text(KEY.verifier))
HERE = Path(__file__).parent


def leaf(number: int) -> bytes:
    return b'{"predicate":{"id":"r%d"}}' % number


def fill(log: Log, count: int, *, batch: int = 7) -> None:
    first = log.head.size
    for start in range(first, first + count, batch):
        numbers = range(start, min(start + batch, first + count))
        log.append([Entry(leaf(number), f"r{number}") for number in numbers])


def read(directory: Path, **options: object) -> tuple[list[bytes], LogRead]:
    found: list[bytes] = []

    def see(number: int, entry: bytes) -> None:
        assert number == len(found)
        found.append(entry)

    return found, read_log(directory, KEY.verifier, see, **options)  # type: ignore[arg-type]


def assert_damaged(directory: Path, **options: object) -> None:
    with pytest.raises(Invalid) as refused:
        read(directory, **options)
    assert refused.value.code == "log_damaged"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = open_log(tmp_path / "log", KEY)
    yield opened
    opened.close()


@pytest.mark.parametrize("count", [0, 1, 7, 256, 700])
def test_it_shows_every_entry_in_order(log: Log, tmp_path: Path, count: int) -> None:
    """All of them, under the writer's own signed tree head, while the writer has the log open."""
    fill(log, count)
    found, done = read(tmp_path / "log")
    assert found == [leaf(number) for number in range(count)]
    assert (done.head, done.note) == (log.head, log.note)


def test_a_changed_byte_anywhere_is_found(log: Log, tmp_path: Path) -> None:
    """In an entry, a sum, a length or a tree head."""
    fill(log, 40)
    log.flush()
    segment = tmp_path / "log" / "segment"
    whole = segment.read_bytes()
    picked = random.Random(7).sample(range(len(whole)), 150)
    for place in picked:
        segment.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert_damaged(tmp_path / "log")
    segment.write_bytes(whole)
    read(tmp_path / "log")


def test_an_entry_changed_with_its_sum_is_found(log: Log, tmp_path: Path) -> None:
    """A sum is no signature: whoever changes an entry can make it fit, and the tree head gives it away."""
    fill(log, 40)
    segment = tmp_path / "log" / "segment"
    whole = segment.read_bytes()
    changed = leaf(17).replace(b"r17", b"r71")
    segment.write_bytes(whole.replace(encode_frame(ENTRY, leaf(17)), encode_frame(ENTRY, changed)))
    assert segment.read_bytes() != whole
    assert_damaged(tmp_path / "log")


def test_a_log_signed_by_another_key_is_found(tmp_path: Path) -> None:
    """The whole file written anew, sums and tree heads and all, by somebody who has another key of that name."""
    forger = SigningKey(KEY.name, bytes([4]) * 32)
    log = open_log(tmp_path / "log", forger)
    fill(log, 40)
    log.close()
    assert_damaged(tmp_path / "log")


def test_a_log_cut_back_is_found_where_a_later_head_is_known(log: Log, tmp_path: Path) -> None:
    """By the `checkpoint` file beside it, or by any tree head that somebody kept; without one it cannot be told."""
    fill(log, 21)
    log.flush()
    shutil.copytree(tmp_path / "log", tmp_path / "older")
    fill(log, 21)
    log.flush()
    later = log.head
    cut = (tmp_path / "older" / "segment").stat().st_size
    shutil.copytree(tmp_path / "log", tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "segment", cut)
    assert_damaged(tmp_path / "cut")
    assert_damaged(tmp_path / "older", known=[later])
    assert read(tmp_path / "older")[1].head.size == 21


def test_a_log_with_another_past_is_found(tmp_path: Path) -> None:
    """Two histories under one key: whoever knows a tree head of the one does not take the other for it."""
    for name, start in (("one", 0), ("other", 100)):
        log = open_log(tmp_path / name, KEY)
        for number in range(start, start + 5):
            log.append([Entry(leaf(number), f"r{number}")])
        log.close()
    head = read(tmp_path / "one")[1].head
    assert_damaged(tmp_path / "other", known=[head])
    assert_damaged(tmp_path / "other", known=[TreeHead(KEY.name, 3, bytes(32))])
    read(tmp_path / "one", known=[head])


def test_a_torn_tail_was_never_acknowledged(log: Log, tmp_path: Path) -> None:
    """What a crash leaves of a batch is not part of the log, and no damage either."""
    fill(log, 14)
    log.flush()
    segment = tmp_path / "log" / "segment"
    whole = segment.read_bytes()
    fill(log, 7)
    longer = segment.read_bytes()
    for end in range(len(whole), len(longer)):
        segment.write_bytes(longer[:end])
        assert read(tmp_path / "log")[1].head.size == 14
        segment.write_bytes(longer[:end] + bytes([longer[end] ^ 1]) + longer[end + 1 :])  # its pages came out of order
        assert read(tmp_path / "log")[1].head.size == 14


def test_a_signed_head_after_the_damage_is_found(log: Log, tmp_path: Path) -> None:
    """Without the `checkpoint` file, too: the entries after a broken one are not silently left out."""
    fill(log, 14)
    fill(log, 14)
    segment = tmp_path / "log" / "segment"
    whole = bytearray(segment.read_bytes())
    whole[whole.index(leaf(3))] ^= 1
    segment.write_bytes(whole)
    (tmp_path / "log" / "checkpoint").unlink()
    assert_damaged(tmp_path / "log")


def test_it_reads_beside_a_running_writer(tmp_path: Path) -> None:
    """Another process appends as fast as it can: each pass reads a whole signed tree and meets no damage."""
    command: list[str | Path] = [sys.executable, HERE / "crash_writer.py", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        sizes = []
        try:
            for _ in range(25):
                for _ in range(100):
                    process.stdout.readline()
                sizes.append(read(tmp_path)[1].head.size)
        finally:
            process.kill()
    assert sizes == sorted(sizes)
    assert all(size >= 100 * turn for turn, size in enumerate(sizes, start=1))


def test_a_second_pass_ends_where_the_first_did(log: Log, tmp_path: Path) -> None:
    """What has been appended since is not part of it."""
    fill(log, 20)
    first = read(tmp_path / "log")[1]
    fill(log, 20)
    assert read(tmp_path / "log", end=first.end)[1] == first


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 700])
def test_bundles_prove_their_entries(log: Log, tmp_path: Path, count: int) -> None:
    """In trees of every shape, in the tree that was read although the log has grown since."""
    fill(log, count)
    done = read(tmp_path / "log")[1]
    fill(log, 9)
    numbers = {0, count // 3, count // 2, count - 1}
    bundles = list(bundles_of(tmp_path / "log", KEY.verifier, done, numbers))
    assert [parse_bundle(bundle).statement for bundle in bundles] == [leaf(number) for number in sorted(numbers)]
    for bundle in bundles:
        parsed = parse_bundle(bundle)
        path = parsed.proof.path
        assert root_from_inclusion(leaf_hash(parsed.statement), parsed.proof.index, count, path) == done.head.root
        with pytest.raises(VerificationError) as failed:  # these entries are no statements
            verify(bundle, TRUST)
        assert failed.value.step == 5


def test_there_is_no_log(tmp_path: Path) -> None:
    """Said as such, with a code of its own."""
    with pytest.raises(Invalid) as refused:
        read(tmp_path)
    assert refused.value.code == "no_log"


def test_memory_does_not_grow_with_the_log(log: Log, tmp_path: Path) -> None:
    """Ten times the entries, the same few hundred kilobytes."""
    peaks = []
    for count in (1_000, 9_000):
        fill(log, count, batch=100)
        tracemalloc.start()
        read_log(tmp_path / "log", KEY.verifier, lambda number, entry: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000
