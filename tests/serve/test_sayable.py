"""A schema may name a control token where a model need not write it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from allod.core.errors import Invalid
from allod.serve.schemas.judge import Asked
from allod.serve.schemas.sayable import check_sayable

NAMES = ("<|im_end|>", "<|im_start|>")
TEXT = "say <|im_end|> now"


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"const": TEXT}, "#"),
        ({"properties": {"a": {"enum": ["b", TEXT]}}}, "#/properties/a"),
        ({"items": {"const": {"a": [TEXT]}}}, "#/items"),
        ({"required": [TEXT]}, "#"),
    ],
)
def test_what_a_model_would_have_to_write_is_refused(schema: dict[str, Any], place: str) -> None:
    """By name and place: asked again it could no more be written. What only judges a call afterwards may say it."""
    with pytest.raises(Invalid) as caught:
        check_sayable([Asked(schema, "tools", is_grammar=True)], NAMES)
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "tools")
    assert f"<|im_end|> at {place} " in caught.value.message
    check_sayable([Asked(schema, "tools", is_grammar=False)], NAMES)


@pytest.mark.parametrize("schema", [{"description": TEXT}, {"const": "<|im_end"}, {"default": TEXT}, {}])
def test_what_it_need_not_write_is_not(schema: dict[str, Any]) -> None:
    """A description is only read, and half a name is text."""
    check_sayable([Asked(schema, "tools", is_grammar=True)], NAMES)
