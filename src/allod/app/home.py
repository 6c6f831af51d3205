"""The realm's directory and its settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allod.core.errors import Invalid
from allod.core.files.secret import make_private_directory, read_secret, write_secret_once
from allod.core.files.whole import write_whole
from allod.prove.tlog.begun import is_begun
from allod.settings.files import load_nation
from allod.settings.tree import Settings, load

if TYPE_CHECKING:
    from allod.core.nations.nation import Nation
    from allod.prove.formats.signing_key import SigningKey


class Home:
    """The realm's directory: names of what is in it, and the secrets in it made on first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.local_key = path / "local.key"
        self.admin_key = path / "admin.key"
        self.tenants = path / "tenants.sqlite"
        self.trust = path / "trust.policy"
        self.gateway = path / "gateway.json"
        self.models = path / "models"
        self.store = path / "store" / "models"
        self.day_keys = path / "keys" / "days"
        self.receipts = path / "logs" / "receipts"
        self.artefacts = path / "logs" / "artefacts"
        self.evidence = path / "evidence"
        self._realm = path / "realm"
        self.salts = path / "keys" / "salts.key"
        self.log_key = path / "keys" / "receipts.key"
        self.artefacts_key = path / "keys" / "artefacts.key"
        self.models_key = path / "keys" / "models.key"
        self.models_pub = path / "keys" / "models.pub"

    def make(self) -> None:
        """The directory, for its owner only."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Invalid(f"{self.path}: {error.strerror}", code="home_unusable", hint="set ALLOD_HOME") from error
        status = self.path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise Invalid(
                f"{self.path} must be ours, and nobody else may write there",
                code="home_permissions",
                hint=f"chmod go-w {self.path}",
            )

    def realm_name(self) -> str:
        """A name that no other realm has, made on first use. Raises Invalid where it is gone."""
        if not self._realm.exists():
            if is_begun(self.receipts):
                raise Invalid(
                    f"{self._realm} is gone, and a log has been written under the name that it held",
                    code="realm_unnamed",
                    hint="put the file back, or set realm.name in allod.toml",
                )
            write_whole(self._realm, f"allod-{os.urandom(4).hex()}\n")
        name = self._realm.read_text().strip()
        if not name:
            raise Invalid(f"{self._realm} is empty", code="realm_unnamed", hint="set realm.name in allod.toml")
        return name

    def salt_secret(self) -> bytes:
        """What prefix-cache salts are derived from, made on first use."""
        if not self.salts.exists():
            make_private_directory(self.salts.parent)
            write_secret_once(self.salts, os.urandom(32))
        return read_secret(self.salts)

    def signing_key(self, origin: str) -> SigningKey:
        """The receipts log's key, made on first use. Raises Invalid if it is another log's, or gone."""
        from allod.prove.formats.signing_key import load_or_create_signing_key  # not needed to find the model

        key = load_or_create_signing_key(self.log_key, origin, is_first=not is_begun(self.receipts))
        if key.name != origin:
            raise Invalid(
                f"the log's key is for {key.name}, and the settings say {origin}",
                code="log_origin",
                hint="a log keeps its name: put realm.name, realm.site and realm.shard back, or use another ALLOD_HOME",
            )
        return key


def load_settings(overrides: dict[str, Any] | None = None, *, home: Path | None = None) -> Settings:
    """The settings, with the realm's name filled in and its directory made."""
    loaded = load(overrides, home=home)
    directory = Home(loaded.home)
    directory.make()
    if not loaded.realm.name:
        loaded = replace(loaded, realm=replace(loaded.realm, name=directory.realm_name()))
    return loaded


def nation_of(settings: Settings) -> Nation:
    """The profile that the realm's labels and policies are written in. Raises Invalid where there is none."""
    return load_nation(settings.realm.nation, home=settings.home)


def models_said(names: Sequence[str] | None) -> dict[str, Any]:
    """What `--model NAME`, said once or more, sets: all that are served, whatever the file says."""
    return {"model.name": names[0], "model.others": tuple(names[1:])} if names else {}
