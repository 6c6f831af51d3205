"""Stage `tune`: the pretrained network learns to answer, from examples made of its own documents.

It must not forget what it was: a quarter of every batch is running text of the packed corpus, the rate is small and
ends at nothing, and bits per byte of held-out text are measured before and after. A run is short: an interrupted one
begins again and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from allod.core.canonical import JsonValue, canonical_json
from allod.core.errors import Invalid
from allod.model.network.llama import Network
from allod.model.network.tokenizer import Tokenizer
from allod.model.network.weights import load_model, save_model
from allod.train.corpus.documents import read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.corpus.shards import Shards
from allod.train.evaluation.held_out_text import read_held_out_text
from allod.train.evaluation.likelihoods import device_of
from allod.train.learning.losses import next_token_loss
from allod.train.learning.ranks import join_ranks
from allod.train.learning.schedule import Schedule
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked
from allod.train.tuning.chat_rows import ChatRows, chat_rows
from allod.train.tuning.examples import Example, choose_examples, count_kinds

BATCH_TOKENS = 1_536
CORPUS_PART = 4  # one row in so many is running text
PEAK_RATE = 5e-4
WARM_UP, DECAY = 0.1, 0.9  # shares of the steps
EXAMPLE_TOKENS = 40  # about; for how many examples it takes to fill the steps once
MAX_EXAMPLES = 200_000  # in memory; a longer run goes round
MAX_HELD_OUT_TOKENS = 16_384

EXAMPLES = "examples.json"
LOSSES = "losses.jsonl"


def run(task: StageTask) -> StageFacts:
    """Writes the tuned `weights.safetensors` and `config.json`, `losses.jsonl` and `examples.json`.

    Raises Invalid where the documents yield no example (`no_examples`) or the loss is not finite (`loss_not_finite`),
    Unavailable (`interrupted`) when it was asked to stop.
    """
    tokenizer = Tokenizer.load(task.inputs["tokenizer"])
    held_out = read_held_out_text(task.inputs["pack"], max_tokens=MAX_HELD_OUT_TOKENS)
    with join_ranks() as ranks:
        network = load_model(task.inputs["pretrain"]).to(ranks.device)
        examples = _examples(task, context=network.shape.context)
        rows = chat_rows(examples, tokenizer, context=network.shape.context)
        before = held_out.bits_per_byte(network)
        losses = _learn(task, network, rows)
        after = held_out.bits_per_byte(network)
    save_model(network, task.output)
    _write(task, examples, rows, losses)
    return {
        "steps": len(losses),
        "examples": rows.num_examples,
        "tokens_learnt": rows.num_learnt,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "held_out_bits_per_byte_before": before,
        "held_out_bits_per_byte_after": after,
    }


def _examples(task: StageTask, *, context: int) -> list[Example]:
    """As many as fill the steps once. Never of a held-out document: these are what is measured on."""
    held_out = HeldOut(task.recipe)
    documents = (document for document in read_documents(task.inputs["dedupe"]) if document not in held_out)
    tokens = task.recipe.tune.steps * _num_rows(context) * context
    count = min(MAX_EXAMPLES, tokens // EXAMPLE_TOKENS)
    return choose_examples(documents, count=count, seed=task.recipe.seed)


def _learn(task: StageTask, network: Network, rows: ChatRows) -> list[float]:
    """Tune `network` in place. Returns the loss of every step."""
    steps, seed = task.recipe.tune.steps, task.recipe.seed
    schedule = Schedule(steps, warm_up=WARM_UP, decay=DECAY)
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    batches = _Batches(rows, Shards(task.inputs["pack"], "train"), seed=seed)
    network.train()
    losses = []
    for step in range(steps):
        stop_if_asked(task)
        tokens, targets = (part.to(device_of(network)) for part in batches.batch(step))
        loss = next_token_loss(network(tokens), targets, goldfish_k=task.recipe.pretrain.goldfish_k)
        losses.append(_finite(loss.item(), step))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * schedule.share(step)
        optimiser.step()
        optimiser.zero_grad()
        task.report("instruction tuning", step + 1, steps)
    network.eval()
    return losses


class _Batches:
    """What each step learns from: a pure function of the seed and the step's number."""

    def __init__(self, rows: ChatRows, corpus: Shards, *, seed: int) -> None:
        self._rows = rows
        self._corpus = corpus
        self._seed = seed
        self._context = rows.tokens.shape[1]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets, int64 [rows, context]: exchanges in their order, round and round, then running text."""
        num_rows = _num_rows(self._context)
        num_corpus = num_rows // CORPUS_PART if self._corpus.num_tokens > self._context else 0
        num_chats = num_rows - num_corpus
        chosen = torch.arange(step * num_chats, (step + 1) * num_chats) % len(self._rows.tokens)
        text = [self._text_row(step, row) for row in range(num_corpus)]
        tokens = torch.cat([self._rows.tokens[chosen], *(row[None, :-1] for row in text)])
        targets = torch.cat([self._rows.targets[chosen], *(row[None, 1:] for row in text)])
        return tokens, targets

    def _text_row(self, step: int, row: int) -> Tensor:
        drawn = hashlib.sha256(f"tune {self._seed} {step} {row}".encode()).digest()
        start = int.from_bytes(drawn[:8]) % (self._corpus.num_tokens - self._context)
        return torch.from_numpy(self._corpus.window(start, self._context + 1))


def _num_rows(context: int) -> int:
    """Rows of a batch; enough that one of them can be running text."""
    return max(CORPUS_PART, BATCH_TOKENS // context)


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise Invalid(
            f"the loss of step {step + 1} is not a finite number",
            code="loss_not_finite",
            hint="the pretrained weights are damaged or diverged: look at its loss curve, and train with another seed",
        )
    return loss


def _write(task: StageTask, examples: Sequence[Example], rows: ChatRows, losses: Sequence[float]) -> None:
    lines = [json.dumps({"step": step, "loss": f"{loss:.6f}"}) + "\n" for step, loss in enumerate(losses, start=1)]
    (task.output / LOSSES).write_text("".join(lines))
    summary: dict[str, JsonValue] = {
        "counts": count_kinds(examples),
        "num_examples": rows.num_examples,
        "num_too_long": rows.num_too_long,
        "examples": [
            {"document": example.document, "kind": example.kind, "question": example.question, "answer": example.answer}
            for example in examples
        ],
    }
    (task.output / EXAMPLES).write_bytes(canonical_json(summary) + b"\n")
