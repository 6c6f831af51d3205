"""What is said of somebody's server that a model is served from: `[external."NAME"]`. Nobody else says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from allod.core.errors import Invalid
from allod.core.places import fault_of_place
from allod.core.urls import check_loopback, read_url
from allod.settings.files import load_catalogue

_NAME = re.compile(r"(?!.*\.[gG][gG][uU][fF]\Z)[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_SITE = re.compile(r"[A-Za-z0-9.-]{1,64}")
_FIELD = re.compile(r"([a-z][a-z0-9_]{0,63})?")
_SHORT = re.compile(r"[^\x00-\x1f\x7f]{0,100}")
_NAME_THERE = re.compile(r"[^\x00-\x1f\x7f]{0,1000}")  # which may be a file's
_TAKEN = ("auto", "echo")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalOptions:
    """A server that speaks OpenAI's interface, and the model that is served from it. Where it stands and what it serves
    is believed as it is said here. Files are named from `ALLOD_HOME` on."""

    site: str  # the name of the site where it stands, in receipts and for policy
    jurisdiction: str = "ZZ"  # ISO 3166, of that place; "not known" unless said
    url: str = ""  # where it answers, such as https://engine.example/v1; http for this machine alone
    socket: str = ""  # or the Unix socket that it listens on
    ca: str = ""  # a PEM file: the certificate authorities that may vouch for it, and nobody else; with https
    key_file: str = ""  # a file with the key that it wants, which nobody else may read; empty: it wants none
    name_there: str = ""  # what it calls the model; empty: the same
    answers_as: tuple[str, ...] = ()  # other names that its answers may bear; under any further one they are none
    salt_field: str = ""  # of a request: keeps tenants apart in its prompt cache (vLLM: cache_salt); empty: none does
    makes_embeddings: bool = False  # rather than answers to chats
    context_tokens: int = 4096  # the longest prompt with its answer
    slots: int = 4  # requests that it is sent at once
    publisher: str = "not known"  # of the model
    licence: str = "not known"  # of the model
    country: str = ""  # of the model's publisher, ISO 3166; empty: not known

    @property
    def base_path(self) -> str:
        """Of all that it is asked, without a slash at the end."""
        return (read_url(self.url).path if self.url else "") or "/v1"


def check_externals(externals: Mapping[str, ExternalOptions]) -> None:
    """Raise Invalid for what cannot be meant."""
    names = {*_TAKEN, *(entry.name for entry in load_catalogue())} if externals else set()
    for name, options in externals.items():
        where = f"external.{name}"
        if _NAME.fullmatch(name) is None or name in names:
            what = "is a model's name already" if name in names else "cannot name a model"
            hint = "letters, digits, . _ - and spaces"
            raise Invalid(f"{name!r} {what}", code="settings_name", param=where, hint=hint)
        _check_address(where, options)
        _check_words(where, options)


def _check_address(where: str, options: ExternalOptions) -> None:
    if bool(options.url) == bool(options.socket):
        raise Invalid(f"{where} needs a url or a socket, and not both", code="settings_external", param=where)
    if not options.url:
        is_tls = False
    else:
        try:
            url = read_url(options.url)
            if not (is_tls := url.is_tls):
                check_loopback(url.host)
        except Invalid as error:
            raise error.restate(f"{where}.url: {error.message}", param=f"{where}.url") from error
    if is_tls != bool(options.ca):
        what = "https needs a file of who may vouch for the server" if is_tls else "only https needs such a file"
        raise Invalid(f"{where}.ca: {what}", code="settings_external", param=f"{where}.ca")


def _check_words(where: str, options: ExternalOptions) -> None:
    words = {
        "site": (options.site, _SITE, "1 to 64 letters, digits, - and ."),
        "salt_field": (options.salt_field, _FIELD, "small letters, digits and _"),
        "name_there": (options.name_there, _NAME_THERE, "a text without control characters"),
        "publisher": (options.publisher, _SHORT, "a short text"),
        "licence": (options.licence, _SHORT, "a short text"),
    }
    for key, (text, form, what) in words.items():
        if form.fullmatch(text) is None:
            raise Invalid(f"{where}.{key} must be {what}", code="settings_name", param=f"{where}.{key}")
    for key, place in {"jurisdiction": options.jurisdiction, "country": options.country or "ZZ"}.items():
        if fault := fault_of_place(place):
            raise Invalid(f"{where}.{key}: {fault}", code="settings_name", param=f"{where}.{key}")
    numbers = {"context_tokens": (options.context_tokens, 64, 1 << 24), "slots": (options.slots, 1, 1024)}
    for key, (value, low, high) in numbers.items():
        if not low <= value <= high:
            raise Invalid(
                f"{where}.{key} is {value}; it must lie in {low} to {high}",
                code="settings_range",
                param=f"{where}.{key}",
            )
