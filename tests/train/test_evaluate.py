"""Evaluation: bound to the weights, from held-out text alone, the same every time; and gates that a recipe sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch comes with the train extra")

import torch
from tests.train.tiny import tiny
from tests.train.tuning import RECIPE, TEXTS, pretrained_run

from allod.core.errors import Denied, Invalid, exit_status
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import load_model
from allod.train.corpus.documents import new_document
from allod.train.evaluation.cloze import cloze_questions
from allod.train.evaluation.questions import ChoiceQuestion
from allod.train.recipe import Evaluate, Recipe, Tune
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stages import evaluate, pretrain

PRETRAINED = tiny(RECIPE, tune=Tune(steps=0))
INPUTS = ("dedupe", "tokenizer", "pack", "pretrain")
Evaluated = Callable[..., tuple[dict[str, Any], StageFacts]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network really learnt a little: sixty steps."""
    torch.set_num_threads(1)
    run = pretrained_run(tmp_path_factory.mktemp("evaluating") / "run")
    (run / "pack" / "files.json").write_bytes(b"[]")
    (run / "learnt").mkdir()
    work = StageTask(
        tiny(PRETRAINED, steps=60),
        {"pack": run / "pack", "tokenizer": run / "tokenizer"},
        run / "learnt",
        lambda *_: None,
        lambda: False,
    )
    pretrain.run(work)
    return run


@pytest.fixture
def evaluated(run: Path, tmp_path: Path) -> Evaluated:
    def do(recipe: Recipe = PRETRAINED, **inputs: Path) -> tuple[dict[str, Any], StageFacts]:
        output = tmp_path / f"evaluate-{len(list(tmp_path.iterdir()))}"
        output.mkdir()
        folders = {name: run / name for name in INPUTS} | {"pretrain": run / "learnt"} | inputs
        facts = evaluate.run(StageTask(recipe, folders, output, lambda *_: None, lambda: False))
        return json.loads((output / "evaluation.json").read_bytes()), facts

    return do


def test_the_figures_are_bound_to_the_weights(evaluated: Evaluated, run: Path) -> None:
    """The digest is that of the file, and other weights have another evaluation."""
    learnt, _ = evaluated()
    fresh, _ = evaluated(pretrain=run / "pretrain")
    assert learnt["weights"] == "sha256:" + sha256((run / "learnt" / "weights.safetensors").read_bytes()).hexdigest()
    assert float(learnt["bits_per_byte"]) < float(fresh["bits_per_byte"]) - 1


def test_the_same_weights_have_the_same_evaluation(evaluated: Evaluated) -> None:
    """To the last digit."""
    assert evaluated()[0] == evaluated()[0]


def test_tuned_weights_are_evaluated_where_the_recipe_tunes(evaluated: Evaluated, run: Path) -> None:
    """What is released is what was measured."""
    tuned, _ = evaluated(RECIPE, tune=run / "pretrain")
    fresh, _ = evaluated(pretrain=run / "pretrain")
    assert tuned == fresh


def test_every_number_is_whole_or_decimal_text(evaluated: Evaluated) -> None:
    """So that the file is canonical: nothing in it depends on how a machine writes a float."""

    def leaves(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]

    assert {type(leaf) for leaf in leaves(evaluated()[0])} <= {int, str}


def test_cloze_asks_held_out_documents_alone(evaluated: Evaluated, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is of the novel that nobody trained on."""
    asked: list[ChoiceQuestion] = []
    real = evaluate.answer

    def answer(network: Any, tokenizer: Any, questions: Any) -> Any:
        asked.extend(questions)
        return real(network, tokenizer, questions)

    monkeypatch.setattr(evaluate, "answer", answer)
    figures, _ = evaluated()
    cloze = [question for question in asked if question.prompt]
    assert len(cloze) == figures["cloze"]["questions"] == RECIPE.evaluate.num_cloze
    assert {question.id.split("#")[0] for question in cloze} == {"novels/unread"}


def test_a_question_is_answered_by_the_likelier_choice(evaluated: Evaluated, run: Path) -> None:
    """After sixty steps the network knows which words it has seen at the end of a sentence."""
    network, tokenizer = load_model(run / "learnt"), Tokenizer.load(run / "tokenizer")
    questions = [ChoiceQuestion("a", "The quiet young lady wanted the", (" zxqv", " sudden"), 1)]
    assert evaluate.answer(network, tokenizer, questions).right == 1
    turned = [ChoiceQuestion("a", "The quiet young lady wanted the", (" sudden", " zxqv"), 0)]
    assert evaluate.answer(network, tokenizer, turned).right == 1
    novel = new_document("novels", "unread", TEXTS["novels", "unread"])
    assert 0 <= evaluate.answer(network, tokenizer, cloze_questions([novel], count=20)).right <= 20


def test_each_number_of_repeats_is_beside_the_controls(evaluated: Evaluated) -> None:
    """Four canaries, planted once and twice in turn, and four controls that were planted nowhere."""
    figures, _ = evaluated()
    assert [(row["repeats"], row["canaries"]) for row in figures["canaries"]] == [(0, 4), (1, 2), (2, 2)]
    assert all(row["recalled"] == 0 for row in figures["canaries"])


def test_a_figure_below_its_gate_stops_the_model(evaluated: Evaluated) -> None:
    """The answer is no: status 1, and the message names the figure and the gate."""
    with pytest.raises(Denied) as refused:
        evaluated(tiny(PRETRAINED, evaluate=Evaluate(num_cloze=60, max_bits_per_byte_milli=100)))
    assert refused.value.code == "evaluation_below_gate"
    assert exit_status(refused.value) == 1
    assert "bits per byte" in refused.value.message
    assert "at most 0.1" in refused.value.message


def test_gates_that_are_passed_are_on_record(evaluated: Evaluated) -> None:
    """Each with its figure and its limit; a recipe without gates has none."""
    options = Evaluate(num_cloze=60, max_bits_per_byte_milli=8_000, min_choice_percent=1, max_recall_percent=1)
    figures, _ = evaluated(tiny(PRETRAINED, evaluate=options))
    assert [gate["figure"] for gate in figures["gates"]] == [
        "bits per byte", "choices, per cent right", "canaries recalled, per cent",
    ]  # fmt: skip
    assert evaluated()[0]["gates"] == []


def test_without_held_out_text_there_is_no_evaluation(tmp_path: Path) -> None:
    """And so no release: the hint says what to hold out."""
    nothing = tiny(PRETRAINED, sources=tuple(replace(source, held_out=()) for source in RECIPE.sources))
    run = pretrained_run(tmp_path / "run", nothing)
    (run / "evaluate").mkdir()
    work = StageTask(nothing, {name: run / name for name in INPUTS}, run / "evaluate", lambda *_: None, lambda: False)
    with pytest.raises(Invalid) as refused:
        evaluate.run(work)
    assert refused.value.code == "nothing_held_out"


def test_a_recipe_may_bring_questions_of_its_own(evaluated: Evaluated, tmp_path: Path) -> None:
    """They are asked beside ours, bound by their digest; a recipe whose questions were not given is refused."""
    (tmp_path / "mine").mkdir()
    question = {"id": "a", "prompt": "The quiet", "choices": [" young lady", " lady young"], "answer": 0}
    text = json.dumps({"name": "mine", "licence": "CC0-1.0", "origin": "by hand", "questions": [question]})
    (tmp_path / "mine" / "questions.json").write_text(text)
    recipe = tiny(PRETRAINED, evaluate=replace(PRETRAINED.evaluate, questions="mine"))
    figures, facts = evaluated(recipe, questions=tmp_path / "mine")
    assert list(figures["multiple_choice"]) == ["grammar", "mine"]
    assert figures["multiple_choice"]["mine"]["file"] == "sha256:" + sha256(text.encode()).hexdigest()
    assert facts["choices_mine"] == figures["multiple_choice"]["mine"]["right"]
    with pytest.raises(Invalid) as refused:
        evaluated(recipe)
    assert refused.value.code == "questions_missing"
