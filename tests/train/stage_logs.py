"""A log of stages in memory, for tests of what only needs one."""

from __future__ import annotations

from collections.abc import Sequence

from allod.core.statements.training import check_training_statement


class MemoryLog:
    """Keeps what was appended."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []

    def manifests_of(self, key: str) -> list[bytes]:
        return [leaf for leaf in self.leaves if check_training_statement(leaf).key == key]

    def append(self, statements: Sequence[bytes]) -> None:
        self.leaves += [statement for statement in statements if statement not in self.leaves]
