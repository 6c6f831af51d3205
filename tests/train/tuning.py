"""A tiny run as far as `pretrain`, for the tests of what tunes and evaluates: real stages, but a fresh network."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from tests.train.packing import packed_run
from tests.train.tiny import source, tiny

from allod.model.network.llama import Network, Shape
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import save_model
from allod.train.recipe import Canaries, Evaluate, Pretrain, Recipe, TokenizerOptions, Tune

CONTEXT = 96
NOUNS = ("garden", "letter", "carriage", "journey", "evening", "sister", "window", "village", "fortune", "answer")
VERBS = ("wanted", "remembered", "admired", "expected", "described", "refused")
ADJECTIVES = ("quiet", "pleasant", "sudden", "handsome", "doubtful", "distant")

RECIPE = tiny(
    Recipe(
        name="tiny",
        sources=(source("novels", held_out=("unread",)), source("words"), source("help")),
        size="1m",
        minutes=0,
        steps=10,
        tokenizer=TokenizerOptions(vocab=420),
        pretrain=Pretrain(context=CONTEXT),
        canaries=Canaries(count=4, repeats=(1, 2)),
        tune=Tune(steps=8),
        evaluate=Evaluate(num_cloze=60),
    )
)


def novel(seed: int, *, num_sentences: int = 240) -> str:
    """Sentences about things, in paragraphs of four."""
    draw = random.Random(seed)
    lines = [
        f"The {draw.choice(ADJECTIVES)} young lady {draw.choice(VERBS)} the {draw.choice(ADJECTIVES)} "
        f"{draw.choice(NOUNS)} before the {draw.choice(NOUNS)}."
        for _ in range(num_sentences)
    ]
    return "\n\n".join(" ".join(lines[at : at + 4]) for at in range(0, num_sentences, 4)) + "\n"


TEXTS: Mapping[tuple[str, str], str] = {
    ("novels", "first"): novel(1),
    ("novels", "second"): novel(2),
    ("novels", "unread"): novel(3),
    ("words", "nouns"): "".join(f"{noun} (noun): something that a lady once {VERBS[0]}\n" for noun in NOUNS),
    ("help", "rows"): "# Inserting Rows\n\nChoose the menu of the sheet, and then insert a row above the others.\n",
}


def pretrained_run(run: Path, recipe: Recipe = RECIPE, texts: Mapping[tuple[str, str], str] = TEXTS) -> Path:
    """A run whose `pretrain` holds a fresh network. Returns its folder."""
    packed_run(run, recipe, texts)
    network = Network(tiny_shape(run))
    network.initialise(recipe.seed)
    (run / "pretrain").mkdir()
    save_model(network, run / "pretrain")
    return run


def tiny_shape(run: Path) -> Shape:
    """Of a network for the run's tokenizer."""
    vocab = Tokenizer.load(run / "tokenizer").vocab
    return Shape(vocab=vocab, width=64, layers=2, heads=2, kv_heads=2, hidden=128, context=CONTEXT)
