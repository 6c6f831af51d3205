"""The stage that learns a tokenizer."""

# ruff: noqa: E402 - imported once it is known that the train extra is there

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

rustbpe = pytest.importorskip("rustbpe")
pytest.importorskip("tokenizers")

from tests.train.packing import CHAPTERS, RECIPE, interrupted_after, work_in, write_documents
from tests.train.tiny import source

from allod.core.errors import Invalid, Unavailable
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.tokenizer_files import SPLIT
from allod.train.recipe import Recipe, TokenizerOptions
from allod.train.stages import tokenizer as stage
from allod.train.stages.tokenizer import vocabulary


def learned(run: Path, recipe: Recipe = RECIPE, texts: dict[tuple[str, str], str] = CHAPTERS) -> bytes:
    """The tokenizer that the stage makes of these texts, as bytes."""
    write_documents(run / "dedupe", texts)
    work = work_in(run, "tokenizer", "dedupe", recipe=recipe)
    stage.run(work)
    return b"".join((work.output / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json"))


def test_what_was_learned_encodes_as_the_learner_does(tmp_path: Path) -> None:
    """The merges are worked out from the learner's vocabulary; on every document they give the learner's own tokens."""
    recipe = replace(RECIPE, sources=(source("austen"), source("manual")))
    learned(tmp_path, recipe)
    ours = Tokenizer.load(tmp_path / "tokenizer")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(CHAPTERS.values()), vocab_size=ours.vocab - 3, pattern=SPLIT)
    for text in [*CHAPTERS.values(), "Something else altogether; naïve 12345\n\n \t x", "aaaaaaa bbbb ababab"]:
        assert ours.encode(text) == theirs.encode(text)


def test_the_vocabulary_is_the_recipes(tmp_path: Path) -> None:
    """Special tokens are counted in."""
    learned(tmp_path)
    assert Tokenizer.load(tmp_path / "tokenizer").vocab == RECIPE.tokenizer.vocab


def test_learning_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """In another folder, too."""
    assert learned(tmp_path / "one") == learned(tmp_path / "two")


def test_held_out_documents_are_not_learned_from(tmp_path: Path) -> None:
    """Changing them changes nothing; changing another does."""
    held_out = {key: "zyzzyva " * 50 if key[1].startswith("persuasion/") else text for key, text in CHAPTERS.items()}
    other = {key: "zyzzyva " * 50 if key[1].startswith("emma/") else text for key, text in CHAPTERS.items()}
    plain = learned(tmp_path / "plain")
    assert learned(tmp_path / "held out", texts=held_out) == plain
    assert learned(tmp_path / "other", texts=other) != plain


def test_few_texts_make_a_small_vocabulary(tmp_path: Path) -> None:
    """Where there is nothing left to merge, the stage says how far it came."""
    recipe = replace(RECIPE, sources=(source("austen"),), tokenizer=TokenizerOptions(vocab=5000))
    write_documents(tmp_path / "dedupe", {("austen", "emma"): "abc abc"})
    facts = stage.run(work_in(tmp_path, "tokenizer", "dedupe", recipe=recipe))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert facts == {"vocab": tokenizer.vocab, "num_documents": 1, "num_bytes": 7}
    assert 259 < tokenizer.vocab < 270


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    """256 bytes, three special tokens and one merge are the least that an engine loads."""
    with pytest.raises(Invalid) as caught:
        replace(RECIPE, tokenizer=TokenizerOptions(vocab=259))
    assert caught.value.param == "tokenizer.vocab"


def test_documents_without_a_pair_are_refused(tmp_path: Path) -> None:
    """Nothing to merge is nothing to learn, and no engine loads it."""
    recipe = replace(RECIPE, sources=(source("austen"),))
    with pytest.raises(Invalid) as caught:
        learned(tmp_path, recipe, {("austen", "emma"): "x"})
    assert caught.value.code == "corpus_too_small"


def test_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    """A corpus of which everything is held out, for instance."""
    with pytest.raises(Invalid) as caught:
        learned(tmp_path, texts={("manual", "page-007"): "held out"})
    assert caught.value.code == "no_documents"


def test_it_stops_when_the_machine_is_wanted_back(tmp_path: Path) -> None:
    """And leaves no tokenizer that looks finished."""
    write_documents(tmp_path / "dedupe")
    with pytest.raises(Unavailable) as caught:
        stage.run(interrupted_after(work_in(tmp_path, "tokenizer", "dedupe"), 3))
    assert caught.value.code == "interrupted"
    assert not list((tmp_path / "tokenizer").iterdir())


def test_a_token_that_no_merge_makes_is_left_out() -> None:
    """The learner may know two ways to one text, or a text of three parts: neither could be met again."""
    letters = [b"a", b"b", b"c"]
    tokens, merges = vocabulary([*letters, b"ab", b"ab", b"cab", b"abba"])
    assert tokens == [*letters, b"ab", b"cab"]
    assert merges == [(b"a", b"b"), (b"c", b"ab")]
    assert all(left + right == token for (left, right), token in zip(merges, tokens[3:], strict=True))
    assert all(first != second for first, second in pairwise(tokens))
