"""API keys. Only their digests are kept in memory, and they are compared in constant time.

One key for now, the realm's local key, in a file that only its owner can read.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from allod.core.errors import Denied, Invalid
from allod.core.labels import Label
from allod.core.secret_files import write_secret_once

PREFIX = "allod-"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks. `default_label` is what a request carries that declares none."""

    name: str
    default_label: Label = field(default_factory=Label)


class KeyRing:
    """The keys that open this gateway."""

    def __init__(self, tenants_by_key: dict[str, Tenant]) -> None:
        self._tenants = [(sha256(key.encode()).digest(), tenant) for key, tenant in tenants_by_key.items()]

    def tenant_of(self, key: str) -> Tenant:
        """Whose key this is. Raises Denied (`invalid_api_key`) for a key that is missing or wrong."""
        presented = sha256(key.encode()).digest()
        found = None
        for digest, tenant in self._tenants:
            if compare_digest(digest, presented):
                found = tenant
        if found is None:
            raise Denied(
                "a valid API key is required",
                code="invalid_api_key",
                hint="send `Authorization: Bearer <key>`; the local key is in the file `local.key` of ALLOD_HOME",
            )
        return found


def read_or_make_key(path: Path) -> str:
    """The key in `path`, made on first use. Raises Invalid when others than its owner can read it."""
    if not path.exists():
        write_secret_once(path, f"{PREFIX}{secrets.token_urlsafe(32)}\n".encode())
    return _read(path)


def _read(path: Path) -> str:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise Invalid(
            f"{path} must be a file that only its owner can read", code="key_permissions", hint=f"chmod 600 {path}"
        )
    key = path.read_bytes().decode("ascii", "replace").strip()
    if not key.startswith(PREFIX) or len(key) < len(PREFIX) + 32:
        raise Invalid(f"{path} holds no key of this realm", code="key_malformed", hint="remove it to have one made")
    return key
