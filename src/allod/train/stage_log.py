"""Which stages there have been: a finished stage counts only if the realm's log says so, and no two may contradict.

A run's folder can be written by whoever can write there, the log only by whoever holds its key. So a manifest that is
no leaf is nobody's word, however well it fits itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from allod.core.errors import Invalid
from allod.core.shown_text import make_plain
from allod.core.statements.training import TrainingStatement, check_training_statement

_SAID_ANEW = frozenset({"id", "at", "measured", "energy"})  # what two honest runs of one stage differ in


class StageLog(Protocol):
    """The log's part that a run needs."""

    def manifests_of(self, key: str) -> Sequence[bytes]:
        """Every logged manifest of a stage with this key, oldest first. Raises Invalid for a log that is damaged."""
        ...

    def append(self, statements: Sequence[bytes]) -> None:
        """Append those that are not there yet; durable once this returns."""
        ...


def check_logged(log: StageLog, manifest: bytes, statement: TrainingStatement) -> None:
    """Raise Invalid, saying what differs, unless this very manifest is a leaf of the log."""
    logged = log.manifests_of(statement.key)
    if manifest in logged:
        return
    if not logged:
        raise Invalid("no stage of these inputs is in the realm's artefacts log")
    known = check_training_statement(logged[-1])
    raise Invalid(f"the realm's artefacts log says otherwise of it: {'; '.join(_differences(known, statement))}")


def check_sole_derivation(log: StageLog, statement: TrainingStatement) -> None:
    """Raise Invalid (`derivation_differs`) where the same inputs gave other outputs on the same kind of machine.

    Another kind of processor, other packages or other numbers of threads and ranks may round otherwise: that is allowed
    to differ, and both stand in the log.
    """
    for manifest in log.manifests_of(statement.key):
        before = check_training_statement(manifest)
        if before.derivation != statement.derivation and environment_of(before) == environment_of(statement):
            raise Invalid(
                f"the stage {statement.stage} has two derivations of one key on one machine: {before.id} made "
                f"{before.derivation} (files {before.files}), and now it is {statement.derivation} "
                f"(files {statement.files})",
                code="derivation_differs",
                hint="one of the two is not what these inputs give: compare their folders, look for broken memory, and "
                "start anew with another seed and --dir once you know which; nothing is released until then",
            )


def environment_of(statement: TrainingStatement) -> Mapping[str, Any]:
    """What the bits that come out may depend on, beside the inputs."""
    machine = statement.machine
    return {
        "environment": statement.predicate["environment"],
        **{name: machine.get(name) for name in ("architecture", "processor")},
    }


def _differences(logged: TrainingStatement, found: TrainingStatement) -> Iterable[str]:
    """Where the two disagree; a forged manifest that repeats everything else still has an id of its own."""
    said = []
    if logged.files != found.files:
        said.append(f"its files are another list, {found.files} and not {logged.files}")
    then, now = _plain(logged), _plain(found)
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            said.append(f"{name} is {_short(now.get(name))} and not {_short(then.get(name))}")
    anew = [name for name in sorted(_SAID_ANEW) if logged.predicate[name] != found.predicate[name]]
    return [*said, *([f"it has another {' and another '.join(anew)}"] if anew else [])]


def _plain(statement: TrainingStatement) -> dict[str, str]:
    """What it says, by the way there: `observed machine processor`."""
    said = {name: value for name, value in statement.predicate.items() if name not in {"derivation", *_SAID_ANEW}}
    return dict(_members(said, ()))


def _members(value: Any, way: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, member in value.items():
            yield from _members(member, (*way, str(name)))
    elif isinstance(value, Sequence) and any(isinstance(member, Mapping) for member in value):
        for number, member in enumerate(value, 1):
            name = member.get("name", number) if isinstance(member, Mapping) else number
            yield from _members(member, (*way, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield " ".join(way), ", ".join(map(str, value)) or "none"
    else:
        yield " ".join(way), "none" if value is None or value == {} else str(value)


def _short(text: str | None) -> str:
    """`None`: it is not said."""
    if text is None:
        return "unsaid"
    return make_plain(text if len(text) <= 200 else f"{text[:199]}…", limit=200)
