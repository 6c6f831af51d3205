"""A model that is served from somebody's server, as the settings have it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from allod.core.canonical import digest_of
from allod.core.errors import Invalid
from allod.core.files.secret import read_secret
from allod.core.urls import read_url
from allod.engine.engine import EnginePlace
from allod.serve.served_model import ServedModel
from allod.settings.external import ExternalOptions
from allod.settings.tree import Settings

if TYPE_CHECKING:  # what asks it is loaded by a start that needs it
    from allod.engine.adapters.external import ExternalEngine
    from allod.engine.address import Address

ON_THIS_MACHINE = ("ca", "key_file")  # of what is said: where files lie here is no part of the claim


@dataclass(frozen=True, slots=True)
class External:
    """What clients are told of the model, and what is said of its server."""

    served: ServedModel
    options: ExternalOptions


def find_external(settings: Settings, name: str) -> External | None:
    """The model of that name, if it is served from somebody's server. Its digest is of all that is said of it."""
    options = settings.external.get(name)
    if options is None:
        return None
    said = {key: value for key, value in asdict(options).items() if key not in ON_THIS_MACHINE}
    served = ServedModel(
        name=name,
        owner=options.publisher,
        digest=digest_of({"external": {**said, "name": name}}),
        licence=options.licence,
        country=options.country,
        informative=True,
    )
    return External(served, options)


def make_external_engine(settings: Settings, external: External) -> ExternalEngine:
    """What asks that server. Blocks. Raises Invalid for a file that is not what it should be."""
    from allod.engine.adapters.external import ExternalEngine, external_info
    from allod.engine.adapters.openai import Dialect
    from allod.engine.http import EngineHttp

    options = external.options
    model = options.name_there or external.served.name
    dialect = Dialect(
        base_path=options.base_path,
        model=model,
        answers_as=frozenset((model, *options.answers_as)),
        salt_field=options.salt_field,
        probe_path=f"{options.base_path}/models",
        counts_bytes=True,
    )
    info = external_info(
        external.served.digest,
        EnginePlace(options.site, options.jurisdiction),
        config={"context_tokens": options.context_tokens, "salt_field": options.salt_field, "slots": options.slots},
        context_tokens=options.context_tokens,
        slots=options.slots,
        can_embed=options.makes_embeddings,
    )
    http = EngineHttp(_address_of(settings, options), settings.deadlines, key=_key_of(settings, options))
    return ExternalEngine(info, http, dialect, settings.deadlines)


def _address_of(settings: Settings, options: ExternalOptions) -> Address:
    """Raises Invalid (`engine_owned`), and for a file that is not what it should be."""
    from allod.engine.address import TcpAddress, UnixAddress, trust_of
    from allod.engine.owned import check_not_owned

    if options.socket:
        check_not_owned(settings.home / options.socket)
        return UnixAddress(str(settings.home / options.socket))
    url = read_url(options.url)
    return TcpAddress(url.host, url.port, trust_of(settings.home / options.ca) if url.is_tls else None)


def _key_of(settings: Settings, options: ExternalOptions) -> str:
    """What is sent as the bearer's. Raises Invalid (`no_secret`, `unsafe_secret`, `bad_secret`)."""
    if not options.key_file:
        return ""
    key = read_secret(settings.home / options.key_file).strip()
    if not key.isascii() or not (text := key.decode()).isprintable() or " " in text or not text:
        raise Invalid(f"{options.key_file} holds no key", code="bad_secret", hint="one line of letters and digits")
    return text
