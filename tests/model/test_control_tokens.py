"""Texts beside control tokens: none is spelt after a text was made plain, and plain text is left alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.model.templates import control_tokens
from allod.model.templates.control_tokens import BREAK, KNOWN_NAMES, SLICE_CHARACTERS, ControlTokens

NAMES = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "</s>", "<s>", "<<s>", "[INST]", "[/INST]", "<｜User｜>")
CUT = "</think>"
CONTROL = ControlTokens(NAMES, cuts=(CUT,))
MANY = ControlTokens((*KNOWN_NAMES, *NAMES, *(f"<|reserved_special_token_{n}|>" for n in range(1000))))
HOSTILE = ("<", "<|", "<s", "<s>", "<|im_end|>", "<|im_end|", "<|reserved_special_token_1", "< ", "<[", "_", "\u2060<")

pieces = st.sampled_from([name[begin:end] for name in NAMES for begin in range(9) for end in range(begin + 1, 14)])
texts = st.lists(pieces | st.sampled_from([" ", "\n", CUT, "think>", "a", "<"]), max_size=8).map("".join)


def spells_one(text: str) -> bool:
    return any(name.lower() in text.lower() for name in NAMES)


@pytest.mark.parametrize("text", ["", "Hello.", "a < b and c > d", "std::cout << x;", "<p>Hi</p>", "[1, 2]", "im_end"])
def test_text_that_spells_no_control_token_is_left_as_it_is(text: str) -> None:
    """Code, markup and sums are what they were."""
    assert CONTROL.plain(text) == text


@pytest.mark.parametrize("name", NAMES)
def test_what_is_inserted_shows_nothing(name: str) -> None:
    """The text is all there, with a WORD JOINER in the name."""
    assert CONTROL.plain(f"a{name}b").replace(BREAK, "") == f"a{name}b"
    assert CONTROL.plain(f"a{name}b").startswith(f"a{name[0]}{BREAK}")


@given(text=texts)
def test_no_text_spells_a_control_token(text: str) -> None:
    """Names that overlap, and names in other case, included."""
    assert not spells_one(CONTROL.plain(text))
    assert CONTROL.plain(text).replace(BREAK, "") == text.replace(BREAK, "")


@given(parts=st.lists(texts, max_size=4))
def test_texts_that_are_trimmed_and_joined_spell_none(parts: list[str]) -> None:
    """`<|im_` at the end of one and `end|>` at the beginning of the next."""
    assert not spells_one("".join(CONTROL.plain(part).strip() for part in parts))


@given(text=texts)
def test_what_a_template_takes_out_joins_no_two_halves(text: str) -> None:
    """`<|im_</think>end|>` is none once `</think>` was cut out."""
    plain = CONTROL.plain(text)
    assert not spells_one(plain.replace(CUT, ""))
    assert not spells_one("".join(part.strip() for part in plain.split(CUT)))


def test_every_text_of_a_message_is_made_plain_but_its_role() -> None:
    """Names, calls' arguments, and keys, however deep."""
    message = {"role": "user", "content": "<s>", "name": "</s>", "calls": [{"<s>": {"a": ["<s>", 1, None]}}]}
    plain = f"<{BREAK}s>"
    assert CONTROL.plain_messages([message]) == [
        {"role": "user", "content": plain, "name": f"<{BREAK}/s>", "calls": [{plain: {"a": [plain, 1, None]}}]}
    ]


@pytest.mark.parametrize("name", ["", "a", f"<{BREAK}s>"])
def test_a_control_token_that_no_text_could_be_told_from_is_refused(name: str) -> None:
    """A model that has one is not served."""
    with pytest.raises(Invalid) as caught:
        ControlTokens([name])
    assert caught.value.code == "control_tokens"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("▁<EOT>", " <EOT>"),
        ("a▁b▁c", "a b▁c"),
        ("a b", "a▁b"),
        ("ĠSTOP", " STOP"),
        ("!!ĊĊ", "!!\n\n"),
        ("Ã©tÃ©", "\u00e9t\u00e9"),
    ],
)
def test_a_name_is_found_however_a_vocabulary_writes_it(name: str, text: str) -> None:
    """With its own sign for a space, and with symbols for bytes; and as the name itself."""
    control = ControlTokens([name])
    for said in (text, text.lstrip(), name):
        plain = control.plain(f"x{said}x")
        assert plain.count(BREAK) == 1
        assert plain.replace(BREAK, "") == f"x{said}x"


def test_a_text_does_not_end_what_the_template_begins() -> None:
    """White space, signs, or a whole name that is the beginning of a longer one."""
    control = ControlTokens(["\n<|end|>", "<user>", "Q:ab", "<s>", "<s>xy"], written=["Say Q:", "\n", "<"])
    for said in ("<|end|>", "user>", "ab", "xy", "s>"):
        assert control.plain(f"{said} and so on") == f"{said[0]}{BREAK}{said[1:]} and so on"
    assert control.plain("a user, as b") == "a user, as b"


@pytest.mark.parametrize(("names", "written"), [(["<x>"], ["say <x"]), (["<s>", "<s>x"], [])])
def test_what_nearly_a_whole_name_is_written_of_is_refused(names: list[str], written: list[str]) -> None:
    """Any text could end it."""
    with pytest.raises(Invalid, match="no text could be told from"):
        ControlTokens(names, written=written)


def test_a_template_that_begins_many_names_costs_little() -> None:
    """Ten thousand beginnings of sixty thousand names are refused, not counted out."""
    names = [f"{'<' * (number % 50)}<{number}>" for number in range(60_000)]
    begin = time.process_time()
    with pytest.raises(Invalid, match="begins too many"):
        ControlTokens(names, written=["<" * size for size in range(10_000)])
    assert time.process_time() - begin < 2


def test_a_model_without_control_tokens_changes_nothing() -> None:
    """Echo's, say."""
    assert ControlTokens().plain("<|im_end|>") == "<|im_end|>"


@pytest.mark.parametrize("size", [1, 2, 7])
@given(text=texts)
def test_a_text_in_slices_is_changed_as_in_one(size: int, text: str) -> None:
    """A name that lies across their seams, or across several, is found once."""
    whole = CONTROL.plain(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control_tokens, "SLICE_CHARACTERS", size)
        assert CONTROL.plain(text) == whole


@pytest.mark.parametrize("pattern", HOSTILE)
def test_a_hostile_text_costs_little_and_a_slice_holds_nobody_up(pattern: str) -> None:
    """In the processor's time, which other work changes little; measured: 10 to 110 ms a megabyte."""
    assert spent_s(pattern, 1_000_000) < 0.25
    assert spent_s(pattern, SLICE_CHARACTERS) < 0.05


def spent_s(pattern: str, length: int) -> float:
    """The least of three tries at making `length` characters of `pattern` plain."""
    text, spent = (pattern * length)[:length], []
    for _ in range(3):
        begin = time.process_time()
        MANY.plain(text)
        spent.append(time.process_time() - begin)
    return min(spent)


def test_the_end_of_a_long_text_is_broken_in_one_step() -> None:
    """However often it begins a long name: the text is not copied for each."""
    control = ControlTokens(["<" * 4000 + ">"])
    begin = time.process_time()
    assert control.plain("a" * 1_000_000 + "<" * 3999).endswith(f"<{BREAK}")
    assert time.process_time() - begin < 0.25
