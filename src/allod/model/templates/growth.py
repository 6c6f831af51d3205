"""What a chat template makes of what it was given: whether names that are made of one another grow without bound.

Each name is made of others, each of them so many times. Names that are made of one another go round in a ring, and grow
by a part each time round as long as each is made of one of the ring; of two, they double, and thirty messages fill any
memory. Names in a row, each made of the one before twice, double as well, once for each that is written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jinja2 import nodes

MAX_GROWN = 4096  # times that what a template is given may stand in one name, once round each loop
AGAIN = 2  # times at least, in a loop
_GROWERS = frozenset({"append", "extend", "insert", "update"})  # put what they are given into a list or a mapping
_ANSWERS = (nodes.Compare, nodes.Test, nodes.Not)  # yes or no, whatever they look at


class Composition(NamedTuple):
    """Something that is made at a `node` of names, each so many times."""

    node: nodes.Node
    of: dict[str, int]


def growth_fault(tree: nodes.Template) -> tuple[nodes.Node, str] | None:
    """Where a template grows too much, and why; None where it does not. Names in its macros are changed by this."""
    compositions = _Compositions(tree).of_names
    rings = _rings({name: {part for each in some for part in each.of} for name, some in compositions.items()})
    grown: dict[str, int] = {}
    for ring in rings:  # each after what it is made of
        most = 1
        for name in ring:
            for composition in compositions.get(name, ()):
                if sum(times for each, times in composition.of.items() if each in ring) > 1:
                    return composition.node, f"{_spell(name)} is made of itself twice{_by_way_of(ring - {name})}"
                most = max(
                    most, sum(times * grown.get(part, 1) for part, times in composition.of.items() if part not in ring)
                )
                if most > MAX_GROWN:
                    return composition.node, f"{_spell(name)} is made of what there is {most} times"
        grown |= dict.fromkeys(ring, most)
    return None


class _Compositions:
    """What each name of a template is made of, wherever it is; a macro's own have its number, `f()` is what f writes.

    That a macro calls itself is not looked at: honest ones do, for what lies within what they are given.
    """

    def __init__(self, tree: nodes.Template) -> None:
        self.of_names: dict[str, list[Composition]] = defaultdict(list)
        self._macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
        self._own = {"caller", *self._macros}
        calls = {name: find_called(macro) & self._macros.keys() for name, macro in self._macros.items()}
        self._rings = [ring for ring in _rings(calls) if len(ring) > 1 or any(each in calls[each] for each in ring)]
        for number, macro in enumerate(self._macros.values()):
            _set_apart(macro, number)
        self._parts: dict[str, set[str]] = defaultdict(set)  # of namespaces
        for target in tree.find_all(nodes.NSRef):
            self._parts[target.name].add(f"{target.name}.{target.attr}")
        for name, parts in self._parts.items():
            self.of_names[name] = [Composition(tree, {part: 1}) for part in parts]
        self._read(tree)

    def _read(self, tree: nodes.Node) -> None:
        for node in tree.find_all(
            (nodes.Assign, nodes.AssignBlock, nodes.For, nodes.With, nodes.Macro, nodes.CallBlock, nodes.Call)
        ):
            if isinstance(node, nodes.Assign):
                self._add(node, node.target, self._of(node.node))
            elif isinstance(node, nodes.AssignBlock):
                self._add(node, node.target, self._count_written(node.body))
            elif isinstance(node, nodes.For):
                self._add(node, node.target, self._of(node.iter))
            elif isinstance(node, nodes.With):
                for target, value in zip(node.targets, node.values, strict=True):
                    self._add(node, target, self._of(value))
            elif isinstance(node, nodes.Macro):
                self.of_names[f"{node.name}()"].append(Composition(node, self._count_written_by(node)))
                for parameter in node.args:  # whichever it is
                    self.of_names[parameter.name] += [Composition(node, self._of(value)) for value in node.defaults]
            elif isinstance(node, nodes.CallBlock):
                self.of_names["caller()"].append(Composition(node, self._count_written(node.body)))
            elif isinstance(node, nodes.Call):
                self._read_call(node)

    def _read_call(self, node: nodes.Call) -> None:
        called = node.node
        given = [*node.args, *(each.value for each in node.kwargs)]
        if isinstance(called, nodes.Getattr) and called.attr in _GROWERS:
            for name in self._names(called.node):
                self.of_names[name].append(Composition(node, _sum([{name: 1}, *map(self._of, given)])))
        if isinstance(called, nodes.Name) and called.name in self._macros:
            for parameter in self._macros[called.name].args:
                self.of_names[parameter.name] += [Composition(node, self._of(value)) for value in given]  # any of them

    def _add(self, node: nodes.Node, target: nodes.Node, of: dict[str, int]) -> None:
        for name in self._names(target):
            self.of_names[name].append(Composition(node, of))

    def _names(self, target: nodes.Node) -> Iterator[str]:
        if isinstance(target, nodes.Tuple):
            for item in target.items:
                yield from self._names(item)
        elif isinstance(target, nodes.Name):
            yield target.name
        elif isinstance(target, nodes.NSRef):
            yield f"{target.name}.{target.attr}"
        elif isinstance(target, (nodes.Getattr, nodes.Getitem)):
            yield self._part(target) or next(self._names(target.node), "")

    def _part(self, node: nodes.Getattr | nodes.Getitem) -> str | None:
        """The part of a namespace that this is."""
        if not isinstance(node.node, nodes.Name):
            return None
        attribute = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
        name = f"{node.node.name}.{attribute}"
        return name if name in self._parts[node.node.name] else None

    def _of(self, node: nodes.Node | None) -> dict[str, int]:
        """The names whose value the value of an expression, or what a statement writes, may hold."""
        if node is None or isinstance(node, (*_ANSWERS, nodes.Macro, nodes.Assign, nodes.AssignBlock)):
            return {}
        if isinstance(node, nodes.Name):
            return {node.name: 1}
        if isinstance(node, (nodes.And, nodes.Or)):
            return _most([self._of(node.left), self._of(node.right)])
        if isinstance(node, nodes.CondExpr):
            return _most([self._of(node.expr1), self._of(node.expr2)])
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            part = self._part(node)
            return {part: 1} if part else self._of(node.node)
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name in self._own:
            return {f"{node.node.name}()": 1}
        if isinstance(node, nodes.If):
            branches = [node.body, *(each.body for each in node.elif_), node.else_]
            return _most(self._count_written(branch) for branch in branches)
        if isinstance(node, nodes.For):
            return {name: times * AGAIN for name, times in self._count_written([*node.body, *node.else_]).items()}
        return self._count_written(node.iter_child_nodes())

    def _count_written_by(self, macro: nodes.Macro) -> dict[str, int]:
        again = {f"{each}()" for ring in self._rings if macro.name in ring for each in ring}
        return {name: times for name, times in self._count_written(macro.body).items() if name not in again}

    def _count_written(self, parts: Iterable[nodes.Node]) -> dict[str, int]:
        return _sum(map(self._of, parts))


def find_called(tree: nodes.Node) -> set[str]:
    """The names of what is called in it, methods left out."""
    return {call.node.name for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)}


def _set_apart(macro: nodes.Macro, number: int) -> None:
    """Call names that a macro makes itself by another name than those outside."""
    own = {name.name for name in macro.find_all(nodes.Name) if name.ctx in ("store", "param")}
    for name in macro.find_all(nodes.Name):
        if name.name in own:
            name.name = f"{number}:{name.name}"
    for target in macro.find_all(nodes.NSRef):
        if target.name in own:
            target.name = f"{number}:{target.name}"


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for part in parts:
        for name, times in part.items():
            total[name] += times
    return total


def _most(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, times in part.items():
            total[name] = max(times, total.get(name, 0))
    return total


def _rings(made_of: dict[str, set[str]]) -> list[set[str]]:
    """The names that are made of one another, each ring after what it is made of (Tarjan 1972, without recursion)."""
    rings: list[set[str]] = []
    found: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    for root in made_of:
        path = [] if root in found else [(root, iter(sorted(made_of[root])))]
        if path:
            found[root] = lowest[root] = len(found)
            waiting.append(root)
        while path:
            name, others = path[-1]
            for other in others:
                if other not in found:
                    found[other] = lowest[other] = len(found)
                    waiting.append(other)
                    path.append((other, iter(sorted(made_of.get(other, ())))))
                    break
                if other in lowest:
                    lowest[name] = min(lowest[name], lowest[other])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[name])
                if lowest[name] == found[name]:
                    rings.append(set())
                    while name in lowest:
                        rings[-1].add(waiting[-1])
                        del lowest[waiting.pop()]
    return rings


def _spell(name: str) -> str:
    return name.rpartition(":")[2][:60]


def _by_way_of(others: set[str]) -> str:
    return f", by way of {_spell(min(others))}" if others else ""
