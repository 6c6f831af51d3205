"""The console's files, as bytes. Read once, from a fixed list: no path that a client sends ever reaches the disk."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE = "index.html"
_FILES = (
    "console.css",
    "parts.css",
    "chat.css",
    "seal.css",
    "governance.css",
    "mark.svg",
    "api.js",
    "app.js",
    "audit.js",
    "chat.js",
    "claims.js",
    "dom.js",
    "entries.js",
    "events.js",
    "explain.js",
    "key.js",
    "policy.js",
    "polling.js",
    "receipt.js",
    "replicas.js",
    "rule.js",
    "seal.js",
    "stream.js",
    "tenants.js",
    "text.js",
    "verify.js",
    "words.js",
)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `etag` is quoted, as the header wants it."""

    body: bytes
    media_type: str
    etag: str


class Console:
    """The page at `/` and its files below `/console/`. Making one reads them all; after that nothing is read."""

    def __init__(self) -> None:
        folder = Path(__file__).parent / "console"
        self.page = _read(folder / _PAGE)
        self._files = {name: _read(folder / name) for name in _FILES}

    def file(self, name: str) -> Asset | None:
        """The file of exactly this name below `/console/`, or None."""
        return self._files.get(name)


def _read(file: Path) -> Asset:
    body = file.read_bytes()
    return Asset(body, _MEDIA_TYPES[file.suffix], f'"{sha256(body).hexdigest()[:32]}"')
