"""A seccomp filter's machine code: rules in, classic BPF out. Pure; nothing here talks to the kernel.

Each instruction is `struct sock_filter` (code, jump if true, jump if false, constant); the input is
`struct seccomp_data` (Documentation/userspace-api/seccomp_filter.rst). Only the low half of an integer argument is
compared, for that is all the kernel reads of it; a pointer needs both halves.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_AT_LEAST = 0x15, 0x35
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_BIT = 0x4000_0000  # x86_64's second, forgotten set of numbers

ALLOW = 0x7FFF_0000
KILL_PROCESS = 0x8000_0000
ARCHITECTURES: Mapping[str, int] = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}  # AUDIT_ARCH_*


def answer(error: int) -> int:
    """The return value that makes the call fail with `error`."""
    return 0x0005_0000 | error


class Check(NamedTuple):
    """Holds when `argument & mask == value`; `upper` looks at the upper 32 bits of a pointer."""

    argument: int
    value: int
    mask: int = 0xFFFF_FFFF
    upper: bool = False


Rule = tuple[tuple[Check, ...], ...]  # allowed when every check of any one alternative holds


def null_pointer(argument: int) -> tuple[Check, Check]:
    """The checks that the pointer in `argument` is NULL."""
    return Check(argument, 0), Check(argument, 0, upper=True)


def one_of(argument: int, values: Iterable[int]) -> Rule:
    """The rule that the integer in `argument` is one of `values`."""
    return tuple((Check(argument, value),) for value in values)


def program(
    machine: str, *, allowed: Iterable[int], refused: Iterable[int], rules: Iterable[tuple[int, Rule]]
) -> bytes:
    """The filter for `machine`, a key of ARCHITECTURES: a wrong architecture kills, an unlisted call is ENOSYS."""
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, ARCHITECTURES[machine], on_true=1),
        _instruction(_RETURN, KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += _when(_JUMP_AT_LEAST, _X32_BIT, [_instruction(_RETURN, KILL_PROCESS)])
    for number in allowed:
        code += _when(_JUMP_EQUAL, number, [_instruction(_RETURN, ALLOW)])
    for number, rule in rules:
        code += _when(_JUMP_EQUAL, number, _rule(rule))
    for number in refused:
        code += _when(_JUMP_EQUAL, number, [_instruction(_RETURN, answer(errno.EPERM))])
    return b"".join([*code, _instruction(_RETURN, answer(errno.ENOSYS))])


def _instruction(code: int, constant: int, *, on_true: int = 0, on_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, on_true, on_false, constant)


def _when(jump: int, constant: int, block: list[bytes]) -> list[bytes]:
    """`block`, skipped unless the accumulator compares with `constant`."""
    return [_instruction(jump, constant, on_false=len(block)), *block]


def _rule(rule: Rule) -> list[bytes]:
    code: list[bytes] = []
    for alternative in rule:
        block = [_instruction(_RETURN, ALLOW)]
        for check in reversed(alternative):
            offset = _ARGUMENTS_AT + 8 * check.argument + (4 if check.upper else 0)
            loads = [_instruction(_LOAD, offset), _instruction(_AND, check.mask)]
            block = [*loads, *_when(_JUMP_EQUAL, check.value, block)]
        code += block
    return [*code, _instruction(_RETURN, answer(errno.EPERM))]
