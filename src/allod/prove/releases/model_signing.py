"""A signature over a model's folder, in the format of OpenSSF Model Signing 1.0, both ways.

It is a Sigstore bundle (v0.3) around a DSSE envelope around an in-toto statement that lists every file with its
SHA-256. Verification is numbered steps; what the statement does not list may not be in the folder.

    1 bundle       the bundle parses strictly
    2 signature    the envelope is signed by the expected key
    3 statement    it is a model's, and its list of files adds up to its subject
    4 files        the folder holds exactly these files, with these digests

Sources: sigstore/model-transparency (README, *Model Signing Format*), secure-systems-lab/dsse v1.0.0.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid, VerificationError
from allod.core.files.plain import MAX_FILES, digests_in
from allod.core.statements.receipt import STATEMENT_TYPE
from allod.prove.formats.encodings import from_base64, from_hex, to_base64
from allod.prove.releases.model_keys import ModelKey, ModelPublicKey

SIGNATURE_FILE = "model.sig"
STEPS = ("bundle", "signature", "statement", "files")
MAX_SIGNATURE_BYTES = 8 << 20

_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"


def sign_folder(folder: Path, key: ModelKey, *, name: str = "", ignore: Collection[str] = (SIGNATURE_FILE,)) -> bytes:
    """The signature over every file in `folder` but those in `ignore`; the same bytes for the same files.

    `name` is what the statement calls the model (the folder's name). Raises Invalid (`bad_folder`).
    """
    digests = digests_in(folder, ignore=ignore)
    payload = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name or folder.name, "digest": {"sha256": _root_of(digests.values())}}],
            "predicateType": _PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": sorted(ignore),
                },
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
                ],
            },
        }
    )
    return canonical_json(
        {
            "mediaType": _BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": to_base64(payload),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"sig": to_base64(key.sign(_text_to_sign(payload))), "keyid": ""}],
            },
        }
    )


def verify_folder(folder: Path, signature: bytes, public_key: ModelPublicKey) -> Mapping[str, str]:
    """The folder's files and their SHA-256 (hex), if `public_key` signed exactly them.

    Only SIGNATURE_FILE is left out: what the signature itself says may be ignored is not believed. Raises
    VerificationError with the step that failed.
    """
    with _step(1):
        payload, signed, hint = _parse_bundle(signature)
    with _step(2):
        if not hmac.compare_digest(hint, public_key.hint):
            raise Invalid("it is by another key")
        if not public_key.has_signed(_text_to_sign(payload), signed):
            raise Invalid("the signature is false")
    with _step(3):
        listed = _parse_statement(payload)
    with _step(4):
        held = digests_in(folder, ignore=(SIGNATURE_FILE,))
        _check_same(held, listed)
    return held


def _check_same(held: Mapping[str, str], listed: Mapping[str, str]) -> None:
    for what, names in (
        ("was added", held.keys() - listed.keys()),
        ("is missing", listed.keys() - held.keys()),
        ("was changed", {name for name in held.keys() & listed.keys() if held[name] != listed[name]}),
    ):
        if names:
            raise Invalid(f"{min(names)} {what}" + (f", and {len(names) - 1} more" if len(names) > 1 else ""))


def _parse_bundle(data: bytes) -> tuple[bytes, bytes, str]:
    """The envelope's payload, its one signature, and what names the key."""
    if len(data) > MAX_SIGNATURE_BYTES:
        raise _refusal(f"longer than {MAX_SIGNATURE_BYTES} bytes")
    bundle = _read_json(data)
    envelope, key = _member(bundle, "dsseEnvelope"), _member(_member(bundle, "verificationMaterial"), "publicKey")
    signatures, hint = envelope.get("signatures"), key.get("hint")
    if bundle.get("mediaType") != _BUNDLE_TYPE or envelope.get("payloadType") != _PAYLOAD_TYPE:
        raise _refusal("another type of bundle")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise _refusal("one signature is expected")
    texts = (envelope.get("payload"), signatures[0].get("sig"), hint)
    if not all(isinstance(text, str) for text in texts) or not str(hint).isascii():
        raise _refusal("its payload, its signature or its key is missing")
    return from_base64(str(texts[0]), "the payload"), from_base64(str(texts[1]), "the signature"), str(hint)


def _parse_statement(payload: bytes) -> dict[str, str]:
    """The files that the statement lists. `payload` is signed by a key that is believed."""
    statement = _read_json(payload)
    subjects, predicate = statement.get("subject"), _member(statement, "predicate")
    how, resources = _member(predicate, "serialization"), predicate.get("resources")
    if statement.get("_type") != STATEMENT_TYPE or statement.get("predicateType") != _PREDICATE_TYPE:
        raise _refusal("another type of statement")
    if (how.get("method"), how.get("hash_type"), how.get("allow_symlinks")) != ("files", "sha256", False):
        raise _refusal("only whole files by SHA-256, without links, are read here")
    if not isinstance(resources, list) or len(resources) > MAX_FILES:
        raise _refusal("its list of files is missing or too long")
    listed = dict(map(_resource, resources))
    if len(listed) != len(resources):
        raise _refusal("a file is listed twice")
    subject = subjects[0] if isinstance(subjects, list) and len(subjects) == 1 else None
    if not isinstance(subject, dict) or subject.get("digest") != {"sha256": _root_of(listed.values())}:
        raise _refusal("its files do not add up to its subject")
    return listed


def _resource(value: Any) -> tuple[str, str]:
    if not isinstance(value, dict) or value.keys() != {"name", "algorithm", "digest"}:
        raise _refusal("a file is a name, an algorithm and a digest")
    name, digest = value["name"], value["digest"]
    if value["algorithm"] != "sha256" or not isinstance(name, str) or not isinstance(digest, str):
        raise _refusal("a file is named by its SHA-256")
    from_hex(digest, "a file's digest", size=32)
    return name, digest


def _root_of(digests: Collection[str]) -> str:
    """SHA-256 over the files' digests, one after another in the order of the list."""
    return sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _text_to_sign(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed is the payload with its type and both their lengths."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _refusal("not JSON") from error
    if not isinstance(value, dict):
        raise _refusal("not an object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is repeated")
    return value


def _member(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    member = value.get(name)
    if not isinstance(member, dict):
        raise _refusal(f"{name} is missing")
    return member


@contextmanager
def _step(number: int) -> Iterator[None]:
    try:
        yield
    except Invalid as error:
        raise VerificationError(error.message, step=number, name=STEPS[number - 1], hint=error.hint) from error


def _refusal(message: str) -> Invalid:
    return Invalid(f"not a model's signature: {message}", code="bad_signature")
