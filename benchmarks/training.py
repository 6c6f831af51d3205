"""Tokens a CPU-second of pretraining, lineage on, beside transformers.Trainer and a plain nanoGPT-style loop.

    python benchmarks/training.py [--size 1m] [--tokens 300000] [--rounds 3]

Ours is the pipeline as `allod train` runs it, from a packed corpus on: the files of the stages before are read and
compared with their manifests, pretraining runs as its stage does (held-out text, loss curve and weights included), and
its own files are hashed and stated. What is left out is the seal and the log, which cost the same however long it is.
The peers learn the same number of tokens in the same batches with a network of the same shape, from tokens in memory.
"Ours with AdamW" exchanges Muon for torch's AdamW and nothing else: what is between the two is what Muon costs.

One thread, float32, CPU time of this process: other work on the machine disturbs less than it would disturb a clock.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

try:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments
except ImportError as error:
    sys.exit(f"error: {error.name} is missing\n\nhint: make setup-train")

from allod.core.canonical import JsonValue
from allod.core.statements.training import Input, check_training_statement, source_input
from allod.model.network.llama import Shape
from allod.model.network.weights import config
from allod.train.corpus.shards import Shards
from allod.train.environment import code, environment
from allod.train.environment import machine as machine_facts
from allod.train.learning import learner
from allod.train.learning.batches import TokenBatches
from allod.train.learning.muon import Optimiser
from allod.train.learning.sizes import batch_rows, shape_of
from allod.train.pipeline import PipelineStage, run_pipeline
from allod.train.recipe import Pretrain, Recipe, Source
from allod.train.runs import RunFolder, open_run
from allod.train.sources.collect import content_digests
from allod.train.stage_task import StageTask
from allod.train.stages.pretrain import plan_of
from measure import machine, paired, rotated, spread
from plain_loop import PlainLlama, plain_steps

DOCS = Path(__file__).parents[1] / "docs"
CONTEXT = 256
RATE = 1e-3  # of every AdamW
OURS, ADAMW, TRAINER, PLAIN = "ours", "ours with AdamW", "transformers.Trainer", "plain loop"
Contender = Callable[[], None]


class TorchAdamW:
    """torch's AdamW behind our optimiser's interface."""

    def __init__(self, parameters: Any, rates: Any) -> None:
        self.rates = rates
        self._parameters = [parameter for _, parameter in parameters]
        self._optimiser = torch.optim.AdamW(self._parameters, lr=RATE, betas=(0.9, 0.95), fused=True)
        self.state: dict[str, torch.Tensor] = {}

    def shorten(self, factor: float) -> None:
        torch._foreach_mul_([parameter.grad for parameter in self._parameters], factor)

    def step(self, number: int, share: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = RATE * share
        self._optimiser.step()
        self._optimiser.zero_grad()


def optimiser(kind: type | None) -> AbstractContextManager[object]:
    """Learners made meanwhile use this optimiser."""
    return patch.object(learner, "Optimiser", kind or Optimiser)


class Log:
    """Statements in memory, in place of the realm's log."""

    def __init__(self) -> None:
        self._statements: list[bytes] = []

    def manifests_of(self, key: str) -> list[bytes]:
        return [one for one in self._statements if check_training_statement(one).key == key]

    def append(self, statements: Sequence[bytes]) -> None:
        self._statements += statements

    def forget(self, stage: str) -> None:
        """As if it had never been made: each optimiser derives something else of the same inputs."""
        self._statements = [one for one in self._statements if check_training_statement(one).stage != stage]


class Pipeline:
    """Our side: a run of its own, of which pretraining is done anew each time."""

    def __init__(self, path: Path, *, size: str, tokens: int) -> None:
        text = Source("docs", "text", "Apache-2.0", "GB", "Allod's documentation", "2026", path=str(DOCS),
                      held_out=("start.md",))  # fmt: skip
        self.path = path
        self.log = Log()
        recipe = Recipe("benchmark", (text,), size=size, minutes=0, steps=1, pretrain=Pretrain(context=CONTEXT))
        self.recipe = recipe
        self.shape = self._shape(until="pack")
        self.rows = batch_rows(self.shape)
        self.steps = max(1, tokens // (self.rows * CONTEXT))
        self.recipe = Recipe("benchmark", (text,), size=size, minutes=0, steps=self.steps,
                             pretrain=Pretrain(context=CONTEXT))  # fmt: skip

    @property
    def tokens(self) -> int:
        return self.steps * self.rows * CONTEXT

    def pretrain(self, kind: type | None = None) -> None:
        """Pretrain, with its lineage."""
        with optimiser(kind), open_run(self.path, self.log) as run:
            _forget(run, "pretrain")
            self.log.forget("pretrain")
            self._run(run, until="pretrain")

    def corpus(self) -> Shards:
        return Shards(self.path / "pack", "train")

    def _shape(self, *, until: str) -> Shape:
        with open_run(self.path, self.log) as run:
            self._run(run, until=until)
        return shape_of(self.recipe.size, vocab=self.corpus().pack.vocab, context=CONTEXT)

    def _run(self, run: RunFolder, *, until: str) -> None:
        digest = content_digests(self.recipe, beside=self.path)["docs"]
        (source,) = self.recipe.sources
        given: Mapping[str, list[Input]] = {
            "source": [
                source_input(
                    name=source.name, sha256=f"sha256:{digest}", licence=source.licence,
                    jurisdiction=source.jurisdiction, origin=source.origin, date=source.date, package="",
                )
            ]
        }  # fmt: skip
        run_pipeline(self.recipe, run, given=given, perform=self._perform, finished=lambda *_: None, until=until)

    def _perform(
        self, stage: PipelineStage, *, key: str, inputs: Mapping[str, Path], output: Path
    ) -> Mapping[str, JsonValue]:
        begun = int(time.time() * 1000)
        module = importlib.import_module(f"allod.train.stages.{stage.name}")
        module.run(StageTask(self.recipe, inputs or {"docs": DOCS}, output, _silent, lambda: False))
        return {
            "id": f"training_{key[-32:]}", "at": {"start_ms": begun, "end_ms": int(time.time() * 1000)},
            "run": self.recipe.name, "recipe": "sha256:" + "0" * 64, "code": code(),
            "environment": environment(1, 1), "observed": {"by": "trainer", "machine": machine_facts()},
            "stated": {"site": "benchmark", "jurisdiction": "GB", "nodes": 1, "accelerators_per_node": 0},
            "seed": self.recipe.seed, "measured": {}, "energy": {}, "seal": {}, "label": {},
        }  # fmt: skip


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The same windows as ours, as transformers.Trainer takes them: it shifts the targets itself."""

    def __init__(self, batches: TokenBatches, steps: int) -> None:
        self._rows = torch.cat([batches.batch(step) for step in range(steps)])[:, :-1].clone()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._rows[place], "labels": self._rows[place]}


def with_trainer(pipeline: Pipeline, batches: TokenBatches, folder: Path) -> Contender:
    """transformers.Trainer with its own AdamW; it writes nothing and logs as rarely as it may."""
    rows = Rows(batches, pipeline.steps)

    def run() -> None:
        torch.manual_seed(1)
        said: dict[str, Any] = config(pipeline.shape)
        model = LlamaForCausalLM(LlamaConfig(**said))
        arguments = TrainingArguments(
            output_dir=str(folder), max_steps=pipeline.steps, per_device_train_batch_size=pipeline.rows,
            learning_rate=RATE, weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, use_cpu=True, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, seed=1,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    return run


def with_plain_loop(pipeline: Pipeline, batches: TokenBatches) -> Contender:
    """nanoGPT's way: a network, a batch, AdamW, again."""

    def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = batches.batch(step)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def run() -> None:
        torch.manual_seed(1)
        network = PlainLlama(pipeline.shape)
        for _ in islice(plain_steps(network, batch_of, rate=RATE, device="cpu"), pipeline.steps):
            pass

    return run


def cpu_seconds(contender: Contender) -> float:
    begun = time.process_time()
    contender()
    return time.process_time() - begun


def _forget(run: RunFolder, stage: str) -> None:
    folder = run.stage(stage)
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="1m")
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        pipeline = Pipeline(place / "run", size=options.size, tokens=options.tokens)
        batches = plan_of(pipeline.recipe, pipeline.shape, pipeline.corpus()).batches
        contenders: dict[str, Contender] = {
            OURS: pipeline.pretrain,
            ADAMW: lambda: pipeline.pretrain(TorchAdamW),
            TRAINER: with_trainer(pipeline, batches, place / "trainer"),
            PLAIN: with_plain_loop(pipeline, batches),
        }
        print(machine(), f", torch {torch.__version__}", sep="")
        print(
            f"{pipeline.shape.num_parameters:,} parameters, {pipeline.rows} rows of {CONTEXT} tokens in a step, "
            f"{pipeline.steps} steps ({pipeline.tokens:,} tokens) in each of {options.rounds} rounds"
        )
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(options.rounds):
            for name in rotated(list(contenders), number):
                taken[name].append(cpu_seconds(contenders[name]))
        report(taken, pipeline.tokens)


def report(taken: Mapping[str, list[float]], tokens: int) -> None:
    """Tokens a CPU-second of each, and ours as a ratio to the others."""
    speed = {name: [tokens / seconds for seconds in every] for name, every in taken.items()}
    for name, values in speed.items():
        print(f"{name:22} {spread(values, 0):>28} tokens/CPU-s")
    for name in (TRAINER, PLAIN, ADAMW):
        print(f"ours, Muon, lineage on, to {name}: {spread(paired(speed[OURS], speed[name]))}")
    for name in (TRAINER, PLAIN):
        print(f"ours with AdamW, lineage on, to {name}: {spread(paired(speed[ADAMW], speed[name]))}")


if __name__ == "__main__":
    main()
