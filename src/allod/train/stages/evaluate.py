"""Stage `evaluate`: what the model can do, measured on text that it never saw, and bound to the digest of its weights.

Four figures: bits per byte of held-out text; cloze questions made of that text; choices from question files; and
what is recalled word for word of planted canaries. All by the probabilities of given text: nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import digest_of_hex
from allod.core.errors import Invalid
from allod.core.files.plain import digest_of_plain_file
from allod.model.network.llama import Network
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import WEIGHTS, load_model
from allod.train.corpus.canaries import read_canaries
from allod.train.corpus.documents import read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.evaluation.cloze import cloze_questions
from allod.train.evaluation.gates import Gate, check_gates, gates_of
from allod.train.evaluation.held_out_text import HeldOutText, read_held_out_text
from allod.train.evaluation.likelihoods import Continuation, likelihoods
from allod.train.evaluation.questions import SHIPPED, ChoiceQuestion, QuestionFile, Score, read_questions, score_answers
from allod.train.evaluation.recall import Recall, measure_recall
from allod.train.learning.ranks import join_ranks
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

EVALUATION = "evaluation.json"
MAX_HELD_OUT_TOKENS = 1 << 22
MAX_QUESTION_FILES = 64


def run(task: StageTask) -> StageFacts:
    """Writes `evaluation.json`.

    Raises Denied (`evaluation_below_gate`) where the recipe sets a gate that is not passed, Invalid where nothing is
    held out (`nothing_held_out`) or a question file is wrong (`questions_invalid`, `questions_missing`), Unavailable
    (`interrupted`).
    """
    files = _question_files(task)
    with join_ranks() as ranks:
        figures = _measure(task, load_model(_weights(task)).eval().to(ranks.device), files)
    gates = gates_of(
        task.recipe.evaluate,
        bits_per_byte=figures.bits_per_byte,
        cloze=figures.cloze,
        choices=[score for _, score in figures.choices],
        recalls=figures.recalls,
    )
    _write(task, figures, gates)
    check_gates(gates)  # after the file is written: who looks into the unfinished stage finds all figures
    return {
        "bits_per_byte": figures.bits_per_byte,
        "cloze": figures.cloze.share,
        **{f"choices_{file.name}": score.share for file, score in figures.choices},
        **{f"recalled_of_{recall.repeats}": recall.share for recall in figures.recalls},
    }


@dataclass(frozen=True, slots=True)
class _Figures:
    """What was measured. `choices` are each question file with its score."""

    held_out: HeldOutText
    bits_per_byte: float
    cloze: Score
    recalls: Sequence[Recall]
    choices: Sequence[tuple[QuestionFile, Score]]


def _weights(task: StageTask) -> Path:
    """The folder of the weights that would be released."""
    return task.inputs["tune" if task.recipe.tune.steps else "pretrain"]


def _measure(task: StageTask, network: Network, files: Sequence[QuestionFile]) -> _Figures:
    tokenizer = Tokenizer.load(task.inputs["tokenizer"])
    held_out = read_held_out_text(task.inputs["pack"], max_tokens=MAX_HELD_OUT_TOKENS)
    planted, controls = read_canaries(task.inputs["pack"])
    parts = iter(range(3 + len(files)))

    def begin(what: str) -> None:
        stop_if_asked(task)
        task.report(f"evaluating: {what}", next(parts), 3 + len(files))

    begin("held-out text")
    bits_per_byte = held_out.bits_per_byte(network)
    begin("cloze")
    cloze = answer(network, tokenizer, _cloze(task))
    begin("canaries")
    recalls = measure_recall(network, tokenizer, planted=planted, controls=controls)
    choices = []
    for file in files:
        begin(file.name)
        choices.append((file, answer(network, tokenizer, file.questions)))
    return _Figures(held_out, bits_per_byte, cloze, recalls, choices)


def _write(task: StageTask, figures: _Figures, gates: Sequence[Gate]) -> None:
    text = figures.held_out
    evaluation: dict[str, JsonValue] = {
        "weights": digest_of_hex(digest_of_plain_file(_weights(task) / WEIGHTS)),
        "bits_per_byte": _decimal(figures.bits_per_byte),
        "held_out": {"documents": text.num_documents, "bytes": text.num_bytes, "tokens": len(text.tokens)},
        "cloze": _score(figures.cloze),
        "multiple_choice": {
            file.name: {"file": digest_of_hex(file.sha256), "licence": file.licence, **_score(score)}
            for file, score in figures.choices
        },
        "canaries": [_recall(recall) for recall in figures.recalls],
        "gates": [_gate(gate) for gate in gates],
    }
    (task.output / EVALUATION).write_bytes(canonical_json(evaluation) + b"\n")


def answer(network: Network, tokenizer: Tokenizer, questions: Sequence[ChoiceQuestion]) -> Score:
    """Choose the likeliest choice of each question, the first of equals."""
    asked = [
        Continuation([tokenizer.end_of_text, *tokenizer.encode(question.prompt)], tokenizer.encode(choice))
        for question in questions
        for choice in question.choices
    ]
    nats = iter([likelihood.nats for likelihood in likelihoods(network, asked, context=network.shape.context)])
    chosen = []
    for question in questions:
        own = [next(nats) for _ in question.choices]
        chosen.append(own.index(max(own)))
    return score_answers(questions, chosen)


def _cloze(task: StageTask) -> list[ChoiceQuestion]:
    held_out = HeldOut(task.recipe)
    documents = (document for document in read_documents(task.inputs["dedupe"]) if document in held_out)
    return cloze_questions(documents, count=task.recipe.evaluate.num_cloze)


def _question_files(task: StageTask) -> list[QuestionFile]:
    """Our own, then those of the recipe, in the order of their names."""
    paths = sorted(SHIPPED.glob("*.json"))
    if task.recipe.evaluate.questions:
        if "questions" not in task.inputs:
            raise Invalid("the recipe's question files were not given to the stage", code="questions_missing")
        paths += sorted(task.inputs["questions"].glob("*.json"))
    if len(paths) > MAX_QUESTION_FILES:
        raise Invalid(f"more than {MAX_QUESTION_FILES} question files", code="questions_invalid")
    files = [read_questions(path) for path in paths]
    if len({file.name for file in files}) != len(files):
        raise Invalid("two question files have the same name", code="questions_invalid")
    return files


def _score(score: Score) -> dict[str, JsonValue]:
    low, high = score.interval
    return {
        "right": score.right,
        "questions": score.total,
        "share": _decimal(score.share),
        "chance": _decimal(score.chance),
        "interval_95": [_decimal(low), _decimal(high)],
    }


def _recall(recall: Recall) -> dict[str, JsonValue]:
    return {
        "repeats": recall.repeats,
        "canaries": recall.num_canaries,
        "recalled": recall.num_recalled,
        "share": _decimal(recall.share),
        "tokens": recall.num_tokens,
        "tokens_right": recall.num_tokens_right,
        "exposure_bits": _decimal(recall.exposure_bits),
    }


def _gate(gate: Gate) -> dict[str, JsonValue]:
    kind = "at_most" if gate.is_ceiling else "at_least"
    return {"figure": gate.name, "measured": _decimal(gate.measured), kind: _decimal(gate.limit)}


def _decimal(value: float) -> str:
    """Six places: as much as one machine and another agree on."""
    return f"{value:.6f}"
