"""What no answer can say: the names of the model's control tokens, which are no text when a model writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from allod.serve.schemas.bounds import refused
from allod.serve.schemas.judge import Asked
from allod.serve.schemas.places import places

_SAID = ("const", "enum", "required")  # keywords whose texts stand in answers as they are


def check_sayable(asked: Iterable[Asked], names: Sequence[str]) -> None:
    """Raise Invalid (`invalid_schema`) where the model is to be held to a text with one of `names` in it.

    To be called once the schemas' sizes are known to be within bounds.
    """
    for one in asked:
        if one.is_grammar and _first(names, one.schema):  # as good as never, and told in one look at all of it
            for place, schema in places(one.schema):
                if name := _first(names, [schema.get(keyword) for keyword in _SAID]):
                    raise refused(f"{name} at {place} is a control token of the model, and no text", param=one.param)


def _first(names: Sequence[str], value: object) -> str | None:
    text = json.dumps(value, ensure_ascii=False)
    return next((name for name in names if name in text), None)
