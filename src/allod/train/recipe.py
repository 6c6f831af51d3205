"""A recipe: everything that a run depends on. Read strictly, with every number inside its bounds.

A recipe is *resolved* once `size` and `steps` are numbers that a run was or will be made with; `minutes` is then zero.
Two runs of one resolved recipe give the same bytes at every stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from allod.core.nations import Identifier


@dataclass(frozen=True, slots=True)
class Source:
    """Where documents come from, and on what terms. `kind` names the reader (train/sources).

    Either `package` (`debian:<name>`, `pypi:<name>==<version>`) with the `sha256` of its content, or `path`, a file or
    folder of text beside the recipe. `licence` is an SPDX expression. `held_out` names documents (without the source's
    name) that are never trained on. An empty `tier` is the nation's lowest.
    """

    name: str
    kind: str
    licence: str
    jurisdiction: str
    origin: str
    date: str
    package: str = ""
    path: str = ""
    sha256: str = ""
    held_out: tuple[str, ...] = ()
    tier: str = ""
    markings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Clean:
    """What cleaning does. `languages` are kept; `min_bytes` is of a document. `identifiers` are the nation profile's,
    written in when a recipe is resolved: a changed profile is changed cleaning."""

    languages: tuple[str, ...] = ("en",)
    min_bytes: int = 200
    redact: bool = True  # e-mail addresses, telephone numbers, postcodes, and what `identifiers` find
    identifiers: tuple[Identifier, ...] = ()


@dataclass(frozen=True, slots=True)
class Dedupe:
    """Near-duplicates: documents whose estimated Jaccard similarity is at least `similarity_percent`."""

    similarity_percent: int = 80
    permutations: int = 128


@dataclass(frozen=True, slots=True)
class TokenizerOptions:
    """`vocab` counts the special tokens."""

    vocab: int = 2048


@dataclass(frozen=True, slots=True)
class Canaries:
    """Sentences that occur nowhere else, planted to see what is recalled word for word. `repeats` are times each."""

    count: int = 0
    repeats: tuple[int, ...] = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Pretrain:
    """How the network learns. Widths and layers follow `size`.

    `mixture` names sources: rows are taken from them in turn, and one that is named more often is learnt from more.
    Left empty, all text counts by its length.
    """

    context: int = 256
    mixture: tuple[str, ...] = ()
    goldfish_k: int = 0  # 0: off; else every k-th token is left out of the loss
    checkpoint_every_s: int = 30


@dataclass(frozen=True, slots=True)
class Tune:
    """Instruction tuning of one's own model; `steps` 0 leaves it out."""

    steps: int = 100


@dataclass(frozen=True, slots=True)
class Adapt:
    """LoRA on an imported model of the catalogue. An empty `base` means that there is nothing to adapt.

    A step sees `batch` windows of `context` tokens. `rate_micro` is the highest rate of learning, in millionths.
    The loss on held-out documents must fall by more than `min_gain_percent`, or nothing is released.
    """

    base: str = ""
    rank: int = 8
    steps: int = 40
    context: int = 256
    batch: int = 1
    rate_micro: int = 4000
    min_gain_percent: int = 0


@dataclass(frozen=True, slots=True)
class Evaluate:
    """What is measured, and the gates: a model that does not pass is not released. Zero is no gate.

    `questions` is a folder of question files (`*.json`) beside the recipe, asked besides Allod's own; the format is in
    train/examining/questions.py. `questions_sha256` is written in when a run begins: other questions are another
    evaluation. `max_recall_percent` is of planted canaries that the model says word for word.
    """

    questions: str = ""
    questions_sha256: str = ""
    num_cloze: int = 400
    max_bits_per_byte_milli: int = 0
    min_cloze_percent: int = 0
    min_choice_percent: int = 0  # of every question file
    max_recall_percent: int = 0


@dataclass(frozen=True, slots=True)
class Export:
    """`quantise` are GGUF types beside f16; the last one is what is served."""

    quantise: tuple[str, ...] = ("q8_0",)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The whole run. `size` is `auto` or millions of parameters (`1m`, `5m`, `124m`, `1b`)."""

    name: str
    sources: tuple[Source, ...]
    size: str = "auto"
    minutes: int = 10
    steps: int = 0
    seed: int = 1
    clean: Clean = field(default_factory=Clean)
    dedupe: Dedupe = field(default_factory=Dedupe)
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    canaries: Canaries = field(default_factory=Canaries)
    pretrain: Pretrain = field(default_factory=Pretrain)
    tune: Tune = field(default_factory=Tune)
    adapt: Adapt = field(default_factory=Adapt)
    evaluate: Evaluate = field(default_factory=Evaluate)
    export: Export = field(default_factory=Export)
