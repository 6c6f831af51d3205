"""Bundle: the file handed to a user. One statement, its proof, and what opens its commitments (`spec/receipt.md`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid
from allod.core.statements.receipt import MAX_STATEMENT_BYTES
from allod.prove.formats.encodings import from_hex
from allod.prove.formats.proofs import Proof
from allod.prove.receipts.commitments import SALT_BYTES

MAX_BUNDLE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Opening:
    """The salt, and the texts it opens where the holder has them."""

    salt: bytes
    request: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """`statement` is the exact leaf. Nothing here has been verified."""

    statement: bytes
    proof: Proof
    opening: Opening | None = None


def encode_bundle(bundle: Bundle) -> bytes:
    """The file's bytes."""
    document: dict[str, Any] = {"statement": bundle.statement.decode(), "proof": bundle.proof.text}
    if bundle.opening is not None:
        texts = {"request": bundle.opening.request, "answer": bundle.opening.answer}
        given = {name: text for name, text in texts.items() if text is not None}
        document["opening"] = {"salt": bundle.opening.salt.hex(), **given}
    return canonical_json(document)


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle strictly: bounded, no unknown or repeated key, text only. Raises Invalid."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise _refusal("larger than 4 MiB")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _refusal("not JSON") from error
    _check_keys(document, required={"statement", "proof"}, optional={"opening"})
    statement = _text_of(document, "statement").encode()
    if len(statement) > MAX_STATEMENT_BYTES:
        raise _refusal("the statement is too long")
    opening = _read_opening(document["opening"]) if "opening" in document else None
    return Bundle(statement, Proof.parse(_text_of(document, "proof")), opening)


def _read_opening(value: Any) -> Opening:
    _check_keys(value, required={"salt"}, optional={"request", "answer"})
    texts = {name: _text_of(value, name) for name in value}
    return Opening(from_hex(texts["salt"], "the salt", size=SALT_BYTES), texts.get("request"), texts.get("answer"))


def _check_keys(value: Any, *, required: set[str], optional: set[str]) -> None:
    if not isinstance(value, dict) or not required <= value.keys() <= required | optional:
        raise _refusal(f"an object with {', '.join(sorted(required))} and nothing unknown is expected")


def _text_of(value: dict[str, Any], name: str) -> str:
    text = value[name]
    if not isinstance(text, str):
        raise _refusal(f"{name} is not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise _refusal(f"{name} is not text") from error
    return text


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is repeated")
    return value


def _refusal(message: str) -> Invalid:
    return Invalid(f"not a bundle: {message}", code="bad_bundle")
