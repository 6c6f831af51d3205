"""Step 6: from a model's name to what answers for it. One candidate for each model: a pool of replicas is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from allod.core.errors import Invalid, Unavailable
from allod.core.labels import Tier
from allod.engine.engine import Engine, EnginePlace
from allod.govern.policy.request import PolicySite
from allod.serve.admission import Admission
from allod.serve.fair_scheduler import QueueSnapshot
from allod.serve.served_model import ServedModel, check_names


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An engine, the turns at it, and what is served from it: a model, then the adapters over that.

    Raises Invalid (`adapter_not_loaded`) for an adapter that the engine does not hold as it is described: its answers
    would be the model's own under another name.
    """

    engine: Engine
    models: tuple[ServedModel, ...]
    admission: Admission

    def __post_init__(self) -> None:
        model, *adapters = self.models
        described = {(adapter.name, adapter.digest, adapter.base) for adapter in adapters}
        if wrong := described ^ {(held.name, held.digest, model.name) for held in self.engine.info.adapters}:
            name = min(wrong)[0]
            raise Invalid(
                f"{name!r} is no adapter over {model.name!r} that the engine holds", code="adapter_not_loaded"
            )


class Router:
    """Which candidate answers for which model. Raises what `check_names` raises."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = tuple(candidates)
        check_names([served.name for candidate in self.candidates for served in candidate.models])
        self.models = {served.name: served for candidate in self.candidates for served in candidate.models}
        self._by_model = {served.name: candidate for candidate in self.candidates for served in candidate.models}

    @property
    def first(self) -> Candidate:
        """What stands for the gateway where no model is named: the one that was named first when it was started."""
        return self.candidates[0]

    def route(self, model: str) -> Candidate:
        """What answers for that model, which is known to be served."""
        return self._by_model[model]

    def check_ready(self) -> None:
        """Raise Unavailable, with the reason, while an engine is not ready. Whoever asks may not know of the model."""
        num_engines = len(self.candidates)
        for candidate in self.candidates:
            with say_whose(f"of {num_engines} engines one is not ready", num_engines):
                candidate.engine.check_ready()

    @property
    def num_inside(self) -> int:
        """Requests that run or wait, at all engines."""
        return sum(candidate.admission.inside for candidate in self.candidates)

    @property
    def num_slots(self) -> int:
        """Requests that run at a time, at all engines."""
        return sum(candidate.engine.info.slots for candidate in self.candidates)

    def snapshots(self) -> Iterator[tuple[int, list[QueueSnapshot]]]:
        """Of each engine: how many requests run at a time, and what each tenant has waiting and running."""
        for candidate in self.candidates:
            yield candidate.engine.info.slots, candidate.admission.snapshots()


def sites_of(router: Router, tier: Tier, *, here: str, lowest: Tier) -> Callable[[str], PolicySite]:
    """Where a model is served now, as a policy is told of it. At the site `here` nothing above `tier` may be processed,
    and elsewhere, for which nobody has accredited it, nothing above the `lowest`.

    The same value for the same place and seal: by that a decision is remembered.
    """

    @lru_cache(maxsize=64)
    def site_in(place: EnginePlace, seal: str) -> PolicySite:
        return PolicySite(place.site, place.jurisdiction, tier if place.site == here else lowest, seal)

    def site_of(model: str) -> PolicySite:
        info = router.route(model).engine.info
        return site_in(info.place, info.seal)

    return site_of


@contextmanager
def say_whose(whose: str, num_engines: int) -> Iterator[None]:
    """Of several engines: an Unavailable that is raised inside says of which it speaks."""
    try:
        yield
    except Unavailable as error:
        if num_engines == 1:
            raise
        raise error.restate(f"{whose}: {error.message}") from error
