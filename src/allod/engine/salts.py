"""Who may share a prefix cache: requests of one tenant under one label, and nobody else.

A cache that serves two tenants tells each, by how soon the first token comes, what the other has asked before
(CVE-2025-46570). So every chat goes to the engine with a salt, and an engine reuses computed prompts only under the
salt that they were computed under. A client cannot choose it: it is derived here.
"""

from __future__ import annotations

import hmac

from allod.core.canonical import canonical_json
from allod.core.labels import Label


def cache_salt(secret: bytes, tenant_id: str, label: Label) -> str:
    """64 hex digits, equal for equal tenant and label. `secret` is the realm's: who lacks it can foresee no salt."""
    return hmac.digest(secret, canonical_json({"label": label.as_json(), "tenant": tenant_id}), "sha256").hex()
