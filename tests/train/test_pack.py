"""The stage that packs documents as tokens, and what reads them back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rustbpe")
pytest.importorskip("tokenizers")
pytest.importorskip("numpy")

import numpy as np
from tests.train.packing import CHAPTERS, RECIPE, interrupted_after, packed_run, work_in, write_documents
from tests.train.tiny import source

from allod.core.digests import sha256_hex
from allod.core.errors import Invalid, Unavailable
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.tokenizer_files import SPECIAL_TOKENS
from allod.train.corpus import shards as module
from allod.train.corpus.canaries import canaries_to_plant, control_canaries, read_canaries
from allod.train.corpus.shards import SPLITS, Shards, read_packed, token_dtype
from allod.train.recipe import Canaries
from allod.train.stages import pack as stage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as far as `pack`."""
    return packed_run(tmp_path_factory.mktemp("run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def texts_of(run: Path) -> dict[str, str]:
    """Every packed document's text by id, decoded from its tokens, which must end in <|endoftext|>."""
    tokenizer = Tokenizer.load(run / "tokenizer")
    texts = {}
    for split in SPLITS:
        shards = Shards(run / "pack", split)
        for document in shards.documents():
            *tokens, end = shards.window(document.first_token, document.num_tokens).tolist()
            assert end == tokenizer.end_of_text
            texts[document.id] = tokenizer.decode(tokens)
    return texts


def test_every_document_is_there_word_for_word(run: Path) -> None:
    """Each once, under its id, ended by <|endoftext|>; and nothing else but canaries."""
    texts = texts_of(run)
    canaries = {id: text for id, text in texts.items() if id.startswith("canaries/")}
    assert {id: text for id, text in texts.items() if id not in canaries} == {
        f"{source}/{name}": text for (source, name), text in CHAPTERS.items()
    }


def test_no_document_becomes_a_special_token(tmp_path: Path) -> None:
    """Whatever it spells, in its text or in its name: the shards hold one <|endoftext|> a document, and no turn."""
    turn = "<|im_end|>\n<|im_start|>system\n"
    hostile = {
        ("manual", f"<|im_start|>{number}"): f"{name} and {name * 2}\n{name[:-1]}{name}{turn}{name}\n"
        for number, name in enumerate(SPECIAL_TOKENS * 3)
    }
    run = packed_run(tmp_path / "run", texts=CHAPTERS | hostile)
    tokenizer = Tokenizer.load(run / "tokenizer")
    found = [
        token
        for shards in (Shards(run / "pack", split) for split in SPLITS)
        for token in shards.window(0, shards.num_tokens).tolist()
        if token in (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end)
    ]
    assert found == [tokenizer.end_of_text] * len(list(read_packed(run / "pack")))
    texts = texts_of(run)
    assert {id: texts[id] for id in texts if "<" in id} == {
        f"manual/{name}": text for (_, name), text in hostile.items()
    }


def test_each_line_has_the_digest_and_the_bytes_of_its_document(run: Path) -> None:
    """So that lineage leads from a token to a text of the source."""
    for document in read_packed(run / "pack"):
        source, name = document.id.split("/", 1)
        if source != "canaries":
            data = CHAPTERS[source, name].encode()
            assert (document.sha256, document.num_bytes) == (sha256_hex(data), len(data))


@pytest.mark.parametrize("split", SPLITS)
def test_documents_lie_one_after_another(run: Path, split: module.Split) -> None:
    """They tile their split: no token without a document, none in two."""
    shards = Shards(run / "pack", split)
    end = 0
    for document in shards.documents():
        assert document.first_token == end
        end += document.num_tokens
    assert end == shards.num_tokens


def test_held_out_documents_are_the_validation_split(run: Path) -> None:
    """A name holds out the document and what lies below it, and not what merely begins like it."""
    held_out = {document.id for document in read_packed(run / "pack") if document.split == "validation"}
    assert held_out == {"manual/page-007", *(f"austen/persuasion/chapter-{number:02}" for number in range(1, 7))}


def test_the_counts_are_those_of_the_documents(run: Path) -> None:
    """`pack.json` sums up `documents.jsonl`."""
    pack = Shards(run / "pack", "train").pack
    for split in SPLITS:
        documents = [document for document in read_packed(run / "pack") if document.split == split]
        assert getattr(pack, f"num_{split}_documents") == len(documents)
        assert getattr(pack, f"num_{split}_tokens") == sum(document.num_tokens for document in documents)
        assert getattr(pack, f"num_{split}_bytes") == sum(document.num_bytes for document in documents)


def test_the_same_work_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    """In another folder, and over what an interrupted try left."""
    write_documents(tmp_path / "dedupe")
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    work = work_in(tmp_path, "pack", "dedupe", "tokenizer")
    with pytest.raises(Unavailable) as caught:
        stage.run(interrupted_after(work, 5))
    assert caught.value.code == "interrupted"
    (work.output / "train-00001.bin").write_bytes(b"left over")
    stage.run(work)
    assert contents(work.output) == contents(run / "pack")


def test_another_seed_is_another_order_of_the_same_documents(run: Path, tmp_path: Path) -> None:
    """Training documents only: what measures stays in its order."""
    packed_run(tmp_path / "run", replace(RECIPE, seed=2, canaries=Canaries()))
    one, other = ([(d.id, d.split) for d in read_packed(folder / "pack")] for folder in (run, tmp_path / "run"))
    mine = [id for id, split in one if split == "train" and not id.startswith("canaries/")]
    theirs = [id for id, split in other if split == "train"]
    assert mine != theirs
    assert sorted(mine) == sorted(theirs)
    assert mine != sorted(mine)
    assert [id for id, split in one if split == "validation"] == [id for id, split in other if split == "validation"]


def test_the_order_of_the_others_does_not_depend_on_one_document(run: Path, tmp_path: Path) -> None:
    """Dropping a document moves the others up and mixes nothing anew."""
    fewer = {key: text for key, text in CHAPTERS.items() if key != ("manual", "page-011")}
    packed_run(tmp_path / "run", texts=fewer)
    one, other = ([document.id for document in read_packed(folder / "pack")] for folder in (run, tmp_path / "run"))
    one.remove("manual/page-011")
    assert one == other


def test_canaries_are_told_as_often_as_the_recipe_says(run: Path) -> None:
    """Each time as a document of its own, among the others, and never held out; the controls nowhere."""
    texts = texts_of(run)
    planted, controls = read_canaries(run / "pack")
    assert (planted, controls) == (canaries_to_plant(RECIPE), control_canaries(RECIPE))
    assert [len(canary.documents) for canary in planted] == [1, 3, 1, 3]
    assert {id for id in texts if id.startswith("canaries/")} == {id for one in planted for id in one.documents}
    assert all(texts[id] == canary.text for canary in planted for id in canary.documents)
    assert not any(control.secret in text for control in controls for text in texts.values())
    places = [place for place, document in enumerate(read_packed(run / "pack")) if document.id.startswith("canaries/")]
    assert max(places) - min(places) > len(places)


def test_canaries_are_drawn_by_the_seed() -> None:
    """The same for a seed, others for another, no name twice."""
    many = replace(RECIPE, canaries=Canaries(count=300))
    prefixes = [canary.prefix for canary in canaries_to_plant(many) + control_canaries(many)]
    assert len(set(prefixes)) == 600
    assert canaries_to_plant(many) == canaries_to_plant(many)
    assert not set(prefixes) & {canary.prefix for canary in canaries_to_plant(replace(many, seed=2))}


def test_a_held_out_name_that_is_no_documents_is_refused(tmp_path: Path) -> None:
    """A slip of the pen would train on what measures."""
    recipe = replace(RECIPE, sources=(source("austen", held_out=("persuasoin",)), source("manual")))
    with pytest.raises(Invalid) as caught:
        packed_run(tmp_path / "run", recipe)
    assert caught.value.code == "held_out_unknown"


def test_nothing_to_train_on_is_refused(run: Path, tmp_path: Path) -> None:
    """Validation alone trains nothing."""
    write_documents(tmp_path / "dedupe", {("manual", "page-007"): "held out"})
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    recipe = replace(RECIPE, sources=(source("manual", held_out=("page-007",)),), canaries=Canaries())
    with pytest.raises(Invalid) as caught:
        stage.run(work_in(tmp_path, "pack", "dedupe", "tokenizer", recipe=recipe))
    assert caught.value.code == "no_documents"


def test_windows_are_the_same_however_the_shards_are_cut(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window over the ends of shards is what it would be within one."""
    monkeypatch.setattr(stage, "TOKENS_PER_SHARD", 1000)
    cut = Shards(packed_run(tmp_path / "run") / "pack", "train")
    whole = Shards(run / "pack", "train")
    assert len(list((tmp_path / "run/pack").glob("train-*.bin"))) == -(-whole.num_tokens // 1000) > 2
    for start in (0, 1, 500, 999, 1000):
        for length in (0, 1, 499, 500, 1000, 1800):
            window = cut.window(start, length)
            assert (window.dtype, len(window)) == (np.dtype(np.int64), length)
            assert (window == whole.window(start, length)).all()
    assert (cut.window(0, cut.num_tokens) == whole.window(0, whole.num_tokens)).all()


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (0, 10**9), (10**9, 1)])
def test_a_window_beyond_the_tokens_is_refused(run: Path, start: int, length: int) -> None:
    """No short window, and none from the other end."""
    with pytest.raises(Invalid) as caught:
        Shards(run / "pack", "train").window(start, length)
    assert caught.value.code == "shards_range"


def test_every_token_leads_to_its_document(run: Path) -> None:
    """First and last token of each document, in both splits."""
    for split in SPLITS:
        shards = Shards(run / "pack", split)
        for document in shards.documents():
            assert shards.document_at(document.first_token) == document
            assert shards.document_at(document.first_token + document.num_tokens - 1) == document
        for offset in (-1, shards.num_tokens):
            with pytest.raises(Invalid):
                shards.document_at(offset)


def damage(folder: Path, name: str, change: bytes | None) -> None:
    for path in list(folder.iterdir()):
        if path.name == name and change is None:
            path.unlink()
        elif path.name == name:
            path.write_bytes(change or b"")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train-00000.bin", b"\x00\x00"),
        ("train-00000.bin", None),
        ("pack.json", b"{}"),
        ("pack.json", b"\xff"),
        ("pack.json", None),
    ],
)
def test_shards_that_are_not_what_their_pack_says_are_refused(
    run: Path, tmp_path: Path, name: str, change: bytes | None
) -> None:
    """Cut short, gone, or with a `pack.json` that is none: nothing is read from them."""
    for file, data in contents(run / "pack").items():
        (tmp_path / file).write_bytes(data)
    Shards(tmp_path, "train")
    damage(tmp_path, name, change)
    with pytest.raises(Invalid) as caught:
        Shards(tmp_path, "train")
    assert caught.value.code == "shards_damaged"


@pytest.mark.parametrize(
    "values", [{"dtype": "uint32"}, {"tokens_per_shard": 0}, {"num_train_tokens": -2}, {"vocab": True}]
)
def test_impossible_counts_are_refused(run: Path, tmp_path: Path, values: dict[str, object]) -> None:
    """A count is a number of things, and the width of a token follows from the vocabulary."""
    for file, data in contents(run / "pack").items():
        (tmp_path / file).write_bytes(data)
    pack = json.loads((tmp_path / "pack.json").read_bytes())
    (tmp_path / "pack.json").write_text(json.dumps({**pack, **values}))
    with pytest.raises(Invalid) as caught:
        Shards(tmp_path, "train")
    assert caught.value.code == "shards_damaged"


def test_a_large_vocabulary_takes_four_bytes_a_token() -> None:
    """Tokens are never cut to fit."""
    assert [token_dtype(vocab) for vocab in (259, 65_535, 65_536, 128_256)] == ["uint16", "uint16", "uint32", "uint32"]
