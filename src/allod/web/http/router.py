"""From a method and a path to what answers there: one table, one syntax, for every path.

In a path of the table `{}` stands for one part of a path, without a slash; `{*}` at its end for all that is left.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Generic, TypeVar

_PLACEHOLDER = re.compile(r"\{\*?\}")
_Target = TypeVar("_Target")


class PathRouter(Generic[_Target]):
    """`table` is by method and path. The entry counts that says most of a path: all of it, or how it starts."""

    def __init__(self, table: Mapping[tuple[str, str], _Target]) -> None:
        entries: dict[str, dict[str, _Target]] = {}
        for (method, path), target in table.items():
            entries.setdefault(path, {})[method] = target
        self._exact = {path: targets for path, targets in entries.items() if "{" not in path}
        starts: dict[str, list[tuple[re.Pattern[str], dict[str, _Target]]]] = {}
        for path in sorted(entries.keys() - self._exact.keys(), key=lambda path: ("{*}" in path, path)):
            starts.setdefault(path.partition("{")[0], []).append((_compile(path), entries[path]))
        self._starts = sorted(starts.items(), key=lambda item: -len(item[0]))

    def find(self, method: str, path: str) -> tuple[_Target | None, tuple[str, ...], Collection[str]]:
        """What answers, if anything does; what stands in the path for each placeholder; and the methods of the entry
        that says most of the path, whether this is one of them or not."""
        exact = self._exact.get(path, {})
        if method in exact:
            return exact[method], (), exact
        methods = exact
        for match, targets in self._find_fitting(path):
            methods = methods or targets
            if method in targets:
                return targets[method], match.groups(), methods
        return None, (), methods

    def _find_fitting(self, path: str) -> Iterator[tuple[re.Match[str], dict[str, _Target]]]:
        for start, patterns in self._starts:
            if path.startswith(start):
                for pattern, targets in patterns:
                    if match := pattern.fullmatch(path):
                        yield match, targets


def _compile(path: str) -> re.Pattern[str]:
    """A group for each placeholder."""
    groups = {"{}": "([^/]*)", "{*}": "(.*)"}
    literals = [re.escape(part) for part in _PLACEHOLDER.split(path)]
    placeholders = [groups[found] for found in _PLACEHOLDER.findall(path)]
    return re.compile("".join(a + b for a, b in zip(literals, [*placeholders, ""], strict=True)), re.DOTALL)
