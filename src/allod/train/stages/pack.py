"""Stage `pack`: every document as tokens, those to train on in an order drawn by the seed.

Documents are encoded once, as they come, into a spill beside the outputs; the shards are then copied together from it
in the order of training. Memory is a batch of texts and 24 bytes for every document, however long the corpus.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import IO

from allod.core.errors import Invalid
from allod.model.network.tokenizer import Tokenizer
from allod.train.corpus.canaries import canaries_to_plant, canary_documents, write_canaries
from allod.train.corpus.documents import Document, read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.corpus.shards import (
    DOCUMENTS,
    SPLITS,
    Pack,
    ShardWriter,
    Split,
    token_dtype,
    write_line,
    write_pack,
)
from allod.train.corpus.spill import Spill
from allod.train.recipe import Recipe
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

TOKENS_PER_SHARD = 1 << 26
BATCH_CHARACTERS = 1 << 22  # of texts that are encoded together
_SPILL = ".spill"  # a name with a dot is no output


def run(task: StageTask) -> StageFacts:
    """Writes the shards of both splits, `documents.jsonl`, `pack.json` and `canaries.json`.

    Raises Invalid where nothing is left to train on (`no_documents`), and where a name that the recipe holds out is
    no document's (`held_out_unknown`).
    """
    _empty(task.output)
    tokenizer = Tokenizer.load(task.inputs["tokenizer"])
    dtype = token_dtype(tokenizer.vocab)
    spill_folder = task.output / _SPILL
    spill_folder.mkdir()
    with ExitStack() as stack, (task.output / DOCUMENTS).open("wb") as lines:
        spills = {split: stack.enter_context(closing(Spill(spill_folder, split, dtype=dtype))) for split in SPLITS}
        _encode(task, tokenizer, spills)
        if not len(spills["train"]):
            raise Invalid("no document is left to train on", code="no_documents")
        for spill in spills.values():
            _write_split(task, spill, lines, dtype=dtype)
    shutil.rmtree(spill_folder)
    write_canaries(task.output, task.recipe)
    pack = _pack(tokenizer, spills, dtype=dtype)
    write_pack(task.output, pack)
    return {
        "vocab": pack.vocab,
        "num_documents": pack.num_train_documents,
        "num_tokens": pack.num_train_tokens,
        "num_bytes": pack.num_train_bytes,
        "num_validation_tokens": pack.num_validation_tokens,
    }


def _encode(task: StageTask, tokenizer: Tokenizer, spills: Mapping[Split, Spill]) -> None:
    """Encode everything into the spills."""
    held_out = HeldOut(task.recipe)
    ids = set[str]()  # of the held-out ones
    planted = canary_documents(canaries_to_plant(task.recipe))
    for batch in _batches(chain(read_documents(task.inputs["dedupe"]), planted)):
        stop_if_asked(task)
        for document, tokens in zip(batch, tokenizer.encode_batch([each.text for each in batch]), strict=True):
            is_held_out = document in held_out
            if is_held_out:
                ids.add(document.id)
            spills["validation" if is_held_out else "train"].append(
                document.id,
                document.sha256,
                [*tokens, tokenizer.end_of_text],
                num_bytes=len(document.text.encode()),
                rank=0 if is_held_out else _rank(document, task.recipe.seed),
            )
        task.report("documents", sum(len(spill) for spill in spills.values()), 0)
    _check_held_out(task.recipe, ids)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in their order, some at once."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _rank(document: Document, seed: int) -> int:
    """Where a document stands in the order of training: as good as drawn, and the same whatever else there is."""
    return int.from_bytes(sha256(f"{seed} {document.id}".encode()).digest()[:8])


def _check_held_out(recipe: Recipe, ids: set[str]) -> None:
    """Raise Invalid for a name that holds out nothing: a slip of the pen would otherwise train on what measures."""
    for source in recipe.sources:
        for name in source.held_out:
            whole = f"{source.name}/{name}"
            if whole not in ids and not any(id.startswith(f"{whole}/") for id in ids):
                raise Invalid(
                    f"{whole} is held out, and there is no such document",
                    code="held_out_unknown",
                    hint="names are those in source/index.jsonl; cleaning or removing duplicates may have dropped it",
                )


def _write_split(task: StageTask, spill: Spill, lines: IO[bytes], *, dtype: str) -> None:
    """The shards and the lines of one split."""
    with closing(ShardWriter(task.output, spill.split, dtype=dtype, tokens_per_shard=TOKENS_PER_SHARD)) as shards:
        for number, (document, tokens) in enumerate(spill.read(), start=1):
            stop_if_asked(task)
            shards.append(tokens)
            lines.write(write_line(document))
            task.report(f"{spill.split} documents", number, len(spill))


def _pack(tokenizer: Tokenizer, spills: Mapping[Split, Spill], *, dtype: str) -> Pack:
    train, validation = spills["train"], spills["validation"]
    return Pack(
        dtype=dtype,
        vocab=tokenizer.vocab,
        end_of_text=tokenizer.end_of_text,
        tokens_per_shard=TOKENS_PER_SHARD,
        num_train_documents=len(train),
        num_train_tokens=train.num_tokens,
        num_train_bytes=train.num_bytes,
        num_validation_documents=len(validation),
        num_validation_tokens=validation.num_tokens,
        num_validation_bytes=validation.num_bytes,
    )


def _empty(folder: Path) -> None:
    """Remove what an interrupted try left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
