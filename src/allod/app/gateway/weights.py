"""Which model file to serve: fetched, and checked as far as it is not checked again when an engine starts on it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from allod.app.gateway.engine import Adapter, Weights, run_engine
from allod.app.gateway.model_choice import AUTO, ECHO, entry_of, is_file_name, keep_pace, read_pace
from allod.app.home import Home
from allod.core.digests import digest_of_hex
from allod.core.errors import Invalid, Unavailable
from allod.core.requests import Chat, Completion, Sampling, Usage
from allod.engine.engine import Engine
from allod.model.catalogue import CatalogueEntry, MachinePace, best_for
from allod.model.gguf.header import read_header
from allod.model.store import Progress, Store, digest_of_file
from allod.prove.tlog.begun import is_begun
from allod.serve.served_model import ServedModel
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings

if TYPE_CHECKING:  # loaded where a release is named: a start of another model need not wait for it
    from allod.app.artefacts.released_models import ReleasedModel, ReleasedModels

A_RELEASE = b'"urn:allod:artefact:v1"'  # in its statement, which stands in the log as it is


def prepare_all(settings: Settings, progress: Progress) -> tuple[Weights | None, ...]:
    """All the models that the settings name, each as `prepare_weights` has it.

    Raises Invalid (`model_name`) for one that is named twice, and Unavailable (`memory_short`) where several do not fit
    into this machine's memory together.
    """
    prepared = tuple(
        prepare_weights(replace(settings, model=replace(settings.model, name=name)), progress)
        for name in settings.models
    )
    names = [ECHO if weights is None else weights.served.name for weights in prepared]
    if twice := [name for name in names if names.count(name) > 1]:
        raise Invalid(f"the model {twice[0]} is named twice", code="model_name", hint="each is served once")
    if len(prepared) > 1:
        check_memory(sum(weights.path.stat().st_size for weights in prepared if weights is not None))
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
    """The model that the settings name, fetched, with the realm's adapters for it; None for echo.

    A name is looked up in the catalogue, then among the realm's releases; an adapter's means the model it is for, too.
    A file of the catalogue that is here already is not read: an engine's start holds it against its digest (`Replica`).
    `auto` measures this machine once, on the catalogue's first model. Raises Invalid and Unavailable, and
    VerificationError for a release that does not hold: nothing runs unsigned.
    """
    name = settings.model.name
    if name == ECHO:
        return None
    catalogue = load_catalogue()
    released = _releases(settings)
    if name == AUTO:
        weights = _catalogue_weights(settings, _choose(settings, catalogue, progress), progress)
    elif is_file_name(name):
        weights = _own_weights(Path(name).absolute(), progress)
    else:
        weights = _find_named(settings, name, catalogue, released, progress)
    progress("checking adapters", 0, 0)
    if released is None:
        return weights
    adapters = [_adapter(released.check(adapter), weights) for adapter in released.adapters_of(weights.served.digest)]
    return replace(weights, adapters=tuple(adapters))


def find_released(settings: Settings, name: str) -> ServedModel | None:
    """What a release of that name would be served as, once all behind it was checked; None where there is none."""
    released = _releases(settings)
    artefact = released.find(name) if released else None
    return _as_served(released.check(artefact)) if released and artefact else None


def _releases(settings: Settings) -> ReleasedModels | None:
    """The realm's releases; None where its log names none. A log that is damaged is refused by who opens it."""
    log = Home(settings.home).artefacts
    if not is_begun(log) or A_RELEASE not in (log / "segment").read_bytes():
        return None
    from allod.app.artefacts.released_models import ReleasedModels

    return ReleasedModels(settings)


def _catalogue_weights(settings: Settings, entry: CatalogueEntry, progress: Progress) -> Weights:
    home = Home(settings.home)
    path = Store(home.store).find(entry.sha256) or _fetch(home, entry, progress)
    served = ServedModel(
        name=entry.name,
        owner=entry.publisher,
        digest=digest_of_hex(entry.sha256),
        licence=entry.licence,
        country=entry.country,
        informative=entry.informative,
    )
    return Weights(path, served, read_header(path))


def _fetch(home: Home, entry: CatalogueEntry, progress: Progress) -> Path:
    from allod.model.fetch import ensure

    return ensure(entry, Store(home.store), directory=home.models, progress=progress)


def _find_named(
    settings: Settings,
    name: str,
    catalogue: tuple[CatalogueEntry, ...],
    released: ReleasedModels | None,
    progress: Progress,
) -> Weights:
    """What the name or the digest stands for. Raises Invalid (`model_unknown`) with the names there are."""
    entry = entry_of(name, catalogue)
    if entry is not None:
        return _catalogue_weights(settings, entry, progress)
    artefact = released.find(name) if released else None
    if released is None or artefact is None:
        known = ", ".join(["auto", *(item.name for item in catalogue), *(released.newest() if released else ())])
        raise Invalid(f"no model is called {name!r}", code="model_unknown", hint=f"there are: {known}; or a file")
    if artefact.base is not None:
        return _find_named(settings, artefact.base, catalogue, released, progress)
    progress(f"checking {name}", 0, 0)
    model = released.check(artefact)
    return Weights(model.checked.weights, _as_served(model), model.header)


def _adapter(model: ReleasedModel, weights: Weights) -> Adapter:
    return Adapter(model.checked.weights, replace(_as_served(model), base=weights.served.name))


def _as_served(model: ReleasedModel) -> ServedModel:
    told = model.passport
    return ServedModel(
        name=told.name,
        owner=told.publisher,
        digest=told.digest,
        licence=told.licence,
        country=told.country,
        informative=told.informative,
        tier=told.tier,
        markings=told.markings,
    )


def _own_weights(path: Path, progress: Progress) -> Weights:
    header = read_header(path)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}", path.stem) is None:
        raise Invalid(f"{path.name!r} cannot name a model", code="model_name", hint="letters, digits, . _ - and spaces")
    digest = digest_of_file(path, progress)
    served = ServedModel(
        name=path.stem,
        owner="not known",
        digest=digest_of_hex(digest),
        licence="not known",
        country="",
        informative=True,
    )
    return Weights(path, served, header)


def _choose(settings: Settings, catalogue: tuple[CatalogueEntry, ...], progress: Progress) -> CatalogueEntry:
    """The best model for this machine. What was measured is kept: the second start does not measure again."""
    pace = read_pace(settings)
    if pace is None:
        reference = _catalogue_weights(settings, catalogue[0], progress)
        progress("measuring this machine", 0, 0)
        pace = asyncio.run(_measure(settings, reference))
        keep_pace(settings, pace)
    return best_for(catalogue, pace)


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
