"""The values of the main path: what an answer's receipt commits to."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.canonical import canonical_json
from allod.core.errors import Invalid
from allod.core.requests import Completion, Sampling, ToolCall, Usage, new_request_id

texts = st.text(st.characters(exclude_categories=["Cs"]))
calls = st.lists(st.builds(ToolCall, name=texts, arguments=texts), max_size=3).map(tuple)


@given(st.none() | texts, calls)
def test_the_committed_bytes_are_canonical(content: str | None, tool_calls: tuple[ToolCall, ...]) -> None:
    """The short cut for plain answers and the long way for calls are the same function: RFC 8785 of two keys."""
    committed = Completion(content, "stop", Usage(), tool_calls).committed_bytes()
    spelled = [{"name": call.name, "arguments": call.arguments} for call in tool_calls]
    assert committed == canonical_json({"content": content, "tool_calls": spelled})


def test_the_commitment_is_to_what_was_said_and_nothing_else() -> None:
    """Usage, log-probabilities and the reason for the end do not change the committed bytes."""
    plain = Completion("yes", "stop", Usage())
    adorned = Completion("yes", "length", Usage(1, 2, 3), logprobs=({"token": "yes"},))
    assert plain.committed_bytes() == adorned.committed_bytes()


@given(texts, texts)
def test_no_two_answers_share_their_bytes(one: str, other: str) -> None:
    """Different texts never commit alike, whatever quotes and braces they contain."""
    same = Completion(one, "stop", Usage()).committed_bytes() == Completion(other, "stop", Usage()).committed_bytes()
    assert same == (one == other)


@pytest.mark.parametrize("tool_calls", [(), (ToolCall("f", "{}"),)], ids=["short cut", "long way"])
def test_half_a_character_has_no_bytes(tool_calls: tuple[ToolCall, ...]) -> None:
    """A lone surrogate is Invalid by both ways, never a codec's own error."""
    with pytest.raises(Invalid) as caught:
        Completion("\ud800", "stop", Usage(), tool_calls).committed_bytes()
    assert caught.value.code == "not_canonical"


def test_saying_nothing_differs_from_calling() -> None:
    """Null content and empty content are different answers."""
    none = json.loads(Completion(None, "tool_calls", Usage()).committed_bytes())
    empty = json.loads(Completion("", "stop", Usage()).committed_bytes())
    assert (none["content"], empty["content"]) == (None, "")


def test_values_on_the_path_do_not_change() -> None:
    """A value that is recorded must be the value that was answered."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling(seed=1).seed = 2  # type: ignore[misc]


def test_ids_sort_by_the_time_that_they_begin_with() -> None:
    """Their index grows at its end; within a millisecond no two are alike."""
    times = [1, 15, 16, 1_700_000_000_000, 1_700_000_000_001, (1 << 48) - 1]
    ids = [new_request_id(time) for time in times]
    assert sorted(ids) == ids
    assert [int(each[:12], 16) for each in ids] == times
    assert len({new_request_id(5) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("now_ms", [-1, 0, 1 << 48, -(1 << 63)])
def test_a_clock_that_is_wrong_names_requests_all_the_same(now_ms: int) -> None:
    """Whoever is told that the clock is wrong is told so under an id."""
    assert re.fullmatch(r"[0-9a-f]{32}", new_request_id(now_ms))
