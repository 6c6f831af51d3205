"""The process that reads and compiles clients' schemas and holds answers to them. Started by `judge`, never imported.

A thread cannot be ended; a process can. It ends itself when one question takes more than its share of CPU time
(SIGPROF's default), so that no clock of a busy machine is in it. Whoever else wants the processor comes first.

python -m allod.serve.schemas.process CPU_S MEMORY_BYTES   # a question a line, as JSON; an answer a line
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs
import llguidance

from allod.core.errors import Invalid
from allod.engine.schemas.grammar import check_enforced, grammar_of
from allod.engine.schemas.refusal import refusal
from allod.engine.schemas.subschemas import subschemas
from allod.serve.schemas import reasons
from allod.serve.schemas.bounds import check_bounds
from allod.serve.schemas.json_text import NOT_JSON, json_value
from allod.serve.schemas.objects import check_object

_Validator = jsonschema_rs.Draft202012Validator
_STEPS = 64  # bytes of a document that are tried out: parser limits show where an object or a list begins
_OPENING = b'"{[:,0at-'  # what leads on rather than to the end
_COMPILING = "failed to compile JSON schema: "
_ALLOWED = b"\xc8"  # what a byte that may follow has in the list of them
_MAX_SUBSCHEMAS = 100  # that are looked at for the one to name
_NICE = 5  # a third of a processor where others want all of it: schemas still get their turn
_PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000, size_limit=10 << 20)


def serve(cpu_s: float, memory_bytes: int) -> None:
    """Answer questions until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    _write("ready")
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        question = json.loads(line)
        answer = _check(**question) if "text" not in question else _judge_text(**question)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answer)


def _check(schema: Any, is_grammar: bool, is_arguments: bool = False) -> str | None:
    """What is told of a schema that cannot be used; None if it can be."""
    try:
        check_bounds(schema)
        if is_grammar:
            check_enforced(schema)
        _check_compiled(schema)
        if is_arguments:
            check_object(schema)
        if is_grammar:
            _check_grammar(schema)
    except Invalid as error:
        return error.message
    return None


def _check_compiled(schema: Any) -> None:
    try:
        _validator(json.dumps(schema))
    except jsonschema_rs.ValidationError as error:
        is_pattern = isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Format) and error.kind.format == "regex"
        raise refusal(reasons.of_value(error.instance, error.instance_path, is_pattern=is_pattern)) from error


def _check_grammar(schema: Any) -> None:
    fault = _grammar_fault(grammar_of(schema))
    if fault is not None:
        raise refusal(f"{reasons.of_grammar(fault)} at {_pointer_to(schema, fault)}")


def _judge_text(schema: Any, is_grammar: bool, text: str) -> str:
    """ "kept", or what else can be said of a text that a schema was for."""
    value = json_value(text)
    if value is not NOT_JSON and _validator(json.dumps(schema)).is_valid(value):
        return "kept"
    if not is_grammar:
        return "broken"
    matcher = llguidance.LLMatcher(_tokenizer(), grammar_of(schema), log_level=0)
    data = text.encode("utf-8", "replace")
    if matcher.try_consume_tokens(list(data)) < len(data):
        return "not enforced"
    return "broken" if matcher.is_accepting() else "cut"


@lru_cache(maxsize=8)
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    return _Validator(json.loads(schema), retriever=_no_retrieval, pattern_options=_PATTERNS)


@lru_cache(maxsize=1)
def _tokenizer() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer("byte")


def _grammar_fault(grammar: str) -> str | None:
    """What the engine's parser would say; it would only log it, and answer without the grammar."""
    matcher = llguidance.LLMatcher(_tokenizer(), grammar, log_level=0)
    for _ in range(_STEPS):
        if matcher.is_stopped():
            break
        allowed = matcher.compute_logit_bias()
        byte = next((byte for byte in _OPENING if allowed[byte]), allowed.find(_ALLOWED))
        if not 0 <= byte < 256:
            break
        matcher.consume_token(byte)
    if not matcher.is_error():
        return None
    said = matcher.get_error().partition("\n   1 | %llguidance")[0].partition("\n<state>")[0].strip()
    return said[said.find(_COMPILING) :] if _COMPILING in said else said


def _pointer_to(schema: Any, fault: str) -> str:
    """The pointer to the innermost schema that has this fault by itself; the outermost where none has."""
    if not fault.startswith(_COMPILING):
        return "#"  # a limit of the parser's, which each part may keep, and which is dear to find
    for pointer, found in sorted(islice(subschemas(schema), _MAX_SUBSCHEMAS), key=lambda item: -item[0].count("/")):
        if pointer != "#" and _grammar_fault(grammar_of(found)) == fault:
            return pointer
    return "#"


def _no_retrieval(uri: str) -> Any:
    """A client's schema must not make the gateway fetch anything."""
    raise ValueError(f"references to other documents are not followed: {uri}")


def _write(answer: str | None) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(float(sys.argv[1]), int(sys.argv[2]))
