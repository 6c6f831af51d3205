"""Step 3 at the edge: the label that a client declares in its headers, and the one that an answer carries back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote, unquote

from allod.core.errors import Invalid
from allod.core.labels import Label
from allod.core.nations.nation import Nation
from allod.web.http.exchange import Headers

_TIER, _MARKINGS, _PURPOSE = b"x-allod-tier", b"x-allod-markings", b"x-allod-purpose"
_HEADER_OF = {"tier": _TIER, "markings": _MARKINGS, "purposes": _PURPOSE}
_KNOWN = frozenset(_HEADER_OF.values())
_OURS = (b"x-allod", b"x_allod")  # some proxies turn one into the other


def label_of(headers: dict[bytes, bytes], default: Label, nation: Nation) -> Label:
    """The request's label: what was declared, joined with the caller's default, which nothing declared can lower.

    Raises Invalid for a word that the nation does not know, and for a header that says nothing or is misspelt: a label
    is never dropped.
    """
    said = [name for name in headers if name.startswith(_OURS)]
    if not said:
        return default
    _check_said(said, headers)
    tier, markings, purpose = (headers.get(name, b"") for name in (_TIER, _MARKINGS, _PURPOSE))
    try:
        declared = nation.label(
            _text(tier),
            markings=_words(markings),
            purposes=_words(purpose) or None,
        )
    except UnicodeDecodeError as error:
        raise Invalid("a label is not UTF-8", code="unknown_label", param="x-allod-*") from error
    except Invalid as error:
        header = _HEADER_OF[error.param or ""].decode()
        raise error.restate(param=header) from error
    return default.join(declared)


@lru_cache(maxsize=64)
def label_headers(label: Label) -> Headers:
    """What an answer says of its label, so that it is not lost further on; what is not ASCII is percent-encoded."""
    headers = [(_TIER, _encode([label.tier.name]))]
    if label.markings:
        headers.append((_MARKINGS, _encode(sorted(label.markings))))
    if label.purposes is not None:
        headers.append((_PURPOSE, _encode(sorted(label.purposes))))
    return tuple(headers)


def _check_said(names: Iterable[bytes], headers: dict[bytes, bytes]) -> None:
    """Refuse what was meant as a label and would be taken for none."""
    for name in names:
        header = name.decode("latin-1")
        if name not in _KNOWN:
            known = ", ".join(sorted(known.decode() for known in _KNOWN))
            raise Invalid(
                f"{header} is no header of a label", code="unknown_label", param=header, hint=f"there are {known}"
            )
        if not unquote(headers[name].decode("utf-8", "replace")).replace(",", "").strip():
            raise Invalid(f"the header {header} is empty", code="unknown_label", param=header)


def _text(value: bytes) -> str:
    return unquote(value.decode("utf-8"), errors="strict").strip()


def _words(value: bytes) -> set[str]:
    return {_text(word) for word in value.split(b",")} - {""}


def _encode(words: Iterable[str]) -> bytes:
    return ", ".join(quote(word, safe=" -_/()'.&:+") for word in words).encode("ascii")
