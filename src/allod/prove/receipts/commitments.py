"""Commitments: how a receipt binds to a request and an answer without holding a word of either. Pure.

    salt       = HMAC(day key, "allod salt v1" 00 id)         one per receipt; goes to the client in the opening
    nonce      = HMAC(salt, "allod nonce v1"), 16 bytes       in the statement; shows a salt to be the right one
    commitment = HMAC(salt, "allod <role> v1" 00 bytes)       in the statement

HMAC is HMAC-SHA256. Source: spec/receipt.md.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

SALT_BYTES = 32
Role = Literal["request", "answer", "passage"]
_BLOCK_BYTES = 64  # of SHA-256
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
_PREFIX = {role: f"allod {role} v1\0".encode() for role in ("request", "answer", "passage")}


def salt_of(day_key: bytes, receipt_id: str) -> bytes:
    """The 32-byte salt of one receipt."""
    return _hmac(day_key, b"allod salt v1\0" + receipt_id.encode())


def nonce_of(salt: bytes) -> str:
    """The nonce, 128 bits in hexadecimal, that shows `salt` to be this receipt's."""
    return _hmac(salt, b"allod nonce v1")[:16].hex()


def commitment(role: Role, salt: bytes, data: bytes) -> str:
    """The commitment to `data`, in hexadecimal."""
    return _hmac(salt, _PREFIX[role] + data).hex()


def pseudonym_of(day_key: bytes, tenant: str) -> str:
    """The tenant's name in receipts of one day, 128 bits in hexadecimal."""
    return _hmac(day_key, b"allod tenant v1\0" + tenant.encode())[:16].hex()


def key_pseudonym_of(day_key: bytes, key_id: str) -> str:
    """The name of one of the tenant's API keys in receipts of one day, 128 bits in hexadecimal."""
    return _hmac(day_key, b"allod key v1\0" + key_id.encode())[:16].hex()


def _hmac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104). `hmac.digest` asks OpenSSL for it by name each time, at twice the cost of both hashes."""
    if len(key) > _BLOCK_BYTES:
        key = sha256(key).digest()
    block = key.ljust(_BLOCK_BYTES, b"\0")
    return sha256(block.translate(_OUTER) + sha256(block.translate(_INNER) + data).digest()).digest()
