"""Local question files: read strictly, and scored with what guessing would get."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.train.evaluation.questions import (
    MAX_TEXT,
    SHIPPED,
    ChoiceQuestion,
    read_questions,
    score_answers,
    wilson_interval,
)

GOOD: dict[str, Any] = {
    "name": "two",
    "licence": "CC0-1.0",
    "origin": "by hand",
    "questions": [
        {"id": "a", "prompt": "The cat", "choices": [" sat.", " sit."], "answer": 0},
        {"id": "b", "prompt": "", "choices": ["One.", "Two.", "Three.", "Four."], "answer": 3},
    ],
}


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "questions.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def minimal_pairs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_pairs", Path(__file__).with_name("minimal_pairs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """Names, choices and answers come through, and the digest is of the bytes."""
    file = read_questions(written(tmp_path, json.dumps(GOOD)))
    assert (file.name, len(file.questions), file.questions[1].answer) == ("two", 2, 3)
    assert file.sha256 != read_questions(written(tmp_path, json.dumps(GOOD) + " ")).sha256


def test_the_shipped_file_is_what_its_rule_makes() -> None:
    """The file cannot drift from the rule that its origin names."""
    assert (SHIPPED / "grammar.json").read_text() == minimal_pairs().text()


def test_the_shipped_file_gives_position_nothing() -> None:
    """Always choosing the first, or the second, is right about half of the time."""
    questions = read_questions(SHIPPED / "grammar.json").questions
    first = score_answers(questions, [0] * len(questions))
    assert first.chance == 0.5
    assert 0.45 < first.share < 0.55


def changed(path: str, value: object) -> str:
    """The good file with one place changed: `questions/0/answer`."""
    file = json.loads(json.dumps(GOOD))
    *way, last = path.split("/")
    place: Any = file
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    return json.dumps(file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        b"\xff\xfe",
        '{"name": "x"}',
        changed("more", 1),
        changed("name", 1),
        changed("name", "Two words"),
        changed("licence", ""),
        changed("questions", []),
        changed("questions", [{}] * 10_001),
        changed("questions/0/more", 1),
        changed("questions/0/id", "b"),
        changed("questions/0/id", ""),
        changed("questions/0/prompt", None),
        changed("questions/0/prompt", "x" * (MAX_TEXT + 1)),
        changed("questions/0/prompt", "\ud800"),
        changed("questions/0/choices", ["one"]),
        changed("questions/0/choices", ["one", "one"]),
        changed("questions/0/choices", ["one", ""]),
        changed("questions/0/choices", list("123456789")),
        changed("questions/0/answer", 2),
        changed("questions/0/answer", -1),
        changed("questions/0/answer", True),
        json.dumps(GOOD).replace('"name"', '"name": "a", "name"'),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str | bytes) -> None:
    """Another key, a text out of bounds, a choice said twice, an answer out of range, a key twice, no JSON at all."""
    with pytest.raises(Invalid) as refused:
        read_questions(written(tmp_path, text))
    assert refused.value.code == "questions_invalid"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """By name, and not with a traceback."""
    with pytest.raises(Invalid, match=r"none\.json cannot be read"):
        read_questions(tmp_path / "none.json")


def test_chance_is_of_the_choices_that_each_question_has() -> None:
    """A question with four choices is guessed less often than one with two."""
    questions = [ChoiceQuestion("a", "", ("x", "y"), 0), ChoiceQuestion("b", "", ("w", "x", "y", "z"), 1)]
    score = score_answers(questions, [0, 0])
    assert (score.right, score.total, score.chance, score.share) == (1, 2, 0.375, 0.5)


def test_the_interval_is_wilsons() -> None:
    """Two values worked out by statsmodels' proportion_confint(method="wilson")."""
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.16113), abs=1e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_its_share_and_stays_between_0_and_1(one: int, other: int) -> None:
    """Whatever the counts, none included."""
    right, total = min(one, other), max(one, other)
    low, high = wilson_interval(right, total)
    assert 0 <= low <= high <= 1
    assert total == 0 or low - 1e-9 <= right / total <= high + 1e-9
