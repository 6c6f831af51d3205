"""Signed notes and their verifier keys: C2SP signed-note and tlog-cosignature. Parsing and checking only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from allod.core.errors import Invalid
from allod.prove.formats.encodings import from_base64, from_hex, to_base64

ED25519 = 0x01  # a log's own signature
ED25519_COSIGNATURE = 0x04
MLDSA44_COSIGNATURE = 0x06
_KEY_BYTES = {ED25519: 32, ED25519_COSIGNATURE: 32, MLDSA44_COSIGNATURE: 1312}

MAX_NOTE_BYTES = 256 * 1024
MAX_SIGNATURES = 64
DASH = "\u2014"
_KEY_NAME = re.compile(r"[^+\x00-\x20\x7f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def is_key_name(name: str) -> bool:
    """Neither empty nor with a space (Unicode's White_Space) or a plus in it."""
    return _KEY_NAME.fullmatch(name) is not None


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """The four bytes that, with the name, say which key signed."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name; `kind` is the signature type of C2SP signed-note."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """The key ID in each of its signatures."""
        return key_id(self.name, self.kind, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{to_base64(bytes([self.kind]) + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """From `name+hash+base64`. Raises Invalid, also for a hash that is not this key's."""
        parts = text.split("+", 2)
        if len(parts) != 3 or not is_key_name(parts[0]):
            raise Invalid("a verifier key is name+hash+base64", code="bad_key")
        material = from_base64(parts[2], "the verifier key")
        key = cls(parts[0], material[0] if material else 0, material[1:])
        if _KEY_BYTES.get(key.kind) != len(key.public):
            raise Invalid(f"{key.name}: not a kind of key that is known here", code="bad_key")
        if key.id != from_hex(parts[1], "the key's hash", size=4):
            raise Invalid(f"{key.name}: the hash is not this key's", code="bad_key")
        return key


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who says to have signed, and the bytes after the key ID."""

    name: str
    id: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text and its signature lines, none of them checked yet."""

    text: str
    signatures: tuple[Signature, ...]

    def by(self, key: VerifierKey) -> list[Signature]:
        """The lines that claim to be by `key`."""
        return [line for line in self.signatures if line.name == key.name and line.id == key.id]


def parse_note(note: str) -> Note:
    """Split a note into text and signatures. Raises Invalid."""
    if len(note) > MAX_NOTE_BYTES or any(c < " " and c != "\n" for c in note):
        raise Invalid("the note is too long or has control characters", code="bad_note")
    text, blank, tail = note.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise Invalid("the note is not signed", code="bad_note")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise Invalid("the note has too many signatures", code="bad_note")
    return Note(text + "\n", tuple(_parse_signature(line) for line in lines))


def _parse_signature(line: str) -> Signature:
    fields = line.split(" ")
    if len(fields) != 3 or fields[0] != DASH or not is_key_name(fields[1]):
        raise Invalid("a signature line is malformed", code="bad_note")
    data = from_base64(fields[2], "a signature")
    if len(data) < 5:
        raise Invalid("a signature is too short", code="bad_note")
    return Signature(fields[1], data[:4], data[4:])


def signature_line(name: str, id_: bytes, data: bytes) -> str:
    """The line, with its newline, that `parse_note` reads back."""
    return f"{DASH} {name} {to_base64(id_ + data)}\n"


def _is_ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _is_mldsa44(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        MLDSA44PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_signed(note: Note, key: VerifierKey) -> bool:
    """Whether the log's key signed: at least one line by it, and every such line good."""
    lines = note.by(key)
    message = note.text.encode()
    return key.kind == ED25519 and bool(lines) and all(_is_ed25519(key.public, line.data, message) for line in lines)


def cosignature_time(note: Note, key: VerifierKey, *, origin: str, size: int, root: bytes) -> int | None:
    """When, in seconds since 1970, the witness cosigned; None if it did not. Raises Invalid for a false cosignature.

    The messages are those of C2SP tlog-cosignature; with several lines by one key the earliest time counts.
    """
    times = []
    for line in note.by(key):
        stamp, signature = int.from_bytes(line.data[:8], "big"), line.data[8:]
        if key.kind == ED25519_COSIGNATURE:
            good = _is_ed25519(key.public, signature, f"cosignature/v1\ntime {stamp}\n{note.text}".encode())
        else:
            message = _subtree_message(key.name, stamp, origin, size, root)
            good = key.kind == MLDSA44_COSIGNATURE and _is_mldsa44(key.public, signature, message)
        if not good or stamp >= 1 << 63:
            raise Invalid(f"the cosignature by {key.name} is false", code="bad_signature")
        times.append(stamp)
    return min(times, default=None)


def _subtree_message(name: str, stamp: int, origin: str, size: int, root: bytes) -> bytes:
    fields = [b"subtree/v1\n\0", _short(name), stamp.to_bytes(8, "big"), _short(origin), bytes(8)]
    return b"".join([*fields, size.to_bytes(8, "big"), root])


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise Invalid("a name is longer than 255 bytes", code="bad_note")
    return bytes([len(data)]) + data
