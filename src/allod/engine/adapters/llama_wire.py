"""What llama.cpp's server says of its slots."""

from __future__ import annotations

import msgspec

from allod.core.errors import Unavailable
from allod.engine.adapters.openai_wire import Count, decode, read_refusal
from allod.engine.http import Response


class Slot(msgspec.Struct):
    """What a slot does, or did last. `n_prompt_tokens`: of the prompt and the answer, as far as they were computed."""

    id: int
    is_processing: bool = False
    n_prompt_tokens: Count = 0
    n_prompt_tokens_cache: Count = 0


_slots = msgspec.json.Decoder(list[Slot])


def read_slot(response: Response, number: int) -> Slot:
    """One slot of a response to `GET /slots`. Raises Unavailable where it is not there."""
    if response.status != 200:
        raise read_refusal(response)
    for slot in decode(_slots, response.body):
        if slot.id == number:
            return slot
    raise Unavailable("the engine does not know its slot", code="engine_response")
