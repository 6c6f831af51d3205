"""`allod model list`, `get`, `show`, `check`, `affected-by`: the models there are, and what is behind them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from allod.app.artefacts.released_models import ReleasedModels
from allod.app.gateway.model_choice import entry_of, is_file_name
from allod.app.gateway.weights import prepare_weights
from allod.app.home import Home, load_settings
from allod.app.training.lineage import LEARNT, UNKNOWN, Trace, trace_document
from allod.cli.json_text import json_text
from allod.cli.model_output import print_walk, walk_json
from allod.cli.progress import show_progress
from allod.cli.steps import print_failed, print_step, steps_before
from allod.core.digests import digest_of_hex, hex_of
from allod.core.errors import Invalid, VerificationError
from allod.core.shown_text import make_plain
from allod.model.catalogue import CatalogueEntry
from allod.model.gguf.header import read_header
from allod.model.store import Store, check_digest, digest_of_file
from allod.prove.releases.release import STEPS
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings

_SHOWN_OF_HEADER = frozenset({"architecture", "num_parameters", "context_tokens", "template_digest", "has_template"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    listing = parts.add_parser("list", help="the catalogue and what of it is here, and the realm's own releases")
    getting = parts.add_parser("get", help="fetch and check a model without starting it")
    getting.add_argument("name", nargs="?", metavar="NAME", help="a name of the catalogue (auto)")
    showing = parts.add_parser("show", help="from a model back through its stages to every source")
    showing.add_argument("model", metavar="NAME|DIGEST|FILE")
    checking = parts.add_parser(
        "check", help="verify a release: signature, log, stages, sources; of another file, whether it passes the gate"
    )
    checking.add_argument("model", metavar="NAME|DIGEST|FILE")
    affecting = parts.add_parser("affected-by", help="the models that learnt from a document")
    affecting.add_argument("document", metavar="DOCUMENT", help="its id, its SHA-256, or a file with its text")
    for part in (listing, showing, checking, affecting):
        part.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """One of the parts."""
    parts = {"list": _list, "get": _get, "show": _show, "check": _check, "affected-by": _show_affected}
    return parts[arguments.part](arguments)


def _list(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    rows = [*_catalogue_rows(settings), *_rows_of_releases(settings)]
    if arguments.json:
        print(json_text(rows))
        return 0
    for row in rows:
        size, publisher = f"{row['size_bytes'] / 1e6:.0f} MB", f"{row['publisher']} ({row['country']})"
        where = "here" if row["here"] else "-"
        what = "" if row["origin"] == "catalogue" else f"  {row['kind']}, released here"
        print(f"{row['name']:22} {size:>8}  {row['licence']:11} {publisher:26} {where}{what}")
    return 0


def _catalogue_rows(settings: Settings) -> list[dict[str, Any]]:
    store = Store(Home(settings.home).store)
    return [
        {
            "name": entry.name,
            "origin": "catalogue",
            "kind": "model",
            "size_bytes": entry.size_bytes,
            "licence": entry.licence,
            "publisher": entry.publisher,
            "country": entry.country,
            "sha256": entry.sha256,
            "here": store.find(entry.sha256) is not None,
        }
        for entry in load_catalogue()
    ]


def _rows_of_releases(settings: Settings) -> list[dict[str, Any]]:
    """The realm's own. One that does not hold is not here: nothing could be done with it."""
    released = ReleasedModels(settings)
    rows = []
    for name, artefact in released.newest().items():
        row: dict[str, Any] = {
            "name": name, "origin": "released", "kind": artefact.kind, "size_bytes": 0, "licence": "not known",
            "publisher": settings.realm.name, "country": settings.realm.jurisdiction,
            "sha256": hex_of(artefact.artefact_digest), "here": False,
        }  # fmt: skip
        try:
            model = released.check(artefact)
        except (Invalid, VerificationError):
            rows.append(row)
            continue
        passport = model.passport
        size = model.checked.weights.stat().st_size
        rows.append(
            {**row, "size_bytes": size, "licence": passport.licence, "publisher": passport.publisher, "here": True}
        )
    return rows


def _get(arguments: argparse.Namespace) -> int:
    settings = load_settings({"model.name": arguments.name})
    with show_progress() as progress:
        weights = prepare_weights(settings, progress)
        if weights is not None:
            check_digest(weights.path, hex_of(weights.served.digest), progress)
    if weights is not None:
        print(f"{weights.served.name} {weights.served.digest}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    word = _word(arguments.model)
    entry = entry_of(word, load_catalogue())
    if entry is not None:
        return _show_imported(entry, as_json=arguments.json)
    released = ReleasedModels(settings)
    artefact = released.find(word)
    if artefact is None:
        raise _unknown(arguments.model, released)
    model = released.check(artefact)
    if arguments.json:
        print(json_text(walk_json(model)))
    else:
        print_walk(model)
    return 0


def _show_imported(entry: CatalogueEntry, *, as_json: bool) -> int:
    if as_json:
        row = {"name": entry.name, "digest": digest_of_hex(entry.sha256), "licence": entry.licence}
        print(json_text({**row, "origin": "imported", "publisher": entry.publisher, "country": entry.country}))
        return 0
    print(f"{entry.name}  {digest_of_hex(entry.sha256)}")
    print(entry.origin_note)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """0 if every step holds, else 1."""
    released = ReleasedModels(load_settings())
    word = _word(arguments.model)
    artefact = released.find(word)
    if artefact is None and is_file_name(arguments.model):
        return _check_file(Path(arguments.model), entry_of(word, load_catalogue()), as_json=arguments.json)
    if artefact is None:
        raise _unknown(arguments.model, released)
    try:
        steps = released.check(artefact).checked.steps
    except VerificationError as error:
        if arguments.json:
            failed = {"number": error.step, "name": error.name, "detail": error.message}
            print(json_text({"name": artefact.name, "verified": False, "failed": failed}))
        else:
            for step in steps_before(error, STEPS):
                print_step(step)
            print_failed(error)
        return 1
    if arguments.json:
        print(json_text({"name": artefact.name, "verified": True, "steps": [asdict(step) for step in steps]}))
        return 0
    for step in steps:
        print_step(step)
    print("verified")
    return 0


def _check_file(file: Path, entry: CatalogueEntry | None, *, as_json: bool) -> int:
    """1: what was not released here cannot be verified, though it passes the gate. Raises Invalid where it does not."""
    header = read_header(file)
    why = "it was not released here: its training is not known"
    if entry is not None:
        why = f"{entry.name} is {entry.origin_note}"
    if as_json:
        facts = {key: value for key, value in asdict(header).items() if key in _SHOWN_OF_HEADER}
        failed = {"number": 0, "name": "release", "detail": why}
        print(json_text({"name": str(file), "verified": False, "gate": facts, "failed": failed}))
        return 1
    sizes = f"{header.num_parameters:,} parameters, {header.context_tokens:,} tokens of context"
    template = f"chat template {header.template_digest}" if header.has_template else "no chat template"
    print(f"gate: passed: {make_plain(header.architecture, limit=200)}, {sizes}, {template}")
    print(f"not verified: {why}; `allod up --model` serves it")
    return 1


def _show_affected(arguments: argparse.Namespace) -> int:
    """0; 1 where a model could not be looked into, so that the list may lack something, and where no record has the
    document: that shows nothing, for it may be meant by another name."""
    traces = trace_document(ReleasedModels(load_settings()), arguments.document)
    if arguments.json:
        print(json_text([asdict(trace) for trace in traces]))
    else:
        for trace in traces:
            print(f"{trace.model:22} {trace.digest[:23]}…  {_sentence_of(trace)}")
        num_models = len({trace.digest for trace in traces if trace.how == LEARNT})
        if not traces:
            print(f"{make_plain(arguments.document, limit=200)}: no release here has a record of such a document")
        print(f"{num_models} {'model' if num_models == 1 else 'models'} learnt from it")
        print("what imported models learnt from is not known here")
    return 1 if not traces or any(trace.how == UNKNOWN for trace in traces) else 0


def _sentence_of(trace: Trace) -> str:
    through = f", through its base {trace.base}" if trace.base else ""
    if trace.how == UNKNOWN:
        return f"cannot be told: {trace.reason or 'its base cannot be looked into'}{through}"
    instead = f"; {trace.instead} stays" if trace.instead else ""
    rule = f" ({trace.rule}{instead})" if trace.rule else ""
    where = f": dropped at {trace.stage}{rule}" if trace.stage else ""
    return f"{trace.document}: {trace.how}{where}{through}"


def _word(word: str) -> str:
    """A name or a digest as it is; a file as the digest of what it holds."""
    if not is_file_name(word):
        return word
    path = Path(word)
    if not path.exists():
        raise Invalid(f"there is no file {word}", code="model_unreadable")
    with show_progress() as progress:
        return digest_of_hex(digest_of_file(path, progress))


def _unknown(word: str, released: ReleasedModels) -> Invalid:
    known = ", ".join(released.newest()) or "none"
    hint = f"released are: {known}"
    if (entry := entry_of(word, load_catalogue())) is not None:
        hint += f"; `allod model get {entry.name}` checks what the catalogue has under this name"
    return Invalid(f"no model {word!r} was released here", code="model_unknown", hint=hint)
