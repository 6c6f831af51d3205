"""What a profile is, and the seccomp filter that it comes to.

    sealed       one process that answers on Unix stream sockets and connects to nothing   (sealed.py)
    island       a group of processes that reach one another by loopback, and nothing else (island.py)
    island-gpu   an island that may use accelerators                                   (accelerated.py)

All are allowlists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from allod.seal.profiles import accelerated, island, sealed
from allod.seal.walls import bpf, syscalls
from allod.seal.walls.bpf import Rule

MACHINES = frozenset(bpf.ARCHITECTURES) & frozenset(syscalls.MACHINES)


class Profile(NamedTuple):
    """`allowed` are tables of syscalls.py; `rules` gives those allowed by argument, told its own process number.

    `is_group`: it may be several processes, so it has a PID namespace, a root and a loopback of its own.
    `has_devices`: it may be granted device nodes, and may ask their drivers.
    `weakenings` replace rules, by name, so that the escape suite can be seen to fail.
    """

    name: str
    allowed: str
    rules: Callable[[int], dict[str, Rule]]
    is_group: bool
    has_devices: bool
    weakenings: Mapping[str, Callable[[], dict[str, Rule]]]


SEALED = Profile(
    name="sealed",
    allowed=syscalls.ALLOWED,
    rules=sealed.rules,
    is_group=False,
    has_devices=False,
    weakenings=sealed.WEAKENINGS,
)
ISLAND = Profile(
    name="island",
    allowed=syscalls.ALLOWED + syscalls.ISLAND_ALLOWED,
    rules=island.rules,
    is_group=True,
    has_devices=False,
    weakenings=island.WEAKENINGS,
)
ISLAND_GPU = Profile(
    name="island-gpu",
    allowed=syscalls.ALLOWED + syscalls.ISLAND_ALLOWED + syscalls.DEVICES_ALLOWED,
    rules=accelerated.rules,
    is_group=True,
    has_devices=True,
    weakenings=island.WEAKENINGS,
)
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in (SEALED, ISLAND, ISLAND_GPU)})
WEAKENINGS = frozenset(name for profile in PROFILES.values() for name in profile.weakenings)


def build(profile: Profile, machine: str, *, own_pid: int, weaken: frozenset[str] = frozenset()) -> bytes:
    """The filter as BPF bytes. With `own_pid` 0 they depend on the profile alone: their digest names it.

    `weaken` holds names from the profile's `weakenings`.
    """
    rules = profile.rules(own_pid)
    for name in sorted(weaken):
        rules |= profile.weakenings[name]()
    allowed = syscalls.numbers(profile.allowed, machine)
    numbers = syscalls.numbers(syscalls.ALLOWED_BY_ARGUMENT, machine)
    refused = syscalls.numbers(syscalls.REFUSED, machine)
    return bpf.program(
        machine,
        allowed=allowed.values(),
        refused=[number for name, number in refused.items() if name not in rules and name not in allowed],
        rules=[((numbers | refused)[name], rule) for name, rule in rules.items()],
    )
