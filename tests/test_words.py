"""One word, one meaning: what of the house's words and sizes a test can hold; and each rule shown to find a sin."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.test_house import SOURCE, modules

IRREGULAR = frozenset(
    {"begun", "built", "chosen", "done", "drawn", "found", "given", "held", "kept", "known", "learnt", "left", "lent"}
    | {"made", "meant", "put", "read", "said", "seen", "sent", "shown", "spelt", "taken", "told", "written"}
)
VERBS = frozenset({"embed", "exceed", "feed", "need", "proceed", "put", "read", "seed", "spread"})  # whatever their end

# Functions whose name begins with a participle, and may: they are called by a thing, of which it says more, or are how
# a database is held while a block runs (`with transactions.reading() as transaction`).
THINGS = frozenset(
    {"_missing_client", "_requested_recipe", "_string", "_unchecked_error", "assumed_grams"}
    | {"assumed_joules", "committed_bytes", "derived_damage", "expanded_size", "known", "reading", "reading_s"}
    | {"running_ms", "signing_key", "writing"}
)


def begins_with_participle(name: str) -> bool:
    """By a list, and by how its first word ends."""
    first = name.strip("_").split("_")[0]
    return first not in VERBS and (first in IRREGULAR or (len(first) > 4 and first.endswith(("ed", "ing"))))


def functions_named_by_a_participle(source: Path) -> list[str]:
    return [
        f"{path}: {node.name}"
        for path, tree in modules(source)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and begins_with_participle(node.name)
        and node.name not in THINGS
        and not node.name.startswith("__")
        and not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)  # a thing, not an act
    ]


def classes_of_one_name(source: Path) -> list[str]:
    places = defaultdict(list)
    for path, tree in modules(source):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1]


def loops_over_one(source: Path) -> list[str]:
    return [
        f"{path}:{node.target.lineno}"
        for path, tree in modules(source)
        for node in ast.walk(tree)
        if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)) and ast.unparse(node.target) == "one"
    ]


def rooms_that_are_too_full(source: Path) -> list[str]:
    """A room has 15 files and 2,500 lines at most, its sub-rooms not counted."""
    full = []
    for room in sorted({file.parent for file in source.rglob("*.py")} - {source}):
        files = sorted(room.glob("*.py"))
        num_lines = sum(len(file.read_text().splitlines()) for file in files)
        if len(files) > 15 or num_lines > 2500:
            full.append(f"{room.relative_to(source)}: {len(files)} files, {num_lines} lines")
    return full


def files_that_are_too_long(source: Path) -> list[str]:
    lengths = {file: len(file.read_text().splitlines()) for file in source.rglob("*.py")}
    return [f"{file.relative_to(source)}: {length} lines" for file, length in lengths.items() if length > 400]


def rooms_that_import_each_other(source: Path) -> list[str]:
    """Folders, a sub-room being one of its own, from which imports lead round to themselves."""
    leads: dict[str, set[str]] = defaultdict(set)
    for path, tree in modules(source):
        room = path.rpartition("/")[0]
        for module in modules_imported(tree):
            file = source.parent.joinpath(*module.split(".")).with_suffix(".py")
            if file.is_file() and file.parent not in (source, source / room):
                leads[room].add(file.parent.relative_to(source).as_posix())
    return [
        f"{room} -> {other}" for room in sorted(leads) for other in sorted(leads[room]) if room in reach(leads, other)
    ]


def modules_imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reach(leads: dict[str, set[str]], start: str) -> set[str]:
    """All rooms that imports lead to from `start`."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        others = leads.get(waiting.pop(), set()) - seen
        seen |= others
        waiting += others
    return seen


RULES: dict[str, Callable[[Path], list[str]]] = {
    "functions are named by what they do": functions_named_by_a_participle,
    "a class has a name of its own": classes_of_one_name,
    "what a loop walks over has a name": loops_over_one,
    "rooms are small": rooms_that_are_too_full,
    "files are short": files_that_are_too_long,
    "rooms do not import each other": rooms_that_import_each_other,
}

SINS = {
    "functions are named by what they do": {"core/sin.py": "def _checked() -> None: ...\n"},
    "a class has a name of its own": {"core/sin.py": "class Twice: ...\n", "prove/sin.py": "class Twice: ...\n"},
    "what a loop walks over has a name": {"core/sin.py": "NAMES = [one for one in ()]\n"},
    "rooms are small": {f"core/file_{number}.py": "\n" for number in range(16)},
    "files are short": {"core/sin.py": "\n" * 401},
    "rooms do not import each other": {
        "core/sin.py": "from allod.core.below.other import x\n",
        "core/below/other.py": "from allod.core.sin import y\n",
    },
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps(rule: str) -> None:
    """The package as it is breaks no rule."""
    assert RULES[rule](SOURCE) == []


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_sin_is_found(rule: str, tmp_path: Path) -> None:
    """A rule that cannot fail keeps nothing; and what is honest is not taken for a sin."""
    source = tmp_path / "allod"
    for path, text in SINS[rule].items() | {("govern/honest.py", "class Alone:\n    def do(self) -> None: ...\n")}:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    found = RULES[rule](source)
    assert found
    assert "honest" not in " ".join(found)


def test_every_exception_is_used() -> None:
    """A name that nobody bears any more is no exception."""
    names = {
        node.name
        for _, tree in modules(SOURCE)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert set(THINGS) <= names
