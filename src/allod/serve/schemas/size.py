"""How large a client's schema is: read first of all, where the request is, so that what follows has a bound."""

from __future__ import annotations

from typing import Any

from allod.core.requests import Json
from allod.engine.giving_way import give_way
from allod.engine.schemas.refusal import refusal
from allod.serve.schemas.bounds import LIMITS

HOLDING_A_TURN = 300  # objects and lists, 0.3 ms or so, before others have their turn


async def check_size(schema: Json, *, param: str, num_before: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Raise Invalid (`invalid_schema`) where a schema is too large or too deep to be read at all.

    Others have their turn in between. `num_before` are the values and characters of other schemas of the request;
    returned with this one's added.
    """
    num_values, num_characters = num_before
    holding: list[Any] = [schema]  # objects and lists of this level
    num_here = 1  # values of this level
    longest = length = 0  # of pointers: of the longest at this level, and of all so far at most
    for _ in range(LIMITS.depth):
        num_values += num_here
        length += longest * num_here
        if length > LIMITS.pointers:
            raise refusal("names too long for how much they hold", param=param)
        below: list[Any] = []
        num_here = name = 0
        for number, value in enumerate(holding):
            if number % HOLDING_A_TURN == HOLDING_A_TURN - 1:
                await give_way()
            num_here += len(value)
            if isinstance(value, dict):
                num_values += len(value)
                lengths = list(map(len, value))
                num_characters += sum(lengths)
                name = max(name, *lengths, 0)
                value = value.values()
            if num_values + num_here <= LIMITS.values:  # else there is no need to look
                below += [each for each in value if isinstance(each, dict | list)]
                num_characters += sum([len(each) if isinstance(each, str) else 1 for each in value])
            if num_values + num_here > LIMITS.values or num_characters > LIMITS.characters:
                what = f"more than {LIMITS.values} values or {LIMITS.characters} characters, all schemas together"
                raise refusal(what, param=param)
        if not num_here:
            return num_values, num_characters
        holding, longest = below, longest + name
    raise refusal(f"nested more than {LIMITS.depth} deep", param=param)
