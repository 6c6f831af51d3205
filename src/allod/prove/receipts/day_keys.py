"""Day keys: one random secret per tenant and day, from which salts and the tenant's pseudonym are derived.

Destroying a day key is erasure: the commitments and pseudonyms of that tenant's day can no longer be linked to
anyone, while the log still verifies. So day keys are random and derived from nothing that survives them.
Layout: `<directory>/<YYYY-MM-DD>/<SHA-256 of the tenant's name>.key`, 32 bytes each.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from allod.core.errors import Denied, Invalid, Unavailable
from allod.core.files.secret import make_private_directory, read_secret, write_secret_once
from allod.core.files.whole import sync
from allod.core.times import day_of
from allod.prove.receipts.commitments import key_pseudonym_of, nonce_of, pseudonym_of, salt_of

KEY_BYTES = 32
RETRY_S = 2.0  # after a key could not be used
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DayKey:
    """One tenant's key for one day. `pseudonym` is the tenant's name in that day's receipts."""

    pseudonym: str
    secret: bytes

    def salt(self, receipt_id: str) -> bytes:
        """The salt of one receipt."""
        return salt_of(self.secret, receipt_id)


class DayKeys:
    """The keystore. Keys in use are kept in memory; `use` touches the disk once per tenant and day."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[tuple[str, str], DayKey] = {}
        self._tenants: dict[tuple[str, str], str] = {}  # (day, pseudonym) → whose it is
        self._key_names: dict[tuple[str, str], str] = {}  # (day, key's id) → its pseudonym
        self._key_ids: dict[tuple[str, str], str] = {}  # and back

    def known(self, tenant: str, day: str) -> DayKey | None:
        """The key if it is in memory: never blocks."""
        return self._known.get((tenant, day))

    def use(self, tenant: str, day: str) -> DayKey:
        """The key, made and durable if this is its first use. Blocks for milliseconds then.

        Raises Unavailable if it cannot be kept, and for a key file that is unsafe or broken.
        """
        return self._known.get((tenant, day)) or self.find(tenant, day) or self._create(tenant, day)

    def find(self, tenant: str, day: str) -> DayKey | None:
        """The key if it exists; never makes one. Raises Unavailable for a key file that is unsafe or broken."""
        path = self._path(tenant, day)
        try:
            if not path.exists():
                return None
            secret = read_secret(path)
        except Invalid as error:  # of ours, not of whoever asks
            raise _unusable(error.message, error.code, error.hint) from error
        except OSError as error:
            raise _unusable(f"the day keys cannot be read ({error.strerror})", "keystore_unavailable") from error
        if len(secret) != KEY_BYTES:
            raise _unusable(f"the day key {path.name} is not {KEY_BYTES} bytes", "bad_key")
        key = DayKey(pseudonym_of(secret, tenant), secret)
        self._known[tenant, day] = key
        self._tenants[day, key.pseudonym] = tenant
        return key

    def check(self, tenants: Iterable[str], day: str) -> None:
        """Raise Unavailable, with the reason, where no request of any of these tenants could be recorded that day."""
        failure = None
        for tenant in tenants:
            try:
                if not (self.known(tenant, day) or self.find(tenant, day)):
                    self._check_room(day)
            except Unavailable as error:
                failure = error
            else:
                return
        if failure is not None:
            raise failure

    def key_name(self, tenant: str, day: str, key_id: str) -> str:
        """What receipts of the day call one of the tenant's API keys. The day key must exist."""
        name = self._key_names.get((day, key_id))
        if name is None:
            name = self._key_names[day, key_id] = key_pseudonym_of(self.use(tenant, day).secret, key_id)
            self._key_ids[day, name] = key_id
        return name

    def tenant_named(self, day: str, pseudonym: str) -> str | None:
        """Whose pseudonym that is, among the keys in memory."""
        return self._tenants.get((day, pseudonym))

    def key_named(self, day: str, pseudonym: str) -> str | None:
        """Which API key's pseudonym that is, among those in memory."""
        return self._key_ids.get((day, pseudonym))

    def read_day(self, day: str, keys_of: Mapping[str, Iterable[str]]) -> None:
        """Bring a day's names into memory again: of these tenants, those that have a key left, and their API keys."""
        directory = self._path("", day).parent
        present = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
        for tenant, key_ids in keys_of.items():
            if self._path(tenant, day).name in present and (self.known(tenant, day) or self.find(tenant, day)):
                for key_id in key_ids:
                    self.key_name(tenant, day, key_id)

    def salt_of_opening(self, tenant: str, predicate: Mapping[str, Any]) -> bytes:
        """The salt of a statement's predicate, for its own tenant only.

        Raises Denied if the receipt is another tenant's or its day key was destroyed: the two look the same.
        """
        key = self.find(tenant, day_of(predicate["at"]["start_ms"]))
        if key is not None:
            salt = key.salt(predicate["id"])
            if nonce_of(salt) == predicate.get("nonce"):  # 128 bits that only the right key leads to
                return salt
        raise Denied("this receipt is not yours to open, or its key was destroyed", code="no_opening")

    def destroy(self, tenant: str, day: str) -> bool:
        """Erase: the key leaves memory and the directory, durably. False if there was none.

        What a disk or a backup may still hold of the file is outside this program; keep the keystore out of backups.
        """
        key = self._known.pop((tenant, day), None)
        if key is not None:
            self._forget(day, key)
        path = self._path(tenant, day)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync(path.parent)
        return True

    def _forget(self, day: str, key: DayKey) -> None:
        self._tenants.pop((day, key.pseudonym), None)
        for (named_day, key_id), name in list(self._key_names.items()):
            if named_day == day and key_pseudonym_of(key.secret, key_id) == name:
                del self._key_names[named_day, key_id], self._key_ids[day, name]

    def _create(self, tenant: str, day: str) -> DayKey:
        path = self._path(tenant, day)
        try:
            make_private_directory(path.parent)
            write_secret_once(path, secrets.token_bytes(KEY_BYTES))  # if another process was first, its key counts
        except OSError as error:
            raise _unusable(f"no day key can be kept ({error.strerror})", "keystore_unavailable") from error
        key = self.find(tenant, day)
        if key is None:
            raise _unusable(f"the day key {path.name} vanished as it was made", "bad_key")
        return key

    def _check_room(self, day: str) -> None:
        directory = self._path("", day).parent
        while not directory.exists() and directory != directory.parent:
            directory = directory.parent
        if not (directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)):
            raise _unusable(f"no day key can be kept ({directory} is not ours to write)", "keystore_unavailable")

    def _path(self, tenant: str, day: str) -> Path:
        if _DAY.fullmatch(day) is None:
            raise Invalid(f"{day!r} is not a day", code="bad_time")
        return self._directory / day / f"{sha256(tenant.encode()).hexdigest()}.key"


def _unusable(message: str, code: str, hint: str | None = None) -> Unavailable:
    return Unavailable(message, code=code, hint=hint, retry_after_s=RETRY_S)
