"""The stages of training, one row each: what a stage takes in, what it is for, and what is kept of it.

    source → clean → (filter) → dedupe → tokenizer → pack → pretrain → (tune) → evaluate → export    a model
    source → clean → (filter) → dedupe → adapt → export_adapter                                      an adapter

Who trains, verifies, releases, or places jobs on machines reads the rows and knows no stage by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from allod.core.errors import Invalid

Role = Literal["documents", "weights", "evaluation", "export", "beside"]

COLLECTED, LEARNT = "documents", "weights"  # an input by its role: whichever stage before it made them last
SOURCES, BASE, QUESTIONS = "sources", "base", "questions"  # what comes from outside a run

MAX_WORDS = 10**9  # of a document, in a recipe
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # as stages find them in a text: letters, apostrophes between them

# Records that a release keeps and somebody reads.
SOURCES_FILE, INDEX_FILE, DOCUMENTS_FILE = "sources.json", "index.jsonl", "documents.jsonl"
EVALUATION_FILE, REPORT_FILE, EXPORT_FILE = "evaluation.json", "report.json", "export.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage.

    `version` changes when the same inputs would now give something else. `inputs` are stages, `COLLECTED` or `LEARNT`;
    `parameters` the recipe's tables and values that it computes with, by name. `role` is what it makes: a stage
    `beside` stands in no chain. `weights` is the file of one that learns. `records` are what a release keeps. `takes`
    comes from outside the run and is named among its inputs; `reads` is a folder from outside that it may read. A stage
    that `shares_ranks` runs in several processes at once; one that `fetches` needs the network, which no sealed process
    has. One with `options`, a dataclass, is run where the recipe has a table of its name.
    """

    name: str
    version: int = 1
    inputs: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    role: Role
    weights: str = ""
    records: tuple[str, ...] = ()
    takes: str = ""
    reads: str = ""
    needs_accelerators: bool = False
    shares_ranks: bool = False
    fetches: bool = False
    is_optional: bool = False
    options: type[Any] | None = None

    def inputs_after(self, before: Iterable[str]) -> tuple[str, ...]:
        """The stages that go into it, once those in `before` are done, in their order."""
        made_last: dict[str, str] = {ROWS[name].role: name for name in before}
        return tuple(made_last[item] if item in (COLLECTED, LEARNT) else item for item in self.inputs)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which clean documents are learnt from: of so many words (`max_words` 0: no bound), of a source under one of
    `licences` as it says them, and with one of `words` in them. Empty lists ask for nothing; what is held out stays."""

    min_words: int = 0
    max_words: int = 0
    licences: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.min_words <= (self.max_words or self.min_words) <= MAX_WORDS:
            message = f"filter: from {self.min_words} to {self.max_words} words there is nothing"
            raise Invalid(message, code="recipe_range", param="filter.min_words")
        if never := [word for word in self.words if WORD.fullmatch(word.lower()) is None]:
            message = f"filter: {never[0]!r} is not one word, as texts are cut into them"
            raise Invalid(message, code="recipe_range", param="filter.words", hint="say one word of it: letters alone")


PROBE = StageRow(name="probe", role="beside", needs_accelerators=True)
UNPACK = StageRow(name="unpack", role="beside")
SOURCE = StageRow(
    name="source",
    parameters=(SOURCES,),
    role="documents",
    records=(SOURCES_FILE, INDEX_FILE),
    takes=SOURCES,
    fetches=True,
)
EXPORT = StageRow(
    name="export",
    inputs=("tokenizer", "pack", LEARNT, "evaluate"),
    parameters=("export", "name"),
    role="export",
    records=(EXPORT_FILE,),
)
_DOCUMENTS = (
    SOURCE,
    StageRow(name="clean", inputs=("source",), parameters=("clean",), role="documents", records=(REPORT_FILE,)),
    StageRow(
        name="filter",
        inputs=("clean",),
        parameters=("filter",),
        role="documents",
        records=(REPORT_FILE,),
        is_optional=True,
        options=Filter,
    ),
    StageRow(
        name="dedupe", inputs=(COLLECTED,), parameters=("dedupe", "held_out"), role="documents", records=(REPORT_FILE,)
    ),
)

MODEL_STAGES = (
    *_DOCUMENTS,
    StageRow(name="tokenizer", inputs=("dedupe",), parameters=("tokenizer", "held_out"), role="documents"),
    StageRow(
        name="pack",
        inputs=("dedupe", "tokenizer"),
        parameters=("canaries", "held_out", "seed"),
        role="documents",
        records=(DOCUMENTS_FILE, "pack.json"),
    ),
    StageRow(
        name="pretrain",
        inputs=("pack", "tokenizer"),
        parameters=("pretrain", "size", "steps", "seed"),
        role="weights",
        weights="weights.safetensors",
        records=("losses.jsonl",),
        needs_accelerators=True,
        shares_ranks=True,
    ),
    StageRow(
        name="tune",
        inputs=("dedupe", "tokenizer", "pack", "pretrain"),
        parameters=("tune", "held_out", "seed"),
        role="weights",
        weights="weights.safetensors",
        records=("losses.jsonl", "examples.json"),
        needs_accelerators=True,
        is_optional=True,
    ),
    StageRow(
        name="evaluate",
        inputs=("dedupe", "tokenizer", "pack", LEARNT),
        parameters=("evaluate", "held_out", "seed"),
        role="evaluation",
        records=(EVALUATION_FILE,),
        reads=QUESTIONS,
        needs_accelerators=True,
    ),
    EXPORT,
)
ADAPTER_STAGES = (
    *_DOCUMENTS,
    StageRow(
        name="adapt",
        inputs=("dedupe",),
        parameters=("adapt", "held_out", "seed"),
        role="weights",
        weights="adapter_model.safetensors",
        records=(DOCUMENTS_FILE, EVALUATION_FILE, "losses.jsonl"),
        takes=BASE,
        reads=BASE,
        needs_accelerators=True,
    ),
    StageRow(
        name="export_adapter",
        inputs=("dedupe", "adapt"),
        parameters=("name",),
        role="export",
        records=(EXPORT_FILE,),
        reads=BASE,
    ),
)
ROWS = {row.name: row for row in (UNPACK, PROBE, *MODEL_STAGES, *ADAPTER_STAGES)}
