"""Why a request would be decided as it would: the question that the main path would ask, and the policy's answer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from allod.app.administration.explanations import Json, describe_explanation
from allod.app.administration.questions import Question, Questions
from allod.app.gateway.realm import Realm
from allod.govern.policy.explain import explain

_Word = Annotated[str, msgspec.Meta(max_length=256)]


class ExplainBody(msgspec.Struct, forbid_unknown_fields=True):
    """A request as it might come in: a `Question` with bounds on its words."""

    tenant: _Word = "local"
    tier: _Word = ""
    markings: Annotated[list[_Word], msgspec.Meta(max_length=64)] = []
    purpose: _Word | None = None
    action: Literal["chat", "embed"] = "chat"
    model: _Word | None = None
    key: _Word | None = None


class Explanations:
    """Of the policy in force, over one realm."""

    def __init__(self, realm: Realm) -> None:
        self._controls = realm.gateway.controls
        self._questions = Questions(self._controls, realm.store, realm.models)

    @property
    def models(self) -> list[str]:
        """What can be asked about, the served one first."""
        return list(self._questions.models)

    def explain(self, body: ExplainBody, now_ms: int) -> Json:
        """The answer to `body`. Blocks. Raises Invalid for words, tenants, keys and models that there are not."""
        asked = self._questions.request_for(Question(**msgspec.structs.asdict(body)), now_ms)
        policy = self._controls.policy
        told = explain(policy, asked, self._questions.models.values())
        return describe_explanation(policy, asked, told)
