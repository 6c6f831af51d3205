"""Which model file to serve: fetched, and checked as far as it is not checked again when an engine starts on it.
And what is said of models: to clients, and to a policy."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from allod.app.gateway.engine import ECHO_MODEL, Adapter, Prepared, Weights, list_served, run_engine
from allod.app.gateway.external import find_external
from allod.app.gateway.model_choice import AUTO, ECHO, entry_of, is_file_name, keep_pace, name_of_file, read_pace
from allod.app.home import Home
from allod.core.canonical import digest_of
from allod.core.digests import digest_of_hex
from allod.core.errors import Invalid, Unavailable
from allod.core.nations.nation import Nation
from allod.core.requests import Chat, Completion, Sampling, Usage
from allod.engine.engine import Engine
from allod.govern.policy.request import Model
from allod.model.catalogue import CatalogueEntry, MachinePace, best_for
from allod.model.folder import digests_of_folder, read_folder
from allod.model.gguf.header import read_header
from allod.model.store import Progress, Store, digest_of_file
from allod.prove.tlog.begun import is_begun
from allod.serve.served_model import ServedModel, check_names
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings

if TYPE_CHECKING:  # loaded where a release is named: a start of another model need not wait for it
    from allod.app.artefacts.released_models import ReleasedModel, ReleasedModels

A_RELEASE = b'"urn:allod:artefact:v1"'  # in its statement, which stands in the log as it is


def prepare_all(settings: Settings, progress: Progress) -> tuple[Prepared, ...]:
    """All the models that the settings name, each ready to start: as `prepare_weights` has it, or somebody's server.

    Raises what `check_names` raises, adapters' names included, and Unavailable (`memory_short`) where several do not
    fit into this machine's memory together.
    """
    preparation = _Preparation(settings, progress)
    prepared = tuple(preparation.prepare(name) for name in settings.models)
    check_names([served.name for each in prepared for served in list_served(each)])
    if len(prepared) > 1:
        check_memory(sum(each.num_bytes for each in prepared if isinstance(each, Weights)))
    return prepared


def check_memory(needed_bytes: int, meminfo: Path = Path("/proc/meminfo")) -> None:
    """Raise Unavailable (`memory_short`) where less is available than models' files take; not where nobody says."""
    try:
        found = re.search(r"^MemAvailable: +([0-9]+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return
    if found is not None and needed_bytes > int(found[1]) << 10:
        raise Unavailable(
            f"the models take {needed_bytes >> 20} MiB together, and {int(found[1]) >> 10} MiB are available",
            code="memory_short",
            hint="serve fewer of them here, or smaller ones",
        )


def prepare_weights(settings: Settings, progress: Progress) -> Weights | None:
    """The model that the settings name, fetched, with the realm's adapters for it; None where there are none to fetch.

    A name is looked up in the catalogue, then among the realm's releases; an adapter's means the model it is for, too.
    A file of the catalogue that is here already is not read: an engine's start holds it against its digest (`Replica`).
    `auto` measures this machine once, on the catalogue's first model. Raises Invalid and Unavailable, and
    VerificationError for a release that does not hold: nothing runs unsigned.
    """
    prepared = _Preparation(settings, progress).prepare(settings.model.name)
    return prepared if isinstance(prepared, Weights) else None


def find_served(settings: Settings, name: str) -> ServedModel | None:
    """What a gateway that is started with this name would serve; None where nothing is called so.

    A release is checked whole. A file is not read: what is said of it lacks the digest.
    """
    if name == ECHO:
        return ECHO_MODEL
    if is_file_name(name):
        return _describe_file(Path(name), digest="")
    if (external := find_external(settings, name)) is not None:
        return external.served
    entry = entry_of(name, load_catalogue())
    if entry is not None:
        return describe_entry(entry)
    released = _releases(settings)
    artefact = released.find(name) if released else None
    return _describe_release(released.check(artefact)) if released and artefact else None


def describe_entry(entry: CatalogueEntry) -> ServedModel:
    """A model of the catalogue."""
    return ServedModel(
        name=entry.name,
        owner=entry.publisher,
        digest=digest_of_hex(entry.sha256),
        licence=entry.licence,
        country=entry.country,
        informative=entry.informative,
    )


def _describe_release(model: ReleasedModel) -> ServedModel:
    passport = model.passport
    return ServedModel(
        name=passport.name,
        owner=passport.publisher,
        digest=passport.digest,
        licence=passport.licence,
        country=passport.country,
        informative=passport.informative,
        tier=passport.tier,
        markings=passport.markings,
    )


def _describe_file(path: Path, digest: str) -> ServedModel:
    """One's own: what it is, its owner knows."""
    return ServedModel(
        name=name_of_file(path), owner="not known", digest=digest, licence="not known", country="", informative=True
    )


def _releases(settings: Settings) -> ReleasedModels | None:
    """The realm's releases; None where its log names none. A log that is damaged is refused by who opens it."""
    log = Home(settings.home).artefacts
    if not is_begun(log) or A_RELEASE not in (log / "segment").read_bytes():
        return None
    from allod.app.artefacts.released_models import ReleasedModels

    return ReleasedModels(settings)


def catalogue_models(nation: Nation) -> dict[str, Model]:
    """Those of the catalogue by name, as a policy is told of them."""
    return {entry.name: describe_model(describe_entry(entry), nation) for entry in load_catalogue()}


def describe_model(served: ServedModel, nation: Nation) -> Model:
    """A model as the policy is told of it. Raises Invalid (`unknown_label`) for words that the nation does not have."""
    label = nation.label(served.tier, markings=served.markings)
    return Model(served.name, label, served.licence, served.country, served.informative)


def model_called(name: str, settings: Settings, nation: Nation) -> Model | None:
    """What a gateway that is started with this name would serve, as a policy is told of it; None where nothing is."""
    served = find_served(settings, name)
    return None if served is None else describe_model(served, nation)


class _Preparation:
    """The preparation of one start's models. The realm's releases are read once, however many models there are."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress

    @cached_property
    def _released(self) -> ReleasedModels | None:
        return _releases(self._settings)

    def prepare(self, name: str) -> Prepared:
        """The model of that name, ready to start."""
        if name == ECHO:
            return None
        if (external := find_external(self._settings, name)) is not None:
            return external
        if name == AUTO:
            weights = self._of_catalogue(self._choose())
        elif is_file_name(name):
            weights = _own_weights(Path(name).absolute(), self._progress)
        else:
            weights = self._find_named(name)
        self._progress("checking adapters", 0, 0)
        if self._released is None:
            return weights
        adapters = [self._released.check(adapter) for adapter in self._released.adapters_of(weights.served.digest)]
        return replace(weights, adapters=tuple(_adapter(adapter, weights) for adapter in adapters))

    def _find_named(self, name: str) -> Weights:
        """What the name or the digest stands for. Raises Invalid (`model_unknown`) with the names there are."""
        catalogue, released = load_catalogue(), self._released
        entry = entry_of(name, catalogue)
        if entry is not None:
            return self._of_catalogue(entry)
        artefact = released.find(name) if released else None
        if released is None or artefact is None:
            own = [*(released.newest() if released else ()), *self._settings.external]
            known = ", ".join([AUTO, *(item.name for item in catalogue), *own])
            raise Invalid(f"no model is called {name!r}", code="model_unknown", hint=f"there are: {known}; or a file")
        if artefact.base is not None:
            return self._find_named(artefact.base)
        self._progress(f"checking {name}", 0, 0)
        model = released.check(artefact)
        return Weights(model.checked.weights, _describe_release(model), model.header)

    def _choose(self) -> CatalogueEntry:
        """The best model for this machine. What was measured is kept: the second start does not measure again."""
        catalogue, pace = load_catalogue(), read_pace(self._settings)
        if pace is None:
            reference = self._of_catalogue(catalogue[0])
            self._progress("measuring this machine", 0, 0)
            pace = asyncio.run(_measure(self._settings, reference))
            keep_pace(self._settings, pace)
        return best_for(catalogue, pace)

    def _of_catalogue(self, entry: CatalogueEntry) -> Weights:
        """The entry's file, fetched if it is not here."""
        home = Home(self._settings.home)
        path = Store(home.store).find(entry.sha256) or _fetch(home, entry, self._progress)
        return Weights(path, describe_entry(entry), read_header(path))


def _fetch(home: Home, entry: CatalogueEntry, progress: Progress) -> Path:
    from allod.model.fetch import ensure

    return ensure(entry, Store(home.store), directory=home.models, progress=progress)


def _adapter(model: ReleasedModel, weights: Weights) -> Adapter:
    return Adapter(model.checked.weights, replace(_describe_release(model), base=weights.served.name))


def _own_weights(path: Path, progress: Progress) -> Weights:
    is_folder = path.is_dir() and path.suffix.lower() != ".gguf"
    header = read_folder(path) if is_folder else read_header(path)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}", name_of_file(path)) is None:
        raise Invalid(f"{path.name!r} cannot name a model", code="model_name", hint="letters, digits, . _ - and spaces")
    if is_folder:
        progress(f"reading {path.name}", 0, 0)
        files = digests_of_folder(path)
        if read_folder(path) != header:
            raise Invalid(f"{path} was changed while it was read", code="model_digest", hint="start again")
        return Weights(path, _describe_file(path, digest_of(files)), header, files=files)
    return Weights(path, _describe_file(path, digest_of_hex(digest_of_file(path, progress))), header)


async def _measure(settings: Settings, weights: Weights) -> MachinePace:
    """Seconds per token of the reference model, prompt and answer apart. Runs in the seal, like everything."""
    text = " ".join(f"{number} times {number} is {number * number}." for number in range(40))
    async with run_engine(settings, weights) as engine:
        await _time_answer(engine, "Hello.", num_tokens=4)  # wakes memory and caches
        first_s, _, usage = await _time_answer(engine, text, num_tokens=1)
        whole_s, until_first_s, answered = await _time_answer(engine, text, num_tokens=33)
    num_decoded = max(answered.completion_tokens - 1, 1)
    return MachinePace(
        prefill_s=first_s / max(usage.prompt_tokens, 1), decode_s=(whole_s - until_first_s) / num_decoded
    )


async def _time_answer(engine: Engine, text: str, *, num_tokens: int) -> tuple[float, float, Usage]:
    """Seconds to the end, seconds to the first token, and what was counted."""
    sampling = Sampling(seed=1, temperature=0.0, max_tokens=num_tokens)
    chat = Chat(model="", messages=({"role": "user", "content": text},), sampling=sampling)
    begin, first_s, usage = time.perf_counter(), 0.0, Usage()
    async for item in engine.stream(chat, salt=""):
        if isinstance(item, Completion):
            usage = item.usage
        else:
            first_s = first_s or time.perf_counter() - begin
    return time.perf_counter() - begin, first_s, usage
