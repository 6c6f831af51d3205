"""Damage: whoever opens a log, reads it or checks it says the same of what is wrong with it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.prove.formats.signing_key import SigningKey
from allod.prove.tlog import recovery
from allod.prove.tlog.fsck import KnownHistory, fsck, rebuild
from allod.prove.tlog.log import Entry, open_log
from allod.prove.tlog.reader import newest_entries, read_log
from allod.prove.tlog.segment import MAGIC, Batches

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)
NUM_BATCHES = 8
PAGE_BYTES = 4096  # of SQLite


def make(directory: Path) -> None:
    """Batches of one to three entries, with zeros behind them as a running gateway leaves them."""
    log = open_log(directory, KEY)
    for number in range(NUM_BATCHES):
        ids = [f"r{number}-{place}" for place in range(1 + number % 3)]
        log.append([Entry(b'{"predicate":{"id":"%s"}}' % name.encode(), name) for name in ids], ahead=4096)
    log.flush()
    zeros = (directory / "segment").read_bytes()[log.end :]
    log.close()
    with (directory / "segment").open("ab") as file:
        file.write(zeros)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "log"
    make(directory)
    return directory


def batches_of(data: bytes, directory: Path) -> list[bytes]:
    """The bytes of each batch, the empty first one included."""
    with (directory / "segment").open("rb") as file:
        batches, ends = Batches(file), [len(MAGIC)]
        for batch in batches:
            ends.append(batch.head.end)
    return [data[start:end] for start, end in pairwise(ends)]


def verdict(judge: Callable[[], object]) -> bool:
    """Whether it is damaged."""
    try:
        judge()
    except Invalid as error:
        if error.code != "log_damaged":
            raise
        return True
    return False


def assert_all_agree(directory: Path) -> bool:
    """What all three say; where it is not damaged, opening leaves nothing behind that fsck would find."""
    report = fsck(directory, KEY.verifier)
    read = verdict(lambda: read_log(directory, KEY.verifier, lambda number, entry: None))
    opened = verdict(lambda: open_log(directory, KEY).close())
    assert (read, opened) == (report.is_damaged, report.is_damaged), report.findings
    if not opened:
        healed = fsck(directory, KEY.verifier)
        assert (healed.findings, healed.head) == ((), report.head)
    return opened


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, float, int, bool, bool]:
    """What is done, where, with what, and whether `checkpoint` and the index are lost beside it."""
    kind = draw(st.sampled_from(["byte", "cut", "append", "swap", "lose", "repeat", "none"]))
    return (
        kind,
        draw(st.floats(0, 1, exclude_max=True)),
        draw(st.integers(1, 255)),
        draw(st.booleans()),
        draw(st.booleans()),
    )


def spoil(data: bytes, batches: list[bytes], kind: str, place: float, value: int) -> bytes:
    at = int(place * len(data))
    which = int(place * (len(batches) - 1))
    if kind == "byte":
        return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "append":
        return data + bytes([value]) * (1 + at % 700)
    if kind == "swap":
        batches[which], batches[which + 1] = batches[which + 1], batches[which]
    elif kind == "lose":
        del batches[max(1, which)]  # the first is empty
    elif kind == "repeat":
        batches.insert(which, batches[which])
    return MAGIC + b"".join(batches)


@settings(max_examples=250)
@given(damages())
def test_all_who_meet_a_damaged_log_judge_it_alike(made: Path, damage: tuple[str, float, int, bool, bool]) -> None:
    """`fsck` finds damage where no gateway starts, and nothing else; a torn tail is one to all, and heals."""
    kind, place, value, without_checkpoint, without_index = damage
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "log"
        shutil.copytree(made, directory)
        data = (directory / "segment").read_bytes().rstrip(b"\0")
        (directory / "segment").write_bytes(spoil(data, batches_of(data, made), kind, place, value))
        if without_checkpoint:
            (directory / "checkpoint").unlink()
        if without_index:
            for name in recovery.INDEX_FILES:
                (directory / name).unlink(missing_ok=True)
        is_damaged = assert_all_agree(directory)
        if kind in ("none", "append"):
            assert not is_damaged
        if not without_index and kind in ("byte", "cut", "lose"):
            assert is_damaged, "what was acknowledged is gone"


def test_damage_before_the_last_flush_is_found_at_the_start(made: Path, tmp_path: Path) -> None:
    """The index vouches for nothing: one bit in the oldest entry, and no gateway starts."""
    shutil.copytree(made, tmp_path / "log")
    segment = tmp_path / "log" / "segment"
    data = bytearray(segment.read_bytes())
    data[data.index(b"r0-0")] ^= 1
    segment.write_bytes(data)
    assert assert_all_agree(tmp_path / "log")


def test_of_a_long_log_the_last_part_is_read_at_the_start(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the time is bounded: damage there is found, damage far before it is for fsck."""
    monkeypatch.setattr(recovery, "WALK_BYTES", 1000)
    for name, entry, is_found in (("old", b"r0-0", False), ("new", b"r7-1", True)):
        shutil.copytree(made, tmp_path / name)
        segment = tmp_path / name / "segment"
        data = bytearray(segment.read_bytes())
        data[data.index(entry)] ^= 1
        segment.write_bytes(data)
        assert verdict(lambda name=name: open_log(tmp_path / name, KEY).close()) is is_found  # type: ignore[misc]
        assert fsck(tmp_path / name, KEY.verifier).is_damaged


def test_a_log_that_was_put_back_is_damaged_to_whoever_knows_a_later_head(made: Path, tmp_path: Path) -> None:
    """Without its derived files it is a sound log, and one that is shorter; a head that it kept tells them apart."""
    directory = tmp_path / "log"
    shutil.copytree(made, directory)
    early = fsck(directory, KEY.verifier).head
    log = open_log(directory, KEY)
    log.append([Entry(b'{"predicate":{"id":"later"}}', "later")])
    later = log.head
    log.close()
    assert not fsck(directory, KEY.verifier, history=KnownHistory(heads=[early, later])).findings
    shutil.rmtree(directory)
    shutil.copytree(made, directory)
    (finding,) = fsck(directory, KEY.verifier, history=KnownHistory(heads=[early, later])).findings
    assert finding.problem == f"it had a signed tree head of size {later.size} once, and has it no more"
    assert fsck(directory, KEY.verifier, history=KnownHistory(heads=[later])).is_damaged
    assert rebuild(directory, KEY, history=KnownHistory(heads=[later])).is_damaged
    assert not fsck(directory, KEY.verifier, history=KnownHistory(heads=[early])).is_damaged


def test_a_log_is_damaged_that_holds_less_than_was_charged(made: Path) -> None:
    """It was put back with all that is derived from it: the ledger alone knows."""
    size = fsck(made, KEY.verifier).head.size
    assert not fsck(made, KEY.verifier, history=KnownHistory(charged=size)).findings
    report = fsck(made, KEY.verifier, history=KnownHistory(charged=size + 1))
    assert report.is_damaged
    assert report.findings[0].problem == f"the ledger has charged {size + 1} of its entries, and it holds {size}"


@pytest.mark.parametrize("whole", [True, False])
def test_a_log_that_is_gone_is_damaged_and_never_begun_anew(made: Path, tmp_path: Path, whole: bool) -> None:
    """Alone, or with all that is derived from it."""
    directory = tmp_path / "log"
    shutil.copytree(made, directory)
    (directory / "segment").unlink()
    if whole:
        shutil.rmtree(directory)
    for report in (fsck(directory, KEY.verifier), rebuild(directory, KEY)):
        assert report.is_damaged
        assert report.findings[0].problem == "it is gone"
    assert not (directory / "segment").exists()


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DERIVED: dict[str, Callable[[Path], object]] = {
    "index.sqlite": lambda log: (log / "index.sqlite").write_bytes(b"x" * 4096),
    "checkpoint": lambda log: flip(log / "checkpoint", 3),
}


@pytest.mark.parametrize("where", DERIVED)
def test_a_rebuild_says_what_was_wrong_and_is_right_now(made: Path, tmp_path: Path, where: str) -> None:
    """And that it was made again."""
    directory = tmp_path / "log"
    shutil.copytree(made, directory)
    DERIVED[where](directory)
    report = rebuild(directory, KEY)
    assert (report.findings, report.is_rebuilt) == ((), True)
    assert [finding.where for finding in report.mended] == [where]


SPOILED: dict[str, Callable[[Path], object]] = {
    "its start": lambda log: flip(log / "segment", 0),
    "the kind of a frame": lambda log: flip(log / "segment", len(MAGIC)),
    "an entry": lambda log: flip(log / "segment", (log / "segment").read_bytes().index(b"r0-0")),
    "the last tree head": lambda log: flip(log / "segment", (log / "segment").read_bytes().rindex(KEY.name.encode())),
    "torn in the last batch": lambda log: (log / "segment").write_bytes(
        (log / "segment").read_bytes().rstrip(b"\0")[:-5]
    ),
    "empty": lambda log: (log / "segment").write_bytes(b""),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_rebuild_of_a_damaged_segment_reports_and_changes_nothing(made: Path, tmp_path: Path, what: str) -> None:
    """What is derived may be all that is left of the log: it is not thrown away for what cannot be made again."""
    directory = tmp_path / "log"
    shutil.copytree(made, directory)
    SPOILED[what](directory)
    before = contents(directory)
    report = rebuild(directory, KEY)
    assert report.is_damaged
    assert not report.is_rebuilt
    assert any(finding.where.startswith("segment") for finding in report.findings)
    assert contents(directory) == before


@pytest.mark.parametrize(
    "change",
    [
        "state set size = 'x'",
        "state set size = null",
        "state set size = -5, head = -7",
        "state set head = 'x'",
        "state set head = 9223372036854775807, end = 9223372036854775807",
        "state set end = x'00'",
        "edge set hashes = 'x'",
        "edge set hashes = 100000000000",
        "edge set hashes = x'00'",
    ],
)
def test_an_index_that_says_odd_things_is_no_index(made: Path, tmp_path: Path, change: str) -> None:
    """Whoever opens the log makes it again; whoever checks it names it; nobody crashes, or reads what it says."""
    for name in ("checked", "opened"):
        shutil.copytree(made, tmp_path / name)
        with closing(sqlite3.connect(tmp_path / name / "index.sqlite")) as database, database:
            database.execute(f"update {change}")
    assert not fsck(tmp_path / "checked", KEY.verifier).is_damaged
    assert rebuild(tmp_path / "checked", KEY).findings == ()
    assert not assert_all_agree(tmp_path / "opened")


def test_batches_without_a_place_are_damage_of_the_index(made: Path, tmp_path: Path) -> None:
    """What its schema forbids, a damaged file may hold all the same."""
    directory = tmp_path / "log"
    shutil.copytree(made, directory)
    with closing(sqlite3.connect(directory / "index.sqlite")) as database:
        database.executescript("drop table batch; create table batch (first, offset)")
        database.executescript("insert into batch values (null, null), (0, null)")
    assert len(newest_entries(directory, 3)) == 3
    (finding,) = fsck(directory, KEY.verifier).findings
    assert (finding.where, finding.problem) == ("index.sqlite", "a position in it is no number")
    assert rebuild(directory, KEY).findings == ()


@pytest.mark.parametrize("offset", ["7", "offset + 7", "9223372036854775807"])
def test_the_newest_entries_are_found_without_the_index(made: Path, tmp_path: Path, offset: str) -> None:
    """Where it points into the middle of something, or beyond the end: by them a clock is judged."""
    directory = tmp_path / "log"
    shutil.copytree(made, directory)
    with closing(sqlite3.connect(directory / "index.sqlite")) as database, database:
        database.execute(f"update batch set offset = {offset}")
    assert newest_entries(directory, 3) == newest_entries(made, 3)
    assert len(newest_entries(made, 3)) == 3


@pytest.fixture(scope="module")
def behind(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log that `made` is, and as much again that the index was never told of, as a crash leaves it."""
    directory = tmp_path_factory.mktemp("behind") / "log"
    shutil.copytree(made, directory)
    before = (directory / "index.sqlite").read_bytes()
    make(directory)
    (directory / "index.sqlite").write_bytes(before)
    return directory


def spoiled_at_random(data: bytes, seed: int) -> bytes:
    """Up to twenty bytes: anywhere, in the names of its tables, at a page's start, or among the rows at its end."""
    random = Random(seed)
    page = random.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES
    names = data.rindex(b"CREATE TABLE", 0, PAGE_BYTES)
    at = (random.randrange(len(data)), random.randrange(names, PAGE_BYTES), page, page + PAGE_BYTES - 60)[seed % 4]
    spoiled = random.randbytes(random.randrange(1, 21))
    return (data[:at] + spoiled + data[at + len(spoiled) :])[: len(data)]


@pytest.mark.parametrize("of", ["made", "behind"])
def test_an_index_with_any_damage_stops_nobody(of: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whoever opens, reads, or checks the log does so; who makes the index again has a sound one."""
    whole: Path = request.getfixturevalue(of)
    for seed in range(60):
        directory = tmp_path / str(seed)
        shutil.copytree(whole, directory)
        damaged = spoiled_at_random((whole / "index.sqlite").read_bytes(), seed)
        (directory / "index.sqlite").write_bytes(damaged)
        newest_entries(directory, 3)
        if not fsck(directory, KEY.verifier).is_damaged:  # the index may say that it knows more than there is
            read_log(directory, KEY.verifier, lambda number, entry: None)
            open_log(directory, KEY).close()
        (directory / "index.sqlite").write_bytes(damaged)
        assert rebuild(directory, KEY).findings == (), seed
        assert not assert_all_agree(directory)
        shutil.rmtree(directory)


def contents(directory: Path) -> dict[Path, bytes]:
    """Of every file but SQLite's own beside the index, which looking at it may make."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name not in recovery.INDEX_FILES[1:])
    return {path: path.read_bytes() for path in files}
