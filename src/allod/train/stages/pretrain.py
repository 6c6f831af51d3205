"""Pretraining: a fresh network learns to predict the packed corpus, token by token.

The weights are a pure function of the recipe and the corpus. A run that is killed goes on from its last checkpoint and
ends in the same bytes, on one rank or on two; a run that is asked to stop saves first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from allod.core.canonical import JsonValue, canonical_json
from allod.core.digests import sha256_hex
from allod.core.errors import Invalid, Unavailable
from allod.core.statements.training import FILES
from allod.model.network.llama import Network, Shape
from allod.model.network.weights import save_model
from allod.train.corpus.shards import Shards
from allod.train.evaluation.bits import bits_per_byte
from allod.train.learning.batches import Section, Spans, TokenBatches
from allod.train.learning.checkpoints import Checkpoints
from allod.train.learning.curve import write_curve
from allod.train.learning.learner import Learner, Plan, whole_network
from allod.train.learning.peaks import dtype_of_products, matrix_peak, used_s
from allod.train.learning.ranks import join_ranks
from allod.train.learning.schedule import Schedule
from allod.train.learning.sizes import batch_rows, shape_of
from allod.train.outputs import CHECKPOINTS
from allod.train.recipe import Recipe
from allod.train.stage_task import StageFacts, StageTask

MAX_VALIDATION_TOKENS = 1 << 20
LAST_STEPS = 20  # whose mean is the final loss


def run(task: StageTask) -> StageFacts:
    """Writes `weights.safetensors`, `config.json`, `losses.jsonl` and `curve.png`.

    Raises Invalid where the corpus is too small, the ranks cannot share a step, or a loss is not finite; Unavailable
    (`interrupted`) when asked to stop, after what was learnt is saved.
    """
    corpus = Shards(task.inputs["pack"], "train")
    shape = shape_of(task.recipe.size, vocab=corpus.pack.vocab, context=task.recipe.pretrain.context)
    with join_ranks() as ranks:
        learner = Learner(shape, plan_of(task.recipe, shape, corpus), ranks, seed=task.recipe.seed)
        checkpoints = Checkpoints(task.output / CHECKPOINTS, _key(task), ranks)
        begun_s = used_s(ranks.device)
        num_steps = _learn(task, learner, checkpoints)
        measured = _measure(learner, num_steps, used_s(ranks.device) - begun_s)
        network = whole_network(learner.network)
        if ranks.is_leader:
            save_model(network, task.output)
            write_curve(learner.losses.tolist(), task.output, tokens_per_step=learner.plan.batches.tokens_per_step)
            measured["bits_per_byte"] = _validate(network.to(ranks.device), task.inputs["pack"])
        checkpoints.remove()
        return measured


def plan_of(recipe: Recipe, shape: Shape, corpus: Shards) -> Plan:
    """What every step does, from a resolved recipe."""
    sections = sections_of(corpus, recipe.pretrain.mixture)
    batches = TokenBatches(sections, context=shape.context, rows=batch_rows(shape), seed=recipe.seed)
    return Plan(batches, Schedule(recipe.steps), goldfish_k=recipe.pretrain.goldfish_k)


def sections_of(corpus: Shards, mixture: Sequence[str]) -> tuple[Section, ...]:
    """The sources to take rows from in turn; all of the corpus as one where no mixture is given.

    Raises Invalid (`mixture_unknown`) for a name that has no text to learn from.
    """
    if not mixture:
        return (Section("corpus", corpus),)
    pieces: dict[str, list[tuple[int, int]]] = {}
    for document in corpus.documents():
        pieces.setdefault(document.id.split("/")[0], []).append((document.first_token, document.num_tokens))
    if unknown := sorted(set(mixture) - pieces.keys()):
        raise Invalid(
            f"pretrain.mixture names {unknown[0]}, of which nothing is left to learn from",
            code="mixture_unknown",
            hint=f"there is text of: {', '.join(sorted(pieces))}",
            param="pretrain.mixture",
        )
    sections = {name: Section(name, Spans(corpus, pieces[name])) for name in set(mixture)}
    return tuple(sections[name] for name in mixture)


def _learn(task: StageTask, learner: Learner, checkpoints: Checkpoints) -> int:
    """Make the steps that are left to make. Returns how many those were."""
    steps, tokens = learner.plan.schedule.steps, learner.plan.batches.tokens_per_step
    begin = checkpoints.load(learner.state)
    saved_s = time.monotonic()
    for step in range(begin, steps):
        due = time.monotonic() - saved_s >= task.recipe.pretrain.checkpoint_every_s
        stop, save = learner.ranks.reduce_any(task.should_stop(), due)
        if stop or save:
            checkpoints.save(step, learner.state)
            saved_s = time.monotonic()
        if stop:
            raise Unavailable(
                f"stopped after step {step} of {steps} because the machine was wanted back",
                code="interrupted",
                hint="start the same run again: it goes on from there",
            )
        loss = learner.learn(step)
        task.report(f"pretraining, loss {loss:.2f}", (step + 1) * tokens, steps * tokens)
    return steps - begin


def _key(task: StageTask) -> str:
    """What a checkpoint belongs to: everything that the weights depend on, but not how many ranks there are."""
    recipe = task.recipe
    parts: dict[str, JsonValue] = {
        "context": recipe.pretrain.context,
        "goldfish_k": recipe.pretrain.goldfish_k,
        "mixture": list(recipe.pretrain.mixture),
        "pack": sha256_hex((task.inputs["pack"] / FILES).read_bytes()),
        "seed": recipe.seed,
        "size": recipe.size,
        "steps": recipe.steps,
    }
    return sha256_hex(canonical_json(parts))


def _measure(learner: Learner, num_steps: int, used: float) -> dict[str, int | float | str | None]:
    """What the whole training took, and how fast its last `num_steps`, made in `used` seconds, were."""
    shape, plan, ranks = learner.network.shape, learner.plan, learner.ranks
    tokens = plan.schedule.steps * plan.batches.tokens_per_step
    speed = num_steps * plan.batches.tokens_per_step / used / ranks.count if num_steps else None
    peak = matrix_peak(ranks.device)
    return {
        "parameters": shape.num_parameters,
        "steps": plan.schedule.steps,
        "tokens": tokens,
        "flops": tokens * shape.flops_per_token,
        "loss": float(learner.losses[-LAST_STEPS:].mean()),
        "cpu_s": time.process_time(),
        "tokens_per_second_per_rank": speed,
        "mfu_milli": round(1000 * speed * shape.flops_per_token / peak) if speed else None,
        "matrix_peak_gflops": round(peak / 1e9),
        "dtype": str(dtype_of_products(ranks.device)).removeprefix("torch."),
        "ranks": ranks.count,
    }


def _validate(network: Network, pack: Path) -> float | None:
    """Bits per byte of what is held out, or of its first part if that is long. None: nothing is held out."""
    held_out = Shards(pack, "validation")
    if held_out.num_tokens < 2:
        return None
    num_tokens = min(held_out.num_tokens, MAX_VALIDATION_TOKENS)
    num_bytes = held_out.pack.num_validation_bytes * num_tokens / held_out.num_tokens
    tokens = torch.from_numpy(held_out.window(0, num_tokens)).to(network.lm_head.weight.device)
    return bits_per_byte(network, tokens, num_bytes, context=network.shape.context)
