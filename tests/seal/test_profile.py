"""The filter as the kernel would run it: a classic-BPF machine of a few lines, fed with made-up system calls."""

from __future__ import annotations

import errno
import socket
import struct
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.seal.escapes.calls import calls_of
from allod.seal.profiles import profile
from allod.seal.walls import bpf, syscalls

OWN_PID = 4242
ALLOW, KILL, EPERM, ENOSYS = bpf.ALLOW, bpf.KILL_PROCESS, bpf.answer(errno.EPERM), bpf.answer(errno.ENOSYS)
NUMBERS = {
    machine: {
        name: number
        for table in (
            syscalls.ABSENT,
            syscalls.ISLAND_ALLOWED,
            syscalls.ALLOWED,
            syscalls.ALLOWED_BY_ARGUMENT,
            syscalls.REFUSED,
        )
        for name, number in syscalls.numbers(table, machine).items()
    }
    for machine in syscalls.MACHINES
}
PROBES = {"uretprobe", "uprobe"}  # which the kernel lets pass every filter
both = pytest.mark.parametrize("machine", sorted(syscalls.MACHINES))


def verdict(program: bytes, number: int, *arguments: int, architecture: int) -> int:
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *(list(arguments) + [0] * 6)[:6])
    accumulator = at = 0
    while True:
        code, on_true, on_false, constant = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        if code == 0x06:
            return int(constant)
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x54:
            accumulator &= constant
        else:
            true = accumulator == constant if code == 0x15 else accumulator >= constant
            at += on_true if true else on_false


def ask(machine: str, name: str, *arguments: int, weaken: frozenset[str] = frozenset()) -> int:
    program = profile.build(profile.SEALED, machine, own_pid=OWN_PID, weaken=weaken)
    return verdict(program, NUMBERS[machine][name], *arguments, architecture=bpf.ARCHITECTURES[machine])


@both
def test_a_unix_stream_socket_is_the_only_socket(machine: str) -> None:
    """llama.cpp makes its listener; nothing else can be made, datagrams and raw Unix sockets included."""
    cloexec = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    assert ask(machine, "socket", socket.AF_UNIX, cloexec) == ALLOW
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK, 0, 38):
        assert ask(machine, "socket", family, socket.SOCK_STREAM) == EPERM
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        assert ask(machine, "socket", socket.AF_UNIX, kind) == EPERM
        assert ask(machine, "socketpair", socket.AF_UNIX, kind) == EPERM


@both
def test_upper_halves_cannot_disguise_an_argument(machine: str) -> None:
    """The kernel reads an int's low half only, and all of a pointer: so does the filter."""
    high = 1 << 32
    assert ask(machine, "socket", high | socket.AF_INET, socket.SOCK_STREAM) == EPERM
    assert ask(machine, "socket", high | socket.AF_UNIX, socket.SOCK_STREAM) == ALLOW
    assert ask(machine, "sendto", 3, 4096, 10, 0, 0, 0) == ALLOW
    assert ask(machine, "sendto", 3, 4096, 10, 0, high, 16) == EPERM
    assert ask(machine, "sendto", 3, 4096, 10, 0, 4096, 16) == EPERM


@both
def test_a_thread_may_be_made_but_no_process(machine: str) -> None:
    """A child would not inherit the wish to die with the gateway."""
    thread = 0x3D0F00
    assert ask(machine, "clone", thread) == ALLOW
    assert ask(machine, "clone", 17) == EPERM
    assert ask(machine, "clone", thread | 0x1000_0000) == EPERM


@both
def test_signals_go_to_itself_only(machine: str) -> None:
    """abort() works; signalling another process, asking the kernel to (F_SETOWN) or outliving the parent does not."""
    assert ask(machine, "tgkill", OWN_PID, 1, 6) == ALLOW
    assert ask(machine, "kill", 1, 9) == EPERM
    assert ask(machine, "kill", 0xFFFFFFFF, 9) == EPERM
    assert ask(machine, "fcntl", 3, 8, 1) == EPERM
    assert ask(machine, "prctl", 1, 0) == EPERM
    assert ask(machine, "ioctl", 0, 0x5412) == EPERM  # TIOCSTI


@both
@pytest.mark.parametrize("name", ["sched_getaffinity", "getpgid", "getsid"])
def test_questions_are_about_itself_only(machine: str, name: str) -> None:
    """0 and its own number; the number of another is refused, whether or not there is a PID namespace."""
    assert ask(machine, name, 0, 8) == ALLOW
    assert ask(machine, name, OWN_PID, 8) == ALLOW
    assert ask(machine, name, OWN_PID + 1, 8) == EPERM
    assert ask(machine, "getpriority", 0, OWN_PID + 1) == EPERM


OF_OTHERS = (
    "sched_setaffinity sched_setscheduler sched_setparam sched_setattr sched_getattr setpriority ioprio_set ioprio_get "
    "kcmp process_madvise process_mrelease move_pages migrate_pages get_robust_list pidfd_open rt_sigqueueinfo"
)


@both
@pytest.mark.parametrize("profile_name", sorted(profile.PROFILES))
def test_no_call_changes_or_reads_another_process(machine: str, profile_name: str) -> None:
    """Not even with its own number: what is set of oneself is read by others. How an island's threads are scheduled may
    be set to what it is."""
    program = profile.build(profile.PROFILES[profile_name], machine, own_pid=OWN_PID)
    for name in OF_OTHERS.split():
        own = () if name == "move_pages" and profile_name == "island-gpu" else (0,)  # its own pages, for NUMA
        for pid in (*own, OWN_PID, OWN_PID + 1):
            arguments = (NUMBERS[machine][name], pid, pid or 1, pid)
            assert verdict(program, *arguments, architecture=bpf.ARCHITECTURES[machine]) == EPERM


@both
@pytest.mark.parametrize("profile_name", sorted(profile.PROFILES))
def test_nothing_is_set_that_others_read_as_a_message(machine: str, profile_name: str) -> None:
    """A name, a limit, a lock on a file that both may read, memory merged with a stranger's."""
    program = profile.build(profile.PROFILES[profile_name], machine, own_pid=OWN_PID)

    def answer(name: str, *arguments: int) -> int:
        return verdict(program, NUMBERS[machine][name], *arguments, architecture=bpf.ARCHITECTURES[machine])

    for option in (15, 0x53564D41, 4, 29, 35, 36, 67):  # SET_NAME SET_VMA DUMPABLE TIMERSLACK MM SUBREAPER MERGE
        assert answer("prctl", option, 4096) == EPERM
    assert answer("prctl", 16, 4096) == ALLOW  # GET_NAME
    assert answer("prlimit64", 0, 7, 4096, 0) == EPERM
    assert answer("prlimit64", 0, 7, 0, 4096) == ALLOW
    assert answer("flock", 3, 2) == EPERM
    assert [answer("fcntl", 3, command) for command in (5, 6, 7, 36, 37, 38)] == [EPERM] * 6
    assert answer("madvise", 4096, 4096, 12) == EPERM
    assert answer("madvise", 4096, 4096, 4) == ALLOW


@both
@pytest.mark.parametrize("profile_name", sorted(profile.PROFILES))
def test_the_suite_tries_every_call_that_is_not_allowed(machine: str, profile_name: str) -> None:
    """Each call of Linux is allowed, or is tried; and the filter answers what the suite expects."""
    kept = profile.PROFILES[profile_name]
    calls = calls_of(profile_name, machine)
    program = profile.build(kept, machine, own_pid=OWN_PID)
    assert {call.number for call in calls} | set(syscalls.numbers(kept.allowed, machine).values()) >= set(
        NUMBERS[machine].values()
    )
    assert len({call.name for call in calls}) == len(calls)
    words = {"victim": 7, "page": 4096, "ones": 8192}
    for call in calls:
        arguments = [words[word] if word in words else int(word, 0) for word in call.arguments]
        masked = [argument & 0xFFFF_FFFF_FFFF_FFFF for argument in arguments]
        error = answered(verdict(program, call.number, *masked, architecture=bpf.ARCHITECTURES[machine]))
        assert error == call.refusal, call


def answered(value: int) -> str:
    return "allowed" if value == ALLOW else errno.errorcode[value & 0xFFFF]


@both
def test_the_wrong_architecture_kills(machine: str) -> None:
    """int 0x80 and x32 would otherwise be read against the wrong table."""
    program = profile.build(profile.SEALED, machine, own_pid=OWN_PID)
    assert verdict(program, 1, architecture=0x4000_0003) == KILL
    if machine == "x86_64":
        assert verdict(program, 0x4000_0001, architecture=bpf.ARCHITECTURES[machine]) == KILL


@both
@given(number=st.integers(0, 1023))
def test_what_is_not_named_does_not_exist(machine: str, number: int) -> None:
    """An allowlist: every number outside the tables is answered as an older kernel would."""
    answer = verdict(
        profile.build(profile.SEALED, machine, own_pid=OWN_PID),
        number,
        1,
        1,
        1,
        1,
        1,
        1,
        architecture=bpf.ARCHITECTURES[machine],
    )
    if number not in NUMBERS[machine].values() or number in syscalls.numbers(syscalls.ABSENT, machine).values():
        assert answer == ENOSYS


@both
def test_every_refused_call_is_refused_aloud(machine: str) -> None:
    """A log that says EPERM for connect is easier to read than one that says ENOSYS."""
    for name in syscalls.numbers(syscalls.REFUSED, machine):
        assert ask(machine, name, 1, 1, 1, 1, 1, 1) == EPERM


def test_no_call_is_named_twice() -> None:
    """Two tables that disagree would be settled by their order."""
    tables = (syscalls.ALLOWED, syscalls.ALLOWED_BY_ARGUMENT, syscalls.REFUSED, syscalls.ABSENT)
    names = [name for table in tables for name in syscalls.numbers(table, "x86_64")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_the_numbers_are_the_kernels(machine: str, header: str) -> None:
    """Against the kernel's own headers, where they are installed."""
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip("no kernel headers here")
    defined = {}
    for line in path.read_text().splitlines():
        match line.split():
            case ["#define", name, number] if number.isdigit():
                defined[name.removeprefix("__NR_").removeprefix("__NR3264_")] = int(number)
    defined |= {"newfstatat": 79, "fstat": 80} if machine == "aarch64" else {}
    wrong = {name: number for name, number in NUMBERS[machine].items() if defined.get(name, number) != number}
    assert wrong == {}
    assert len(defined) > 200
    if machine == "x86_64":
        assert {name for name, number in defined.items() if number <= syscalls.LAST} - NUMBERS[machine].keys() <= PROBES


FILTERS = {
    ("sealed", "x86_64"): "836511685a65ce4a9edee311659293ebfdc0f8d53da1447a1f927084ae117f75",
    ("sealed", "aarch64"): "9316adc2c8c04ba39f15c0353b51d05eda51a7d170c85239f343dc5e61cb097b",
    ("island", "x86_64"): "a3c12d11ab0031dcfbc40f84fd1743550727855c717fce542c40bfdd4bf5f16e",
    ("island", "aarch64"): "04e2c5720017a282fe756a4a809bffe3e370dd032b6a4bf79398af7043bacb2c",
}


@pytest.mark.parametrize(("name", "machine"), FILTERS)
def test_the_engines_filter_is_the_one_that_receipts_name(name: str, machine: str) -> None:
    """Its digest goes into the evidence of every answer and every stage: a change here must be meant."""
    program = profile.build(profile.PROFILES[name], machine, own_pid=0)
    assert sha256(program).hexdigest() == FILTERS[name, machine]


def ask_island(machine: str, name: str, *arguments: int) -> int:
    program = profile.build(profile.ISLAND, machine, own_pid=OWN_PID)
    return verdict(program, NUMBERS[machine][name], *arguments, architecture=bpf.ARCHITECTURES[machine])


@both
def test_an_island_speaks_in_four_families_and_never_raw(machine: str) -> None:
    """UNIX, INET, INET6 and questions to NETLINK_ROUTE; nothing that ignores a network namespace or makes packets."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC):
            assert ask_island(machine, "socket", family, kind, 0) == ALLOW
        assert ask_island(machine, "socket", family, socket.SOCK_RAW, 0) == EPERM
        assert ask_island(machine, "socket", family, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) == EPERM
        assert ask_island(machine, "socket", family, socket.SOCK_STREAM, 262) == EPERM  # IPPROTO_MPTCP
    assert ask_island(machine, "socket", socket.AF_UNIX, socket.SOCK_STREAM, 0) == ALLOW
    assert ask_island(machine, "socket", socket.AF_NETLINK, socket.SOCK_RAW, 0) == ALLOW
    assert ask_island(machine, "socket", socket.AF_NETLINK, socket.SOCK_RAW, 16) == EPERM  # NETLINK_GENERIC
    for other in set(range(64)) - {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}:
        assert ask_island(machine, "socket", other, socket.SOCK_STREAM, 0) == EPERM


@both
def test_an_island_schedules_its_threads_as_everybodys(machine: str) -> None:
    """SCHED_OTHER, which libzmq insists on setting; no other policy, and no flag beside it."""
    assert ask_island(machine, "sched_setscheduler", OWN_PID + 1, 0) == ALLOW
    for policy in (1, 2, 3, 5, 6, 7, 0x4000_0000):
        assert ask_island(machine, "sched_setscheduler", 0, policy) == EPERM
    assert ask(machine, "sched_setscheduler", 0, 0) == EPERM


@both
def test_devices_add_requests_by_their_shape_and_nothing_else(machine: str) -> None:
    """All that the frontend numbers, UVM's own, and memory calls; the same as an island in all other calls."""
    programs = [profile.build(kept, machine, own_pid=OWN_PID) for kept in (profile.ISLAND, profile.ISLAND_GPU)]

    def answers(name: str, *arguments: int) -> list[int]:
        asked = (NUMBERS[machine][name], *arguments)
        return [verdict(program, *asked, architecture=bpf.ARCHITECTURES[machine]) for program in programs]

    for request in [0xC000_4600 | size << 16 | number for size in (8, 0x3FFF) for number in range(0, 256, 5)]:
        assert answers("ioctl", 3, request) == [EPERM, ALLOW]
    for request in (*range(128), 0x3000_0001, 0x3000_0002):
        assert answers("ioctl", 3, request) == [EPERM, ALLOW]
    for request in (128, 0x3000_0000, 0x3000_0003, 0x4600, 0x4000_4601, 0x8000_4601, 0xC000_4501, 0xAE01, 0x5412):
        assert answers("ioctl", 3, request) == [EPERM, EPERM]
    more = syscalls.numbers(syscalls.DEVICES_ALLOWED, machine)
    for name in NUMBERS[machine].keys() - {"ioctl", "move_pages"}:
        without, with_devices = answers(name, 1, 1, 1, 1, 1, 1)
        assert (without, with_devices) == ((ENOSYS, ALLOW) if name in more else (without, without))


def test_the_filter_with_devices_is_pinned() -> None:
    """Its digest goes into the evidence of every answer of such an island: a change here must be meant."""
    digests = {
        machine: sha256(profile.build(profile.ISLAND_GPU, machine, own_pid=0)).hexdigest() for machine in NUMBERS
    }
    assert digests == {
        "x86_64": "6fab5b7cebb10f23df0442fef50f801c1ce0dde98236face5b61908412965355",
        "aarch64": "1224cbf746c34afa819cdc833356e8b3a3ff04187eed57fdd15c9dcf51ad45df",
    }


@both
def test_an_island_makes_processes_and_no_namespaces(machine: str) -> None:
    """A process, a thread, a vfork; not one flag of CLONE_NEW."""
    for flags in (17, 0x3D0F00, 0x4111):
        assert ask_island(machine, "clone", flags) == ALLOW
    for bit in (17, 25, 26, 27, 28, 29, 30):
        assert ask_island(machine, "clone", 17 | 1 << bit) == EPERM


@both
def test_the_large_doors_stay_shut_for_an_island(machine: str) -> None:
    """Allowed are calls by name; what is refused aloud to an engine and not listed here is refused to an island."""
    refused = syscalls.numbers(syscalls.REFUSED, machine).keys() - syscalls.numbers(syscalls.ISLAND_ALLOWED, machine)
    doors = {
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_open",
        "pidfd_getfd",
        "setns",
        "unshare",
        "mount",
    }
    doors |= {"bpf", "keyctl", "userfaultfd", "perf_event_open", "io_uring_setup", "kexec_load", "open_by_handle_at"}
    assert doors <= refused
    for name in refused:
        assert ask_island(machine, name, 1, 1, 1, 1, 1, 1) == EPERM


def test_an_island_may_do_all_that_an_engine_may() -> None:
    """llama.cpp runs in process there, to check what was exported."""
    for name in syscalls.numbers(syscalls.ALLOWED, "x86_64"):
        assert ask_island("x86_64", name) == ALLOW


def test_a_call_has_one_number() -> None:
    """Where an island's table names a call again, it is the same call."""
    for machine in syscalls.MACHINES:
        again = syscalls.numbers(syscalls.ISLAND_ALLOWED, machine)
        assert {name: NUMBERS[machine][name] for name in again} == again


def test_a_weakening_lets_datagrams_by() -> None:
    """The weakening that the suite must notice is the one that was found to leak."""
    weak = frozenset({"datagrams"})
    assert ask("x86_64", "socketpair", socket.AF_UNIX, socket.SOCK_DGRAM, weaken=weak) == ALLOW
    assert ask("x86_64", "sendto", 3, 4096, 10, 0, 4096, 16, weaken=weak) == ALLOW
