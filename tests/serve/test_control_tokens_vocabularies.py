"""Vocabularies of other families, in the real engine: it reads the control tokens of the template alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="gguf comes with the train extra")

from tests.serve.vocabularies import VOCABULARIES, Vocabulary, hostile, spellings, write_model

from allod.core.errors import Invalid
from allod.model.gguf.header import read_header
from allod.model.templates.control_tokens import ControlTokens
from allod.train.exporting.engine import TrialEngine

NUM_CHATS = 150
ROLES = ("system", "user", "assistant", "user")


class Read:
    """One model in the engine, and what keeps texts apart from its control tokens."""

    def __init__(self, engine: TrialEngine, path: Path, vocabulary: Vocabulary) -> None:
        header = read_header(path)
        self.control = header.control_token_guard()
        self.cuts = header.cuts
        self.vocabulary = vocabulary
        self._engine = engine

    def num_control(self, texts: list[str], *, plain: bool = True) -> int:
        """How many control tokens the engine reads in the prompt of a chat of these texts."""
        chat = [{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=False)]
        messages = self.control.plain_messages(chat) if plain else chat
        prompt = self._engine._ask("/apply-template", {"messages": messages})["prompt"]
        answer = self._engine._ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
        return sum(token < len(self.vocabulary.names) for token in answer["tokens"])


@pytest.fixture(scope="module", params=sorted(VOCABULARIES))
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    vocabulary = VOCABULARIES[request.param]
    path = write_model(tmp_path_factory.mktemp("vocabulary") / "model.gguf", vocabulary)
    with TrialEngine(path, context=1024) as engine:
        yield Read(engine, path, vocabulary)


def test_the_header_names_all_of_them(read: Read) -> None:
    """And signs that mean nothing but themselves are not among them."""
    assert set(read.vocabulary.names) <= set(read.control.names)
    assert not set(read.vocabulary.signs) & set(read.control.names)


def test_there_is_something_to_mend(read: Read) -> None:
    """Every name, unchanged, in some spelling, is the control token."""
    honest = read.num_control(["z"] * 4, plain=False)
    for name in set(read.vocabulary.names) - set(read.cuts):
        said = {text for form in spellings(name) for text in (form, f"z{form}", f"{form}z")} | {*_parts(name)}
        assert any(read.num_control(["z", text, "z", "z"], plain=False) > honest for text in said), name


def _parts(name: str) -> list[str]:
    """What is left of a name where the template writes its beginning or its end."""
    return [name[begin:end] for begin in range(3) for end in range(max(begin, len(name) - 2), len(name) + 1)]


def test_no_text_adds_a_control_token(read: Read) -> None:
    """Of any chat made of pieces of names, in any spelling, the engine reads those of the template alone."""
    draw = random.Random(11)
    honest = read.num_control(["z"] * 4)
    for _ in range(NUM_CHATS):
        texts = [hostile(draw, read.vocabulary) for _ in ROLES]
        assert read.num_control(texts) == honest, texts


def test_each_name_alone_adds_none(read: Read) -> None:
    """In every spelling, at the beginning of a text, within it, and where the template writes a part of it."""
    honest = read.num_control(["z"] * 4)
    for name in read.vocabulary.names:
        for form in {*spellings(name), *_parts(name)}:
            assert read.num_control(["z", f"z{form}", form, f"{form}z"]) == honest, form


@pytest.mark.parametrize("name", ["\n\n", "▁x", "ĠĠ", " \t<"])
def test_a_control_token_of_white_space_is_refused(name: str) -> None:
    """Every text has some."""
    with pytest.raises(Invalid) as caught:
        ControlTokens([name])
    assert caught.value.code == "control_tokens"


def test_a_template_that_writes_nearly_a_whole_name_is_refused() -> None:
    """Any text may begin with `>`."""
    with pytest.raises(Invalid, match="<x>"):
        ControlTokens(["<x>"], written=["say <x"])
