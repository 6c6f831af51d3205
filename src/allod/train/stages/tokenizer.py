"""Stage `tokenizer`: byte-level BPE, learnt from the run's own documents but for those that are held out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import rustbpe

from allod.core.errors import Invalid
from allod.model.network.tokenizer_files import SPECIAL_TOKENS, SPLIT, write_tokenizer
from allod.train.corpus.documents import read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked

DOCUMENTS_AT_ONCE = 64  # waiting in memory while others are counted


def run(task: StageTask) -> StageFacts:
    """Writes `tokenizer.json` and `tokenizer_config.json`.

    The vocabulary is smaller than the recipe's where the documents have no more pairs to merge. Raises Invalid
    (`no_documents`, `corpus_too_small`).
    """
    vocab = task.recipe.tokenizer.vocab
    texts = _Texts(task)
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(
        iter(texts), vocab_size=vocab - len(SPECIAL_TOKENS), buffer_size=DOCUMENTS_AT_ONCE, pattern=SPLIT
    )
    if not texts.num_documents:
        raise Invalid("no document is left to learn a tokenizer from", code="no_documents")
    tokens, merges = vocabulary(bytes(token) for token, _ in learner.get_mergeable_ranks())
    if not merges:
        raise Invalid("the documents hold no two bytes to merge", code="corpus_too_small")
    write_tokenizer(task.output, tokens, merges)
    return {
        "vocab": len(tokens) + len(SPECIAL_TOKENS),
        "num_documents": texts.num_documents,
        "num_bytes": texts.num_bytes,
    }


def vocabulary(learnt: Iterable[bytes]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Tokens in the order of learning, and the two earlier ones that each longer one is merged of.

    rustbpe tells what it learnt as texts alone: the two parts of a token are what the earlier merges make of it. A
    token that they do not make into two (or that was there already) could never be met in a text, and is left out.
    """
    ranks: dict[bytes, int] = {}
    merges: list[tuple[bytes, bytes]] = []
    for token in learnt:
        if token in ranks:
            continue
        if len(token) > 1:
            parts = _merge(token, ranks)
            if len(parts) != 2:
                continue
            merges.append((parts[0], parts[1]))
        ranks[token] = len(ranks)
    return list(ranks), merges


def _merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """`token` in parts, after the merges known so far: always the earliest-learnt pair, the leftmost of equals."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        known = [(ranks.get(left + right), index) for index, (left, right) in enumerate(pairwise(parts))]
        best = min(((rank, index) for rank, index in known if rank is not None), default=None)
        if best is None:
            break
        index = best[1]
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


class _Texts:
    """The texts to learn from, counted as they pass."""

    def __init__(self, task: StageTask) -> None:
        self._task = task
        self.num_documents = 0
        self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        held_out = HeldOut(self._task.recipe)
        for document in read_documents(self._task.inputs["dedupe"]):
            stop_if_asked(self._task)
            if document in held_out:
                continue
            self.num_documents += 1
            self.num_bytes += len(document.text.encode())
            self._task.report("documents", self.num_documents, 0)
            yield document.text
