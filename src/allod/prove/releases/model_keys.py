"""The key that signs models: ECDSA on P-256 in PEM, which is what OpenSSF Model Signing and its tools read."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from allod.core.digests import sha256_hex
from allod.core.errors import Invalid
from allod.core.files.secret import make_private_directory, read_secret, write_secret_once

MAX_PEM_BYTES = 4096


class ModelPublicKey:
    """Says whether a model was signed by the other half."""

    def __init__(self, key: EllipticCurvePublicKey) -> None:
        self._key = key
        self.pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def hint(self) -> str:
        """What a signature names this key by: SHA-256 (hex) of its PEM."""
        return sha256_hex(self.pem)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` (DER) is this key's over `message`."""
        try:
            self._key.verify(signature, message, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    @classmethod
    def parse(cls, pem: bytes) -> ModelPublicKey:
        """From PEM. Raises Invalid (`bad_key`) for anything but a key on P-256."""
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise _refusal() from error
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
            raise _refusal()
        return cls(key)


class ModelKey:
    """Signs models."""

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = ModelPublicKey(key.public_key())

    def __repr__(self) -> str:
        return f"ModelKey({self.public.hint})"

    def sign(self, message: bytes) -> bytes:
        """The signature (DER) by RFC 6979: the same for the same message, and no bad random number betrays the key."""
        return self._key.sign(message, ECDSA(SHA256(), deterministic_signing=True))

    def private_pem(self) -> bytes:
        """The secret form, for the key file only."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @classmethod
    def parse(cls, pem: bytes) -> ModelKey:
        """From the secret form. Raises Invalid (`bad_key`) without repeating any of it."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise _refusal() from error
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise _refusal()
        return cls(key)


def create_model_key(path: Path) -> ModelKey:
    """A new key in a new 0600 file. Raises Invalid (`key_exists`) if the file is there already."""
    key = ModelKey(generate_private_key(SECP256R1()))
    make_private_directory(path.parent)
    if not write_secret_once(path, key.private_pem()):
        raise Invalid(f"there is a key at {path.name} already", code="key_exists")
    return key


def load_model_key(path: Path) -> ModelKey:
    """The key in a file that only its owner can read. Raises Invalid."""
    return ModelKey.parse(read_secret(path))


def _refusal() -> Invalid:
    return Invalid("not an ECDSA key on P-256 in PEM", code="bad_key")
