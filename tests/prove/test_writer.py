"""The writer's thread: batches of whatever waits, outcomes only after the disk has answered, nobody left waiting."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest

from allod.core.errors import AllodError, Invalid, Unavailable
from allod.prove.formats.signing_key import SigningKey
from allod.prove.tlog.fsck import fsck
from allod.prove.tlog.log import AppendedBatch, Log, open_log
from allod.prove.tlog.segment import FileCalls
from allod.prove.tlog.writer import Done, LogWriter, Outcome, WriterOptions

KEY = SigningKey("realm.example/receipts/a", bytes([3]) * 32)
HERE = Path(__file__).parent


class Collector:
    """Delivers at once, and remembers how large each batch was and what came of it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, Outcome]] = []
        self.outcomes: dict[str, Outcome] = {}

    def deliver(self, waiting: list[Done], outcome: Outcome) -> None:
        self.batches.append((len(waiting), outcome))
        for done in waiting:
            done(outcome)

    def done(self, name: str) -> Done:
        return lambda outcome: self.outcomes.__setitem__(name, outcome)


def leaf(name: str) -> bytes:
    return b'{"predicate":{"id":"%s"}}' % name.encode()


def held_back(gate: threading.Event) -> FileCalls:
    """System calls whose fdatasync waits for `gate`."""
    real = FileCalls()

    def fdatasync(fd: int) -> None:
        gate.wait(10)
        real.fdatasync(fd)

    return FileCalls(real.pwrite, fdatasync, real.ftruncate)


def waited_for(condition: Callable[[], bool]) -> bool:
    """Whether `condition` came true within ten seconds."""
    limit = time.monotonic() + 10
    while not condition() and time.monotonic() < limit:
        time.sleep(0.001)
    return condition()


def test_outcomes_come_in_order_and_close_drains(tmp_path: Path) -> None:
    """Everything submitted before `close` is durable and delivered when it returns."""
    log, heard = open_log(tmp_path, KEY), Collector()
    writer = LogWriter(log, heard.deliver)
    for number in range(1000):
        writer.submit(leaf(f"r{number}"), f"r{number}", heard.done(f"r{number}"))
    writer.close()
    assert list(heard.outcomes) == [f"r{number}" for number in range(1000)]
    ends = list(accumulate(size for size, _ in heard.batches))
    assert [outcome for _, outcome in heard.batches] == list(map(AppendedBatch, [0, *ends], ends))
    assert (ends[-1], log.head.size, log.num_unflushed) == (1000, 1000, 0)
    assert max(size for size, _ in heard.batches) <= 256
    assert [log.find(name).leaf for name in heard.outcomes] == list(range(1000))
    with pytest.raises(Unavailable) as refused:
        writer.submit(b"x", "x", heard.done("x"))
    assert refused.value.code == "log_closed"
    log.close()


def test_nothing_is_acknowledged_before_the_disk_has_answered(tmp_path: Path) -> None:
    """While fdatasync hangs no outcome is heard; what arrives meanwhile becomes the next batch, whole."""
    gate, heard = threading.Event(), Collector()
    log = open_log(tmp_path, KEY, held_back(gate))
    writer = LogWriter(log, heard.deliver)
    writer.submit(leaf("first"), "first", heard.done("first"))
    assert waited_for(lambda: not writer._waiting)
    for number in range(100):
        writer.submit(leaf(f"r{number}"), f"r{number}", heard.done(f"r{number}"))
    time.sleep(0.05)
    assert heard.outcomes == {}
    gate.set()
    writer.close()
    assert [size for size, _ in heard.batches] == [1, 100]
    log.close()


def test_a_full_queue_says_busy(tmp_path: Path) -> None:
    """Bounded memory: beyond `max_waiting` the client is told to come back."""
    gate, heard = threading.Event(), Collector()
    log = open_log(tmp_path, KEY, held_back(gate))
    writer = LogWriter(log, heard.deliver, WriterOptions(max_waiting=10))
    writer.submit(leaf("first"), "first", heard.done("first"))
    assert waited_for(lambda: not writer._waiting)
    for number in range(10):
        writer.submit(leaf(f"r{number}"), f"r{number}", heard.done(f"r{number}"))
    with pytest.raises(Unavailable) as refused:
        writer.submit(leaf("late"), "late", heard.done("late"))
    assert (refused.value.code, refused.value.retry_after_s) == ("log_busy", 1.0)
    gate.set()
    writer.close()
    assert len(heard.outcomes) == 11
    log.close()


def test_a_leaf_that_cannot_be_served_is_refused_at_once(tmp_path: Path) -> None:
    """C2SP entry bundles hold at most 65,535 bytes an entry."""
    log, heard = open_log(tmp_path, KEY), Collector()
    writer = LogWriter(log, heard.deliver)
    with pytest.raises(Invalid):
        writer.submit(bytes(65_536), "x", heard.done("x"))
    writer.close()
    log.close()


def test_a_batch_that_fails_fails_for_everyone_in_it(tmp_path: Path) -> None:
    """All of them hear `log_unavailable`; the next ones are tried afresh."""
    real, luck = FileCalls(), iter([True, False])

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if next(luck, False):
            raise OSError(28, "No space left on device")
        return real.pwrite(fd, data, offset)

    log, heard = open_log(tmp_path, KEY, FileCalls(pwrite, real.fdatasync, real.ftruncate)), Collector()
    writer = LogWriter(log, heard.deliver)
    writer.submit(leaf("a"), "a", heard.done("a"))
    assert waited_for(lambda: "a" in heard.outcomes)
    writer.submit(leaf("b"), "b", heard.done("b"))
    writer.close()
    assert isinstance(heard.outcomes["a"], Unavailable)
    assert heard.outcomes["a"].code == "log_unavailable"
    assert heard.outcomes["b"] == AppendedBatch(0, 1)
    log.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_dies_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even an error that nobody foresaw reaches those who wait, and later ones are refused."""

    def explode(self: Log, entries: object) -> AppendedBatch:
        raise MemoryError

    log, heard = open_log(tmp_path, KEY), Collector()
    monkeypatch.setattr(Log, "append", explode)
    writer = LogWriter(log, heard.deliver)
    writer.submit(leaf("a"), "a", heard.done("a"))
    assert waited_for(lambda: "a" in heard.outcomes)
    assert isinstance(heard.outcomes["a"], AllodError)
    with pytest.raises(Unavailable):
        writer.submit(leaf("b"), "b", heard.done("b"))
    writer.close()
    log.close()


def test_the_index_catches_up_when_idle(tmp_path: Path) -> None:
    """A lone entry is on the index and on the `checkpoint` file soon after, without another one to push it."""
    log, heard = open_log(tmp_path, KEY), Collector()
    writer = LogWriter(log, heard.deliver, WriterOptions(flush_after_s=0.01))
    writer.submit(leaf("a"), "a", heard.done("a"))
    assert waited_for(lambda: "a" in heard.outcomes and log.num_unflushed == 0)
    assert waited_for(lambda: (tmp_path / "checkpoint").read_text() == log.note)
    writer.close()
    log.close()


# The next two run crash_writer.py, which appends until it is stopped and prints each id once it was acknowledged.


def acknowledged(directory: Path, *, stop_after: int, limit_bytes: int | None = None) -> list[str]:
    """Ids that the writer acknowledged before it was killed, or before its file could grow no more."""

    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    command: list[str | Path] = [sys.executable, HERE / "crash_writer.py", directory]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=limit) as process:
        assert process.stdout is not None
        heard = []
        for line in process.stdout:
            if not line.endswith("\n"):
                break
            heard.append(line.strip())
            if len(heard) == stop_after:
                process.send_signal(signal.SIGKILL)
        return heard


def test_kill_minus_nine_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Twelve times killed in mid-run and opened again: every id that was heard of is there, and the log is sound."""
    heard: list[str] = []
    for turn in range(12):
        heard += acknowledged(tmp_path, stop_after=5 + 37 * turn)
        log = open_log(tmp_path, KEY)
        for receipt_id in [name for name in heard if name != "refused"]:
            assert log.statement(receipt_id) == leaf(receipt_id)
        log.close()
        assert fsck(tmp_path, KEY.verifier).findings == ()
    assert len(heard) > 1000


def test_a_real_limit_of_the_file_system_refuses_and_recovers(tmp_path: Path) -> None:
    """A kernel that says EFBIG, no fake: what was acknowledged is there, what was refused is not, nothing is torn."""
    heard = acknowledged(tmp_path, stop_after=4000, limit_bytes=200_000)
    assert "refused" in heard
    names = [name for name in heard if name != "refused"]
    assert names
    log = open_log(tmp_path, KEY)
    assert {log.statement(name) for name in names} == {leaf(name) for name in names}
    assert log.head.size == len(names)
    log.close()
    assert fsck(tmp_path, KEY.verifier).findings == ()


@pytest.mark.parametrize("ahead", [0, 16_384, WriterOptions().zeros_ahead])
def test_a_full_disk_refuses_and_then_goes_on(tmp_path: Path, ahead: int) -> None:
    """A file system of 400 kB, for real: ENOSPC is heard as a refusal, and room made lets the same writer go on."""
    script = f"{sys.executable} {HERE / 'full_disk.py'} {tmp_path} {ahead}"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    command.append(f"mount -t tmpfs -o size=400k none {tmp_path} && exec {script}")
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip("no mount namespaces here")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["refused", "went-on", "sound"]
