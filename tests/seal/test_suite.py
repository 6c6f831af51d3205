"""The escape suite itself: it holds against the real seal, and fails against every weakened one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.seal.nodes import fake_gpu

from allod.core.errors import Unavailable
from allod.seal.devices.grants import NO_DEVICES
from allod.seal.lab import suite
from allod.seal.lab.suite import BLOCKED, ESCAPED, NOT_APPLICABLE, Row, SuiteReport, run_suite
from allod.seal.profiles.profile import ISLAND, ISLAND_GPU, PROFILES

WITHOUT_NETWORK_OF_ITS_OWN = {"mptcp", "fast-open", "udp4", "udp6", "dns"}
TO_AN_ACCOMPLICE = {"affinity", "name", "record-lock"}
BY_PATHNAME = {"unix-stream", "unix-datagram", "pair-datagram", "pair-message"}


def names(report: SuiteReport, sealed: str) -> set[str]:
    return {row.probe for row in report.rows if row.sealed == sealed}


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_nothing_gets_out(profile: str, tmp_path: Path) -> None:
    """Each escape that gets out unsealed is stopped by the seal, and nothing of the lab is left."""
    heard: list[tuple[str, int, int]] = []
    devices = fake_gpu(tmp_path) if PROFILES[profile].has_devices else NO_DEVICES
    report = run_suite(lambda *attempt: heard.append(attempt), profile=profile, devices=devices)
    assert names(report, ESCAPED) == set()
    assert report.holds
    assert report.blocked >= 25, [row for row in report.rows if row.sealed != BLOCKED]
    assert heard[0][0] == "control calls"
    assert [done for _, done, _ in heard] == list(range(1, heard[0][2] + 1))
    assert {"affinity", "name", "record-lock"} <= names(report, BLOCKED)
    assert [call for call in report.calls if call.sealed not in (BLOCKED, NOT_APPLICABLE)] == []
    assert sum(call.sealed == BLOCKED for call in report.calls) >= 190
    assert "allod0" not in Path("/proc/net/dev").read_text()


@pytest.mark.slow
def test_named_threads_are_read_outside_and_nothing_else_gets_out(tmp_path: Path) -> None:
    """What a new driver insists on has its price, which is known: an accomplice that may look reads the names."""
    report = run_suite(profile=ISLAND_GPU.name, devices=fake_gpu(tmp_path)._replace(names_threads=True))
    assert names(report, ESCAPED) == {"name-file"}


def test_a_lab_whose_accomplice_has_ended_proves_nothing(tmp_path: Path) -> None:
    """What is whispered to nobody is not held back: the suite ends with an error."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom allod.core.errors import Unavailable\n"
        "from allod.seal.lab.lab import open_lab\n"
        "try:\n with open_lab(Path(sys.argv[1]), profile='sealed') as lab:\n"
        "  lab.settle(); print('heard', flush=True); os.kill(lab._accomplice_pid, signal.SIGKILL)\n"
        "  os.waitid(os.P_PID, lab._accomplice_pid, os.WEXITED | os.WNOWAIT); lab.settle(); print('went on')\n"
        "except Unavailable as error: print(error.code, error.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[0] == "heard", done.stderr
    assert done.stdout.splitlines()[1].startswith("lab_unavailable no lab: the accomplice has ended")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("omit", "leaks", "holds_back"),
    [
        pytest.param(
            ("namespaces", "capabilities", "seccomp"),
            WITHOUT_NETWORK_OF_ITS_OWN | TO_AN_ACCOMPLICE,
            {"tcp4", "write-file"},
            id="Landlock only",
        ),
        pytest.param(
            ("landlock", "capabilities", "seccomp"),
            BY_PATHNAME | {"name", "record-lock"},
            {"tcp4", "dns", "ptrace", "kill", "affinity"},
            id="namespace only",
        ),
        pytest.param(
            ("seccomp",),
            {"unix-stream", "change-mode", "name", "record-lock"},
            {"kill", "affinity", "udp4", "write-file"},
            id="no filter",
        ),
        pytest.param(("datagrams",), {"unix-datagram", "pair-datagram"}, {"unix-stream", "udp4"}, id="no sendto rule"),
        pytest.param(("landlock",), {"write-file", "plain-file"}, {"symlink", "udp4"}, id="no Landlock"),
    ],
)
def test_a_weakened_seal_leaks_and_is_caught(omit: tuple[str, ...], leaks: set[str], holds_back: set[str]) -> None:
    """A suite that cannot fail proves nothing: each wall alone leaks what it was found to leak."""
    report = run_suite(unsafe_omit=omit)
    escaped = names(report, ESCAPED)
    assert leaks <= escaped
    assert holds_back.isdisjoint(escaped)
    assert not report.holds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("omit", "leaks", "holds_back"),
    [
        pytest.param(
            ("namespaces",),
            WITHOUT_NETWORK_OF_ITS_OWN - {"mptcp"} | BY_PATHNAME | {"tcp4", "loopback", "child", "change-mode"},
            {"write-file", "ptrace", "vsock", "packet", "io-uring"},
            id="no namespaces",
        ),
        pytest.param(("landlock",), {"plain-file", "symlink"}, {"write-file", "unix-stream", "kill"}, id="no Landlock"),
        pytest.param(("namespaces", "seccomp"), {"io-uring", "mptcp", "ping"}, {"write-file"}, id="Landlock only"),
    ],
)
def test_a_weakened_island_leaks_and_is_caught(omit: tuple[str, ...], leaks: set[str], holds_back: set[str]) -> None:
    """Here the namespaces bear the weight: processes that may connect are held by what there is to connect to."""
    report = run_suite(profile=ISLAND.name, unsafe_omit=omit)
    escaped = names(report, ESCAPED)
    assert leaks <= escaped
    assert holds_back.isdisjoint(escaped)
    assert not report.holds


def test_a_control_that_reaches_nothing_proves_nothing() -> None:
    """Zero escapes out of zero that could have escaped is not a pass."""
    row = Row(probe="p", tries="t", control="does not apply: x", sealed="not applicable", detail="")
    assert SuiteReport((row,)).escaped == 0
    assert not SuiteReport((row,)).holds


def test_the_limit_is_on_silence_and_not_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine may take as long as it needs for all attempts; a lab that says nothing more is ended, and said."""

    def run(script: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(subprocess, "Popen", lambda command, **others: popen(["sh", "-c", script], **others))
        return list(suite._messages((), lambda name, done, total: None))

    popen = subprocess.Popen
    monkeypatch.setattr(suite, "_SILENCE_LIMIT_S", 2.0)
    slow = 'for turn in 1 2 3 4 5 6; do sleep 0.5; echo \'{"phase": "plan"}\'; done'
    assert len(run(slow)) == 6
    with pytest.raises(Unavailable, match="ended before"):
        suite._report(run("exec sleep 60"), [])
