"""Signing keys: a log's Ed25519 key, in the text form of Go's note package (`PRIVATE+KEY+name+hash+base64`)."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from allod.core.errors import Invalid
from allod.core.files.secret import make_private_directory, read_secret, write_secret_once
from allod.prove.formats.encodings import from_base64, from_hex, to_base64
from allod.prove.formats.notes import ED25519, VerifierKey, is_key_name, signature_line

_PREFIX = "PRIVATE+KEY+"


class SigningKey:
    """Signs tree heads under `name`, which is also the log's origin."""

    def __init__(self, name: str, seed: bytes) -> None:
        if not is_key_name(name):
            raise Invalid("a key's name has neither spaces nor a plus", code="bad_key")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._seed = seed
        self.name = name
        self.verifier = VerifierKey(name, ED25519, self._private.public_key().public_bytes_raw())
        self._id = self.verifier.id

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier})"

    @property
    def verifier_key(self) -> str:
        """The public half as `name+hash+base64`."""
        return str(self.verifier)

    def sign(self, text: str) -> str:
        """The signed note over `text`, which ends in a newline."""
        return f"{text}\n{signature_line(self.name, self._id, self._private.sign(text.encode()))}"

    def private_text(self) -> str:
        """The secret form, for the key file only."""
        return f"{_PREFIX}{self.name}+{self._id.hex()}+{to_base64(bytes([ED25519]) + self._seed)}\n"

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """From the secret form. Raises Invalid without repeating any of it."""
        parts = text.removesuffix("\n").removeprefix(_PREFIX).split("+", 2)
        if not text.startswith(_PREFIX) or len(parts) != 3:
            raise Invalid("not a signing key", code="bad_key")
        material = from_base64(parts[2], "the signing key")
        if len(material) != 33 or material[0] != ED25519:
            raise Invalid("not an Ed25519 signing key", code="bad_key")
        key = cls(parts[0], material[1:])
        if key._id != from_hex(parts[1], "the key's hash", size=4):
            raise Invalid("the signing key's hash is not its own", code="bad_key")
        return key


def create_signing_key(path: Path, name: str) -> SigningKey:
    """A new key in a new 0600 file. Raises Invalid if the file is there already."""
    key = SigningKey(name, Ed25519PrivateKey.generate().private_bytes_raw())
    make_private_directory(path.parent)
    if not write_secret_once(path, key.private_text().encode()):
        raise Invalid(f"there is a key at {path.name} already", code="key_exists")
    return key


def load_or_create_signing_key(path: Path, name: str, *, is_first: bool) -> SigningKey:
    """The key in the file, made where a log has yet to be begun (`is_first`). Raises Invalid (`key_gone`)."""
    if not path.exists():
        if not is_first:
            raise Invalid(
                f"the log's key {path.name} is gone",
                code="key_gone",
                hint="put it back: no other key can go on with the log that it signed",
            )
        create_signing_key(path, name)
    return load_signing_key(path)


def load_signing_key(path: Path) -> SigningKey:
    """The key in a file that only its owner can read. Raises Invalid."""
    try:
        return SigningKey.parse(read_secret(path).decode())
    except UnicodeDecodeError as error:
        raise Invalid("not a signing key", code="bad_key") from error
