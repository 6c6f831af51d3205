"""Stage `adapt`: a LoRA adapter over an imported model, learnt from the run's own documents.

A run is short: an interrupted one is begun again and ends in the same bytes. It counts on one thread, because the order
of sums, and so every digit of what is learnt, would follow from how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import digest_of_bytes
from allod.core.errors import Denied, Invalid
from allod.train.corpus.documents import Document, read_documents
from allod.train.corpus.held_out import HeldOut
from allod.train.learning.curve import write_curve
from allod.train.learning.losses import next_token_loss
from allod.train.recipe import Adapt
from allod.train.stage_task import StageFacts, StageTask
from allod.train.stopping import stop_if_asked
from allod.train.tuning.lora import Base, LoraAdapter
from allod.train.tuning.lora_text import HeldOutSample, Logits, Texts

WARM_UP_STEPS = 4
MAX_NORM = 1.0  # of the gradient


def run(task: StageTask) -> StageFacts:
    """Writes the adapter as peft reads it, `documents.jsonl`, `losses.jsonl`, `curve.png` and `evaluation.json`; and
    `base.json`, the shape of what it is over.

    `task.inputs["base"]` holds `weights.gguf`. Raises Invalid (`base_not_read`, `corpus_too_small`, `loss_not_finite`),
    Denied (`evaluation_below_gate`) where the held-out loss did not fall as the recipe wants, Unavailable
    (`interrupted`).
    """
    torch.set_num_threads(1)
    options = task.recipe.adapt
    task.report("reading the base model", 0, 0)
    base = Base(task.inputs["base"])
    texts = _texts(task, base)
    sample = HeldOutSample(texts.validation, options.context)
    before = _measure(task, sample, base.logits)
    adapter = LoraAdapter(base, options.base, rank=options.rank, seed=task.recipe.seed)
    losses = list(_learn(task, adapter, texts.train.windows(options.context)))
    after = _measure(task, sample, adapter.logits)
    weights = adapter.save(task.output)
    write_curve(losses, task.output, tokens_per_step=options.batch * options.context)
    texts.write(task.output / "documents.jsonl")
    (task.output / "base.json").write_bytes(canonical_json(base.shape()) + b"\n")
    figures = {
        "loss_before": before,
        "loss_after": after,
        "bits_per_byte_before": sample.bits_per_byte(before),
        "bits_per_byte": sample.bits_per_byte(after),
    }
    evaluation: dict[str, JsonValue] = {
        **{name: f"{value:.6f}" for name, value in figures.items()},
        "base": options.base,
        "gates": {"min_gain_percent": options.min_gain_percent},
        "num_tokens": sample.num_tokens,
        "weights": digest_of_bytes(weights.read_bytes()),
    }
    (task.output / "evaluation.json").write_bytes(canonical_json(evaluation) + b"\n")
    _check_gate(options, before, after)
    return {
        **figures,
        "tokens": options.steps * options.batch * options.context,
        "parameters": sum(each.numel() for each in adapter.parameters),
        "num_documents": len(texts.train.lines),
    }


def _texts(task: StageTask, base: Base) -> Texts:
    texts = Texts()
    held_out = HeldOut(task.recipe)

    def documents() -> Iterator[Document]:
        for number, document in enumerate(read_documents(task.inputs["dedupe"])):
            stop_if_asked(task)
            task.report("documents", number, 0)
            yield document

    texts.add_all(documents(), base.encode, held_out.__contains__)
    if not texts.validation.lines:
        raise Invalid(
            "no document is held out: nothing would show whether the adapter is any good",
            code="nothing_held_out",
            hint="name documents in a source's held_out",
        )
    return texts


def _measure(task: StageTask, sample: HeldOutSample, logits: Logits) -> float:
    def report(done: int) -> None:
        stop_if_asked(task)
        task.report("measuring on held-out text", done, len(sample.windows))

    return sample.loss(logits, report)


def _learn(task: StageTask, adapter: LoraAdapter, windows: Tensor) -> Iterator[float]:
    """The loss of each step. Every window comes once, in an order that follows from the seed alone, then all again."""
    options = task.recipe.adapt
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(task.recipe.seed))
    optimiser = torch.optim.AdamW(adapter.parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(options.steps):
        stop_if_asked(task)
        task.report("adapting", step, options.steps)
        rows = torch.arange(step * options.batch, (step + 1) * options.batch) % len(windows)
        batch = windows[order[rows]]
        loss = next_token_loss(adapter.logits(batch[:, :-1]), batch[:, 1:])
        if not math.isfinite(value := float(loss.detach())):
            raise Invalid(
                f"the loss of step {step} is {value}",
                code="loss_not_finite",
                hint="lower adapt.rate_micro in the recipe",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(adapter.parameters, MAX_NORM)
        for group in optimiser.param_groups:
            group["lr"] = _rate(options, step)
        optimiser.step()
        optimiser.zero_grad()
        yield value


def _rate(options: Adapt, step: int) -> float:
    """Up for a few steps, then straight down, never to zero."""
    share = min((step + 1) / WARM_UP_STEPS, (options.steps - step) / options.steps)
    return options.rate_micro / 1e6 * share


def _check_gate(options: Adapt, before: float, after: float) -> None:
    gain_percent = 100 * (1 - after / before)
    if gain_percent <= options.min_gain_percent:
        raise Denied(
            f"held-out text's loss fell by {gain_percent:.1f} %, and must by more than {options.min_gain_percent} %",
            code="evaluation_below_gate",
            hint="more adapt.steps, or documents that are more like those held out",
        )
