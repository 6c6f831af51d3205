"""A tiny corpus on its way to shards, for the tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.train.tiny import source

from allod.train.corpus.documents import Document, DocumentWriter, new_document
from allod.train.recipe import Canaries, Recipe, TokenizerOptions
from allod.train.stage_task import StageTask
from allod.train.stages import pack, tokenizer

CHAPTERS = {
    ("austen", f"{book}/chapter-{number:02}"): (
        f"Chapter {number} of {book}.\n\nIt is a truth universally acknowledged, that the {number}th chapter of {book} "
        "must be in want of a reader. She hadn't thought 1,234 of them likely; they'll come, he said.\n" * 3
    )
    for book in ("emma", "persuasion", "persuasions")
    for number in range(1, 7)
} | {
    ("manual", f"page-{number:03}"): f"Inserting row {number}\n\tChoose Insert – Row ({number * 37}).\n"
    for number in range(40)
}


RECIPE = Recipe(
    name="tiny",
    sources=(source("austen", held_out=("persuasion",)), source("manual", held_out=("page-007",))),
    tokenizer=TokenizerOptions(vocab=400),
    canaries=Canaries(count=4, repeats=(1, 3)),
)


def write_documents(folder: Path, texts: Mapping[tuple[str, str], str] = CHAPTERS) -> list[Document]:
    """Write a stage's documents; they are returned, too."""
    folder.mkdir(parents=True)
    documents = [new_document(source, name, text) for (source, name), text in texts.items()]
    with DocumentWriter(folder) as writer:
        for document in documents:
            writer.write(document)
    return documents


def work_in(run: Path, stage: str, *inputs: str, recipe: Recipe = RECIPE) -> StageTask:
    """The work of a stage in a run's folder, with an output of its own."""
    output = run / stage
    output.mkdir()
    return StageTask(
        recipe, {name: run / name for name in inputs}, output, lambda what, done, total: None, lambda: False
    )


def packed_run(run: Path, recipe: Recipe = RECIPE, texts: Mapping[tuple[str, str], str] = CHAPTERS) -> Path:
    """A run as far as `pack`. Returns its folder."""
    write_documents(run / "dedupe", texts)
    tokenizer.run(work_in(run, "tokenizer", "dedupe", recipe=recipe))
    pack.run(work_in(run, "pack", "dedupe", "tokenizer", recipe=recipe))
    return run


def interrupted_after(work: StageTask, reports: int) -> StageTask:
    """The same work, wanted back after so many reports of progress."""
    seen: list[str] = []
    return replace(work, report=lambda what, done, total: seen.append(what), should_stop=lambda: len(seen) >= reports)
