"""The gate for chat templates: the syntax tree may hold what is listed here, and nothing else.

A template comes with a model from elsewhere and is run by the engine for every prompt, so it is a stranger's
program. It is parsed, never run, by jinja2; the engine has an interpreter of its own (llama.cpp, common/jinja). What is
listed is what templates of published models use. Loops run over what they are given: lists of a chat, or a range with a
small bound; nothing multiplies, and nothing is made of itself twice (`model.templates.growth`). What still grows, by
loops in loops over a long chat, say, or by macros that call themselves, meets the engine's bounds on memory and time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from allod.core.errors import Invalid
from allod.model.templates.control_tokens import BREAK
from allod.model.templates.growth import find_called, growth_fault

MAX_TEMPLATE_BYTES = 1 << 17
MAX_DEPTH = 100  # of the syntax tree
MAX_NODES = 20_000
MAX_EXPANDED = 100_000  # nodes, where each call of a macro counts as what the macro holds
MAX_NUMBER = 10_000  # that is written out
MAX_LOOPS = 5  # in one another

_NODES = tuple(
    getattr(nodes, name)
    for name in (
        "Template",
        "Output",
        "TemplateData",
        "Name",
        "NSRef",
        "Const",
        "Tuple",
        "List",
        "Dict",
        "Pair",
        "Keyword",
        "CondExpr",
        "Filter",
        "Test",
        "Call",
        "Getitem",
        "Getattr",
        "Slice",
        "Concat",
        "Compare",
        "Operand",
        "Add",
        "Sub",
        "Div",
        "FloorDiv",
        "Mod",
        "And",
        "Or",
        "Not",
        "Neg",
        "Pos",
        "If",
        "For",
        "Macro",
        "CallBlock",
        "FilterBlock",
        "Assign",
        "AssignBlock",
        "With",
        "Break",
        "Continue",
        "Scope",
    )
)
_FILTERS = frozenset(
    (
        "abs",
        "batch",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "groupby",
        "indent",
        "int",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "replace",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "sort",
        "string",
        "sum",
        "title",
        "tojson",
        "trim",
        "truncate",
        "unique",
        "upper",
        "values",
        "wordcount",
        "keys",
    )
)
_TESTS = frozenset(
    (
        "boolean",
        "callable",
        "defined",
        "divisibleby",
        "eq",
        "equalto",
        "even",
        "false",
        "float",
        "ge",
        "greaterthan",
        "gt",
        "in",
        "integer",
        "iterable",
        "le",
        "lessthan",
        "lower",
        "lt",
        "mapping",
        "ne",
        "none",
        "number",
        "odd",
        "sameas",
        "sequence",
        "string",
        "true",
        "undefined",
        "upper",
    )
)
_FUNCTIONS = frozenset({"range", "namespace", "dict", "raise_exception", "strftime_now", "cycler", "joiner", "caller"})
_METHODS = frozenset(
    (
        "append",
        "capitalize",
        "count",
        "endswith",
        "extend",
        "find",
        "get",
        "index",
        "insert",
        "items",
        "join",
        "keys",
        "length",
        "lower",
        "lstrip",
        "pop",
        "replace",
        "rfind",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "trim",
        "update",
        "upper",
        "values",
        "isdigit",
        "isalpha",
        "strftime",
        "next",
        "cycle",
    )
)
_CUTTERS = frozenset({"replace", "split", "rsplit"})  # their first argument is taken out of a text
_TRIMMERS = frozenset({"strip", "lstrip", "rstrip", "trim"})


class _Generation(Extension):
    """`{% generation %}`: what transformers adds, to mark what an assistant says."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateTexts(NamedTuple):
    """The strings that a template takes out of texts or splits them at, and those that it writes itself."""

    cuts: frozenset[str]
    written: frozenset[str]


def check_template(template: str, name: str = "the chat template") -> TemplateTexts:
    """What a template has to do with texts.

    Raises Invalid (`template_refused`) with the line, and what stands there that may not.
    """
    if len(template.encode("utf-8", "replace")) > MAX_TEMPLATE_BYTES:
        raise _refusal(name, 1, f"it has more than {MAX_TEMPLATE_BYTES} bytes")
    if BREAK in template:
        raise _refusal(name, template[: template.index(BREAK)].count("\n") + 1, "it holds the invisible U+2060")
    try:
        return _Gate(name, _environment().parse(template)).check()
    except jinja2.TemplateSyntaxError as error:
        raise _refusal(name, error.lineno, f"it is no Jinja: {error.message}") from error
    except (RecursionError, ValueError) as error:  # numbers of too many digits are a ValueError
        raise _refusal(name, 1, "it is nested too deeply, or a number is too long") from error


def _environment() -> jinja2.Environment:
    return jinja2.Environment(  # noqa: S701 - nothing is rendered
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )


def _refusal(name: str, line: int, why: str) -> Invalid:
    return Invalid(
        f"{name} is refused at line {line}: {why}",
        code="template_refused",
        hint="a template comes from elsewhere and runs for every prompt; take the publisher's own, or make it simpler",
    )


class _Gate:
    def __init__(self, name: str, tree: nodes.Template) -> None:
        self._name = name
        self._tree = tree
        self._macros = {each.name: each for each in tree.find_all(nodes.Macro)}
        self._cuts: set[str] = set()

    def check(self) -> TemplateTexts:
        for number, (node, depth, num_loops, in_range) in enumerate(self._walk()):
            if number > MAX_NODES:
                raise self._no(node, f"it has more than {MAX_NODES} parts")
            if depth > MAX_DEPTH:
                raise self._no(node, f"it is nested deeper than {MAX_DEPTH}")
            if num_loops > MAX_LOOPS:
                raise self._no(node, f"more than {MAX_LOOPS} loops in one another")
            if in_range and _is_range(node):
                raise self._no(node, "a loop over a range in another one")
            self._check_node(node)
        self._check_expansion()
        texts = TemplateTexts(frozenset(self._cuts), frozenset(self._find_written()))
        if fault := growth_fault(self._tree):
            raise self._no(*fault)
        return texts

    def _find_written(self) -> Iterator[str]:
        for node in self._tree.find_all((nodes.TemplateData, nodes.Const)):
            text = node.data if isinstance(node, nodes.TemplateData) else node.value  # type: ignore[attr-defined]
            if isinstance(text, str) and text:
                yield text

    def _walk(self) -> Iterator[tuple[nodes.Node, int, int, bool]]:
        """Every node, how deep it lies, in how many loops, and whether one of those is over a range."""
        waiting: list[tuple[nodes.Node, int, int, bool]] = [(self._tree, 0, 0, False)]
        while waiting:
            found = node, depth, num_loops, in_range = waiting.pop()
            yield found
            is_loop = isinstance(node, nodes.For)
            inner = num_loops + is_loop, in_range or (is_loop and _is_range(node))
            waiting += [(child, depth + 1, *inner) for child in node.iter_child_nodes()]

    def _check_node(self, node: nodes.Node) -> None:
        if not isinstance(node, _NODES):
            raise self._no(node, f"{type(node).__name__.lower()} is not allowed")
        if isinstance(node, nodes.Const):
            self._check_constant(node, node.value)
        elif isinstance(node, (nodes.Name, nodes.Macro)):
            self._check_word(node, node.name)
        elif isinstance(node, nodes.NSRef):
            self._check_word(node, f"{node.name}.{node.attr}")
        elif isinstance(node, nodes.Getattr):
            self._check_word(node, node.attr)
        elif isinstance(node, (nodes.Filter, nodes.Test)):
            listed = _FILTERS if isinstance(node, nodes.Filter) else _TESTS
            if node.name not in listed:
                raise self._no(node, f"the {type(node).__name__.lower()} {node.name!r} is not allowed")
            self._check_cutter(node, node.name)
        elif isinstance(node, nodes.Call):
            self._check_call(node)
        elif isinstance(node, nodes.For) and node.recursive:
            raise self._no(node, "a recursive loop is not allowed")

    def _check_constant(self, node: nodes.Node, value: object) -> None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > MAX_NUMBER:
            raise self._no(node, f"a number beyond {MAX_NUMBER} is not allowed")
        if isinstance(value, str):
            self._check_word(node, value)

    def _check_word(self, node: nodes.Node, word: str) -> None:
        if "__" in word and (word.startswith("__") or not isinstance(node, nodes.Const)):
            raise self._no(node, f"the name {word[:60]!r} is not allowed")
        if BREAK in word:
            raise self._no(node, "it holds the invisible U+2060")

    def _check_call(self, node: nodes.Call) -> None:
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise self._no(node, "a call with * or ** is not allowed")
        called = node.node
        if isinstance(called, nodes.Getattr):
            if called.attr not in _METHODS:
                raise self._no(node, f"the method {called.attr!r} is not allowed")
            self._check_cutter(node, called.attr)
        elif not isinstance(called, nodes.Name) or called.name not in _FUNCTIONS | set(self._macros):
            raise self._no(node, f"a call of {getattr(called, 'name', 'an expression')!r} is not allowed")

    def _check_cutter(self, node: nodes.Call | nodes.Filter | nodes.Test, name: str) -> None:
        """What is taken out of a text must be written out: the engine loops without end over an empty one."""
        given = node.args[0] if node.args else None
        text = given.value if isinstance(given, nodes.Const) and isinstance(given.value, str) else None
        if name in _CUTTERS:
            if given is not None and not text:
                raise self._no(node, f"{name} of something that is not written out is not allowed")
            self._cuts.add(text or " ")
        elif name in _TRIMMERS and text:
            self._cuts |= {letter for letter in text if not letter.isspace()}

    def _check_expansion(self) -> None:
        """A macro that calls another twice, which calls a third twice, is long though it is short."""
        sizes: dict[str, int] = {}

        def size(tree: nodes.Node, above: frozenset[str]) -> int:
            total = 1
            for call in tree.find_all((nodes.Call, nodes.Name)):
                total += 1
                if not isinstance(call, nodes.Call) or not isinstance(call.node, nodes.Name):
                    continue
                name = call.node.name
                if name in self._macros and name not in above:
                    if name not in sizes:
                        sizes[name] = size(self._macros[name], above | {name})
                    total += sizes[name]
                if total > MAX_EXPANDED:
                    raise self._no(call, f"its macros expand to more than {MAX_EXPANDED} parts")
            return total

        size(self._tree, frozenset())
        for macro in self._macros.values():
            for statement in macro.body:
                if isinstance(statement, nodes.Output) and macro.name in find_called(statement):
                    raise self._no(statement, f"the macro {macro.name} calls itself without a condition")

    def _no(self, node: nodes.Node, why: str) -> Invalid:
        return _refusal(self._name, node.lineno or 1, why)


def _is_range(node: nodes.Node) -> bool:
    iterated = node.iter if isinstance(node, nodes.For) else None
    called = iterated.node if isinstance(iterated, nodes.Call) else None
    return isinstance(called, nodes.Name) and called.name == "range"
