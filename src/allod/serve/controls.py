"""What decides on a request, and whether it is current: policy, the site it speaks of, and what may have gone wrong.

A control that cannot be checked says no: without a policy that verifies, or behind on the ledger, nothing is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import is_
from typing import Literal

from allod.core.errors import AllodError, Unavailable
from allod.core.labels import Label
from allod.core.nations.nation import Nation
from allod.engine.giving_way import give_way
from allod.govern.identifiers import markings_in
from allod.govern.policy.decision import Decision, Policy
from allod.govern.policy.request import Model, PolicyRequest, PolicySite
from allod.govern.tenancy.keys import Caller

SLICE_CHARS = 1 << 12  # read in 14 ms at worst, something invisible beside each digit
OVERLAP_CHARS = 1 << 11  # longer than any identifier with its spaces, each character in twelve of an escape, and more
NUM_REMEMBERED = 4096  # decisions, the last of each key
BETWEEN = "\n|\n"  # two strings: years in a list are no card number


def _slices(strings: Iterable[str]) -> Iterator[str]:
    """All of `strings` in pieces of a bounded length, each with the end of the one before it."""
    gathered: list[str] = []
    num_chars = 0
    for text in strings:
        gathered.append(text)
        num_chars += len(text) + len(BETWEEN)
        if num_chars < SLICE_CHARS:
            continue
        joined = BETWEEN.join(gathered)
        for start in range(0, len(joined), SLICE_CHARS):
            yield joined[start : start + SLICE_CHARS + OVERLAP_CHARS]
        gathered = [joined[-OVERLAP_CHARS:]]
        num_chars = len(gathered[0])
    yield BETWEEN.join(gathered)


class Controls:
    """The rules in force at one gateway. `models` are those that it serves, the first of which is meant where none is
    named. `site` is where a model is served, and asked each time: a restarted engine may have another seal."""

    def __init__(
        self,
        *,
        policy: Policy,
        nation: Nation,
        models: Sequence[Model],
        site: Callable[[str], PolicySite],
    ) -> None:
        self.policy = policy
        self.nation = nation
        self.models = {model.name: model for model in models}
        self.site = site
        self._faults: dict[str, AllodError] = {}
        self._decided: dict[tuple[str, str], tuple[tuple[object, ...], Decision]] = {}

    @property
    def model(self) -> Model:
        """What is meant where no model is named."""
        return next(iter(self.models.values()))

    async def label(self, declared: Label, strings: Iterable[str], model: str) -> Label:
        """Step 3: what was declared, with the markings that `strings` call for and the model's own label.

        A long text, or many, are read in slices, and others have their turn in between.
        """
        label = declared.join(self.models[model].label)
        for number, text in enumerate(_slices(strings)):
            if number:
                await give_way()
            found = markings_in(text, self.nation)
            if not found <= label.markings:
                label = label.join(self.nation.label(markings=found))
        return label

    def decide(self, caller: Caller, action: Literal["chat", "embed"], label: Label, model: str) -> Decision:
        """Step 4. Raises Unavailable, with the reason, while a control cannot be checked."""
        self.check()
        asked = self.request_for(caller, action, label, model)
        about = (self.policy, caller, label, asked.model, asked.site)
        remembered = self._decided.get((caller.key.id, action))
        if remembered is not None and all(map(is_, remembered[0], about)):  # the very values, none of which can change
            return remembered[1]
        decision = self.policy.decide(asked)
        if decision.fault is None:
            if len(self._decided) >= NUM_REMEMBERED:
                self._decided.clear()
            self._decided[caller.key.id, action] = about, decision
        return decision

    def request_for(self, caller: Caller, action: Literal["chat", "embed"], label: Label, model: str) -> PolicyRequest:
        """The question that the policy is asked."""
        return PolicyRequest(
            action=action,
            tenant_id=caller.tenant.id,
            key_id=caller.key.id,
            clearance=caller.clearance,
            models=caller.scope.models,
            model=self.models[model],
            label=label,
            site=self.site(model),
        )

    def check(self) -> None:
        """Raise what is wrong with a control, if anything is."""
        for error in self._faults.values():
            raise Unavailable(error.message, code=error.code, hint=error.hint, retry_after_s=2)

    def report(self, control: str, error: AllodError | None) -> bool:
        """Note that a control failed, or works again (None). Whether that is news."""
        is_news = (control in self._faults) != (error is not None)
        if error is None:
            self._faults.pop(control, None)
        else:
            self._faults[control] = error
        return is_news
