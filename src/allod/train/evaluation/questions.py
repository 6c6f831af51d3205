"""Questions with choices: what a local file may hold, and how sure a share of right answers is.

A file is JSON, read strictly; another key, a choice said twice or an answer out of range is refused:

    {"name": "grammar", "licence": "Apache-2.0", "origin": "made by rule",
     "questions": [{"id": "a-1", "prompt": "", "choices": ["The dogs are old.", "The dogs is old."], "answer": 0}]}

A choice is scored by the log-probability of its tokens after the prompt (an empty prompt: after the end of a text), as
BLiMP does (Warstadt et al., 2020, arXiv:1912.00582). Chance is one over the number of choices.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allod.core.digests import sha256_hex
from allod.core.errors import Invalid

SHIPPED = Path(__file__).parent / "evaluations"

MAX_FILE_BYTES = 4 << 20
MAX_QUESTIONS = 10_000
MAX_CHOICES = 8
MAX_TEXT = 4_000  # characters of a prompt or a choice

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_Z_95 = 1.959963984540054  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """Choices to continue `prompt` with; `answer` is the index of the right one."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """A file of questions. `sha256` is of its bytes."""

    name: str
    licence: str
    origin: str
    questions: tuple[ChoiceQuestion, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class Score:
    """How many of `total` were right, with what guessing would get right and a 95 % interval."""

    right: int
    total: int
    chance: float

    @property
    def share(self) -> float:
        """From 0 to 1; 0 of nothing is 0."""
        return self.right / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (1927): inside 0 to 1 however few questions there are."""
        return wilson_interval(self.right, self.total)


def score_answers(questions: Sequence[ChoiceQuestion], chosen: Sequence[int]) -> Score:
    """The score of one chosen index for each question."""
    right = sum(question.answer == choice for question, choice in zip(questions, chosen, strict=True))
    chance = sum(1 / len(question.choices) for question in questions) / len(questions) if questions else 0.0
    return Score(right, len(questions), chance)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, both ends from 0 to 1."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = right / total, _Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def read_questions(path: Path) -> QuestionFile:
    """Read one file. Raises Invalid with the place of the first fault."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from error
    if len(data) > MAX_FILE_BYTES:
        raise _refusal(path, f"is longer than {MAX_FILE_BYTES} bytes")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"is not strict JSON ({error})") from error
    return _file(path, value, sha256_hex(data))


def _file(path: Path, value: object, sha256: str) -> QuestionFile:
    if not isinstance(value, dict) or value.keys() != {"name", "licence", "origin", "questions"}:
        raise _refusal(path, "must have name, licence, origin and questions, and nothing else")
    entries = value["questions"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_QUESTIONS:
        raise _refusal(path, f"must have 1 to {MAX_QUESTIONS} questions")
    if not all(_is_text(value[key]) and value[key] for key in ("name", "licence", "origin")):
        raise _refusal(path, "name, licence and origin must be text")
    if _NAME.fullmatch(value["name"]) is None:
        raise _refusal(path, "must be named in small letters, digits, - and _, at most 40")
    questions = tuple(_question(path, number, entry) for number, entry in enumerate(entries, start=1))
    if len({question.id for question in questions}) != len(questions):
        raise _refusal(path, "has one id twice")
    return QuestionFile(value["name"], value["licence"], value["origin"], questions, sha256)


def _question(path: Path, number: int, entry: object) -> ChoiceQuestion:
    where = f"question {number}"
    if not isinstance(entry, dict) or entry.keys() != {"id", "prompt", "choices", "answer"}:
        raise _refusal(path, f"{where} must have id, prompt, choices and answer, and nothing else")
    choices, answer = entry["choices"], entry["answer"]
    if not isinstance(choices, list) or not 2 <= len(choices) <= MAX_CHOICES:
        raise _refusal(path, f"{where} must have 2 to {MAX_CHOICES} choices")
    if not all(_is_text(text) for text in (entry["id"], entry["prompt"], *choices)) or not all((entry["id"], *choices)):
        raise _refusal(path, f"{where} has a text that is empty, longer than {MAX_TEXT} characters, or none")
    if len(set(choices)) != len(choices):
        raise _refusal(path, f"{where} has one choice twice")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise _refusal(path, f"{where}: answer must be 0 to {len(choices) - 1}")
    return ChoiceQuestion(entry["id"], entry["prompt"], tuple(choices), answer)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.replace("\n", "").isprintable()


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _refusal(path: Path, reason: str) -> Invalid:
    return Invalid(
        f"{path.name} {reason}",
        code="questions_invalid",
        hint="allod/train/evaluation/questions.py describes the format; evaluations/grammar.json there is an example",
    )
