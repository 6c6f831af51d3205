"""The log: what it acknowledges stays, what it serves is C2SP, and damage that no crash explains is refused."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from struct import unpack_from

import pytest

from allod.core.errors import Invalid, Unavailable, VerificationError
from allod.core.statements.receipt import Statement
from allod.prove.formats.merkle import is_consistent, leaf_hash
from allod.prove.formats.signing_key import SigningKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.from_log import bundle_for
from allod.prove.tlog.fsck import fsck, rebuild
from allod.prove.tlog.log import Entry, Log, open_log
from allod.prove.tlog.reader import consistency_of, read_log
from allod.prove.tlog.segment import ENTRY, HEAD, Batches, FileCalls, encode_frame
from allod.prove.tlog.tiles import TileName
from allod.prove.trust import Trust, trust_text
from allod.prove.verify import verify

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)
TRUST = Trust.parse(trust_text(KEY.verifier))


def entry(number: int) -> Entry:
    return Entry(b'{"predicate":{"id":"r%d"}}' % number, f"r{number}")


def fill(log: Log, count: int, *, batch: int = 7) -> None:
    """Append `count` more entries, numbered on from what is there."""
    first = log.head.size
    for start in range(first, first + count, batch):
        log.append([entry(number) for number in range(start, min(start + batch, first + count))])


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = open_log(tmp_path / "log", KEY)
    yield opened
    opened.close()


def step_reached(log: Log, receipt_id: str) -> int:
    """These entries are no statements, so a bundle that is otherwise right gets as far as step 5."""
    with pytest.raises(VerificationError) as failed:
        verify(bundle_for(log, receipt_id), TRUST)
    return failed.value.step


def test_an_empty_log_has_a_signed_head(log: Log) -> None:
    """Size zero, the hash of nothing, signed: a witness can start from it."""
    assert TreeHead.of_signed(log.note).size == 0
    assert log.resource("checkpoint").decode() == log.note


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 700])
def test_every_entry_is_found_and_proved(log: Log, count: int) -> None:
    """First, last and those at the edges of tiles, before and after the index is told."""
    fill(log, count)
    for _ in range(2):
        for number in {0, count // 2, 255, 256, count - 1} & set(range(count)):
            assert log.find(f"r{number}").leaf == number
            assert log.statement(f"r{number}") == entry(number).leaf
            assert step_reached(log, f"r{number}") == 5
        log.flush()


def test_an_unknown_receipt_is_said_to_be_unknown(log: Log) -> None:
    """Not an empty proof, not a crash."""
    with pytest.raises(Invalid) as refused:
        bundle_for(log, "nobody")
    assert refused.value.code == "no_such_receipt"


def bend_index(path: Path) -> None:
    """Partial tiles that are not those of the signed tree."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("update edge set hashes = zeroblob(length(hashes))")
        database.commit()


def test_it_is_there_again_after_reopening(tmp_path: Path) -> None:
    """With the index, without it, with a broken or a false one, and with one that is behind."""
    directory = tmp_path / "log"
    first = open_log(directory, KEY)
    fill(first, 300)
    behind = tmp_path / "behind"
    first.flush()
    shutil.copytree(directory, behind)
    fill(first, 300)
    note = first.note
    first.close()

    def lose_tiles_and_index() -> None:
        shutil.rmtree(directory / "tile")
        (directory / "index.sqlite").unlink()

    for spoil in (
        lambda: None,
        lambda: (directory / "index.sqlite").unlink(),
        lambda: (directory / "index.sqlite").write_bytes(b"x" * 8192),
        lambda: shutil.copy(behind / "index.sqlite", directory / "index.sqlite"),
        lose_tiles_and_index,
        lambda: (directory / "checkpoint").unlink(),
        lambda: bend_index(directory / "index.sqlite"),
    ):
        spoil()
        again = open_log(directory, KEY)
        assert again.note == note
        assert step_reached(again, "r599") == step_reached(again, "r0") == 5
        again.close()


def test_a_tree_only_grows(log: Log, tmp_path: Path) -> None:
    """Consistency proofs hold between any two heads that were signed."""
    heads = []
    for count in (1, 255, 1, 300):
        fill(log, count)
        new = log.head
        heads.append(new)
        now = read_log(tmp_path / "log", KEY.verifier, lambda *_: None)
        for old in heads:
            proof = consistency_of(tmp_path / "log", KEY.verifier, now, old.size)
            assert is_consistent(old.size, old.root, new.size, new.root, proof)


def test_tiles_are_those_of_the_specification(log: Log) -> None:
    """Leaf hashes, entry bundles with 16-bit lengths, prefixes of partial tiles; nothing beyond the tree."""
    fill(log, 600)
    hashes = b"".join(leaf_hash(entry(number).leaf) for number in range(600))
    assert log.resource("tile/0/000") == hashes[:8192]
    assert log.resource("tile/0/002.p/88") == hashes[512 * 32 :]
    assert log.resource("tile/0/002.p/3") == hashes[512 * 32 : 515 * 32]
    assert len(log.resource("tile/1/000.p/2")) == 64
    bundle, at, found = log.resource("tile/entries/001"), 0, []
    while at < len(bundle):
        (length,) = unpack_from(">H", bundle, at)
        found.append(bundle[at + 2 : at + 2 + length])
        at += 2 + length
    assert found == [entry(number).leaf for number in range(256, 512)]
    for path in ("tile/0/002", "tile/0/002.p/89", "tile/1/000.p/3", "tile/2/000.p/1", "tile/entries/003", "tile/8/000"):
        with pytest.raises(Invalid):
            log.resource(path)


BAD_NAMES = [
    "",
    "x",
    "tile/0/0",
    "tile/0/000.p/0",
    "tile/0/000.p/256",
    "tile/0/x000/001",
    "tile/00/000",
    "tile/0/../x",
    "tile/0/000/",
]


@pytest.mark.parametrize("path", BAD_NAMES)
def test_a_tile_has_one_name(path: str) -> None:
    """No other spelling, so no path ever leaves the directory."""
    with pytest.raises(Invalid):
        TileName.parse(path)


def test_long_tile_numbers_are_split() -> None:
    """The example of C2SP tlog-tiles."""
    assert TileName(0, 1234067).path == "tile/0/x001/x234/067"
    assert TileName.parse("tile/entries/x001/x234/067.p/12") == TileName(None, 1234067, 12)


def test_two_writers_cannot_meet(log: Log, tmp_path: Path) -> None:
    """The second is told who has it, by code."""
    with pytest.raises(Unavailable) as refused:
        open_log(tmp_path / "log", KEY)
    assert refused.value.code == "log_locked"


def test_another_key_does_not_open_the_log(tmp_path: Path) -> None:
    """Neither another name nor another key under the same name."""
    open_log(tmp_path, KEY).close()
    for key in (SigningKey(KEY.name, bytes(32)), SigningKey("other.example", bytes([3]) * 32)):
        with pytest.raises(Invalid) as refused:
            open_log(tmp_path, key)
        assert refused.value.code == "log_damaged"


def test_a_tail_torn_anywhere_is_cut_off(tmp_path: Path) -> None:
    """Every byte at which the last, unacknowledged batch can end: the log opens at the batch before, and goes on."""
    made = open_log(tmp_path / "made", KEY)
    fill(made, 20)
    whole, note = made._segment.end, made.note
    made.append([entry(20), entry(21)])
    data = (tmp_path / "made" / "segment").read_bytes()
    made.close()
    torn = tmp_path / "torn"
    for length in range(whole, len(data)):
        shutil.rmtree(torn, ignore_errors=True)
        torn.mkdir(mode=0o700)
        (torn / "segment").write_bytes(data[:length])
        log = open_log(torn, KEY)
        assert log.note == note
        log.append([entry(20)])
        assert step_reached(log, "r20") == 5
        log.close()


def test_a_tail_of_zeroes_is_cut_off(tmp_path: Path) -> None:
    """A machine that lost power may leave the length without the bytes."""
    log = open_log(tmp_path, KEY)
    fill(log, 20)
    note = log.note
    log.close()
    with (tmp_path / "segment").open("ab") as file:
        file.write(bytes(5000))
    log = open_log(tmp_path, KEY)
    assert log.note == note
    log.close()


AHEAD = 4096


def crashed(made: Path, torn: Path, data: bytes) -> Path:
    """A log whose segment a crash left like this, and whose derived files were not yet there."""
    shutil.rmtree(torn, ignore_errors=True)
    torn.mkdir(mode=0o700)
    (torn / "segment").write_bytes(data)
    return torn


def ends_read(directory: Path) -> set[int]:
    """Where each reader finds that the log ends; the last of them opens it, and so cuts off what follows."""
    ends = set()
    with (directory / "segment").open("rb") as file:
        batches = Batches(file)
        list(batches)
        ends.add(batches.end)
    ends.add(read_log(directory, KEY.verifier, lambda number, entry: None).end)
    report = fsck(directory, KEY.verifier)
    assert all(finding.is_tail or finding.is_derived for finding in report.findings)
    log = open_log(directory, KEY)
    assert log.head == report.head
    ends.add(log.end)
    log.close()
    return ends | {(directory / "segment").stat().st_size}


def test_a_batch_torn_anywhere_within_zeros_is_cut_off(tmp_path: Path) -> None:
    """Any part of it may have reached the disk, in any order of pages, with zeros or with garbage behind: never counted
    unless it is whole, and all who read the segment agree where it ends."""
    made = open_log(tmp_path / "made", KEY)
    fill(made, 5)
    made.append([entry(5)], ahead=AHEAD)
    before = made.end
    made.append([entry(6), entry(7)])
    whole = (tmp_path / "made" / "segment").read_bytes()
    after = made.end
    made.close()
    assert whole[after:] == bytes(len(whole) - after) != b""
    torn = tmp_path / "torn"
    for at in range(before, after):
        first, rest = whole[:at], whole[at:after]
        for data in (
            first + bytes(len(whole) - at),
            first + b"\xa5" * 40,
            first + bytes(len(rest) - 1) + b"\xa5" + bytes(50),
            whole[:before] + bytes(at - before) + rest + bytes(50) if at > before else first,
        ):
            assert ends_read(crashed(tmp_path / "made", torn, data)) == {before}
    for data in (whole, whole[:after], whole[: after + 1], whole + bytes(300_000), whole + b"\xa5", whole[:-1] + b"E"):
        assert ends_read(crashed(tmp_path / "made", torn, data)) == {after}


def test_damage_within_zeros_that_no_crash_explains_is_refused(tmp_path: Path) -> None:
    """A batch that is gone, with a signed one behind it: neither is silently left out."""
    log = open_log(tmp_path / "log", KEY)
    log.append([entry(0)], ahead=AHEAD)
    first = log.end
    log.append([entry(1)])
    second = log.end
    log.append([entry(2)])
    log.append([entry(3)])  # only written once the one before was durable
    whole = (tmp_path / "log" / "segment").read_bytes()
    log.close()
    damaged = crashed(tmp_path / "log", tmp_path / "damaged", whole[:first] + bytes(second - first) + whole[second:])
    with pytest.raises(Invalid) as refused:
        read_log(damaged, KEY.verifier, lambda number, entry: None)
    assert refused.value.code == "log_damaged"
    with pytest.raises(Invalid) as refused:
        open_log(damaged, KEY)
    assert refused.value.code == "log_damaged"


def test_zeros_ahead_change_no_length(tmp_path: Path) -> None:
    """Batches that fit into them leave the file as long as it is; large ones bring none; closing gives them back."""
    log = open_log(tmp_path, KEY)
    segment, lengths = tmp_path / "segment", []
    for number in range(20):
        log.append([entry(number)], ahead=AHEAD)
        lengths.append(segment.stat().st_size)
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 2
    log.append([Entry(bytes(AHEAD), "large")], ahead=AHEAD)
    assert segment.stat().st_size == log.end
    log.append([entry(20)], ahead=AHEAD)
    assert segment.stat().st_size == log.end + AHEAD
    assert fsck(tmp_path, KEY.verifier).is_sound
    log.close()
    assert segment.stat().st_size == log.end
    assert fsck(tmp_path, KEY.verifier).findings == ()


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_disk_with_room_for_the_batch_alone_takes_it(tmp_path: Path, room: int) -> None:
    """Zeros are a convenience: what of them does not fit is left out, and no receipt is refused for it."""
    real, limit = FileCalls(), 0

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset >= limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real.pwrite(fd, data[: limit - offset], offset)

    log = open_log(tmp_path, KEY, FileCalls(pwrite, real.fdatasync, real.ftruncate))
    with pytest.raises(Unavailable):
        log.append([entry(0)], ahead=AHEAD)
    limit = log.end + len(encode_frame(ENTRY, entry(0).leaf)) + len(encode_frame(HEAD, log.note.encode())) + 3 + room
    log.append([entry(0)], ahead=AHEAD)
    assert log.head.size == 1
    with pytest.raises(Unavailable):
        log.append([entry(1)], ahead=AHEAD)
    assert (tmp_path / "segment").stat().st_size == log.end
    limit = 1 << 20
    log.append([entry(1)], ahead=AHEAD)
    log.close()
    report = fsck(tmp_path, KEY.verifier)
    assert (report.findings, report.head.size) == ((), 2)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failure_within_zeros_leaves_nothing_of_the_batch(tmp_path: Path, call: str) -> None:
    """Cut back with the zeros, so that the next batch cannot be followed by what was refused."""
    log = open_log(tmp_path, KEY, Failing(call, 2, code=errno.EIO, short=call == "pwrite").calls())
    log.append([entry(0)], ahead=AHEAD)
    with pytest.raises(Unavailable):
        log.append([entry(number) for number in range(1, 9)], ahead=AHEAD)
    assert (tmp_path / "segment").stat().st_size == log.end
    log.close()
    again = open_log(tmp_path, KEY)
    again.append([entry(1)], ahead=AHEAD)
    again.close()
    report = fsck(tmp_path, KEY.verifier)
    assert (report.findings, report.head.size) == ((), 2)


def spoilt(directory: Path, change: Callable[[bytes], bytes], *, keep_checkpoint: bool) -> None:
    """A log of 40 entries whose segment `change` has been at, and whose index is gone."""
    log = open_log(directory, KEY)
    fill(log, 40)
    log.close()
    (directory / "segment").write_bytes(change((directory / "segment").read_bytes()))
    (directory / "index.sqlite").unlink()
    if not keep_checkpoint:
        (directory / "checkpoint").unlink()


@pytest.mark.parametrize(
    ("name", "change", "keep_checkpoint"),
    [
        ("one bit early on", lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:], False),
        ("one bit in the last batch", lambda data: data[:-300] + bytes([data[-300] ^ 1]) + data[-299:], True),
        ("the last batch gone", lambda data: data[: data.rindex(b'E\0\0\0\x1a')], True),
        ("everything gone", lambda data: b"", False),
        ("another beginning", lambda data: b"X" + data[1:], False),
        ("everything but the beginning gone", lambda data: data[:8], False),
    ],
)  # fmt: skip
def test_what_no_crash_explains_is_refused(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], keep_checkpoint: bool
) -> None:
    """Acknowledged entries that changed or vanished stop the log; fsck says where."""
    spoilt(tmp_path, change, keep_checkpoint=keep_checkpoint)
    with pytest.raises(Invalid) as refused:
        open_log(tmp_path, KEY)
    assert refused.value.code == "log_damaged"
    assert refused.value.hint
    assert not fsck(tmp_path, KEY.verifier).is_sound


def test_a_lost_segment_is_not_started_anew(tmp_path: Path) -> None:
    """A new log under the old name would be a split view."""
    open_log(tmp_path, KEY).close()
    (tmp_path / "segment").unlink()
    with pytest.raises(Invalid):
        open_log(tmp_path, KEY)


class Failing:
    """System calls of which the n-th fails, and all after it if `forever`."""

    def __init__(
        self, call: str, nth: int, *, code: int = errno.ENOSPC, forever: bool = False, short: bool = False
    ) -> None:
        self.call, self.left, self.code, self.forever, self.short = call, nth, code, forever, short

    def calls(self) -> FileCalls:
        real = FileCalls()

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            if self.short and self.call == "pwrite" and self.left == 1:
                self.short = False  # half of it goes through, and the next call fails
                return real.pwrite(fd, data[: len(data) // 2], offset)
            self._fail_on("pwrite")
            return real.pwrite(fd, data, offset)

        def fdatasync(fd: int) -> None:
            self._fail_on("fdatasync")
            real.fdatasync(fd)

        def ftruncate(fd: int, size: int) -> None:
            self._fail_on("ftruncate")
            real.ftruncate(fd, size)

        return FileCalls(pwrite, fdatasync, ftruncate)

    def _fail_on(self, call: str) -> None:
        if call != self.call or self.left <= 0:
            return
        self.left -= 1
        if self.left == 0:
            self.left = 1 if self.forever else 0
            raise OSError(self.code, "no luck")


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_failed_write_is_undone_and_tried_again(tmp_path: Path, nth: int, short: bool, code: int) -> None:
    """The entries of that batch are refused, nothing of them stays, and the next batch goes through."""
    log = open_log(tmp_path, KEY, Failing("pwrite", nth, code=code, short=short).calls())
    for number in range(1, 6):
        size, length = log.head.size, (tmp_path / "segment").stat().st_size
        if number == nth:
            with pytest.raises(Unavailable) as refused:
                fill(log, 3)
            assert refused.value.code == "log_unavailable"
            assert (log.head.size, (tmp_path / "segment").stat().st_size) == (size, length)
        else:
            fill(log, 3)
    assert step_reached(log, "r11") == 5
    log.close()
    report = fsck(tmp_path, KEY.verifier)
    assert (report.findings, report.head.size) == ((), 12)


@pytest.mark.parametrize("nth", [1, 3])
def test_a_failed_sync_is_final(tmp_path: Path, nth: int) -> None:
    """After it nobody knows what the disk holds: every later append is refused until the log is opened anew."""
    log = open_log(tmp_path, KEY, Failing("fdatasync", nth, code=errno.EIO).calls())
    for _ in range(nth - 1):
        fill(log, 3)
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            fill(log, 3)
        assert refused.value.code == "log_unavailable"
    size = log.head.size
    log.close()
    again = open_log(tmp_path, KEY)
    assert again.head.size == size == 3 * (nth - 1)
    fill(again, 3)
    again.close()
    assert fsck(tmp_path, KEY.verifier).findings == ()


def test_a_write_that_cannot_be_undone_is_final(tmp_path: Path) -> None:
    """Half a batch at the end must not be written over by luck; opening anew cuts it off."""
    failing, undoing = Failing("pwrite", 1, forever=True, short=True).calls(), Failing("ftruncate", 1).calls()
    log = open_log(tmp_path, KEY, FileCalls(failing.pwrite, failing.fdatasync, undoing.ftruncate))
    for _ in range(2):
        with pytest.raises(Unavailable):
            fill(log, 3)
    log.close()
    log = open_log(tmp_path, KEY)
    assert log.head.size == 0
    fill(log, 3)
    log.close()


def test_a_derived_file_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    """Appending goes on without an index; what is missing on disk is served from memory."""
    log = open_log(tmp_path, KEY)
    (tmp_path / "tile").write_text("in the way")
    fill(log, 600)
    log.flush()
    assert step_reached(log, "r0") == 5
    assert len(log.resource("tile/0/001")) == 8192
    (tmp_path / "tile").unlink()
    log.close()
    assert fsck(tmp_path, KEY.verifier).findings == ()


def test_fsck_finds_and_rebuild_mends_what_is_derived(tmp_path: Path) -> None:
    """A bent tile, a lost one, a lost index row and a lost `checkpoint` are named, and made again on request."""
    log = open_log(tmp_path, KEY)
    fill(log, 600)
    log.close()
    assert fsck(tmp_path, KEY.verifier).findings == ()
    (tmp_path / "tile/0/000").write_bytes(bytes(8192))
    (tmp_path / "tile/0/001").unlink()
    (tmp_path / "checkpoint").unlink()
    found = fsck(tmp_path, KEY.verifier)
    assert {finding.where for finding in found.findings} == {"tile/0/000", "tile/0/001", "checkpoint"}
    assert all(finding.is_derived for finding in found.findings)
    assert not found.is_sound
    again = open_log(tmp_path, KEY)
    with pytest.raises(Unavailable) as refused:
        bundle_for(again, "r5")
    assert refused.value.hint == "allod log fsck --rebuild"
    again.close()
    assert rebuild(tmp_path, KEY).findings == ()


def test_fsck_checks_every_signature(tmp_path: Path) -> None:
    """A head signed by another key is found even where a later one is ours."""
    log = open_log(tmp_path, KEY)
    fill(log, 3)
    log.close()
    report = fsck(tmp_path, SigningKey(KEY.name, bytes(32)).verifier)
    assert sum("not signed" in finding.problem for finding in report.findings) == report.num_heads + 1


def test_fsck_can_run_beside_the_writer(log: Log, tmp_path: Path) -> None:
    """It takes no lock, and what the index has yet to be told is no finding."""
    fill(log, 300)
    assert fsck(tmp_path / "log", KEY.verifier).is_sound
    log.flush()
    fill(log, 300)
    assert fsck(tmp_path / "log", KEY.verifier).findings == ()


def test_a_segment_that_is_gone_or_another_takes_nothing_more(tmp_path: Path) -> None:
    """What was written to a file without a name would be acknowledged and lost."""
    log = open_log(tmp_path / "log", KEY)
    try:
        log.append([Entry(b"one", "r1")])
        segment = tmp_path / "log" / "segment"
        segment.rename(tmp_path / "aside")
        for _ in range(2):
            with pytest.raises(Unavailable):
                log.append([Entry(b"two", "r2")])
            segment.write_bytes(b"another file")
        (tmp_path / "aside").replace(segment)
        log.append([Entry(b"two", "r2")])
        assert log.head.size == 2
    finally:
        log.close()


def test_fsck_names_an_entry_that_nobody_can_read(tmp_path: Path) -> None:
    """The log is whole and not damaged, and still not as it should be."""
    log = open_log(tmp_path, KEY)
    leaves = {name: b'{"predicate":{"id":"%s"}}' % name.encode() for name in ("a", "odd", "c")}
    log.append([Entry(leaf, name) for name, leaf in leaves.items()])
    log.close()
    read: list[bytes] = []

    def check(entry: bytes) -> Statement:
        read.append(entry)
        if entry == leaves["odd"]:
            raise Invalid("a number too far")
        return Statement("kind", json.loads(entry)["predicate"]["id"], 1, 1, {}, ())

    report = fsck(tmp_path, KEY.verifier, check)
    (finding,) = report.findings
    assert (finding.where.split(",")[0], finding.problem) == ("entry 1", "no valid statement: a number too far")
    assert (report.is_sound, report.is_damaged) == (False, False)
    assert read == list(leaves.values())


@pytest.mark.parametrize("change", ["offset = offset + 1", "first = first + 1"])
def test_fsck_finds_a_batch_that_the_index_has_elsewhere(tmp_path: Path, change: str) -> None:
    """By these rows entries are read by their number: the log's last time, and the list of the latest receipts."""
    log = open_log(tmp_path, KEY)
    fill(log, 30)
    log.close()
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as database, database:
        database.execute(f"update batch set {change} where first = (select max(first) from batch)")
    (finding,) = fsck(tmp_path, KEY.verifier).findings
    assert (finding.problem, finding.is_derived) == ("batches not in their place", True)
    assert rebuild(tmp_path, KEY).findings == ()


@pytest.mark.parametrize(
    "change",
    ["drop table entry; drop table batch", "update entry set offset = 'x'; update batch set offset = 'x'"],
    ids=["gone", "no number"],
)
def test_a_broken_index_is_said_with_what_mends_it(tmp_path: Path, change: str) -> None:
    """By whoever looks up an id or a number, as damage of what is derived: no error of the asker's, and no crash."""
    log = open_log(tmp_path, KEY)
    fill(log, 30)
    log.flush()
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as database, database:
        database.executescript(change)
    for ask in (lambda: log.find("r5"), lambda: log.statement("r5"), lambda: log.entries(5, 1)):
        with pytest.raises(Unavailable) as caught:
            ask()
        assert (caught.value.code, caught.value.hint) == ("log_derived", "allod log fsck --rebuild")
    log.close()
    assert rebuild(tmp_path, KEY).findings == ()


def test_fsck_finds_each_row_of_the_index_that_is_not_in_its_place(tmp_path: Path) -> None:
    """One that is missing, and one that leads elsewhere, of entries that are read and of one that nobody could."""
    log = open_log(tmp_path, KEY)
    log.append([Entry(b'{"predicate":{"id":"r%d"}}' % number, f"r{number}") for number in range(300)])
    log.close()

    def check(entry: bytes) -> Statement:
        receipt_id = json.loads(entry)["predicate"]["id"]
        if receipt_id == "r7":
            raise Invalid("odd")
        return Statement("kind", receipt_id, 1, 1, {}, ())

    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as database, database:
        database.execute("delete from entry where id in ('r7', 'r8')")
        database.execute("update entry set leaf = 1 where id = 'r200'")
    odd, derived = fsck(tmp_path, KEY.verifier, check).findings
    assert (odd.is_entry, derived.is_derived) == (True, True)
    assert derived.problem == "3 receipts not in their place, r7 first"
    assert [finding.is_entry for finding in rebuild(tmp_path, KEY, check).findings] == [True]
